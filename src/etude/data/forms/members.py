"""Members of an archive as values: decoded by their endings, never by code in them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch

from etude.data.forms.wav import decode, look
from etude.errors import DataError, nearest

Decoder = Callable[[bytes], Any]

_HEAD: Final = 512
"""Bytes in which nearly every header of an array or a recording ends."""


def key_of(path: str) -> tuple[str, str]:
    """The sample that a member belongs to and its name there: what is before and after the first dot of its name.

    Two empty texts for what belongs to no sample: names without a dot, hidden ones, and "__remarks__".
    """
    folder, slash, name = path.rpartition("/")
    stem, _, ending = name.partition(".")
    if not stem or not ending or (stem.startswith("__") and stem.endswith("__")):
        return "", ""
    return folder + slash + stem, ending


def _array(data: bytes) -> Any:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _tensors(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _json(data: bytes) -> Any:
    value = json.loads(data)
    numbers = isinstance(value, list) and all(type(each) in (int, float) for each in value)
    return np.array(value) if numbers and value else value


def _wave(data: bytes) -> Any:
    file = io.BytesIO(data)
    return decode(file, look(file, "it"), "it")


DECODERS: Final[Mapping[str, Decoder]] = {
    "npy": _array,
    "pt": _tensors,
    "pth": _tensors,
    "txt": bytes.decode,
    "json": _json,
    "wav": _wave,
    "cls": int,
    "index": int,
}
"""What becomes of a member, by the last ending of its name."""


def decoder(name: str, given: Mapping[str, Decoder]) -> Decoder:
    """How a member is decoded: as `given` says for its whole name or its last ending, or as `DECODERS` says.

    Raises:
        DataError: nothing is known for it.
    """
    ending = name.rpartition(".")[2].lower()
    for known, place in ((given, name), (given, ending), (DECODERS, ending)):
        if place in known:
            return known[place]
    raise DataError(
        f"There is no decoder for members that end in {name!r}.{nearest(ending, DECODERS)} Known: "
        f"{', '.join(DECODERS)}. Write decode={{{name!r}: function}}, a function of the bytes, or choose other "
        "members: names=[...]."
    )


def length_in(name: str, read: Callable[[int], bytes], size: int) -> int | None:
    """The length of an array in a member, from its header: the first dimension of a .npy, the frames of a .wav.

    Args:
        name: of the member. read: gives so many of its first bytes. size: how many it has.

    Returns:
        None for other members, and for an array without dimensions.

    Raises:
        DataError, ValueError: the member is not what its name says.
    """
    measure = _MEASURES.get(name.rpartition(".")[2].lower())
    if measure is None:
        return None
    try:
        return measure(read(min(size, _HEAD)), size)
    except (DataError, ValueError):  # a header that is longer, or none at all
        return measure(read(size), size)


def _frames(head: bytes, size: int) -> int:
    return look(io.BytesIO(head), "it", size).frames


def _rows(head: bytes, size: int) -> int | None:
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    plain = version == (1, 0)
    shape = (np.lib.format.read_array_header_1_0 if plain else np.lib.format.read_array_header_2_0)(file)[0]
    return int(shape[0]) if shape else None


_MEASURES: Final[Mapping[str, Callable[[bytes, int], int | None]]] = {"npy": _rows, "wav": _frames}
