"""Several optimizers on one table, each moving the arrays that are its own: one trainer steps them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

from torch import Tensor

from etude.bind.table import SETS_KEPT, Group, Moving, Now, Table
from etude.errors import StateError
from etude.step.gradients import Gradients
from etude.step.layouts import Layout
from etude.step.optim.foreign import ForeignOptimizer
from etude.step.optim.lbfgs import LBFGSOptimizer
from etude.step.optim.own import OwnOptimizer

OPTIMIZER = "optimizer"
"""Where optimizers are given by part, which one an array has is a setting of that name."""


class _Share:
    """What one optimizer moves of a set of arrays that move together."""

    __slots__ = ("_layout", "_member", "_moving", "_positions")

    def __init__(self, member: OwnOptimizer | ForeignOptimizer, groups: Sequence[Group], whole: Moving) -> None:
        place = {index: position for position, index in enumerate(whole.indices)}
        indices = tuple(sorted(i for group in groups for i in group.indices))
        self._member, self._moving = member, Moving(tuple(groups), indices)
        self._positions = [place[index] for index in indices]
        self._layout = Layout(member.arrays[index] for index in indices)

    def move(self, now: Now, gradients: Sequence[Tensor], divisor: float) -> None:
        own = Gradients([gradients[position] for position in self._positions])
        if not self._member.takes_sparse and not self._member.shapes:
            own.dense()
        if isinstance(self._member, OwnOptimizer) and not self._member.follow(Now(now.columns, self._moving)):
            # Somebody may have given arrays other storage.
            self._layout = Layout(self._layout.arrays)
        if self._member.shapes and not self._layout.holds(own.values):
            own.shape_like(self._layout.arrays, self._member.takes_sparse)
        self._member.move(Now(now.columns, self._moving), own.values, divisor)


class SeveralOptimizer:
    """Several optimizers at work on the arrays of one table.

    Args:
        members: the optimizers by label. table: the table, whose setting "optimizer" is the label of each array.
    """

    needs_closure: ClassVar[bool] = False
    shapes: ClassVar[bool] = False
    takes_sparse: ClassVar[bool] = True

    def __init__(self, members: Mapping[str, OwnOptimizer | ForeignOptimizer | LBFGSOptimizer], table: Table) -> None:
        self.members = {label: member for label, member in members.items() if not isinstance(member, LBFGSOptimizer)}
        self.use(table)

    def use(self, table: Table) -> None:
        """Take over a table: at first, and when rules have changed; memory is kept."""
        self._table = table
        self._names = table.names
        self._labels = [_label(table, name) for name in table.names]
        self._rows = [_label(table, row.names[0]) for row in table.rows]
        self._shares: dict[Moving, list[_Share]] = {}
        for label, member in self.members.items():
            if isinstance(member, ForeignOptimizer):
                member.use(table, [i for i, own in enumerate(self._labels) if own == label])
            else:
                member.use(table)

    def move(self, now: Now, gradients: Sequence[Tensor], divisor: float = 1.0) -> None:
        """Move what `now.moving` names, by gradients in the order of `now.moving.indices`, divided by `divisor`."""
        for share in self._shares.get(now.moving) or self._shared(now.moving):
            share.move(now, gradients, divisor)

    def _shared(self, moving: Moving) -> list[_Share]:
        if len(self._shares) >= SETS_KEPT:
            self._shares.clear()
        groups: dict[str, list[Group]] = {}
        for group in moving.groups:
            groups.setdefault(self._rows[group.row], []).append(group)
        made = [_Share(self.members[label], own, moving) for label, own in groups.items()]
        self._shares[moving] = made
        return made

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within this the arrays are those to evaluate and to keep; see `ForeignOptimizer.evaluating`."""
        with ExitStack() as stack:
            for member in self.members.values():
                if isinstance(member, ForeignOptimizer):
                    stack.enter_context(member.evaluating())
            yield

    def finish(self) -> None:
        """After the last step: let the arrays be those to evaluate and to keep."""
        for member in self.members.values():
            member.finish()

    def targets(self, indices: Sequence[int]) -> list[Tensor]:
        """What is moved for some arrays: themselves, or what stands behind those in half precision."""
        return [self._member(index).targets([index])[0] for index in indices]

    def settle(self, indices: Sequence[int]) -> None:
        """Round what `targets` gave into the arrays, after it was changed."""
        for index in indices:
            self._member(index).settle([index])

    def _member(self, index: int) -> OwnOptimizer | ForeignOptimizer:
        return self.members[self._labels[index]]

    def forget(self, index: int) -> None:
        """Forget what is remembered of an array."""
        self._member(index).forget(index)

    def forget_layout(self) -> None:
        """After the arrays changed device or type: look at them afresh, memory kept."""
        self._shares.clear()
        for member in self.members.values():
            member.forget_layout()

    def state(self) -> list[dict[str, Any]]:
        """For each array what its optimizer keeps for it, and the name of that; empty for what has never moved."""
        kept = {label: member.state() for label, member in self.members.items()}
        own = [kept[label][i] if label in kept else {} for i, label in enumerate(self._labels)]
        return [{OPTIMIZER: label, **of} if of else {} for label, of in zip(self._labels, own, strict=True)]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state()` gave.

        Raises:
            StateError: memory of another optimizer than the array has now, or one that does not fit; nothing is
                changed then.
        """
        for name, label, own in zip(self._names, self._labels, state, strict=True):
            if own and own.get(OPTIMIZER) != label:
                raise StateError(f"the memory of {name!r} is of {own.get(OPTIMIZER)!r}, and {label!r} moves it")
        before = {label: member.state() for label, member in self.members.items()}
        for label, member in self.members.items():
            theirs = zip(self._labels, state, strict=True)
            bare = [{k: v for k, v in of.items() if k != OPTIMIZER} if mine == label else {} for mine, of in theirs]
            try:
                member.load(bare)
            except StateError:
                for other, kept in before.items():
                    self.members[other].load(kept)
                raise


def _label(table: Table, name: str) -> str:
    choice = table.choices[name][OPTIMIZER]
    assert choice.base is not None
    return str(choice.base.value)  # type: ignore[attr-defined]
