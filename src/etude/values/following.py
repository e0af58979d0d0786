"""Any function of what was measured, as a schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from etude.arguments import named
from etude.errors import ScheduleError
from etude.values.algebra import Memory, Schedule
from etude.values.literals import number
from etude.values.progress import Progress


@final
@dataclass(frozen=True, slots=True, repr=False)
class Following(Schedule):
    """Whatever a function makes of all scores so far; made by `following`.

    Its memory is the value, and of each name the scores so far (None before the first): it grows by a number a look.
    """

    function: Callable[[dict[str, tuple[float, ...]]], Any]
    names: tuple[str, ...]
    begin: float | bool
    # Compared, because True == 1 and yet a bool is no number here.
    _kind: str

    def at(self, progress: Progress, memory: Memory = None) -> float | bool:
        value: float | bool = self.begin if memory is None else memory[0]
        return value

    @property
    def kind(self) -> str:
        return self._kind

    @property
    def listens(self) -> frozenset[str]:
        return frozenset(self.names)

    def start(self) -> Memory:
        return (self.begin, *(None for _ in self.names))

    def see(self, memory: Memory, metrics: Mapping[str, float | None], progress: Progress | None = None) -> Memory:
        value, *before = self.start() if memory is None else memory
        told = [metrics.get(name) for name in self.names]
        if all(score is None for score in told):
            return (value, *before)
        pairs = list(zip(before, told, strict=True))
        scores = [old if new is None else (*(old or ()), float(new)) for old, new in pairs]
        history = {name: tuple(seen or ()) for name, seen in zip(self.names, scores, strict=True)}
        return (self._value(history), *scores)

    def _value(self, history: dict[str, tuple[float, ...]]) -> float | bool:
        counts = ", ".join(f"{len(seen)} of {name!r}" for name, seen in history.items())
        try:
            made = self.function(history)
        except Exception as error:
            what = f"{type(error).__name__}: {error}".rstrip(".")
            raise ScheduleError(
                f"{self!r}: after {counts} the function failed: {what}. It is given a dict "
                "of all scores so far by name, as tuples, which are empty before the first look."
            ) from error
        return _value(made, self._kind, f"{self!r} after {counts}")

    def __repr__(self) -> str:
        names = "".join(f", {name!r}" for name in self.names)
        return f"following({getattr(self.function, '__name__', repr(self.function))}{names}, start={self.begin!r})"


@named
def following(function: Callable[[dict[str, tuple[float, ...]]], Any], *names: str, start: float | bool) -> Schedule:
    """What a function makes of the history of some scores, asked anew whenever one of them was measured.

        def slower(scores):
            losses = scores["val.loss"]
            return 1e-3 if losses[-1] <= min(losses) else 3e-4

        following(slower, "val.loss", start=1e-3)

    Args:
        function: pure; of a dict from name to all scores so far, as a tuple in the order of the looks (empty before
            the first; NaN and infinities stand as they were measured); gives a finite number, or True or False.
        names: of the scores, as they are told: "val.loss". A score that was not measured changes nothing.
        start: the value before any of them was measured: a number, or True or False; the function gives the same.

    Raises:
        ScheduleError: no function, no names, or a start that is no number or bool; in the run, a function that fails
            or gives something else.
    """
    said = f"following({getattr(function, '__name__', repr(function))}, ...)"
    if not callable(function) or isinstance(function, type | Schedule):
        raise ScheduleError(
            f"{said}: a function of the scores is needed. Write following(function, 'val.loss', start=1)."
        )
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ScheduleError(f"{said}: the names of scores are needed. Write following(function, 'val.loss', start=1).")
    if len(set(names)) < len(names):
        raise ScheduleError(f"{said}: a name stands twice among {', '.join(map(repr, names))}. Write each once.")
    kind = "bool" if isinstance(start, bool) else "number"
    made = Following(function, names, start, kind)
    return Following(function, names, _value(start, kind, repr(made)), kind)


def _value(made: object, kind: str, said: str) -> float | bool:
    """A value as it is kept; ScheduleError where it is not of the kind."""
    made = made.item() if type(made).__module__ in ("torch", "numpy") and hasattr(made, "item") else made
    if kind == "number":
        return number(made, said)
    if isinstance(made, bool):
        return made
    raise ScheduleError(f"{said}: True or False is needed, as at the start, not {made!r}.")
