"""Phases: rows of a table, each of which sets several settings together for a share of the run.

    recipe = phases(
        phase(0.1, learning_rate=linear(0, 3e-3), momentum=linear(0.85, 0.95), batch_size=8),
        phase(0.6, learning_rate=3e-3, momentum=0.95, batch_size=16),
        phase(0.3, learning_rate=linear(3e-3, 0), momentum=linear(0.95, 0.85), batch_size=32),
    )
    Plan("cross_entropy", optimizer="sgd", steps=1000, **recipe.only("learning_rate", "momentum"))

Each column of the table is a schedule. With shares for durations the whole recipe stretches with the length of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import fsum
from numbers import Real
from typing import Any, final

from etude.arguments import named
from etude.errors import ScheduleError, SettingError, nearest
from etude.values.algebra import alike
from etude.values.progress import TINY
from etude.values.schedule import Schedule, pieces, schedule
from etude.values.spans import Span, fraction, progress_span


@final
@dataclass(frozen=True, slots=True, repr=False)
class Phase:
    """One row: a duration, and what is set for it; made by `phase`."""

    duration: Span
    settings: Mapping[str, Schedule] = field(hash=False)

    def __repr__(self) -> str:
        said = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"phase({self.duration!r}{said})"


@final
class Phases(Mapping[str, Schedule]):
    """The rows of a recipe, one after the other; of each setting a schedule. Made by `phases`.

    As a mapping it can be given whole: `Plan(loss, steps=1000, **recipe)`.
    """

    __slots__ = ("_columns", "rows")

    def __init__(self, rows: tuple[Phase, ...]) -> None:
        self.rows = rows
        self._columns = {name: self._column(name) for name in rows[0].settings}

    def _column(self, name: str) -> Schedule:
        """One setting over all phases; a value that stays is said once."""
        made = alike([_piece(row, name) for row in self.rows], "phases")
        pairs = list(zip(self.starts, made, strict=True))
        kept = [pair for before, pair in pairwise(pairs) if not (pair[1].constant and pair[1] == before[1])]
        return pieces(made[0], *kept) if kept else made[0]

    def __getitem__(self, name: str) -> Schedule:
        if name not in self._columns:
            raise _NoColumn(
                f"The phases do not set {name!r}. They set {', '.join(self._columns)}.{nearest(name, self._columns)}"
            )
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"phases({', '.join(map(repr, self.rows))})"

    def only(self, *names: str) -> dict[str, Schedule]:
        """The schedules of these settings, to be given on as keywords.

        Raises:
            SettingError: the phases do not set one of them.
        """
        return {name: self[name] for name in names}

    def but(self, *names: str) -> dict[str, Schedule]:
        """The schedules of all other settings.

        Raises:
            SettingError: the phases do not set one of `names`.
        """
        left_out = self.only(*names)
        return {name: made for name, made in self._columns.items() if name not in left_out}

    @property
    def starts(self) -> tuple[Span, ...]:
        """When each phase begins, counted from the start of the run."""
        amounts = [row.duration.amount for row in self.rows]
        # Sums as exact as they can be, so that 0.1 + 0.3 + 0.3 + 0.2 is 0.9.
        return tuple(Span(fsum(amounts[:i]), self.rows[0].duration.unit) for i in range(len(amounts)))


def _piece(row: Phase, name: str) -> Schedule:
    made = row.settings[name]
    return made if made.constant else made.within(row.duration)


class _NoColumn(SettingError, KeyError):
    """A setting that the phases do not have: an error of this library, and what a mapping raises."""

    def __str__(self) -> str:
        return str(self.args[0])


@named
def phase(duration: float | Span, /, **settings: Any) -> Phase:
    """A row of `phases`: for `duration` each setting has its value.

    Args:
        duration: a share of the run, 0.25, or a span, epochs(2).
        settings: values, functions of Progress or schedules. A schedule is on a clock that begins with the phase and
            ends with it, so `linear(1, 0)` goes from 1 to 0 within the phase.

    Raises:
        ScheduleError: a duration of nothing or of time by the clock, no settings, or no value of a schedule.
    """
    if isinstance(duration, Real) and not isinstance(duration, bool):
        if not 0 < duration <= 1:
            raise ScheduleError(f"phase({duration!r}): a share of the run lies above 0 and up to 1. Write phase(0.25).")
        duration = fraction(float(duration))
    span = progress_span(duration, f"phase({duration!r})")
    if not settings:
        raise ScheduleError(f"phase({span!r}): nothing is set. Write phase({span!r}, learning_rate=1e-3).")
    return Phase(span, {name: schedule(value) for name, value in settings.items()})


@named
def phases(*rows: Phase) -> Phases:
    """The table of `rows`: one phase after the other, the last to the end of the run.

    Args:
        rows: phases in the order in which they come, every one of the same settings, durations in one unit. Shares of
            the run add up to 1.

    Raises:
        ScheduleError: no rows, rows of different settings or units, shares that do not add up to 1, or a setting whose
            values are of several kinds.
    """
    if not rows:
        raise ScheduleError("phases(): no phase. Write phases(phase(0.5, learning_rate=1e-3), phase(0.5, ...)).")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Phase):
            raise ScheduleError(f"phases(): {row!r} is no phase. Write phase(0.5, learning_rate=1e-3).")
        _check_settings(number, row, rows[0])
        if row.duration.unit != rows[0].duration.unit:
            raise ScheduleError(
                f"phases(): phase {number} lasts {row.duration!r} and phase 1 {rows[0].duration!r}. Write all "
                "durations in one unit."
            )
    whole = fsum(row.duration.amount for row in rows)
    if rows[0].duration.unit == "fraction" and abs(whole - 1) > TINY:
        shares = " + ".join(f"{row.duration.amount:g}" for row in rows)
        raise ScheduleError(f"phases(): the shares of the run are {shares} = {whole:.6g}, and have to add up to 1.")
    return Phases(rows)


def _check_settings(number: int, row: Phase, first: Phase) -> None:
    missing = [name for name in first.settings if name not in row.settings]
    more = [name for name in row.settings if name not in first.settings]
    if missing or more:
        what = f"does not set {', '.join(map(repr, missing))}" if missing else f"sets {', '.join(map(repr, more))} too"
        hint = nearest(missing[0], row.settings) if missing else nearest(more[0], first.settings)
        raise ScheduleError(
            f"phases(): phase {number} {what}, and phase 1 sets {', '.join(first.settings)}.{hint} Every phase says "
            "every setting."
        )
