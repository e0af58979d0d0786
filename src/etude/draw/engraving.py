"""The score of a run as a picture: parts down, steps across, colour = effective learning rate, blank paper = held."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from etude.draw import lanes, paper
from etude.draw.key import draw_key
from etude.draw.lanes import Lane
from etude.draw.layout import BOTTOM, EDGE, TOP, WIDTH, Layout
from etude.draw.scale import Scale
from etude.draw.score import Score, checked, opening, score
from etude.values.progress import Progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REMARKS: Final = 0.6  # inches, as the next
APART: Final = 0.3
NOTE: Final = 0.74  # of a row's height
THINNEST: Final = 0.1  # of a note's height: what moves seldom must be seen
SPACE: Final = 0.07  # of a step's width, on either side of a note that can be counted
COUNTED: Final = 64  # steps up to which each is a note of its own
MOST_EPOCHS: Final = 30


def plot_score(
    names: Sequence[str],
    steps: Sequence[float] | Sequence[Progress],
    rates: Any,
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
    knobs: Mapping[str, Sequence[Any]] | None = None,
) -> Figure:
    """The picture of what moves when, and how fast.

    One staff for each array (for modules where there are more than 40 arrays). A note is a step at which it moves, its
    colour the effective learning rate: darker is faster; blue where the loss is descended, orange where a negative
    multiplier climbs. Where steps are joined in a column, a note is as high as the share of them at which the part
    moves, and the first cycles are shown step by step at the left.

    Args:
        names: of the arrays, in the order of the net.
        steps: the clock before each step, ascending: numbers of steps, or `Progress` (then bar lines mark epochs).
        rates: names x steps; effective learning rates, NaN where an array is held.
        path: where to write the picture; its ending says how.
        title: default "Score".
        knobs: what else is scheduled, by label a value for each step; drawn as lines under the score, a dozen at most.

    Raises:
        SettingError: shapes that do not fit, steps that do not ascend, a path that cannot be written.
    """
    clock = [float(step.step) if isinstance(step, Progress) else float(step) for step in steps]
    table = checked(names, clock, rates)
    whole, first = score(names, clock, table), opening(names, clock, table)
    layout, scale, epochs = Layout.of(whole), Scale.of(table), _epochs(steps)
    shown = lanes.lanes(knobs or {})
    layout = replace(layout, left=max(layout.left, lanes.left(shown)), below=lanes.height(shown)) if shown else layout
    figure = paper.sheet(WIDTH, TOP + layout.height + layout.below + BOTTOM)
    for axes, part in _panels(figure, layout, whole, first):
        _staves(axes, part, layout)
        _draw(axes, part, layout, scale)
        _bars(axes, part, layout, epochs)
    panels = list(figure.axes)
    _words_below(_lanes(figure, panels, shown, clock, layout) or panels, whole, first, bool(epochs))
    _end(panels[-1], layout)
    _label(panels[0], layout)
    _remark(panels[-1], whole, layout)
    paper.title(panels[0], title or "Score", _told(len(names), scale), -72 * (layout.left - EDGE))
    draw_key(figure, scale)
    return paper.save(figure, path)


# places


def _panels(figure: Figure, layout: Layout, whole: Score, first: Score | None) -> Iterator[tuple[Axes, Score]]:
    """Axes for the first cycles, where they are shown apart, and for the whole."""
    remarks = max(whole.counts) > 1 or (whole.shares > 0)[whole.rates < 0].any()
    room = WIDTH - layout.left - EDGE - max(REMARKS if remarks else 0.0, lanes.WORDS if layout.below else 0.0)
    left = layout.left
    if first is not None:
        width = 0.3 * room
        yield _axes(figure, layout, left, width - APART), first
        left, room = left + width, room - width
    yield _axes(figure, layout, left, room), whole


def _axes(figure: Figure, layout: Layout, left: float, width: float) -> Axes:
    height = TOP + layout.height + layout.below + BOTTOM
    bottom = BOTTOM + layout.below
    axes = figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, layout.height / height))
    paper.bare(axes)
    axes.set_ylim(layout.places[-1] + 0.5, -0.5)
    axes.set_yticks([])
    return axes


def _lanes(
    figure: Figure, panels: Sequence[Axes], shown: Sequence[Lane], clock: Sequence[float], layout: Layout
) -> list[Axes]:
    """Under each panel the lanes over the same steps; the steps are told there and no more at the staves."""
    if not shown:
        return []
    height = TOP + layout.height + layout.below + BOTTOM
    made = []
    for panel in panels:
        place = panel.get_position()
        box = (place.x0, BOTTOM / height, place.width, (layout.below - lanes.GAP) / height)
        axes = figure.add_axes(box, label="knobs")
        axes.set_xlim(panel.get_xlim())
        # The last value holds to the end of the score.
        end = max(panel.get_xlim()[1], clock[-1] + 1)
        lanes.draw_lanes(axes, shown, clock, end, panel is panels[0], panel is panels[-1])
        panel.tick_params(bottom=False, labelbottom=False)
        made.append(axes)
    return made


def _epochs(steps: Sequence[float] | Sequence[Progress]) -> list[float]:
    """The steps at which epochs after the first begin, where they are known and few."""
    clock = [step for step in steps if isinstance(step, Progress)]
    begins = [
        float(later.step)
        for sooner, later in pairwise(clock)
        if math.floor(later.epoch + 1e-9) > math.floor(sooner.epoch + 1e-9)
    ]
    return begins if len(begins) < MOST_EPOCHS else []


# marks


@dataclass(frozen=True, slots=True)
class Note:
    """One block of colour: in `row`, from step `start` to `end`, `share` of the full height."""

    row: int
    start: float
    end: float
    share: float
    rate: float


def _notes(part: Score, scale: Scale) -> Iterator[Note]:
    """All notes; neighbours that look alike are one, unless the steps are so few that they can be counted."""
    counted = part.asked == 1 and len(part.edges) - 1 <= COUNTED
    rates = np.where(part.shares > 0, part.rates, 0.0)
    looks = np.stack([scale.levels(rates) * np.sign(rates), part.shares], axis=2)
    for row, line in enumerate(looks):
        changes = np.append(True, (line[1:] != line[:-1]).any(axis=1))
        starts = np.flatnonzero(changes | counted)
        for start, end in zip(starts, np.append(starts[1:], len(line)), strict=True):
            if part.shares[row, start] > 0:
                left, right = float(part.edges[start]), float(part.edges[end])
                gap = SPACE * (right - left) if counted else 0.0
                share, rate = float(part.shares[row, start]), float(rates[row, start])
                yield Note(row, left + gap, right - gap, share, rate)


def _staves(axes: Axes, part: Score, layout: Layout) -> None:
    axes.set_xlim(part.edges[0], part.edges[-1])
    axes.hlines(layout.places, part.edges[0], part.edges[-1], color=paper.LINE, linewidth=0.7, zorder=1, gid="staves")


def _draw(axes: Axes, part: Score, layout: Layout, scale: Scale) -> None:
    """A note wherever something moves."""
    from matplotlib.collections import PolyCollection

    notes = list(_notes(part, scale))
    corners = [_corners(note, layout.places[note.row]) for note in notes]
    colours = scale.colours(np.array([note.rate for note in notes]))
    axes.add_collection(
        PolyCollection(corners, facecolors=colours, edgecolors="none", antialiaseds=False, zorder=3, gid="notes")
    )


def _corners(note: Note, place: float) -> list[tuple[float, float]]:
    high, low = (place + side * NOTE * max(note.share, THINNEST) / 2 for side in (-1, 1))
    return [(note.start, low), (note.end, low), (note.end, high), (note.start, high)]


def _bars(axes: Axes, part: Score, layout: Layout, epochs: Sequence[float]) -> None:
    """The line that joins the staves, and bar lines where epochs begin."""
    top, bottom = -NOTE / 2, layout.places[-1] + NOTE / 2
    inside = [step for step in epochs if part.edges[0] < step < part.edges[-1]]
    axes.vlines(inside, top, bottom, color=paper.BAR, linewidth=0.6, zorder=2, gid="epochs")
    _upright(axes, (0, -1), (top, bottom), 0.9)


def _end(axes: Axes, layout: Layout) -> None:
    """The double bar after the last step."""
    ends = (-NOTE / 2, layout.places[-1] + NOTE / 2)
    _upright(axes, (1, 2), ends, 0.9)
    _upright(axes, (1, 5), ends, 2.4)


def _upright(axes: Axes, at: tuple[float, float], ends: tuple[float, float], weight: float) -> None:
    """A vertical line at a share of the width and some points further, beside the staves."""
    from matplotlib.transforms import ScaledTranslation

    share, points = at
    figure = axes.get_figure(root=True)
    assert figure is not None
    beside = axes.get_yaxis_transform() + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)
    axes.plot([share, share], ends, transform=beside, color=paper.INK, linewidth=weight, clip_on=False,
              solid_capstyle="butt")  # fmt: skip


# words


def _told(arrays: int, scale: Scale) -> str:
    count = "1 array" if arrays == 1 else f"{arrays:,} arrays"
    moves = scale.rises or scale.climbs
    return f"{count}; colour is the learning rate, blank is held" if moves else f"{count}; nothing moves"


def _words_below(axes: Sequence[Axes], whole: Score, first: Score | None, bars: bool) -> None:
    words = ["steps"]
    if whole.asked > 1:
        width = float(np.median(np.diff(whole.edges)))
        seen = "" if width <= whole.asked + 1 else f" ({whole.asked} looked at)"
        words.append(f"{width:,.4g} to a column{seen}")
    if ((whole.shares > 0) & (whole.shares < 1)).any():
        words.append("a note is as high as the share that moves")
    if bars:
        words.append("a bar line is an epoch")
    paper.label(axes[-1], ", ".join(words))
    if first is not None:
        paper.label(axes[0], f"steps {first.edges[0]:,.0f} to {first.edges[-1]:,.0f}, one by one")


def _label(axes: Axes, layout: Layout) -> None:
    """Names at the left; those of one module joined by a bracket."""
    for system in layout.systems:
        first = layout.places[system.start]
        last = layout.places[system.start + len(system.labels) - 1]
        for row, name in enumerate(system.labels):
            colour = paper.SOFT if system.module else paper.INK
            _beside(axes, name, layout.places[system.start + row], -7, layout.size, colour)
        if system.module:
            bracket = -(layout.inner + 13)
            _upright(axes, (0, bracket), (first - 0.3, last + 0.3), 1.2)
            _beside(axes, system.module, (first + last) / 2, bracket - 5, layout.size, paper.INK)


def _beside(axes: Axes, words: str, place: float, points: float, size: float, colour: str) -> None:
    """Words beside the staff at `place`: at the left for negative `points`, else at the right."""
    axes.annotate(
        words,
        (0 if points < 0 else 1, place),
        (points, 0),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right" if points < 0 else "left",
        va="center_baseline",
        fontsize=size,
        fontfamily=paper.FONT,
        color=colour,
        annotation_clip=False,
    )


def _remark(axes: Axes, whole: Score, layout: Layout) -> None:
    """On the staff of what never moves: frozen. At the right: how many arrays a row joins, and that it climbs."""
    box = {"facecolor": paper.PAPER, "edgecolor": "none", "pad": 1.5}
    for row, place in enumerate(layout.places):
        if not whole.shares[row].any():
            axes.text(0.5, place, "frozen", transform=axes.get_yaxis_transform(), ha="center", va="center_baseline",
                      style="italic", fontsize=layout.size, fontfamily=paper.FONT, color=paper.SOFT, bbox=box,
                      zorder=2.5)  # fmt: skip
        if whole.counts[row] > 1:
            _beside(axes, f"{whole.counts[row]} arrays", place, 11, layout.size - 0.5, paper.SOFT)
        elif (whole.rates[row] < 0).any():
            _beside(axes, "climbs", place, 11, layout.size - 0.5, paper.CLIMBING[3])
