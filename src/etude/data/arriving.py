"""Samples as they arrive: read one after another, each with its own seed, and measured."""

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
from etude.data.sets import title_of
from etude.errors import DataError, nearest

Counts = dict[str, int]
"""What was left out, by the reason."""

Windows = Mapping[str, tuple[int, int]]

UNREADABLE = "samples that cannot be read"
"""The reason under which they are counted."""

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
