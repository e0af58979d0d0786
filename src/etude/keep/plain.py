"""Nested values as JSON and tensors, and back: what of a state is not a tensor goes into the header of a file.

Kept are None, truth values, numbers (NaN and infinities too), strings, lists, tuples, dicts with keys of any of these,
tensors, NumPy scalars and arrays, and torch's dtypes and devices. Each comes back as the type it had; an `OrderedDict`
as a dict, a `torch.Size` as a tuple, a parameter as a tensor. Nothing else is kept, and nothing is ever run.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from etude.errors import StateError

Json: TypeAlias = Any
"""What `json.dumps` can write with `allow_nan=False`."""

_MARK = "~"
"""The key of a JSON object that stands for something JSON does not have; its value says what."""

_DEEPEST = 64
_BITS = 1024
"""How deep values may be nested, and how long an int may be."""

_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_SCALARS = {name: np.dtype(name).type for name in {np.dtype(kind).name for kind in "?bhilqBHILQefd"}}
"""The types of NumPy's scalars that are kept; arrays may be complex too."""

_ARRAYS = {*_SCALARS, "complex64", "complex128"}


def pack(value: Any, prefix: str = "state:", by_array: bool = False) -> tuple[Json, dict[str, Tensor]]:
    """A value as JSON, with its tensors apart.

    Args:
        value: anything the head of this module lists, nested at most 64 deep. prefix: begins the name of each tensor,
            and its place in the value follows ("state:scheduler.rates[0]").
        by_array: the value is a dict by names of arrays, and a colon follows them ("optimizer:0.weight:mean").

    Returns:
        What stands for the value, and the tensors by name: not copies, so they show what happens to the value later.
        A tensor that stands in the value twice has one name.

    Raises:
        StateError: something in it cannot be kept; the message names the place.
    """
    packing = _Packing(prefix, ":" if by_array else ".")
    return packing.packed(value, "", 0), packing.tensors


class _Packing:
    def __init__(self, prefix: str, mark: str) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._mark = mark
        self._prefix = prefix
        self._names: dict[int, str] = {}
        self._seen: list[object] = []

    def packed(self, value: Any, place: str, depth: int) -> Json:
        kind = type(value)
        if kind is Tensor:
            return self._tensor(value, place)
        if depth > _DEEPEST:
            raise StateError(f"{place[:80]}...: values nested more than {_DEEPEST} deep cannot be kept.")
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return self._int(value, place)
        if kind is float:
            return value if math.isfinite(value) else {_MARK: "float", "value": repr(value)}
        if kind is list:
            return self._items(value, place, depth)
        if kind in (tuple, torch.Size):
            return {_MARK: "tuple", "items": self._items(value, place, depth)}
        if kind in (dict, OrderedDict):
            return self._dict(value, place, depth)
        return self._other(value, place)

    def _int(self, value: int, place: str) -> Json:
        if value.bit_length() > _BITS:
            raise StateError(f"{place or 'The value'}: an int of more than {_BITS} bits cannot be kept.")
        return value

    def _items(self, value: Any, place: str, depth: int) -> list[Json]:
        return [self.packed(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]

    def _dict(self, value: Mapping[Any, Any], place: str, depth: int) -> Json:
        if _MARK not in value and all(map(_is_str, value)):
            inside = f"{place}{self._mark if depth == 1 else '.'}" if place else ""
            return {key: self.packed(item, inside + key, depth + 1) for key, item in value.items()}
        pairs = [
            [self.packed(key, f"{_below(place, key)} (a key)", depth + 1), self.packed(item, below, depth + 1)]
            for key, item in value.items()
            for below in (_below(place, key),)
        ]
        return {_MARK: "dict", "items": pairs}

    def _other(self, value: Any, place: str) -> Json:
        if isinstance(value, Tensor):
            return self._tensor(value, place)
        if type(value) is np.ndarray and value.dtype.name in _ARRAYS and value.dtype.isnative:
            return {_MARK: "array", "name": self._name(value, _of_array(value), place)}
        if isinstance(value, np.generic) and value.dtype.name in _SCALARS:
            return {_MARK: "scalar", "dtype": value.dtype.name, "value": self.packed(value.item(), place, 0)}
        if isinstance(value, torch.dtype):
            return {_MARK: "dtype", "value": str(value)}
        if isinstance(value, torch.device):
            return {_MARK: "device", "value": str(value)}
        raise StateError(f"{place or 'The value'}: {_kind(value)} cannot be kept. {_advice(value)}")

    def _tensor(self, value: Tensor, place: str) -> Json:
        made = {_MARK: "tensor", "name": self._name(value, value.detach() if value.requires_grad else value, place)}
        return made if value.layout == torch.strided and value.is_contiguous() else {**made, **_order(value)}

    def _name(self, value: object, tensor: Tensor, place: str) -> str:
        name = self._names.get(id(value))
        if name is None:
            name = self._prefix + place
            if name in self.tensors:
                name = self._free(name)
            self._names[id(value)] = name
            self._seen.append(value)
            self.tensors[name] = tensor
        return name

    def _free(self, name: str) -> str:
        count, found = 1, name
        while found in self.tensors:
            count += 1
            found = f"{name}~{count}"
        return found


def _order(tensor: Tensor) -> dict[str, list[int]]:
    """How a tensor lies in memory, where that is not row by row: its dimensions, the widest stride first.

    Files hold values row by row; but what is computed of them may differ in the last bit with the order in memory.
    """
    if tensor.layout != torch.strided or tensor.is_contiguous() or tensor.numel() < 2:
        return {}
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return {"order": order} if tensor.permute(order).is_contiguous() else {}


def _ordered(tensor: Tensor, order: Json) -> Tensor:
    """A copy that lies in memory in this order."""
    if order is None:
        return tensor.clone()
    if sorted(order) != list(range(tensor.dim())):
        raise ValueError(f"{order} is no order of {tensor.dim()} dimensions")
    back = sorted(range(len(order)), key=order.__getitem__)
    return tensor.permute(order).clone(memory_format=torch.contiguous_format).permute(back)


def _is_str(key: object) -> bool:
    return type(key) is str


def _below(place: str, key: object) -> str:
    if type(key) is not str:
        return f"{place}[{str(key)[:40]}]" if type(key) in (int, float, bool) else f"{place}[{type(key).__name__}]"
    return f"{place}.{key}" if place else key


def _of_array(array: np.ndarray) -> Tensor:
    plain = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if plain else array.copy())


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of dtype {value.dtype}"
    if callable(value) and not isinstance(value, type):
        return f"a {'function' if hasattr(value, '__code__') else type(value).__name__}"
    return f"a value of type {type(value).__qualname__}"


def _advice(value: Any) -> str:
    if isinstance(value, Enum):
        return "Write its value instead."
    for method in ("state_dict", "get_state"):
        if hasattr(value, method):
            return f"Write its {method}() instead."
    for kinds, how in _PLAINER:
        if isinstance(value, kinds):
            return f"Write {how} instead."
    return "Numbers, strings, tensors, arrays, and lists, tuples and dicts of them can."


_PLAINER: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (np.generic, "its item()"),
    (dict, "dict(...) of it"),
    (tuple, "tuple(...) of it"),
    ((set, frozenset), "sorted(...) of it"),
    ((list, deque, range), "list(...) of it"),
    ((str, PurePath), "str(...) of it"),
    (float, "float(...) of it"),
    (int, "int(...) of it"),
)
"""Types that are near to one that is kept, and how to get that."""


def unpack(value: Json, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `pack` made into `value` and `tensors`.

    Args:
        value: JSON. tensors: at least those it names; each comes back as a copy.

    Raises:
        StateError: `pack` did not make this, or a tensor is missing.
    """
    return _Unpacking(tensors).unpacked(value, "", 0)


class _Unpacking:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._made: dict[tuple[str, str], Any] = {}

    def unpacked(self, value: Json, place: str, depth: int) -> Any:
        if depth > 2 * _DEEPEST:
            raise StateError(f"{place[:80]}...: nested more than {_DEEPEST} deep.")
        if isinstance(value, list):
            return [self.unpacked(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if _MARK not in value:
            return {key: self.unpacked(item, _below(place, key), depth + 1) for key, item in value.items()}
        try:
            return self._MARKED[value[_MARK]](self, value, place, depth)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, StateError):
                raise
            raise StateError(f"{place or 'The value'}: {str(value)[:80]} stands for no value that is kept.") from error

    def _float(self, value: Json, place: str, depth: int) -> float:
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value["value"]]

    def _tuple(self, value: Json, place: str, depth: int) -> tuple[Any, ...]:
        return tuple(self.unpacked(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value["items"]))

    def _dict(self, value: Json, place: str, depth: int) -> dict[Any, Any]:
        return dict(self._pairs(value["items"], place, depth))

    def _pairs(self, items: Json, place: str, depth: int) -> Iterator[tuple[Any, Any]]:
        for key, item in items:
            made = self.unpacked(key, f"{place} (a key)", depth + 1)
            yield made, self.unpacked(item, _below(place, made), depth + 1)

    def _tensor(self, value: Json, place: str, depth: int) -> Tensor:
        made: Tensor = self._once(value, place, lambda tensor: _ordered(tensor, value.get("order")))
        return made

    def _array(self, value: Json, place: str, depth: int) -> np.ndarray:
        made: np.ndarray = self._once(value, place, lambda tensor: tensor.clone().numpy())
        return made

    def _once(self, value: Json, place: str, make: Callable[[Tensor], Any]) -> Any:
        name = value["name"]
        if name not in self._tensors:
            raise StateError(f"{place or 'The value'}: there is no array named {str(name)[:80]!r}.")
        key = (value[_MARK], name)
        if key not in self._made:
            self._made[key] = make(self._tensors[name])
        return self._made[key]

    def _scalar(self, value: Json, place: str, depth: int) -> Any:
        return _SCALARS[value["dtype"]](self.unpacked(value["value"], place, depth + 1))

    def _dtype(self, value: Json, place: str, depth: int) -> torch.dtype:
        return _DTYPES[value["value"]]

    def _device(self, value: Json, place: str, depth: int) -> torch.device:
        try:
            return torch.device(str(value["value"]))
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    _MARKED: Mapping[str, Callable[[_Unpacking, Json, str, int], Any]] = {
        "float": _float,
        "tuple": _tuple,
        "dict": _dict,
        "tensor": _tensor,
        "array": _array,
        "scalar": _scalar,
        "dtype": _dtype,
        "device": _device,
    }
