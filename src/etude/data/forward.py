"""Samples that are read forward, one pass for each epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from etude.data.batch import outline
from etude.data.items import row
from etude.data.sets import forward_only, samples, title_of
from etude.errors import DataError

Counts = dict[str, int]
"""Samples left out of a pass, by the name of what left them out."""


class Forward(IterableDataset[Any]):
    """Samples read forward; a pass is a function of the number of its epoch, if that of its sources is.

    Attributes:
        title: for messages.
        epoch: of the pass that `iter` begins; `set_epoch` sets it.
    """

    def __init__(self, title: str, pass_of: Callable[[int, Counts], Iterator[Any]], sources: Sequence[Any]) -> None:
        self.title = title
        self.epoch = 0
        self._pass = pass_of
        self._sources = sources
        self._counts: Counts = {}

    def __repr__(self) -> str:
        return self.title

    def set_epoch(self, epoch: int) -> None:
        """Which epoch begins next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        self._counts = {}
        return self._pass(self.epoch, self._counts)

    @property
    def dropped(self) -> Counts:
        """Samples left out of the pass that began last, so far, by the name of what left them out."""
        found = dict(self._counts)
        for source in self._sources:
            inside = source.dropped if isinstance(source, Forward) else {}
            for name, count in inside.items():
                found[name] = found.get(name, 0) + count
        return found


def readable(data: Any, call: str) -> Any:
    """Data that can be read forward, whether or not they have random access too.

    Raises:
        DataError: they cannot, or only once.
    """
    if isinstance(data, str | bytes | type | nn.Module | Iterator):
        once = " It can be read only once: give the function that makes it, uncalled." * isinstance(data, Iterator)
        raise DataError(f"{call}: {outline(data)} cannot be read for every epoch.{once}")
    if not forward_only(data):
        return samples(data, call)
    if not isinstance(data, Iterable) and not callable(data):
        raise DataError(f"{call}: {outline(data)} cannot be read. Give a data set, or a function that yields samples.")
    return data


def opened(data: Any, epoch: int) -> Iterator[Any]:
    """The samples of one epoch, one after another; the data are told its number if they want to know.

    Raises:
        DataError: a function gave no samples to read.
    """
    if not forward_only(data):
        return (data[number] for number in range(len(data)))
    announce = getattr(data, "set_epoch", None)
    if callable(announce):
        announce(epoch)
    given = data if isinstance(data, Iterable) else (data(epoch) if _wants_epoch(data) else data())
    if isinstance(given, Tensor | np.ndarray | str | bytes | Mapping) or not isinstance(given, Iterable):
        raise DataError(
            f"{title_of(data)} gave {outline(given)}, which is no iterator of samples. Write yield for each sample."
        )
    return map(row, given) if hasattr(data, "column_names") else iter(given)


def _wants_epoch(function: Callable[..., Any]) -> bool:
    """Whether a function takes the number of the epoch: it has a parameter without a default, or one of that name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built-in functions need not have a signature
        return False
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [one.name for one in parameters if one.default is one.empty and one.kind not in kinds]
    if len(needed) > 1:
        raise DataError(
            f"{title_of(function)} needs {', '.join(needed)}; it is called with nothing or with the number of the "
            "epoch. Fill in the others with functools.partial or a lambda."
        )
    return bool(needed) or any(one.name == "epoch" for one in parameters)
