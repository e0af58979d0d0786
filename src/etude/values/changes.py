"""What becomes of a value step by step: a factor or a function, bounds, and values pinned to epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import TypeAlias

from etude.errors import ScheduleError
from etude.values.algebra import Schedule
from etude.values.literals import number
from etude.values.spans import Span

Change: TypeAlias = "float | Callable[[float], float]"
"""What becomes of a value: a factor, or a function of it."""


def bounds(start: object, low: object, high: object, said: str) -> tuple[float, float, float]:
    """What it starts with and the bounds, as numbers; ScheduleError where they contradict one another."""
    first, least = float(number(start, said, "start")), float(number(low, said, "low"))
    most = inf if high == inf else float(number(high, said, "high"))
    if first <= 0:
        raise ScheduleError(f"{said}: it must start above 0, for it is multiplied. Write start=1e-3.")
    if least < 0:
        raise ScheduleError(f"{said}: low must be at least 0. Write low=0.0.")
    if least > first:
        raise ScheduleError(f"{said}: low={least!r} is above the start {first!r}: a decay would raise it. Write less.")
    if most < first:
        raise ScheduleError(f"{said}: high={most!r} is below the start {first!r}. Write more.")
    return first, least, most


def changes(decay: object, growth: object, start: float, said: str) -> tuple[Change, Change]:
    """What becomes of a value that did not improve, and of one that did.

    Raises:
        ScheduleError: a factor that is not above 0, a function that gives no number, or a decay above the growth.
    """
    fall, rise = _change(decay, "decay", start, said), _change(growth, "growth", start, said)
    if isinstance(fall, float) and isinstance(rise, float) and fall > rise:
        raise ScheduleError(
            f"{said}: decay={fall!r} is above growth={rise!r}: what does not improve would fare better. "
            "Write decay=0.5, growth=1.0."
        )
    return fall, rise


def _change(given: object, name: str, start: float, said: str) -> Change:
    """A factor, or a function that gives numbers."""
    if callable(given) and not isinstance(given, type | Schedule):
        applied(given, start, f"{said}: {name}")
        return given
    factor = float(number(given, said, name))
    if factor <= 0:
        usual = 0.5 if name == "decay" else 1.0
        raise ScheduleError(f"{said}: {name} must be above 0, not {given!r}. Write {name}={usual}.")
    return factor


def applied(change: Change, value: float, said: str) -> float:
    """The value after a change; ScheduleError where a function fails, or makes no number of at least 0 of it."""
    if isinstance(change, float):
        return value * change
    try:
        made = number(change(value), said)
    except ScheduleError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}".rstrip(".")
        raise ScheduleError(f"{said}: the function failed at {value!r}: {what}.") from error
    if made < 0:
        raise ScheduleError(f"{said}: the function makes {made!r} of {value!r}: a number of at least 0 is needed.")
    return float(made)


def pinned_by_epoch(given: object, said: str) -> tuple[tuple[int, float], ...]:
    """Pinned values by epoch, in order."""
    items = dict(enumerate(given, 1)) if isinstance(given, list | tuple) else given
    if not isinstance(items, Mapping):
        raise ScheduleError(f"{said}: pinned is a dict from epoch to value, or a list. Write pinned={{8: 1e-3}}.")
    for epoch in items:
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
            other = " For other moments write pieces(...)." if isinstance(epoch, Span) else ""
            raise ScheduleError(
                f"{said}: pinned epochs are whole numbers from 1, not {epoch!r}. Write pinned={{8: 1e-3}}.{other}"
            )
    values = {epoch: float(number(value, said, f"epoch {epoch}")) for epoch, value in items.items()}
    if min(values.values(), default=0) < 0:
        raise ScheduleError(f"{said}: pinned values are at least 0. Write pinned={{8: 1e-3}}.")
    return tuple(sorted(values.items()))
