"""How often something is done: `every(epochs(1))`, joined by `|` (at either) and `&` (where both are due at once)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import floor
from typing import final

from etude.arguments import named
from etude.errors import ScheduleError
from etude.values.progress import TINY, Progress
from etude.values.spans import CLOCK_UNITS, Span, no_span


class Cadence(ABC):
    """How often something is done. Frozen, hashable, equal by value; printed as the calls that make it.

    Made by `every`, and joined with others or with spans:

        every(epochs(1)) | every(minutes(10))    # at each epoch, and when ten minutes went by since the last time
        every(epochs(1)) & minutes(10)           # at each epoch, if ten minutes went by since the last time
    """

    __slots__ = ()

    @abstractmethod
    def due(self, before: Progress, after: Progress, elapsed: float = 0.0, last: float | None = None) -> bool:
        """Whether it is due now.

        Args:
            before, after: the clock before and after the step just made.
            elapsed: seconds since the run began.
            last: the same at the last time it was done; None while it never was. Spans of time then count from the
                beginning of the run, and no minimum holds.

        Raises:
            ScheduleError: a span that the run cannot tell, such as a fraction of a run whose length is unknown; also
                where the answer would not depend on it.
        """

    def check(self, progress: Progress) -> None:
        """Whether the run can tell each of its spans.

        Raises:
            ScheduleError: it cannot, as in `due`.
        """
        self.due(progress, progress)

    def __or__(self, other: Cadence | Span) -> Cadence:
        return _joined(Either, self, other, f"{self!r} | {other!r}")

    def __ror__(self, other: Cadence | Span) -> Cadence:
        return _joined(Either, other, self, f"{other!r} | {self!r}")

    def __and__(self, other: Cadence | Span) -> Cadence:
        return _joined(Both, self, other, f"{self!r} & {other!r}")

    def __rand__(self, other: Cadence | Span) -> Cadence:
        return _joined(Both, other, self, f"{other!r} & {self!r}")


@final
@dataclass(frozen=True, slots=True, repr=False)
class Every(Cadence):
    """At each multiple of one span; made by `every`.

    Attributes:
        span: at each multiple of it, counted from the start of the run; or each time so many seconds went by.
        minimum: and never within so many seconds of the last time; a multiple that falls inside is left out.
    """

    span: Span
    minimum: Span | None = None

    def due(self, before: Progress, after: Progress, elapsed: float = 0.0, last: float | None = None) -> bool:
        due = self._reached(before, after, elapsed, last)
        if self.minimum is None or last is None:
            return due
        return due and elapsed - last >= self.minimum.amount

    def _reached(self, before: Progress, after: Progress, elapsed: float, last: float | None) -> bool:
        if self.span.unit in CLOCK_UNITS:
            return elapsed - (last or 0.0) >= self.span.amount
        return _multiples(after, self.span) > _multiples(before, self.span)

    def __repr__(self) -> str:
        return f"every({self.span!r})" if self.minimum is None else f"every({self.span!r}, {self.minimum!r})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Either(Cadence):
    """Where one of several is due; made by `|`. All count time from the last time any of them was."""

    members: tuple[Cadence, ...]

    def due(self, before: Progress, after: Progress, elapsed: float = 0.0, last: float | None = None) -> bool:
        # Each is asked, so that a span that cannot be told is found at once, not when the others leave it to decide.
        found = [each.due(before, after, elapsed, last) for each in self.members]
        return any(found)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.members))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Both(Cadence):
    """Where several are due at once; made by `&`."""

    members: tuple[Cadence, ...]

    def due(self, before: Progress, after: Progress, elapsed: float = 0.0, last: float | None = None) -> bool:
        found = [each.due(before, after, elapsed, last) for each in self.members]
        return all(found)

    def __repr__(self) -> str:
        return " & ".join(f"({each!r})" if isinstance(each, Either) else repr(each) for each in self.members)


@named
def every(span: Span, minimum: Span | None = None) -> Cadence:
    """The cadence of each `span`: `every(steps(100))`, `every(epochs(1), minimum=seconds(30))`.

    Spans of progress are counted from the start of the run, whatever was missed; time is counted from the last time.

    Args:
        span: an amount of progress or of time, more than nothing.
        minimum: an amount of time that must lie between one time and the next. It does not hold before the first.

    Raises:
        ScheduleError: a bare number, a span of nothing, or a minimum that is no time by the clock.
    """
    said = f"every({span!r})"
    if not isinstance(span, Span):
        raise ScheduleError(f"{said}: {no_span(span)}")
    if span.amount == 0:
        raise ScheduleError(f"{said}: the span must be longer than nothing. Write steps(1) for every step.")
    if minimum is not None and not (isinstance(minimum, Span) and minimum.unit in CLOCK_UNITS):
        said = f"every({span!r}, minimum={minimum!r})"
        raise ScheduleError(f"{said}: the minimum is time by the clock. Write minimum=seconds(30).")
    return Every(span, minimum)


def _joined(kind: type[Either] | type[Both], left: Cadence | Span, right: Cadence | Span, said: str) -> Cadence:
    """Both sides as one; what is of the same kind already is taken apart first, and nothing stands there twice."""
    sides = (_cadence(left, said), _cadence(right, said))
    each = [one for side in sides for one in (side.members if isinstance(side, kind) else (side,))]
    members = tuple(dict.fromkeys(each))
    return members[0] if len(members) == 1 else kind(members)


def _cadence(value: object, said: str) -> Cadence:
    if isinstance(value, Cadence):
        return value
    if isinstance(value, Span):
        return every(value)
    raise ScheduleError(f"{said}: cadences are joined with cadences and spans; {no_span(value)}")


def _multiples(progress: Progress, span: Span) -> int:
    return floor(progress.amount(span.unit) / span.amount + TINY)
