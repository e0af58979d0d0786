"""Order and chance as pure functions: of the seed and the epoch, and of the item where items draw numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_SHUFFLE, _SPLIT = 1, 2
_MASK = (1 << 64) - 1


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


def _mixed(word: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): neighbouring words become unrelated ones."""
    word = (word + 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def item_key(seed: int, epoch: int, index: int) -> int:
    """64 bits that decide all chance in one item (or batch) of one epoch; a microsecond, so asked for each item."""
    key = _mixed(seed & _MASK)
    while seed > _MASK:
        seed >>= 64
        key = _mixed(key ^ (seed & _MASK))
    return _mixed(_mixed(key + epoch) + index)


def sow(key: int) -> None:
    """Seed the generators of torch (CPU), numpy and Python from `key`.

    torch and numpy get different bits: both are Mersenne twisters and would give the same numbers from one seed.
    """
    torch.default_generator.manual_seed(key & 0xFFFFFFFF)
    np.random.seed(key >> 32)
    random.seed(key)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Give the generators of torch (CPU), numpy and Python back the states they had."""
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
