"""The header of a checkpoint: where each array lies, the record, and a digest of everything.

The file is one of the safetensors format: eight bytes with the length of the header, the header as JSON, the arrays.
What is ours stands in the header's `__metadata__`, as text: "etude" holds the record, "digests" the digest of each
array, "dtypes" those dtypes that the format lacks, and "digest" is the sha256 of the header itself with these 64
digits as zeros.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from reprlib import Repr
from typing import Any

import torch
from torch import Tensor

from etude.errors import StateError

MOST = 100_000_000
"""Bytes of a header at most, as in the safetensors library."""

_ROOM = 64 << 20
_FOR_A_BYTE = 8
_FOR_A_VALUE = 80
"""Memory that parsing may take beyond the size of the arrays, and what it takes for a byte and for a value at most."""

_ALIGNED = 64
NO_DIGEST = "0" * 64
"""What stands for the digest of the header where that is taken."""

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

DTYPES = {code: dtype for dtype, code in CODES.items()}
_INTS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LACKING = (
    torch.complex32,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
    torch.float4_e2m1fn_x2,
)
OTHERS = {str(dtype).removeprefix("torch."): dtype for dtype in _LACKING}
"""Dtypes that not every reader knows: complex numbers are kept as pairs, all else as ints of the same size."""


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

    def of(self, flat: Tensor, at: int) -> Tensor:
        """The array in a run of bytes in memory, where it begins at `at`."""
        return flat[at : at + self.end - self.begin].view(self.dtype).view(self.shape)


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
    return dtype in CODES or str(dtype).removeprefix("torch.") in OTHERS


_SHORT = Repr()
_SHORT.maxstring = 100


def short(value: object) -> str:
    """A value as it is written in a message, however long it may be."""
    return _SHORT.repr(value)


_ADVICE = "Keep long lists as tensors."


def in_proportion(text: bytes | bytearray | str, size: int) -> bool:
    """Whether parsing a header takes little memory, or no more than arrays of `size` bytes do themselves.

    A hostile header of some megabytes may stand for gigabytes of empty lists.
    """
    if isinstance(text, str):
        values = text.count(",") + text.count("[") + text.count("{")
    else:
        values = text.count(b",") + text.count(b"[") + text.count(b"{")
    return _FOR_A_VALUE * values + _FOR_A_BYTE * len(text) <= _ROOM + size


class Writing:
    """Makes the header of a file.

    Args:
        entries: the arrays, in the order of the file. record: what is kept with them: a dict that JSON can write.

    Attributes:
        start: where the bytes of the arrays begin.

    Raises:
        StateError: the record is no JSON, or the header would be more than readers take.
    """

    def __init__(self, entries: Sequence[Entry], record: Mapping[str, Any]) -> None:
        self._names = [entry.name for entry in entries]
        self._arrays = {entry.name: _described(entry) for entry in entries}
        others = {e.name: str(e.dtype).removeprefix("torch.") for e in entries if e.dtype not in CODES}
        self._ours = {"format": "pt", "etude": _record(record), **({"dtypes": _text(others)} if others else {})}
        text = self._text([NO_DIGEST] * len(entries))
        _check(text, len(self._ours["etude"]), entries[-1].end if entries else 0)
        self.start = 8 + len(text)

    def made(self, digests: Sequence[str]) -> bytes:
        """The first bytes of the file: length and header.

        Args:
            digests: of the arrays, in their order.
        """
        text = self._text(digests)
        found = sha256(text).hexdigest().encode()
        whole = text.replace(b'"digest":"' + NO_DIGEST.encode(), b'"digest":"' + found, 1)
        return len(text).to_bytes(8, "little") + whole

    def _text(self, digests: Sequence[str]) -> bytes:
        told = _text(dict(zip(self._names, digests, strict=True)))
        ours = {**self._ours, "digests": told, "digest": NO_DIGEST}
        text = _text({"__metadata__": ours, **self._arrays}).encode()
        return text + b" " * (-(8 + len(text)) % _ALIGNED)


def _record(record: Mapping[str, Any]) -> str:
    try:
        return _text(record)
    except (TypeError, ValueError, RecursionError) as error:
        raise StateError(f"The record cannot be written as JSON: {error}") from error


def _check(text: bytes, record: int, size: int) -> None:
    """Refuse to write what would be refused when it is read."""
    told = f"The header would have {len(text):,} bytes, {record:,} of them the record"
    if len(text) > MOST:
        raise StateError(f"{told}, and readers take {MOST:,}. {_ADVICE}")
    if not in_proportion(text, size):
        raise StateError(f"{told}, with more values than {size:,} bytes of arrays allow. {_ADVICE}")


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _described(entry: Entry) -> dict[str, Any]:
    shape = [*entry.shape, 2] if entry.dtype.is_complex else list(entry.shape)
    return {"dtype": CODES[stored(entry.dtype)], "shape": shape, "data_offsets": [entry.begin, entry.end]}


def stored(dtype: torch.dtype) -> torch.dtype:
    """The dtype under which an array stands in the file."""
    if dtype in CODES:
        return dtype
    return dtype.to_real() if dtype.is_complex else _INTS[dtype.itemsize]
