"""How long schedules are: spans one after the other, held against the life that a schedule is asked for."""

from __future__ import annotations

from etude.errors import ScheduleError
from etude.values.progress import Extent, Progress
from etude.values.spans import Span


def amount_on(clock: Progress, unit: str, said: object) -> float:
    """The amount of `unit` on `clock`; the error, if it cannot be known, begins with what asked for it."""
    try:
        return clock.amount(unit)
    except ScheduleError as error:
        raise ScheduleError(f"{said!r}: {error}") from None


def surplus(life: Extent, span: Span) -> float | None:
    """How much longer a life is than a span (in some unit, negative if it is shorter); None if that is unknown."""
    for unit, length in sorted(life.known(), key=lambda known: known[0] != span.unit):
        end = life.convert(span.amount, span.unit, unit)
        if end is not None:
            return length - end
    return None


def joined(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Spans one after the other, neighbours in one unit as one."""
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].unit == span.unit:
            joined[-1] = Span(joined[-1].amount + span.amount, span.unit)
        else:
            joined.append(span)
    return tuple(joined)


def cut(life: Extent, length: tuple[Span, ...]) -> Extent:
    """A life that ends after the spans of a length, if it does not end before."""
    if len(length) == 1:
        return life.cut(length[0])
    # Added up in each unit of its own where all can be converted; a sum over units is longer than each part of it.
    for unit in dict.fromkeys(span.unit for span in length if span.unit != "fraction"):
        amounts = [life.convert(span.amount, span.unit, unit) for span in length]
        known = [amount for amount in amounts if amount is not None]
        if len(known) == len(amounts):
            return life.cut(Span(sum(known), unit))
    return life


def longest(lengths: list[tuple[Span, ...] | None]) -> tuple[Span, ...] | None:
    """The longest of several lengths; None where one is open or they cannot be compared."""
    known = [length for length in lengths if length is not None]
    if not lengths or len(known) < len(lengths):
        return None
    if all(length == known[0] for length in known):
        return known[0]
    alike = len({span.unit for length in known for span in length}) == 1
    return max(known, key=lambda length: length[0].amount) if alike else None
