"""The places of a score: the rows of a net's modules, their names, and the margins of the sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np

from etude.draw import paper
from etude.draw.score import Score

WIDTH: Final = 10.0  # inches, as the next three
TOP: Final = 0.74
BOTTOM: Final = 0.55
EDGE: Final = 0.3
LONGEST_NAME: Final = 36  # characters


@dataclass(frozen=True, slots=True)
class System:
    """Neighbouring rows of one module, from `start` on, by the names they have in it (or one row by its full name)."""

    module: str
    start: int
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are.

    Attributes:
        places: middles of the rows, in row heights. pitch: a row's height in inches.
        size: of names, in points. inner: width of the names inside modules, in points.
        left: width of all names, in inches. below: height of what stands under the staves, in inches.
    """

    systems: tuple[System, ...]
    places: tuple[float, ...]
    pitch: float
    size: float
    inner: float
    left: float
    below: float = 0.0

    @classmethod
    def of(cls, whole: Score) -> Layout:
        """Room for all rows: generous for few, tight for many, a little more between modules."""
        systems = tuple(_systems(whole.labels))
        pitch = float(np.interp(len(whole.labels), (8, 40), (0.27, 0.19)))
        size = float(np.interp(len(whole.labels), (8, 40), (8.5, 7)))
        gap = 0.4 if len(systems) < len(whole.labels) else 0.0
        places = tuple(one.start + row + gap * at for at, one in enumerate(systems) for row in range(len(one.labels)))
        inner = _widest([label for one in systems if one.module for label in one.labels], size)
        alone = _widest([one.labels[0] for one in systems if not one.module], size)
        outer = _widest([one.module for one in systems if one.module], size)
        return cls(systems, places, pitch, size, inner, EDGE + (max(alone, outer + inner + 14) + 8) / 72)

    @property
    def height(self) -> float:
        """Of all staves, in inches."""
        return (self.places[-1] + 1) * self.pitch


def _systems(labels: Sequence[str]) -> Iterator[System]:
    start = 0
    for module, members in groupby(labels, key=lambda label: label.rpartition(".")[0]):
        names = list(members)
        if module and len(names) > 1:
            yield System(_clipped(module), start, tuple(name[len(module) + 1 :] for name in names))
        else:
            yield from (System("", start + row, (_clipped(name),)) for row, name in enumerate(names))
        start += len(names)


def _clipped(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else "…" + name[1 - LONGEST_NAME :]


def _widest(names: Sequence[str], size: float) -> float:
    return max((paper.width_in_points(name, size) for name in names), default=0.0)
