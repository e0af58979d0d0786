"""Files of weights, ours and from elsewhere: which arrays they hold, told before any is read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from etude.errors import CheckpointError, EtudeError, StateError, nearest
from etude.keep import files, foreign, state
from etude.keep.foreign import Shape, Weights
from etude.keep.header import short

_USUAL = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
"""Names under which a folder has the weights of one model."""


def opened(path: str | os.PathLike[str], of: str | None = None) -> Weights:
    """The arrays of a net in a file of any of these kinds.

    Args:
        path: links are followed, as the caches of model hubs are full of them; ~ is the home folder.
        of: of a checkpoint of this library "net" (as it was saved, the default), "best", or the name of an average; of
            a .pt file the entry that holds the arrays, found by itself where it is one of the usual ones.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or is of another kind.
        StateError: it has no such `of`; the nearest is named.
    """
    place = _file(os.path.realpath(os.path.expanduser(path)))
    if place.endswith(".json"):
        return _none_of(foreign.index(place), of)
    if foreign.is_pickle(place):
        return foreign.of_tensors(place, foreign.pickled(place, of))
    if foreign.is_ours(place):
        return _checkpoint(place, of or "net")
    return _none_of(foreign.safetensors(place), of)


def _checkpoint(path: str, of: str) -> Weights:
    try:
        header = files.read_header(path)
        record = net_record(header.record, path)
        given = kinds(record, [entry.name for entry in header.entries])
        if of not in given:
            raise StateError(f"{path} has no {of!r}: it has {', '.join(sorted(given))}.{nearest(of, given)}")
        shapes = {entry.name: Shape(tuple(entry.shape), entry.dtype) for entry in header.entries}
        places = {name: name for name in record["net"]["arrays"]}
        prefix = prefix_of(of)
        places |= {name: prefix + name for name in places if prefix and prefix + name in shapes}
        arrays = {name: shapes[place] for name, place in places.items()}
        ties = tuple(tuple(names) for names in record["net"]["ties"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, EtudeError):
            raise
        raise CheckpointError(path, "a checkpoint with a net", short(f"{type(error).__name__}: {error}")) from error

    def get(names: Collection[str]) -> dict[str, Tensor]:
        read = files.read_arrays(path, {places[name] for name in names})
        return {name: read[places[name]] for name in names}

    return Weights(path, arrays, ties, get)


def net_record(record: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The record of a checkpoint that has one net.

    Raises:
        CheckpointError: it is of another kind or format, or has several nets or none.
    """
    kind = str(record.get("kind"))
    known = kind in (state.RUN, state.LOOP, state.WEIGHTS)
    made = state.checked(record, path, kind if known else state.RUN)
    if made["net"] is None:
        expected = "a checkpoint with one net, or one that was saved as net="
        raise CheckpointError(path, expected, "several nets, or none", damaged=False)
    return made


def kinds(record: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """Which nets a checkpoint has: "net", "best", and the averages that have begun."""
    found = record.get("averages") or {}
    each = found.get("each", found)
    begun = (name for name, one in each.items() if not isinstance(one, Mapping) or one.get("count"))
    return {"net", *(["best"] if any(name.startswith("best:") for name in names) else []), *begun}


def prefix_of(of: str) -> str:
    """What the names of the arrays of one of these nets begin with in the file."""
    return "" if of == "net" else "best:" if of == "best" else f"average:{of}:"


def _none_of(made: Weights, of: str | None) -> Weights:
    if of is not None:
        raise StateError(
            f"{made.path} has no {of!r}: it holds the arrays of one net and nothing else. Leave of={of!r} out."
        )
    return made


def _file(path: str) -> str:
    """The file itself, or what a folder has under one of the usual names."""
    if not os.path.isdir(path):
        return path
    there = sorted(os.listdir(path))
    for name in _USUAL:
        if name in there:
            return os.path.realpath(os.path.join(path, name))
    files_there = [name for name in there if name.endswith((".safetensors", ".pt", ".pth", ".bin"))]
    found = f"a folder with {', '.join(map(repr, files_there[-3:]))}" if files_there else "a folder without one"
    raise CheckpointError(path, "the file of one net: name it", found, damaged=False)
