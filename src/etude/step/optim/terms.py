"""Terms that several update rules have in common."""

from __future__ import annotations

from math import inf, log

import torch
from torch import Tensor


def on(setting: float | Tensor) -> bool:
    """Whether a setting is not 0. In a compiled step one that changes is a tensor of one element, and never 0."""
    return isinstance(setting, Tensor) or bool(setting)


def lerp(old: Tensor, new: Tensor, share: float | Tensor) -> Tensor:
    """`old` moved towards `new` by a share of the difference, in place; the share is a number, or as in `on`."""
    return old.lerp_(new, share.to(old.device, old.dtype) if isinstance(share, Tensor) else share)


def filled(beta: float | Tensor, count: Tensor) -> Tensor:
    """1 - beta^count: how much of a moving average that began at zero is filled after `count` values.

    By way of the logarithm, because in single precision the difference itself would lose four digits at first.
    """
    if isinstance(beta, Tensor):
        return -torch.expm1(count * beta.log())
    return -torch.expm1(count * (log(beta) if beta else -inf))


def norm(array: Tensor) -> Tensor:
    """The Euclidean norm of all elements, a scalar; numbers of 16 bits are added up in single precision."""
    made: Tensor = torch.linalg.vector_norm(array, dtype=torch.promote_types(array.dtype, torch.float32))
    return made


def ratio(size: Tensor, other: Tensor) -> Tensor:
    """`size` / `other`, two norms; 1 where either is zero, so that nothing is divided by zero or stuck at zero."""
    return torch.where((size > 0) & (other > 0), size / other, 1.0)


def divided(top: Tensor, bottom: Tensor) -> Tensor:
    """`top` / `bottom`, where the bottom is never negative; 0 where it is zero, and the top is then as good as zero."""
    return torch.where(bottom > 0, top / bottom, 0.0)
