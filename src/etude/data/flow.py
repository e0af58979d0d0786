"""Batches in an order that is a pure function of the seed and the epoch, from any place on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from etude.data.arrays import Arrays
from etude.data.assembled import Assembled, batching_for, planner_for
from etude.data.assembly import Assembly
from etude.data.batch import Batch, token_width
from etude.data.cursor import Cursor, beyond
from etude.data.even import Even
from etude.data.form import Source
from etude.data.items import Items
from etude.data.onward import Onward
from etude.data.passing import Passing
from etude.data.plan.arrangements import WithReplacement
from etude.data.plan.batching import Batching
from etude.data.plan.planner import Planner
from etude.data.report import Report
from etude.data.source import source as adapted
from etude.data.streams import Stream
from etude.errors import DataError
from etude.values.progress import Extent, Progress
from etude.values.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EFFORT = 20_000_000
"""Units that are planned at most to find out how many steps a run has: a few seconds."""


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
        "_ranks",
        "_reader",
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
        chunk = None if chunk is None else _whole("chunk", chunk, 1)
        self._ranks = _rank(rank, ranks, made)
        self.batching: Batching | None = None
        _check_options(made, self.shuffle, drop_last, workers)
        self._reader = self._made(shuffle, drop_last, looking, extent, accumulate, chunk)

    def _made(
        self,
        shuffle: bool | None,
        drop_last: bool,
        looking: bool,
        extent: Extent,
        accumulate: Schedule | None,
        chunk: int | None,
    ) -> Even | Passing | Assembly | Onward:
        """What reads these data, and what is known of them beforehand."""
        source, size = self.source, self.batch_size
        if isinstance(source, Assembled):
            return self._assembled(source, shuffle, looking, extent, accumulate)
        total = self.batches_per_epoch = _batches(source, size, drop_last)
        self.samples = _samples(source, size, drop_last)
        self.tokens = _tokens(source, self.samples)
        if isinstance(source, Arrays | Items):
            return Even(
                source,
                size or 0,
                total or 0,
                self.samples or 0,
                shuffle=self.shuffle,
                seed=self.seed,
                device=self.device,
                workers=self._workers,
                chunk=chunk,
                ranks=self._ranks,
            )
        assert isinstance(source, Stream)
        return Passing(source, size, total, drop_last, self.seed, self.device)

    def _assembled(
        self, source: Assembled, shuffle: bool | None, looking: bool, extent: Extent, accumulate: Schedule | None
    ) -> Assembly | Onward:
        """What reads `Data`: a first epoch is planned, so that what is wrong is said before anything is read."""
        self.batching = batching = batching_for(source, self.batch_size, shuffle, looking)
        self.batches_per_epoch = self.samples = self.tokens = None
        if source.stock.forward:
            return Onward(source, batching, self.seed, self.device, extent, accumulate)
        proved = bool(source.ready) and batching is source.batching
        planner = planner_for(source, batching, self.seed, extent, accumulate)
        if not (proved and batching.varies_in_samples):
            first = planner.epoch(0)
            if not batching.varies:
                self.batches_per_epoch = first.batches
            if not batching.varies_in_samples:
                self.samples, self.tokens = first.epoch.units, first.tokens if _each_once(batching) else None
        return Assembly(source, planner, self.seed, self.device, self._workers, *self._ranks)

    @property
    def _planner(self) -> Planner | None:
        return self._reader.planner if isinstance(self._reader, Assembly) else None

    @property
    def smallest(self) -> int | None:
        """Samples in the smallest batch of the first epoch, or None where unknown."""
        if self._planner is not None:
            return self._planner.epoch(0).smallest
        return self.samples % self.batch_size or self.batch_size if self.samples and self.batch_size else None

    def report(self, epoch: int) -> Report | None:
        """What is in the batches of an epoch; of data that are read forward what was, once it is read. Else None."""
        return self._reader.report(epoch) if isinstance(self._reader, Assembly | Onward) else None

    @property
    def planned(self) -> bool:
        """Whether the batches of every epoch are known before they are read."""
        return self._planner is not None

    def plot(self, path: str | Path | None = None, *, epochs: int = 1, title: str | None = None) -> Figure:
        """Draw lengths, and fill and padding of the batches of the first epochs; see `Data.plot`.

        Raises:
            DataError: these are not `Data`, or they are read forward.
        """
        from etude.data.picture import draw

        if self._planner is None or not isinstance(self.source, Assembled):
            what = "is read forward" if isinstance(self._reader, Onward) else "is not planned"
            raise DataError(
                f"{self.source.title} {what}: there is nothing to draw of its batches before they are read. Samples "
                "at hand can be drawn: etude.Data(samples, budget=20_000).plot(path)."
            )
        return draw(self._planner, self.source.packed, epochs, path, title)

    def batches_of(self, epochs: int) -> list[int] | None:
        """How many batches each of the first epochs has; None where that is not known, or takes long to find out."""
        planner = self._planner
        if planner is None:
            return None if self.batches_per_epoch is None else [self.batches_per_epoch] * epochs
        if planner.effort * epochs > _EFFORT:
            return None
        return [planner.epoch(epoch).batches for epoch in range(epochs)]

    def batches_in(self, epoch: int) -> int | None:
        """How many batches an epoch has; None where that is not known."""
        return self.batches_per_epoch if self._planner is None else self._planner.epoch(epoch).batches

    def start(self, epoch: int) -> Progress | None:
        """The clock at the start of an epoch, as filters are asked; None for data that are not planned."""
        return None if self._planner is None else self._planner.start(epoch)

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
            raise beyond(cursor, total)
        stop = None if epochs is None else cursor.epoch + _whole("epochs", epochs, 1)
        return self._reader.batches(cursor, stop)

    def state(self, cursor: Cursor) -> list[Tensor]:
        """What has to be kept besides a cursor: generators that a loader brings along, what `Data` count."""
        return self._reader.state(cursor)

    def load(self, cursor: Cursor, state: Sequence[Tensor]) -> None:
        """Take over what `state` gave; before `batches`."""
        self._reader.load(cursor, state)


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
        write = (
            "Data(dataset, ...) can share them" if source.random_access else "Let each process read files of its own"
        )
        raise DataError(
            f"ranks={ranks} was asked for, and batches of {source.title} cannot be shared: they are read forward, or "
            f"come as they are. {write}."
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
