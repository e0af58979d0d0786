"""Data that can only be read forward: streams of items, loaders, functions and iterables that give batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from etude.data.batch import each, numbers, outline
from etude.data.chance import undisturbed
from etude.data.form import Source
from etude.data.items import collate, conversions, row
from etude.data.workers import read
from etude.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Stream(Source):
    """Data read forward, one pass after another. For the attributes that are not here see `Source`.

    A place inside a pass is found again by reading up to it.

    Attributes:
        open: gives the iterator of the pass whose number it gets.
        declared: whether `batches` was declared as the round length, so that a pass ends there even if there is more.
        rows: whether lists of numbers in an item are arrays, as in Hugging Face datasets.
        dtype: what floats become; None: float64 of numpy and floats of Python become float32, tensors keep theirs.
    """

    title: str
    open: Callable[[int], Iterator[Any]] = field(repr=False)
    batched: bool
    length: int | None = None
    batches: int | None = None
    declared: bool = False
    rows: bool = False
    dtype: torch.dtype | None = None
    converted: list[str] = field(default_factory=list)
    names: tuple[str, ...] = field(default=(), init=False)
    random_access: bool = field(default=False, init=False)
    by_item: bool = field(default=False, init=False)

    def state(self, epoch: int) -> list[Tensor]:
        """What has to be kept besides the place for a pass to be as it would be; see `_Passes.state`."""
        return self.open.state(epoch) if isinstance(self.open, _Passes) else []

    def load(self, epoch: int, state: Sequence[Tensor]) -> None:
        """Take over what `state` gave."""
        if isinstance(self.open, _Passes):
            self.open.load(epoch, state)

    def cast(self, dtype: torch.dtype) -> Stream:
        return replace(self, dtype=dtype, converted=[])

    def batch(self, given: Any) -> Any:
        """A batch as the data gave it, its arrays and lists of numbers as tensors."""
        values = each(_tuple(given), lambda value: _tensor(value, self.dtype or torch.float32))
        if not self.converted:
            self.converted.extend(conversions(given, values))
        return values

    def joined(self, items: list[Any]) -> Any:
        """Items as the data gave them, as one batch."""
        inside = [row(item) for item in items] if self.rows else items
        values = collate(inside, self.dtype)
        if not self.converted:
            self.converted.extend(conversions(inside[0], values))
        return values


def _tuple(values: Any) -> Any:
    return tuple(values) if isinstance(values, list) and not numbers(values) else values


def _tensor(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) or (isinstance(value, list) and numbers(value)):
        array = torch.from_numpy(np.asarray(value))
        return array.to(dtype) if array.dtype == torch.float64 else array
    return value


def stream_of_items(data: Iterable[Any], rows: bool, round_length: int | None) -> Stream:
    """A source from an `IterableDataset` or a Hugging Face stream: items, joined to batches by the flow."""
    length = _length(data)

    def items(epoch: int) -> Iterator[Any]:
        _set_epoch(data, epoch)
        return iter(data)

    title = type(data).__name__
    return Stream(title, items, False, length, round_length, round_length is not None, rows)


def stream_of_loader(loader: DataLoader[Any], round_length: int | None) -> Stream:
    """A source from a `DataLoader`, used as it is.

    The order of a loader without a generator of its own follows the flow's seed. One that has its own keeps its own
    order, counted from the state in which it is given: a later epoch is found by reading all before it.
    """
    known = None if isinstance(loader.dataset, IterableDataset) else _length(loader)
    if known == 0:
        raise DataError("The data are empty: a DataLoader with 0 batches. Give at least one batch.")
    batches = round_length or known
    return Stream("DataLoader", _Passes(loader), True, _samples(loader), batches, round_length is not None)


def _samples(loader: DataLoader[Any]) -> int | None:
    """Samples in one pass of a loader of the plain kind."""
    if loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        return None
    length = _length(loader.sampler)
    if length is None or not loader.drop_last:
        return length
    return length - length % loader.batch_size


class _Passes:
    """Opens the passes of a loader; those with generators of their own start from the states they had."""

    __slots__ = ("generators", "loader", "starts")

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        owners = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
        found = [getattr(owner, "generator", None) for owner in owners]
        self.generators = list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())
        self.starts = {0: self._states()}

    def _states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self.generators]

    def __call__(self, epoch: int) -> Iterator[Any]:
        nearest = max(known for known in self.starts if known <= epoch) if self.generators else epoch
        with undisturbed():
            for passed in range(nearest, epoch):
                for _ in self._pass(passed):
                    continue
        return self._pass(epoch)

    def state(self, epoch: int) -> list[Tensor]:
        """Of the loader's generators at the beginning of an epoch; nothing where it has none or it is not known."""
        return self.starts.get(epoch, []) if self.generators else []

    def load(self, epoch: int, state: Sequence[Tensor]) -> None:
        """Take over what `state` gave."""
        if len(state) == len(self.generators):
            self.starts[epoch] = list(state)

    def _pass(self, epoch: int) -> Iterator[Any]:
        for owner in (self.loader.dataset, self.loader.sampler, self.loader.batch_sampler):
            _set_epoch(owner, epoch)
        if self.generators:
            for generator, state in zip(self.generators, self.starts[epoch], strict=True):
                generator.set_state(state)
        yield from read(self.loader)
        if self.generators:
            self.starts[epoch + 1] = self._states()


def stream_of_batches(data: Any, round_length: int | None) -> Stream:
    """A source from a function that gives an iterator of batches, or from an iterable of batches."""
    if callable(data):
        title = f"function {getattr(data, '__name__', type(data).__name__)}"
        if round_length is None:
            raise DataError(
                f"The {title} does not say how long an epoch is. Write round_length=n beside it, the number of batches "
                "that make an epoch."
            )
        return Stream(title, _caller(data, title), True, None, round_length, True)
    known = _length(data)
    if known == 0:
        raise DataError(f"The data are empty: {type(data).__name__} with 0 batches. Give at least one batch.")

    def passes(epoch: int) -> Iterator[Any]:
        _set_epoch(data, epoch)
        return iter(data)

    return Stream(type(data).__name__, passes, True, None, round_length or known, round_length is not None)


def _caller(function: Callable[..., Any], title: str) -> Callable[[int], Iterator[Any]]:
    """Calls `function` anew for each pass, with the number of the epoch if it takes one."""
    wants_epoch = _wants_epoch(function, title)

    def begin(epoch: int) -> Iterator[Any]:
        given = function(epoch) if wants_epoch else function()
        if isinstance(given, tuple | Mapping | Tensor | np.ndarray | str) or not isinstance(given, Iterable):
            raise DataError(
                f"The {title} gave {outline(given)}, which is no iterator of batches. "
                "Write yield for each batch, or return an iterator."
            )
        return iter(given)

    return begin


def _wants_epoch(function: Callable[..., Any], title: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built-in functions need not have a signature
        return False
    places = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one.name for one in places if one.default is one.empty]
    if len(needed) > 1:
        raise DataError(
            f"The {title} needs {', '.join(needed)}; it is called with nothing or with the number of the epoch. "
            "Fill in the others with functools.partial or a lambda."
        )
    return bool(needed) or any(one.name == "epoch" for one in places)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None


def _set_epoch(owner: Any, epoch: int) -> None:
    """Tell data and samplers that shuffle by epoch which one begins, as `DistributedSampler` and streams want it."""
    announce = getattr(owner, "set_epoch", None)
    if callable(announce):
        announce(epoch)
