"""Starts of a run, each a fork of this process that tells through a pipe where it is; and what they leave behind."""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trainings import Job

ORPHANS_AFTER = 5.0
"""Seconds after a kill, when no process of the run may be there any more."""


@dataclass(slots=True)
class Heard:
    """What a process told.

    Attributes:
        began: the step at which it began, -1 if it did not get so far. saving, safe: steps of saves that were begun,
            and of those that were done. losses: by step, in hexadecimal. end: the digests of the last state.
        wrong: errors, warnings, files left by others. modules: what was imported. times: when each line was heard.
        rest: of a line that is not complete.
    """

    began: int = -1
    saving: list[int] = field(default_factory=list)
    safe: list[int] = field(default_factory=list)
    losses: dict[int, str] = field(default_factory=dict)
    end: str = ""
    wrong: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    times: list[tuple[str, float]] = field(default_factory=list)
    rest: str = ""

    def take(self, text: bytes) -> None:
        """Understand what came through the pipe."""
        *lines, self.rest = (self.rest + text.decode()).split("\n")
        for line in lines:
            kind, _, told = line.partition(" ")
            self.times.append((kind, time.monotonic()))
            match kind:
                case "began":
                    self.began = int(told)
                case "saving":
                    self.saving.append(int(told))
                case "safe":
                    self.safe.append(int(told))
                case "loss":
                    step, loss = told.split()
                    self.losses[int(step)] = loss
                case "end":
                    self.end = told
                case "modules":
                    self.modules = told.split()
                case _:
                    self.wrong.append(line)

    def saves(self) -> list[float]:
        """Seconds of each save that was done."""
        begun, safe = ([at for kind, at in self.times if kind == which] for which in ("saving", "safe"))
        return [end - begin for begin, end in zip(begun, safe, strict=False)]


class Process:
    """One start of a run.

    Attributes:
        heard: what it told. born: when it was started.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        sys.stdout.flush()
        self._pipe, writing = os.pipe()
        self.born = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            _child(job, folder, writing)
        os.close(writing)
        os.set_blocking(self._pipe, False)
        self.heard = Heard()

    def listen(self, until: float, enough: Callable[[], bool] = lambda: False) -> bool:
        """Hear what is told until a moment, until `enough`, or until the process ends; whether it ended."""
        while not enough():
            if not select.select([self._pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                return False
            with suppress(BlockingIOError):
                text = os.read(self._pipe, 1 << 16)
                if not text:
                    return True
                self.heard.take(text)
        return False

    def kill(self) -> None:
        """End it now, as nothing else would."""
        os.kill(self.pid, signal.SIGKILL)

    def buried(self) -> int:
        """Wait for its end, and hear the last it told; its exit code."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        # Its own children may hold the other end of the pipe open.
        with suppress(BlockingIOError):
            while text := os.read(self._pipe, 1 << 16):
                self.heard.take(text)
        os.close(self._pipe)
        return code


def _child(job: Job, folder: Path, pipe: int) -> None:
    """The process of a run, in a session of its own, so that all it starts can be found again."""
    os.setsid()
    # Python puts sockets of workers there, which nobody removes after a kill.
    tempfile.tempdir = str(folder.parent)
    before = set(sys.modules)
    code = 1
    # Workers whose run was killed have much to say about it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def tell(line: str) -> None:
        os.write(pipe, (line + "\n").encode())

    try:
        job(folder, tell)
        tell("modules " + " ".join(sorted(set(sys.modules) - before)))
        code = 0
    except BaseException as error:
        tell(f"wrong {type(error).__name__}: {str(error)[:300]!r}")
    finally:
        os._exit(code)


class Left:
    """Looks, some seconds after a kill, for processes of the run and for names in shared memory.

    Attributes:
        sessions: how many were killed, one for each kill.
    """

    def __init__(self) -> None:
        self.sessions = 0
        self._before = set(_named())
        self._waiting: list[tuple[int, float]] = []
        self._pids: set[int] = set()
        self._wrong: list[str] = []

    def add(self, sessions: list[tuple[int, float]]) -> None:
        """Sessions that were killed, and when."""
        self.sessions += len(sessions)
        self._waiting += sessions
        self._pids |= {pid for pid, session in _processes() if any(session == own for own, _ in sessions)}
        self._pids |= {pid for pid, _ in sessions}

    def seen(self, wait: bool = False) -> list[str]:
        """What was left, so far, of sessions whose time is over; with `wait` of all of them."""
        if wait and self._waiting:
            time.sleep(max(0.0, self._waiting[-1][1] + ORPHANS_AFTER - time.monotonic()))
        over = {session for session, at in self._waiting if time.monotonic() >= at + ORPHANS_AFTER}
        if over:
            self._waiting = [each for each in self._waiting if each[0] not in over]
            alive = [pid for pid, session in _processes() if session in over]
            self._wrong += [f"process {pid} of a killed run is still there" for pid in alive]
            self._wrong += [f"/dev/shm/{name} is still there" for name in self._shared()]
        return self._wrong

    def semaphores(self) -> int:
        """Semaphores in shared memory that were not there before, of whatever program: their names do not say whose.

        Python makes one under a name and takes the name away at once; a kill between the two leaves it there. The next
        start takes another name.
        """
        return len([name for name in set(_named()) - self._before if name.startswith("sem.")])

    def _shared(self) -> Iterator[str]:
        """Names in shared memory that bear the number of a process of ours."""
        for name in _named():
            if any(part.isdigit() and int(part) in self._pids for part in name.split("_")):
                yield name


def _named() -> list[str]:
    """What is in shared memory, where the system has such a place."""
    try:
        return os.listdir("/dev/shm")
    except OSError:
        return []


def _processes() -> Iterator[tuple[int, int]]:
    """Number and session of every process that is alive, where the system tells."""
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            with suppress(OSError):
                told = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                if told[0] != "Z":
                    yield int(name), int(told[3])
