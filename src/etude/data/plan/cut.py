"""An order of units cut into batches: a batch ends before the unit that would take it over one of its limits.

What is exactly full still fits. A unit that is over a limit alone is a batch of its own, or is left out and counted, or
is an error. These are RETURNN's rules; the units are looked at many at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

from etude.data.plan.ends import all_ends, changes_of, next_end
from etude.data.plan.lengths import Whole
from etude.data.plan.limits import Floats, Kind
from etude.errors import DataError, SettingError, nearest

Most: TypeAlias = "Floats | Callable[[int], npt.ArrayLike]"
"""What limits allow: shape (limits,), or (limits, n) for a limit of each unit's own, or a function of the position."""

TOO_LONG = ("alone", "drop", "error")
"""What may become of a unit over the budget."""

_WINDOW = 8192
"""Units that are looked at together, few enough for the fast memory of one core."""
_SHORT_RUN = 256
"""Below so many units under the same limits, batches are found one by one."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """Units in batches.

    Attributes:
        units: positions in the order that was cut, batch after batch, int64, shape (kept,).
        offsets: where each batch begins in `units`, and where the last ends, int64, shape (batches + 1,).
        dropped: positions of the units that are in no batch, int64, rising.
        shapes: of each batch its bucket, int64, shape (batches,), where there are any.
    """

    units: Whole
    offsets: Whole
    dropped: Whole = field(default_factory=lambda: np.zeros(0, np.int64))
    shapes: Whole | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, batch: int) -> Whole:
        if not 0 <= batch < len(self):
            raise IndexError(f"batch {batch} of {len(self)}")
        return self.units[self.offsets[batch] : self.offsets[batch + 1]]


def cut(
    costs: Floats,
    kinds: Sequence[Kind],
    most: Most,
    too_long: str = "alone",
    called: Callable[[int], str] = "the unit at position {}".format,
) -> Batches:
    """Cut units into batches, in their order.

    Args:
        costs: of each unit alone under each limit, in the order to be cut, float64, shape (limits, n).
        kinds: how the costs of units add up, for each limit.
        most: what the limits allow. Where that differs from unit to unit, a unit joins a batch that is then within
            the unit's own limits.
        too_long: what becomes of a unit that is over a limit alone: "alone", a batch of its own; "drop"; "error".
        called: what a message calls the unit at a position.

    Raises:
        DataError: a unit is over a limit, and that is an error.
        SettingError: `too_long` is none of the three.
    """
    limits = _limits(most, costs)
    kept, dropped = within(costs, kinds, limits, too_long, called)
    if not len(dropped):
        return Batches(kept, _offsets(costs, kinds, limits))
    limits = limits[:, kept] if limits.ndim == 2 else limits
    return Batches(kept, _offsets(costs[:, kept], kinds, limits), dropped)


def within(
    costs: Floats,
    kinds: Sequence[Kind],
    limits: Floats,
    too_long: str,
    called: Callable[[int], str] = "the unit at position {}".format,
) -> tuple[Whole, Whole]:
    """The positions of units that are to be cut, and of those that are dropped for being over a limit alone.

    Args:
        costs, kinds, too_long, called: as in `cut`. limits: shape (limits,) or (limits, n).

    Raises:
        DataError: a unit is over a limit, and that is an error.
        SettingError: `too_long` is none of "alone", "drop", "error".
    """
    if too_long not in TOO_LONG:
        raise SettingError(
            f"too_long={too_long!r}: unknown.{nearest(too_long, TOO_LONG)} Write 'alone' (a batch of its own), 'drop' "
            "(left out and counted) or 'error'."
        )
    everyone, nobody = np.arange(costs.shape[1]), np.zeros(0, np.int64)
    if too_long == "alone":
        return everyone, nobody
    allowed = limits if limits.ndim == 2 else limits[:, None]
    # One unit alone has no padding, whatever its length.
    alone = np.array([kind != "padding" for kind in kinds], dtype=bool)[:, None]
    over = alone & (costs > allowed)
    long = over.any(0)
    if not long.any():
        return everyone, nobody
    dropped = np.flatnonzero(long)
    if too_long == "drop":
        return np.flatnonzero(~long), dropped
    first = int(dropped[0])
    row = int(over[:, first].argmax())
    others = f" So have {len(dropped) - 1} others." if len(dropped) > 1 else ""
    raise DataError(
        f"{called(first)} has {costs[row, first]:g} where a batch may hold "
        f"{np.broadcast_to(allowed, costs.shape)[row, first]:g}.{others} Raise the budget, or write too_long='alone' "
        "(a batch of its own) or too_long='drop' (left out and counted)."
    )


def used(costs: Floats, kinds: Sequence[Kind], offsets: Whole) -> Floats:
    """What each batch takes of each limit, float64, shape (limits, batches).

    Args:
        costs: of the units, batch after batch, shape (limits, n). offsets: where the batches begin and end.
    """
    if len(offsets) < 2:
        return np.zeros((len(kinds), 0))
    starts, sizes = offsets[:-1], np.diff(offsets)
    sums, largest = np.add.reduceat(costs, starts, axis=1), np.maximum.reduceat(costs, starts, axis=1) * sizes
    by_kind = {"packed": sums, "padded": largest, "padding": largest - sums}
    return np.array([by_kind[kind][row] for row, kind in enumerate(kinds)]).reshape(len(kinds), len(sizes))


@final
class Filling:
    """A batch that is filled unit by unit, for data whose end is not known: it ends where `cut` would end it."""

    __slots__ = ("_kinds", "_largest", "_sums", "number")

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = tuple(kinds)
        self.clear()

    def clear(self) -> None:
        """Begin the next batch."""
        self.number = 0
        self._sums = [0.0] * len(self._kinds)
        self._largest = [0.0] * len(self._kinds)

    def add(self, costs: Sequence[float], most: Sequence[float]) -> bool:
        """Take a unit in, if the batch is then within `most` or was empty; False: it belongs into the next batch.

        Args:
            costs: of the unit alone, and most: what the limits allow now; a number for each limit.
        """
        number = self.number + 1
        sums = [total + float(each) for total, each in zip(self._sums, costs, strict=True)]
        largest = [max(top, float(each)) for top, each in zip(self._largest, costs, strict=True)]
        rows = zip(self._kinds, sums, largest, most, strict=True)
        if number > 1 and any(_total(kind, number, total, top) > limit for kind, total, top, limit in rows):
            return False
        self.number, self._sums, self._largest = number, sums, largest
        return True


def _total(kind: Kind, number: int, total: float, largest: float) -> float:
    if kind == "packed":
        return total
    return number * largest - (total if kind == "padding" else 0.0)


def _limits(most: Most, costs: Floats) -> Floats:
    limits, n = costs.shape
    if callable(most):
        asked = [np.asarray(most(position), dtype=np.float64) for position in range(n)]
        return np.stack(asked, axis=1) if asked else np.zeros((limits, 0))
    return np.asarray(most, dtype=np.float64)


def _offsets(costs: Floats, kinds: Sequence[Kind], limits: Floats) -> Whole:
    """Where batches begin and end."""
    n, offsets, width, size = costs.shape[1], [0], _WINDOW, 0
    changes = changes_of(limits, n)
    run = 0
    while (start := offsets[-1]) < n:
        while changes[run] <= start:
            run += 1
        # A window of units under the same limits.
        stop = min(start + width, changes[run])
        place, last = 0, stop - start
        if stop == n or last >= _SHORT_RUN:
            same = limits[:, start] if limits.ndim == 2 else limits
            ends = all_ends(costs[:, start:stop], kinds, same).tolist()
            while place < last and (ends[place] < last or stop == n):
                size, place = ends[place] - place, ends[place]
                offsets.append(start + place)
        if place:
            width = _WINDOW
        elif stop < changes[run]:
            width *= 2  # one batch is more than the window
        else:
            offsets.append(next_end(costs, kinds, limits, start, size))
            size = offsets[-1] - start
    return np.array(offsets, dtype=np.int64)
