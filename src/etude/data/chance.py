"""Chance as a pure function of a key, without touching the numbers that the process draws for itself."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch

_MASK = (1 << 64) - 1


def _mixed(word: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): neighbouring words become unrelated ones."""
    word = (word + 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def item_key(seed: int, epoch: int, index: int) -> int:
    """64 bits that decide all chance in one item (or batch) of one epoch; a microsecond, so asked for each item."""
    return _mixed(_mixed(_root(seed) + epoch) + index)


def key_of(seed: int, *words: int) -> int:
    """64 bits that depend on a seed and any number of whole numbers."""
    key = _root(seed)
    for word in words:
        key = _mixed(key + word)
    return key


@cache
def _root(seed: int) -> int:
    key = _mixed(seed & _MASK)
    while seed > _MASK:
        seed >>= 64
        key = _mixed(key ^ (seed & _MASK))
    return key


def sow(key: int) -> None:
    """Seed the generators of torch (CPU), numpy and Python from `key`.

    torch and numpy get different bits: both are Mersenne twisters and would give the same numbers from one seed.
    """
    torch.default_generator.manual_seed(key & 0xFFFFFFFF)
    np.random.seed(key >> 32)
    random.seed(key)


class _Numpy:
    """The state of numpy's own generator, saved and restored in a microsecond where numpy's functions take seventy.

    Its bits are copied through the address that `BitGenerator.ctypes` states. Besides them there may be a second normal
    number in waiting, which only `get_state` tells. But drawing a pair moves the bits: as long as they are those of a
    moment at which nothing was waiting, nothing is (unless `set_state` put it there).
    """

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known = b""

    def save(self) -> Any:
        """The bits, where they are all there is to the state; otherwise the state as numpy gives it."""
        memory = _memory()
        bits = b"" if memory is None else memory.raw
        if bits and bits == self.known:
            return bits
        state: Any = np.random.get_state(legacy=False)
        if not bits or state["has_gauss"] or bits != _packed(state["state"]):
            return state
        self.known = bits
        return bits

    def restore(self, saved: Any) -> None:
        memory = _memory() if isinstance(saved, bytes) else None
        if memory is None:
            np.random.set_state(saved)
            return
        np.random.seed(0)  # leaves no normal number in waiting
        memory.raw = saved

    def surely_same(self, saved: Any) -> bool:
        """Whether nothing was drawn since `saved`; False also where only a slow look could tell."""
        memory = _memory() if isinstance(saved, bytes) else None
        return memory is not None and bool(memory.raw == saved)


def _memory() -> Any:
    """The state of numpy's generator if it is a Mersenne twister: 624 words and a position."""
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]  # public, not in numpy's stubs
    if type(generator) is not np.random.MT19937:
        return None
    return (ctypes.c_char * 2500).from_address(generator.ctypes.state_address)


def _packed(state: Any) -> bytes:
    """What the memory should hold: a numpy that lays it out otherwise is served by its own functions."""
    return bytes(state["key"].tobytes() + int(state["pos"]).to_bytes(4, sys.byteorder))


_numpy = _Numpy()


@contextmanager
def undisturbed() -> Iterator[Callable[[], bool]]:
    """Give the generators of torch (CPU), numpy and Python back the states they had.

    Yields:
        A function that tells whether nothing was drawn from any of them so far. In doubt it says False.
    """
    ours, theirs, pythons = torch.default_generator.get_state(), _numpy.save(), random.getstate()

    def untouched() -> bool:
        return (
            _numpy.surely_same(theirs)
            and torch.default_generator.get_state().equal(ours)
            and random.getstate() == pythons
        )

    try:
        yield untouched
    finally:
        torch.default_generator.set_state(ours)
        _numpy.restore(theirs)
        random.setstate(pythons)
