"""What was said, as text that is the same in every process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
from torch import Tensor

from etude.data.batch import outline


def option_text(value: Any) -> str:
    """An option of the plan as text, of moderate length, the same in every process."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {option_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, tuple | list) and not any(isinstance(one, Tensor | np.ndarray) for one in value):
        inside = ", ".join(map(option_text, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if isinstance(value, Tensor | np.ndarray | tuple | list):
        return outline(value)
    if isinstance(value, FunctionType | BuiltinFunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, set | frozenset):
        # In one order, whatever it is in this process.
        return "{" + ", ".join(sorted(map(option_text, value))) + "}"
    if is_dataclass(value) and hasattr(type(value).__repr__, "__wrapped__"):  # made by `dataclass`, not by hand
        inside = ", ".join(f"{field.name}={option_text(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__qualname__}({inside})"
    text = repr(value)
    # The address of an object says nothing about it, and differs from run to run.
    return type(value).__qualname__ if text.startswith("<") else text
