"""Runs an optimizer of torch.optim's shape, used as it is: the rows of the table are its parameter groups.

What is held has no gradient while the optimizer steps, so that neither its value nor its memory changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from etude.bind.table import RATE, Now, Table
from etude.errors import SettingError, StateError, nearest

Factory: TypeAlias = Callable[..., torch.optim.Optimizer]

# Ways of computing, not settings of the rule: given once, for all rows.
_WAYS = frozenset({"foreach", "fused", "capturable", "differentiable", "maximize"})


def options_of(kind: type[torch.optim.Optimizer]) -> dict[str, Any]:
    """The options of an optimizer class besides its parameters, with their defaults."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[2:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default for p in parameters if p.kind in named}


class ForeignOptimizer:
    """A torch optimizer at work on the arrays of one table.

    Attributes:
        optimizer: the optimizer itself.
    """

    def __init__(self, make: Factory | torch.optim.Optimizer, table: Table, options: Mapping[str, Any]) -> None:
        self.arrays = tuple(table.tree.arrays[name] for name in table.names)
        self._rows = [number for number, row in enumerate(table.rows) if not row.frozen]
        groups = [{"params": [self.arrays[i] for i in table.rows[number].indices]} for number in self._rows]
        if isinstance(make, torch.optim.Optimizer):
            self.optimizer = _regroup(make, groups)
        else:
            self.optimizer = make(groups, **options)
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise SettingError(
                f"The optimizer factory returned {type(self.optimizer).__name__}: a torch.optim.Optimizer is needed. "
                "Write lambda params: torch.optim.SGD(params, lr=0.1)."
            )
        self._maximize = bool(self.optimizer.defaults.get("maximize", False))
        self._names = table.names
        if any(rate is not None and rate < 0 for rate in _first_rates(table)):
            self._need_maximize()

    def _need_maximize(self) -> None:
        if "maximize" not in self.optimizer.defaults:
            raise SettingError(
                f"A negative learning rate climbs, and {type(self.optimizer).__name__} has no option to climb "
                "(`maximize`). Use an optimizer that has it, or make the loss negative."
            )

    def move(self, now: Now, gradients: Sequence[Tensor]) -> None:
        """Move what `now.moving` names; `gradients` are in the order of `now.moving.indices`."""
        self._write(now)
        kept = [array.grad for array in self.arrays]
        for array in self.arrays:
            array.grad = None
        for index, gradient in zip(now.moving.indices, gradients, strict=True):
            self.arrays[index].grad = gradient
        try:
            self.optimizer.step()
        finally:
            for array, gradient_before in zip(self.arrays, kept, strict=True):
                array.grad = gradient_before

    def _write(self, now: Now) -> None:
        for group, row in zip(self.optimizer.param_groups, self._rows, strict=True):
            for setting, column in now.columns.items():
                value = column[row]
                if setting == RATE:
                    self._write_rate(group, value)
                elif setting in group:
                    group[setting] = value

    def _write_rate(self, group: dict[str, Any], rate: float | None) -> None:
        if rate is None:
            return
        if rate < 0:
            self._need_maximize()
        if "maximize" in group:
            group["maximize"] = self._maximize != (rate < 0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(abs(rate))
        else:
            group["lr"] = abs(rate)

    def forget_layout(self) -> None:
        """Nothing is cached here; the optimizer looks at its arrays at every step."""

    def state(self) -> list[dict[str, Any]]:
        """For each array what the optimizer keeps for it; empty for what has never moved."""
        return [dict(self.optimizer.state.get(array, {})) for array in self.arrays]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state()` gave.

        Raises:
            StateError: a tensor that should have the shape of its array and has another; nothing is changed then.
        """
        known = {key for own in self.optimizer.state.values() for key in own}
        for array, own in zip(self.arrays, state, strict=True):
            for key, kept in own.items():
                if isinstance(kept, Tensor) and kept.dim() and kept.dim() == array.dim() and kept.shape != array.shape:
                    raise StateError(f"memory {key!r} has shape {tuple(kept.shape)}, the array {tuple(array.shape)}")
                if known and key not in known:
                    raise StateError(f"memory {key!r} is none of {type(self.optimizer).__name__}: {sorted(known)}")
        for array, own in zip(self.arrays, state, strict=True):
            self.optimizer.state.pop(array, None)
            if own:
                self.optimizer.state[array] = {key: _placed(key, kept, array) for key, kept in own.items()}


def _placed(key: str, kept: Any, array: Tensor) -> Any:
    if not isinstance(kept, Tensor):
        return kept
    # Step counts stay where the optimizer keeps them; everything else lives beside its array.
    return kept.detach().clone() if key == "step" else kept.detach().to(array.device, copy=True)


def _first_rates(table: Table) -> Sequence[float | None]:
    from etude.values.progress import Progress

    constant = [row.choices[RATE] for row in table.rows]
    return [
        choice.at(Progress())
        for choice in constant
        if choice.base is not None and choice.base.constant and (choice.factor is None or choice.factor.constant)
    ]


def _regroup(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Give an existing optimizer the rows as its groups; its memory, keyed by parameter, stays."""
    options: dict[int, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        rest = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        options.update({id(array): rest for array in group["params"]})
    optimizer.param_groups[:] = [{**options[id(group["params"][0])], **group} for group in groups]
    return optimizer


def settings_of(optimizer: torch.optim.Optimizer | Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an optimizer that rules and schedules may set: its numeric options, with their values."""
    values = optimizer.defaults if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    return {key: value for key, value in values.items() if key not in _WAYS and key != "lr" and _is_setting(value)}


def _is_setting(value: object) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(piece, int | float) for piece in value)
    return isinstance(value, int | float)


def check_options(kind: type[torch.optim.Optimizer], given: Mapping[str, Any]) -> None:
    """Raise SettingError for an option that the class does not have."""
    options = options_of(kind)
    for key in given:
        if key not in options:
            hint = " The learning rate is given as learning_rate=." if key in ("lr", "learning_rate") else ""
            raise SettingError(
                f"{kind.__name__} has no option {key!r}. It has: {', '.join(options)}.{nearest(key, options)}{hint}"
            )
