"""Where the clock stands before each step of a run, for pictures and tables of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING

from etude.bind.show import progress_at
from etude.values.progress import Progress

if TYPE_CHECKING:
    from etude.run.checked import Checked

_FOLLOWED = 1_000_000
"""Steps that are followed one by one at most: a second."""
_UNKNOWN = 200
"""Steps that are shown of a run of which nobody knows how many it has."""


class Pace:
    """How far a run of a plan is after each number of steps.

    Where epochs have different numbers of steps (`accumulate` or the size of batches changes) they are followed step
    by step; where what a step takes is only seen when it is made, its mean pace is taken.

    Args:
        checked: the plan. end: the clock after the last step, where the run was made.

    Attributes:
        steps: of the run; a guess where they cannot be known.
    """

    def __init__(self, checked: Checked, end: Progress | None = None) -> None:
        self._extent = checked.extent
        self._followed = _followed(checked, None if end is None else int(end.step))
        self._end = end
        told = checked.extent.steps
        self.steps = int(end.step if end is not None else told or len(self._followed) or checked.plan.steps or _UNKNOWN)

    @property
    def followed(self) -> int:
        """How many steps were followed one by one; 0 where the mean pace is taken."""
        return len(self._followed)

    def at(self, steps: Sequence[int]) -> list[Progress]:
        """The clock after each of these numbers of steps."""
        if self._followed:
            last = len(self._followed) - 1
            return [self._followed[min(step, last)] for step in steps]
        if self._extent.steps is None:
            return [self._mean(step) for step in steps]
        return [progress_at(self._extent, step) for step in steps]

    def _mean(self, step: int) -> Progress:
        """The clock at the mean pace of a run that has no known number of steps."""
        extent, end = self._extent, self._end
        whole = (extent.epochs, extent.samples, extent.tokens) if end is None else (end.epoch, end.samples, end.tokens)
        share = step / self.steps if self.steps else 0.0
        epochs, samples, tokens = (share * (amount or 0.0) for amount in whole)
        return Progress(step, epochs, samples, tokens, extent)


def _followed(checked: Checked, made: int | None) -> list[Progress]:
    """The clock before each step of a run whose steps are not all the same share of an epoch; else nothing."""
    counts = _counts(checked)
    if counts is None:
        return []
    return list(islice(_walk(checked, counts), _FOLLOWED if made is None else min(made, _FOLLOWED)))


def _counts(checked: Checked) -> Iterator[int] | None:
    """How many batches each epoch has, where that says more than the mean does."""
    plan, flow = checked.plan, checked.flow
    if plan.updates is not None and any(update.own_batch for update in plan.updates):
        return None
    if flow.batches_per_epoch is not None:
        per = repeat(flow.batches_per_epoch) if plan.epochs is None else repeat(flow.batches_per_epoch, plan.epochs)
        return None if isinstance(plan.accumulate, int) or (plan.epochs or plan.steps) is None else per
    counts = None if plan.epochs is None else flow.batches_of(plan.epochs)
    return None if counts is None else iter(counts)


def _walk(checked: Checked, counts: Iterator[int]) -> Iterator[Progress]:
    extent, window, most, step = checked.extent, checked.window, checked.plan.steps, 0
    samples, tokens = checked.flow.samples or 0, checked.flow.tokens or 0
    for epoch, batches in enumerate(counts):
        done = 0
        while done < batches:
            if most is not None and step >= most:
                return
            passes = epoch + done / batches
            now = Progress(step, passes, passes * samples, passes * tokens, extent)
            yield now
            done, step = done + window.size(now), step + 1
