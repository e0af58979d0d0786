"""Units that come one after another put into groups, each of which becomes a batch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from etude.data.arriving import Counts, Unit, tally
from etude.data.order import BATCHES, generator
from etude.data.plan.arrangements import InOrder, Laplace, Order, Pools
from etude.data.plan.batching import Batching
from etude.data.plan.buckets import Buckets, Shape
from etude.data.plan.budgets import Costs, costs
from etude.data.plan.clock import opaque
from etude.data.plan.cut import Filling, within
from etude.data.plan.limits import Limit, SampleLimit, StreamLimit
from etude.data.plan.orders import laplace_stream
from etude.data.plan.packing import first_fit
from etude.data.plan.prepared import one_packed
from etude.data.sieving import lengths_of_one
from etude.errors import DataError
from etude.values.progress import Progress

Moment = Callable[[int, int, int], Progress]
"""The progress at a batch: of its number in the epoch, and the units and frames (leading stream) before it."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Units of one batch, and its shape where that is fixed."""

    units: Sequence[Unit]
    shape: Shape | None = None


def ordered(units: Iterator[Unit], order: Order) -> Iterator[Unit]:
    """Units in an order that needs to see a bounded number of them."""
    if isinstance(order, Laplace):
        return laplace_stream(units, order.size or 1, lead)
    return _pools(units, order) if isinstance(order, Pools) else units


def lead(unit: Unit) -> int:
    """The length in the leading stream."""
    return next(iter(unit.lengths.values()))


def _pools(units: Iterator[Unit], order: Pools) -> Iterator[Unit]:
    while waiting := list(islice(units, order.size)):
        yield from sorted(waiting, key=lead, reverse=order.falling)


def groups(units: Iterator[Unit], batching: Batching, moment: Moment, left_out: Counts) -> Iterator[Group]:
    """Units in batches.

    Args:
        units: in their order. batching: how they become batches. moment: for limits that change.
        left_out: where it is counted what comes into no batch.

    Raises:
        DataError: a unit is beyond the budget and that is to be an error, or streams that cannot be strung together.
    """
    if isinstance(batching.buckets, Buckets):
        yield from _in_buckets(units, batching.buckets, batching, left_out)
        return
    first = next(units, None)
    if first is None:
        return
    price = Price(batching.limits, first.lengths, batching.too_long, left_out)
    units = chain([first], units)
    if batching.pack == "first_fit":
        yield from _fitted(units, price, batching.pool or 1, moment(0, 0, 0))
    elif batching.pack == "strung":
        yield from _strung(units, int(price.costs.most(moment(0, 0, 0))[0]))
    else:
        yield from _greedy(units, price, batching.drop_last, moment)


def in_blocks(made: Iterator[Group], block: int, seed: int, epoch: int) -> Iterator[Group]:
    """Batches that change places within blocks of so many."""
    chance, number = generator(seed, BATCHES, epoch), 0
    while waiting := list(islice(made, block)):
        drawn = chance.random(len(waiting))
        yield from (waiting[place] for place in np.argsort(number + drawn, kind="stable"))
        number += 1


class Price:
    """What units cost that come one by one.

    Args:
        limits: of a batch. lengths: of the first unit. too_long: what becomes of a unit beyond the budget.
        left_out: where it is counted.

    Attributes:
        costs: the limits, for one unit.
    """

    __slots__ = ("_columns", "_left_out", "_limits", "_too_long", "costs")

    def __init__(self, limits: tuple[Limit, ...], lengths: Mapping[str, int], too_long: str, left_out: Counts) -> None:
        self._limits, self._too_long, self._left_out = limits, too_long, left_out
        self.costs: Costs = costs(limits, lengths_of_one(lengths) if lengths else None, 1)
        self._columns = _columns(limits, lengths)

    def of(self, unit: Unit) -> list[float]:
        """What a unit costs alone under each limit."""
        if self._columns is not None:
            return [unit.lengths[name] if name else 1 for name in self._columns]
        known = lengths_of_one(unit.lengths) if unit.lengths else None
        return [float(cost) for cost in costs(self._limits, known, 1).values[:, 0]]

    def counted(self, number: int, most: Sequence[float]) -> bool:
        """Whether so many units are all that a batch may hold."""
        titles = zip(self.costs.titles, most, strict=True)
        return any(title == "samples" and number + 1 > limit for title, limit in titles)

    def left(self, unit: Unit, values: Sequence[float], most: Sequence[float]) -> bool:
        """Whether a unit is left out for being beyond the budget alone; then it is counted.

        Raises:
            DataError: it is, and that is an error.
        """
        if self._too_long == "alone" or all(cost <= limit for cost, limit in zip(values, most, strict=True)):
            return False
        called = f"{'a chunk of ' * bool(unit.windows)}sample {unit.number}"
        kept, _ = within(
            np.array(values, np.float64)[:, None], self.costs.kinds, np.array(most), self._too_long, lambda _: called
        )
        self.leave("units beyond the budget", 1 - len(kept))
        return not len(kept)

    def leave(self, reason: str, number: int) -> None:
        """Count units that come into no batch."""
        tally(self._left_out, reason, number)


def _columns(limits: Sequence[Limit], lengths: Mapping[str, int]) -> list[str] | None:
    """The stream whose length is the cost under each limit, "" for 1; None where there are other costs."""
    columns: list[str] = []
    for limit in limits:
        if isinstance(limit, StreamLimit):
            columns += [*(lengths if limit.most is not None else ()), *(name for name, _ in limit.streams)]
        elif isinstance(limit, SampleLimit):
            columns.append("")
        else:
            return None
    return columns


def _greedy(units: Iterator[Unit], price: Price, drop_last: bool, moment: Moment) -> Iterator[Group]:
    """A batch ends before the unit that would take it over a limit; by number alone, no unit is read to see that."""
    constant, filling = price.costs.constant, Filling(price.costs.kinds)
    held: list[Unit] = []
    batches = given = frames = 0
    most = price.costs.most(moment(0, 0, 0)).tolist()
    asks = opaque(price.costs.schedules)  # a function is asked for every unit
    for unit in units:
        values = price.of(unit)
        if asks and held:
            most = price.costs.most(moment(batches, given, frames)).tolist()
        if constant and price.left(unit, values, most):
            continue
        if held and not filling.add(values, most):
            yield Group(held)
            held, batches = [], batches + 1
        if not held:
            filling.clear()
            if not constant:
                most = price.costs.most(moment(batches, given, frames)).tolist()
                if price.left(unit, values, most):
                    continue
            filling.add(values, most)
        held.append(unit)
        given += 1
        frames += lead(unit) if unit.lengths else 0
        if not asks and price.counted(len(held), most):
            yield Group(held)
            held, batches = [], batches + 1
    if held and drop_last:
        price.leave("units that do not fill a batch", len(held))
    elif held:
        yield Group(held)


def _in_buckets(units: Iterator[Unit], given: Buckets, batching: Batching, left_out: Counts) -> Iterator[Group]:
    """Each unit in the shortest bucket it fits; a full bucket is a batch."""
    longest = [shape.longest for shape in given.shapes]
    held: list[list[Unit]] = [[] for _ in longest]
    for unit in units:
        place = bisect_left(longest, lead(unit))
        if place == len(longest):
            if batching.too_long == "error":
                raise DataError(
                    f"Sample {unit.number} has length {lead(unit)}, and the longest bucket is for {longest[-1]}. "
                    "Add a longer bucket, or write too_long='drop' (left out and counted)."
                )
            tally(left_out, "units longer than every bucket")
            continue
        held[place].append(unit)
        if len(held[place]) == given.shapes[place].number:
            yield Group(held[place], given.shapes[place])
            held[place] = []
    for rest, shape in zip(held, given.shapes, strict=True):
        if rest and batching.drop_last:
            tally(left_out, "units that do not fill a bucket", len(rest))
        elif rest:
            yield Group(rest, shape)


def _fitted(units: Iterator[Unit], price: Price, pool: int, start: Progress) -> Iterator[Group]:
    """First fit, so many units at a time."""
    row, number = one_packed(price.costs)
    most = price.costs.most(start).tolist()
    kept = ((unit, values) for unit in units if not price.left(unit, values := price.of(unit), most))
    while waiting := list(islice(kept, pool)):
        sizes = np.array([values[row] for _, values in waiting], np.float64)
        batches = first_fit(sizes, most[row], None, None if number is None else int(most[number]))
        for batch in range(len(batches)):
            yield Group([waiting[place][0] for place in batches[batch].tolist()])


def _strung(units: Iterable[Unit], size: int) -> Iterator[Group]:
    """Frames of all units one after the other, cut at every so many."""
    held: list[Unit] = []
    room = size
    for unit in units:
        whole = lead(unit)
        if any(length != whole for length in unit.lengths.values()):
            raise DataError(
                f"pack='strung' cuts sample {unit.number} anywhere, and its streams have different lengths: "
                f"{', '.join(f'{name!r} {length}' for name, length in unit.lengths.items())}. Write pack=True, which "
                "keeps samples whole."
            )
        start = 0
        while start < whole:
            stop = min(whole, start + room)
            held.append(_piece(unit, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield Group(held)
                held, room = [], size
    if held:
        yield Group(held)


def _piece(unit: Unit, start: int, stop: int) -> Unit:
    begin = {name: unit.windows[name][0] if name in unit.windows else 0 for name in unit.lengths}
    windows = {name: (first + start, first + stop) for name, first in begin.items()}
    return Unit(unit.number, unit.item, dict.fromkeys(unit.lengths, stop - start), windows)


def bounded(order: Order) -> bool:
    """Whether an order needs to see only a bounded number of units."""
    if isinstance(order, InOrder):
        return not order.backwards
    return isinstance(order, Pools) or (isinstance(order, Laplace) and order.size is not None)
