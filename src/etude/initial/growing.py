"""An array in a larger (or smaller) one: each part of its axes into the front of that part of the new one."""

from __future__ import annotations

from itertools import accumulate, product
from typing import TypeAlias

from torch import Tensor

from etude.initial.units import Layout

Parts: TypeAlias = "tuple[tuple[int, ...], ...]"
"""Of each axis the lengths of its parts, in order."""


def grown(fresh: Tensor, old: Tensor, new_parts: Parts, old_parts: Parts) -> Tensor:
    """A copy of `fresh` that holds the leading block of every part of `old`, as much of it as there is room for.

    Args:
        fresh: what the rest is. old: of as many axes.
        new_parts, old_parts: into what the axes of `fresh` and `old` fall; as many parts on each axis of both.
    """
    made = fresh.clone()
    axes = [list(zip(_spans(new), _spans(old), strict=True)) for new, old in zip(new_parts, old_parts, strict=True)]
    for places in product(*axes):
        sizes = [min(n[1], o[1]) for n, o in places]
        into = tuple(slice(n[0], n[0] + size) for (n, _), size in zip(places, sizes, strict=True))
        out_of = tuple(slice(o[0], o[0] + size) for (_, o), size in zip(places, sizes, strict=True))
        made[into] = old[out_of].to(made.dtype)
    return made


def parts_of(shape: tuple[int, ...], layout: Layout) -> Parts | None:
    """The parts of an array of this shape; None if it cannot have been laid out so."""
    counts = (layout.blocks, layout.sides)
    parts = []
    for axis, length in enumerate(shape):
        count = counts[axis] if axis < len(counts) else 1
        if length % count:
            return None
        parts.append((length // count,) * count)
    return tuple(parts)


def _spans(lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip([0, *accumulate(lengths)], lengths, strict=False))
