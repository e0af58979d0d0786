"""Faults for the library: it looks less closely at what it reads."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import watch
from seams import instead, nothing


@contextmanager
def first_only() -> Iterator[None]:
    """Of a folder only the newest file is looked at."""
    from etude.keep.store import Store

    paths = Store.paths
    with instead(Store, "paths", lambda self: paths(self)[:1]):
        yield


@contextmanager
def unpickling() -> Iterator[None]:
    """What is a pickle is loaded as one."""
    from etude.keep import files

    read = files.read

    def guess(path: Any) -> Any:
        with suppress(Exception):
            return pickle.loads(Path(path).read_bytes())
        return read(path)

    with instead(files, "read", guess):
        yield


@contextmanager
def opening_all() -> Iterator[None]:
    """Whatever has the name is opened."""
    from etude.keep import disk

    # To open a pipe takes for ever.
    with instead(disk, "open_to_read", lambda path: os.open(path, os.O_RDONLY)), instead(watch, "HANG", 0.3):
        yield


@contextmanager
def generous() -> Iterator[None]:
    """As much memory as the header asks for, though not more than this machine has."""
    from etude.keep import parsing

    def length(path: str, first: bytes, size: int) -> int:
        return min(int.from_bytes(first[:8], "little"), 100_000_000)

    with instead(parsing, "length", length):
        yield


@contextmanager
def bare() -> Iterator[None]:
    """JSON as it comes."""
    from etude.keep import parsing

    with instead(parsing._Reading, "_json", lambda self, text, expected: json.loads(text)):
        yield


@contextmanager
def undigested() -> Iterator[None]:
    """Every digest is the one that was told."""
    from etude.keep import digests

    class Believed(str):
        """Equal to whatever it is compared with."""

        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

    all_ = digests.Digests.all
    with instead(digests.Digests, "all", lambda self: [Believed(text) for text in all_(self)]):
        yield


def unchecked_header() -> AbstractContextManager[None]:
    """The digest of the header is not compared."""
    from etude.keep import parsing

    return instead(parsing._Reading, "check_digest", nothing)


def unchecked_numbers() -> AbstractContextManager[None]:
    """Places and shapes in the header may be anything."""
    from etude.keep import parsing

    return instead(parsing, "_are_counts", lambda value: True)


def left_in_place() -> AbstractContextManager[None]:
    """A damaged file keeps its name."""
    from etude.keep import folder

    return instead(folder, "set_aside", nothing)


def silent() -> AbstractContextManager[None]:
    """A run that goes on says nothing of files that it passed over."""
    from etude.run import resuming

    return instead(resuming, "warn", nothing)


READ_FAULTS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "digest of the header not checked": unchecked_header,
    "digests of arrays not checked": undigested,
    "damaged file not set aside": left_in_place,
    "a damaged file ends the search": first_only,
    "pickles are loaded": unpickling,
    "links, pipes, devices are opened": opening_all,
    "memory as the header asks": generous,
    "errors of the parser come through": bare,
    "numbers in the header not looked at": unchecked_numbers,
    "a run does not tell what it passed over": silent,
}
