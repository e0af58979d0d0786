"""What the batches of an epoch hold: counted before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from etude.data.plan.lengths import Whole
from etude.data.plan.planner import Planned


@dataclass(frozen=True, slots=True)
class Report:
    """What the batches of one epoch hold.

    Attributes:
        epoch: from 0 on. batches, samples: how many there are; of samples that are cut, chunks.
        frames: of each stream what is in the batches, padding not counted. cells: padding counted.
        left_out: what is in no batch, by the reason. lost: of each stream the frames of used samples in no chunk.
        unreadable: samples that could not be read, as far as that is known.
    """

    epoch: int
    batches: int
    samples: int
    frames: Mapping[str, int] = field(default_factory=dict)
    cells: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    unreadable: int = 0

    def padding_of(self, stream: str) -> float:
        """The share of a stream in the batches that is padding, 0 to 1."""
        return 1 - self.frames[stream] / self.cells[stream] if self.cells[stream] else 0.0

    @property
    def padding(self) -> float:
        """That of the leading stream; 0 where there is none."""
        return self.padding_of(next(iter(self.frames))) if self.frames else 0.0

    @property
    def numbers(self) -> dict[str, float]:
        """What is told at the end of an epoch."""
        told = {"batches": float(self.batches), "samples": float(self.samples)}
        told |= {f"padding.{name}": self.padding_of(name) for name in self.frames}
        told["left_out"] = float(sum(self.left_out.values()))
        if self.lost:
            told |= {f"lost_frames.{name}": float(frames) for name, frames in self.lost.items()}
        if self.unreadable:
            told["unreadable"] = float(self.unreadable)
        return told

    def __str__(self) -> str:
        lines = [f"Epoch {self.epoch}: {self.batches:,} batches of {self.samples:,} samples"]
        for name, frames in self.frames.items():
            lines.append(f"  {name}: {frames:,} frames, {self.padding_of(name):.2%} of the batches is padding")
        lines += [f"  left out: {count:,} {reason}" for reason, count in self.left_out.items()]
        lines += [f"  in no chunk: {count:,} frames of {name}" for name, count in self.lost.items() if count]
        if self.unreadable:
            lines.append(f"  not readable: {self.unreadable:,} samples")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """The batches of an epoch in numbers, one for each batch.

    Attributes:
        sizes: units in each, int64, shape (batches,).
        longest: of each stream the length to which each batch is padded. frames: what is in it without padding.
        rows: that each has, those included that only fill up.
    """

    sizes: Whole
    longest: Mapping[str, Whole]
    frames: Mapping[str, Whole]
    rows: Whole

    def padding(self, stream: str) -> npt.NDArray[np.float64]:
        """The share of each batch that is padding."""
        shares: npt.NDArray[np.float64] = 1 - self.frames[stream] / np.maximum(self.longest[stream] * self.rows, 1)
        return shares


def measure(planned: Planned) -> Measures:
    """The batches of an epoch in numbers."""
    units, offsets = planned.epoch.all()
    starts, sizes = offsets[:-1], np.diff(offsets)
    rows = sizes.copy()
    longest, frames = {}, {}
    lengths = planned.table.lengths
    for name in lengths.names if lengths is not None else ():
        assert lengths is not None
        own = lengths[name][units]
        longest[name] = np.maximum.reduceat(own, starts)
        frames[name] = np.add.reduceat(own, starts)
    for batch in range(planned.batches) if planned.epoch.shaped else ():
        rows[batch] = planned.epoch.filled(batch)
        for name, length in planned.epoch.to(batch).items():
            longest[name][batch] = length
    return Measures(sizes, longest, frames, rows)


def report(planned: Planned, packed: bool, unreadable: int) -> Report:
    """What the batches of an epoch hold.

    Args:
        planned: the epoch. packed: whether sequences follow one another, so that nothing is padded.
        unreadable: samples that could not be read.
    """
    measured = measure(planned)
    frames = {name: int(each.sum()) for name, each in measured.frames.items()}
    cells = {name: int((measured.longest[name] * measured.rows).sum()) for name in frames}
    table = planned.table
    lost = {name: count for name, count in table.lost.items() if count}
    return Report(
        planned.number,
        planned.batches,
        planned.epoch.units,
        frames,
        frames if packed else cells,
        planned.left_out,
        lost,
        unreadable,
    )
