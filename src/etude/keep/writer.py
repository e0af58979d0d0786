"""One thread beside the run that does one job at a time, and never loses what became of it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from etude.errors import StateError, warn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """What became of a job.

    Attributes:
        result: what it returned; None where it failed. error: what it raised, of any class; None where it did not.
        seconds: how long it took.
    """

    result: T | None
    error: BaseException | None
    seconds: float


def _none(result: object) -> tuple[BaseException, ...]:
    return ()


class Writer(Generic[T]):
    """Does jobs in a thread of its own, one at a time and in the order given.

    The thread is there only while there is a job. It is a daemon: a process that is told to leave at once does so. A
    program that ends in the ordinary way first lets the job at work end, and warns of an error nobody has asked for.

    What became of a job is kept until `poll` or `wait` hands it out. A child made by `fork` starts empty: the jobs of
    its parent are done by its parent.
    """

    def __init__(self, faults: Callable[[T], Iterable[BaseException]] = _none) -> None:
        self._desk: _Desk[T] = _Desk(os.getpid())
        self._closed = False
        weakref.finalize(self, _left, self._desk, faults)

    def submit(self, job: Callable[[], T]) -> float:
        """Start a job, once the one before has ended.

        Args:
            job: called once, in the thread. Where the system has no thread left it is called here and now.

        Returns:
            Seconds that were spent on waiting for the job before.

        Raises:
            StateError: after `close`.
        """
        waited = self._settle()
        if self._closed:
            raise StateError("This writer is closed, and takes no more jobs. Make a new one.")
        desk = self._desk
        over = threading.Event()
        thread = threading.Thread(target=_do, args=(job, desk.done, over), name="etude-writer", daemon=True)
        desk.over = over
        try:
            thread.start()
        except RuntimeError:
            _do(job, desk.done, over)
        return waited

    def poll(self) -> list[Done[T]]:
        """What became of the jobs that have ended since the last call, oldest first, without waiting."""
        self._desk.come()
        found: list[Done[T]] = []
        while self._desk.done:
            found.append(self._desk.done.popleft())
        return found

    def wait(self) -> list[Done[T]]:
        """The same, once the job at work has ended."""
        self._settle()
        return self.poll()

    def close(self) -> None:
        """Let the job at work end, and take no more; `poll` still hands out what became of it."""
        self._settle()
        self._closed = True

    def _settle(self) -> float:
        self._desk.come()
        began = time.perf_counter()
        return time.perf_counter() - began if self._desk.settle() else 0.0


@dataclass(slots=True)
class _Desk(Generic[T]):
    """What a writer has at hand: its process, the job at work, and what became of those before."""

    pid: int
    over: threading.Event | None = None
    done: deque[Done[T]] = field(default_factory=deque)

    def come(self) -> None:
        """In a child, leave what belongs to the parent."""
        if self.pid != os.getpid():
            self.pid, self.over, self.done = os.getpid(), None, deque()

    def settle(self) -> bool:
        """Wait for the job at work; whether there was one."""
        if self.over is None:
            return False
        # Not `Thread.join`: one that Ctrl-C interrupts takes the thread for ended from then on.
        self.over.wait()
        self.over = None
        return True


def _do(job: Callable[[], T], done: deque[Done[T]], over: threading.Event) -> None:
    began = time.perf_counter()
    try:
        result = job()
    except BaseException as error:
        # Whatever it is, it must reach the run: an error that ends this thread would be lost.
        done.append(Done(None, error, time.perf_counter() - began))
    else:
        done.append(Done(result, None, time.perf_counter() - began))
    finally:
        over.set()


def _left(desk: _Desk[T], faults: Callable[[T], Iterable[BaseException]]) -> None:
    """The writer is gone, or the program ends: let the job at work end, and tell what nobody has asked for."""
    desk.come()
    desk.settle()
    for done in desk.done:
        failed = [done.error] if done.error is not None else [] if done.result is None else faults(done.result)
        for error in failed:
            warn(f"A job in the background failed, and nobody asked what became of it: {error!r}")
