"""Two processes that want to write to one place: who may, what the other one is told, and what is left after a kill."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import nn

from findings import Finding
from seams import instead, nothing
from subjects import save, scratch

ASKED = (
    "Of two runs started together on one place one writes, and the other is refused in less than a second and told "
    "which process writes there, on which machine and since when; the place is free as soon as that one was killed, "
    "also while children of it live; readers never wait; what killed writers left is removed, what others are writing "
    "is not."
)
SHORT, FULL = 20, 200

SECONDS = 1.0
"""In which a writer must have begun or have been refused, and a reader must have read."""

PATIENCE = 5.0
"""Seconds after which a process that says nothing is taken for one that waits."""

STRAY = ".etude-0123abcd.part"

Say = Callable[..., None]
Wait = Callable[[], None]
Plant = Callable[[], AbstractContextManager[Any]]


def look(count: int, seed: int) -> Iterator[Finding]:
    """Start so many pairs, kill half as many holders, and have four processes take turns."""
    torch.manual_seed(seed)
    _warm()
    yield _tried("two writers, started together", count, _pair)
    yield _tried("two runs of etude.Run, started together", count, _pair_of_runs)
    yield _tried("a reader beside a writer", count, _reader)
    yield _tried("a holder killed with -9, two children of it alive", max(1, count // 2), _killed)
    yield _tried("four processes take the same lock in turns, 50 times each", max(1, count // 10), _turns)
    yield _tried("a writer at work on another file of the folder", max(1, count // 10), _beside)


def planted(seed: int) -> Iterator[Finding]:
    """The same with locks that are none, wait, outlive their holder, or have other faults."""
    torch.manual_seed(seed)
    _warm()
    for fault, (plant, trial) in _faults().items():
        with plant():
            found = _tried(fault, 20, trial, until_wrong=True)
        wrong = () if found.wrong else ("not noticed",)
        yield Finding(fault, found.tried, wrong, {"noticed as": found.wrong[0][:100]} if found.wrong else {})


# ----------------------------------------------------------------------------------------------------------- trials


def _tried(what: str, count: int, trial: Callable[[int, Path], Trial], until_wrong: bool = False) -> Finding:
    """One kind of trial, again and again, each in a folder of its own."""
    wrong: list[str] = []
    longest, tried = 0.0, 0
    for number in range(count):
        with scratch() as folder:
            found = trial(number, folder)
        tried += 1
        longest = max(longest, found.seconds)
        wrong += [f"{number}: {said.replace(str(folder), '...')}" for said in found.wrong]
        if until_wrong and wrong:
            break
    return Finding(what, tried, tuple(wrong), {"longest, ms": longest * 1000} if longest else {})


@dataclass(frozen=True, slots=True)
class Trial:
    """What was wrong in one trial, and how long whoever had to be quick took."""

    wrong: list[str]
    seconds: float = 0.0


def _pair(number: int, folder: Path) -> Trial:
    return _two(partial(_writes, number, folder), number, folder)


def _pair_of_runs(number: int, folder: Path) -> Trial:
    return _two(partial(_runs, number, folder), number, folder)


def _two(work: Callable[[Say, Wait], None], number: int, folder: Path) -> Trial:
    """Two processes that do the same: one must get in, the other be refused; the first must leave the place tidy."""
    with children(work, work) as pair:
        for child in pair:
            child.hear()
        for child in pair:
            child.go()
        said = [child.hear() for child in pair]
        within = [child for child, told in zip(pair, said, strict=True) if told and "within" in told]
        refused = [told for told in said if told and "refused" in told]
        if len(within) != 1 or len(refused) != 1:
            errors = [told["error"] for told in said if told and "error" in told]
            return Trial([f"{len(within)} of 2 got in, {said.count(None)} were kept waiting, errors: {errors}"])
        wrong, seconds = _refusal(refused[0], within[0].pid)
        within[0].go()
        if (ended := within[0].hear()) is None or "error" in ended:
            wrong.append(f"the one within did not end well: {ended}")
    return Trial(wrong + _left(number, folder), seconds)


def _refusal(told: dict[str, Any], holder: int) -> tuple[list[str], float]:
    """What is wrong with what the refused one was told."""
    machine = re.escape(socket.gethostname())
    named = rf"process {holder} on {machine} since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ: another run writes there"
    wrong = [] if re.search(named, told["refused"]) else [f"the refusal does not name the other: {told['refused']}"]
    if told["seconds"] >= SECONDS:
        wrong.append(f"refused after {told['seconds']:.2f} s")
    return wrong, float(told["seconds"])


def _left(number: int, folder: Path) -> list[str]:
    """What is wrong with a place that its only writer has left."""
    from etude.keep.store import Store

    wrong = [f"left behind: {name}" for name in os.listdir(folder) if not name.endswith(".safetensors")]
    saved, refused = Store(_destination(number, folder)).newest_good()
    if saved is None or refused:
        wrong.append(f"no good checkpoint, or damaged ones: {[str(error) for error in refused]}")
    return wrong


def _reader(number: int, folder: Path) -> Trial:
    """While one writes, others read."""
    from etude.errors import EtudeError
    from etude.keep.store import Store

    with children(partial(_writes, number, folder)) as (writer,):
        writer.hear()
        writer.go()
        if writer.hear() is None:
            return Trial(["the writer did not begin"])
        began = time.perf_counter()
        try:
            saved, refused = Store(_destination(number, folder)).newest_good()
        except EtudeError as error:
            return Trial([f"the reader was refused: {error}"])
        took = time.perf_counter() - began
        wrong = [] if saved is not None and not refused else ["the reader found no good checkpoint"]
        if took >= SECONDS:
            wrong.append(f"the reader took {took:.2f} s")
        writer.go()
        writer.hear()
    return Trial(wrong, took)


def _killed(number: int, folder: Path) -> Trial:
    """A holder is killed in the middle of a save; its children, as loader workers may, live on."""
    from etude.errors import EtudeError
    from etude.keep.store import Store

    with children(partial(_holds, number, folder)) as (holder,):
        told = holder.hear()
        if told is None or "workers" not in told:
            return Trial([f"the holder did not begin: {told}"])
        holder.end()
        began = time.perf_counter()
        store = Store(_destination(number, folder))
        try:
            store.open()
        except EtudeError as error:
            return Trial([f"not free: {error}"])
        finally:
            took = time.perf_counter() - began
            for worker in told["workers"]:
                os.kill(worker, signal.SIGKILL)
        wrong = [f"a file of the killed one is left: {STRAY}"] if (folder / STRAY).exists() else []
        store.close()
    return Trial(wrong, took)


def _turns(number: int, folder: Path) -> Trial:
    """Several take the lock and give it back, each time by removing its file, which others may be about to lock."""
    with children(*[partial(_takes_turns, folder)] * 4) as four:
        for child in four:
            child.hear()
        for child in four:
            child.go()
        said = [child.hear(60.0) for child in four]
    wrong = [told["error"] for told in said if told and "error" in told]
    if None in said:
        wrong.append("one was kept waiting")
    if not wrong and sum(told["taken"] for told in said if told) == 0:
        wrong.append("nobody ever had it")
    return Trial(wrong)


def _beside(number: int, folder: Path) -> Trial:
    """A process is writing one file of a folder, and another begins to write another one there."""
    from etude.keep.destination import File
    from etude.keep.store import Store

    def work(say: Say, wait: Wait) -> None:
        store = Store(File(folder / "a.safetensors"))
        store.open()
        (folder / STRAY).touch()
        say()
        wait()

    with children(work) as (writer,):
        writer.hear()
        store = Store(File(folder / "b.safetensors"))
        store.open()
        store.close()
        wrong = [] if (folder / STRAY).exists() else ["the file that another process is writing was removed"]
    return Trial(wrong)


# -------------------------------------------------------------------------------------------- what the processes do


def _destination(number: int, folder: Path) -> Any:
    from etude.keep.destination import Directory, File

    return Directory(folder) if number % 2 else File(folder / "run.safetensors")


def _writes(number: int, folder: Path, say: Say, wait: Wait) -> None:
    """Open the place and save, as a run does; once more when told to."""
    from etude.errors import StateError
    from etude.keep.files import Image
    from etude.keep.store import Store

    store, image = Store(_destination(number, folder)), Image()
    say()
    wait()
    began = time.perf_counter()
    try:
        store.open()
    except StateError as error:
        say(refused=str(error), seconds=time.perf_counter() - began)
        return
    save(store, image, 1)
    say(within=True)
    wait()
    save(store, image, 2)
    store.close()
    say(ended=True)


def _runs(number: int, folder: Path, say: Say, wait: Wait) -> None:
    """A run of a small net, which waits after its first event until it is told to go on."""
    import etude

    plan = etude.Plan(loss="cross_entropy", steps=4, batch_size=4, checkpoint=_destination(number, folder))
    data = torch.randn(16, 4), torch.randint(0, 3, (16,))
    events = iter(etude.Run(plan, nn.Linear(4, 3), data))
    say()
    wait()
    began = time.perf_counter()
    try:
        next(events)
    except etude.StateError as error:
        say(refused=str(error), seconds=time.perf_counter() - began)
        return
    say(within=True)
    wait()
    for _ in events:
        pass
    say(ended=True)


def _holds(number: int, folder: Path, say: Say, wait: Wait) -> None:
    """Hold a place, with two children and a file that is being written."""
    from etude.keep.store import Store

    store = Store(_destination(number, folder))
    store.open()
    workers = [_worker() for _ in range(2)]
    (folder / STRAY).touch()
    say(workers=workers)
    wait()


def _worker() -> int:
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    return worker


def _takes_turns(folder: Path, say: Say, wait: Wait) -> None:
    """Take and give back, 50 times or for two seconds; whoever is within makes a file that must not be there."""
    from etude.errors import StateError
    from etude.keep.lock import Lock

    say()
    wait()
    taken, until = 0, time.monotonic() + 2
    while taken < 50 and time.monotonic() < until:
        lock = Lock(folder / ".lock")
        try:
            lock.acquire()
        except StateError:
            continue
        try:
            os.close(os.open(folder / "within", os.O_CREAT | os.O_EXCL))
            os.unlink(folder / "within")
        except OSError as error:
            say(error=f"two were within: {error}")
            return
        lock.release()
        taken += 1
    say(taken=taken)


# ---------------------------------------------------------------------------------------------------- the processes


@dataclass(slots=True)
class Child:
    """A forked process, which says things and waits to be told to go on."""

    pid: int
    said: int
    told: int
    ended: bool = False

    def hear(self, seconds: float = PATIENCE) -> dict[str, Any] | None:
        """The next thing it says; None if it says nothing, in time or for good."""
        line = b""
        until = time.monotonic() + seconds
        while not line.endswith(b"\n"):
            if not select.select([self.said], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            more = os.read(self.said, 1)
            if not more:
                return None
            line += more
        return dict(json.loads(line))

    def go(self) -> None:
        """Let it go on."""
        with suppress(BrokenPipeError):
            os.write(self.told, b"x")

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        if not self.ended:
            self.ended = True
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@contextmanager
def children(*works: Callable[[Say, Wait], None]) -> Iterator[list[Child]]:
    """Processes forked from this one, one for each work; killed in the end."""
    with ExitStack() as stack:
        made = []
        for work in works:
            made.append(_forked(work, made))
            stack.callback(os.close, made[-1].said)
            stack.callback(os.close, made[-1].told)
            stack.callback(made[-1].end)
        yield made


def _forked(work: Callable[[Say, Wait], None], others: list[Child]) -> Child:
    said, saying = os.pipe()
    hearing, told = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        for fd in (said, told, *(end for other in others for end in (other.said, other.told))):
            os.close(fd)
        _worked(work, saying, hearing)
    os.close(saying)
    os.close(hearing)
    return Child(pid, said, told)


def _worked(work: Callable[[Say, Wait], None], saying: int, hearing: int) -> NoReturn:
    def say(**things: Any) -> None:
        os.write(saying, json.dumps(things).encode() + b"\n")

    try:
        work(say, lambda: None if os.read(hearing, 1) else os._exit(2))
    except BaseException as error:
        with suppress(OSError):
            say(error=repr(error))
    finally:
        os._exit(0)


def _warm() -> None:
    """What a first run imports and makes, so that no process forked from this one spends its second on that."""
    with scratch() as folder:
        for number in (0, 1):
            _runs(number, folder / str(number), nothing, lambda: None)


# ----------------------------------------------------------------------------------------------------------- faults


def _faults() -> dict[str, tuple[Plant, Callable[[int, Path], Trial]]]:
    from etude.keep import folder, lock
    from etude.keep.store import Store

    flock, read = fcntl.flock, Store.newest_good

    def waiting(fd: int, how: int) -> None:
        flock(fd, fcntl.LOCK_EX)

    def reading(store: Any, *arguments: Any) -> Any:
        store._lock.acquire()
        return read(store, *arguments)

    def unnamed(fd: int) -> Any:
        return lock.Holder(os.getpid(), "", "", "")

    forgetful = SimpleNamespace(**{**vars(os), "close": nothing})
    return {
        "no lock": (lambda: instead(fcntl, "flock", nothing), _pair),
        "no lock, in runs": (lambda: instead(fcntl, "flock", nothing), _pair_of_runs),
        "waits for the lock": (lambda: instead(fcntl, "flock", waiting), _pair),
        "does not name the holder": (lambda: instead(lock, "sign", unnamed), _pair),
        "leaves its file": (lambda: instead(lock, "_remove", nothing), _pair),
        "a file that is there is a lock": (lambda: instead(lock, "_lock", _by_size), _killed),
        "children keep the lock": (lambda: instead(lock, "os", forgetful), _killed),
        "locks a file that was removed": (lambda: instead(lock, "_is_at", lambda fd, path: True), _turns),
        "leaves what killed writers left": (lambda: instead(folder, "sweep", nothing), _killed),
        "removes what others write": (lambda: instead(folder, "others_at_work", lambda place: False), _beside),
        "readers need the lock": (lambda: instead(Store, "newest_good", reading), _reader),
    }


def _by_size(fd: int) -> bool:
    return os.fstat(fd).st_size == 0
