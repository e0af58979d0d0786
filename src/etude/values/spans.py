"""Amounts of progress and of time: `steps(200)`, `epochs(1.5)`, `minutes(10)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real

from etude.arguments import named
from etude.errors import ScheduleError, nearest

PROGRESS_UNITS = ("steps", "epochs", "samples", "tokens", "fraction")
"""The units a schedule may use."""

CLOCK_UNITS = ("seconds",)
"""Time by the clock: for cadences and time limits only."""

_UNITS = PROGRESS_UNITS + CLOCK_UNITS


@dataclass(frozen=True, slots=True, repr=False)
class Span:
    """An amount of progress, or of time. Made by `steps`, `epochs`, `samples`, `tokens`, `fraction`,
    `seconds`, `minutes` and `hours`; printed as the call that makes it.

    Spans of one unit add and subtract, and a span may be multiplied by a number.
    """

    amount: float
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in _UNITS:
            near = nearest(str(self.unit), _UNITS)
            raise ScheduleError(f"There are no spans in {self.unit!r}. Units: {', '.join(_UNITS)}.{near}")
        object.__setattr__(self, "amount", _plain(self.amount, self.unit))

    def __repr__(self) -> str:
        return f"{self.unit}({self.amount!r})"

    def __add__(self, other: Span) -> Span:
        return _MAKERS[self.unit](self.amount + self._same(other, "+"))

    def __sub__(self, other: Span) -> Span:
        return _MAKERS[self.unit](self.amount - self._same(other, "-"))

    def __mul__(self, factor: float) -> Span:
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        return _MAKERS[self.unit](self.amount * factor)

    __rmul__ = __mul__

    def __or__(self, other: Span) -> Span:
        if isinstance(other, Span):
            raise self._not_joined(other, "|")
        return NotImplemented

    def __and__(self, other: Span) -> Span:
        if isinstance(other, Span):
            raise self._not_joined(other, "&")
        return NotImplemented

    def _not_joined(self, other: Span, sign: str) -> ScheduleError:
        return ScheduleError(
            f"{self!r} {sign} {other!r}: spans are amounts, and only cadences are joined. "
            f"Write every({self!r}) {sign} every({other!r})."
        )

    def _same(self, other: object, sign: str) -> float:
        if isinstance(other, Span) and other.unit == self.unit:
            return other.amount
        raise ScheduleError(
            f"{self!r} {sign} {other!r}: spans add and subtract in one unit only. Write both in {self.unit}."
        )


@named
def steps(n: float) -> Span:
    """`n` optimizer steps; a whole number."""
    return _counted(n, "steps")


@named
def epochs(x: float) -> Span:
    """`x` passes over the data; may be a part of one."""
    return Span(x, "epochs")


@named
def samples(n: float) -> Span:
    """`n` samples; a whole number."""
    return _counted(n, "samples")


@named
def tokens(n: float) -> Span:
    """`n` tokens; a whole number."""
    return _counted(n, "tokens")


@named
def fraction(f: float) -> Span:
    """A share of the whole run, from 0 to 1; the run's length must be known."""
    span = Span(f, "fraction")
    if f > 1:
        raise ScheduleError(f"{span!r}: a share of the run is at most 1. For a number of steps write steps({f!r}).")
    return span


@named
def seconds(s: float) -> Span:
    """`s` seconds by the clock: for cadences and time limits, not for schedules."""
    return Span(s, "seconds")


@named
def minutes(m: float) -> Span:
    """`m` minutes by the clock: for cadences and time limits, not for schedules."""
    return Span(_plain(m, "minutes") * 60, "seconds")


@named
def hours(h: float) -> Span:
    """`h` hours by the clock: for cadences and time limits, not for schedules."""
    return Span(_plain(h, "hours") * 3600, "seconds")


_MAKERS: dict[str, Callable[[float], Span]] = {
    "steps": steps,
    "epochs": epochs,
    "samples": samples,
    "tokens": tokens,
    "fraction": fraction,
    "seconds": seconds,
}


def progress_span(value: object, said: str, *, zero: bool = False) -> Span:
    """`value` if it is a span of progress; for what schedules take.

    Args:
        value: what was given. said: the call it was given to, for the message, such as `"until(10)"`.
        zero: whether a span of nothing makes sense here.

    Raises:
        ScheduleError: a bare number, time by the clock, or nothing at all where something is needed.
    """
    if not isinstance(value, Span):
        raise ScheduleError(f"{said}: {no_span(value)}")
    if value.unit in CLOCK_UNITS:
        raise ScheduleError(
            f"{said}: a schedule cannot depend on time by the clock, or the run would not resume exactly. "
            "Write the span in steps, epochs, samples, tokens or fraction."
        )
    if not zero and value.amount == 0:
        raise ScheduleError(f"{said}: the span must be longer than nothing. Write steps(1) or more.")
    return value


def no_span(value: object) -> str:
    """What to write instead of `value`, where a span is needed."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return f"{value!r} of what? Write steps({value!r}) or epochs({value!r})."
    return f"a span is needed, not {value!r}. Write steps(200), epochs(1) or fraction(0.1)."


def _counted(n: float, unit: str) -> Span:
    count = _plain(n, unit)
    if count != int(count):
        raise ScheduleError(
            f"{unit}({n!r}): {unit} are whole numbers. "
            "For a share of the run write fraction(0.1), for a part of an epoch epochs(0.5)."
        )
    return Span(int(count), unit)


def _plain(amount: object, unit: str) -> float:
    """`amount` as Python's own number (so that it prints as one), if it can be an amount."""
    if isinstance(amount, bool) or not isinstance(amount, Real):
        raise ScheduleError(f"{unit}({amount!r}): a number is needed. Write {unit}(1).")
    if not isfinite(amount) or amount < 0:
        raise ScheduleError(f"{unit}({amount!r}): a finite number, not below 0, is needed.")
    return int(amount) if isinstance(amount, Integral) else float(amount)
