"""Checkpoints made by hand, bit by bit, with digests that fit: so that a lie is not found by its digest alone.

This is a second, short writer of the format; `etude.keep.files` is not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PIECE = 4 << 20
"""Bytes of an array under one digest; its digest is that of the digests of its pieces."""


@dataclass(slots=True)
class Crafted:
    """A file to be: every part of it can be exchanged before `made` is called.

    Attributes:
        record: what stands under "etude". arrays: bytes by name, all float32. entries: what the header says of an
            array instead of the truth. metadata: fields of `__metadata__` instead of the right ones; None takes one
            away. header: the text of the header instead of one that follows from the rest. length: what the first eight
            bytes say instead of the length of the header. sign: whether the digest of the header is right.
    """

    record: Any = field(default_factory=dict)
    arrays: dict[str, bytes] = field(default_factory=dict)
    entries: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    header: bytes | None = None
    length: int | None = None
    sign: bool = True
    tail: bytes = b""

    def made(self) -> bytes:
        """The file."""
        header = self.header if self.header is not None else self._header()
        header += b" " * (-len(header) % 8)
        if self.sign:
            header = signed(header)
        length = len(header) if self.length is None else self.length % (1 << 64)
        return length.to_bytes(8, "little") + header + b"".join(self.arrays.values()) + self.tail

    def _header(self) -> bytes:
        entries, at = {}, 0
        for name, data in self.arrays.items():
            entries[name] = {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [at, at + len(data)]}
            at += len(data)
        metadata = {
            "format": "pt",
            "etude": _text(self.record),
            "digests": _text({name: digest(data) for name, data in self.arrays.items()}),
            "digest": "0" * 64,
            **self.metadata,
        }
        kept = {name: value for name, value in metadata.items() if value is not None}
        return _text({"__metadata__": kept, **entries, **self.entries}).encode("utf-8", "surrogatepass")


def digest(data: bytes) -> str:
    """Of one array."""
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)] or [b""]
    return hashlib.sha256(b"".join(hashlib.sha256(piece).digest() for piece in pieces)).hexdigest()


def signed(header: bytes) -> bytes:
    """A header with its digest in the place of its 64 zeros; as it is where it has none."""
    return header.replace(b"0" * 64, hashlib.sha256(header).hexdigest().encode(), 1)


def opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a file and the bytes of its arrays."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def resigned(data: bytes, record: Mapping[str, Any] | str) -> bytes:
    """A good file with another record, and the digest of the header that belongs to it."""
    header, arrays = opened(data)
    header["__metadata__"] |= {"etude": _text(record), "digest": "0" * 64}
    text = _text(header).encode("utf-8", "surrogatepass")
    text = signed(text + b" " * (-len(text) % 8))
    return len(text).to_bytes(8, "little") + text + arrays


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
