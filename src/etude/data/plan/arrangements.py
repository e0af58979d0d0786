"""The orders themselves: each a frozen value that arranges units as a pure function of the seed and the epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, final

import numpy as np

from etude.data.order import ORDER, generator
from etude.data.plan.lengths import Lengths, Whole
from etude.data.plan.sorting import by_key, edges_of, fallen, in_bins
from etude.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What is put in order.

    Attributes:
        n: how many units (samples, or chunks of them) there are.
        lengths: theirs; None where they are not known.
    """

    n: int
    lengths: Lengths | None = None

    def sizes(self, said: object) -> Whole:
        """Lengths in the leading stream, shape (n,), for an order that sorts.

        Raises:
            DataError: they are not known.
        """
        if self.lengths is None:
            raise DataError(
                f"{said!r} sorts by length, and the lengths of these data are not known. Say how long the samples are "
                "with lengths=, or take an order that needs none: 'random', 'in_order', 'reversed'."
            )
        return self.lengths.lead


@dataclass(frozen=True, slots=True, repr=False)
class Order(ABC):
    """In which order an epoch visits the units. Frozen, equal by value, printed as the call that makes it."""

    @abstractmethod
    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        """Positions of units (0 to n - 1) in the order in which this epoch visits them: int64.

        Pure in its arguments. Positions may repeat or be left out where the order says so.

        Args:
            units: what there is. epoch: at least 0. seed: at least 0.

        Raises:
            DataError: the order needs lengths that are not known, or cannot be made of so few units.
        """

    def at(self, epoch: int) -> Order:
        """The order that an epoch has."""
        return self

    @property
    def needs_lengths(self) -> bool:
        """Whether it sorts, for which the lengths must be known."""
        return False

    @property
    def shuffles(self) -> bool:
        """Whether one epoch's order differs from another's by chance."""
        return False

    @property
    def leaves_out(self) -> bool:
        """Whether units may be left out because they do not come out even."""
        return False

    def __repr__(self) -> str:
        return f"{_CALLS[type(self)]}({_arguments(self)})"


def _arguments(order: Any) -> str:
    """The arguments that differ from their defaults, as they are written."""
    given = [(field, getattr(order, field.name)) for field in fields(order)]
    return ", ".join(f"{field.name}={value!r}" for field, value in given if value != field.default)


@final
@dataclass(frozen=True, slots=True, repr=False)
class InOrder(Order):
    """As they come, or from the last to the first."""

    backwards: bool = False

    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        straight = np.arange(units.n)
        return straight[::-1].copy() if self.backwards else straight

    def __repr__(self) -> str:
        return "reversed_order()" if self.backwards else "in_order()"


@final
@dataclass(frozen=True, slots=True, repr=False)
class ByLength(Order):
    """By length in the leading stream; units of one length stay as they come."""

    falling: bool = False

    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        sizes = units.sizes(self)
        return by_key(fallen(sizes) if self.falling else sizes)

    @property
    def needs_lengths(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True, repr=False)
class Random(Order):
    """A permutation, another one for every `every` epochs."""

    every: int = 1

    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        return generator(seed, ORDER, epoch // self.every).permutation(units.n)

    @property
    def shuffles(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True, repr=False)
class WithReplacement(Order):
    """Draws from all units, each draw independent of the others."""

    number: int | None = None

    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        if not units.n:
            return np.arange(0)
        draws = units.n if self.number is None else self.number
        return generator(seed, ORDER, epoch).integers(units.n, size=draws)

    @property
    def shuffles(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True, repr=False)
class Laplace(Order):
    """Shuffled, cut in bins; the bins are sorted by length, rising and falling in turn."""

    bins: int | None = None
    size: int | None = None
    every: int = 1

    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        sizes, n = units.sizes(self), units.n
        order = generator(seed, ORDER, epoch // self.every).permutation(n)
        edges = edges_of(n, self.bins, self.size)
        bins = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
        keys = sizes[order]
        return order[in_bins(np.where(bins % 2, fallen(keys), keys), bins)]

    @property
    def needs_lengths(self) -> bool:
        return True

    @property
    def shuffles(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True, repr=False)
class SortBinShuffle(Order):
    """Sorted by length, cut in bins; the bins come in random order, and with `within` also the units of each."""

    bins: int | None = None
    size: int | None = None
    within: bool = False

    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        sizes, n = units.sizes(self), units.n
        chance = generator(seed, ORDER, epoch)
        order = chance.permutation(n)
        order = order[by_key(sizes[order])]
        edges = edges_of(n, self.bins, self.size)
        places = chance.permutation(len(edges) - 1)
        bins = np.repeat(places, np.diff(edges))
        if self.within:
            mixed = chance.permutation(n)
            order, bins = order[mixed], bins[mixed]
        return order[by_key(bins)]

    @property
    def needs_lengths(self) -> bool:
        return True

    @property
    def shuffles(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True, repr=False)
class Pools(Order):
    """Shuffled, cut in pools of `size` units; each pool is sorted by length."""

    size: int
    falling: bool = False

    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        sizes = units.sizes(self)
        order = generator(seed, ORDER, epoch).permutation(units.n)
        keys = sizes[order]
        return order[in_bins(fallen(keys) if self.falling else keys, np.arange(units.n) // self.size)]

    @property
    def needs_lengths(self) -> bool:
        return True

    @property
    def shuffles(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True, repr=False)
class SideBySide(Order):
    """The data cut in `streams` pieces that are read side by side; what does not fill up all pieces is left out."""

    streams: int

    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        each = units.n // self.streams
        if units.n and not each:
            raise DataError(
                f"{self!r}: {self.streams} streams cannot be made of {units.n} units. Write at most {units.n}."
            )
        return np.arange(each * self.streams).reshape(self.streams, each).T.ravel()

    @property
    def leaves_out(self) -> bool:
        return True


_CALLS: dict[type[Order], str] = {
    ByLength: "by_length",
    Random: "random",
    WithReplacement: "with_replacement",
    Laplace: "laplace",
    SortBinShuffle: "sort_bin_shuffle",
    Pools: "pools",
    SideBySide: "side_by_side",
}
"""The call that makes each, for printing."""
