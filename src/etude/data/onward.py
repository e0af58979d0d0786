"""Reads batches of samples that come one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor

from etude.data.arriving import UNREADABLE, Measure
from etude.data.assembled import Assembled
from etude.data.batch import Batch, moved
from etude.data.cursor import Cursor
from etude.data.plan.batching import Batching
from etude.data.plan.clock import Moments
from etude.data.plan.lengths import Lengths
from etude.data.report import Report
from etude.data.streaming import Pass, Streamed, Streaming
from etude.data.wanted import Wanted
from etude.errors import DataError, ScheduleError, SettingError, warn
from etude.values.progress import Extent, Progress
from etude.values.schedule import Schedule

_END: Any = object()
_NO_END = 1 << 62
"""Units of an epoch of which nobody knows how many it has: a position within it is not known in epochs."""


@dataclass(slots=True)
class _Counted:
    """What was given out: before an epoch, and in it so far.

    Attributes:
        epoch: from 0 on. known: whether all epochs before it were read.
        steps, samples, tokens: before it.
        batches, units: in it. frames, cells: in it, of each stream in turn, without and with padding.
    """

    epoch: int = 0
    known: bool = True
    steps: int = 0
    samples: int = 0
    tokens: int = 0
    batches: int = 0
    units: int = 0
    frames: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)

    def start(self, extent: Extent) -> Progress:
        """The progress at the beginning of the epoch."""
        made = Progress(self.steps, float(self.epoch), self.samples, self.tokens, extent)
        return made if self.known else made.without("steps", "samples", "tokens")

    def pack(self) -> Tensor:
        """As a row of numbers."""
        row = [self.epoch, self.known, self.steps, self.samples, self.tokens, self.batches, self.units]
        return torch.tensor([*row, *self.frames, *self.cells])

    @staticmethod
    def unpack(row: Tensor) -> _Counted:
        """From what `pack` gave."""
        epoch, known, steps, samples, tokens, batches, units, *streams = row.tolist()
        half = len(streams) // 2
        return _Counted(epoch, bool(known), steps, samples, tokens, batches, units, streams[:half], streams[half:])


class Onward:
    """The batches of samples that are read forward. A place in an epoch is found by reading up to it.

    Args:
        source: the samples. batching: how they become batches.
        seed: at least 0.
        device: where batches go; None: they stay.
        extent: how long the run is. accumulate: batches of one step; None: one.
    """

    def __init__(
        self,
        source: Assembled,
        batching: Batching,
        seed: int,
        device: torch.device | None,
        extent: Extent,
        accumulate: Schedule | None,
    ) -> None:
        stock = source.stock
        self._source, self._device, self._extent, self._accumulate = source, device, extent, accumulate
        measure = Measure({name: stock.measure.get(name) for name in stock.streams}, stock.names)
        collate, joining = source.collate, source.joining()
        self._streaming = Streaming(
            stock.items,
            batching,
            joining.join if collate is None else lambda items, _: collate(list(items)),
            measure,
            seed,
            source.buffer,
            source.unreadable == "skip",
        )
        self._streams = stock.streams
        self._now = self._begun(0)
        self._reports: dict[int, Report] = {}

    def batches(self, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        """The batches from `cursor` on, up to epoch `stop`.

        Raises:
            DataError: a cursor beyond its epoch, or what reading raises.
        """
        passed = cursor.batch
        for epoch in count(cursor.epoch) if stop is None else range(cursor.epoch, stop):
            if self._now.epoch != epoch:
                self._now = self._begun(epoch, known=epoch == 0)
            yield from self._epoch(epoch, passed)
            passed = 0

    def report(self, epoch: int) -> Report | None:
        """What was in an epoch, or in it so far; None where it was not read."""
        return self._reports.get(epoch)

    def state(self, cursor: Cursor) -> list[Tensor]:
        """What was counted up to the cursor, in its epoch and before it."""
        return [self._now.pack()] if self._now.epoch == cursor.epoch else []

    def load(self, cursor: Cursor, state: Sequence[Tensor]) -> None:
        """Take over what `state` gave."""
        for row in state:
            self._now = _Counted.unpack(row)

    def _begun(self, epoch: int, known: bool = True) -> _Counted:
        streams = len(self._streams)
        return _Counted(epoch, known, frames=[0] * streams, cells=[0] * streams)

    def _epoch(self, epoch: int, passed: int) -> Iterator[Batch]:
        start = self._now.start(self._extent)
        moments = Moments(start, _NO_END, self._accumulate)
        # What was counted up to here may be known; else what is passed over is counted.
        noted = None if passed and self._now.batches == passed else self._count
        if noted is not None:
            self._now.batches = self._now.units = 0
            self._now.frames, self._now.cells = ([0] * len(self._streams) for _ in range(2))
        reading = self._streaming.read(epoch, start, moments.at, passed, noted)
        before = time.perf_counter()
        upcoming = self._first(reading)
        if passed and upcoming is not _END:
            warn(
                f"{self._source.title} can only be read forward: to get to batch {passed} of epoch {epoch}, all before "
                f"it was read again, in {time.perf_counter() - before:.1f} s."
            )
        if upcoming is _END:
            raise DataError(
                f"There is no batch at {Cursor(epoch, passed)}. Were data and options the same when it was kept?"
            )
        for number in count(passed):
            streamed, upcoming = upcoming, next(reading, _END)
            last = upcoming is _END or number + 1 == self._source.round_length
            batch = self._batch(streamed, Cursor(epoch, number), last)
            self._count(streamed.wanted, streamed.lengths)
            self._reports = {epoch: self._told(reading), **{e: r for e, r in self._reports.items() if e == epoch - 1}}
            if last:
                self._end(moments.steps)
            yield batch
            if last:
                return

    def _batch(self, streamed: Streamed, cursor: Cursor, last: bool) -> Batch:
        following = Cursor(cursor.epoch + 1, 0) if last else Cursor(cursor.epoch, cursor.batch + 1)
        samples = len(streamed.wanted.samples)
        tokens = 0 if streamed.lengths is None else int(streamed.lengths.lead.sum())
        values = moved(streamed.values, self._device, None)
        return Batch(values, samples, tokens, cursor, following, cursor.epoch + float(last))

    def _first(self, reading: Pass) -> Any:
        """The first batch to be given out.

        Raises:
            DataError: a budget or filter asks for what was given out before the epoch, and nobody has counted it.
        """
        try:
            return next(reading, _END)
        except (SettingError, ScheduleError) as error:
            if self._now.known:
                raise
            raise DataError(
                f"{self._source.title} is read forward: how many steps, samples and tokens there were before epoch "
                f"{self._now.epoch} is known only by reading from the beginning. Write a budget by epochs, or begin at "
                f"Cursor(0, 0). {error}"
            ) from error

    def _count(self, wanted: Wanted, lengths: Lengths | None) -> None:
        """Count a batch."""
        now = self._now
        now.batches += 1
        now.units += len(wanted.samples)
        for place, name in enumerate(self._streams if lengths is not None else ()):
            own = lengths[name]  # type: ignore[index]
            frames, rows = int(own.sum()), wanted.rows or len(own)
            padded = self._source.collate is None and not self._source.packed
            now.frames[place] += frames
            now.cells[place] += rows * wanted.to.get(name, int(own.max())) if padded else frames

    def _end(self, steps: int) -> None:
        """The epoch is over: what follows begins after it."""
        now = self._now
        frames = now.frames[0] if now.frames else 0
        self._now = self._begun(now.epoch + 1, now.known)
        self._now.steps, self._now.samples, self._now.tokens = (
            now.steps + steps,
            now.samples + now.units,
            now.tokens + frames,
        )

    def _told(self, reading: Pass) -> Report:
        now, left_out = self._now, dict(reading.left_out)
        unreadable = left_out.pop(UNREADABLE, 0)
        return Report(
            now.epoch,
            now.batches,
            now.units,
            dict(zip(self._streams, now.frames, strict=True)),
            dict(zip(self._streams, now.cells, strict=True)),
            left_out,
            {name: frames for name, frames in reading.lost.items() if frames},
            unreadable,
        )
