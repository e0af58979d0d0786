"""The header of a checkpoint: where each array lies, the record, and a digest of everything.

The file is one of the safetensors format: eight bytes with the length of the header, the header as JSON, the arrays.
What is ours stands in the header's `__metadata__`, as text: "etude" holds the record, "digests" the digest of each
array, "dtypes" those dtypes that the format lacks, and "digest" is the sha256 of the header itself with these 64
digits as zeros.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NoReturn

import torch

from etude.errors import CheckpointError, StateError

MOST = 100_000_000
"""Bytes of a header at most, as in the safetensors library."""

_ROOM = 64 << 20
_FOR_A_BYTE = 8
_FOR_A_VALUE = 80
"""Memory for a header beyond the size of its file, and what parsing takes for a byte and for a value, at most."""

_ALIGNED = 64
_NO_DIGEST = "0" * 64
_DIGEST = re.compile(rb'"digest":"([0-9a-f]{64})"')

CODES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
"""Dtypes that every reader of safetensors knows, and their names there."""

_DTYPES = {code: dtype for dtype, code in CODES.items()}
_INTS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_OTHERS = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and dtype not in CODES and (dtype.is_complex or dtype.itemsize in _INTS)
}
"""Dtypes that are kept as others of the same size: complex numbers as pairs, all else as ints."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An array in a file.

    Attributes:
        name: its name. dtype: as in torch. shape: its shape. begin, end: its bytes, counted from the first array's.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says, once its digest was found right.

    Attributes:
        entries: the arrays in the order in which they lie in the file. record: what was kept with them.
        digests: of each array. start: where the bytes of the arrays begin in the file.
    """

    entries: tuple[Entry, ...]
    record: dict[str, Any]
    digests: dict[str, str]
    start: int


def known(dtype: torch.dtype) -> bool:
    """Whether arrays of this dtype can be kept."""
    return dtype in CODES or str(dtype).removeprefix("torch.") in _OTHERS


class Writing:
    """Makes the headers of files with the same arrays.

    Args:
        entries: the arrays, in the order of the file.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._names = [entry.name for entry in entries]
        self._arrays = json.dumps({entry.name: _described(entry) for entry in entries}, separators=(",", ":"))
        others = {e.name: str(e.dtype).removeprefix("torch.") for e in entries if e.dtype not in CODES}
        self._others = {"dtypes": _text(others)} if others else {}

    def text(self, record: Mapping[str, Any]) -> str:
        """The record as JSON.

        Raises:
            StateError: it is more than JSON can say.
        """
        try:
            return _text(record)
        except (TypeError, ValueError, RecursionError) as error:
            raise StateError(f"The record cannot be written as JSON: {error}") from error

    def made(self, record: str, digests: Sequence[str] | None = None) -> bytes:
        """The first bytes of a file: length and header.

        Args:
            record: what `text` made of the record. digests: of the arrays; without them the length is right.

        Raises:
            StateError: it would be longer than readers take.
        """
        marks = dict(zip(self._names, digests or [_NO_DIGEST] * len(self._names), strict=True))
        ours = {"format": "pt", "etude": record, **self._others, "digests": _text(marks), "digest": _NO_DIGEST}
        arrays = "" if self._arrays == "{}" else f",{self._arrays[1:-1]}"
        text = f'{{"__metadata__":{_text(ours)}{arrays}}}'.encode()
        text += b" " * (-(8 + len(text)) % _ALIGNED)
        if len(text) > MOST:
            raise StateError(
                f"The header would have {len(text):,} bytes, {len(record):,} of them the record, and readers take "
                f"{MOST:,}: keep long lists as tensors."
            )
        found = sha256(text).hexdigest().encode()
        whole = text.replace(b'"digest":"' + _NO_DIGEST.encode(), b'"digest":"' + found, 1)
        return len(text).to_bytes(8, "little") + whole


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _described(entry: Entry) -> dict[str, Any]:
    shape = [*entry.shape, 2] if entry.dtype.is_complex else list(entry.shape)
    return {"dtype": CODES[_stored(entry.dtype)], "shape": shape, "data_offsets": [entry.begin, entry.end]}


def _stored(dtype: torch.dtype) -> torch.dtype:
    """The dtype under which an array stands in the file."""
    if dtype in CODES:
        return dtype
    return dtype.to_real() if dtype.is_complex else _INTS[dtype.itemsize]


# ------------------------------------------------------------------------------------------------------- reading


def length(path: str, first: bytes, size: int) -> int:
    """The length of the header, from the first eight bytes of a file of `size` bytes.

    Raises:
        CheckpointError: there is no such header.
    """
    asked = int.from_bytes(first[:8], "little")
    if len(first) < 9 or first[8:9] != b"{" or asked > size - 8:
        kind = _kind(first)
        if kind:
            raise CheckpointError(path, *kind, damaged=False)
        found = f"{size:,} bytes that begin with {first[:16].hex(' ') or 'nothing'}"
        raise CheckpointError(path, "a safetensors file: a length and a header within the file", found)
    if asked > MOST:
        raise CheckpointError(path, f"a header of at most {MOST:,} bytes", f"one of {asked:,}")
    return asked


_PICKLE = (
    "a checkpoint, which is a safetensors file",
    "a pickle ({}), which is refused because loading it can run code: "
    "write load_net(path, net, foreign=True) for weights from elsewhere",
)
_STARTS = (
    (b"PK\x03\x04", (_PICKLE[0], _PICKLE[1].format("in a zip, as torch.save writes it"))),
    (b"\x80\x02", (_PICKLE[0], _PICKLE[1].format("protocol 2"))),
    (b"\x80\x03", (_PICKLE[0], _PICKLE[1].format("protocol 3"))),
    (b"\x80\x04", (_PICKLE[0], _PICKLE[1].format("protocol 4"))),
    (b"\x80\x05", (_PICKLE[0], _PICKLE[1].format("protocol 5"))),
    (b"\x89HDF", (_PICKLE[0], "an HDF5 file")),
    (b"\x1f\x8b", (_PICKLE[0], "a file compressed by gzip")),
    (b"GGUF", (_PICKLE[0], "a GGUF file")),
)


def _kind(first: bytes) -> tuple[str, str] | None:
    return next((said for start, said in _STARTS if first.startswith(start)), None)


def parsed(path: str, raw: bytes, size: int) -> Header:
    """What a header says.

    Args:
        path: for messages. raw: the header without its length. size: bytes in the whole file.

    Raises:
        CheckpointError: it is damaged, contradicts itself or the file, or another program wrote it.
    """
    _check_digest(path, raw)
    _check_cost(path, raw, size)
    reading = _Reading(path, size - 8 - len(raw))
    return reading.header(raw, 8 + len(raw))


def _check_digest(path: str, raw: bytes) -> None:
    places = list(_DIGEST.finditer(raw))
    if len(places) != 1:
        _not_ours(path, raw)
    start, end = places[0].span(1)
    found = sha256(raw[:start] + _NO_DIGEST.encode() + raw[end:]).hexdigest()
    told = places[0].group(1).decode()
    if found != told:
        raise CheckpointError(path, f"a header with the digest {told[:16]}...", f"one with {found[:16]}...")


def _not_ours(path: str, raw: bytes) -> NoReturn:
    said = b'"__metadata__"' in raw and any(word in raw for word in (b'"etude"', b'"digests"', b'"digest"'))
    try:
        foreign = not said and isinstance(json.loads(raw), dict)
    except (ValueError, RecursionError):
        foreign = False
    if foreign:
        raise CheckpointError(
            path,
            "a checkpoint of étude",
            "a safetensors file of another program: write load_net(path, net, foreign=True) for weights from elsewhere",
            damaged=False,
        )
    raise CheckpointError(path, "a header with one digest of itself", "none, or several")


def _check_cost(path: str, text: bytes | str, size: int) -> None:
    """Refuse what would take far more memory than its file is long."""
    if isinstance(text, bytes):
        values = text.count(b",") + text.count(b"[") + text.count(b"{")
    else:
        values = text.count(",") + text.count("[") + text.count("{")
    cost = _FOR_A_VALUE * values + _FOR_A_BYTE * len(text)
    if not text.isascii() or cost > _ROOM + size:
        raise CheckpointError(path, "a header in proportion to its file", f"{len(text):,} bytes for {values:,} values")


class _Reading:
    """Takes a header apart, each thing it says being what it should."""

    def __init__(self, path: str, bytes_: int) -> None:
        self._path = path
        self._bytes = bytes_

    def header(self, raw: bytes, start: int) -> Header:
        whole = self._json(raw, "a header in JSON")
        ours = whole.pop("__metadata__", None)
        if not isinstance(ours, dict) or not all(isinstance(text, str) for text in ours.values()):
            self._wrong("metadata that are texts", f"{ours!r:.60}")
        others = self._json(ours.get("dtypes", "{}"), "dtypes in JSON")
        entries = self._entries(whole, others)
        digests = self._json(ours.get("digests", ""), "digests in JSON")
        if digests.keys() != whole.keys():
            self._wrong("a digest of every array", self._apart(digests.keys(), whole.keys()))
        return Header(entries, self._json(ours.get("etude", ""), "a record in JSON"), digests, start)

    def _json(self, text: bytes | str, expected: str) -> dict[str, Any]:
        _check_cost(self._path, text, self._bytes)
        try:
            found = json.loads(text, object_pairs_hook=_unique, parse_int=_int)
        except (ValueError, RecursionError) as error:
            self._wrong(expected, f"{error!s:.200}")
        if not isinstance(found, dict):
            self._wrong(expected, f"{found!r:.60}")
        return found

    def _entries(self, arrays: Mapping[str, Any], others: Mapping[str, Any]) -> tuple[Entry, ...]:
        if not others.keys() <= arrays.keys():
            self._wrong("dtypes of arrays that are there", self._apart(others.keys(), arrays.keys()))
        made = [self._entry(name, told, others.get(name)) for name, told in arrays.items()]
        made.sort(key=lambda entry: (entry.begin, entry.end))
        at = 0
        for entry in made:
            if entry.begin != at:
                self._wrong(f"the array {entry.name[:60]!r} at byte {at:,}", f"it at {entry.begin:,}")
            at = entry.end
        if at != self._bytes:
            self._wrong(f"{at:,} bytes of arrays", f"{self._bytes:,}")
        return tuple(made)

    def _entry(self, name: str, told: Any, other: Any) -> Entry:
        if not isinstance(told, dict) or told.keys() != {"dtype", "shape", "data_offsets"}:
            self._wrong(f"dtype, shape and place of the array {name[:60]!r}", f"{told!r:.60}")
        code, shape, place = told["dtype"], told["shape"], told["data_offsets"]
        if not isinstance(code, str) or code not in _DTYPES:
            self._wrong(f"a dtype of {name[:60]!r}", f"{code!r:.60}")
        if not _are_counts(shape) or not _are_counts(place) or len(shape) > 64 or len(place) != 2:
            self._wrong(f"whole numbers as shape and place of {name[:60]!r}", f"{shape!r:.60}, {place!r:.60}")
        dtype = self._dtype(name, _DTYPES[code], other)
        begin, end = place
        if math.prod(shape) * _DTYPES[code].itemsize != end - begin or begin % dtype.itemsize:
            self._wrong(f"a place of {name[:60]!r} that fits {code} {shape!r:.60}", f"{place!r:.60}")
        if dtype.is_complex and shape[-1:] != [2]:
            self._wrong(f"pairs of numbers for {name[:60]!r}", f"{shape!r:.60}")
        return Entry(name, dtype, tuple(shape[:-1] if dtype.is_complex else shape), begin, end)

    def _dtype(self, name: str, stored: torch.dtype, other: Any) -> torch.dtype:
        if other is None:
            return stored
        if not isinstance(other, str) or other not in _OTHERS or _stored(_OTHERS[other]) != stored:
            self._wrong(f"a dtype of {name[:60]!r} that can be kept as {CODES[stored]}", f"{other!r:.60}")
        return _OTHERS[other]

    def _apart(self, some: Iterable[str], others: Iterable[str]) -> str:
        return ", ".join(f"{name[:60]!r}" for name in sorted(set(some) ^ set(others))[:3]) + " in one of two lists"

    def _wrong(self, expected: str, found: str) -> NoReturn:
        raise CheckpointError(self._path, expected, found)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"the name {twice[:60]!r} twice")
    return found


def _int(text: str) -> int:
    if len(text) > 1000:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
