"""Checkpoints as files: one safetensors file each, written whole or not at all, and read with every byte checked."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from etude.errors import CheckpointError
from etude.keep import disk, parsing
from etude.keep.digests import Digests, Run, Together
from etude.keep.header import Entry, Header, short
from etude.keep.image import Image, absolute, write
from etude.keep.layout import memory
from etude.keep.whole import PART

__all__ = ["PART", "Image", "Saved", "read", "read_arrays", "read_header", "read_record", "verify", "write"]

_LINE = 64
"""Arrays in memory are as far from a multiple of this as they are in their file."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that was read, every byte of it checked.

    Attributes:
        path: its file. record: what was kept with the arrays. tensors: the arrays by name, in one run of memory.
    """

    path: str
    record: dict[str, Any]
    tensors: dict[str, Tensor]


def read(path: str | os.PathLike[str]) -> Saved:
    """Read a whole checkpoint.

    Raises:
        CheckpointError: the file is not what was written, cannot be read, or is no checkpoint.
    """
    with _opened(path) as opened:
        return Saved(opened.path, opened.header.record, opened.arrays(opened.header.entries))


def read_header(path: str | os.PathLike[str]) -> Header:
    """What the header of a checkpoint says, its digest checked: the arrays and where they lie, the record.

    Raises:
        CheckpointError: as `read_record`.
    """
    with _opened(path) as opened:
        return opened.header


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record of a checkpoint, without its arrays: only the header is read, and its digest checked.

    Raises:
        CheckpointError: the header is not what was written, or the file cannot be read, or is no checkpoint.
    """
    with _opened(path) as opened:
        return opened.header.record


def read_arrays(path: str | os.PathLike[str], names: Container[str] | Callable[[str], bool]) -> dict[str, Tensor]:
    """Some arrays of a checkpoint, each checked.

    Args:
        names: those wanted, or what says whether one is; names that the file lacks are left out.

    Raises:
        CheckpointError: as `read`, of the header and these arrays.
    """
    wanted = names if callable(names) else names.__contains__
    with _opened(path) as opened:
        return opened.arrays([entry for entry in opened.header.entries if wanted(entry.name)])


def verify(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Check every byte of a checkpoint with little memory, and return its record.

    Raises:
        CheckpointError: as `read`.
    """
    with _opened(path) as opened:
        opened.check()
        return opened.header.record


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_Opened]:
    """A file with its header read and checked; what the system refuses within becomes a CheckpointError."""
    path = absolute(path)
    try:
        fd = disk.open_to_read(path)
        try:
            yield _Opened(path, fd)
        finally:
            disk.close(fd)
    except OSError as error:
        found = "no file" if error.errno == errno.ENOENT else error.strerror or str(error)
        raise CheckpointError(path, "a checkpoint", found, damaged=False) from error
    except (MemoryError, OverflowError) as error:
        found = f"less memory than it needs ({error})" if str(error) else "less memory than it needs"
        raise CheckpointError(path, "a checkpoint that fits into memory", found, damaged=False) from error


class _Opened:
    """A file whose header was read."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._size = disk.size(fd)
        first = bytearray(16)
        count = disk.read_at(fd, memoryview(first), 0)
        raw = bytearray(parsing.length(path, bytes(first[:count]), self._size))
        self._read(memoryview(raw), 8)
        self.header: Header = parsing.parsed(path, raw, self._size)

    def _read(self, view: memoryview, at: int) -> None:
        found = disk.read_at(self._fd, view, at)
        if found != len(view):
            # The size said otherwise when the file was opened.
            raise CheckpointError(self.path, f"{self._size:,} bytes", f"{at + found:,}, cut short while it was read")

    def arrays(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        """Some arrays, in the order of the file, read into one run of memory."""
        starts, shifts, size = [0], [0], 0
        for entry in entries:
            # Arrays that are neighbours in the file are so in memory, and all lie as in the file in their line.
            if entry.begin + shifts[-1] != size:
                size += (entry.begin - size) % _LINE
                starts.append(entry.begin)
                shifts.append(size - entry.begin)
            size += entry.end - entry.begin
        flat = memory(size)
        view = flat.numpy().data

        def place(at: int) -> int:
            return at + shifts[bisect_right(starts, at) - 1]

        self._check(entries, lambda run: view[place(run.begin) : place(run.begin) + run.end - run.begin])
        return {entry.name: self._array(flat, entry, place(entry.begin)) for entry in entries}

    def check(self) -> None:
        """Compare the digests of all arrays."""
        self._check(self.header.entries, lambda run: memoryview(bytearray(run.end - run.begin)))

    def _check(self, entries: Sequence[Entry], memory: Callable[[Run], memoryview]) -> None:
        """Read arrays into memory and compare their digests with those of the header."""
        digests = Digests([(entry.begin, entry.end) for entry in entries])

        def job(run: Run) -> None:
            view = memory(run)
            self._read(view, self.header.start + run.begin)
            digests.take(run, view)

        with Together([partial(job, run) for run in digests.runs]) as together:
            together.finish()
        for entry, found in zip(entries, digests.all(), strict=True):
            told = self.header.digests[entry.name]
            if found != told:
                expected = f"the array {short(entry.name)} with the digest {told!s:.16}..."
                raise CheckpointError(self.path, expected, f"one with {found:.16}...")

    def _array(self, flat: Tensor, entry: Entry, at: int) -> Tensor:
        try:
            array = entry.of(flat, at)
        except (RuntimeError, TypeError) as error:
            found = f"one of shape {short(entry.shape)}"
            raise CheckpointError(self.path, f"the array {short(entry.name)} of a possible shape", found) from error
        if entry.dtype == torch.bool and (array.view(torch.uint8) > 1).any():
            raise CheckpointError(self.path, f"ones and zeros in the array {short(entry.name)}", "other numbers")
        return array
