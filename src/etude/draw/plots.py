"""Pictures of a run: its losses and metrics, its learning rates, and its score.

Each function returns a matplotlib `Figure` of its own, which belongs to no window, and writes it where a path is given.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from etude.draw import paper
from etude.draw.engraving import plot_score
from etude.draw.labels import Label, label_ends
from etude.draw.lanes import plot_lanes
from etude.draw.score import score_steps
from etude.errors import SettingError, nearest
from etude.values.series import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_lanes", "plot_rates", "plot_score", "plot_series", "score_steps"]

Numbers = NDArray[np.float64]
Rates = Mapping[str, Series] | Mapping[str, Sequence[float]] | Mapping[str, Numbers]

WIDE_RANGE: Final = 50.0  # of the greatest to the least; above it the scale is logarithmic
WIDE_PEAKS: Final = 20.0  # the same, of the greatest rates of two lines
FAINTEST: Final = 1e-4  # of the greatest rate: a logarithmic scale ends here
SMOOTHED: Final = 1 / 40  # of all steps: how many are averaged in the smooth line
FEW_STEPS: Final = 20  # steps up to which there is nothing to smooth
THIN: Final = 2000  # steps up to which each is drawn; above it a band holds nine tenths of them
LONGEST_TITLE: Final = 60  # characters
TICKED: Final = 24  # epochs that can have a tick of their own
_RULED: Final = re.compile(r"setting\.(.+\.)?learning_rate(|\[.*\])")  # the rates that rules decide
_NO_UPDATES: Final = ("val", "epoch", "data", "knob", "probe", "setting", "weight")  # what else names begin with


def plot_series(
    history: Mapping[str, Series],
    names: str | Sequence[str] = "loss",
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Losses or metrics over the steps of a run.

    For each name: its value at each step (thin; a band of nine tenths of them where there are more than 2,000), the
    same smoothed, its mean over each epoch (dots) and its value on the validation data (dashed, diamonds). The lowest
    validation loss is marked if it was not the last. The scale is logarithmic where values span more than 50 times.
    Steps with NaN or infinity are marked at the bottom.

    Args:
        history: series by name, as a run records them.
        names: "loss", a further loss term, a metric, or several; each stands for "<name>", "epoch.<name>" and
            "val.<name>", as far as they are there. "epoch.<name>" or "val.<name>" alone draws no more than that.
        path: where to write the picture; its ending says how.
        title: default: the names.

    Raises:
        SettingError: no series of that name, a path that cannot be written.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    families = _families(history, wanted)
    words = _title([family.name for family in families])
    figure, axes = _sheet(title or words[:1].upper() + words[1:], _told(families), lift=16)
    labels: list[Label] = []
    for index, family in enumerate(families):
        labels += _draw_family(axes, family, _hues(index, len(families)))
    values = np.concatenate([_columns(one)[1] for family in families for one in family.all()])
    finite = values[np.isfinite(values)]
    _scale(axes, finite, wide=len(finite) > 0 and finite.max() > WIDE_RANGE * finite.min())
    _mark_non_finite(axes, families)
    _mark_epochs(axes, families)
    label_ends(axes, labels)
    return paper.save(figure, path)


def plot_rates(
    rates: Rates,
    steps: Sequence[float] | None = None,
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Effective learning rates over the steps of a run, one line each.

    A rate is NaN where what it belongs to is held. Between turns of an alternation the line is drawn on and the steps
    that are made are dots, where they are few enough; a longer rest leaves a gap. The scale is logarithmic where rates
    span more than 50 times and none is negative or zero.

    Args:
        rates: a history, of which are drawn "rate" (with several updates "<update>.rate" of each instead) and
            "setting.learning_rate[<part>]" as "rate[<part>]"; or values by label, as many as steps. Lines that are
            equal share one label.
        steps: the steps made before each value; None with a history, which knows them.
        path: where to write the picture; its ending says how.
        title: default "Learning rates".

    Raises:
        SettingError: lengths that differ, no rates, a path that cannot be written.
    """
    clock, lines = _lines(rates, steps)
    moving = [(words, values) for words, values in lines if np.isfinite(values).any()]
    frozen = [words for words, values in lines if not np.isfinite(values).any()]
    figure, axes = _sheet(title or "Learning rates", f"frozen: {', '.join(frozen)}" if frozen else "", lift=0)
    labels = []
    for index, (words, values) in enumerate(moving):
        colour = _rate_hue(index, len(moving))
        _draw_rate(axes, clock, values, colour)
        labels.append(Label.of(values, words, colour))
    peaks = [float(np.nanmax(np.abs(values))) for _, values in moving]
    finite = np.array([value for _, values in moving for value in values[np.isfinite(values)]])
    wide = len(peaks) > 0 and max(peaks) > WIDE_PEAKS * min(peaks) and finite.min() >= 0
    _scale(axes, np.maximum(finite, max(peaks, default=1.0) * FAINTEST) if wide else np.append(finite, 0.0), wide=wide)
    label_ends(axes, labels)
    return paper.save(figure, path)


# what is drawn


@dataclass(frozen=True, slots=True)
class Family:
    """The series that one name stands for."""

    name: str
    steps: Series | None
    epochs: Series | None
    validation: Series | None

    def all(self) -> list[Series]:
        """Those that are there."""
        return [one for one in (self.steps, self.epochs, self.validation) if one is not None and len(one)]


def _families(history: Mapping[str, Series], names: Sequence[str]) -> list[Family]:
    """One for each plain name; "epoch.x" and "val.x" without "x" are a part of the family of x."""
    parts: dict[str, set[str]] = {}
    for name in names:
        plain = name.removeprefix("epoch.").removeprefix("val.")
        kinds = {"", "epoch.", "val."} if name == plain else {name.removesuffix(plain)}
        parts.setdefault(plain, set()).update(kinds)
    return [_family(history, name, kinds) for name, kinds in parts.items()]


def _family(history: Mapping[str, Series], name: str, kinds: set[str]) -> Family:
    found = {kind: history[kind + name] for kind in kinds if kind + name in history}
    if _of_data(name) and "" in found:
        found["epoch."] = found.pop("")
    family = Family(name, found.get(""), found.get("epoch."), found.get("val."))
    if not family.all():
        known = list(dict.fromkeys(key.removeprefix("epoch.").removeprefix("val.") for key in history))
        there = ", ".join(f'"{one}"' for one in known) or "nothing"
        raise SettingError(f'There is no series "{name}" to plot; there is {there}.{nearest(name, known)}')
    return family


def _of_data(name: str) -> bool:
    """Whether a series says what the batches of each epoch held: one value an epoch."""
    return name.startswith("data.")


def _lines(rates: Rates, steps: Sequence[float] | None) -> tuple[Numbers, list[tuple[str, Numbers]]]:
    """The steps, and labels with values; lines that are equal are one."""
    named: Mapping[str, Any] = rates
    if steps is None:
        steps, named = _recorded(rates)
    if not named or not len(steps):
        raise SettingError(f"There is nothing to plot: {len(named)} rates at {len(steps)} steps.")
    lines: dict[bytes, tuple[list[str], Numbers]] = {}
    for label, values in named.items():
        line = np.asarray(values, dtype=np.float64)
        if line.shape != (len(steps),):
            raise SettingError(
                f'The rates of "{label}" are {line.size} values for {len(steps)} steps: give one a step.'
            )
        lines.setdefault(line.tobytes(), ([], line))[0].append(label)
    return np.asarray(steps, dtype=np.float64), [(_joined(labels), line) for labels, line in lines.values()]


def _recorded(history: Mapping[str, Any]) -> tuple[list[float], dict[str, Numbers]]:
    """The rates that a history holds, NaN at steps at which one was not recorded."""
    found = {label: history[name] for name in history if (label := _rate_label(name))}
    if any(label.endswith(".rate") for label in found):
        # Of several updates, "rate" is that of the first that acted.
        found.pop("rate", None)
    wrong = [name for name, one in history.items() if not isinstance(one, Series)]
    if wrong:
        raise SettingError(
            f'plot_rates was given values for "{wrong[0]}" without steps: write plot_rates(rates, steps).'
        )
    if not found:
        there = ", ".join(f'"{name}"' for name in history) or "nothing"
        raise SettingError(f'The history has no series "rate" to plot; it has {there}.')
    steps = sorted({step for one in found.values() for step in one.steps})
    places = {step: index for index, step in enumerate(steps)}
    rates = {}
    for name, one in found.items():
        rates[name] = np.full(len(steps), np.nan)
        rates[name][[places[step] for step in one.steps]] = one.values
    for name, values in rates.items():
        update = name.partition("rate[")[0] + "rate"
        if update != name and update != "rate" and update in rates:
            # The rates of rules are told in every step, also where the update did not act.
            values[np.isnan(rates[update])] = np.nan
    return [float(step) for step in steps], rates


def _rate_label(name: str) -> str:
    """What a series of rates is called in a picture; "" where it is none."""
    if name == "rate" or (name.endswith(".rate") and name.partition(".")[0] not in _NO_UPDATES):
        return name
    rule = _RULED.fullmatch(name)
    return "" if rule is None else f"{rule[1] or ''}rate{rule[2]}"


def _joined(labels: list[str]) -> str:
    return ", ".join(labels) if len(labels) <= 2 else f"{labels[0]} and {len(labels) - 1} others"


# lines


def _sheet(title: str, below: str, lift: float) -> tuple[Figure, Axes]:
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


def _title(names: Sequence[str]) -> str:
    """The names, as far as there is room."""
    words = ", ".join(names)
    if len(words) <= LONGEST_TITLE:
        return words
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return paper.cut([names[0]], LONGEST_TITLE - len(more))[0] + more


def _told(families: Sequence[Family]) -> str:
    """What kinds of marks there are."""
    words = []
    steps = [family.steps for family in families if family.steps is not None and len(family.steps)]
    if steps:
        words.append("thin: each step" if len(steps[0]) <= THIN else "band: nine tenths of the steps")
    if any(len(one) > FEW_STEPS for one in steps):
        words.append("line: smoothed")
    if any(family.epochs for family in families):
        words.append("dots: epochs" if all(_of_data(family.name) for family in families) else "dots: epoch means")
    if any(family.validation for family in families):
        words.append("dashed: validation")
    return ", ".join(words)


def _hues(index: int, families: int) -> tuple[str, str]:
    """For the steps and for the validation: two hues for one name, else one hue for each."""
    if families == 1:
        return paper.HUES[0], paper.HUES[1]
    hue = paper.HUES[index % len(paper.HUES)]
    return hue, hue


def _draw_family(axes: Axes, family: Family, hues: tuple[str, str]) -> list[Label]:
    labels = []
    training, validating = hues
    if family.steps is not None and len(family.steps):
        _draw_steps(axes, family.steps, training)
        if family.epochs is None or not len(family.epochs):
            labels.append(Label.of(_smooth(family.steps)[1], family.name, training))
    if family.epochs is not None and len(family.epochs):
        clock, values = _columns(family.epochs)
        clock = _middles(clock)
        style = "o-" if family.steps is None else "o"
        axes.plot(clock, values, style, color=training, markersize=_dot(len(clock)), linewidth=1.4,
                  markeredgecolor=paper.PAPER, markeredgewidth=0.8, zorder=5, gid=family.epochs.name)  # fmt: skip
        labels.append(Label.of(values, family.name, training))
    if family.validation is not None and len(family.validation):
        labels.append(_draw_validation(axes, family.validation, validating))
        if len(family.all()) == 1:
            labels[-1] = replace(labels[-1], words=family.name)
        elif training == validating:
            labels[-1] = replace(labels[-1], words=f"{family.name}, validation")
    return labels


def _middles(ends: Numbers) -> Numbers:
    """The middles of epochs that end at `ends`: where their means belong."""
    first = ends[0] - (ends[1] - ends[0]) if len(ends) > 1 else 0.0
    middles: Numbers = (ends + np.append(max(0.0, first), ends[:-1]) + 1) / 2
    return middles


def _draw_steps(axes: Axes, series: Series, hue: str) -> None:
    clock, values = _columns(series)
    if len(clock) <= THIN:
        few = len(clock) <= FEW_STEPS
        axes.plot(clock, values, color=hue, alpha=0.7 if few else 0.28, linewidth=1.2 if few else 0.7, zorder=2,
                  gid=series.name)  # fmt: skip
    else:
        places, low, high = _band(clock, values)
        axes.fill_between(places, low, high, color=hue, alpha=0.18, linewidth=0, zorder=2, gid=series.name)
    if len(clock) > FEW_STEPS:
        axes.plot(*_smooth(series), color=hue, linewidth=1.6, zorder=4, gid=f"{series.name} smoothed",
                  solid_capstyle="round")  # fmt: skip


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


def _draw_rate(axes: Axes, clock: Numbers, values: Numbers, colour: str) -> None:
    """One line; broken where the rest is longer than most, dotted where it takes turns."""
    moving = np.flatnonzero(np.isfinite(values))
    gaps = np.diff(moving)
    usual = float(np.median(gaps)) if len(gaps) else 1.0
    long = np.flatnonzero(gaps > max(4 * usual, 12))
    turns = (gaps > 1).sum() > len(long)
    for part in np.split(moving, long + 1):
        axes.plot(clock[part], values[part], color=colour, linewidth=1.6, zorder=3, solid_capstyle="round",
                  alpha=0.45 if turns and len(moving) <= 200 else 1.0)  # fmt: skip
    if turns and len(moving) <= 200:
        axes.plot(clock[moving], values[moving], "o", color=colour, markersize=2.6, zorder=4)


def _rate_hue(index: int, count: int) -> str:
    """Hues for few lines, one ramp from first to last for many."""
    from matplotlib.colors import to_hex

    if count <= len(paper.HUES):
        return paper.HUES[index]
    return to_hex(paper.ramp(paper.RISING[1:])(index / (count - 1)))


# scale, marks and labels


def _scale(axes: Axes, values: Numbers, wide: bool) -> None:
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


def _mark_non_finite(axes: Axes, families: Sequence[Family]) -> None:
    """A tick of alarm at the bottom for every step whose value was not a number."""
    steps = [
        step
        for family in families
        for one in family.all()
        for step, value in zip(one.steps, one.values, strict=True)
        if not math.isfinite(value)
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
    every = math.ceil(len(ends) / TICKED)
    shown = {step: epoch for step, epoch in ends.items() if epoch % every == 0}
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(shown), [str(epoch) for epoch in shown.values()])
    top.tick_params(length=3, width=0.6, color=paper.BAR, labelcolor=paper.BAR, labelsize=7, pad=1,
                    labelfontfamily=paper.FONT)  # fmt: skip
    top.spines["top"].set_visible(False)
    axes.annotate("epoch", (1, 1), (6, 5), xycoords="axes fraction", textcoords="offset points", fontsize=7,
                  fontfamily=paper.FONT, color=paper.BAR)  # fmt: skip
