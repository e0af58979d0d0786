"""What is done with an order: parts of it and repeats, batches shuffled, and bins of a stream that has no order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

from etude.data.order import BATCHES, generator
from etude.data.plan.lengths import Whole
from etude.errors import DataError

T = TypeVar("T")


def part(whole: Whole, epoch: int, of: int) -> Whole:
    """The part of a pass that one of its epochs takes, where a pass over the data is `of` epochs.

    Epoch e takes part e mod `of`. Parts are contiguous; those that come first have one unit more where it does not
    come out even.

    Args:
        whole: the order of the pass, shape (n,). epoch: from 0 on. of: how many epochs make a pass.

    Raises:
        DataError: there are fewer units than parts, so that some epochs would be empty.
    """
    n = len(whole)
    if of > n:
        raise DataError(f"{of} epochs cannot share a pass over {n} units: some would be empty. Write at most {n}.")
    size, larger = divmod(n, whole_number(of, "of={}"))
    index = epoch % of
    start = index * size + min(index, larger)
    return whole[start : start + size + (index < larger)]


def repeated(whole: Whole, times: int) -> Whole:
    """An order so many times in a row, each time the same.

    Raises:
        DataError: `times` is no whole number from 1 on.
    """
    return np.tile(whole, whole_number(times, "repeated {} times"))


def shuffle_blocks(batches: int, block: int | None, seed: int, epoch: int) -> Whole:
    """A permutation of whole batches within blocks of so many, int64, shape (batches,); None: one block of all."""
    size = max(batches, 1) if block is None else whole_number(block, "blocks of {} batches")
    chance = generator(seed, BATCHES, epoch).random(batches)
    return np.argsort(np.arange(batches) // size + chance, kind="stable")


def laplace_stream(samples: Iterable[T], size: int, length: Callable[[T], float]) -> Iterator[T]:
    """Samples of unknown number in bins of `size` as they arrive, sorted by length, rising and falling in turn."""
    size, arriving, falling = whole_number(size, "bins of {} samples"), iter(samples), False
    while waiting := list(islice(arriving, size)):
        yield from sorted(waiting, key=length, reverse=falling)
        falling = not falling


def whole_number(value: object, said: str) -> int:
    """A whole number from 1 on; `said` is what it is for, with {} in its place."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise DataError(f"{said.format(repr(value))}: a whole number from 1 on is needed.")
    return int(value)
