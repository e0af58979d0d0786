"""Worker processes that read data: how they meet signals, and how they end."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_start_method, parent_process, util
from multiprocessing.connection import wait
from time import monotonic
from types import FrameType
from typing import Any, Final
from weakref import WeakSet

from torch.utils.data import DataLoader

GRACE: Final = 5.0
"""Seconds for which a worker goes on reading after a SIGTERM."""

TOGETHER: Final = 0.5
"""Seconds in which several signals are one: launchers pass on what a process has got itself already."""

_SOCKET_PATH: Final = 103
"""Bytes of the path of a socket on every system; Linux takes four more."""

_SIGNALS: Final = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
_OPEN: Final[WeakSet[Any]] = WeakSet()


def read(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader; its workers, if it has any, let the run finish the step it is in.

    Schedulers and terminals send their signals to every process of a job. A worker ignores SIGINT and SIGUSR1, and
    goes on for `GRACE` seconds after a SIGTERM, unless a second one comes later. It ends at once when the process that
    started it has ended, however that happened, and before the interpreter of that one exits. The `worker_init_fn` of
    the loader is called as ever; the loader itself is not changed. That a worker has died is an error of the next
    batch that is asked for, and of nothing that goes on meanwhile.
    """
    if not loader.num_workers or os.name != "posix":
        return iter(loader)
    reading = _read(loader)
    _OPEN.add(reading)
    return reading


def _read(loader: DataLoader[Any]) -> Iterator[Any]:
    given = loader.worker_init_fn
    # Until a worker has set its handlers, signals wait: the mask of this thread is what it starts with.
    with _held_back(loader):
        try:
            loader.worker_init_fn = Beginning(given)
            batches = iter(loader)
        finally:
            loader.worker_init_fn = given
    _DEATHS.stand_before()
    while (batch := _DEATHS.ask(batches)) is not _END:
        yield batch


class _Deaths:
    """Tells of workers that have died when something is asked of workers, and at no other moment.

    Torch's handler of SIGCHLD raises where the main thread happens to be: in the middle of a step, say, or of a save,
    after which nothing is whole. This one stands before it, for good, as a signal may come late. Who reads a loader
    without it is told by the loader itself, within seconds.
    """

    def __init__(self) -> None:
        self._asking = self._noted = False
        self._torch: Any = None

    def stand_before(self) -> None:
        """Take the place of torch's handler, which the first loader with workers has set."""
        found = signal.getsignal(signal.SIGCHLD)
        if getattr(found, "__module__", "").startswith("torch.utils.data"):
            with suppress(ValueError):  # outside the main thread
                signal.signal(signal.SIGCHLD, self._heard)
                self._torch = found

    def ask(self, batches: Iterator[Any]) -> Any:
        """The next batch; `_END` after the last.

        Raises:
            RuntimeError: a worker has died.
        """
        self._asking = threading.current_thread() is threading.main_thread()
        try:
            if self._noted:
                self._tell(None)
            return next(batches, _END)
        finally:
            self._asking = False

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        if self._asking:
            self._tell(frame)

    def _tell(self, frame: FrameType | None) -> None:
        self._noted = False
        if self._torch is not None:
            self._torch(signal.SIGCHLD, frame)


_DEATHS: Final = _Deaths()
_END: Final = object()


@contextmanager
def _held_back(loader: DataLoader[Any]) -> Iterator[None]:
    """Signals wait in this thread, and in processes that it starts; not in a server that starts them for others too."""
    context = loader.multiprocessing_context
    method = get_start_method() if context is None else context.get_start_method()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, () if method == "forkserver" else _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a worker does first: a `worker_init_fn` around that of the loader, if there is one."""

    then: Callable[[int], None] | None

    def __call__(self, number: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _nothing)
        parent = parent_process()
        if parent is not None:
            told = (parent.sentinel, _told_of_signals(), _folder_of_sockets())
            threading.Thread(target=_end_in_time, args=told, name="etude: end in time", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if self.then is not None:
            self.then(number)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler for what is dealt with elsewhere."""


def _told_of_signals() -> int:
    """A file from which the numbers of signals can be read that came, also while the main thread is held up in C."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _folder_of_sockets() -> str:
    """The folder of the sockets through which batches are sent, made where their paths are not too long.

    The loader would lose every batch, and wait for ever, where `TMPDIR` makes them longer than the system allows.
    """
    before = tempfile.gettempdir()
    longest = os.path.join(before, "pymp-12345678", "listener-12345678")
    try:
        tempfile.tempdir = before if len(os.fsencode(longest)) <= _SOCKET_PATH else "/tmp"
        return util.get_temp_dir()
    finally:
        tempfile.tempdir = before


def _end_in_time(parent: int, told: int, folder: str) -> None:
    """End this process `GRACE` seconds after the first SIGTERM, at the second, or when its parent has ended.

    `folder` is that of the sockets; it may have been the parent's before it was this process's.
    The loader's own way out would wait until somebody has read what this worker has sent, which nobody will.
    """
    last: float | None = None
    while True:
        ready = wait([parent, told], None if last is None else last - monotonic())
        if told not in ready or parent in ready:
            break
        came = signal.SIGTERM in os.read(told, 4096)
        if came and last is not None and monotonic() > last - GRACE + TOGETHER:
            break
        last = monotonic() + GRACE if came and last is None else last
    if parent in ready:
        _remove(folder)
    os._exit(1)


def _remove(folder: str) -> None:
    """Remove a folder in which another thread or process may be making a socket just now."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return


def _end_readers(process: int) -> None:
    """Workers of readers that are still held by something, a traceback say, end before the interpreter does."""
    for reading in list(_OPEN) if os.getpid() == process else ():
        with suppress(ValueError):  # another thread reads from it now
            reading.close()


atexit.register(_end_readers, os.getpid())
