"""The colours of a score: from effective learning rates to inks, darker where faster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from etude.draw import paper
from etude.draw.score import Numbers

LEVELS: Final = 256
FAINTEST: Final = 1e-4  # of the greatest rate: what is below is drawn as light as this
FEW_RATES: Final = 4


@dataclass(frozen=True, slots=True)
class Scale:
    """From rates to colours.

    Attributes:
        low, high: the magnitudes of the lightest and the darkest; `least` may be smaller, and is as light as `low`.
        few: the rates themselves, ascending, where they are so few that the key can show each.
        rises, climbs: whether there are rates that descend the loss (not negative), and rates that climb it.
    """

    low: float
    high: float
    few: tuple[float, ...]
    least: float
    rises: bool
    climbs: bool

    @classmethod
    def of(cls, table: Numbers) -> Scale:
        """The scale for all rates in `table` (NaN where held); a rate of zero is drawn as the lightest."""
        moving = np.unique(table[np.isfinite(table)])
        values = sorted({float(f"{value:.6g}") for value in moving})
        high = max((abs(value) for value in values), default=0.0) or 1.0
        least = min((abs(value) for value in values), default=0.0)
        if len(values) <= FEW_RATES:
            low, few = min((abs(value) for value in values if value), default=high), tuple(values)
        else:
            low, few = min(_usual_least(line, high) for line in table), ()
        rises, climbs = bool((moving >= 0).any()), bool((moving < 0).any())
        return cls(max(low, high * FAINTEST), high, few, least, rises, climbs)

    @property
    def logarithmic(self) -> bool:
        """Rates that span more than ten times are told apart by their logarithm."""
        return self.high > 10 * self.low

    def levels(self, rates: Numbers) -> NDArray[np.int64]:
        """From 0 (lightest) to 255 for each rate, by its magnitude."""
        sizes = np.minimum(np.abs(rates), self.high)
        if self.least == self.high:
            shares = np.full_like(sizes, 0.62)
        elif self.logarithmic:
            shares = np.log(np.maximum(sizes, self.low) / self.low) / math.log(self.high / self.low)
        else:
            shares = sizes / self.high
        levels: NDArray[np.int64] = np.rint(shares * (LEVELS - 1)).astype(np.int64)
        return levels

    def colours(self, rates: Numbers) -> NDArray[np.float64]:
        """Red, green, blue and opacity for each rate."""
        levels = self.levels(rates)
        rising, climbing = paper.ramp(paper.RISING)(levels), paper.ramp(paper.CLIMBING)(levels)
        picked: NDArray[np.float64] = np.where((rates < 0)[..., None], climbing, rising)
        return picked


def _usual_least(line: Numbers, default: float) -> float:
    """The magnitude below which a row is in a tenth of its steps: the first of a warm-up must not stretch the scale."""
    sizes = np.abs(line[np.isfinite(line) & (line != 0)])
    return float(np.quantile(sizes, 0.1)) if len(sizes) else default
