"""Sequences in memory: those of all samples in one array, one after another, and where each begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.arrays import arrays_of
from etude.data.batch import outline
from etude.data.laying import offsets, packed, padded
from etude.data.plan.lengths import Whole
from etude.data.sequences import beyond, sequence, unlike
from etude.errors import DataError, nearest

Bounds = tuple[Whole, Whole]
"""Where pieces start and stop: int64, shape (pieces,) each."""


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """One stream of every sample: sample i is `flat[starts[i] : starts[i + 1]]`.

    Attributes:
        flat: shape (frames of all samples, ...). It may lie in a file that is mapped into memory: only the frames
            that are asked for are read.
        starts: int64, shape (samples + 1,), never falling.
        dtype: of what is given out. Default: that of `flat`.

    Raises:
        DataError: starts that fall, or that lie outside `flat`.
    """

    flat: Tensor = field(repr=False)
    starts: Whole = field(repr=False)
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        starts, frames = self.starts, len(self.flat)
        if starts.ndim != 1 or starts.dtype != np.int64 or len(starts) < 2:
            raise DataError(
                f"starts are {starts.dtype} of shape {starts.shape}. Give int64 of shape (samples + 1,): where each "
                "sample begins, and where the last one ends."
            )
        falls = np.flatnonzero(starts[1:] < starts[:-1])
        if len(falls):
            at = int(falls[0])
            raise DataError(
                f"Sample {at} begins at frame {starts[at]} and ends at {starts[at + 1]}: starts must never fall."
            )
        if starts[0] < 0 or starts[-1] > frames:
            raise DataError(
                f"The samples lie in frames {starts[0]} to {starts[-1]}, and there are {frames}. "
                "Give starts between 0 and the number of frames."
            )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, sample: int) -> Tensor:
        """One sequence, shape (length, ...); it shares the memory of `flat` where its type stays."""
        place = range(len(self))[sample]
        return self.flat[int(self.starts[place]) : int(self.starts[place + 1])].to(self.kind)

    @property
    def lengths(self) -> Whole:
        """Frames of every sample: int64, shape (samples,)."""
        return self.starts[1:] - self.starts[:-1]

    @property
    def kind(self) -> torch.dtype:
        """The type of what is given out."""
        return self.dtype or self.flat.dtype

    def cast(self, dtype: torch.dtype | None) -> Ragged:
        """The same sequences, floats given out as `dtype`; nothing is converted before it is asked for."""
        return replace(self, dtype=dtype) if dtype and self.flat.is_floating_point() else self

    def bounds(self, samples: Whole, window: Bounds | None = None, name: str = "the data") -> Bounds:
        """Where the sequences of some samples, or a window of each, lie in `flat`; `name` is for messages.

        Raises:
            DataError: a window that reaches beyond its sample.
        """
        begin, end = self.starts[samples], self.starts[samples + 1]
        if window is None:
            return begin, end
        starts, stops = begin + window[0], begin + window[1]
        if (starts < begin).any() or (stops > end).any() or (stops < starts).any():
            at = np.flatnonzero((starts < begin) | (stops > end) | (stops < starts))[0]
            raise beyond(name, samples[at], window[0][at], window[1][at], end[at] - begin[at])
        return starts, stops

    def padded(self, bounds: Bounds, value: float = 0, to: int | None = None, rows: int | None = None) -> Tensor:
        """What lies between `bounds` as the rows of one array; the arguments are those of `laying.padded`."""
        return padded(*self._typed(bounds), value, to, rows)

    def packed(self, bounds: Bounds, to: int | None = None, value: float = 0) -> Tensor:
        """What lies between `bounds`, one after another; the arguments are those of `laying.packed`."""
        return packed(*self._typed(bounds), to, value)

    def _typed(self, bounds: Bounds) -> tuple[Tensor, Whole, Whole]:
        """An array of the type that is given out, and where in it the pieces lie that lie between `bounds`."""
        if self.kind == self.flat.dtype:
            return self.flat, *bounds
        starts = offsets(bounds[1] - bounds[0]).astype(np.int64)
        return packed(self.flat, *bounds).to(self.kind), starts[:-1], starts[1:]


def columns(
    data: Any, *, names: Sequence[str] = (), streams: Iterable[str] = (), dtype: torch.dtype | None = None
) -> dict[str, Tensor | Ragged]:
    """Samples turned into one column for each of their parts.

    Args:
        data: a list of samples (dicts, tuples, or of one part only: tensors, arrays, lists of numbers, numbers), or
            a dict of columns (each a list of such parts, an array with samples along the first dimension, or a
            `Ragged`).
        names: of the parts of tuples and of single parts. Default: their places as text.
        streams: columns to be `Ragged` even if all samples have one length; what has several lengths always is.
        dtype: of every floating array. Default: float64 of numpy and floats of Python become float32, tensors
            keep theirs.

    Returns:
        A tensor with samples along the first dimension, or a `Ragged`, for each part.

    Raises:
        DataError: no samples, samples of different parts, types or shapes of frames, or parts that are no numbers.
    """
    named = _parts(data, names)
    wanted = list(streams)
    for name in wanted:
        if name not in named:
            known = ", ".join(map(repr, named))
            raise DataError(f"There is no stream {name!r}: a sample has {known}.{nearest(name, named)}")
    made = {name: _column(name, values, name in wanted, dtype) for name, values in named.items()}
    if len({len(column) for column in made.values()}) > 1:
        told = ", ".join(f"{name!r} has {len(column)}" for name, column in made.items())
        raise DataError(f"The columns have different numbers of samples: {told}. Give every sample each part.")
    return made


def _parts(data: Any, names: Sequence[str]) -> dict[str, Any]:
    """The values of every part of the samples, by name."""
    if not len(data):
        raise DataError(f"The data are empty: a {type(data).__name__} with nothing in it. Give at least one sample.")
    if isinstance(data, Mapping):
        return {str(name): values for name, values in data.items()}
    if not isinstance(data, list) or not isinstance(data[0], Mapping | tuple):
        return dict(zip(_named(names, 1), [data], strict=True))
    first = data[0]
    keys: Sequence[Any] = list(first) if isinstance(first, Mapping) else range(len(first))
    for number, sample in enumerate(data):
        alike = isinstance(sample, type(first)) and len(sample) == len(keys)
        if not alike or (isinstance(first, Mapping) and sample.keys() != first.keys()):
            raise DataError(
                f"The samples differ: sample 0 is {outline(first)}, sample {number} is {outline(sample)}. "
                "Give all samples the same parts."
            )
    labels = [str(key) for key in keys] if isinstance(first, Mapping) else _named(names, len(keys))
    return {label: [sample[key] for sample in data] for label, key in zip(labels, keys, strict=True)}


def _named(names: Sequence[str], count: int) -> list[str]:
    if names and len(names) != count:
        raise DataError(f"names={list(names)!r}: {len(names)} names, and a sample has {count} parts. Name each part.")
    return list(names) or [str(place) for place in range(count)]


def _column(name: str, values: Any, stream: bool, dtype: torch.dtype | None) -> Tensor | Ragged:
    if isinstance(values, Ragged):
        return values.cast(dtype)
    if isinstance(values, np.ndarray) and values.dtype == object:
        values = list(values)
    if isinstance(values, list) and values and isinstance(values[0], list | Tensor | np.ndarray):
        values = values if _single(values[0]) else [sequence(name, at, value) for at, value in enumerate(values)]
        if not _single(values[0]) and (stream or len({piece.shape for piece in values}) > 1):
            return _strung(name, values, dtype)
    whole = arrays_of({name: values}, dtype).arrays[0]
    if not stream:
        return whole
    if whole.dim() < 2:
        raise DataError(f"{name!r} holds one number for each sample, which has no length. Leave it out of the streams.")
    return Ragged(whole.flatten(0, 1), np.arange(len(whole) + 1) * whole.shape[1])


def _single(value: Any) -> bool:
    """Whether a value is a single number in a tensor or an array."""
    return not isinstance(value, list) and value.ndim == 0


def _strung(name: str, given: list[Any], dtype: torch.dtype | None) -> Ragged:
    """Sequences, one after another; what is empty fits any other."""
    full = [at for at, piece in enumerate(given) if len(piece)] or [0]
    first = given[full[0]]
    kind = (type(first), first.dtype, first.shape[1:])
    for at in full:
        if (type(given[at]), given[at].dtype, given[at].shape[1:]) != kind:
            raise unlike(name, full[0], first, at, given[at])
    chosen = [given[at] for at in full]
    flat = torch.cat(chosen) if isinstance(first, Tensor) else np.concatenate(chosen)
    whole = arrays_of({name: flat}, dtype).arrays[0] if len(flat) else _no_frames(name, flat, dtype)
    lengths = np.fromiter(map(len, given), np.int64, len(given))
    return Ragged(whole, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))


def _no_frames(name: str, flat: Any, dtype: torch.dtype | None) -> Tensor:
    """What `arrays_of` would make of an array without rows."""
    shape = (1, *flat.shape[1:])
    row = torch.zeros(shape, dtype=flat.dtype) if isinstance(flat, Tensor) else np.zeros(shape, flat.dtype)
    return arrays_of({name: row}, dtype).arrays[0][:0]
