"""What a plan was told, and with what it is carried out, as text that is the same in every process."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude._version import __version__
from etude.data.batch import each, outline

_LOOKED_AT = 1 << 18
"""Numbers of an array of a batch that its digest is of: enough to tell other data, and no wait for large ones."""


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


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {
        "etude": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def first_batch(values: Any) -> str:
    """A digest of the numbers of a batch."""
    digest = hashlib.sha256()

    def take(value: Any) -> Any:
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous()
            digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
            if array.layout == torch.strided:
                digest.update(array.reshape(-1)[:_LOOKED_AT].view(torch.uint8).numpy().data)
        elif isinstance(value, np.ndarray):
            digest.update(np.ascontiguousarray(value).reshape(-1)[:_LOOKED_AT].data)
        return value

    each(values, take)
    return digest.hexdigest()[:12]
