"""Hugging Face datasets with what is known of them: lengths from their lists, ids from a column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np
from torch.utils.data import IterableDataset

from etude.arguments import named
from etude.data.batch import numbers, outline
from etude.data.forms.columns import column, has_lengths, readable
from etude.data.forms.files import Names, renamed
from etude.data.plan.lengths import Whole
from etude.errors import DataError
from etude.needs import need

_PURPOSE: Final = "Reading Hugging Face datasets"
_ROWS: Final = 10_000
"""Rows whose lengths are looked up at once."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Hugging:
    """A Hugging Face dataset; made by `hugging(...)`.

    An item is a dict with a value for every column: lists of numbers are arrays of the type that the dataset has,
    everything else (pictures, sound) is what the dataset gives.

    Attributes:
        data: the dataset. plain: those of its columns that are read as Arrow has them, or None. other: the rest.
        names: the values of an item.
        tags: ids of the samples, or None.
    """

    names: tuple[str, ...]
    tags: list[str] | None = field(repr=False)
    title: str
    data: Any = field(repr=False)
    plain: Any = field(repr=False)
    other: Any = field(repr=False)
    chosen: Mapping[str, str] = field(repr=False)
    listed: tuple[str, ...] = field(repr=False)
    known: dict[str, Whole] = field(default_factory=dict, repr=False)

    @property
    def lengths(self) -> dict[str, Whole]:
        """Of every column of lists the lengths of its rows, int64, from the offsets that Arrow keeps."""
        if self.listed and not self.known:
            self.known.update({self.chosen[name]: _lengths(self.data, name, self.title) for name in self.listed})
        return self.known

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = {} if self.other is None else _row(self.other[int(index)])
        if self.plain is not None:
            table = self.plain[int(index)]
            for name in table.column_names:
                piece = table.column(name).combine_chunks()
                row[name] = column(piece, name, f"row {index} of {self.title}").row(0)
        return {called: row[name] for name, called in self.chosen.items()}


@final
class HuggingStream(IterableDataset[dict[str, Any]]):
    """A Hugging Face stream; made by `hugging(...)`. Its rows are dicts as those of `Hugging`.

    `set_epoch` is passed on: a stream that shuffles does it in another order each epoch.
    """

    def __init__(self, data: Any, names: Names | None) -> None:
        self.data = data
        self.title = f"the stream {type(data).__name__}"
        self._names = names

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins."""
        self.data.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chosen: dict[str, str] = {}
        for given in self.data:
            row = _row(given)
            chosen = chosen or renamed(self._names, row, self.title)
            yield {called: row[name] for name, called in chosen.items()}


@named
def hugging(dataset: Any, names: Names | None = None, *, tags: str | None = None) -> Hugging | HuggingStream:
    """A Hugging Face dataset or stream as a data set that states its lengths.

    A dataset without a format is read from Arrow itself, so that long lists never become lists of Python; one that has
    a format or a transform gives what that gives, and with a transform states no lengths.

    Args:
        dataset: a `datasets.Dataset` or `datasets.IterableDataset`.
        names: columns to read; a dict renames them. Default: all but that of the ids.
        tags: the column that holds the ids; not for streams.

    Raises:
        DataError: something else, a dict of splits, columns that are not there, rows that are missing.
    """
    if isinstance(dataset, Mapping):
        splits = ", ".join(repr(split) for split in dataset)
        first = next(iter(dataset), "train")
        raise DataError(f"These are several datasets: {splits}. Give one of them: hugging(data[{first!r}]).")
    if not hasattr(dataset, "column_names"):
        raise DataError(f"hugging() takes a dataset of Hugging Face, not {outline(dataset)}.")
    if not hasattr(dataset, "__len__"):
        if tags is not None:
            raise DataError(f"tags={tags!r}: a stream knows no ids beforehand. Leave it out, or give a dataset.")
        return HuggingStream(dataset, names)
    return _indexed(dataset, names, tags)


def _indexed(data: Any, names: Names | None, tags: str | None) -> Hugging:
    title = f"the dataset {type(data).__name__}"
    if not len(data):
        raise DataError(f"The data are empty: {title} with 0 rows. Give at least one row.")
    if tags is not None:
        renamed([tags], data.column_names, title)
    kind = data.format["type"]
    there = data.column_names if kind is None else list(data[0])
    chosen = renamed(names, [name for name in there if name != tags], title)
    types = {each.name: each.type for each in data.features.arrow_schema}
    plain = [name for name in chosen if kind is None and readable(types[name])]
    other = [name for name in chosen if name not in plain]
    listed = tuple(name for name in chosen if kind != "custom" and name in types and has_lengths(types[name]))
    return Hugging(
        tuple(chosen.values()),
        None if tags is None else [str(each) for each in data.with_format(None)[tags]],
        title,
        data,
        data.select_columns(plain).with_format("arrow") if plain else None,
        (data if kind is not None else data.select_columns(other)) if other else None,
        chosen,
        listed,
    )


def _lengths(data: Any, name: str, title: str) -> Whole:
    """The lengths of the rows of a column; values are not read."""
    compute = need("pyarrow.compute", _PURPOSE)
    indices = getattr(data, "_indices", None)  # which rows of its table a dataset has that was selected or shuffled
    if indices is not None and data.data.num_rows:
        whole = _whole(compute.list_value_length(data.data.column(name)), name, title)
        rows: Whole = whole[np.asarray(indices.column(0), dtype=np.int64)]
        return rows
    tables = data.select_columns([name]).with_format("arrow").iter(_ROWS)
    return np.concatenate([_whole(compute.list_value_length(table.column(name)), name, title) for table in tables])


def _whole(lengths: Any, name: str, title: str) -> Whole:
    if lengths.null_count:
        raise DataError(
            f"The column {name!r} of {title} lacks {lengths.null_count} of {len(lengths)} lists. Fill them in, or "
            "leave these rows out."
        )
    found: Whole = lengths.to_numpy().astype(np.int64)
    return found


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with lists of numbers as arrays, and texts of numpy as those of Python."""
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if isinstance(value, np.str_):
        return str(value)
    return np.asarray(value) if isinstance(value, list) and numbers(value) else value
