"""Gradients of arrays that are held at a step, kept until the update schedule gives these arrays their turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from etude.bind.table import RATE, SETS_KEPT, Moving, Now, Table
from etude.errors import StateError


class Carried:
    """Gradients that wait, by name of the array: their sum, and how many steps it is of."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tensor, int]] = {}

    def keep(self, name: str, gradient: Tensor) -> None:
        """Add one step's gradient, a tensor that nobody else writes to."""
        before = self._kept.get(name)
        self._kept[name] = (gradient, 1) if before is None else (before[0].add_(gradient), before[1] + 1)

    def spend(self, names: Sequence[str], gradients: list[Tensor], ways: Sequence[Any]) -> None:
        """Put what waits for these arrays into their gradients (new tensors); nothing waits for them then.

        Args:
            names: of the arrays that move. gradients: theirs, a list that is changed.
            ways: "sum", "mean" over the steps, this one included, or False: what was kept is forgotten.
        """
        for place, (name, way) in enumerate(zip(names, ways, strict=True)):
            found = self._kept.pop(name, None)
            if found is not None and way:
                total = found[0].to(gradients[place]) + gradients[place]
                gradients[place] = total / (found[1] + 1) if way == "mean" else total

    def forget(self, name: str) -> None:
        """Drop what waits for an array."""
        self._kept.pop(name, None)

    def state(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What waits for these arrays: the sum, and the number of steps. Tensors are not copied."""
        there = [(name, *self._kept[name]) for name in names if name in self._kept]
        return {name: {"sum": total, "steps": steps} for name, total, steps in there}

    def load(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what `state` gave and `check_carried` has looked at; tensors are copied."""
        self._kept = {name: (own["sum"].clone(), int(own["steps"])) for name, own in state.items()}


def check_carried(state: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise StateError unless these are gradients that can wait for arrays of these shapes."""
    wrong = list(_misfits(state, shapes)) if isinstance(state, Mapping) else ["they are no dict by name"]
    if wrong:
        raise StateError(f"The carried gradients of the state do not fit: {'; '.join(wrong)}. Nothing was loaded")


def _misfits(state: Mapping[Any, Any], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name, own in state.items():
        total, steps = (own.get("sum"), own.get("steps")) if isinstance(own, Mapping) else (None, None)
        if name not in shapes:
            yield f"no array {name!r} moves here"
        elif not isinstance(total, Tensor) or tuple(total.shape) != shapes[name]:
            yield f"that of {name!r} is no tensor of shape {shapes[name]}"
        elif isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            yield f"that of {name!r} is of {steps!r} steps"


class Carriers:
    """Which arrays of a table carry their gradients at a step.

    An array carries where the update schedule alone holds it: its rate is not 0 at the step, and it has a turn at some
    step of the run.
    """

    def __init__(self, table: Table) -> None:
        self._rows = [(number, row.indices) for number, row in enumerate(table.rows)]
        ever = set(table.ever_moving())
        self._ever = frozenset(i for i, name in enumerate(table.names) if name in ever)
        self._found: dict[tuple[Moving, tuple[bool, ...]], tuple[int, ...]] = {}

    def at(self, now: Now) -> tuple[int, ...]:
        """Their indices, in order; `now` is what the table says, without an array left out."""
        carries = zip(now.columns["carry"], now.columns[RATE], strict=True)
        key = (now.moving, tuple(bool(carry and rate) for carry, rate in carries))
        if key not in self._found:
            if len(self._found) >= SETS_KEPT:
                self._found.clear()
            moving = set(now.moving.indices)
            own = {i for number, indices in self._rows if key[1][number] for i in indices}
            self._found[key] = tuple(sorted((own - moving) & self._ever))
        return self._found[key]


def mean_of(gradient: Tensor, count: float, wide: bool) -> Tensor:
    """A step's gradient as it is kept: that of the mean loss, dense, in float32 if `wide`; a tensor of its own."""
    dense = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
    return torch.div(dense.float() if wide else dense, count)
