"""One writer at a time: a lock that the system frees when the process that holds it ends, however it ends.

A lock file holds nothing that has to last, so that its calls are made here and not in `disk`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
import weakref
from dataclasses import dataclass

from etude.errors import CheckpointError, StateError, warn
from etude.keep.holder import Holder, read, sign

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Links are not followed, and programs started later do not inherit the lock."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system says that has no locks."""

_PATIENCE = 0.5
"""Seconds in which a new holder has written its name, and a child of one that was killed has given up its copy."""

_TRIES = 100
"""How often the file may be removed by one holder after another while we try to lock it."""


@dataclass(slots=True, eq=False)
class _Hold:
    """A lock that this process holds."""

    path: str
    fd: int
    holder: Holder


_held: dict[str, _Hold] = {}
"""What this process holds, by path. Looked at before the file is opened: where locks are kept by a server, closing a
second descriptor of a file can give up the lock of the first."""

_guard = threading.RLock()
"""Entered again where a lock is forgotten, and so given back, in the middle of taking another."""


class Lock:
    """The right to write to one place, held by one object of one process at a time; readers need none.

    The lock is the kernel's (`flock`) on a file beside what it guards: it is free the moment its holder ends, also by
    `kill -9`, and child processes made by `fork` give up their copy at once, so that a loader worker that outlives a
    run does not hold it. The file names the holder; it is removed on `release`.

    Not covered: file systems that keep such locks on each machine for itself (some network mounts: Lustre with
    `localflock`, NFS with `local_lock`). There a second machine can take the lock too; it then writes its name into
    the file, and the first one is told at its next `check`. On a file system without locks at all a warning says so;
    a holder on this machine is found by its process number, and one on another machine only at its next `check`.

    Args:
        path: the lock file. Its folder must be there; the file is made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        folder, name = os.path.split(self.path)
        self._key = os.path.join(os.path.realpath(folder), name)
        self._hold: _Hold | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock, in this process."""
        return self._hold is not None and _held.get(self._key) is self._hold

    def acquire(self) -> None:
        """Take the lock, now or not at all; at most half a second is spent on finding out who has it.

        Raises:
            StateError: somebody else holds it: which process, on which machine, since when.
            OSError: the file cannot be made, or is a link, a pipe or a folder.
        """
        with _guard:
            if self._key in _held:
                raise StateError(_refusal(self.path, f"this process ({_held[self._key].holder})"))
            self._keep(_take(self.path))

    def check(self) -> None:
        """Make sure that the lock is still ours; to be called before something is written. Takes no time to speak of.

        Where the file was removed by hand, the lock is taken anew.

        Raises:
            CheckpointError: it was never taken, another writer has it now, or nobody can say.
        """
        try:
            lost = self._lost()
        except (OSError, StateError) as error:
            lost = str(error).removesuffix(".")
        if lost:
            raise CheckpointError(self.path, "the lock of this run", lost, damaged=False)

    def release(self) -> None:
        """Give the lock back and remove its file. Nothing happens where it is not held, as in a child process."""
        if self._hold is not None:
            _give_back(self._key, self._hold)
        self._hold = None

    def _keep(self, hold: _Hold) -> None:
        self._hold = _held[self._key] = hold
        # An object that nobody remembers gives its lock back, and so does one that is left when the program ends.
        weakref.finalize(self, _give_back, self._key, hold)

    def _lost(self) -> str:
        """Why the lock is not ours; nothing if it is."""
        hold = self._hold
        if hold is None or not self.held:
            return "that this process does not hold it"
        if not _is_at(hold.fd, self.path):
            with _guard:
                self._keep(_take(self.path))
            os.close(hold.fd)
            return ""
        now = read(hold.fd)
        if now is not None and now.token != hold.holder.token:
            return f"that {now} has taken it: another run writes there too"
        return ""


def _take(path: str) -> _Hold:
    for _ in range(_TRIES):
        fd = _open(path)
        try:
            if not _lock_soon(fd):
                raise StateError(_refusal(path, _name(fd)))
            if _is_at(fd, path):
                return _Hold(path, fd, sign(fd))
        except BaseException:
            os.close(fd)
            raise
        # The last holder removed the file between our opening and our locking it.
        os.close(fd)
    raise StateError(_refusal(path, "one process after another"))


def _refusal(path: str, who: str) -> str:
    return (
        f"{path} is held by {who}: another run writes there. "
        "Let it end, stop it, or write to another destination; the lock is free as soon as its process has ended."
    )


def _open(path: str) -> int:
    fd = os.open(path, _FLAGS, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no regular file", path)
    return fd


def _lock_soon(fd: int) -> bool:
    """Whether the lock of an open file is ours now; asked again for a moment while nobody is named in it who lives.

    A holder writes its name right after it took the lock; until then the file is empty, or names one that was killed.
    And a child that was being made when its parent was killed has the lock until it runs for the first time.
    """
    until = time.monotonic() + _PATIENCE
    while not _lock(fd):
        found = read(fd)
        if time.monotonic() >= until or (found is not None and found.may_be_alive()):
            return False
        time.sleep(0.005)
    return True


def _lock(fd: int) -> bool:
    """Whether the lock of an open file is ours now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return _lock_by_number(fd)
    return True


def _lock_by_number(fd: int) -> bool:
    """The same where the file system has no locks: by whether the process named in the file is alive."""
    found = read(fd)
    if found is not None and found.is_here() and found.pid != os.getpid() and found.may_be_alive():
        return False
    warn(
        "This file system has no locks (flock), so that a second run that writes to the same place from another "
        "machine would not be seen. Give each run a folder of its own."
    )
    return True


def _is_at(fd: int, path: str) -> bool:
    """Whether an open file is the one that has this path now."""
    try:
        there, ours = os.lstat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _name(fd: int) -> str:
    """Who holds the lock of an open file."""
    found = read(fd)
    if found is None:
        return "a process that has not written its name"
    return str(found) if found.may_be_alive() else f"a child of process {found.pid}, which was killed"


def _give_back(key: str, hold: _Hold) -> None:
    with _guard:
        if _held.get(key) is hold:
            del _held[key]
            _remove(hold)
            # A close that fails, as on network disks, has closed the file all the same.
            with contextlib.suppress(OSError):
                os.close(hold.fd)


def _remove(hold: _Hold) -> None:
    """Remove the file of a lock that is held: whoever opened it meanwhile sees that it is gone, and starts anew."""
    # A file that cannot be removed stays behind, unlocked, and is used again.
    with contextlib.suppress(OSError):
        found = read(hold.fd)
        if _is_at(hold.fd, hold.path) and found is not None and found.token == hold.holder.token:
            os.unlink(hold.path)


def _in_child() -> None:
    """A child made by `fork` holds nothing. Closing its copies leaves the locks of its parent as they are."""
    global _guard
    _guard = threading.RLock()
    for hold in _held.values():
        os.close(hold.fd)
    _held.clear()


def _before_fork() -> None:
    """No child is made while a lock is half taken."""
    _guard.acquire()


def _in_parent() -> None:
    _guard.release()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
