"""How long everything is, known before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from etude.errors import DataError

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Of every unit (a sample, or a chunk of one) its length in each stream.

    Attributes:
        streams: int64, shape (units,), by the name of the stream; the first is the leading one.
    """

    streams: Mapping[str, Whole] = field(repr=False)

    def __len__(self) -> int:
        return len(self.lead)

    @property
    def names(self) -> tuple[str, ...]:
        """The streams, the leading one first."""
        return tuple(self.streams)

    @property
    def lead(self) -> Whole:
        """Lengths in the leading stream."""
        return next(iter(self.streams.values()))

    def __getitem__(self, name: str) -> Whole:
        return self.streams[name]

    def take(self, units: Whole | npt.NDArray[np.bool_]) -> Lengths:
        """Those of some units, in their order."""
        return Lengths({name: lengths[units] for name, lengths in self.streams.items()})


def lengths_of(given: Mapping[str, Any], units: int | None = None) -> Lengths:
    """Lengths from whatever holds a whole number for every sample.

    Args:
        given: an array, tensor or list for each stream.
        units: how many samples there are.

    Raises:
        DataError: no stream, numbers that are not whole or negative, or not as many as there are samples.
    """
    if not given:
        raise DataError("lengths={}: no stream. Write lengths={'audio': array} with a length for every sample.")
    made = {str(name): _whole(str(name), lengths) for name, lengths in given.items()}
    first = next(iter(made))
    expected, what = (units, "samples") if units is not None else (len(made[first]), f"lengths in {first!r}")
    for name, lengths in made.items():
        if len(lengths) != expected:
            raise DataError(
                f"The stream {name!r} has {len(lengths)} lengths, and there are {expected} {what}. "
                "Give a length for every sample."
            )
    return Lengths(made)


def _whole(name: str, given: Any) -> Whole:
    array = np.asarray(given)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise DataError(
            f"The lengths of the stream {name!r} are {array.dtype} of shape {array.shape}. "
            "Give one whole number for every sample."
        )
    wrong = np.flatnonzero((array < 0) | (array != np.floor(array)) if array.dtype.kind == "f" else array < 0)
    if len(wrong):
        raise DataError(
            f"The stream {name!r} has length {array[wrong[0]]} for sample {wrong[0]}"
            f"{f' (and {len(wrong) - 1} more such)' if len(wrong) > 1 else ''}. A length is a whole number from 0 on."
        )
    return array.astype(np.int64)
