"""Batches in an order that is a pure function of the seed and the epoch, from any place on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from etude.data.ahead import read_ahead
from etude.data.arrays import Arrays
from etude.data.assembled import Assembled, batching_for, planner_for
from etude.data.assembly import Assembly
from etude.data.batch import Batch, counts, moved, quick_batch, token_width
from etude.data.chance import item_key, sow, undisturbed
from etude.data.cursor import Cursor
from etude.data.form import Source
from etude.data.items import Items, Reader
from etude.data.onward import Onward
from etude.data.order import in_order, permutation
from etude.data.plan.arrangements import WithReplacement
from etude.data.plan.batching import Batching
from etude.data.report import Report
from etude.data.source import source as adapted
from etude.data.streams import Stream
from etude.errors import DataError, warn
from etude.values.progress import Extent
from etude.values.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEAR, _FAR = 1 << 19, 1 << 23
"""Bytes gathered at once: what stays in a processor's cache, and what is worth one transfer to a device."""

_EFFORT = 20_000_000
"""Units that are planned at most to find out how many steps a run has: a few seconds."""

_END: Any = object()


class Flow:
    """Batches of a source, epoch after epoch, from any cursor on.

    The same seed gives the same batches, bit for bit, whatever the workers, the chunk and the place at which reading
    starts. Arrays are gathered many batches at once. Items of data sets, and batches of what is read forward, are
    drawn with the generators of torch (CPU), numpy and Python seeded from (seed, epoch, number of the item or
    batch), so that they repeat; the process's own generators are left as they were.

    Args:
        source: a `Source`, or any data that `source(data)` takes.
        batch_size: samples in a batch; the last of an epoch may have fewer. None for data that come in batches of
            their own.
        shuffle: a new order for each epoch. Default: wherever the data have random access.
        seed: at least 0.
        drop_last: leave out the samples at the end of an epoch that do not fill a batch.
        device: where the batches go. Default: they stay where the data are.
        workers: processes that read the items of a data set; 0 reads them in this one.
        prefetch: batches that each worker keeps ready.
        dtype: of every floating array. Default: as `source` gave it.
        chunk: bytes of arrays in memory to gather at once, but at least one batch. Default: half a mebibyte, or
            eight on the way to another device.
        looking: the data are only looked at: `Data` come whole then, every sample once.
        extent: how long the run is, and accumulate: the batches of one step, for budgets of `Data` that change.
        rank, ranks: of every batch give out the share of this process; the batches are the same for any number.

    Attributes:
        batching: how samples of `Data` become batches; None for others.
        samples: samples given out in an epoch, or None where unknown.
        tokens: tokens given out in an epoch, or None where unknown.
        batches_per_epoch: or None where unknown.

    Raises:
        DataError: an option that these data cannot follow.
    """

    __slots__ = (
        "_assembly",
        "_chunk",
        "_drop_last",
        "_onward",
        "_ranks",
        "_workers",
        "batch_size",
        "batches_per_epoch",
        "batching",
        "device",
        "samples",
        "seed",
        "shuffle",
        "source",
        "tokens",
    )

    def __init__(
        self,
        source: Any,
        *,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        seed: int = 0,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        workers: int = 0,
        prefetch: int = 2,
        dtype: torch.dtype | None = None,
        chunk: int | None = None,
        looking: bool = False,
        extent: Extent = Extent(),  # noqa: B008
        accumulate: Schedule | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        made = adapted(source)
        self.source = made if dtype is None else made.cast(dtype)
        self.batch_size = _batch_size(made, batch_size)
        self.shuffle = made.random_access if shuffle is None else shuffle
        self.seed = _whole("seed", seed, 0)
        self.device = _device(device)
        self._workers = (_whole("workers", workers, 0), _whole("prefetch", prefetch, 1))
        self._drop_last = drop_last
        self._chunk = None if chunk is None else _whole("chunk", chunk, 1)
        self._ranks = _rank(rank, ranks, made)
        self._assembly: Assembly | None = None
        self._onward: Onward | None = None
        self.batching: Batching | None = None
        _check_options(made, self.shuffle, drop_last, workers)
        if isinstance(self.source, Assembled):
            self._assemble(self.source, shuffle, looking, extent, accumulate)
            return
        self.batches_per_epoch = _batches(made, self.batch_size, drop_last)
        self.samples = _samples(made, self.batch_size, drop_last)
        self.tokens = _tokens(made, self.samples)

    def _assemble(
        self, source: Assembled, shuffle: bool | None, looking: bool, extent: Extent, accumulate: Schedule | None
    ) -> None:
        """What is known of `Data`: a first epoch is planned, so that what is wrong is said before anything is read."""
        self.batching = batching = batching_for(source, self.batch_size, shuffle, looking)
        self.batches_per_epoch = self.samples = self.tokens = None
        if source.stock.forward:
            self._onward = Onward(source, batching, self.seed, self.device, extent, accumulate)
            return
        proved = bool(source.ready) and batching is source.batching
        planner = planner_for(source, batching, self.seed, extent, accumulate)
        self._assembly = Assembly(source, planner, self.seed, self.device, self._workers, *self._ranks)
        if proved and batching.varies_in_samples:
            return
        first = planner.epoch(0)
        if not batching.varies:
            self.batches_per_epoch = first.batches
        if not batching.varies_in_samples:
            self.samples, self.tokens = first.epoch.units, first.tokens if _each_once(batching) else None

    @property
    def smallest(self) -> int | None:
        """Samples in the smallest batch of the first epoch, or None where unknown."""
        if self._assembly is not None:
            return self._assembly.planner.epoch(0).smallest
        return self.samples % self.batch_size or self.batch_size if self.samples and self.batch_size else None

    def report(self, epoch: int) -> Report | None:
        """What is in the batches of an epoch; of data that are read forward what was, once it is read. Else None."""
        if self._assembly is not None:
            return self._assembly.report(epoch)
        return None if self._onward is None else self._onward.report(epoch)

    @property
    def planned(self) -> bool:
        """Whether the batches of every epoch are known before they are read."""
        return self._assembly is not None

    def plot(self, path: str | Path | None = None, *, epochs: int = 1, title: str | None = None) -> Figure:
        """Draw lengths, and fill and padding of the batches of the first epochs; see `Data.plot`.

        Raises:
            DataError: these are not `Data`, or they are read forward.
        """
        from etude.data.picture import draw

        if self._assembly is None or not isinstance(self.source, Assembled):
            what = "is read forward" if self._onward is not None else "is not planned"
            raise DataError(
                f"{self.source.title} {what}: there is nothing to draw of its batches before they are read. Samples "
                "at hand can be drawn: etude.Data(samples, budget=20_000).plot(path)."
            )
        return draw(self._assembly.planner, self.source.packed, epochs, path, title)

    def batches_of(self, epochs: int) -> list[int] | None:
        """How many batches each of the first epochs has; None where that is not known, or takes long to find out."""
        if self._assembly is None:
            return None if self.batches_per_epoch is None else [self.batches_per_epoch] * epochs
        planner = self._assembly.planner
        if planner.effort * epochs > _EFFORT:
            return None
        return [planner.epoch(epoch).batches for epoch in range(epochs)]

    def batches_in(self, epoch: int) -> int | None:
        """How many batches an epoch has; None where that is not known."""
        return self._assembly.planner.epoch(epoch).batches if self._assembly is not None else self.batches_per_epoch

    def batches(self, cursor: Cursor = Cursor(), *, epochs: int | None = None) -> Iterator[Batch]:  # noqa: B008
        """The batches from `cursor` on.

        Where the data have random access the place is found at once; otherwise by reading up to it.

        Args:
            cursor: the first batch to give out.
            epochs: passes to make, the one that `cursor` is in being the first. Default: without end.

        Raises:
            DataError: a cursor beyond the epoch; while reading, data that cannot be read, that give no batch in an
                epoch, or fewer or more than they state.
        """
        if not isinstance(cursor, Cursor):
            raise DataError(f"cursor={cursor!r}: a place in the data is a Cursor. Write Cursor(epoch=3, batch=0).")
        total = self.batches_in(cursor.epoch) if cursor.epoch >= 0 else None
        if cursor.epoch < 0 or cursor.batch < 0 or (total is not None and cursor.batch >= total):
            raise _beyond(cursor, total)
        stop = None if epochs is None else cursor.epoch + _whole("epochs", epochs, 1)
        if self._assembly is not None:
            return self._assembly.batches(cursor, stop)
        if self._onward is not None:
            return self._onward.batches(cursor, stop)
        if isinstance(self.source, Arrays):
            return self._of_arrays(self.source, cursor, stop)
        if isinstance(self.source, Items):
            return self._of_items(self.source, cursor, stop)
        assert isinstance(self.source, Stream)
        return self._of_stream(self.source, cursor, stop)

    def state(self, cursor: Cursor) -> list[Tensor]:
        """What has to be kept besides a cursor: generators that a loader brings along, what `Data` count."""
        made = self._assembly or self._onward
        if made is not None:
            return made.state(cursor)
        return self.source.state(cursor.epoch) if isinstance(self.source, Stream) else []

    def load(self, cursor: Cursor, state: Sequence[Tensor]) -> None:
        """Take over what `state` gave; before `batches`."""
        made = self._assembly or self._onward
        if made is not None:
            made.load(state)
        if isinstance(self.source, Stream):
            self.source.load(cursor.epoch, state)

    def _rows(self, source: Arrays | Items, epoch: int) -> Tensor:
        """The samples of one epoch in their order, as positions in the whole data."""
        order = permutation(source.length, self.seed, epoch) if self.shuffle else in_order(source.length)
        return order if source.indices is None else source.indices[order]

    def _of_arrays(self, source: Arrays, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        if self._ranks[1] > 1:
            yield from self._shared(source, cursor, stop)
            return
        size, total, width = self.batch_size or 0, self.batches_per_epoch or 0, token_width(source.arrays[0])
        rest = (self.samples or 0) - size * (total - 1)
        place = cursor
        for epoch in _epochs(cursor, stop):
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
            columns = [moved(array.index_select(0, own.to(array.device)), self.device, None) for array in source.arrays]
            values = next(iter(_shaped(source, [(column,) for column in columns])))
            everywhere = (len(rows), len(rows) * width)
            last = place.batch + 1 == self.batches_per_epoch
            yield self._located(values, len(own), len(own) * width, place, last, own, everywhere)

    def _own(self, rows: Tensor) -> Tensor:
        """Of the samples of a batch those of this process: as many for each, the first ones one more."""
        rank, ranks = self._ranks
        return rows[len(rows) * rank // ranks : len(rows) * (rank + 1) // ranks]

    def _gathered(self, source: Arrays, rows: Tensor, start: int) -> Iterator[tuple[int, Iterable[Any]]]:
        """The batches of an epoch from batch `start` on, a chunk at a time: its first number, the values of each."""
        size, total, stride = self.batch_size or 0, self.batches_per_epoch or 0, self._stride(source)
        for first in range(start, total, stride):
            chosen = rows[first * size : min(first + stride, total) * size]
            columns = [
                moved(array.index_select(0, chosen.to(array.device)), self.device, None) for array in source.arrays
            ]
            # unsafe_split: each batch has a version of its own, so that writing to one does not
            # make autograd refuse another that it saved.
            yield first, _shaped(source, [column.unsafe_split(size) for column in columns])

    def _stride(self, source: Arrays) -> int:
        """Batches in a chunk."""
        row = sum(array.nbytes // len(array) for array in source.arrays)
        moves = self.device is not None and any(array.device.type != self.device.type for array in source.arrays)
        return max(1, (self._chunk or (_FAR if moves else _NEAR)) // max(1, row * (self.batch_size or 1)))

    def _of_items(self, source: Items, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        read = self._read(source, self._places(source, cursor, stop))
        for (place, rows), values in zip(self._places(source, cursor, stop), read, strict=True):
            yield self._placed(source, values, place, place.batch + 1 == self.batches_per_epoch, rows)

    def _places(self, source: Arrays | Items, cursor: Cursor, stop: int | None) -> Iterator[tuple[Cursor, Tensor]]:
        """Each batch to come: its place and its items."""
        size, total, start = self.batch_size or 0, self.batches_per_epoch or 0, cursor.batch
        for epoch in _epochs(cursor, stop):
            rows = self._rows(source, epoch)
            for number in range(start, total):
                yield Cursor(epoch, number), rows[number * size : (number + 1) * size]
            start = 0

    def _read(self, source: Items, places: Iterator[tuple[Cursor, Tensor]]) -> Iterator[Any]:
        """The batches at `places`, read here or by workers; nothing but the speed depends on which."""
        reader = Reader(source.data, source.title, self.seed, source.rows, source.dtype)
        requests = ((place.epoch, rows.tolist()) for place, rows in places)
        pin = self.device is not None and self.device.type == "cuda"
        return read_ahead(reader, requests, source.title, *self._workers, pin)

    def _of_stream(self, source: Stream, cursor: Cursor, stop: int | None) -> Iterator[Batch]:
        skipped = cursor.batch
        for epoch in _epochs(cursor, stop):
            number, before = -1, time.perf_counter()
            for number, (values, last) in enumerate(self._pass(source, epoch)):
                if number == skipped > 0:
                    warn(
                        f"{source.title} can only be read forward: to get to batch {skipped} of epoch {epoch}, all "
                        f"before it was read again, in {time.perf_counter() - before:.1f} s."
                    )
                if number >= skipped:
                    yield self._placed(source, values, Cursor(epoch, number), last, None)
            if number < skipped:
                raise _beyond(cursor, number + 1)
            skipped = 0

    def _pass(self, source: Stream, epoch: int) -> Iterator[tuple[Any, bool]]:
        """The batches of one pass, each with whether it is the last."""
        total, drawn = self.batches_per_epoch, self._drawn(source, epoch)
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
                sow(item_key(self.seed, epoch, number))
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
        size = self.batch_size or 0
        items = list(islice(passing, size))
        if not items or (self._drop_last and len(items) < size):
            return _END
        return source.joined(items)

    def _placed(self, source: Items | Stream, values: Any, place: Cursor, last: bool, rows: Tensor | None) -> Batch:
        values = moved(values, self.device, source.dtype)
        samples, tokens = counts(values)
        return self._located(values, samples, tokens, place, last, rows, None)

    def _located(
        self,
        values: Any,
        samples: int,
        tokens: int,
        place: Cursor,
        last: bool,
        rows: Tensor | None,
        everywhere: tuple[int, int] | None,
    ) -> Batch:
        following = Cursor(place.epoch + 1, 0) if last else Cursor(place.epoch, place.batch + 1)
        share = (place.batch + 1) / self.batches_per_epoch if self.batches_per_epoch else float(last)
        return Batch(values, samples, tokens, place, following, place.epoch + share, rows, 0, everywhere)


def _epochs(cursor: Cursor, stop: int | None) -> Iterable[int]:
    return count(cursor.epoch) if stop is None else range(cursor.epoch, stop)


def _shaped(source: Arrays, columns: list[tuple[Tensor, ...]]) -> Iterable[Any]:
    """The values of each batch, from one sequence of tensors for each array."""
    if source.form == "one":
        return columns[0]
    if source.form == "tuple":
        return zip(*columns, strict=True)
    return (dict(zip(source.names, lot, strict=True)) for lot in zip(*columns, strict=True))


def _with_last(drawn: Iterator[Any], nothing: str) -> Iterator[tuple[Any, bool]]:
    """Each value with whether it is the last, which takes reading one ahead."""
    upcoming = next(drawn, _END)
    if upcoming is _END:
        raise DataError(nothing)
    while upcoming is not _END:
        values, upcoming = upcoming, next(drawn, _END)
        yield values, upcoming is _END


def _beyond(cursor: Cursor, total: int | None) -> DataError:
    told = "" if total is None else f" An epoch has {total} batches, the first is Cursor(epoch, 0)."
    return DataError(f"There is no batch at {cursor}.{told} Were batch size and data the same when it was kept?")


def _miscounted(source: Stream, epoch: int, given: str, total: int) -> DataError:
    if source.declared:
        hint = f"Write round_length={given}, or let it go on." if given != "0" else "Does it begin anew for each epoch?"
        return DataError(f"{source.title} gave {given} batches in epoch {epoch}; round_length={total} is more. {hint}")
    return DataError(f"{source.title} gave {given} batches in epoch {epoch}; its length says {total}. Correct __len__.")


def _device(given: torch.device | str | None) -> torch.device | None:
    if given is None:
        return None
    try:
        return torch.device(given)
    except (RuntimeError, TypeError) as error:
        raise DataError(f"device={given!r} is none: {str(error).splitlines()[0]}") from None


def _each_once(batching: Batching) -> bool:
    """Whether every epoch has the same samples."""
    return batching.selection is None and not isinstance(batching.order, WithReplacement)


def _rank(rank: int, ranks: int, source: Source) -> tuple[int, int]:
    _whole("ranks", ranks, 1)
    if _whole("rank", rank, 0) >= ranks:
        raise DataError(f"rank={rank} of ranks={ranks}: ranks count from 0. Write a number below {ranks}.")
    if ranks > 1 and not (isinstance(source, Arrays | Assembled) and source.random_access):
        raise DataError(
            f"ranks={ranks} was asked for, and batches of {source.title} cannot be shared: they are made before they "
            "can be divided. Give samples that can be read by number: arrays, or Data(...)."
        )
    return rank, ranks


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"{name}={value!r} was asked for. Write a whole number from {least} on.")
    return value


def _batch_size(source: Source, size: Any) -> int | None:
    if isinstance(source, Assembled):
        return None if size is None else _whole("batch_size", size, 1)
    if not source.batched:
        if size is None:
            raise DataError(f"How many samples of {source.title} make a batch? Write batch_size=32, for example.")
        return _whole("batch_size", size, 1)
    if size is not None:
        where = "in the DataLoader" if source.title == "DataLoader" else "where the batches are made"
        raise DataError(
            f"batch_size={size!r} was asked for, but {source.title} gives batches of its own. "
            f"Leave batch_size out and set it {where}."
        )
    return None


def _check_options(source: Source, shuffle: bool, drop_last: bool, workers: int) -> None:
    """Refuse what these data cannot follow, rather than pass over it."""
    if shuffle and not source.random_access and not isinstance(source, Assembled):
        raise DataError(
            f"shuffle=True was asked for, but {source.title} can only be read forward. "
            "Shuffle inside it, and leave shuffle out."
        )
    if drop_last and (source.batched or isinstance(source, Assembled)):
        raise DataError(
            f"drop_last=True was asked for, but {source.title} gives batches of its own. Leave the last one out there."
        )
    if workers and not source.by_item:
        raise DataError(f"workers={workers} was asked for, but {_without_workers(source)} Leave workers out.")


def _without_workers(source: Source) -> str:
    if isinstance(source, Arrays) or (isinstance(source, Assembled) and source.random_access):
        return "arrays in memory are gathered faster in this process."
    if source.title == "DataLoader":
        return "a DataLoader has its own (num_workers)."
    return (
        f"{source.title} is read forward, and each worker would read all of it. A data set that "
        "divides itself among workers goes in a DataLoader of your own."
    )


def _batches(source: Source, size: int | None, drop_last: bool) -> int | None:
    """Batches in an epoch, or None where unknown."""
    if source.batches is not None or source.length is None or size is None:
        return source.batches
    whole, rest = divmod(source.length, size)
    if not whole and drop_last:
        raise DataError(
            f"drop_last=True leaves no batch: {source.length} samples, batch_size={size}. Write a smaller batch_size."
        )
    return whole + (rest > 0 and not drop_last)


def _samples(source: Source, size: int | None, drop_last: bool) -> int | None:
    """Samples given out in an epoch, or None where unknown."""
    if source.length is None or size is None or source.batches is not None:
        return source.length
    return source.length - (source.length % size if drop_last else 0)


def _tokens(source: Source, samples: int | None) -> int | None:
    if not isinstance(source, Arrays) or samples is None:
        return None
    return samples * token_width(source.arrays[0])
