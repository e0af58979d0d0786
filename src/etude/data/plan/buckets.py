"""Batches of few, fixed shapes: each unit goes into the shortest bucket it fits, and a full bucket is a batch.

For `torch.compile`: with the batches filled up to their shapes, there are at most as many shapes as buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from etude.arguments import named
from etude.data.plan.budgets import costs
from etude.data.plan.cut import Batches
from etude.data.plan.lengths import Lengths, Whole
from etude.data.plan.limits import Limit
from etude.errors import DataError, SettingError, nearest
from etude.values.progress import Progress

TOO_LONG = ("drop", "error")
"""What may become of a unit that is longer than every bucket."""

_CANDIDATES = 256
"""Lengths among which those of the buckets are chosen."""


@final
@dataclass(frozen=True, slots=True)
class Shape:
    """A bucket.

    Attributes:
        longest: length in the leading stream up to which units go into it, and to which they are padded.
        number: units that fill it.
        to: where other streams are padded to a fixed length as well, that length by the stream.
    """

    longest: int
    number: int
    to: tuple[tuple[str, int], ...] = ()


@final
@dataclass(frozen=True, slots=True, repr=False)
class Buckets:
    """Buckets by rising length; made by `buckets` or `shapes`."""

    shapes: tuple[Shape, ...]

    def fill(
        self, lengths: Whole, too_long: str = "drop", called: Callable[[int], str] = "the unit at position {}".format
    ) -> Batches:
        """Batches in the order in which their buckets are full; what is left comes last, the shortest bucket first.

        Args:
            lengths: of the units in the leading stream, in their order, int64, shape (n,).
            too_long: what becomes of units longer than every bucket: "drop" (left out and counted) or "error".
            called: what a message calls the unit at a position.

        Returns:
            Batches whose `shapes` say into which bucket each belongs.

        Raises:
            DataError: a unit is longer than every bucket, and that is an error.
            SettingError: `too_long` is neither.
        """
        if too_long not in TOO_LONG:
            raise SettingError(
                f"too_long={too_long!r} with buckets: unknown.{nearest(too_long, TOO_LONG)} A unit longer than every "
                "bucket has no shape. Write 'drop' (left out and counted) or 'error'."
            )
        numbers = np.array([shape.number for shape in self.shapes])
        of = np.searchsorted([shape.longest for shape in self.shapes], lengths, side="left")
        dropped = np.flatnonzero(of == len(self.shapes))
        if len(dropped) and too_long == "error":
            first = int(dropped[0])
            raise DataError(
                f"{called(first)} has length {lengths[first]}, and the longest bucket is for "
                f"{self.shapes[-1].longest}. Add a longer bucket, or write too_long='drop' (left out and counted)."
            )
        units = np.argsort(of, kind="stable")[: len(of) - len(dropped)]
        return _filled(units, of[units], numbers, dropped)

    def __repr__(self) -> str:
        return f"buckets({', '.join(f'({shape.longest}, {shape.number})' for shape in self.shapes)})"


def _filled(units: Whole, of: Whole, numbers: Whole, dropped: Whole) -> Batches:
    """Batches of units that are sorted by bucket, `of` being the bucket of each."""
    n = len(units)
    first = np.searchsorted(of, np.arange(len(numbers)))
    place = np.arange(n) - first[of]
    starts = np.flatnonzero(place % numbers[of] == 0)
    stops = np.append(starts[1:], n)[: len(starts)]
    bucket = of[starts]
    full = stops - starts == numbers[bucket]
    turn = np.argsort(np.where(full, units[stops - 1] if n else starts, units.max(initial=0) + 1 + bucket))
    sizes = (stops - starts)[turn]
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    within = np.arange(n) - np.repeat(offsets[:-1], sizes)
    return Batches(units[np.repeat(starts[turn], sizes) + within], offsets, dropped, bucket[turn])


@named
def buckets(*bounds: tuple[int, int]) -> Buckets:
    """Buckets by (longest length, number of units): `buckets((100, 64), (200, 32), (800, 8))`.

    Lengths are those of the leading stream.

    Raises:
        SettingError: none, a bound that is no pair of whole numbers from 1 on, or two buckets for one length.
    """
    made = sorted((_shape(bound) for bound in bounds), key=lambda shape: shape.longest)
    lengths = [shape.longest for shape in made]
    if not made or len(set(lengths)) < len(lengths):
        said = "two of them are for one length" if made else "there is none"
        raise SettingError(f"buckets{bounds}: {said}. Write buckets((100, 64), (200, 32)): lengths and numbers.")
    return Buckets(tuple(made))


def _shape(bound: Any) -> Shape:
    pair = tuple(bound) if isinstance(bound, Iterable) and not isinstance(bound, str) else ()
    if len(pair) != 2 or not all(isinstance(each, int | np.integer) and each > 0 for each in pair):
        raise SettingError(
            f"buckets({bound!r}): a bucket is (longest length, number of units), whole numbers from 1 on. "
            "Write buckets((100, 64), (200, 32))."
        )
    return Shape(int(pair[0]), int(pair[1]))


def shapes(lengths: Lengths, n: int, limits: Sequence[Limit]) -> Buckets:
    """At most `n` buckets that hold all units with the least padding, each as full as the limits allow.

    Which lengths they are for is chosen by dynamic programming over quantiles, so that what the filled-up batches of
    one epoch hold in all is the least; other streams get the longest that comes in each bucket.

    Args:
        lengths: of the units. n: from 1 on. limits: of a batch, the same during the whole run.

    Raises:
        DataError: no units, or the longest one is over a limit even alone.
        SettingError: `n` is no whole number from 1 on, or a limit changes during the run or counts padding.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise SettingError(f"buckets={n!r}: a whole number from 1 on is needed, or buckets((100, 64), (200, 32)).")
    if not len(lengths):
        raise DataError("There are no samples to choose buckets for.")
    cost = costs(limits, lengths)
    unfit = [limit for limit in limits if not limit.constant]
    if unfit or "padding" in cost.kinds:
        what = f"{unfit[0]!r} changes during the run" if unfit else "a limit on padding says nothing of a shape"
        raise SettingError(f"buckets={n}: {what}. Shapes that stay the same need limits that do: padded(20_000).")
    order = np.argsort(lengths.lead, kind="stable")
    ends = _candidates(lengths.lead[order])
    tops = {name: np.maximum.accumulate(lengths[name][order]) for name in lengths.names}
    numbers = _numbers(np.maximum.accumulate(cost.values[:, order], axis=1)[:, ends - 1], cost.most(Progress()))
    if not numbers.all():
        place = int(np.flatnonzero(numbers == 0)[0])
        raise DataError(
            f"buckets={n}: a sample of length {tops[lengths.names[0]][ends[place] - 1]} is over the budget even alone. "
            "Raise the budget, or leave such samples out: too_long='drop'."
        )
    return _chosen(ends, numbers, tops, lengths.names, int(n))


def _candidates(rising: Whole) -> Whole:
    """Where buckets may end: places after the last unit of a length, at most `_CANDIDATES`, int64, rising."""
    ends = np.append(np.flatnonzero(np.diff(rising)) + 1, len(rising))
    wanted = np.unique(np.linspace(0, len(ends) - 1, min(len(ends), _CANDIDATES)).astype(np.int64))
    by_units = np.searchsorted(ends, np.linspace(1, len(rising), _CANDIDATES))
    return ends[np.union1d(wanted[:: max(1, len(wanted) // _CANDIDATES)], by_units)]


def _numbers(largest: Any, most: Any) -> Whole:
    """How many units of the largest cost a batch may hold, for each candidate; int64."""
    with np.errstate(divide="ignore"):
        each = np.floor(most[:, None] / largest)
    numbers: Whole = np.minimum(each.min(0, initial=np.inf), 1 << 40).astype(np.int64)
    return numbers


def _chosen(ends: Whole, numbers: Whole, tops: dict[str, Whole], names: tuple[str, ...], n: int) -> Buckets:
    """The candidates at which buckets end, by dynamic programming: least[k, j] holds all units up to end j in k."""
    lengths = np.maximum(tops[names[0]][ends - 1], 1)
    numbers = np.minimum(numbers, ends)
    begins = np.append(0, ends[:-1])
    # held[i, j]: what filled-up batches hold of the units from begin i to end j.
    counts = ends[None, :] - begins[:, None]
    held = np.where(counts > 0, -(-counts // numbers) * numbers * lengths, np.inf)
    least, came = held[0], [np.zeros(len(ends), np.int64)]
    best, fewest = least[-1], 1
    for k in range(2, min(n, len(ends)) + 1):
        through = np.append(np.inf, least[:-1])[:, None] + held
        came.append(through.argmin(0))
        least = through.min(0)
        if least[-1] < best:
            best, fewest = least[-1], k
    found, j = [], len(ends) - 1
    for k in range(fewest, 0, -1):
        found.append(j)
        j = int(came[k - 1][j]) - 1
    return Buckets(
        tuple(
            Shape(int(lengths[j]), int(numbers[j]), tuple((name, int(tops[name][ends[j] - 1])) for name in names[1:]))
            for j in reversed(found)
        )
    )
