"""Float32 copies of arrays in half precision, for optimizers that move what they are given."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from etude.step.optim import half


class Masters:
    """A parameter in float32 for each array in half precision; the array is that, rounded.

    What somebody else writes into an array is taken over before the copy moves.
    """

    def __init__(self) -> None:
        self._of: dict[int, nn.Parameter] = {}
        self._versions: dict[int, int] = {}

    def of(self, array: Tensor) -> nn.Parameter:
        """The copy of an array, made when it is first asked for."""
        if id(array) not in self._of:
            self._of[id(array)] = nn.Parameter(array.detach().float())
            self._versions[id(array)] = array._version
        return self._of[id(array)]

    @torch.no_grad()
    def refresh(self, array: Tensor) -> None:
        """Take over what somebody wrote into the array."""
        if self._versions[id(array)] != array._version:
            half.refresh(self._of[id(array)].detach(), array.detach())
            self._versions[id(array)] = array._version

    @torch.no_grad()
    def settle(self, array: Tensor) -> None:
        """Round the copy into the array."""
        array.copy_(self._of[id(array)])
        self._versions[id(array)] = array._version

    @torch.no_grad()
    def take(self, array: Tensor, master: Tensor | None) -> None:
        """Take a copy out of a state; without one that of the array as it is."""
        self._of[id(array)].copy_(array if master is None else master)
        # The array may not have come out of the same state.
        self._versions[id(array)] = -1

    def forget(self, arrays: Iterable[Tensor]) -> None:
        """Forget the copies of some arrays."""
        for array in arrays:
            self._of.pop(id(array), None)
            self._versions.pop(id(array), None)
