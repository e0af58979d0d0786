"""The disk fills up at any byte of a save.

Where the system lets this user mount a file system of its own, that is one in memory which is filled until only so many
bytes are left. Everywhere, it is a disk that takes so many bytes and no more, in place of the system's.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from findings import SOURCE, Finding
from seams import in_place_of_os, instead
from subjects import alike, save, scratch, small_run, state

ASKED = (
    "The checkpoint before still loads; the error says that there is no space, and how much is needed and free; the "
    "run goes on or stops as it was told; with space again the next save works; no stray file is left."
)
SHORT, FULL = 60, 500

SIZE = 8 << 20
"""Bytes of the file system that is filled."""

NUMBERS = 530_000
"""In each state: some two million bytes, 500 pages and more."""

STEPS = 20
"""Of the runs; they are saved at every fourth."""


def look(count: int, seed: int) -> Iterator[Finding]:
    """Fill the disk at `count` places of a save; let `count` / 5 runs go on over it, and as many stop."""
    yield _limited(count)
    yield from _runs(max(4, count // 5), "a disk that takes no more")
    yield from _mounted(count)


def planted(seed: int) -> Iterator[Finding]:
    """A library that treats a full disk carelessly."""
    for fault, plant in _faults().items():
        with plant():
            found = [_limited(20), *_runs(6, "a disk that takes no more")]
        wrong = [line for each in found for line in each.wrong]
        if wrong:
            yield Finding(fault, 26, (), {"seen": len(wrong), "first": wrong[0][:80]})
        else:
            yield Finding(fault, 26, (f"{fault}: not noticed",))


# ----------------------------------------------------------------------------------- a disk that takes no more


class Limited:
    """Decides about calls, see `seams`: a disk with room for so many bytes more. A write may be short.

    Attributes:
        left: the bytes. None: no limit. refused: how often there was no room.
    """

    def __init__(self) -> None:
        self.left: int | None = None
        self.refused = 0

    def __call__(self, call: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if self.left is None:
            return real(*arguments)
        if call == "statvfs":
            return _Free(self.left)
        if call != "pwrite":
            return real(*arguments)
        if not self.left:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fd, data, at = arguments
        count = real(fd, data[: self.left], at)
        self.left -= count
        return count


class _Free:
    """What a file system says that has so many bytes left."""

    def __init__(self, left: int) -> None:
        self.f_bavail, self.f_frsize = left, 1


def _limited(count: int) -> Finding:
    from etude.keep import disk

    wrong = []
    with scratch(in_memory=True) as folder:
        place = _Place(folder / "run")
        limited = Limited()
        with in_place_of_os(limited, disk):
            for number in range(count):
                # Odd places too: a disk takes whole pages, a quota does not.
                room = place.size * number // count

                def fill(room: int = room) -> None:
                    limited.left = room

                def free() -> None:
                    limited.left = None

                wrong += [f"room for {room:,} bytes: {line}" for line in place.tried(fill, free)]
        place.store.close()
    return Finding("saves into a disk that takes no more", count, tuple(wrong), {"bytes of a save": place.size})


class _Place:
    """A folder that is saved to, one good checkpoint in it.

    Attributes:
        folder: it. store, image: what writes there. size: bytes of a checkpoint. step: of the newest good one.
    """

    def __init__(self, folder: Path) -> None:
        from etude.keep.destination import Directory
        from etude.keep.files import Image
        from etude.keep.retain import last
        from etude.keep.store import Store

        self.folder = folder
        self.store, self.image = Store(Directory(folder, keep=last(2))), Image()
        self.store.open()
        self.step = 1
        self.size = save(self.store, self.image, self.step, NUMBERS).stat().st_size

    def tried(self, fill: Callable[[], None], free: Callable[[], None]) -> list[str]:
        """What is wrong with a save while the disk is full, and with the next one when it is not."""
        from etude.errors import CheckpointError

        wrong = []
        fill()
        try:
            save(self.store, self.image, self.step + 1, NUMBERS)
            wrong.append("it was saved, though there is no room")
        except CheckpointError as error:
            wrong += _said(str(error), self.size)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
        wrong += self.newest(self.step)
        wrong += [f"left behind: {path.name}" for path in self.folder.glob("*.part")]
        free()
        try:
            save(self.store, self.image, self.step + 1, NUMBERS)
            self.step += 1
        except Exception as error:
            wrong.append(f"with room again: {type(error).__name__}: {error}")
        return wrong + self.newest(self.step)

    def newest(self, step: int) -> list[str]:
        """What is wrong with the newest good checkpoint, which is that of a step."""
        saved, refused = self.store.newest_good()
        if saved is None or saved.record["step"] != step or refused:
            return [f"step {step} is not found; refused are {[str(error) for error in refused]}"]
        return [] if alike(saved.tensors, state(step, NUMBERS)) else [f"wrong bits in step {step}"]


def _said(text: str, size: int = 0) -> list[str]:
    """What is wrong with the message: it must name the bytes that are needed, and those that are free."""
    if "no space" not in text.lower() or "free" not in text:
        return [f"the message says nothing of space: {text}"]
    needed = [int(found.replace(",", "")) for found in re.findall(r"([\d,]+) bytes", text)]
    return (
        []
        if needed and (not size or abs(needed[0] - size) < 4096)
        else [f"the message says not how much is needed: {text}"]
    )


# ---------------------------------------------------------------------------------------------- runs that go on


def _runs(count: int, disk_is: str) -> Iterator[Finding]:
    """Runs whose disk is full from some step to another."""
    from etude.keep import disk

    for on_failure in ("warn", "stop"):
        wrong, said = list[str](), Counter[str]()
        with scratch(in_memory=True) as folder:
            whole = _final(small_run(folder / "whole", STEPS))
            for number in range(count):
                limited = Limited()
                with in_place_of_os(limited, disk):
                    wrong += [
                        f"run {number}: {line}"
                        for line in _one_run(folder / f"{number}", on_failure, number, whole, limited, said)
                    ]
        yield Finding(f"runs over {disk_is}, on_failure={on_failure!r}", count, tuple(wrong), dict(said))


def _one_run(
    folder: Path, on_failure: str, number: int, whole: Any, limited: Limited, said: Counter[str]
) -> Iterator[str]:
    """What is wrong with a run whose disk is full after step 4 + number % 8 until step 17."""
    from etude.errors import CheckpointError
    from etude.keep.destination import Directory
    from etude.keep.retain import last
    from etude.values.cadence import every
    from etude.values.spans import steps

    heard: list[Any] = []

    def listener(event: Any) -> None:
        kind, step = type(event).__name__, int(event.progress.step)
        if kind == "Settled" and step == 4 + number % 8:
            limited.left = 997 * number % 12_000
        if kind == "Settled" and step == 17:
            limited.left = None
        heard.append(event)

    where = Directory(folder, every(steps(4)), keep=last(2), on_failure=on_failure)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            result = small_run(folder, STEPS, checkpoint=where, listeners=[listener])
        except CheckpointError as error:
            said["stopped"] += 1
            if on_failure == "warn":
                yield f"it stopped: {error}"
            yield from _said(str(error))
            limited.left = None
            result = small_run(folder, STEPS, checkpoint=where, resume="auto")
            if not alike(_final(result), whole):
                yield "gone on with, it ends with other bits"
            return
    failed = [event for event in heard if type(event).__name__ == "SaveFailed"]
    said["failed saves"] += len(failed)
    if on_failure == "stop":
        yield "it did not stop"
    if not failed or len(failed) != result.failed_saves:
        yield f"{len(failed)} failed saves were told, {result.failed_saves} counted"
    if not any("no space" in str(each.message) for each in told):
        yield f"no warning says that there is no space: {[str(each.message) for each in told]}"
    if not alike(_final(result), whole) or _newest(folder) != STEPS:
        yield "it ends with other bits, or without the last save"
    yield from (f"left behind: {path.name}" for path in folder.glob("*.part"))


def _final(result: Any) -> dict[str, Any]:
    return {name: array.clone() for name, array in result.net.state_dict().items()}


def _newest(folder: Path) -> int:
    """The step of the newest good checkpoint."""
    from etude.keep.destination import Directory
    from etude.keep.store import Store

    saved, _ = Store(Directory(folder)).newest_good()
    return -1 if saved is None else int(saved.record["progress"]["step"])


# ------------------------------------------------------------------------------------------ a real file system


def _mounted(count: int) -> Iterator[Finding]:
    """The same on a file system in memory, mounted where no other process sees it."""
    what = "saves into a full tmpfs"
    if shutil.which("unshare") is None:
        yield Finding(what, 0, skipped="there is no unshare")
        return
    with scratch() as folder:
        command = ["unshare", "--mount", "--", sys.executable, __file__, str(folder), str(count)]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ended.returncode == NO_MOUNT or "unshare" in ended.stderr[:20]:
        yield Finding(what, 0, skipped=f"nothing can be mounted here: {ended.stderr.strip()[-120:]}")
    elif ended.returncode:
        yield Finding(what, 0, (ended.stderr[-2000:],))
    else:
        yield Finding(**json.loads(ended.stdout.splitlines()[-1]))


NO_MOUNT = 3
"""The exit code where nothing can be mounted."""


def _in_tmpfs(folder: Path, count: int) -> Finding:
    """Saves while all but so many bytes of the file system are taken by another file."""
    wrong = []
    place, filler = _Place(folder / "run"), folder / "filler"
    for number in range(count):
        room = place.size * number // count

        def fill(room: int = room) -> None:
            free = os.statvfs(folder)
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - room // 4096 * 4096))

        wrong += [f"room for {room:,} bytes: {line}" for line in place.tried(fill, filler.unlink)]
    place.store.close()
    return Finding("saves into a full tmpfs", count, tuple(wrong), {"bytes of a save": place.size})


def _mount(folder: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    ended = subprocess.run(mount, capture_output=True, text=True)
    if ended.returncode:
        print(ended.stderr, file=sys.stderr)
        sys.exit(NO_MOUNT)


# ------------------------------------------------------------------------------------------------- faults to plant


def _faults() -> dict[str, Callable[[], Any]]:
    from etude.keep import disk, image
    from etude.run.saving import Saving

    return {
        "the old ones removed before the commit": _removed_first,
        "what was begun is left behind": lambda: instead(disk, "remove", lambda path: None),
        "the message says nothing of space": lambda: instead(image, "_refused", _mumbled),
        "a failed save is not told": lambda: instead(Saving, "_events", _hushed(Saving._events)),
    }


@contextmanager
def _removed_first() -> Iterator[None]:
    from planted import removed_first

    with removed_first():
        yield


def _mumbled(path: str, error: OSError, size: int) -> Exception:
    from etude.errors import CheckpointError

    return CheckpointError(path, "a file", "none", damaged=False)


def _hushed(events: Callable[..., Any]) -> Callable[..., Any]:
    def told(self: Any, wrote: Any) -> Any:
        return events(self, replace(wrote, bytes=wrote.bytes or 1, faults=()))

    return told


if __name__ == "__main__":
    root = Path(sys.argv[1])
    _mount(root)
    print(json.dumps(asdict(_in_tmpfs(root, int(sys.argv[2])))))
