"""Buffers of a net as they were before a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from etude.values.tree import has_shape


@final
class Kept:
    """Buffers, kept before each step, so that a step that is refused leaves no trace in them.

    Args:
        buffers: those that a forward may write to.
    """

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        self._buffers = [buffer for buffer in buffers if has_shape(buffer) and buffer.numel()]
        self._kept = [torch.empty_like(buffer) for buffer in self._buffers]

    def keep(self) -> None:
        """Take a copy."""
        if self._kept:
            with torch.no_grad():
                torch._foreach_copy_(self._kept, self._buffers)

    def restore(self) -> None:
        """Put the copy back."""
        if self._kept:
            with torch.no_grad():
                torch._foreach_copy_(self._buffers, self._kept)
