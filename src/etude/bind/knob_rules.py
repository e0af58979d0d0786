"""What stands in `knobs=`: for each attribute, ordered rules by part of the net or by object of the user's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import UnionType
from typing import Any, TypeAlias

from torch import nn

from etude.arguments import Faults, told_of
from etude.bind.dials import refuse_name
from etude.errors import SettingError
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import Named, OfType, Part, everything, part
from etude.values.rules import Rules, Times, times
from etude.values.schedule import Constant, Schedule, schedule
from etude.values.tree import Tree

KnobsLike: TypeAlias = "Mapping[str, Any] | tuple[KnobRule, ...] | None"
"""Attribute names, each with a value, a schedule, or rules: `{part or object: value}`, or a list of pairs of these."""

_PLACES = (Part, str, int, slice, tuple, set, frozenset, UnionType, re.Pattern)


@dataclass(frozen=True, slots=True, eq=False)
class KnobRule:
    """One rule for one attribute.

    Attributes:
        attribute: its name. place: a part of the net, or an object of the user's own.
        value: a schedule, `times(r)`, or INHERIT.
    """

    attribute: str
    place: Any
    value: Schedule | Times | Any

    def place_in(self, tree: Tree) -> Part | None:
        """The part of a net that is meant; None where an object is, which is not in the net."""
        place = self.place
        if isinstance(place, nn.Module):
            inside = any(node is place for node in tree.nodes.values())
            return part(place) if inside else None
        return place if isinstance(place, Part) else None

    @property
    def said(self) -> str:
        """The rule in words, for messages."""
        return f"knobs: the rule {shown(self.place)}: {_value_text(self.value)} for {self.attribute!r}"


def read_knobs(literal: KnobsLike) -> tuple[KnobRule, ...]:
    """The rules that `knobs=` stands for, looked at as far as that can be done without a net.

    Args:
        literal: a dict of attribute names. To each belongs a value or schedule, for every module of the net that has
            the attribute, or rules as a dict or list of pairs. On the left of a rule stands a part (or what `part`
            takes), or an object that has the attribute; what cannot be a key of a dict stands in a list of pairs. On
            the right a value, a schedule, a function of `Progress`, `times(r)` or INHERIT. None: no knobs.

    Raises:
        SettingError: no dict, a name that is no attribute's, no rules, FROZEN or None as a value.
        PartError, ScheduleError, RuleError: a left side that stands for no part, a value that cannot be one.
    """
    if literal is None:
        return ()
    if isinstance(literal, tuple) and all(isinstance(rule, KnobRule) for rule in literal):
        return literal
    if not isinstance(literal, Mapping):
        raise SettingError(
            f"knobs={literal!r}: a dict from attribute names to values is needed. Write "
            "knobs={'p': {nn.Dropout: linear(0, 0.2)}}."
        )
    faults = Faults()
    made = [faults.take(_rules, name, own) for name, own in literal.items()]
    faults.tell()
    return tuple(rule for rules in made for rule in rules)


def shown(place: Any) -> str:
    """A left side as it is shown: parts as they are written, objects by their type."""
    return repr(place) if isinstance(place, Part) else f"<{type(place).__name__}>"


def labels(rules: Iterable[KnobRule]) -> list[str]:
    """A name for each rule that is none twice: "p", or "p[nn.Dropout]" where an attribute has several rules."""
    rules = tuple(rules)
    count: dict[str, int] = {}
    made = []
    for rule in rules:
        alone = sum(other.attribute == rule.attribute for other in rules) == 1
        label = rule.attribute if alone else f"{rule.attribute}[{_place_text(rule.place)}]"
        count[label] = count.get(label, 0) + 1
        made.append(label if count[label] == 1 else f"{label} {count[label]}")
    return made


def _rules(name: str, literal: Any) -> list[KnobRule]:
    attribute = refuse_name(name)
    pairs = _pairs(attribute, literal)
    if not pairs:
        raise SettingError(f"knobs: {attribute!r} has no rules. Write {{nn.Dropout: 0.1}}, or leave it out.")
    return [KnobRule(attribute, _place(attribute, place), _value(attribute, value)) for place, value in pairs]


def _pairs(attribute: str, literal: Any) -> list[tuple[Any, Any]]:
    if isinstance(literal, Mapping):
        return list(literal.items())
    if isinstance(literal, Rules):
        return list(literal)
    if not isinstance(literal, list | tuple):
        return [(everything, literal)]
    if isinstance(literal, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in literal):
        return literal
    raise SettingError(
        f"knobs: {attribute!r} is given {literal!r}: neither a value nor a list of pairs (part or object, value). "
        f"Write {{{attribute!r}: [(augment, linear(0, 1))]}}."
    )


def _place(attribute: str, place: Any) -> Any:
    """A left side: what can be a part is one, anything else an object, which has to have the attribute."""
    kind = isinstance(place, type) and issubclass(place, nn.Module)
    if isinstance(place, nn.Module):
        return place
    if isinstance(place, _PLACES) or kind:
        with told_of(f"knobs: {attribute!r}"):
            return part(place)
    return place


def _value(attribute: str, value: Any) -> Any:
    if value is INHERIT:
        return value
    with told_of(f"knobs: {attribute!r}"):
        made = times(schedule(value.factor)) if isinstance(value, Times) else schedule(value)
    inner = schedule(made.factor) if isinstance(made, Times) else made
    held = inner.value if isinstance(inner, Constant) else 0.0
    if held is None or held is FROZEN or isinstance(held, Part) or inner.kind == "part":
        raise SettingError(
            f"knobs: {attribute!r} is given {value!r}: a knob is a number, a bool or a text. Write INHERIT to leave it "
            "as it is."
        )
    if isinstance(made, Times) and (inner.kind not in ("number", "any") or not isinstance(held, Real)):
        raise SettingError(f"knobs: {attribute!r} is given {value!r}: a factor is a number.")
    return made


def _place_text(place: Any) -> str:
    """A left side as a label has it."""
    if isinstance(place, Named):
        return place.name
    if isinstance(place, OfType):
        return place.type.__name__
    if isinstance(place, Part):
        text = repr(place)
        return text[6:-2] if text.startswith("part('") and text.count("(") == 1 else text
    return type(place).__name__


def _value_text(value: Any) -> str:
    inner = value.factor if isinstance(value, Times) else value
    text = repr(inner.value) if isinstance(inner, Constant) else repr(inner)
    return f"times({text})" if isinstance(value, Times) else text
