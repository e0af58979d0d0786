"""Where the clock stands before each step, for pictures: where steps are not all alike they are followed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import etude
from etude import epochs, exponential, linear, pieces
from small import classified, mlp, run


@dataclass
class Fuzz:
    """An object with a number."""

    eps: float = 0.5


NOT_EVEN: list[dict[str, Any]] = [
    {"epochs": 4, "accumulate": pieces(1, (epochs(2), 2))},
    {"epochs": 4, "accumulate": lambda progress: 1 + int(progress.step) % 2},
    {"steps": 7, "accumulate": pieces(1, (epochs(1), 3))},
    {"steps": 5, "epochs": 4, "accumulate": pieces(1, (epochs(1), 3))},
    {"epochs": 4, "batch_size": None, "sizes": pieces(2, (epochs(1), 5))},
    {"epochs": 4, "batch_size": None, "sizes": pieces(2, (epochs(1), 5)), "accumulate": pieces(2, (epochs(3), 1))},
]


@pytest.mark.parametrize("said", NOT_EVEN)
def test_steps_that_take_different_shares_of_an_epoch_are_foreseen(said: dict[str, Any]) -> None:
    sizes = said.get("sizes")
    data = etude.Data(classified(), batch_size=sizes) if sizes is not None else classified()
    rate = pieces(0.1, (epochs(2), 0.2))
    plan = {**{name: value for name, value in said.items() if name != "sizes"}, "learning_rate": rate}
    knobs = {"eps": [(Fuzz(), pieces(0.0, (epochs(1), 1.0)))]}
    made = run(mlp(), data, **plan, knobs=knobs, clip_norm=exponential(1.0, 0.5, over=epochs(1)))
    text, before = made.checked.show(), made.checked.plot()
    result = made.result()
    assert f"Run: {result.steps} steps" in text
    shown = [next(rate for rate in column if rate is not None) for column in zip(*result.score["rates"], strict=True)]
    assert shown == result.history["rate"].values
    for lane in (lane for axes in before.axes for lane in axes.lines if lane.get_gid() == "lane"):
        assert len(lane.get_xdata()) == result.steps + 1
    assert "knob.eps" in result.history


def test_a_run_whose_steps_nobody_can_count_is_shown_to_its_end() -> None:
    updates = [
        etude.Update("a", loss="cross_entropy", part="0", learning_rate=linear(0.1, 0)),
        etude.Update("b", loss="cross_entropy", part="2", own_batch=True, turn=lambda progress: progress.epoch >= 1),
    ]
    made = run(epochs=2, loss=None, updates=updates)
    assert made.checked.extent.steps is None
    assert "0.1/0.1/0 " in made.checked.show()
    made.checked.plot()
    result = made.result()
    (first,) = (row for row, name in zip(result.score["rates"], result.score["names"], strict=True) if name == "0.bias")
    assert len(first) == result.steps
    assert first[0] == 0.1
    assert first[-1] < 0.05
