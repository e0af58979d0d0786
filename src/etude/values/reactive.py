"""Schedules that listen: values that follow what was measured, through a memory that is saved with the run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import final

from etude.arguments import named
from etude.errors import ScheduleError, nearest
from etude.values.algebra import Memory, Schedule
from etude.values.following import following
from etude.values.literals import number
from etude.values.newbob import newbob
from etude.values.plateau import plateau
from etude.values.progress import Progress
from etude.values.scores import LESS, MORE

_METRICS = {*LESS, *MORE} - {"loss", "error", "no_path"}
"""Names of metrics that a run can measure."""

__all__ = ["check_told", "following", "newbob", "plateau", "when"]


@final
@dataclass(frozen=True, slots=True, repr=False)
class When(Schedule):
    """True while a score is on one side of a bound; made by `when`.

    Its memory is a pair: the value, and how often in a row it has been True.
    """

    score: str
    above: float | None
    below: float | None
    at_most: int | None

    def at(self, progress: Progress, memory: Memory = None) -> bool:
        return True if memory is None else bool(memory[0])

    @property
    def kind(self) -> str:
        return "bool"

    @property
    def listens(self) -> frozenset[str]:
        return frozenset((self.score,))

    def start(self) -> Memory:
        return (True, 1)

    def see(self, memory: Memory, metrics: Mapping[str, float | None], progress: Progress | None = None) -> Memory:
        value, row = self.start() if memory is None else memory
        seen = metrics.get(self.score)
        if seen is None:
            return (value, row)
        wanted = self._wanted(seen)
        if wanted and (self.at_most is None or row < self.at_most):
            return (True, row + 1)
        return (False, 0)

    def _wanted(self, score: float) -> bool:
        # NaN is on neither side: what cannot be compared is not wanted.
        return (self.above is None or score > self.above) and (self.below is None or score < self.below)

    def __repr__(self) -> str:
        named = {"above": self.above, "below": self.below, "at_most": self.at_most}
        said = "".join(f", {name}={value!r}" for name, value in named.items() if value is not None)
        return f"when({self.score!r}{said})"


@named
def when(score: str, above: float | None = None, below: float | None = None, at_most: int | None = None) -> Schedule:
    """True at the start; then, whether the score seen last was above, or below, a bound.

    For turns that adapt: `Update("critic", ..., turn=when("critic_loss", above=0.4, at_most=5))`.

    Args:
        score: the name of a loss or metric. One that was not measured changes nothing; NaN is neither above nor below.
        above, below: the bounds; with both, the score must lie between them.
        at_most: never True more often than this in a row; then it is False once, whatever the score.

    Raises:
        ScheduleError: no bound, bounds that leave nothing between them, no name, or `at_most` below 1.
    """
    made = When(score, above, below, at_most)
    if not isinstance(score, str) or not score:
        raise ScheduleError(f"{made!r}: the name of a score is needed. Write when('loss', above=0.5).")
    if above is None and below is None:
        raise ScheduleError(f"{made!r}: no bound is given. Write when({score!r}, above=0.5).")
    low, high = (None if bound is None else number(bound, repr(made)) for bound in (above, below))
    if low is not None and high is not None and low >= high:
        raise ScheduleError(
            f"{made!r}: no score is above {low!r} and below {high!r}. Write above={high!r}, below={low!r}, or leave "
            "one out."
        )
    if at_most is not None and (isinstance(at_most, bool) or not isinstance(at_most, int) or at_most < 1):
        raise ScheduleError(f"{made!r}: at_most is a whole number, at least 1. Write at_most=5.")
    return When(score, low, high, at_most)


def check_told(listening: Iterable[Schedule], told: Collection[str]) -> None:
    """Raise for a schedule that listens to a metric that it will never be told.

    Args:
        listening: schedules; those that listen to nothing pass.
        told: the names of all metrics that are measured.

    Raises:
        ScheduleError: the first of them, with the names that there are.
    """
    for made in listening:
        for name in sorted(made.unheard(told)):
            there = f"Measured are {', '.join(map(repr, told))}." if told else "Nothing is: write validation=0.2."
            near = nearest(name, told) or _to_measure(name, told)
            raise ScheduleError(f"{made!r} listens to {name!r}, which is not measured. {there}{near}")


def _to_measure(name: str, told: Collection[str]) -> str:
    """What to write for a score of validation data to be measured, where no other can be meant."""
    kind, _, metric = name.partition(".")
    if kind != "val" or not told:
        return ""
    if not any(each.startswith("val.") for each in told):
        return " There are no validation data: write validation=0.2."
    return f" Write metrics={metric!r}." if metric in _METRICS else ""
