"""Writing a checkpoint: arrays are copied into memory that is kept, and from there to a file, whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from math import gcd
from typing import Any

import torch
from torch import Tensor

from etude.errors import CheckpointError, StateError
from etude.keep import disk
from etude.keep.digests import PIECE, Digests, Run, Together
from etude.keep.header import Entry, Writing, known

PART = re.compile(r"\.etude-[0-9a-f]{8}\.part\Z")
"""Names of files that are being written; without a writer they are strays."""

_LONG = 4 * PIECE
"""Bytes from which on the disk begins while the digests are still being taken."""

_LINE = 64
"""Bytes of a line of a processor's cache: arrays that begin with one are copied faster."""


class Image:
    """The bytes of a file to be: arrays are copied into memory that is kept for the next time, and written from there.

    From the end of `take` on the arrays themselves may change. Between `take` and the end of `write`, which may be
    called in another thread, neither `take` nor `prepare` may be called.
    """

    def __init__(self) -> None:
        self._flat = torch.empty(0, dtype=torch.uint8)
        self._places: dict[str, Tensor] = {}
        self._kinds: dict[str, _Kind] = {}
        self._gpus: tuple[torch.device, ...] = ()
        self._spans: list[tuple[int, int]] = []
        self._size = 0
        self._writing = Writing(())

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Get the memory for arrays like these, so that the first `take` is no slower than the others.

        Args:
            tensors: as for `take`.

        Raises:
            StateError: as `take`.
        """
        if not self._fits(tensors):
            self._lay_out(tensors)
            self._flat.zero_()

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy all arrays, so that they may change again.

        The memory is that of the last time if names, shapes, dtypes and devices are the same.

        Args:
            tensors: by name; any strides, any device. Each is copied, also where two share memory.

        Raises:
            StateError: one is sparse, quantized, or of a dtype or device that cannot be kept; or there is no memory.
        """
        if not self._fits(tensors):
            self._lay_out(tensors)
        if tensors:
            with torch.no_grad():
                places = [self._places[name] for name in tensors]
                torch._foreach_copy_(places, [*tensors.values()], non_blocking=bool(self._gpus))
        for device in self._gpus:
            torch.cuda.synchronize(device)

    def _fits(self, tensors: Mapping[str, Tensor]) -> bool:
        kinds = self._kinds
        return len(tensors) == len(kinds) and all(kinds.get(name) == _kind(array) for name, array in tensors.items())

    def _lay_out(self, tensors: Mapping[str, Tensor]) -> None:
        for name, array in tensors.items():
            _check(name, array)
        entries = _laid_out(tensors)
        self._size = entries[-1].end if entries else 0
        gpus = tuple({array.device for array in tensors.values() if array.is_cuda})
        # Nothing is known to fit until all is in place, so that a failure here cannot spoil a later file.
        self._kinds, self._places = {}, {}
        if self._size > self._flat.numel() or self._size < self._flat.numel() // 2 or bool(gpus) != bool(self._gpus):
            self._flat = torch.empty(0, dtype=torch.uint8)
            self._flat = _memory(self._size, bool(gpus))
        self._gpus = gpus
        self._spans = [(entry.begin, entry.end) for entry in entries]
        self._writing = Writing(entries)
        self._places = {entry.name: entry.of(self._flat, entry.begin) for entry in entries}
        self._kinds = {name: _kind(array) for name, array in tensors.items()}

    def write(self, path: str | os.PathLike[str], record: Mapping[str, Any]) -> int:
        """Write what was taken to a file, which is whole and durable when this returns; until then `path` is as it was.

        Args:
            path: the file; one that is there is replaced. Its folder must be there.
            record: what is kept with the arrays: a dict that JSON can write.

        Returns:
            The size of the file in bytes.

        Raises:
            CheckpointError: the system refused something; what was at `path` is still there, and nothing besides.
            StateError: the record is no JSON, or too long.
        """
        path = absolute(path)
        text = self._writing.text(record)
        start = len(self._writing.made(text))
        try:
            self._commit(path, text, start)
        except OSError as error:
            raise _refused(path, error, start + self._size) from error
        return start + self._size

    def _commit(self, path: str, text: str, start: int) -> None:
        folder = os.path.dirname(path)
        part = os.path.join(folder, f".etude-{secrets.token_hex(4)}.part")
        fd = disk.create(part)
        try:
            try:
                self._fill(fd, text, start)
                disk.sync(fd)
            finally:
                disk.close(fd)
            disk.rename(part, path)
        except BaseException:
            # What cannot be removed is swept when the folder is next opened.
            with suppress(OSError):
                disk.remove(part)
            raise
        disk.sync_folder(folder)

    def _fill(self, fd: int, text: str, start: int) -> None:
        """Write the arrays while their digests are taken, and the header when these are known."""
        view, digests = self._flat.numpy().data[: self._size], Digests(self._spans)
        with Together([partial(_hash, digests, run, view) for run in digests.runs]) as together:
            disk.write_at(fd, view, start)
            if self._size >= _LONG:
                disk.hurry(fd)
            together.finish()
        disk.write_at(fd, memoryview(self._writing.made(text, digests.all())), 0)


def absolute(path: str | os.PathLike[str]) -> str:
    """A path that does not depend on the folder in which the process is."""
    whole = os.path.abspath(path)
    if "\0" in whole:
        raise CheckpointError(whole, "a name that a file can have", "a null character in its name", damaged=False)
    return whole


_Kind = tuple[torch.Size, torch.dtype, torch.device, torch.layout]


def _kind(array: Tensor) -> _Kind:
    return array.shape, array.dtype, array.device, array.layout


def _hash(digests: Digests, run: Run, view: memoryview) -> None:
    digests.take(run, view[run.begin : run.end])


def _check(name: str, array: Tensor) -> None:
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


def _laid_out(tensors: Mapping[str, Tensor]) -> list[Entry]:
    """Arrays one after another, those of the roundest size first: so each begins where its numbers have to.

    A size that 64 divides keeps the next array at the beginning of a line, a size that 32 divides at half a line, and
    so on; the size of an array is at least as round as that of its numbers.
    """
    sizes = {name: array.numel() * array.dtype.itemsize for name, array in tensors.items()}
    entries, at = [], 0
    for name in sorted(sizes, key=lambda name: (-gcd(sizes[name], _LINE), name)):
        entries.append(Entry(name, tensors[name].dtype, tuple(tensors[name].shape), at, at + sizes[name]))
        at += sizes[name]
    return entries


def _memory(size: int, locked: bool) -> Tensor:
    """Memory on the host, locked in place for the copies from a GPU if that can be had."""
    try:
        flat = torch.empty(size, dtype=torch.uint8)
    except RuntimeError as error:
        raise StateError(f"A copy of the state needs {size:,} bytes of memory, which are not to be had.") from error
    if locked and size:
        # torch's own pinned memory comes in powers of two, up to twice what is needed.
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if not int(runtime.cudaHostRegister(flat.data_ptr(), size, 0)):
            weakref.finalize(flat, runtime.cudaHostUnregister, flat.data_ptr())
    return flat


def _refused(path: str, error: OSError, size: int) -> CheckpointError:
    """What a system says that would not write."""
    said = error.strerror or str(error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CheckpointError(path, "a folder and a disk that can be written to", said, damaged=False)
    try:
        free = f"{disk.free_bytes(os.path.dirname(path)):,} bytes are free"
    except OSError as unknown:
        free = f"how much is free is not known ({unknown.strerror})"
    return CheckpointError(path, f"room for {size:,} bytes", f"no space: {said}; {free}", damaged=False)


def write(path: str | os.PathLike[str], record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Write arrays and a record to a file, once; see `Image.take` and `Image.write`.

    Returns:
        The size of the file in bytes.
    """
    image = Image()
    image.take(tensors)
    return image.write(path, record)
