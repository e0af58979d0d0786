"""Columns of Arrow as arrays: a row of one is a number, a text, or an array with a length of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from etude.data.plan.lengths import Whole
from etude.data.windows import cut
from etude.errors import DataError
from etude.needs import need

PURPOSE: Final = "Reading Arrow and Parquet files"


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A piece of a column, ready to be read.

    Attributes:
        row: gives the value of a row: a numpy scalar, a text, or an array that is a copy.
        lengths: of the rows, int64, where they are lists; otherwise None.
        window: gives a row from one frame up to another, where that is less work than the whole row.
    """

    row: Callable[[int], Any]
    lengths: Whole | None = None
    window: Callable[[int, int, int], Any] | None = None

    def read(self, row: int, window: tuple[int, int] | None) -> Any:
        """The value of a row, or a window of it."""
        if window is None:
            return self.row(row)
        return cut(self.row(row), window) if self.window is None else self.window(row, *window)


def has_lengths(kind: Any) -> bool:
    """Whether the rows of a column of this type are lists of any length."""
    types = need("pyarrow.types", PURPOSE)
    return bool(types.is_list(kind) or types.is_large_list(kind))


def readable(kind: Any) -> bool:
    """Whether a column of this type can be read."""
    types = need("pyarrow.types", PURPOSE)
    inner = _plain_type(kind)
    if types.is_string(inner) or types.is_large_string(inner):
        return True
    while has_lengths(inner) or types.is_fixed_size_list(inner):
        inner = _plain_type(inner.value_type)
    return bool(types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner))


def check(kind: Any, name: str, place: str) -> None:
    """Raise DataError if a column of this type cannot be read."""
    if not readable(kind):
        raise DataError(
            f"The column {name!r} of {place} holds {kind}, which no tensor can hold. Name the columns to read: "
            "names=[...]."
        )


def _plain_type(kind: Any) -> Any:
    """The type in which values of an extension type or of a dictionary are stored."""
    types = need("pyarrow.types", PURPOSE)
    while hasattr(kind, "storage_type") or types.is_dictionary(kind):
        kind = kind.storage_type if hasattr(kind, "storage_type") else kind.value_type
    return kind


def _plain(array: Any) -> Any:
    """An array without extension types and dictionaries."""
    types = need("pyarrow.types", PURPOSE)
    while hasattr(array.type, "storage_type") or types.is_dictionary(array.type):
        array = array.storage if hasattr(array.type, "storage_type") else array.dictionary_decode()
    return array


def column(array: Any, name: str, place: str) -> Column:
    """A piece of a column (an Arrow array of a type that `check` let pass), without copying it where that can be.

    Args:
        name: of the column. place: of the piece, for messages.

    Raises:
        DataError: a row or a number in a row is missing, or a row is a table whose own rows differ in length.
    """
    array, shape = _plain(array), tuple(getattr(array.type, "shape", ()))
    types = need("pyarrow.types", PURPOSE)
    _check_whole(array, name, place)
    if types.is_string(array.type) or types.is_large_string(array.type):
        return Column(lambda row: array[row].as_py())
    if not has_lengths(array.type):
        fixed = _fixed(array, name, place)
        fixed = fixed.reshape(-1, *shape) if shape else fixed
        return Column(lambda row: fixed[row].copy())
    offsets = array.offsets.to_numpy().astype(np.int64)
    inside = _plain(array.values)
    _check_whole(inside, name, place)
    if has_lengths(inside.type):
        if has_lengths(_plain(inside.values).type):
            return Column(_deep(array, name, place), np.diff(offsets))
        tables = _tables(offsets, inside, name, place)
        return Column(tables, np.diff(offsets), tables)
    flat = _fixed(inside, name, place)

    def frames(row: int, start: int = 0, stop: int | None = None) -> Any:
        return flat[slice(*_bounds(offsets, row, start, stop))].copy()

    return Column(frames, np.diff(offsets), frames)


def _bounds(offsets: Whole, row: int, start: int, stop: int | None) -> tuple[int, int]:
    """Where a window of a row lies among all frames."""
    first, last = offsets[row : row + 2].tolist()
    return first + start, last if stop is None else min(first + stop, last)


def _check_whole(array: Any, name: str, place: str) -> None:
    """Raise DataError if something is missing."""
    if array.null_count:
        several = "s" * (array.null_count > 1)
        row = int(array.is_null().to_numpy(zero_copy_only=False).argmax())
        raise DataError(
            f"The column {name!r} of {place} lacks {array.null_count} value{several}, the first at {row}. "
            "Fill them in, or leave these rows out."
        )


def _fixed(array: Any, name: str, place: str) -> Any:
    """Values of a type of fixed size: numpy, shape (rows, ...)."""
    types = need("pyarrow.types", PURPOSE)
    array = _plain(array)
    _check_whole(array, name, place)
    if types.is_fixed_size_list(array.type):
        inner = _fixed(array.flatten(), name, place)
        return inner.reshape(len(array), array.type.list_size, *inner.shape[1:])
    return array.to_numpy(zero_copy_only=types.is_integer(array.type) or types.is_floating(array.type))


def _tables(offsets: Whole, inside: Any, name: str, place: str) -> Callable[..., Any]:
    """Reads rows that are lists of lists: arrays of two dimensions, or windows of them."""
    inner = inside.offsets.to_numpy().astype(np.int64)
    flat = _fixed(inside.values, name, place)

    def row(number: int, start: int = 0, stop: int | None = None) -> Any:
        first, last = _bounds(offsets, number, start, stop)
        bounds = inner[first : last + 1]
        widths = np.diff(bounds)
        if len(widths) and (widths != widths[0]).any():
            odd = int(np.argmax(widths != widths[0]))
            raise DataError(
                f"Row {number} of the column {name!r} of {place} is a list of lists of different lengths: {widths[0]} "
                f"numbers first, {widths[odd]} at {odd}. Give every frame of a sample the same number."
            )
        if not len(widths):
            width = 0 if stop is None else int(np.diff(inner[offsets[number] : offsets[number + 1] + 1][:2]).sum())
            return flat[:0].reshape(0, width, *flat.shape[1:]).copy()
        return flat[bounds[0] : bounds[-1]].reshape(len(widths), -1, *flat.shape[1:]).copy()

    return row


def _deep(array: Any, name: str, place: str) -> Callable[[int], Any]:
    """Reads rows that are lists of lists of lists, or deeper: by way of lists of Python, which takes its time."""

    def row(number: int) -> Any:
        try:
            return np.array(array[number].as_py())
        except ValueError as error:
            raise DataError(
                f"Row {number} of the column {name!r} of {place} is no array: its lists have different lengths. Give "
                "every frame of a sample the same shape."
            ) from error

    return row
