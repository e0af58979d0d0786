"""A position in the order of the data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from etude.errors import DataError


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """The next batch to be given out.

    A cursor is all that has to be kept to go on with the data where they were left: the order is a pure
    function of the seed and the epoch.

    Attributes:
        epoch: passes over the data completed so far.
        batch: batches of this epoch given out so far.
    """

    epoch: int = 0
    batch: int = 0


def epochs_from(cursor: Cursor, stop: int | None) -> Iterable[int]:
    """The epochs from that of a cursor on, up to `stop`; without end where that is None."""
    return count(cursor.epoch) if stop is None else range(cursor.epoch, stop)


def beyond(cursor: Cursor, total: int | None) -> DataError:
    """The error of a cursor at which there is no batch; `total` is how many an epoch has, if that is known."""
    told = "" if total is None else f" An epoch has {total} batches, the first is Cursor(epoch, 0)."
    return DataError(f"There is no batch at {cursor}.{told} Were batch size and data the same when it was kept?")
