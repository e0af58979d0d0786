"""Computing beside a step what must leave no trace in it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from etude.step.looking import same_buffers
from etude.values.tree import has_shape


@contextmanager
def same_chance(net: nn.Module) -> Iterator[None]:
    """Whatever is drawn within, from torch, numpy or Python, the next number is the one that would have come."""
    device = next((array.device for array in net.parameters() if has_shape(array)), torch.device("cpu"))
    drawn, plain = np.random.get_state(), random.getstate()
    others = [device] if device.type not in ("cpu", "meta") else []
    kind = others[0].type if others else "cuda"
    try:
        with torch.random.fork_rng(devices=others, device_type=kind):
            yield
    finally:
        np.random.set_state(drawn)
        random.setstate(plain)


@contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """The same, and buffers of the net (running statistics) hold what they held."""
    with same_chance(net), same_buffers(net):
        yield
