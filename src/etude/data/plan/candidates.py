"""What filters are: samples that came to them, which of them stay, and the numbers by which that is decided."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from etude.data.plan.lengths import Lengths, Whole
from etude.errors import DataError, EtudeError, SettingError, nearest
from etude.values.marks import Choice
from etude.values.progress import Progress
from etude.values.schedule import Constant, Schedule, schedule

Truth: TypeAlias = npt.NDArray[np.bool_]

Limit: TypeAlias = "float | Schedule | Callable[[Progress], float]"
"""A number, or a schedule of numbers, which is asked at the start of every epoch."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What a filter chooses from.

    Attributes:
        samples: their numbers in the whole data, int64, shape (n,).
        lengths: of these samples; None where the data have none.
        progress: at the start of the epoch.
        epoch, seed, place: what chance is drawn from; `place` is that of the filter among all.
    """

    samples: Whole
    lengths: Lengths | None = None
    progress: Progress = field(default_factory=Progress)
    epoch: int = 0
    seed: int = 0
    place: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    def of(self, stream: str | None, said: object) -> Whole:
        """Lengths in one stream, the leading one if none is named.

        Raises:
            DataError: the data have no lengths, or no such stream.
        """
        if self.lengths is None:
            raise DataError(
                f"{said!r}: the data have no lengths. Write lengths={{'audio': array}}, a length for every sample."
            )
        if stream is not None and stream not in self.lengths.names:
            raise DataError(
                f"{said!r}: the data have no stream {stream!r}.{nearest(stream, self.lengths.names)} "
                f"Streams with lengths: {', '.join(map(repr, self.lengths.names))}."
            )
        return self.lengths.lead if stream is None else self.lengths[stream]

    def take(self, kept: Truth) -> Candidates:
        """Those that are left, for the filter that comes next."""
        lengths = None if self.lengths is None else self.lengths.take(kept)
        return Candidates(self.samples[kept], lengths, self.progress, self.epoch, self.seed, self.place + 1)


class Filter(Choice, ABC):
    """What leaves samples out of an epoch. Frozen; its text is the name under which it counts them."""

    __slots__ = ()

    @property
    def needs_lengths(self) -> bool:
        """Whether it cannot choose without lengths."""
        return True

    @abstractmethod
    def mask(self, candidates: Candidates) -> Truth:
        """Which of them stay, shape (n,); a pure function of what is asked.

        Raises:
            DataError: the data lack what it chooses by.
        """

    @abstractmethod
    def fitting(self, candidates: Candidates) -> str:
        """What would leave something, for the message when nothing is left; n is at least 1."""


def value_of(limit: Schedule, progress: Progress, said: object) -> float:
    value = limit.at(progress)
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        raise DataError(f"{said!r}: its limit is {value!r} at epoch {progress.epoch:g}, and a number is needed.")
    return float(value)


def share_of(value: float, said: object) -> float:
    if not 0 <= value <= 1:
        raise DataError(f"{said!r}: it is {value:g} now, and a share is from 0 to 1.")
    return value


def limit(said: str, literal: Any) -> Schedule:
    try:
        made = schedule(literal)
    except EtudeError as error:
        raise SettingError(f"{said}: {error}") from None
    if isinstance(made, Constant) and made.kind != "number":
        raise SettingError(f"{said}: a number or a schedule of numbers is needed, not {literal!r}.")
    return made


def portion(said: str, literal: Any, low: bool) -> Schedule:
    made = limit(said, literal)
    if isinstance(made, Constant) and not (0 <= made.value < 1 if low else 0 < made.value <= 1):
        bounds = "from 0 to below 1" if low else "above 0 and at most 1"
        raise SettingError(f"{said}: {literal!r} is not {bounds}. Write 0.5, or a schedule.")
    return made


def argument(made: Schedule) -> str:
    return repr(made.value) if isinstance(made, Constant) else repr(made)
