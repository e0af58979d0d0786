"""What: ordered rules that give a setting its value, part by part.

`Rules` is a list of (part, value); for each array the first rule whose part has the array decides. A value is

* a number (or a tuple, a bool: whatever the setting takes) or a schedule of such: the value itself;
* `times(r)`: the value given without rules (the base), multiplied by r, a number or a schedule;
* `FROZEN`: the array does not move (for a rate, `0` and `None` mean the same);
* `INHERIT`: these rules do not decide; the next source does (the rules left on modules, then the base).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from etude.errors import RuleError
from etude.values.marks import FROZEN, INHERIT, Frozen, Inherit
from etude.values.part import Part, PartLike, everything, part
from etude.values.schedule import Schedule, schedule

RulesLike: TypeAlias = "Rules | Mapping[PartLike, Any] | Iterable[tuple[PartLike, Any]] | float | Schedule | None"


@dataclass(frozen=True, slots=True)
class Times:
    """A value relative to the base: the base times `factor`."""

    factor: float | Schedule

    def __repr__(self) -> str:
        return f"times({self.factor!r})"


def times(factor: float | Schedule) -> Times:
    """The base value of the setting multiplied by `factor`, a finite number or a schedule of numbers.

    Raises:
        RuleError: the factor is not a finite number.
    """
    if not isinstance(factor, Schedule):
        _finite(factor, f"times({factor!r})")
    return Times(factor)


@dataclass(frozen=True, slots=True)
class Rules:
    """Ordered pairs of part and value; the first part that has an array decides for it."""

    pairs: tuple[tuple[Part, Any], ...] = ()

    def __iter__(self) -> Iterator[tuple[Part, Any]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __add__(self, other: Rules) -> Rules:
        return Rules(self.pairs + other.pairs)

    def __repr__(self) -> str:
        inside = ", ".join(f"({place!r}, {value!r})" for place, value in self.pairs)
        return f"rules([{inside}])"


def rules(literal: RulesLike, *, relative: bool = False, setting: str = "learning_rate") -> Rules:
    """The rules that a literal stands for.

    Args:
        literal: a dict or a list of pairs from parts (or what `part` takes) to values; a bare value is a rule for
            everything; None is no rules.
        relative: bare numbers and schedules are multipliers (as in `learning_rate_multipliers`), not values.
        setting: the name used in messages. For "learning_rate", 0 and None are `FROZEN`.

    Raises:
        RuleError: something that is neither rules nor a value; NaN, infinite, complex or boolean multipliers.
        PartError: a left side that stands for no part.
    """
    if literal is None:
        return Rules()
    if isinstance(literal, Rules):
        return literal
    pairs = tuple((part(place), _value(value, place, relative, setting)) for place, value in _pairs(literal, setting))
    return Rules(pairs)


def _pairs(literal: object, setting: str) -> list[tuple[Any, Any]]:
    if isinstance(literal, Mapping):
        return list(literal.items())
    if isinstance(literal, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in literal):
        return literal
    if isinstance(literal, list | set | str):
        raise RuleError(
            f"the rules for {setting!r} are {literal!r}: neither a dict nor a list of pairs (part, value). "
            f'Write {{"encoder": times(0.1)}} or [("encoder", times(0.1))].'
        )
    return [(everything, literal)]


def _value(value: object, place: object, relative: bool, setting: str) -> object:
    if isinstance(value, Frozen | Inherit | Times):
        return value
    rate = setting == "learning_rate"
    if rate and (value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value == 0)):
        return FROZEN
    if rate and not isinstance(value, Schedule) and not callable(value):
        _finite(value, f"the rule {place!r}: {value!r} for {setting!r}")
    scheduled = schedule(value) if callable(value) and not isinstance(value, Schedule) else value
    return Times(scheduled) if relative else scheduled


def _finite(value: object, said: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RuleError(f"{said}: a finite number is needed. Write FROZEN (or 0) to hold a part, times(0.1) to slow it.")


__all__ = ["FROZEN", "INHERIT", "Rules", "RulesLike", "Times", "rules", "times"]
