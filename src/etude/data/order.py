"""The order of the samples as a pure function of the seed and the epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_SHUFFLE, _SPLIT = 1, 2


def _shuffled(n: int, seed: int, purpose: int, epoch: int) -> Tensor:
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, epoch))
    return torch.from_numpy(np.random.Generator(np.random.Philox(sequence)).permutation(n))


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits `n` samples: int64, shape (n,), each of 0 to n - 1 once.

    Pure in its arguments: whoever asks, at whatever time, gets the same order.

    Args:
        n: number of samples.
        seed: at least 0, of any size.
        epoch: at least 0; epochs have independent orders.
    """
    return _shuffled(n, seed, _SHUFFLE, epoch)


def division(n: int, seed: int) -> Tensor:
    """A permutation of `n` samples that is independent of every epoch's: for setting samples aside."""
    return _shuffled(n, seed, _SPLIT, 0)


def in_order(n: int) -> Tensor:
    """0 to n - 1: int64, shape (n,)."""
    return torch.arange(n)
