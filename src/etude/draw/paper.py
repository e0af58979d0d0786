"""What the pictures share: paper, ink, hues that everybody can tell apart (also in grey), and how a figure is saved."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from etude.errors import SettingError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

PAPER: Final = "#fcfaf5"
INK: Final = "#2b2925"
SOFT: Final = "#7d776b"  # second words
LINE: Final = "#ddd7ca"  # staff lines, grids
BAR: Final = "#b5ad9d"  # bar lines
ALARM: Final = "#b3261e"
FONT: Final = "DejaVu Sans"  # comes with matplotlib, so a picture is the same everywhere
RISING: Final = ("#c9dcdd", "#8fbac1", "#4f8ea3", "#2a6085", "#173a63")
CLIMBING: Final = ("#f4d8b6", "#e6aa72", "#cb7440", "#9c4a20", "#6a2a10")
HUES: Final = ("#1f5f8b", "#c4622d", "#3f8a6b", "#8a5a9e", "#a8892c", "#5b6770")
"""Lines, in this order; neighbours differ in lightness as well."""


def sheet(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches; it belongs to no window and no list of open figures."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, facecolor=PAPER)


def ramp(colours: Sequence[str]) -> Colormap:
    """A colour map through `colours`, light to dark."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("etude", list(colours))


def hue(index: int, count: int) -> str:
    """The colour of a line: one of the hues where `count` of them are few, else of one ramp from first to last."""
    from matplotlib.colors import to_hex

    return HUES[index] if count <= len(HUES) else to_hex(ramp(RISING[1:])(index / (count - 1)))


def bare(axes: Axes) -> None:
    """Paper without a frame: words and short ticks only."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_facecolor(PAPER)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=3, width=0.6, color=SOFT, labelcolor=SOFT, labelsize=8, labelfontfamily=FONT)


def count(value: float) -> str:
    """A number of steps as a tick: 500, 50,000, 200k, 1.5M."""
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= max(unit, 1e5):
            return f"{value / unit:g}{word}"
    return f"{value:,.10g}"


def title(axes: Axes, words: str, below: str = "", shift: float = 0.0, lift: float = 0.0) -> None:
    """A title over `axes` and a softer line below it, moved by `shift` points to the right and `lift` points up."""
    for text, up, size, weight, colour in (
        (words, 24, 11.5, "bold", INK),
        (below, 10, 8, "normal", SOFT),
    ):
        axes.annotate(text, (0, 1), (shift, lift + up), xycoords="axes fraction", textcoords="offset points",
                      color=colour, fontsize=size, fontweight=weight, fontfamily=FONT,
                      annotation_clip=False)  # fmt: skip


def label(axes: Axes, across: str, up: str = "") -> None:
    """The words at the two axes."""
    axes.set_xlabel(across, color=SOFT, fontsize=8, fontfamily=FONT, labelpad=5)
    if up:
        axes.set_ylabel(up, color=SOFT, fontsize=8, fontfamily=FONT)


def short(value: float) -> str:
    """A number as one would write it, to three digits, whole ones below a million to all: 0.05, 1e-3, −12, 12,500."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 999.5 <= abs(value) < 1e6 and (abs(value) < 1e4 or value == round(value)):
        words = f"{value:,.0f}"
    elif 1e-2 <= abs(value) < 1e4:
        words = f"{value:.3g}"
    else:
        mantissa, _, power = f"{value:.2e}".partition("e")
        words = f"{float(mantissa):g}e{int(power)}"
    return words.replace("-", "−", 1) if value < 0 else words


def cut(labels: Sequence[str], most: int) -> list[str]:
    """Labels of at most so many characters: where one is longer, the start and what tells it from the others are kept.

    What is left out is "…". One that begins like no other keeps its start and its end.
    """
    order = sorted(set(labels))
    common = dict.fromkeys(order, 0)
    for one, other in pairwise(order):
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
        common[one], common[other] = max(common[one], same), max(common[other], same)
    return [label if len(label) <= most else _cut(label, most, common[label]) for label in labels]


def _cut(label: str, most: int, common: int) -> str:
    """The start, and the rest from the name in which it differs, which begins within the first `common` characters."""
    begin = max(label.rfind(mark, 0, common) for mark in ".[: ") + 1
    head = most // 3
    if begin <= head or len(label) - begin < most - 1 - head:
        # It differs at the start, or what differs is within a long enough end.
        return f"{label[:head].rstrip('.')}…{label[1 + head - most :].lstrip('.')}"
    return f"{label[:head].rstrip('.')}…{label[begin : begin + most - head - 2].rstrip('.')}…"


def save(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Write the figure to `path`, if there is one; its ending says how (png, svg, pdf and others). Returns it.

    `SettingError` for an ending that cannot be written.
    """
    if path is None:
        return figure
    target = Path(path)
    known = figure.canvas.get_supported_filetypes()
    kind = target.suffix.lower().lstrip(".")
    if kind not in known:
        said = f'ends in ".{kind}"' if kind else "has no ending"
        raise SettingError(
            f'The picture "{target}" {said}; pictures are written as {", ".join(sorted(known))}.'
            f'{nearest(kind, known) if kind else ""} Write a path as "{target.with_suffix(".png").name}".'
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, facecolor=PAPER)
    return figure


def width_in_points(words: str, size: float) -> float:
    """How wide `words` are when set in `size` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not words.strip():
        return 0.0
    box: Any = TextPath((0, 0), words, size=size, prop=FontProperties(family=FONT)).get_extents()
    return float(box.width)
