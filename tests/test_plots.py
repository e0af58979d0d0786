"""The pictures of a run: what is drawn, not only that something is."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.artist import Artist
from matplotlib.collections import FillBetweenPolyCollection, LineCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from numpy.typing import NDArray

from etude.draw import paper
from etude.draw.engraving import NOTE
from etude.draw.naming import named
from etude.draw.plots import plot_rates, plot_score, plot_series, score_steps
from etude.draw.scale import Scale
from etude.errors import SettingError
from etude.run.history import History, Series
from etude.values.progress import Progress

LENET = [f"{module}.{array}" for module in ("conv1", "conv2", "fc1", "fc2") for array in ("weight", "bias")]
NAN = math.nan


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def marked(figure: Figure, gid: str, kind: type[Artist] = Line2D) -> Any:
    """The one artist with this mark."""
    (found,) = [artist for artist in figure.findobj(kind) if artist.get_gid() == gid]
    return found


def notes(figure: Figure, panel: int = -1) -> list[tuple[float, float, float, float, str]]:
    """Every note of a panel as (start, end, place, height, colour)."""
    found = [one for one in figure.findobj(PolyCollection) if one.get_gid() == "notes"]
    drawn = []
    for path, colour in zip(found[panel].get_paths(), np.asarray(found[panel].get_facecolor()), strict=True):
        box = path.get_extents()
        drawn.append((box.x0, box.x1, (box.y0 + box.y1) / 2, box.y1 - box.y0, to_hex(tuple(colour))))
    return drawn


def lightness(colour: str) -> float:
    """From 0 to 1, as in grey."""
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def unfreezing(steps: int = 60) -> NDArray[np.float64]:
    """LeNet: the first layer frozen, the others joining one after the other, from the last."""
    rates = np.full((8, steps), NAN)
    rates[6:], rates[4:6, 20:], rates[2:4, 45:] = 1e-3, 3e-4, 1e-4
    return rates


def turns(steps: Sequence[int], first: int = 5, second: int = 1) -> NDArray[np.float64]:
    plays = np.array(steps) % (first + second) < first
    return np.array([np.where(plays, 2e-4, NAN), np.where(plays, NAN, 1e-4)])


# the score


def test_a_note_is_drawn_for_every_step_that_moves_and_nothing_where_held() -> None:
    drawn = notes(plot_score(LENET, range(60), unfreezing()))
    assert len(drawn) == 2 * 60 + 2 * 40 + 2 * 15
    assert min(start for start, *_ in drawn) > 0
    rows = sorted({place for _, _, place, _, _ in drawn})
    begins = [min(start for start, _, place, _, _ in drawn if place == row) for row in rows]
    assert [math.floor(begin) for begin in begins] == [45, 45, 20, 20, 0, 0]


def test_darker_is_faster() -> None:
    drawn = notes(plot_score(LENET, range(60), unfreezing()))
    colours = [colour for _, _, _, _, colour in sorted(drawn, key=lambda note: note[2])]
    slow, middle, fast = colours[0], colours[40], colours[-1]
    assert lightness(slow) > lightness(middle) + 0.1
    assert lightness(middle) > lightness(fast) + 0.1
    assert lightness(paper.PAPER) > lightness(slow) + 0.1


def test_frozen_rows_say_so_and_others_do_not() -> None:
    assert words(plot_score(LENET, range(60), unfreezing())).count("frozen") == 2


def test_arrays_are_named_under_their_module() -> None:
    told = words(plot_score(LENET, range(60), unfreezing()))
    assert [told.count(name) for name in ("conv1", "conv2", "fc1", "fc2")] == [1, 1, 1, 1]
    assert told.count("weight") == told.count("bias") == 4
    assert "head.weight" in words(plot_score([*LENET, "head.weight"], [0], np.ones((9, 1))))


def test_few_rates_have_a_key_with_each_of_them() -> None:
    told = words(plot_score(LENET, range(60), unfreezing()))
    assert {"1e-4", "3e-4", "1e-3", "learning rate"} <= set(told)


@pytest.mark.parametrize(("first", "second"), [(5, 1), (10, 1)])
def test_turns_can_be_counted(first: int, second: int) -> None:
    drawn = notes(plot_score(["critic", "generator"], range(60), turns(range(60), first, second)))
    above = sorted({place for _, _, place, _, _ in drawn})
    generator = [(start, end) for start, end, place, _, _ in drawn if place == above[1]]
    assert [math.floor(start) for start, _ in generator] == list(range(first, 60, first + second))
    assert all(0.8 < end - start < 1 for start, end in generator)  # paper between neighbours
    assert len(drawn) == 60


def test_turns_of_a_long_run_are_as_high_as_their_share_and_shown_step_by_step_before() -> None:
    figure = plot_score(["critic", "generator"], range(5000), turns(range(5000)))
    drawn = notes(figure)
    assert len(drawn) == 2
    assert [height / NOTE for _, _, _, height, _ in drawn] == pytest.approx([5 / 6, 1 / 6])
    assert [(start, end) for start, end, *_ in drawn] == [(0, 5000), (0, 5000)]
    assert len(notes(figure, panel=0)) == 24
    told = words(figure)
    assert "steps 0 to 24, one by one" in told
    assert "steps, 18 to a column, a note is as high as the share that moves" in told


def test_a_million_steps_say_how_many_were_looked_at() -> None:
    steps = score_steps(1_000_000)
    figure = plot_score(["critic", "generator"], steps, turns(steps, 10, 1))
    assert [height / NOTE for _, _, _, height, _ in notes(figure)] == pytest.approx([10 / 11, 0.1])
    assert "steps, 4,000 to a column (22 looked at), a note is as high as the share that moves" in words(figure)


def test_rates_that_change_fill_the_row_without_gaps() -> None:
    rate = np.geomspace(1e-3, 1e-5, 200)[None]
    drawn = sorted(notes(plot_score(["weight"], range(200), rate)))
    assert [end for _, end, *_ in drawn[:-1]] == [start for start, *_ in drawn[1:]]
    assert (drawn[0][0], drawn[-1][1]) == (0, 200)
    shades = [lightness(colour) for *_, colour in drawn]
    assert shades == sorted(shades)
    assert len(shades) > 100


def test_negative_rates_have_a_hue_of_their_own_and_a_word() -> None:
    rates = np.array([[1e-3] * 10, [-1e-3] * 10])
    figure = plot_score(["a", "b"], range(10), rates)
    down, up = sorted({(place, colour) for _, _, place, _, colour in notes(figure)})
    red, _, blue = to_rgb(down[1])
    assert blue > red
    red, _, blue = to_rgb(up[1])
    assert red > blue
    assert lightness(down[1]) == pytest.approx(lightness(up[1]), abs=0.15)
    assert words(figure).count("climbs") == 1
    assert {"−1e-3", "1e-3"} <= set(words(figure))


def test_the_same_rate_up_and_down_is_equally_dark() -> None:
    scale = Scale.of(np.array([[1e-3, 1e-5, -1e-3, -1e-5]]))
    assert scale.levels(np.array([-1e-5, -1e-3])).tolist() == scale.levels(np.array([1e-5, 1e-3])).tolist() == [0, 255]


def test_the_scale_is_logarithmic_only_for_a_wide_range() -> None:
    assert Scale.of(np.array([[1e-3, 2e-3, 9e-3]])).logarithmic is False
    wide = Scale.of(np.array([[1e-5, 1e-4, 1e-3]]))
    assert wide.logarithmic is True
    assert wide.levels(np.array([1e-4])).tolist() == [128]


def test_the_first_steps_of_a_warm_up_do_not_stretch_the_scale() -> None:
    rate = np.concatenate([np.geomspace(1e-12, 1e-3, 20), np.linspace(1e-3, 5e-4, 980)])[None]
    assert Scale.of(rate).low >= 1e-4
    assert any(word.startswith("≤ ") for word in words(plot_score(["weight"], range(1000), rate)))


def test_a_rate_of_zero_is_a_light_note_and_no_hole() -> None:
    drawn = notes(plot_score(["weight"], range(3), [[0.0, 1e-3, NAN]]))
    assert len(drawn) == 2
    assert lightness(drawn[0][-1]) > lightness(drawn[1][-1])


def test_148_arrays_with_rates_by_layer_are_a_row_a_layer() -> None:
    names = [f"layers.{layer}.{array}.weight" for layer in range(12) for array in "abcdefghijkl"]
    names = ["embed.tokens", "embed.places", *names, "norm.weight", "head.weight"]
    rates = np.array([[1e-3 * 0.8 ** int(name.split(".")[1]) if name[0] == "l" else 1e-3] * 50 for name in names])
    rates[:2] = NAN
    figure = plot_score(names, range(50), rates)
    told = words(figure)
    assert [str(layer) for layer in range(12)] == [word for word in told if word.isdigit() and int(word) < 12][-12:]
    assert told.count("12 arrays") == 12
    assert told.count("layers") == 1
    assert told.count("frozen") == 1
    assert len({place for _, _, place, _, _ in notes(figure)}) == 14


def test_one_array_and_one_step_make_a_picture() -> None:
    figure = plot_score(["weight"], [0], [[1e-3]])
    assert len(notes(figure)) == 1
    assert "1 array; colour is the learning rate, blank is held" in words(figure)


def test_where_all_is_frozen_the_paper_stays_blank() -> None:
    figure = plot_score(LENET, range(60), np.full((8, 60), NAN))
    assert notes(figure) == []
    assert words(figure).count("frozen") == 8
    assert "8 arrays; nothing moves" in words(figure)
    assert "learning rate" not in words(figure)


def test_epochs_have_bar_lines_where_the_clock_knows_them() -> None:
    clock = [Progress(step, step / 20) for step in range(60)]
    figure = plot_score(LENET, clock, unfreezing())
    lines = marked(figure, "epochs", LineCollection)
    assert [float(segment[0, 0]) for segment in lines.get_segments()] == [20, 40]
    assert "steps, a bar line is an epoch" in words(figure)


def test_too_many_epochs_have_no_bar_lines() -> None:
    clock = [Progress(step, float(step)) for step in range(60)]
    assert marked(plot_score(LENET, clock, unfreezing()), "epochs", LineCollection).get_segments() == []


def test_names_fit_on_the_paper() -> None:
    names = [f"a.very.long.path.to.{module}.of.the.network.{array}" for module in "xy" for array in ("weight", "bias")]
    figure = plot_score(names, range(10), np.ones((4, 10)))
    figure.draw_without_rendering()
    width = figure.bbox.width
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text()]
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= width


def test_the_title_can_be_chosen() -> None:
    assert "Score" in words(plot_score(["a"], [0], [[1.0]]))
    assert "Ten to one" in words(plot_score(["a"], [0], [[1.0]], title="Ten to one"))


def test_a_score_whose_shapes_do_not_fit_is_refused() -> None:
    with pytest.raises(SettingError, match=r"shape \(1, 2\), each at least 1; they have shape \(2, 1\)"):
        plot_score(["a"], range(2), [[1.0], [2.0]])


# losses and metrics


def history(steps: int = 200, per_epoch: int = 20, wide: bool = False) -> History:
    clock = list(range(1, steps + 1))
    loss = [math.exp(-step / steps * (8 if wide else 1)) * (1.1 if step % 2 else 0.9) for step in clock]
    ends = list(range(per_epoch, steps + 1, per_epoch))
    epochs = [step / per_epoch for step in clock]
    means = [sum(loss[end - per_epoch : end]) / per_epoch for end in ends]
    validation = [0.5 + abs(index - 6) / 10 for index in range(len(ends))]
    return History(
        [
            Series("loss", clock, epochs, loss),
            Series("rate", clock, epochs, [1e-3 * (1 - step / 400) for step in clock]),
            Series("epoch.loss", ends, [end / per_epoch for end in ends], means),
            Series("val.loss", ends, [end / per_epoch for end in ends], validation),
            Series("val.accuracy", ends, [end / per_epoch for end in ends], [1 - value / 2 for value in validation]),
        ]
    )


def test_losses_are_drawn_as_steps_smoothed_means_and_validation() -> None:
    record = history()
    figure = plot_series(record)
    np.testing.assert_array_equal(marked(figure, "loss").get_xydata()[:, 1], record["loss"].values)
    np.testing.assert_array_equal(marked(figure, "val.loss").get_xdata(), record["val.loss"].steps)
    np.testing.assert_array_equal(marked(figure, "epoch.loss").get_ydata(), record["epoch.loss"].values)
    assert "thin: each step, line: smoothed, dots: epoch means, dashed: validation" in words(figure)
    assert {"Loss", "loss", "validation", "steps"} <= set(words(figure))


def test_a_mean_stands_in_the_middle_of_its_epoch() -> None:
    assert marked(plot_series(history()), "epoch.loss").get_xdata()[:3].tolist() == [10.5, 30.5, 50.5]


def test_the_smooth_line_is_the_mean_of_neighbours() -> None:
    record = history()
    smooth = marked(plot_series(record), "loss smoothed").get_ydata()
    values = np.array(record["loss"].values)
    assert smooth[100] == pytest.approx(values[98:103].mean())
    assert smooth[0] == pytest.approx(values[:3].mean())
    assert np.abs(np.diff(smooth)).max() < np.abs(np.diff(values)).max() / 2


def test_many_steps_are_a_band_and_not_a_thicket() -> None:
    record = history(steps=5000, per_epoch=500)
    band = marked(plot_series(record), "loss", FillBetweenPolyCollection)
    corners = band.get_paths()[0].vertices
    assert len(corners) < 1000
    assert corners[:, 1].min() >= min(record["loss"].values)
    assert corners[:, 1].max() <= max(record["loss"].values)


def test_the_lowest_validation_loss_is_marked_unless_it_is_the_last() -> None:
    figure = plot_series(history())
    ring = marked(figure, "lowest")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (140, 0.5)
    assert "lowest 0.5" in words(figure)
    falling = History([Series("val.loss", [1, 2, 3], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0])])
    assert not [word for word in words(plot_series(falling)) if word.startswith("lowest")]


def test_a_metric_is_not_marked_at_its_lowest() -> None:
    figure = plot_series(history(), "accuracy")
    assert {"Accuracy", "accuracy"} <= set(words(figure))
    assert not [word for word in words(figure) if word.startswith("lowest")]


@pytest.mark.parametrize(("wide", "scale"), [(False, "linear"), (True, "log")])
def test_a_wide_range_has_a_logarithmic_scale(wide: bool, scale: str) -> None:
    assert plot_series(history(wide=wide)).axes[0].get_yscale() == scale


def test_losses_below_zero_keep_a_linear_scale() -> None:
    record = History([Series("loss", [1, 2, 3], [0.1, 0.2, 0.3], [100.0, 1.0, -1.0])])
    assert plot_series(record).axes[0].get_yscale() == "linear"


def test_steps_that_are_not_numbers_are_marked_and_do_not_break_the_line() -> None:
    record = history()
    record["loss"].values[49:52] = [NAN, math.inf, -math.inf]
    figure = plot_series(record)
    assert list(marked(figure, "not finite").get_xdata()) == [50, 51, 52]
    assert "not finite" in words(figure)
    smooth = marked(figure, "loss smoothed").get_ydata()
    assert np.isnan(smooth[49:52]).all()
    assert np.isfinite(np.delete(smooth, [49, 50, 51])).all()


def test_a_run_of_nothing_but_nan_makes_a_picture() -> None:
    record = History([Series("loss", [1, 2], [0.5, 1.0], [NAN, NAN])])
    assert list(marked(plot_series(record), "not finite").get_xdata()) == [1, 2]


def test_epochs_are_counted_along_the_top() -> None:
    (top,) = plot_series(history()).axes[0].child_axes
    assert [text.get_text() for text in top.get_xticklabels()] == [str(epoch) for epoch in range(1, 11)]
    assert top.get_xticks().tolist() == list(range(20, 201, 20))


def test_many_epochs_are_counted_by_some() -> None:
    (top,) = plot_series(history(steps=1000, per_epoch=10)).axes[0].child_axes
    assert [text.get_text() for text in top.get_xticklabels()][:3] == ["5", "10", "15"]
    (top,) = plot_series(history(steps=1800, per_epoch=10)).axes[0].child_axes
    assert [text.get_text() for text in top.get_xticklabels()][:3] == ["10", "20", "30"]


def test_updates_have_their_own_hues_and_names() -> None:
    record = History(
        [
            Series("critic.loss", [1, 2, 4, 5], [0.1, 0.2, 0.4, 0.5], [1.0, 0.9, 0.8, 0.7]),
            Series("generator.loss", [3, 6], [0.3, 0.6], [2.0, 2.1]),
        ]
    )
    figure = plot_series(record, ["critic.loss", "generator.loss"])
    critic, generator = marked(figure, "critic.loss"), marked(figure, "generator.loss")
    assert critic.get_color() != generator.get_color()
    assert generator.get_xdata().tolist() == [3, 6]
    labels = {text.get_text(): text.get_color() for text in figure.findobj(Annotation)}
    assert labels["critic"] == critic.get_color()
    assert labels["generator"] == generator.get_color()
    assert "Loss of critic and generator" in labels


def test_a_full_name_draws_that_series_alone_and_names_of_one_family_are_drawn_once() -> None:
    record = history()
    assert [line.get_gid() for line in plot_series(record, "val.loss").axes[0].get_lines()] == ["val.loss", "lowest"]
    figure = plot_series(record, ["loss", "epoch.loss", "val.loss"])
    assert marked(figure, "val.loss").get_color() != marked(figure, "loss").get_color()


def test_labels_at_the_end_do_not_overlap_and_stay_on_the_paper() -> None:
    record = History([Series(f"term_{index}", [1, 2], [0.5, 1.0], [1.0, 1.0 + index / 1e4]) for index in range(6)])
    figure = plot_series(record, list(record))
    figure.draw_without_rendering()
    labels = [text for text in figure.findobj(Annotation) if re.fullmatch(r"term_\d", text.get_text())]
    boxes = sorted((text.get_window_extent() for text in labels), key=lambda box: box.y0)
    assert len(boxes) == 6
    assert all(above.y0 >= below.y1 - 1 for below, above in pairwise(boxes))
    assert max(box.x1 for box in boxes) < figure.bbox.width


def test_an_unknown_series_is_an_error_with_the_nearest() -> None:
    with pytest.raises(
        SettingError, match=r'no series "acuracy" to plot; there is "loss", "rate", "accuracy".*"accuracy"'
    ):
        plot_series(history(), "acuracy")


def test_an_empty_history_has_nothing_to_plot() -> None:
    with pytest.raises(SettingError, match=r'no series "loss" to plot; there is nothing\.'):
        plot_series(History())


# learning rates


def test_rates_are_lines_with_their_names() -> None:
    rate = np.linspace(1e-3, 1e-4, 50)
    figure = plot_rates({"head": rate, "body": rate / 2}, range(50))
    first, second = figure.axes[0].get_lines()
    np.testing.assert_array_equal(first.get_ydata(), rate)
    np.testing.assert_array_equal(second.get_ydata(), rate / 2)
    assert {"head", "body", "Learning rates"} <= set(words(figure))
    assert figure.axes[0].get_ylim()[0] == 0


def test_equal_rates_share_a_line() -> None:
    rate = [1e-3] * 5
    figure = plot_rates({"a": rate, "b": rate, "c": rate, "d": [2e-3] * 5}, range(5))
    assert len(figure.axes[0].get_lines()) == 2
    assert "a and 2 others" in words(figure)


def test_frozen_rates_are_named_and_not_drawn() -> None:
    figure = plot_rates({"head": [1e-3] * 5, "body": [NAN] * 5}, range(5))
    assert "frozen: body" in words(figure)
    assert len(figure.axes[0].get_lines()) == 1


def test_turns_are_dots_on_a_line() -> None:
    critic, generator = turns(range(60))
    lines = plot_rates({"critic": critic, "generator": generator}, range(60)).axes[0].get_lines()
    dots = [line for line in lines if line.get_marker() == "o"]
    assert dots[1].get_xdata().tolist() == list(range(5, 60, 6))  # type: ignore[union-attr]


def test_a_long_rest_leaves_a_gap() -> None:
    rate = np.full(300, 1e-3)
    rate[100:200] = NAN
    lines = plot_rates({"head": rate}, range(300)).axes[0].get_lines()
    ends = [(line.get_xdata()[0], line.get_xdata()[-1]) for line in lines]  # type: ignore[index]
    assert ends == [(0, 99), (200, 299)]


def test_rates_far_apart_have_a_logarithmic_scale() -> None:
    rate = 0.5 * (1 + np.cos(np.linspace(0, math.pi, 100)))
    assert plot_rates({"all": 1e-3 * rate}, range(100)).axes[0].get_yscale() == "linear"
    axes = plot_rates({"head": 1e-3 * rate, "body": 1e-5 * rate}, range(100)).axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] > 1e-8
    assert plot_rates({"a": [1e-3] * 2, "b": [-1e-5] * 2}, range(2)).axes[0].get_yscale() == "linear"


def test_the_rate_of_a_history_is_drawn() -> None:
    record = history()
    (line,) = plot_rates(record).axes[0].get_lines()
    np.testing.assert_array_equal(line.get_ydata(), record["rate"].values)


def test_wrong_rates_are_refused() -> None:
    with pytest.raises(SettingError, match='The rates of "head" are 3 values for 5 steps: give one a step'):
        plot_rates({"head": [1.0, 2.0, 3.0]}, range(5))
    with pytest.raises(SettingError, match='values for "head" without steps: write'):
        plot_rates({"head": [1.0]})
    with pytest.raises(SettingError, match="There is nothing to plot: 0 rates at 5 steps"):
        plot_rates({}, range(5))
    with pytest.raises(SettingError, match='no series "rate" to plot; it has "loss"'):
        plot_rates(History([Series("loss", [1], [0.1], [1.0])]))


# files


PICTURES: list[Callable[[Path], Figure]] = [
    lambda path: plot_score(["a"], [0], [[1e-3]], path),
    lambda path: plot_series(history(), "loss", path),
    lambda path: plot_rates(history(), path=path),
]


@pytest.mark.parametrize("picture", PICTURES, ids=["score", "series", "rates"])
@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PNG", b"\x89PNG")])
def test_a_picture_is_written_as_its_ending_says(
    picture: Callable[[Path], Figure], ending: str, begins: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "pictures" / f"of.a.run.{ending}"
    assert isinstance(picture(path), Figure)
    assert path.read_bytes().startswith(begins)


def test_an_ending_that_cannot_be_written_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=r'score.pgn" ends in ".pgn"; pictures are written as .*Nearest: "png".*score.png'
    ):
        plot_score(["a"], [0], [[1.0]], tmp_path / "score.pgn")
    with pytest.raises(SettingError, match=r'has no ending; .*Write a path as "score.png"'):
        plot_score(["a"], [0], [[1.0]], tmp_path / "score")
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_short() -> None:
    values = [0.0, 1e-3, 3e-4, 2.5e-6, 0.05, 12.0, 9999.0, 1e6, -1e-3, NAN, 3000.0, 999.9, -12500.0, 12345.6]
    assert [paper.short(value) for value in values] == [
        "0", "1e-3", "3e-4", "2.5e-6", "0.05", "12", "9,999", "1e6", "−1e-3", "nan", "3,000", "1,000",
        "−12,500", "1.23e4",
    ]  # fmt: skip
    assert [paper.count(value) for value in (0, 500, 50_000, 200_000, 1_500_000)] == [
        "0",
        "500",
        "50,000",
        "200k",
        "1.5M",
    ]


def test_no_window_is_opened_and_matplotlib_is_imported_when_a_picture_is_made() -> None:
    script = (
        "import sys, etude.draw.plots as plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.plot_score(['a'], [0], [[1.0]])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert done.returncode == 0


def test_labels_keep_what_tells_them_apart() -> None:
    names = [f"probe.encoder.layers.{index}.self_attn.weight.gradient.norm" for index in (1, 2, 10)]
    shown = paper.cut([*names, "loss"], 36)
    assert shown == [
        "probe.encode…1.self_attn.weight.gra…",
        "probe.encode…2.self_attn.weight.gra…",
        "probe.encode…10.self_attn.weight.gr…",
        "loss",
    ]
    assert paper.cut(["a" * 40 + ".norm", "a" * 40 + ".rms"], 20) == ["aaaaaa…aaaaaaaa.norm", "aaaaaa…aaaaaaaaa.rms"]
    assert paper.cut([names[0]], 36) == ["probe.encode…tn.weight.gradient.norm"]


def test_the_rates_of_rules_and_of_updates_are_drawn() -> None:
    def series(name: str, values: list[float], steps: list[int] | None = None) -> tuple[str, Series]:
        return name, Series(name, steps or [1, 2, 3], [0.0] * len(values), values)

    ruled = dict([series("rate", [0.1, 0.1, 0.1]), series("setting.learning_rate[head]", [0.3, 0.2, 0.1])])
    (axes,) = plot_rates(ruled).axes
    assert {text.get_text() for text in axes.texts} >= {"rate", "rate[head]"}
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.1, 0.1, 0.1], [0.3, 0.2, 0.1]]
    several = dict(
        [
            series("rate", [0.1, 0.1, 0.2]),
            series("a.rate", [0.1, 0.1], [1, 2]),
            series("b.rate", [0.2] * 3),
            series("setting.a.learning_rate[head]", [0.5, 0.4, 0.3]),
            series("knob.rate", [7.0] * 3),
        ]
    )
    (axes,) = plot_rates(several).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.1, 0.1], [0.2] * 3, [0.5, 0.4]]
    shown = {text.get_text() for text in axes.texts}
    assert {"a.rate", "b.rate", "a.rate[head]"} <= shown
    assert "rate" not in shown


def test_many_long_names_are_a_short_title() -> None:
    names = [f"probe.encoder.layers.{index}.self_attn.weight.gradient.norm" for index in (1, 2, 10)]
    figure = plot_series({name: Series(name, [1, 2], [0.0, 0.0], [1.0, 2.0]) for name in names}, names)
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert "self_attn.weight.gradient.norm" in texts
    assert {f"encoder.layers.{index}" for index in (1, 2, 10)} <= texts
    assert max(map(len, texts)) <= 60


@pytest.mark.parametrize(
    ("names", "title", "labels"),
    [
        (["loss"], "Loss", ["loss"]),
        (["ce"], "ce", ["ce"]),
        (["probe.head.weight.norm"], "head.weight.norm", ["head.weight.norm"]),
        (["setting.clip_norm"], "clip_norm", ["clip_norm"]),
        (["weight.size"], "weight of size", ["weight of size"]),
        (["critic.loss", "maker.loss"], "Loss of critic and maker", ["critic", "maker"]),
        (["loss", "critic.loss"], "Loss and critic.loss", ["loss", "critic.loss"]),
        (["knob.p[a.b]", "knob.q[a.b]"], "p[a.b] and q[a.b]", ["p[a.b]", "q[a.b]"]),
        (["a.rms", "b.rms", "c.rms"], "rms of a, b and c", ["a", "b", "c"]),
    ],
)
def test_a_chart_is_named_by_what_is_drawn(names: list[str], title: str, labels: list[str]) -> None:
    assert named(names) == (title, labels)


def test_a_title_of_too_many_names_is_cut() -> None:
    title, labels = named([f"layers.{index}.rms" for index in range(30)])
    assert (title, labels[3]) == ("rms of layers.0 and 29 more", "layers.3")
    title, _ = named([f"{index}.{'a' * 70}" for index in range(2)])
    assert len(title) <= 60


def probed(name: str, every: int, count: int) -> Series:
    return Series(name, [1, *range(every, every * count, every)], [0.0] * count, [float(at % 7) for at in range(count)])


def test_what_is_measured_seldom_is_not_called_each_step() -> None:
    few, many = probed("probe.head.rms", 50, 6), probed("probe.head.rms", 5, 60)
    figure = plot_series({few.name: few}, few.name)
    assert "every 50 steps" in words(figure)
    assert len(marked(figure, "probe.head.rms measured").get_xdata()) == 6
    assert "thin: every 5 steps, line: smoothed" in words(plot_series({many.name: many}, many.name))
    both = {few.name: few, "probe.body.rms": replace(many, name="probe.body.rms")}
    assert "thin: each measurement, line: smoothed" in words(plot_series(both, list(both)))


def test_a_star_stands_for_all_series_that_fit() -> None:
    record = {name: probed(name, 10, 5) for name in ("probe.a.rms", "probe.b.rms", "probe.b.norm")}
    figure = plot_series(record, "probe.*.rms")
    assert {"rms of a and b", "a", "b"} <= set(words(figure))
    with pytest.raises(SettingError, match=r'no series "probe.*.std" to plot'):
        plot_series(record, "probe.*.std")


def test_what_was_said_is_drawn_as_it_was_in_each_step() -> None:
    clip = Series("setting.clip_norm", list(range(1, 41)), [0.0] * 40, [1.0] * 10 + [2.0] * 10 + [math.inf] * 20)
    figure = plot_series({clip.name: clip}, clip.name)
    (line,) = figure.axes[0].get_lines()
    assert line.get_drawstyle() == "steps-pre"
    assert line.get_ydata()[:20].tolist() == clip.values[:20]
    assert np.isnan(line.get_ydata()[20:]).all()
    assert not {"not finite", "line: smoothed"} & set(words(figure))


def test_the_rate_of_the_call_is_not_drawn_where_no_array_has_it() -> None:
    ruled = [Series(f"setting.learning_rate[{part}]", [1, 2], [0.0, 0.0], [0.3, 0.2]) for part in ("a", "everything")]
    figure = plot_rates(History([Series("rate", [1, 2], [0.0, 0.0], [1.0, 1.0]), *ruled]))
    assert len(figure.axes[0].get_lines()) == 1
