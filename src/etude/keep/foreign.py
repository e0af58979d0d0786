"""Files of weights from elsewhere: which arrays they hold, told before any is read.

A safetensors file; a .pt file of tensors (read with weights_only=True, which runs no code of the file); the index of a
model in several such files.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.errors import CheckpointError, StateError, nearest
from etude.keep import disk
from etude.keep.header import DTYPES, short
from etude.step.states import some

_PICKLES_FROM = (2, 10)
"""The first torch whose weights_only=True is without known holes (CVE-2025-32434, CVE-2026-24747)."""

_UNDER = ("state_dict", "model_state_dict", "model", "net", "module")
"""Under what a .pt file may have the arrays of a net beside other things."""

_DEEP = 4
"""In how many dicts a dict of arrays is looked for."""

_INDEX_BYTES = 100_000_000
"""An index that is larger is none."""


@dataclass(frozen=True, slots=True)
class Shape:
    """An array of a file: its shape and dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The arrays of a net in a file, or in several.

    Attributes:
        path: of the file, or of the index. arrays: shape and dtype by name.
        ties: names of arrays that are one, where the file says so; it has the first of them.
        get: reads the arrays of these names.
    """

    path: str
    arrays: Mapping[str, Shape]
    ties: tuple[tuple[str, ...], ...]
    get: Callable[[Collection[str]], dict[str, Tensor]]


def is_pickle(path: str) -> bool:
    """Whether a file begins as one that torch.save wrote.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        fd, first = disk.open_to_read(path), bytearray(4)
        try:
            disk.read_at(fd, memoryview(first), 0)
        finally:
            disk.close(fd)
    except OSError as error:
        raise CheckpointError(path, "a file of weights", str(error.strerror or error), damaged=False) from error
    return first.startswith((b"PK\x03\x04", b"\x80"))


def pickled(path: str, of: str | None = None) -> dict[str, Tensor]:
    """The tensors of a .pt file, by name; of a large file they are read where they are used.

    Raises:
        CheckpointError: there are other things in it, or torch is too old to read it without running it.
        StateError: it has no entry `of`.
    """
    if torch.__version__ < torch.torch_version.TorchVersion(".".join(map(str, _PICKLES_FROM))):
        needed = f"torch {'.'.join(map(str, _PICKLES_FROM))} or later, to read a pickle without running it"
        raise CheckpointError(path, needed, f"torch {torch.__version__}", damaged=False)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # What torch says there is how to read the file in spite of that.
        found = "other things in it, which are not read: save the state_dict() of the net"
        raise CheckpointError(path, "a .pt file that holds nothing but tensors", found, damaged=False) from error
    inside = _inside(path, content, of)
    if not _are_tensors(inside):
        dicts = dict(_dicts(content) if of is None else _dicts(inside, f"{of}."))
        sizes = {name: len(own) for name, own in dicts.items() if own and _are_tensors(own)}
        advice = f"; Load(..., of={max(sizes, key=sizes.__getitem__)!r}) would take what is under that" if sizes else ""
        expected = "tensors by name, or a dict with such a dict under 'state_dict' or 'model'"
        found = f"a {type(inside).__name__} with other things in it{advice}"
        raise CheckpointError(path, expected, found, damaged=False)
    return {str(name): value for name, value in inside.items()}


def _inside(path: str, content: Any, of: str | None) -> Any:
    if not isinstance(content, Mapping):
        return content
    if of is not None and of not in content:
        known = dict(_dicts(content))
        if of not in known:
            told = [name for name, own in known.items() if _are_tensors(own)] or list(known)
            said = f"dicts under {some(told)}" if told else "no dicts in it"
            raise StateError(f"{path} has no {of!r}: there are {said}.{nearest(of, known)}")
        return known[of]
    if of is not None:
        return content[of]
    return next((content[key] for key in _UNDER if isinstance(content.get(key), Mapping)), content)


def _dicts(content: Any, before: str = "") -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The dicts in a dict, each by the keys that lead to it, with dots between them."""
    if isinstance(content, Mapping) and before.count(".") < _DEEP:
        for key, own in content.items():
            if isinstance(own, Mapping):
                yield f"{before}{key}", own
                yield from _dicts(own, f"{before}{key}.")


def _are_tensors(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())


def of_tensors(path: str, tensors: Mapping[str, Tensor]) -> Weights:
    """The same of arrays that were read, or that are read where they are used."""
    arrays = {name: Shape(tuple(value.shape), value.dtype) for name, value in tensors.items()}
    return Weights(path, arrays, (), lambda names: {name: tensors[name] for name in names})


def everything_in(path: str) -> dict[str, Tensor]:
    """All arrays of a file that this library did not write.

    Raises:
        CheckpointError: it did, or it is no file of arrays.
    """
    if is_pickle(path):
        return pickled(path)
    if is_ours(path):
        found = "a checkpoint of this library, which has digests: leave foreign out"
        raise CheckpointError(path, "a file from elsewhere", found, damaged=False)
    made = safetensors(path)
    return made.get(made.arrays)


def is_ours(path: str) -> bool:
    """Whether a safetensors file is a checkpoint of this library.

    Raises:
        CheckpointError: it is no safetensors file.
    """
    with _opened(path) as file:
        return "etude" in (file.metadata() or {})


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """A safetensors file; what goes wrong with it is a CheckpointError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError, MemoryError) as error:
        raise CheckpointError(path, "a safetensors file, or a .pt file of tensors", short(str(error))) from error


def safetensors(path: str) -> Weights:
    """The arrays of a safetensors file."""

    def get(names: Collection[str]) -> dict[str, Tensor]:
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in names}

    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        arrays = {name: Shape(tuple(own.get_shape()), _dtype(own.get_dtype())) for name, own in slices.items()}
    return Weights(path, arrays, (), get)


def _dtype(code: str) -> torch.dtype:
    # One that is not known here is found out to be what it is when the array is read.
    return DTYPES.get(code, torch.uint8)


def index(path: str) -> Weights:
    """The arrays of a model whose index says in which file each is."""
    places = _weight_map(path)
    shards = {name: _shard(path, name) for name in dict.fromkeys(places.values())}
    lost = [name for name, place in places.items() if name not in shards[place].arrays]
    if lost:
        found = f"none of that name in {places[lost[0]]!r}"
        raise CheckpointError(path, f"the array {short(lost[0])} where the index has it", found)
    arrays = {name: shards[place].arrays[name] for name, place in places.items()}

    def get(names: Collection[str]) -> dict[str, Tensor]:
        read: dict[str, Tensor] = {}
        for place, shard in shards.items():
            read |= shard.get([name for name in names if places[name] == place])
        return read

    return Weights(path, arrays, (), get)


def _weight_map(path: str) -> dict[str, str]:
    expected = 'an index: {"weight_map": {name of an array: name of a file beside this one}}'
    try:
        if os.path.getsize(path) > _INDEX_BYTES:
            raise CheckpointError(path, expected, f"{os.path.getsize(path):,} bytes")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise CheckpointError(path, expected, str(error.strerror or error), damaged=False) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, expected, short(str(error))) from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(_is_name(p) for p in places.values()):
        raise CheckpointError(path, expected, "other JSON, or files in other folders", damaged=False)
    return places


def _is_name(place: object) -> bool:
    return isinstance(place, str) and os.path.basename(place) == place


def _shard(index: str, name: str) -> Weights:
    place = os.path.realpath(os.path.join(os.path.dirname(index), name))
    return of_tensors(place, pickled(place)) if is_pickle(place) else safetensors(place)
