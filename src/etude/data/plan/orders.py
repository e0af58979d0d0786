"""In which order an epoch visits its units, as values: `"random"`, `laplace(size=1000)`, a function of the epoch.

An order is a pure function of the units, the epoch and the seed. RETURNN's spellings are understood as well:
`"default"`, `"reverse"`, `"random:2"`, `"random_sample"`, `"laplace:.1000"`, `"default_every_n:3"`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

from etude.arguments import named
from etude.data.plan.arrangements import (
    ByLength,
    InOrder,
    Laplace,
    Order,
    Pools,
    Random,
    SideBySide,
    SortBinShuffle,
    Units,
    WithReplacement,
)
from etude.data.plan.lengths import Whole
from etude.data.plan.passes import laplace_stream, part, repeated, shuffle_blocks, whole_number
from etude.data.plan.strata import InStrata
from etude.errors import DataError, EtudeError, nearest

__all__ = [
    "ByLength",
    "InOrder",
    "Order",
    "OrderLike",
    "Units",
    "by_length",
    "in_order",
    "laplace",
    "laplace_stream",
    "order",
    "part",
    "pools",
    "random",
    "repeated",
    "reversed_order",
    "shuffle_blocks",
    "side_by_side",
    "sort_bin_shuffle",
    "strata",
    "with_replacement",
]

OrderLike: TypeAlias = "Order | str | Callable[[int], Any]"


@named
def in_order() -> Order:
    """The units as they come."""
    return InOrder()


@named
def reversed_order() -> Order:
    """From the last unit to the first."""
    return InOrder(backwards=True)


@named
def by_length(falling: bool = False) -> Order:
    """By length in the leading stream, the shortest (with `falling` the longest) first; equal ones as they come."""
    return ByLength(bool(falling))


@named
def random(every: int = 1) -> Order:
    """A permutation of all units, another for every epoch, or the same for `every` epochs in a row.

    Raises:
        DataError: `every` is no whole number from 1 on.
    """
    return Random(whole_number(every, "random(every={})"))


@named
def with_replacement(number: int | None = None) -> Order:
    """`number` draws from all units (as many as there are units), each independent of the others.

    Raises:
        DataError: `number` is no whole number from 1 on.
    """
    return WithReplacement(_maybe(number, "with_replacement(number={})"))


@named
def laplace(bins: int | None = None, size: int | None = None, every: int = 1) -> Order:
    """Shuffled, cut in bins, the bins sorted by length: the first rising, the second falling, and so on.

    Neighbours are of like length then, and so are the end of one bin and the beginning of the next.

    Args:
        bins: how many; 2 if neither is said. size: instead of it, about how many units a bin has; at least two bins.
        every: the shuffle is the same for so many epochs in a row.

    Raises:
        DataError: both are said, or a number is no whole number from 1 on.
    """
    bins, size = _bins(bins, size, "laplace")
    return Laplace(bins, size, whole_number(every, "laplace(every={})"))


@named
def sort_bin_shuffle(bins: int | None = None, size: int | None = None, within: bool = False) -> Order:
    """Sorted by length (equal ones at random), cut in bins, and the bins shuffled.

    Args:
        bins: how many; 2 if neither is said. size: instead of it, about how many units a bin has; at least two bins.
        within: shuffle the units of each bin as well.

    Raises:
        DataError: both are said, or a number is no whole number from 1 on.
    """
    return SortBinShuffle(*_bins(bins, size, "sort_bin_shuffle"), bool(within))


@named
def pools(size: int, falling: bool = False) -> Order:
    """Shuffled, cut in pools of `size` units, and each pool sorted by length, the shortest first or the longest.

    Raises:
        DataError: `size` is no whole number from 1 on.
    """
    return Pools(whole_number(size, "pools(size={})"), bool(falling))


@named
def strata() -> Order:
    """Batches of alike lengths in random order, other ones in every epoch: next to no padding, and no order of length.

    It makes the batches of a budget out of all units at once, so it needs their lengths.
    """
    return InStrata()


@named
def side_by_side(streams: int) -> Order:
    """The data cut in `streams` equal pieces that are read side by side, for state that is kept between batches.

    With `batch_size=streams` row i of every batch goes on where row i of the batch before it ended. What does not fill
    up all pieces is left out.

    Raises:
        DataError: `streams` is no whole number from 1 on; later, there are fewer units than that.
    """
    return SideBySide(whole_number(streams, "side_by_side(streams={})"))


@final
@dataclass(frozen=True, slots=True, repr=False)
class ByEpoch(Order):
    """Whatever order a function of the epoch gives; made by `order`."""

    function: Callable[[int], Any]
    _first: Order = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Asked once here, so that a wrong name is an error before anything is read.
        object.__setattr__(self, "_first", _asked(self.function, 0))

    def at(self, epoch: int) -> Order:
        return _asked(self.function, epoch)

    def arrange(self, units: Units, epoch: int, seed: int) -> Whole:
        return self.at(epoch).arrange(units, epoch, seed)

    @property
    def needs_lengths(self) -> bool:
        """Whether the order of epoch 0 needs them; that of a later epoch may, and says so then."""
        return self._first.needs_lengths

    @property
    def shuffles(self) -> bool:
        return self._first.shuffles

    @property
    def leaves_out(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"order({getattr(self.function, '__qualname__', repr(self.function))})"


@named
def order(literal: OrderLike) -> Order:
    """The order that a literal stands for.

    Args:
        literal: an order (returned as it is), a function of the epoch (from 0 on) that gives any of these, or text:
            "in_order", "reversed", "sorted", "sorted_reverse" (the longest first), "random", "random:k" (the same for
            k epochs), "with_replacement", "with_replacement:number", "laplace:bins", "laplace:.size",
            "laplace:bins:every", "sort_bin_shuffle:bins", "sort_bin_shuffle_x2:.size" (also within the bins),
            "pools:size", "strata", "side_by_side:streams"; or as RETURNN spells them.

    Raises:
        DataError: an unknown name, a number that is missing, of no use or too many, or something that is no order.
    """
    if isinstance(literal, Order):
        return literal
    if isinstance(literal, str):
        return _spelled(literal)
    if literal in _MAKERS:
        raise DataError(f"order={literal.__name__}: that is the function itself. Write order={literal.__name__}(...).")
    if callable(literal) and not isinstance(literal, type):
        return ByEpoch(literal)
    raise DataError(
        f"order={literal!r} is no order. Write a name such as 'random' or 'laplace:.1000', or a function of the epoch "
        f"that gives one. Names: {', '.join(_SPELLINGS)}."
    )


def _asked(function: Callable[[int], Any], epoch: int) -> Order:
    try:
        given = function(epoch)
    except EtudeError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise DataError(
            f"order={getattr(function, '__qualname__', function)!s} failed in epoch {epoch}: {told}. "
            "Write a function of the epoch, from 0 on, that gives an order: lambda epoch: 'random'."
        ) from error
    return order(given)


def _spelled(text: str) -> Order:
    name, *rest = text.split(":")
    if name not in _SPELLINGS:
        raise DataError(f"There is no order {text!r}.{nearest(name, _SPELLINGS)} Orders: {', '.join(_SPELLINGS)}.")
    takes, make = _SPELLINGS[name]
    if len(rest) > len(takes):
        known = f"{name}:{':'.join(takes)}" if takes else name
        raise DataError(f"order={text!r}: more numbers than {name!r} takes. Write {known!r}.")
    options: dict[str, int] = {}
    for key, digits in zip(takes, rest, strict=False):
        sized = key == "bins" and digits.startswith(".")
        options["size" if sized else key] = _digits(digits[1:] if sized else digits, text)
    if takes and not rest and takes[0] in ("size", "streams"):
        raise DataError(f"order={text!r}: the number is missing. Write '{name}:{1000 if takes[0] == 'size' else 4}'.")
    return make(**options)


def _digits(text: str, said: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise DataError(f"order={said!r}: {text!r} is no whole number from 1 on.")
    return int(text)


_SPELLINGS: dict[str, tuple[tuple[str, ...], Callable[..., Order]]] = {
    "in_order": ((), in_order),
    "default": ((), in_order),
    "reversed": ((), reversed_order),
    "reverse": ((), reversed_order),
    "sorted": ((), by_length),
    "sorted_reverse": ((), lambda: by_length(falling=True)),
    "random": (("every",), random),
    "with_replacement": (("number",), with_replacement),
    "random_sample": ((), with_replacement),
    "laplace": (("bins", "every"), laplace),
    "sort_bin_shuffle": (("bins",), sort_bin_shuffle),
    "sort_bin_shuffle_x2": (("bins",), lambda **bins: sort_bin_shuffle(**bins, within=True)),
    "pools": (("size",), pools),
    "strata": ((), strata),
    "side_by_side": (("streams",), side_by_side),
    "default_every_n": (("streams",), side_by_side),
}
"""Of each name the numbers that may follow it, and what makes the order."""


def _maybe(value: int | None, said: str) -> int | None:
    return None if value is None else whole_number(value, said)


def _bins(bins: int | None, size: int | None, name: str) -> tuple[int | None, int | None]:
    if bins is not None and size is not None:
        raise DataError(
            f"{name}(bins={bins}, size={size}): how many bins there are and how large they are is said twice. "
            "Leave one of them out."
        )
    return _maybe(bins, name + "(bins={})"), _maybe(size, name + "(size={})")


_MAKERS = (
    in_order,
    reversed_order,
    by_length,
    random,
    with_replacement,
    laplace,
    sort_bin_shuffle,
    pools,
    side_by_side,
    strata,
)
"""Functions that make an order, and are none."""
