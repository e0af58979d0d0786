"""Runs that are asked to leave by a signal at any instant, and started again until they end.

The fork server and the runs are those of `kill.py`. A run tells besides when the signal was noted, when an evaluation
and when the workers start, and with which step it left. Signals come at an instant drawn from the whole run, or a drawn
part of a save, an evaluation or a start of workers after that began; to the process alone, or to its whole group.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from types import FrameType
from typing import Any

from findings import Finding
from kill import Heard, Process, Whole, _amiss, _Left, _undisturbed
from seams import instead, nothing
from subjects import scratch
from trainings import JOBS, STEPS, Job, Tell

ASKED = (
    "After SIGTERM, SIGINT or SIGUSR1, to the process alone or to its whole group, a run makes at most the step it is "
    "in, is saved, and has ended in 5 s with exit code 75; the next start goes on from that very step, and the last "
    "state is that of the undisturbed run, bit for bit. A second signal ends it at once, without damage. No process, "
    "no shared memory and no temporary file is left."
)
SHORT, FULL = 24, 200

NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")
MOST = 3
"""Signals to one run, one for each start; then it is let alone."""

SECONDS = 5.0
"""Between a signal and the end of the process."""

AT_ONCE = 2.0
"""Between a second signal and the end, where the save that it interrupts would take longer."""

SLOW = 4.0
"""Seconds that this save takes."""

MOMENTS = {"anywhere": 0.3, "saving": 0.3, "looking": 0.2, "starting": 0.2}
"""What a signal falls into, and how often that is aimed at: an instant of the run; after a save, an evaluation or
workers began."""

_WITHIN = {"looking": 0.02, "starting": 0.05}
"""Seconds after the beginning of an evaluation, or of workers, in which a signal comes."""

_OURS = ("asked", "left", "looking", "starting")
"""What a run tells besides what `kill.Heard` understands."""


def look(count: int, seed: int) -> Iterator[Finding]:
    """Send `count` signals to runs in one process, as many to runs with workers, and a quarter as many twice."""
    yield _asked("plain", "plain", count, seed)
    yield _asked("two workers, bf16, listeners", "rich", count, seed)
    yield _asked("a second signal while it is saved", "plain", max(4, count // 4), seed, twice=True)


def planted(seed: int) -> Iterator[Finding]:
    """Handlers and workers that do what others do; each fault has so many signals in which to show."""
    whole = {name: _undisturbed(JOBS[name]) for name in ("plain", "rich")}
    for fault, (job, plant, twice) in _FAULTS.items():
        with plant():
            found = next(_trials(job, whole[job], f"{seed} {fault}", 60, twice, until_wrong=True))
        if found.wrong:
            yield Finding(fault, found.signals, (), {"noticed as": found.wrong[0][:80]})
        else:
            yield Finding(fault, found.signals, (f"{fault}: not noticed in {found.signals} signals",))


# ------------------------------------------------------------------------------------------------------------ trials


@dataclass(slots=True)
class Trials:
    """What came of runs that were sent signals.

    Attributes:
        signals: how many were sent. ends: how processes ended after them. seconds: the longest that one took to. wrong:
            what was.
    """

    signals: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def _asked(what: str, name: str, count: int, seed: int, twice: bool = False) -> Finding:
    whole = _undisturbed(JOBS[name])
    *_, found = _trials(name, whole, f"{seed} {what}", count, twice)
    figures = {**found.ends, "longest, s": round(found.seconds, 2)}
    return Finding(f"asked to leave: {what}", found.signals, tuple(found.wrong), figures)


def _trials(
    name: str, whole: Whole, seed: str, count: int, twice: bool, until_wrong: bool = False
) -> Iterator[Trials]:
    """Runs until so many signals were sent, or until something is wrong."""
    found, left, number = Trials(), _Left(), 0
    while found.signals < count and not (until_wrong and found.wrong):
        _run(_leaves(JOBS[name], slow=twice), whole, Random(f"{seed} {number}"), twice, found, left)
        found.wrong += left.seen()
        number += 1
    found.wrong += left.seen(wait=not until_wrong)
    yield found


def _run(job: Job, whole: Whole, chance: Random, twice: bool, found: Trials, left: _Left) -> None:
    """One run, started again until it ends, the first times with a signal."""
    safe, begun, at = 0, [0], -1
    with scratch() as folder:
        for rest in range(chance.randint(1, MOST), -1, -1):
            process = Process(job, folder / "run")
            sent = _send(process, whole, chance, begun[-1], twice, found) if rest else ()
            process.listen(time.monotonic() + 60)
            if not (told := _end(process, sent, found)):
                return
            code, heard = told
            whole.saves.extend(heard.saves())
            if sent:
                left.add([(process.pid, time.monotonic())])
                found.wrong += _badly_left(code, heard, sent)
            found.wrong += _amiss(_theirs(heard), whole, safe, begun, 0 if sent else code)
            if at >= 0 and heard.began not in (-1, at):
                found.wrong.append(f"it began at step {heard.began}, and had left at {at}")
            at = _left_at(heard) if code == 75 else at if heard.began < 0 else -1
            safe = max([safe, *heard.safe])
            begun += heard.saving
            if code == 0:
                break
        found.wrong += [f"left behind: {path.name}" for path in (folder / "run").glob(".etude-*")]


def _send(process: Process, whole: Whole, chance: Random, from_: int, twice: bool, found: Trials) -> tuple[str, ...]:
    """Wait for a moment that is drawn, and send a signal; which ones were sent, with the time of the last."""
    moment = chance.choices(list(MOMENTS), list(MOMENTS.values()))[0]
    if twice:
        moment = "anywhere"
    if moment == "anywhere":
        rest = 1 - from_ / STEPS
        ended = process.listen(process.born + chance.uniform(0.0, whole.start + rest * (whole.seconds - whole.start)))
    else:
        number, kinds = chance.randint(1, 3), process.heard.times
        ended = process.listen(process.born + 5, lambda: [kind for kind, _ in kinds].count(moment) >= number)
        within = _WITHIN.get(moment, 1.3 * median(whole.saves))
        ended = ended or process.listen(time.monotonic() + chance.uniform(0, within))
    names = tuple(chance.choice(NAMES) for _ in range(1 + twice))
    if ended or not _signal(process, names[0], chance.random() < 0.5):
        return ()
    found.signals += 1
    process.sent = time.monotonic()
    if twice:
        kinds = process.heard.times
        ended = process.listen(time.monotonic() + 5, lambda: any(kind == "asked" for kind, _ in kinds))
        ended = ended or process.listen(time.monotonic() + chance.uniform(0, 0.3))
        if ended or not _signal(process, names[1], chance.random() < 0.5):
            return names[:1]
        process.sent = time.monotonic()
    return names
