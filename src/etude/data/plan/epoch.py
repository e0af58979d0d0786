"""The batches of one epoch, planned: which units each of them holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from etude.data.plan.buckets import Shape
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

    def to(self, batch: int) -> Mapping[str, int]:
        """The lengths to which streams of a batch are padded, where its shape is fixed; of others nothing is said."""
        return {}

    def filled(self, batch: int) -> int:
        """The rows to which a batch is filled up, where its shape is fixed; 0: as many as it has units."""
        return 0

    @property
    def shaped(self) -> bool:
        """Whether shapes are fixed."""
        return False


@final
@dataclass(frozen=True, slots=True, eq=False)
class Cut(Epoch):
    """An order of units, cut.

    Attributes:
        order: units in the order in which they are cut, int64.
        offsets: where each batch begins in it, and where the last one ends, int64, shape (batches + 1,).
        turn: the batches in the order in which they come, int64; None: as they were cut.
        bucket: of each batch, as it was cut, its bucket in `shapes`, int64; None: no shape is fixed.
        shapes: the buckets.
    """

    order: Whole
    offsets: Whole
    turn: Whole | None = None
    bucket: Whole | None = None
    shapes: tuple[Shape, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def batches(self) -> int:  # type: ignore[override]
        return len(self.offsets) - 1 if self.turn is None else len(self.turn)

    @property
    def units(self) -> int:  # type: ignore[override]
        if self.turn is None:
            return int(self.offsets[-1] - self.offsets[0])
        return int(np.diff(self.offsets)[self.turn].sum())

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

    def to(self, batch: int) -> Mapping[str, int]:
        shape = self._shape(batch)
        return {} if shape is None else {self.names[0]: shape.longest, **dict(shape.to)}

    def filled(self, batch: int) -> int:
        shape = self._shape(batch)
        return 0 if shape is None else shape.number

    @property
    def shaped(self) -> bool:
        return self.bucket is not None

    def full(self) -> Cut:
        """Without the batches that do not fill their shape."""
        if self.bucket is None:
            return self
        numbers = np.array([shape.number for shape in self.shapes])[self.bucket]
        return replace(self, turn=np.flatnonzero(np.diff(self.offsets) == numbers))

    def _place(self, batch: int) -> int:
        return batch if self.turn is None else int(self.turn[batch])

    def _shape(self, batch: int) -> Shape | None:
        return None if self.bucket is None else self.shapes[self.bucket[self._place(batch)]]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Repeated(Epoch):
    """The batches of an epoch several times in a row."""

    inner: Epoch
    times: int

    @property
    def batches(self) -> int:  # type: ignore[override]
        return self.inner.batches * self.times

    @property
    def units(self) -> int:  # type: ignore[override]
        return self.inner.units * self.times

    def rows(self, batch: int) -> Whole:
        return self.inner.rows(batch % self.inner.batches)

    def all(self) -> tuple[Whole, Whole]:
        units, offsets = self.inner.all()
        starts = np.arange(self.times)[:, None] * len(units) + offsets[:-1]
        return np.tile(units, self.times), np.append(starts.ravel(), len(units) * self.times)


def of_lists(batches: Sequence[Whole]) -> Cut:
    """An epoch of batches that are given one by one."""
    ends = np.concatenate(([0], np.cumsum([len(batch) for batch in batches], dtype=np.int64)))
    order = np.concatenate(batches) if len(batches) else np.zeros(0, np.int64)
    return Cut(order.astype(np.int64, copy=False), ends)
