"""Plateau: a factor that falls when a score has not improved for long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, final

from etude.arguments import named
from etude.errors import ScheduleError
from etude.values.algebra import Memory, Schedule
from etude.values.literals import number
from etude.values.progress import Progress
from etude.values.scored import Scored
from etude.values.scores import Score, ScoreLike, best_asked, choice, directed, looks
from etude.values.scores import score as score_of

_DEFAULTS: dict[str, Any] = {
    "factor": 0.1,
    "patience": 10,
    "threshold": 1e-4,
    "threshold_mode": "rel",
    "cooldown": 0,
    "low": 0.0,
    "begin": 1.0,
    "back_to_best": False,
}
_SAID = {"begin": "start"}


@final
@dataclass(frozen=True, slots=True, repr=False)
class Plateau(Scored):
    """A factor that falls when a score no longer improves; made by `plateau`.

    Its memory is four numbers: how often it fell, the best score (None before the first), how many looks in a row
    brought no better one, and how many looks of the cool-down are left. Where several names are listened to a fifth
    follows: which of them the best score has.
    """

    score: Score
    mode: str
    factor: float
    patience: int
    threshold: float
    threshold_mode: str
    cooldown: int
    low: float
    begin: float
    back_to_best: str | bool

    def at(self, progress: Progress, memory: Memory = None) -> float:
        return self.begin if memory is None else max(self.low, self.begin * self.factor ** memory[0])

    def _falls(self, memory: Memory) -> int:
        return int(memory[0])

    def start(self) -> Memory:
        return (0, None, 0, 0) if len(self.score.names) == 1 or self.score.function else (0, None, 0, 0, 0)

    def see(self, memory: Memory, metrics: Mapping[str, float | None], progress: Progress | None = None) -> Memory:
        falls, best, waited, rest, *which = self.start() if memory is None else memory
        told = self.score.of(metrics)
        place, seen = told or (0, None)
        if seen is None:
            return (falls, best, waited, rest, *which)
        if which and which[0] != place:
            # Scores of different names are not compared: this one is the first of its kind.
            best, which = None, [place]
        if self._improves(seen, best):
            best, waited = seen, 0
        else:
            waited += 1
        if rest > 0:
            rest, waited = rest - 1, 0
        if waited > self.patience:
            waited, rest = 0, self.cooldown
            # At its lowest it falls no further: what goes back to the best net would do so again and again.
            falls += self.back_to_best is False or self.begin * self.factor**falls > self.low
        return (falls, best, waited, rest, *which)

    def _improves(self, seen: float, best: float | None) -> bool:
        """Whether a score is better than the best by more than the threshold; NaN and infinities never are."""
        if best is None or not isfinite(seen):
            return isfinite(seen)
        margin = self.threshold if self.threshold_mode == "abs" else abs(best) * self.threshold
        return seen < best - margin if self.mode == "min" else seen > best + margin

    def __repr__(self) -> str:
        given = ((_SAID.get(name, name), getattr(self, name), usual) for name, usual in _DEFAULTS.items())
        said = "".join(f", {name}={value!r}" for name, value, usual in given if value != usual)
        return f"plateau({self.score!r}, {self.mode!r}{said}{self.score.also})"


@named
def plateau(
    score: ScoreLike,
    mode: str | None = None,
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    low: float = 0.0,
    *,
    start: float = 1.0,
    back_to_best: str | bool = False,
    names: Sequence[str] = (),
) -> Schedule:
    """A factor: 1 at the start, multiplied by `factor` each time a score has not improved for long; multiply by it.

    `warmup(epochs(1)) * plateau("val.loss", patience=3) * 1e-3`. The rule is that of torch's `ReduceLROnPlateau`: the
    look after `patience` looks in a row without improvement makes it fall. What differs: an infinite score is never
    an improvement (as NaN is none); among scores below 0 a worse one is none either (torch's relative threshold takes
    it for one); and the lower bound is a share of the rate (there is no `eps`). It hears every look of the run, also
    those at which a piece or a turn of a cycle without it is in force.

    Args:
        score: the name of a loss or metric, as it is told: "val.loss" in a run, any key of `trainer.see`. Of several
            names the first that was measured counts, and scores of different names are never compared. Or a function
            of a dict of the scores in `names`. One that was not measured changes nothing and is no look.
        mode: "min" if less is better, "max" if more is. None: what the end of the name says: "min" for loss, error,
            error_rate, mse, mae and perplexity, "max" for accuracy, f1 and the like, and an error for any other.
        factor: above 0 and below 1.
        patience: looks without improvement that are borne; a whole number, at least 0.
        threshold, threshold_mode: a score is better only if it is so by more than `threshold` times the best ("rel")
            or by more than `threshold` ("abs"); at least 0.
        cooldown: looks after a fall that are not counted; a whole number, at least 0.
        low: never below this; from 0 to `start`.
        start: what it starts with: 1 for a factor, or the rate itself; above 0.
        back_to_best: at each fall the net goes back to its best arrays, with the optimizer's memory "clear" or as it
            is ("keep"); False: the net goes on as it is. It needs validation data.
        names: the scores that a function is given.

    Raises:
        ScheduleError: no name, no mode where the name says none, or a value that is not as said.
    """
    listened = score_of(score, names, "plateau")
    way = directed(listened, mode, "plateau")
    given = (factor, patience, threshold, threshold_mode, cooldown, low, start, back_to_best)
    said = repr(Plateau(listened, way, *given))
    choice(threshold_mode, ("rel", "abs"), "threshold_mode", said)
    looks(patience, 0, "patience", said)
    looks(cooldown, 0, "cooldown", said)
    if not 0 < number(factor, said) < 1:
        raise ScheduleError(f"{said}: the factor must be above 0 and below 1. Write factor=0.5.")
    if number(threshold, said) < 0:
        raise ScheduleError(f"{said}: the threshold must be at least 0. Write threshold=1e-3.")
    if number(start, said) <= 0:
        raise ScheduleError(f"{said}: it must start above 0, for it is multiplied. Write start=1.0.")
    if not 0 <= number(low, said) <= start:
        share = "a share of the rate" if start == 1 else "the least value"
        raise ScheduleError(f"{said}: low is {share}, from 0 to {start:g}. Write low={start / 100:g}.")
    return Plateau(
        listened,
        way,
        number(factor, said),
        patience,
        number(threshold, said),
        threshold_mode,
        cooldown,
        number(low, said),
        float(start),
        best_asked(back_to_best, said),
    )
