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
from etude.step.optim.rule import is_dense
from etude.values.progress import Progress
from etude.values.tree import has_shape

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
        optimizer: the optimizer itself; None where every array is frozen, so that there is nothing to make one of.

    Raises:
        SettingError: the optimizer cannot be made with these options, has other arrays than the net, computes the loss
            itself, or is to climb and cannot.
    """

    def __init__(self, make: Factory | torch.optim.Optimizer, table: Table, options: Mapping[str, Any]) -> None:
        self.arrays = tuple(table.tree.arrays[name] for name in table.names)
        self._rows = [number for number, row in enumerate(table.rows) if not row.frozen]
        groups = [{"params": [self.arrays[i] for i in table.rows[number].indices]} for number in self._rows]
        self.optimizer = self._made(make, table, groups, options)
        made = self.optimizer.param_groups if self.optimizer is not None else []
        self._climbs = [bool(group.get("maximize", False)) for group in made]
        self._fused = any(group.get("fused") for group in made)
        if self._fused:
            _check_dense(table)
        if any(rate < 0 for rate in _first_rates(table)):
            self._need_maximize()

    def _made(
        self,
        make: Factory | torch.optim.Optimizer,
        table: Table,
        groups: list[dict[str, Any]],
        options: Mapping[str, Any],
    ) -> torch.optim.Optimizer | None:
        if isinstance(make, torch.optim.Optimizer):
            return _checked(_regroup(make, table, groups))
        return _checked(_call(make, groups, options)) if groups else None

    def _need_maximize(self) -> None:
        if self.optimizer is not None and "maximize" not in self.optimizer.defaults:
            raise SettingError(
                f"A negative learning rate climbs, and {type(self.optimizer).__name__} has no option to climb "
                "(`maximize`). Use an optimizer that has it, or make the loss negative."
            )

    def move(self, now: Now, gradients: Sequence[Tensor]) -> None:
        """Move what `now.moving` names; `gradients` are in the order of `now.moving.indices`."""
        if self.optimizer is None:
            return
        self._write(now, self.optimizer)
        kept = [array.grad for array in self.arrays]
        for array in self.arrays:
            array.grad = None
        for index, gradient in zip(now.moving.indices, gradients, strict=True):
            array = self.arrays[index]
            array.grad = _laid_out_like(array, gradient) if self._fused else gradient
        try:
            self.optimizer.step()
        finally:
            for array, gradient_before in zip(self.arrays, kept, strict=True):
                array.grad = gradient_before

    def _write(self, now: Now, optimizer: torch.optim.Optimizer) -> None:
        for group, row, climbs in zip(optimizer.param_groups, self._rows, self._climbs, strict=True):
            for setting, column in now.columns.items():
                value = column[row]
                if setting == RATE:
                    self._write_rate(group, value, climbs)
                elif setting in group:
                    group[setting] = value

    def _write_rate(self, group: dict[str, Any], rate: float | None, climbs: bool) -> None:
        if rate is None:
            return
        if rate < 0:
            self._need_maximize()
        if "maximize" in group:
            group["maximize"] = climbs != (rate < 0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(abs(rate))
        else:
            group["lr"] = abs(rate)

    def forget_layout(self) -> None:
        """Nothing is cached here; the optimizer looks at its arrays at every step."""

    def state(self) -> list[dict[str, Any]]:
        """For each array what the optimizer keeps for it; empty for what has never moved."""
        kept = self.optimizer.state if self.optimizer is not None else {}
        return [dict(kept.get(array, {})) for array in self.arrays]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state()` gave.

        Raises:
            StateError: a tensor that should have the shape of its array and has another; nothing is changed then.
        """
        if self.optimizer is None:
            return
        held = self.optimizer.state
        known = {key for own in held.values() for key in own}
        for array, own in zip(self.arrays, state, strict=True):
            for key, kept in own.items():
                if isinstance(kept, Tensor) and not _fits(kept, array):
                    raise StateError(f"memory {key!r} has shape {tuple(kept.shape)}, the array {tuple(array.shape)}")
                if known and key not in known:
                    raise StateError(f"memory {key!r} is none of {type(self.optimizer).__name__}: {sorted(known)}")
        for array, own in zip(self.arrays, state, strict=True):
            held.pop(array, None)
            if own:
                held[array] = {key: _placed(key, kept, array) for key, kept in own.items()}


def _fits(kept: Tensor, array: Tensor) -> bool:
    """Whether a memory may belong to an array: of its shape, of a mean over some dimensions, or of none of them."""
    pairs = zip(kept.shape, array.shape, strict=False)
    return kept.dim() != array.dim() or all(own in (1, size) for own, size in pairs)


def _placed(key: str, kept: Any, array: Tensor) -> Any:
    if not isinstance(kept, Tensor):
        return kept
    if key == "step":
        # Step counts stay where the optimizer keeps them; everything else lives beside its array.
        return kept.detach().clone()
    if kept.shape != array.shape:
        return kept.detach().to(array.device, copy=True)
    return torch.empty_like(array, dtype=kept.dtype, requires_grad=False).copy_(kept)


def _laid_out_like(array: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory order of its array: torch's fused kernels on the CPU walk both as flat memory."""
    if gradient.layout is not torch.strided or gradient.stride() == array.stride():
        return gradient
    return torch.empty_like(array, requires_grad=False).copy_(gradient)


def _check_dense(table: Table) -> None:
    for name in table.names:
        array = table.tree.arrays[name]
        if has_shape(array) and not is_dense(array):
            raise SettingError(
                f"fused=True: the array {name!r} has gaps in memory, and torch's fused kernels would write into them. "
                "Leave fused out, or make the array contiguous."
            )


def _first_rates(table: Table) -> list[float]:
    """The rates that are the same at every step."""
    choices = [row.choices[RATE] for row in table.rows]
    still = [c for c in choices if c.base is not None and c.base.constant and (c.factor is None or c.factor.constant)]
    return [rate for choice in still if (rate := choice.at(Progress())) is not None]


def _call(make: Factory, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> object:
    name = getattr(make, "__name__", type(make).__name__)
    # The rate is written into the groups before every step; a class that has no default for it needs one now.
    options = {"lr": 1e-3, **options} if isinstance(make, type) and "lr" in options_of(make) else options
    try:
        return make(groups, **options)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"{name} cannot be made with the options {', '.join(options) or 'none'}: {error}. "
            "Change them, or give an instance of your own."
        ) from error


def _checked(made: object) -> torch.optim.Optimizer:
    if not isinstance(made, torch.optim.Optimizer):
        raise SettingError(
            f"The optimizer factory returned {type(made).__name__}: a torch.optim.Optimizer is needed. "
            "Write lambda params: torch.optim.SGD(params, lr=0.1)."
        )
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise SettingError(
            f"{type(made).__name__} computes the loss itself, several times a step (its step() needs a closure), so it "
            'cannot step on gradients that are there. Use a first-order rule such as "adamw".'
        )
    return made


def _regroup(optimizer: torch.optim.Optimizer, table: Table, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Give an existing optimizer the rows as its groups; its memory, keyed by parameter, stays."""
    options = _options_by_array(optimizer, table)
    for group in groups:
        ways = {repr({way: options[id(array)].get(way) for way in sorted(_WAYS)}) for array in group["params"]}
        if len(ways) > 1:
            raise SettingError(
                f"The parameter groups of this {type(optimizer).__name__} are computed in different ways: "
                f"{' and '.join(sorted(ways))}. Give all groups one way; a group that climbs is a negative multiplier."
            )
    optimizer.param_groups[:] = [{**options[id(group["params"][0])], **group} for group in groups]
    return optimizer


def _options_by_array(optimizer: torch.optim.Optimizer, table: Table) -> dict[int, dict[str, Any]]:
    """The options that an instance has for each of its arrays, which must be those of the net that may move."""
    options: dict[int, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        rest = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        options.update({id(array): rest for array in group["params"]})
    kind, arrays = type(optimizer).__name__, table.tree.arrays
    missing = [name for row in table.rows if not row.frozen for name in row.names if id(arrays[name]) not in options]
    if missing:
        raise SettingError(
            f"The {kind} given does not have {', '.join(map(repr, missing[:5]))}{', ...' if missing[5:] else ''}. "
            "Give it all arrays of the net, or say which are stepped: part=..., or FROZEN for the others."
        )
    foreign = len(options.keys() - {id(array) for array in arrays.values()})
    if foreign:
        raise SettingError(
            f"The {kind} given has {foreign} array{'s' if foreign > 1 else ''} that the net does not have. "
            "Give the trainer the net that has them, or make the optimizer of net.parameters()."
        )
    return options


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
        if key == "lr":
            raise SettingError(f"{kind.__name__}: the learning rate is given as learning_rate=, not as lr=.")
        if key not in options:
            raise SettingError(
                f"{kind.__name__} has no option {key!r}. It has: {', '.join(options)}.{nearest(key, options)}"
            )
