"""Samples joined to one batch: sequences padded or packed, with their lengths; the rest stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.batch import numbers, outline
from etude.data.items import collate
from etude.data.laying import laid, offsets, strung
from etude.data.plan.lengths import Lengths, Whole
from etude.data.ragged import Ragged
from etude.data.sequences import sequences_of
from etude.data.wanted import Wanted
from etude.errors import DataError, nearest

_IGNORED = -100
"""What torch's losses leave out by default: the integers of rows that only fill up."""


@dataclass(frozen=True, slots=True, eq=False)
class Joining:
    """How samples become a batch.

    A batch is a dict: of each stream `name`, its values, and `name_lengths`, int64, shape (rows,); packed also
    `name_offsets`, int32, shape (rows + 1,), where each sequence begins. Padded values are (rows, longest, ...),
    packed ones (frames of all rows, ...). What is no stream is stacked as torch's `default_collate` does. Rows that
    only fill up have length 0 in every stream; the rest of them is `pad`, or -100 for integers and 0 for floats.

    Attributes:
        streams: the parts of a sample that have a length of their own: its first dimension.
        pad: what fills up: a number for every stream, or one for each part named; the default of the others is 0.
        packed: whether sequences follow one another instead of being padded. Where `Wanted.to` names a stream, the
            frames of all rows are filled up to so many.
        names: of the parts of samples that are tuples or a single part. Default: their places as text.
        stated: the length of every sample in the streams, if it was told beforehand: what is read must agree.
        dtype: of floats of numpy and of Python. Default: float32. Tensors keep theirs.

    Raises:
        DataError: a `pad` that is no number.
    """

    streams: tuple[str, ...]
    pad: Mapping[str, float] | float = 0
    packed: bool = False
    names: tuple[str, ...] = ()
    stated: Lengths | None = field(default=None, repr=False)
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        for value in self.pad.values() if isinstance(self.pad, Mapping) else (self.pad,):
            if not isinstance(value, int | float):
                raise DataError(
                    f"pad={self.pad!r}: {outline(value)} is no number. Write pad=0, or pad={{'labels': -100}}."
                )

    def join(self, items: Sequence[Any], wanted: Wanted) -> Any:
        """A batch of samples that were read one by one.

        Args:
            items: what was read of `wanted.samples`, in that order: dicts, tuples, or arrays alone.

        Returns:
            The dict described above; where there is no stream, what `default_collate` makes of the items.

        Raises:
            DataError: a sample without a stream, of another length than stated or too short for its window, or
                samples of different types or shapes of frames; naming the sample.
        """
        if not self.streams and wanted.rows is None:
            return collate(items, self.dtype)
        samples = [self._parts(item) for item in items]
        self._known(samples[0])
        _same_parts(samples, wanted.samples)
        made = {name: self._sequences(name, samples, wanted) for name in self.streams}
        rest = self._stacked(samples, wanted)
        values: dict[str, Any] = {}
        for name in samples[0]:
            values.update(made[name] if name in made else {name: rest[name]})
        return values

    def gather(self, columns: Mapping[str, Tensor | Ragged], wanted: Wanted) -> dict[str, Any]:
        """The same batch, the same bits, from columns in memory.

        Args:
            columns: of each part of the samples; of streams a `Ragged`.

        Raises:
            DataError: a stream that is not there, or a window that reaches beyond its sample.
        """
        self._known(columns)
        values: dict[str, Any] = {}
        for name, column in columns.items():
            if isinstance(column, Ragged):
                values.update(self._cut(name, column, wanted))
            else:
                chosen = column.index_select(0, torch.from_numpy(wanted.samples).to(column.device))
                values[name] = self._filled(name, chosen, _missing(wanted))
        return values

    def _parts(self, item: Any) -> Mapping[str, Any]:
        """A sample as a dict."""
        if type(item) is dict or isinstance(item, Mapping):
            return item
        parts = item if isinstance(item, tuple) or (isinstance(item, list) and not numbers(item)) else (item,)
        names = self.names or [str(place) for place in range(len(parts))]
        if len(names) != len(parts):
            raise DataError(f"names={list(names)!r}: {len(names)} names, and a sample has {len(parts)} parts.")
        return dict(zip(names, parts, strict=True))

    def _known(self, parts: Mapping[str, Any]) -> None:
        """Refuse streams and pads of parts that are not there, and parts whose names are taken."""
        asked = [(name, "stream") for name in self.streams]
        asked += [(name, "part to pad") for name in self.pad] if isinstance(self.pad, Mapping) else []
        for name, what in asked:
            if name not in parts:
                known = ", ".join(map(repr, parts))
                raise DataError(f"There is no {what} {name!r}: a sample has {known}.{nearest(name, parts)}")
        for name in self.streams:
            for taken in (f"{name}_lengths", f"{name}_offsets"):
                if taken in parts:
                    raise DataError(
                        f"A sample has {taken!r}, which is what the lengths of {name!r} are called in a batch. "
                        "Give that part another name."
                    )

    def _value(self, name: str, dtype: torch.dtype) -> float:
        """What fills up a stream."""
        value = self.pad.get(name, 0) if isinstance(self.pad, Mapping) else self.pad
        return _fitting(name, value, dtype)

    def _sequences(self, name: str, samples: Sequence[Mapping[str, Any]], wanted: Wanted) -> dict[str, Any]:
        """One stream of samples read one by one."""
        given = sequences_of(name, samples, wanted.samples, self.dtype)
        if self.stated is not None and name in self.stated.streams:
            given.compare(self.stated[name][wanted.samples])
        if name in wanted.windows:
            given = given.window(*wanted.windows[name])
        lengths = given.lengths
        value, to = self._value(name, given.kind), _to(name, lengths, wanted, self.packed)
        shape = (to, *given.frame) if self.packed else (_rows(wanted), to, *given.frame)
        lay = strung if self.packed else laid
        return self._with_lengths(name, lay(given.pieces, given.kind, shape, value), lengths, wanted)

    def _cut(self, name: str, column: Ragged, wanted: Wanted) -> dict[str, Any]:
        """One stream of samples in memory."""
        if name not in self.streams:
            raise DataError(
                f"The samples of {name!r} have different lengths, and it is no stream. "
                f"Write {_all_of(self.streams, name)}."
            )
        bounds = column.bounds(wanted.samples, wanted.windows.get(name), name)
        lengths = bounds[1] - bounds[0]
        value, to = self._value(name, column.kind), _to(name, lengths, wanted, self.packed)
        if self.packed:
            out = column.packed(bounds, to if name in wanted.to else None, value)
        else:
            out = column.padded(bounds, value, to, _rows(wanted))
        return self._with_lengths(name, out, lengths, wanted)

    def _with_lengths(self, name: str, values: Tensor, lengths: Whole, wanted: Wanted) -> dict[str, Any]:
        missing = _missing(wanted)
        told = np.concatenate([lengths, np.zeros(missing, np.int64)]) if missing else lengths
        made = {name: values, f"{name}_lengths": torch.from_numpy(told)}
        if self.packed:
            made[f"{name}_offsets"] = torch.from_numpy(offsets(told))
        return made

    def _stacked(self, samples: Sequence[Mapping[str, Any]], wanted: Wanted) -> dict[str, Any]:
        """What is no stream."""
        names = [name for name in samples[0] if name not in self.streams]
        made = {name: self._collated(name, [sample[name] for sample in samples]) for name in names}
        return {name: self._filled(name, value, _missing(wanted)) for name, value in made.items()}

    def _collated(self, name: str, values: list[Any]) -> Any:
        try:
            return collate(values, self.dtype)
        except DataError as error:
            raise DataError(
                f"{error} These are of {name!r}: if it has a length of its own, say so: {_all_of(self.streams, name)}."
            ) from error

    def _filled(self, name: str, value: Any, missing: int) -> Any:
        """Stacked values with rows added that only fill up."""
        if not missing:
            return value
        if isinstance(value, Tensor):
            number = self.pad.get(name) if isinstance(self.pad, Mapping) else None
            empty = _empty(value.dtype) if number is None else _fitting(name, number, value.dtype)
            return torch.cat([value, value.new_full((missing, *value.shape[1:]), empty)])
        if isinstance(value, Mapping):
            return {key: self._filled(name, inner, missing) for key, inner in value.items()}
        if value and isinstance(value[0], str | bytes):
            return [*value, *[type(value[0])()] * missing]
        return tuple(self._filled(name, inner, missing) for inner in value)


def _all_of(streams: Sequence[str], name: str) -> str:
    """How one more stream is asked for."""
    return f"lengths={[*streams, name]!r}"


def _same_parts(samples: Sequence[Mapping[str, Any]], places: Whole) -> None:
    first = samples[0].keys()
    for place, sample in zip(places, samples, strict=True):
        if sample.keys() != first:
            raise DataError(
                f"The samples differ: sample {places[0]} has {', '.join(map(repr, first))}, sample {place} has "
                f"{', '.join(map(repr, sample))}. Give all samples the same parts."
            )


def _rows(wanted: Wanted) -> int:
    return len(wanted.samples) if wanted.rows is None else wanted.rows


def _missing(wanted: Wanted) -> int:
    """Rows that only fill up."""
    return _rows(wanted) - len(wanted.samples)


def _to(name: str, lengths: Whole, wanted: Wanted, packed: bool) -> int:
    """Frames of a row (packed: of all rows)."""
    least = int(lengths.sum() if packed else lengths.max(initial=0))
    to = wanted.to.get(name, least)
    if to < least:
        what = "The sequences of a batch have" if packed else "A sequence of the batch has"
        raise DataError(f"{what} {least} frames of {name!r}, and they were to be filled up to {to}.")
    return to


def _empty(dtype: torch.dtype) -> int:
    """What rows that only fill up hold: what losses leave out, where the type can hold it."""
    return _IGNORED if not dtype.is_floating_point and not dtype.is_complex and dtype.is_signed else 0


@lru_cache(256)
def _fitting(name: str, value: float, dtype: torch.dtype) -> float:
    """A number that fills up, as the type can hold it.

    Raises:
        DataError: it cannot.
    """
    if dtype.is_complex or (dtype.is_floating_point and not isfinite(value)):
        return value
    low, high = (0, 1) if dtype == torch.bool else _range(dtype)
    whole = dtype.is_floating_point or (isfinite(value) and value == int(value))
    if not whole or not low <= value <= high:
        kind = str(dtype).removeprefix("torch.")
        raise DataError(
            f"pad={value!r} was asked for {name!r}, which holds {kind}. Write "
            f"{'a' if dtype.is_floating_point else 'a whole'} number from {low} to {high}, or pad={{{name!r}: ...}}."
        )
    return value if dtype.is_floating_point else int(value)


def _range(dtype: torch.dtype) -> tuple[float, float]:
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    return limits.min, limits.max
