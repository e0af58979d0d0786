"""Micro-batches of one step: their gradients add up to those of the one batch that they are parts of.

The mean of a term over the whole is the sum of its means over the parts, each times its share of what is counted. With
several terms these shares have to be known before the first gradient is computed. The gradient of one term may be put
right afterwards, by one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

from torch import Tensor, nn

from etude.errors import SettingError
from etude.step.looking import looking
from etude.step.loss import Losses, Measured, weighted_sum
from etude.step.loss_numbers import Now
from etude.step.reading import Reader
from etude.step.undisturbed import undisturbed


class Together:
    """The terms of a step over its micro-batches, as one micro-batch after the other is measured.

    Args:
        names: of the terms. weights: of the terms in this step.
        number: of micro-batches.
        counts: of each of them what each term is taken over; None where that is not known beforehand, for one term.
        summed: which terms are in the sum; None: all.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float],
        number: int,
        counts: Sequence[Sequence[float]] | None = None,
        summed: Sequence[bool] | None = None,
    ) -> None:
        self._summed = [True] * len(names) if summed is None else list(summed)
        self._names, self._weights, self._told = tuple(names), tuple(weights), counts
        self._wholes = [0.0] * len(self._names) if counts is None else [sum(own) for own in zip(*counts, strict=True)]
        self._all = number
        self._sums: list[Tensor | None] = [None] * len(self._names)
        self._counts = [0.0] * len(self._names)
        self._nothing: tuple[Measured, ...] = ()
        self._number = 0
        self._last = 0.0

    def share(self, measured: Sequence[Measured]) -> Tensor | None:
        """What the next micro-batch adds to the loss; None where nothing in it counts for any term.

        Raises:
            SettingError: a term is taken over something else than was told.
        """
        here = [float(one.count) for one in measured]
        self._check(here)
        self._number += 1
        self._last = here[0]
        self._nothing = tuple(measured)
        means: list[Tensor] = []
        weights: list[float] = []
        for place, (one, count) in enumerate(zip(measured, here, strict=True)):
            if not count:
                # Its mean is NaN; in the batch as a whole it would not be seen.
                continue
            part = one.mean.detach() * count
            before = self._sums[place]
            self._sums[place] = part if before is None else before + part
            self._counts[place] += count
            if not self._summed[place]:
                continue
            means.append(one.mean)
            # A guess where it is not known: so the loss has about its size, which matters in half precision.
            whole = self._wholes[place] = self._wholes[place] or count * self._all
            weights.append(self._weights[place] * count / whole)
        return weighted_sum(means, weights) if means else None

    def weights_of_next(self) -> tuple[float, ...] | None:
        """What the means of the next micro-batch are multiplied by, but for `factor`; None where a count is 0."""
        if self._told is None:
            return tuple(self._weights)
        here = self._told[self._number]
        if not all(here):
            return None
        return tuple(w * count / whole for w, count, whole in zip(self._weights, here, self._wholes, strict=True))

    @property
    def factor(self) -> float:
        """What the last micro-batch counts for, where `weights_of_next` could not know it."""
        return 1.0 if self._told is not None else self._last / self._wholes[0]

    @property
    def divisor(self) -> float:
        """What the gradients of all `share` are to be divided by; 0 where nothing counts."""
        if not any(compress(self._counts, self._summed)):
            return 0.0
        return 1.0 if self._told is not None else self._counts[0] / self._wholes[0]

    @property
    def empty(self) -> bool:
        """Whether there is a term in the sum of which nothing counts in any micro-batch: its mean is NaN."""
        return not all(compress(self._counts, self._summed))

    def terms(self) -> tuple[Measured, ...]:
        """Each term over all micro-batches."""
        found = zip(self._sums, self._counts, self._nothing, strict=True)
        return tuple(empty if total is None else Measured(total / count, count) for total, count, empty in found)

    def loss(self) -> Tensor:
        """The weighted sum of the terms over all micro-batches."""
        means = [one.mean.detach() for one in self.terms()]
        return weighted_sum(list(compress(means, self._summed)), list(compress(self._weights, self._summed)))

    def _check(self, here: Sequence[float]) -> None:
        if self._told is None:
            return
        for name, count, told in zip(self._names, here, self._told[self._number], strict=True):
            if count != told:
                raise SettingError(
                    f"The loss {name!r} is a mean over {count:g} in micro-batch {self._number}, and over {told:g} was "
                    "told beforehand: it gave a mean for the first batch and something else now, or counts by chance. "
                    "Give a pair (sum, count) always, or leave accumulate out."
                )


def counts_of(losses: Losses, net: nn.Module, read: Reader, many: Sequence[Any], now: Now) -> list[list[float]]:
    """What each term is taken over in each of several batches.

    Where the batches alone do not tell, the net computes them without gradients, in evaluation mode, and what is drawn
    in it is drawn again.
    """
    if losses.counts_known:
        return [[float(count) for count in losses.counts(read, values)] for values in many]
    modules = [term.function for term in losses.terms if isinstance(term.function, nn.Module)]
    whole = nn.ModuleList([net, *modules])
    with looking(whole), undisturbed(whole):
        return [[float(one.count) for one in losses.measure_each(net, read, values, now)[0]] for values in many]
