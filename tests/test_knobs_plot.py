"""Pictures of knobs: lanes under the score, and a picture of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import etude
from etude import cosine, epochs, linear, part, pieces
from etude.draw import lanes
from etude.draw.plots import plot_lanes, plot_score
from etude.errors import SettingError

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.drop, self.head = nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.tanh(self.body(x))))


PLAN: dict[str, Any] = {
    "loss": "mse",
    "epochs": 4,
    "batch_size": 10,
    "learning_rate": cosine(0.1),
    "clip_norm": pieces(1.0, (epochs(2), 0.5)),
    "knobs": {"p": {nn.Dropout: linear(0, 0.2)}},
}


def panels(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_label() == "knobs"]


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def drawn(axes: Any) -> list[Any]:
    return [line for line in axes.lines if line.get_gid() == "lane"]


def test_the_plan_shows_what_is_scheduled_under_the_score() -> None:
    figure = etude.Plan(**PLAN, precision=pieces("fp32", (epochs(2), "bf16"))).plot(Net(), (X, Y))
    (lane,) = panels(figure)
    assert {"clip_norm", "p", "precision", "fp32", "bf16", "1", "0.5"} <= set(words(lane))
    assert len(drawn(lane)) == 3
    score = figure.axes[0]
    assert lane.get_xlim() == score.get_xlim() == (0.0, 16.0)
    assert lane.get_position().y1 < score.get_position().y0
    assert lane.get_position().x0 == pytest.approx(score.get_position().x0)


def test_without_anything_scheduled_the_score_is_as_it_was() -> None:
    plain = {name: value for name, value in PLAN.items() if name not in ("clip_norm", "knobs")}
    assert not panels(etude.Plan(**plain).plot(Net(), (X, Y)))
    assert not panels(etude.Plan(**plain, knobs={"p": 0.5}).plot(Net(), (X, Y)))


def test_the_first_cycles_have_their_own_lanes() -> None:
    rates = np.where(np.arange(4000) % 4 == 0, 0.1, np.nan)[None]
    figure = plot_score(["a"], range(4000), rates, knobs={"p": np.linspace(0, 1, 4000).tolist()})
    first, whole = panels(figure)
    assert "p" in words(first)
    assert "p" not in words(whole)
    assert whole.get_xlim()[1] == 4000
    assert first.get_xlim()[1] < 100


def test_a_result_shows_what_was_in_force(tmp_path: Path) -> None:
    result = etude.train(Net(), (X, Y), **PLAN, progress=False)
    figure = result.plot("knobs", tmp_path / "knobs.png")
    assert (tmp_path / "knobs.png").stat().st_size > 1000
    (axes,) = figure.axes
    assert words(axes).index("p") < words(axes).index("clip_norm")  # knobs first: of many lines the last are not drawn
    heights = drawn(axes)[1].get_ydata()
    assert {"clip_norm", "p"} <= set(words(axes))
    assert len(heights) == 17
    assert heights[0] < heights[-1]  # downwards: the first half is above
    assert len(panels(result.plot("score"))) == 1
    path = tmp_path / "result.json"
    result.save(path)
    assert len(panels(etude.Result.load(path).plot("score"))) == 1


def test_a_result_without_knobs_has_no_such_picture() -> None:
    result = etude.train(Net(), (X, Y), loss="mse", epochs=1, batch_size=10, progress=False)
    with pytest.raises(SettingError, match="Nothing that is scheduled"):
        result.plot("knobs")


def test_lanes_by_hand() -> None:
    figure = plot_lanes({"flag": [False, True, True], "mode": ["a", "b", "b"], "gone": [None, 1.0, 2.0]}, [0, 1, 2])
    (axes,) = figure.axes
    assert {"flag", "mode", "gone", "a", "b"} <= set(words(axes))
    assert np.isnan(drawn(axes)[2].get_ydata()[0])


def test_a_bound_that_ends_is_off_and_no_line() -> None:
    (axes,) = plot_lanes({"clip_norm": [1.0, 0.5, np.inf, np.inf]}, [0, 1, 2, 3]).axes
    assert words(axes).count("off") == 1
    heights = drawn(axes)[0].get_ydata()
    assert np.isfinite(heights[:2]).all()
    assert np.isnan(heights[2:]).all()


def test_epochs_are_bar_lines_in_the_score_of_a_plan_and_of_a_result() -> None:
    result = etude.train(Net(), (X, Y), **PLAN, progress=False)
    for figure in (etude.Plan(**PLAN).plot(Net(), (X, Y)), result.plot("score")):
        (bars,) = (each for each in figure.axes[0].collections if each.get_gid() == "epochs")
        assert [path.vertices[0][0] for path in bars.get_paths()] == [4, 8, 12]


def test_lanes_that_do_not_fit() -> None:
    with pytest.raises(SettingError, match="3 steps need 3 values each"):
        plot_lanes({"p": [1, 2]}, [0, 1, 2])


def test_at_most_a_dozen_lanes() -> None:
    made = lanes.lanes({f"k{i}": [0, i] for i in range(20)})
    assert [lane.label for lane in made] == [*(f"k{i}" for i in range(11)), "and 9 more"]


def test_an_update_schedule_and_knobs_together(tmp_path: Path) -> None:
    plan = etude.Plan(**PLAN, update_schedule=[part("body") * 3, "head"])
    plan.plot(Net(), (X, Y), tmp_path / "score.svg")
    assert "clip_norm" in (tmp_path / "score.svg").read_text() or (tmp_path / "score.svg").stat().st_size > 1000
