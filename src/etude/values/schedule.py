"""When: a value as a pure function of progress.

A schedule is a frozen value. `at(progress)` may be asked at any moment and in any order; nothing ticks. It prints as
the expression that makes it, and `etude.values.text.read` reads that back. What can be written:

=======================================  =====================================================================
`0.1`, `True`, `part("head")`            always this value (`constant(0.1)` where a schedule must be written out)
`lambda progress: ...`                   any function of `Progress`
`cosine(3e-4, 3e-6)`, ...                the curves of `etude.values.curves`
`when("loss", above=1)`, `plateau(...)`  what follows a measured score, of `etude.values.reactive`; so do `newbob(...)`
                                         and `following(function, "val.loss", start=1)`
`from_torch(...)`                        what a scheduler of torch says, of `etude.step.torch_schedules`
`a * b`, `a + b`, `a - b`, `a / b`, `-a` arithmetic with numbers and schedules of numbers
`a.clamp(0, 1)`                          kept within bounds
`a.until(epochs(3))`                     a, for three epochs; undefined after
`a.within(epochs(3))`                    a, as if the run were three epochs long
`a.until(epochs(3)).then(b)`             and b from there on, on a clock that begins there
`pieces(a, (epochs(3), b), ...)`         the same, with every moment counted from the start
`cycle(part("critic") * 5, "generator")` five steps of the one, one step of the other, for ever
=======================================  =====================================================================

Every clock that begins somewhere (`then`, `pieces`, `cycle`) is the run's clock less a span. A curve without `over=`
runs to the end of the run; `fraction(0.1)` is a tenth of the whole run wherever it is written.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, final

from torch import nn

from etude.arguments import named, told_of
from etude.errors import PartError, ScheduleError
from etude.values.algebra import (
    Arithmetic,
    Call,
    Clamp,
    Constant,
    Memory,
    Schedule,
    ScheduleLike,
    Then,
    Until,
    Within,
    alike,
    argument,
    common_kind,
    constant,
    finite,
    schedule,
    text_as_part,
)
from etude.values.lengths import amount_on, cut, joined
from etude.values.literals import number, refuse_scheduler
from etude.values.marks import FROZEN
from etude.values.part import Part, Repeat, part
from etude.values.progress import TINY, UNITS, Extent, Progress
from etude.values.spans import Span, progress_span, steps

__all__ = [
    "Arithmetic",
    "Call",
    "Clamp",
    "Constant",
    "Cycle",
    "Memory",
    "Pieces",
    "Schedule",
    "ScheduleLike",
    "Then",
    "Until",
    "Within",
    "constant",
    "cycle",
    "number",
    "pieces",
    "refuse_scheduler",
    "repeat",
    "schedule",
    "update_schedule",
]


@final
@dataclass(frozen=True, slots=True, repr=False)
class Pieces(Schedule):
    """Schedules that begin at given moments, each on a clock of its own; made by `pieces`."""

    first: Schedule
    rest: tuple[tuple[Span, Schedule], ...]
    # Last piece first, with its place among the children and whether it needs a clock of its own.
    _latest: tuple[tuple[int, Span, Schedule, bool], ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        latest = [(i, when, piece, piece.constant) for i, (when, piece) in enumerate(self.rest, 1)]
        object.__setattr__(self, "_latest", tuple(reversed(latest)))
        for (before, _), (after, _) in pairwise(self.rest):
            if before.unit == after.unit and before.amount >= after.amount:
                raise ScheduleError(_disordered(self, before, after))

    def at(self, progress: Progress, memory: Memory = None) -> Any:
        for place, when, piece, still in self._latest:
            if progress.amount(when.unit) >= when.amount - TINY:
                seat = None if memory is None else memory[place]
                return piece.at(progress if still else progress.after(when), seat)
        return self.first.at(progress, None if memory is None else memory[0])

    @property
    def children(self) -> tuple[Schedule, ...]:
        return (self.first, *(piece for _, piece in self.rest))

    @property
    def kind(self) -> str:
        return common_kind(self.children)

    @property
    def length(self) -> tuple[Span, ...] | None:
        when, last = self.rest[-1]
        return None if last.length is None else joined((when, *last.length))

    def __repr__(self) -> str:
        rest = "".join(f", ({when!r}, {argument(piece)})" for when, piece in self.rest)
        return f"pieces({argument(self.first)}{rest})"

    def _clocks(self, progress: Progress) -> Sequence[Progress]:
        return (progress, *(progress.after(when) for when, _ in self.rest))

    def _mapped(self, change: Callable[[Schedule], Schedule]) -> Schedule:
        return Pieces(change(self.first), tuple((when, change(piece)) for when, piece in self.rest))

    def _inspect(self, clock: Progress, life: Extent) -> None:
        moments = [when for when, _ in self.rest]
        for before, after in pairwise(moments):
            if _in_order(clock.extent, before, after) is False:
                raise ScheduleError(_disordered(self, before, after))
        self.first._inspect(clock, life.cut(moments[0]))
        # A local clock for looking only: where it stands does not matter, what it can be asked does.
        for (when, piece), following in zip(self.rest, [*moments[1:], None], strict=True):
            amount_on(clock, when.unit, self)
            here = life if following is None else life.cut(following)
            piece._inspect(clock.after(when), here.after(when))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Cycle(Schedule):
    """Schedules of known length one after the other, over and over; made by `cycle`."""

    items: tuple[Schedule, ...]
    # The unit of all lengths and the end of each item in it; None where units are mixed.
    _layout: tuple[str, tuple[float, ...]] | None = field(init=False, compare=False)
    # The items' values, where none of them needs a clock.
    _values: tuple[Any, ...] | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        spans = [finite(item, "in a cycle") for item in self.items]
        units = {span.unit for item in spans for span in item}
        lengths = [sum(span.amount for span in item) for item in spans]
        if not sum(lengths):
            raise ScheduleError(f"{self!r}: nothing in this cycle takes any time. Write a value, or until(steps(1)).")
        object.__setattr__(self, "_layout", (units.pop(), tuple(accumulate(lengths))) if len(units) == 1 else None)
        still = all(isinstance(item, Until) and item.inner.constant for item in self.items)
        values = tuple(item.inner.at(Progress()) for item in self.items if isinstance(item, Until) and still)
        object.__setattr__(self, "_values", values if still else None)

    def at(self, progress: Progress, memory: Memory = None) -> Any:
        unit, ends = self._layout or self._converted(progress.extent)
        amount, period = progress.amount(unit), ends[-1]
        position = amount % period
        place = bisect_right(ends, position + TINY)
        if place == len(ends):
            # A hair before the end of the period is the end: the next lap begins here.
            place, position = bisect_right(ends, 0), position - period
        if self._values is not None:
            return self._values[place]
        begun = amount - position + (ends[place - 1] if place else 0)
        local = progress.after(Span(max(begun, 0), unit))
        return self.items[place].at(local, None if memory is None else memory[place])

    @property
    def children(self) -> tuple[Schedule, ...]:
        return self.items

    @property
    def kind(self) -> str:
        return common_kind(self.items)

    def __repr__(self) -> str:
        return f"cycle({', '.join(map(_item_text, self.items))})"

    def _mapped(self, change: Callable[[Schedule], Schedule]) -> Schedule:
        return Cycle(tuple(map(change, self.items)))

    def _inspect(self, clock: Progress, life: Extent) -> None:
        unit, ends = self._layout or self._converted(clock.extent)
        amount_on(clock, unit, self)
        local = clock.after(Span(ends[-1], unit))
        for item in self.items:
            _closed(item, self)
            item._inspect(local, cut(Extent(run=life.run or life), item.length or ()))

    def _converted(self, extent: Extent) -> tuple[str, tuple[float, ...]]:
        """The layout in one unit, for items in several: in steps if any is, else in the first."""
        spans = [item.length or () for item in self.items]
        units = [span.unit for item in spans for span in item if span.unit != "fraction"]
        unit = "steps" if "steps" in units else units[0]
        amounts = [[extent.convert(span.amount, span.unit, unit) for span in item] for item in spans]
        known = [[amount for amount in item if amount is not None] for item in amounts]
        if known != amounts:
            raise ScheduleError(
                f"{self!r}: its items are in {', '.join(dict.fromkeys(units))}, and the run's length is not known in "
                "these units, so they cannot be added up. Write all items in one unit."
            )
        return unit, tuple(accumulate(sum(item) for item in known))


@named
def cycle(*items: ScheduleLike | Repeat) -> Schedule:
    """The items one after the other, over and over to the end of the run; epochs do not restart it.

    Args:
        items: a value or part (one step), `part * s` or `repeat(value, s)` (s steps), or a schedule of known length
            (`until(span)`, or a curve with `over=`), on a clock that begins with each turn. Text among parts is a part.

    Raises:
        ScheduleError: no items, an item without a length, items of several kinds, or a cycle that takes no time.
    """
    if not items:
        raise ScheduleError("cycle(): nothing to cycle through. Write cycle(part('critic') * 5, part('generator')).")
    return Cycle(alike([_turn(item) for item in items], "cycle"))


@named
def repeat(value: ScheduleLike, times: int) -> Schedule:
    """`value` for `times` steps: an item of `cycle`.

    Raises:
        ScheduleError: `times` is not a whole number of at least 1, or `value` is a schedule that changes.
    """
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise ScheduleError(f"repeat({value!r}, {times!r}): a whole number of steps, at least 1, is needed.")
    made = schedule(value)
    if not isinstance(made, Constant):
        raise ScheduleError(f"repeat({value!r}, {times!r}): only a value repeats. Write .until(steps({times})).")
    return Until(made, steps(times))


@named
def pieces(first: ScheduleLike, *rest: tuple[Span, ScheduleLike]) -> Schedule:
    """`first` from the start, then each value from its moment on: `pieces(0.1, (epochs(3), 0.01))`.

    Args:
        first: a value or a schedule.
        rest: pairs of a moment, counted from the start, and a value or a schedule whose clock begins there.

    Raises:
        ScheduleError: no pair, something that is no pair, moments out of order, or values of several kinds.
    """
    if not rest:
        raise ScheduleError("pieces(): only one piece is given. Write pieces(0.1, (epochs(3), 0.01)).")
    for pair in rest:
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise ScheduleError(f"pieces(): {pair!r} is no pair of moment and value. Write (epochs(3), 0.01).")
    moments = [progress_span(when, f"pieces(..., ({when!r}, ...))") for when, _ in rest]
    head, *tail = alike([schedule(first), *(schedule(value) for _, value in rest)], "pieces")
    return Pieces(head, tuple(zip(moments, tail, strict=True)))


def update_schedule(literal: object) -> Schedule | None:
    """The schedule of parts that an `update_schedule=` stands for.

    Args:
        literal: None (everything moves at every step), a list of parts and repetitions `part * s` (a cycle), one part
            or what `part` takes (that part moves), or a schedule of parts.

    Raises:
        ScheduleError: an empty list, a dict, or a schedule of something else than parts.
        PartError: something that stands for no part.
    """
    if literal is None:
        return None
    if isinstance(literal, list):
        if not literal:
            raise ScheduleError("update_schedule=[]: no step is said. Leave it out to move everything at every step.")
        return Cycle(tuple(_part_turn(item) for item in literal))
    if isinstance(literal, Schedule):
        return _schedule_of_parts(literal)
    if isinstance(literal, Repeat):
        return Constant(part(literal.value))  # type: ignore[arg-type]
    if isinstance(literal, Mapping):
        raise ScheduleError(
            f"update_schedule={literal!r}: a dict has no order of steps. Write a list: [part('a') * 5, 'b']."
        )
    return Constant(_a_part(literal, "update_schedule"))


def _turn(item: ScheduleLike | Repeat) -> Schedule:
    if isinstance(item, Repeat):
        return repeat(item.value, item.times)  # type: ignore[arg-type]
    made = schedule(item)
    return Until(made, steps(1)) if isinstance(made, Constant) else made


def _part_turn(item: object) -> Schedule:
    said = "update_schedule=[...]"
    if isinstance(item, Schedule):
        return _schedule_of_parts(_turn(item))
    value, times = (item.value, item.times) if isinstance(item, Repeat) else (item, 1)
    return repeat(_a_part(value, said), times)


def _a_part(literal: object, said: str) -> Part:
    if literal is None or literal is FROZEN:
        raise ScheduleError(f"{said}: {literal!r}: no part. Say what moves at this step; the rest is held.")
    if callable(literal) and not isinstance(literal, Part | nn.Module | type):
        raise PartError(
            f"{said}: {literal!r}: a function of (name, array) is written where(...), "
            "one of Progress that gives parts schedule(...)."
        )
    with told_of(said):
        return part(literal)  # type: ignore[arg-type]


def _schedule_of_parts(made: Schedule) -> Schedule:
    made = text_as_part(made)
    if made.kind in ("number", "bool") or (isinstance(made, Constant) and made.kind != "part"):
        raise ScheduleError(
            f"update_schedule={made!r}: an update schedule is of parts. Write part(...) around names, or a list."
        )
    return made


def _in_order(extent: Extent, before: Span, after: Span) -> bool | None:
    """Whether one moment is before another; None where they cannot be compared."""
    for unit in dict.fromkeys((before.unit, after.unit, *UNITS)):
        first = extent.convert(before.amount, before.unit, unit)
        second = extent.convert(after.amount, after.unit, unit)
        if first is not None and second is not None:
            return first < second
    return None


def _disordered(said: Schedule, before: Span, after: Span) -> str:
    return f"{said!r}: {after!r} is not after {before!r}. Write the moments in the order in which they come."


def _closed(item: Schedule, cycle: Schedule) -> None:
    """Refuse a curve to the end of the run inside a cycle: each lap would draw another curve."""
    if getattr(item, "over", ()) is None:
        raise ScheduleError(
            f"{cycle!r}: {item!r} runs to the end of the run, which is not the end of its turn. Write over= in it."
        )
    if getattr(item, "pinned", ()):
        raise ScheduleError(
            f"{cycle!r}: {item!r} pins epochs, and its clock begins anew with each turn. Leave pinned= out in a cycle."
        )
    for child in item.children:
        _closed(child, cycle)


def _item_text(item: Schedule) -> str:
    if not (isinstance(item, Until) and isinstance(item.inner, Constant) and item.span.unit == "steps"):
        return repr(item)
    value, times = item.inner.value, item.span.amount
    if times <= 1:
        return repr(value) if times else repr(item)
    return repr(Repeat(value, int(times))) if item.kind == "part" else f"repeat({value!r}, {times!r})"
