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

PIECE = 4 << 20
"""Bytes in a piece."""

_HELPERS = min(3, (os.cpu_count() or 1) - 1) or 1
"""How many threads help the one that waits."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that are hashed at once: from `begin` to `end`, counted from the first byte of the first array."""

    begin: int
    end: int


class Digests:
    """The digests of arrays that lie in one run of bytes.

    Args:
        spans: where each array begins and ends.
    """

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        made = [list(_pieces(*span)) for span in spans]
        self._ends = [0, *accumulate(map(len, made))]
        self._pieces = [piece for pieces in made for piece in pieces]
        self._found = [b""] * len(self._pieces)
        self.runs = list(_runs(self._pieces))
        """First and last piece of what is worth handing to a thread."""

    def span(self, run: tuple[int, int]) -> tuple[int, int]:
        """Where the bytes of a run begin and end."""
        return self._pieces[run[0]].begin, self._pieces[run[1] - 1].end

    def take(self, run: tuple[int, int], view: memoryview) -> None:
        """Hash the pieces of a run; `view` begins with its first byte."""
        start = self._pieces[run[0]].begin
        for i in range(*run):
            piece = self._pieces[i]
            self._found[i] = sha256(view[piece.begin - start : piece.end - start]).digest()

    def all(self) -> list[str]:
        """The digest of each array, as 64 hexadecimal digits, when all runs were taken."""
        return [sha256(b"".join(self._found[a:b])).hexdigest() for a, b in pairwise(self._ends)]


def _pieces(begin: int, end: int) -> Iterator[Piece]:
    for start in range(begin, max(end, begin + 1), PIECE):
        yield Piece(start, min(start + PIECE, end))


def _runs(pieces: Sequence[Piece]) -> Iterator[tuple[int, int]]:
    """Whole pieces one after another, until they are as long as a piece."""
    first = 0
    for i, piece in enumerate(pieces):
        last = i + 1 == len(pieces)
        if last or piece.end - pieces[first].begin >= PIECE or pieces[i + 1].begin != piece.end:
            yield first, i + 1
            first = i + 1


class Together:
    """Jobs shared by a few threads and by whoever waits for them; after an error no further job begins.

    Args:
        jobs: each is called once. helpers: how many threads to start at most, none for a single job.
    """

    def __init__(self, jobs: Sequence[Callable[[], object]], helpers: int = _HELPERS) -> None:
        self._jobs = iter(jobs)
        self._errors: list[BaseException] = []
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(min(helpers, len(jobs) - 1))]

    def start(self) -> None:
        """Begin, and return at once."""
        for thread in self._threads:
            try:
                thread.start()
            except RuntimeError:
                # No thread can be had, as when the process is ending: whoever waits does the work.
                self._threads = [thread for thread in self._threads if thread.ident is not None]
                break

    def finish(self) -> None:
        """Help until all jobs are done; then the error of one that failed is raised."""
        self._work()
        self._join()
        if self._errors:
            raise self._errors[0]

    def stop(self) -> None:
        """Begin no further job, and return when none runs."""
        self._jobs = iter(())
        self._join()

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
