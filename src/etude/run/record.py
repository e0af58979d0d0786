"""Values of a result as strict JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from types import UnionType
from typing import Any, get_args, get_origin

import torch
from torch import Tensor

_MARK = "$"
"""The one key of a dict that stands in a file for a tuple, a tensor, or a float that JSON does not have."""
_DTYPES = {str(one).removeprefix("torch."): one for one in vars(torch).values() if isinstance(one, torch.dtype)}


def to_json(value: Any) -> Any:
    """A value as strict JSON can hold it; `from_json` is the way back."""
    if isinstance(value, Mapping):
        return {str(key): to_json(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return {_MARK: [to_json(one) for one in value]}
    if isinstance(value, list):
        return [to_json(one) for one in value]
    if isinstance(value, float) and not isfinite(value):
        return {_MARK: str(value)}
    if isinstance(value, Tensor):
        return {_MARK: {"dtype": str(value.dtype).removeprefix("torch."), "values": to_json(value.tolist())}}
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def from_json(value: Any) -> Any:
    """What `to_json` was given."""
    if isinstance(value, list):
        return [from_json(one) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {_MARK}:
        inside = value[_MARK]
        if isinstance(inside, dict):
            return torch.tensor(from_json(inside["values"]), dtype=_DTYPES[inside["dtype"]])
        return float(inside) if isinstance(inside, str) else tuple(from_json(one) for one in inside)
    return {key: from_json(one) for key, one in value.items()}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the kind of a field: `float` takes whole numbers too, no number takes a bool."""
    if isinstance(kind, UnionType):
        return any(fits(value, each) for each in get_args(kind))
    one = get_origin(kind) or kind
    if one in (int, float):
        return isinstance(value, (int, one)) and not isinstance(value, bool)
    return isinstance(value, one)
