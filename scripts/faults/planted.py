"""Faults for the library: each replaces a part of it by one that is careless, or that forgets something."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from seams import instead, nothing

Plant = Callable[[], AbstractContextManager[Any]]

# ---------------------------------------------------------------------------------------------- careless in writing


@contextmanager
def in_place() -> Iterator[None]:
    """A commit that writes under the last name from the start."""
    from etude.keep import disk

    def open_target(path: Any, target: Any) -> int:
        return int(disk.os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666))

    with _knowing_the_target(open_target), instead(disk, "rename", nothing):
        yield


@contextmanager
def named_first() -> Iterator[None]:
    """A commit whose new, empty file gets the last name before anything is written."""
    from etude.keep import disk

    create, rename = disk.create, disk.rename

    def named(path: Any, target: Any) -> int:
        fd = create(path)
        rename(path, target)
        return fd

    with _knowing_the_target(named), instead(disk, "rename", nothing):
        yield


@contextmanager
def removed_first() -> Iterator[None]:
    """A commit that takes away all older files before the new one is written."""
    from etude.keep import disk

    create = disk.create

    def removed(path: Any, target: Any) -> int:
        folder = Path(target).parent
        for old in folder.glob("*.safetensors"):
            disk.remove(old)
        disk.sync_folder(folder)
        return create(path)

    with _knowing_the_target(removed):
        yield


@contextmanager
def _knowing_the_target(create: Callable[[Any, Any], int]) -> Iterator[None]:
    """`disk.create` gets the name that the file is to have at last too."""
    from etude.keep import disk
    from etude.keep.image import Image

    target: list[str] = []
    write, good = Image.write, disk.create

    def told(image: Any, path: Any, record: Any) -> int:
        target[:] = [os.path.abspath(path)]
        try:
            return write(image, path, record)
        finally:
            target.clear()

    with ExitStack() as stack:
        stack.enter_context(instead(Image, "write", told))
        stack.enter_context(instead(disk, "create", lambda path: create(path, target[0]) if target else good(path)))
        yield


@contextmanager
def renamed_before_sync() -> Iterator[None]:
    """A commit whose file gets its name first, and is synced afterwards."""
    from etude.keep import disk

    sync, rename, late = disk.sync, disk.rename, list[int]()

    def later(fd: int) -> None:
        late.append(os.dup(fd))

    def rename_then_sync(old: Any, new: Any) -> None:
        rename(old, new)
        while late:
            os.close(late.pop())
        fd = disk.open_to_read(new)
        sync(fd)
        disk.close(fd)

    with instead(disk, "sync", later), instead(disk, "rename", rename_then_sync):
        yield


@contextmanager
def folders_only_made() -> Iterator[None]:
    """Folders are made, and their names are not made durable."""
    from etude.keep import disk

    def made(path: Path) -> None:
        if not path.is_dir():
            made(path.parent)
            disk.os.mkdir(path)

    with instead(disk, "make_folder", made):
        yield


def unsynced_files() -> AbstractContextManager[None]:
    """Files are not synced."""
    from etude.keep import disk

    return instead(disk, "sync", nothing)


def unsynced_folders() -> AbstractContextManager[None]:
    """Folders are not synced."""
    from etude.keep import disk

    return instead(disk, "sync_folder", nothing)


# ------------------------------------------------------------------------------------------ forgetful in the state


def _changed(owner: Any, name: str, change: Callable[..., Any]) -> AbstractContextManager[None]:
    """A function whose arguments are changed before it is called."""
    good = getattr(owner, name)
    return instead(owner, name, lambda *arguments, **named: good(*change(*arguments), **named))


def no_optimizer_memory() -> AbstractContextManager[None]:
    """The memory of the optimizer begins anew."""
    from etude.step.stepper import Stepper

    def bare(self: Any, state: Any, progress: Any) -> tuple[Any, ...]:
        fresh = dict(zip(self.table.names, self.optimizer.state(), strict=True))
        return self, {**state, "arrays": fresh}, progress

    return _changed(Stepper, "load", bare)


def no_schedule_memory() -> AbstractContextManager[None]:
    """Schedules that listen have heard nothing."""
    from etude.step.stepper import Stepper

    return _changed(Stepper, "load", lambda self, state, progress: (self, {**state, "memory": {}}, progress))


def no_average() -> AbstractContextManager[None]:
    """Averages begin anew."""
    from etude.step.averaging import Averages

    return instead(Averages, "load", nothing)


def no_scale() -> AbstractContextManager[None]:
    """The loss scale begins anew."""
    from etude.step.scale import LossScale

    return instead(LossScale, "load", nothing)


def one_step_off() -> AbstractContextManager[None]:
    """The clock goes on one step too far."""
    from etude.run import going

    clock_in = going.clock_in

    def late(*arguments: Any) -> Any:
        made = clock_in(*arguments)
        return replace(made, step=made.step + 1)

    return instead(going, "clock_in", late)


def stale_position() -> AbstractContextManager[None]:
    """The data begin the epoch anew."""
    from etude.run import going

    cursor = going.Cursor

    def begun(*arguments: Any, **named: Any) -> Any:
        made = cursor(*arguments, **named)
        return replace(made, batch=0)

    return instead(going, "Cursor", begun)


def unkeyed_chance() -> AbstractContextManager[None]:
    """Dropout goes on with whatever numbers come next."""
    from etude.run import run

    return instead(run, "seed_step", nothing)


def no_best() -> AbstractContextManager[None]:
    """The best net so far is forgotten."""
    from etude.run.keep_best import Best

    return instead(Best, "load", nothing)


def no_means() -> AbstractContextManager[None]:
    """The means of the epoch begin anew."""
    from etude.run.evaluate import Means

    return instead(Means, "load", nothing)


def no_statistics() -> AbstractContextManager[None]:
    """Running statistics of batch norm stay as they are in a new net."""
    from etude.run import going

    def without(net: Any, path: Any, record: Any, tensors: Any) -> tuple[Any, ...]:
        kept = dict(tensors) | {name: buffer.clone() for name, buffer in net.named_buffers()}
        return net, path, record, kept

    return _changed(going, "into_net", without)


WRITE_FAULTS: dict[str, Plant] = {
    "written in place": in_place,
    "named before it is written": named_first,
    "the old ones removed before the commit": removed_first,
}
"""What a kill can show."""

SYNC_FAULTS: dict[str, Plant] = {
    "files not synced": unsynced_files,
    "folders not synced": unsynced_folders,
    "named before the file is synced": renamed_before_sync,
    "new folders not synced": folders_only_made,
}
"""What only a power cut can show."""

STATE_FAULTS: dict[str, Plant] = {
    "one step off": one_step_off,
    "no memory of the optimizer": no_optimizer_memory,
    "no average": no_average,
    "no memory of schedules": no_schedule_memory,
    "no loss scale": no_scale,
    "a stale position in the data": stale_position,
    "chance not keyed by the step": unkeyed_chance,
    "no running statistics": no_statistics,
    "no best net": no_best,
    "no means of the epoch": no_means,
}
"""What only a comparison of states can show."""
