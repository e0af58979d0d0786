"""The operating system as the library's one module that writes files sees it: recorded, or made to fail.

`etude.keep.disk` calls `os.pwrite`, `os.fsync` and so on. Within `in_place_of_os` it finds another object under the
name `os`, which hands on everything, and lets a function of ours decide about the calls on files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

CALLS = (
    "open",
    "close",
    "pwrite",
    "pwritev",
    "write",
    "pread",
    "preadv",
    "read",
    "fsync",
    "fdatasync",
    "ftruncate",
    "posix_fallocate",
    "replace",
    "rename",
    "link",
    "symlink",
    "unlink",
    "remove",
    "mkdir",
    "makedirs",
    "rmdir",
    "fstat",
    "lstat",
    "stat",
    "statvfs",
    "listdir",
    "scandir",
)
"""The functions of `os` that reach the file system."""

Decide = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]
"""Gets the name of a call, the call itself and its arguments; returns what the caller shall see, or raises."""


class Seam:
    """In the place of the module `os`."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return partial(self._called, name, real) if name in CALLS else real

    def _called(self, name: str, real: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return self._decide(name, partial(real, **named) if named else real, arguments)


@contextmanager
def in_place_of_os(decide: Decide, *modules: ModuleType) -> Iterator[None]:
    """Within it the calls that `modules` make on files are decided by `decide`."""
    seam = Seam(decide)
    for module in modules:
        module.os = seam  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in modules:
            module.os = os  # type: ignore[attr-defined]


@contextmanager
def instead(owner: Any, name: str, other: Any) -> Iterator[None]:
    """Within it `owner.name` is `other`: a part of the library replaced by a faulty one."""
    good = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, good)


def nothing(*_: Any, **__: Any) -> None:
    """What a part does that does nothing."""
