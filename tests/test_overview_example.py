"""Clipping at 10 in four epochs and not after, as in the overview of RETURNN's training: nothing is built anew."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import epochs, every, pieces
from etude.run.events import EpochEnded, Settled
from nets import alike

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "fixtures" / "returnn_gradients.json").read_text(encoding="utf-8")
)["tf_config_override_trace"][0]
BATCHES = 2
"""In an epoch, as recorded."""

FORMS = {
    "as written": lambda progress: 10 if progress.epoch < 4 else 0,
    "pieces of 0": pieces(10, (epochs(4), 0)),
    "function": lambda progress: 10 if progress.epoch < 4 else inf,
    "none": lambda progress: 10 if progress.epoch < 4 else None,
    "pieces": pieces(10, (epochs(4), inf)),
    "pieces of none": pieces(10, (epochs(4), None)),
}


class Slope(nn.Module):
    """One number, whose gradient is the mean input."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def plan(form: Any, optimizer: str = "sgd", rate: float = 1.0, **more: Any) -> etude.Plan:
    return etude.Plan(
        **{
            "loss": lambda net, batch: net(batch).mean(),
            "optimizer": optimizer,
            "learning_rate": rate,
            "clip_value": form,
            "epochs": 7,
            "batch_size": 1,
            "shuffle": False,
            **more,
        }
    )


def data(gradient: float = 40.0) -> Tensor:
    return torch.full((BATCHES, 1), gradient)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_updates_of_10_and_then_of_40(form: Any) -> None:
    net = Slope()
    seen: list[float] = []
    for event in etude.Run(plan(form), net, data()):
        if isinstance(event, EpochEnded):
            seen.append(float(net.w.detach()))
    clips = [epoch["gradient_clip"] for epoch in RECORDED["expect"]]
    assert clips == [10, 10, 10, 10, 0, 0, 0]
    updates = [-(after - before) / BATCHES for before, after in zip([0.0, *seen], seen, strict=False)]
    assert updates == pytest.approx([float(clip or 40) for clip in clips])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_memory_of_adam_runs_on(form: Any) -> None:
    """Recorded is a count that falls from 8 to 2 when the clipping ends, because everything is built anew."""
    net, counts = Slope(), []
    run = etude.Run(plan(form, "adam", 0.01), net, data())
    for event in run:
        if isinstance(event, EpochEnded):
            counts.append(run.checked.works[0].stepper.state()["arrays"]["w"]["count"])
    recorded = [epoch["adam_steps_seen_by_optimizer"] for epoch in RECORDED["expect"]]
    assert recorded[:5] == [2, 4, 6, 8, 2]
    assert counts == [epoch["global_step"] for epoch in RECORDED["expect"]] == [2, 4, 6, 8, 10, 12, 14]
    by_hand = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([by_hand], lr=0.01)
    for step in range(14):
        by_hand.grad = torch.full((1,), 10.0 if step < 8 else 40.0)
        optimizer.step()
    assert torch.allclose(net.w, by_hand, atol=1e-6)


@pytest.mark.parametrize("epoch", [3, 5])
@pytest.mark.parametrize("within", [0, 1])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gone_on_in_epochs_3_and_5_bit_for_bit(tmp_path: Path, epoch: int, within: int, optimizer: str) -> None:
    form = FORMS["pieces"]
    saved = etude.Directory(tmp_path, every(etude.steps(1)))
    whole = Slope()
    etude.Run(plan(form, optimizer), whole, data()).result()
    net = Slope()
    run = etude.Run(plan(form, optimizer, checkpoint=saved), net, data())
    events = iter(run)
    for event in events:
        if isinstance(event, Settled) and event.progress.step == (epoch - 1) * BATCHES + within:
            break
    events.close()  # type: ignore[attr-defined]
    other = Slope()
    result = etude.Run(plan(form, optimizer, checkpoint=saved), other, data(), resume="auto").result()
    assert result.steps == 7 * BATCHES
    assert alike(whole.w, other.w)


def test_the_value_of_each_epoch_is_in_the_history() -> None:
    result = etude.Run(plan(FORMS["pieces"]), Slope(), data()).result()
    series = result.history["setting.clip_value"]
    assert list(series.values) == [10.0] * 8 + [inf] * 6
