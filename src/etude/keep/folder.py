"""A folder that checkpoints are written to: what is in it, whether it can be written to, and its tidying."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from etude.errors import CheckpointError
from etude.keep import disk
from etude.keep.holder import others_at_work
from etude.keep.whole import PART, part_in

_PROBE = 4096
"""Bytes that are written to find out whether anything can be."""


def is_there(path: Path) -> bool:
    """Whether something has this path; a link that leads nowhere is something.

    Raises:
        CheckpointError: nobody can say.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise CheckpointError(str(path), "a checkpoint, or nothing", error.strerror or str(error), False) from error
    return True


def listed(folder: Path) -> list[str]:
    """The names in a folder, in no order; none where there is no such folder.

    Raises:
        CheckpointError: it cannot be looked at, which is not the same as an empty one.
    """
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        found = error.strerror or str(error)
        raise CheckpointError(str(folder), "a folder with checkpoints", found, damaged=False) from error


def sweep(folder: Path) -> None:
    """Remove files that were never finished, unless another process may be writing some in this folder.

    The lock of the caller says that nobody else writes to its own destination. Another process may write to another
    one in the same folder; the files are left for later then.
    """
    if others_at_work(folder):
        return
    for name in listed(folder):
        if PART.fullmatch(name):
            # What belongs to another user may stay; what is gone is gone.
            with contextlib.suppress(OSError):
                disk.remove(folder / name)


def probe(folder: Path) -> int:
    """Write a little, make it durable, and remove it again.

    Returns:
        The bytes that are free.

    Raises:
        OSError: one of these cannot be done.
    """
    part = part_in(folder)
    fd = disk.create(part)
    try:
        try:
            disk.write_at(fd, memoryview(bytes(_PROBE)), 0)
            disk.sync(fd)
        finally:
            disk.close(fd)
    finally:
        # Where locks are kept by each machine for itself, another one may have swept it.
        with contextlib.suppress(FileNotFoundError):
            disk.remove(part)
    return disk.free_bytes(folder)


def set_aside(path: Path, suffix: str) -> None:
    """Give a file that cannot be used another name: `suffix` behind its own, and "-2" behind that if need be.

    Where it cannot be renamed it stays, and is passed over again the next time.
    """
    aside, again = path.with_name(path.name + suffix), 1
    with contextlib.suppress(OSError, CheckpointError):
        while is_there(aside):
            again += 1
            aside = path.with_name(f"{path.name}{suffix}-{again}")
        disk.rename(path, aside)
        disk.sync_folder(path.parent)
