"""Random numbers that are counted, not carried: from the seed, a name and a number, the same on every machine."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def mixed(seed: int, number: int) -> int:
    """One number from two, by the odd constants of splitmix64: neighbours in either lie far apart."""
    return (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & 0x7FFFFFFFFFFFFFFF


def generator_of(seed: int, name: str, number: int) -> torch.Generator:
    """A generator of its own for a seed, a name and a number."""
    return torch.Generator().manual_seed(mixed(mixed(seed, zlib.crc32(name.encode())), number))


def noise_like(array: Tensor, seed: int, name: str, count: Tensor, purpose: str) -> Tensor:
    """Standard normal noise of the shape of an array, in float32: for the `count`-th move of the array called `name`.

    Drawn on the CPU, so that it is the same wherever the array is.
    """
    generator = generator_of(seed, f"{purpose}:{name}", int(count))
    return torch.randn(array.shape, generator=generator).to(array.device)
