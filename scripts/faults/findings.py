"""What a harness found: one record for each thing that was tried many times."""

from __future__ import annotations

import json
import os
import platform
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

SOURCE = Path(__file__).parents[2] / "src"
"""The library that is put to the test: the one beside this folder."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes:
        what: what was done, in a few words.
        tried: how often.
        wrong: one line for each time the library (or, with a planted fault, the harness) failed.
        figures: whatever else was counted or measured.
        skipped: why it could not be done here; nothing was tried then.
    """

    what: str
    tried: int
    wrong: tuple[str, ...] = ()
    figures: Mapping[str, int | float | str] = field(default_factory=dict)
    skipped: str = ""

    def line(self) -> str:
        """The finding as one line of a table."""
        if self.skipped:
            return f"{self.what:<64} skipped: {self.skipped}"
        figures = ", ".join(f"{name} {shown(value)}" for name, value in self.figures.items())
        return f"{self.what:<64} {self.tried:>7,} tried {len(self.wrong):>4} wrong  {figures}"


class Harness(Protocol):
    """What a module of this folder offers.

    Attributes:
        ASKED: what the library has to keep to, in a sentence or two.
        SHORT, FULL: how much is tried for every change, and before a release.
    """

    ASKED: str
    SHORT: int
    FULL: int

    def look(self, count: int, seed: int) -> Iterator[Finding]:
        """Put the library to the test `count` times."""

    def planted(self, seed: int) -> Iterator[Finding]:
        """Put the harness to the test: a part of the library is replaced by a faulty one, which must be noticed.

        A fault that is not noticed is a line in `wrong`; `tried` says how much was tried until it was.
        """


def shown(value: float | int | str) -> str:
    """A figure as text."""
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def read(path: Path) -> dict[str, Any]:
    """The record of earlier runs of the harnesses, empty if there is none."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Keep the record for a later run with `--page`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def entry(findings: list[Finding], command: str, seconds: float) -> dict[str, Any]:
    """Findings with how they were made, as plain values."""
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    made = [asdict(finding) for finding in findings]
    return {"command": command, "seconds": round(seconds, 1), "machine": machine, "findings": made}


def apart(work: Callable[[], Any], seconds: float = 900.0) -> Any:
    """What `work` returns, as plain values, from a process of its own that is forked from this one.

    An audit hook cannot be taken away again, and memory once used stays: what needs either is done apart.

    Raises:
        RuntimeError: it raised, was killed, or took longer than `seconds`.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _told(work, writing)
    os.close(writing)
    told, late = _heard(reading, time.monotonic() + seconds)
    if late:
        os.kill(child, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended:
        raise RuntimeError(f"the process apart {'took too long' if late else f'ended with {ended}'}")
    return json.loads(told)


def _told(work: Callable[[], Any], pipe: int) -> NoReturn:
    status = 1
    try:
        told = json.dumps(work()).encode()
        while told:
            told = told[os.write(pipe, told) :]
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _heard(pipe: int, until: float) -> tuple[bytes, bool]:
    """All that comes through a pipe, and whether it had not ended in time."""
    heard = []
    with os.fdopen(pipe, "rb", buffering=0) as reading:
        while select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
            heard.append(reading.read(1 << 16))
            if not heard[-1]:
                return b"".join(heard), False
    return b"".join(heard), True
