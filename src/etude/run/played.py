"""What was played: the learning rate of every array at the steps that a run has made, by its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from etude.bind.show import scheduled
from etude.bind.table import RATE, Choice
from etude.run.history import Series
from etude.run.in_force import RATE_FACTOR, rate_names
from etude.step.work import Work
from etude.values.progress import Progress

Numbers = NDArray[np.float64]


def played(
    work: Work,
    works: Sequence[Work],
    history: Mapping[str, Series],
    steps: Sequence[int],
    moments: Sequence[Progress],
) -> Numbers:
    """The effective learning rate of every array of an update, of shape (arrays, steps); NaN where it did not move.

    A schedule that listens, and `roll_back`, are told by what the history has of them.

    Args:
        work: the update. works: all updates of the run. history: what the run has recorded.
        steps: those made before each step that is asked for, ascending. moments: the clock then.
    """
    table, names = work.stepper.table, rate_names(work, works)
    base = recorded(history, "rate" if len(works) == 1 else f"{work.name}.rate", steps)
    factor = np.nan_to_num(recorded(history, RATE_FACTOR, steps), nan=1.0)
    rates = np.full((len(table.names), len(steps)), np.nan)
    for row in table.rows:
        choice = row.choices[RATE]
        if choice.value in names:
            rates[list(row.indices)] = recorded(history, names[choice.value], steps)
        elif choice.base is not None and choice.base == table.base_rate:
            rates[list(row.indices)] = base * _factors(choice, moments)
        else:
            rates[list(row.indices)] = factor * _planned(choice, moments)
    rates[:, np.isnan(base)] = np.nan
    return np.where(scheduled(table, moments) & (rates != 0), rates, np.nan)


def recorded(history: Mapping[str, Series], name: str, steps: Sequence[int]) -> Numbers:
    """The values of a series in the steps that were made after so many others; NaN where it has none."""
    if name not in history or not len(history[name]):
        return np.full(len(steps), np.nan)
    own = history[name]
    clock, wanted = np.asarray(own.steps), np.asarray(steps) + 1
    places = np.minimum(np.searchsorted(clock, wanted), len(clock) - 1)
    values: Numbers = np.where(clock[places] == wanted, np.asarray(own.values, dtype=np.float64)[places], np.nan)
    return values


def _factors(choice: Choice, moments: Sequence[Progress]) -> Numbers:
    """What the base is multiplied by at each moment; NaN where it is held."""
    if choice.factor is None:
        return np.ones(len(moments))
    if choice.factor.constant:
        return np.full(len(moments), _number(choice.factor.at(moments[0])))
    return np.array([_number(choice.factor.at(moment)) for moment in moments])


def _planned(choice: Choice, moments: Sequence[Progress]) -> Numbers:
    """The rate at each moment with nothing heard of scores."""
    if choice.constant:
        return np.full(len(moments), _number(choice.at(moments[0])))
    return np.array([_number(choice.at(moment)) for moment in moments])


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else np.nan
