"""Optimizers of torch's shape, used as they are: rows as groups, held arrays, instances, factories."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import SettingError, StateError
from etude.step.optim.foreign import ForeignOptimizer, check_options, options_of, settings_of
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.marks import FROZEN
from etude.values.part import part
from etude.values.rules import times
from etude.values.schedule import cycle
from etude.values.spans import steps
from nets import alike, arrays, chain, data, give_gradients, graph, memory_of, walk

NAMES = {
    "torch.sgd": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "torch.adam": (torch.optim.Adam, {"amsgrad": True}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.9, "alpha": 0.95}),
    "adagrad": (torch.optim.Adagrad, {"lr_decay": 0.01}),
    "nadam": (torch.optim.NAdam, {"weight_decay": 0.1}),
    "radam": (torch.optim.RAdam, {}),
    "adamax": (torch.optim.Adamax, {}),
    "adadelta": (torch.optim.Adadelta, {"rho": 0.8}),
    "asgd": (torch.optim.ASGD, {}),
    "rprop": (torch.optim.Rprop, {}),
    "adafactor": (torch.optim.Adafactor, {}),
}


def optimizer_of(trainer: Trainer) -> torch.optim.Optimizer:
    assert isinstance(trainer.optimizer, ForeignOptimizer)
    assert trainer.optimizer.optimizer is not None
    return trainer.optimizer.optimizer


class Plain(torch.optim.Optimizer):
    """An optimizer of somebody's own: needs its rate, cannot climb, and counts its steps in its groups."""

    def __init__(self, params: Any, lr: float, pull: float = 0.0, mode: str = "down") -> None:
        super().__init__(params, {"lr": lr, "pull": pull, "mode": mode})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * (p.grad + group["pull"] * p))


@pytest.mark.parametrize("name", NAMES)
def test_a_class_of_torch_by_name_does_what_it_does_alone(name: str) -> None:
    kind, settings = NAMES[name]
    net, twin = graph(), graph()
    trainer = Trainer(net, name, learning_rate=0.01, **settings)
    alone = kind(twin.parameters(), lr=0.01, **settings)
    for step in range(4):
        give_gradients(net, step)
        give_gradients(twin, step)
        trainer.step()
        trainer.zero_grad()
        alone.step()
    assert all(alike(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


def test_rows_are_groups_with_their_own_settings() -> None:
    net, twin = graph(), graph()
    rules = {"learning_rate": {"a": times(0.5), "b": -0.2}, "weight_decay": {"*.bias": 0}}
    trainer = Trainer(net, torch.optim.AdamW, learning_rate=0.1, weight_decay=0.1, rules=rules)
    groups = [
        {"params": [twin.a.weight], "lr": 0.05},
        {"params": [twin.a.bias], "lr": 0.05, "weight_decay": 0},
        {"params": [twin.b.weight], "lr": 0.2, "maximize": True},
        {"params": [twin.b.bias], "lr": 0.2, "maximize": True, "weight_decay": 0},
        {"params": [twin.out.weight]},
        {"params": [twin.out.bias], "weight_decay": 0},
    ]
    alone = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1)
    for step in range(4):
        give_gradients(net, step)
        give_gradients(twin, step)
        trainer.step()
        trainer.zero_grad()
        alone.step()
    assert all(alike(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


def test_settings_may_be_schedules() -> None:
    net, twin = graph(), graph()
    decay = linear(0.1, 0.5, over=steps(4))
    trainer = Trainer(net, "torch.sgd", learning_rate=linear(0.1, 0, over=steps(4)), weight_decay=decay)
    alone = torch.optim.SGD(twin.parameters(), lr=0.1)
    for step in range(4):
        give_gradients(net, step)
        give_gradients(twin, step)
        alone.param_groups[0].update(lr=0.1 - 0.025 * step, weight_decay=0.1 + 0.1 * step)
        trainer.step()
        trainer.zero_grad()
        alone.step()
    assert all(torch.allclose(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_rate_may_turn_around() -> None:
    w = nn.Parameter(torch.zeros(1))
    trainer = Trainer([w], "torch.sgd", learning_rate=cycle(0.5, -0.5))
    for expected in (-0.5, 0.0, -0.5):
        w.grad = torch.ones(1)
        trainer.step()
        trainer.zero_grad()
        assert w.item() == expected


def test_an_instance_keeps_its_rate_its_settings_and_its_memory() -> None:
    net, twin = chain(), chain()
    made = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=0.1)
    alone = torch.optim.SGD(twin.parameters(), lr=0.3, momentum=0.9, weight_decay=0.1)
    for step in range(4):
        give_gradients(net, step)
        give_gradients(twin, step)
        if step < 2:
            made.step()
        elif step == 2:
            trainer = Trainer(net, made)
            assert trainer.learning_rate == 0.3
            trainer.step()
        else:
            trainer.step()
        net.zero_grad()
        alone.step()
    assert optimizer_of(trainer) is made
    assert all(alike(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


def test_the_groups_of_an_instance_are_rules_after_those_of_the_call() -> None:
    net = graph()
    made = torch.optim.SGD(
        [
            {"params": net.a.parameters(), "lr": 0.2},
            {"params": net.b.parameters(), "momentum": 0.5},
            {"params": net.out.parameters(), "maximize": False},
        ],
        lr=0.1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = Trainer(net, made, rules={"learning_rate": {"a.bias": FROZEN}}, strict=True)
    assert trainer.table.multipliers() == {
        "a.weight": 1.0,
        "a.bias": 0.0,
        "b.weight": 0.5,
        "b.bias": 0.5,
        "out.weight": 0.5,
        "out.bias": 0.5,
    }
    assert [group["momentum"] for group in optimizer_of(trainer).param_groups] == [0, 0.5, 0]


def test_rules_and_a_new_rate_leave_the_rates_of_the_groups_what_they_are() -> None:
    net = graph()
    groups = [
        {"params": net.a.parameters(), "lr": 0.2},
        {"params": net.b.parameters()},
        {"params": net.out.parameters(), "lr": 0.4},
    ]
    made = torch.optim.SGD(groups, lr=0.1)
    trainer = Trainer(net, made, learning_rate_multipliers={"out.bias": 0.5})
    assert trainer.learning_rate == 0.2
    assert trainer.table.multipliers()["b.bias"] == 0.5
    assert trainer.table.multipliers()["out.bias"] == 1.0
    for n, rate in enumerate((0.2, 0.1, 0.4, 0.7)):
        trainer.set_learning_rate(rate)
        give_gradients(net, n)
        trainer.step()
        trainer.zero_grad()
        assert [group["lr"] for group in made.param_groups] == [rate, 0.1, 0.4, 0.2]


def test_what_the_call_says_comes_before_what_the_groups_say() -> None:
    net = graph()
    made = torch.optim.SGD(
        [{"params": net.a.parameters(), "lr": 0.2}, {"params": [*net.b.parameters(), *net.out.parameters()]}], lr=0.1
    )
    trainer = Trainer(net, made, learning_rate=0.5, momentum=0.9)
    assert set(trainer.table.multipliers().values()) == {1.0}
    give_gradients(net, 0)
    trainer.step()
    assert {(group["lr"], group["momentum"]) for group in made.param_groups} == {(0.5, 0.9)}


def test_an_instance_that_climbs_keeps_climbing() -> None:
    net, twin = chain(), chain()
    trainer = Trainer(net, torch.optim.Adam(net.parameters(), lr=0.1, maximize=True), learning_rate_multipliers={0: -1})
    alone = torch.optim.Adam(
        [{"params": twin[0].parameters(), "maximize": False}, {"params": twin[2].parameters()}], lr=0.1, maximize=True
    )
    give_gradients(net, 0)
    give_gradients(twin, 0)
    trainer.step()
    alone.step()
    assert all(alike(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_factory_gets_groups() -> None:
    net = graph()
    given: list[Any] = []

    def factory(groups: Iterable[Any]) -> torch.optim.Optimizer:
        given.extend(groups)
        return torch.optim.SGD(given, lr=7.0, momentum=0.9)

    trainer = Trainer(net, factory, learning_rate=0.1, learning_rate_multipliers={"a": 0, "b": 2})
    assert [len(group["params"]) for group in given] == [2, 2]
    assert trainer.name == "factory"
    for moved in walk(net, trainer, data(2)):
        assert moved == {"b.weight", "b.bias", "out.weight", "out.bias"}
    assert [group["lr"] for group in optimizer_of(trainer).param_groups] == [0.2, 0.1]


def test_a_class_of_torchs_shape_that_needs_its_rate() -> None:
    net = chain()
    before = arrays(net)
    trainer = Trainer(net, Plain, learning_rate=0.5, pull=0.1, rules={"pull": {0: 0}})
    give_gradients(net, 0)
    trainer.step()
    for name, array in net.named_parameters():
        assert array.grad is not None
        pull = 0 if name.startswith("0") else 0.1
        assert torch.allclose(array, before[name] - 0.5 * (array.grad + pull * before[name]))


def test_gradients_are_as_they_were_after_the_step() -> None:
    net = graph()
    trainer = Trainer(net, "rmsprop", update_schedule=["a"], weight_decay=0.1)
    give_gradients(net, 0)
    before = {name: parameter.grad for name, parameter in net.named_parameters()}
    copies = {name: gradient.clone() for name, gradient in before.items() if gradient is not None}
    trainer.step()
    for name, parameter in net.named_parameters():
        assert parameter.grad is before[name]
        assert torch.equal(parameter.grad, copies[name])


def test_gradients_are_as_they_were_after_a_step_that_failed() -> None:
    net = nn.Embedding(3, 2)
    trainer = Trainer(net, "sparseadam")
    net(torch.tensor([1])).sum().backward()
    gradient = net.weight.grad
    with pytest.raises(RuntimeError, match="does not support dense gradients"):
        trainer.step()
    assert net.weight.grad is gradient


def test_sparse_gradients_stay_sparse() -> None:
    net = nn.Embedding(5, 2, sparse=True)
    before = net.weight.detach().clone()
    trainer = Trainer(net, "sparseadam", learning_rate=0.1)
    net(torch.tensor([1, 3])).sum().backward()
    trainer.step(2)
    assert (before != net.weight).any(1).tolist() == [False, True, False, True, False]


def test_fused_kernels_get_gradients_in_the_order_of_their_array() -> None:
    for gradient in (torch.randn(3, 2).t(), torch.randn(1, 3).expand(2, 3)):
        ours, theirs = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
        trainer = Trainer([ours], "torch.adamw", learning_rate=0.1, fused=True)
        alone = torch.optim.AdamW([theirs], lr=0.1, foreach=False)
        ours.grad, theirs.grad = gradient, gradient.contiguous()
        trainer.step()
        alone.step()
        assert torch.allclose(ours, theirs)
        assert ours.grad is gradient


def test_everything_frozen_needs_no_optimizer() -> None:
    net = graph()
    trainer = Trainer(net, "rmsprop", learning_rate_multipliers=0)
    assert isinstance(trainer.optimizer, ForeignOptimizer)
    assert trainer.optimizer.optimizer is None
    for moved in walk(net, trainer, data(2)):
        assert moved == set()
    state = copy.deepcopy(trainer.state_dict())
    Trainer(graph(), "rmsprop", learning_rate_multipliers=0).load_state_dict(state)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_by_names_loads_where_arrays_have_another_order(name: str) -> None:
    """Torch keys memory by position; here the groups differ and the names decide."""
    net, twin = graph(), graph()
    one = Trainer(net, name, learning_rate=0.01)
    two = Trainer(twin, name, learning_rate=0.01, learning_rate_multipliers={"out": 1.0 + 1e-12, "b": 1.0 - 1e-12})
    for trainer, own in ((one, net), (two, twin)):
        give_gradients(own, 0)
        trainer.step()
        trainer.zero_grad()
    state = copy.deepcopy(one.state_dict())
    twin.load_state_dict(net.state_dict())
    two.load_state_dict(state)
    for trainer, own in ((one, net), (two, twin)):
        give_gradients(own, 1)
        trainer.step()
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_state_is_copied_in_the_order_of_its_array() -> None:
    net = nn.Conv2d(3, 2, 2).to(memory_format=torch.channels_last)
    trainer = Trainer(net, "torch.adamw")
    give_gradients(net, 0)
    trainer.step()
    saved = copy.deepcopy(trainer.state_dict())
    for own in saved["arrays"].values():
        own.update({key: value.contiguous() for key, value in own.items() if isinstance(value, Tensor)})
    fresh = Trainer(net, "torch.adamw")
    fresh.load_state_dict(saved)
    kept = memory_of(fresh)["weight"]["exp_avg"]
    assert optimizer_of(fresh).state[net.weight]["exp_avg"].stride() == net.weight.stride()
    assert torch.equal(kept, saved["arrays"]["weight"]["exp_avg"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("exp_avg", torch.zeros(7, 3), r"memory 'exp_avg' has shape \(7, 3\), the array \(5, 3\)"),
        ("speed", torch.zeros(5, 3), r"memory 'speed' is none of AdamW: \['exp_avg', 'exp_avg_sq', 'step'\]"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(key: str, value: Tensor, message: str) -> None:
    net = chain()
    trainer = Trainer(net, "torch.adamw")
    give_gradients(net, 0)
    trainer.step()
    before, state = memory_of(trainer), copy.deepcopy(trainer.state_dict())
    state["arrays"]["2.bias"]["exp_avg"] = torch.full((2,), 9.0)
    state["arrays"]["0.weight"][key] = value
    with pytest.raises(StateError, match=message):
        trainer.load_state_dict(state)
    after = memory_of(trainer)
    assert all(torch.equal(before[name]["exp_avg"], after[name]["exp_avg"]) for name in before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: Trainer(net, "lbfgs"), r"LBFGS computes the loss itself, several times a step"),
        (lambda net: Trainer(net, torch.optim.LBFGS(net.parameters())), "its step\\(\\) needs a closure"),
        (
            lambda net: Trainer(net, "rmsprop", alpha=-1),
            "RMSprop cannot be made with the options lr, alpha: Invalid alpha",
        ),
        (lambda net: Trainer(net, "muon"), "Muon cannot be made with the options lr: Muon only supports 2D"),
        (
            lambda net: Trainer(net, lambda groups: groups),
            "The optimizer factory returned list: a torch.optim.Optimizer",
        ),
        (
            lambda net: Trainer(net, lambda: None),
            r"<lambda> cannot be made with the options none: .*positional argument",
        ),
        (lambda net: Trainer(net, Plain, learning_rate_multipliers=-1), r"climbs, and Plain has no option to climb"),
        (lambda net: Trainer(net, Plain, learning_rate_multipliers={0: -1}), "make the loss negative"),
        (lambda net: Trainer(net, "rmsprop", alpa=0.9), r"RMSprop has no option 'alpa'.*Nearest: \"alpha\""),
        (lambda net: Trainer(net, "rmsprop", lr=0.9), r"(?s)learning rate is given as learning_rate="),
        (
            lambda net: Trainer(net, torch.optim.SGD(net[0].parameters(), lr=1)),
            r"The SGD given does not have '2.weight', '2.bias'. Give it all arrays of the net, or say which",
        ),
        (
            lambda net: Trainer(
                net, torch.optim.SGD([{"params": net.parameters()}, {"params": [nn.Parameter(torch.zeros(1))]}], lr=1)
            ),
            r"The SGD given has 1 array that the net does not have",
        ),
        (
            lambda net: Trainer(net, torch.optim.SGD([*net.parameters(), nn.Parameter(torch.zeros(1))], lr=1)),
            r"The SGD given has 1 array that the net does not have",
        ),
        (
            lambda net: Trainer(
                net,
                torch.optim.SGD(
                    [{"params": net[0].parameters(), "maximize": True}, {"params": net[2].parameters()}], lr=1
                ),
            ),
            r"groups of this SGD are computed in different ways: .*'maximize': False.* and .*'maximize': True",
        ),
        (
            lambda net: Trainer([nn.Parameter(torch.zeros(4, 6)[:, ::2])], "torch.adamw", fused=True),
            r"fused=True: the array '0' has gaps in memory",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_changes(make: Any, message: str) -> None:
    net = chain()
    before = arrays(net)
    with pytest.raises(SettingError, match=message):
        make(net)
    assert all(torch.equal(before[name], array) for name, array in arrays(net).items())


def test_a_rate_that_turns_later_is_refused_when_it_does() -> None:
    net = chain()
    trainer = Trainer(net, Plain, learning_rate=cycle(0.5, -0.5))
    give_gradients(net, 0)
    trainer.step()
    before = arrays(net)
    give_gradients(net, 1)
    with pytest.raises(SettingError, match="climbs"):
        trainer.step()
    assert all(torch.equal(before[name], array) for name, array in arrays(net).items())


def test_an_instance_of_a_part_goes_with_that_part() -> None:
    for given in ({"part": 0}, {"learning_rate_multipliers": {2: FROZEN}}):
        net = chain()
        trainer = Trainer(net, torch.optim.SGD(net[0].parameters(), lr=0.1), **given)
        for moved in walk(net, trainer, data(1)):
            assert moved == {"0.weight", "0.bias"}


def test_the_options_of_a_class() -> None:
    assert options_of(Plain) == {"lr": options_of(Plain)["lr"], "pull": 0.0, "mode": "down"}
    assert settings_of(options_of(torch.optim.Adam)).keys() == {"betas", "eps", "weight_decay", "amsgrad"} | (
        {"decoupled_weight_decay"} if "decoupled_weight_decay" in options_of(torch.optim.Adam) else set()
    )
    check_options(Plain, {"pull": 1})
    assert math.isclose(
        settings_of(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1, momentum=0.5))["momentum"], 0.5
    )


def test_rules_may_set_what_a_class_has_in_pairs() -> None:
    net = chain()
    trainer = Trainer(net, "torch.adam", rules={"betas": {0: (0.5, 0.9)}}, update_schedule=[part(0) | 2])
    give_gradients(net, 0)
    trainer.step()
    assert [group["betas"] for group in optimizer_of(trainer).param_groups] == [(0.5, 0.9), (0.9, 0.999)]
