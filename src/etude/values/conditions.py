"""Conditions for the end of a run, as values: limits, functions, and what joins them; see `etude.values.stopping`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from etude.arguments import named
from etude.errors import SettingError, nearest
from etude.values.algebra import Schedule
from etude.values.progress import TINY, Extent, Progress
from etude.values.spans import CLOCK_UNITS, Span

Memory: TypeAlias = Any
"""What a condition remembers: numbers, None, and tuples of such."""

StopLike: TypeAlias = "Stop | Span | Callable[[Progress], Any]"


_CALLS = {
    "no_improvement": "no_improvement('val.loss', patience=3)",
    "reached": "reached('val.accuracy', above=0.99)",
    "limit": "limit(minutes(30))",
}
"""How the functions that make conditions are called."""


class Stop(ABC):
    """A condition for the end of a run. Frozen, hashable, equal by value; joined by `|` and `&`."""

    __slots__ = ()

    @property
    def listens(self) -> frozenset[str]:
        """The names of the scores that it goes by."""
        return frozenset()

    def start(self) -> Memory:
        """What it remembers before the first score."""
        return ()

    def see(self, memory: Memory, metrics: Mapping[str, float], progress: Progress) -> Memory:
        """What it remembers after it was told scores that were measured at `progress`; other names change nothing."""
        return memory

    @abstractmethod
    def stop(self, progress: Progress, memory: Memory, elapsed: float) -> str:
        """Why the run ends at `progress`, in a sentence; "" where it goes on.

        Args:
            progress: the clock after the step just made. memory: what `see` gave last, or `start`.
            elapsed: seconds that the run has taken, over all its processes.
        """

    def check(self, known: Collection[str], extent: Extent, uncounted: Collection[str] = ()) -> None:
        """Prove that the run can tell it all it asks for.

        Args:
            known: the names of all scores that are measured. extent: how long the run is.
            uncounted: units that the run does not count, such as "tokens" where the data have none.

        Raises:
            SettingError: a score is not measured; the nearest is named.
            ScheduleError: a share of a run whose length is not known.
        """
        check_known(self, known)

    def __bool__(self) -> bool:
        raise SettingError(
            f"{self!r} is a condition, and neither true nor false by itself: `or` and `and` would take one side and "
            "drop the other. Write a | b (either) or a & b (both); and `is None` to ask whether there is one."
        )

    def __or__(self, other: StopLike) -> Stop:
        return _joined(Either, self, other)

    def __ror__(self, other: StopLike) -> Stop:
        return _joined(Either, other, self)

    def __and__(self, other: StopLike) -> Stop:
        return _joined(Both, self, other)

    def __rand__(self, other: StopLike) -> Stop:
        return _joined(Both, other, self)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Limit(Stop):
    """So much time, or so much of the run; made by `limit`."""

    span: Span

    def stop(self, progress: Progress, memory: Memory, elapsed: float) -> str:
        if self.span.unit in CLOCK_UNITS:
            return f"the time limit of {self.span!r} was reached" if elapsed >= self.span.amount else ""
        done = progress.amount(self.span.unit) >= self.span.amount - TINY
        return f"the limit of {self.span!r} was reached" if done else ""

    def check(self, known: Collection[str], extent: Extent, uncounted: Collection[str] = ()) -> None:
        if self.span.unit not in CLOCK_UNITS:
            Progress(extent=extent).without(*uncounted).amount(self.span.unit)

    def __repr__(self) -> str:
        return f"limit({self.span!r})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Asked(Stop):
    """A function of the clock says so; made by `stopping`."""

    function: Callable[[Progress], Any]

    def stop(self, progress: Progress, memory: Memory, elapsed: float) -> str:
        said = self.function(progress)
        if isinstance(said, str):
            return said
        return f"{self._name} said so" if said else ""

    def check(self, known: Collection[str], extent: Extent, uncounted: Collection[str] = ()) -> None:
        try:
            said = self.function(Progress(extent=extent))
            bool(said)
        except Exception as error:
            raise SettingError(
                f"{self!r}: asked at the start of the run, the function failed: {type(error).__name__}: {error}. It "
                "gets the clock (progress.step, .epoch, .fraction), and says whether the run ends there."
            ) from error

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", None) or repr(self.function)

    def __repr__(self) -> str:
        return f"stopping({self._name})"


@dataclass(frozen=True, slots=True, repr=False)
class _Several(Stop):
    """What conditions that are joined have in common: each has its own place in the memory."""

    members: tuple[Stop, ...]

    @property
    def listens(self) -> frozenset[str]:
        return frozenset().union(*(each.listens for each in self.members))

    def start(self) -> Memory:
        return tuple(each.start() for each in self.members)

    def see(self, memory: Memory, metrics: Mapping[str, float], progress: Progress) -> Memory:
        pairs = zip(self.members, memory, strict=True)
        return tuple(each.see(own, metrics, progress) for each, own in pairs)

    def check(self, known: Collection[str], extent: Extent, uncounted: Collection[str] = ()) -> None:
        for each in self.members:
            each.check(known, extent, uncounted)

    def _said(self, progress: Progress, memory: Memory, elapsed: float) -> list[str]:
        pairs = zip(self.members, memory, strict=True)
        return [each.stop(progress, own, elapsed) for each, own in pairs]


@final
@dataclass(frozen=True, slots=True, repr=False)
class Either(_Several):
    """As soon as one of several holds; made by `|`."""

    def stop(self, progress: Progress, memory: Memory, elapsed: float) -> str:
        return "; ".join(filter(None, self._said(progress, memory, elapsed)))

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.members))


@final
@dataclass(frozen=True, slots=True, repr=False)
class Both(_Several):
    """Where several hold at once; made by `&`."""

    def stop(self, progress: Progress, memory: Memory, elapsed: float) -> str:
        said = self._said(progress, memory, elapsed)
        return "; ".join(said) if all(said) else ""

    def __repr__(self) -> str:
        return " & ".join(f"({each!r})" if isinstance(each, Either) else repr(each) for each in self.members)


@named
def limit(span: Span) -> Stop:
    """Stop when so much time has gone by since the run began, over all its processes; or after so much progress.

    Raises:
        SettingError: no span, or a span of nothing.
    """
    if not isinstance(span, Span):
        raise SettingError(f"limit({span!r}): a span is needed. Write limit(minutes(30)) or limit(tokens(1e9)).")
    if not span.amount:
        raise SettingError(f"limit({span!r}): the run would end before it began. Write a span longer than nothing.")
    return Limit(span)


@named
def stopping(literal: StopLike) -> Stop:
    """The condition that a literal stands for.

    Args:
        literal: a condition; a span, which is a `limit`; or a function of `Progress` that says whether the run ends
            there (a text that it gives is the reason that is told).

    Raises:
        SettingError: it stands for none.
    """
    if isinstance(literal, Stop):
        return literal
    if isinstance(literal, Span):
        return limit(literal)
    name = getattr(literal, "__name__", "")
    if name in _CALLS and getattr(literal, "__module__", "").partition(".")[0] == __name__.partition(".")[0]:
        raise SettingError(f"stop={name}: that is the function itself. Write stop={_CALLS[name]}.")
    if callable(literal) and not isinstance(literal, type | Schedule):
        return Asked(literal)
    if isinstance(literal, str):
        hint = f'Write no_improvement("{literal}", patience=3) or reached("{literal}", above=0.99).'
    elif isinstance(literal, list | tuple):
        hint = "Join conditions by | (either) or & (both)."
    elif isinstance(literal, Schedule):
        hint = 'A schedule is no condition. Write limit(epochs(3)), or reached("val.loss", below=0.1).'
    else:
        hint = (
            'Write no_improvement("val.loss", patience=3), reached("val.accuracy", above=0.99) or limit(minutes(30)).'
        )
    raise SettingError(f"{literal!r} is no condition for the end of a run. {hint}")


def _joined(kind: type[Either] | type[Both], left: StopLike, right: StopLike) -> Stop:
    """Both sides as one; what is of the same kind is taken apart first, and nothing stands there twice."""
    sides = (stopping(left), stopping(right))
    each = [one for side in sides for one in (side.members if isinstance(side, kind) else (side,))]
    members = tuple(dict.fromkeys(each))
    return members[0] if len(members) == 1 else kind(members)


def check_known(of: Stop, known: Collection[str]) -> None:
    for name in sorted(of.listens - set(known)):
        raise SettingError(f"{of!r} goes by {name!r}, which is not measured. {_measured(known)}{nearest(name, known)}")


def _measured(known: Collection[str]) -> str:
    return f"Measured are {', '.join(map(repr, known))}." if known else "Nothing is: write validation=0.2."
