"""Rates by epoch, and straight lines between points, as schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from numbers import Real

from etude.arguments import named
from etude.errors import SettingError
from etude.values.curves import linear
from etude.values.schedule import Schedule, constant, pieces
from etude.values.spans import Span, epochs, steps


@named
def piecewise_linear(points: Mapping[float, float], unit: Callable[[float], Span] = steps) -> Schedule:
    """RETURNN's `PiecewiseLinear`: straight lines between points, and constant before the first and after the last.

    Args:
        points: values by position: `{0: 1.0, 1000: 0.1}`. unit: what positions are counted in: `steps`, `epochs`, ...

    Raises:
        SettingError: no points, a position that is no number, or a unit that is none. ScheduleError: a position below
            0, or a value that is no finite number.
    """
    if not isinstance(points, Mapping) or not points:
        raise SettingError(
            f"piecewise_linear({points!r}): points are needed. Write piecewise_linear({{0: 1.0, 1000: 0.1}})."
        )
    if strange := [x for x in points if not is_number(x)]:
        raise SettingError(
            f"piecewise_linear({points!r}): a position is a number, not {strange[0]!r}. Write {{0: 1.0, 1000: 0.1}}."
        )
    if not callable(unit) or not isinstance(unit(1), Span):
        raise SettingError(
            f"piecewise_linear(unit={unit!r}): positions are counted in steps, epochs, samples, tokens or fraction, "
            "which are functions. Write unit=epochs."
        )
    ordered = sorted(points.items())
    if len(ordered) == 1:
        return constant(ordered[0][1])
    lines = [(unit(x), linear(y, end, over=unit(after - x))) for (x, y), (after, end) in pairwise(ordered)]
    (begin, line), *rest = lines
    if begin.amount:
        return pieces(ordered[0][1], *lines)
    return pieces(line, *rest) if rest else line


def by_epoch(rates: Mapping[int, float]) -> Schedule:
    """Rates by epoch, each until the next."""
    ordered = sorted(rates.items())
    changed = [ordered[0], *(new for old, new in pairwise(ordered) if new[1] != old[1])]
    (_, first), *rest = changed
    made = [(epochs(epoch - 1), rate) for epoch, rate in rest]
    return pieces(first, *made) if made else constant(first)


def is_number(value: object) -> bool:
    """Whether it is a real number, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)
