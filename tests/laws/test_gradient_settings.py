"""Laws of what happens to gradients: held arrays, resumption, part by part, however settings are combined."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.part import everything, part
from etude.values.schedule import cycle, pieces
from etude.values.spans import steps
from nets import alike, arrays, give_gradients, graph

SCHEDULED = [part("a") | "b", "out", everything]
VALUES: dict[str, Any] = {
    "drop_non_finite": st.sampled_from([True, cycle(True, False), {"a": True}]),
    "clip_value": st.sampled_from([0.3, {"a": 0.1, "b": None}, linear(0.1, 1.0, over=steps(6))]),
    "clip_array_norm": st.sampled_from([0.5, {"*.bias": 0.1}]),
    "clip_mean_norm": st.sampled_from([0.05, pieces(0.01, (steps(2), None))]),
    "clip_norm": st.sampled_from([0.5, {"a": 0.3, everything: 1.0}]),
    "drop_norm": st.sampled_from([4.0, {"a": 2.0, "b": 3.0}]),
    "noise": st.sampled_from([0.1, {"out": 0.2}]),
    "centralise": st.sampled_from([True, {"a": True}]),
    "l2": st.sampled_from([0.1, {"a": linear(0.0, 0.5, over=steps(6))}]),
    "max_norm": st.sampled_from([0.8, {"b": 0.4}]),
    "clip_weights": st.sampled_from([0.7, {"a": 0.2}]),
    "carry": st.sampled_from(["sum", "mean", {"a": "sum"}, pieces("mean", (steps(3), "sum"))]),
    "tie": st.sampled_from([{part("a") & "*.bias" | "b.bias": True}, {part("a.bias") | "b.bias": cycle(True)}]),
}
SOME = st.fixed_dictionaries({}, optional=VALUES).map(
    # Tied arrays have the same settings, so nothing else goes by part then.
    lambda chosen: {k: v for k, v in chosen.items() if k == "tie" or "tie" not in chosen or not isinstance(v, dict)}
)
RULES = st.sampled_from(["sgd", "adamw", "nadam", "lion"])
LAW = settings(max_examples=12, deadline=None)


def net_of() -> nn.Module:
    net = graph()
    with torch.no_grad():
        net.b.bias.copy_(net.a.bias)
    return net


def made(net: nn.Module, rule: str, given_: dict[str, Any]) -> Trainer:
    return Trainer(net, rule, learning_rate=0.1, seed=2, update_schedule=SCHEDULED, **given_)


def step(net: nn.Module, trainer: Trainer) -> None:
    trainer.zero_grad()
    give_gradients(net, int(trainer.progress.step))
    trainer.step(2)


@pytest.mark.filterwarnings("ignore")
@LAW
@given(SOME, RULES, st.integers(1, 5))
def test_cut_anywhere_it_is_the_same(chosen: dict[str, Any], rule: str, cut: int) -> None:
    whole, half, other = net_of(), net_of(), net_of()
    one, first, second = made(whole, rule, chosen), made(half, rule, chosen), made(other, rule, chosen)
    for _ in range(6):
        step(whole, one)
    for _ in range(cut):
        step(half, first)
    other.load_state_dict(half.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(6 - cut):
        step(other, second)
    assert all(alike(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore")
@LAW
@given(SOME, RULES)
def test_what_is_held_and_the_users_gradients_are_left_bit_for_bit(chosen: dict[str, Any], rule: str) -> None:
    net = net_of()
    trainer = made(net, rule, chosen)
    step(net, trainer)
    before, memory = arrays(net), copy.deepcopy(trainer.state_dict()["arrays"])
    trainer.zero_grad()
    give_gradients(net, 1)
    gradients = {name: array.grad.clone() for name, array in net.named_parameters() if array.grad is not None}
    trainer.step(2)
    after = trainer.state_dict()["arrays"]
    for name, array in net.named_parameters():
        assert torch.equal(gradients[name], array.grad)  # type: ignore[arg-type]
        if not name.startswith("out"):
            assert alike(array, before[name])
            assert all(alike(a, b) if torch.is_tensor(a) else a == b for a, b in _pairs(memory, after, name))


def _pairs(memory: Any, after: Any, name: str) -> list[tuple[Any, Any]]:
    assert memory[name].keys() == after[name].keys()
    return [(value, after[name][key]) for key, value in memory[name].items()]


@pytest.mark.filterwarnings("ignore")
@LAW
@given(SOME, RULES)
def test_settings_that_are_off_change_nothing(chosen: dict[str, Any], rule: str) -> None:
    """A setting that a rule turns off for everything is one that is not there."""
    off = {"drop_non_finite": False, "centralise": False, "noise": 0.0, "l2": 0.0, "carry": False, "tie": False}
    net, other = net_of(), net_of()
    silent = {key: {everything: off.get(key)} for key in chosen if key != "tie"}
    one, two = made(net, rule, silent), made(other, rule, {})
    for _ in range(3):
        step(net, one)
        step(other, two)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore")
@LAW
@given(SOME, RULES)
def test_tied_arrays_stay_alike_under_everything(chosen: dict[str, Any], rule: str) -> None:
    alone = {key: value for key, value in chosen.items() if not isinstance(value, dict)}
    net = net_of()
    trainer = made(net, rule, {**alone, "tie": {part("a.bias") | "b.bias": True}})
    for _ in range(6):
        step(net, trainer)
        assert alike(net.a.bias, net.b.bias)
    own = trainer.state_dict()["arrays"]
    assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(own["b.bias"][k])) for k, v in own["a.bias"].items())
