"""Samples as they arrive: read one after another, each with its own seed, measured, sieved and cut into units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor

from etude.data.batch import outline
from etude.data.chance import item_key, sow
from etude.data.forward import opened
from etude.data.order import FILTER, generator
from etude.data.plan.candidates import Candidates, Filter, share_of, value_of
from etude.data.plan.chunking import Chunk
from etude.data.plan.chunks import cut_chunks
from etude.data.plan.filters import Between, Chosen, Dropped, During, Scheduled, keep
from etude.data.plan.lengths import Lengths
from etude.data.sets import title_of
from etude.errors import DataError, nearest
from etude.values.progress import Progress

Counts = dict[str, int]
"""What was left out, by the reason."""

Windows = Mapping[str, tuple[int, int]]

UNREADABLE = "samples that cannot be read"
"""The reason under which they are counted."""

ONE_BY_ONE = "Write length(most=1600), or a function of the lengths."
"""What filters can do with samples that come one by one."""

_IN_A_ROW = 100
"""Samples that may be unreadable one after another: an iterator that always fails would never end."""

_END: Any = object()


def tally(counts: Counts, reason: str, number: int = 1) -> None:
    """Count what was left out, if it is anything."""
    if number:
        counts[reason] = counts.get(reason, 0) + number


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A sample that has arrived, or a chunk of one.

    Attributes:
        number: of the sample in its pass, from 0 on.
        item: the sample as the data gave it.
        lengths: of the unit in each stream that is measured, the leading one first.
        windows: of each stream that is cut where the unit starts and stops.
    """

    number: int
    item: Any
    lengths: Mapping[str, int]
    windows: Windows


@dataclass(frozen=True, slots=True)
class Measure:
    """How long a sample is, told by the sample itself.

    Attributes:
        streams: by name a function of the sample, or None: the first dimension of the part of that name.
        names: of the parts of samples that are tuples or a single part; functions then get a dict of them. Default:
            their places as text.
    """

    streams: Mapping[str, Callable[[Any], Any] | None]
    names: tuple[str, ...] = ()

    def of(self, item: Any, number: int) -> dict[str, int]:
        """The lengths of a sample in all streams.

        Raises:
            DataError: a part that is not there or has no length, or a function that gives no length or a wrong one.
        """
        parts = self._parts(item) if self.streams else {}
        return {name: self._length(name, function, item, parts, number) for name, function in self.streams.items()}

    def _parts(self, item: Any) -> Mapping[str, Any]:
        if isinstance(item, Mapping):
            return item
        values = item if isinstance(item, tuple) else (item,)
        names = self.names or tuple(map(str, range(len(values))))
        return dict(zip(names, values, strict=False))

    def _length(
        self, name: str, function: Callable[[Any], Any] | None, item: Any, parts: Mapping[str, Any], number: int
    ) -> int:
        found = _first_dimension(parts.get(name))
        if function is None:
            if found is None:
                raise _unmeasured(name, parts, number)
            return found
        told = function(parts if self.names else item)
        value = told.item() if isinstance(told, Tensor | np.ndarray | np.generic) and not told.ndim else told
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
            raise DataError(
                f"The length function of {name!r} gave {outline(told)} for sample {number}. "
                "A length is a whole number from 0 on."
            )
        if found is not None and found != value:
            raise DataError(
                f"The length function of {name!r} says {value} for sample {number}, which has {found} frames of it. "
                "Correct the function, or leave it out: the first dimension is its length."
            )
        return int(value)


def _first_dimension(value: Any) -> int | None:
    if isinstance(value, Tensor | np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list) else None


def _unmeasured(name: str, parts: Mapping[str, Any], number: int) -> DataError:
    if name in parts:
        return DataError(
            f"Sample {number} has {outline(parts[name])} for {name!r}, which has no length. Give a tensor, an array or "
            f"a list with time as the first dimension, or lengths={{{name!r}: function}}, a function of the sample."
        )
    known = ", ".join(map(repr, parts))
    return DataError(f"Sample {number} has no stream {name!r}: it has {known}.{nearest(name, map(str, parts))}")


def arriving(source: Any, epoch: int, seed: int, skip: bool, left_out: Counts) -> Iterator[tuple[int, Any]]:
    """The samples of one pass with their numbers, each drawn with its own seed.

    Args:
        source: what is read forward. epoch, seed: what chance in a sample depends on, besides its number.
        skip: whether a sample that cannot be read is left out and counted.
        left_out: where it is counted.

    Raises:
        DataError: a sample cannot be read, and is not to be skipped or cannot be: what fails in a generator ends it.
    """
    sow(item_key(seed, epoch, 0))
    passing = opened(source, epoch)
    failed: DataError | None = None
    row = 0
    for number in count():
        sow(item_key(seed, epoch, number))
        try:
            item = next(passing, _END)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            failed = DataError(f"Sample {number} of epoch {epoch} of {title_of(source)} cannot be read: {told}")
            failed.__cause__ = error
            row += 1
            if not skip or row == _IN_A_ROW:
                raise failed from error
            tally(left_out, UNREADABLE)
            continue
        if item is _END:
            if failed is not None:
                raise DataError(
                    f"{failed} The stream ended with it, so the rest cannot be read: a generator that fails is over. "
                    "Catch the error in the generator, or decode in mapped(stream, function)."
                ) from failed
            return
        failed, row = None, 0
        yield number, item


class Sieve:
    """The filters of one epoch, for samples that come one by one.

    Args:
        filters: in their order. epoch, seed: what chance is drawn from.
        start: the progress at the start of the epoch.
        left_out: where what they leave out is counted.
    """

    __slots__ = ("_chance", "_epoch", "_filters", "_left_out", "_seed", "_start")

    def __init__(self, filters: tuple[Filter, ...], epoch: int, seed: int, start: Progress, left_out: Counts) -> None:
        self._filters: list[tuple[str, int, Filter]] = []
        for place, each in enumerate(filters):
            name = f"samples by {each!r}"
            while any(name == other for other, _, _ in self._filters):
                name += " again"
            self._filters += [(name, place + later, one) for later, one in enumerate(_acting(each, epoch, start))]
        self._chance = {place: generator(seed, FILTER, epoch, place) for _, place, _ in self._filters}
        self._epoch, self._seed, self._start, self._left_out = epoch, seed, start, left_out

    def keeps(self, number: int, lengths: Mapping[str, int]) -> bool:
        """Whether a sample stays; one that does not is counted."""
        for name, place, each in self._filters:
            if not self._stays(each, place, number, lengths):
                tally(self._left_out, name)
                return False
        return True

    def _stays(self, each: Filter, place: int, number: int, lengths: Mapping[str, int]) -> bool:
        if isinstance(each, Dropped):  # one number after another, as a plan of all samples draws them at once
            return bool(self._chance[place].random() >= share_of(value_of(each.probability, self._start, each), each))
        known = lengths_of_one(lengths) if lengths else None
        asked = Candidates(np.array([number]), known, self._start, self._epoch, self._seed, place)
        return bool(each.mask(asked)[0])


def _acting(each: Filter, epoch: int, start: Progress) -> list[Filter]:
    """What a filter is in this epoch."""
    if isinstance(each, During):
        return _acting(each.inner, epoch, start) if epoch in each.epochs else []
    if isinstance(each, Scheduled):
        return [one for inner in keep(each.schedule.at(start)) for one in _acting(inner, epoch, start)]
    if not one_by_one(each):
        raise DataError(f"keep={each!r} in epoch {epoch} compares all samples, and these come one by one. {ONE_BY_ONE}")
    return [each]


def one_by_one(each: Filter) -> bool:
    """Whether a filter needs to see nothing but the sample itself, as far as that is known before the run."""
    if isinstance(each, During):
        return one_by_one(each.inner)
    return isinstance(each, Between | Chosen | Dropped | Scheduled)


def lengths_of_one(lengths: Mapping[str, int]) -> Lengths:
    """Those of one sample as arrays of shape (1,)."""
    return Lengths({name: np.array([length]) for name, length in lengths.items()})


class Cutter:
    """Chunks of samples that come one by one.

    Args:
        rule: how samples are cut; None: they come whole.
        epoch, seed: what chance is drawn from.
        left_out, lost: where it is counted what is in no chunk: units by the reason, frames by the stream.
    """

    __slots__ = ("_epoch", "_left_out", "_lost", "_rule", "_seed")

    def __init__(self, rule: Chunk | None, epoch: int, seed: int, left_out: Counts, lost: Counts) -> None:
        self._rule, self._epoch, self._seed, self._left_out, self._lost = rule, epoch, seed, left_out, lost

    def units(self, number: int, item: Any, lengths: Mapping[str, int]) -> Iterator[Unit]:
        """The units of a sample."""
        if self._rule is None:
            yield Unit(number, item, lengths, {})
            return
        own = lengths_of_one(lengths)
        made = cut_chunks(self._rule, own, self._epoch, self._seed, np.array([number]), number)
        tally(self._left_out, "samples of which no chunk is left", made.dropped)
        tally(self._left_out, f"chunks shorter than {self._rule!r} takes", made.short)
        tally(self._left_out, "chunks without labels", made.unlabelled)
        for name, frames in made.lost.items():
            tally(self._lost, name, frames)
        windows = {name: (starts.tolist(), stops.tolist()) for name, (starts, stops) in made.windows.items()}
        sizes = {name: made.lengths[name].tolist() for name in made.lengths.names}
        for at in range(len(made)):
            inside = {name: (starts[at], stops[at]) for name, (starts, stops) in windows.items()}
            yield Unit(number, item, {name: own[at] for name, own in sizes.items()}, inside)
