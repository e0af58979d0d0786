"""What the batches of an epoch hold: counted before anything is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan

from etude.data.plan.measures import measure
from etude.data.plan.planner import Planner


@dataclass(frozen=True, slots=True)
class Report:
    """What the batches of one epoch hold. As text it is a small table.

    Attributes:
        epoch: from 0 on. batches, samples: how many there are; of samples that are cut, chunks.
        frames: of each stream what is in the batches, padding not counted. cells: padding counted.
        left_out: what is in no batch, by the reason. lost: of each stream the frames that are in no chunk.
        unreadable: samples that could not be read, as far as that is known.
        fill: the share of what is allowed that a batch holds, on average; NaN where it is not known.
        shapes: how many shapes the batches have; 0 where that is not known.
    """

    epoch: int
    batches: int
    samples: int
    frames: Mapping[str, int] = field(default_factory=dict)
    cells: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    unreadable: int = 0
    fill: float = nan
    shapes: int = 0

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
        if isfinite(self.fill):
            told["fill"] = self.fill
        told |= {f"padding.{name}": self.padding_of(name) for name in self.frames}
        told["left_out"] = float(sum(self.left_out.values()))
        if self.lost:
            told |= {f"lost_frames.{name}": float(frames) for name, frames in self.lost.items()}
        if self.unreadable:
            told["unreadable"] = float(self.unreadable)
        return told

    def __str__(self) -> str:
        return "\n".join([self._heading(), *self._streams(), *self._missing()])

    def _heading(self) -> str:
        words = [f"epoch {self.epoch + 1}: {counted(self.batches, 'batch')} of {counted(self.samples, 'sample')}"]
        if isfinite(self.fill):
            words.append(f"{self.fill:.1%} full")
        if self.shapes:
            words.append(counted(self.shapes, "shape"))
        return ", ".join(words)

    def _streams(self) -> Iterator[str]:
        """A row for each stream."""
        titles = ["stream", "frames", "with padding", "padding", *(["in no chunk"] if any(self.lost.values()) else [])]
        rows = [
            [name, f"{frames:,}", f"{self.cells[name]:,}", f"{self.padding_of(name):.2%}", self._lost_of(name)]
            for name, frames in self.frames.items()
        ]
        yield from columns([titles, *(row[: len(titles)] for row in rows)]) if rows else ()

    def _lost_of(self, name: str) -> str:
        return f"{self.lost[name]:,}" if self.lost.get(name) else "-"

    def _missing(self) -> Iterator[str]:
        for place, (reason, number) in enumerate(self.left_out.items()):
            yield f"  {'left out' if place == 0 else '':<8}  {number:,} {reason}"
        if self.unreadable:
            yield f"  not readable: {counted(self.unreadable, 'sample')}"


def counted(number: int, unit: str) -> str:
    """ "1 batch", "12 batches"."""
    return f"{number:,} {unit}" + ("" if number == 1 else "es" if unit.endswith("ch") else "s")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table, indented: the first column at the left, numbers at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(["", row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def report(planner: Planner, number: int, packed: bool, unreadable: int) -> Report:
    """What the batches of an epoch hold.

    Args:
        planner: of the data. number: of the epoch, from 0 on.
        packed: whether sequences follow one another, so that nothing is padded.
        unreadable: samples that could not be read.
    """
    planned, measured = planner.epoch(number), measure(planner, number, packed)
    return Report(
        number,
        planned.batches,
        planned.epoch.units,
        {name: int(each.sum()) for name, each in measured.frames.items()},
        {name: int(measured.cells(name).sum()) for name in measured.frames},
        planned.left_out,
        {name: count for name, count in planned.table.lost.items() if count},
        unreadable,
        float(measured.fill.mean()),
        measured.shapes,
    )
