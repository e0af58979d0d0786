"""Where in the run a batch lies, for budgets and filters that change during the run.

A position in epochs is known at once. Steps, samples and tokens before an epoch are only known by planning all epochs
before it, which is done if something asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from etude.data.plan.lengths import Whole
from etude.values.algebra import Call, Schedule
from etude.values.progress import Extent, Progress

T = TypeVar("T")


class Uncounted(Exception):
    """Something asks for steps, samples or tokens, and those before the epoch have not been counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """An epoch as the clock sees it.

    Attributes:
        units: given out before each batch and after the last one, int64, shape (batches + 1,).
        frames: true frames in the leading stream, likewise.
        total: units that there were, those included that were left out for being beyond the budget.
    """

    units: Whole
    frames: Whole
    total: int


def opaque(schedules: Iterable[Schedule]) -> bool:
    """Whether any of them is a function, of which it cannot be seen what it reads of its progress."""
    return any(isinstance(each, Call) or opaque(each.children) for each in schedules)


class Clock:
    """The progress at any batch.

    Args:
        extent: how long the run is.
        accumulate: batches of one step; None: one.
        passed: plans an epoch and tells what is in it.
        counted: whether steps, samples and tokens are counted from the beginning.

    Attributes:
        counted: whether they are by now.
    """

    def __init__(
        self, extent: Extent, accumulate: Schedule | None, passed: Callable[[int], Passed], counted: bool
    ) -> None:
        self._extent, self._accumulate, self._passed = extent, accumulate, passed
        self._starts = {0: Progress(extent=extent)}
        self.counted = counted

    def start(self, epoch: int) -> Progress:
        """The progress at the beginning of an epoch."""
        if not self.counted:
            return Progress(epoch=float(epoch), extent=self._extent).without("steps", "samples", "tokens")
        nearest = max(known for known in self._starts if known <= epoch)
        for passed in range(nearest, epoch):
            self._starts[passed + 1] = self._after(passed)
        return self._starts[epoch]

    def remember(self, epoch: int, steps: int, samples: int, tokens: int) -> None:
        """What was counted before an epoch, so that it need not be counted again."""
        self._starts[epoch] = Progress(steps, float(epoch), samples, tokens, self._extent)

    def moments(self, epoch: int, units: int) -> Moments:
        """Those of an epoch that has so many units, to be asked for in their order."""
        return Moments(self.start(epoch), units, self._accumulate)

    def ask(self, question: Callable[[Progress], T], progress: Progress) -> T:
        """What a question gives at a moment.

        Raises:
            Uncounted: it cannot be answered without counting, and nothing was counted.
        """
        if self.counted:
            return question(progress)
        try:
            return question(progress)
        except Exception as error:  # whatever is wrong besides is said when it is asked again
            raise Uncounted from error

    def _after(self, epoch: int) -> Progress:
        passed = self._passed(epoch)
        total = int(passed.units[-1])
        moments = self.moments(epoch, passed.total)
        for batch, (units, frames) in enumerate(zip(passed.units[:-1].tolist(), passed.frames.tolist(), strict=False)):
            moments.at(batch, units, frames)
        start = moments.start
        return Progress(
            moments.steps + start.step,
            epoch + 1.0,
            start.samples + total,
            start.tokens + int(passed.frames[-1]),
            self._extent,
        )


class Moments:
    """The progress at the batches of one epoch, one after the other.

    Attributes:
        start: the progress at the beginning of the epoch. steps: begun in it so far.
    """

    __slots__ = ("_accumulate", "_next", "_units", "start", "steps")

    def __init__(self, start: Progress, units: int, accumulate: Schedule | None) -> None:
        self.start = start
        self.steps = 0
        self._units = max(units, 1)
        self._accumulate = accumulate
        self._next = 0

    def at(self, batch: int, units: int, frames: int) -> Progress:
        """The progress at a batch, after so many units and frames of this epoch."""
        start = self.start
        begins = batch >= self._next
        step = start.step + self.steps - (not begins)
        epoch = start.epoch + units / self._units
        now = Progress(step, epoch, start.samples + units, start.tokens + frames, start.extent)
        if begins:
            # A step takes as many batches as it is told when it begins.
            self.steps += 1
            self._next = batch + (1 if self._accumulate is None else int(self._accumulate.at(now)))
        return now
