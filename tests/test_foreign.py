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
from etude.step.optim.foreign import ForeignOptimizer
from etude.step.optim.options import check_options, options_of, rate_of, settings_of
from etude.step.optim.registry import torch_classes
from etude.step.recipe import Recipe
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.marks import FROZEN
from etude.values.part import everything, part
from etude.values.progress import Extent, Progress
from etude.values.rules import times
from etude.values.schedule import cycle
from etude.values.spans import steps
from etude.values.tree import Tree
from nets import Named, alike, arrays, chain, changed, data, give_gradients, graph, memory_of, same_memory, seeded, walk

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


class Demanding(Plain):
    """Its step cannot do without a closure."""

    def step(self, closure: Any) -> None:
        closure()


class Rateless(torch.optim.Optimizer):
    """Calls its rate something else."""

    def __init__(self, params: Any, speed: float = 0.1) -> None:
        super().__init__(params, {"speed": speed})


class Greedy(torch.optim.Optimizer):
    """Writes into the gradients, keeps a count and a sum in its groups, and wants to be told when it evaluates."""

    def __init__(self, params: Any, lr: float = 0.1, pull: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "pull": pull, "k": 0, "total": 0.0, "training": False})

    @torch.no_grad()
    def train(self) -> None:
        for p in self._of(training=True):
            p.sub_(self.state[p]["fast"])

    @torch.no_grad()
    def eval(self) -> None:
        for p in self._of(training=False):
            p.add_(self.state[p]["fast"])

    def _of(self, training: bool) -> list[Tensor]:
        turned = [group for group in self.param_groups if group["training"] is not training]
        for group in turned:
            group["training"] = training
        return [p for group in turned for p in group["params"] if p in self.state]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert all(group["training"] for group in self.param_groups)
        for group in self.param_groups:
            group["k"] += 1
            group["total"] += group["lr"]
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad.mul_(group["lr"] / group["k"]))
                    self.state[p]["fast"] = p.grad * 0.37


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
    trainer = Trainer([w], "torch.sgd", learning_rate=0.5, learning_rate_multipliers=cycle(1.0, -1.0))
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
    with pytest.raises(SettingError, match="SparseAdam takes sparse gradients only, and 'weight' has a dense one"):
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
    two.load_state_dict(state, keep="new")
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
        (lambda net: Trainer(net, Demanding), r"Demanding computes the loss itself, .*its step\(\) needs a closure"),
        (lambda net: Trainer(net, Demanding(net.parameters(), 1)), r"Use a first-order rule such as \"adamw\", or"),
        (lambda net: Trainer(net, Rateless), r"Rateless has no learning rate `lr` in its parameter groups, .*: params"),
        (
            lambda net: Trainer(net, "rmsprop", alpha=-1),
            "RMSprop cannot be made with the options lr, alpha: Invalid alpha",
        ),
        (
            lambda net: Trainer(net, torch.optim.Muon),
            r"Muon moves matrices only, and '0.bias', '2.bias' are none. Write optimizer=\"muon\", which gives",
        ),
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
    trainer = Trainer(net, Plain, learning_rate=0.5, learning_rate_multipliers=cycle(1.0, -1.0))
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


# every class of torch.optim, by name, beside the same class driven by hand


def matrices() -> nn.Module:
    """Three layers of one matrix each, so that every class takes them."""
    layer = lambda: nn.Linear(4, 4, bias=False)  # noqa: E731
    made: nn.Module = seeded(lambda: Named({"a": layer(), "b": layer(), "out": layer()}))
    return made


def give(net: nn.Module, step: int, sparse: bool) -> None:
    give_gradients(net, step)
    for parameter in net.parameters() if sparse else ():
        assert parameter.grad is not None
        parameter.grad = parameter.grad.to_sparse(1)


@pytest.mark.parametrize("name", sorted(set(torch_classes()) - {"lbfgs"}))
def test_every_class_by_name_is_the_class_driven_by_hand_and_goes_on_from_a_state(name: str) -> None:
    """20 steps of a rate that changes, a multiplier, an array that is held at every other step, one that is frozen."""
    kind, sparse = torch_classes()[name], name == "sparseadam"

    def trained(net: nn.Module) -> Trainer:
        return Trainer(
            net,
            f"torch.{name}",
            learning_rate=linear(0.02, 0, over=steps(40)),
            learning_rate_multipliers={"b": 0.5, "out": 0},
            update_schedule=[part("a"), everything],
        )

    net, twin, late = matrices(), matrices(), matrices()
    trainer, before = trained(net), net.out.weight.detach().clone()  # type: ignore[union-attr]
    alone = kind([{"params": twin.a.parameters()}, {"params": twin.b.parameters()}], lr=0.02)  # type: ignore[union-attr]
    for step in range(20):
        held, memory = arrays(net), memory_of(trainer)
        give(net, step, sparse)
        give(twin, step, sparse)
        trainer.step(2)
        trainer.zero_grad()
        for factor, group in zip((1, 0.5), alone.param_groups, strict=True):
            group["lr"] = 0.02 * (1 - step / 40) * factor
        for parameter in twin.parameters():
            assert parameter.grad is not None
            parameter.grad = parameter.grad / 2
        if step % 2 == 0:
            twin.b.weight.grad = None  # type: ignore[union-attr]
            assert changed(held, net) == {"a.weight"}
            assert same_memory(memory["b.weight"], memory_of(trainer)["b.weight"])
        alone.step()
        if step == 10:
            state = copy.deepcopy(trainer.state_dict())
            late.load_state_dict(net.state_dict())
    assert alike(net.a.weight, twin.a.weight)  # type: ignore[arg-type, union-attr]
    assert alike(net.b.weight, twin.b.weight)  # type: ignore[arg-type, union-attr]
    assert alike(net.out.weight, before)  # type: ignore[arg-type, union-attr]
    again = trained(late)
    again.load_state_dict(state)
    for step in range(11, 20):
        give(late, step, sparse)
        again.step(2)
        again.zero_grad()
    assert all(alike(one, other) for one, other in zip(net.parameters(), late.parameters(), strict=True))
    mine, theirs = memory_of(trainer), memory_of(again)
    assert all(same_memory(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize(
    ("name", "rate"), [("adadelta", 1.0), ("rmsprop", 0.01), ("torch.sgd", 0.001), ("nadam", 0.002)]
)
def test_the_learning_rate_is_that_of_the_class_where_nothing_is_said(name: str, rate: float) -> None:
    trainer = Trainer(chain(), name)
    assert trainer.learning_rate == rate
    assert f"{rate:.3g}" in trainer.table.show()
    assert rate_of(Plain) == 1e-3


# what others do with an optimizer


@pytest.mark.parametrize("given", [0.3, torch.tensor(0.3)])
def test_a_scheduler_of_torch_on_the_same_optimizer_is_found_out(given: Any) -> None:
    net = chain()
    made = torch.optim.SGD(net.parameters(), lr=given)
    trainer = Trainer(net, made)
    scheduler = torch.optim.lr_scheduler.StepLR(made, 1, gamma=0.5)
    give_gradients(net, 0)
    trainer.step()
    trainer.zero_grad()
    scheduler.step()
    before = arrays(net)
    give_gradients(net, 1)
    with pytest.raises(
        SettingError, match=r"(?s)Somebody else has set the learning rate in a parameter group of SGD: .*"
    ):
        trainer.step()
    with pytest.raises(SettingError, match=r"learning_rate=a schedule, such as etude.optim.from_torch\("):
        trainer.step()
    assert not changed(before, net)


def test_a_setting_that_somebody_else_writes_is_found_out() -> None:
    net = chain()
    trainer = Trainer(net, "rmsprop", learning_rate=linear(0.1, 0, over=steps(9)))
    give_gradients(net, 0)
    trainer.step()
    trainer.zero_grad()
    optimizer_of(trainer).param_groups[0]["weight_decay"] = 0.5
    give_gradients(net, 1)
    with pytest.raises(SettingError, match=r"has set 'weight_decay' .*the trainer wrote 0 there and finds 0.5"):
        trainer.step()


def test_a_state_that_the_optimizer_itself_loads_counts() -> None:
    net, twin = chain(), chain()
    made = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
    trainer, alone = Trainer(net, made), torch.optim.SGD(twin.parameters(), lr=0.3, momentum=0.9)
    for step in range(4):
        give_gradients(net, step)
        give_gradients(twin, step)
        trainer.step()
        trainer.zero_grad()
        alone.step()
        if step == 1:
            made.load_state_dict(copy.deepcopy(made.state_dict()))
    assert all(alike(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


def test_an_optimizer_that_writes_into_gradients_gets_its_own() -> None:
    net = chain()
    trainer = Trainer(net, Greedy)
    give_gradients(net, 0)
    copies = {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}
    trainer.step()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, copies[name])


def test_what_an_optimizer_keeps_in_its_groups_is_kept_with_its_arrays() -> None:
    net, late = graph(), graph()
    trainer = Trainer(net, Greedy, learning_rate_multipliers={"b": 0.5}, update_schedule=[part("a"), everything])
    for step in range(3):
        give_gradients(net, step)
        trainer.step()
        trainer.zero_grad()
    state = copy.deepcopy(trainer.state_dict())
    counts = {name: own["group.k"] for name, own in state["arrays"].items()}
    assert counts == {"a.weight": 3, "a.bias": 3, "b.weight": 1, "b.bias": 1, "out.weight": 3, "out.bias": 3}
    assert state["arrays"]["b.weight"]["group.total"] == 0.05
    late.load_state_dict(net.state_dict())
    again = Trainer(late, Greedy, learning_rate_multipliers={"b": 0.5}, update_schedule=[part("a"), everything])
    again.load_state_dict(state)
    for own, made in ((net, trainer), (late, again)):
        for step in range(3, 7):
            give_gradients(own, step)
            made.step()
            made.zero_grad()
    assert all(alike(one, other) for one, other in zip(net.parameters(), late.parameters(), strict=True))
    empty = Trainer(graph(), Greedy, learning_rate_multipliers={"b": 0.5}, update_schedule=[part("a"), everything])
    again.load_state_dict(empty.state_dict())
    assert [group["k"] for group in optimizer_of(again).param_groups] == [0, 0]


def test_an_optimizer_that_counts_and_remembers_nothing_goes_on_counting() -> None:
    class Counting(Plain):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                group["k"] = group.get("k", 0) + 1
                for p in group["params"]:
                    p.sub_(p.grad, alpha=group["lr"] / group["k"])

    net, late = chain(), chain()
    trainer, again = (Trainer(own, Counting, learning_rate=0.1) for own in (net, late))
    give_gradients(net, 0)
    trainer.step()
    trainer.zero_grad()
    late.load_state_dict(net.state_dict())
    again.load_state_dict(trainer.state_dict())
    for own, made in ((net, trainer), (late, again)):
        give_gradients(own, 1)
        made.step()
    assert optimizer_of(again).param_groups[0]["k"] == 2
    assert all(alike(one, other) for one, other in zip(net.parameters(), late.parameters(), strict=True))


def test_arrays_to_evaluate_and_the_same_bits_afterwards() -> None:
    net = chain()
    trainer = Trainer(net, Greedy, learning_rate_multipliers={2: 0})
    assert isinstance(trainer.optimizer, ForeignOptimizer)
    give_gradients(net, 0)
    trainer.step()
    trainer.zero_grad()
    before = arrays(net)
    with trainer.optimizer.evaluating(), trainer.optimizer.evaluating():
        assert changed(before, net) == {"0.weight", "0.bias"}
        fast = optimizer_of(trainer).state[net[0].weight]["fast"]
        assert torch.equal(net[0].weight, before["0.weight"] + fast)
    assert not changed(before, net)
    give_gradients(net, 1)
    trainer.step()
    plain = Trainer(chain(), "rmsprop").optimizer
    with plain.evaluating():
        pass


def test_the_schedule_free_optimizers_train_and_evaluate() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    net, twin = chain(), chain()
    trainer = Trainer(net, "schedulefree.adamw", learning_rate=0.1, warmup_steps=3)
    alone = schedulefree.AdamWScheduleFree(twin.parameters(), lr=0.1, warmup_steps=3)
    alone.train()
    for step in range(5):
        give_gradients(net, step)
        give_gradients(twin, step)
        trainer.step()
        trainer.zero_grad()
        alone.step()
    assert all(alike(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))
    alone.eval()
    with trainer.optimizer.evaluating():
        assert all(alike(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))
    state, late = copy.deepcopy(trainer.state_dict()), chain()
    late.load_state_dict(net.state_dict())
    again = Trainer(late, "schedulefree.adamw", learning_rate=0.1, warmup_steps=3)
    again.load_state_dict(state)
    for own, made in ((net, trainer), (late, again)):
        give_gradients(own, 9)
        made.step()
    assert all(alike(one, other) for one, other in zip(net.parameters(), late.parameters(), strict=True))


def test_an_optimizer_of_another_collection_is_that_class() -> None:
    collection = pytest.importorskip("pytorch_optimizer")
    net, twin = chain(), chain()
    trainer = Trainer(net, "pytorch_optimizer.Lion", learning_rate=0.01, weight_decay=0.1)
    alone = collection.Lion(twin.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(3):
        give_gradients(net, step)
        give_gradients(twin, step)
        trainer.step()
        trainer.zero_grad()
        alone.step()
    assert all(alike(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("instance", [True, False])
@pytest.mark.parametrize("maximize", [True, False])
def test_other_rows_leave_memory_and_direction_what_they_are(instance: bool, maximize: bool) -> None:
    """A part climbs, another is held by hand for a step and then moves again, with other rules for what is left."""
    net, twin = graph(), graph()
    options = {"lr": 0.1, "momentum": 0.9, "maximize": maximize}
    made = torch.optim.SGD(net.parameters(), **options) if instance else torch.optim.SGD
    given = {} if instance else {"momentum": 0.9, "maximize": maximize}
    recipe = Recipe(made, learning_rate=0.1, multipliers={"a": -1}, settings=given)
    table = recipe.table(Tree(net), Extent(), ())
    optimizer = recipe.optimizer_for(table)
    assert isinstance(optimizer, ForeignOptimizer)
    climbing = {"params": twin.a.parameters(), "maximize": not maximize}
    alone = torch.optim.SGD([climbing, {"params": twin.b.parameters()}, {"params": twin.out.parameters()}], **options)
    for step, held in enumerate(((), ("b.weight", "b.bias"), (), tuple(table.names), ())):
        table = recipe.table(Tree(net), Extent(), (), held)
        optimizer.use(table)
        give_gradients(net, step)
        give_gradients(twin, step)
        now = table.at(Progress())
        optimizer.move(now, [g for i in now.moving.indices if (g := optimizer.arrays[i].grad) is not None])
        for name, parameter in twin.named_parameters():
            parameter.grad = None if name in held else parameter.grad
        alone.step()
    assert all(alike(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


def test_arrays_that_are_thawed_join_an_optimizer_that_did_not_have_them() -> None:
    net, twin = graph(), graph()
    trainer = Trainer(net, "rmsprop", learning_rate=0.1, learning_rate_multipliers={"a": 0})
    alone = torch.optim.RMSprop([*twin.b.parameters(), *twin.out.parameters()], lr=0.1)
    for step in range(4):
        give_gradients(net, step)
        give_gradients(twin, step)
        trainer.step()
        trainer.zero_grad()
        alone.step()
        if step == 1:
            trainer.thaw("a")
            alone.add_param_group({"params": twin.a.parameters()})
    assert all(alike(one, other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_rate_that_is_a_tensor_is_one_for_each_row() -> None:
    net = graph()
    made = torch.optim.SGD(net.parameters(), lr=torch.tensor(0.1))
    trainer = Trainer(net, made, learning_rate_multipliers={"a": 0.5, "b": 2})
    give_gradients(net, 0)
    before = arrays(net)
    trainer.step()
    for name, factor in {"a.bias": 0.05, "b.bias": 0.2, "out.bias": 0.1}.items():
        array = dict(net.named_parameters())[name]
        assert array.grad is not None
        assert torch.allclose(array, before[name] - factor * array.grad)


# arrays in half precision


@pytest.mark.parametrize("instance", [True, False])
def test_arrays_in_half_precision_are_copies_in_float32_rounded(instance: bool) -> None:
    low, exact = graph().bfloat16(), graph()
    with torch.no_grad():
        for one, other in zip(exact.parameters(), low.parameters(), strict=True):
            one.copy_(other)
    made = torch.optim.RMSprop(low.parameters(), lr=1e-4) if instance else "rmsprop"
    trainer = Trainer(low, made, learning_rate=1e-4, update_schedule=[everything, part("a")])
    alone = torch.optim.RMSprop(exact.parameters(), lr=1e-4)
    for step in range(6):
        give_gradients(low, step)
        for name, one in exact.named_parameters():
            own = dict(low.named_parameters())[name].grad
            one.grad = None if own is None or (step % 2 and not name.startswith("a.")) else own.float()
        trainer.step()
        trainer.zero_grad()
        alone.step()
    for one, other in zip(exact.parameters(), low.parameters(), strict=True):
        assert other.dtype is torch.bfloat16
        assert alike(one.detach().bfloat16(), other.detach())
    kept = memory_of(trainer)["a.weight"]
    assert alike(kept["master"], exact.a.weight.detach())
    again = Trainer(graph().bfloat16(), "rmsprop", learning_rate=1e-4, update_schedule=[everything, part("a")])
    again.load_state_dict(trainer.state_dict())
    assert all(same_memory(own, memory_of(again)[name]) for name, own in memory_of(trainer).items())


def test_what_somebody_writes_into_an_array_in_half_precision_counts() -> None:
    net = nn.Linear(3, 2, bias=False).bfloat16()
    trainer = Trainer(net, "torch.sgd", learning_rate=2.0**-10)
    give_gradients(net, 0)
    trainer.step()
    trainer.zero_grad()
    with torch.no_grad():
        net.weight.fill_(4.0)
    net.weight.grad = torch.ones_like(net.weight)
    trainer.step()
    exact = torch.full((2, 3), 4.0 - 2.0**-10)
    assert torch.equal(memory_of(trainer)["weight"]["master"], exact)
    assert torch.equal(net.weight, exact.bfloat16())


def test_arrays_may_get_other_numbers_on_the_way() -> None:
    net, twin = chain(), chain().double()
    trainer, alone = Trainer(net, "rmsprop", momentum=0.9), Trainer(twin, "rmsprop", momentum=0.9)
    for step in range(4):
        if step == 2:
            net.double()
        for own, made in ((net, trainer), (twin, alone)):
            give_gradients(own, step)
            made.step()
            made.zero_grad()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert memory_of(trainer)["0.weight"]["square_avg"].dtype is torch.float64


def test_rounding_by_chance_is_for_rules_of_this_library() -> None:
    with pytest.raises(SettingError, match=r'half="stochastic": .* Write half="master"'):
        Trainer(chain().bfloat16(), "rmsprop", half="stochastic")
