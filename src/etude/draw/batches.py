"""Pictures of data: how long samples are, and how full and how padded their batches, epoch by epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from etude.draw import paper
from etude.draw.histograms import Stream, histogram
from etude.draw.labels import Label, label_ends
from etude.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = NDArray[np.float64]

WIDTH: Final = 10.0  # inches, as the next nine
TOP: Final = 0.74
HISTOGRAM: Final = 1.35
PANEL: Final = 1.45
UNDER: Final = 0.78  # below the histograms: their ticks and words, and the caption of what follows
BETWEEN: Final = 0.42
CAPTION: Final = 0.22
BOTTOM: Final = 0.5
LEFT: Final = 0.62
APART: Final = 0.5
STREAMS: Final = 4  # histograms at most
FEW: Final = 2000  # batches up to which each is a dot; above it a band holds nine tenths of them
COLUMNS: Final = 400
NAMED: Final = 24  # epochs that can be named


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """The batches of one epoch, in the order in which they come.

    Attributes:
        epoch: from 0 on. samples: how many they hold together.
        fill: of each the share of what it may hold, float64, shape (batches,).
        padding: of each stream the share of each batch that is padding, likewise; nothing where nothing is padded.
        shares: of each stream the share of the whole epoch that is padding.
        left_out: how much is in no batch, by the reason.
    """

    epoch: int
    samples: int
    fill: Numbers
    padding: Mapping[str, Numbers] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


def plot_batches(
    streams: Sequence[Stream],
    epochs: Sequence[Drawn],
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Figure:
    """The lengths of samples above, and below them the fill and the padding of every batch, epoch by epoch.

    Lengths are histograms, one a stream; samples that are in no batch are red; a line shows the lengths of chunks.
    A batch is a dot, one beyond the scale a triangle at its edge; where there are more than 2,000, a band holds nine
    tenths of them and a line is their mean.

    Args:
        streams: as many as have lengths, the leading one first; the first four are drawn. Empty: none is known.
        epochs: one at least.
        path: where to write the picture; its ending says how.
        title: default "Batches".

    Raises:
        SettingError: no epoch, or one without a batch; a path that cannot be written.
    """
    if not epochs or any(not len(one.fill) for one in epochs):
        raise SettingError("plot_batches() needs the batches of one epoch at least, and one batch at least in each.")
    padded = any(one.padding for one in epochs)
    rows = [HISTOGRAM + UNDER] * bool(streams) + [PANEL + BETWEEN] * (1 + padded)
    head = TOP if streams else TOP + CAPTION
    height = head + sum(rows) - BETWEEN + BOTTOM
    right = _room(epochs)
    figure = paper.sheet(WIDTH, height)
    first = _lengths(figure, streams[:STREAMS], right) if streams else None
    top = head + (rows[0] if streams else 0.0)
    fill = _panel(figure, top, right, "fill", "share of what a batch may hold")
    _draw_fill(fill, epochs)
    if padded:
        padding = _panel(figure, top + PANEL + BETWEEN, right, "padding", "share of a batch")
        _draw_padding(padding, epochs)
        padding.set_xlim(fill.get_xlim())
        fill.tick_params(axis="x", labelbottom=False)
    last = figure.axes[-1]
    paper.label(last, "batches" if len(epochs) == 1 else "batches, one epoch after the other")
    _mark_epochs(fill, figure.axes[len(streams[:STREAMS]) :], epochs)
    paper.title(first or fill, title or "Batches", _told(streams, epochs), lift=0.0 if first else 72 * CAPTION)
    return paper.save(figure, path)


# lengths


def _lengths(figure: Figure, streams: Sequence[Stream], right: float) -> Axes:
    """A histogram for each stream; returns the axes of the first."""
    width = (WIDTH - LEFT - right - APART * (len(streams) - 1)) / len(streams)
    made = []
    for place, stream in enumerate(streams):
        axes = _axes(figure, LEFT + place * (width + APART), TOP, width, HISTOGRAM)
        histogram(axes, stream, paper.HUES[place])
        made.append(axes)
    return made[0]


# batches


def _draw_fill(axes: Axes, epochs: Sequence[Drawn]) -> None:
    means = [float(one.fill.mean()) for one in epochs]
    values = np.concatenate([one.fill for one in epochs])
    low, high = np.quantile(values, (0.01, 0.99))
    low, high = min(float(low), 1.0), max(float(high), 1.0)
    room = max(0.08 * (high - low), 0.02)
    names = 1 + (len(epochs) > 1)  # of epochs stand at the bottom
    axes.set_ylim(max(0.0, low - names * room), high + room)
    axes.axhline(1.0, color=paper.INK, linewidth=0.8, zorder=3, gid="allowed")
    _draw(axes, [one.fill for one in epochs], means, paper.HUES[0], "fill")
    label_ends(axes, [Label(means[-1], f"{_share(means[-1])} full", paper.HUES[0])], fit=False)


def _draw_padding(axes: Axes, epochs: Sequence[Drawn]) -> None:
    names = list(epochs[0].padding)[:STREAMS]
    values = np.concatenate([one.padding[name] for one in epochs for name in names])
    usual = max(float(np.quantile(values, 0.98)), max(one.shares[name] for one in epochs for name in names))
    axes.set_ylim(0.0, min(1.0, max(1.15 * usual, 0.002)))
    labels = []
    for place, name in enumerate(names):
        hue, shares = paper.HUES[place], [one.shares[name] for one in epochs]
        _draw(axes, [one.padding[name] for one in epochs], shares, hue, f"padding {name}")
        labels.append(Label(shares[-1], f"{_share(shares[-1])} of {_clipped(name)}", hue))
    label_ends(axes, labels, fit=False)


def _draw(axes: Axes, values: Sequence[Numbers], means: Sequence[float], hue: str, gid: str) -> None:
    """A value for every batch of every epoch, and the mean of each epoch."""
    bounds = np.append(0, np.cumsum([len(each) for each in values]))
    line = np.concatenate(values)
    low, high = axes.get_ylim()
    axes.set_xlim(0, bounds[-1])
    if len(line) <= FEW:
        size = float(np.interp(len(line), (60, FEW), (4.0, 1.4)))
        axes.plot(np.arange(len(line)) + 0.5, np.where((line >= low) & (line <= high), line, np.nan), "o", color=hue,
                  alpha=0.55, markersize=size, markeredgewidth=0, zorder=4, gid=gid)  # fmt: skip
        _beyond(axes, line, hue)
    else:
        for start, end in pairwise(bounds):
            places, least, mean, most = _columns(line[start:end], max(8, round(COLUMNS * (end - start) / len(line))))
            axes.fill_between(start + places, least, most, color=hue, alpha=0.22, linewidth=0, zorder=3, gid=gid)
            axes.plot(start + places, mean, color=hue, linewidth=1.0, zorder=4, gid=f"{gid} line")
    axes.hlines(means, bounds[:-1], bounds[1:], color=hue, linewidth=1.6, zorder=5, gid=f"{gid} mean")


def _columns(line: Numbers, columns: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Middles of neighbouring batches, and where nine tenths of them lie, with their mean."""
    parts = np.array_split(line, min(columns, len(line)))
    ends = np.append(0, np.cumsum([len(part) for part in parts]))
    bands = np.array([[*np.quantile(part, (0.05, 0.95)), part.mean()] for part in parts])
    # As wide as the epoch.
    places = np.append(np.append(0.0, (ends[1:-1] + ends[:-2]) / 2 if len(parts) > 1 else []), float(ends[-1]))
    whole = bands[np.append(np.arange(len(parts)), len(parts) - 1)]
    return places, whole[:, 0], whole[:, 2], whole[:, 1]


def _beyond(axes: Axes, line: Numbers, hue: str) -> None:
    """Triangles at the edges of the scale for batches beyond it."""
    low, high = axes.get_ylim()
    for edge, sign, found in ((high, "^", line > high), (low, "v", line < low)):
        places = np.flatnonzero(found)
        if len(places):
            axes.plot(places + 0.5, np.full(len(places), edge), sign, color=hue, markersize=3.4, alpha=0.8,
                      markeredgewidth=0, clip_on=False, zorder=6, gid="beyond the scale")  # fmt: skip


def _mark_epochs(top: Axes, panels: Sequence[Axes], epochs: Sequence[Drawn]) -> None:
    """Bar lines where epochs begin, and their numbers where they are few."""
    starts = np.append(0, np.cumsum([len(one.fill) for one in epochs]))
    if len(epochs) <= 10 * NAMED:
        for axes in panels:
            axes.vlines(starts[1:-1], *axes.get_ylim(), color=paper.BAR, linewidth=0.6, zorder=2, gid="epochs")
    if len(epochs) == 1:
        return
    for one, start in list(zip(epochs, starts, strict=False))[:: math.ceil(len(epochs) / NAMED)]:
        words = f"epoch {one.epoch + 1}" if len(epochs) <= 8 else str(one.epoch + 1)
        top.annotate(words, (start, 0), (3, 4), xycoords=top.get_xaxis_transform(), textcoords="offset points",
                     fontsize=7, fontfamily=paper.FONT, color=paper.SOFT, zorder=7)  # fmt: skip


# paper


def _panel(figure: Figure, top: float, right: float, title: str, below: str) -> Axes:
    """Axes over the whole width, `top` inches from the top, with a caption."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes = _axes(figure, LEFT, top, WIDTH - LEFT - right, PANEL)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    for words, across, weight, colour in (
        (title, 0.0, "bold", paper.INK),
        (below, 1.12 * paper.width_in_points(title, 8.5) + 8, "normal", paper.SOFT),
    ):
        axes.annotate(words, (0, 1), (across, 6), xycoords="axes fraction", textcoords="offset points", color=colour,
                      fontsize=8.5 if weight == "bold" else 8, fontweight=weight, fontfamily=paper.FONT,
                      annotation_clip=False)  # fmt: skip
    return axes


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    whole = figure.get_figheight()
    axes = figure.add_axes((left / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole))
    paper.bare(axes)
    axes.grid(axis="y", color=paper.LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set(visible=True, color=paper.BAR, linewidth=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: paper.count(value)))
    axes.tick_params(axis="y", length=0)
    return axes


def _room(epochs: Sequence[Drawn]) -> float:
    """Inches that the labels at the right take."""
    names = list(epochs[0].padding)[:STREAMS]
    words = ["99.9% full", *(f"{_share(epochs[-1].shares[name])} of {_clipped(name)}" for name in names)]
    return (max(paper.width_in_points(each, 8) for each in words) + 24) / 72


def _clipped(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def _share(value: float) -> str:
    """A share in per cent, to three digits."""
    return f"{100 * value:.3g}%"


def _told(streams: Sequence[Stream], epochs: Sequence[Drawn]) -> str:
    """One line of what there is."""
    first, number = epochs[0], len(epochs)
    what = "chunks" if any(stream.pieces is not None for stream in streams) else "samples"
    words = [f"{first.samples:,} {what} in {len(first.fill):,} batches" + (" in the first epoch" if number > 1 else "")]
    if len(streams) > STREAMS:
        words.append(f"{STREAMS} of {len(streams)} streams")
    if any(len(stream.left) for stream in streams):
        words.append(f"red: {len(streams[0].left):,} in no batch")
    if any(stream.pieces is not None for stream in streams):
        words.append("line: chunks")
    words += [f"{count:,} {reason}" for reason, count in first.left_out.items()] if not streams else []
    kind = "a dot is a batch" if sum(len(one.fill) for one in epochs) <= FEW else "band: nine tenths of the batches"
    return "; ".join([*words, kind])
