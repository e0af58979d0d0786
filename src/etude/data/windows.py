"""Windows of samples: read alone by the data sets that can, cut out of whole samples elsewhere.

A data set may have a method `part(number, windows)` beside its items. It gives the sample as its item is, but for the
streams named in `windows`: of those only the frames from start to stop. They are named as `Data` names them: the parts
of samples that are dicts by their own names, those of tuples by the names that `Data` was given. A window that reaches
beyond its stream comes back shorter, as a slice would. What chance decides in a sample has to come out the same. An
attribute `part` that is None, or whose second parameter is not called `windows`, is not meant.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from etude.data.batch import numbers
from etude.data.wanted import Windows


def reads_windows(data: Any) -> bool:
    """Whether a data set has a method `part(number, windows)`."""
    found = getattr(data, "part", None)
    if not callable(found):
        return False
    try:
        return list(inspect.signature(found).parameters)[1:2] == ["windows"]
    except (TypeError, ValueError):  # built-in functions need not have a signature
        return False


def cut(value: Any, window: tuple[int, int]) -> Any:
    """A window of one stream; what has no frames stays as it is, to be refused where samples are joined."""
    start, stop = window
    if isinstance(value, list) and (not value or numbers(value)):
        try:
            value = np.asarray(value)  # whole: a window of whole numbers among floats would be of another type
        except ValueError:
            return value
    framed = isinstance(value, Tensor | np.ndarray) and value.ndim > 0
    return value[start:stop] if framed else value


def cut_sample(sample: Mapping[str, Any], windows: Windows, stated: Mapping[str, int]) -> dict[str, Any]:
    """A whole sample with some of its streams cut.

    Args:
        stated: the lengths of streams, where they are known. What has another length is None instead, which no reader
            takes for a window: it reads the sample whole then, and says what is wrong.
    """
    made = dict(sample)
    for name in windows.keys() & made.keys():
        value = made[name]
        framed = hasattr(value, "__len__") and getattr(value, "shape", None) != ()
        lies = framed and len(value) != stated.get(name, len(value))
        made[name] = None if lies else cut(value, windows[name])
    return made
