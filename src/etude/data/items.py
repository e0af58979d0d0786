"""Data sets whose items are read by number, each item with its own seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from etude.data.batch import each, leaves, numbers, outline
from etude.data.chance import item_key, sow, undisturbed
from etude.data.form import Source
from etude.data.wanted import Windows
from etude.errors import DataError

Request = tuple[int, list[int]]
"""An epoch and the numbers of the items wanted for one batch of it."""

Asked = tuple[int, Windows | None]

LOST: Any = object()
"""An item that cannot be read, where that is no error."""


@dataclass(frozen=True, slots=True, eq=False)
class Items(Source):
    """A data set with a length. For the attributes that are not here see `Source`.

    Attributes:
        data: the data set.
        rows: whether lists of numbers in an item are arrays, as in Hugging Face datasets.
        dtype: what floats become; None: float64 of numpy and floats of Python become float32, tensors keep theirs.
        indices: the items that belong to this source, int64, or None for all.
    """

    title: str
    names: tuple[str, ...]
    data: Any = field(repr=False)
    rows: bool
    length: int
    converted: list[str]
    dtype: torch.dtype | None = None
    indices: Tensor | None = None
    batches: None = field(default=None, init=False)
    random_access: bool = field(default=True, init=False)
    batched: bool = field(default=False, init=False)
    by_item: bool = field(default=True, init=False)

    def cast(self, dtype: torch.dtype) -> Items:
        made = items_of(self.data, self.rows, dtype)
        return replace(made, indices=self.indices, length=self.length)


def items_of(data: Any, rows: bool, dtype: torch.dtype | None = None) -> Items:
    """A source from a data set with a length, whose first item is read to see what is in it.

    Raises:
        DataError: no length, no items, or a first item that cannot be read or made into a batch.
    """
    title = type(data).__name__
    if not hasattr(data, "__len__"):
        raise DataError(f"The data set {title} has no length. Give it __len__, or make it an IterableDataset.")
    length = len(data)
    if not length:
        raise DataError(f"The data are empty: {title} with 0 items. Give at least one item.")
    reader = Reader(data, title, 0, rows, dtype)
    with undisturbed():
        first = reader.seeded(0, 0)
    batch = collate([first], dtype)
    names = tuple(name for name, _ in leaves(first))
    return Items(title, names, data, rows, length, conversions(first, batch), dtype)


@dataclass(slots=True)
class Reader:
    """Reads batches of items, here or in a worker, with the same bits.

    What an item draws from the generators of torch (CPU), numpy and Python is decided by (seed, epoch, number of the
    item); the process's own numbers are not touched. Seeding takes longer than reading a simple item, so a batch is
    first read without: if no generator moved, its items are what they would have been. Otherwise it is read again,
    with seeds, and so is all that follows.

    Attributes:
        skips: whether an item that cannot be read is `LOST` instead of an error.
        draws: whether an item is known to have drawn numbers.
    """

    data: Any
    title: str
    seed: int
    rows: bool
    dtype: torch.dtype | None = None
    skips: bool = False
    draws: bool = False

    def __getitem__(self, request: Request) -> Any:
        return collate(self.items(*request), self.dtype)

    def items(self, epoch: int, wanted: Sequence[int], windows: Sequence[Windows] | None = None) -> list[Any]:
        """The items of these numbers, as one epoch has them; of each only its windows, where these are given."""
        asked = list(zip(wanted, repeat(None) if windows is None else windows))  # noqa: B905
        with undisturbed() as untouched:
            items = None if self.draws else self._unseeded(asked, untouched)
            if items is None:
                self.draws = True
                items = [self.seeded(epoch, number, windows) for number, windows in asked]
        return items

    def _unseeded(self, asked: Sequence[Asked], untouched: Callable[[], bool]) -> list[Any] | None:
        """The items, or None if chance had a part in them or in their failing."""
        try:
            items = [self._item(number, windows) for number, windows in asked]
        except DataError:
            if untouched():
                raise
            return None
        return items if untouched() else None

    def seeded(self, epoch: int, number: int, windows: Windows | None = None) -> Any:
        """One item as the data set gives it, drawn with its own seed.

        Raises:
            DataError: reading it failed; the message names the item, the cause is chained.
        """
        sow(item_key(self.seed, epoch, number))
        return self._item(number, windows)

    def _item(self, number: int, windows: Windows | None) -> Any:
        try:
            item = self.data[number] if windows is None else self.data.part(number, windows)
        except Exception as error:
            if self.skips:
                return LOST
            told = f"{type(error).__name__}: {error}"
            raise DataError(f"Item {number} of the data set {self.title} cannot be read: {told}") from error
        return row(item) if self.rows else item


def row(item: Any) -> Any:
    """A row of a Hugging Face dataset with its lists of numbers as arrays (torch's collation would turn them)."""
    if not isinstance(item, Mapping):
        return item
    lists = {name: value for name, value in item.items() if isinstance(value, list) and numbers(value)}
    return {**item, **{name: np.asarray(value) for name, value in lists.items()}}


def collate(items: Sequence[Any], dtype: torch.dtype | None = None) -> Any:
    """Items joined to one batch by torch's `default_collate`; a list of arrays becomes a tuple.

    Args:
        items: at least one, all of the same structure.
        dtype: what floats of numpy and of Python become; float32 by default. Tensors keep theirs.

    Raises:
        DataError: the items cannot be joined.
    """
    try:
        joined = default_collate(list(items))
    except (TypeError, RuntimeError, ValueError, KeyError, IndexError) as error:
        odd = next((outline(item) for item in items if _shape(item) != _shape(items[0])), "")
        raise DataError(
            f"Items cannot be joined to a batch: one is {outline(items[0])}{', another ' * bool(odd)}{odd}. Let the "
            "data set give tensors, arrays or numbers of one shape; sequences of different lengths go in "
            "etude.Data(dataset, names=('x', 'y'), lengths='x', batch_size=32), which pads them."
        ) from error
    joined = _narrowed(items[0], joined, dtype or torch.float32)
    return tuple(joined) if isinstance(joined, list) else joined


def _shape(item: Any) -> Any:
    return each(item, lambda value: (type(value), getattr(value, "shape", None)))


def _narrowed(item: Any, joined: Any, dtype: torch.dtype) -> Any:
    """`joined` with what is float64 only because numpy and Python are, in `dtype`; `item` shows what it was."""
    if isinstance(joined, Tensor):
        wide = joined.dtype == torch.float64 and not isinstance(item, Tensor)
        return joined.to(dtype) if wide else joined
    if isinstance(joined, Mapping):
        return {name: _narrowed(item[name], inner, dtype) for name, inner in joined.items()}
    if isinstance(joined, tuple | list) and not isinstance(item, str | bytes):
        inside = [_narrowed(one, inner, dtype) for one, inner in zip(item, joined, strict=True)]
        return type(joined)(*inside) if hasattr(joined, "_fields") else type(joined)(inside)
    return joined


def conversions(item: Any, batch: Any) -> list[str]:
    """One line for each array of a batch whose floats are narrower than those of the item (or batch) it came from."""
    before = dict(leaves(item))
    return [
        f"{name}: float64 -> {str(value.dtype).removeprefix('torch.')}"
        for name, value in leaves(batch)
        if isinstance(value, Tensor) and value.dtype != torch.float64 and _wide(before.get(name))
    ]


def _wide(value: Any) -> bool:
    """Whether floats are 64 bits wide without a tensor that says so."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype == np.float64)
