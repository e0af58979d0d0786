"""What a process does while it looks at one file: whether it runs code, opens files elsewhere, hangs or swells."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostile import MARK

SECONDS = 2.0
"""Of the processor, in which a file has to be read or refused; a busy machine may take longer on the clock."""

HANG = 30.0
"""Seconds on the clock after which whoever reads is interrupted."""

BYTES = 64 << 20
"""Memory that may be used beyond the size of the file."""

_ROOM = 2 << 30

_FORBIDDEN = (
    "exec",
    "compile",
    "import",
    "marshal.",
    "pickle.",
    "subprocess.",
    "socket.",
    "ctypes.",
    "code.",
    "urllib.",
)
_OF_OS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.spawn",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.putenv",
)


class Hang(BaseException):
    """The time is over."""


class Watch:
    """Sees what this process does, from its making to its end: an audit hook stays.

    Attributes:
        wrong: what was seen since `looking` began, one line each.
        longest: seconds of the processor. most: bytes beyond the size of the file, where the system tells.
    """

    def __init__(self, folder: Path) -> None:
        self.wrong: list[str] = []
        self.longest, self.most = 0.0, 0
        self._folder = str(folder.resolve()) + os.sep
        self._on = False
        signal.signal(signal.SIGALRM, _over)
        _limit_memory()
        sys.addaudithook(self._heard)

    @contextmanager
    def looking(self, size: int) -> Iterator[list[str]]:
        """Within it everything is seen; `size` is that of the file. Yields the list that what is wrong is added to."""
        self.wrong = []
        _forget_most()
        before, began = _memory("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_REAL, HANG)
        self._on = True
        try:
            yield self.wrong
        except Hang:
            self.wrong.append(f"it took longer than {HANG} s")
        finally:
            self._on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._measure(time.process_time() - began, _memory("VmHWM") - before - size)

    def _measure(self, seconds: float, swollen: int) -> None:
        self.longest, self.most = max(self.longest, seconds), max(self.most, swollen)
        if seconds > SECONDS:
            self.wrong.append(f"it took {seconds:.1f} s")
        if swollen > BYTES:
            self.wrong.append(f"it took {swollen:,} bytes of memory beyond the size of the file")
        if os.environ.pop(MARK, None):
            self.wrong.append("code of the file was run")

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            self._opened(*arguments)
        elif event == "socket.gethostname":
            # Who holds a lock; nothing goes out.
            return
        elif event.startswith(_FORBIDDEN):
            self.wrong.append(f"{event} {str(arguments)[:200]}")

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.abspath(os.fsdecode(path))
        if not (place + os.sep).startswith(self._folder):
            self.wrong.append(f"{place} was opened")
        elif os.path.islink(place) and not (flags or 0) & os.O_NOFOLLOW:
            self.wrong.append(f"the link {os.path.basename(place)} was followed")


def _limit_memory() -> None:
    """Some gigabytes more than now at most, so that a file that swells takes no other process with it."""
    used = _memory("VmSize")
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, used + _ROOM))


def _over(*_: Any) -> None:
    raise Hang


def _memory(field: str) -> int:
    """Bytes, from what Linux tells of this process; 0 elsewhere."""
    try:
        told = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"{field}:\s+(\d+) kB", told)
    return int(found[1]) * 1024 if found else 0


def _forget_most() -> None:
    """Let the most memory ever used be what is used now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
