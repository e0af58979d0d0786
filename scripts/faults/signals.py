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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from types import FrameType
from typing import Any

from findings import Finding
from kill import Heard, Left, Process, Whole, _apart, _undisturbed
from seams import instead
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

APART = (0.6, 1.2)
"""Seconds between two signals: those that come together are one request."""

_WITHIN = {"looking": 0.02, "starting": 0.05}
"""Seconds after an evaluation, or workers, began, in which a signal comes; after a save it is as long as saves take."""

_OURS = ("asked", "left", "looking", "starting")
"""What a run tells besides what `kill.Heard` understands."""


def look(count: int, seed: int) -> Iterator[Finding]:
    """Send `count` signals to runs in one process, as many to runs with workers, and a quarter as many twice."""
    left = Left()
    yield _asked("megabytes of arrays", "large", count, seed, _IN_ONE, left)
    yield _asked("two workers, bf16, listeners", "rich", count, seed, Aim(), left)
    yield _asked("a second signal while it is saved", "plain", max(4, count // 4), seed, _TWICE, left)
    wrong = tuple(left.seen(wait=True))
    yield Finding("left behind by processes and workers, 5 s after each", left.sessions, wrong)


@dataclass(frozen=True, slots=True)
class Aim:
    """Where signals are sent: moments and names to draw from, the share that goes to the whole group.

    `twice`: a second one follows while the state is saved after the first. `passed_on`: the share that comes twice
    within a moment, as where launchers pass on what the process has got itself.
    """

    moments: tuple[str, ...] = ("anywhere", "anywhere", "saving", "saving", "looking", "starting")
    names: tuple[str, ...] = NAMES
    group: float = 0.5
    twice: bool = False
    passed_on: float = 0.3


_IN_ONE = Aim(("anywhere", "anywhere", "saving", "saving", "looking"))
_STARTING = Aim(("starting",), ("SIGTERM",), group=1.0)
_TWICE = Aim(("anywhere",), twice=True)


def planted(seed: int) -> Iterator[Finding]:
    """Handlers and workers that do what others do; each fault has so many signals in which to show."""
    whole = {name: _undisturbed(JOBS[name]) for name in ("plain", "rich")}
    for fault, (job, plant, aim) in _FAULTS.items():
        with plant():
            found = _trials(job, whole[job], f"{seed} {fault}", 60, aim)
        if found.wrong:
            yield Finding(fault, found.signals, (), {"noticed as": found.wrong[0][:80]})
        else:
            yield Finding(fault, found.signals, (f"{fault}: not noticed in {found.signals} signals",))


# ------------------------------------------------------------------------------------------------------------ trials


@dataclass(slots=True)
class Trials:
    """What came of runs that were sent signals.

    Attributes:
        signals: how many were sent. aims: what at. ends: how processes ended after them. seconds: the longest that one
            took to. wrong: what was.
    """

    signals: int = 0
    aims: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def _asked(what: str, name: str, count: int, seed: int, aim: Aim, left: Left) -> Finding:
    found = _trials(name, _undisturbed(JOBS[name]), f"{seed} {what}", count, aim, left)
    figures = {**found.aims, **found.ends, "longest, s": round(found.seconds, 2)}
    return Finding(f"asked to leave: {what}", found.signals, tuple(found.wrong), figures)


def _trials(name: str, whole: Whole, seed: str, count: int, aim: Aim, left: Left | None = None) -> Trials:
    """Runs until so many signals were sent; with nobody to look at what is left, until something is wrong."""
    found, number = Trials(), 0
    job = partial(_worked, JOBS[name], aim.twice)
    # Processes begin with the handlers of this one, and Python's own for Ctrl-C raises an exception.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        while found.signals < count and not (left is None and found.wrong):
            sessions = _run(job, whole, Random(f"{seed} {number}"), aim, found)
            if left is not None:
                left.add(sessions)
                left.seen()
            number += 1
    finally:
        signal.signal(signal.SIGINT, before)
    return found


def _run(job: Job, whole: Whole, chance: Random, aim: Aim, found: Trials) -> list[tuple[int, float]]:
    """One run, started again until it ends, the first times with a signal; its processes, and when they had ended."""
    safe, begun, at = 0, [0], -1
    sessions: list[tuple[int, float]] = []
    with scratch() as folder:
        for rest in range(chance.randint(1, MOST), -1, -1):
            process = Process(job, folder / "run")
            sent = _send(process, whole, chance, begun[-1], aim) if rest else Sent()
            code = _end(process, sent, found)
            heard = process.heard
            whole.saves.extend(heard.saves())
            wrong, leaves = _badly_left(code, heard, sent), _left_at(heard)
            if at >= 0 and heard.began not in (-1, at):
                wrong.append(f"it began at step {heard.began}, and had left at step {at}")
            wrong += _amiss(heard, whole, safe, begun)
            if not sent.names and code:
                wrong.append(f"it ended with {code}")
            found.wrong += [f"{line} ({' and '.join(sent.names) or 'no signal'})" for line in wrong]
            sessions.append((process.pid, time.monotonic()))
            at = leaves if code == AGAIN else at if heard.began < 0 else -1
            safe = max([safe, *heard.safe])
            begun += heard.saving
            if code == 0 or wrong:
                break
        found.wrong += [f"left behind: {path.name}" for path in (folder / "run").glob(".etude-*")]
    return sessions


@dataclass(frozen=True, slots=True)
class Sent:
    """The signals that a process got, when the last one was sent, and what the first one was aimed at."""

    names: tuple[str, ...] = ()
    at: float = 0.0
    moment: str = ""


def _send(process: Process, whole: Whole, chance: Random, from_: int, aim: Aim) -> Sent:
    """Wait for a moment that is drawn, and send a signal; a second one while the state is saved after the first."""
    moment, times = chance.choice(aim.moments), process.heard.times
    if moment == "anywhere":
        rest = 1 - from_ / STEPS
        ended = process.listen(process.born + chance.uniform(0, whole.start + rest * (whole.seconds - whole.start)))
    else:
        number = chance.randint(1, 3)
        late = process.born + whole.seconds
        ended = process.listen(late, lambda: _count(times, moment) >= number)
        within = _WITHIN.get(moment, 1.3 * median(whole.saves))
        ended = ended or process.listen(time.monotonic() + chance.uniform(0, within))
        moment = moment if _count(times, moment) >= number else "anywhere"
    first, second = (chance.choice(aim.names) for _ in range(2))
    group = chance.random() < aim.group
    if ended or not _signal(process, first, group):
        return Sent()
    if chance.random() < aim.passed_on and not process.listen(time.monotonic() + chance.uniform(0, 0.01)):
        _signal(process, first, group)
    sent = Sent((first,), time.monotonic(), moment)
    if aim.twice:
        ended = process.listen(time.monotonic() + SECONDS, lambda: _count(times, "asked") > 0)
        ended = ended or process.listen(time.monotonic() + chance.uniform(*APART))
        if not ended and _signal(process, second, group):
            return Sent((first, second), time.monotonic(), moment)
    return sent


def _count(times: list[tuple[str, float]], kind: str) -> int:
    return [each for each, _ in times].count(kind)


def _signal(process: Process, name: str, group: bool) -> bool:
    """Send a signal to a process, or to its group; whether it was still there."""
    if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        return False
    # Until it has made a group of its own, a process is in ours.
    group = group and os.getpgid(process.pid) == process.pid
    (os.killpg if group else os.kill)(process.pid, signal.Signals[name])
    return True


def _end(process: Process, sent: Sent, found: Trials) -> int:
    """Wait for the end of a process; its exit code."""
    bound = SECONDS if sent.names else 120.0
    if not process.listen((sent.at or process.born) + bound):
        found.wrong.append(f"it had not ended after {bound:g} s ({' and '.join(sent.names) or 'no signal'})")
        process.kill()
    elif sent.names:
        found.signals += len(sent.names)
        found.aims[f"in {_WORDS[sent.moment]}"] += 1
        found.seconds = max(found.seconds, time.monotonic() - sent.at)
    code = process.buried()
    if sent.names:
        how = "ended by the second" if len(sent.names) > 1 else "before or after the run"
        found.ends[how if code < 0 else _NAMES_OF_ENDS.get(code, f"exit code {code}")] += 1
    return code


AGAIN = 75
_WORDS = {"anywhere": "any instant", "saving": "a save", "looking": "an evaluation", "starting": "a start of workers"}
_NAMES_OF_ENDS = {AGAIN: "saved, 75", 0: "had finished"}


def _badly_left(code: int, heard: Heard, sent: Sent) -> list[str]:
    """What is wrong with how a process ended after signals."""
    if not sent.names:
        return []
    kinds = [kind for kind, _ in heard.times]
    after = kinds[kinds.index("asked") :].count("loss") if "asked" in kinds else 0
    wrong = [f"{after} steps were made after the signal was noted"] if after > 1 else []
    # Before the run has begun, and after its last step, a signal does what it always does.
    outside = heard.began < 0 or heard.began >= STEPS or STEPS in heard.losses
    by_signal = code in [-signal.Signals[name] for name in sent.names[-1:]]
    if code == AGAIN:
        step = _left_at(heard)
        if step not in heard.safe and step != heard.began:
            wrong.append(f"it left at step {step}, which it had not saved")
        if len(sent.names) > 1:
            wrong.append("a second signal was noted, too")
    elif not (by_signal and (outside or len(sent.names) > 1)) and not (code == 0 and heard.end):
        wrong.append(f"it ended with {code}")
    if len(sent.names) > 1 and by_signal and time.monotonic() - sent.at > AT_ONCE:
        wrong.append(f"it ended {time.monotonic() - sent.at:.1f} s after the second signal")
    return wrong


def _left_at(heard: Heard) -> int:
    told = [line for line in heard.wrong if line.startswith("left ")]
    return int(told[0].split()[1]) if told else -1


def _amiss(heard: Heard, whole: Whole, safe: int, begun: list[int]) -> list[str]:
    """What is wrong with what a process told, whether or not it was sent signals."""
    wrong = [line for line in heard.wrong if line.partition(" ")[0] not in _OURS]
    if heard.began >= 0 and (heard.began < safe or heard.began not in begun):
        wrong.append(f"it began at step {heard.began}; step {safe} was safe, {sorted(set(begun))} were saved")
    differ = [step for step, loss in heard.losses.items() if whole.heard.losses.get(step) != loss]
    if differ:
        wrong.append(f"the loss of step {differ[0]} differs")
    if heard.end and heard.end != whole.heard.end:
        wrong.append(f"the last state differs: {_apart(heard.end, whole.heard.end)}")
    return wrong


# -------------------------------------------------------------------------------------------------------- the process


def _worked(job: Job, slow: bool, folder: Path, tell: Tell) -> None:
    """A job in a process that leaves when it is asked to."""
    import etude

    _tell_moments(tell, slow)
    try:
        job(folder, tell)
    except etude.Interrupted as left:
        tell(f"left {left.step}")
        sys.stdout.flush()
        os._exit(int(left.code or 0))


def _tell_moments(tell: Tell, slow: bool) -> None:
    """Tell when a signal is noted, and when an evaluation and workers begin; let the save after a signal take long."""
    from etude.data import workers
    from etude.keep import image
    from etude.run.keep_best import Best
    from etude.run.leaving import Leaving

    noted: list[int] = []
    ask, at_best, hold, create = Leaving._asked, Best.look, workers._held_back, image.disk.create

    def asked(leaving: Leaving, number: int, frame: FrameType | None) -> None:
        noted.append(number)
        tell("asked")
        ask(leaving, number, frame)

    def looking(best: Best, *arguments: Any) -> Any:
        tell("looking")
        return at_best(best, *arguments)

    def starting(loader: Any) -> AbstractContextManager[None]:
        tell("starting")
        return hold(loader)

    def created(path: Any) -> int:
        if noted and slow:
            time.sleep(SLOW)
        return create(path)

    for owner, name, other in (
        (Leaving, "_asked", asked),
        (Best, "look", looking),
        (workers, "_held_back", starting),
        (image.disk, "create", created),
    ):
        setattr(owner, name, other)


# ------------------------------------------------------------------------------------------------------------ faults


@contextmanager
def _saves_in_the_handler() -> Iterator[None]:
    """Saved where the signal found the run, in the middle of a step, as some do."""
    from etude.errors import Interrupted
    from etude.run.leaving import Leaving

    ask = Leaving._asked

    def asked(leaving: Leaving, number: int, frame: FrameType | None) -> None:
        at = frame
        while at is not None and at.f_code.co_name != "_run":
            at = at.f_back
        if at is None or "saving" not in at.f_locals:
            ask(leaving, number, frame)
            return
        saving, going = at.f_locals["saving"], at.f_locals["going"]
        for _ in saving.finish(going, ""):
            continue
        raise Interrupted(saving.newest, int(going.progress.step), "now")

    with instead(Leaving, "_asked", asked):
        yield


@contextmanager
def _waits_for_the_epoch() -> Iterator[None]:
    """The flag is looked at, but only where an epoch ends."""
    from etude.run.leaving import Leaving

    def requested(leaving: Leaving) -> str:
        going = sys._getframe(2).f_locals["going"]
        if going.cursor.batch:
            return ""
        leaving._heard = True
        return leaving._came

    with instead(Leaving, "requested", property(requested)):
        yield


@contextmanager
def _notes_every_signal() -> Iterator[None]:
    """However many come, they are one request."""
    from etude.run import leaving

    with instead(leaving, "TOGETHER", 3600.0):
        yield


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Any further signal ends the process, also one that was passed on at once."""
    from etude.run import leaving

    with instead(leaving, "TOGETHER", -1.0):
        yield


@contextmanager
def _without_saving() -> Iterator[None]:
    from etude.run.saving import Saving

    with instead(Saving, "finish", lambda *_: iter(())):
        yield


@contextmanager
def _plain_workers() -> Iterator[None]:
    """Workers that a signal to the group ends."""
    from etude.data import workers

    with instead(workers, "Beginning", lambda then: then):
        yield


@contextmanager
def _nothing_held_back() -> Iterator[None]:
    """Workers that a signal ends while they start."""
    from etude.data import workers

    with instead(workers, "_held_back", lambda loader: nullcontext()):
        yield


@contextmanager
def _code_0() -> Iterator[None]:
    """An exit code that says that all is done."""
    from etude.errors import Interrupted

    made = Interrupted.__init__

    def other(error: Any, *arguments: Any) -> None:
        made(error, *arguments)
        error.code = 0

    with instead(Interrupted, "__init__", other):
        yield


_FAULTS: dict[str, tuple[str, Callable[[], AbstractContextManager[None]], Aim]] = {
    "the handler saves": ("plain", _saves_in_the_handler, _IN_ONE),
    "the flag is looked at where an epoch ends": ("plain", _waits_for_the_epoch, _IN_ONE),
    "a second signal is noted, too": ("plain", _notes_every_signal, _TWICE),
    "a signal that is passed on is a second one": ("plain", _one_at_a_time, Aim(("anywhere",), passed_on=1.0)),
    "it leaves without saving": ("plain", _without_saving, _IN_ONE),
    "the exit code is 0": ("plain", _code_0, _IN_ONE),
    "workers end with the signal": ("rich", _plain_workers, Aim()),
    "workers that start end with the signal": ("rich", _nothing_held_back, _STARTING),
}
"""A job, what is planted, and where signals are sent."""
