"""The arrays of a set that moves, and how they lie in memory, kept at hand from step to step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import final

from torch import Tensor

from etude.bind.table import SETS_KEPT, Moving, Table
from etude.errors import SettingError
from etude.step.optim.half import is_low
from etude.step.states import listed
from etude.values.tree import has_shape

_DTYPE = attrgetter("dtype")


@final
class Layout:
    """Arrays that move together, and how they lie in memory.

    Attributes:
        arrays: the arrays. low: whether some of them have half precision.
    """

    __slots__ = ("_dtypes", "_plain", "arrays", "low")

    def __init__(self, arrays: Iterable[Tensor]) -> None:
        self.arrays = list(arrays)
        self._dtypes = frozenset(array.dtype for array in self.arrays)
        self._plain = len(self._dtypes) == 1 and all(array.is_contiguous() for array in self.arrays)
        self.low = any(is_low(array) for array in self.arrays)

    def holds(self, gradients: Sequence[Tensor]) -> bool:
        """Whether every gradient lies in memory as its array does; where that is not plain to see, False."""
        return (
            self._plain
            and self._dtypes.issuperset(map(_DTYPE, gradients))
            # A sparse one is not contiguous. The kernels of native.c do not know of torch's lazy minus sign.
            and all(map(Tensor.is_contiguous, gradients))
            and not any(map(Tensor.is_neg, gradients))
        )


@final
class Layouts:
    """The arrays of each set that moves, looked up once.

    Args:
        table: the settings, with the net. arrays: those of the table, in order.
    """

    def __init__(self, table: Table, arrays: Sequence[Tensor]) -> None:
        self._table, self._arrays = table, arrays
        self._found: dict[Moving, Layout] = {}
        self._outside: dict[tuple[Moving, tuple[int, ...]], tuple[Tensor, ...]] = {}

    def of(self, moving: Moving) -> Layout:
        """The arrays of a set.

        Raises:
            SettingError: one of them has no shape yet.
        """
        found = self._found.get(moving)
        if found is None:
            if len(self._found) >= SETS_KEPT:
                self._found.clear()
            found = self._found[moving] = self._look_up(moving)
        return found

    def outside(self, moving: Moving, carrying: tuple[int, ...]) -> tuple[Tensor, ...]:
        """The trainable arrays of the net that are neither in a set nor among those that carry."""
        found = self._outside.get((moving, carrying))
        if found is None:
            if len(self._outside) >= SETS_KEPT:
                self._outside.clear()
            taken = {self._table.names[i] for i in (*moving.indices, *carrying)}
            tree = self._table.tree
            found = tuple(tree.arrays[name] for name in tree.trainable if name not in taken)
            self._outside[moving, carrying] = found
        return found

    def forget(self) -> None:
        """Somebody may have given arrays other storage."""
        self._found.clear()

    def _look_up(self, moving: Moving) -> Layout:
        lazy = [self._table.names[i] for i in moving.indices if not has_shape(self._arrays[i])]
        if lazy:
            raise SettingError(
                f"step(): {listed(lazy)} have no shape yet. Call the net once before the first step, or freeze them."
            )
        return Layout(self._arrays[i] for i in moving.indices)
