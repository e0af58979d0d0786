"""Checkpoints as files: one safetensors file each, written whole or not at all, and read with every byte checked."""

from __future__ import annotations

import errno
import os
import re
import secrets
from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from etude.errors import CheckpointError, StateError
from etude.keep import disk, header
from etude.keep.digests import PIECE, Digests, Together
from etude.keep.header import Entry, Header, Writing

PART = re.compile(r"\.etude-[0-9a-f]{8}\.part\Z")
"""Names of files that are being written; without a writer they are strays."""

_ALIGNED = 64
"""Arrays in memory are as far from a multiple of this as they are in their file."""

_LONG = 4 * PIECE
"""Bytes from which on the disk begins while the digests are still being taken."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that was read, every byte of it checked.

    Attributes:
        path: its file. record: what was kept with the arrays. tensors: the arrays by name, in one run of memory.
    """

    path: str
    record: dict[str, Any]
    tensors: dict[str, Tensor]


class Image:
    """The bytes of a file to be: arrays are copied into memory that is kept for the next time, and written from there.

    Between `take` and the end of `write` the arrays themselves may change; `take` must not be called meanwhile.
    """

    def __init__(self) -> None:
        self._flat = torch.empty(0, dtype=torch.uint8)
        self._places: dict[str, Tensor] = {}
        self._devices: tuple[torch.device, ...] = ()
        self._spans: list[tuple[int, int]] = []
        self._writing = Writing(())

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy all arrays, so that they may change again; with the same names, shapes and dtypes, into the same memory.

        Args:
            tensors: by name; on a CPU or GPU, in any order in memory.

        Raises:
            StateError: one is sparse, quantized or without numbers (on "meta").
        """
        if not self._fits(tensors):
            self._lay_out(tensors)
        if not tensors:
            return
        with torch.no_grad():
            places = [self._places[name] for name in tensors]
            torch._foreach_copy_(places, [*tensors.values()], non_blocking=bool(self._devices))
        for device in self._devices:
            torch.cuda.synchronize(device)

    def _fits(self, tensors: Mapping[str, Tensor]) -> bool:
        places = self._places
        return tensors.keys() == places.keys() and all(
            tensor.shape == places[name].shape
            and tensor.dtype == places[name].dtype
            and tensor.layout == torch.strided
            and (tensor.device.type == "cpu" or tensor.device in self._devices)
            for name, tensor in tensors.items()
        )

    def _lay_out(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            _check_kind(name, tensor)
        entries = _laid_out(tensors)
        size = entries[-1].end if entries else 0
        devices = tuple({tensor.device for tensor in tensors.values() if tensor.is_cuda})
        if size > self._flat.numel() or size < self._flat.numel() // 2 or bool(devices) != bool(self._devices):
            self._places = {}
            self._flat = torch.empty(0, dtype=torch.uint8)
            self._flat = torch.empty(size, dtype=torch.uint8, pin_memory=bool(devices))
        self._places = {entry.name: _placed(self._flat, entry, entry.begin) for entry in entries}
        self._devices = devices
        self._spans = [(entry.begin, entry.end) for entry in entries]
        self._writing = Writing(entries)

    def write(self, path: str | os.PathLike[str], record: Mapping[str, Any]) -> int:
        """Write what was taken to a file, which is whole and durable when this returns; until then `path` is as it was.

        Args:
            path: the file; one that is there is replaced. Its folder must be there.
            record: what is kept with the arrays: a dict that JSON can write.

        Returns:
            The size of the file in bytes.

        Raises:
            CheckpointError: the system refused something; nothing is left but what was at `path` before.
            StateError: the record is no JSON, or too long.
        """
        path = os.path.abspath(path)
        text = self._writing.text(record)
        size = len(self._writing.made(text)) + self._size
        try:
            self._write(path, text)
        except OSError as error:
            raise _refused(path, error, size) from error
        return size

    @property
    def _size(self) -> int:
        return self._spans[-1][1] if self._spans else 0

    def _write(self, path: str, text: str) -> None:
        folder = os.path.dirname(path)
        part = os.path.join(folder, f".etude-{secrets.token_hex(4)}.part")
        fd = disk.create(part)
        try:
            try:
                self._fill(fd, text)
                disk.sync(fd)
            finally:
                disk.close(fd)
            disk.rename(part, path)
        except BaseException:
            with suppress(OSError):
                disk.remove(part)
            raise
        disk.sync_folder(folder)

    def _fill(self, fd: int, text: str) -> None:
        start, view = len(self._writing.made(text)), self._flat.numpy().data
        digests = Digests(self._spans)
        jobs = [partial(_hash, digests, run, view) for run in digests.runs]
        together = Together(jobs)
        if len(jobs) > 1:
            together.start()
        try:
            disk.write_at(fd, view[: self._size], start)
            if self._size >= _LONG:
                disk.hurry(fd)
            together.finish()
        except BaseException:
            together.stop()
            raise
        disk.write_at(fd, memoryview(self._writing.made(text, digests.all())), 0)


def write(path: str | os.PathLike[str], record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Write arrays and a record to a file; see `Image.take` and `Image.write`."""
    image = Image()
    image.take(tensors)
    return image.write(path, record)


def read(path: str | os.PathLike[str]) -> Saved:
    """Read a whole checkpoint.

    Raises:
        CheckpointError: the file is not what was written, cannot be read, or is no checkpoint.
    """
    with _opened(path) as opened:
        tensors = opened.arrays(opened.header.entries)
        return Saved(opened.path, opened.header.record, tensors)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record of a checkpoint, without its arrays: only the header is read, and its digest checked.

    Raises:
        CheckpointError: the header is not what was written, or the file cannot be read, or is no checkpoint.
    """
    with _opened(path) as opened:
        return opened.header.record


def read_arrays(path: str | os.PathLike[str], names: Container[str] | Callable[[str], bool]) -> dict[str, Tensor]:
    """Some arrays of a checkpoint, checked.

    Args:
        names: those wanted, or what says whether one is; names that the file lacks are left out.

    Raises:
        CheckpointError: as `read`, of the header and these arrays.
    """
    wanted = names if callable(names) else names.__contains__
    with _opened(path) as opened:
        return opened.arrays([entry for entry in opened.header.entries if wanted(entry.name)])


def verify(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Check every byte of a checkpoint, with little memory, and return its record.

    Raises:
        CheckpointError: as `read`.
    """
    with _opened(path) as opened:
        opened.check()
        return opened.header.record


def _check_kind(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided:
        raise StateError(f"{name}: an array of layout {tensor.layout} cannot be kept; write it as to_dense().")
    if tensor.is_quantized:
        raise StateError(f"{name}: a quantized array cannot be kept; write it as dequantize().")
    if tensor.device.type not in ("cpu", "cuda") or not header.known(tensor.dtype):
        raise StateError(f"{name}: an array of {tensor.dtype} on {tensor.device} cannot be kept.")


def _laid_out(tensors: Mapping[str, Tensor]) -> list[Entry]:
    """Arrays with large numbers first, so that each lies as its numbers ask."""
    entries, at = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        end = at + tensor.numel() * tensor.dtype.itemsize
        entries.append(Entry(name, tensor.dtype, tuple(tensor.shape), at, end))
        at = end
    return entries


def _placed(flat: Tensor, entry: Entry, at: int) -> Tensor:
    """The array in memory whose bytes begin at `at`."""
    return flat[at : at + entry.end - entry.begin].view(entry.dtype).view(entry.shape)


def _hash(digests: Digests, run: tuple[int, int], view: memoryview) -> None:
    begin, end = digests.span(run)
    digests.take(run, view[begin:end])


def _refused(path: str, error: OSError, size: int) -> CheckpointError:
    """What a system says that would not write."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CheckpointError(path, "to write it", f"{error.strerror or error}", damaged=False)
    try:
        free = f"{disk.free_bytes(os.path.dirname(path)):,} bytes are free"
    except OSError as unknown:
        free = f"how much is free is not known: {unknown.strerror}"
    return CheckpointError(path, f"room for {size:,} bytes", f"no space ({error.strerror}); {free}", damaged=False)


# ------------------------------------------------------------------------------------------------------- reading


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_Opened]:
    """A file with its header read and checked; what goes wrong within becomes a CheckpointError."""
    path = os.path.abspath(path)
    try:
        fd = disk.open_to_read(path)
        try:
            yield _Opened(path, fd, _header(path, fd))
        finally:
            disk.close(fd)
    except OSError as error:
        raise CheckpointError(path, "a checkpoint", _said(error), damaged=False) from error
    except (MemoryError, OverflowError) as error:
        raise CheckpointError(path, "a checkpoint that fits into memory", f"{error}", damaged=False) from error


def _said(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "no file"
    return f"{error.strerror or error}"


def _header(path: str, fd: int) -> Header:
    size = disk.size(fd)
    first = bytearray(16)
    count = disk.read_at(fd, memoryview(first), 0)
    raw = bytearray(header.length(path, bytes(first[:count]), size))
    if disk.read_at(fd, memoryview(raw), 8) != len(raw):
        raise CheckpointError(path, f"{size:,} bytes", "fewer")
    return header.parsed(path, bytes(raw), size)


class _Opened:
    """A file whose header was read."""

    def __init__(self, path: str, fd: int, head: Header) -> None:
        self.path = path
        self.header = head
        self._fd = fd

    def arrays(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        """Some arrays, read into one run of memory."""
        starts, places, size = [0], [0], 0
        for entry in entries:
            # Arrays that are neighbours in the file are so in memory too, and all lie as their numbers ask.
            if entry.begin != starts[-1] + size - places[-1]:
                size += (entry.begin - size) % _ALIGNED
                starts.append(entry.begin)
                places.append(size)
            size += entry.end - entry.begin
        flat = self._memory(size)
        view = flat.numpy().data

        def moved(at: int) -> int:
            group = bisect_right(starts, at) - 1
            return at - starts[group] + places[group]

        def memory(begin: int, end: int) -> memoryview:
            return view[moved(begin) : moved(begin) + end - begin]

        self._checked(entries, memory)
        return {entry.name: self._array(flat, entry, moved(entry.begin)) for entry in entries}

    def check(self) -> None:
        """Compare the digests of all arrays."""

        def memory(begin: int, end: int) -> memoryview:
            return memoryview(bytearray(end - begin))

        self._checked(self.header.entries, memory)

    def _checked(self, entries: Sequence[Entry], memory: Callable[[int, int], memoryview]) -> None:
        """Read arrays into memory and compare their digests with those of the header."""
        digests = Digests([(entry.begin, entry.end) for entry in entries])

        def job(run: tuple[int, int]) -> None:
            begin, end = digests.span(run)
            view = memory(begin, end)
            if disk.read_at(self._fd, view, self.header.start + begin) != end - begin:
                raise CheckpointError(self.path, f"{self.header.start + end:,} bytes or more", "a file cut short")
            digests.take(run, view)

        together = Together([partial(job, run) for run in digests.runs])
        together.start()
        together.finish()
        for entry, found in zip(entries, digests.all(), strict=True):
            told = self.header.digests[entry.name]
            if found != told:
                expected = f"the array {entry.name[:60]!r} with the digest {told[:16]!s}..."
                raise CheckpointError(self.path, expected, f"one with {found[:16]}...")

    def _memory(self, size: int) -> Tensor:
        try:
            return torch.empty(size, dtype=torch.uint8)
        except RuntimeError as error:
            raise MemoryError(f"{size:,} bytes of arrays") from error

    def _array(self, flat: Tensor, entry: Entry, at: int) -> Tensor:
        try:
            array = _placed(flat, entry, at)
        except (RuntimeError, TypeError) as error:
            said = f"one of shape {entry.shape!s:.60}"
            raise CheckpointError(self.path, f"the array {entry.name[:60]!r} of a possible shape", said) from error
        if entry.dtype == torch.bool and (array.view(torch.uint8) > 1).any():
            said = "other numbers"
            raise CheckpointError(self.path, f"ones and zeros in the array {entry.name[:60]!r}", said)
        return array
