"""Every call that writes, opens, renames or removes a file of a checkpoint, and every call that makes it durable.

Errors are those of the operating system (`OSError`). Callers name this module with each call (`disk.sync(fd)`), so that
a test can put a disk that records, or one that fails, in its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path

if sys.platform == "darwin":
    import fcntl

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Links are not followed; a pipe is opened without waiting for its other end, so that it can be refused."""

_MOST = 1 << 30
"""Bytes for one call: systems write and read at most 2 GB at once."""


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and all above it that are missing; each new name is durable when this returns."""
    folder = Path(os.path.abspath(path))
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    sync_folder(folder.parent)


def create(path: str | os.PathLike[str]) -> int:
    """Make a new file, which must not be there yet, and open it for writing.

    Returns:
        Its descriptor, which programs started later do not inherit.
    """
    return os.open(path, _CREATE, 0o666)


def write_at(fd: int, view: memoryview, offset: int) -> None:
    """Write all bytes of `view` at `offset`, in as many calls as it takes."""
    done = 0
    while done < len(view):
        count = os.pwrite(fd, view[done : done + _MOST], offset + done)
        if not count:
            raise OSError(errno.EIO, "a write of no bytes")
        done += count


def sync(fd: int) -> None:
    """Return when everything written to the file is on the disk."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def hurry(fd: int) -> None:
    """Have the disk begin with what was written so far. For speed alone: `sync` is what makes a file durable."""
    os.fdatasync(fd) if sys.platform == "linux" else sync(fd)


def close(fd: int) -> None:
    """Close a file."""
    os.close(fd)


def rename(old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
    """Give a file another name, at one instant; a file that had that name is gone."""
    os.replace(old, new)


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file."""
    os.unlink(path)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Return when all names in a folder are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # A few file systems have no such call for folders; there names need no further call.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def open_to_read(path: str | os.PathLike[str]) -> int:
    """Open a regular file: neither a link nor a pipe, a device or a folder.

    Returns:
        Its descriptor, which programs started later do not inherit.

    Raises:
        OSError: it is not there, not ours to read, or (with errno ELOOP, EISDIR or EINVAL) no regular file.
    """
    _check_regular(os.lstat(path).st_mode, path)
    fd = os.open(path, _READ)
    try:
        _check_regular(os.fstat(fd).st_mode, path)
    except OSError:
        os.close(fd)
        raise
    return fd


_KINDS = (
    (stat.S_ISLNK, errno.ELOOP, "a symbolic link"),
    (stat.S_ISDIR, errno.EISDIR, "a folder"),
    (stat.S_ISFIFO, errno.EINVAL, "a pipe"),
    (stat.S_ISSOCK, errno.EINVAL, "a socket"),
    (stat.S_ISCHR, errno.EINVAL, "a device"),
    (stat.S_ISBLK, errno.EINVAL, "a device"),
)


def _check_regular(mode: int, path: str | os.PathLike[str]) -> None:
    for is_kind, number, name in _KINDS:
        if is_kind(mode):
            raise OSError(number, name, str(path))


def read_at(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` with the bytes at `offset`, in as many calls as it takes.

    Returns:
        How many bytes were read: fewer than asked where the file ends.
    """
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done : done + _MOST]], offset + done)
        if not count:
            break
        done += count
    return done


def size(fd: int) -> int:
    """Bytes in an open file."""
    return os.fstat(fd).st_size


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes that this user may still write on the disk of a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
