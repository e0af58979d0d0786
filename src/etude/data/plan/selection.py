"""Selection: how often each sample comes in an epoch, where that is not once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, final
from zlib import crc32

import numpy as np
import numpy.typing as npt

from etude.arguments import named
from etude.data.order import SELECT, generator
from etude.data.plan.lengths import Whole
from etude.errors import DataError, SettingError

_WEIGHTED = 0
"""The last key of chance for weights; the parts of mixed data have 1, 2, 3, ..."""


class Selection(ABC):
    """Which samples an epoch takes. Frozen, and pure: what an epoch takes is known from its number alone."""

    __slots__ = ()

    @abstractmethod
    def number(self, n: int, parts: Sequence[int] = ()) -> int:
        """How many samples an epoch has.

        Args:
            n: samples there are. parts: how many of them each part has, where data are made of several, one after the
                other; of one part if not said.
        """

    def only(self, places: Whole) -> Selection:
        """The same for some of the samples."""
        return self

    @abstractmethod
    def choose(self, n: int, epoch: int, seed: int, parts: Sequence[int] = ()) -> Whole:
        """Numbers of samples, 0 to n - 1, int64, shape (number,).

        Raises:
            DataError: weights, parts or numbers do not fit the data.
        """


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Weighted(Selection):
    """Samples drawn in proportion to weights; made by `weighted`."""

    weights: npt.NDArray[np.float64]
    many: int | None = None
    replacement: bool = True

    def number(self, n: int, parts: Sequence[int] = ()) -> int:
        return n if self.many is None else self.many

    def only(self, places: Whole) -> Selection:
        if len(self.weights) <= int(places.max(initial=-1)):
            return self  # not one weight for every sample, which `choose` says
        return replace(self, weights=self.weights[places])

    def choose(self, n: int, epoch: int, seed: int, parts: Sequence[int] = ()) -> Whole:
        weights, number = self.weights, self.number(n)
        if len(weights) != n:
            raise DataError(f"{self!r}: {len(weights)} weights, and there are {n} samples. Give one for every sample.")
        chance = generator(seed, SELECT, epoch, _WEIGHTED)
        if self.replacement:
            return _in_proportion(weights, number, chance)
        able = int(np.count_nonzero(weights))
        if number > able:
            raise DataError(
                f"{self!r}: {number} samples are to be drawn without replacement, and {able} have a weight above 0. "
                f"Write number={able} or less, or replacement=True."
            )
        return _without_replacement(weights, number, chance)

    def __repr__(self) -> str:
        digest = crc32(np.ascontiguousarray(self.weights).tobytes())
        number = "" if self.many is None else f", number={self.many}"
        replacement = "" if self.replacement else ", replacement=False"
        return f"weighted(<{len(self.weights)} weights, {digest:08x}>{number}{replacement})"


@named
def weighted(weights: Any, number: int | None = None, replacement: bool = True) -> Selection:
    """Samples drawn anew in every epoch, in proportion to their weights.

    Args:
        weights: at least 0, shape (samples,), some above 0. They need not add up to 1.
        number: samples in an epoch. Default: as many as there are.
        replacement: whether a sample may be drawn again; without it each comes at most once.

    Raises:
        SettingError: weights that are negative, infinite or NaN, or all 0; a number that is no count.
    """
    made = np.asarray(weights)
    if made.ndim != 1 or made.dtype.kind not in "biuf":
        raise SettingError(
            f"weighted(): weights are one number for every sample, and these are {made.dtype} of shape {made.shape}."
        )
    made = made.astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(made) & (made >= 0)))
    if len(wrong):
        raise SettingError(
            f"weighted(): the weight of sample {wrong[0]} is {made[wrong[0]]}. Write a number from 0 on."
        )
    if not made.sum():
        raise SettingError("weighted(): all weights are 0, so that nothing can be drawn. Give some a weight above 0.")
    if not isinstance(replacement, bool):
        raise SettingError(f"weighted(): replacement={replacement!r} is no yes or no. Write True or False.")
    return Weighted(made, count("weighted(number=...)", number), replacement)


def _in_proportion(weights: npt.NDArray[np.float64], number: int, chance: np.random.Generator) -> Whole:
    """Places, each drawn in proportion to its weight."""
    ends = np.cumsum(weights)
    # Looked up in rising order, which is several times faster; after that they are put into a random one.
    places = np.searchsorted(ends, np.sort(chance.random(number)) * ends[-1], side="right")
    # A number next to 1 can be rounded up to the very end, beyond the last weight that is above 0.
    places = np.minimum(places, int(np.flatnonzero(weights)[-1]))
    return chance.permutation(places).astype(np.int64, copy=False)


def _without_replacement(weights: npt.NDArray[np.float64], number: int, chance: np.random.Generator) -> Whole:
    """The first arrivals of exponential clocks with the weights as rates (Efraimidis and Spirakis, 2006)."""
    with np.errstate(divide="ignore"):
        arrivals = chance.standard_exponential(len(weights)) / weights
    order: Whole = np.argsort(arrivals, kind="stable")
    return order[:number]


def count(said: str, value: Any, least: int = 1) -> int | None:
    """A number of samples as it was given, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise SettingError(f"{said}: {value!r} is no number of samples. Write a whole number from {least} on.")
    return int(value)
