"""The batches of an epoch in numbers: how full each is, and how much of it is padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from etude.data.plan.budgets import costs
from etude.data.plan.lengths import Whole
from etude.data.plan.limits import Floats, Kind, Limit
from etude.data.plan.planned import Planned
from etude.data.plan.planner import Planner


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """The batches of an epoch in numbers, one for each batch, in the order in which they come.

    Attributes:
        sizes: units in each, int64, shape (batches,).
        rows: that each has, those included that only fill up its shape.
        longest: of each stream the length to which each batch is padded. frames: what is in it, padding not counted.
        fill: the share of what is allowed that each holds: of the limit that it comes nearest to; of the rows of its
            shape where that is fixed. float64; above 1 where a unit beyond the budget is alone.
        packed: whether sequences follow one another, so that nothing is padded.
    """

    sizes: Whole
    rows: Whole
    longest: Mapping[str, Whole]
    frames: Mapping[str, Whole]
    fill: Floats
    packed: bool

    def cells(self, stream: str) -> Whole:
        """What each batch holds of a stream, padding counted."""
        return self.frames[stream] if self.packed else self.longest[stream] * self.rows

    def padding(self, stream: str) -> Floats:
        """The share of each batch that is padding, 0 to 1."""
        return 1 - self.frames[stream] / np.maximum(self.cells(stream), 1)

    @property
    def shapes(self) -> int:
        """How many different shapes the batches have, all streams of a batch together."""
        wide = [self.cells(name) if self.packed else self.longest[name] for name in self.longest]
        return int(np.unique(np.stack([self.rows, *wide]), axis=1).shape[1])


def measure(planner: Planner, number: int, packed: bool) -> Measures:
    """The batches of an epoch in numbers.

    Args:
        planner: of the data. number: of the epoch, from 0 on.
        packed: whether sequences follow one another.
    """
    planned = planner.epoch(number)
    units, offsets = planned.epoch.all()
    starts, sizes = offsets[:-1], np.diff(offsets)
    lengths = planned.table.lengths
    own = {} if lengths is None else {name: lengths[name][units] for name in lengths.names}
    longest = {name: np.maximum.reduceat(each, starts) for name, each in own.items()}
    frames = {name: np.add.reduceat(each, starts) for name, each in own.items()}
    if planned.epoch.shaped:
        rows = _shaped(planned, longest)
        return Measures(sizes, rows, longest, frames, sizes / rows, packed)
    return Measures(sizes, sizes, longest, frames, _fill(planner, planned, units, starts, sizes), packed)


def _shaped(planned: Planned, longest: Mapping[str, Whole]) -> Whole:
    """The rows of batches whose shapes are fixed; their lengths are written into `longest`."""
    rows = np.zeros(planned.batches, np.int64)
    for batch in range(planned.batches):
        rows[batch] = planned.epoch.filled(batch)
        for name, length in planned.epoch.to(batch).items():
            longest[name][batch] = length
    return rows


def _fill(planner: Planner, planned: Planned, units: Whole, starts: Whole, sizes: Whole) -> Floats:
    limits: Sequence[Limit] = planner.batching.limits
    whole = costs(limits, planned.table.lengths, planned.table.number)
    allowed = planner.allowed(planned.number)
    fill = np.zeros(len(sizes))
    for kind, values, most in zip(whole.kinds, whole.values, allowed, strict=True):
        np.maximum(fill, _cost(kind, values[units], starts, sizes) / most, out=fill)
    return fill


def _cost(kind: Kind, values: Floats, starts: Whole, sizes: Whole) -> Floats:
    """What each batch costs under one limit."""
    if kind == "packed":
        return np.add.reduceat(values, starts)
    wide: Floats = sizes.astype(np.float64) * np.maximum.reduceat(values, starts)
    return wide if kind == "padded" else wide - np.add.reduceat(values, starts)
