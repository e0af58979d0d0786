"""Terms that several update rules have in common."""

from __future__ import annotations

from math import inf, log

import torch
from torch import Tensor


def filled(beta: float, count: Tensor) -> Tensor:
    """1 - beta^count: how much of a moving average that began at zero is filled after `count` values.

    By way of the logarithm, because in single precision the difference itself would lose four digits at first.
    """
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
