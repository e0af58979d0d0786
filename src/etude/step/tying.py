"""Arrays that are one for a while: one gradient, the sum of theirs, moves them all alike.

While `tie` is True the arrays that one rule names go through everything as a single array does: they count once in
joint norms, have one noise, and end with the same numbers and the same memory. Nothing is shared in the net itself, so
that later each goes on alone from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from etude.bind.table import Moving, Now, Table, parts_of
from etude.errors import SettingError
from etude.step.states import listed
from etude.values.progress import Progress
from etude.values.tree import has_shape


class Ties:
    """The ties of a table.

    Raises:
        SettingError: arrays that are tied at some time have different shapes or settings, or move at different steps.
    """

    def __init__(self, table: Table, arrays: Sequence[Tensor]) -> None:
        self._table, self._arrays = table, arrays
        self._row = {index: number for number, row in enumerate(table.rows) for index in row.indices}
        self._groups = _groups(table)
        self._proved: set[tuple[int, ...]] = set()
        for group in self._groups:
            self._check(group)

    @property
    def indices(self) -> tuple[int, ...]:
        """All arrays that are tied at some time."""
        return tuple(index for group in self._groups for index in group)

    def at(self, now: Now) -> list[tuple[int, ...]]:
        """The groups that are tied at a step, by index."""
        column = now.columns["tie"]
        return [group for group in self._groups if column[self._row[group[0]]] is True]

    def prove(self, now: Now, memory: Callable[[], Sequence[Mapping[str, Any]]], keep: bool = True) -> None:
        """Look whether the tied arrays move together, and, where a tie begins, whether they are alike.

        Args:
            now: what the table says. memory: gives what the optimizer remembers of all arrays, by index.
            keep: a tie that was found good is not looked at again while it lasts.

        Raises:
            SettingError: they are not; nothing is changed.
        """
        tied, moving = self.at(now), set(now.moving.indices)
        self._proved.intersection_update(tied)
        for group in tied:
            self._check_turn(group, moving)
            if group not in self._proved:
                self._check_alike(group, memory())
                if keep:
                    self._proved.add(group)

    def forget(self) -> None:
        """Arrays may have been given other numbers: look at every tie again."""
        self._proved.clear()

    def partners(self, now: Now, missing: set[int]) -> set[int]:
        """Of arrays without a gradient those that are tied to one that has its own: that moves them as well."""
        groups = [group for group in self.at(now) if not missing.issuperset(group)]
        return {index for group in groups for index in group} & missing

    def fold(self, whole: Moving, now: Now, values: list[Tensor]) -> tuple[Now, list[Tensor]]:
        """One gradient for each tie, under its first array.

        Args:
            whole: what moves by the table. now: that without arrays that have no gradient. values: gradients of those
                in `now`, in order.
        """
        own = dict(zip(now.moving.indices, values, strict=True))
        for group in self.at(now):
            found = [own.pop(index) for index in group if index in own]
            if found:
                own[group[0]] = found[0] if len(found) == 1 else _sum(found)
        return self._limited(whole, now, own)

    def unfold(self, whole: Moving, now: Now, values: list[Tensor], copies: bool) -> tuple[Now, list[Tensor]]:
        """The gradient of each tie for all of its arrays; `copies`: a tensor for each of them."""
        own = dict(zip(now.moving.indices, values, strict=True))
        for group in self.at(now):
            if group[0] in own:
                own.update((i, own[group[0]].clone() if copies else own[group[0]]) for i in group[1:])
        return self._limited(whole, now, own)

    def _limited(self, whole: Moving, now: Now, own: Mapping[int, Tensor]) -> tuple[Now, list[Tensor]]:
        """Of all that moves what has a gradient, and these in order."""
        out = frozenset(whole.indices).difference(own)
        moving = self._table.less(whole, out) if out else whole
        return Now(now.columns, moving), [own[index] for index in moving.indices]

    # ------------------------------------------------------------------------------------------------ what is wrong

    def _names(self, group: Sequence[int]) -> str:
        return listed(self._table.names[i] for i in group)

    def _check(self, group: tuple[int, ...]) -> None:
        names = [self._table.names[i] for i in group]
        rule = self._table.choices[names[0]]["tie"].rule
        if len(group) == 1:
            raise SettingError(
                f"tie: {rule} selects {names[0]!r} alone, which has nothing to be tied to. Name the arrays that are to "
                'be one: {part("embed.weight") | "head.weight": True}.'
            )
        shapes = {name: tuple(self._table.shapes[name]) for name in names if name in self._table.shapes}
        if len(set(shapes.values())) > 1:
            shown = ", ".join(f"{name!r} {shape}" for name, shape in shapes.items())
            raise SettingError(f"tie: {rule} selects arrays of different shapes: {shown}. Tied arrays are alike.")
        for name in names[1:]:
            self._check_settings(names[0], name)
        for place in parts_of(self._table.update_schedule) if self._table.update_schedule is not None else ():
            inside = set(names) & set(place.names(self._table.tree))
            if inside and inside != set(names):
                raise SettingError(
                    f"tie: {rule} selects {listed(names)}, and {place!r} of the update schedule has only "
                    f"{listed(sorted(inside))} of them. Tied arrays move together: put all of them into it."
                )

    def _check_settings(self, one: str, other: str) -> None:
        ours, theirs = self._table.choices[one], self._table.choices[other]
        for setting in ours:
            if ours[setting].value != theirs[setting].value:
                raise SettingError(
                    f"tie: {one!r} and {other!r} differ in {setting} ({ours[setting].rule}; {theirs[setting].rule}). "
                    f"Tied arrays move alike: give both the same {setting}."
                )

    def _check_turn(self, group: tuple[int, ...], moving: set[int]) -> None:
        inside = [index for index in group if index in moving and self._arrays[index].requires_grad]
        if inside and len(inside) != len(group):
            held = [index for index in group if index not in inside]
            raise SettingError(
                f"tie: {self._names(inside)} would move and {self._names(held)} would not, and they are tied. Nothing "
                "was changed. Let tied arrays move and rest together, or end the tie before."
            )

    def _check_alike(self, group: tuple[int, ...], memory: Sequence[Mapping[str, Any]]) -> None:
        first = self._arrays[group[0]]
        for index in group[1:]:
            other = self._arrays[index]
            what = "" if _same(first, other) else "in their numbers"
            if not what and not _same(memory[group[0]], memory[index]):
                what = "in what the optimizer remembers of them"
            if what:
                one, two = self._table.names[group[0]], self._table.names[index]
                raise SettingError(
                    f"tie: {one!r} and {two!r} are to be one from here on, and they differ {what}. Nothing was "
                    f"changed. Make them equal first: with torch.no_grad(): net.get_parameter({two!r}).copy_("
                    f"net.get_parameter({one!r})), and tie them from the first step."
                )


def _groups(table: Table) -> list[tuple[int, ...]]:
    """The arrays that each rule ties at some time."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(table.names):
        choice = table.choices[name]["tie"]
        if choice.constant and choice.at(Progress()) is not True:
            continue
        if choice.rule == "no rule":
            raise SettingError(
                "tie= for all arrays: a rule says which arrays are one. Write "
                'tie={part("embed.weight") | "head.weight": True}.'
            )
        found.setdefault(choice.rule, []).append(index)
    return [tuple(indices) for indices in found.values()]


def _sum(gradients: Sequence[Tensor]) -> Tensor:
    dense = [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients]
    total = dense[0] + dense[1]
    for gradient in dense[2:]:
        total += gradient
    return total


def _same(one: Any, other: Any) -> bool:
    """Whether two arrays, or what is remembered of them, are equal bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if not (has_shape(one) and has_shape(other)):
            return False
        alike = one.dtype == other.dtype and one.device == other.device
        return alike and torch.equal(one.detach(), other.detach())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)
