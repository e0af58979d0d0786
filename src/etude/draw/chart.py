"""A chart: lines over the steps of a run, and the scale of their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from etude.draw import paper
from etude.draw.score import Numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_chart(title: str, below: str, lift: float) -> tuple[Figure, Axes]:
    """A sheet with axes for lines over steps; `below` stands under the title, `lift` points higher."""
    figure = paper.sheet(8.0, 4.2)
    axes = figure.add_axes((0.085, 0.125, 0.755, 0.68))
    paper.bare(axes)
    axes.grid(axis="y", color=paper.LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set(visible=True, color=paper.BAR, linewidth=0.8)
    axes.margins(x=0.01)
    axes.tick_params(axis="y", length=0)
    paper.label(axes, "steps")
    paper.title(axes, title, below, lift=lift)
    return figure, axes


def set_scale(axes: Axes, values: Numbers, wide: bool) -> None:
    """Logarithmic if the range is `wide` and positive; else room for nearly all, not for a single outlier."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    if len(values) and wide and values.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if values.max() > 1e3 * values.min() else (1.0, 3.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
        axes.set_ylim(values.min() / 1.3, values.max() * 1.3)
    elif len(values):
        low, high = values.min(), np.quantile(values, 0.999)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(0.0 if 0 <= low < 0.3 * high else low - room, high + room)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: paper.short(value)))
    left, right = axes.get_xlim()
    if left < 0.3 * right:
        axes.set_xlim(-0.01 * right, right)
