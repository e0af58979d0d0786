"""Norms of gradients, and bounds on them: by element, by array, by all that one rule names.

No host waits for a norm that only scales: factors stay on the device, and are 1 where nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from etude.bind.table import Now, Table
from etude.step.optim.half import is_low


def joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all elements of some gradients, a scalar."""
    values = [numbers(tensor.coalesce() if tensor.is_sparse else tensor) for tensor in tensors]
    return _norm(values)


def joint_norms(groups: Sequence[Sequence[Tensor]]) -> Tensor:
    """The joint Euclidean norm of each of several groups of gradients, without a wait for the device.

    All gradients are measured by one fused call. A gradient may be in several groups; numbers in half precision, whose
    squares soon overflow, are measured in float32.

    Args:
        groups: gradients, dense or sparse; a group without any has the norm 0.

    Returns:
        shape (groups,), on the device of the first gradient.
    """
    each = {id(tensor): tensor for group in groups for tensor in group}
    if not each:
        return torch.zeros(len(groups))
    dense = (tensor.coalesce() if tensor.is_sparse else tensor for tensor in each.values())
    norms = torch._foreach_norm([_wide(numbers(tensor.detach())) for tensor in dense])
    device = norms[0].device
    place = {key: number for number, key in enumerate(each)}
    squares = torch.stack([norm.to(device, torch.float32) for norm in norms]).square()
    rows = [row for row, group in enumerate(groups) for _ in group]
    columns = [place[id(tensor)] for group in groups for tensor in group]
    sums = torch.zeros(len(groups), device=device)
    sums.index_add_(0, torch.tensor(rows, device=device), squares[torch.tensor(columns, device=device)])
    return sums.sqrt()


def by_rule(now: Now, table: Table, setting: str, bounds: Sequence[float]) -> Mapping[tuple[str, float], list[int]]:
    """Places in `now.moving.indices` of the arrays that one rule names, and that have one bound, where there is one."""
    together: dict[tuple[str, float], list[int]] = {}
    for place, (index, bound) in enumerate(zip(now.moving.indices, bounds, strict=True)):
        if bound < inf:
            rule = table.choices[table.names[index]][setting].rule
            together.setdefault((rule, bound), []).append(place)
    return together


def bounds_of(values: Iterable[Any]) -> list[float]:
    """Bounds as numbers: None and 0 are no bound, for nobody wants to be left with nothing."""
    return [value or inf for value in values]


def clip_values(tensors: Sequence[Tensor], bounds: Sequence[float]) -> None:
    """Keep the elements of each tensor within ± its bound."""
    for tensor, bound in zip(tensors, bounds, strict=True):
        if bound < inf:
            tensor.clamp_(-bound, bound)


def clip_array_norms(tensors: Sequence[Tensor], bounds: Sequence[float]) -> None:
    """Scale each tensor down to its largest norm."""
    for tensor, bound in zip(tensors, bounds, strict=True):
        _clip_norm([tensor], bound)


def clip_mean_norms(tensors: Sequence[Tensor], bounds: Sequence[float], whole: Sequence[Tensor]) -> None:
    """Scale each tensor down until its norm, divided by the number of elements of the whole gradient, is at most that.

    `whole` are the gradients themselves: of a sparse one `tensors` has the values that are there alone.
    """
    for tensor, bound, gradient in zip(tensors, bounds, whole, strict=True):
        _clip_norm([tensor], bound * gradient.numel())


def clip_joint_norms(tensors: Sequence[Tensor], now: Now, table: Table, bounds: Sequence[float]) -> None:
    """One joint norm for the arrays that one rule names."""
    for (_, bound), places in by_rule(now, table, "clip_norm", bounds).items():
        _clip_norm([tensors[place] for place in places], bound)


def numbers(tensor: Tensor) -> Tensor:
    """The real numbers that a tensor is made of: of a sparse one those it has, of a complex one pairs."""
    values = tensor._values() if tensor.is_sparse else tensor
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def _clip_norm(tensors: Sequence[Tensor], bound: float) -> None:
    if bound == inf:
        return
    factor = (bound / (_norm(tensors) + 1e-6)).clamp(max=1.0)
    devices = {tensor.device for tensor in tensors}
    for device in devices:
        own = tensors if len(devices) == 1 else [tensor for tensor in tensors if tensor.device == device]
        torch._foreach_mul_(list(own), factor.to(device))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The joint norm; of numbers in half precision in float32."""
    wide = [tensor.float() if is_low(tensor) else tensor for tensor in tensors]
    if len({(tensor.device, tensor.dtype) for tensor in wide}) == 1:
        # What the function of torch comes to here, in a third of its time for small gradients.
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(wide)))
        return norm
    return torch.nn.utils.get_total_norm(wide)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if is_low(tensor) else tensor
