"""One adapter for every form in which data come.

=========  =======================================================================  ====================
source     for                                                                      read as
=========  =======================================================================  ====================
`Arrays`   tensors and arrays, alone or in a tuple, list or dict; lists of samples  rows, many at once
           and of numbers; `TensorDataset`, also split
`Items`    `Dataset`, Hugging Face datasets, whatever has a length and items        items by number
`Stream`   `IterableDataset`, Hugging Face streams                                  items, one by one
`Stream`   `DataLoader`, functions that yield batches, iterables of batches         batches of their own
`Assembled` `Data`: samples of different lengths, budgets, orders, filters, chunks   batches that it plans
=========  =======================================================================  ====================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from etude.data.arrays import Arrays, arrays_of
from etude.data.assembled import Assembled
from etude.data.batch import outline
from etude.data.data import Data
from etude.data.form import FORMS, Source
from etude.data.items import Items, items_of
from etude.data.order import division
from etude.data.streams import Stream, stream_of_batches, stream_of_items, stream_of_loader
from etude.errors import DataError

__all__ = ["Arrays", "Items", "Source", "Stream", "check_finite", "check_round_length", "source", "split_validation"]


def source(data: Any, *, round_length: int | None = None) -> Source:
    """Data of any form as something that a `Flow` can read.

    Args:
        data: a tensor or array (samples along the first dimension); a tuple, list or dict of them; a list of (x, y)
            pairs or of dicts; a map-style `Dataset`; an `IterableDataset`; a `DataLoader`, used as it is; a
            Hugging Face dataset, in memory or streaming; a function (of nothing or of the number of the epoch,
            called anew for each) that yields batches; any iterable of batches that can be read again.
        round_length: batches in an epoch, for data that are read forward. Functions need it. The epoch ends after
            that many batches even if there are more.

    Returns:
        `Arrays`, `Items` or `Stream`. float64 of numpy and floats of Python become float32, listed in `converted`;
        tensors keep their type.

    Raises:
        DataError: empty data, lengths that differ, an unknown form, a missing or useless round length.
    """
    check_round_length(round_length)
    made = _recognised(data, round_length)
    if isinstance(made, Assembled) and made.stock.forward and round_length is not None:
        return replace(made, round_length=round_length)
    if round_length is not None and made.batches != round_length:
        raise DataError(
            f"round_length={round_length} was given with {made.title}, whose length is known: {made.length} samples "
            "make an epoch. Leave round_length out."
        )
    return made


def check_round_length(given: int | None) -> int | None:
    """A number of batches in an epoch, or None; DataError where it is something else."""
    if given is not None and (type(given) is not int or given < 1):
        raise DataError(f"round_length={given!r} is no number of batches. Write a whole number from 1 on.")
    return given


def _recognised(data: Any, round_length: int | None) -> Source:
    """The first form that fits; what is more special comes first."""
    if isinstance(data, Source):
        return data
    if isinstance(data, Data):
        return data.assembled
    if isinstance(data, Tensor | np.ndarray | tuple | list | Mapping):
        return arrays_of(data)
    if type(data) is TensorDataset:
        return arrays_of(data.tensors)
    if type(data) is Subset and type(data.dataset) is TensorDataset:
        return _rows(arrays_of(data.dataset.tensors), torch.as_tensor(data.indices, dtype=torch.int64))
    if isinstance(data, DataLoader):
        return stream_of_loader(data, round_length)
    hugging = _is_hugging(data)
    if isinstance(data, IterableDataset) or (hugging and not hasattr(data, "__getitem__")):
        return stream_of_items(data, hugging, round_length)
    if isinstance(data, str | bytes | type | nn.Module):
        raise DataError(f"Cannot read {_called(data)} as data. {FORMS}")
    if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return items_of(data, hugging)
    if isinstance(data, Iterator):
        raise DataError(
            f"A {type(data).__name__} can be read only once, and an epoch needs it anew. Give the function that makes "
            "it, without calling it, and round_length=n, the number of batches in an epoch."
        )
    if callable(data) or isinstance(data, Iterable):
        return stream_of_batches(data, round_length)
    raise DataError(f"Cannot read {outline(data)} as data. {FORMS}")


def _is_hugging(data: Any) -> bool:
    """Whether items are rows of a Hugging Face dataset, known by its `column_names`; also of a subset of one."""
    return _is_hugging(data.dataset) if type(data) is Subset else hasattr(data, "column_names")


def _called(data: Any) -> str:
    if isinstance(data, type):
        return f"the class {data.__name__} (give an object of it: {data.__name__}(...))"
    return f"the net {type(data).__name__}" if isinstance(data, nn.Module) else outline(data)


def _rows(whole: Arrays | Items, indices: Tensor) -> Arrays | Items:
    """The part of `whole` that `indices` (positions in it) name."""
    inside = indices if whole.indices is None else whole.indices[indices]
    return replace(whole, indices=inside, length=len(inside))


def split_validation(data: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Set a fraction of the samples aside, chosen by `seed` alone.

    Args:
        data: a source with random access.
        fraction: of the samples, between 0 and 1; rounded to whole samples, at least one.
        seed: at least 0.

    Returns:
        What is left for training, and what was set aside; each with its `indices`, ascending. No array is copied.

    Raises:
        DataError: a fraction outside (0, 1), nothing left on one side, or data that can only be read forward.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise DataError(f"validation={fraction!r} is no fraction of the data. Write a number between 0 and 1.")
    if data.length is None or not isinstance(data, Arrays | Items | Assembled):
        raise DataError(
            f"{data.title} can only be read forward, so no fraction of it can be set aside. "
            "Give validation data of their own: validation=data."
        )
    aside = max(1, round(data.length * fraction))
    if aside >= data.length:
        raise DataError(
            f"validation={fraction!r} of {data.length} samples leaves none for training. Write a smaller fraction."
        )
    shuffled = division(data.length, seed)
    part = data.only if isinstance(data, Assembled) else partial(_rows, data)
    return part(shuffled[aside:].sort().values), part(shuffled[:aside].sort().values)


def check_finite(data: Source) -> None:
    """Look for NaN and infinity in arrays in memory; what is on a disk, memory maps too, is not read for it.

    Raises:
        DataError: naming the array, how many samples are concerned and the first of them.
    """
    if not isinstance(data, Arrays):
        return
    for name, array, given in zip(data.names, data.arrays, _as_given(data), strict=True):
        if (
            isinstance(given, np.memmap)
            or not (array.is_floating_point() or array.is_complex())
            or bool(torch.isfinite(array.sum()))
        ):
            continue
        bad = _samples_where(array, data.indices)
        if len(bad):
            shown = ", ".join(str(place) for place in bad[:5].tolist()) + (", ..." if len(bad) > 5 else "")
            raise DataError(
                f"Array {name!r} holds NaN or infinity in {len(bad)} of {data.length} samples: {shown}. "
                "Clean the data, or leave these samples out."
            )


def _as_given(data: Arrays) -> Iterable[Any]:
    """What each array was made of."""
    if data.form == "one":
        return [data.given]
    if isinstance(data.given, Mapping):
        return data.given.values()
    return data.given if len(data.given) == len(data.arrays) else [None] * len(data.arrays)


def _samples_where(array: Tensor, indices: Tensor | None) -> Tensor:
    """Numbers of the samples that hold NaN or infinity, read in pieces so that little memory is needed."""
    fine = torch.cat(
        [torch.isfinite(array[at : at + 4096, None]).flatten(1).all(1) for at in range(0, len(array), 4096)]
    )
    bad = torch.nonzero(~fine).flatten().cpu()
    return bad if indices is None else bad[torch.isin(bad, indices)]
