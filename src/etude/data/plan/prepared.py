"""Units with what they cost: what is the same for every epoch that has the same units."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from etude.data.plan.batching import Batching
from etude.data.plan.buckets import Buckets, shapes
from etude.data.plan.budgets import Costs, costs
from etude.data.plan.lengths import Whole
from etude.data.plan.limits import Floats, SampleLimit
from etude.data.plan.strata import Sorted, batches_in_stratum, sort
from etude.data.plan.table import Table
from etude.errors import SettingError
from etude.values.progress import Progress


class Prepared:
    """The units of an epoch before any is left out, and what follows from their lengths alone.

    Args:
        table: the units. batching: how they become batches.
    """

    def __init__(self, table: Table, batching: Batching) -> None:
        self.table = table
        self._batching = batching

    @cached_property
    def costs(self) -> Costs:
        """What each unit costs under each limit."""
        return costs(self._batching.limits, self.table.lengths, self.table.number)

    @cached_property
    def size(self) -> int:
        """Units in a batch, where nothing else limits it; else 0."""
        limits = self._batching.limits
        if len(limits) == 1 and isinstance(limits[0], SampleLimit) and limits[0].constant:
            return int(self.costs.most(Progress())[0])
        return 0

    @cached_property
    def sorted(self) -> Sorted:
        """The units by length."""
        assert self.table.lengths is not None
        return sort(np.arange(self.table.number), self.table.lengths.lead, self.costs.values)

    @cached_property
    def buckets(self) -> Buckets | None:
        """Those that were given, or chosen."""
        given = self._batching.buckets
        if given is None or isinstance(given, Buckets):
            return given
        assert self.table.lengths is not None
        lengths = self.table.lengths
        if self._batching.too_long == "drop" and self.costs.constant:
            fits = (self.costs.values <= self.costs.most(Progress())[:, None]).all(0)
            lengths = lengths.take(np.flatnonzero(fits)) if fits.any() else lengths
        return shapes(lengths, given, self._batching.limits)

    def several(self, most: Floats) -> int:
        """Batches in a stratum of all units; remembered, as it is asked for by every epoch."""
        if self._several is None or (self._several[0] != most).any():
            self._several = (most, batches_in_stratum(self.sorted, most))
        return self._several[1]

    _several: tuple[Floats, int] | None = None

    def called(self, order: Whole, sample: Callable[[int], str]) -> Callable[[int], str]:
        """How messages call the unit at a place of an order."""
        cut = bool(self.table.windows)

        def call(place: int) -> str:
            named = sample(int(self.table.samples_of(order[place : place + 1])[0]))
            return f"a chunk of {named}" if cut else named

        return call


def one_packed(limits: Costs) -> tuple[int, int | None]:
    """Of limits that first fit can keep: the row of the packed one, and the row of a number of samples or None.

    Raises:
        SettingError: there are others.
    """
    rows = {title: row for row, title in enumerate(limits.titles)}
    number = rows.pop("samples", None)
    packed = [row for row in rows.values() if limits.kinds[row] == "packed"]
    if len(packed) != 1 or len(rows) != 1:
        raise SettingError(
            f"pack='first_fit' fills one sum of lengths, and the budget limits {', '.join(limits.titles) or 'nothing'}."
            " Write budget=packed(audio=20_000)."
        )
    return packed[0], number
