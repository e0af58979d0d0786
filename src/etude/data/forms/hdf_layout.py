"""What an HDF5 file holds: RETURNN's layout, or arrays with a row for every sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from etude.data.forms.files import Names, renamed, starts_of
from etude.data.plan.lengths import Whole
from etude.errors import DataError
from etude.needs import need

PURPOSE: Final = "Reading HDF5 files"


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What one file holds.

    Attributes:
        places: name of every stream to the path of its array in the file.
        starts: where each sample begins in the array of a stream, shape (samples + 1,); a stream that is not in it has
            one row for every sample.
        samples: how many there are.
        tags: their ids, or nothing.
        shapes: of one frame or row of every stream. sizes: features of a frame, or classes where frames are numbers.
    """

    places: Mapping[str, str]
    starts: Mapping[str, Whole]
    samples: int
    tags: Sequence[str]
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]


def of_returnn(path: Path, file: Any, names: Names | None) -> Layout:
    """RETURNN's layout: arrays with all samples end to end, one column of lengths for each, targets by name."""
    targets = file.get("targets/data", {})
    sizes = file["targets/size"].attrs if "targets/size" in file else {}
    named = sorted(set(targets) | set(sizes))
    if "inputs" in file and "data" in named:
        raise DataError(f"{path} has both inputs and a target called 'data'. Expected one stream of that name.")
    places = {"data": "inputs"} if "inputs" in file else {}
    places |= {name: f"targets/data/{name}" for name in named}
    for name, place in places.items():
        if place not in file:
            raise DataError(f"{path} names the stream {name!r}, and has no array {place!r} for it.")
    lengths = _columns(path, file["seqLengths"][...], len(places), "targets" in file)
    starts = {name: starts_of(lengths[:, column]) for column, name in enumerate(places)}
    for name, place in places.items():
        _check_total(path, name, int(starts[name][-1]), file[place], lengths[:, list(places).index(name)])
    for name in renamed(names, places, str(path)):
        _check_numbers(path, name, file[places[name]])
    tags = _texts(file["seqTags"]) if "seqTags" in file else []
    if "seqTags" in file and len(tags) != len(lengths):
        raise DataError(f"{path} is damaged: {len(lengths)} rows in seqLengths, {len(tags)} ids in seqTags.")
    shapes = {name: tuple(file[place].shape[1:]) for name, place in places.items()}
    return Layout(places, starts, len(lengths), tags, shapes, _sizes(file, shapes, sizes))


def _columns(path: Path, lengths: Any, streams: int, targets: bool) -> Whole:
    """`seqLengths` as one column for every stream, shape (samples, streams)."""
    if not streams:
        raise DataError(f"{path} has seqLengths, and neither inputs nor targets/data. Expected one of them.")
    if lengths.ndim == 1:  # files of long ago: all streams are of one length
        lengths = np.repeat(lengths[:, None], streams, axis=1)
    # Without targets there is a column all the same, for the "classes" that RETURNN once took for granted.
    if lengths.ndim != 2 or lengths.shape[1] < streams or (targets and lengths.shape[1] != streams):
        raise DataError(
            f"{path} is damaged: seqLengths of shape {lengths.shape}, expected ({len(lengths)}, {streams})."
        )
    return lengths[:, :streams].astype(np.int64)  # type: ignore[no-any-return]


def _check_total(path: Path, name: str, total: int, array: Any, lengths: Whole) -> None:
    """What the lengths say, held against what is there."""
    if (lengths < 0).any():
        row = int(np.argmax(lengths < 0))
        raise DataError(f"{path} is damaged: sample {row} has length {lengths[row]} in the stream {name!r}.")
    if not array.shape or total != array.shape[0]:
        there = array.shape[0] if array.shape else "no"
        raise DataError(
            f"{path} is damaged: the lengths of the stream {name!r} sum to {total}, and there are {there} frames."
        )


def _check_numbers(path: Path, name: str, array: Any) -> None:
    h5py = need("h5py", PURPOSE)
    inner = h5py.check_vlen_dtype(array.dtype)  # rows of different lengths are arrays of this
    if np.dtype(inner or array.dtype).kind not in "biuf":
        raise DataError(
            f"The stream {name!r} of {path} holds {array.dtype}, which no tensor can hold. Name the streams to read: "
            "names=[...]."
        )


def _sizes(file: Any, shapes: Mapping[str, tuple[int, ...]], told: Mapping[str, Any]) -> dict[str, int]:
    """Features of a frame, or classes where frames are numbers."""
    sizes = {name: int(np.ravel(told[name])[0]) for name in told if name in shapes}
    if "data" in shapes and "data" not in sizes:
        sizes["data"] = int(shapes["data"][-1] if shapes["data"] else file.attrs.get("inputPattSize", 0))
    return {name: size for name, size in sizes.items() if size}


def _texts(array: Any) -> list[str]:
    """Ids as they are stored: bytes of fixed or free length, filled up with zeros."""
    return [
        (each.decode() if isinstance(each, bytes) else str(each)).split("\0")[0] for each in array[...].ravel().tolist()
    ]


def of_rows(path: Path, file: Any, names: Names | None, tags: str | None) -> Layout:
    """Any other layout: arrays that have one row for every sample."""
    h5py = need("h5py", PURPOSE)
    found: dict[str, Any] = {}
    file.visititems(lambda place, each: found.update({place: each} if isinstance(each, h5py.Dataset) else {}))
    if tags is not None:
        renamed([tags], found, str(path))
    chosen = renamed(names, [place for place in found if place != tags], str(path))
    if not chosen:
        raise DataError(
            f"{path} holds no array. Expected RETURNN's layout (seqLengths, inputs, targets/data), or arrays with one "
            "row for every sample."
        )
    wanted = [*chosen, *([] if tags is None else [tags])]
    counts = {place: found[place].shape[0] if found[place].shape else None for place in wanted}
    if len(set(counts.values())) > 1 or None in counts.values():
        told = ", ".join(f"{place!r} has {count or 'no rows'}" for place, count in counts.items())
        raise DataError(
            f"The arrays of {path} have different numbers of rows: {told}. Name those that have one row for every "
            "sample: names=[...]."
        )
    for place in chosen:
        _check_numbers(path, place, found[place])
    shapes = {place: tuple(found[place].shape[1:]) for place in chosen}
    ids = [] if tags is None else _texts(found[tags])
    return Layout({place: place for place in chosen}, {}, next(iter(counts.values())) or 0, ids, shapes, {})
