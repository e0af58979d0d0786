"""How far a run is: the only clock there is, and it is a value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING

from etude.errors import ScheduleError

if TYPE_CHECKING:
    from etude.values.spans import Span

UNITS = ("steps", "samples", "tokens", "epochs")
"""What progress is counted in, in the order in which the share of the run done is read from them."""

TINY = 1e-9
"""Two positions nearer than this are one: it is far above what subtraction loses and far below one step."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How long a run is, as far as that is known; None where it is not.

    Attributes:
        steps: optimizer steps. epochs: passes over the data. samples, tokens: what the steps consume.
        run: in a local clock (`Progress.after`), the extent of the whole run; None in the run's own.
    """

    steps: float | None = None
    epochs: float | None = None
    samples: float | None = None
    tokens: float | None = None
    run: Extent | None = field(default=None, repr=False)

    def of(self, unit: str) -> float | None:
        """The length in `unit` ("steps", "epochs", "samples" or "tokens"), None when unknown."""
        length: float | None = getattr(self, unit)
        return length

    def known(self) -> Iterator[tuple[str, float]]:
        """The units in which the length is known, each with the length."""
        for unit in UNITS:
            length = self.of(unit)
            if length is not None:
                yield unit, length

    def convert(self, amount: float, unit: str, into: str) -> float | None:
        """`amount` of `unit` said in another unit, at the mean rate of the whole run; None when unknown."""
        if unit == into:
            return amount
        whole = self.run or self
        source = 1 if unit == "fraction" else whole.of(unit)
        target = 1 if into == "fraction" else whole.of(into)
        return _converted(amount, source, target)

    def everywhere(self, span: Span) -> tuple[float | None, float | None, float | None, float | None]:
        """A span in steps, epochs, samples and tokens, as `convert` says it."""
        whole, amount, unit = self.run or self, span.amount, span.unit
        source = 1 if unit == "fraction" else whole.of(unit)
        return (
            amount if unit == "steps" else _converted(amount, source, whole.steps),
            amount if unit == "epochs" else _converted(amount, source, whole.epochs),
            amount if unit == "samples" else _converted(amount, source, whole.samples),
            amount if unit == "tokens" else _converted(amount, source, whole.tokens),
        )

    def after(self, span: Span) -> Extent:
        """What is left of the run from `span` on; unknown where `span` cannot be converted."""
        return self._left(self.everywhere(span))

    def cut(self, span: Span) -> Extent:
        """The same, ending at `span` at the latest; unknown where the two cannot be compared."""
        steps, epochs, samples, tokens = self.everywhere(span)
        return Extent(
            _least(self.steps, steps),
            _least(self.epochs, epochs),
            _least(self.samples, samples),
            _least(self.tokens, tokens),
            self.run or self,
        )

    def _left(self, gone: tuple[float | None, float | None, float | None, float | None]) -> Extent:
        steps, epochs, samples, tokens = gone
        return Extent(
            _shorter(self.steps, steps),
            _shorter(self.epochs, epochs),
            _shorter(self.samples, samples),
            _shorter(self.tokens, tokens),
            self.run or self,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """A position in a run, as it is before a step: the first step is made at step 0.

    Attributes:
        step: optimizer steps attempted so far.
        epoch: position in epochs: epochs done + batches done / batches of this one.
        samples, tokens: consumed so far.
        extent: how long the run is.

    In a run the counts are whole numbers, or nan where nothing counts them (`without`). In a local clock (`after`)
    they may be fractions, or nan where the run's length would be needed to know them.
    """

    step: float = 0
    epoch: float = 0.0
    samples: float = 0
    tokens: float = 0
    extent: Extent = Extent()

    @property
    def fraction(self) -> float:
        """The share of this clock's run that is done: 0 before the first step, 1 after the last.

        Read from steps where their number is known, else from samples, tokens or epochs. 1 in a run of no
        length. ScheduleError when the length is unknown in every unit.
        """
        total = self.extent.steps
        return self.step / total if total else self._share(self.extent)

    def tick(self, *, samples: int = 0, tokens: int = 0, epoch: float | None = None) -> Progress:
        """The position one step later, after `samples` and `tokens` more; `epoch` is the new position."""
        return Progress(
            self.step + 1,
            self.epoch if epoch is None else epoch,
            self.samples + samples,
            self.tokens + tokens,
            self.extent,
        )

    def without(self, *units: str) -> Progress:
        """The same clock in a run that does not count `units`: they are nan, which `amount` refuses to read."""
        return Progress(
            nan if "steps" in units else self.step,
            nan if "epochs" in units else self.epoch,
            nan if "samples" in units else self.samples,
            nan if "tokens" in units else self.tokens,
            self.extent,
        )

    def amount(self, unit: str) -> float:
        """How much of `unit` is done; "fraction" is always a share of the whole run, also in a local clock.

        ScheduleError when that cannot be known, or the unit is none of progress.
        """
        if unit == "steps":
            amount = self.step
        elif unit == "epochs":
            amount = self.epoch
        elif unit == "fraction":
            return self._share(self.extent.run or self.extent)
        else:
            amount = self._count(unit)
        if amount != amount:
            raise ScheduleError(_unconvertible(unit, self.extent))
        return amount

    def ahead(self, unit: str) -> float:
        """How much of `unit` will be done when the step about to be made is.

        That is one step more; in other units the mean of the run more, or the amount now if that is unknown.
        """
        if unit == "steps":
            return self.amount(unit) + 1
        whole = self.extent.run or self.extent
        if not whole.steps:
            return self.amount(unit)
        return self.amount(unit) + (whole.convert(1, "steps", unit) or 0)

    def after(self, span: Span) -> Progress:
        """The local clock of what began at `span`: every count, and the extent, less that span.

        Other units are converted through the extent; a count that cannot be is nan, which `amount` refuses.
        """
        extent = self.extent
        gone = steps, epochs, samples, tokens = extent.everywhere(span)
        return Progress(
            _less(self.step, steps),
            _less(self.epoch, epochs),
            _less(self.samples, samples),
            _less(self.tokens, tokens),
            extent._left(gone),
        )

    def _count(self, unit: str) -> float:
        if unit == "samples":
            return self.samples
        if unit == "tokens":
            return self.tokens
        raise ScheduleError(
            f"Progress is not counted in {unit!r}: a run would not resume exactly if its values depended on it. "
            "Use steps, epochs, samples, tokens or fraction."
        )

    def _share(self, extent: Extent) -> float:
        """The share done of `extent`, from the first unit that is known both there and here."""
        for unit, length in extent.known():
            done = self.step if unit == "steps" else self.epoch if unit == "epochs" else self._count(unit)
            if done == done:
                return done / length if length else 1.0
        raise ScheduleError(
            "A share of the run is asked for, and the length of the run is not known. Give the run its length "
            "(steps=, epochs= or total=), or write the span in steps, epochs, samples or tokens."
        )


def _converted(amount: float, source: float | None, target: float | None) -> float | None:
    return None if target is None or not source else amount * target / source


def _least(length: float | None, end: float | None) -> float | None:
    if length is None or end is None:
        return end if length is None else None
    return min(length, end)


def _shorter(length: float | None, gone: float | None) -> float | None:
    return None if length is None or gone is None else max(0, _less(length, gone))


def _less(done: float, gone: float | None) -> float:
    """`done - gone`, free of what subtraction loses next to a whole number (where boundaries mostly are)."""
    if gone is None:
        return nan
    left = done - gone
    if type(left) is float and left == left:
        whole = round(left)
        return whole if -TINY < left - whole < TINY else left
    return left


def _unconvertible(unit: str, extent: Extent) -> str:
    known = ", ".join(unit for unit, _ in (extent.run or extent).known()) or "nothing"
    return (
        f"The position in {unit} is not known here: this run does not count {unit}, or a span in another unit comes "
        f"before and cannot be converted (the run's length is known in {known}). Write all spans in one unit that "
        f"the run counts, or give the run a length in {unit}."
    )
