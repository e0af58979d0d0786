"""What else is scheduled in a run, as lanes over its steps: a line for each knob or setting that changes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from etude.draw import paper
from etude.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT: Final = 0.42  # of a lane in inches, as the next five
TALL: Final = 0.62  # in a picture of its own
GAP: Final = 0.2  # over the first lane
WORDS: Final = 1.0  # for what stands at the right
WIDTH: Final = 10.0
EDGE: Final = 0.3
SIZE: Final = 7.5  # of words, in points
SMALL: Final = 6.5  # of numbers
SHARE: Final = 0.55  # of a lane's height: the way from the least to the greatest value
MOST: Final = 12
LONGEST: Final = 36
OFF: Final = "off"  # what a bound that is infinite is called, as in the table of a plan


@dataclass(frozen=True, slots=True)
class Lane:
    """One line.

    Attributes:
        label: at the left. values: a number for each step; NaN where there is none, infinity where a bound is none.
        words: for values that are text, those texts, in the order in which they come up; else nothing.
    """

    label: str
    values: NDArray[np.float64]
    words: tuple[str, ...] = ()

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest value."""
        finite = self.values[np.isfinite(self.values)]
        return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)

    @property
    def heights(self) -> NDArray[np.float64]:
        """The values as shares of a lane, from its bottom; one that never changes is in the middle."""
        low, high = self.ends
        span, finite = high - low, np.isfinite(self.values)
        shares = (np.where(finite, self.values, np.nan) - low) / span if span else np.where(finite, 0.5, np.nan)
        return (1 - SHARE) / 2 + SHARE * shares

    @property
    def told(self) -> dict[float, str]:
        """What stands at the right: the greatest and the least value, each by its height as a share of a lane."""
        if self.words or not np.isfinite(self.values).any():
            return {}
        low, high = self.ends
        margin = (1 - SHARE) / 2
        return {0.5: paper.short(low)} if low == high else {margin: paper.short(low), 1 - margin: paper.short(high)}


def lanes(lines: Mapping[str, Sequence[Any]]) -> tuple[Lane, ...]:
    """A lane for each line of which something can be drawn, at most a dozen: numbers, bools or texts, one a step."""
    labels = paper.cut(list(lines), LONGEST)
    made = [_lane(label, values) for label, values in zip(labels, lines.values(), strict=True)]
    drawn = [lane for lane in made if np.isfinite(lane.values).any()]
    if len(drawn) > MOST:
        rest = len(drawn) - MOST + 1
        drawn = [*drawn[: MOST - 1], Lane(f"and {rest} more", np.full(len(drawn[0].values), np.nan))]
    return tuple(drawn)


def height(shown: Sequence[Lane], of_one: float = HEIGHT) -> float:
    """Of all lanes in inches; 0 without any."""
    return GAP + of_one * len(shown) if shown else 0.0


def left(shown: Sequence[Lane]) -> float:
    """How wide the labels are, in inches, with the edge of the paper."""
    return EDGE + (max((paper.width_in_points(lane.label, SIZE) for lane in shown), default=0.0) + 8) / 72


def draw_lanes(axes: Axes, shown: Sequence[Lane], steps: Sequence[float], end: float, first: bool, last: bool) -> None:
    """Draw lanes one under the other.

    Args:
        axes: as wide as what stands above it, with its limits across set. steps: the clock of the values, ascending.
        end: where the last value ends. first, last: whether the labels, and what stands at the right, belong here.
    """
    paper.bare(axes)
    axes.set_ylim(len(shown), 0)
    axes.set_yticks([])
    clock = np.append(np.asarray(steps, dtype=np.float64), end)
    near, far = axes.get_xlim()
    for row, lane in enumerate(shown):
        hue = paper.HUES[row % len(paper.HUES)]
        if np.isfinite(lane.values).any():
            axes.hlines(row + 1 - (1 - SHARE) / 2, near, far, color=paper.LINE, linewidth=0.7, zorder=1)
            axes.plot(clock, row + 1 - np.append(lane.heights, lane.heights[-1]), drawstyle="steps-post", color=hue,
                      linewidth=1.5, solid_joinstyle="miter", zorder=3, snap=False, gid="lane")  # fmt: skip
            _words(axes, lane, row, clock)
        if first:
            _beside(axes, lane.label, row + 0.5, -7, paper.INK)
        for up, words in lane.told.items() if last else ():
            _beside(axes, words, row + 1 - up, 11, paper.SOFT, SMALL)


def plot_lanes(
    lines: Mapping[str, Sequence[Any]],
    steps: Sequence[float],
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Figure:
    """A picture of what is scheduled besides learning rates, over the steps of a run.

    Args:
        lines: by label a value for each step: numbers, bools or texts; NaN or None where there is none.
        steps: the steps made before each value, ascending. path: where to write the picture; its ending says how.
        title: default "Knobs".

    Raises:
        SettingError: nothing to draw, lengths that differ, a path that cannot be written.
    """
    shown = lanes(lines)
    if not shown:
        raise SettingError("Nothing that is scheduled besides learning rates is there to be drawn.")
    if any(len(lane.values) != len(steps) for lane in shown):
        raise SettingError(f"The lines of a picture of {len(steps)} steps need {len(steps)} values each.")
    tall = 0.74 + height(shown, TALL) + 0.55
    figure = paper.sheet(WIDTH, tall)
    begin = left(shown)
    box = (begin / WIDTH, 0.55 / tall, (WIDTH - begin - EDGE - WORDS) / WIDTH, (height(shown, TALL) - GAP) / tall)
    axes = figure.add_axes(box)
    end = steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1.0)
    axes.set_xlim(steps[0], end)
    draw_lanes(axes, shown, steps, end, first=True, last=True)
    paper.label(axes, "steps")
    paper.title(axes, title or "Knobs", "what is scheduled besides learning rates", -72 * (begin - EDGE))
    return paper.save(figure, path)


def _lane(label: str, values: Sequence[Any]) -> Lane:
    texts = list(dict.fromkeys(value for value in values if isinstance(value, str)))
    if texts:
        places = {text: float(place) for place, text in enumerate(texts)}
        return Lane(label, np.array([places.get(value, np.nan) for value in values]), tuple(texts))
    return Lane(label, np.array([float(value) if isinstance(value, Real) else np.nan for value in values], dtype=float))


def _words(axes: Axes, lane: Lane, row: int, clock: NDArray[np.float64]) -> None:
    """Texts where each of them begins, as far as there is room; "off" where a bound ends."""
    if not lane.words and not np.isinf(lane.values).any():
        return
    near, far = axes.get_xlim()
    figure = axes.get_figure(root=True)
    assert figure is not None
    point = (far - near) / (72 * figure.get_figwidth() * axes.get_position().width)
    free, at = near, 0
    for value, stretch in groupby(lane.values):
        start, at = clock[at], at + len(list(stretch))
        off = np.isinf(value)
        if not (off or (lane.words and np.isfinite(value))) or start < free or start >= far:
            continue
        word = OFF if off else lane.words[int(value)]
        down = row + 1 - ((1 - SHARE) / 2 if off else lane.heights[at - 1])
        over, side = (2, "bottom") if off or value == 0 else (-2, "top")
        axes.annotate(word, (start, down), (3, over), textcoords="offset points", fontsize=SIZE, va=side,
                      fontfamily=paper.FONT, color=paper.SOFT, zorder=4)  # fmt: skip
        free = start + (paper.width_in_points(word, SIZE) + 8) * point


def _beside(axes: Axes, words: str, down: float, points: float, colour: str, size: float = SIZE) -> None:
    """Words beside a lane: at the left for negative `points`, else at the right."""
    axes.annotate(words, (0 if points < 0 else 1, down), (points, 0), xycoords=axes.get_yaxis_transform(),
                  textcoords="offset points", ha="right" if points < 0 else "left", va="center_baseline",
                  fontsize=size, fontfamily=paper.FONT, color=colour, annotation_clip=False)  # fmt: skip
