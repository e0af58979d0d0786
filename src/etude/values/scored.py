"""What schedules that fall by a score have in common: what they listen to, and when they ask for the best net."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection

from etude.values.algebra import Memory, Schedule
from etude.values.scores import Score


class Scored(Schedule):
    """A schedule of numbers that falls by a score, and may send the net back to its best arrays when it does."""

    __slots__ = ()

    score: Score
    back_to_best: str | bool

    @abstractmethod
    def _falls(self, memory: Memory) -> int:
        """How often it has fallen; `memory` is not None."""

    @property
    def listens(self) -> frozenset[str]:
        return frozenset(self.score.names)

    def unheard(self, told: Collection[str]) -> frozenset[str]:
        return self.score.unheard(told)

    @property
    def goes_back(self) -> bool:
        return bool(self.back_to_best)

    def asks_for_best(self, before: Memory, after: Memory) -> str:
        fell = after is not None and self._falls(after) > (0 if before is None else self._falls(before))
        return str(self.back_to_best) if self.back_to_best and fell else ""
