"""Being asked to leave: a signal is noted, the step is finished, the state is saved, the process ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Final, final

SIGNALS: Final = tuple(name for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""Signals that ask a run to leave: of schedulers and service managers, of Ctrl-C, and "time is nearly up"."""


@final
class Leaving:
    """While this context lasts, the first SIGTERM, SIGINT or SIGUSR1 is noted, and a second one ends the process.

        with Leaving(active=True) as leaving:
            while not leaving.requested: ...

    The handler notes the signal and does nothing else: whoever makes steps looks at `requested` between two of them.
    With the first signal all three get their default action back, so that a second one of any kind ends the process
    at once. In a notebook, and at a Python prompt, a second SIGINT is a KeyboardInterrupt instead, which keeps the
    session. A SIGINT that the process ignores (a background job of a shell script does) stays ignored.

    What handled the signals before handles them again afterwards, also where that was set by C and not by Python. A
    signal that came after the last look at `requested` is then raised anew, so that none is lost.

    Args:
        active: whether signals are to be noted at all. Outside the main thread, where Python allows no handlers, and
            where this is False, nothing is installed and `requested` stays "".

    Attributes:
        requested: the name of the first signal that came, as "SIGTERM"; "" before. Whoever reads a name leaves.
    """

    __slots__ = ("_before", "_came", "_heard", "_over", "active")

    def __init__(self, active: bool) -> None:
        self.active = active
        self._came = ""
        self._heard = False
        self._before: dict[int, tuple[Any, Any]] = {}
        self._over = False

    def __enter__(self) -> Leaving:
        if self.active and threading.current_thread() is threading.main_thread():
            for number in map(_number, SIGNALS):
                if number != signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = (signal.getsignal(number), _action(number))
                    signal.signal(number, self._asked)
                    if not (number == signal.SIGINT and at_a_prompt()):
                        _forget_after_one(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        elif self._came:  # the second signal, after an inner context put this handler back
            self._give_way()
            signal.raise_signal(number)
        else:
            self._came = signal.Signals(number).name
            before = self._before[number][0]
            if isinstance(getattr(before, "__self__", None), Leaving):  # a run within a run: both leave
                self._heard = True
                before(number, frame)
            self._give_way()

    def _give_way(self) -> None:
        """The default actions, for the signal to come."""
        for number in self._before:
            prompt = number == signal.SIGINT and at_a_prompt()
            signal.signal(number, signal.default_int_handler if prompt else signal.SIG_DFL)

    def _restore(self) -> None:
        for number, (handler, action) in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            if action is not None:
                _LIBC.sigaction(number, action, None)


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


def _forget_after_one(number: int) -> None:
    """Have the operating system itself drop a handler with the first signal.

    Python's handlers run between two instructions of the main thread. Where that is held up in C, by a device that does
    not answer say, the first signal is not noted before the second comes; that one should end the process all the same.
    """
    action = _action(number)
    if action is not None and hasattr(_LIBC, "sysv_signal"):
        handler = ctypes.c_void_p.from_buffer(action)  # the first field of a struct sigaction
        _LIBC.sysv_signal(number, handler)
