"""Reads planned batches, from any cursor on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor

from etude.data.ahead import read_ahead
from etude.data.assembled import Assembled
from etude.data.batch import Batch, moved
from etude.data.cursor import Cursor
from etude.data.items import Reader
from etude.data.plan.arrangements import SideBySide
from etude.data.plan.lengths import Whole
from etude.data.plan.planned import Planned
from etude.data.plan.planner import Planner
from etude.data.plan.shares import share
from etude.data.reading import Read, SampleReader, collated, emptied
from etude.data.report import Report, report
from etude.data.wanted import Wanted
from etude.errors import DataError

_AT_ONCE = 16
"""Batches that are found together: between two that are copied, everything that finds them has left the caches."""


_LOST, _COUNTED = 2, 4
"""Numbers in a row of the state: an epoch with the samples lost in it, or with what was counted before it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A batch to come: where it lies, what this process reads of it, and how much all processes together do.

    Attributes:
        lead: lengths in the leading stream of what this process reads; None where they are not known.
    """

    cursor: Cursor
    last: bool
    share_done: float
    wanted: Wanted
    lead: Whole | None
    everywhere: tuple[int, int] | None


class Assembly:
    """The batches of samples that are at hand: in memory, or read by number.

    Args:
        source: the samples. planner: says what is in which batch.
        seed: at least 0.
        device: where batches go; None: they stay.
        workers, prefetch: see `Flow`.
        rank, ranks: the share of each batch that this process reads.
    """

    def __init__(
        self,
        source: Assembled,
        planner: Planner,
        seed: int,
        device: torch.device | None,
        workers: tuple[int, int],
        rank: int,
        ranks: int,
    ) -> None:
        self._source, self.planner, self._seed = source, planner, seed
        self._device, self._workers = device, workers
        self._rank, self._ranks = rank, ranks
        self._joining = source.joining()
        self._lost: dict[Cursor, int] = {}
        # Positions in the whole data, where these are a part of them.
        self._whole = None if source.indices is None else source.indices.numpy()

    def batches(self, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        """The batches from `cursor` on, up to epoch `stop`."""
        self._lost = {place: lost for place, lost in self._lost.items() if place < cursor}
        made = self._made(self._places(cursor, stop))
        return made if self._source.unreadable == "raise" else self._without_lost(made)

    def _made(self, places: Iterator[_Place]) -> Iterator[Batch]:
        # Workers are told of batches before they give any back, in the same order.
        ahead: deque[_Place] = deque()
        failed: list[Exception] = []
        for each in self._read(_noted(places, ahead, failed)):
            yield self._batch(ahead.popleft(), each)
        if failed:
            raise failed[0]

    def report(self, epoch: int) -> Report:
        """What is in an epoch."""
        return report(self.planner, epoch, self._source.packed, self._lost_before(Cursor(epoch + 1, 0), epoch))

    def state(self, cursor: Cursor) -> list[Tensor]:
        """What is known besides the cursor: samples of its epoch that could not be read, what was counted before it."""
        lost, counted = self._lost_before(cursor, cursor.epoch), self.planner.counted(cursor.epoch)
        kept = [torch.tensor([cursor.epoch, lost])] if lost else []
        return kept if counted is None else [*kept, torch.tensor([cursor.epoch, *counted])]

    def load(self, cursor: Cursor, state: Iterable[Tensor]) -> None:
        """Take over what `state` gave."""
        rows = [row.tolist() for row in state]
        self._lost = {Cursor(row[0], 0): row[1] for row in rows if len(row) == _LOST}
        for row in rows:
            if len(row) == _COUNTED:
                self.planner.remember(*row)

    def _lost_before(self, cursor: Cursor, epoch: int) -> int:
        """Samples of an epoch that could not be read, in the batches before a cursor."""
        early = (lost for place, lost in self._lost.items() if place.epoch == epoch and place < cursor)
        return sum(early)

    def _places(self, cursor: Cursor, stop: int | None) -> Iterator[_Place]:
        start = cursor.batch
        for epoch in count(cursor.epoch) if stop is None else range(cursor.epoch, stop):
            planned = self.planner.epoch(epoch)
            for first in range(start, planned.batches, _AT_ONCE):
                last = min(first + _AT_ONCE, planned.batches)
                yield from [self._place(planned, batch) for batch in range(first, last)]
            start = 0

    def _place(self, planned: Planned, batch: int) -> _Place:
        units = planned.epoch.rows(batch)
        wanted = planned.wanted(batch, units)
        everywhere = None
        if self._ranks > 1:
            everywhere = (len(units), planned.frames(units))
            own, rows = share(planned.costs(units), self._rank, self._ranks), None
            if isinstance(self.planner.batching.order, SideBySide):
                # A row goes on in the next batch where it ended, so it stays in one process.
                own = np.arange(len(units) * self._rank // self._ranks, len(units) * (self._rank + 1) // self._ranks)
            elif wanted.rows is not None:
                # A fixed shape is the same for every process.
                own, rows = np.arange(self._rank, len(units), self._ranks), -(-wanted.rows // self._ranks)
            wanted = replace(wanted.only(own), shared=wanted.samples, rows=rows)
            units = units[own]
        if self._whole is not None:
            shared = None if wanted.shared is None else self._whole[wanted.shared]
            wanted = replace(wanted, samples=self._whole[wanted.samples], shared=shared)
        last = batch + 1 == planned.batches
        cursor = Cursor(planned.number, batch)
        return _Place(cursor, last, (batch + 1) / planned.batches, wanted, planned.lead(units), everywhere)

    def _read(self, requests: Iterator[Wanted]) -> Iterator[Read]:
        stock = self._source.stock
        if stock.columns is not None:
            return map(self._gathered, requests)
        reader = Reader(
            stock.items, stock.title, self._seed, False, self._source.dtype, self._source.unreadable == "skip"
        )
        pin = self._device is not None and self._device.type == "cuda"
        whole = SampleReader(reader, self._joining, self._source.collate)
        return read_ahead(whole, requests, stock.title, *self._workers, pin)

    def _gathered(self, wanted: Wanted) -> Read:
        stock = self._source.stock
        assert stock.columns is not None
        samples = torch.from_numpy(wanted.samples)
        if self._source.collate is not None:
            shown = wanted.samples if wanted.shared is None or len(samples) else wanted.shared[:1]
            values = collated(self._source.collate, [stock.sample(number) for number in shown.tolist()], shown)
            return Read(values if len(samples) else emptied(values), samples)
        values = self._joining.gather(stock.columns, wanted)
        if not stock.keyed:
            values = tuple(values.values()) if len(values) > 1 else next(iter(values.values()))
        return Read(values, samples)

    def _batch(self, place: _Place, read: Read) -> Batch:
        cursor = place.cursor
        following = Cursor(cursor.epoch + 1, 0) if place.last else Cursor(cursor.epoch, cursor.batch + 1)
        frames = 0 if place.lead is None else int(place.lead.sum())
        if read.lost:
            self._lost = {at: lost for at, lost in self._lost.items() if at.epoch >= cursor.epoch - 1}
            self._lost[cursor] = len(read.lost)
            if place.lead is not None:
                frames = int(place.lead[~np.isin(place.wanted.samples, read.lost)].sum())
        values = moved(read.values, self._device, None)
        return Batch(
            values,
            len(read.samples),
            frames,
            cursor,
            following,
            cursor.epoch + place.share_done,
            read.samples,
            0,
            place.everywhere,
        )

    def _without_lost(self, made: Iterator[Batch]) -> Iterator[Batch]:
        """Batches of which nothing could be read are passed over; the one before takes over what follows them.

        Raises:
            DataError: nothing of a whole epoch could be read.
        """
        waiting: Batch | None = None
        begun = -1
        for batch in made:
            begun = batch.cursor.epoch if batch.cursor.batch == 0 else begun
            if batch.values is not None:
                if waiting is not None:
                    yield waiting
                waiting = batch
                continue
            if waiting is not None:
                waiting = replace(waiting, next=batch.next, progress_epoch=batch.progress_epoch)
            if batch.last and begun == batch.cursor.epoch and (waiting is None or waiting.cursor.epoch != begun):
                title = self._source.title
                raise DataError(
                    f"No sample of {title} can be read in epoch {begun}. Write unreadable='raise' to see why."
                )
        if waiting is not None:
            yield waiting


def _noted(places: Iterator[_Place], ahead: deque[_Place], failed: list[Exception]) -> Iterator[Wanted]:
    """What is wanted, each place being noted when it is asked for.

    An epoch that cannot be planned is told of in its turn: not to those who only read ahead, and may never come there.
    """
    try:
        for place in places:
            ahead.append(place)
            yield place.wanted
    except Exception as error:  # whatever it is, raised after the batches before it
        failed.append(error)
