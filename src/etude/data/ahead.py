"""Batches read ahead by worker processes, in the order in which they are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from traceback import format_exc
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from etude.data.workers import read
from etude.errors import DataError


class BatchReader(Protocol):
    """Reads one batch; it is sent to the workers."""

    def __getitem__(self, wanted: Any, /) -> Any: ...


def read_ahead(
    reader: BatchReader, requests: Iterable[Any], title: str, workers: int, prefetch: int, pin: bool
) -> Iterator[Any]:
    """What `reader` gives for each request; nothing but the speed depends on who reads.

    Args:
        reader: reads one batch. requests: the batches wanted, without end or not.
        title: of the data set, for messages.
        workers: processes that read; 0: this one does. prefetch: batches that each of them keeps ready.
        pin: whether batches lie in memory from which a GPU can fetch them by itself.

    Raises:
        DataError: a worker ended.
    """
    if not workers:
        yield from map(reader.__getitem__, requests)
        return
    loader: DataLoader[Any] = DataLoader(
        _Telling(reader),  # type: ignore[arg-type]
        sampler=requests,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pin,
        generator=torch.Generator(),  # its own, or the loader would draw from the process's
    )
    try:
        for made in read(loader):
            if isinstance(made, _Failed):
                raise DataError(made.message) from WorkerTraceback(made.traceback)
            yield made
    except (RuntimeError, OSError, EOFError) as error:  # told of, or found out by its end of a connection
        told = str(error).strip().rstrip(".") or type(error).__name__
        raise DataError(
            f"A worker reading the data set {title} ended: {told}. Write workers=0 to see why in this process."
        ) from error


class WorkerTraceback(Exception):
    """Where in a worker process an error came from, as text."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """What a worker sends where a batch cannot be read. Raised there, the loader would bury the message."""

    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class _Telling:
    """A reader whose errors are told in the process that asked."""

    reader: BatchReader

    def __getitem__(self, wanted: Any) -> Any:
        try:
            return self.reader[wanted]
        except DataError as error:
            return _Failed(str(error), f"in a worker process\n{format_exc()}")


def _as_it_is(values: Any) -> Any:
    return values
