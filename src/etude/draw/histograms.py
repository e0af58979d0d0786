"""Histograms of lengths, with what is left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from etude.draw import paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]

BINS: Final = 80
LONG_TAIL: Final = 30.0  # times that the longest is above the median; above it lengths are drawn by their logarithm


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """How long samples are in one stream.

    Attributes:
        name: of the stream.
        used: lengths of the samples that are in a batch. left: of those that are in none. int64.
        pieces: lengths of the chunks that they are cut into; None: they come whole.
    """

    name: str
    used: Whole
    left: Whole
    pieces: Whole | None = None


def histogram(axes: Axes, stream: Stream, hue: str) -> None:
    """The lengths of samples, red what is in no batch; a line for the lengths of chunks."""
    every = np.concatenate([stream.used, stream.left])
    edges = _edges(every if stream.pieces is None else np.append(every, stream.pieces))
    used, left = (_counts(each, edges) for each in (stream.used, stream.left))
    axes.stairs(used, edges, fill=True, color=hue, alpha=0.75, gid=f"used {stream.name}")
    if left.any():
        _tint(axes, edges, _shares(used, left))
        axes.stairs(used + left, edges, baseline=used, fill=True, color=paper.ALARM, alpha=0.6,
                    gid=f"left {stream.name}")  # fmt: skip
    if stream.pieces is not None:
        axes.stairs(_counts(stream.pieces, edges), edges, color=paper.INK, linewidth=0.9,
                    gid=f"pieces {stream.name}")  # fmt: skip
    if edges[1] - edges[0] < (edges[-1] - edges[-2]) / 2:
        _logarithmic(axes)
    axes.set_xlim(edges[0], edges[-1])
    paper.label(axes, f"length of {stream.name}: {_spread(every)}")


def _counts(lengths: Whole, edges: Numbers) -> Whole:
    """How many there are in each bin; on a logarithmic scale, which has no 0, those of length 0 are in the first."""
    return np.histogram(np.maximum(lengths, edges[0]), edges)[0]


def _shares(used: Whole, left: Whole) -> Numbers:
    """Of each bin the share that is in no batch; an empty one is like its neighbours, the lesser of the two."""
    full = np.flatnonzero(used + left)
    shares = left[full] / (used + left)[full]
    places = np.arange(len(used))
    before = np.maximum(np.searchsorted(full, places, side="right") - 1, 0)
    after = np.minimum(np.searchsorted(full, places), len(full) - 1)
    found: Numbers = np.minimum(shares[before], shares[after])
    return found


def _tint(axes: Axes, edges: Numbers, shares: Numbers) -> None:
    """A tint over the whole height: the stronger, the more of a bin is in no batch. Few of many would not be seen."""
    from matplotlib.colors import to_rgb

    colours = [(*to_rgb(paper.ALARM), 0.12 * float(share)) for share in shares]
    axes.bar(edges[:-1], 1.0, np.diff(edges), align="edge", color=colours, linewidth=0, zorder=0,
             transform=axes.get_xaxis_transform(), gid="in no batch")  # fmt: skip


def _edges(lengths: Whole) -> Numbers:
    """Of bins as wide as whole numbers allow; by the logarithm where few are very long."""
    least, most = int(lengths.min()), int(lengths.max())
    if most > LONG_TAIL * max(1.0, float(np.median(lengths))) and most > BINS:
        whole = np.unique(np.round(np.geomspace(max(least, 1), most + 1, BINS // 2)))
        edges: Numbers = np.append(0.5, whole[1:] - 0.5) if least == 0 else np.append(whole[0] - 0.5, whole[1:] - 0.5)
        return edges
    step = max(1, math.ceil((most - least + 1) / BINS))
    even: Numbers = np.arange(least, most + 1 + step, step, dtype=np.float64) - 0.5
    return even


def _logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: paper.count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)


def _spread(lengths: Whole) -> str:
    """The least, the median and the greatest of many; in one word if they are the same."""
    least, middle, most = int(lengths.min()), float(np.median(lengths)), int(lengths.max())
    return f"all {least:,}" if least == most else f"{least:,} to {most:,}, median {middle:,.0f}"
