"""Numbers of a step: plain, autocast, float16 with a loss scale, float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import etude
from etude.errors import NonFiniteError, SettingError
from etude.step.precision import Precision, check_precision
from etude.step.trainer import Trainer
from nets import alike, arrays, chain, changed, data

CPU = torch.device("cpu")


class Watched(nn.Module):
    """A layer that remembers the type of what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = chain()
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.training:
            self.seen.append(y.dtype)
        return y


def whole(count: int = 4) -> tuple[Tensor, Tensor]:
    x, y = zip(*data(count), strict=True)
    return torch.cat(x), torch.cat(y)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        (None, torch.float32),
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("fp64", torch.float64),
    ],
)
def test_the_forward_is_in_the_numbers_asked_for(precision: str | None, dtype: torch.dtype) -> None:
    net = Watched()
    etude.train(net, whole(), loss="mse", steps=3, batch_size=8, precision=precision, progress=False)
    assert set(net.seen) == {dtype}
    held = torch.float64 if precision == "fp64" else torch.float32
    assert {parameter.dtype for parameter in net.parameters()} == {held}


def test_nothing_said_is_single_precision() -> None:
    assert check_precision(None) == "fp32"


@pytest.mark.parametrize(("said", "near"), [("fp31", "fp32"), ("f16", "fp16"), ("mixed", "")])
def test_an_unknown_precision_shows_the_nearest(said: str, near: str) -> None:
    with pytest.raises(SettingError, match=f"precision='{said}': known are fp32, fp64, bf16, fp16.*{near}"):
        check_precision(said)


def test_the_scale_does_not_change_the_step() -> None:
    net, twin = chain(), chain()
    scaled, plain = Trainer(net, "sgd", learning_rate=0.1), Trainer(twin, "sgd", learning_rate=0.1)
    precision = Precision("fp16", CPU)
    for x, y in data(3):
        scaled.zero_grad()
        plain.zero_grad()
        precision.backward((net(x) - y).square().mean())
        assert net[0].weight.grad is not None
        assert net[0].weight.grad.abs().max() > 100
        assert precision.step(scaled._stepper, False, "raise")
        (twin(x) - y).square().mean().backward()
        plain.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_overflow_halves_the_scale_and_leaves_the_step_out_whatever_the_policy() -> None:
    for policy in ("raise", "skip", None):
        net = chain()
        trainer, precision = Trainer(net, "adamw"), Precision("fp16", CPU)
        before = arrays(net)
        precision.scale.good = 7
        precision.backward((net(data(1)[0][0]) * 1e38).mean())
        assert not precision.step(trainer._stepper, False, policy)
        assert (precision.scale.value, precision.scale.good) == (32768.0, 0)
        assert changed(before, net) == set()


def test_the_scale_is_never_below_one_nor_above_its_bound() -> None:
    net = chain()
    trainer, precision = Trainer(net, "sgd", learning_rate=0.0001), Precision("fp16", CPU)
    precision.scale.value = 1.5
    precision.backward(net(data(1)[0][0]).mean() * float("inf"))
    precision.step(trainer._stepper, False, "skip")
    assert precision.scale.value == 1.0
    precision.scale.value, precision.scale.good = 2.0**24, 1999
    trainer.zero_grad()
    precision.backward(net(data(1)[0][0]).mean())
    assert precision.step(trainer._stepper, False, "skip")
    assert (precision.scale.value, precision.scale.good) == (2.0**24, 0)


def test_good_steps_double_the_scale() -> None:
    net = chain()
    trainer, precision = Trainer(net, "sgd", learning_rate=0.0001), Precision("fp16", CPU)
    precision.scale.good = 1999
    precision.backward(net(data(1)[0][0]).mean())
    assert precision.step(trainer._stepper, False, "skip")
    assert (precision.scale.value, precision.scale.good) == (131072.0, 0)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp64"])
def test_without_a_scale_the_policy_decides(name: str) -> None:
    net = chain()
    trainer, precision = Trainer(net, "sgd"), Precision(name, CPU)
    assert precision.scale.value == 1.0
    precision.backward(net(data(1)[0][0]).mean() * float("inf"))
    with pytest.raises(NonFiniteError):
        precision.step(trainer._stepper, False, "raise")
    assert precision.step(trainer._stepper, False, "skip") is False


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_nearly_the_same_net(precision: str) -> None:
    net, twin = chain(), copy.deepcopy(chain())
    options = {"loss": "mse", "epochs": 10, "batch_size": 8, "learning_rate": 0.01, "progress": False}
    low = etude.train(net, whole(8), precision=precision, **options)
    full = etude.train(twin, whole(8), **options)
    assert low.losses["epoch.loss"] == pytest.approx(full.losses["epoch.loss"], rel=0.05)
    assert not all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp64"])
def test_what_is_held_is_held_in_any_numbers(precision: str) -> None:
    net = chain()
    before = {name: array.double() if precision == "fp64" else array for name, array in arrays(net).items()}
    options = {"loss": "mse", "steps": 5, "batch_size": 8, "progress": False, "weight_decay": 0.1}
    etude.train(net, whole(), precision=precision, learning_rate_multipliers={0: 0}, **options)
    assert changed(before, net) == {"2.weight", "2.bias"}
