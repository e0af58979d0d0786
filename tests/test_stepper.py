"""What a trainer and a run share: which arrays move, which gradients, and that nothing is done by halves."""

from __future__ import annotations

import gc
import weakref
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from etude.errors import NonFiniteError, SettingError, StaleGradientError
from etude.step.recipe import Recipe
from etude.step.stepper import Stepper
from etude.step.trainer import Trainer
from etude.values.part import part
from etude.values.progress import Progress
from nets import alike, arrays, chain, changed, data, give_gradients, graph

X, Y = data(1)[0]


def stepper(net: nn.Module, optimizer: Any = "sgd", **options: Any) -> Stepper:
    names = ("learning_rate", "rules", "multipliers", "update_schedule", "part", "strict")
    asked = {"learning_rate": 0.1, **{name: options.pop(name) for name in names if name in options}}
    return Stepper(net, Recipe(optimizer, **asked, settings=options), Progress())


def backward(net: nn.Module) -> None:
    (net(X) - Y).square().mean(1).sum().backward()


# an attempt


def test_an_attempt_moves_and_neither_ticks_nor_marks() -> None:
    net = graph()
    own = stepper(net)
    give_gradients(net, 0)
    before = arrays(net)
    assert own.attempt(8, False, None)
    assert changed(before, net) == {name for name, _ in net.named_parameters()}
    assert own.progress.step == 0
    assert own.ledger.empty
    own.mark()
    with pytest.raises(StaleGradientError):
        own.attempt(8, False, None)


def test_what_is_refused_is_refused_whole() -> None:
    net = graph()
    own = stepper(net, "adamw", shrink=0.5, clip_weights=0.1, noise=1.0)
    give_gradients(net, 0)
    net.out.bias.grad[1] = float("inf")
    before = arrays(net)
    with pytest.raises(NonFiniteError, match=r"'out\.bias'"):
        own.attempt(1, False, "raise")
    assert own.attempt(1, False, "skip") is False
    assert changed(before, net) == set()
    assert not any(own.optimizer.state())


def test_what_moves_is_looked_up_by_the_clock() -> None:
    net = graph()
    own = stepper(net, update_schedule=["a", "b"])
    moved = []
    for _ in range(3):
        give_gradients(net, 0)
        before = arrays(net)
        own.attempt(1, False, None)
        moved.append({name[0] for name in changed(before, net)})
        own.progress = own.progress.tick(samples=1)
    assert moved == [{"a"}, {"b"}, {"a"}]


def test_outside_is_what_could_be_trained_and_does_not_move() -> None:
    net = graph()
    net.out.weight.requires_grad_(False)
    own = stepper(net, update_schedule=["a"], multipliers={"b.bias": 0})
    now = own.table.at(own.progress, own.memory)
    found = {id(array) for array in own.outside(now.moving)}
    assert found == {id(net.b.weight), id(net.b.bias), id(net.out.bias)}


def test_what_it_is_called() -> None:
    assert stepper(chain(), "adamw").name == "adamw"
    assert stepper(chain(), "rmsprop").name == "RMSprop"
    assert stepper(chain(), {0: "sgd", 2: "lion"}).name == "sgd, lion"


# counts


@pytest.mark.parametrize("count", [8, 8.0, np.int64(8), np.float32(8), np.float64(8), Fraction(8), True + 7])
def test_whatever_is_a_number_counts(count: Any) -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(net), Trainer(twin)
    for own, running, given in ((net, trainer, count), (twin, other, 8)):
        backward(own)
        assert running.step(given)
    assert all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert trainer.progress.samples == 8


@pytest.mark.parametrize("count", ["x", None, [8], float("nan"), float("inf"), 0, -8, 1j])
def test_what_is_none_changes_nothing(count: Any) -> None:
    net = chain()
    trainer = Trainer(net)
    backward(net)
    before = arrays(net)
    for act in (trainer.step, trainer.update):
        with pytest.raises(SettingError, match=r"step\(.*\): the number of samples is positive and finite"):
            act(count)
    assert changed(before, net) == set()
    assert trainer.progress.step == 0
    assert trainer.step(8)


@pytest.mark.parametrize("count", [torch.tensor(8), torch.tensor(8.0), torch.tensor([True] * 8).sum()])
def test_a_tensor_of_one_number_is_taken_or_refused_whole(count: Any) -> None:
    """A count of a mask is one."""
    net = chain()
    trainer = Trainer(net)
    backward(net)
    before = arrays(net)
    try:
        trainer.step(count)
    except SettingError:
        assert changed(before, net) == set()
        assert trainer.progress.step == 0
    else:
        assert (trainer.progress.step, trainer.progress.samples) == (1, 8)


@pytest.mark.parametrize("rule", ["sgd", "adamw", "lamb", "lars", "adafactor", "nadam", "torch.adamw"])
def test_arrays_without_elements_are_no_trouble(rule: str) -> None:
    net = nn.ParameterDict({"none": nn.Parameter(torch.zeros(0, 3)), "some": nn.Parameter(torch.ones(2, 3))})
    settings = {"clip_value": 1.0, "clip_array_norm": 1.0, "clip_norm": 1.0, "noise": 0.1, "l2": 0.1, "shrink": 0.1}
    trainer = Trainer(net, rule, learning_rate=0.1, centralise=True, clip_weights=5.0, **settings)  # type: ignore[arg-type]
    for _ in range(2):
        for parameter in net.values():
            parameter.grad = torch.arange(float(parameter.numel())).reshape(parameter.shape)
        assert trainer.step()
        trainer.zero_grad()
    assert bool(torch.isfinite(net["some"]).all())
    assert not bool((net["some"] == 1).all())
    assert net["none"].shape == (0, 3)


# gradients, old and new, held and wanted


def test_gradients_of_what_was_held_are_forgotten_with_the_next_call() -> None:
    net = graph()
    trainer = Trainer(net, update_schedule=["a", "b"])
    backward(net)
    trainer.step(8)
    assert net.b.weight.grad is not None
    net(X)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_no_call_without_gradients_forgets_any() -> None:
    net = graph()
    trainer = Trainer(net)
    backward(net)
    trainer.step(8)
    with torch.no_grad():
        net(X)
    assert net.a.weight.grad is not None
    with torch.inference_mode():
        net(X)
    assert net.a.weight.grad is not None


def test_torchs_own_way_to_forget() -> None:
    """net.zero_grad(set_to_none=False) writes zeros into gradients that were used: they are no new ones."""
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1), Trainer(twin, "sgd", learning_rate=0.1)
    for _ in range(3):
        net.zero_grad(set_to_none=False)
        backward(net)
        trainer.step(8)
        backward(twin)
        other.step(8)
    assert all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_trainer_of_parameters_is_told_by_hand() -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(list(net.parameters()), "sgd", learning_rate=0.1), Trainer(twin, "sgd", learning_rate=0.1)
    for _ in range(3):
        trainer.zero_grad()
        backward(net)
        trainer.step(8)
        backward(twin)
        other.step(8)
    assert all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_only_moving_switches_on_what_it_has_switched_off() -> None:
    net = graph()
    own = stepper(net, update_schedule=["a"])
    net.b.bias.requires_grad_(False)
    seen = []
    with own.only_moving():
        seen = [parameter.requires_grad for parameter in net.parameters()]
    assert seen == [True, True, False, False, False, False]
    assert [parameter.requires_grad for parameter in net.parameters()] == [True, True, True, False, True, True]


# lives


def test_a_trainer_goes_when_nobody_has_it() -> None:
    net = chain()
    trainer = Trainer(net, averages=(), accumulate=2)
    backward(net)
    trainer.step(8)
    seen = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert seen() is None
    assert not net._forward_pre_hooks


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_net_may_be_compiled(by_hand: bool) -> None:
    """torch.compile may trace away that the net was called; old gradients are found all the same, or gone."""
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1), Trainer(twin, "sgd", learning_rate=0.1)
    made = torch.compile(net, backend="eager")
    for n in range(2):
        if by_hand:
            trainer.zero_grad()
        (made(X) - Y).square().mean(1).sum().backward()
        if n and not by_hand:
            with pytest.raises(StaleGradientError, match=r"Call trainer.zero_grad\(\) before backward"):
                trainer.step(8)
            return
        trainer.step(8)
        backward(twin)
        other.step(8)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_arrays_that_are_added_to_the_net_are_told_of_with_the_next_change() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    trainer = Trainer(net, "adamw")
    net.append(nn.Linear(2, 2))
    trainer.freeze(part(0))
    before = arrays(net)
    backward(net)
    trainer.step(8)
    assert changed(before, net) == {"2.weight", "2.bias", "3.weight", "3.bias"}
