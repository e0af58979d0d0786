"""Strata under a budget that changes during the epoch: batches are drawn one by one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from etude.data.order import BATCHES, generator
from etude.data.plan.epoch import Cut, of_lists
from etude.data.plan.lengths import Whole
from etude.data.plan.strata import Costs, Members, Sorted, batches_in_stratum, fits_in, layout


def in_time(
    data: Sorted,
    most: Callable[[int, int, int], Costs],
    leaves: Callable[[int, Costs], bool],
    seed: int,
    epoch: int,
    times: int = 1,
) -> Cut:
    """One epoch of random batches of alike lengths, every one as large as the budget then allows.

    The next batch is of a stratum drawn in proportion to what is left of it. Units that do not fit yet wait until they
    do; those that never fit come last, each a batch of its own, or are left out.

    Args:
        data: the units, sorted.
        most: what each limit allows, float64, shape (limits,), after so many batches, units and frames of this epoch.
        leaves: whether a unit that is beyond what is allowed is left out; it counts it then.
        seed, epoch: what is drawn depends on nothing else.
        times: how often the epoch goes over its units.
    """
    chance, batches, given, frames = generator(seed, BATCHES, epoch), list[Whole](), 0, 0
    for _ in range(times):
        layer = _Layer(data, most(len(batches), given, frames), seed, epoch)
        while layer.left.any():
            batch = layer.draw(most(len(batches), given, frames), chance.random(), leaves)
            if len(batch):
                batches.append(batch)
                given, frames = given + len(batch), frames + layer.frames(batch)
    return of_lists(batches)


class _Layer:
    """Strata from which batches are drawn one by one.

    Attributes:
        left: how many units each stratum still has, int64, shape (strata,).
    """

    __slots__ = ("_costs", "_largest", "_lengths", "_strata", "_top", "_weights", "left")

    def __init__(self, data: Sorted, budget: Costs, seed: int, epoch: int) -> None:
        places, _ = layout(data, budget, batches_in_stratum(data, budget), seed, epoch)
        members = Members(data, places, seed, epoch)
        self._strata = [members.of(number) for number in range(len(places) - 1)]
        self.left = np.array([len(units) for units in self._strata], dtype=np.int64)
        largest = [data.largest(stop, start) for start, stop in pairwise(places)]
        self._largest = np.array(largest).reshape(len(self._strata), len(budget))
        number = int(data.units.max(initial=-1)) + 1
        self._lengths, self._costs = np.zeros(number, np.int64), np.zeros((len(budget), number))
        self._lengths[data.units], self._costs[:, data.units] = data.lengths, data.costs
        # Under one limit strata count in proportion to their costs, whatever it is; that is kept up to date.
        self._top = float(self._largest.max(initial=0.0)) if len(budget) == 1 else np.inf
        self._weights = self._largest[:, 0] * self.left if len(budget) == 1 else np.zeros(0)

    def frames(self, units: Whole) -> int:
        """Frames of some units in the leading stream."""
        return int(self._lengths[units].sum())

    def draw(self, budget: Costs, chance: float, leaves: Callable[[int, Costs], bool]) -> Whole:
        """The next batch; no unit where one was left out, or was found to fit after all."""
        if self._top <= budget[0] and self._weights.any():
            drawn = _draw(self._weights, chance)
            batch = _fill(self._strata, self.left, self._largest, budget, drawn)
            np.multiply(self._largest[drawn:, 0], self.left[drawn:], out=self._weights[drawn:])
            return batch
        # A stratum counts for the batches that it still has.
        share = (self._largest / budget).max(1, initial=0.0)
        fits = (share <= 1) & (self.left > 0)
        if not fits.any():
            return self._beyond(_draw(self.left.astype(np.float64), chance), budget, leaves)
        weights = np.where(fits, share * self.left, 0.0)
        drawn = _draw(weights if weights.any() else (fits * self.left).astype(np.float64), chance)
        batch = _fill(self._strata, self.left, self._largest, budget, drawn)
        self._weigh()
        return batch

    def _weigh(self) -> None:
        if len(self._weights):
            np.multiply(self._largest[:, 0], self.left, out=self._weights)

    def _beyond(self, stratum: int, budget: Costs, leaves: Callable[[int, Costs], bool]) -> Whole:
        """One unit that does not fit alone, out of a stratum of which the largest did not."""
        units = self._strata[stratum][: self.left[stratum]]
        over = np.flatnonzero((self._costs[:, units] > budget[:, None]).any(0))
        taken = units[over[-1:]]
        self._strata[stratum] = np.delete(units, over[-1:])
        self.left[stratum] -= len(taken)
        self._largest[stratum] = self._costs[:, self._strata[stratum]].max(1, initial=0.0)
        self._weigh()
        return taken[:0] if len(taken) and leaves(int(taken[0]), budget) else taken


def _fill(strata: list[Whole], left: Whole, largest: Costs, most: Costs, drawn: int) -> Whole:
    """A full batch, taken out of a stratum and, where that has not enough left, of the shorter ones that follow."""
    pieces: list[Whole] = []
    top, have, stratum = largest[drawn], 0, drawn
    while stratum < len(strata):
        if left[stratum]:
            top = np.maximum(top, largest[stratum])
            fits = fits_in(top, most, have + int(left[stratum]))
            if fits <= have:
                break
            stop = int(left[stratum])
            start = max(0, stop - (fits - have))
            pieces.append(strata[stratum][start:stop])
            left[stratum] = start
            have += stop - start
            if start:
                break
        stratum = _next(left, stratum)
    return np.concatenate(pieces)


def _next(left: Whole, stratum: int) -> int:
    """The stratum after `stratum` in which something is left; the number of strata where there is none."""
    after = left[stratum + 1 :]
    place = int((after > 0).argmax()) if len(after) else 0
    return stratum + 1 + place if len(after) and after[place] else len(left)


def _draw(weights: Costs, chance: float) -> int:
    """One of several in proportion to weights."""
    ends = np.cumsum(weights)
    return int(np.searchsorted(ends, chance * ends[-1], "right"))
