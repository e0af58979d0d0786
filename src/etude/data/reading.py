"""Reads the samples of one batch, here or in a worker process, and joins them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.batch import each
from etude.data.items import LOST, Reader
from etude.data.joining import Joining
from etude.data.plan.lengths import Lengths, Whole
from etude.data.wanted import Wanted
from etude.data.windows import reads_windows
from etude.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """One batch as it was read.

    Attributes:
        values: None where none of the samples of the whole batch could be read.
        samples: positions of those that it holds, int64. lost: of those that could not be read.
    """

    values: Any
    samples: Tensor
    lost: tuple[int, ...] = ()


@dataclass(slots=True)
class SampleReader:
    """Reads batches of samples by number.

    Where windows of samples are wanted and the data set can read these alone (see `etude.data.windows`), nothing else
    is read. What is read is compared with the lengths that were stated, as far as it tells them.

    Attributes:
        reader: reads samples. joining: makes batches of them; or collate does, if it is given.
    """

    reader: Reader
    joining: Joining
    collate: Callable[[list[Any]], Any] | None
    _cuts: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._cuts = self.collate is None and reads_windows(self.reader.data)

    def __getitem__(self, wanted: Wanted) -> Read:
        asked, items = wanted, self._items(wanted)
        stay = [place for place, item in enumerate(items) if item is not LOST]
        gone = [place for place, item in enumerate(items) if item is LOST]
        lost = tuple(wanted.samples[gone].tolist())
        if not stay:
            return Read(self._nothing(wanted), torch.from_numpy(wanted.samples[:0]), lost)
        if gone:
            asked, items = asked.only(np.array(stay)), [items[place] for place in stay]
        return Read(self._joined(items, asked), torch.from_numpy(asked.samples), lost)

    def _nothing(self, wanted: Wanted) -> Any:
        """The batch of no sample, in the form of one that has some; None where none can be read."""
        for number in [] if wanted.shared is None else wanted.shared.tolist():
            asked = _example(wanted, number)
            items = self._items(asked)
            if items[0] is not LOST:
                return emptied(self._joined(items, asked))
        return None

    def _items(self, wanted: Wanted) -> list[Any]:
        numbers = wanted.samples.tolist()
        if not self._cuts or not wanted.windows:
            return self.reader.items(wanted.epoch, numbers)
        pairs = [_pairs(*window) for window in wanted.windows.values()]
        windows = [dict(zip(wanted.windows, row, strict=True)) for row in zip(*pairs, strict=True)]
        return self.reader.items(wanted.epoch, numbers, windows)

    def _joined(self, items: list[Any], wanted: Wanted) -> Any:
        if self.collate is None:
            cut = self._cuts and wanted.windows
            return self._joined_parts(items, wanted) if cut else self.joining.join(items, wanted)
        return collated(self.collate, items, wanted.samples)

    def _joined_parts(self, items: list[Any], wanted: Wanted) -> Any:
        """A batch of samples that were cut when they were read.

        Raises:
            DataError: what whole samples raise, if something is wrong with them, or one of other frames than wanted.
        """
        try:
            values = _without(self.joining, wanted.windows).join(items, replace(wanted, windows={}))
            wrong = _other_frames(values, wanted)
        except DataError as error:
            wrong = str(error)
        if not wrong:
            return values
        whole = self.reader.items(wanted.epoch, wanted.samples.tolist())
        if not any(item is LOST for item in whole):
            self.joining.join(whole, wanted)  # says what is wrong with the samples, if it is they
        raise DataError(
            f"part() of the data set {self.reader.title} does not give what its items have: {wrong} Let it cut the "
            "streams named in windows, each from its start to its stop, and leave the others whole."
        )


def _pairs(starts: Whole, stops: Whole) -> list[tuple[int, int]]:
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _without(joining: Joining, windows: Mapping[str, Any]) -> Joining:
    """The same, but that streams which were cut when they were read do not have their stated lengths."""
    if joining.stated is None:
        return joining
    left = {name: lengths for name, lengths in joining.stated.streams.items() if name not in windows}
    return replace(joining, stated=Lengths(left) if left else None)


def _other_frames(values: Mapping[str, Any], wanted: Wanted) -> str:
    """What is said of the first sample whose window is not as long as was wanted; nothing if there is none."""
    for name, (starts, stops) in wanted.windows.items():
        found = values[f"{name}_lengths"].numpy()[: len(starts)]
        if not np.array_equal(found, stops - starts):
            at = int(np.flatnonzero(found != stops - starts)[0])
            return (
                f"{found[at]} frames of {name!r} came for those from {starts[at]} to {stops[at]} of sample "
                f"{wanted.samples[at]}."
            )
    return ""


def _example(wanted: Wanted, number: int) -> Wanted:
    """One sample, whose parts say what a batch without samples looks like; what is cut is not read for it."""
    none = np.zeros(1, np.int64)
    return Wanted(wanted.epoch, np.array([number]), dict.fromkeys(wanted.windows, (none, none)), wanted.to)


def collated(collate: Callable[[list[Any]], Any], items: list[Any], samples: Whole) -> Any:
    """The batch that a user's function makes of samples.

    Raises:
        DataError: it fails; the message names the samples, the cause is chained.
    """
    try:
        return collate(items)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        shown = ", ".join(map(str, samples[:5].tolist())) + ", ..." * (len(samples) > 5)
        raise DataError(f"collate failed on samples {shown}: {told}") from error


def emptied(values: Any) -> Any:
    """The batch of no sample, in the form of one that has some."""
    empty = each(values, _none_of)
    if isinstance(values, Mapping):
        starts = [name for name in values if name.endswith("_offsets") and name.removesuffix("_offsets") in values]
        empty |= {name: values[name][:1] for name in starts}
    return empty


def _none_of(value: Any) -> Any:
    """No row of an array that has some."""
    return value[:0] if isinstance(value, Tensor | list) else value
