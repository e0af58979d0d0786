"""How often an update acts in a step, where that is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from etude.errors import SettingError
from etude.step.states import as_memory
from etude.values.progress import Progress
from etude.values.schedule import Schedule


@final
class Turns:
    """The turns of one update.

    Args:
        name: of the update. turn: gives a whole number, or True or False; None: the update acts in every step.

    Attributes:
        listens: whether it goes by the losses of the step.
    """

    def __init__(self, name: str, turn: Schedule | None) -> None:
        self.listens = turn is not None and turn.reactive
        self._name, self._turn = name, turn
        self._heard: Any = turn.start() if turn is not None and turn.reactive else None

    def at(self, progress: Progress) -> int:
        """How often the update acts in the step made at `progress`.

        Raises:
            SettingError: the turn is something else than a number of times.
        """
        if self._turn is None:
            return 1
        times = self._turn.at(progress, self._heard)
        if not isinstance(times, int) or times < 0:
            raise SettingError(
                f"Update({self._name!r}): its turn is {times!r}. True, False or a whole number is needed."
            )
        return int(times)

    def hear(self, losses: Mapping[str, float]) -> None:
        """Tell a turn that listens what the losses of the step were."""
        if self._turn is not None and self.listens:
            self._heard = self._turn.see(self._heard, losses)

    def state(self) -> Any:
        """What it has heard, for a later run."""
        return self._heard

    def memory(self, state: Any) -> Any:
        """What `state` gave as what it has heard.

        Raises:
            StateError: it is of another schedule.
        """
        return as_memory(self._turn, state) if self._turn is not None and self.listens else None

    def load(self, memory: Any) -> None:
        """Go on with what `memory` gave."""
        self._heard = memory
