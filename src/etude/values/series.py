"""Numbers of one kind, with the steps and epochs at which they were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers of one kind: `values[i]` was taken after `steps[i]` steps, at `epochs[i]` epochs. Equal lengths."""

    name: str
    steps: list[int] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def extend(self, steps: Sequence[int], epochs: Sequence[float], values: Sequence[float]) -> None:
        """Add positions and values at the end; the three are of one length."""
        self.steps.extend(steps)
        self.epochs.extend(epochs)
        self.values.extend(values)
