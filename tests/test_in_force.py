"""What was in force in a step stands in the history beside the rate: filters of data, and bounds that are none."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import Data, epochs, linear, pieces, steps
from etude.data import chunk, dropped, length, mean_length, shortest
from small import classified, trained

LENGTHS = [2, 3, 5, 8, 9, 11, 14, 20, 4, 6]


class Pooled(nn.Module):
    """Sequences of four features, two classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(x).mean(1)
        return made


def sequences(keep: Any) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(n, 4, generator=generator) for n in LENGTHS]
    return Data({"x": x, "y": torch.arange(len(x)) % 2}, batch_size=2, keep=keep)


KEEP: dict[str, tuple[Any, dict[str, list[float]]]] = {
    "all streams": (length(most=linear(6, 24)), {"length.most": [6, 12, 18]}),
    "one stream": (length(least={"x": pieces(2, (epochs(1), 5))}), {"length.least.x": [2, 5, 5]}),
    "two filters": (
        [shortest(linear(0.5, 1, over=epochs(2))), length(least=lambda progress: 2 + progress.epoch)],
        {"shortest.share": [0.5, 0.75, 1], "length.least": [2, 3, 4]},
    ),
    "mean": (mean_length(linear(6, 24)), {"mean_length.most": [6, 12, 18]}),
    "chance": (dropped(linear(0.5, 0.2)), {"dropped.probability": [0.5, 0.4, 0.3]}),
    "some epochs": ({range(1, 3): length(least=linear(0, 3))}, {"length.least": [1, 2]}),
    "constant": (length(most=9), {}),
}


@pytest.mark.parametrize(("keep", "expected"), KEEP.values(), ids=KEEP)
def test_limits_of_lengths_are_in_the_history_as_they_were_asked_at_the_start_of_an_epoch(
    keep: Any, expected: dict[str, list[float]]
) -> None:
    history = etude.train(Pooled(), sequences(keep), loss={"y": "cross_entropy"}, epochs=3, progress=False).history
    found = {name: history[name] for name in history if name.startswith("setting.")}
    assert set(found) == {f"setting.keep.{name}" for name in expected}
    for name, values in expected.items():
        series = found[f"setting.keep.{name}"]
        by_epoch = dict(zip([int(epoch - 1e-9) for epoch in series.epochs], series.values, strict=True))
        assert list(by_epoch.values()) == pytest.approx(values)
        # Within an epoch it is one value.
        assert len(set(series.values)) == len(set(values))


def test_limits_by_steps_count_from_the_steps_of_the_run() -> None:
    plan = etude.Plan({"y": "cross_entropy"}, epochs=3)
    data = sequences(length(most=linear(6, 26, over=steps(20))))
    run = etude.Run(plan, Pooled(), data)
    history = run.result().history
    ends = {
        int(epoch): step for epoch, step in zip(history["epoch.loss"].epochs, history["epoch.loss"].steps, strict=True)
    }
    values = history["setting.keep.length.most"].values
    assert values[0] == 6
    assert values[ends[1]] == 6 + ends[1]
    assert values[-1] == 6 + ends[2]


def test_the_picture_of_a_plan_has_them_too() -> None:
    plan = etude.Plan({"y": "cross_entropy"}, epochs=3)
    figure = plan.plot(Pooled(), sequences(length(most=linear(6, 24))))
    (lane,) = (axes for axes in figure.axes if axes.get_label() == "knobs")
    assert "keep.length.most" in [text.get_text() for text in lane.texts]


def test_no_bound_is_infinite_whether_a_schedule_or_a_function_says_so() -> None:
    forms = pieces(1.0, (epochs(1), None)), lambda progress: 1.0 if progress.epoch < 1 else None
    for form in forms:
        series = trained(data=classified(8), epochs=2, clip_norm=form, clip_value={"0": form}).history
        assert series["setting.clip_norm"].values == [1, 1, inf, inf]
        assert series["setting.clip_value[0]"].values == [1, 1, inf, inf]


def test_chunks_that_change_are_told_by_epoch() -> None:
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(12, 4, generator=generator) for _ in range(4)]
    plain = Data({"x": x, "y": torch.arange(4) % 2}, lengths="x", batch_size=4, chunk=pieces(3, (epochs(1), 6)))
    named = plain.but(chunk=pieces(chunk({"x": 4}), (epochs(1), chunk({"x": 12}))))

    def told(data: Data, name: str) -> list[float]:
        history = etude.train(Pooled(), data, loss="cross_entropy", epochs=2, progress=False).history
        return history[name].values

    assert told(plain, "setting.chunk") == [3.0] * 4 + [6.0] * 2
    assert told(named, "setting.chunk.x") == [4.0] * 3 + [12.0]
