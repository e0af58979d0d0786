"""One epoch, planned: its units, and which of them each batch holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from etude.data.plan.clock import Passed
from etude.data.plan.epoch import Epoch
from etude.data.plan.lengths import Whole
from etude.data.plan.table import Table
from etude.data.wanted import Wanted

BEYOND = "units beyond the budget"
"""The reason under which they are counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """One epoch, planned.

    Attributes:
        number: from 0 on. table: its units. epoch: their batches.
        left_out: how much was left out, by the reason.
    """

    number: int
    table: Table
    epoch: Epoch
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        """How many there are."""
        return self.epoch.batches

    def wanted(self, batch: int, units: Whole | None = None) -> Wanted:
        """What is to be read for a batch, whose units are `units` where that is known already."""
        units = self.epoch.rows(batch) if units is None else units
        samples, windows = self.table.samples_of(units), self.table.windows_of(units)
        return Wanted(self.number, samples, windows, self.epoch.to(batch), self.epoch.filled(batch) or None)

    def costs(self, units: Whole) -> Whole:
        """What each of some units counts for where a batch is shared: its length, or as much as any other."""
        return np.ones(len(units), np.int64) if self.table.lengths is None else self.table.lengths.lead[units]

    def frames(self, units: Whole) -> int:
        """True frames of some units in the leading stream; 0 where lengths are not known."""
        return 0 if self.table.lengths is None else int(self.table.lengths.lead[units].sum())

    def lead(self, units: Whole) -> Whole | None:
        """Lengths of some units in the leading stream; None where they are not known."""
        return None if self.table.lengths is None else self.table.lengths.lead[units]

    @property
    def smallest(self) -> int:
        """Units in the smallest batch."""
        return int(np.diff(self.epoch.all()[1]).min())

    @property
    def tokens(self) -> int | None:
        """True frames in the leading stream, where the epoch has all units equally often; else None."""
        lengths, times = self.table.lengths, self.epoch.units // max(1, self.table.number)
        if lengths is None or self.left_out or times * self.table.number != self.epoch.units:
            return None
        return int(lengths.lead.sum()) * times

    @property
    def beyond(self) -> int:
        """Units that are in no batch because they are beyond the budget."""
        ending = BEYOND.removeprefix("units")
        return sum(count for reason, count in self.left_out.items() if reason.endswith(ending))

    def passed(self) -> Passed:
        """What is given out before each batch."""
        units, offsets = self.epoch.all()
        return Passed(offsets, self.table.frames(units)[offsets], len(units) + self.beyond)
