"""Rules left on modules: they travel with the module into bigger nets and count when the call says nothing.

`set_rules(layer, learning_rate=FROZEN)` leaves rules on a module when it is built; `rules_of(layer)` reads them back.
For an array that no rule of the call decides, the rules left on the modules around it are asked, the outermost module
first (its author had the inner ones in view).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from torch import nn

from etude.errors import PartError, RuleError, warn
from etude.values.marks import FROZEN, INHERIT
from etude.values.rules import Rules, RulesLike, Times, rules
from etude.values.tree import Tree

M = TypeVar("M", bound=nn.Module)
_ATTRIBUTE = "_etude_rules"


def set_rules(module: M, *, learning_rate_multipliers: RulesLike = None, **settings: Any) -> M:
    """Leave rules on a module, replacing what was left there for the same settings; returns the module.

    Args:
        module: any module; parts in the rules are looked up inside it.
        learning_rate_multipliers: numbers by part that multiply the learning rate; 0, None and FROZEN hold a part.
        settings: rules for any setting by name, as in `Trainer(rules=...)`: a value or rules by part.
            `None` for a setting other than the learning rate takes its rules away.

    Example:
        `set_rules(nn.BatchNorm2d(8), learning_rate_multipliers={"weight": 0, "bias": 0, everything: 1})`

    Raises:
        RuleError, PartError: the rules are no rules, or name a part that the module does not have.
    """
    left = dict(rules_of(module))
    if learning_rate_multipliers is not None:
        if "learning_rate" in settings:
            raise RuleError(
                "set_rules: learning_rate and learning_rate_multipliers say the same thing; write one of them."
            )
        left["learning_rate"] = rules(learning_rate_multipliers, relative=True)
    for setting, literal in settings.items():
        if literal is None and setting == "learning_rate":
            literal = FROZEN
        left[setting] = rules(literal, setting=setting)
    tree = Tree(module)
    for made in left.values():
        for place, _ in made:
            place.nodes(tree)
    module.__dict__[_ATTRIBUTE] = {setting: made for setting, made in left.items() if made.pairs}
    return module


def rules_of(module: nn.Module) -> dict[str, Rules]:
    """The rules left on this module itself (not on those inside it), by setting."""
    return dict(module.__dict__.get(_ATTRIBUTE, {}))


def learning_rate_multipliers(net: nn.Module) -> dict[str, Any]:
    """The multiplier that each array of `net` has by what was left on its modules: a number or a schedule, 1 without.

    Frozen arrays have 0. An absolute rate left on a module is reported as the rate itself.
    """
    tree = Tree(net)
    found = {}
    for name in tree.arrays:
        decided = left_for(tree, name, "learning_rate")
        value = 1.0 if decided is None else decided[0]
        value = value.factor if isinstance(value, Times) else value
        found[name] = 0.0 if value is FROZEN else value
    return found


def settings_left(tree: Tree) -> set[str]:
    """Names of all settings for which some module of the net has rules."""
    nodes = tree.nodes.values()
    return {setting for node in nodes if isinstance(node, nn.Module) for setting in rules_of(node)}


def left_for(tree: Tree, name: str, setting: str) -> tuple[Any, str] | None:
    """What rules left on modules give this setting of an array, and which rule it was; None if they say nothing.

    A shared array takes what is found at its first occurrence in the order of the net; a warning names the values if
    another occurrence says otherwise.
    """
    found = [decided for path in tree.names[name] if (decided := _at_path(tree, path, setting)) is not None]
    if len({repr(value) for value, _ in found}) > 1:
        said = " and ".join(f"{value!r} ({rule})" for value, rule in found)
        warn(f"The shared array {name!r} has two values of {setting}: {said}. The first is used.")
    return found[0] if found else None


def _at_path(tree: Tree, path: str, setting: str) -> tuple[Any, str] | None:
    for around, module in _around(tree, path):
        left = rules_of(module).get(setting)
        if left is None:
            continue
        for place, value in left:
            if _has(tree, around, place, path):
                if value is INHERIT:
                    break
                return (
                    value,
                    f"left on {around!r}: {place!r}: {value!r}" if around else f"left on the net: {place!r}: {value!r}",
                )
    return None


def _around(tree: Tree, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules around an array, from the net inwards."""
    pieces = path.split(".")
    for depth in range(len(pieces)):
        around = ".".join(pieces[:depth])
        node = tree.nodes.get(around)
        if isinstance(node, nn.Module):
            yield around, node


def _has(tree: Tree, around: str, place: Any, path: str) -> bool:
    def arrays() -> frozenset[str]:
        try:
            nodes = place._inside(tree, (around,))
        except PartError as error:
            raise PartError(f"In the rules left on {around!r}: {error}") from None
        return frozenset(name for node in nodes for name in tree.below(node))

    return tree.name_of(path) in tree.remember(("left", around, place), arrays)
