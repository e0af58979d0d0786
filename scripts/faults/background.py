"""Saves that fail while the run goes on: is the failure heard, and is what was saved the state of one step?

Runs are saved after every step. To each save a fault is drawn: an exception, a full disk, an error of the disk, a disk
that is slow, or none; some processes are killed in the middle of one.
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from findings import Finding
from full_disk import Limited
from seams import in_place_of_os, instead
from subjects import alike, scratch, small_run

ASKED = (
    "A failed save is told at the next step or at the end, and counted, none is lost, and it ends the run where that "
    "was asked for; what is saved is the state of one step, whatever training does meanwhile; at every step the newest "
    "file is whole, and no older than the last one that was told."
)
SHORT, FULL = 100, 1000

STEPS = 20
"""Of each run, and so its saves."""

FAULTS = ("none", "slow", "exception", "full disk", "broken disk")


class Unforeseen(BaseException):
    """An error that is no `Exception`, as torch's own for checkpoints is."""


def look(count: int, seed: int) -> Iterator[Finding]:
    """Make `count` saves, most of them with a fault; end some runs by one, and kill some processes in one."""
    runs = max(2, count // STEPS)
    yield _told("warn", runs, seed)
    yield _ended("stop", max(4, runs // 2), seed)
    yield _ended("an error of another kind", max(4, runs // 2), seed)
    yield _killed(max(4, runs), seed)


def planted(seed: int) -> Iterator[Finding]:
    """A library whose background saves are careless."""
    # What nobody asked for is told when the run is forgotten, which is here.
    warnings.simplefilter("ignore")
    for fault, plant in _faults().items():
        with plant():
            found = [_told("warn", 4, seed), _ended("stop", 4, seed)]
        wrong = [line for each in found for line in each.wrong]
        if wrong:
            yield Finding(fault, 8, (), {"seen": len(wrong), "first": wrong[0][:80]})
        else:
            yield Finding(fault, 8, (f"{fault}: not noticed",))


# ------------------------------------------------------------------------------------------------ faults in saves


@dataclass(slots=True)
class Saves:
    """What goes on in the saves of a run.

    Attributes:
        draw: the fault of each step. taken: what was copied, by step. failed: which saves failed, and how many steps
            had been told when they did. told: steps whose failure was told. saved: files that were told, by step.
        settled: how many steps were told. wrong: what was found to be wrong. met: how often each fault came up.
    """

    draw: Callable[[int], str]
    disk: Limited = field(default_factory=Limited)
    taken: dict[int, dict[str, Any]] = field(default_factory=dict)
    failed: list[tuple[int, int]] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    saved: dict[int, str] = field(default_factory=dict)
    settled: int = 0
    wrong: list[str] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    last: dict[str, Any] = field(default_factory=dict)

    def take(self, good: Callable[..., None]) -> Callable[..., None]:
        """Copies of our own, made when the library makes its own."""

        def taken(image: Any, tensors: Any) -> None:
            self.last = {name: array.detach().clone() for name, array in tensors.items()}
            good(image, tensors)

        return taken

    def write(self, good: Callable[..., int]) -> Callable[..., int]:
        """A write with the fault of its step."""

        def written(image: Any, path: Any, record: Any) -> int:
            step = record["progress"]["step"]
            fault = self.draw(step)
            self.taken[step] = self.last
            self.met[fault] += 1
            try:
                with self._faulty(fault, step):
                    return good(image, path, record)
            except BaseException:
                self.failed.append((step, self.settled))
                raise

        return written

    @contextmanager
    def _faulty(self, fault: str, step: int) -> Iterator[None]:
        time.sleep(0.004 * (step % 3))
        if fault == "exception":
            raise (RuntimeError, MemoryError, KeyError, OSError)[step % 4]("planted")
        if fault == "unforeseen":
            raise Unforeseen("planted")
        if fault == "full disk":
            self.disk.left = 1500 * step % 9000
        if fault == "broken disk":
            self.disk.left, self.disk.refused = 0, 0
        try:
            if fault == "slow":
                time.sleep(0.02)
            yield
        finally:
            self.disk.left = None

    def hear(self, event: Any) -> None:
        """A listener: notes what is told, and looks at every step what was told too late."""
        kind, step = type(event).__name__, int(event.progress.step)
        if kind == "SaveFailed":
            self.told.append(step)
        elif kind == "Saved":
            self.saved[step] = event.path
        elif kind == "Settled":
            self.settled += 1
            late = [failed for failed, at in self.failed if at + 1 < self.settled and failed not in self.told]
            self.wrong += [f"the failure at step {failed} was not told by step {step}" for failed in late]

    def judged(self) -> list[str]:
        """What is wrong after the run."""
        from etude.keep.files import read

        wrong = list(self.wrong)
        lost = {step for step, _ in self.failed} - set(self.told)
        wrong += [f"the failure at step {step} was never told" for step in sorted(lost)]
        if len(self.told) != len(self.failed):
            wrong.append(f"{len(self.failed)} saves failed, {len(self.told)} failures were told")
        for step, path in self.saved.items():
            saved = read(path)
            if saved.record["progress"]["step"] != step or not alike(saved.tensors, self.taken[step]):
                wrong.append(f"the file of step {step} is not the state of that step")
        return wrong


@contextmanager
def _with(saves: Saves) -> Iterator[None]:
    from etude.keep import disk
    from etude.keep.image import Image

    with ExitStack() as stack:
        stack.enter_context(in_place_of_os(saves.disk, disk))
        stack.enter_context(instead(Image, "take", saves.take(Image.take)))
        stack.enter_context(instead(Image, "write", saves.write(Image.write)))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def _destination(folder: Path, on_failure: str) -> Any:
    from etude.keep.destination import Directory
    from etude.values.cadence import every
    from etude.values.spans import steps

    return Directory(folder, every(steps(1)), on_failure=on_failure)


# ----------------------------------------------------------------------------------------------------- the harness


def _told(on_failure: str, runs: int, seed: int) -> Finding:
    """Runs that go on over failed saves."""
    wrong, met, failed = list[str](), Counter[str](), 0
    with scratch(in_memory=True) as root:
        whole = small_run(root / "whole", STEPS).net.state_dict()
        for number in range(runs):
            chance = Random(f"{seed} {number}")
            drawn = [chance.choice(FAULTS) for _ in range(STEPS + 1)]
            saves = Saves(lambda step, drawn=drawn: drawn[step])  # type: ignore[misc]
            folder = root / str(number)
            listeners = [saves.hear, _Newest(folder, saves)]
            with _with(saves):
                result = small_run(folder, STEPS, checkpoint=_destination(folder, on_failure), listeners=listeners)
            found = saves.judged()
            if result.failed_saves != len(saves.failed):
                found.append(f"{len(saves.failed)} saves failed, {result.failed_saves} were counted")
            if not alike(result.net.state_dict(), whole):
                found.append("failed saves changed the run")
            wrong += [f"run {number}: {line}" for line in found]
            met += saves.met
            failed += len(saves.failed)
    return Finding("saves with faults, the run goes on", met.total(), tuple(wrong), {"failed": failed, **met})


class _Newest:
    """A listener that looks for the newest good file at every step, as another process might."""

    def __init__(self, folder: Path, saves: Saves) -> None:
        from etude.keep.destination import Directory
        from etude.keep.store import Store

        self._store, self._saves = Store(Directory(folder)), saves

    def __call__(self, event: Any) -> None:
        if type(event).__name__ != "Settled":
            return
        saved, refused = self._store.newest_good()
        step = 0 if saved is None else saved.record["progress"]["step"]
        told = max(self._saves.saved, default=0)
        self._saves.wrong += [f"met: {error}" for error in refused]
        if step < told:
            self._saves.wrong.append(f"step {told} was told, and step {step} is the newest")


def _ended(how: str, runs: int, seed: int) -> Finding:
    """Runs that a failed save ends: because that was asked for, or because it is no ordinary error."""
    wrong = list[str]()
    fault, on_failure = ("exception", "stop") if how == "stop" else ("unforeseen", "warn")
    with scratch(in_memory=True) as root:
        for number in range(runs):
            # The first save, the last one, and some between.
            at = (1, STEPS, *Random(f"{seed} {how} {number}").sample(range(2, STEPS), 1))[number % 3]
            saves = Saves(lambda step, at=at: fault if step == at else "none")  # type: ignore[misc]
            folder = root / str(number)
            with _with(saves):
                try:
                    small_run(folder, STEPS, checkpoint=_destination(folder, on_failure), listeners=[saves.hear])
                    wrong.append(f"run {number}: the failure at step {at} did not end it")
                except (Unforeseen, Exception) as error:
                    if "planted" not in str(error):
                        wrong.append(f"run {number}: {type(error).__name__}: {error}")
                    if saves.settled > saves.failed[0][1] + 1:
                        wrong.append(f"run {number}: the failure at step {at} ended it at step {saves.settled} only")
    return Finding(f"runs ended by a failed save ({how})", runs, tuple(wrong))


# ----------------------------------------------------------------------------------------------------------- kills


def _killed(runs: int, seed: int) -> Finding:
    """Processes that end in the middle of a save, at one call or another; then the run goes on."""
    wrong, torn = list[str](), 0
    with scratch(in_memory=True) as root:
        whole = small_run(root / "whole", STEPS).net.state_dict()
        for number in range(runs):
            folder, chance = root / str(number), Random(f"{seed} kill {number}")
            ended = _dying(folder, chance.randrange(2, STEPS), chance.randrange(12))
            if ended != -signal.SIGKILL:
                wrong.append(f"run {number}: it ended with {ended}")
            torn += bool(list(folder.glob("*.part")))
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                result = small_run(folder, STEPS, checkpoint=_destination(folder, "warn"), resume="auto")
            wrong += [f"run {number}: {each.message}" for each in told]
            if not alike(result.net.state_dict(), whole):
                wrong.append(f"run {number}: gone on with, it ends with other bits")
            wrong += [f"run {number}: left behind: {path.name}" for path in folder.glob("*.part")]
    return Finding("processes killed at a call of a save", runs, tuple(wrong), {"with a file half written": torn})


def _dying(folder: Path, step: int, call: int) -> int:
    """A run in a process that kills itself at the n-th call of the save of a step; its exit code."""
    from etude.keep import disk
    from etude.keep.image import Image

    left: list[int] = []

    def decide(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if left:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    write = Image.write

    def written(image: Any, path: Any, record: Any) -> int:
        if record["progress"]["step"] == step:
            left.append(call)
        return write(image, path, record)

    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            with in_place_of_os(decide, disk), instead(Image, "write", written):
                small_run(folder, STEPS, checkpoint=_destination(folder, "warn"))
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ------------------------------------------------------------------------------------------------- faults to plant


def _faults() -> dict[str, Callable[[], Any]]:
    from etude.keep.writer import Writer
    from etude.run.saving import Saving

    return {
        "what was saved is not looked at until the end": lambda: instead(Writer, "poll", lambda self: []),
        "what a thread raises is lost": _lost,
        "arrays are not copied": _borrowed,
        "a failed save is not counted": lambda: instead(Saving, "_events", _uncounted(Saving._events)),
        "a failed save never ends a run": _going_on,
    }


@contextmanager
def _lost() -> Iterator[None]:
    """Jobs whose errors nobody keeps."""
    from etude.keep import writer

    do = writer._do

    def quiet(job: Callable[[], Any], *rest: Any) -> None:
        def safe() -> Any:
            try:
                found = job()
            except BaseException:
                return []
            return [replace(each, faults=()) for each in found]

        do(safe, *rest)

    with instead(writer, "_do", quiet):
        yield


@contextmanager
def _borrowed() -> Iterator[None]:
    """Arrays are copied when they are written, whatever is in them by then."""
    from etude.keep.image import Image

    take, write, late = Image.take, Image.write, dict[int, Any]()

    def noted(image: Any, tensors: Any) -> None:
        take(image, tensors)
        late[id(image)] = tensors

    def written(image: Any, path: Any, record: Any) -> int:
        take(image, late[id(image)])
        return write(image, path, record)

    with instead(Image, "take", noted), instead(Image, "write", written):
        yield


def _uncounted(events: Callable[..., Any]) -> Callable[..., Any]:
    def told(self: Any, wrote: Any) -> Iterator[Any]:
        failed = self.failed
        made = list(events(self, wrote))
        self.failed = failed
        yield from made

    return told


@contextmanager
def _going_on() -> Iterator[None]:
    """Whatever a destination says, the run goes on."""
    from etude.errors import CheckpointError
    from etude.run.saving import Saving

    good = Saving._told

    def told(self: Any, done: Any) -> Iterator[Any]:
        with suppress(CheckpointError):
            yield from good(self, done)

    with instead(Saving, "_told", told):
        yield
