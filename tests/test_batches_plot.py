"""The picture of batches: what is drawn, not only that something is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection, LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Text

from etude.data.data import Data
from etude.data.plan.budgets import packed
from etude.data.plan.filters import length
from etude.draw.batches import FEW, Drawn, plot_batches
from etude.draw.histograms import Stream
from etude.errors import SettingError

LENGTHS = np.random.default_rng(0).integers(3, 40, 120)


def samples(lengths: Any = LENGTHS) -> list[dict[str, Any]]:
    return [{"audio": torch.ones(int(n), 2), "labels": torch.ones(int(n) // 4 + 1)} for n in lengths]


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_text())


def marked(figure: Figure, gid: str, kind: type[Artist]) -> list[Any]:
    return [artist for artist in figure.findobj(kind) if artist.get_gid() == gid]


def one(figure: Figure, gid: str, kind: type[Artist] = Line2D) -> Any:
    (found,) = marked(figure, gid, kind)
    return found


def dots(figure: Figure, gid: str) -> Any:
    """The values of the dots that are drawn, in the order of the batches."""
    return one(figure, gid).get_ydata()


def panels(figure: Figure) -> list[Axes]:
    return list(figure.axes)


def drawn(batches: int = 50, epoch: int = 0, **changed: Any) -> Drawn:
    chance = np.random.default_rng(epoch)
    padding = chance.uniform(0, 0.1, batches)
    given: dict[str, Any] = {"padding": {"audio": padding}, "shares": {"audio": 0.05}}
    given["fill"] = chance.uniform(0.8, 1.0, batches)
    return Drawn(epoch, 10 * batches, **(given | changed))


# ------------------------------------------------------------------------------------------------------ from the data


def test_fill_and_padding_of_every_batch_are_drawn_in_their_order() -> None:
    data = Data(samples(), budget={"audio": 200}, order="random")
    figure = data.plot(epochs=2, seed=4)
    lengths = [batch.lengths["audio"].numpy() for batch in data.batches(epochs=2, seed=4)]
    fill = [max(each) * len(each) / 200 for each in lengths]
    shown = dots(figure, "fill")
    inside = ~np.isnan(shown)
    assert len(shown) == len(fill)
    assert inside.mean() > 0.9
    assert shown[inside] == pytest.approx(np.array(fill)[inside])
    padding = [1 - sum(each) / (max(each) * len(each)) for each in lengths]
    shown = dots(figure, "padding audio")
    assert shown[~np.isnan(shown)] == pytest.approx(np.array(padding)[~np.isnan(shown)])


def test_the_means_are_those_of_the_report() -> None:
    data = Data(samples(), budget=200)
    figure, reports = data.plot(epochs=3), data.report(3)
    lines = one(figure, "padding labels mean", LineCollection).get_segments()
    assert [line[0][1] for line in lines] == pytest.approx([report.padding_of("labels") for report in reports])
    assert [line[1][0] for line in lines] == np.cumsum([report.batches for report in reports]).tolist()
    lines = one(figure, "fill mean", LineCollection).get_segments()
    assert [line[0][1] for line in lines] == pytest.approx([report.fill for report in reports])
    assert f"{100 * reports[-1].fill:.3g}% full" in words(figure)


def test_each_stream_has_a_histogram_of_its_lengths() -> None:
    figure = Data(samples(), budget={"audio": 200}).plot()
    for name, lengths in (("audio", LENGTHS), ("labels", LENGTHS // 4 + 1)):
        counts, edges, _ = one(figure, f"used {name}", StepPatch).get_data()
        assert counts.tolist() == np.histogram(lengths, edges)[0].tolist()
        assert f"length of {name}: {lengths.min()} to {lengths.max()}" in words(figure)
    assert not marked(figure, "in no batch", Rectangle)


def test_what_is_in_no_batch_is_shaded() -> None:
    figure = Data(samples(), budget={"audio": 200}, keep=length(most=30)).plot()
    counts, edges, below = one(figure, "left audio", StepPatch).get_data()
    left = counts - below
    assert left.sum() == (LENGTHS > 30).sum()
    assert not left[edges[1:] < 30].any()
    tints = marked(figure, "in no batch", Rectangle)[: len(left)]
    strength = [tint.get_facecolor()[3] for tint in tints]
    assert [alpha > 0 for alpha in strength] == (edges[:-1] > 30).tolist()
    assert f"red: {(LENGTHS > 30).sum()} in no batch" in words(figure)


def test_chunks_are_a_line() -> None:
    figure = Data(samples(), lengths="audio", budget={"audio": 200}, chunk=({"audio": 10}, {"audio": 10})).plot()
    counts, _, _ = one(figure, "pieces audio", StepPatch).get_data()
    assert counts.sum() == np.ceil(LENGTHS / 10).sum()
    assert f"{int(counts.sum()):,} chunks in" in words(figure)
    assert not marked(figure, "pieces labels", StepPatch)


def test_packed_sequences_have_no_panel_for_padding() -> None:
    figure = Data(samples(), budget=packed(audio=200), pack=True).plot()
    assert len(panels(figure)) == 3  # two histograms and the fill
    assert "padding" not in words(figure)


def test_without_lengths_there_is_the_fill_alone() -> None:
    figure = Data(torch.ones(10, 2), batch_size=4).plot(epochs=2)
    assert len(panels(figure)) == 1
    shown = dots(figure, "fill")
    assert shown.tolist() == [1, 1, 0.5, 1, 1, 0.5]
    assert "10 samples in 3 batches in the first epoch" in words(figure)


def test_buckets_are_as_full_as_their_rows() -> None:
    data = Data(samples(), budget={"audio": 400}, buckets=3)
    full = [batch.samples / len(batch.values["audio"]) for batch in data.batches(epochs=1)]
    shown = dots(data.plot(), "fill")
    assert shown[~np.isnan(shown)] == pytest.approx(np.array(full)[~np.isnan(shown)])


def test_it_is_written_where_that_is_said(tmp_path: Path) -> None:
    data = Data(samples(), budget=200)
    data.plot(tmp_path / "new" / "batches.png", epochs=2)
    assert (tmp_path / "new" / "batches.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SettingError, match=r'ends in ".pgn".*Nearest'):
        data.plot(tmp_path / "batches.pgn")


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_a_number_of_epochs_is_needed(epochs: Any) -> None:
    with pytest.raises(SettingError, match=r"plot\(epochs=.*from 1 on is needed. Write epochs=3"):
        Data(samples(), budget=200).plot(epochs=epochs)


# ------------------------------------------------------------------------------------------------------- the drawing


def test_many_batches_are_a_band_and_its_mean() -> None:
    epochs = [drawn(FEW, epoch) for epoch in range(2)]
    figure = plot_batches([], epochs)
    assert not marked(figure, "fill", Line2D)
    bands, lines = marked(figure, "fill", FillBetweenPolyCollection), marked(figure, "fill line", Line2D)
    assert len(bands) == len(lines) == 2  # nothing is drawn across the end of an epoch
    for band, line, each in zip(bands, lines, epochs, strict=True):
        height = band.get_paths()[0].get_extents()
        assert (each.fill >= height.y0).mean() > 0.9
        assert np.mean(line.get_ydata()) == pytest.approx(each.fill.mean(), abs=1e-3)
        assert len(line.get_xdata()) <= 202
    assert "band: nine tenths" in words(figure)


def test_a_batch_beyond_the_scale_is_a_triangle() -> None:
    padding = np.append(np.full(199, 0.01), 0.9)
    figure = plot_batches([], [drawn(200, padding={"audio": padding}, shares={"audio": 0.015})])
    beyond = [line for line in marked(figure, "beyond the scale", Line2D) if line.get_marker() == "^"]
    assert [line.get_xdata().tolist() for line in beyond] == [[199.5]]
    top = panels(figure)[1].get_ylim()[1]
    assert beyond[0].get_ydata().tolist() == [top]
    assert top < 0.1
    assert np.isnan(dots(figure, "padding audio")[-1])


def test_a_batch_that_holds_too_much_lies_above_the_line() -> None:
    figure = plot_batches([], [drawn(20, fill=np.full(20, 1.5))])
    low, high = panels(figure)[0].get_ylim()
    assert low < 1 < 1.5 < high
    assert one(figure, "allowed").get_ydata() == [1.0, 1.0]


def test_epochs_have_bar_lines_and_names_while_they_are_few() -> None:
    figure = plot_batches([], [drawn(10, epoch) for epoch in range(3)])
    bars = marked(figure, "epochs", LineCollection)
    assert [[line[0][0] for line in each.get_segments()] for each in bars] == [[10, 20]] * 2
    assert {"epoch 1", "epoch 2", "epoch 3"} <= set(words(figure).splitlines())
    many = words(plot_batches([], [drawn(2, epoch) for epoch in range(60)])).splitlines()
    assert {"1", "4", "58"} <= set(many)
    assert "epoch 1" not in many


def test_lengths_with_a_long_tail_are_drawn_by_their_logarithm() -> None:
    lengths = np.append(np.arange(1, 101), 100_000)
    figure = plot_batches([Stream("audio", lengths, lengths[:0])], [drawn()])
    assert panels(figure)[0].get_xscale() == "log"
    counts, _, _ = one(figure, "used audio", StepPatch).get_data()
    assert counts.sum() == 101
    even = plot_batches([Stream("audio", np.arange(1, 101), lengths[:0])], [drawn()])
    assert panels(even)[0].get_xscale() == "linear"


def test_lengths_of_zero_are_in_the_histogram_too() -> None:
    lengths = np.append(np.zeros(7, np.int64), np.append(np.arange(1, 101), 100_000))
    figure = plot_batches([Stream("audio", lengths, lengths[:0])], [drawn()])
    counts, _, _ = one(figure, "used audio", StepPatch).get_data()
    assert counts.sum() == 108


def test_lengths_that_are_all_the_same() -> None:
    figure = plot_batches([Stream("audio", np.full(9, 16), np.zeros(0, np.int64))], [drawn()])
    assert one(figure, "used audio", StepPatch).get_data()[0].tolist() == [9]
    assert "length of audio: all 16" in words(figure)


def test_more_streams_than_fit_are_said() -> None:
    names = [f"s{place}" for place in range(6)]
    streams = [Stream(name, LENGTHS, LENGTHS[:0]) for name in names]
    padding = dict.fromkeys(names, np.full(50, 0.1))
    figure = plot_batches(streams, [drawn(padding=padding, shares=dict.fromkeys(names, 0.1))])
    assert len(panels(figure)) == 6
    assert "4 of 6 streams" in words(figure)


def test_words_stay_on_the_paper() -> None:
    name = "a_stream_with_a_very_long_name"
    figure = plot_batches(
        [Stream(name, LENGTHS, LENGTHS[:0])], [drawn(padding={name: np.full(50, 0.1)}, shares={name: 0.1})]
    )
    figure.canvas.draw()
    width = figure.bbox.width
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= width


@pytest.mark.parametrize("epochs", [[], [drawn(0, padding={}, shares={})]])
def test_without_a_batch_there_is_nothing_to_draw(epochs: list[Drawn]) -> None:
    with pytest.raises(SettingError, match="one epoch at least, and one batch at least"):
        plot_batches([], epochs)
