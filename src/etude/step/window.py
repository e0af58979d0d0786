"""Gradients accumulated over several backward passes into one step, divided by the true number of their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from torch import Tensor

from etude.arguments import told_of
from etude.errors import SettingError
from etude.step.ledger import Ledger
from etude.values.preview import moments
from etude.values.progress import Extent, Progress
from etude.values.schedule import Constant, schedule


class Window:
    """The micro-batches of the step that is being accumulated.

    Args:
        accumulate: how many micro-batches make a step; a whole number of at least 1, or a schedule of such.
        extent, uncounted: of the run, to prove a schedule.

    Attributes:
        count, samples: micro-batches taken so far, and their samples.

    Raises:
        SettingError, ScheduleError: it is no such number, or cannot be followed.
    """

    def __init__(self, accumulate: Any, extent: Extent, uncounted: Sequence[str]) -> None:
        with told_of("accumulate"):
            self._said = schedule(accumulate)
        self._fixed = self._said.at(Progress()) if isinstance(self._said, Constant) else None
        if self._said.reactive:
            raise SettingError(
                f"accumulate={self._said!r}: it listens to metrics, and the number of micro-batches has to be known "
                "beforehand. Write a number or a schedule of progress."
            )
        self._said.check(extent, uncounted)
        for progress in moments(extent, 33, unknown=0.0):
            _check(self._said.at(progress.without(*uncounted)))
        self.count = 0
        self.samples = 0.0
        self._seen = Ledger()

    @property
    def open(self) -> bool:
        """Whether something has been accumulated."""
        return self.count > 0

    def size(self, progress: Progress) -> int:
        """Micro-batches of the step made at `progress`."""
        return self._fixed or _check(self._said.at(progress))

    def brings_nothing(self, indices: Sequence[int], gradients: Sequence[Tensor | None]) -> bool:
        """Whether no array that moves has a new gradient since the last micro-batch; `gradients` of all arrays."""
        moving = [gradients[i] for i in indices]
        same, _ = self._seen.old(indices, moving)
        return bool(moving) and len(same) == sum(gradient is not None for gradient in moving)

    def add(self, samples: float, gradients: Sequence[Tensor | None]) -> None:
        """Count one more micro-batch, with the gradients that all arrays have now."""
        self._seen.write(gradients)
        self.count, self.samples = self.count + 1, self.samples + samples

    def cleared(self, indices: Sequence[int], gradients: Sequence[Tensor | None]) -> list[int]:
        """Of the arrays that move those whose accumulated gradient somebody has cleared; `gradients` of all arrays."""
        return self._seen.gone(indices, [gradients[i] for i in indices])

    def take_back(self, samples: float) -> None:
        """The last micro-batch was refused."""
        self.count, self.samples = self.count - 1, self.samples - samples
        self._seen.forget()

    def clear(self) -> None:
        """The step was made, or its gradients were forgotten."""
        self.count, self.samples = 0, 0.0
        self._seen.forget()

    def state(self) -> dict[str, float]:
        """What a later run needs to go on, besides the gradients."""
        return {"count": self.count, "samples": self.samples}

    def load(self, state: Mapping[str, Any], gradients: Sequence[Tensor | None]) -> None:
        """Take over what `state()` gave, and the gradients that all arrays have now."""
        self.clear()
        self.count, self.samples = int(state["count"]), float(state["samples"])
        if self.open:
            self._seen.write(gradients)

    def follow(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """The arrays have another order now, or others have come."""
        self._seen.follow(before, after)


def _check(size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int | float) or not 1 <= size < inf or size != int(size):
        raise SettingError(f"accumulate={size!r}: a whole number of at least 1 is needed, or a schedule of such.")
    return int(size)
