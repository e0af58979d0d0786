"""Timings worth comparing: contenders run in turn in one process, medians over rounds, ratios round by round."""

from __future__ import annotations

import gc
import json
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Contender = Callable[[], float]
"""Does its work once and returns the seconds that one step took."""


@dataclass(frozen=True)
class Timing:
    """One contender over all rounds.

    Attributes:
        name: who. median: microseconds a step. low, high: quartiles.
        ratio: median over the rounds of its time over the first contender's in the same round.
        target: what the ratio should be at most, None where nothing is asked.
    """

    name: str
    median: float
    low: float
    high: float
    ratio: float
    target: float | None = None


def compare(
    contenders: Mapping[str, Contender], rounds: int = 9, targets: Mapping[str, float] | None = None
) -> list[Timing]:
    """Time the contenders in turn, round after round; the first is what the others are compared with."""
    for run in contenders.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            gc.collect()
            times[name].append(run() * 1e6)
    first = next(iter(times.values()))
    return [_timing(name, own, first, (targets or {}).get(name)) for name, own in times.items()]


def _timing(name: str, own: list[float], first: list[float], target: float | None) -> Timing:
    low, median, high = statistics.quantiles(own, n=4)
    ratio = statistics.median(mine / base for mine, base in zip(own, first, strict=True))
    return Timing(name, median, low, high, ratio, target)


def table(title: str, timings: list[Timing]) -> str:
    """The timings as aligned text."""
    width = max(len(timing.name) for timing in timings)
    lines = [title, f"  {'':{width}}  {'median µs':>10}  {'quartiles':>17}  {'ratio':>6}  target"]
    for t in timings:
        wanted = "" if t.target is None else f"<= {t.target:g} {'' if t.ratio <= t.target else '(missed)'}"
        lines.append(
            f"  {t.name:{width}}  {t.median:10.1f}  {t.low:8.1f}-{t.high:<8.1f}  {t.ratio:6.3f}  {wanted}".rstrip()
        )
    return "\n".join(lines)


def write(path: Path, results: Mapping[str, list[Timing]]) -> None:
    """All results as JSON, with what they were measured on."""
    record: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "results": {title: [vars(timing) for timing in timings] for title, timings in results.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1))
