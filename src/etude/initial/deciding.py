"""Entries meet a net: which of them decides about each array, and everything that is wrong, before anything changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from etude.arguments import Faults
from etude.errors import PartError, RuleError, SettingError, StateError, nearest, warn
from etude.initial.entries import Entry, Rule
from etude.initial.finding import Finding, Found, find
from etude.initial.growing import parts_of
from etude.initial.initialiser import Initialiser
from etude.initial.load import Fresh, Load
from etude.initial.units import Unit, layout_of, unit_of
from etude.keep.header import short
from etude.step.states import some
from etude.values.tree import Tree, has_shape

_COUNTER = "num_batches_tracked"
"""What files of older torch versions lack."""

_TOLD = 8


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """How one array gets its first values.

    Attributes:
        name: of the array. entry: the entry that decided, or None.
        finding, found: where it is loaded from, or None.
        how: what makes its values, or the rest of one that grows; None: its module did.
    """

    name: str
    entry: Entry | None = None
    finding: Finding | None = None
    found: Found | None = None
    how: Initialiser | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Met:
    """An entry that has met a net.

    Attributes:
        names: the arrays about which it decides, unless an earlier one does. finding: of a `Load`.
        drawn: those that its initialiser makes. part: all that its part selects.
    """

    entry: Entry
    names: frozenset[str]
    finding: Finding | None = None
    drawn: frozenset[str] = frozenset()
    part: frozenset[str] = frozenset()

    def how(self, name: str) -> Initialiser | None:
        """What makes one of its arrays; None where its module did."""
        return self.entry.how if not isinstance(self.entry, Load) and name in self.drawn else None


def decide(tree: Tree, entries: Sequence[Entry]) -> tuple[dict[str, Decision], tuple[Finding, ...]]:
    """The decision about every array of a net, in its order; and the files that were opened.

    Raises:
        StateError: an array has no shape or no memory as yet; a file lacks arrays, or has others. CheckpointError: a
            file cannot be read. PartError: an entry is for nothing. RuleError: an entry can never act. SettingError: an
            initialiser cannot make an array. Several faults are told at once, and nothing has been changed.
    """
    _check(tree)
    faults = Faults()
    met = [faults.take(_meet, tree, entry) for entry in entries]
    faults.tell()
    decided = {name: _decided(tree, name, met) for name in tree.arrays}
    growing = frozenset(name for name, made in decided.items() if made.found is not None and made.how is not None)
    selected = frozenset[str]().union(*(one.part for one in met))
    for index, one in enumerate(met):
        faults.take(_check_acts, one, met[:index], growing)
    for one in met:
        if one.finding is not None:
            faults.take(_check_whole, one.finding, decided, selected)
            faults.take(_check_shapes, one.finding, tree, decided)
    for made in decided.values():
        if made.how is not None:
            faults.take(_check_made, made, tree)
    faults.tell()
    return decided, tuple(one.finding for one in met if one.finding is not None)


def _check(tree: Tree) -> None:
    lazy = [name for name, array in tree.arrays.items() if not has_shape(array)]
    if lazy:
        raise StateError(f"initialize: {_have(lazy)} no shape as yet. Call the net once before.")
    empty = [name for name, array in tree.arrays.items() if array.is_meta]
    if empty:
        raise StateError(f"initialize: {_have(empty)} no memory. Write net.to_empty(device='cpu') before.")


def _have(names: Sequence[str]) -> str:
    return f"{some(names)} {'has' if len(names) == 1 else 'have'}"


def _meet(tree: Tree, entry: Entry) -> _Met:
    if isinstance(entry, Load):
        finding = find(entry, tree)
        return _Met(entry, frozenset(finding.found), finding)
    try:
        names = entry.place.names(tree)
    except PartError as error:
        raise PartError(f"initialize: in {entry!r}: {error}") from None
    if not names:
        raise PartError(f"initialize: {entry!r} selects no arrays. Name a layer that has some, or leave it out.")
    drawn = () if entry.how is None else _meant(tree, names, entry.how)
    has = drawn if isinstance(entry, Rule) and entry.how is not None else names
    return _Met(entry, frozenset(has), drawn=frozenset(drawn), part=frozenset(names))


def _meant(tree: Tree, names: Iterable[str], how: Initialiser) -> list[str]:
    """The arrays of a part that an initialiser is for.

    Its parameters, if it has any; and what is drawn is for arrays of two or more axes, if there are any: biases and the
    scales of norms are left to the next rule.
    """
    meant = [name for name in names if name in tree.parameters] or list(names)
    if not how.draws:
        return meant
    return [name for name in meant if len(unit_of(tree, name).shape) > 1] or meant


def _decided(tree: Tree, name: str, met: Sequence[_Met]) -> Decision:
    having = [one for one in met if name in one.names]
    if not having:
        return Decision(name)
    first = having[0]
    if first.finding is None:
        return Decision(name, first.entry, how=first.how(name))
    found = first.finding.found[name]
    grows = found.shape != tuple(tree.arrays[name].shape)
    rest = next((one.how(name) for one in having if one.finding is None), None) if grows else None
    return Decision(name, first.entry, first.finding, found, rest)


def _check_acts(one: _Met, before: Sequence[_Met], growing: frozenset[str]) -> None:
    """Raise, or warn of a rule, where an entry never decides.

    Args:
        growing: arrays that grow; a rule makes the rest of them.
    """
    taken = frozenset[str]().union(*(other.names for other in before))
    if not one.names <= (taken if one.finding is not None else taken - growing):
        return
    covering = next(other.entry for other in before if other.names & one.names)
    text = f"initialize: {one.entry!r} never decides: earlier entries, such as {covering!r}, have all its arrays"
    if isinstance(one.entry, Rule):
        warn(f"{text}.")
        return
    raise RuleError(f"{text} ({some(sorted(one.names))}). Put it before them, or leave it out.")


def _check_whole(finding: Finding, decided: Mapping[str, Decision], selected: frozenset[str]) -> None:
    """Raise where arrays that a file should have are in none of the entries.

    Args:
        selected: what the parts of rules select, be it that a rule leaves some of these as they are made.
    """
    lacks = [n for n in finding.claimed if decided[n].entry is None and n.rpartition(".")[2] != _COUNTER]
    lacks = [name for name in lacks if name not in selected]
    if not lacks or finding.load.missing == "fresh":
        return
    load, names = finding.load, finding.weights.arrays
    told = []
    for name in lacks[:_TOLD]:
        asked = finding.asked.get(name, name)
        near = nearest(asked, names, 1).removeprefix(" Nearest: ").rstrip(".")
        told.append(f"{name!r}{'' if asked == name else f', as {asked!r}'}{near and f' (nearest: {near})'}")
    more = f"; and {len(lacks) - _TOLD:,} more" if len(lacks) > _TOLD else ""
    raise StateError(
        f"{load!r}: neither the file nor another entry has {'; '.join(told)}{more}. Write Fresh({_around(lacks)!r}) "
        "after it for what is to stay as it is made, missing='fresh', only=, or rename={'name in the net': 'name in "
        "the file'}."
    )


def _around(names: Sequence[str]) -> str:
    """The layer that some arrays are in, if it is one; else the first of them."""
    tops = {name.partition(".")[0] for name in names}
    return tops.pop() if len(tops) == 1 and "." in names[0] else names[0]


def _check_shapes(finding: Finding, tree: Tree, decided: Mapping[str, Decision]) -> None:
    wrong = [
        f"{name!r} {why}"
        for name, found in finding.found.items()
        if decided[name].finding is finding and (why := misfit(tree, name, found, finding.load.shapes))
    ]
    if wrong:
        more = f"; and {len(wrong) - _TOLD:,} more" if len(wrong) > _TOLD else ""
        strict = finding.load.shapes == "strict"
        grow = " Write shapes='grow' to copy leading blocks, or Fresh(part) before it for a new head." if strict else ""
        raise StateError(f"{finding.load!r}: {'; '.join(wrong[:_TOLD])}{more}.{grow}")


def misfit(tree: Tree, name: str, found: Found, shapes: str) -> str:
    """Why an array cannot take what a file has for it, as the end of a sentence; "" if it can."""
    array = tree.arrays[name]
    kinds = [(dtype.is_floating_point, dtype.is_complex) for dtype in (array.dtype, found.dtype)]
    if kinds[0] != kinds[1]:
        return f"holds {array.dtype} and the file has {found.dtype}"
    if tuple(array.shape) == found.shape:
        return ""
    text = f"has the shape {tuple(array.shape)} and in the file {short(found.shape)}"
    if shapes == "strict":
        return text
    owner, _, key = name.rpartition(".")
    layout = layout_of(tree.nodes[owner], key)
    if array.ndim != len(found.shape):
        return f"{text}: as many axes are needed"
    if parts_of(found.shape, layout) is None:
        return f"{text}, which is not {layout.blocks} equal blocks"
    return ""


def _check_made(decision: Decision, tree: Tree) -> None:
    assert decision.how is not None
    unit: Unit = unit_of(tree, decision.name)
    why = (_old_weight_norm(tree, decision.name) if decision.how.draws else "") or decision.how.refuse(unit)
    why = why or _overflow(decision.how, unit, tree)
    if why:
        raise SettingError(
            f"initialize: {said(decision.entry, decision.how)} cannot make {unit.name!r} of shape {unit.shape}, which "
            f"{why}. Write a part that leaves it out, or a rule for it before: {{{unit.name!r}: 0, ...}}."
        )


def _overflow(how: Initialiser, unit: Unit, tree: Tree) -> str:
    """Why values are not finite in the type of an array that is trained, as the end of a sentence; "" if they are."""
    dtype = unit.array.dtype
    if not dtype.is_floating_point or not is_trained(unit, tree):
        return ""
    largest = how.largest(unit)
    if largest <= torch.finfo(dtype).max:
        return ""
    return f"holds {dtype}, in which numbers up to {largest:.3g} are not finite" if largest > 0 else "holds NaN by now"


def is_trained(unit: Unit, tree: Tree) -> bool:
    """Whether a unit is trained: a mask or a table beside may hold infinities."""
    return any(tree.arrays[part].requires_grad for part in unit.parts)


def said(entry: Entry | None, how: Initialiser) -> str:
    """An initialiser and the part that it is for, in words."""
    return f"{how!r} of {entry.place!r}" if isinstance(entry, Rule | Fresh) else repr(how)


def _old_weight_norm(tree: Tree, name: str) -> str:
    """Why an array is not drawn that the old `torch.nn.utils.weight_norm` has made of a weight."""
    owner, _, key = name.rpartition(".")
    module = tree.nodes[owner]
    split = isinstance(module, nn.Module) and {f"{key[:-2]}_g", f"{key[:-2]}_v"} <= set(module._parameters)
    if not split or key[-2:] not in ("_g", "_v"):
        return ""
    return "is half of a weight: put weight_norm on by torch.nn.utils.parametrizations, which is understood"
