"""Whether an object is within the reach of another: what a process of its own would get a copy of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

_PLAIN = (str, bytes, int, float, complex, type(None), Tensor, np.ndarray, ModuleType)
_MOST = 20_000
"""Objects that are looked at; what lies deeper in a large collection is not found."""


def reached(root: Any, wanted: Iterable[Any]) -> list[Any]:
    """Those of the `wanted` objects that `root` holds, or that its methods and functions name."""
    looked: dict[int, Any] = {}
    ahead = [root]
    while ahead and len(looked) < _MOST:
        one = ahead.pop()
        if not isinstance(one, _PLAIN) and id(one) not in looked:
            looked[id(one)] = one
            ahead += _held(one)
    return [one for one in wanted if id(one) in looked]


def _held(one: Any) -> Iterator[Any]:
    """What an object holds, one level deep."""
    if isinstance(one, FunctionType):
        yield from _of_function(one)
    elif isinstance(one, MethodType):
        yield from (one.__self__, one.__func__)
    elif isinstance(one, partial):
        yield from (one.func, *one.args, *one.keywords.values())
    elif isinstance(one, Mapping):
        yield from one.values()
    elif isinstance(one, list | tuple | set | frozenset):
        yield from one
    elif not isinstance(one, type):
        yield from vars(one).values() if hasattr(one, "__dict__") else ()
        for kind in type(one).__mro__:
            slots = vars(kind).get("__slots__", ())
            yield from (getattr(one, name, None) for name in ((slots,) if isinstance(slots, str) else slots))
            yield from (of for of in vars(kind).values() if isinstance(of, FunctionType) and _is_own(of))


def _of_function(one: FunctionType) -> Iterator[Any]:
    """What a function has closed over, its defaults, and the globals that it names."""
    for cell in one.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            continue
    yield from one.__defaults__ or ()
    if _is_own(one):
        yield from (one.__globals__[name] for name in one.__code__.co_names if name in one.__globals__)


def _is_own(one: FunctionType) -> bool:
    """Whether a function is the user's: those of torch and of this library name what is everywhere."""
    return (one.__module__ or "").partition(".")[0] not in ("torch", "numpy", "etude", "builtins", "typing", "abc")
