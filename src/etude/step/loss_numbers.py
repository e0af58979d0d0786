"""The numbers of losses that may change: weights of terms, and settings of what computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from numbers import Real
from typing import Any, TypeAlias

from etude.arguments import told_of
from etude.errors import SettingError
from etude.step.term import Term
from etude.values.preview import moments
from etude.values.progress import Extent, Progress
from etude.values.schedule import Memory, Schedule

Now: TypeAlias = tuple[Any, ...]
"""The numbers of a moment: the weight of each term, then every setting of each term, in order."""
_NOTHING: Mapping[str, Any] = {}


class Numbers:
    """Weights and settings of some terms, asked together.

    Attributes:
        labels: "weight.<term>" and "<term>.<setting>". fixed: the weights where they never change, else None.
        memory: what those remember that listen to metrics.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        settings = [(one, key, of) for one in terms for key, of in one.settings.items()]
        self.labels = [f"weight.{one.name}" for one in terms] + [f"{one.name}.{key}" for one, key, _ in settings]
        self.schedules = [one.weight for one in terms] + [of for _, _, of in settings]
        # What a term reports besides has no weight, and the settings of the term.
        self._own = [not one.error for one in terms] + [not (one.error and one.entry) for one, _, _ in settings]
        bounds = [getattr(one.function, "bounds", _NOTHING).get(key) for one, key, _ in settings]
        self._bounds = [None] * len(terms) + bounds
        self._many = len(terms)
        self._places: list[dict[str, int]] = [{} for _ in terms]
        place = self._many
        for found, one in zip(self._places, terms, strict=True):
            for key in one.settings:
                found[key], place = place, place + 1
        self.memory: dict[Schedule, Memory] = {of: of.start() for of in self.schedules if of.reactive}
        self._still: Now | None = None
        if all(of.constant for of in self.schedules):
            self._still = self._at(Progress())
        weights = [one.weight for one in terms]
        self.fixed: tuple[float, ...] | None = None
        if all(of.constant for of in weights):
            self.fixed = tuple(float(of.at(Progress())) for of in weights)

    def at(self, progress: Progress) -> Now:
        """The numbers of a moment; the same object as long as none of them can change."""
        return self._at(progress) if self._still is None else self._still

    def _at(self, progress: Progress) -> Now:
        memory = self.memory
        values = [of.at(progress, memory.get(of)) for of in self.schedules]
        return tuple([self._number(value, place) for place, value in enumerate(values)])

    def _number(self, value: Any, place: int) -> float:
        if not isinstance(value, Real) or isinstance(value, bool) or not isfinite(value):
            raise SettingError(
                f"loss: {self.labels[place]!r} is {value!r} at this step. A finite number is needed: "
                f"{self.schedules[place]!r}."
            )
        bounds = self._bounds[place]
        if bounds is not None and not bounds[0] <= value <= bounds[1]:
            raise SettingError(
                f"loss: {self.labels[place]!r} is {value:g} at a step, and has to be from {bounds[0]:g} to "
                f"{bounds[1]:g}: {self.schedules[place]!r}."
            )
        return float(value)

    @property
    def constant(self) -> bool:
        """Whether none of them ever changes."""
        return self._still is not None

    def weights(self, progress: Progress) -> tuple[float, ...]:
        """The weights alone."""
        return self.fixed if self.fixed is not None else self.at(progress)[: self._many]

    def named(self, place: int, now: Now) -> Mapping[str, Any]:
        """The settings of one term, by name."""
        places = self._places[place]
        return {key: now[where] for key, where in places.items()} if places else _NOTHING

    def settings(self) -> dict[str, Schedule]:
        """Every weight and setting by its label."""
        found = zip(self.labels, self.schedules, self._own, strict=True)
        return {label: of for label, of, own in found if own}

    def changing(self, progress: Progress) -> dict[str, float]:
        """Of `settings` those that change, as numbers of a moment."""
        if self._still is not None:
            return {}
        settings, now = self.settings(), dict(zip(self.labels, self.at(progress), strict=True))
        return {label: now[label] for label, of in settings.items() if not of.constant}

    def check(self, extent: Extent) -> None:
        """Raise ScheduleError where one of them is undefined somewhere in a run of this extent."""
        for label, of in self.settings().items():
            with told_of(f"loss, {label}"):
                of.check(extent)
        for progress in moments(extent, 33, unknown=0.0):
            self._at(progress)

    def see(self, metrics: Mapping[str, float], progress: Progress) -> None:
        """Tell those that listen what was measured."""
        self.memory = {of: of.see(kept, metrics, progress) for of, kept in self.memory.items()}
