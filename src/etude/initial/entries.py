"""What `initialize=` stands for: entries in order, of which the first that has an array decides about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from etude.errors import SettingError
from etude.initial.initialiser import Initialiser
from etude.initial.load import Fresh, Load
from etude.initial.names import InitialiserLike, initialiser
from etude.values.marks import INHERIT, Inherit
from etude.values.part import Part, everything, part
from etude.values.rules import Rules

InitialLike: TypeAlias = (
    "Rules | Mapping[Any, InitialiserLike | Load | Fresh | Inherit]"
    " | Iterable[Load | Fresh | Mapping[Any, Any] | tuple[Any, Any]] | InitialiserLike | Load | Fresh"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A part, and how its arrays get their first values; None: as the module makes them."""

    place: Part
    how: Initialiser | None

    def __repr__(self) -> str:
        return f"({self.place!r}, {INHERIT if self.how is None else self.how!r})"


Entry: TypeAlias = "Load | Fresh | Rule"


def entries(literal: InitialLike) -> tuple[Entry, ...]:
    """The entries that a literal stands for.

    Args:
        literal: a dict or a list of pairs from parts to values (see `initialiser`), `Load(...)`, `Fresh()` or INHERIT;
            a list of `Load`, `Fresh` and such pairs; or one value, for everything.

    Raises:
        SettingError, PartError: a value or a left side that stands for nothing; nothing is said at all.
    """
    if isinstance(literal, Rules):
        found = [_rule(place, value) for place, value in literal]
    elif isinstance(literal, Mapping):
        found = [_rule(place, value) for place, value in literal.items()]
    elif isinstance(literal, list | tuple):
        found = [entry for item in literal for entry in _item(item)]
    else:
        found = [_rule(everything, literal)]
    if not found:
        raise SettingError(f"initialize={literal!r} says nothing. Write {{'*.weight': 'orthogonal'}}, or leave it out.")
    return tuple(found)


def _item(item: object) -> Iterable[Entry]:
    if isinstance(item, Load | Fresh):
        return [item]
    if isinstance(item, Mapping | Rules):
        return entries(item)
    if isinstance(item, tuple) and len(item) == 2:
        return [_rule(*item)]
    raise SettingError(
        f"initialize: {item!r} in a list is no entry. Write Load(path), Fresh(part), or a pair such as "
        "('encoder', 'orthogonal')."
    )


def _rule(place: Any, value: Any) -> Entry:
    where = part(place)
    if isinstance(value, Load):
        return replace(value, only=_both(where, value.only))
    if isinstance(value, Fresh):
        return Fresh(_both(where, value.place), value.how)
    if value is None:
        raise SettingError(f"initialize: {place!r}: None says nothing. Write Fresh() to leave arrays as they are made.")
    return Rule(where, None if isinstance(value, Inherit) else initialiser(value))


def _both(one: Part, other: Part) -> Part:
    return one if other == everything else other if one == everything else one & other
