"""What is read forward, shuffled as far as a buffer reaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from etude.arguments import named
from etude.data.forward import Counts, Forward, opened, readable
from etude.data.order import ORDER, generator
from etude.data.sets import forward_only, title_of
from etude.errors import DataError

T = TypeVar("T")

_DRAWN = 1024
"""Places in a buffer drawn at once."""


@named
def shuffle_buffer(data: Any, size: int, *, seed: int = 0) -> Forward:
    """What is read forward, shuffled as far as a buffer reaches.

    The buffer is filled; then a random sample of it is given out and the next one takes its place. A sample can come
    any time later, but at most `size` - 1 places earlier. The order is a function of seed and epoch.

    Args:
        data: what is read forward.
        size: samples held in memory.
        seed: at least 0.

    Raises:
        DataError: data with random access, which a whole permutation shuffles better; numbers that are none.
    """
    for name, value, least in (("size", size, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError(f"shuffle_buffer(): {name}={value!r}. Write a whole number from {least} on.")
    if not forward_only(data):
        raise DataError(
            f"shuffle_buffer(): {title_of(data)} has random access, and an order of all its samples shuffles better. "
            "Leave the buffer out."
        )
    source = readable(data, "shuffle_buffer()")
    return Forward(f"shuffle_buffer({title_of(data)})", partial(_buffered, source, size, seed), [source])


def _buffered(source: Any, size: int, seed: int, epoch: int, counts: Counts) -> Iterator[Any]:
    return shuffled(opened(source, epoch), size, seed, epoch)


def shuffled(samples: Iterable[T], size: int, seed: int, epoch: int) -> Iterator[T]:
    """Samples in the order in which they leave a buffer of so many."""
    chance = generator(seed, ORDER, epoch, size)
    held: list[T] = []
    drawn: list[int] = []
    for sample in samples:
        if len(held) < size:
            held.append(sample)
            continue
        drawn = drawn or chance.integers(size, size=_DRAWN).tolist()
        chosen = drawn.pop()
        yield held[chosen]
        held[chosen] = sample
    for chosen in chance.permutation(len(held)).tolist():
        yield held[chosen]
