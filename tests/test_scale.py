"""The loss scale: what it does to losses and gradients, how it follows overflows, what is saved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from etude.errors import NonFiniteError, SettingError, StateError
from etude.step.scale import LossScale
from etude.step.trainer import Trainer
from nets import alike, arrays, chain, changed, data, give_gradients

X, Y = data(1)[0]


def backward(net: nn.Module, trainer: Trainer, factor: float = 1.0) -> None:
    trainer.scale((net(X) - Y).square().mean(1).sum() * factor).backward()


def overflow(net: nn.Module, trainer: Trainer) -> bool:
    """A step whose gradients are not finite."""
    backward(net, trainer, float("inf"))
    return trainer.step(8)


@pytest.mark.parametrize("scale", [1.0, 8.0, 0.25, 65536.0])
@pytest.mark.parametrize("rule", ["sgd", "adamw", "torch.adamw"])
def test_a_fixed_scale_changes_losses_and_not_steps(scale: float, rule: str) -> None:
    net, twin = chain(), chain()
    trainer = Trainer(net, rule, learning_rate=0.1, loss_scale=scale, clip_norm=0.5)
    other = Trainer(twin, rule, learning_rate=0.1, clip_norm=0.5)
    assert trainer.loss_scale == scale
    loss = torch.tensor(2.0)
    assert trainer.scale(loss).item() == 2 * scale
    for _ in range(3):
        backward(net, trainer)
        trainer.step(8)
        backward(twin, other)
        other.step(8)
    # A power of two changes no bit of what is not tiny.
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert trainer.loss_scale == scale


def test_without_a_scale_a_loss_is_what_it_was() -> None:
    loss = torch.tensor(2.0)
    assert Trainer(chain()).scale(loss) is loss
    assert Trainer(chain(), loss_scale=1).scale(loss) is loss
    assert Trainer(chain(), loss_scale="dynamic").scale(loss).item() == 2 * 65536


def test_an_overflow_leaves_the_step_out_and_halves_the_scale() -> None:
    net = chain()
    trainer = Trainer(net, "adamw", loss_scale="dynamic")
    before = arrays(net)
    assert overflow(net, trainer) is False
    assert changed(before, net) == set()
    assert (trainer.loss_scale, trainer.progress.step) == (32768.0, 1)
    backward(net, trainer)
    assert trainer.step(8) is True
    assert trainer.loss_scale == 32768.0
    assert changed(before, net) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_an_overflow_is_an_overflow_whatever_the_policy() -> None:
    net = chain()
    trainer = Trainer(net, loss_scale="dynamic", non_finite="raise")
    assert overflow(net, trainer) is False
    assert trainer.loss_scale == 32768.0


@pytest.mark.parametrize("policy", ["raise", None])
def test_at_a_scale_of_one_nothing_overflows_and_it_is_an_error(policy: str | None) -> None:
    net = chain()
    trainer = Trainer(net, loss_scale="dynamic", non_finite=policy)
    before = arrays(net)
    for n in range(16):
        assert overflow(net, trainer) is False
        assert trainer.loss_scale == max(1.0, 65536 / 2 ** (n + 1))
    with pytest.raises(NonFiniteError, match="Step 17 is refused"):
        overflow(net, trainer)
    assert changed(before, net) == set()
    assert trainer.progress.step == 16


def test_at_a_scale_of_one_skipping_goes_on() -> None:
    net = chain()
    trainer = Trainer(net, loss_scale="dynamic", non_finite="skip")
    assert [overflow(net, trainer) for _ in range(18)] == [False] * 18
    assert trainer.loss_scale == 1.0
    backward(net, trainer)
    assert trainer.step(8)


def test_it_doubles_after_2000_good_steps_in_a_row_up_to_a_bound() -> None:
    scale = LossScale("dynamic")
    for n in range(1999):
        scale.follow(True)
        assert scale.value == 65536, n
    scale.follow(True)
    assert (scale.value, scale.good) == (131072, 0)
    for _ in range(1999):
        scale.follow(True)
    scale.follow(False)
    assert (scale.value, scale.good) == (65536, 0)
    for _ in range(2000 * 20):
        scale.follow(True)
    assert scale.value == 2**24


def test_a_fixed_scale_follows_nothing() -> None:
    scale = LossScale(8)
    for made in [True] * 2000 + [False] * 3:
        scale.follow(made)
    assert scale.value == 8


def test_a_trainer_counts_good_steps_and_takes_them_along() -> None:
    net = chain()
    trainer = Trainer(net, "sgd", loss_scale="dynamic")
    overflow(net, trainer)
    state = copy.deepcopy(trainer.state_dict())
    assert (state["scale"]["value"], state["scale"]["good"]) == (32768.0, 0)
    state["scale"]["good"] = 1998
    again = Trainer(net, "sgd", loss_scale="dynamic")
    again.load_state_dict(state)
    scales = []
    for n in range(3):
        give_gradients(net, n, again.loss_scale)
        again.step()
        again.zero_grad()
        scales.append(again.loss_scale)
    assert scales == [32768.0, 65536.0, 65536.0]


def test_a_resumed_run_goes_on_to_the_same_bits() -> None:
    net, late = chain(), chain()
    trainer, again = (Trainer(own, loss_scale="dynamic") for own in (net, late))
    backward(net, trainer)
    trainer.step(8)
    overflow(net, trainer)
    late.load_state_dict(net.state_dict())
    again.load_state_dict(copy.deepcopy(trainer.state_dict()))
    for own, running in ((net, trainer), (late, again)):
        backward(own, running)
        running.step(8)
    assert all(alike(a, b) for a, b in zip(net.parameters(), late.parameters(), strict=True))
    assert trainer.loss_scale == again.loss_scale == 32768.0


def test_a_scale_that_stays_keeps_its_own_value() -> None:
    trainer = Trainer(chain(), loss_scale=4.0)
    trainer.load_state_dict(Trainer(chain(), loss_scale="dynamic").state_dict())
    assert trainer.loss_scale == 4.0


def test_a_state_without_a_scale_does_not_make_a_dynamic_one_small() -> None:
    trainer = Trainer(chain(), loss_scale="dynamic")
    trainer.load_state_dict(Trainer(chain()).state_dict())
    assert trainer.loss_scale == 65536.0


@pytest.mark.parametrize(
    "scale",
    [
        None,
        {},
        {"value": "x", "good": 0},
        {"value": float("nan"), "good": 0},
        {"value": 0.0, "good": 0},
        {"value": -8.0, "good": 0},
        {"value": float("inf"), "good": 0},
        {"value": 8.0, "good": -1},
        {"value": 8.0, "good": "x"},
    ],
    ids=str,
)
def test_a_damaged_scale_changes_nothing(scale: Any) -> None:
    net = chain()
    trainer = Trainer(net, loss_scale="dynamic")
    overflow(net, trainer)
    state = copy.deepcopy(trainer.state_dict())
    overflow(net, trainer)
    with pytest.raises(StateError, match="scale"):
        trainer.load_state_dict({**state, "scale": scale})
    assert (trainer.loss_scale, trainer.progress.step) == (16384.0, 2)


def test_norms_are_of_gradients_without_the_scale() -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1, loss_scale=512.0), Trainer(twin, "sgd", learning_rate=0.1)
    backward(net, trainer)
    backward(twin, other)
    assert trainer.clip_grads(0.1, 8) == pytest.approx(other.clip_grads(0.1, 8), rel=1e-5)
    trainer.update(8)
    other.update(8)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_norm_that_overflows_is_left_to_the_step() -> None:
    net = chain()
    trainer = Trainer(net, "sgd", loss_scale="dynamic")
    before = arrays(net)
    backward(net, trainer, float("inf"))
    assert not trainer.clip_grads(1.0, 8) < float("inf")
    assert trainer.update(8) is False
    assert trainer.loss_scale == 32768.0
    assert changed(before, net) == set()


@pytest.mark.parametrize("half", ["master", "stochastic"])
def test_gradients_of_float16_keep_what_the_scale_has_saved(half: str) -> None:
    """1e-7 is no number of float16; 65536 times it is."""
    array = nn.Parameter(torch.ones(512).half())
    trainer = Trainer({"x": array}, "sgd", learning_rate=1e5, loss_scale=65536.0, half=half)
    trainer.scale((array.float() * 1e-7).sum()).backward()
    trainer.step()
    assert float(array.detach().float().mean()) == pytest.approx(0.99, abs=3e-4)
    trainer.zero_grad()
    trainer.scale((array.float() * 1e-7).sum()).backward()
    trainer.step(4)
    assert float(array.detach().float().mean()) == pytest.approx(0.9875, abs=3e-4)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "static", [1.0]])
def test_what_no_scale_is(value: Any) -> None:
    with pytest.raises(SettingError, match=r'loss_scale=.*: "dynamic", a positive number or None is needed'):
        Trainer(chain(), loss_scale=value)
