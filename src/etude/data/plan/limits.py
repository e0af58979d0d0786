"""Limits on what a batch may hold, as values; made by the functions of `etude.data.plan.budgets`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import Any, Literal, TypeAlias, final

import numpy as np
import numpy.typing as npt

from etude.data.plan.lengths import Lengths
from etude.errors import DataError, EtudeError, SettingError, nearest
from etude.values.algebra import Schedule
from etude.values.progress import Progress

Floats = npt.NDArray[np.float64]

Kind: TypeAlias = Literal["padded", "packed", "padding"]
"""How the costs of units make up that of a batch: number × largest, their sum, or the first less the second."""

CostFunction: TypeAlias = Callable[[Lengths], npt.ArrayLike]

SLACK = 1e-9
"""What a sum of fractions may exceed its limit by, as a share of it: rounding must not close a batch."""


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One limit in numbers: what each unit costs, float64, shape (n,), how that adds up, the most, and its name."""

    values: Floats
    kind: Kind
    most: Schedule
    title: str
    slack: float = 0.0


@dataclass(frozen=True, slots=True, repr=False)
class Limit(ABC):
    """What a batch may hold. Frozen, equal by value, printed as the call that makes it."""

    @abstractmethod
    def rows(self, lengths: Lengths | None, n: int) -> list[Row]:
        """This limit for `n` units.

        Raises:
            DataError: it needs lengths that are not known, a stream that is not there, or a cost function gives
                something else than a number from 0 on for every unit.
        """

    @property
    @abstractmethod
    def constant(self) -> bool:
        """Whether it is the same during the whole run."""

    @property
    def needs_lengths(self) -> bool:
        """Whether the lengths must be known."""
        return True


@final
@dataclass(frozen=True, slots=True, repr=False)
class StreamLimit(Limit):
    """Frames of streams; made by `padded`, `packed` and `padding`."""

    kind: Kind
    most: Schedule | None
    streams: tuple[tuple[str, Schedule], ...]

    def rows(self, lengths: Lengths | None, n: int) -> list[Row]:
        known = _known(self, lengths)
        missing = [name for name, _ in self.streams if name not in known.streams]
        if missing:
            raise DataError(
                f"{self!r}: there is no stream {missing[0]!r}.{nearest(missing[0], known.names)} "
                f"Streams: {', '.join(known.names)}."
            )
        every = [(name, self.most) for name in known.names] if self.most is not None else []
        what = "padding" if self.kind == "padding" else f"{self.kind} frames"
        return [
            Row(known[name].astype(np.float64), self.kind, most, f"{what} of {name!r}")
            for name, most in (*every, *self.streams)
        ]

    @property
    def constant(self) -> bool:
        return (self.most is None or self.most.constant) and all(most.constant for _, most in self.streams)

    def __repr__(self) -> str:
        every = [] if self.most is None else [_text(self.most)]
        return f"{self.kind}({', '.join(every + [f'{name}={_text(most)}' for name, most in self.streams])})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class CostLimit(Limit):
    """Any function of the lengths; made by `cost`."""

    function: CostFunction
    most: Schedule
    padded: bool = False

    def rows(self, lengths: Lengths | None, n: int) -> list[Row]:
        known = _known(self, lengths)
        kind: Kind = "padded" if self.padded else "packed"
        return [Row(self._costs(known), kind, self.most, f"cost by {called(self.function)}", SLACK)]

    def _costs(self, lengths: Lengths) -> Floats:
        try:
            given = self.function(lengths)
        except KeyError as error:
            name = error.args[0] if error.args else ""
            raise DataError(
                f"{self!r}: there is no stream {name!r}.{nearest(name, lengths.names)} "
                f"Streams: {', '.join(lengths.names)}."
            ) from error
        except Exception as error:
            raise DataError(
                f"{self!r} failed: {type(error).__name__}: {error}. It is called once with all lengths: "
                "lambda lengths: lengths['audio'] ** 2."
            ) from error
        costs = np.asarray(given, dtype=np.float64)
        if costs.shape != (len(lengths),):
            raise DataError(
                f"{self!r} gives costs of shape {costs.shape} for {len(lengths)} units. It is called once with all "
                "lengths, and gives an array with a cost for each: lambda lengths: lengths['audio'] ** 2."
            )
        wrong = np.flatnonzero(~(np.isfinite(costs) & (costs >= 0)))
        if len(wrong):
            sizes = ", ".join(f"{name}: {lengths[name][wrong[0]]}" for name in lengths.names)
            raise DataError(f"{self!r} gives {costs[wrong[0]]} for lengths {sizes}. A cost is a number from 0 on.")
        return costs

    @property
    def constant(self) -> bool:
        return self.most.constant

    def __repr__(self) -> str:
        return f"cost({called(self.function)}, {_text(self.most)}{', padded=True' if self.padded else ''})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class SampleLimit(Limit):
    """A number of units; made by `samples`."""

    most: Schedule

    def rows(self, lengths: Lengths | None, n: int) -> list[Row]:
        return [Row(np.ones(n), "packed", self.most, "samples")]

    @property
    def constant(self) -> bool:
        return self.most.constant

    @property
    def needs_lengths(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"samples({_text(self.most)})"


def amount(made: Schedule, title: str, progress: Progress) -> float:
    """What a schedule allows at a moment.

    Raises:
        SettingError: something else than a number above 0.
    """
    try:
        value = made.at(progress)
    except EtudeError:
        raise
    except Exception as error:
        raise SettingError(
            f"The limit on {title}, {made!r}, cannot be asked at step {progress.step:g}: {type(error).__name__}: "
            f"{error}. Write a number, a schedule, or a function of Progress that gives a number."
        ) from error
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < inf:
        raise SettingError(
            f"The limit on {title} is {value!r} at step {progress.step:g} (epoch {progress.epoch:g}), by {made!r}. "
            "It must be a number above 0 throughout the run."
        )
    if title == "samples" and value < 1:
        raise SettingError(
            f"batch_size is {value!r} at step {progress.step:g} (epoch {progress.epoch:g}), by {made!r}. A batch has "
            "one sample at least."
        )
    return float(value)


def _known(limit: Limit, lengths: Lengths | None) -> Lengths:
    if lengths is None:
        raise DataError(
            f"{limit!r} counts frames, and the lengths of these data are not known. Say how long the samples are with "
            "lengths=, or limit the number of samples: batch_size=64."
        )
    return lengths


def _text(most: Schedule) -> str:
    return repr(most.at(Progress())) if most.constant else repr(most)


def called(function: Any) -> str:
    """A function by its name."""
    return str(getattr(function, "__qualname__", repr(function)))
