"""How units become batches, as it was said, and what of it holds when data are only looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from etude.data.plan.arrangements import ByLength, InOrder, Order
from etude.data.plan.buckets import Buckets
from etude.data.plan.budgets import padded
from etude.data.plan.chunking import Changing, Chunk
from etude.data.plan.filters import Filter
from etude.data.plan.limits import Limit, SampleLimit
from etude.data.plan.selection import Selection
from etude.values.algebra import Schedule
from etude.values.progress import Progress


@dataclass(frozen=True, slots=True)
class Batching:
    """How units become batches.

    Attributes:
        order: of the units. limits: what a batch may hold; all of them hold.
        filters: what is left out of an epoch. selection: how often a sample comes; None: once.
        chunk: what samples are cut into; None: they come whole.
        subepochs: epochs that one pass over the data is divided into. repeat: how often an epoch goes over its order.
        blocks: batches among which batches are shuffled; 0: they are not, None: all.
        too_long: what becomes of a unit beyond the budget: "alone", "drop" or "error".
        buckets: fixed shapes, or how many of them; None: every batch has a shape of its own.
        pack: "first_fit": a batch is filled by what fits instead of by what comes next; "strung": frames are strung
            together and cut where the batch is full; "": neither. pool: units that first fit looks at together.
        drop_last: whether what does not fill a batch at the end of an epoch is left out.
    """

    order: Order
    limits: tuple[Limit, ...]
    filters: tuple[Filter, ...] = ()
    selection: Selection | None = None
    chunk: Chunk | Changing | None = None
    subepochs: int = 1
    repeat: int = 1
    blocks: int | None = 0
    too_long: str = "alone"
    buckets: Buckets | int | None = None
    pack: str = ""
    pool: int | None = None
    drop_last: bool = False

    @property
    def changes(self) -> bool:
        """Whether another pass over the data has other units."""
        return self.selection is not None or (self.chunk is not None and self.chunk.changes)

    @property
    def varies(self) -> bool:
        """Whether epochs may differ in the number of their batches."""
        plain = self.buckets is None and all(isinstance(limit, SampleLimit) and limit.constant for limit in self.limits)
        return not plain or self.varies_in_samples

    @property
    def varies_in_samples(self) -> bool:
        """Whether epochs may differ in the number of their samples."""
        cut = self.chunk is not None and (self.chunk.changes or self.selection is not None)
        return cut or self.subepochs > 1 or bool(self.filters) or (bool(self.schedules) and self.too_long == "drop")

    @property
    def schedules(self) -> list[Schedule]:
        """Of limits and filters, where they are not the same during the whole run."""
        return [each for each in _schedules((self.limits, self.filters, self.chunk)) if not each.constant]

    @property
    def divides(self) -> bool:
        """Whether the epochs of a pass share its units."""
        return self.subepochs > 1 and not self.divides_samples

    @property
    def divides_samples(self) -> bool:
        """Whether the epochs of a pass share its samples, and not the units that these are cut into."""
        return self.subepochs > 1 and isinstance(self.chunk, Changing)

    def chunk_at(self, progress: Progress) -> Chunk | None:
        """What samples are cut into in an epoch that begins at `progress`."""
        return self.chunk.at(progress) if isinstance(self.chunk, Changing) else self.chunk

    @property
    def needs_lengths(self) -> bool:
        """Whether lengths must be known."""
        return (
            self.order.needs_lengths
            or self.chunk is not None
            or self.buckets is not None
            or any(limit.needs_lengths for limit in self.limits)
            or any(each.needs_lengths for each in self.filters)
        )

    def looking(self, limits: tuple[Limit, ...], lead: str | None, alike: bool) -> Batching:
        """The same for data that are only looked at: every sample once, and whole, in batches of any shape.

        Args:
            limits: of the batches. lead: the leading stream where lengths are known; then the longest come first.
            alike: whether filters and chunks hold there too.
        """
        if not limits and isinstance(self.buckets, Buckets) and lead is not None:
            limits = (padded(**{lead: max(shape.longest * shape.number for shape in self.buckets.shapes)}),)
        return Batching(
            InOrder() if lead is None else ByLength(falling=True),
            limits,
            self.filters if alike else (),
            chunk=self.chunk if alike else None,
            too_long="error" if self.too_long == "error" else "alone",
        )


def _schedules(value: Any) -> Iterator[Schedule]:
    """Every schedule that is part of a value."""
    if isinstance(value, Schedule):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _schedules(each)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _schedules(getattr(value, each.name))
