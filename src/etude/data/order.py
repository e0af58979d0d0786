"""The order of the samples as a pure function of the seed and the epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from etude.data.chance import key_of

_SHUFFLE, _SPLIT = 1, 2
ORDER, BATCHES, STRATA, FILTER, CHUNK, SELECT, SUBEPOCH = 3, 4, 5, 6, 7, 8, 9
"""What chance is drawn for: each purpose has numbers of its own."""


def generator(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """Chance for one purpose as a pure function of its key, an epoch say: whoever asks gets the same numbers.

    Args:
        seed: at least 0, of any size. purpose: one of the constants of this module. key: each at least 0.
    """
    # Streams of Philox with different keys are independent (Salmon and others, 2011); this is made in 7 microseconds.
    low = key_of(seed, purpose, *key)
    return np.random.Generator(np.random.Philox(key=np.array([low, key_of(low, purpose)], dtype=np.uint64)))


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
