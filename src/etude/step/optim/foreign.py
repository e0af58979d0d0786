"""Runs an optimizer of torch.optim's shape, used as it is: the rows of the table are its parameter groups.

What is held has no gradient while the optimizer steps, and its group is not there, so that neither its value nor its
memory changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.bind.table import RATE, SETS_KEPT, Moving, Now, Table
from etude.errors import SettingError, StateError
from etude.step.optim.construction import (
    Factory,
    check_arrays,
    check_dense,
    check_matrices,
    construct,
    options_by_array,
    regrouped,
)
from etude.step.optim.groups import KEPT, Group, refuse_to_climb
from etude.step.optim.half import LOW, MASTER, is_low
from etude.step.optim.masters import Masters
from etude.step.optim.memory import ALL, NUMBERS, fits, for_array_and_group, numbers_of, placed, widened
from etude.values.progress import Progress
from etude.values.tree import has_shape

_DTYPE = attrgetter("dtype")


@dataclass(frozen=True, slots=True)
class _Place:
    """One set of arrays that move: what moves, what is held beside it, and the groups of both.

    `low` are the places of arrays in half precision, whose float32 copies move; `own` are the arrays themselves.
    """

    arrays: tuple[Tensor, ...]
    held: tuple[Tensor, ...]
    groups: tuple[dict[str, Any], ...]
    own: tuple[Tensor, ...]
    kinds: list[torch.dtype]
    low: tuple[int, ...]


_SPARSE = (torch.optim.SparseAdam, torch.optim.SGD, torch.optim.Adagrad)
"""Classes of torch that take sparse gradients."""


class ForeignOptimizer:
    """A torch optimizer at work on the arrays of one table.

    Args:
        make: the class, an instance, or a function from parameter groups to an instance.
        table: the table. options: what the class is made with. indices: the arrays it moves; None: all.
        half: how float16 and bfloat16 arrays are moved, see `etude.step.optim.half`: with "master" the optimizer has
            float32 copies of them in its groups.

    Attributes:
        optimizer: the optimizer itself; None where every array is frozen, so that there is nothing to make one of.
        shapes: False: gradients may lie in memory as they like. takes_sparse: they may be sparse. needs_closure: False.

    Raises:
        SettingError: the optimizer cannot be made with these options, has other arrays than the net, computes the loss
            itself, or is to climb and cannot.
    """

    needs_closure: ClassVar[bool] = False
    shapes: ClassVar[bool] = False

    def __init__(
        self,
        make: Factory | torch.optim.Optimizer,
        table: Table,
        options: Mapping[str, Any],
        indices: Collection[int] | None = None,
        half: str = "plain",
    ) -> None:
        self._make, self._options = make, options
        self._half = half
        self._masters = Masters()
        self.optimizer: torch.optim.Optimizer | None = None
        self._groups: list[Group] = []
        self._said: dict[int, dict[str, Any]] = {}
        self._evaluates = False
        self.use(table, indices)

    # ---------------------------------------------------------------------------------------------- the groups

    def use(self, table: Table, indices: Collection[int] | None = None) -> None:
        """Take the rows of a table as groups: at first, and when rules have changed; memory is kept."""
        self.arrays = tuple(table.tree.arrays[name] for name in table.names)
        inside = frozenset(range(len(self.arrays)) if indices is None else indices)
        self._table, self._inside = table, inside
        self._masters.keep(self.arrays)
        self._moved = self._find_moved(inside)
        self._kinds = [array.dtype for array in self.arrays]
        # Arrays without elements trouble some classes of torch.
        some = frozenset(i for i in inside if not has_shape(self.arrays[i]) or self.arrays[i].numel())
        rows = [(n, [i for i in row.indices if i in some]) for n, row in enumerate(table.rows) if not row.frozen]
        rows = [(number, own) for number, own in rows if own]
        groups = [{"params": [self._moved[i] for i in own]} for _, own in rows]
        kept = self._kept()
        self.optimizer = self._made(table, inside, groups)
        self._adopt(rows)
        self._keep(kept)
        self._fused = any(group.group.get("fused") for group in self._groups)
        if self._fused:
            check_dense(table)
        if any(rate < 0 for rate in _first_rates(table, [number for number, _ in rows])):
            self._need_maximize()
        # Classes of torch leave the gradients as they are; others may write into them to save memory.
        self._writes = not (self.optimizer is None or type(self.optimizer).__module__.startswith("torch.optim"))
        self._modes = _modes(self.optimizer)
        # Others of torch's raise in the middle of a step; what a class of somebody else's takes is not known.
        self.takes_sparse = self._writes or isinstance(self.optimizer, _SPARSE)

    def _find_moved(self, inside: Collection[int]) -> tuple[Tensor, ...]:
        """What the optimizer moves for each array: itself, or a float32 copy of one in half precision."""
        low = [i for i in inside if self._half != "plain" and is_low(self.arrays[i]) and has_shape(self.arrays[i])]
        if low and self._half == "stochastic":
            raise SettingError(
                'half="stochastic": arrays in half precision are rounded by chance under the update rules of this '
                'library, and this is an optimizer of torch\'s shape. Write half="master".'
            )
        found = list(self.arrays)
        for i in low:
            found[i] = self._masters.of(self.arrays[i])
        return tuple(found)

    def _follow(self) -> None:
        """Go on after somebody has given the arrays other numbers or another device, as `net.double()` does."""
        low = self._half != "plain"
        before = [torch.float32 if low and kind in LOW else kind for kind in self._kinds]
        kept = self.state()
        self._masters.forget(self.arrays)
        self.use(self._table, self._inside)
        for own, array, dtype in zip(kept, self._moved, before, strict=True):
            own.pop(MASTER, None)
            for key, value in own.items():
                if isinstance(value, Tensor) and value.dim() and value.dtype == dtype:
                    own[key] = value.to(array.device, array.dtype)
        self.load(kept)

    def _adopt(self, rows: Sequence[tuple[int, Sequence[int]]], climbs: Sequence[bool | None] = ()) -> None:
        """Look at the optimizer's groups, which are these rows of the table."""
        self._list = self.optimizer.param_groups if self.optimizer is not None else []
        found = zip(self._list, rows, climbs or [None] * len(rows), strict=True)
        self._groups = [Group(group, row, indices, self._name, climb) for group, (row, indices), climb in found]
        self._columns: Mapping[str, Sequence[Any]] = {}
        self._places: dict[Moving, _Place] = {}

    def _made(
        self, table: Table, inside: Collection[int], groups: list[dict[str, Any]]
    ) -> torch.optim.Optimizer | None:
        before = self._make if isinstance(self._make, torch.optim.Optimizer) else self.optimizer
        if before is not None:
            for group in self._groups:
                group.release()
            self._said.update(options_by_array(before))
            if before is self._make:
                copies = {id(moved) for moved, own in zip(self._moved, self.arrays, strict=True) if moved is not own}
                said = {key: options for key, options in self._said.items() if key not in copies}
                check_arrays(before, said, table, inside)
                self._give_copies(before)
            if all(id(array) in self._said for group in groups for array in group["params"]):
                return regrouped(before, self._said, groups)
        if not groups:
            return None
        if isinstance(self._make, type) and issubclass(self._make, torch.optim.Muon):
            check_matrices(table, inside)
        found = construct(self._make, groups, self._options)  # type: ignore[arg-type]
        found.state.update(before.state if before is not None else {})
        return found

    def _give_copies(self, optimizer: torch.optim.Optimizer) -> None:
        """Give an instance the float32 copies in place of arrays in half precision, with the memory that it has."""
        for copy, array in zip(self._moved, self.arrays, strict=True):
            if copy is array or id(array) not in self._said:
                continue
            self._said.setdefault(id(copy), self._said[id(array)])
            if array in optimizer.state:
                kept = optimizer.state.pop(array)
                optimizer.state[copy] = {key: widened(value) for key, value in kept.items()}

    @property
    def _name(self) -> str:
        return type(self.optimizer).__name__

    def _need_maximize(self) -> None:
        if self.optimizer is not None and "maximize" not in self.optimizer.defaults:
            refuse_to_climb(self._name)

    # ------------------------------------------------------------------------------------------------ the move

    def move(self, now: Now, gradients: Sequence[Tensor], divisor: float = 1.0) -> None:
        """Move what `now.moving` names, by gradients in the order of `now.moving.indices`, divided by `divisor`."""
        optimizer = self.optimizer
        if optimizer is None:
            return
        self._write(now, optimizer)
        place = self._places.get(now.moving) or self._place(now.moving)
        if list(map(_DTYPE, place.own)) != place.kinds:
            self._follow()
            self.move(now, gradients, divisor)
            return
        if isinstance(optimizer, torch.optim.SparseAdam):
            self._refuse_dense(now, gradients)
        if divisor != 1.0:
            gradients = torch._foreach_div(list(gradients), divisor)
        elif self._writes:
            pairs = zip(place.arrays, gradients, strict=True)
            gradients = [gradient.clone() if gradient is array.grad else gradient for array, gradient in pairs]
        if place.low:
            for k in place.low:
                self._masters.refresh(place.own[k])
            pairs = zip(place.arrays, gradients, strict=True)
            gradients = [g if g.dtype == array.dtype else g.to(array.dtype) for array, g in pairs]
        if self._fused:
            gradients = [_laid_out_like(array, g) for array, g in zip(place.arrays, gradients, strict=True)]
        if self._modes is not None:
            self._modes[0]()
        self._step(optimizer, place, gradients)
        for k in place.low:
            self._masters.settle(place.own[k])

    def _refuse_dense(self, now: Now, gradients: Sequence[Tensor]) -> None:
        found = zip(now.moving.indices, gradients, strict=True)
        dense = [self._table.names[i] for i, gradient in found if not gradient.is_sparse]
        if dense:
            raise SettingError(
                f"SparseAdam takes sparse gradients only, and {', '.join(map(repr, dense[:5]))} has a dense one. Write "
                'optimizer={"embed": "sparseadam", everything: "adamw"}, with the name of your embedding, which is '
                "made with sparse=True."
            )

    def _step(self, optimizer: torch.optim.Optimizer, place: _Place, gradients: Sequence[Tensor]) -> None:
        """Step with these gradients in place of those that the user sees, and on the groups that move."""
        before: list[tuple[Tensor, Tensor | None]] = []
        for array in place.held:
            if array.grad is not None:
                before.append((array, array.grad))
                array.grad = None
        all_groups = optimizer.param_groups
        some = len(place.groups) != len(all_groups)
        every = list(all_groups) if some else []
        try:
            for array, gradient in zip(place.arrays, gradients, strict=True):
                seen = array.grad
                if seen is not gradient:
                    before.append((array, seen))
                    array.grad = gradient
            if some:
                all_groups[:] = place.groups
            optimizer.step()
        finally:
            if some:
                all_groups[:] = every
            for array, seen in before:
                array.grad = seen
        if self._writes:
            # Such an optimizer may also set its own rate.
            for group in self._groups:
                group.note()

    def _place(self, moving: Moving) -> _Place:
        if len(self._places) >= SETS_KEPT:
            self._places.clear()
        moved = frozenset(moving.indices)
        here = [group for group in self._groups if not moved.isdisjoint(group.indices)]
        held = tuple(self._moved[i] for group in here for i in group.indices if i not in moved)
        arrays, own = ([of[i] for i in moving.indices] for of in (self._moved, self.arrays))
        low = tuple(k for k, (array, mine) in enumerate(zip(arrays, own, strict=True)) if array is not mine)
        groups, kinds = tuple(group.group for group in here), [self._kinds[i] for i in moving.indices]
        made = self._places[moving] = _Place(tuple(arrays), held, groups, tuple(own), kinds, low)
        return made

    def _write(self, now: Now, optimizer: torch.optim.Optimizer) -> None:
        """Write what has changed since the last step into the groups; what is there has to be what was written."""
        if optimizer.param_groups is not self._list:
            # Its own load_state_dict puts others there.
            before = self._groups
            self._adopt([(group.row, group.indices) for group in before], [group.climbs for group in before])
        name = self._name
        for group in self._groups:
            group.check(name)
        if now.columns is self._columns:
            return
        for setting, column in now.columns.items():
            if self._columns.get(setting) is not column:
                for group in self._groups:
                    group.write(setting, column[group.row], name)
        self._columns = now.columns

    @property
    def trains_others(self) -> bool:
        """Whether the arrays that it trains are not those to evaluate."""
        return self._modes is not None

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within this the arrays are those to evaluate and to keep, for an optimizer that trains others.

        Such as the schedule-free ones, which evaluate an average (Defazio et al., "The Road Less Scheduled", 2024).
        Afterwards the arrays are bit for bit what they were. For all other optimizers nothing changes.
        """
        if self._modes is None or self._evaluates or self.optimizer is None:
            yield
            return
        train, evaluate = self._modes
        train()
        pairs = zip(self._moved, self.arrays, strict=True)
        both = [(array, own) for array, own in pairs if self.optimizer.state.get(array)]
        moved = [array for array, _ in both] + [own for array, own in both if own is not array]
        before = [array.detach().clone() for array in moved]
        self._evaluates = True
        evaluate()
        for array, own in both:
            if own is not array:
                self._masters.settle(own)
        try:
            yield
        finally:
            self._evaluates = False
            train()
            with torch.no_grad():
                for array, kept in zip(moved, before, strict=True):
                    array.copy_(kept)
            for array, own in both:
                if own is not array:
                    self._masters.settle(own)

    def finish(self) -> None:
        """After the last step: let the arrays be those to evaluate and to keep, until it steps again."""
        if self._modes is not None:
            self._modes[1]()

    def targets(self, indices: Sequence[int]) -> list[Tensor]:
        """What is moved for some arrays: themselves, or the float32 numbers behind those in half precision."""
        for group in self._groups:
            # What would be refused in `move` is refused before anything is changed.
            group.check(self._name)
        for index in indices:
            if self._moved[index] is not self.arrays[index]:
                self._masters.refresh(self.arrays[index])
        return [self._moved[index] for index in indices]

    def settle(self, indices: Sequence[int]) -> None:
        """Round what `targets` gave into the arrays, after it was changed."""
        for index in indices:
            if self._moved[index] is not self.arrays[index]:
                self._masters.settle(self.arrays[index])

    def forget_layout(self) -> None:
        """After the arrays changed device or type: look at them afresh, memory kept."""
        if [array.dtype for array in self.arrays] != self._kinds:
            self._follow()

    def forget(self, index: int) -> None:
        """Forget what is remembered of an array."""
        if self.optimizer is not None:
            self.optimizer.state.pop(self._moved[index], None)

    # ----------------------------------------------------------------------------------------------- the state

    def state(self) -> list[dict[str, Any]]:
        """For each array what the optimizer keeps for it and for its group; empty for what has never moved."""
        if self.optimizer is None:
            return [{} for _ in self.arrays]
        of, kept = self.optimizer.state, self._kept()
        # An optimizer that remembers nothing of its arrays may still count in its groups.
        bare = [group for group in self._groups if not any(of.get(self._moved[i]) for i in group.indices)]
        counted = {id(self._moved[i]) for group in bare for i in group.indices}
        made: list[dict[str, Any]] = []
        for array, own in zip(self._moved, self.arrays, strict=True):
            found = dict(of.get(array) or {})
            whole = kept.get(id(array), {}) if found or id(array) in counted else {}
            master = {}
            if array is not own and (found or not torch.equal(array, own.float())):
                master = {MASTER: array.detach()}
            made.append({**found, **master, **whole, **numbers_of(found, array)})
        return made

    def _kept(self) -> dict[int, dict[str, Any]]:
        """What the optimizer keeps in its groups, and for all arrays together, by array."""
        made: dict[int, dict[str, Any]] = {}
        if self.optimizer is None:
            return made
        state: Mapping[Any, Any] = self.optimizer.state
        whole = {ALL + key: kept for key, kept in state.items() if isinstance(key, str)}
        for group in self._groups:
            kept = {**group.kept(self.optimizer), **whole}
            made.update({id(self._moved[i]): kept for i in group.indices})
        return made

    def _keep(self, kept: Mapping[int, Mapping[str, Any]]) -> None:
        """Put back into each group what was kept for the first of its arrays that has something."""
        if self.optimizer is None:
            return
        state: MutableMapping[Any, Any] = self.optimizer.state
        for group in self._groups:
            found = (kept.get(id(self._moved[i])) for i in group.indices)
            first = next((own for own in found if own), {})
            group.keep({key: value for key, value in first.items() if key.startswith(KEPT)}, self.optimizer)
            for key, value in first.items():
                if key.startswith(ALL):
                    state[key.removeprefix(ALL)] = value.detach().clone() if isinstance(value, Tensor) else value

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state()` gave.

        Raises:
            StateError: a tensor that should have the shape of its array and has another; nothing is changed then.
        """
        if self.optimizer is None:
            return
        apart = [for_array_and_group(own) for own in state]
        self._check_state([{k: kept for k, kept in own.items() if k not in (MASTER, NUMBERS)} for own, _ in apart])
        held = self.optimizer.state
        for array, mine, (own, _) in zip(self._moved, self.arrays, apart, strict=True):
            held.pop(array, None)
            master, numbers = own.pop(MASTER, None), own.pop(NUMBERS, None)
            keeps = numbers == str(array.dtype)
            if array is not mine:
                self._masters.take(mine, master)
            if own:
                held[array] = {key: placed(key, kept, array, self._writes, keeps) for key, kept in own.items()}
        self._keep({id(array): kept for array, (_, kept) in zip(self._moved, apart, strict=True)})

    def _check_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        assert self.optimizer is not None
        if self._writes:
            # Others keep what they like, of any shape.
            return
        known = {key for own in self.optimizer.state.values() for key in own}
        for array, own in zip(self._moved, state, strict=True):
            for key, kept in own.items():
                if isinstance(kept, Tensor) and not fits(kept, array):
                    raise StateError(f"memory {key!r} has shape {tuple(kept.shape)}, the array {tuple(array.shape)}")
                if known and key not in known:
                    raise StateError(f"memory {key!r} is none of {self._name}: {sorted(known)}")


def _modes(optimizer: torch.optim.Optimizer | None) -> tuple[Callable[[], Any], Callable[[], Any]] | None:
    """How an optimizer is told to train and to evaluate, if it is one that has to be told."""
    train, evaluate = getattr(optimizer, "train", None), getattr(optimizer, "eval", None)
    return (train, evaluate) if callable(train) and callable(evaluate) else None


def _laid_out_like(array: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory order of its array: torch's fused kernels on the CPU walk both as flat memory."""
    if gradient.layout is not torch.strided or gradient.stride() == array.stride():
        return gradient
    return torch.empty_like(array, requires_grad=False).copy_(gradient)


def _first_rates(table: Table, rows: Sequence[int]) -> list[float]:
    """The rates of some rows that are the same at every step."""
    choices = [table.rows[number].choices[RATE] for number in rows]
    still = [c for c in choices if c.base is not None and c.base.constant and (c.factor is None or c.factor.constant)]
    return [rate for choice in still if (rate := choice.at(Progress())) is not None]
