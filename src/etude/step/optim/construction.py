"""An optimizer of torch's shape, made of a class, a function or an instance; or why it cannot be, and what to write."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from etude.bind.table import RATE, Table
from etude.errors import SettingError
from etude.step.optim.options import WAYS, options_of
from etude.step.optim.rule import is_dense
from etude.values.tree import has_shape

Factory: TypeAlias = Callable[..., torch.optim.Optimizer]


def construct(make: Factory, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """What a class or a function makes of parameter groups.

    Raises:
        SettingError: it cannot be made with these options, is no optimizer, or computes the loss itself.
    """
    name = getattr(make, "__name__", type(make).__name__)
    # The rate is written into the groups before every step; a class that has no default for it needs one now.
    options = {"lr": 1e-3, **options} if isinstance(make, type) and "lr" in options_of(make) else options
    try:
        found: object = make(groups, **options)
    except Exception as error:
        said = str(error).rstrip(".")
        raise SettingError(
            f"{name} cannot be made with the options {', '.join(options) or 'none'}: {said}. "
            "Change them, or give an instance of your own."
        ) from error
    return _checked(found)


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
            'cannot step on gradients that are there. Use a first-order rule such as "adamw", or "lbfgs".'
        )
    return made


def regrouped(
    optimizer: torch.optim.Optimizer, options: Mapping[int, dict[str, Any]], groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    """An existing optimizer with the rows as its groups; its memory, keyed by parameter, stays.

    Args:
        options: of each array, by identity, as `options_by_array` gave.

    Raises:
        SettingError: arrays of one row are computed in different ways, or the optimizer computes the loss itself.
    """
    for group in groups:
        ways = {repr({way: options[id(array)].get(way) for way in sorted(WAYS)}) for array in group["params"]}
        if len(ways) > 1:
            raise SettingError(
                f"The parameter groups of this {type(optimizer).__name__} are computed in different ways: "
                f"{' and '.join(sorted(ways))}. Give all groups one way; a group that climbs is a negative multiplier."
            )
    made = [{**options[id(group["params"][0])], **group} for group in groups]
    for i, group in enumerate(made):
        # A rate that is a tensor is shared by the groups that were not given another.
        if isinstance(group.get("lr"), Tensor) and any(group["lr"] is other["lr"] for other in made[:i]):
            group["lr"] = group["lr"].clone()
    optimizer.param_groups[:] = made
    return _checked(optimizer)


def options_by_array(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """The options that an optimizer has for each of its arrays."""
    options: dict[int, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        rest = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        options.update({id(array): rest for array in group["params"]})
    return options


def check_arrays(
    optimizer: torch.optim.Optimizer, options: Mapping[int, Any], table: Table, inside: Collection[int]
) -> None:
    """Raise SettingError unless an instance has the arrays of the net that may move, and no others."""
    kind, arrays = type(optimizer).__name__, table.tree.arrays
    live = [name for i, name in enumerate(table.names) if i in inside and not table.choices[name][RATE].frozen]
    missing = [name for name in live if id(arrays[name]) not in options]
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


def check_dense(table: Table) -> None:
    """Raise SettingError for arrays with gaps in memory, which torch's fused kernels cannot have."""
    for name in table.names:
        array = table.tree.arrays[name]
        if has_shape(array) and not is_dense(array):
            raise SettingError(
                f"fused=True: the array {name!r} has gaps in memory, and torch's fused kernels would write into them. "
                "Leave fused out, or make the array contiguous."
            )


def check_matrices(table: Table, inside: Collection[int]) -> None:
    """Raise SettingError unless all that may move are matrices, as torch's Muon needs."""
    live = [name for i, name in enumerate(table.names) if i in inside and not table.choices[name][RATE].frozen]
    others = [name for name in live if has_shape(table.tree.arrays[name]) and table.tree.arrays[name].dim() != 2]
    if others:
        raise SettingError(
            f"Muon moves matrices only, and {', '.join(map(repr, others[:5]))}{', ...' if others[5:] else ''} "
            f'{"are none" if others[1:] else "is none"}. Write optimizer="muon", which gives the rest to AdamW, or say '
            'what moves them: optimizer={where(lambda name, array: array.dim() != 2): "adam", everything: "muon"}.'
        )
