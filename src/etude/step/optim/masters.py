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
        self._fresh: set[int] = set()

    def of(self, array: Tensor) -> nn.Parameter:
        """The copy of an array, made when it is first asked for."""
        if id(array) not in self._of:
            self._of[id(array)] = nn.Parameter(array.detach().float())
        return self._of[id(array)]

    @torch.no_grad()
    def refresh(self, array: Tensor) -> None:
        """Take over what somebody wrote into the array, once before it moves."""
        if id(array) not in self._fresh:
            half.refresh(self._of[id(array)].detach(), array.detach())
            self._fresh.add(id(array))

    @torch.no_grad()
    def settle(self, array: Tensor) -> None:
        """Round the copy into the array."""
        array.copy_(self._of[id(array)])
        self._fresh.discard(id(array))

    @torch.no_grad()
    def take(self, array: Tensor, master: Tensor | None) -> None:
        """Take a copy out of a state; without one that of the array as it is."""
        self._of[id(array)].copy_(array if master is None else master)
        self._fresh.discard(id(array))

    def keep(self, arrays: Iterable[Tensor]) -> None:
        """Forget the copies of all other arrays: their places in memory may be given to new ones."""
        kept = {id(array) for array in arrays}
        self._of = {key: copy for key, copy in self._of.items() if key in kept}
        self._fresh &= kept

    def forget(self, arrays: Iterable[Tensor]) -> None:
        """Forget the copies of some arrays."""
        for array in arrays:
            self._of.pop(id(array), None)
            self._fresh.discard(id(array))
