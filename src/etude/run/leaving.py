"""Being asked to leave: a signal is noted, the step is finished, the state is saved, the process ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from time import monotonic, sleep
from types import FrameType, TracebackType
from typing import Any, Final, final

from etude.data.workers import TOGETHER

SIGNALS: Final = tuple(name for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""Signals that ask a run to leave: of schedulers and service managers, of Ctrl-C, and "time is nearly up"."""


@final
class Leaving:
    """While this context lasts, the first SIGTERM, SIGINT or SIGUSR1 is noted, and a second one ends the process.

        with Leaving(active=True) as leaving:
            while not leaving.requested: ...

    The handler notes the signal and does nothing else: whoever makes steps looks at `requested` between two of them.
    A signal that comes more than half a second after the first does what it does by default: it ends the process at
    once, also while the main thread waits for a device that does not answer. In a notebook, and at a Python prompt, a
    second SIGINT is a KeyboardInterrupt instead, which keeps the session. A SIGINT that the process ignores (a
    background job of a shell script does) stays ignored.

    What handled the signals before handles them again afterwards, also where that was set by C and not by Python. A
    signal that came after the last look at `requested` is then raised anew, so that none is lost. Processes that are
    forked within the context have the handlers of before.

    Args:
        active: whether signals are to be noted at all. Outside the main thread, where Python allows no handlers, and
            where this is False, nothing is installed and `requested` stays "".

    Attributes:
        requested: the name of the first signal that came, as "SIGTERM"; "" before. Whoever reads a name leaves.
    """

    __slots__ = ("_at", "_before", "_came", "_heard", "_over", "_watch", "active")

    def __init__(self, active: bool) -> None:
        self.active = active
        self._came = ""
        self._at = 0.0
        self._heard = self._over = False
        self._before: dict[int, tuple[Any, Any]] = {}
        self._watch: _Watch | None = None

    def __enter__(self) -> Leaving:
        if self.active and threading.current_thread() is threading.main_thread():
            _WITHIN.append(self)
            for number in map(_number, SIGNALS):
                if number != signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = (signal.getsignal(number), _action(number))
                    signal.signal(number, self._asked)
            self._watch = _Watch(set(self._before)) if _LIBC is not None else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._heard and kind is None:
            # What is passed on late would find the handlers of before, and end the process before it says how it left.
            sleep(max(0.0, self._at + TOGETHER - monotonic()))
        self._over = True
        if threading.current_thread() is threading.main_thread():
            self._restore()
            if self._came and not self._heard and kind in (None, GeneratorExit):
                signal.raise_signal(_number(self._came))

    @property
    def requested(self) -> str:
        came = self._came
        self._heard = self._heard or bool(came)
        return came

    @property
    def note(self) -> str:
        """What happens now, for people: one line after the first signal; "" before."""
        if not self._came:
            return ""
        again = "a second Ctrl-C stops at once, without saving" if at_a_prompt() else "a second signal ends at once"
        return f"{self._came}: leaving after this step, once the state is saved; {again}"

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._over:  # left outside the main thread, which may not restore handlers: done now
            self._restore()
            signal.raise_signal(number)
        elif not self._came:
            self._came, self._at = signal.Signals(number).name, monotonic()
            before = self._before[number][0]
            if isinstance(getattr(before, "__self__", None), Leaving):  # a run within a run: both leave
                self._heard = True
                before(number, frame)
        elif monotonic() - self._at > TOGETHER:
            prompt = number == signal.SIGINT and at_a_prompt()
            signal.signal(number, signal.default_int_handler if prompt else signal.SIG_DFL)
            signal.raise_signal(number)

    def _restore(self) -> None:
        if self._watch is not None:
            self._watch.close()
        for number, (handler, action) in list(self._before.items()):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            if action is not None:
                _LIBC.sigaction(number, action, None)
        self._before.clear()
        if self in _WITHIN:
            _WITHIN.remove(self)


class _Watch:
    """A thread that ends the process at a second signal where the main thread, held up in C, cannot.

    Python's handlers run between two instructions of the main thread; what is written to the wake-up file descriptor
    is there at once.
    """

    def __init__(self, numbers: set[int]) -> None:
        self._told, self._telling = os.pipe()
        os.set_blocking(self._telling, False)
        self._before = signal.set_wakeup_fd(self._telling, warn_on_full_buffer=False)
        numbers = numbers - {signal.SIGINT} if at_a_prompt() else numbers
        # It must not take a signal itself, or the main thread would sleep on.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        told = (self._told, self._before, numbers)
        threading.Thread(target=_watch, args=told, name="etude: signals", daemon=True).start()
        self._open = True
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def close(self, forked: bool = False) -> None:
        """Let the thread end, and the wake-up file descriptor be what it was; `forked`: there is no thread here."""
        if self._open:
            self._open = False
            signal.set_wakeup_fd(self._before, warn_on_full_buffer=False)
            os.close(self._telling)
            if forked:
                os.close(self._told)


def _watch(told: int, before: int, numbers: set[int]) -> None:
    first: float | None = None
    while came := os.read(told, 64):
        if before >= 0:  # whoever was told of signals before still is
            with suppress(OSError):
                os.write(before, came)
        asked = [number for number in came if number in numbers]
        if asked and first is None:
            first = monotonic()
        elif asked and first is not None and monotonic() - first > TOGETHER:
            _LIBC.signal(asked[0], None)  # the default action
            os.kill(os.getpid(), asked[0])
    os.close(told)


_WITHIN: Final[list[Leaving]] = []
"""The contexts that this process is in, the outermost first."""


_FORKING: Final = threading.local()


def _before_fork() -> None:
    """Signals wait: one that a child gets before its handlers are those of before would be lost."""
    if _WITHIN and _LIBC is not None:
        _FORKING.mask = signal.pthread_sigmask(signal.SIG_BLOCK, map(_number, SIGNALS))


def _after_fork() -> None:
    mask = getattr(_FORKING, "mask", None)
    if mask is not None:
        _FORKING.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    """A process that was forked is not asked to leave: whoever ends it would wait in vain."""
    for leaving in reversed(_WITHIN.copy()):
        if leaving._watch is not None:
            leaving._watch.close(forked=True)
        leaving._restore()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def _number(name: str) -> int:
    return int(getattr(signal, name))


def at_a_prompt() -> bool:
    """Whether a person types into this Python: IPython and notebooks set `ps1` too."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


_LIBC: Final[Any] = ctypes.CDLL(None) if os.name == "posix" else None


def _action(number: int) -> Any:
    """What the operating system does on a signal, as it is kept there: Python does not know of handlers set by C."""
    if _LIBC is None:
        return None
    kept = ctypes.create_string_buffer(1024)  # struct sigaction is smaller on every system
    return kept if _LIBC.sigaction(number, None, kept) == 0 else None
