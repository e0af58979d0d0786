"""Runs torch.optim.LBFGS: it computes the loss itself, several times a step, and moves all its arrays as one vector.

Nocedal & Wright, "Numerical Optimization", 2006, algorithm 7.5. Its memory is about the set of arrays that it moved: a
set that shares arrays with an earlier one begins anew, and what another set remembers is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from etude.bind.table import RATE, Now, Table
from etude.errors import SettingError, StateError
from etude.step.optim.construction import Factory
from etude.step.optim.groups import Group
from etude.values.progress import Progress

Compute: TypeAlias = Callable[[], tuple[Tensor, list[Tensor]]]

_VECTORS = ("d", "prev_flat_grad")
_HISTORIES = ("old_dirs", "old_stps")
_NUMBERS = ("func_evals", "n_iter", "t", "H_diag", "prev_loss")
_WHOLE = frozenset({"max_iter", "history_size"})
_TOGETHER = "together"


class LBFGSOptimizer:
    """L-BFGS at work on the arrays of one table.

    Args:
        make: the class, or an instance, whose arrays then have to move together. table: the table.
        options: what the class is made with.

    Raises:
        SettingError: arrays of the table have different settings, or the rate is negative.
    """

    needs_closure: ClassVar[bool] = True
    shapes: ClassVar[bool] = False
    takes_sparse: ClassVar[bool] = True

    def __init__(self, make: Factory | torch.optim.LBFGS, table: Table, options: Mapping[str, Any]) -> None:
        self._make, self._options = make, dict(options)
        search = self._options.get("line_search_fn")
        if search not in (None, "strong_wolfe"):
            raise SettingError(f'line_search_fn={search!r}: "strong_wolfe" or None is needed.')
        self._at_work: dict[tuple[int, ...], tuple[torch.optim.LBFGS, Group]] = {}
        self.use(table)

    def use(self, table: Table) -> None:
        """Take over a table: at first, and when rules have changed; memory is kept."""
        self.arrays = tuple(table.tree.arrays[name] for name in table.names)
        self._names = table.names
        rows = [(number, row) for number, row in enumerate(table.rows) if not row.frozen]
        if len(rows) > 1:
            said = ", ".join(f"{row.names[0]!r}" for _, row in rows[:4])
            raise SettingError(
                "L-BFGS moves all arrays as one vector, with one value of every setting, and these have different "
                f"settings: {said}. Leave the rules out, or hold arrays with FROZEN or part=."
            )
        self._row = rows[0][0] if rows else 0
        for row in (row for _, row in rows):
            # What can be seen to be wrong is an error now, not at the first step.
            for setting, choice in row.choices.items():
                if choice.constant:
                    _check(setting, choice.at(Progress()))
            if table.update_schedule is None and not self._at_work:
                self._made(row.indices)

    @property
    def optimizer(self) -> torch.optim.LBFGS | None:
        """The torch optimizer of the set of arrays that moved last; None before the first step."""
        return next(reversed(self._at_work.values()))[0] if self._at_work else None

    # ------------------------------------------------------------------------------------------------ the move

    def move(self, now: Now, gradients: Sequence[Tensor], divisor: float = 1.0) -> None:
        """Refuse: gradients at one place are not enough.

        Raises:
            SettingError: always.
        """
        raise SettingError(
            "L-BFGS computes the loss itself, several times a step, so it cannot step on gradients that are there. "
            "Write trainer.step(batch_size, closure=f), where f() calls backward() on the summed loss and returns it."
        )

    def move_with_closure(self, now: Now, compute: Compute) -> Tensor:
        """Move what `now.moving` names, and nothing else.

        Args:
            now: the numbers of the step.
            compute: gives the mean loss at the arrays as they are then, and its gradients in the order of
                `now.moving.indices`; called as often as the optimizer likes. If it raises, the arrays and the memory
                are what they were before the step.

        Returns:
            The loss before the step.
        """
        indices = now.moving.indices
        optimizer, group = self._set(indices)
        _follow(optimizer)
        group.check("LBFGS")
        for setting, column in now.columns.items():
            self._write(optimizer, group, setting, column[self._row])
        arrays = [self.arrays[i] for i in indices]

        def closure() -> Tensor:
            loss, gradients = compute()
            for array, gradient in zip(arrays, gradients, strict=True):
                seen[array] = array.grad
                array.grad = gradient.to_dense().contiguous() if gradient.is_sparse else gradient.contiguous()
            return loss

        seen: dict[Tensor, Tensor | None] = {}
        with self._nothing_changed_on_error(optimizer, arrays):
            try:
                loss: Tensor = optimizer.step(closure)  # type: ignore[no-untyped-call]
            finally:
                for array, gradient in seen.items():
                    array.grad = gradient
        return loss

    def _set(self, indices: tuple[int, ...]) -> tuple[torch.optim.LBFGS, Group]:
        """The optimizer of a set of arrays, as the latest of all; those of other sets with some of the arrays go."""
        found = self._at_work.pop(indices, None)
        if found is None:
            inside = frozenset(indices)
            self._at_work = {own: kept for own, kept in self._at_work.items() if inside.isdisjoint(own)}
            optimizer = self._made(indices)
            found = optimizer, Group(optimizer.param_groups[0], self._row, indices, "LBFGS")
        self._at_work[indices] = found
        return found

    def _made(self, indices: tuple[int, ...]) -> torch.optim.LBFGS:
        arrays = [self.arrays[i] for i in indices]
        if not isinstance(self._make, torch.optim.Optimizer):
            made = self._make([{"params": arrays}], **self._options)
            assert isinstance(made, torch.optim.LBFGS)
            return made
        own = self._make.param_groups[0]["params"]
        if {id(array) for array in own} != {id(array) for array in arrays}:
            names = ", ".join(repr(self._names[i]) for i in indices[:5])
            raise SettingError(
                f"The LBFGS given has {len(own)} arrays, which move as one vector, and this step moves {len(arrays)}: "
                f'{names}. Give the name "lbfgs" or the class, or let everything it has move at every step.'
            )
        return self._make

    def _write(self, optimizer: torch.optim.LBFGS, group: Group, setting: str, value: Any) -> None:
        _check(setting, value)
        value = int(value) if setting in _WHOLE else value
        if setting == "history_size" and value != group.group["history_size"]:
            memory = optimizer.state[optimizer.param_groups[0]["params"][0]]
            for key in (*_HISTORIES, "ro"):
                if key in memory:
                    memory[key] = memory[key][-value:]
            memory.pop("al", None)
        group.write(setting, value, "LBFGS")

    @contextmanager
    def _nothing_changed_on_error(self, optimizer: torch.optim.LBFGS, arrays: Sequence[Tensor]) -> Iterator[None]:
        first = optimizer.param_groups[0]["params"][0]
        before = [array.detach().clone() for array in arrays]
        # What is in the lists is never written into; the lists themselves grow and shrink.
        found = optimizer.state.get(first, {})
        memory = {key: list(kept) if isinstance(kept, list) else _copied(kept) for key, kept in found.items()}
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for array, kept in zip(arrays, before, strict=True):
                    array.copy_(kept)
            optimizer.state.pop(first, None)
            if memory:
                optimizer.state[first] = memory
            raise

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The arrays are those to evaluate already."""
        yield

    def finish(self) -> None:
        """After the last step: the arrays are those to keep already."""

    def targets(self, indices: Sequence[int]) -> list[Tensor]:
        """What is moved for some arrays: themselves."""
        return [self.arrays[index] for index in indices]

    def settle(self, indices: Sequence[int]) -> None:
        """Nothing stands behind an array that would have to be rounded into it."""

    def forget_layout(self) -> None:
        """Nothing is cached here."""

    def forget(self, index: int) -> None:
        """Forget what is remembered of every set of arrays that has this one."""
        self._at_work = {own: kept for own, kept in self._at_work.items() if index not in own}

    # ----------------------------------------------------------------------------------------------- the state

    def state(self) -> list[dict[str, Any]]:
        """For each array its pieces of the joint memory, and whose memory it shares; empty for what never moved."""
        made: list[dict[str, Any]] = [{} for _ in self.arrays]
        for indices, (optimizer, _) in self._at_work.items():
            memory = optimizer.state.get(optimizer.param_groups[0]["params"][0], {})
            if "n_iter" not in memory or not memory["n_iter"]:
                continue
            order = self._order(optimizer, indices)
            joint = {key: _copied(memory[key]) for key in _NUMBERS if key in memory}
            joint["ro"] = torch.stack([torch.as_tensor(each) for each in memory["ro"]]) if memory["ro"] else None
            for i in order:
                made[i] = {_TOGETHER: self._names[indices[0]], **joint}
            for key in _VECTORS:
                for i, piece in zip(order, self._pieces(memory[key], order), strict=True):
                    made[i][key] = piece
            for key in _HISTORIES if memory["ro"] else ():
                for i, piece in zip(order, self._pieces(torch.stack(memory[key]), order), strict=True):
                    made[i][key] = piece
        return made

    def _order(self, optimizer: torch.optim.LBFGS, indices: Sequence[int]) -> list[int]:
        """The arrays of a set in the order of its vector."""
        of = {id(self.arrays[i]): i for i in indices}
        return [of[id(array)] for array in optimizer.param_groups[0]["params"]]

    def _shape(self, index: int) -> tuple[int, ...]:
        """The shape of an array's piece of a vector: complex numbers are pairs of real ones."""
        array = self.arrays[index]
        return (*array.shape, 2) if array.is_complex() else tuple(array.shape)

    def _pieces(self, vector: Tensor, order: Sequence[int]) -> list[Tensor]:
        """The piece of each array, of its shape; `vector` may have a dimension before its last."""
        shapes = [self._shape(i) for i in order]
        parts = torch.split(vector, [torch.Size(shape).numel() for shape in shapes], dim=-1)
        return [p.reshape(*vector.shape[:-1], *shape).clone() for p, shape in zip(parts, shapes, strict=True)]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state()` gave; tensors are copied.

        Raises:
            StateError: a piece that does not have the shape of its array; nothing is changed then.
        """
        sets: dict[str, list[int]] = {}
        for index, own in enumerate(state):
            self._check_state(index, own)
            if own:
                sets.setdefault(own[_TOGETHER], []).append(index)
        self._at_work = {}
        for members in sets.values():
            optimizer, _ = self._set(tuple(members))
            order = self._order(optimizer, members)
            optimizer.state[optimizer.param_groups[0]["params"][0]] = self._joined([state[i] for i in order])

    def _check_state(self, index: int, own: Mapping[str, Any]) -> None:
        if own and not {_TOGETHER, *_NUMBERS, *_VECTORS} <= set(own):
            raise StateError(f"the memory {sorted(own)} is none of LBFGS: {', '.join((*_VECTORS, *_HISTORIES))}")
        for key in (*_VECTORS, *_HISTORIES) if own else ():
            shape = tuple(own[key].shape)[key in _HISTORIES :] if key in own else self._shape(index)
            if shape != self._shape(index):
                raise StateError(f"memory {key!r} has shape {shape}, the array {self._shape(index)}")

    def _joined(self, pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The memory of a set from those of its arrays, in the order of its vector."""
        first = pieces[0]
        made = {key: _copied(first[key]) for key in _NUMBERS}
        made.update({key: torch.cat([own[key].reshape(-1) for own in pieces]) for key in _VECTORS})
        known = [] if first["ro"] is None else list(first["ro"].clone())
        made["ro"] = known
        for key in _HISTORIES:
            rows = [torch.cat([own[key][k].reshape(-1) for own in pieces]) for k in range(len(known))]
            made[key] = rows
        return made


def _follow(optimizer: torch.optim.LBFGS) -> None:
    """Give the memory the numbers and the device that the arrays have now."""
    first = optimizer.param_groups[0]["params"][0]
    memory = optimizer.state.get(first, {})
    known = memory.get("d")
    like = torch.view_as_real(first.detach()) if first.is_complex() else first
    if known is not None and (known.dtype, known.device) != (like.dtype, like.device):
        for key, kept in memory.items():
            memory[key] = [_moved(each, like) for each in kept] if isinstance(kept, list) else _moved(kept, like)


def _moved(kept: Any, like: Tensor) -> Any:
    return kept.to(like.device, like.dtype) if isinstance(kept, Tensor) else kept


def _check(setting: str, value: Any) -> None:
    if setting == RATE and value < 0:
        raise SettingError("A negative learning rate climbs, and L-BFGS cannot. Make the loss negative.")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if setting in _WHOLE and not (number and value == int(value) and value >= 1):
        raise SettingError(f"{setting}={value!r}: a whole number of at least 1 is needed.")


def _copied(kept: Any) -> Any:
    if isinstance(kept, list):
        return [_copied(each) for each in kept]
    return kept.detach().clone() if isinstance(kept, Tensor) else kept
