"""The batches of one epoch, planned: which units each of them holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etude.data.plan.lengths import Whole


class Epoch(ABC):
    """The batches of one epoch.

    Attributes:
        batches: how many there are.
        units: how many units they hold together; one that comes twice counts twice.
    """

    __slots__ = ()

    batches: int
    units: int

    @abstractmethod
    def rows(self, batch: int) -> Whole:
        """The units of a batch, in the order in which they lie in it: int64."""

    @abstractmethod
    def all(self) -> tuple[Whole, Whole]:
        """Every unit, batch after batch, and where each batch begins: int64, shapes (units,) and (batches + 1,)."""

    def to(self, batch: int) -> int:
        """The length to which a batch is padded, where its shape is fixed; 0: to its longest unit."""
        return 0

    def filled(self, batch: int) -> int:
        """The rows to which a batch is filled up, where its shape is fixed; 0: as many as it has units."""
        return 0


@dataclass(frozen=True, slots=True, eq=False)
class Cut(Epoch):
    """An order of units, cut.

    Attributes:
        order: units in the order in which they are cut, int64.
        offsets: where each batch begins in it, and where the last one ends, int64, shape (batches + 1,).
        turn: the batches in the order in which they come; None: as they were cut.
        shapes: of each batch, as it was cut, the length it is padded to and the rows it is filled up to, int64, shape
            (batches, 2); None: no shape is fixed.
    """

    order: Whole
    offsets: Whole
    turn: Whole | None = None
    shapes: Whole | None = None

    @property
    def batches(self) -> int:  # type: ignore[override]
        return len(self.offsets) - 1

    @property
    def units(self) -> int:  # type: ignore[override]
        return int(self.offsets[-1] - self.offsets[0])

    def rows(self, batch: int) -> Whole:
        place = self._place(batch)
        return self.order[self.offsets[place] : self.offsets[place + 1]]

    def all(self) -> tuple[Whole, Whole]:
        if self.turn is None:
            return self.order[self.offsets[0] : self.offsets[-1]], self.offsets - self.offsets[0]
        sizes = np.diff(self.offsets)[self.turn]
        ends = np.concatenate(([0], np.cumsum(sizes)))
        within = np.arange(ends[-1]) - np.repeat(ends[:-1], sizes)
        return self.order[np.repeat(self.offsets[:-1][self.turn], sizes) + within], ends

    def to(self, batch: int) -> int:
        return 0 if self.shapes is None else int(self.shapes[self._place(batch), 0])

    def filled(self, batch: int) -> int:
        return 0 if self.shapes is None else int(self.shapes[self._place(batch), 1])

    def _place(self, batch: int) -> int:
        return batch if self.turn is None else int(self.turn[batch])


def of_lists(batches: Sequence[Whole], shapes: Whole | None = None) -> Cut:
    """An epoch of batches that are given one by one."""
    ends = np.concatenate(([0], np.cumsum([len(batch) for batch in batches], dtype=np.int64)))
    order = np.concatenate(batches) if len(batches) else np.zeros(0, np.int64)
    return Cut(order.astype(np.int64, copy=False), ends.astype(np.int64), shapes=shapes)
