"""Digests of arrays, taken in pieces, so that several threads can share the work and reading can go along with it.

The digest of an array is the sha256 of the sha256 digests of its pieces of 4 MiB, the last one shorter; an array
without numbers is one empty piece.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, pairwise
from threading import Thread
from types import TracebackType

PIECE = 4 << 20
"""Bytes in a piece."""

_HELPERS = max(1, min(3, (os.cpu_count() or 1) - 1))
"""How many threads help the one that waits."""


@dataclass(frozen=True, slots=True)
class Run:
    """Pieces that lie one after another, together long enough to be worth a job.

    Attributes:
        first, last: their numbers; `last` is no longer one of them.
        begin, end: their bytes, counted from the first byte of the first array of the file.
    """

    first: int
    last: int
    begin: int
    end: int


class Digests:
    """The digests of arrays.

    Args:
        spans: where in the file each array begins and ends, in this order.

    Attributes:
        runs: what has to be taken, in any order.
    """

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        pieces = [list(_pieces(*span)) for span in spans]
        self._lasts = [0, *accumulate(map(len, pieces))]
        self._pieces = [piece for of_one in pieces for piece in of_one]
        self._found = [b""] * len(self._pieces)
        self.runs = list(_runs(self._pieces))

    def take(self, run: Run, view: memoryview) -> None:
        """Hash the pieces of a run.

        Args:
            view: the bytes of the run.
        """
        for i in range(run.first, run.last):
            begin, end = self._pieces[i]
            self._found[i] = sha256(view[begin - run.begin : end - run.begin]).digest()

    def all(self) -> list[str]:
        """The digest of each array in 64 hexadecimal digits, once all runs are taken."""
        return [sha256(b"".join(self._found[a:b])).hexdigest() for a, b in pairwise(self._lasts)]


def _pieces(begin: int, end: int) -> Iterator[tuple[int, int]]:
    for start in range(begin, max(end, begin + 1), PIECE):
        yield start, min(start + PIECE, end)


def _runs(pieces: Sequence[tuple[int, int]]) -> Iterator[Run]:
    first = 0
    for i, (_, end) in enumerate(pieces):
        begin = pieces[first][0]
        if i + 1 == len(pieces) or end - begin >= PIECE or pieces[i + 1][0] != end:
            yield Run(first, i + 1, begin, end)
            first = i + 1


class Together:
    """Jobs shared by a few threads and by whoever waits for them. Within `with` they are under way; after it none is.

    Args:
        jobs: each is called once; after an error no further one begins.
    """

    def __init__(self, jobs: Sequence[Callable[[], object]]) -> None:
        self._jobs = iter(jobs)
        self._errors: list[BaseException] = []
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(min(_HELPERS, len(jobs) - 1))]

    def __enter__(self) -> Together:
        for i, thread in enumerate(self._threads):
            try:
                thread.start()
            except RuntimeError:
                # No thread is to be had, as when the process is ending: whoever waits does the work.
                del self._threads[i:]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._jobs = iter(())
        self._join()

    def finish(self) -> None:
        """Help until all jobs are done; the error of one that failed is raised then."""
        self._work()
        self._join()
        if self._errors:
            raise self._errors[0]

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            while (job := next(self._jobs, None)) is not None:
                job()
        except BaseException as error:
            self._errors.append(error)
            self._jobs = iter(())
