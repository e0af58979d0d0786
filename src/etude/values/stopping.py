"""When to end: conditions as values.

A condition is frozen, and prints as the expression that makes it. What it remembers of the scores it has been told is
kept apart and saved with the run, so that an interrupted run ends where an uninterrupted one does.

=========================================================  ============================================================
`no_improvement("val.loss", patience=3)`                   more than three looks in a row brought nothing better
`reached("val.accuracy", above=0.99)`                      a score is where it should be
`limit(minutes(30))`, `limit(tokens(1e9))`                 so much time has gone by, so much was consumed
`minutes(30)`, `lambda progress: ...` (joined, or alone)   the same as `limit(minutes(30))`; any function of the clock
`a | b`, `a & b`                                           as soon as either holds; where both hold at once
=========================================================  ============================================================
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

from etude.arguments import named
from etude.errors import SettingError, nearest
from etude.values.conditions import Memory, Stop, StopLike, check_known, limit, stopping
from etude.values.progress import TINY, Extent, Progress
from etude.values.scores import better, direction
from etude.values.spans import Span, progress_span

__all__ = ["Memory", "NoImprovement", "Reached", "Stop", "StopLike", "limit", "no_improvement", "reached", "stopping"]


@final
@dataclass(frozen=True, slots=True, repr=False)
class NoImprovement(Stop):
    """More than `patience` looks in a row without a better score; made by `no_improvement`.

    Its memory is a pair: the best score (None before the first), and the looks since then.
    """

    score: str
    patience: int
    min_delta: float
    relative: bool
    warmup: Span | None
    mode: str

    @property
    def listens(self) -> frozenset[str]:
        return frozenset((self.score,))

    def start(self) -> Memory:
        return (None, 0)

    def see(self, memory: Memory, metrics: Mapping[str, float], progress: Progress) -> Memory:
        if self.score not in metrics or self._warming(progress):
            return memory
        best, waited = memory
        seen = float(metrics[self.score])
        if better(seen, best, self.mode, self.min_delta, self.relative):
            return (seen, 0)
        return (best, waited + 1)

    def stop(self, progress: Progress, memory: Memory, elapsed: float) -> str:
        best, waited = memory
        if waited <= self.patience:
            return ""
        what = "none was a number" if best is None else f"the best was {best:.4g}"
        return f"{self.score} did not improve for {waited} look{'s' * (waited != 1)}; {what}"

    def check(self, known: Collection[str], extent: Extent, uncounted: Collection[str] = ()) -> None:
        check_known(self, known)
        if self.warmup is not None:
            Progress(extent=extent).without(*uncounted).amount(self.warmup.unit)

    def _warming(self, progress: Progress) -> bool:
        return self.warmup is not None and progress.amount(self.warmup.unit) < self.warmup.amount - TINY

    def __repr__(self) -> str:
        said = "".join(
            f", {name}={value!r}"
            for name, usual in _NO_IMPROVEMENT.items()
            if (value := getattr(self, name)) != usual and not (name == "mode" and value == direction(self.score))
        )
        return f"no_improvement({self.score!r}, patience={self.patience!r}{said})"


_NO_IMPROVEMENT = {"min_delta": 0.0, "relative": False, "warmup": None, "mode": None}


@final
@dataclass(frozen=True, slots=True, repr=False)
class Reached(Stop):
    """A score lies above or below a bound, so many looks in a row; made by `reached`.

    Its memory is a pair: how many looks in a row it has lain there, and the score seen last.
    """

    score: str
    above: float | None
    below: float | None
    looks: int

    @property
    def listens(self) -> frozenset[str]:
        return frozenset((self.score,))

    def start(self) -> Memory:
        return (0, None)

    def see(self, memory: Memory, metrics: Mapping[str, float], progress: Progress) -> Memory:
        if self.score not in metrics:
            return memory
        seen = float(metrics[self.score])
        # NaN is on neither side.
        there = (self.above is None or seen > self.above) and (self.below is None or seen < self.below)
        return (memory[0] + 1 if there else 0, seen)

    def stop(self, progress: Progress, memory: Memory, elapsed: float) -> str:
        row, seen = memory
        if row < self.looks:
            return ""
        bounds = (("above", self.above), ("below", self.below))
        where = " and ".join(f"{side} {bound:.4g}" for side, bound in bounds if bound is not None)
        return f"{self.score} was {seen:.4g}, {where}" + (f", for {row} looks" if self.looks > 1 else "")

    def __repr__(self) -> str:
        named = (("above", self.above, None), ("below", self.below, None), ("looks", self.looks, 1))
        return f"reached({self.score!r}{''.join(f', {n}={value!r}' for n, value, usual in named if value != usual)})"


@named
def no_improvement(
    score: str,
    patience: int,
    min_delta: float = 0.0,
    relative: bool = False,
    warmup: Span | None = None,
    mode: str | None = None,
) -> Stop:
    """Stop when more than `patience` looks in a row brought no better score.

    A look is any time at which the score is measured. NaN and infinities are never better, and equal is not either.

    Args:
        score: as it is told in the run: "val.loss", "val.accuracy", "epoch.loss".
        patience: looks without improvement that are borne; a whole number, at least 0.
        min_delta: how much better it must be to count; at least 0. What is better by less changes nothing: many small
            gains are compared with the best that counted, so that they count once they add up.
        relative: whether `min_delta` is a share of the best score (of its absolute value), not a difference.
        warmup: looks before this amount of progress are not counted, neither as the best nor as waiting.
        mode: "min" if less is better, "max" if more is. None: what the end of the name says ("val.loss": less).

    Raises:
        SettingError: a value that is not as said, or no mode where the name says none.
        ScheduleError: `warmup` is no span of progress.
    """
    said = f"no_improvement({score!r}, patience={patience!r})"
    _check_name(score, said, f"no_improvement('val.loss', patience={patience!r})")
    _check_count(patience, 0, "patience", said)
    if not _is_number(min_delta) or not 0 <= min_delta < float("inf"):
        raise SettingError(f"{said}: min_delta={min_delta!r}: a finite number, at least 0, is needed. Write 0.001.")
    if not isinstance(relative, bool):
        raise SettingError(f"{said}: relative={relative!r}: True or False is needed. Write True for a share.")
    if warmup is not None:
        progress_span(warmup, f"{said}, warmup={warmup!r}")
    return NoImprovement(score, patience, float(min_delta), relative, warmup, _mode(score, mode, said))


@named
def reached(score: str, above: float | None = None, below: float | None = None, looks: int = 1) -> Stop:
    """Stop when a score lies above a bound, or below one; between them where both are given.

    Args:
        score: as it is told in the run: "val.accuracy", "epoch.loss". NaN is neither above nor below.
        above, below: the bounds, which themselves are not yet enough.
        looks: at how many looks in a row it must lie there; a whole number, at least 1.

    Raises:
        SettingError: no bound, bounds that leave nothing between them, no name, or `looks` below 1.
    """
    said = f"reached({score!r}, above={above!r}, below={below!r})"
    _check_name(score, said, "reached('val.accuracy', above=0.99)")
    if above is None and below is None:
        raise SettingError(f"reached({score!r}): no bound is given. Write reached({score!r}, above=0.99).")
    for name, bound in (("above", above), ("below", below)):
        if bound is not None and (not _is_number(bound) or bound != bound):
            raise SettingError(f"{said}: {name}={bound!r}: a number is needed. Write {name}=0.99.")
    low, high = (None if bound is None else float(bound) for bound in (above, below))
    if low is not None and high is not None and low >= high:
        raise SettingError(
            f"{said}: no score is above {low!r} and below {high!r}. Write above={high!r}, below={low!r}, or leave "
            "one out."
        )
    _check_count(looks, 1, "looks", said)
    return Reached(score, low, high, looks)


def _mode(score: str, mode: str | None, said: str) -> str:
    if mode is None:
        found = direction(score)
        if found is None:
            raise SettingError(
                f"{said}: the name does not say whether less or more is better. Write mode='min' or mode='max'."
            )
        return found
    if mode not in ("min", "max"):
        raise SettingError(f"{said}: mode={mode!r}: 'min' or 'max' is needed.{nearest(mode, ('min', 'max'))}")
    return mode


def _check_name(score: object, said: str, write: str) -> None:
    if not isinstance(score, str) or not score:
        raise SettingError(f"{said}: the name of a score is needed. Write {write}.")


def _check_count(count: object, least: int, name: str, said: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise SettingError(
            f"{said}: {name}={count!r}: a whole number of looks, at least {least}, is needed. Write {name}=3."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
