"""Looking at a schedule before a run: moments, tables, figures."""

from __future__ import annotations

import subprocess
import sys
from math import isnan
from pathlib import Path

import pytest

from etude.errors import ScheduleError
from etude.values.curves import cosine, linear, warmup
from etude.values.marks import FROZEN
from etude.values.part import part
from etude.values.preview import moments
from etude.values.progress import Extent
from etude.values.schedule import constant, cycle, pieces
from etude.values.spans import Span, epochs, fraction, minutes, samples, steps


def test_moments_are_steps_that_will_be_made() -> None:
    assert [progress.step for progress in moments(steps(101), 5)] == [0, 25, 50, 75, 100]
    assert [progress.step for progress in moments(steps(3), 20)] == [0, 1, 2]
    assert [progress.step for progress in moments(steps(1), 20)] == [0]
    assert [progress.step for progress in moments(Extent(steps=0), 20)] == [0]


def test_moments_agree_in_all_units() -> None:
    last = moments(Extent(steps=100, epochs=10, samples=3200), 5)[-1]
    assert (last.step, last.epoch, last.samples) == (99, 9.9, 3168)
    assert isnan(last.tokens)
    assert last.extent.steps == 100


def test_moments_of_a_run_known_in_another_unit() -> None:
    assert [progress.epoch for progress in moments(epochs(2), 4)] == [0, 0.5, 1, 1.5]
    assert [progress.samples for progress in moments(samples(100), 4)] == [0, 25, 50, 75]
    assert len(moments(Extent(), 9)) == 1


def test_values_come_with_their_moments() -> None:
    pairs = linear(0, 100).values(steps(100), points=12)
    assert [value for _, value in pairs] == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    assert all(progress.step == value for progress, value in pairs)


def test_a_table_is_aligned() -> None:
    assert cosine(1).table(Extent(steps=101, epochs=10), points=3) == (
        "step     epoch        value\n"
        "   0         0            1\n"
        "  50  4.950495     0.507776\n"
        " 100   9.90099  0.000241859"
    )


def test_a_table_of_parts() -> None:
    lines = cycle(part("a"), part("b")).table(steps(4)).splitlines()
    assert lines[1].split(maxsplit=1) == ["0", "part('a')"]
    assert lines[2].split(maxsplit=1) == ["1", "part('b')"]


def test_a_table_says_what_must_be_known() -> None:
    with pytest.raises(ScheduleError, match="position in epochs is not known"):
        linear(0, 1, over=epochs(1)).table(steps(10))
    with pytest.raises(ScheduleError, match="has no value after steps"):
        constant(1).until(steps(5)).table(steps(10))


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (10, "the length of the run: 10 of what"),
        (fraction(0.5), "is no length of a run"),
        (minutes(3), "time by the clock"),
        (Extent(), "needs the length of the run"),
        (Extent(steps=0), "needs the length of the run"),
    ],
)
def test_what_is_no_length(length: Extent | Span, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        cosine(1).table(length)
    with pytest.raises(ScheduleError, match=message):
        cosine(1).plot(length)


def test_a_plot_of_numbers_shows_every_step(tmp_path: Path) -> None:
    figure = (warmup(steps(20)) * cosine(0.1)).plot(steps(100), tmp_path / "rate.png")
    (axes,) = figure.axes
    (line,) = axes.lines
    assert len(line.get_xdata()) == 100  # type: ignore[arg-type]
    assert axes.get_xlabel() == "step"
    assert (tmp_path / "rate.png").stat().st_size > 5000


def test_a_plot_leaves_a_gap_where_nothing_moves() -> None:
    figure = pieces(FROZEN, (steps(5), 0.1)).plot(steps(10))
    heights = list(figure.axes[0].lines[0].get_ydata())  # type: ignore[arg-type]
    assert [isnan(height) for height in heights] == [True] * 5 + [False] * 5


def test_a_plot_of_parts_has_a_row_for_each() -> None:
    figure = pieces(part("a"), (epochs(1), part("b")), (epochs(3), part("a"))).plot(Extent(steps=40, epochs=4))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["part('a')", "part('b')"]
    boxes = [[path.get_extents().intervalx.tolist() for path in bars.get_paths()] for bars in axes.collections]
    assert boxes == [[[0, 10], [30, 40]], [[10, 30]]]


def test_a_plot_of_a_long_alternation_shows_its_opening_and_says_so() -> None:
    axes = cycle(part("a") * 5, part("b")).plot(steps(100_000)).axes[0]
    assert axes.get_xlabel() == "step (the first 200 of 100000)"
    axes = cycle(part("a"), part("b")).plot(steps(1000)).axes[0]
    assert axes.get_xlabel() == "step (the first 80 of 1000)"


def test_a_plot_of_a_long_run_says_how_many_steps_are_drawn() -> None:
    assert cosine(1).plot(steps(100_000)).axes[0].get_xlabel() == "step (2000 of 100000 drawn)"
    axes = pieces(False, (steps(50_000), True)).plot(steps(100_000)).axes[0]
    assert axes.get_xlabel() == "step (2000 of 100000 drawn)"


def test_a_plot_leaves_no_global_state_of_plots() -> None:
    script = (
        "import sys\nfrom etude import cosine, epochs\ncosine(1).plot(epochs(3))\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
