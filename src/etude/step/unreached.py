"""Arrays that only terms of weight 0 reach: their gradient is 0, not missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor, nn

from etude.step.loss import Losses
from etude.step.loss_numbers import Now
from etude.step.reading import Reader


@final
class Unreached:
    """What terms of weight 0 would reach, found once for each set of arrays.

    Args:
        losses: the terms. net, read: what they are computed of.
    """

    def __init__(self, losses: Losses, net: nn.Module, read: Reader) -> None:
        self._losses, self._net, self._read = losses, net, read
        self._known: dict[tuple[Any, ...], list[bool]] = {}

    def fill(self, arrays: Iterable[Tensor], values: Any, numbers: Now) -> None:
        """Give a gradient of 0 to those of the arrays that have none and that a term of weight 0 reaches.

        Args:
            values: a batch. numbers: the weights and settings of this moment.
        """
        if not self._losses.any_unweighted(numbers):
            return
        missing = [array for array in arrays if array.grad is None]
        if not missing:
            return
        key = (*map(id, missing), *self._losses.in_sum(numbers))
        # Asking takes a forward and a backward; which arrays a term reaches does not change.
        if key not in self._known:
            self._known[key] = self._losses.reached_beside(self._net, self._read, values, numbers, missing)
        for array, yes in zip(missing, self._known[key], strict=True):
            array.grad = torch.zeros_like(array) if yes else None
