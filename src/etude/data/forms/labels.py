"""Labels of files, from their paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.plan.lengths import Whole
from etude.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """A label for every file, or none at all.

    Attributes:
        values: int64 or float32, shape (files,), or a list of int64 arrays.
        classes: names of classes in the order of their numbers, where labels were names.
        lengths: of labels that are lists; otherwise None.
    """

    values: Sequence[Any] = ()
    classes: tuple[str, ...] = ()
    lengths: Whole | None = None


def labels_of(function: Callable[[Path], Any], files: Sequence[Path]) -> Labels:
    """The labels that `function` gives for the paths; names become numbers, in alphabetical order.

    Raises:
        DataError: the function fails, or gives something that is no label, or labels of different kinds.
    """
    made = list(_asked(function, files))
    kinds = {_kind(label) for label in made}
    if kinds == {"name"}:
        classes, numbers = np.unique(made, return_inverse=True)
        return Labels(list(numbers.astype(np.int64)), tuple(map(str, classes)))
    if kinds == {"list"}:
        lists = [np.asarray(label, dtype=np.int64) for label in made]
        return Labels(lists, lengths=np.array([len(label) for label in lists], dtype=np.int64))
    if kinds == {"number"}:
        return Labels(list(np.array(made, dtype=np.int64)))
    if kinds <= {"number", "float"}:
        return Labels(list(np.array(made, dtype=np.float32)))
    odd = next(place for place, label in enumerate(made) if _kind(label) in (None, *kinds - {_kind(made[0])}))
    raise DataError(
        f"labels= gives {made[odd]!r} for {files[odd]}{f' and {made[0]!r} for {files[0]}' if odd else ''}. "
        "Give for every path a number, or for every path a name, or a list of whole numbers."
    )


def _asked(function: Callable[[Path], Any], files: Sequence[Path]) -> Iterator[Any]:
    for path in files:
        try:
            yield function(path)
        except Exception as error:
            raise DataError(f"labels= fails for {path}: {type(error).__name__}: {error}") from error


def _kind(label: Any) -> str | None:
    """What a label is: "name", "number", "float" or "list"; None: no label."""
    if isinstance(label, str):
        return "name"
    if not isinstance(label, int | float | np.generic | np.ndarray | list | tuple):
        return None
    array = np.asarray(label)
    if array.ndim == 1:
        return "list" if array.dtype.kind in "iu" or not array.size else None
    if array.ndim or array.dtype.kind not in "iufb":
        return None
    return "float" if array.dtype.kind == "f" else "number"
