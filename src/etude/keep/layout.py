"""Where the arrays of a file lie: one after another without holes, each where its numbers have to begin."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import TypeAlias

import torch
from torch import Tensor

from etude.errors import StateError
from etude.keep.header import Entry, known

GROWING = "history:"
"""Begins the names of arrays that get longer during a run: they come after the others, which so stay where they are."""

_LINE = 64
"""Bytes of a line of a processor's cache: arrays that begin with one are copied faster."""

_WORD = 8
_SHAPELESS = torch.Size((-1,))

Kind: TypeAlias = tuple[torch.Size, torch.dtype, torch.device, torch.layout]


def kind(array: Tensor) -> Kind:
    """What decides where an array lies, and whether it can be kept."""
    # An array of arrays has no shape to ask for; `check` refuses it.
    shape = _SHAPELESS if array.is_nested else array.shape
    return shape, array.dtype, array.device, array.layout


class Layout:
    """Where each of some arrays lies.

    Args:
        kinds: of the arrays, by name.
        before: a layout of which all is taken that is the same, for the time that saves.

    Attributes:
        kinds: as given. entries: by name, in the order of the file. size: bytes in all.
    """

    def __init__(self, kinds: Mapping[str, Kind], before: Layout | None = None) -> None:
        self.kinds = dict(kinds)
        known_kinds, known_entries = (before.kinds, before.entries) if before else ({}, {})
        same = {name for name, one in self.kinds.items() if known_kinds.get(name) == one}
        sizes = {
            name: known_entries[name].end - known_entries[name].begin
            if name in same
            else shape.numel() * dtype.itemsize
            for name, (shape, dtype, _, _) in self.kinds.items()
        }
        self.entries: dict[str, Entry] = {}
        at = 0
        for name in sorted(sizes, key=lambda name: _rank(name, sizes[name])):
            if name in same and known_entries[name].begin == at:
                self.entries[name] = known_entries[name]
            else:
                shape, dtype, _, _ = self.kinds[name]
                self.entries[name] = Entry(name, dtype, tuple(shape), at, at + sizes[name])
            at += sizes[name]
        self.size = at


def _rank(name: str, size: int) -> tuple[int, bool, str]:
    """The place in the order: arrays of the roundest size first.

    A size that 64 divides keeps the next array at the beginning of a line, a size that 32 divides at half a line, and
    so on; the size of an array is at least as round as that of its numbers. What grows counts as a multiple of 8.
    """
    grows = name.startswith(GROWING)
    return -gcd(size, _WORD if grows else _LINE), grows, name


def memory(size: int) -> Tensor:
    """So many bytes of memory on the host, beginning with a line; what is in them does not matter.

    They are not filled, as `torch.empty` fills them where torch is to be deterministic.

    Raises:
        MemoryError: they are not to be had.
    """
    try:
        raw = torch.UntypedStorage(size)  # type: ignore[no-untyped-call]
    except (RuntimeError, TypeError, ValueError) as error:
        raise MemoryError(f"{size:,} bytes") from error
    return torch.empty(0, dtype=torch.uint8).set_(raw)


def check(name: str, array: Tensor) -> None:
    """Refuse what cannot be kept.

    Raises:
        StateError: the array is sparse, quantized, nested, on "meta" or of an unknown dtype, or no file can name it so.
    """
    if array.layout != torch.strided:
        raise StateError(f"{name}: an array of layout {array.layout} cannot be kept. Write it as to_dense().")
    if array.is_quantized:
        raise StateError(f"{name}: a quantized array cannot be kept. Write it as dequantize().")
    if array.is_nested:
        raise StateError(f"{name}: a nested array cannot be kept. Write it as to_padded_tensor(0.0).")
    if array.is_meta:
        raise StateError(f"{name}: an array on the device meta has no numbers to keep. Write them first: to_empty().")
    if not known(array.dtype):
        raise StateError(f"{name}: an array of {array.dtype} cannot be kept.")
    if name == "__metadata__":
        raise StateError(f"{name}: an array cannot have this name in a safetensors file. Give it another.")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise StateError(f"{name!r}: an array cannot have a name that is no text in UTF-8. Give it another.") from error
