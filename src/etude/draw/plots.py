"""Pictures of a run: its losses and metrics, its learning rates, and its score.

Each function returns a matplotlib `Figure` of its own, which belongs to no window, and writes it where a path is given.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from etude.draw import paper
from etude.draw.chart import new_chart, set_scale
from etude.draw.engraving import plot_score
from etude.draw.families import Family, families_of, of_data
from etude.draw.labels import Label, label_ends
from etude.draw.lanes import plot_lanes
from etude.draw.naming import named
from etude.draw.rates import plot_rates
from etude.draw.score import Numbers, score_steps
from etude.values.series import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_lanes", "plot_rates", "plot_score", "plot_series", "score_steps"]

WIDE_RANGE: Final = 50.0  # of the greatest to the least; above it the scale is logarithmic
SMOOTHED: Final = 1 / 40  # of all steps: how many are averaged in the smooth line
FEW_STEPS: Final = 20  # steps up to which there is nothing to smooth
THIN: Final = 2000  # steps up to which each is drawn; above it a band holds nine tenths of them
TICKED: Final = 24  # epochs that can have a tick of their own
_SCHEDULED: Final = ("knob.", "setting.", "weight.")  # what names of numbers begin with that were said, not measured


def plot_series(
    history: Mapping[str, Series],
    names: str | Sequence[str] = "loss",
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Losses, metrics or whatever else a history holds, over the steps of a run.

    For each name: its value at each step (thin; a band of nine tenths of them where there are more than 2,000), the
    same smoothed, its mean over each epoch (dots) and its value on the validation data (dashed, diamonds). The lowest
    validation loss is marked if it was not the last. The scale is logarithmic where values span more than 50 times.
    Steps with NaN or infinity are marked at the bottom. What was scheduled (knobs, settings, weights of losses) is
    drawn as it was in each step; infinity, which is no bound, is a gap.

    Args:
        history: series by name, as a run records them.
        names: "loss", a further loss term, a metric, or several; each stands for "<name>", "epoch.<name>" and
            "val.<name>", as far as they are there. "epoch.<name>" or "val.<name>" alone draws no more than that.
            "probe.*.rms" is every series whose name fits.
        path: where to write the picture; its ending says how.
        title: default: made of the names.

    Raises:
        SettingError: no series of that name, a path that cannot be written.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    families = families_of(history, wanted)
    words, called = named([family.name for family in families])
    figure, axes = new_chart(title or words, _told(families), lift=16)
    labels: list[Label] = []
    for index, (family, label) in enumerate(zip(families, called, strict=True)):
        labels += _draw_family(axes, family, label, _hues(index, len(families)))
    values = np.concatenate([_columns(one)[1] for family in families for one in family.all()])
    finite = values[np.isfinite(values)]
    set_scale(axes, finite, wide=len(finite) > 0 and finite.max() > WIDE_RANGE * finite.min())
    _mark_non_finite(axes, families)
    _mark_epochs(axes, families)
    label_ends(axes, labels)
    return paper.save(figure, path)


# lines


def _told(families: Sequence[Family]) -> str:
    """What kinds of marks there are."""
    words = []
    steps = [family.steps for family in families if family.steps is not None and len(family.steps)]
    measured = [one for one in steps if not _scheduled(one)]
    if measured:
        words.append(_how(measured))
    if any(len(one) > FEW_STEPS for one in measured):
        words.append("line: smoothed")
    if any(family.epochs for family in families):
        words.append("dots: epochs" if all(of_data(family.name) for family in families) else "dots: epoch means")
    if any(family.validation for family in families):
        words.append("dashed: validation")
    if steps and not words:
        return "what was in force in each step"
    return ", ".join(words)


def _how(measured: Sequence[Series]) -> str:
    """What the thin lines, or a band, are made of."""
    every = {_apart(one) for one in measured}
    steps = "each step" if every == {1} else f"every {every.pop()} steps" if len(every) == 1 else "each measurement"
    if len(measured[0]) > THIN:
        return f"band: nine tenths of the {'steps' if steps == 'each step' else 'measurements'}"
    return f"thin: {steps}" if any(len(one) > FEW_STEPS for one in measured) else steps


def _apart(series: Series) -> int:
    """How many steps lie between two measurements of a probe; a loss is one of each step in which it was computed."""
    if not series.name.startswith("probe.") or len(series) < 2:
        return 1
    return round(float(np.median(np.diff(series.steps))))


def _scheduled(series: Series) -> bool:
    """Whether a series tells what was said for each step: there is nothing to smooth."""
    return series.name == "rate" or series.name.startswith(_SCHEDULED) or series.name.endswith(".rate")


def _hues(index: int, families: int) -> tuple[str, str]:
    """For the steps and for the validation: two hues for one name, else one hue for each."""
    if families == 1:
        return paper.HUES[0], paper.HUES[1]
    hue = paper.hue(index, families)
    return hue, hue


def _draw_family(axes: Axes, family: Family, called: str, hues: tuple[str, str]) -> list[Label]:
    labels = []
    training, validating = hues
    if family.steps is not None and len(family.steps):
        last = _draw_steps(axes, family.steps, training)
        if family.epochs is None or not len(family.epochs):
            labels.append(Label.of(last, called, training))
    if family.epochs is not None and len(family.epochs):
        clock, values = _columns(family.epochs)
        clock = _middles(clock)
        style = "o-" if family.steps is None else "o"
        axes.plot(clock, values, style, color=training, markersize=_dot(len(clock)), linewidth=1.4,
                  markeredgecolor=paper.PAPER, markeredgewidth=0.8, zorder=5, gid=family.epochs.name)  # fmt: skip
        labels.append(Label.of(values, called, training))
    if family.validation is not None and len(family.validation):
        labels.append(_draw_validation(axes, family.validation, validating))
        if len(family.all()) == 1:
            labels[-1] = replace(labels[-1], words=called)
        elif training == validating:
            labels[-1] = replace(labels[-1], words=f"{called}, validation")
    return labels


def _middles(ends: Numbers) -> Numbers:
    """The middles of epochs that end at `ends`: where their means belong."""
    first = ends[0] - (ends[1] - ends[0]) if len(ends) > 1 else 0.0
    middles: Numbers = (ends + np.append(max(0.0, first), ends[:-1]) + 1) / 2
    return middles


def _draw_steps(axes: Axes, series: Series, hue: str) -> Numbers:
    """The values of the steps; returned are those at whose last the label stands."""
    clock, values = _columns(series)
    if _scheduled(series):
        axes.plot(clock, values, color=hue, linewidth=1.6, zorder=4, drawstyle="steps-pre", gid=series.name)
        # Steps in which there was no bound belong to the run, too.
        axes.update_datalim([(at, np.nanmin(values)) for at in clock[[0, -1]] if np.isfinite(values).any()])
        return values
    if len(clock) <= THIN:
        few = len(clock) <= FEW_STEPS
        axes.plot(clock, values, color=hue, alpha=0.7 if few else 0.28, linewidth=1.2 if few else 0.7, zorder=2,
                  gid=series.name)  # fmt: skip
        if few and _apart(series) > 1:
            axes.plot(clock, values, "o", color=hue, markersize=3.0, zorder=4, gid=f"{series.name} measured")
    else:
        places, low, high = _band(clock, values)
        axes.fill_between(places, low, high, color=hue, alpha=0.18, linewidth=0, zorder=2, gid=series.name)
    smooth = _smooth(series)
    if len(clock) > FEW_STEPS:
        axes.plot(*smooth, color=hue, linewidth=1.6, zorder=4, gid=f"{series.name} smoothed",
                  solid_capstyle="round")  # fmt: skip
        return smooth[1]
    return values


def _draw_validation(axes: Axes, series: Series, hue: str) -> Label:
    clock, values = _columns(series)
    axes.plot(clock, values, "D--", color=hue, markersize=_dot(len(clock)) * 0.85, linewidth=1.2, zorder=6,
              markeredgecolor=paper.PAPER, markeredgewidth=0.8, gid=series.name)  # fmt: skip
    if series.name == "val.loss" and np.isfinite(values).any():
        at = int(np.nanargmin(values))
        if at < len(values) - 1:
            _ring(axes, float(clock[at]), float(values[at]), hue)
    return Label.of(values, "validation", hue)


def _ring(axes: Axes, step: float, value: float, hue: str) -> None:
    """The lowest of a line that rises again."""
    axes.plot([step], [value], "o", markersize=11, markerfacecolor="none", markeredgecolor=hue, markeredgewidth=1.1,
              zorder=7, gid="lowest")  # fmt: skip
    axes.annotate(f"lowest {paper.short(value)}", (step, value), (0, 10), ha="center", va="bottom",
                  textcoords="offset points", fontsize=8, fontfamily=paper.FONT, color=hue, zorder=8)  # fmt: skip


def _dot(count: int) -> float:
    return float(np.interp(count, (10, 100), (6.0, 2.5)))


def _columns(series: Series) -> tuple[Numbers, Numbers]:
    values = np.asarray(series.values, dtype=np.float64)
    return np.asarray(series.steps, dtype=np.float64), np.where(np.isfinite(values), values, np.nan)


def _smooth(series: Series) -> tuple[Numbers, Numbers]:
    """The mean of the steps around each; of those that are finite, and fewer at the two ends."""
    clock, values = _columns(series)
    half = max(1, round(len(values) * SMOOTHED / 2))
    finite = np.isfinite(values)
    total = np.append(0.0, np.cumsum(np.where(finite, values, 0.0)))
    count = np.append(0, np.cumsum(finite))
    middle = np.arange(len(values))
    start, end = np.maximum(middle - half, 0), np.minimum(middle + half + 1, len(values))
    seen = count[end] - count[start]
    mean = np.divide(total[end] - total[start], seen, out=np.full(len(values), np.nan), where=seen > 0)
    return clock, np.where(finite, mean, np.nan)


def _band(clock: Numbers, values: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Where nine tenths of the values lie, in 400 places."""
    places, lows, highs = [], [], []
    for steps, part in zip(np.array_split(clock, 400), np.array_split(values, 400), strict=True):
        finite = part[np.isfinite(part)]
        low, high = np.quantile(finite, (0.05, 0.95)) if len(finite) else (math.nan, math.nan)
        places.append(float(steps.mean()))
        lows.append(float(low))
        highs.append(float(high))
    return np.array(places), np.array(lows), np.array(highs)


# scale, marks and labels


def _mark_non_finite(axes: Axes, families: Sequence[Family]) -> None:
    """A tick of alarm at the bottom for every step whose value was not a number."""
    steps = [
        step
        for family in families
        for one in family.all()
        for step, value in zip(one.steps, one.values, strict=True)
        if not (math.isfinite(value) or _scheduled(one))
    ]
    if steps:
        axes.plot(steps, [0.0] * len(steps), "|", transform=axes.get_xaxis_transform(), color=paper.ALARM, markersize=9,
                  markeredgewidth=1.2, clip_on=False, zorder=9, gid="not finite")  # fmt: skip
        axes.annotate("not finite", (steps[0], 0.0), (0, 8), xycoords=axes.get_xaxis_transform(),
                      textcoords="offset points", fontsize=8, fontfamily=paper.FONT, color=paper.ALARM)  # fmt: skip


def _mark_epochs(axes: Axes, families: Sequence[Family]) -> None:
    """Ticks along the top where epochs end, where they are few."""
    ends = {
        step: round(epoch)
        for family in families
        for one in family.all()
        for step, epoch in zip(one.steps, one.epochs, strict=True)
        if epoch > 0 and abs(epoch - round(epoch)) < 1e-9
    }
    if not 1 < len(ends) <= 10 * TICKED:
        return
    every = next(each for each in (1, 2, 5, 10) if each >= len(ends) / TICKED)
    shown = {step: epoch for step, epoch in ends.items() if epoch % every == 0}
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(shown), [str(epoch) for epoch in shown.values()])
    top.tick_params(length=3, width=0.6, color=paper.BAR, labelcolor=paper.BAR, labelsize=7, pad=1,
                    labelfontfamily=paper.FONT)  # fmt: skip
    top.spines["top"].set_visible(False)
    axes.annotate("epoch", (1, 1), (6, 5), xycoords="axes fraction", textcoords="offset points", fontsize=7,
                  fontfamily=paper.FONT, color=paper.BAR)  # fmt: skip
