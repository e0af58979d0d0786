"""Files that data sets read: which ones are meant, and open ones that no two processes share."""

from __future__ import annotations

import os
import re
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from threading import RLock
from typing import Any, Final, Generic, TypeVar

import numpy as np

from etude.data.plan.lengths import Whole
from etude.errors import DataError, nearest

T = TypeVar("T")
Names = Sequence[str] | Mapping[str, str]
"""Which streams are read: their names in the file, or names in the file with those that samples have for them."""

MOST_OPEN: Final = 128
"""Files that a data set holds open at once in each process."""

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def files_of(given: Any, call: str) -> list[Path]:
    """The files that are meant, in a fixed order.

    Args:
        given: a path; a pattern as `"parts/*.hdf"`; a range as `"part-{000..099}.tar"`; or a list of these.
        call: the function that was called, for messages.

    Raises:
        DataError: nothing is meant, or something that is not there.
    """
    several = [given] if isinstance(given, str | os.PathLike) else given
    if not isinstance(several, Iterable) or not all(isinstance(one, str | os.PathLike) for one in several):
        raise DataError(f"{call}({given!r}): no path. Write the path of a file, a pattern, or a list of paths.")
    found = [Path(path) for one in several for path in _meant(os.fspath(one), call)]
    if not found:
        raise DataError(f"{call}({given!r}): an empty list. Write the path of at least one file.")
    for path in found:
        if not path.is_file():
            raise DataError(f"{call}(): {_missing(path)}")
    return found


def _meant(text: str, call: str) -> list[str]:
    """The paths that one text stands for."""
    if Path(text).exists():
        return [text]
    places = _RANGE.search(text)
    if places is not None:
        first, last = places.groups()
        numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        return [path for number in numbers for path in _meant(_RANGE.sub(number, text, count=1), call)]
    if not has_magic(text):
        return [text]
    found = sorted(glob(text, recursive=True))
    if not found:
        raise DataError(f"{call}({text!r}): no file fits this pattern. Look at {_nearest_folder(Path(text))}.")
    return found


def _nearest_folder(path: Path) -> Path:
    """The folder above a path that is there."""
    return next((folder for folder in path.parents if folder.is_dir()), Path("."))


def _missing(path: Path) -> str:
    """What is said of a path that is no file."""
    if path.is_dir():
        return f"{path} is a folder. Write the path of a file, or a pattern: {str(path / '*')!r}."
    folder = _nearest_folder(path)
    beside = [each.name for each in folder.iterdir()] if folder == path.parent else []
    return f"there is no file {path}.{nearest(path.name, beside) or f' {folder} is the last folder of it that exists.'}"


def renamed(names: Names | None, known: Iterable[str], place: str) -> dict[str, str]:
    """Names in the file to names in samples, for the streams that are read.

    Args:
        names: as the user gave them; None: all, as they are called.
        known: the streams that are there. place: the file, for messages.

    Raises:
        DataError: a stream that is not there, or two of one name.
    """
    there = list(known)
    if names is None:
        return {name: name for name in there}
    if isinstance(names, str):
        raise DataError(
            f"names={names!r} is one text. Write names=[{names!r}], or a dict that renames: names={{{names!r}: 'x'}}."
        )
    chosen = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    for name in chosen:
        if name not in there:
            told = ", ".join(map(repr, there[:10])) + (", ..." if len(there) > 10 else "")
            raise DataError(f"{place} has no stream {name!r}.{nearest(name, there)} It has: {told}.")
    if len(set(chosen.values())) < len(chosen):
        raise DataError(f"names={names!r} gives two streams of {place} one name. Give each its own.")
    if not chosen:
        raise DataError(f"names={names!r} leaves nothing to read of {place}. Name at least one stream.")
    return chosen


def place_of(index: int, starts: Whole, title: str) -> tuple[int, int]:
    """In which file a sample is, and where in it.

    Args:
        index: of the sample, from 0; negative ones count from the end.
        starts: where every file begins, then the number of all samples, shape (files + 1,).

    Raises:
        IndexError: there is no such sample.
    """
    total = int(starts[-1])
    asked = int(index)
    if not -total <= asked < total:
        raise IndexError(f"{title} has {total} samples; there is no sample {asked}.")
    asked %= total
    number = int(np.searchsorted(starts, asked, side="right")) - 1
    return number, asked - int(starts[number])


def starts_of(counts: Sequence[int] | Whole) -> Whole:
    """Where every part begins when they are laid end to end, and where the last ends: int64, shape (parts + 1,)."""
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


class Handles(Generic[T]):
    """Open files, opened when they are first asked for, in each process anew.

    A forked worker inherits open files and with them one common position in each. So what another process has opened
    is let go, and a pickle holds none.

    Args:
        open: opens a path. close: closes what `open` gave.
        most: that many stay open; the one not used for longest is closed first.
    """

    def __init__(self, open: Callable[[Path], T], close: Callable[[T], Any], most: int = MOST_OPEN) -> None:
        self._how = (open, close, most)
        self._begin()

    def _begin(self) -> None:
        self._opened: OrderedDict[Path, T] = OrderedDict()
        self._process = os.getpid()
        self._lock = RLock()
        weakref.finalize(self, _close_all, self._opened, self._how[1])

    def __getstate__(self) -> Any:
        return self._how

    def __setstate__(self, how: Any) -> None:
        self._how = how
        self._begin()

    def __len__(self) -> int:
        return len(self._opened)

    def __iter__(self) -> Iterator[Path]:
        return iter(self._opened)

    def __getitem__(self, path: Path) -> T:
        with self.reading(path) as opened:
            return opened

    @contextmanager
    def reading(self, path: Path) -> Iterator[T]:
        """An open file, for the calling thread alone within the `with`: other threads wait, and nobody closes it."""
        if self._process != os.getpid():
            _close_all(self._opened, self._how[1])
            self._begin()
        with self._lock:
            if path not in self._opened:
                self._opened[path] = self._how[0](path)
            self._opened.move_to_end(path)
            while len(self._opened) > self._how[2]:
                self._how[1](self._opened.popitem(last=False)[1])
            yield self._opened[path]

    def close(self) -> None:
        """Close all of them. They are opened again when they are asked for."""
        with self._lock:
            _close_all(self._opened, self._how[1])


def _close_all(opened: OrderedDict[Path, Any], close: Callable[[Any], Any]) -> None:
    while opened:
        close(opened.popitem()[1])
