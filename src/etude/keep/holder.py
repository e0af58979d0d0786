"""Who holds a lock, as its file tells whoever is refused."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass

from etude.keep import disk


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, as written in its file.

    Attributes:
        pid: number of the process. host: name of its machine. since: when it took the lock, in UTC.
        token: a random word, so that two locks of one process are told apart.
    """

    pid: int
    host: str
    since: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    def may_be_alive(self) -> bool:
        """Whether the process is there; on another machine nobody can say, so that it may be."""
        if not self.is_here():
            return True
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True


def sign(fd: int) -> Holder:
    """Write into an open lock file that this process holds it, in place of what was there."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    holder = Holder(os.getpid(), socket.gethostname(), now, secrets.token_hex(8))
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(asdict(holder)).encode(), 0)
    return holder


def read(fd: int) -> Holder | None:
    """Who is named in an open lock file; None where it is empty or was not written by us."""
    try:
        given = json.loads(os.pread(fd, 4096, 0))
        pid, texts = given["pid"], [given[key] for key in ("host", "since", "token")]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if type(pid) is not int or pid <= 0 or not all(isinstance(text, str) and text.isprintable() for text in texts):
        return None
    return Holder(pid, *texts)


def others_at_work(folder: str | os.PathLike[str]) -> bool:
    """Whether another process may be writing in a folder: whether one is named in a lock file there, and may live."""
    with os.scandir(folder) as found:
        names = [entry.path for entry in found if entry.name.startswith(".") and entry.name.endswith(".lock")]
    holders = [holder for path in names if (holder := _read_at(path)) is not None]
    return any(holder.may_be_alive() and not (holder.is_here() and holder.pid == os.getpid()) for holder in holders)


def _read_at(path: str) -> Holder | None:
    try:
        fd = disk.open_to_read(path)
    except OSError:
        return None
    try:
        return read(fd)
    finally:
        os.close(fd)
