"""Arrays in memory: whatever holds one number for every sample, as tensors with samples along the first dimension."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.batch import numbers, outline
from etude.data.form import FORMS, Source
from etude.errors import DataError

_WIDER = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}


@dataclass(frozen=True, slots=True, eq=False)
class Arrays(Source):
    """Tensors in memory, all of one length. For the attributes that are not here see `Source`.

    Attributes:
        arrays: one tensor for each name; where nothing was converted they share the memory of what was given.
        form: how a batch is put together from its arrays: "one", "tuple" or "dict".
        given: the data as given.
        indices: the rows that belong to this source, int64, or None for all.
    """

    title: str
    names: tuple[str, ...]
    arrays: tuple[Tensor, ...]
    form: str
    given: Any = field(repr=False)
    length: int
    converted: list[str]
    indices: Tensor | None = None
    batches: None = field(default=None, init=False)
    random_access: bool = field(default=True, init=False)
    batched: bool = field(default=False, init=False)
    by_item: bool = field(default=False, init=False)

    def cast(self, dtype: torch.dtype) -> Arrays:
        """The same data, converted afresh from what was given: float64 asked for is float64 kept."""
        return replace(arrays_of(self.given, dtype), indices=self.indices, length=self.length)


def arrays_of(data: Any, dtype: torch.dtype | None = None) -> Arrays:
    """A source from a tensor or array, a tuple, list or dict of them, a list of numbers or a list of samples.

    Args:
        data: as above. A list is a list of arrays if all it holds are tensors or arrays, a list of samples if it
            begins with a tuple or dict, and otherwise one array of numbers.
        dtype: of every floating array. Default: float64 of numpy and floats of Python become float32, tensors
            keep theirs.

    Raises:
        DataError: empty data, lengths that differ, or something that no tensor can hold.
    """
    if isinstance(data, Tensor | np.ndarray):
        return _joined(type(data).__name__, "one", {"0": data}, data, dtype)
    if not data:
        raise DataError(f"The data are empty: a {type(data).__name__} with nothing in it. Give at least one sample.")
    if isinstance(data, Mapping):
        return _joined("dict", "dict", _checked(data), data, dtype)
    if isinstance(data, tuple) or all(isinstance(item, Tensor | np.ndarray) for item in data):
        named = {str(place): value for place, value in enumerate(data)}
        return _joined(type(data).__name__, "tuple", named, data, dtype)
    if isinstance(data[0], tuple | Mapping):
        form = "tuple" if isinstance(data[0], tuple) else "dict"
        return _joined("list of samples", form, _columns(data), data, dtype)
    if numbers(data):
        return _joined("list of numbers", "one", {"0": data}, data, dtype)
    raise DataError(f"Cannot read a list whose first item is {outline(data[0])}. {FORMS}")


def _checked(data: Mapping[Any, Any]) -> dict[str, Any]:
    for name, value in data.items():
        if not isinstance(value, Tensor | np.ndarray | list):
            hint = f" Write data[{name!r}] for that one." if hasattr(value, "__getitem__") else ""
            raise DataError(f"The dict holds {outline(value)} under {name!r}, which is no array.{hint} {FORMS}")
    return {str(name): value for name, value in data.items()}


def _columns(samples: Sequence[Any]) -> dict[str, list[Any]]:
    """A list of samples turned: one list for each part of a sample."""
    first = samples[0]
    keys = list(first) if isinstance(first, Mapping) else list(range(len(first)))
    for number, sample in enumerate(samples):
        alike = isinstance(sample, type(first)) and len(sample) == len(keys)
        if not alike or (isinstance(first, Mapping) and sample.keys() != first.keys()):
            raise DataError(
                f"The samples of the list differ: sample 0 is {outline(first)}, sample {number} is "
                f"{outline(sample)}. Give all samples the same parts."
            )
    return {str(key): [sample[key] for sample in samples] for key in keys}


def _joined(title: str, form: str, named: Mapping[str, Any], given: Any, dtype: torch.dtype | None) -> Arrays:
    """A source from named arrays: checked for equal lengths and for emptiness."""
    converted: list[str] = []
    arrays = tuple(_tensor(name, value, dtype, converted) for name, value in named.items())
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        told = ", ".join(f"{name!r} has {length}" for name, length in zip(named, lengths, strict=True))
        hint = " A list of tensors is a list of arrays; for a list of samples write torch.stack(samples)."
        raise DataError(
            f"The arrays have different numbers of samples: {told}. Give every sample one row in each array."
            + (hint if isinstance(given, list) else "")
        )
    if not lengths or not lengths[0]:
        raise DataError(f"The data are empty: {title} with 0 samples. Give at least one sample.")
    return Arrays(title, tuple(named), arrays, form, given, lengths[0], converted)


def _tensor(name: str, value: Any, dtype: torch.dtype | None, converted: list[str]) -> Tensor:
    """One array as a tensor that needs no gradient; what was changed is added to `converted`."""
    if isinstance(value, list):
        value = _stacked(name, value)
    if isinstance(value, np.ndarray):
        array, before = _from_numpy(name, value), value.dtype.name
        kind = dtype or (torch.float32 if array.dtype == torch.float64 else None)
    elif isinstance(value, Tensor):
        array, before, kind = _readable(name, value), str(value.dtype).removeprefix("torch."), dtype
    else:
        raise DataError(f"Array {name!r} is {outline(value)}, which is no tensor, array or list of numbers. {FORMS}")
    if array.dim() == 0:
        raise DataError(f"Array {name!r} is a single number. Samples lie along the first dimension: give [value].")
    if kind is not None and array.is_floating_point():
        array = array.to(kind)
    after = str(array.dtype).removeprefix("torch.")
    if after != before:
        converted.append(f"{name}: {before} -> {after}")
    if array.requires_grad:
        converted.append(f"{name}: detached, it required a gradient")
    return array.detach()


def _readable(name: str, array: Tensor) -> Tensor:
    if array.layout != torch.strided:
        raise DataError(f"Array {name!r} has the layout {array.layout}, which has no rows to read. Give .to_dense().")
    return array


def _stacked(name: str, values: list[Any]) -> Any:
    """Samples of one array, joined: tensors to a tensor, arrays and numbers to an array."""
    if not values:
        raise DataError(f"Array {name!r} is empty: a list with nothing in it. Give at least one sample.")
    first = values[0]
    try:
        if isinstance(first, Tensor):
            return torch.stack(values)
        if isinstance(first, np.ndarray):
            return np.stack(values)
        if numbers(first):
            return np.asarray(values)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        odd = next((place for place, value in enumerate(values) if _kind(value) != _kind(first)), 0)
        raise DataError(
            f"The samples of array {name!r} cannot be joined: sample 0 is {outline(first)}, sample {odd} is "
            f"{outline(values[odd])}. Give all samples one shape; sequences of different lengths go in "
            "etude.Data(samples, names=('x', 'y'), batch_size=32), which pads them."
        ) from error
    raise DataError(f"Array {name!r} holds {outline(first)}, which is no number, tensor or array. {FORMS}")


def _kind(value: Any) -> tuple[Any, ...]:
    """What samples must share to be joined."""
    if isinstance(value, list):
        return (list, len(value))
    return (type(value), *getattr(value, "shape", ()))


def _from_numpy(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor on the array's own memory where torch can read that."""
    wider = np.float64 if array.dtype == np.longdouble else _WIDER.get(array.dtype.name)
    if wider is not None:
        array = array.astype(wider)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    try:
        with warnings.catch_warnings():  # an array that must not be written to, as a memory map, is only read
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array)
    except TypeError as error:
        raise DataError(
            f"Array {name!r} holds values of type {array.dtype}, which no tensor can hold. Give numbers "
            "(for names of classes: numpy.unique(names, return_inverse=True)[1])."
        ) from error
