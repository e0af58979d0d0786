"""Losses of torch taken element by element, and their means over the elements that are true."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

Function = Callable[..., Any]


def element_wise(function: Any) -> Function | None:
    """A loss of torch that gives one value an element instead of their mean; None for other functions.

    A module is copied for it; its buffers are those of the given one.
    """
    if isinstance(function, nn.Module):
        if not type(function).__module__.startswith("torch.nn.") or not hasattr(function, "reduction"):
            return None
        made = copy.copy(function)
        made.__dict__["reduction"] = "none"
        return made
    return partial(function, reduction="none")


def mean_of_true(
    function: Function, output: Tensor, target: Tensor, mask: Tensor, classes: bool, rows: bool
) -> tuple[Tensor, Tensor]:
    """The mean of a loss over true elements, and over how many of the target it is.

    Args:
        function: gives one value an element, or one for each of its classes.
        output, target: of shape (samples, longest, ...) or, with one row a sample, (samples, ...).
        mask: which are true, bool, shape (samples, longest) or (samples,).
        classes: output and target have their classes in the second dimension, and the values have none.
        rows: whether the sum is divided by the number of samples, as "batchmean" does, and not by that of elements.
    """
    count = count_of_true(mask, target.shape if not classes else _without_classes(target), rows)
    if not classes:
        # In padding nothing may be computed that is not finite: its gradient would be NaN and not 0.
        inside = _like(mask, target.dim())
        output, target = output.where(inside, 0), target.where(inside, 0)
    losses = function(output, target)
    total = losses.where(_like(mask, losses.dim()), 0).sum()
    return total / (count if rows else count_of_true(mask, losses.shape)), count


def count_of_true(mask: Tensor, shape: Sequence[int], rows: bool = False) -> Tensor:
    """How many elements of a tensor of this shape are true; with `rows`, how many samples have one, int64 scalar."""
    if rows:
        return (mask.any(1) if mask.dim() > 1 else mask).sum()
    return mask.sum() * prod(shape[mask.dim() :])


def _without_classes(target: Tensor) -> Sequence[int]:
    return torch.Size((*target.shape[:1], *target.shape[2:]))


def _like(mask: Tensor, dimensions: int) -> Tensor:
    """The mask with as many dimensions as what it is for."""
    return mask.reshape(*mask.shape, *(1,) * (dimensions - mask.dim()))
