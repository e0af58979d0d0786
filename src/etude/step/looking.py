"""Looking at modules without changing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from etude.values.tree import has_shape


@contextmanager
def looking(net: nn.Module) -> Iterator[None]:
    """The net in evaluation mode and without gradients; every module is afterwards in the mode it had."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def same_buffers(net: nn.Module) -> Iterator[None]:
    """Some nets write to their buffers even in evaluation mode: afterwards they hold what they held."""
    kept = [(buffer, buffer.detach().clone()) for buffer in net.buffers() if has_shape(buffer)]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.data.copy_(before)
