"""What the header of a file says, once it was found to be what was written."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import islice
from typing import Any, NoReturn

import torch

from etude.errors import CheckpointError
from etude.keep.header import CODES, DTYPES, MOST, NO_DIGEST, OTHERS, Entry, Header, in_proportion, short, stored

_OURS = {"etude", "digests", "digest"}
_DIGEST = re.compile(rb'"digest":"([0-9a-f]{64})"')


def length(path: str, first: bytes, size: int) -> int:
    """The length of the header, from the first eight bytes of a file of `size` bytes.

    Raises:
        CheckpointError: there is no such header.
    """
    asked = int.from_bytes(first[:8], "little")
    if len(first) < 9 or first[8:9] != b"{" or asked > size - 8:
        kind = next((kind for start, kind in _STARTS if first.startswith(start)), None)
        if kind:
            raise CheckpointError(path, "a checkpoint, which is a safetensors file", kind, damaged=False)
        found = f"{size:,} bytes that begin with {first.hex(' ')}" if first else "an empty file"
        raise CheckpointError(path, "a safetensors file: a length and a header within the file", found)
    if asked > MOST:
        raise CheckpointError(path, f"a header of at most {MOST:,} bytes", f"one of {asked:,}")
    return asked


_FOREIGN = "write load_net(path, net, foreign=True) for weights from elsewhere"
_PICKLE = f"a pickle ({{}}), which is refused because loading it can run code: {_FOREIGN}"
_STARTS = (
    (b"PK\x03\x04", _PICKLE.format("in a zip, as torch.save writes it")),
    *((bytes((0x80, i)), _PICKLE.format(f"protocol {i}")) for i in range(1, 6)),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a file compressed by gzip"),
    (b"GGUF", "a GGUF file"),
)
"""First bytes of files of other kinds."""


def parsed(path: str, raw: bytearray, size: int) -> Header:
    """What a header says.

    Args:
        path: for messages. raw: the header without its length. size: bytes in the whole file.

    Raises:
        CheckpointError: it is damaged, contradicts itself or the file, or another program wrote it.
    """
    reading = _Reading(path, size - 8 - len(raw))
    reading.check_digest(raw)
    return reading.header(raw, 8 + len(raw))


class _Reading:
    """Takes a header apart, each thing it says being what it should."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._bytes = size

    def check_digest(self, raw: bytearray) -> None:
        places = [place.span(1) for place in islice(_DIGEST.finditer(raw), 2)]
        if len(places) != 1:
            self._refuse(raw)
        (start, end), view = places[0], memoryview(raw)
        digest = sha256(view[:start])
        digest.update(NO_DIGEST.encode())
        digest.update(view[end:])
        told, found = raw[start:end].decode(), digest.hexdigest()
        if found != told:
            self._wrong(f"a header with the digest {told:.16}...", f"one with {found:.16}...")

    def _refuse(self, raw: bytearray) -> NoReturn:
        """A header without a digest of ours: another program's, or ours and damaged."""
        whole = self._json(raw, "a header in JSON")
        ours = whole.get("__metadata__", {})
        if isinstance(ours, dict) and _OURS.isdisjoint(ours):
            found = f"a safetensors file of another program: {_FOREIGN}"
            raise CheckpointError(self._path, "a checkpoint of étude", found, damaged=False)
        self._wrong("a header with one digest of itself", "none, or several")

    def header(self, raw: bytearray, start: int) -> Header:
        whole = self._json(raw, "a header in JSON")
        ours = whole.pop("__metadata__", None)
        if not isinstance(ours, dict) or not all(map(_is_text, (*ours, *ours.values()))):
            self._wrong("metadata that are texts", short(ours))
        others = self._json(ours.get("dtypes", "{}"), "dtypes in JSON")
        entries = self._entries(whole, others)
        digests = self._json(ours.get("digests", ""), "digests in JSON")
        if digests.keys() != whole.keys():
            self._wrong("a digest of every array", self._apart(digests.keys(), whole.keys()))
        return Header(entries, self._json(ours.get("etude", ""), "a record in JSON"), digests, start)

    def _json(self, text: bytearray | str, expected: str) -> dict[str, Any]:
        """An object in JSON, unless it would take far more memory than its file is long."""
        if not in_proportion(text, self._bytes):
            self._wrong("a header in proportion to its file", f"{len(text):,} bytes with too many values")
        try:
            plain = text.decode() if isinstance(text, bytearray) else text
            found = json.loads(plain, object_pairs_hook=_unique, parse_int=_int)
        except (ValueError, RecursionError) as error:
            self._wrong(expected, f"{error!s:.200}")
        if not isinstance(found, dict):
            self._wrong(expected, short(found))
        return found

    def _entries(self, arrays: Mapping[str, Any], others: Mapping[str, Any]) -> tuple[Entry, ...]:
        if not others.keys() <= arrays.keys():
            self._wrong("dtypes of arrays that are there", self._apart(others.keys(), arrays.keys()))
        for name in arrays:
            if not _is_text(name):
                self._wrong("names that are texts", short(name))
        made = [self._entry(name, told, others.get(name)) for name, told in arrays.items()]
        made.sort(key=lambda entry: (entry.begin, entry.end))
        at = 0
        for entry in made:
            if entry.begin != at:
                self._wrong(f"the array {short(entry.name)} at byte {at:,}", f"it at {entry.begin:,}")
            at = entry.end
        if at != self._bytes:
            self._wrong(f"{at:,} bytes of arrays", f"{self._bytes:,}")
        return tuple(made)

    def _entry(self, name: str, told: Any, other: Any) -> Entry:
        if not isinstance(told, dict) or told.keys() != {"dtype", "shape", "data_offsets"}:
            self._wrong(f"dtype, shape and place of the array {short(name)}", short(told))
        code, shape, place = told["dtype"], told["shape"], told["data_offsets"]
        if not isinstance(code, str) or code not in DTYPES:
            self._wrong(f"a dtype of {short(name)}", short(code))
        if not _are_counts(shape) or not _are_counts(place) or len(shape) > 64 or len(place) != 2:
            self._wrong(f"whole numbers as shape and place of {short(name)}", f"{short(shape)}, {short(place)}")
        dtype = self._dtype(name, DTYPES[code], other)
        begin, end = place
        if math.prod(shape) * DTYPES[code].itemsize != end - begin or begin % dtype.itemsize:
            self._wrong(f"a place of {short(name)} that fits {code} {short(shape)}", short(place))
        if dtype.is_complex and shape[-1:] != [2]:
            self._wrong(f"pairs of numbers for {short(name)}", short(shape))
        return Entry(name, dtype, tuple(shape[:-1] if dtype.is_complex else shape), begin, end)

    def _dtype(self, name: str, kept: torch.dtype, other: Any) -> torch.dtype:
        if other is None:
            return kept
        if not isinstance(other, str) or other not in OTHERS or stored(OTHERS[other]) != kept:
            self._wrong(f"a dtype of {short(name)} that is kept as {CODES[kept]}", short(other))
        return OTHERS[other]

    def _apart(self, some: Iterable[str], others: Iterable[str]) -> str:
        return ", ".join(short(name) for name in sorted(set(some) ^ set(others))[:3]) + " in one of two lists"

    def _wrong(self, expected: str, found: str) -> NoReturn:
        raise CheckpointError(self._path, expected, found)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = max(Counter(name for name, _ in pairs).items(), key=lambda item: item[1])[0]
        raise ValueError(f"the name {short(twice)} twice")
    return found


def _int(text: str) -> int:
    if len(text) > 1000:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _is_text(value: object) -> bool:
    """Whether it is a text that can be written in UTF-8, which one with half a character cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
