"""Samples together with how they become batches, as a flow reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from etude.data.form import Source
from etude.data.joining import Joining
from etude.data.plan.arrangements import InOrder
from etude.data.plan.batching import Batching
from etude.data.plan.budgets import samples as sample_limit
from etude.data.plan.planner import Planner
from etude.data.plan.prepared import Prepared
from etude.data.plan.table import Samples
from etude.data.stock import Stock
from etude.errors import DataError
from etude.values.progress import Extent
from etude.values.schedule import Schedule


@dataclass(frozen=True, slots=True, eq=False)
class Assembled(Source):
    """What `Data` says. For the attributes that are not here see `Source`.

    Attributes:
        stock: the samples.
        batching: how they become batches; without a limit where the batch size is yet to be said.
        pad, packed: see `Joining`.
        buffer: samples of a stream that are held to shuffle them; 0: they come as they are.
        unreadable: "raise" or "skip".
        alike: whether filters and chunks hold for data that are only looked at as well.
        collate: makes a batch of a list of samples, instead of padding and stacking.
        said: the options, as text that is the same in every process.
        dtype: of floats; None: as they come.
        indices: the samples that belong to this source, int64, or None for all.
        round_length: batches after which an epoch ends, of what is read forward; None: where the samples end.
        ready: the units that all epochs have, once they were made.
    """

    stock: Stock
    batching: Batching
    pad: Mapping[str, float] | float
    packed: bool
    buffer: int
    unreadable: str
    alike: bool
    collate: Callable[[list[Any]], Any] | None
    said: str
    recast: Callable[[torch.dtype], Stock] = field(repr=False)
    dtype: torch.dtype | None = None
    indices: Tensor | None = None
    round_length: int | None = None
    ready: dict[str, Prepared] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"Data({self.stock.title})"

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.stock.names

    @property
    def length(self) -> int | None:  # type: ignore[override]
        return self.stock.number if self.indices is None else len(self.indices)

    @property
    def batches(self) -> None:  # type: ignore[override]
        return None

    @property
    def random_access(self) -> bool:  # type: ignore[override]
        return not self.stock.forward

    @property
    def batched(self) -> bool:  # type: ignore[override]
        return bool(self.batching.limits) or self.batching.buckets is not None

    @property
    def by_item(self) -> bool:  # type: ignore[override]
        return self.stock.columns is None and not self.stock.forward

    @property
    def converted(self) -> list[str]:  # type: ignore[override]
        return list(self.stock.converted)

    def cast(self, dtype: torch.dtype) -> Assembled:
        return replace(self, stock=self.recast(dtype), dtype=dtype, ready={})

    def only(self, indices: Tensor) -> Assembled:
        """The part that `indices` (positions in it) name."""
        if self.stock.parts:
            raise DataError(
                f"A fraction of {self.title} cannot be set aside: it is made of several. Divide each of them."
            )
        chosen = None if self.batching.selection is None else self.batching.selection.only(indices.numpy())
        batching = replace(self.batching, selection=chosen)
        indices = indices if self.indices is None else self.indices[indices]
        return replace(self, batching=batching, indices=indices, ready={})

    def samples(self) -> Samples:
        """What there is to plan with."""
        stock, indices = self.stock, self.indices
        assert stock.number is not None
        if indices is None:
            return Samples(stock.number, stock.lengths, stock.parts, stock.called, stock.dropped)
        own = indices.numpy()
        lengths = None if stock.lengths is None else stock.lengths.take(own)
        return Samples(len(own), lengths, (), lambda sample: stock.called(int(own[sample])), stock.dropped, own)

    def joining(self) -> Joining:
        """How samples become a batch."""
        stock = self.stock
        names = () if stock.keyed and stock.columns is not None else stock.names
        return Joining(stock.streams, self.pad, self.packed, names, stock.lengths, self.dtype)


def batching_for(source: Assembled, size: int | None, shuffle: bool | None, looking: bool) -> Batching:
    """How a flow batches these data.

    Args:
        size: samples in a batch, where the flow says it. shuffle: as a flow is told.
        looking: whether the data are only looked at.

    Raises:
        DataError: what the flow says contradicts what the data say.
    """
    batching = source.batching
    if looking:
        limits = batching.limits if size is None else (sample_limit(size),)
        lead = source.stock.streams[0] if source.stock.lengths is not None else None
        return batching.looking(limits, lead, source.alike)
    if size is not None:
        if source.batched:
            raise DataError(
                f"batch_size={size} was asked for, and these data say how large batches are: {source.said}. "
                "Say it in one place."
            )
        batching = replace(batching, limits=(*batching.limits, sample_limit(size)))
    if shuffle is False and batching.order.shuffles:
        batching = replace(batching, order=InOrder(), blocks=0)
    if shuffle is True and not batching.order.shuffles:
        raise DataError(f"shuffle=True was asked for, and these data come {batching.order!r}. Leave shuffle out.")
    return batching


def planner_for(
    source: Assembled, batching: Batching, seed: int, extent: Extent, accumulate: Schedule | None
) -> Planner:
    """What plans the epochs of these data."""
    if not batching.limits and batching.buckets is None:
        raise DataError(f"How large are the batches of {source.title}? Write batch_size=32 or budget=20_000.")
    ready = source.ready if batching is source.batching else None
    return Planner(source.samples(), batching, seed, extent, accumulate, ready)
