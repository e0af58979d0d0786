"""Data sets as they are given: samples by number, and what they tell about themselves."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index as whole_number
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from etude.data.batch import outline
from etude.data.items import row
from etude.data.plan.lengths import Lengths, Whole, lengths_of
from etude.errors import DataError

_SETS = (
    "Give a data set with a length and items, a list of samples, a tensor or array, a tuple or dict of them, or what "
    "is read forward: an IterableDataset, a Hugging Face stream, a function that yields samples."
)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Arrays of one length as samples: `rows[i]` has row i of each, as a dict or a tuple.

    Attributes:
        columns: by name, or by position as text.
        keyed: whether samples are dicts.
        title: for messages.
    """

    columns: Mapping[str, Any] = field(repr=False)
    keyed: bool
    title: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, number: int) -> Any:
        at = place(number, len(self))
        if self.keyed:
            return {name: column[at] for name, column in self.columns.items()}
        return tuple(column[at] for column in self.columns.values())


@dataclass(frozen=True, slots=True, eq=False)
class _HuggingRows:
    """A Hugging Face dataset whose samples have arrays where it has lists of numbers."""

    data: Any
    title: str

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> Any:
        return row(self.data[place(number, len(self.data))])


def forward_only(data: Any) -> bool:
    """Whether samples can only be read one after another."""
    if isinstance(data, IterableDataset):
        return True
    return not (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def samples(data: Any, call: str) -> Any:
    """Data as something with a length and samples by number.

    Args:
        data: a data set, a list of samples, an array, a tuple or dict of arrays, a Hugging Face dataset.
        call: what it was given to, for messages.

    Raises:
        DataError: it is none of these, or has no samples.
    """
    if isinstance(data, str | bytes | type | nn.Module) or forward_only(data):
        raise DataError(f"{call}: {outline(data)} has no samples that can be read by number. {_SETS}")
    made = _made(data, call)
    if not len(made):
        raise DataError(f"{call}: {title_of(data)} is empty. Give at least one sample.")
    return made


def _made(data: Any, call: str) -> Any:
    if isinstance(data, Mapping):
        return _rows({str(name): column for name, column in data.items()}, True, call)
    if isinstance(data, tuple):
        return _rows({str(number): column for number, column in enumerate(data)}, False, call)
    return _HuggingRows(data, title_of(data)) if hasattr(data, "column_names") else data


def _rows(columns: Mapping[str, Any], keyed: bool, call: str) -> Rows:
    title = "dict" if keyed else "tuple"
    for name, column in columns.items():
        if isinstance(column, str) or not (hasattr(column, "__getitem__") and hasattr(column, "__len__")):
            raise DataError(f"{call}: the {title} holds {outline(column)} under {name!r}, which is no array.")
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{name!r} has {count}" for name, count in counts.items()) or "it is empty"
        raise DataError(f"{call}: the arrays of the {title} differ in length: {told}. Give every sample a row in each.")
    return Rows(columns, keyed, title)


def place(number: Any, count: int) -> int:
    """The number of a sample, counted from the front.

    Raises:
        IndexError: there is no such sample; it ends a loop over samples.
    """
    at = whole_number(number)
    if not -count <= at < count:
        raise IndexError(f"There is no sample {at}: there are {count}, from 0 on.")
    return at if at >= 0 else at + count


def title_of(data: Any) -> str:
    """What to call data in messages."""
    told = getattr(data, "title", None) or getattr(data, "__name__", None)
    return told if isinstance(told, str) else type(data).__name__


def known_lengths(data: Any) -> Lengths | None:
    """The lengths that a data set tells, of each stream; None where it tells none.

    Raises:
        DataError: they are not whole numbers, one for every sample.
    """
    if isinstance(data, Rows):
        return _of_columns(data)
    told = getattr(data, "lengths", None)
    if told is None or callable(told):
        return None
    if isinstance(told, Lengths):
        told = told.streams
    if not isinstance(told, Mapping):
        told = {"0": told}
    return lengths_of(told, len(data)) if told else None


def lengths_told(data: Any, call: str) -> Lengths:
    """The lengths that a data set tells, where they are needed.

    Raises:
        DataError: it tells none.
    """
    told = known_lengths(data)
    if told is None:
        raise DataError(f"{call}: {title_of(data)} tells no lengths. Leave lengths out, or give data that tell them.")
    return told


def _of_columns(data: Rows) -> Lengths | None:
    told = {name: known_lengths(column) for name, column in data.columns.items() if not isinstance(column, Tensor)}
    found = {name: lengths.lead for name, lengths in told.items() if lengths is not None}
    return Lengths(found) if found else None


def known_tags(data: Any) -> Sequence[Hashable] | None:
    """The ids that a data set tells, one for every sample; None where it tells none.

    Raises:
        DataError: not one for every sample.
    """
    tags = getattr(data, "tags", None)
    if tags is None or callable(tags):
        return None
    if len(tags) != len(data):
        raise DataError(f"{title_of(data)} tells {len(tags)} ids for {len(data)} samples. Tell one for every sample.")
    return list_of(tags)


def list_of(values: Any) -> list[Any]:
    """Values as a list of what Python can compare: arrays and tensors become numbers and text."""
    return values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)


def taken(values: Sequence[Any] | None, places: Whole) -> list[Any] | None:
    """The values at some places; None stays None."""
    return None if values is None else list(map(values.__getitem__, places.tolist()))


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called, for messages and counts."""
    name = getattr(function, "__name__", type(function).__name__)
    return "function" if name == "<lambda>" else name


def kind_of(sample: Any) -> Any:
    """What samples of one stock have in common: the names of a dict, the number of parts of a tuple."""
    if isinstance(sample, Mapping):
        return frozenset(sample)
    return len(sample) if isinstance(sample, tuple) else None
