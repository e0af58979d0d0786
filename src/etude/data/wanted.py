"""What is wanted for one batch: which samples, which part of each, and what they are filled up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from etude.data.plan.lengths import Whole

Windows: TypeAlias = Mapping[str, tuple[int, int]]
"""Of streams by name the frames of one sample that are wanted: the first, and the one after the last."""


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """One batch to be read, here or by a worker.

    Attributes:
        epoch: in which it is read: chance in an item depends on it.
        samples: positions in the whole data, int64, shape (rows,).
        windows: of each stream that is cut where every row starts and stops, int64, shape (rows,); a stream that is
            not named comes whole.
        to: lengths to pad streams to; a stream that is not named is padded to the longest of the batch.
        rows: rows to fill the batch up to; None: as many as there are samples.
        shared: samples of the whole batch, of which these are a share; where there is none to be read here, one of
            them shows what an empty batch looks like. None: this is the whole batch.
    """

    epoch: int
    samples: Whole
    windows: Mapping[str, tuple[Whole, Whole]] = field(default_factory=dict)
    to: Mapping[str, int] = field(default_factory=dict)
    rows: int | None = None
    shared: Whole | None = None

    def only(self, places: Whole) -> Wanted:
        """Some of its rows."""
        windows = {name: (starts[places], stops[places]) for name, (starts, stops) in self.windows.items()}
        return replace(self, samples=self.samples[places], windows=windows)
