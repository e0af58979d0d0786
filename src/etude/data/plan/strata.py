"""Batches of alike lengths in random order, found without planning the epoch.

Units sorted by length are cut into strata of a few batches each. A batch is a random sample of its stratum, and batches
come in random order, so neighbouring batches have nothing to do with one another and hardly anything is padded. Where
the strata lie is drawn anew for each epoch, and so are the samples: no two epochs have the same batches.

Sorting is done once. What an epoch costs beforehand is the places of its strata, a thousand or so; the units of a batch
are found when the batch is asked for, from those of its stratum alone. That is why any batch of any epoch is at hand at
once, also in a million units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np
import numpy.typing as npt

from etude.data.order import BATCHES, STRATA, generator
from etude.data.plan.arrangements import Order, Units
from etude.data.plan.epoch import Epoch, of_lists
from etude.data.plan.lengths import Whole
from etude.data.plan.sorting import by_key
from etude.errors import DataError

Costs = npt.NDArray[np.float64]

_FEWEST, _MIXED = 2, 8
"""Batches in a stratum at least, for with one there would be nothing to draw; and those that mix an epoch well."""
_PADDING, _BEARABLE = 0.0015, 0.01
"""Share of padding up to which strata are made larger; and up to which they are, to be mixed well."""
_BLOCK = 64
"""Units of which the largest cost is kept, so that a stratum need not look at all of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Sorted:
    """Units sorted by length, as many epochs read them.

    Attributes:
        units: int64, shape (n,), the shortest first.
        lengths: theirs, ascending.
        costs: of each unit alone under each limit, float64, shape (limits, n), in the same order.
        runs: where units of another length begin, int64; the last is n.
        rising: whether no unit costs less than a shorter one, so that the last of several is the costliest.
    """

    units: Whole
    lengths: Whole
    costs: Costs
    runs: Whole
    rising: bool
    _blocks: Costs = field(repr=False)

    def __len__(self) -> int:
        return len(self.units)

    def largest(self, start: int, stop: int) -> Costs:
        """The largest costs of the units from `start` to `stop`, of which there is at least one."""
        if self.rising:
            return self.costs[:, stop - 1]
        first, last = -(-start // _BLOCK), stop // _BLOCK
        pieces = [self.costs[:, start:stop]]
        if last - first > 1:
            edges = self.costs[:, start : first * _BLOCK], self.costs[:, last * _BLOCK : stop]
            pieces = [self._blocks[:, first:last], *edges]
        found: Costs = np.maximum.reduce([piece.max(1, initial=0.0) for piece in pieces])
        return found

    def only(self, kept: npt.NDArray[np.bool_]) -> Sorted:
        """Those of some units: a flag for each place."""
        return _sorted(self.units[kept], self.lengths[kept], self.costs[:, kept])


@final
@dataclass(frozen=True, slots=True, repr=False)
class InStrata(Order):
    """Batches of alike lengths in random order; made by `strata`."""

    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        raise DataError(
            "order='strata' makes batches out of all samples at once, and these are read forward. Write "
            "order='pools:1000', which shuffles and sorts so many at a time."
        )

    @property
    def needs_lengths(self) -> bool:
        return True

    @property
    def shuffles(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "strata()"


def sort(units: Whole, lengths: Whole, costs: Costs) -> Sorted:
    """Sort units by length.

    Args:
        units: which, int64, shape (n,); one that is there twice comes twice.
        lengths: theirs. costs: theirs under each limit, float64, shape (limits, n).
    """
    by_length = by_key(lengths)
    data = _sorted(units[by_length], lengths[by_length], costs[:, by_length])
    if data.rising:
        return data
    # Units of one length by what they cost besides, so that those in a stratum are alike in that too.
    by_cost = np.argsort(costs.sum(0), kind="stable")
    by_both = by_cost[by_key(lengths[by_cost])]
    return _sorted(units[by_both], lengths[by_both], costs[:, by_both])


def _sorted(units: Whole, lengths: Whole, costs: Costs) -> Sorted:
    costs = np.ascontiguousarray(costs)
    runs = np.concatenate(([0], np.flatnonzero(np.diff(lengths)) + 1, [len(lengths)])).astype(np.int64)
    blocks = np.maximum.reduceat(costs, np.arange(0, len(units), _BLOCK), axis=1) if len(units) else costs
    rising = bool((costs[:, 1:] >= costs[:, :-1]).all())
    return Sorted(units, lengths, costs, runs, rising, blocks)


def batches_in_stratum(data: Sorted, most: Costs) -> int:
    """How many batches a stratum should have.

    The more it has, the more other samples a sample is in a batch with, from epoch to epoch, and the more is padded.

    Args:
        data: the units. most: what each limit allows, float64, shape (limits,).
    """
    if not len(data) or not len(most):
        return _FEWEST
    filled = np.cumsum((data.costs / most[:, None]).max(0))
    best, frames = _FEWEST, max(1, int(data.lengths.sum()))
    for several in (3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
        starts = np.unique(np.searchsorted(filled, np.arange(0.0, filled[-1], several)))
        ends = np.append(starts[1:], len(data))
        padded = int((data.lengths[ends - 1] * (ends - starts)).sum())
        if 1 - frames / max(1, padded) <= (_BEARABLE if several <= _MIXED else _PADDING):
            best = several
    return best


class Strata(Epoch):
    """One epoch of random batches of alike lengths.

    Args:
        data: the units, sorted; each must fit into a batch alone.
        most: what each limit allows, float64, shape (limits,).
        several: batches in a stratum; see `batches_in_stratum`.
        seed, epoch: what is drawn depends on nothing else.
        alone: units that are batches of their own.
    """

    __slots__ = ("_alone", "_counts", "_drawn", "_firsts", "_members", "_turn", "batches", "units")

    def __init__(self, data: Sorted, most: Costs, several: int, seed: int, epoch: int, alone: Whole) -> None:
        places, self._counts = layout(data, most, several, seed, epoch)
        self._members = Members(data, places, seed, epoch)
        self._firsts = np.concatenate(([0], np.cumsum(self._counts))).astype(np.int64)
        self._alone = alone
        self.batches = int(self._firsts[-1]) + len(alone)
        self.units = len(data) + len(alone)
        self._turn = generator(seed, BATCHES, epoch).permutation(self.batches)
        self._drawn: dict[int, Whole] = {}

    def rows(self, batch: int) -> Whole:
        return self._cut(int(self._turn[batch]))

    def all(self) -> tuple[Whole, Whole]:
        return of_lists([self._cut(place) for place in self._turn.tolist()]).all()

    def _cut(self, place: int) -> Whole:
        """A batch by its place among those that are not shuffled: the long ones first, those that are alone last."""
        if place >= self._firsts[-1]:
            at = place - int(self._firsts[-1])
            return self._alone[at : at + 1]
        stratum = int(np.searchsorted(self._firsts, place, "right")) - 1
        drawn, count = self._stratum(stratum), self._counts[stratum]
        at = place - int(self._firsts[stratum])
        return drawn[len(drawn) * at // count : len(drawn) * (at + 1) // count]

    def _stratum(self, number: int) -> Whole:
        """The units of a stratum in random order."""
        if number not in self._drawn:
            self._drawn[number] = self._members.of(number)
        return self._drawn[number]


class Members:
    """The units of each stratum in random order.

    Units of one length that cost the same lie in the order of the data. Where a stratum ends among them, who belongs to
    it is drawn too. Where their costs differ they lie by these, and a stratum keeps to those that it was measured for.

    Args:
        data: the units. places: where strata end, the longest units first. seed, epoch: what is drawn depends on.
    """

    __slots__ = ("_data", "_key", "_mixed", "_places", "_runs")

    def __init__(self, data: Sorted, places: list[int], seed: int, epoch: int) -> None:
        self._data, self._places, self._key = data, places, (seed, epoch)
        # The run that is cut at each place, or the number of the one that begins there.
        self._runs = (np.searchsorted(data.runs, places, "right") - 1).tolist()
        self._mixed: dict[int, Whole] = {}

    def of(self, number: int) -> Whole:
        """Those of one stratum."""
        start, stop = self._places[number + 1], self._places[number]
        picked = self._data.units[start:stop]
        for run in sorted({self._runs[number + 1], self._runs[number]}) if self._data.rising else ():
            if run + 1 < len(self._data.runs):
                first, last = int(self._data.runs[run]), int(self._data.runs[run + 1])
                if first < stop and (first < start or last > stop):
                    low, high = max(start, first), min(stop, last)
                    mixed = self._run(first, last)[low - first : high - first]
                    picked = np.concatenate((picked[: low - start], mixed, picked[high - start :]))
        drawn: Whole = generator(*self._chance(0, number)).permutation(picked)
        return drawn

    def _run(self, first: int, last: int) -> Whole:
        """The units of one length in random order; drawn once for all strata that end among them."""
        if first not in self._mixed:
            self._mixed[first] = self._data.units[first + generator(*self._chance(1, first)).permutation(last - first)]
        return self._mixed[first]

    def _chance(self, what: int, number: int) -> tuple[int, int, int, int, int]:
        seed, epoch = self._key
        return seed, STRATA, epoch, what, number


def layout(data: Sorted, most: Costs, several: int, seed: int, epoch: int) -> tuple[list[int], list[int]]:
    """Where strata lie, the longest units first, and how many batches each has.

    A stratum takes as many units as fill its batches, given the longest of it. The first one takes a random number, so
    that all that follow lie elsewhere in every epoch.
    """
    several = max(_FEWEST, several)
    places = [len(data)]
    counts: list[int] = []
    while (stop := places[-1]) > 0:
        size, fits = _size(data, most, stop, several)
        if not counts:
            size = 1 + int(generator(seed, STRATA, epoch).integers(size))
        places.append(max(0, stop - size))
        counts.append(-(-(stop - places[-1]) // fits))
    return places, counts


def _size(data: Sorted, most: Costs, stop: int, several: int) -> tuple[int, int]:
    """Units in the stratum that ends at `stop`, and how many of them fit into a batch."""
    fits = fits_in(data.costs[:, stop - 1], most, stop)
    if data.rising:
        return several * fits, fits
    fits = fits_in(data.largest(max(0, stop - several * fits), stop), most, fits)
    return several * fits, fits


def fits_in(costs: Costs, most: Costs, limit: int) -> int:
    """How many units of such costs fit into a batch; at least one."""
    each = [budget // cost for cost, budget in zip(costs.tolist(), most.tolist(), strict=True) if cost]
    return max(1, int(min(each, default=limit)))
