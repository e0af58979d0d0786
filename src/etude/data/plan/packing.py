"""Filling batches with what fits instead of with what comes next, and frames strung together and cut anywhere."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from etude.data.plan.cut import Batches, within
from etude.data.plan.lengths import Whole
from etude.data.plan.limits import Floats
from etude.errors import DataError


def first_fit(
    costs: Floats,
    most: float,
    pool: int | None = None,
    number: int | None = None,
    too_long: str = "alone",
    called: Callable[[int], str] = "the unit at position {}".format,
) -> Batches:
    """First-fit decreasing: the largest unit first, each into the first batch that has room for it.

    At most 11/9 of the fewest batches possible, and 6/9 of one more (Dósa, 2007); with many short units next to none
    are lost. Time goes with the number of batches and of different costs, not of units.

    Args:
        costs: of the units, in their order, float64 or int64, shape (n,); a batch holds a sum of at most `most`.
        most: above 0.
        pool: pack so many units at a time, in their order, so that chance in the order is kept; None: all together.
        number: units in a batch at most; None: any number.
        too_long: what becomes of a unit that costs more than `most`: "alone", "drop" or "error".
        called: what a message calls the unit at a position.

    Returns:
        Batches pool by pool, in each the one with the largest unit first; in a batch the largest unit comes first.

    Raises:
        DataError: a unit costs more than `most`, and that is an error.
    """
    costs = np.asarray(costs, dtype=np.float64)
    kept, dropped = within(costs[None], ("packed",), np.array([most]), too_long, called)
    size = max(len(kept), 1) if pool is None else pool
    pieces, sizes = [np.zeros(0, np.int64)], [0]
    for start in range(0, len(kept), size):
        units = kept[start : start + size]
        packed, counts = _packed(costs[units], float(most), number or len(units))
        pieces.append(units[packed])
        sizes += counts
    return Batches(np.concatenate(pieces), np.cumsum(sizes, dtype=np.int64), dropped)


def _packed(costs: Floats, most: float, number: int) -> tuple[Whole, list[int]]:
    """Positions batch after batch, and the sizes of the batches.

    First-fit decreasing fills the batches as if one after the other, each with the largest unit left that fits, again
    and again. Units of one cost are alike, so batches are found by counts; one that can be made several times is.
    """
    values, inverse, counts = np.unique(costs, return_inverse=True, return_counts=True)
    sorts, left = values.tolist(), counts.tolist()
    # Of each cost the largest one, up to itself, of which there are units left; counted from 1, so that 0 is none.
    below = list(range(len(sorts) + 1))
    recipes: list[tuple[list[int], list[int], int]] = []
    while (kind := _found(below, len(sorts)) - 1) >= 0:
        kinds: list[int] = []
        taken: list[int] = []
        room, free = most, number
        while kind >= 0 and free:
            # A unit that is larger than a batch is taken as well, alone.
            fits = max(int(room / sorts[kind]), not kinds) if sorts[kind] else free
            kinds.append(kind)
            taken.append(min(left[kind], free, fits))
            room, free = room - taken[-1] * sorts[kind], free - taken[-1]
            kind = _found(below, min(bisect_right(sorts, room), kind)) - 1
        times = min(left[kind] // count for kind, count in zip(kinds, taken, strict=True))
        for kind, count in zip(kinds, taken, strict=True):
            left[kind] -= times * count
            if not left[kind]:
                below[kind + 1] = kind
        recipes.append((kinds, taken, times))
    return _assigned(inverse.ravel(), recipes)


def _found(below: list[int], place: int) -> int:
    """The end of the chain that begins at `place`; what is passed points further on than before."""
    while below[place] != place:
        below[place] = below[below[place]]
        place = below[place]
    return place


def _assigned(of: Whole, recipes: list[tuple[list[int], list[int], int]]) -> tuple[Whole, list[int]]:
    """Which units the batches get: of each cost those that come first, in their order."""
    kinds = [kind for kinds, _, times in recipes for kind in kinds * times]
    taken = [count for _, counts, times in recipes for count in counts * times]
    sizes = [sum(counts) for _, counts, times in recipes for _ in range(times)]
    wanted = np.repeat(kinds, taken)
    # The i-th place that wants a cost gets the i-th unit of that cost.
    units = np.empty(len(of), np.int64)
    units[np.argsort(wanted, kind="stable")] = np.argsort(of, kind="stable")
    return units, sizes


@final
@dataclass(frozen=True, slots=True, eq=False)
class Strung:
    """Pieces of units, in rows of exactly so many frames.

    Attributes:
        units: of which unit each piece is, int64, shape (pieces,).
        starts, stops: which frames of the unit, int64, shape (pieces,).
        offsets: at which piece each row begins, and where the last ends, int64, shape (rows + 1,).
    """

    units: Whole
    starts: Whole
    stops: Whole
    offsets: Whole


def strung(lengths: Whole, size: int) -> Strung:
    """The frames of all units one after the other, cut every `size` frames; the last row may be shorter.

    Args:
        lengths: of the units, in their order, int64, shape (n,); a unit without frames is in no row.
        size: frames in a row, at least 1.

    Raises:
        DataError: `size` is no whole number from 1 on.
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise DataError(f"rows of {size!r} frames: a whole number from 1 on is needed.")
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.union1d(np.append(0, ends), np.arange(0, total, size))
    begins, finishes = cuts[:-1], cuts[1:]
    units = np.searchsorted(ends, begins, side="right")
    first = ends[units] - lengths[units]
    offsets = np.append(np.searchsorted(begins, np.arange(0, total, size)), len(begins))
    return Strung(units, begins - first, finishes - first, offsets)
