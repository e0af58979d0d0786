"""A precision that changes in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import etude
from etude import Directory, Update, epochs, every, pieces, plateau, steps
from etude.errors import EtudeError, PlanError, SettingError
from etude.run.events import Settled

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (32,), generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Tells in which numbers it computed in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.seen: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.layer(x)
        self.seen.append(made.dtype)
        return made


def trained(net: nn.Module, precision: Any, **options: Any) -> etude.Result:
    wanted = {"loss": "cross_entropy", "epochs": 2, "batch_size": 8, "learning_rate": 0.1, **options}
    return etude.train(net, (X, Y), precision=precision, progress=False, **wanted)


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [
        (pieces("fp32", (epochs(1), "bf16")), ["float32"] * 4 + ["bfloat16"] * 4),
        (pieces("bf16", (steps(2), "fp32"), (steps(6), "bf16")), ["bfloat16"] * 2 + ["float32"] * 4 + ["bfloat16"] * 2),
        (lambda progress: "bf16" if progress.step % 2 else "fp32", ["float32", "bfloat16"] * 4),
        (pieces("fp16", (epochs(1), "fp32")), ["float16"] * 4 + ["float32"] * 4),
    ],
)
def test_steps_are_computed_in_what_the_schedule_says(precision: Any, wanted: list[str]) -> None:
    net = Net()
    result = trained(net, precision)
    assert [str(dtype).removeprefix("torch.") for dtype in net.seen[-8:]] == wanted
    assert "fp" in result.precision or "schedule" in result.precision


def test_a_constant_schedule_is_the_name() -> None:
    assert etude.Plan("mse", epochs=1, precision=etude.constant("bf16")).precision == "bf16"


def test_parts_of_a_schedule_are_what_they_would_be_alone() -> None:
    one, other = Net(), Net()
    trained(one, pieces("bf16", (epochs(2), "fp32")))
    trained(other, "bf16")
    assert torch.equal(one.layer.weight, other.layer.weight)


def test_resumed_to_the_bit(tmp_path: Path) -> None:
    # The scale of fp16 is kept through the steps without it.
    precision = pieces("fp16", (steps(2), "fp32"), (steps(5), "fp16"))
    whole, first, second = Net(), Net(), Net()
    trained(whole, precision)
    place = Directory(tmp_path, every(steps(1)))
    options = {"epochs": 2, "batch_size": 8, "learning_rate": 0.1, "precision": precision, "checkpoint": place}
    for event in etude.Run(etude.Plan("cross_entropy", **options), first, (X, Y)):
        if isinstance(event, Settled) and event.progress.step == 4:
            break
    trained(second, precision, checkpoint=place, resume="auto")
    assert torch.equal(whole.layer.weight, second.layer.weight)


@pytest.mark.parametrize(
    ("precision", "error", "text"),
    [
        ("fp33", SettingError, 'known are fp32, fp64, bf16, fp16. Nearest: "fp32"'),
        (3, SettingError, "precision=3: known are"),
        (pieces("fp32", (steps(2), "bf17")), SettingError, "gives 'bf17': known are.*bf16"),
        (pieces("fp32", (steps(2), "fp64")), SettingError, "fp64 is for a whole run"),
        (plateau("val.loss"), SettingError, "a precision goes by the clock"),
        (lambda progress: progress.step, SettingError, "gives 0: known are"),
        (etude.linear(0, 1), SettingError, "known are"),
        (etude.constant("fp32").until(steps(3)), EtudeError, "precision: .*Say what follows"),
    ],
)
def test_what_is_refused_before_the_first_step(precision: Any, error: type[Exception], text: str) -> None:
    net = Net()
    with pytest.raises(error, match=text):
        trained(net, precision)
    assert net.layer.weight.grad is None


def test_several_updates_have_no_fp16_at_any_time() -> None:
    updates = [
        Update("a", loss="cross_entropy", part="layer.weight"),
        Update("b", loss="cross_entropy", part="layer.bias"),
    ]
    plan = etude.Plan(updates=updates, epochs=1, precision=pieces("fp32", (steps(2), "fp16")))
    with pytest.raises(PlanError, match="fp16' scales one loss"):
        plan.check(Net(), (X, Y))


def test_the_history_says_the_bits_of_a_number() -> None:
    result = trained(Net(), pieces("fp32", (steps(2), "bf16")))
    bits = result.history["setting.precision"].values
    assert bits[:2] == [32, 32]
    assert set(bits[2:]) == {16}
