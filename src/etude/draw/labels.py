"""Words at the ends of lines, in place of a legend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from etude.draw import paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED: Final = 12  # lines that can have a label of their own at their end

LONGEST: Final = 36  # characters of one


@dataclass(frozen=True, slots=True)
class Label:
    """Words at the end of a line, whose last value is `value`."""

    value: float
    words: str
    colour: str

    @classmethod
    def of(cls, values: NDArray[np.float64], words: str, colour: str) -> Label:
        """At the last finite of `values`, NaN if there is none."""
        finite = values[np.isfinite(values)]
        return cls(float(finite[-1]) if len(finite) else math.nan, words, colour)


def label_ends(axes: Axes, labels: Sequence[Label], fit: bool = True) -> None:
    """Words at the right, each at the height of its line's end, moved apart where they would overlap.

    Args:
        axes: with their scale set. labels: at most a dozen are shown.
        fit: make the axes narrower, so that the words have room at their right.
    """
    shown = [label for label in labels if math.isfinite(label.value)]
    if len(shown) > LABELLED:
        shown = [shown[round(index)] for index in np.linspace(0, len(shown) - 1, LABELLED)]
    words_of = paper.cut([label.words for label in shown], LONGEST)
    shown = [replace(label, words=words) for label, words in zip(shown, words_of, strict=True)]
    figure, place = axes.get_figure(root=True), axes.get_position()
    assert figure is not None
    wide, high = 72 * figure.get_figwidth(), 72 * figure.get_figheight()  # in points
    if fit:
        words = max((paper.width_in_points(label.words, 8) for label in shown), default=0.0)
        axes.set_position((place.x0, place.y0, 1 - place.x0 - (words + 24) / wide, place.height))
    heights = [float(axes.transLimits.transform(axes.transScale.transform((1, one.value)))[1]) for one in shown]
    for label, height in zip(shown, _apart(heights, 11 / (place.height * high)), strict=True):
        axes.annotate(label.words, (1, height), (6, 0), xycoords="axes fraction", textcoords="offset points",
                      fontsize=8, fontfamily=paper.FONT, color=label.colour, va="center",
                      annotation_clip=False)  # fmt: skip


def _apart(heights: Sequence[float], least: float) -> Iterator[float]:
    """The heights, in the same order, moved as little as can be so that neighbours are `least` apart, within 0 to 1."""
    order = np.argsort(heights)
    placed = np.clip(np.asarray(heights, dtype=np.float64)[order], 0, 1)
    for _ in range(100):
        gaps = least - np.diff(placed)
        close = gaps > 1e-6
        if not close.any():
            break
        placed[:-1] -= np.where(close, gaps / 2, 0)
        placed[1:] += np.where(close, gaps / 2, 0)
        placed += max(0.0, -placed.min()) - max(0.0, placed.max() - 1)
    back = np.empty(len(order))
    back[order] = placed
    yield from back.tolist()
