"""Schedules, and what joins them: the base, values, arithmetic, bounds, `until` and `then`.

What can be written is told in `etude.values.schedule`, which adds `pieces` and `cycle`.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

from torch import nn

from etude.arguments import named
from etude.errors import ScheduleError
from etude.values import preview
from etude.values.lengths import amount_on, cut, joined, longest, surplus
from etude.values.literals import kind_of, number, plain_value, refuse_scheduler
from etude.values.marks import FROZEN
from etude.values.part import Part, part
from etude.values.progress import TINY, Extent, Progress
from etude.values.spans import Span, progress_span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Memory: TypeAlias = Any
"""What a schedule that listens to metrics remembers: a small tuple, or None for one that does not listen."""

ScheduleLike: TypeAlias = "Schedule | float | bool | str | tuple[Any, ...] | Part | Callable[[Progress], Any] | None"


class Schedule(ABC):
    """A value as a pure function of progress. Frozen, hashable, equal by value."""

    __slots__ = ()

    # A numpy number on the left of an operator leaves the operation to the schedule.
    __array_ufunc__ = None

    @abstractmethod
    def at(self, progress: Progress, memory: Memory = None) -> Any:
        """The value for the step about to be made at `progress`; without `memory`, as before any metric was seen.

        Raises:
            ScheduleError: there is no value here, or it would take the run's length to know it.
        """

    @property
    def children(self) -> tuple[Schedule, ...]:
        """The schedules that this one is made of."""
        return ()

    @property
    def kind(self) -> str:
        """What the values are: "number", "bool", "part", or "any" where that is not known before asking."""
        return "number"

    @property
    def constant(self) -> bool:
        """Whether the value is the same at every progress and memory."""
        return False

    @property
    def reactive(self) -> bool:
        """Whether the value depends on metrics, through a memory."""
        return bool(self.listens)

    @property
    def listens(self) -> frozenset[str]:
        """The names of the metrics that the value depends on."""
        return frozenset[str]().union(*(child.listens for child in self.children))

    @property
    def length(self) -> tuple[Span, ...] | None:
        """How long it is when something follows it, as spans one after the other; None where that is not said."""
        return None

    def start(self) -> Memory:
        """The memory before any metric was seen; None for a schedule that does not listen."""
        return tuple(child.start() for child in self.children) if self.reactive else None

    def see(self, memory: Memory, metrics: Mapping[str, float | None], progress: Progress | None = None) -> Memory:
        """The memory after `metrics`; a metric that is not among them changes nothing.

        Args:
            memory: the one before; None for that before any metric was seen.
            metrics: scores by name; None for one that could not be measured this time.
            progress: the clock at the look, after the step that it follows; only what pins epochs needs it.
        """
        if not self.reactive:
            return None
        children = self.children
        seats = self.start() if memory is None else memory
        clocks = (None,) * len(children) if progress is None else self._clocks(progress)
        parts = zip(children, seats, clocks, strict=True)
        return tuple(child.see(seat, metrics, clock) for child, seat, clock in parts)

    def unheard(self, told: Collection[str]) -> frozenset[str]:
        """The metrics that it needs and that are not among those told."""
        children = self.children
        if not children:
            return self.listens - frozenset(told)
        return frozenset[str]().union(*(child.unheard(told) for child in children))

    @property
    def goes_back(self) -> bool:
        """Whether it may ask for the best net after a look (`asks_for_best`)."""
        return any(child.goes_back for child in self.children)

    def asks_for_best(self, before: Memory, after: Memory) -> str:
        """What becomes of the net after a look: "" (it goes on), or it goes back to its best arrays.

        Args:
            before, after: the memory before and after the look.

        Returns:
            "", or where it goes back "clear" or "keep": what becomes of the optimizer's memory. "clear" goes first.
        """
        if not self.goes_back or after is None:
            return ""
        seats = self.start() if before is None else before
        parts = zip(self.children, seats, after, strict=True)
        return min((asked for child, old, new in parts if (asked := child.asks_for_best(old, new))), default="")

    def check(self, extent: Extent, uncounted: Sequence[str] = ()) -> None:
        """Raise, before the first step, what would be wrong in a run of this extent.

        Args:
            extent: the run's length, as far as it is known.
            uncounted: units in which this run's clock does not move, such as "epochs" in a hand-written loop.

        Raises:
            ScheduleError: the schedule ends before the run does, a warm-up is longer than the run, the run's length is
                needed and not known, units cannot be converted, moments are out of order, or no value comes out.
        """
        self._inspect(Progress(extent=extent).without(*uncounted), extent)
        for progress in preview.moments(extent, 33, unknown=0.0):
            _probe(self, progress.without(*uncounted))

    def values(self, extent: Extent | Span, points: int = 20) -> list[tuple[Progress, Any]]:
        """The values at `points` moments spread evenly over the run, each with the moment."""
        return [(progress, self.at(progress)) for progress in preview.moments(extent, points)]

    def table(self, extent: Extent | Span, points: int = 20) -> str:
        """The values at `points` moments spread evenly over the run, as text: a line for each."""
        return preview.table(self, extent, points)

    def plot(self, extent: Extent | Span, path: str | Path | None = None) -> Figure:
        """A figure of the values over the run; written to `path` if one is given."""
        return preview.plot(self, extent, path)

    def clamp(self, low: float | None = None, high: float | None = None) -> Schedule:
        """The same, never below `low` and never above `high`."""
        return Clamp(_number_schedule(self, "be clamped"), low, high)

    def until(self, span: Span) -> Schedule:
        """The same for `span`, and undefined after; `then` says what follows."""
        return Until(self, span)

    def within(self, span: Span) -> Schedule:
        """The same as if the run were `span` long: a curve without `over=` reaches its end there."""
        return Within(self, span)

    def then(self, next: ScheduleLike) -> Schedule:
        """This one for its length, then `next` on a clock that begins there.

        The length is that of `until(span)`, or of a curve's `over=`.
        """
        first, second = alike((self, schedule(next)), "then")
        return Then(first, second)

    def __mul__(self, other: ScheduleLike) -> Schedule:
        return _arithmetic("*", self, other)

    def __rmul__(self, other: ScheduleLike) -> Schedule:
        return _arithmetic("*", other, self)

    def __add__(self, other: ScheduleLike) -> Schedule:
        return _arithmetic("+", self, other)

    def __radd__(self, other: ScheduleLike) -> Schedule:
        return _arithmetic("+", other, self)

    def __sub__(self, other: ScheduleLike) -> Schedule:
        return _arithmetic("-", self, other)

    def __rsub__(self, other: ScheduleLike) -> Schedule:
        return _arithmetic("-", other, self)

    def __truediv__(self, other: ScheduleLike) -> Schedule:
        return _arithmetic("/", self, other)

    def __rtruediv__(self, other: ScheduleLike) -> Schedule:
        return _arithmetic("/", other, self)

    def __neg__(self) -> Schedule:
        return _arithmetic("*", -1, self)

    def _inspect(self, clock: Progress, life: Extent) -> None:
        """Raise what is wrong with this schedule on a clock like `clock` that asks it for as long as `life`."""
        for child in self.children:
            child._inspect(clock, life)

    def _clocks(self, progress: Progress) -> Sequence[Progress]:
        """The clock of each child at a moment."""
        return (progress,) * len(self.children)

    def _mapped(self, change: Callable[[Schedule], Schedule]) -> Schedule:
        """The same with each child changed, for a schedule that gives its children's values as they are."""
        return self


@final
@dataclass(frozen=True, slots=True, repr=False)
class Constant(Schedule):
    """Always the same value; made by `constant`, or by a literal where a schedule is taken."""

    value: Any
    # Compared, because True == 1 and yet a bool is no number here.
    _kind: str = field(init=False)

    def __post_init__(self) -> None:
        value = plain_value(self.value)
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "_kind", kind_of(value))

    def at(self, progress: Progress, memory: Memory = None) -> Any:
        return self.value

    @property
    def kind(self) -> str:
        return self._kind

    @property
    def constant(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"constant({self.value!r})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Call(Schedule):
    """Whatever a function of `Progress` gives; it must be pure, as every schedule is."""

    function: Callable[[Progress], Any]

    def at(self, progress: Progress, memory: Memory = None) -> Any:
        return self.function(progress)

    @property
    def kind(self) -> str:
        return "any"

    def __repr__(self) -> str:
        return f"schedule({getattr(self.function, '__name__', repr(self.function))})"


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "+": operator.add,
    "-": operator.sub,
}
_VERBS = {"*": "be multiplied", "/": "be divided", "+": "be added to", "-": "be subtracted from"}
_BINDING = {"*": 2, "/": 2, "+": 1, "-": 1}


@final
@dataclass(frozen=True, slots=True, repr=False)
class Arithmetic(Schedule):
    """Two schedules of numbers joined by `*`, `/`, `+` or `-`."""

    sign: str
    first: Schedule
    second: Schedule
    _apply: Callable[[Any, Any], Any] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_apply", _OPERATORS[self.sign])

    def at(self, progress: Progress, memory: Memory = None) -> Any:
        if memory is None:
            return self._apply(self.first.at(progress), self.second.at(progress))
        return self._apply(self.first.at(progress, memory[0]), self.second.at(progress, memory[1]))

    @property
    def children(self) -> tuple[Schedule, ...]:
        return (self.first, self.second)

    @property
    def constant(self) -> bool:
        return self.first.constant and self.second.constant

    @property
    def length(self) -> tuple[Span, ...] | None:
        return longest([child.length for child in self.children if not child.constant])

    def __repr__(self) -> str:
        first, second = self.first, self.second
        left, right = _receiver(first, _BINDING[self.sign]), _receiver(second, _BINDING[self.sign] + 1)
        if isinstance(second, Constant):
            right = repr(second.value)
        elif isinstance(first, Constant) and first.kind == "number":
            left = repr(first.value)
        return f"{left} {self.sign} {right}"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Clamp(Schedule):
    """A schedule of numbers kept within bounds; made by `clamp`."""

    inner: Schedule
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        low, high = (None if bound is None else number(bound, repr(self)) for bound in (self.low, self.high))
        if low is None and high is None:
            raise ScheduleError(f"{self!r}: no bound is given. Write .clamp(low=0.0) or .clamp(high=1.0).")
        if low is not None and high is not None and low > high:
            raise ScheduleError(f"{self!r}: the low bound is above the high one. Write .clamp({high!r}, {low!r}).")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def at(self, progress: Progress, memory: Memory = None) -> Any:
        value = self.inner.at(progress, None if memory is None else memory[0])
        if value is FROZEN:
            return value
        if self.low is not None and value < self.low:
            return self.low
        return self.high if self.high is not None and value > self.high else value

    @property
    def children(self) -> tuple[Schedule, ...]:
        return (self.inner,)

    @property
    def constant(self) -> bool:
        return self.inner.constant

    @property
    def length(self) -> tuple[Span, ...] | None:
        return self.inner.length

    def __repr__(self) -> str:
        bounds = repr(self.low) if self.high is None else f"{self.low!r}, {self.high!r}"
        return f"{_receiver(self.inner)}.clamp({bounds})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Until(Schedule):
    """A schedule for a span, undefined after it; made by `until`."""

    inner: Schedule
    span: Span

    def __post_init__(self) -> None:
        progress_span(self.span, f"until({self.span!r})", zero=True)

    def at(self, progress: Progress, memory: Memory = None) -> Any:
        span = self.span
        if progress.amount(span.unit) >= span.amount - TINY:
            raise ScheduleError(f"{self!r} has no value after {span!r}. Say what follows: .then(value).")
        return self.inner.at(progress, None if memory is None else memory[0])

    @property
    def children(self) -> tuple[Schedule, ...]:
        return (self.inner,)

    @property
    def kind(self) -> str:
        return self.inner.kind

    @property
    def length(self) -> tuple[Span, ...] | None:
        return (self.span,)

    def __repr__(self) -> str:
        return f"{_receiver(self.inner)}.until({self.span!r})"

    def _mapped(self, change: Callable[[Schedule], Schedule]) -> Schedule:
        return Until(change(self.inner), self.span)

    def _inspect(self, clock: Progress, life: Extent) -> None:
        amount_on(clock, self.span.unit, self)
        left = surplus(life, self.span)
        if left is None or left > TINY:
            known = "is asked for longer" if left else "may be asked for longer, the run's length being unknown"
            raise ScheduleError(
                f"{self!r} ends after {self.span!r} and {known}. "
                "Say what follows: .then(value), with the same value to hold it."
            )
        self.inner._inspect(clock, life.cut(self.span))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Within(Schedule):
    """A schedule on a clock whose run is a span long; made by `within`."""

    inner: Schedule
    span: Span

    def __post_init__(self) -> None:
        progress_span(self.span, f"within({self.span!r})")

    def at(self, progress: Progress, memory: Memory = None) -> Any:
        return self.inner.at(self._local(progress), None if memory is None else memory[0])

    def _local(self, progress: Progress) -> Progress:
        return replace(progress, extent=progress.extent.cut(self.span))

    def _clocks(self, progress: Progress) -> Sequence[Progress]:
        return (self._local(progress),)

    @property
    def children(self) -> tuple[Schedule, ...]:
        return (self.inner,)

    @property
    def kind(self) -> str:
        return self.inner.kind

    @property
    def constant(self) -> bool:
        return self.inner.constant

    @property
    def length(self) -> tuple[Span, ...] | None:
        return (self.span,)

    def __repr__(self) -> str:
        return f"{_receiver(self.inner)}.within({self.span!r})"

    def _mapped(self, change: Callable[[Schedule], Schedule]) -> Schedule:
        return Within(change(self.inner), self.span)

    def _inspect(self, clock: Progress, life: Extent) -> None:
        amount_on(clock, self.span.unit, self)
        # What comes after the span is asked too: a curve holds its end there, as it does at the end of a run.
        self.inner._inspect(replace(clock, extent=clock.extent.cut(self.span)), life)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Then(Schedule):
    """A schedule for its length, then another on a clock of its own; made by `then`."""

    first: Schedule
    second: Schedule
    _length: tuple[Span, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_length", finite(self.first, "before .then()"))

    def at(self, progress: Progress, memory: Memory = None) -> Any:
        local = progress
        for span in self._length:
            if local.amount(span.unit) < span.amount - TINY:
                return self.first.at(progress, None if memory is None else memory[0])
            local = local.after(span)
        return self.second.at(local, None if memory is None else memory[1])

    @property
    def children(self) -> tuple[Schedule, ...]:
        return (self.first, self.second)

    @property
    def kind(self) -> str:
        return common_kind(self.children)

    @property
    def length(self) -> tuple[Span, ...] | None:
        return None if self.second.length is None else joined(self._length + self.second.length)

    def __repr__(self) -> str:
        return f"{_receiver(self.first)}.then({argument(self.second)})"

    def _clocks(self, progress: Progress) -> Sequence[Progress]:
        local = progress
        for span in self._length:
            local = local.after(span)
        return (progress, local)

    def _mapped(self, change: Callable[[Schedule], Schedule]) -> Schedule:
        return Then(change(self.first), change(self.second))

    def _inspect(self, clock: Progress, life: Extent) -> None:
        local, rest = clock, life
        for span in self._length:
            amount_on(local, span.unit, self)
            local, rest = local.after(span), rest.after(span)
        self.first._inspect(clock, cut(life, self._length))
        self.second._inspect(local, rest)


@named
def constant(value: ScheduleLike) -> Schedule:
    """A schedule that always has `value`: a number, bool, text, tuple, part, None or FROZEN.

    Raises:
        ScheduleError: NaN, or something that cannot be the value of a schedule.
    """
    return Constant(value)


@named
def schedule(literal: ScheduleLike) -> Schedule:
    """The schedule that a literal stands for.

    Args:
        literal: a schedule (returned as it is), a function of `Progress`, or a value as in `constant`. A module or a
            type of modules stands for the part it selects.

    Raises:
        ScheduleError: a list, a dict, NaN, or anything else that is no value of a schedule.
    """
    if isinstance(literal, Schedule):
        return literal
    refuse_scheduler(literal)
    if callable(literal) and not isinstance(literal, Part | nn.Module | type):
        return Call(literal)
    return Constant(literal)


def _probe(made: Schedule, progress: Progress) -> None:
    """Ask for the value at `progress`; whatever is wrong with it is said as an error of this schedule."""
    try:
        value = plain_value(made.at(progress))
    except ScheduleError as error:
        raise ScheduleError(f"{made!r} at {preview.moment_text(progress)}: {error}") from None
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        # A function of an optimizer that makes a scheduler of torch was given the clock.
        hint = ""
        if "Progress is not an Optimizer" in what:
            hint = ". Write etude.optim.from_torch(function, rate=0.1)"
        elif isinstance(error, TypeError) and "Progress" in what:
            hint = ". It is given a Progress, not a number: write p.epoch, p.step or p.fraction, as in 0.9 ** p.epoch."
        raise ScheduleError(f"{made!r} has no value at {preview.moment_text(progress)}: {what}{hint}") from error
    if made.kind == "number" and kind_of(value) != "number" and value is not FROZEN:
        raise ScheduleError(f"{made!r} at {preview.moment_text(progress)} is {value!r}: that is no number.")


def finite(made: Schedule, where: str) -> tuple[Span, ...]:
    """The length of a schedule that needs one; ScheduleError if it has none."""
    if made.length is None:
        raise ScheduleError(
            f"{made!r} {where} has no end of its own. Write .until(epochs(3)), or over= if it is a curve."
        )
    return made.length


def common_kind(children: Iterable[Schedule]) -> str:
    """The kind of a schedule that gives the values of its children."""
    kinds = {child.kind for child in children} - {"any"}
    return kinds.pop() if len(kinds) == 1 else "any"


def alike(children: Sequence[Schedule], said: str) -> tuple[Schedule, ...]:
    """The children, of one kind: text among parts becomes a part, other mixtures are refused."""
    kinds = {child.kind for child in children} - {"any"}
    if len(kinds) > 1:
        kinds_text = " and ".join(sorted(f"{kind}s" for kind in kinds))
        shown = ", ".join(map(argument, children))
        raise ScheduleError(f"{said}: {shown}: {kinds_text} are mixed. The values of a schedule are of one kind.")
    return tuple(map(text_as_part, children)) if kinds == {"part"} else tuple(children)


def text_as_part(made: Schedule) -> Schedule:
    """The same schedule with parts for the texts and tuples among its values."""
    if isinstance(made, Constant) and isinstance(made.value, str | tuple):
        return Constant(part(made.value))
    return made._mapped(text_as_part)


def none_as(made: Schedule, value: float) -> Schedule:
    """The same schedule with a number for None among its values."""
    if isinstance(made, Constant) and made.value is None:
        return Constant(value)
    return made._mapped(lambda child: none_as(child, value))


def argument(made: Schedule) -> str:
    """The text of a schedule where a literal may stand for it."""
    return repr(made.value) if isinstance(made, Constant) else repr(made)


def _arithmetic(sign: str, first: ScheduleLike, second: ScheduleLike) -> Schedule:
    left, right = (_number_schedule(schedule(side), _VERBS[sign]) for side in (first, second))
    if sign == "/" and right == Constant(0):
        raise ScheduleError(f"{left!r} / 0: nothing can be divided by 0.")
    return Arithmetic(sign, left, right)


def _number_schedule(made: Schedule, verb: str) -> Schedule:
    """`made`, if its values can be numbers: FROZEN can stand among them, and what a function gives is seen later."""
    unsuited = isinstance(made, Constant) and made.kind == "any" and made.value is not FROZEN
    if made.kind in ("part", "bool") or unsuited:
        kind = type(made.value).__name__ if isinstance(made, Constant) and unsuited else made.kind
        raise ScheduleError(f"{made!r}: a schedule of {kind}s cannot {verb}; only numbers can.")
    return made


def _receiver(made: Schedule, binding: int = 3) -> str:
    """The text of an operand or of what a method is called on, in brackets if it binds less."""
    loose = isinstance(made, Arithmetic) and _BINDING[made.sign] < binding
    return f"({made!r})" if loose else repr(made)
