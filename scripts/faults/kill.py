"""Runs that are killed with `kill -9` at any instant, and started again until they end.

A fork server: this process imports torch once and never runs an operation; each start of a run is a fork of it. The
run tells through a pipe where it is: that a save begins, that it is safe, what the loss of a step was. Some kills
come at an instant drawn from the whole run, most a drawn part of a save after one has begun: too few would fall into
saves otherwise. At the end the state is compared, bit by bit, with that of a run nobody disturbed.
"""

from __future__ import annotations

import importlib
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from statistics import median

from findings import Finding
from planted import STATE_FAULTS, WRITE_FAULTS
from processes import ORPHANS_AFTER, Heard, Left, Process
from subjects import scratch
from trainings import EVERY, JOBS, STEPS, Job

ASKED = (
    "Whatever the instants, the last state is that of the undisturbed run, bit for bit: weights, averages, optimizer, "
    "statistics, schedules, history. No save that was reported is lost, no damaged file is met, no more than one save "
    "is repeated; no process, no shared memory and no temporary file is left."
)
SHORT, FULL = 24, 1000

KILLS = (2, 2, 3)
"""How often a run is killed: one of these, where it does not end before."""

ANYWHERE = 0.25
"""The share of kills at an instant drawn from the whole run; the others come a drawn part of a save after one began."""


def look(count: int, seed: int) -> Iterator[Finding]:
    """Kill `count` runs in one process, three tenths as many with workers, and a tenth as many hand-written loops."""
    left = Left()
    yield _killed("plain", JOBS["plain"], count, seed, left)
    yield _killed("workers, bf16, plateau, listeners", JOBS["rich"], max(2, 3 * count // 10), seed, left)
    yield _killed("a hand-written loop, accumulating", JOBS["loop"], max(2, count // 10), seed, left)
    wrong = left.seen(wait=True)
    figures = {"new semaphores of any program": left.semaphores()}
    yield Finding(
        f"looked {ORPHANS_AFTER:g} s later for processes, shared memory", left.sessions, tuple(wrong), figures
    )


def planted(seed: int) -> Iterator[Finding]:
    """A library that writes carelessly, or forgets something; each fault has twenty runs in which to show."""
    for fault, plant in (WRITE_FAULTS | STATE_FAULTS).items():
        job = JOBS["large" if fault in WRITE_FAULTS else "half"]
        whole = _undisturbed(job) if fault in WRITE_FAULTS else None
        with plant():
            # Whoever lacks something lacks it in undisturbed runs too.
            yield _caught(fault, job, whole or _undisturbed(job), seed)


def _caught(fault: str, job: Job, whole: Whole, seed: int) -> Finding:
    for number in range(20):
        trial = _trial(job, whole, Random(f"{seed} {fault} {number}"))
        if trial.wrong:
            return Finding(fault, number + 1, (), {"kills": trial.kills, "noticed as": trial.wrong[0][:80]})
    return Finding(fault, 20, (f"{fault}: not noticed in 20 runs",))


# -------------------------------------------------------------------------------------------------------- a trial


@dataclass(frozen=True, slots=True)
class Whole:
    """A run that nobody disturbed.

    Attributes:
        heard: what it told. start: seconds until it began. seconds: until it ended. saves: seconds of the last saves of
            all runs; how long they take depends on what else the machine does.
    """

    heard: Heard
    start: float
    seconds: float
    saves: deque[float]


@dataclass(slots=True)
class Trial:
    """One run that was killed and started again.

    Attributes:
        kills: how often. inside: how many of them fell into a save. repeated: the most steps that were made again.
        wrong: what was. sessions: of the processes that were killed, with the time.
    """

    kills: int = 0
    inside: int = 0
    repeated: int = 0
    wrong: list[str] = field(default_factory=list)
    sessions: list[tuple[int, float]] = field(default_factory=list)


def _undisturbed(job: Job) -> Whole:
    """How the run ends when it is let alone. It is run twice: first to find what it imports, which is imported here."""
    for _ in range(2):
        with scratch() as folder:
            process = Process(job, folder / "run")
            process.listen(process.born + 600)
            code = process.buried()
        heard = process.heard
        if code or not heard.end:
            raise RuntimeError(f"the undisturbed run failed: {heard.wrong}")
        for name in heard.modules:
            with suppress(Exception):
                importlib.import_module(name)
    times = heard.times
    start = next(at for kind, at in times if kind == "began") - process.born
    return Whole(heard, start, times[-1][1] - process.born, deque(heard.saves(), maxlen=60))


def _trial(job: Job, whole: Whole, chance: Random) -> Trial:
    trial, safe, begun, reached = Trial(), 0, [0], 0
    with scratch() as folder:
        for left in range(chance.choice(KILLS), -1, -1):
            process = Process(job, folder / "run")
            ended = _disturb(process, whole, chance, begun[-1]) if left else process.listen(process.born + 120)
            if not ended:
                process.kill()
            code, heard = process.buried(), process.heard
            whole.saves.extend(heard.saves())
            if not ended and not left:
                trial.wrong.append("the last start did not end within two minutes")
            if code == -signal.SIGKILL:
                trial.kills += 1
                trial.inside += len(heard.saving) > len(heard.safe)
                trial.sessions.append((process.pid, time.monotonic()))
            trial.wrong += _amiss(heard, whole, safe, begun, code)
            if heard.began >= 0:
                trial.repeated = max(trial.repeated, reached - heard.began)
            safe = max([safe, *heard.safe])
            begun += heard.saving
            reached = max([reached, *heard.losses])
            if code != -signal.SIGKILL:
                break
        trial.wrong += [f"left behind: {path.name}" for path in (folder / "run").glob(".etude-*")]
    return trial


def _disturb(process: Process, whole: Whole, chance: Random, from_: int) -> bool:
    """Let a run go on for a while; whether it ended by itself."""
    rest = 1 - from_ / STEPS
    if chance.random() < ANYWHERE:
        until = process.born + chance.uniform(0, whole.start + rest * (whole.seconds - whole.start))
        return process.listen(until)
    number = chance.randint(1, max(1, int(rest * STEPS / EVERY)))
    late = process.born + 60
    if process.listen(late, lambda: len(process.heard.saving) >= number):
        return True
    return process.listen(time.monotonic() + chance.uniform(0, 1.3) * median(whole.saves))


def _amiss(heard: Heard, whole: Whole, safe: int, begun: list[int], code: int) -> list[str]:
    """What is wrong with what one process told."""
    wrong = list(heard.wrong)
    if code not in (0, -signal.SIGKILL):
        wrong.append(f"it ended with {code}")
    if 0 <= heard.began < safe:
        wrong.append(f"it began at step {heard.began}, and step {safe} was safe")
    if heard.began >= 0 and heard.began not in begun:
        wrong.append(f"it began at step {heard.began}, which was never saved")
    older = sorted({step for step in begun if step > heard.began})
    if heard.began >= 0 and len(older) > 1:
        wrong.append(f"it began at step {heard.began}, more than one save before {older[-1]}")
    differ = [step for step, loss in heard.losses.items() if whole.heard.losses.get(step) != loss]
    if differ:
        wrong.append(f"the loss of step {differ[0]} differs")
    if heard.end and heard.end != whole.heard.end:
        wrong.append(f"the last state differs: {_apart(heard.end, whole.heard.end)}")
    return wrong


def _apart(some: str, others: str) -> str:
    """The parts of a state whose digests differ."""
    ours, theirs = (dict(each.split("=") for each in told.split()) for told in (some, others))
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return ", ".join(names[:6])


# --------------------------------------------------------------------------------------------------------- counting


def _killed(what: str, job: Job, count: int, seed: int, left: Left) -> Finding:
    whole = _undisturbed(job)
    found, wrong, most = Counter[str](), list[str](), 0
    for number in range(count):
        trial = _trial(job, whole, Random(f"{seed} {what} {number}"))
        found.update({"kills": trial.kills, "inside a save": trial.inside})
        most = max(most, trial.repeated)
        wrong += [f"run {number}: {line}" for line in trial.wrong]
        left.add(trial.sessions)
        left.seen()
    figures = {**found, "most steps repeated": most, "ms of a save": round(1e3 * median(whole.saves), 1)}
    return Finding(f"killed: {what}", count, tuple(wrong), figures)
