"""What is in a checkpoint, and which checkpoints are in a folder, as plain values."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.errors import CheckpointError
from etude.keep import files, folder, state
from etude.keep.header import Entry
from etude.keep.names import SUFFIX, Name

Plain = dict[str, Any]
"""What JSON can hold: NaN and infinities are words."""

_DAMAGED = f"{SUFFIX}.damaged"
"""What is in the name of a checkpoint that was found damaged and set aside."""


def look(path: str | os.PathLike[str]) -> Plain:
    """Everything that is in a checkpoint but the numbers of its arrays; every byte of it is checked.

    Returns:
        "path"; "bytes" of the file; "good"; "record"; "history": of every series how many values it has, and the last
        with its step and epoch; "arrays": name, dtype, shape, bytes and "good" of each, in the order of the file.

    Raises:
        CheckpointError: the header is not what was written, the file cannot be read, or is no checkpoint.
    """
    header = files.read_header(path)
    bad = _damaged(path, header.entries)
    arrays = [_array(entry, entry.name not in bad) for entry in header.entries]
    return {
        "path": os.path.abspath(path),
        "bytes": os.path.getsize(path),
        "good": not bad,
        "record": readable(header.record),
        "history": _history(path, {entry.name for entry in header.entries} - bad),
        "arrays": arrays,
    }


def _damaged(path: str | os.PathLike[str], entries: Sequence[Entry]) -> set[str]:
    """The arrays that are not what was written."""
    try:
        files.verify(path)
    except CheckpointError as error:
        if not error.damaged:
            raise
        return {entry.name for entry in entries if not _is_good(path, entry.name)}
    return set()


def _is_good(path: str | os.PathLike[str], name: str) -> bool:
    try:
        return name in files.read_arrays(path, {name})
    except CheckpointError:
        return False


def _array(entry: Entry, good: bool) -> Plain:
    dtype, size = str(entry.dtype).removeprefix("torch."), entry.end - entry.begin
    return {"name": entry.name, "dtype": dtype, "shape": list(entry.shape), "bytes": size, "good": good}


def _history(path: str | os.PathLike[str], names: set[str]) -> Plain:
    wanted = {name for name in names if name.startswith("history:")}
    found = files.read_arrays(path, wanted)
    series = dict.fromkeys(name.removeprefix("history:").rpartition(":")[0] for name in found)
    return {name: told for name in sorted(series) if (told := _last(found, f"history:{name}:"))}


def _last(found: Mapping[str, Tensor], prefix: str) -> Plain:
    columns = {name: found[prefix + name + "s"] for name in ("step", "epoch", "value") if prefix + name + "s" in found}
    if len(columns) < 3 or not all(map(len, columns.values())):
        return {}
    return {"count": len(columns["value"]), **{name: readable(of[-1].item()) for name, of in columns.items()}}


def readable(value: Any) -> Any:
    """A record as a file holds it, in plain JSON for people: of a tensor its name, of a tuple a list."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [readable(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    kind = value.get("~")
    if kind is None:
        return {name: readable(one) for name, one in value.items()}
    if kind == "dict":
        return {str(readable(name)): readable(one) for name, one in value.get("items", ())}
    if kind in ("tensor", "array"):
        return {kind: value.get("name")}
    return readable(value.get("items" if kind == "tuple" else "value"))


# ------------------------------------------------------------------------------------------------------- of a folder


def listing(places: Iterable[str | os.PathLike[str]]) -> list[Plain]:
    """The checkpoints in some folders (and single files), newest first, every byte of each checked.

    Returns:
        For each: "path", "step", "epoch", "loss", "val", "bytes", "good", "ended" (why the run had ended, "" if it had
        not), "note" (what is wrong with it). Where the header is damaged, numbers are those of the name. Nets alone
        and files of other programs are left out.
    """
    paths = dict.fromkeys(path for place in places for path in _candidates(Path(os.path.abspath(place))))
    found = sorted(filter(None, map(_checkpoint, paths)), key=lambda pair: pair[0], reverse=True)
    return [told for _, told in found]


def _candidates(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place] if place.is_file() else []
    return [place / name for name in folder.listed(place) if name.endswith(SUFFIX) or _DAMAGED in name]


def _checkpoint(path: Path) -> tuple[tuple[Any, ...], Plain] | None:
    """When it was made, and what is told of it; None for a file that is no checkpoint."""
    name = Name.parse(path.name.partition(_DAMAGED)[0] + SUFFIX * (_DAMAGED in path.name))
    told = _by_name(name)
    moment = ("", 0) if name is None else (name.start, name.counter)
    note = ""
    try:
        there = path.stat()
        record = readable(files.read_record(path))
        if record.get("kind") not in (state.RUN, state.LOOP):
            return None
        told |= _by_record(record)
        moment = _run(record) or moment
        files.verify(path)
    except FileNotFoundError:  # a run at work has removed it
        return None
    except CheckpointError as error:
        if name is None and not error.damaged:
            return None
        note = f"expected {error.expected}; found {error.found}"
    made = (*moment, float(told["step"] or 0), there.st_mtime, path.name)
    return made, {"path": str(path), **told, "bytes": there.st_size, "good": not note, "note": note}


def _by_name(name: Name | None) -> Plain:
    if name is None:
        return {"step": None, "epoch": None, "loss": None, "val": None, "ended": ""}
    scores = {"loss": readable(name.loss), "val": readable(name.val)}
    return {"step": name.step, "epoch": name.epoch, **scores, "ended": ""}


def _by_record(record: Mapping[str, Any]) -> Plain:
    progress = _mapping(record.get("progress"))
    losses = _mapping(record.get("losses", progress))
    told = {"step": progress.get("step"), "epoch": progress.get("epoch")}
    return {**told, "loss": losses.get("loss"), "val": losses.get("val"), "ended": str(record.get("ended", ""))}


def _run(record: Mapping[str, Any]) -> tuple[str, int] | None:
    told = _mapping(record.get("run"))
    return (str(told["start"]), int(told["counter"])) if {"start", "counter"} <= told.keys() else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
