"""What: ordered rules that give a setting its value, part by part.

`Rules` is a list of (part, value); for each array the first rule whose part has the array decides. A value is

* a number (or a tuple, a bool: whatever the setting takes) or a schedule of such: the value itself;
* `times(r)`: the value given without rules (the base), multiplied by r, a number or a schedule;
* `FROZEN`: the array does not move (for the learning rate, where `0` and `None` mean the same);
* `INHERIT`: these rules do not decide; the next source does (the rules left on modules, then the base).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import Any, TypeAlias

from etude.arguments import named
from etude.errors import RuleError
from etude.values.marks import FROZEN, INHERIT, Frozen, Inherit
from etude.values.part import Part, everything, part
from etude.values.schedule import Constant, Schedule, refuse_scheduler, schedule

# What `part` takes stands on the left. A mapping has keys of one type only, so that a checker would refuse {"head": 1}.
RulesLike: TypeAlias = "Rules | Mapping[Any, Any] | Iterable[tuple[Any, Any]] | float | Schedule | None"

_RATE = "learning_rate"


@dataclass(frozen=True, slots=True)
class Times:
    """A value relative to the base: the base times `factor`."""

    factor: float | Schedule

    def __repr__(self) -> str:
        return f"times({self.factor!r})"


@named
def times(factor: float | Schedule) -> Times:
    """The base value of the setting multiplied by `factor`, a finite number or a schedule of numbers.

    Raises:
        RuleError: the factor is neither.
    """
    if not isinstance(factor, Schedule):
        return Times(_finite(factor, f"times({factor!r})"))
    if factor.kind not in ("number", "any"):
        raise RuleError(f"times({factor!r}): a factor is a number, and this is a schedule of {factor.kind}s.")
    return Times(factor)


@dataclass(frozen=True, slots=True)
class Rules:
    """Ordered pairs of part and value; the first part that has an array decides for it. Made by `rules`."""

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


@named
def rules(literal: RulesLike, *, relative: bool = False, setting: str | None = None) -> Rules:
    """The rules that a literal stands for.

    Args:
        literal: a dict or a list of pairs from parts (or what `part` takes) to values; a bare value is a rule for
            everything; None is no rules.
        relative: bare numbers and schedules are multipliers of the learning rate (as in
            `learning_rate_multipliers`), not values.
        setting: the setting they are for, which says what a value may be; for "learning_rate", 0 and None are
            `FROZEN`. None: not said yet; values stay as they are written until the rules are used.

    Raises:
        RuleError: something that is neither rules nor a value; for a rate NaN, infinite, complex or boolean numbers;
            for any other setting `FROZEN` or None.
        PartError: a left side that stands for no part.
    """
    if literal is None:
        return Rules()
    said = _RATE if relative else setting
    pairs = literal.pairs if isinstance(literal, Rules) else _pairs(literal, said)
    return Rules(tuple((part(place), _value(value, place, relative, said)) for place, value in pairs))


def _pairs(literal: object, setting: str | None) -> Iterable[tuple[Any, Any]]:
    if isinstance(literal, Mapping):
        return literal.items()
    if isinstance(literal, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in literal):
        return literal
    paired = isinstance(literal, tuple) and any(isinstance(piece, tuple | Part | str) for piece in literal)
    if isinstance(literal, list | set | str) or paired:
        raise RuleError(
            f"the rules{_for(setting)} are {literal!r}: neither a dict nor a list of pairs (part, value). "
            f'Write {{"encoder": times(0.1)}} or [("encoder", times(0.1))].'
        )
    return [(everything, literal)]


def _value(value: Any, place: object, relative: bool, setting: str | None) -> object:
    refuse_scheduler(value)
    if callable(value) and not isinstance(value, Schedule):
        value = schedule(value)
    if isinstance(value, Inherit) or setting is None:
        return value
    if setting == _RATE:
        return _rate(value, place, relative)
    if value is None or isinstance(value, Frozen):
        raise RuleError(
            f"the rule {place!r}: {value!r}{_for(setting)}: only a learning rate can be FROZEN or None. "
            f"Write a value of {setting}, or INHERIT."
        )
    return value


def _rate(value: Any, place: object, relative: bool) -> object:
    held = value.factor if isinstance(value, Times) else value
    held = held.value if isinstance(held, Constant) else held
    if held is None or held is FROZEN or (isinstance(held, Real) and not isinstance(held, bool) and held == 0):
        return FROZEN
    if not isinstance(value, Schedule | Times):
        value = _finite(value, f"the rule {place!r}: {value!r}{_for(_RATE)}")
    elif isinstance(value, Schedule) and value.kind not in ("number", "any"):
        raise RuleError(f"the rule {place!r}: {value!r}{_for(_RATE)}: a rate is a number, not a {value.kind}.")
    return Times(value) if relative and not isinstance(value, Times) else value


def _finite(value: object, said: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise RuleError(
            f"{said}: a finite number is needed. Write FROZEN (or 0) to hold a part, times(0.1) to slow it."
        )
    return int(value) if isinstance(value, Integral) else float(value)


def _for(setting: str | None) -> str:
    return "" if setting is None else f" for {setting!r}"


__all__ = ["FROZEN", "INHERIT", "Rules", "RulesLike", "Times", "rules", "times"]
