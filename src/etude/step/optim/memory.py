"""What an optimizer of torch's shape remembers of an array: out of its state and back into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from etude.step.optim.groups import KEPT
from etude.step.optim.half import is_low

NUMBERS = "of an array in"
"""Where a memory has other numbers than its array: those that the array had."""
ALL = "all."
"""Begins the name of what an optimizer keeps for all its arrays together."""


def for_array_and_group(own: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is kept for an array, and what is kept for its group."""
    for_group = {key: kept for key, kept in own.items() if key.startswith((KEPT, ALL))}
    return {key: kept for key, kept in own.items() if key not in for_group}, for_group


def numbers_of(found: Mapping[str, Any], array: Tensor) -> dict[str, str]:
    """The numbers of an array, where some memory of it has others."""
    own = [kept for kept in found.values() if isinstance(kept, Tensor) and kept.dim() and kept.is_floating_point()]
    return {NUMBERS: str(array.dtype)} if any(kept.dtype != array.dtype for kept in own) else {}


def widened(kept: Any) -> Any:
    """A memory in half precision as float32."""
    return kept.float() if isinstance(kept, Tensor) and is_low(kept) else kept


def fits(kept: Tensor, array: Tensor) -> bool:
    """Whether a memory may belong to an array: of its shape, of a mean over some dimensions, or of none of them."""
    pairs = zip(kept.shape, array.shape, strict=False)
    return kept.dim() != array.dim() or all(own in (1, size) for own, size in pairs)


def placed(key: str, kept: Any, array: Tensor, wider: bool, keeps: bool = False) -> Any:
    """A memory where its array is, in the array's numbers unless it `keeps` its own.

    `wider`: that of an array in half precision may be float32.
    """
    if isinstance(kept, list):
        return [placed(key, each, array, wider, keeps) for each in kept]
    if not isinstance(kept, Tensor):
        return kept
    if key == "step":
        # Step counts stay where the optimizer keeps them; everything else lives beside its array.
        return kept.detach().clone()
    follows = kept.dim() > 0 and kept.is_floating_point() and array.is_floating_point()
    follows = follows and not keeps and not (wider and is_low(array))
    dtype = array.dtype if follows else kept.dtype
    if wider or kept.shape != array.shape:
        # Another's own memory may lie in another order than its array, and is computed with in that order.
        return kept.detach().to(array.device, dtype, copy=True)
    return torch.empty_like(array, dtype=dtype, requires_grad=False).copy_(kept)
