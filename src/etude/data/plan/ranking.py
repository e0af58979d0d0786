"""Filters that keep the best of a ranking: the shortest, or those of the lowest scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final
from zlib import crc32

import numpy as np
import numpy.typing as npt

from etude.arguments import named
from etude.data.plan.candidates import Candidates, Filter, Limit, Truth, argument, limit, portion, share_of, value_of
from etude.data.plan.lengths import Whole
from etude.errors import DataError, SettingError
from etude.values.schedule import Schedule


@final
@dataclass(frozen=True, slots=True, repr=False)
class MeanLength(Filter):
    """The shortest, as many as have a mean at or below a limit; made by `mean_length`."""

    most: Schedule
    stream: str | None = None

    def mask(self, candidates: Candidates) -> Truth:
        lengths, limit = candidates.of(self.stream, self), value_of(self.most, candidates.progress, self)
        order = np.argsort(lengths, kind="stable")
        # The means of the 1, 2, 3, ... shortest only rise.
        count = int(np.count_nonzero(np.cumsum(lengths[order]) <= limit * np.arange(1, len(order) + 1)))
        return _chosen(order, count)

    def fitting(self, candidates: Candidates) -> str:
        return f"The shortest has length {candidates.of(self.stream, self).min()}: write that or more"

    def __repr__(self) -> str:
        return f"mean_length({argument(self.most)}{_stream(self.stream)})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Shortest(Filter):
    """A share of the samples, the shortest; made by `shortest`."""

    share: Schedule
    stream: str | None = None

    def mask(self, candidates: Candidates) -> Truth:
        return _best(candidates.of(self.stream, self), self.share, candidates, self)

    def fitting(self, candidates: Candidates) -> str:
        return "Write a share above 0"

    def __repr__(self) -> str:
        return f"shortest({argument(self.share)}{_stream(self.stream)})"


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Easiest(Filter):
    """A share of the samples, those of the lowest scores; made by `easiest`.

    Attributes:
        scores: of every sample of the whole data, shape (samples,). share: of the candidates.
    """

    scores: npt.NDArray[np.float64]
    share: Schedule

    @property
    def needs_lengths(self) -> bool:
        return False

    def mask(self, candidates: Candidates) -> Truth:
        last = int(candidates.samples.max(initial=-1))
        if last >= len(self.scores):
            raise DataError(
                f"{self!r}: there is no score for sample {last}. Give a score for every sample of the whole data."
            )
        return _best(self.scores[candidates.samples], self.share, candidates, self)

    def fitting(self, candidates: Candidates) -> str:
        return "Write a share above 0"

    def __repr__(self) -> str:
        digest = crc32(np.ascontiguousarray(self.scores).tobytes())
        return f"easiest(<{len(self.scores)} scores, {digest:08x}>, {argument(self.share)})"


@named
def mean_length(most: Limit, stream: str | None = None) -> Filter:
    """The shortest samples, as many as have together a mean length of at most `most`.

    Args:
        most: a number or a schedule. stream: whose lengths count. Default: the leading one.

    Raises:
        SettingError: no number.
    """
    return MeanLength(limit("mean_length()", most), stream)


@named
def shortest(share: Limit, stream: str | None = None) -> Filter:
    """A share of the samples, the shortest of them: `shortest(linear(0.2, 1, over=epochs(4)))`.

    Args:
        share: above 0 and at most 1, or a schedule; rounded up to whole samples. Of equal ones the first are kept.
        stream: whose lengths count. Default: the leading one.

    Raises:
        SettingError: no share.
    """
    return Shortest(portion("shortest()", share, low=False), stream)


@named
def easiest(scores: Any, share: Limit) -> Filter:
    """A share of the samples, those of the lowest scores.

    Args:
        scores: a number for every sample of the whole data, shape (samples,): a loss, a signal-to-noise ratio, ...
        share: above 0 and at most 1, or a schedule; rounded up to whole samples. Of equal ones the first are kept.

    Raises:
        SettingError: scores that are no numbers, among them NaN, or no share.
    """
    made = np.asarray(scores)
    if made.ndim != 1 or made.dtype.kind not in "biuf":
        raise SettingError(
            f"easiest(): scores are one number for every sample, and these are {made.dtype} of shape {made.shape}."
        )
    if np.isnan(made.astype(np.float64)).any():
        raise SettingError("easiest(): scores are one number for every sample, and these have NaN among them.")
    return Easiest(made.astype(np.float64), portion("easiest()", share, low=False))


def _chosen(order: Whole, count: int) -> Truth:
    kept = np.zeros(len(order), np.bool_)
    kept[order[:count]] = True
    return kept


def _best(scores: npt.NDArray[Any], share: Schedule, candidates: Candidates, said: Filter) -> Truth:
    """The share of lowest scores, rounded up; of equal ones the first."""
    portion = share_of(value_of(share, candidates.progress, said), said)
    # A product that should be whole, as 0.7 * 10, is not one more because of its last bit.
    count = int(np.ceil(portion * len(scores) - 1e-9 * len(scores)))
    return _chosen(np.argsort(scores, kind="stable"), count)


def _stream(name: str | None) -> str:
    return "" if name is None else f", stream={name!r}"
