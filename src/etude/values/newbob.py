"""Newbob: a rate that falls when a score improved too little since the look before.

The rule is that of RETURNN's newbob controls (Zeyer et al. 2017, "RETURNN: The RWTH extensible training framework for
universal recurrent neural networks"; it goes back to QuickNet), in one form: relative or absolute, over one look or
several. `etude.returnn.newbob_from` translates RETURNN's options.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, copysign, floor, inf, isfinite, nan
from typing import Any, NamedTuple, final

from etude.arguments import named
from etude.errors import ScheduleError
from etude.values.algebra import Memory, Schedule
from etude.values.changes import Change, applied, bounds, changes, pinned_by_epoch
from etude.values.lengths import amount_on
from etude.values.literals import number
from etude.values.progress import TINY, Extent, Progress
from etude.values.scored import Scored
from etude.values.scores import Score, ScoreLike, best_asked, better, choice, directed, looks
from etude.values.scores import score as score_of

_DEFAULTS: dict[str, Any] = {
    "start": 1.0,
    "decay": 0.5,
    "growth": 1.0,
    "relative": True,
    "min_improvement": 0.01,
    "relative_to": "old",
    "grow_improvement": None,
    "window": 1,
    "every": 1,
    "hold": 0,
    "scaled_by_value": False,
    "low": 0.0,
    "high": inf,
    "pinned": {},
    "back_to_best": False,
}


class _Heard(NamedTuple):
    """What a newbob remembers; kept as a plain tuple."""

    value: float
    """After the last look."""
    epochs: float | None
    """The clock at the last look; None before the first, and where no clock was told."""
    decays: int
    looks: int
    held: int
    """Looks in a row at which the same value was in force, and which."""
    held_value: float | None
    which: int
    """The name that the scores below have, by its place."""
    best: float | None
    scores: tuple[float, ...] | None
    """The last finite ones, and the value that was in force when each was reached."""
    values: tuple[float, ...] | None


@final
@dataclass(frozen=True, slots=True, repr=False)
class Newbob(Scored):
    """A number that falls when a score improves too little; made by `newbob`.

    Its memory is ten numbers, the last two of which are tuples with the scores of the window (see `_Heard`).
    """

    score: Score
    mode: str
    begin: float
    decay: Change
    growth: Change
    relative: bool
    min_improvement: float
    relative_to: str
    grow_improvement: float | None
    window: int
    every: int
    hold: int
    scaled_by_value: bool
    low: float
    high: float
    pinned: tuple[tuple[int, float], ...]
    back_to_best: str | bool
    # The pinned epochs alone, and their values within the bounds.
    _epochs: tuple[int, ...] = field(init=False, compare=False)
    _values: tuple[float, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_epochs", tuple(epoch for epoch, _ in self.pinned))
        object.__setattr__(self, "_values", tuple(self._clamped(value) for _, value in self.pinned))

    def at(self, progress: Progress, memory: Memory = None) -> float:
        if not self._epochs:
            return self.begin if memory is None else memory[0]
        value, heard = (self.begin, None) if memory is None else memory[:2]
        return self._in_force(value, heard, floor(progress.amount("epochs") + TINY) + 1)

    def _falls(self, memory: Memory) -> int:
        return int(memory[2])

    def start(self) -> Memory:
        return tuple(_Heard(self.begin, None, 0, 0, 0, None, 0, None, None, None))

    def see(self, memory: Memory, metrics: Mapping[str, float | None], progress: Progress | None = None) -> Memory:
        heard = _Heard(*(self.start() if memory is None else memory))
        told = self.score.of(metrics)
        if told is None:
            return tuple(heard)
        heard = self._looked(heard, *told, progress)
        gain = self._gain(heard, told[1])
        if gain is None or heard.looks % self.every or heard.held < self.hold or not _begun(progress):
            return tuple(heard)
        return tuple(self._changed(heard, gain, progress))

    def _looked(self, heard: _Heard, which: int, seen: float | None, progress: Progress | None) -> _Heard:
        """What is remembered after a look, before anything follows from it."""
        value = self._value_of_look(heard, progress)
        # Scores of different names are not compared, nor is what comes after a look without a score with what was.
        same = which == heard.which and seen is not None
        scores, values = (heard.scores, heard.values) if same else (None, None)
        best = heard.best if which == heard.which else None
        if seen is not None and isfinite(seen):
            scores, values = (*(scores or ()), seen)[-self.window - 1 :], (*(values or ()), value)[-self.window - 1 :]
            best = seen if better(seen, best, self.mode) else best
        held = heard.held + 1 if value == heard.held_value else 1
        return _Heard(value, _epochs(progress), heard.decays, heard.looks + 1, held, value, which, best, scores, values)

    def _value_of_look(self, heard: _Heard, progress: Progress | None) -> float:
        """The value that was in force in the step before the look."""
        if not self._epochs:
            return heard.value
        if progress is None:
            raise ScheduleError(
                f"{self!r}: epochs are pinned, and the clock at the look was not told. "
                "Write see(memory, metrics, progress)."
            )
        return self._in_force(heard.value, heard.epochs, ceil(progress.amount("epochs") - TINY))

    def _in_force(self, value: float, heard: float | None, epoch: int) -> float:
        """The value in an epoch (from 1): pinned there, or pinned since the last look, or that of the control."""
        last = bisect_right(self._epochs, epoch) - 1
        if last >= 0 and (self._epochs[last] == epoch or heard is None or self._epochs[last] - 1 >= heard - TINY):
            return self._values[last]
        return value

    def _gain(self, heard: _Heard, seen: float | None) -> float | None:
        """The mean improvement over the window; None without two scores, -inf for NaN and infinities."""
        scores, values = heard.scores, heard.values
        if seen is None or scores is None or values is None:
            return None
        if not isfinite(seen):
            return -inf
        gains = [self._improvement(*pair) for pair in pairwise(scores)]
        if self.scaled_by_value:
            gains = [
                gain * self.begin / value if value else gain for gain, value in zip(gains, values[1:], strict=True)
            ]
        return sum(gains) / len(gains) if gains else None

    def _improvement(self, old: float, new: float) -> float:
        gain = old - new if self.mode == "min" else new - old
        if not self.relative:
            return gain
        base = abs(old if self.relative_to == "old" else new)
        if base:
            return gain / base
        # No change of a score of 0 is no change; any other is beyond every share of it.
        return copysign(inf, gain) if gain else 0.0

    def _changed(self, heard: _Heard, gain: float, progress: Progress | None) -> _Heard:
        """What is remembered where a look has a say."""
        # What is no number (infinite gains and losses in one window) is no improvement.
        if gain >= self.min_improvement:
            grows = self.grow_improvement is None or gain > self.grow_improvement
            return heard._replace(value=self._applied(self.growth, heard.value)) if grows else heard
        value = self._applied(self.decay, heard.value)
        if value == heard.value or self._pinned_next(progress):
            return heard._replace(value=value)
        heard = heard._replace(value=value, decays=heard.decays + 1)
        if self.back_to_best and heard.best is not None:
            # The net is at its best again, and so is the score that the next one is compared with.
            return heard._replace(scores=(heard.best,), values=(value,))
        return heard

    def _pinned_next(self, progress: Progress | None) -> bool:
        """Whether the step about to be made is in a pinned epoch."""
        return progress is not None and floor(progress.epoch + TINY) + 1 in self._epochs if self._epochs else False

    def _applied(self, change: Change, value: float) -> float:
        return self._clamped(applied(change, value, repr(self)))

    def _clamped(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def _inspect(self, clock: Progress, life: Extent) -> None:
        if self.pinned:
            amount_on(clock, "epochs", self)

    def __repr__(self) -> str:
        options = {name: getattr(self, "begin" if name == "start" else name) for name in _DEFAULTS}
        return _call(self.score, self.mode, {**options, "pinned": dict(self.pinned)})


@named
def newbob(
    score: ScoreLike,
    mode: str | None = None,
    *,
    start: float = 1.0,
    decay: Change = 0.5,
    growth: Change = 1.0,
    relative: bool = True,
    min_improvement: float = 0.01,
    relative_to: str = "old",
    grow_improvement: float | None = None,
    window: int = 1,
    every: int = 1,
    hold: int = 0,
    scaled_by_value: bool = False,
    low: float = 0.0,
    high: float = inf,
    pinned: Mapping[int, float] | Sequence[float] = (),
    back_to_best: str | bool = False,
    names: Sequence[str] = (),
) -> Schedule:
    """A number, multiplied by `decay` when a score improved by too little since the look before, else by `growth`.

    A factor (`newbob("val.loss") * cosine(1e-3)`), or with `start` the rate itself (`newbob("val.loss", start=1e-3)`).

    Two looks with a score are needed before anything changes. An improvement of exactly `min_improvement` is enough.
    NaN and infinities are no improvement (it decays, as after any other), and the next score is compared with the last
    finite one. No change of a score of 0 is no change. A score that was not measured changes nothing; one that was told
    as None (not measured at this look) leaves the value too, and the next is compared with none. In a piece that
    begins later it hears every look, and changes nothing before its own clock began. `warmup(...) *` it changes from
    the start.

    Args:
        score: the name of a loss or metric, as it is told: "val.loss" in a run, any key of `trainer.see`. Of several
            names the first that was measured counts, and scores of different names are never compared. Or a function
            of a dict of the scores in `names`.
        mode: "min" if less is better, "max" if more is. None: what the end of the name says.
        start: what it starts with; above 0.
        decay, growth: factors above 0, or functions from value to value, which are called once with `start` to see that
            they give a number.
        relative: whether an improvement is a share of a score, or a difference of two.
        min_improvement: the least improvement that is enough; below 0 it bears a score that gets so much worse.
        relative_to: the score that it is a share of (of its absolute value): that of the look before ("old"), or the
            newest ("new", as RETURNN does unless told otherwise).
        grow_improvement: it grows only above this; in between it stays. None: it grows whenever it does not decay.
        window: the improvement is the mean over so many looks (fewer at the start).
        every: it changes at each so-manieth look only.
        hold: it changes only if the same value was in force at the last so many looks.
        scaled_by_value: improvements are divided by value / `start`: at a small rate a small one counts as much.
        low, high: never below, never above; they hold for `start`, growth and pinned values too.
        pinned: values of certain epochs, counted from 1 on its own clock, whatever the control says: `{8: 9e-3}`, or a
            list from epoch 1. After the last the control goes on from there. The run must count epochs.
        back_to_best: at each decay the net goes back to its best arrays, with the optimizer's memory "clear" or as it
            is ("keep"), and the next score is compared with the best; False: the net goes on as it is. It needs
            validation data.
        names: the scores that a function is given.

    Raises:
        ScheduleError: a value that is not as said, a `low` above `start`, a `grow_improvement` below `min_improvement`,
            a decay above the growth, or a last pinned value of 0, from which nothing leads away.
    """
    given: dict[str, Any] = {"start": start, "decay": decay, "growth": growth, "relative": relative}
    given |= {"min_improvement": min_improvement, "relative_to": relative_to, "grow_improvement": grow_improvement}
    given |= {"window": window, "every": every, "hold": hold, "scaled_by_value": scaled_by_value}
    given |= {"low": low, "high": high, "pinned": pinned or {}, "back_to_best": back_to_best}
    listened = score_of(score, names, "newbob")
    way = directed(listened, mode, "newbob")
    return _checked(listened, way, given, _call(listened, way, given))


def _checked(listened: Score, mode: str, given: Mapping[str, Any], said: str) -> Newbob:
    """The schedule of options as they were given, each of them looked at."""
    start, low, high = bounds(given["start"], given["low"], given["high"], said)
    least = number(given["min_improvement"], said, "min_improvement")
    more = given["grow_improvement"]
    if more is not None and number(more, said, "grow_improvement") < least:
        raise ScheduleError(
            f"{said}: an improvement between {more!r} and {least!r} would both decay and grow. "
            f"Write a grow_improvement of at least {least!r}."
        )
    for name in ("relative", "scaled_by_value"):
        if not isinstance(given[name], bool):
            raise ScheduleError(f"{said}: {name} is True or False, not {given[name]!r}.")
    if not given["relative"] and given["relative_to"] == "new":
        raise ScheduleError(
            f"{said}: relative_to='new' says of which score an improvement is a share, and relative=False takes the "
            "difference of two. Leave one of them out."
        )
    made = Newbob(
        listened,
        mode,
        start,
        *changes(given["decay"], given["growth"], start, said),
        given["relative"],
        least,
        choice(given["relative_to"], ("old", "new"), "relative_to", said),
        None if more is None else number(more, said),
        looks(given["window"], 1, "window", said),
        looks(given["every"], 1, "every", said),
        looks(given["hold"], 0, "hold", said),
        given["scaled_by_value"],
        low,
        high,
        pinned_by_epoch(given["pinned"], said),
        best_asked(given["back_to_best"], said),
    )
    _check_last_pinned(made)
    return made


def _check_last_pinned(made: Newbob) -> None:
    """Refuse a 0 from which the control cannot go on."""
    factors = isinstance(made.decay, float) and isinstance(made.growth, float)
    if made.pinned and factors and made._values[-1] == 0:
        raise ScheduleError(
            f"{made!r}: after epoch {made._epochs[-1]} it would stay at 0 for ever, since it is multiplied. "
            "Pin another value after it, or write low=."
        )


def _begun(progress: Progress | None) -> bool:
    """Whether anything was done on its own clock; a clock that was not told is taken for one that runs."""
    if progress is None:
        return True
    return max(_known(progress.step), _known(progress.epoch), _known(progress.samples), _known(progress.tokens)) > TINY


def _known(amount: float) -> float:
    return amount if amount == amount else -inf


def _epochs(progress: Progress | None) -> float | None:
    epoch = nan if progress is None else progress.epoch
    return epoch if epoch == epoch else None


def _call(listened: Score, mode: str, given: Mapping[str, Any]) -> str:
    """The text of the call."""
    said = "".join(f", {name}={_text(given[name])}" for name, usual in _DEFAULTS.items() if given[name] != usual)
    return f"newbob({listened!r}, {mode!r}{said}{listened.also})"


def _text(value: object) -> str:
    return str(getattr(value, "__name__", repr(value))) if callable(value) else repr(value)
