"""Rules meet one net: which rule decides each setting of each array."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from etude.arguments import Faults
from etude.bind.left import left_for
from etude.bind.table import RATE, Choice, Table, parts_of
from etude.errors import PartError, RuleError, nearest, warn
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import Part
from etude.values.rules import Rules, Times
from etude.values.schedule import Schedule, schedule
from etude.values.tree import Tree


def resolve(
    tree: Tree,
    base: Mapping[str, Schedule],
    rules: Mapping[str, Rules],
    update_schedule: Schedule | None = None,
    only: Part | None = None,
    *,
    strict: bool = False,
    own: Mapping[str, Mapping[str, Schedule]] = MappingProxyType({}),
    held: Collection[str] = (),
    thawed: Collection[str] = (),
) -> Table:
    """Decide which rule gives each setting of each trainable array.

    Args:
        tree: the net.
        base: the value of each setting without rules.
        rules: the call's rules for each setting; the first that has the array decides.
        update_schedule: a schedule of parts; what is in none of them never moves.
        only: limit the table to the arrays of this part.
        strict: a rule that is wholly covered by earlier ones is an error instead of a warning.
        own: base values of single arrays, by setting and name, instead of that of all.
        held: names of arrays that were frozen by hand, whatever the rules say.
        thawed: names of arrays that were thawed by hand: rules that freeze are passed over.

    Raises:
        PartError: a rule, or a part of the update schedule, matches nothing in the net; nothing in `only` is trainable.
        RuleError: a rule is wholly covered by earlier ones and `strict`; rules for an unknown setting.
    """
    unknown = [setting for setting in rules if setting not in base]
    if unknown:
        raise RuleError(
            f"rules for {unknown[0]!r}: there is no such setting. Settings: {', '.join(base)}."
            f"{nearest(unknown[0], base)}"
        )
    faults = Faults()
    names = tree.trainable if only is None else faults.take(_limited, tree, only)
    matched = {
        setting: [faults.take(_matched, tree, setting, place, value) for place, value in made]
        for setting, made in rules.items()
    }
    places = () if update_schedule is None else parts_of(update_schedule)
    moved = [(place, faults.take(_moved, tree, place)) for place in places]
    faults.tell()
    covered = tuple(text for setting, made in rules.items() for text in _covered(made, matched[setting], setting))
    if covered and strict:
        raise RuleError("Rules that can never decide, because earlier ones cover them: " + "; ".join(covered))
    for text in covered:
        warn(f"This rule never decides, because earlier ones cover it: {text}")
    for text in (text for setting, made in rules.items() for text in _conflicts(tree, made, setting)):
        warn(text)
    choose = _Chooser(tree, base, rules, matched, own, held, thawed)
    choices = {name: {setting: choose(name, setting) for setting in base} for name in names}
    buffers = [name for name in tree.arrays if name not in tree.parameters]
    inside = set(tree.arrays) if only is None else set(only.names(tree))
    frozen = tuple(name for name in buffers if name in inside and choose(name, RATE).frozen)
    for place, meant in moved:
        here = [name for name in meant if name in choices]
        if all(choices[name][RATE].frozen for name in here) and (here or not set(meant) & set(tree.trainable)):
            warn(f"In the update schedule: {place!r} moves nothing: all its arrays are frozen or not trainable.")
    return Table(tree, choices, update_schedule, base[RATE], frozen, covered)


class _Chooser:
    """Decides for one array and one setting: the call's rules, the rules left on modules, the base."""

    def __init__(
        self,
        tree: Tree,
        base: Mapping[str, Schedule],
        rules: Mapping[str, Rules],
        matched: Mapping[str, list[frozenset[str]]],
        own: Mapping[str, Mapping[str, Schedule]],
        held: Collection[str],
        thawed: Collection[str],
    ) -> None:
        self.tree, self.base, self.rules, self.matched, self.own = tree, base, rules, matched, own
        self.held, self.thawed = frozenset(held), frozenset(thawed)

    def __call__(self, name: str, setting: str) -> Choice:
        base = self.own.get(setting, {}).get(name, self.base[setting])
        absolute = base != self.base[setting]
        if setting == RATE and name in self.held:
            return Choice(None, None, "frozen by hand")
        thawed = setting == RATE and name in self.thawed
        for (place, value), names in zip(self.rules.get(setting, ()), self.matched.get(setting, ()), strict=True):
            if name in names and not (thawed and value is FROZEN):
                if value is INHERIT:
                    break
                return self._choice(base, absolute, value, f"{place!r}: {value!r}")
        left = left_for(self.tree, name, setting)
        if left is not None and not (thawed and left[0] is FROZEN):
            return self._choice(base, absolute, *left)
        return Choice(base, None, "no rule", absolute)

    def _choice(self, base: Schedule, absolute: bool, value: Any, rule: str) -> Choice:
        if value is FROZEN:
            return Choice(None, None, rule)
        if isinstance(value, Times):
            factor = schedule(value.factor)
            return Choice(base, None if value.factor == 1 else factor, rule, absolute)
        return Choice(schedule(value), None, rule, absolute=True)


def _matched(tree: Tree, setting: str, place: Part, value: Any) -> frozenset[str]:
    """The names that a rule is for."""
    try:
        names = frozenset(place.names(tree))
    except PartError as error:
        raise PartError(f"In the rule {place!r}: {value!r} for {setting}: {error}") from None
    if not names and not place.may_be_empty:
        raise PartError(
            f"The rule {place!r}: {value!r} for {setting} selects no arrays, so it would do nothing. "
            f"{_without_arrays(tree, place)}"
        )
    return names


def _moved(tree: Tree, place: Part) -> tuple[str, ...]:
    """The names that a part of the update schedule is for."""
    try:
        names = place.names(tree)
    except PartError as error:
        raise PartError(f"In the update schedule: {error}") from None
    if not names:
        raise PartError(
            f"In the update schedule: {place!r} selects no arrays, so nothing would move. "
            f"{_without_arrays(tree, place)}"
        )
    return names


def _covered(rules: Rules, matched: list[frozenset[str]], setting: str) -> list[str]:
    seen: set[str] = set()
    texts = []
    for (place, value), names in zip(rules, matched, strict=True):
        if names and names <= seen:
            texts.append(f"{setting}: {place!r}: {value!r}")
        seen |= names
    return texts


def _limited(tree: Tree, only: Part) -> tuple[str, ...]:
    """The trainable arrays of a part, of which there has to be one."""
    inside = only.names(tree)
    names = tree.in_order(set(inside) & set(tree.trainable))
    if not names:
        why = _without_arrays(tree, only) if not inside else "None of its arrays has requires_grad=True."
        raise PartError(f"{only!r} has nothing to train. {why}")
    return names


def _conflicts(tree: Tree, rules: Rules, setting: str) -> list[str]:
    """Shared arrays to which two rules give two values, each by another of the array's names."""
    texts = []
    shared = {name: paths for name, paths in tree.names.items() if len(paths) > 1 and name in tree.trainable}
    for name, paths in shared.items():
        found = [(place, value, set(paths) & _paths(tree, place)) for place, value in rules]
        found = [(place, value, own) for place, value, own in found if own]
        first = found[0] if found else None
        other = next((each for each in found if first and not each[2] & first[2] and each[1] != first[1]), None)
        if first and other:
            texts.append(
                f"The shared array {name!r} ({', '.join(paths)}) gets two values of {setting}: {first[1]!r} by "
                f"{first[0]!r} and {other[1]!r} by {other[0]!r}. The first is used."
            )
    return texts


def _paths(tree: Tree, place: Part) -> frozenset[str]:
    """The paths of a part and of everything under it."""
    return tree.remember(
        ("paths", place), lambda: frozenset(path for node in place.nodes(tree) for path in tree.paths_below(node))
    )


def _without_arrays(tree: Tree, place: Part) -> str:
    """What a part without arrays stands for, and what to write."""
    nodes = place.nodes(tree)
    if not nodes:
        return "It is empty in this net. Write parts that have arrays in common, or leave the rule out."
    kinds = ", ".join(f"{path!r} ({type(tree.nodes[path]).__name__})" for path in nodes[:3])
    return (
        f"It stands for {kinds}. Name a layer with arrays, such as {next(iter(tree.arrays), None)!r}, or leave it out."
    )
