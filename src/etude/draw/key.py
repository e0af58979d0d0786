"""The key of a score: what its colours mean, at the top right of the sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from etude.draw import paper
from etude.draw.layout import EDGE, WIDTH
from etude.draw.scale import Scale
from etude.draw.score import Numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY: Final = 1.5  # inches


def draw_key(figure: Figure, scale: Scale) -> None:
    """What the colours mean; nothing where nothing moves."""
    if not (scale.rises or scale.climbs):
        return
    height = figure.get_figheight()
    width = KEY * (0.45 * len(scale.few) if scale.few else 1 + scale.climbs * scale.rises * 0.6)
    box = ((WIDTH - EDGE - width) / WIDTH, 1 - 0.36 / height, width / WIDTH, 0.11 / height)
    axes = figure.add_axes(box, label="key")
    paper.bare(axes)
    values = np.array(scale.few) if scale.few else _key_values(scale)
    axes.imshow(scale.colours(values)[None], aspect="auto", extent=(0, len(values), 0, 1), interpolation="nearest")
    axes.set_yticks([])
    places, words = _key_ticks(scale, len(values))
    axes.set_xticks(places, words)
    axes.tick_params(length=0, pad=3, labelsize=7.5)
    if scale.few:
        axes.vlines(range(1, len(values)), 0, 1, color=paper.PAPER, linewidth=3)
    axes.annotate("learning rate", (0, 0.5), (-7, 0), xycoords="axes fraction", textcoords="offset points", ha="right",
                  va="center_baseline", fontsize=8, fontfamily=paper.FONT, color=paper.SOFT)  # fmt: skip


def _key_values(scale: Scale) -> Numbers:
    """Rates from the greatest that climbs to the greatest that descends."""
    space = np.geomspace if scale.logarithmic else np.linspace
    up = space(scale.low, scale.high, 128)
    parts = ([-up[::-1]] if scale.climbs else []) + ([up] if scale.rises else [])
    return np.concatenate(parts)


def _key_ticks(scale: Scale, length: int) -> tuple[list[float], list[str]]:
    if scale.few:
        return [index + 0.5 for index in range(length)], [paper.short(value) for value in scale.few]
    low, high = paper.short(scale.low), paper.short(scale.high)
    cut = scale.least < scale.low * (1 - 1e-9)
    if not scale.climbs:
        return [0, length], [f"≤ {low}" if cut else low, high]
    if not scale.rises:
        return [0, length], [paper.short(-scale.high), paper.short(-scale.low)]
    return [0, length / 2, length], [paper.short(-scale.high), f"±{low}", high]
