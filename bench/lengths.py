"""Lengths as those of speech and of text, and what there is to say of batches of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Whole: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Kind:
    """Lengths whose logarithm is normal, clipped.

    Attributes:
        name: for titles. median, spread: of the lengths, and the standard deviation of their logarithm.
        longest: none is longer; the shortest has one frame.
        budget: padded frames that a batch may have.
        asked: the share of padding, in per cent, that is asked for on a million of them.
    """

    name: str
    median: float
    spread: float
    longest: int
    budget: int
    asked: float


@dataclass(frozen=True)
class Case:
    """So many lengths of a kind; they are drawn once."""

    kind: Kind
    number: int

    @property
    def lengths(self) -> Whole:
        """int64, shape (number,)."""
        return _drawn(self)

    @property
    def budget(self) -> int:
        return self.kind.budget

    @property
    def fits(self) -> int:
        """Units of mean length that fit into a batch."""
        return max(1, round(self.budget / float(self.lengths.mean())))


@cache
def _drawn(case: Case) -> Whole:
    kind = case.kind
    found = np.random.default_rng(0).lognormal(np.log(kind.median), kind.spread, case.number)
    return np.clip(np.rint(found), 1, kind.longest).astype(np.int64)


SPEECH = Kind("speech-like", 1000, 0.5, 4000, 32_000, 0.3)
"""Frames of 10 ms: 10 s in the middle, 40 s at most. Batches in random order are half padding."""
TEXT = Kind("text-like", 20, 0.8, 512, 4096, 0.6)
"""Tokens. Batches in random order are three quarters padding."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The batches of one epoch.

    Attributes:
        units: batch after batch, int64. offsets: where each batch begins in them, and where the last one ends.
    """

    units: Whole
    offsets: Whole

    @property
    def batches(self) -> int:
        return len(self.offsets) - 1

    @property
    def numbers(self) -> Whole:
        """Units in each batch."""
        return np.diff(self.offsets)

    def padding(self, lengths: Whole) -> float:
        """Per cent of the frames that are padding."""
        frames = lengths[self.units]
        held = (np.maximum.reduceat(frames, self.offsets[:-1]) * self.numbers).sum()
        return float(100 * (1 - frames.sum() / held))

    def empty(self, lengths: Whole, budget: int) -> float:
        """Per cent of the budget that stays empty, where sequences follow one another."""
        return float(100 * (1 - lengths[self.units].sum() / (self.batches * budget)))

    def neighbours(self, lengths: Whole) -> float:
        """The correlation of the mean lengths of neighbouring batches."""
        means = np.add.reduceat(lengths[self.units], self.offsets[:-1]) / self.numbers
        return float(np.corrcoef(means[:-1], means[1:])[0, 1])

    def again(self, before: Plan) -> float:
        """Of the pairs of units that share a batch, how many per cent shared one in the epoch before."""
        own, other = self._batch_of(), before._batch_of()
        known = self.units[other[self.units] >= 0]
        _, shared = np.unique(own[known] * before.batches + other[known], return_counts=True)
        return float(100 * _pairs(shared) / max(1, _pairs(self.numbers)))

    def _batch_of(self) -> Whole:
        """The batch of each unit; -1 for those that are in none."""
        found = np.full(int(self.units.max()) + 1, -1)
        found[self.units] = np.repeat(np.arange(self.batches), self.numbers)
        return found


def planned(batches: Iterable[Any]) -> Plan:
    """A plan of batches that are given one by one, each as the numbers of its units."""
    lists = [np.asarray(batch, np.int64) for batch in batches]
    ends = np.concatenate(([0], np.cumsum([len(batch) for batch in lists]))).astype(np.int64)
    return Plan(np.concatenate(lists), ends)


def _pairs(numbers: Whole) -> int:
    return int((numbers * (numbers - 1) // 2).sum())
