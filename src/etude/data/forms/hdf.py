"""HDF5 files as a data set: RETURNN's layout, and arrays that have a row for every sample."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from etude.arguments import named
from etude.data.forms.files import Handles, Names, files_of, place_of, renamed, starts_of
from etude.data.forms.hdf_layout import PURPOSE, Layout, of_returnn, of_rows
from etude.data.plan.lengths import Whole
from etude.data.wanted import Windows
from etude.data.windows import cut
from etude.errors import DataError
from etude.needs import need


@final
@dataclass(frozen=True, slots=True, eq=False)
class Hdf:
    """Samples in HDF5 files, read where they are asked for; made by `hdf(...)`.

    An item is a dict with an array for every stream, of the type that the file has. Every process opens the files for
    itself; `close()` closes those of this one.

    Attributes:
        names: the arrays of an item.
        tags: ids of the samples, or None.
        lengths: of every stream that has them; nothing where each sample has one row.
        sizes: features in a frame of each stream, or classes where its frames are numbers, as far as files tell.
    """

    names: tuple[str, ...]
    tags: list[str] | None = field(repr=False)
    lengths: dict[str, Whole] = field(repr=False)
    sizes: dict[str, int]
    title: str
    files: Sequence[Path] = field(repr=False)
    layouts: Sequence[Layout] = field(repr=False)
    chosen: Mapping[str, str] = field(repr=False)
    starts: Whole = field(repr=False)
    handles: Handles[Any] = field(repr=False)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.part(index, {})

    def part(self, number: int, windows: Windows) -> dict[str, Any]:
        """An item of whose streams only windows are read, see `etude.data.windows`."""
        file, row = place_of(number, self.starts, self.title)
        layout, item = self.layouts[file], {}
        with self.handles.reading(self.files[file]) as arrays:
            for name, called in self.chosen.items():
                item[called] = _row(arrays[layout.places[name]], layout.starts.get(name), row, windows.get(called))
        return item

    def close(self) -> None:
        """Close the files of this process. They are opened again when something is read."""
        self.handles.close()


@named
def hdf(
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    names: Names | None = None,
    *,
    tags: str | None = None,
) -> Hdf:
    """HDF5 files as a data set: those of RETURNN, or such as hold arrays with one row for every sample.

    RETURNN's layout is known by the array `seqLengths`: `inputs` becomes the stream "data", and everything in
    `targets/data` a stream of its name, all with lengths; `seqTags` are the ids. A stream that RETURNN made of several
    axes comes flat, as it is stored. Needs h5py (`pip install 'etude[hdf]'`).

    Args:
        path: of the file; or a pattern, or a list: several files are read one after another.
        names: streams to read; a dict renames them: `{"data": "audio", "classes": "labels"}`. Default: all. Arrays of
            other layouts are called by their path in the file.
        tags: of other layouts the array that holds the ids.

    Raises:
        DataError: files that are missing or no HDF5, streams that are not there or differ from file to file, lengths
            that do not fit the arrays. MissingPackageError: h5py is not installed.
    """
    need("h5py", PURPOSE)
    files = files_of(path, "hdf")
    layouts = [_layout(file, names, tags) for file in files]
    chosen = renamed(names, layouts[0].places, str(files[0]))
    _check_alike(files, layouts, chosen)
    starts = starts_of([layout.samples for layout in layouts])
    if not starts[-1]:
        raise DataError(f"The data are empty: {files[0]} has 0 samples. Give a file with at least one.")
    lengths = {
        called: np.concatenate([np.diff(layout.starts[name]) for layout in layouts])
        for name, called in chosen.items()
        if name in layouts[0].starts
    }
    sizes = {called: layouts[0].sizes[name] for name, called in chosen.items() if name in layouts[0].sizes}
    ids = [tag for layout in layouts for tag in layout.tags] or None
    title = f"hdf {files[0].name}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    handles = Handles(_open, _close)
    return Hdf(tuple(chosen.values()), ids, lengths, sizes, title, files, layouts, chosen, starts, handles)


def _row(array: Any, starts: Whole | None, row: int, window: tuple[int, int] | None) -> Any:
    """A sample in an array that has all end to end, or (without `starts`) one in each row; or a window of it."""
    if starts is not None:
        first, last = starts[row : row + 2].tolist()
        if window is not None:
            first, last = (min(first + place, last) for place in window)
        return array[first:last]
    if window is None:
        return array[row]
    return array[row, slice(*window)] if len(array.shape) > 1 else cut(array[row], window)


class _Open(dict[str, Any]):
    """The arrays of an open file by their path, found once."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __missing__(self, place: str) -> Any:
        return self.setdefault(place, self.file[place])


def _open(path: Path) -> _Open:
    h5py = need("h5py", PURPOSE)
    try:
        return _Open(h5py.File(path, "r"))
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5: {error}.") from error


def _close(opened: _Open) -> None:
    opened.clear()
    opened.file.close()


def _layout(path: Path, names: Names | None, tags: str | None) -> Layout:
    """What a file holds; only lengths and ids are read."""
    opened = _open(path)
    try:
        if "seqLengths" not in opened.file:
            return of_rows(path, opened.file, names, tags)
        if tags is not None:
            raise DataError(f"{path} has ids of its own, seqTags. Leave tags={tags!r} out.")
        return of_returnn(path, opened.file, names)
    finally:
        _close(opened)


def _check_alike(files: Sequence[Path], layouts: Sequence[Layout], chosen: Mapping[str, str]) -> None:
    """Every file has the streams that are read, in the shape of the first."""
    first = layouts[0]
    for path, layout in zip(files, layouts, strict=True):
        renamed(list(chosen), layout.places, str(path))
        for name in chosen:
            if layout.shapes[name] != first.shapes[name] or (name in layout.starts) != (name in first.starts):
                raise DataError(
                    f"The stream {name!r} has frames of shape {layout.shapes[name]} in {path}, and of shape "
                    f"{first.shapes[name]} in {files[0]}. Give files of one shape, or name other streams."
                )
        if bool(len(layout.tags)) != bool(len(first.tags)) and layout.samples:
            raise DataError(f"{path} and {files[0]} do not both have ids. Give files of one layout.")
