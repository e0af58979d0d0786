"""Batches of equal size, of arrays in memory or of items read by number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from etude.data.ahead import read_ahead
from etude.data.arrays import Arrays
from etude.data.batch import Batch, counts, located, moved, quick_batch, token_width
from etude.data.cursor import Cursor, epochs_from
from etude.data.items import Items, Reader
from etude.data.order import in_order, permutation

_NEAR, _FAR = 1 << 19, 1 << 23
"""Bytes gathered at once: what stays in a processor's cache, and what is worth one transfer to a device."""


class Even:
    """Batches of equal size, but for the last of an epoch.

    Args:
        source: the data. size: samples in a batch. total: batches in an epoch. samples: in an epoch.
        shuffle: whether every epoch has an order of its own. seed: at least 0.
        device: where batches go; None: they stay.
        workers, prefetch: see `Flow`. chunk: bytes of arrays gathered at once; None: as it suits.
        rank, ranks: the share of each batch that this process gives out.
    """

    def __init__(
        self,
        source: Arrays | Items,
        size: int,
        total: int,
        samples: int,
        *,
        shuffle: bool,
        seed: int,
        device: torch.device | None,
        workers: tuple[int, int],
        chunk: int | None,
        ranks: tuple[int, int],
    ) -> None:
        self._source, self._size, self._total, self._samples = source, size, total, samples
        self._shuffle, self._seed, self._device = shuffle, seed, device
        self._workers, self._chunk, self._ranks = workers, chunk, ranks

    def batches(self, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        """The batches from `cursor` on, up to epoch `stop`."""
        if isinstance(self._source, Items):
            return self._of_items(self._source, cursor, stop)
        if self._ranks[1] > 1:
            return self._shared(self._source, cursor, stop)
        return self._of_arrays(self._source, cursor, stop)

    def state(self, cursor: Cursor) -> list[Tensor]:
        """What has to be kept besides a cursor: nothing."""
        return []

    def load(self, cursor: Cursor, state: Sequence[Tensor]) -> None:
        """Take over what `state` gave."""

    def _rows(self, source: Arrays | Items, epoch: int) -> Tensor:
        """The samples of one epoch in their order, as positions in the whole data."""
        order = permutation(source.length, self._seed, epoch) if self._shuffle else in_order(source.length)
        return order if source.indices is None else source.indices[order]

    def _of_arrays(self, source: Arrays, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        size, total, width = self._size, self._total, token_width(source.arrays[0])
        rest = self._samples - size * (total - 1)
        place = cursor
        for epoch in epochs_from(cursor, stop):
            rows = self._rows(source, epoch)
            for first, values in self._gathered(source, rows, place.batch):
                for done, value in enumerate(values, first + 1):
                    samples, following = size, Cursor(epoch, done)
                    if done == total:
                        samples, following = rest, Cursor(epoch + 1, 0)
                    position, start = epoch + done / total, size * (done - 1)
                    yield quick_batch(value, samples, samples * width, place, following, position, rows, start)
                    place = following

    def _shared(self, source: Arrays, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        """The share of this process in each batch."""
        width = token_width(source.arrays[0])
        for place, rows in self._places(source, cursor, stop):
            own = self._own(rows)
            columns = [
                moved(array.index_select(0, own.to(array.device)), self._device, None) for array in source.arrays
            ]
            values = next(iter(_shaped(source, [(column,) for column in columns])))
            everywhere = (len(rows), len(rows) * width)
            last = place.batch + 1 == self._total
            yield located(values, (len(own), len(own) * width), place, last, self._total, own, everywhere)

    def _own(self, rows: Tensor) -> Tensor:
        """Of the samples of a batch those of this process: as many for each, the first ones one more."""
        rank, ranks = self._ranks
        return rows[len(rows) * rank // ranks : len(rows) * (rank + 1) // ranks]

    def _gathered(self, source: Arrays, rows: Tensor, start: int) -> Iterator[tuple[int, Iterable[Any]]]:
        """The batches of an epoch from batch `start` on, a chunk at a time: its first number, the values of each."""
        size, total, stride = self._size, self._total, self._stride(source)
        for first in range(start, total, stride):
            chosen = rows[first * size : min(first + stride, total) * size]
            columns = [
                moved(array.index_select(0, chosen.to(array.device)), self._device, None) for array in source.arrays
            ]
            # unsafe_split: each batch has a version of its own, so that writing to one does not
            # make autograd refuse another that it saved.
            yield first, _shaped(source, [column.unsafe_split(size) for column in columns])

    def _stride(self, source: Arrays) -> int:
        """Batches in a chunk."""
        row = sum(array.nbytes // len(array) for array in source.arrays)
        moves = self._device is not None and any(array.device.type != self._device.type for array in source.arrays)
        return max(1, (self._chunk or (_FAR if moves else _NEAR)) // max(1, row * (self._size)))

    def _of_items(self, source: Items, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        read = self._read(source, self._places(source, cursor, stop))
        for (place, rows), values in zip(self._places(source, cursor, stop), read, strict=True):
            values = moved(values, self._device, source.dtype)
            yield located(values, counts(values), place, place.batch + 1 == self._total, self._total, rows)

    def _places(self, source: Arrays | Items, cursor: Cursor, stop: int | None) -> Iterator[tuple[Cursor, Tensor]]:
        """Each batch to come: its place and its items."""
        size, total, start = self._size, self._total, cursor.batch
        for epoch in epochs_from(cursor, stop):
            rows = self._rows(source, epoch)
            for number in range(start, total):
                yield Cursor(epoch, number), rows[number * size : (number + 1) * size]
            start = 0

    def _read(self, source: Items, places: Iterator[tuple[Cursor, Tensor]]) -> Iterator[Any]:
        """The batches at `places`, read here or by workers; nothing but the speed depends on which."""
        reader = Reader(source.data, source.title, self._seed, source.rows, source.dtype)
        requests = ((place.epoch, rows.tolist()) for place, rows in places)
        pin = self._device is not None and self._device.type == "cuda"
        return read_ahead(reader, requests, source.title, *self._workers, pin)


def _shaped(source: Arrays, columns: list[tuple[Tensor, ...]]) -> Iterable[Any]:
    """The values of each batch, from one sequence of tensors for each array."""
    if source.form == "one":
        return columns[0]
    if source.form == "tuple":
        return zip(*columns, strict=True)
    return (dict(zip(source.names, lot, strict=True)) for lot in zip(*columns, strict=True))
