"""Data of several parts, mixed: how many samples of each part an epoch has, and which."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, final

import numpy as np

from etude.arguments import named
from etude.data.order import SELECT, generator
from etude.data.plan.lengths import Whole
from etude.data.plan.selection import Selection, count
from etude.errors import DataError, SettingError, nearest

UNTIL = ("all", "shortest", "longest")
"""Where an epoch of parts in turn can end."""


class _Parts(Selection):
    """Of each part a number of samples in every epoch; all of a part come before one of it comes again."""

    __slots__ = ()

    shuffle: bool

    @abstractmethod
    def counts(self, parts: Sequence[int]) -> list[int]:
        """How many samples of each part an epoch has."""

    @final
    def number(self, n: int, parts: Sequence[int] = ()) -> int:
        return sum(self.counts(self._checked(n, parts)))

    @final
    def choose(self, n: int, epoch: int, seed: int, parts: Sequence[int] = ()) -> Whole:
        sizes = self._checked(n, parts)
        counts, starts = self.counts(sizes), np.cumsum([0, *sizes])
        taken = [
            starts[part] + _lap(size, count, epoch, (seed, part + 1) if self.shuffle else None)
            for part, (size, count) in enumerate(zip(sizes, counts, strict=True))
        ]
        return np.concatenate(taken)[_evenly(counts)]

    def _checked(self, n: int, parts: Sequence[int]) -> Sequence[int]:
        sizes = tuple(parts) or (n,)
        if sum(sizes) != n:
            raise DataError(f"{self!r}: the parts have {sum(sizes)} samples together, and the data have {n}.")
        return sizes


@final
@dataclass(frozen=True, slots=True)
class Mixed(_Parts):
    """Parts in fixed proportions; made by `mixed`."""

    weights: tuple[float, ...]
    many: int | None = None
    shuffle: bool = True

    def counts(self, parts: Sequence[int]) -> list[int]:
        _check_parts(self, self.weights, parts)
        number = sum(parts) if self.many is None else self.many
        exact = np.asarray(self.weights) * (number / sum(self.weights))
        counts = np.floor(exact).astype(int)
        # What rounding down left goes to the parts that lost most by it.
        counts[np.argsort(counts - exact, kind="stable")[: number - counts.sum()]] += 1
        for part, (weight, taken) in enumerate(zip(self.weights, counts, strict=True)):
            if weight and not taken:
                raise DataError(
                    f"{self!r}: of {number} samples in an epoch part {part} has none. "
                    f"Write number={int(np.ceil(sum(self.weights) / weight))} or more, or the weight 0."
                )
        return [int(taken) for taken in counts]

    def __repr__(self) -> str:
        number = "" if self.many is None else f", number={self.many}"
        return f"mixed({list(self.weights)}{number}{_order(self.shuffle)})"


@final
@dataclass(frozen=True, slots=True)
class Sampled(_Parts):
    """A fixed number of samples of each part; made by `sampled`."""

    sizes: tuple[int, ...]
    shuffle: bool = True

    def counts(self, parts: Sequence[int]) -> list[int]:
        _check_parts(self, self.sizes, parts)
        return list(self.sizes)

    def __repr__(self) -> str:
        return f"sampled({list(self.sizes)}{_order(self.shuffle)})"


@final
@dataclass(frozen=True, slots=True)
class RoundRobin(_Parts):
    """One sample of each part in turn; made by `round_robin`."""

    until: str = "all"
    shuffle: bool = True

    def counts(self, parts: Sequence[int]) -> list[int]:
        if self.until == "all":
            return list(parts)
        _check_parts(self, [1] * len(parts), parts)
        number = max(parts) if self.until == "longest" else min(parts)
        return [number] * len(parts)

    def __repr__(self) -> str:
        return f"round_robin({self.until!r}{_order(self.shuffle)})"


@named
def mixed(weights: Sequence[float], number: int | None = None, shuffle: bool = True) -> Selection:
    """Of data of several parts each in a fixed proportion, spread evenly over the epoch.

    All samples of a part come before one of them comes again, over epochs too: an epoch goes on in a part where the
    epoch before ended.

    Args:
        weights: of each part, at least 0: `[2, 1]` takes two of the first for one of the second.
        number: samples in an epoch, divided by the weights. Default: as many as all parts have together.
        shuffle: another order of a part each time it has been gone through; else its own order.

    Raises:
        SettingError: weights that are negative or no numbers, or all 0; a number that is no count.
    """
    made = tuple(_weight("mixed()", each) for each in _list("mixed()", weights, "[2, 1]"))
    if not sum(made):
        raise SettingError("mixed(): all weights are 0, so that an epoch has no samples. Write mixed([2, 1]).")
    return Mixed(made, count("mixed(number=...)", number), _flag("mixed()", shuffle))


@named
def sampled(sizes: Sequence[int], shuffle: bool = True) -> Selection:
    """Of data of several parts a fixed number of each in an epoch, spread evenly over it; otherwise as `mixed`.

    Args:
        sizes: samples of each part in an epoch; one that is above what a part has takes samples again.
        shuffle: as in `mixed`.

    Raises:
        SettingError: numbers that are no counts, or all 0.
    """
    made = tuple(count("sampled()", each, 0) or 0 for each in _list("sampled()", sizes, "[1000, 200]"))
    if not sum(made):
        raise SettingError("sampled(): all sizes are 0, so that an epoch has no samples. Write sampled([1000, 200]).")
    return Sampled(made, _flag("sampled()", shuffle))


@named
def round_robin(until: str = "all", shuffle: bool = True) -> Selection:
    """Of data of several parts one sample of each in turn; otherwise as `mixed`.

    Args:
        until: "all": every sample of every part once, the longer parts more often; "shortest": as many of each part as
            the shortest has; "longest": as the longest has, the others over again.
        shuffle: as in `mixed`.

    Raises:
        SettingError: another end.
    """
    if until not in UNTIL:
        raise SettingError(
            f"round_robin(): until={until!r} is not known.{nearest(until, UNTIL)} "
            f"Write one of {', '.join(map(repr, UNTIL))}."
        )
    return RoundRobin(until, _flag("round_robin()", shuffle))


def _lap(size: int, count: int, epoch: int, chance: tuple[int, int] | None) -> Whole:
    """Places `count` * epoch, ... of the endless row of laps over a part; each lap is another order of all its samples.

    Args:
        size: samples of the part. count: how many are taken in an epoch. epoch: whose turn it is.
        chance: seed and key of the order of a lap; None: the part's own order.
    """
    first, last = count * epoch, count * (epoch + 1)
    if chance is None or not count:
        return np.arange(first, last) % max(size, 1)
    seed, part = chance
    laps = range(first // size, (last - 1) // size + 1)
    row = np.concatenate([generator(seed, SELECT, lap, part).permutation(size) for lap in laps])
    return row[first - laps[0] * size : last - laps[0] * size]


def _evenly(counts: Sequence[int]) -> Whole:
    """Places of runs of these lengths, merged so that each run is spread evenly over the whole; ties by run."""
    moments = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    return np.argsort(moments, kind="stable")


def _check_parts(said: Selection, given: Sequence[float], parts: Sequence[int]) -> None:
    if len(given) != len(parts):
        raise DataError(
            f"{said!r}: {len(given)} numbers, and the data have {len(parts)} part{'s' * (len(parts) != 1)}. "
            "Write one for each part, in the order in which they are concatenated."
        )
    empty = [part for part, (number, size) in enumerate(zip(given, parts, strict=True)) if number and not size]
    if empty:
        raise DataError(f"{said!r}: part {empty[0]} has no samples. Leave it out of the data, or write 0 for it.")


def _list(said: str, given: Any, write: str) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray) or not len(given):
        raise SettingError(f"{said}: {given!r} is no list with a number for each part. Write {write}.")
    return list(given)


def _weight(said: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < float("inf"):
        raise SettingError(f"{said}: {value!r} is no weight. Write a number from 0 on for each part.")
    return int(value) if isinstance(value, Integral) else float(value)


def _flag(said: str, shuffle: Any) -> bool:
    if not isinstance(shuffle, bool):
        raise SettingError(f"{said}: shuffle={shuffle!r} is no yes or no. Write True or False.")
    return shuffle


def _order(shuffle: bool) -> str:
    return "" if shuffle else ", shuffle=False"
