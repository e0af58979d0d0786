"""Arrays in files, mapped into memory: only what a batch needs is read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from etude.arguments import named
from etude.data.plan.lengths import Whole
from etude.data.ragged import Ragged
from etude.errors import DataError, nearest, warn

_FLAT, _LENGTHS, _STARTS = "flat.npy", "lengths.npy", "starts.npy"

_GIVEN_OUT = {"float64": torch.float32, "uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64}
"""What values become once they are read, as those of arrays in memory do; the others stay as they are."""


@named
def memory_map(paths: str | PathLike[str] | Mapping[str, Any] | tuple[Any, ...] | list[Any]) -> Any:
    """Arrays in files, of which only the rows that are asked for are read.

    Args:
        paths: of a `.npy` file, as `numpy.save` writes it; of a folder with sequences; or a dict, tuple or list of
            such paths. A folder holds `flat.npy` (the frames of all samples, one sample after another) and either
            `lengths.npy` (whole numbers, one for every sample) or `starts.npy` (where each sample begins, and where
            the last one ends):

                numpy.save(folder / "flat.npy", numpy.concatenate(features))
                numpy.save(folder / "lengths.npy", [len(each) for each in features])

    Returns:
        For a file its array, for a folder a `Ragged`; for several paths a dict of them, or a tuple. Sequences are
        converted once they are read: float64 to float32, uint16 to int32. An array of such numbers is converted as
        a whole, and a warning says so.

    Raises:
        DataError: a path that is not there, or a file that holds no such array; naming it.
    """
    if isinstance(paths, Mapping):
        return {str(name): memory_map(path) for name, path in paths.items()}
    if isinstance(paths, tuple | list):
        return tuple(memory_map(path) for path in paths)
    path = Path(fspath(paths))
    if path.is_dir():
        return _sequences(path)
    array = _opened(path)
    if array.dtype.name in _GIVEN_OUT or not _in_place(array):
        warn(
            f"{path} holds {array.dtype.str}, which is converted, and that reads all of the file. Save it as float32, "
            "or whole numbers as int32 or int64, to read only what is asked for."
        )
    return array


def _opened(path: Path) -> npt.NDArray[Any]:
    """The array of a file, mapped."""
    if not path.exists():
        folder = path.parent
        there = [each.name for each in folder.iterdir()] if folder.is_dir() else []
        raise DataError(f"There is no file {path}.{nearest(path.name, there)} Write the path of a .npy file.")
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(
            f"{path} cannot be mapped into memory: {error}. Expected is one array of numbers, as numpy.save writes it."
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc":
        held = f"values of type {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
        raise DataError(f"{path} holds {held}. Expected is one array of numbers, as numpy.save writes it.")
    return array


def _sequences(folder: Path) -> Ragged:
    """The sequences of a folder."""
    there = sorted(each.name for each in folder.iterdir())
    if _FLAT not in there or not {_LENGTHS, _STARTS} & set(there):
        raise DataError(
            f"The folder {folder} holds {', '.join(there[:8]) or 'nothing'}. Sequences lie in {_FLAT} (the frames of "
            f"all samples) with {_LENGTHS} (frames of each sample) or {_STARTS}."
        )
    flat = _opened(folder / _FLAT)
    if not flat.ndim or not len(flat):
        raise DataError(f"{folder / _FLAT} has the shape {flat.shape}: no frames. Expected are those of all samples.")
    whole, dtype = _mapped(folder / _FLAT, flat)
    return Ragged(whole, _starts(folder, len(flat), _STARTS in there), dtype)


def _mapped(path: Path, array: npt.NDArray[Any]) -> tuple[Tensor, torch.dtype | None]:
    """A tensor on the memory of the file, and what its values become once they are read."""
    if not _in_place(array):
        raise DataError(
            f"{path} holds {array.dtype.str}, which no tensor can hold without reading all of it. "
            f"Save it again as {array.dtype.newbyteorder('=').name if array.dtype.itemsize <= 8 else 'float32'}."
        )
    with warnings.catch_warnings():  # the file is only read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array), _GIVEN_OUT.get(array.dtype.name)


def _in_place(array: npt.NDArray[Any]) -> bool:
    """Whether a tensor can use the memory as it is."""
    return array.dtype.isnative and array.dtype != np.longdouble


def _starts(folder: Path, frames: int, told: bool) -> Whole:
    """Where the samples begin, checked against the number of frames."""
    path = folder / (_STARTS if told else _LENGTHS)
    given = np.array(_opened(path))
    if given.ndim != 1 or given.dtype.kind not in "iu" or len(given) < 1 + told:
        what = "where each sample begins and the last one ends" if told else "one for every sample"
        raise DataError(f"{path} holds {given.dtype} of shape {given.shape}. Expected are whole numbers, {what}.")
    whole = given.astype(np.int64)
    starts = whole if told else np.concatenate([np.zeros(1, np.int64), np.cumsum(whole)])
    if starts[-1] != frames:
        raise DataError(
            f"The samples of {folder} have {starts[-1]} frames by {path.name}, and {_FLAT} has {frames}. "
            "Were they written together?"
        )
    return starts
