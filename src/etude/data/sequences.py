"""Sequences of one stream as a data set gave them: looked at, and cut to their windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from etude.data.arrays import arrays_of
from etude.data.batch import numbers, outline
from etude.data.laying import Piece, memory
from etude.data.plan.lengths import Whole
from etude.errors import DataError

Sample = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """The sequences of a batch in one stream.

    Attributes:
        name: of the stream.
        places: which samples they are of: int64, shape (rows,).
        pieces: the memory of each, shape (length, ...), as `laying.memory` shows it.
        kind: the type that they become.
        frame: the shape of a frame, which is that of all.
    """

    name: str
    places: Whole
    pieces: list[Piece]
    kind: torch.dtype
    frame: tuple[int, ...]

    @property
    def lengths(self) -> Whole:
        """Frames of each: int64, shape (rows,)."""
        return np.fromiter(map(len, self.pieces), np.int64, len(self.pieces))

    def compare(self, stated: Whole) -> None:
        """Compare the lengths with those that were stated, shape (rows,).

        Raises:
            DataError: naming the first sample that has another.
        """
        found = self.lengths
        if not np.array_equal(found, stated):
            at = int(np.flatnonzero(found != stated)[0])
            raise DataError(
                f"Sample {self.places[at]} has {found[at]} frames of {self.name!r}, and its length was stated as "
                f"{stated[at]}. Correct the lengths, or what reads them."
            )

    def window(self, starts: Whole, stops: Whole) -> Sequences:
        """A window of each.

        Raises:
            DataError: one that reaches beyond its sample.
        """
        wrong = np.flatnonzero((starts < 0) | (stops < starts) | (stops > self.lengths))
        if len(wrong):
            at = wrong[0]
            raise beyond(self.name, self.places[at], starts[at], stops[at], len(self.pieces[at]))
        bounds = zip(self.pieces, starts.tolist(), stops.tolist(), strict=True)
        cut = [piece[start:stop] for piece, start, stop in bounds]
        return Sequences(self.name, self.places, cut, self.kind, self.frame)


def sequences_of(name: str, samples: Sequence[Sample], places: Whole, dtype: torch.dtype | None = None) -> Sequences:
    """The sequences of one stream.

    Args:
        name: of the stream. samples: what was read. places: their numbers, for messages.
        dtype: of floats of numpy and of Python. Default: float32. Tensors keep theirs.

    Raises:
        DataError: a sample without such a sequence, or sequences of different types or shapes of frames.
    """
    given: list[Any] = [sample.get(name) for sample in samples]
    if set(map(type, given)) not in ({Tensor}, {np.ndarray}):
        given = [sequence(name, int(place), value) for place, value in zip(places, given, strict=True)]
    pieces = [memory(value) if isinstance(value, Tensor) else value for value in given]
    kinds = {(value.dtype, piece.shape[1:], piece.ndim > 0) for value, piece in zip(given, pieces, strict=True)}
    kind, frame, whole = next(iter(kinds))
    if len(kinds) > 1 or not whole or (isinstance(kind, np.dtype) and kind.kind not in "biufc"):
        kind, frame, pieces = _alike(name, given, pieces, places)
    return Sequences(name, places, pieces, kind if isinstance(kind, torch.dtype) else _becomes(kind.str, dtype), frame)


def sequence(name: str, place: int, value: Any) -> Any:
    """One sequence as a tensor or an array.

    Raises:
        DataError: it is neither, nor a list of numbers, or it is a single number.
    """
    if isinstance(value, list) and (not value or numbers(value)):
        try:
            value = np.asarray(value)
        except ValueError:
            value = "a list of lists of different lengths"
    fine = isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biufc")
    if fine and value.ndim:
        return value
    raise DataError(
        f"Sample {place} has {outline(value)} for {name!r}, which is no sequence. Give a tensor, an array or a list "
        "of numbers, with time as the first dimension; for text the numbers of its tokens."
    )


def _alike(name: str, given: list[Any], pieces: list[Piece], places: Whole) -> tuple[Any, tuple[int, ...], list[Piece]]:
    """The type of all sequences, the shape of their frames, and the pieces; what is empty fits any other.

    Raises:
        DataError: naming a sample that differs, or that has no sequence.
    """
    checked = [sequence(name, int(place), value) for place, value in zip(places, given, strict=True)]
    full = [at for at, piece in enumerate(pieces) if len(piece)] or [0]
    first, frame = checked[full[0]], pieces[full[0]].shape[1:]
    for at in full:
        if checked[at].dtype != first.dtype or pieces[at].shape[1:] != frame:
            raise unlike(name, int(places[full[0]]), first, int(places[at]), checked[at])
    return first.dtype, frame, [piece if len(piece) else np.zeros((0, *frame), piece.dtype) for piece in pieces]


def unlike(name: str, place: int, first: Any, other: int, found: Any) -> DataError:
    """Two samples whose sequences do not go together."""
    return DataError(
        f"The sequences of {name!r} cannot be joined: sample {place} is {outline(first)}, sample {other} is "
        f"{outline(found)}. Give all of them one type and frames of one shape, with time as the first dimension."
    )


@lru_cache(64)
def _becomes(numpy_type: str, dtype: torch.dtype | None) -> torch.dtype:
    """The type of a tensor made from such an array."""
    row: npt.NDArray[Any] = np.zeros(1, numpy_type)
    return arrays_of({"row": row}, dtype).arrays[0].dtype


def beyond(name: str, place: int, start: int, stop: int, length: int) -> DataError:
    """A window that reaches beyond its sample."""
    return DataError(
        f"Frames {start} to {stop} of {name!r} were asked for of sample {place}, which has {length}. "
        "Are the lengths those of these data?"
    )
