"""Schedules that listen: values that follow what was measured, through a memory that is saved with the run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, final

from etude.arguments import named
from etude.errors import ScheduleError, nearest
from etude.values.algebra import Memory, Schedule, number
from etude.values.progress import Progress

# What a name ends with says which way its score improves.
_LESS, _MORE = ("loss", "error", "error_rate", "mse", "mae", "perplexity"), ("accuracy",)
_PLATEAU = {"factor": 0.1, "patience": 10, "threshold": 1e-4, "threshold_mode": "rel", "cooldown": 0, "low": 0.0}


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

    def see(self, memory: Memory, metrics: Mapping[str, float]) -> Memory:
        value, row = self.start() if memory is None else memory
        if self.score not in metrics:
            return (value, row)
        wanted = self._wanted(metrics[self.score])
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
        raise ScheduleError(f"{made!r}: no score is above {low!r} and below {high!r}.")
    if at_most is not None and (isinstance(at_most, bool) or not isinstance(at_most, int) or at_most < 1):
        raise ScheduleError(f"{made!r}: at_most is a whole number, at least 1. Write at_most=5.")
    return When(score, low, high, at_most)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Plateau(Schedule):
    """A factor that falls when a score no longer improves; made by `plateau`.

    Its memory is four numbers: how often it fell, the best score (None before the first), how many looks in a row
    brought no better one, and how many looks of the cool-down are left.
    """

    score: str
    mode: str
    factor: float
    patience: int
    threshold: float
    threshold_mode: str
    cooldown: int
    low: float

    def at(self, progress: Progress, memory: Memory = None) -> float:
        return 1.0 if memory is None else max(self.low, self.factor ** memory[0])

    @property
    def listens(self) -> frozenset[str]:
        return frozenset((self.score,))

    def start(self) -> Memory:
        return (0, None, 0, 0)

    def see(self, memory: Memory, metrics: Mapping[str, float]) -> Memory:
        falls, best, waited, rest = self.start() if memory is None else memory
        if self.score not in metrics:
            return (falls, best, waited, rest)
        seen = float(metrics[self.score])
        if self._improves(seen, best):
            best, waited = seen, 0
        else:
            waited += 1
        if rest > 0:
            rest, waited = rest - 1, 0
        if waited > self.patience:
            falls, waited, rest = falls + 1, 0, self.cooldown
        return (falls, best, waited, rest)

    def _improves(self, seen: float, best: float | None) -> bool:
        """Whether a score is better than the best by more than the threshold; NaN and infinities never are."""
        if best is None or not isfinite(seen):
            return isfinite(seen)
        margin = self.threshold if self.threshold_mode == "abs" else abs(best) * self.threshold
        return seen < best - margin if self.mode == "min" else seen > best + margin

    def __repr__(self) -> str:
        named = ((name, getattr(self, name)) for name in _PLATEAU)
        said = "".join(f", {name}={value!r}" for name, value in named if value != _PLATEAU[name])
        return f"plateau({self.score!r}, {self.mode!r}{said})"


@named
def plateau(
    score: str,
    mode: str | None = None,
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    low: float = 0.0,
) -> Schedule:
    """A factor: 1 at the start, multiplied by `factor` each time a score has not improved for long; multiply by it.

    `warmup(epochs(1)) * plateau("val.loss", patience=3) * 1e-3`. The rule is that of torch's `ReduceLROnPlateau`: the
    look after `patience` looks in a row without improvement makes it fall. What differs: an infinite score is never
    an improvement (as NaN is none); among scores below 0 a worse one is none either (torch's relative threshold takes
    it for one); and the lower bound is a share of the rate (there is no `eps`). It hears every look of the run, also
    those at which a piece or a turn of a cycle without it is in force.

    Args:
        score: the name of a loss or metric, as it is told: "val.loss" in a run, any key of `trainer.see`. One that was
            not measured changes nothing and is no look.
        mode: "min" if less is better, "max" if more is. None: what the end of the name says: "min" for loss, error,
            error_rate, mse, mae and perplexity, "max" for accuracy, and an error for any other.
        factor: above 0 and below 1.
        patience: looks without improvement that are borne; a whole number, at least 0.
        threshold, threshold_mode: a score is better only if it is so by more than `threshold` times the best ("rel")
            or by more than `threshold` ("abs"); at least 0.
        cooldown: looks after a fall that are not counted; a whole number, at least 0.
        low: never below this; from 0 to 1.

    Raises:
        ScheduleError: no name, no mode where the name says none, or a value that is not as said.
    """
    if not isinstance(score, str) or not score:
        raise ScheduleError(f"plateau({score!r}): the name of a score is needed. Write plateau('val.loss').")
    given = (factor, patience, threshold, threshold_mode, cooldown, low)
    said = repr(Plateau(score, _mode(score, mode), *given))
    _choice(threshold_mode, ("rel", "abs"), "threshold_mode", said)
    for name, count in (("patience", patience), ("cooldown", cooldown)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ScheduleError(f"{said}: {name} is a whole number of looks, at least 0. Write {name}=3.")
    if not 0 < number(factor, said) < 1:
        raise ScheduleError(f"{said}: the factor must be above 0 and below 1. Write factor=0.5.")
    if number(threshold, said) < 0:
        raise ScheduleError(f"{said}: the threshold must be at least 0. Write threshold=1e-3.")
    if not 0 <= number(low, said) <= 1:
        raise ScheduleError(f"{said}: low is a share of the rate, from 0 to 1. Write low=0.01.")
    numbers = (number(factor, said), patience, number(threshold, said), threshold_mode, cooldown, number(low, said))
    return Plateau(score, _mode(score, mode), *numbers)


def check_told(listening: Iterable[Schedule], told: Collection[str]) -> None:
    """Raise for a schedule that listens to a metric that it will never be told.

    Args:
        listening: schedules; those that listen to nothing pass.
        told: the names of all metrics that are measured.

    Raises:
        ScheduleError: the first of them, with the names that there are.
    """
    for made in listening:
        for name in sorted(made.listens - set(told)):
            there = f"Measured are {', '.join(map(repr, told))}." if told else "Nothing is: write validation=0.2."
            raise ScheduleError(f"{made!r} listens to {name!r}, which is not measured. {there}{nearest(name, told)}")


def _mode(score: str, mode: str | None) -> str:
    """Which way a score improves, as said or as the end of its name says."""
    if mode is not None:
        return _choice(mode, ("min", "max"), "mode", f"plateau({score!r}, {mode!r})")
    name = score.lower()
    if not name.endswith(_LESS + _MORE):
        raise ScheduleError(
            f"plateau({score!r}): the name does not say whether less or more is better; names that end in "
            f"{', '.join(_LESS + _MORE)} do.{nearest(score, _alike(score))} Write plateau({score!r}, mode='min') or "
            "mode='max'."
        )
    return "min" if name.endswith(_LESS) else "max"


def _alike(score: str) -> list[str]:
    """Names of scores that end in what says its direction."""
    before, dot, _ = score.rpartition(".")
    return [f"{before}{dot}{end}" for end in _LESS + _MORE]


def _choice(given: Any, choices: tuple[str, ...], name: str, said: str) -> str:
    if isinstance(given, str) and given in choices:
        return given
    raise ScheduleError(f"{said}: {name} is one of {', '.join(map(repr, choices))}.{nearest(str(given), choices)}")
