"""The picture of learning rates over the steps of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from etude.draw import paper
from etude.draw.chart import new_chart, set_scale
from etude.draw.labels import Label, label_ends
from etude.draw.score import Numbers
from etude.errors import SettingError
from etude.values.series import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rates = Mapping[str, Series] | Mapping[str, Sequence[float]] | Mapping[str, Numbers]

WIDE_PEAKS: Final = 20.0  # of the greatest rates of two lines; above it the scale is logarithmic
FAINTEST: Final = 1e-4  # of the greatest rate: a logarithmic scale ends here
_RULED: Final = re.compile(r"setting\.(.+\.)?learning_rate(|\[.*\])")  # the rates that rules decide
_NO_UPDATES: Final = ("val", "epoch", "data", "knob", "probe", "setting", "weight")  # what else names begin with


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
            "setting.learning_rate[<part>]" as "rate[<part>]", which is also told where the part is held; or values by
            label, as many as steps. Lines that are equal share one label.
        steps: the steps made before each value; None with a history, which knows them.
        path: where to write the picture; its ending says how.
        title: default "Learning rates".

    Raises:
        SettingError: lengths that differ, no rates, a path that cannot be written.
    """
    clock, lines = _lines(rates, steps)
    moving = [(words, values) for words, values in lines if np.isfinite(values).any()]
    frozen = [words for words, values in lines if not np.isfinite(values).any()]
    figure, axes = new_chart(title or "Learning rates", f"frozen: {', '.join(frozen)}" if frozen else "", lift=0)
    labels = []
    for index, (words, values) in enumerate(moving):
        colour = paper.hue(index, len(moving))
        _draw_rate(axes, clock, values, colour)
        labels.append(Label.of(values, words, colour))
    peaks = [float(np.nanmax(np.abs(values))) for _, values in moving]
    finite = np.array([value for _, values in moving for value in values[np.isfinite(values)]])
    wide = len(peaks) > 0 and max(peaks) > WIDE_PEAKS * min(peaks) and finite.min() >= 0
    set_scale(
        axes, np.maximum(finite, max(peaks, default=1.0) * FAINTEST) if wide else np.append(finite, 0.0), wide=wide
    )
    label_ends(axes, labels)
    return paper.save(figure, path)


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
    for name in list(rates):
        if name.endswith("rate[everything]"):
            # No array has the rate of the call itself.
            rates.pop(name.removesuffix("[everything]"), None)
    return [float(step) for step in steps], rates


def _rate_label(name: str) -> str:
    """What a series of rates is called in a picture; "" where it is none."""
    if name == "rate" or (name.endswith(".rate") and name.partition(".")[0] not in _NO_UPDATES):
        return name
    rule = _RULED.fullmatch(name)
    return "" if rule is None else f"{rule[1] or ''}rate{rule[2]}"


def _joined(labels: list[str]) -> str:
    return ", ".join(labels) if len(labels) <= 2 else f"{labels[0]} and {len(labels) - 1} others"


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
