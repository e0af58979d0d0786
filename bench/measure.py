"""Timings worth comparing: contenders run in turn in one process, medians over rounds, ratios round by round."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

Contender = Callable[[], float]
"""Does its work once, or several times, and returns the seconds that one step took."""

_TIME = "µs"
_PATIENCE = 0.03
_MOST = 50
"""Seconds that a contender made by `repeated` may take in a round, and how many steps at most it makes in it."""


@dataclass(frozen=True)
class Target:
    """What is asked of a contender: at most this share of the time of another (None: of what it is beside)."""

    name: str
    at_most: float
    of: str | None = None


@dataclass(frozen=True)
class Bound:
    """A target and what was measured: the ratio of the times, median over the rounds."""

    of: str
    at_most: float
    ratio: float

    @property
    def reached(self) -> bool:
        return self.ratio <= self.at_most


@dataclass(frozen=True)
class Timing:
    """One contender over all rounds.

    Attributes:
        name: who. median: microseconds a step, or what `unit` says. low, high: quartiles. least: the quickest round.
        of: the contender beside which it stands.
        ratio: median over the rounds of its time over that one's in the same round.
        bounds: what is asked of it.
    """

    name: str
    median: float
    low: float
    high: float
    least: float
    of: str
    ratio: float
    bounds: tuple[Bound, ...] = ()
    unit: str = _TIME


def compare(
    contenders: Mapping[str, Contender],
    rounds: int = 9,
    targets: Sequence[Target] = (),
    beside: Mapping[str, str] | None = None,
    unit: str = _TIME,
) -> list[Timing]:
    """Time the contenders in turn, round after round.

    Args:
        contenders: by name. rounds: how often each runs, at least 2. targets: what is asked of some of them.
        beside: for some of them the contender with which they are compared; for all others it is the first.
        unit: of what they return, where that is no time.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    with _few_to_collect():
        for _ in range(rounds):
            for name, run in contenders.items():
                gc.collect()
                times[name].append(run() * (1e6 if unit == _TIME else 1))
    first = next(iter(times))
    made = []
    for name in times:
        of = (beside or {}).get(name, first)
        asked = [(target.of or of, target.at_most) for target in targets if target.name == name]
        bounds = tuple(Bound(other, most, _ratio(times[name], times[other])) for other, most in asked)
        made.append(_timing(name, times[name], of, _ratio(times[name], times[of]), bounds, unit))
    return made


@contextmanager
def _few_to_collect() -> Iterator[None]:
    """Within it a collection of garbage looks only at what is made from now on."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _timing(name: str, times: Sequence[float], of: str, ratio: float, bounds: tuple[Bound, ...], unit: str) -> Timing:
    low, median, high = statistics.quantiles(times, n=4)
    return Timing(name, median, low, high, min(times), of, ratio, bounds, unit)


def _ratio(times: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(own / other for own, other in zip(times, others, strict=True))


def repeated(step: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> Contender:
    """The median of several steps, each after a preparation that is not timed; the first step of all is not counted."""
    count = 0

    def timed() -> float:
        prepare()
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    def run() -> float:
        nonlocal count
        if not count:
            timed()
            count = min(_MOST, max(1, int(_PATIENCE / timed())))
        return statistics.median(timed() for _ in range(count))

    return run


def table(title: str, timings: Sequence[Timing]) -> str:
    """The timings as aligned text."""
    width = max(len(timing.name) for timing in timings)
    head = f"  {'':{width}}  {'median ' + timings[0].unit:>10}  {'least':>9}  {'quartiles':>19}  {'ratio':>6}  asked"
    return "\n".join([title, head, *(_line(timing, width) for timing in timings)])


def _line(t: Timing, width: int) -> str:
    asked = "; ".join(f"<= {b.at_most:g} of {b.of}: {b.ratio:.3f}{'' if b.reached else ' (missed)'}" for b in t.bounds)
    times = f"{t.median:10.1f}  {t.least:9.1f}  {t.low:9.1f}-{t.high:<9.1f}  {t.ratio:6.3f}"
    return f"  {t.name:{width}}  {times}  {asked}".rstrip()


def written(path: Path, results: Mapping[str, Sequence[Timing]], command: str, rounds: int) -> dict[str, Any]:
    """Write all results as JSON, with what they were measured on, and return the record."""
    record: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "rounds": rounds,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "results": {title: [asdict(timing) for timing in timings] for title, timings in results.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False))
    return record


def _processor() -> str:
    """Its name and its widest vector instructions, where the system tells."""
    said = Path("/proc/cpuinfo")
    lines = said.read_text(errors="replace").splitlines() if said.exists() else []
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    known = {key.strip(): value.strip() for key, value in found.items()}
    widest = next((name for name in ("avx512f", "avx2", "asimd") if name in known.get("flags", "").split()), "")
    return ", ".join(part for part in (known.get("model name", platform.processor()), widest) if part)
