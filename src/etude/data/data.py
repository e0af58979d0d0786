"""Samples and how they become batches, as one value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from etude.arguments import named_class
from etude.data.assembled import Assembled
from etude.data.batch import Batch
from etude.data.checks import check
from etude.data.cursor import Cursor
from etude.data.form import Source
from etude.data.plan.arrangements import InOrder, Order, Random, SideBySide
from etude.data.plan.batching import Batching
from etude.data.plan.buckets import Buckets
from etude.data.plan.buckets import buckets as buckets_of
from etude.data.plan.budgets import budget as limits_of
from etude.data.plan.budgets import samples as sample_limit
from etude.data.plan.chunks import chunking
from etude.data.plan.filters import keep as filters_of
from etude.data.plan.limits import Limit, SampleLimit, StreamLimit
from etude.data.plan.orders import OrderLike
from etude.data.plan.orders import order as order_of
from etude.data.plan.selection import Selection
from etude.data.plan.strata import InStrata
from etude.data.saying import option_text
from etude.data.stock import LengthsLike, Stock, stock
from etude.errors import DataError, ScheduleError, SettingError, nearest
from etude.values.schedule import ScheduleLike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from etude.data.flow import Flow
    from etude.data.report import Report

_CHOICES = {
    "pack": (False, True, "first_fit", "strung"),
    "too_long": ("alone", "drop", "error"),
    "unreadable": ("raise", "skip"),
}


@named_class
class Data:
    """Samples and how they become batches: given to `train`, `Run` and `Evaluate` in place of data, or read by itself.

        data = etude.Data(recordings, lengths="audio", budget=32_000, keep=length(most=1600))
        for batch in data.batches(seed=1): ...

    Batches of sequences are dicts: `audio` is padded, `audio_lengths` says how long each row is. A net whose `forward`
    names `audio_lengths` or `audio_mask` gets them; losses of torch count true frames alone.

    Which samples are in which batch is a pure function of the seed and the epoch, so every batch of every epoch is at
    hand at once. Filters, chunks, selection and order are for training: data that are only looked at come whole, each
    sample once.

    Args:
        source: a list of samples (dicts, or tuples with `names`), a tuple or dict of columns, a data set, a stream, or
            what a function of `etude.data` gives (`hdf`, `audio`, `joined`, ...).
        names: of the parts of samples that are tuples.
        lengths: which parts are sequences, the leading one first: names; or for each a length for every sample, or a
            function of a sample. Data in memory and most data sets tell theirs; otherwise every sample is read once.
        batch_size: samples in a batch, a number or a schedule.
        budget: what a batch may hold instead or besides: a number of padded frames (of every stream), a dict by
            stream, `padded`, `packed`, `padding`, `cost`, or a list of these; each a number or a schedule.
        order: of the samples: a name such as "random", "sorted" or "laplace:.1000", what a function of `etude.data`
            gives (`pools(1000)`, ...), or a function of the epoch. Default: "strata" with a budget, else "random".
        select: how often a sample comes: `weighted`, `mixed`. Default: each once.
        keep: filters: `length(most=1600)`, `shortest(0.5)`, a function of the lengths, `{range(0, 5): filter}`, a
            schedule whose values are filters, or a list of these.
        chunk: size, (size, step) or `chunk(...)` of the pieces that samples are cut into, or a schedule of such.
        buckets: `buckets((100, 64), (200, 32))`, or how many shapes the batches may have, for torch.compile.
        pack: sequences follow one another, with offsets, instead of being padded; "first_fit" fills batches with what
            fits, "strung" cuts samples wherever a batch is full.
        pool: samples that first fit looks at together. Default: all.
        pad: what fills up: a number, or one for each part.
        subepochs: epochs that one pass over the data is divided into.
        repeat: times that an epoch goes over its order.
        shuffle_batches: whole batches change places: True, or within blocks of so many.
        shuffle_buffer: samples that are held to shuffle what is read forward; 0: they come as they are.
        too_long: a sample beyond the budget is a batch of its own ("alone"), left out and counted ("drop"), or an
            "error".
        drop_last: leave out, and count, what does not fill a batch of `batch_size` (or of a bucket).
        unreadable: a sample that cannot be read is an error that names it ("raise"), or left out and counted ("skip").
        in_evaluation: filters and chunks hold for data that are only looked at as well.
        collate: a function of a list of samples that makes a batch, instead of padding and stacking.
        dtype: of floats of numpy and of Python, and of arrays in memory.

    Raises:
        DataError, SettingError: an option that these data cannot follow, an unknown order or stream, limits of 0.
    """

    __slots__ = ("_options", "_stock_said", "assembled", "source")

    def __init__(
        self,
        source: Any,
        *,
        names: Sequence[str] = (),
        lengths: LengthsLike = None,
        batch_size: ScheduleLike = None,
        budget: Any = None,
        order: OrderLike | None = None,
        select: Selection | None = None,
        keep: Any = None,
        chunk: Any = None,
        buckets: Buckets | int | Sequence[tuple[int, int]] | None = None,
        pack: bool | str = False,
        pool: int | None = None,
        pad: Mapping[str, float] | float = 0,
        subepochs: int = 1,
        repeat: int = 1,
        shuffle_batches: bool | int = False,
        shuffle_buffer: int = 0,
        too_long: str = "alone",
        drop_last: bool = False,
        unreadable: str = "raise",
        in_evaluation: bool = False,
        collate: Callable[[list[Any]], Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        given = dict(locals())
        self._options = {name: given[name] for name in _OPTIONS if given[name] is not _DEFAULTS[name]}
        for name, known in _CHOICES.items():
            _one_of(name, given[name], known)
        if isinstance(source, Data | Source):
            raise DataError(
                f"Data({source!r}): these are data already. Write them as they are, or .but(...) to change them."
            )
        _check_plain(collate, dtype, shuffle_buffer)
        self.source = source
        made = stock(source, names, lengths, dtype, unreadable == "skip")
        self._stock_said = made.said
        limits = limits_of(budget, batch_size)
        batching = Batching(
            _order(order, limits, made, bool(pack) or buckets is not None),
            limits,
            filters_of(keep),
            _selection(select),
            chunking(chunk),
            _whole("subepochs", subepochs),
            _whole("repeat", repeat),
            _blocks(shuffle_batches),
            too_long,
            _buckets(buckets),
            pack if isinstance(pack, str) else "",
            None if pool is None else _whole("pool", pool),
            drop_last,
        )
        batching = _completed(batching, made)
        check(batching, made, bool(pack), pad, collate, shuffle_buffer, unreadable == "skip")
        recast = partial(stock, source, names, lengths, skips=unreadable == "skip")
        packed = bool(pack)
        self.assembled = Assembled(
            made, batching, pad, packed, shuffle_buffer, unreadable, in_evaluation, collate, self._said(), recast, dtype
        )

    def but(self, **options: Any) -> Data:
        """The same with other options."""
        return Data(options.pop("source", self.source), **{**self._options, **options})

    def __len__(self) -> int:
        """Samples there are.

        Raises:
            TypeError: they are read forward, and nobody knows.
        """
        if self.assembled.length is None:
            raise TypeError(f"{self.assembled.title} is read forward: how many samples there are is not known")
        return self.assembled.length

    def batches(
        self,
        cursor: Cursor = Cursor(),  # noqa: B008
        *,
        epochs: int | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        workers: int = 0,
        training: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ) -> Iterator[Batch]:
        """The batches from `cursor` on, for a loop of one's own.

        Args:
            cursor: the first batch to give out; `batch.next` is that of the batch that follows.
            epochs: passes to make, the one that `cursor` is in being the first. Default: without end.
            seed: of order and chance, at least 0.
            device: where the batches go. workers: processes that read the samples of a data set.
            training: False: as data are looked at, every sample once and whole, without filters, chunks and selection.
            rank, ranks: of all batches give out the share of this process; the batches do not depend on how many
                processes share them.
        """
        options = {"device": device, "workers": workers, "rank": rank, "ranks": ranks}
        return self._flow(seed, training, **options).batches(cursor, epochs=epochs)

    def _flow(self, seed: int, training: bool, **options: Any) -> Flow:
        from etude.data.flow import Flow

        try:
            return Flow(self, seed=seed, looking=not training, **options)
        except ScheduleError as error:
            raise ScheduleError(
                f"{error} Read by themselves, data have no run to be a share of: write over=epochs(5) in such a "
                "schedule."
            ) from None

    def report(self, epochs: int = 1, seed: int = 0, *, training: bool = True) -> list[Report]:
        """What will be in the batches of each of the first epochs; nothing is read. See `batches` for the arguments.

        Raises:
            DataError: data that are read forward, of which nothing is known beforehand.
        """
        flow = self._flow(seed, training)
        _whole("epochs", epochs)
        found = [flow.report(epoch) for epoch in range(epochs)]
        if None in found:
            raise DataError(
                f"{self.assembled.title} is read forward: what is in its batches is known once they are read."
            )
        return [each for each in found if each is not None]

    def plot(self, path: str | Path | None = None, *, epochs: int = 1, seed: int = 0) -> Figure:
        """Draw lengths, and fill and padding of the batches of the first epochs; written to `path` if one is given.

        Raises:
            DataError: data that are read forward, of which nothing is known beforehand.
        """
        from etude.data.flow import Flow

        return Flow(self, seed=seed).plot(path, epochs=epochs)

    def __repr__(self) -> str:
        return self._said()

    def _said(self) -> str:
        told = [f"{name}={option_text(value)}" for name, value in self._options.items()]
        return f"Data({', '.join([self._stock_said, *told])})"


_PARAMETERS = {
    name: parameter
    for name, parameter in inspect.signature(Data.__init__).parameters.items()
    if name not in ("self", "source")
}
_OPTIONS = tuple(_PARAMETERS)
_DEFAULTS = {name: parameter.default for name, parameter in _PARAMETERS.items()}


def _order(given: OrderLike | None, limits: tuple[Limit, ...], made: Stock, shaped: bool) -> Order:
    """The order that was given; else strata where lengths count, and batches are not made otherwise."""
    if given is not None:
        order = order_of(given)
        if isinstance(order, InStrata) and (shaped or _pads(limits)):
            raise SettingError(
                "order='strata' makes batches of alike lengths itself, and pack, buckets and padding(...) make others. "
                "Write order='random', or 'pools:1000'."
            )
        return order
    if made.forward:
        return InOrder()
    measured = any(limit.needs_lengths for limit in limits) and made.streams
    return Random() if shaped or _pads(limits) or not measured else InStrata()


def _pads(limits: tuple[Limit, ...]) -> bool:
    """Whether what padding adds is limited, which says little of a batch of one length."""
    return any(isinstance(limit, StreamLimit) and limit.kind == "padding" for limit in limits)


def _completed(batching: Batching, made: Stock) -> Batching:
    """What follows from what was said."""
    order, limits = batching.order, batching.limits
    if isinstance(order, SideBySide) and not any(isinstance(limit, SampleLimit) for limit in limits):
        return replace(batching, limits=(*limits, sample_limit(order.streams)))
    return batching


def _selection(given: Selection | None) -> Selection | None:
    if given is not None and not isinstance(given, Selection):
        raise SettingError(f"select={given!r}: no selection. Write weighted(weights), or mixed(weights).")
    return given


def _blocks(given: bool | int) -> int | None:
    if isinstance(given, bool):
        return None if given else 0
    return _whole("shuffle_batches", given)


def _buckets(given: Any) -> Buckets | int | None:
    if given is None or isinstance(given, Buckets):
        return given
    return _whole("buckets", given) if isinstance(given, int) else buckets_of(*given)


def _check_plain(collate: Any, dtype: Any, buffer: Any) -> None:
    if collate is not None and not callable(collate):
        raise SettingError(f"collate={collate!r}: a function of a list of samples is needed.")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise SettingError(f"dtype={dtype!r}: a floating type of torch is needed. Write dtype=torch.float64.")
    if isinstance(buffer, bool) or not isinstance(buffer, int) or buffer < 0:
        raise SettingError(f"shuffle_buffer={buffer!r}: a whole number from 0 on is needed.")


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingError(f"{name}={value!r}: a whole number from 1 on is needed.")
    return value


def _one_of(name: str, value: Any, known: Sequence[Any]) -> None:
    if value not in known or (isinstance(value, int) and not isinstance(value, bool)):
        raise SettingError(
            f"{name}={value!r}: known are {', '.join(map(repr, known))}.{nearest(str(value), map(str, known))}"
        )
