"""The rules of `knobs=` on one net: for each the attributes for which it decides, looked at before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from etude.arguments import Faults, told_of
from etude.bind.dials import Dial, near, why_not
from etude.bind.knob_rules import KnobRule
from etude.errors import PartError, RuleError, SettingError, warn
from etude.values import preview
from etude.values.progress import Extent, Progress
from etude.values.rules import Times
from etude.values.schedule import Constant, Cycle, Pieces, Schedule, Then, Until
from etude.values.tree import Tree

_MOMENTS = 200
"""Moments of the run at which the values of a schedule are held against what the attribute takes, before step 1."""
UNSET: Any = object()
"""The last value of an attribute to which nothing was written."""


class Line:
    """One rule and the attributes for which it decides."""

    __slots__ = ("_alike", "_kinds", "at", "dials", "label", "last", "numeric", "relative", "rule", "source", "starts")

    def __init__(self, label: str, rule: KnobRule, dials: tuple[Dial, ...]) -> None:
        self.label, self.rule, self.dials = label, rule, dials
        self.relative = isinstance(rule.value, Times)
        held = rule.value.factor if isinstance(rule.value, Times) else rule.value
        self.source: Schedule = held if isinstance(held, Schedule) else Constant(held)
        self.at = self.source.at
        self.last: Any = UNSET
        self.numeric = all(dial.kind != "text" for dial in dials)
        # One of each kind looks at a value for all of them.
        self._kinds = tuple(map(_Alike, _by_kind(dials).values()))
        self.start_from(tuple(dial.start for dial in dials))

    def start_from(self, starts: tuple[Any, ...]) -> None:
        """What `times` is relative to, for each attribute."""
        self.starts = starts
        self._alike = self.relative and len(set(starts)) == 1

    def fitted(self, value: Any) -> list[tuple[Dial, Any]]:
        """What each attribute gets for a value of the schedule; SettingError where one cannot have it."""
        if self.relative:
            return [(dial, dial.fit(start * value)) for dial, start in zip(self.dials, self.starts, strict=True)]
        return [(dial, own) for kind in self._kinds for own in (kind.first.fit(value),) for dial in kind.dials]

    def put(self, value: Any) -> None:
        """Set every attribute, or none where one cannot have the value."""
        if self.relative:
            for dial, own in self.fitted(value):
                dial.put(own)
        elif len(self._kinds) == 1:
            kind = self._kinds[0]
            kind.put(kind.first.fit(value))
        else:
            for kind, own in [(kind, kind.first.fit(value)) for kind in self._kinds]:
                kind.put(own)
        self.last = value

    def value(self, value: Any) -> Any:
        """A value of the schedule as it is told."""
        return self.starts[0] * value if self._alike else value

    @property
    def text(self) -> str:
        """The value as it is written."""
        text = repr(self.source.at(Progress())) if self.source.constant else repr(self.source)
        return f"times({text})" if self.relative else text

    @property
    def places(self) -> str:
        """Where it is written, shortened."""
        count = len(self.dials)
        first = ", ".join(dial.where for dial in self.dials[:2])
        return first if count <= 2 else f"{first} and {count - 2} more"


class _Alike:
    """Attributes of one name that take the same values; most are set without a call for each."""

    __slots__ = ("_name", "_owns", "_puts", "dials", "first")

    def __init__(self, dials: Sequence[Dial]) -> None:
        self.dials, self.first = dials, dials[0]
        self._name = dials[0].name
        straight = [dial.tensor is None and dial.plain for dial in dials]
        self._owns = [vars(dial.owner) for dial, own in zip(dials, straight, strict=True) if own]
        self._puts = [dial.put for dial, own in zip(dials, straight, strict=True) if not own]

    def put(self, value: Any) -> None:
        name = self._name
        for own in self._owns:
            own[name] = value
        for put in self._puts:
            put(value)


def _by_kind(dials: Sequence[Dial]) -> dict[Any, list[Dial]]:
    """Attributes that take the same values, together."""
    made: dict[Any, list[Dial]] = {}
    for dial in dials:
        made.setdefault((dial.kind, dial.range), []).append(dial)
    return made


def found(tree: Tree, rules: Sequence[KnobRule], strict: bool) -> list[tuple[Dial, ...]]:
    """For each rule the attributes for which it decides; the first rule that has one decides."""
    faults = Faults()
    taken: set[tuple[int, str]] = set()
    made = []
    for rule in rules:
        dials = faults.take(_matched, tree, rule)
        own = tuple(dial for dial in dials or () if (id(dial.owner), dial.name) not in taken)
        taken.update((id(dial.owner), dial.name) for dial in own)
        if dials and not own:
            faults.take(_covered, rule, strict)
        made.append(own)
    faults.tell()
    return made


def _covered(rule: KnobRule, strict: bool) -> None:
    text = f"{rule.said} never decides, because earlier ones cover it."
    if strict:
        raise RuleError(text)
    warn(text)


def _matched(tree: Tree, rule: KnobRule) -> tuple[Dial, ...]:
    """The attributes that a rule is for."""
    places = _places(tree, rule)
    name = rule.attribute
    have = [(owner, where, path) for owner, where, path in places if hasattr(owner, name)]
    able = [place for place in have if not why_not(place[0], name)]
    if not able:
        raise SettingError(f"{rule.said} finds nothing to write: {_absent(places, have, name)}")
    dials = tuple(Dial(owner, name, where, path) for owner, where, path in able)
    for dial in dials:
        if not dial.plain:
            dial.prove()
    return dials


def _places(tree: Tree, rule: KnobRule) -> list[tuple[Any, str, str | None]]:
    """The objects that a rule is for, each once: the object, what it is called, its path in the net."""
    place = rule.place_in(tree)
    if place is None:
        owner = rule.place
        inside = owner.named_modules() if isinstance(owner, nn.Module) else [("", owner)]
        return [(each, _called(each, path, "the object given"), None) for path, each in inside]
    with told_of(rule.said):
        nodes = place.nodes(tree)
    paths = dict.fromkeys(path for node in nodes for path in tree.paths_below(node))
    modules = {path: node for path in paths if isinstance(node := tree.nodes[path], nn.Module)}
    if not modules:
        first = ", ".join(map(repr, nodes[:3])) or "nothing in this net"
        raise PartError(f"{rule.said} selects no module, only {first}. Knobs are attributes of modules: name one.")
    seen: dict[int, tuple[Any, str, str | None]] = {}
    for path, module in modules.items():
        seen.setdefault(id(module), (module, _called(module, path, "the net"), path))
    return list(seen.values())


def _called(owner: Any, path: str, top: str) -> str:
    kind = type(owner).__name__
    return f"{kind} {path!r}" if path else f"{top} ({kind})"


def _absent(
    places: Sequence[tuple[Any, str, str | None]], have: Sequence[tuple[Any, str, str | None]], name: str
) -> str:
    """Why no attribute of a name can be written, and what there is instead."""
    owners = [owner for owner, _, _ in places]
    if isinstance(owners[0], Mapping):
        kept = "types.SimpleNamespace(...) or an object of your own"
        return f"{places[0][1]} has entries, and a knob is an attribute. Keep the numbers in {kept}."
    if have:
        owner, where, _ = have[0]
        held = getattr(owner, name)
        inner = [held] if isinstance(held, nn.Module) else owners
        return f"{name!r} of {where} is {why_not(owner, name)}.{near(name, inner)}"
    there = places[0][1] if len(places) == 1 else f"none of the {len(places)} modules there"
    lacks = "has no attribute" if len(places) == 1 else "has an attribute"
    return f"{there} {lacks} {name!r}.{near(name, owners)}"


def prove(line: Line, extent: Extent, uncounted: Sequence[str]) -> None:
    """Hold a schedule, over the run, against what its attributes take; raise what is wrong, leave all as it was."""
    with told_of(f"knobs: {line.label}"):
        if line.relative and any(dial.kind not in ("number", "whole number") for dial in line.dials):
            odd = next(dial for dial in line.dials if dial.kind not in ("number", "whole number"))
            raise SettingError(f"{line.text}: {odd.name} of {odd.where} is a {odd.kind}, which cannot be multiplied.")
        line.source.check(extent, uncounted)
        moments = [moment.without(*uncounted) for moment in preview.moments(extent, _MOMENTS, unknown=0.0)]
        for value in dict.fromkeys([*(line.source.at(moment) for moment in moments), *_written(line.source)]):
            for dial, own in line.fitted(value):
                if not dial.plain:
                    _try(dial, own)


def _try(dial: Dial, value: Any) -> None:
    """Write a value to an attribute that looks at it, and put back what was there."""
    before = dial.read()
    try:
        dial.put(value)
    except Exception as error:
        raise SettingError(
            f"{dial.name} of {dial.where} refuses {value!r}: {type(error).__name__}: {error}."
        ) from error
    finally:
        dial.put(before)


def _written(of: Schedule) -> list[Any]:
    """Values that stand as they are in a schedule of pieces, however short the time for which they hold."""
    if isinstance(of, Constant):
        return [of.value]
    if isinstance(of, Pieces | Then | Until | Cycle):
        return [value for child in of.children for value in _written(child)]
    return []
