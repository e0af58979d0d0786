"""Batches of what is read forward in passes: loaders, functions and iterables of batches, streams of items."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from typing import Any

import torch
from torch import Tensor

from etude.data.batch import Batch, counts, located, moved
from etude.data.chance import item_key, sow, undisturbed
from etude.data.cursor import Cursor, beyond, epochs_from
from etude.data.streams import Stream
from etude.errors import DataError, warn

_END: Any = object()


class Passing:
    """Batches as they come, pass after pass. A place inside a pass is found by reading up to it.

    Args:
        source: the data. size: samples in a batch, where they do not come in batches.
        total: batches in a pass, or None where unknown.
        drop_last: leave out what does not fill a batch at the end.
        seed: at least 0. device: where batches go; None: they stay.
    """

    def __init__(
        self,
        source: Stream,
        size: int | None,
        total: int | None,
        drop_last: bool,
        seed: int,
        device: torch.device | None,
    ) -> None:
        self._source, self._size, self._total, self._drop_last = source, size or 0, total, drop_last
        self._seed, self._device = seed, device

    def batches(self, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        """The batches from `cursor` on, up to epoch `stop`."""
        return self._of_stream(self._source, cursor, stop)

    def state(self, cursor: Cursor) -> list[Tensor]:
        """What has to be kept besides a cursor: generators that a loader brings along."""
        return self._source.state(cursor.epoch)

    def load(self, cursor: Cursor, state: Sequence[Tensor]) -> None:
        """Take over what `state` gave."""
        self._source.load(cursor.epoch, state)

    def _of_stream(self, source: Stream, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        skipped = cursor.batch
        for epoch in epochs_from(cursor, stop):
            number, before = -1, time.perf_counter()
            for number, (values, last) in enumerate(self._pass(source, epoch)):
                if number == skipped > 0:
                    warn(
                        f"{source.title} can only be read forward: to get to batch {skipped} of epoch {epoch}, all "
                        f"before it was read again, in {time.perf_counter() - before:.1f} s."
                    )
                if number >= skipped:
                    values = moved(values, self._device, source.dtype)
                    yield located(values, counts(values), Cursor(epoch, number), last, self._total)
            if number < skipped:
                raise beyond(cursor, number + 1)
            skipped = 0

    def _pass(self, source: Stream, epoch: int) -> Iterator[tuple[Any, bool]]:
        """The batches of one pass, each with whether it is the last."""
        total, drawn = self._total, self._drawn(source, epoch)
        if total is None:
            yield from _with_last(drawn, f"{source.title} gave no batch in epoch {epoch}. Give at least one.")
            return
        for number in range(total):
            values = next(drawn, _END)
            if values is _END:
                raise _miscounted(source, epoch, str(number), total)
            last = number + 1 == total
            if last and not source.declared and next(drawn, _END) is not _END:
                raise _miscounted(source, epoch, f"more than {total}", total)
            yield values, last

    def _drawn(self, source: Stream, epoch: int) -> Iterator[Any]:
        """The batches of one pass, each drawn with its own seed; opening belongs to the first."""
        passing = chain.from_iterable(map(source.open, (epoch,)))
        for number in count():
            with undisturbed():
                sow(item_key(self._seed, epoch, number))
                try:
                    values = self._drawn_one(source, passing)
                except DataError:
                    raise
                except Exception as error:
                    told = f"{type(error).__name__}: {error}"
                    raise DataError(
                        f"Batch {number} of epoch {epoch} of {source.title} cannot be read: {told}"
                    ) from error
            if values is _END:
                return
            yield values

    def _drawn_one(self, source: Stream, passing: Iterator[Any]) -> Any:
        if source.batched:
            given = next(passing, _END)
            return given if given is _END else source.batch(given)
        items = list(islice(passing, self._size))
        if not items or (self._drop_last and len(items) < self._size):
            return _END
        return source.joined(items)


def _with_last(drawn: Iterator[Any], nothing: str) -> Iterator[tuple[Any, bool]]:
    """Each value with whether it is the last, which takes reading one ahead."""
    upcoming = next(drawn, _END)
    if upcoming is _END:
        raise DataError(nothing)
    while upcoming is not _END:
        values, upcoming = upcoming, next(drawn, _END)
        yield values, upcoming is _END


def _miscounted(source: Stream, epoch: int, given: str, total: int) -> DataError:
    if source.declared:
        hint = f"Write round_length={given}, or let it go on." if given != "0" else "Does it begin anew for each epoch?"
        return DataError(f"{source.title} gave {given} batches in epoch {epoch}; round_length={total} is more. {hint}")
    return DataError(f"{source.title} gave {given} batches in epoch {epoch}; its length says {total}. Correct __len__.")
