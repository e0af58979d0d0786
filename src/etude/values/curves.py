"""Curves: numbers that move along a formula.

A curve over `n` steps has, before step `t` (counted from 0), gone `x = t / n` of its way: its first step has exactly
`start`, and from step `n` on it holds exactly `end`. Without `over=` its way is the whole run, or what is left of it
where its clock begins later (`then`, `pieces`).

With `ahead=True` the step about to be made is counted in: before step `t` a curve has gone `x = (t + 1) / n`, so its
first step has left `start` already and its n-th has exactly `end`. So count frameworks that number updates from 1
(MXNet's `PolyScheduler` and `CosineScheduler`), and so does `warmup`, so that its last step is full.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import cos, floor, log, pi, sqrt
from typing import final

from etude.arguments import named
from etude.errors import ScheduleError, nearest
from etude.values.algebra import Memory, Schedule
from etude.values.lengths import amount_on, surplus
from etude.values.literals import number
from etude.values.progress import TINY, Extent, Progress
from etude.values.spans import Span, progress_span

# What an option is where nothing else is said; None for all others.
_DEFAULTS = {"power": 1.0, "rise": 0.3, "floor": 0.0, "decay": 1.0, "growth": 1.0, "shape": "linear", "ahead": False}
_STARTS = {"linear": 0.0, "exponential": 0.01}


class Curve(Schedule):
    """A number that goes its way once, over a span or over the run, and then holds."""

    __slots__ = ()

    over: Span | None
    ahead: bool

    @abstractmethod
    def _value(self, x: float) -> float:
        """The value where the share `x` of the way is done, from 0 to 1."""

    def at(self, progress: Progress, memory: Memory = None) -> float:
        over = self.over
        if self.ahead:
            x = self._share_ahead(progress)
        elif over is None:
            # What `fraction` says first, without the call: schedules are asked at every step.
            total = progress.extent.steps
            x = progress.step / total if total else progress.fraction
        else:
            x = progress.amount(over.unit) / over.amount if over.amount else 1.0
        return self._value(0.0 if x < 0.0 else 1.0 if x > 1.0 else x)

    def _share_ahead(self, progress: Progress) -> float:
        """The share of the way that will be done when the step about to be made is."""
        over, extent = self.over, progress.extent
        if over is None and extent.steps is not None:
            return progress.ahead("steps") / extent.steps if extent.steps else 1.0
        if over is None or extent.convert(1, "steps", over.unit) is None:
            raise ScheduleError(
                f"{self!r} looks one step ahead, and what share of its way a step is, is not known here. "
                "Write over=steps(1000), or give the run a length in steps."
            )
        done = progress.ahead(over.unit)
        return 1.0 if done >= over.amount - TINY else done / over.amount

    @property
    def length(self) -> tuple[Span, ...] | None:
        return None if self.over is None else (self.over,)

    def _inspect(self, clock: Progress, life: Extent) -> None:
        if self.over is not None:
            amount_on(clock, self.over.unit, self)
        elif not any(clock.extent.known()):
            raise ScheduleError(
                f"{self!r} runs to the end of the run, and the run's length is not known on its clock. "
                "Write over=steps(1000), or give the run a length (steps=, epochs= or total=)."
            )
        if self.ahead:
            self._share_ahead(clock)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Linear(Curve):
    """A straight line; made by `linear`."""

    begin: float
    end: float
    over: Span | None
    ahead: bool

    def _value(self, x: float) -> float:
        # `_mix` without the call: lines are what is asked most.
        low, high = self.begin, self.end
        if x <= 0:
            return low
        return high if x >= 1 else low + (high - low) * x

    def __repr__(self) -> str:
        return _call("linear", self.begin, self.end, over=self.over, ahead=self.ahead)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Cosine(Curve):
    """Half a wave of the cosine; made by `cosine`."""

    begin: float
    end: float
    over: Span | None
    ahead: bool

    def _value(self, x: float) -> float:
        return _mix(self.end, self.begin, (1 + cos(pi * x)) / 2)

    def __repr__(self) -> str:
        return _call("cosine", self.begin, self.end, over=self.over, ahead=self.ahead)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Polynomial(Curve):
    """A power of what is left of the way; made by `polynomial`."""

    begin: float
    end: float
    power: float
    over: Span | None
    ahead: bool

    def _value(self, x: float) -> float:
        return _mix(self.end, self.begin, (1 - x) ** self.power)

    def __repr__(self) -> str:
        return _call("polynomial", self.begin, self.end, power=self.power, over=self.over, ahead=self.ahead)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Exponential(Curve):
    """The same factor at each step; made by `exponential`."""

    begin: float
    end: float
    over: Span | None
    ahead: bool

    def _value(self, x: float) -> float:
        return self.end if x == 1 else self.begin * (self.end / self.begin) ** x

    def __repr__(self) -> str:
        return _call("exponential", self.begin, self.end, over=self.over, ahead=self.ahead)


@final
@dataclass(frozen=True, slots=True, repr=False)
class OneCycle(Curve):
    """Up and down once, along two half waves; made by `one_cycle`."""

    peak: float
    begin: float
    end: float
    rise: float
    over: Span | None
    ahead: bool

    def _value(self, x: float) -> float:
        if x <= self.rise:
            return _mix(self.begin, self.peak, (1 - cos(pi * x / self.rise)) / 2)
        return _mix(self.peak, self.end, (1 - cos(pi * (x - self.rise) / (1 - self.rise))) / 2)

    def __repr__(self) -> str:
        given = (self.peak, self.begin, self.end)
        return _call("one_cycle", *given, rise=self.rise, over=self.over, ahead=self.ahead)


@final
@dataclass(frozen=True, slots=True, repr=False)
class InverseSqrt(Schedule):
    """Held, then falling with the square root; made by `inverse_sqrt`."""

    begin: float
    after: Span

    def at(self, progress: Progress, memory: Memory = None) -> float:
        after = self.after
        x = progress.amount(after.unit) / after.amount
        return self.begin if x <= 1 else self.begin / sqrt(x)

    def __repr__(self) -> str:
        return _call("inverse_sqrt", self.begin, self.after)

    def _inspect(self, clock: Progress, life: Extent) -> None:
        amount_on(clock, self.after.unit, self)


@final
@dataclass(frozen=True, slots=True, repr=False)
class StepDecay(Schedule):
    """Multiplied by a factor at each multiple of a span; made by `step_decay`."""

    begin: float
    factor: float
    every: Span
    floor: float

    def at(self, progress: Progress, memory: Memory = None) -> float:
        every = self.every
        return max(self.floor, self.begin * self.factor ** floor(progress.amount(every.unit) / every.amount + TINY))

    def __repr__(self) -> str:
        return _call("step_decay", self.begin, self.factor, self.every, floor=self.floor)

    def _inspect(self, clock: Progress, life: Extent) -> None:
        amount_on(clock, self.every.unit, self)


@final
@dataclass(frozen=True, slots=True, repr=False)
class MultiStep(Schedule):
    """Multiplied by a factor at given moments; made by `multi_step`."""

    begin: float
    factor: float
    moments: tuple[Span, ...]
    # The value after each number of moments.
    _values: tuple[float, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        values = tuple(self.begin * self.factor**k for k in range(len(self.moments) + 1))
        object.__setattr__(self, "_values", values)

    def at(self, progress: Progress, memory: Memory = None) -> float:
        reached = 0
        for moment in self.moments:
            if progress.amount(moment.unit) < moment.amount - TINY:
                break
            reached += 1
        return self._values[reached]

    def __repr__(self) -> str:
        return _call("multi_step", self.begin, self.factor, list(self.moments))

    def _inspect(self, clock: Progress, life: Extent) -> None:
        for moment in self.moments:
            amount_on(clock, moment.unit, self)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Cyclic(Schedule):
    """Up and down over and over; made by `cyclic`."""

    low: float
    high: float
    period: Span
    decay: float
    shape: str

    def at(self, progress: Progress, memory: Memory = None) -> float:
        x = progress.amount(self.period.unit) / self.period.amount
        laps = floor(x + TINY)
        x = max(x - laps, 0.0)
        up = 1 - abs(2 * x - 1) if self.shape == "linear" else (1 - cos(2 * pi * x)) / 2
        return _mix(self.low, _mix(self.low, self.high, self.decay**laps), up)

    def __repr__(self) -> str:
        return _call("cyclic", self.low, self.high, self.period, decay=self.decay, shape=self.shape)

    def _inspect(self, clock: Progress, life: Extent) -> None:
        amount_on(clock, self.period.unit, self)


@final
@dataclass(frozen=True, slots=True, repr=False)
class WarmRestarts(Schedule):
    """Half a wave down, over and over, each as long as `growth` times the one before; made by `warm_restarts`."""

    begin: float
    end: float
    period: Span
    growth: float
    decay: float

    def at(self, progress: Progress, memory: Memory = None) -> float:
        laps, x = _lap(progress.amount(self.period.unit) / self.period.amount, self.growth)
        return _mix(self.end, _mix(self.end, self.begin, self.decay**laps), (1 + cos(pi * x)) / 2)

    def __repr__(self) -> str:
        return _call("warm_restarts", self.begin, self.end, self.period, growth=self.growth, decay=self.decay)

    def _inspect(self, clock: Progress, life: Extent) -> None:
        amount_on(clock, self.period.unit, self)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Warmup(Schedule):
    """A factor that reaches 1 and stays there; made by `warmup`."""

    over: Span
    begin: float
    shape: str

    def at(self, progress: Progress, memory: Memory = None) -> float:
        over = self.over
        if self.shape == "constant":
            return self.begin if progress.amount(over.unit) < over.amount - TINY else 1.0
        done = progress.ahead(over.unit)
        if done >= over.amount - TINY:
            return 1.0
        x = done / over.amount
        return self.begin + (1 - self.begin) * x if self.shape == "linear" else self.begin ** (1 - x)

    @property
    def length(self) -> tuple[Span, ...] | None:
        return (self.over,)

    def __repr__(self) -> str:
        start = None if self.begin == _STARTS.get(self.shape) else self.begin
        return _call("warmup", self.over, start=start, shape=self.shape)

    def _inspect(self, clock: Progress, life: Extent) -> None:
        amount_on(clock, self.over.unit, self)
        left, known = surplus(life, self.over), dict(life.known())
        # What is never reached (a piece after the end of a short run) has no warm-up to finish.
        if left is not None and left < -TINY and all(known.values()):
            lasts = ", ".join(f"{length:g} {unit}" for unit, length in known.items())
            raise ScheduleError(
                f"{self!r} is longer than what it warms up: that lasts {lasts}. "
                "Write a shorter warm-up, such as warmup(fraction(0.05))."
            )


@named
def linear(start: float, end: float, over: Span | None = None, *, ahead: bool = False) -> Schedule:
    """A straight line from `start` to `end`: `start + (end - start) x`.

    Args:
        start, end: any finite numbers.
        over: a span of progress; None: to the end of the run.
        ahead: the step about to be made is counted in; see the top of this module.

    Raises:
        ScheduleError: a value that is no finite number, or `over` is no span of progress. So for all curves. With
            `ahead=True` also, before the first step, if the share of the way that a step takes cannot be known.
    """
    said = _call("linear", start, end, over=over, ahead=ahead)
    return Linear(
        number(start, said, "start"), number(end, said, "end"), _over(over, said), _bool(ahead, "ahead", said)
    )


@named
def cosine(start: float, end: float = 0.0, over: Span | None = None, *, ahead: bool = False) -> Schedule:
    """Half a wave: `end + (start - end) (1 + cos(pi x)) / 2` (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Args: as for `linear`.
    """
    said = _call("cosine", start, end, over=over, ahead=ahead)
    return Cosine(
        number(start, said, "start"), number(end, said, "end"), _over(over, said), _bool(ahead, "ahead", said)
    )


@named
def polynomial(
    start: float, end: float = 0.0, power: float = 1.0, over: Span | None = None, *, ahead: bool = False
) -> Schedule:
    """A power of what is left of the way: `end + (start - end) (1 - x) ** power`.

    Args:
        start, end, over, ahead: as for `linear`.
        power: above 0.
    """
    said = _call("polynomial", start, end, power=power, over=over, ahead=ahead)
    first, last, bend = number(start, said, "start"), number(end, said, "end"), _above(power, 0, "power", said)
    return Polynomial(first, last, bend, _over(over, said), _bool(ahead, "ahead", said))


@named
def exponential(start: float, end: float, over: Span | None = None, *, ahead: bool = False) -> Schedule:
    """The same factor at each step: `start (end / start) ** x`.

    Args:
        start, end: not 0, and of one sign.
        over, ahead: as for `linear`.
    """
    said = _call("exponential", start, end, over=over, ahead=ahead)
    first, last = number(start, said, "start"), number(end, said, "end")
    if first * last <= 0:
        raise ScheduleError(f"{said}: no factor leads from {first!r} to {last!r}. Write a small end, or linear(...).")
    return Exponential(first, last, _over(over, said), _bool(ahead, "ahead", said))


@named
def one_cycle(
    peak: float,
    start: float | None = None,
    end: float | None = None,
    rise: float = 0.3,
    over: Span | None = None,
    *,
    ahead: bool = False,
) -> Schedule:
    """Up to `peak` and down again, along half waves (Smith and Topin 2018, arXiv:1708.07120).

    Args:
        peak: the highest value. start: the first, `peak / 25` if None. end: the last, `peak / 1e4` if None.
        rise: the share of the way that leads up, between 0 and 1. over, ahead: as for `linear`.
    """
    said = _call("one_cycle", peak, start, end, rise=rise, over=over, ahead=ahead)
    top = number(peak, said, "peak")
    first = top / 25 if start is None else number(start, said, "start")
    last = top / 1e4 if end is None else number(end, said, "end")
    if not 0 < number(rise, said, "rise") < 1:
        raise ScheduleError(f"{said}: the share that rises lies between 0 and 1. Write rise=0.3.")
    return OneCycle(top, first, last, number(rise, said, "rise"), _over(over, said), _bool(ahead, "ahead", said))


@named
def inverse_sqrt(start: float, after: Span) -> Schedule:
    """`start` for the span `after`, then `start / sqrt(t / after)`, `t` being the progress in the same unit.

    With `warmup(after) *` before it, this is the schedule of Vaswani et al. 2017 (arXiv:1706.03762), but that they
    have t + 1 under the root: theirs is one step ahead after the peak.
    """
    said = _call("inverse_sqrt", start, after)
    return InverseSqrt(number(start, said, "start"), progress_span(after, f"{said}: after"))


@named
def step_decay(start: float, factor: float, every: Span, floor: float = 0.0) -> Schedule:
    """`start`, multiplied by `factor` at each multiple of `every`; never below `floor`.

    Args:
        start: at least `floor`. factor: above 0, at most 1. every: more than nothing.
    """
    said = _call("step_decay", start, factor, every, floor=floor)
    first, least = number(start, said, "start"), number(floor, said, "floor")
    if first < least:
        raise ScheduleError(f"{said}: the start {first!r} is below the floor {least!r}. Write a lower floor.")
    return StepDecay(first, _share(factor, "factor", said), progress_span(every, f"{said}: every"), least)


@named
def multi_step(start: float, factor: float, at: Sequence[Span]) -> Schedule:
    """`start`, multiplied by `factor` at each of the moments `at`.

    Args:
        start: any finite number. factor: above 0. at: moments counted from the start, one after the other.
    """
    said = _call("multi_step", start, factor, at)
    if not isinstance(at, list | tuple) or not at:
        raise ScheduleError(f"{said}: a list of moments is needed. Write at=[epochs(30), epochs(60)].")
    moments = tuple(progress_span(moment, said) for moment in at)
    for before, after in pairwise(moments):
        if before.unit != after.unit or before.amount >= after.amount:
            raise ScheduleError(f"{said}: {after!r} is not after {before!r}. Write moments in one unit, in order.")
    return MultiStep(number(start, said, "start"), _above(factor, 0, "factor", said), moments)


@named
def cyclic(low: float, high: float, period: Span, decay: float = 1.0, shape: str = "linear") -> Schedule:
    """From `low` up to `high` and back in each period, over and over (Smith 2017, arXiv:1506.01186).

    Args:
        low, high: any finite numbers. period: a whole up and down.
        decay: the rise above `low` is multiplied by it after each period; above 0, at most 1.
        shape: "linear" or "cosine".
    """
    said = _call("cyclic", low, high, period, decay=decay, shape=shape)
    kind = _one_of(shape, ("linear", "cosine"), said)
    return Cyclic(
        number(low, said, "low"),
        number(high, said, "high"),
        progress_span(period, f"{said}: period"),
        _share(decay, "decay", said),
        kind,
    )


@named
def warm_restarts(
    start: float, end: float = 0.0, period: Span | None = None, growth: float = 1.0, decay: float = 1.0
) -> Schedule:
    """Half a wave from `start` down to `end`, over and over (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Args:
        start, end: any finite numbers. period: the length of the first wave; it must be given.
        growth: each wave is so many times as long as the one before; at least 1.
        decay: the height above `end` is multiplied by it at each restart; above 0, at most 1.
    """
    said = _call("warm_restarts", start, end, period=period, growth=growth, decay=decay)
    if period is None:
        raise ScheduleError(f"{said}: the length of the first wave is missing. Write period=epochs(10).")
    longer = number(growth, said, "growth")
    if longer < 1:
        raise ScheduleError(f"{said}: waves that get shorter never end. Write a growth of at least 1.")
    fall = _share(decay, "decay", said)
    return WarmRestarts(
        number(start, said, "start"), number(end, said, "end"), progress_span(period, f"{said}: period"), longer, fall
    )


@named
def warmup(over: Span, start: float | None = None, shape: str = "linear") -> Schedule:
    """A factor that reaches 1 at the end of `over` and stays; multiply anything by it.

    Over `n` steps, the first has `start + (1 - start) / n` and the n-th exactly 1 ("linear"); the n-th root of the way
    from `start` to 1 at each step ("exponential"); or `start` at all n steps ("constant").

    Args:
        over: a span of progress; a span of nothing is no warm-up.
        start: from 0 to 1, default 0; for "exponential" above 0, default 0.01; for "constant" above 0, no default.
        shape: "linear", "exponential" or "constant".

    Raises:
        ScheduleError: as said; and before the first step, if `over` is longer than the run.
    """
    said = _call("warmup", over, start=start, shape=shape)
    kind = _one_of(shape, ("linear", "exponential", "constant"), said)
    given = _STARTS.get(kind) if start is None else number(start, said, "start")
    if given is None or not 0 <= given <= 1 or (given == 0 and kind != "linear"):
        least = "from 0" if kind == "linear" else "above 0 and"
        raise ScheduleError(f"{said}: the factor it starts with must be {least} up to 1. Write start=0.1.")
    return Warmup(progress_span(over, f"{said}: over", zero=True), given, kind)


def _mix(low: float, high: float, weight: float) -> float:
    """From `low` (weight 0) to `high` (weight 1), exact at both ends."""
    if weight <= 0:
        return low
    return high if weight >= 1 else low + (high - low) * weight


def _lap(position: float, growth: float) -> tuple[int, float]:
    """The lap at a position counted in first laps, and the share of it that is done."""
    if growth == 1:
        laps = floor(position + TINY)
        return laps, max(position - laps, 0.0)
    # The laps before lap k take (growth**k - 1) / (growth - 1) first laps.
    laps = max(floor(log(position * (growth - 1) + 1, growth) + TINY), 0)
    begun = (growth**laps - 1) / (growth - 1)
    return laps, min(max((position - begun) / growth**laps, 0.0), 1.0)


def _over(over: object, said: str) -> Span | None:
    return None if over is None else progress_span(over, f"{said}: over", zero=True)


def _bool(value: object, name: str, said: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ScheduleError(f"{said}: {name} is True or False, not {value!r}.")


def _above(value: object, least: float, name: str, said: str) -> float:
    if (given := number(value, said, name)) > least:
        return given
    raise ScheduleError(f"{said}: {name} must be above {least}, not {value!r}.")


def _share(value: object, name: str, said: str) -> float:
    if 0 < (given := number(value, said, name)) <= 1:
        return given
    raise ScheduleError(f"{said}: {name} must be above 0 and at most 1, not {value!r}. Write {name}=0.5.")


def _one_of(shape: object, shapes: tuple[str, ...], said: str) -> str:
    if isinstance(shape, str) and shape in shapes:
        return shape
    raise ScheduleError(f"{said}: the shape is one of {', '.join(map(repr, shapes))}.{nearest(str(shape), shapes)}")


def _call(name: str, *given: object, **options: object) -> str:
    """The text of a call, without the options that have their default."""
    said = [f"{key}={value!r}" for key, value in options.items() if value != _DEFAULTS.get(key)]
    return f"{name}({', '.join([*map(repr, given), *said])})"
