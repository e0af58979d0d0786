"""What a schedule will do, before a run: moments, a table, a figure."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import ScheduleError
from etude.values.progress import UNITS, Extent, Progress
from etude.values.spans import Span, progress_span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from etude.values.algebra import Schedule

_INK = "#2f5d8a"
_MOST_POINTS = 2000
_MOST_BARS = 80
_MOST_ROWS = 20
_OPENING = 200
_NAMES = {"steps": "step", "epochs": "epoch", "samples": "samples", "tokens": "tokens"}


def moments(extent: Extent | Span, points: int, unknown: float = nan) -> list[Progress]:
    """`points` positions spread evenly over a run, each as it is before a step, the first and the last included.

    Args:
        extent: the run's length, or a span that is all of it. Of a run of unknown length only the start is given.
        points: fewer are given where the run has fewer steps.
        unknown: the position in units in which the run's length is not known.
    """
    extent = as_extent(extent)
    if extent.steps is None:
        shares = [i / points for i in range(points)] if any(extent.known()) else [0.0]
        return [_moment(extent, share, None, unknown) for share in shares]
    last = max(int(extent.steps) - 1, 0)
    count = min(points, last + 1)
    places = [round(i * last / (count - 1)) for i in range(count)] if count > 1 else [0]
    return [_moment(extent, step / extent.steps if extent.steps else 0.0, step, unknown) for step in places]


def as_extent(length: Extent | Span) -> Extent:
    """A length as the extent of a run: an extent as it is, a span as all that is known of it.

    Raises:
        ScheduleError: a share of the run, time by the clock, or something else that is no length.
    """
    if isinstance(length, Extent):
        return length
    span = progress_span(length, "the length of the run")
    if span.unit == "fraction":
        raise ScheduleError(f"{span!r} is no length of a run. Write steps(1000) or epochs(10).")
    steps, epochs, samples, tokens = (span.amount if span.unit == unit else None for unit in _NAMES)
    return Extent(steps, epochs, samples, tokens)


def table(schedule: Schedule, extent: Extent | Span, points: int) -> str:
    """The values at `points` moments as text: a line for each, aligned."""
    extent = _some_length(extent)
    units = [unit for unit in _NAMES if extent.of(unit) is not None]
    rows = [[*(_NAMES[unit] for unit in units), "value"]]
    for progress in moments(extent, points):
        rows.append([*(f"{progress.amount(unit):.7g}" for unit in units), _value_text(schedule.at(progress))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True)) for row in rows)


def plot(schedule: Schedule, extent: Extent | Span, path: str | Path | None) -> Figure:
    """A figure of the values: a line for numbers, a bar for each stretch of any other value."""
    from matplotlib.figure import Figure

    extent = _some_length(extent)
    unit, length = next(extent.known())
    shown = _shown(schedule, extent)
    places = [progress.amount(unit) for progress in shown]
    values = [schedule.at(progress) for progress in shown]
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    axes = figure.subplots()
    if any(_is_number(value) for value in values):
        end = _draw_line(axes, places, values)
    else:
        end = _draw_bars(axes, places, values, length)
    axes.set_xlabel(_x_label(unit, length, end, len(places)))
    figure.suptitle(_shortened(repr(schedule), 95), x=0.01, ha="left", fontsize=9, color="0.25")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def moment_text(progress: Progress) -> str:
    """Where a progress is, for a message: "step 0"."""
    return f"step {progress.step:g}" if progress.step == progress.step else f"epoch {progress.epoch:g}"


def _moment(extent: Extent, share: float, step: int | None, unknown: float) -> Progress:
    place = {unit: unknown if (n := extent.of(unit)) is None else share * n for unit in UNITS}
    at = place["steps"] if step is None else step
    return Progress(at, place["epochs"], place["samples"], place["tokens"], extent)


def _some_length(extent: Extent | Span) -> Extent:
    extent = as_extent(extent)
    if not any(length for _, length in extent.known()):
        raise ScheduleError("A picture of a schedule needs the length of the run. Write table(steps(1000)).")
    return extent


def _shown(schedule: Schedule, extent: Extent) -> list[Progress]:
    """The moments to draw: the whole run, or only its opening where values turn too fast to be sampled."""
    if extent.steps is not None and extent.steps > _MOST_POINTS:
        rate = 1 / extent.steps
        opening = [_moment(extent, step * rate, step, nan) for step in range(_OPENING)]
        values = [schedule.at(progress) for progress in opening]
        if not any(map(_is_number, values)) and len(_starts(values)) > _OPENING / 10:
            return opening
    return moments(extent, _MOST_POINTS)


def _starts(values: Sequence[Any]) -> list[int]:
    """Where each stretch of one value begins."""
    return [0] + [i for i in range(1, len(values)) if values[i] != values[i - 1]]


def _value_text(value: object) -> str:
    return f"{value:.6g}" if _is_number(value) else repr(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _draw_line(axes: Axes, places: Sequence[float], values: Sequence[Any]) -> float:
    """Draw numbers as a line, with a gap where there is none; give the place where it ends."""
    heights = [float(value) if _is_number(value) else nan for value in values]
    axes.plot(places, heights, color=_INK, linewidth=1.4, drawstyle="steps-post")
    axes.set_ylabel("value")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    return places[-1]


def _draw_bars(axes: Axes, places: Sequence[float], values: Sequence[Any], length: float) -> float:
    """Draw a row for each value and a bar for each stretch of it; give the place where they end."""
    starts = _starts(values)
    pace = places[1] - places[0] if len(places) > 1 else length
    edges = [places[start] for start in starts] + [min(places[-1] + pace, length)]
    rows: dict[Any, list[tuple[float, float]]] = {}
    drawn = min(len(starts), _MOST_BARS)
    for i in range(drawn):
        rows.setdefault(values[starts[i]], []).append((edges[i], edges[i + 1] - edges[i]))
    named = list(rows)[:_MOST_ROWS]
    for height, value in enumerate(named):
        axes.broken_barh(rows[value], (height - 0.36, 0.72), color=_INK, edgecolor="white", linewidth=0.5)
    axes.set_yticks(range(len(named)), [_shortened(repr(value), 40) for value in named])
    axes.set_ylim(len(named) - 0.4, -0.6)
    return edges[drawn]


def _x_label(unit: str, length: float, end: float, points: int) -> str:
    name = _NAMES[unit]
    if end < 0.9 * length:
        return f"{name} (the first {end:g} of {length:g})"
    return f"{name} ({points} of {length:g} drawn)" if unit == "steps" and points < length else name


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
