"""Writing a checkpoint: arrays are copied into memory that is kept, and from there to a file, whole or not at all."""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from etude.errors import CheckpointError, StateError
from etude.keep import disk
from etude.keep.digests import PIECE, Digests, Run, Together
from etude.keep.header import Writing
from etude.keep.layout import Layout, check, kind, memory
from etude.keep.whole import write_whole

_LONG = 4 * PIECE
"""Bytes from which on the disk begins while the digests are still being taken."""

_MOST_SLACK = 16 << 20
"""Bytes of memory that are had at most beyond what is needed, for arrays that grow."""


class Image:
    """The bytes of a file to be: arrays are copied into memory that is kept for the next time, and written from there.

    From the end of `take` on the arrays themselves may change. Between `take` and the end of `write`, which may be
    called in another thread, neither `take` nor `prepare` may be called.
    """

    def __init__(self) -> None:
        self._layout = Layout({})
        self._flat = torch.empty(0, dtype=torch.uint8)
        self._places: dict[str, Tensor] = {}
        self._gpus: tuple[torch.device, ...] = ()

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The copies on the host, by name: until the next `take`, and not to be changed."""
        return MappingProxyType(self._places)

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

        The memory is that of the last time if it is enough, and not far too much.

        Args:
            tensors: by name; any strides, any device. Each is copied, also where two share memory.

        Raises:
            StateError: one is sparse, quantized, or of a dtype or device that cannot be kept; or there is no memory.
        """
        if not self._fits(tensors):
            self._lay_out(tensors)
        alone = self._gpus or torch.get_num_threads() > 1 or self._layout.size < _LONG or not _idle()
        groups = [list(tensors)] if alone else list(self._groups())
        with Together([partial(self._copy, names, tensors) for names in groups if names]) as together:
            together.finish()
        for device in self._gpus:
            torch.cuda.synchronize(device)

    def _copy(self, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        places, arrays = [self._places[name] for name in names], [tensors[name] for name in names]
        with torch.no_grad():
            torch._foreach_copy_(places, arrays, non_blocking=bool(self._gpus))

    def _groups(self) -> Iterator[list[str]]:
        """Names of arrays that are worth a job: torch has one thread, and while training waits there are idle cores."""
        names, begin = [], 0
        for entry in self._layout.entries.values():
            names.append(entry.name)
            if entry.end - begin >= PIECE:
                yield names
                names, begin = [], entry.end
        yield names

    def _fits(self, tensors: Mapping[str, Tensor]) -> bool:
        kinds = self._layout.kinds
        return len(tensors) == len(kinds) and all(kinds.get(name) == kind(array) for name, array in tensors.items())

    def _lay_out(self, tensors: Mapping[str, Tensor]) -> None:
        before, kinds = self._layout, {name: kind(array) for name, array in tensors.items()}
        for name, array in tensors.items():
            if before.kinds.get(name) != kinds[name]:
                check(name, array)
        layout = Layout(kinds, before)
        gpus = tuple({array.device for array in tensors.values() if array.is_cuda})
        old = self._places
        # Nothing is known to fit until all is in place, so that a failure here cannot spoil a later file.
        self._layout, self._places = Layout({}), {}
        if not self._suffices(layout.size, bool(gpus)):
            old, self._flat = {}, torch.empty(0, dtype=torch.uint8)
            self._flat = _memory(layout.size + _slack(layout.size), bool(gpus))
        self._places = {
            name: old[name] if name in old and before.entries[name] is entry else entry.of(self._flat, entry.begin)
            for name, entry in layout.entries.items()
        }
        self._gpus, self._layout = gpus, layout

    def _suffices(self, size: int, locked: bool) -> bool:
        """Whether the memory there is will do, and is not far too much."""
        there = self._flat.numel()
        return size <= there <= 2 * (size + _slack(size)) and locked == bool(self._gpus)

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
        writing = Writing([*self._layout.entries.values()], record)
        try:
            write_whole(path, partial(self._fill, writing=writing))
        except OSError as error:
            raise _refused(path, error, writing.start + self._layout.size) from error
        return writing.start + self._layout.size

    def _fill(self, fd: int, writing: Writing) -> None:
        """Write the arrays while their digests are taken, and the header when these are known."""
        size, entries = self._layout.size, self._layout.entries.values()
        view, digests = self._flat.numpy().data[:size], Digests([(entry.begin, entry.end) for entry in entries])
        with Together([partial(_hash, digests, run, view) for run in digests.runs]) as together:
            disk.write_at(fd, view, writing.start)
            if size >= _LONG:
                disk.hurry(fd)
            together.finish()
        disk.write_at(fd, memoryview(writing.made(digests.all())), 0)


def absolute(path: str | os.PathLike[str]) -> str:
    """A path that does not depend on the folder in which the process is."""
    whole = os.path.abspath(path)
    if "\0" in whole:
        raise CheckpointError(whole, "a name that a file can have", "a null character in its name", damaged=False)
    return whole


def _hash(digests: Digests, run: Run, view: memoryview) -> None:
    digests.take(run, view[run.begin : run.end])


def _idle() -> bool:
    """Whether there were idle cores of late: where there are none, one thread would wait for the other to get one."""
    try:
        return os.getloadavg()[0] < (os.cpu_count() or 1)
    except OSError:
        return False


def _slack(size: int) -> int:
    return max(1 << 16, min(size // 8, _MOST_SLACK))


def _memory(size: int, locked: bool) -> Tensor:
    """Memory on the host, locked in place for the copies from a GPU if that can be had."""
    try:
        flat = memory(size)
    except MemoryError as error:
        raise StateError(f"A copy of the state needs {size:,} bytes of memory, which are not to be had.") from error
    if locked and size:
        # torch's own pinned memory comes in powers of two, up to twice what is needed. 1: for all GPUs.
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if not int(runtime.cudaHostRegister(flat.data_ptr(), size, 1)):
            weakref.finalize(flat, runtime.cudaHostUnregister, flat.data_ptr())
    return flat


def _refused(path: str, error: OSError, size: int) -> CheckpointError:
    """What a system says that would not write."""
    said = error.strerror or str(error)
    if error.errno == errno.EFBIG:
        allowed = f"{said}: the system allows no larger file (ulimit -f)"
        return CheckpointError(path, f"to write {size:,} bytes", allowed, damaged=False)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
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
