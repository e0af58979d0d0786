"""A position in the order of the data."""

from __future__ import annotations

from dataclasses import dataclass


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
