"""Where batches end, for many units at once.

Under limits that stay the same a batch of more units never takes less. So for every unit the end of the batch that
begins with it is found by searching sums and maxima, for all units of a window together; then only the units at which
batches do begin are followed. Limits that change from unit to unit are tried batch by batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etude.data.plan.lengths import Whole
from etude.data.plan.limits import Floats, Kind


def changes_of(limits: Floats, n: int) -> list[int]:
    """The positions at which the limits become others, and n."""
    if limits.ndim == 1:
        return [n]
    return [*(np.flatnonzero((limits[:, 1:] != limits[:, :-1]).any(0)) + 1).tolist(), n]


def next_end(costs: Floats, kinds: Sequence[Kind], limits: Floats, start: int, guess: int) -> int:
    """Where the batch ends that begins at `start`, each unit of it within limits of its own.

    Args:
        costs, kinds: of all units. limits: shape (limits,) or (limits, n).
        guess: about how many units it has.
    """
    n: int = costs.shape[1]
    size = 2 * guess + 16
    while True:
        stop = min(start + size, n)
        allowed = limits[:, start:stop] if limits.ndim == 2 else limits[:, None]
        over = np.nonzero(_running(costs[:, start:stop], kinds) > allowed)[1]
        later = over[over > 0]
        if len(later):
            return start + int(later.min())
        if stop == n:
            return n
        size *= 4


def _running(costs: Floats, kinds: Sequence[Kind]) -> Floats:
    """What a batch of the first, the first two, ... units takes of each limit; as `costs` in shape."""
    numbers = np.arange(1.0, costs.shape[1] + 1)
    rows = []
    for kind, row in zip(kinds, costs, strict=True):
        total = np.cumsum(row) if kind != "padded" else 0.0
        rows.append(total if kind == "packed" else np.maximum.accumulate(row) * numbers - total)
    return np.array(rows).reshape(costs.shape)


def all_ends(costs: Floats, kinds: Sequence[Kind], limits: Floats) -> Whole:
    """For every unit where a batch ends that begins with it, at the latest after the last unit: int64, shape (n,)."""
    n = costs.shape[1]
    ends: Whole = np.full(n, n)
    for kind, row, most in zip(kinds, costs, limits.tolist(), strict=True):
        find = _packed_ends if kind == "packed" else _padded_ends
        np.minimum(ends, find(row, most, kind), out=ends)
    return np.maximum(ends, np.arange(1, n + 1))


def _packed_ends(row: Floats, most: float, kind: Kind) -> Whole:
    sums = np.concatenate(([0.0], np.cumsum(row)))
    ends: Whole = np.searchsorted(sums, sums[:-1] + most, side="right") - 1
    return ends


def _padded_ends(row: Floats, most: float, kind: Kind) -> Whole:
    """By binary descent: a batch grows by 2^k units as long as it stays within the limit, for falling k."""
    n = len(row)
    starts = np.arange(n)
    ends, largest = starts + 1, row
    sums = np.concatenate(([0.0], np.cumsum(row))) if kind == "padding" else None
    tables = _maxima(row, n if kind == "padding" else _most_units(row, most))
    for level in range(len(tables) - 1, -1, -1):
        step = 1 << level
        grown = np.maximum(largest, tables[level][ends])
        total = grown * (ends - starts + step)
        if sums is not None:
            total -= sums[np.minimum(ends + step, n)] - sums[:-1]
        fits = total <= most
        ends = ends + fits * step
        largest = np.where(fits, grown, largest)
    return ends


def _most_units(row: Floats, most: float) -> int:
    """How many units a padded batch can have at most."""
    least = float(row.min())
    return len(row) if least <= 0 else min(len(row), int(most / least) + 1)


def _maxima(row: Floats, reach: int) -> list[Floats]:
    """Of each place the largest of the next 1, 2, 4, ... units, up to `reach`; infinite where they are not all there.

    Each has one place more than there are units.
    """
    tables = [np.append(row, np.inf)]
    while 2 << (len(tables) - 1) <= reach:
        half, before = 1 << (len(tables) - 1), tables[-1]
        table = np.full(len(row) + 1, np.inf)
        np.maximum(before[:-half], before[half:], out=table[:-half])
        tables.append(table)
    return tables
