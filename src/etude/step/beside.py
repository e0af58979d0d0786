"""Terms that are never in the sum, beside a compiled program: computed as they are, and without a trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, final

from torch import Tensor, nn

from etude.step.loss import Losses, Measured
from etude.step.loss_numbers import Now
from etude.step.precision import Precision
from etude.step.reading import Reader

Early: TypeAlias = dict[int, Measured]
"""Terms by place."""
Given: TypeAlias = tuple[list[Tensor], list[Any]]
"""What a program gives of its terms: means and counts."""
_NONE: Early = {}


def given(loss: Tensor, measured: Sequence[Measured]) -> Given:
    """Of a program's terms their means and counts; no mean where the only term is the loss.

    Outputs that share memory cost extra at each call.
    """
    whole = len(measured) == 1 and measured[0].mean is loss
    return [] if whole else [one.mean.detach() for one in measured], [one.count for one in measured]


@final
class Beside:
    """What a program leaves out of the terms of an update.

    Args:
        net, losses, read, precision: what is computed, of what, and in which numbers.

    Attributes:
        takes_output: whether some of it needs the output that a program computes.
    """

    def __init__(self, net: nn.Module, losses: Losses, read: Reader, precision: Precision) -> None:
        self._net, self._losses, self._read, self._precision = net, losses, read, precision
        self._empty = not losses.apart

    @property
    def takes_output(self) -> bool:
        return self._losses.needs_apart(takes_net=False)

    def before(self, values: Any, numbers: Now) -> Early:
        """The terms that call the net themselves: they are computed before anything moves."""
        return _NONE if self._empty else self._measured(values, numbers, None, takes_net=True)

    def joined(
        self, early: Early, given: Given, loss: Tensor, values: Any, numbers: Now, output: Any
    ) -> tuple[Measured, ...]:
        """All terms in order, of those that came before, and those that the program gave with its loss."""
        means, counts = given
        found = [Measured(mean, count) for mean, count in zip(means or [loss], counts, strict=True)]
        if self._empty:
            return tuple(found)
        early = early | self._measured(values, numbers, output, takes_net=False)
        inside = iter(found)
        return tuple(early.get(place) or next(inside) for place in range(len(self._losses.terms)))

    def _measured(self, values: Any, numbers: Now, output: Any, takes_net: bool) -> Early:
        if not self._losses.needs_apart(takes_net):
            return {}
        with self._precision.context():
            return self._losses.measure_apart(self._net, self._read, values, numbers, output, takes_net)
