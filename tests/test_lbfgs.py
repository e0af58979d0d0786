"""L-BFGS through a trainer, beside torch's driven by hand; what is held, errors on the way, the state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import NonFiniteError, SettingError, StateError
from etude.step.optim.lbfgs import LBFGSOptimizer
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.part import everything, part
from etude.values.spans import steps
from nets import alike, arrays, chain, changed, data, graph, memory_of, same_memory

X, Y = data(1, 16)[0]


def summed(net: nn.Module) -> Callable[[], Tensor]:
    """A closure of the summed loss, as a trainer wants it."""

    def closure() -> Tensor:
        loss: Tensor = (net(X) - Y).square().mean(1).sum()
        loss.backward()
        return loss

    return closure


def by_hand(net: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    """The same for torch: the mean loss, from gradients that are cleared; as a trainer it divides them afterwards."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = summed(net)() / len(X)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = parameter.grad / len(X)
        return loss.detach()

    return closure


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(alike(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"max_iter": 4},
        {"max_iter": 4, "line_search_fn": "strong_wolfe"},
        {"max_iter": 3, "history_size": 2, "tolerance_change": 0.0},
    ],
)
def test_it_is_torchs(options: dict[str, Any]) -> None:
    net, twin = chain(), chain()
    trainer = Trainer(net, "lbfgs", learning_rate=linear(0.8, 0.3, over=steps(5)), **options)
    alone = torch.optim.LBFGS(twin.parameters(), lr=0.8, **options)
    for step in range(5):
        alone.param_groups[0]["lr"] = 0.8 - 0.1 * step
        assert trainer.step(len(X), closure=summed(net))
        alone.step(by_hand(twin, alone))  # type: ignore[no-untyped-call]
    assert same(net, twin)
    assert summed(net)().item() < 0.5 * summed(chain())().item()


def test_the_rate_is_one_where_nothing_is_said() -> None:
    assert Trainer(chain(), "lbfgs").learning_rate == 1


def test_what_is_held_stays_and_so_does_what_is_remembered_of_it() -> None:
    """Two parts in turn are two optimizers on the two parts."""
    net, twin = graph(), graph()
    trainer = Trainer(net, "lbfgs", learning_rate=0.5, max_iter=3, update_schedule=["a", "b"])
    own = {key: torch.optim.LBFGS(getattr(twin, key).parameters(), lr=0.5, max_iter=3) for key in "ab"}
    for step in range(6):
        turn, other = "ab"[step % 2], "ba"[step % 2]
        before, memory = arrays(net), memory_of(trainer)
        trainer.step(len(X), closure=summed(net))
        assert changed(before, net) == {f"{turn}.weight", f"{turn}.bias"}
        assert same_memory(memory[f"{other}.weight"], memory_of(trainer)[f"{other}.weight"])
        own[turn].step(by_hand(twin, own[turn]))  # type: ignore[no-untyped-call]
    assert same(net, twin)
    assert memory_of(trainer)["out.weight"] == {}


def test_a_set_that_shares_arrays_begins_anew() -> None:
    net, twin = graph(), graph()
    trainer = Trainer(net, "lbfgs", learning_rate=0.5, max_iter=3, update_schedule=["a", everything])
    for step in range(4):
        trainer.step(len(X), closure=summed(net))
        alone = torch.optim.LBFGS((twin.a if step % 2 == 0 else twin).parameters(), lr=0.5, max_iter=3)
        alone.step(by_hand(twin, alone))  # type: ignore[no-untyped-call]
        assert same(net, twin)


def test_it_goes_on_from_a_state_to_the_same_bits() -> None:
    net, late = graph(), graph()
    settings = {"learning_rate": 0.5, "max_iter": 3, "history_size": 4, "update_schedule": [part("a") | "out", "b"]}
    trainer = Trainer(net, "lbfgs", **settings)
    for _ in range(6):
        trainer.step(len(X), closure=summed(net))
    state = copy.deepcopy(trainer.state_dict())
    late.load_state_dict(net.state_dict())
    again = Trainer(late, "lbfgs", **settings)
    again.load_state_dict(state)
    for _ in range(4):
        trainer.step(len(X), closure=summed(net))
        again.step(len(X), closure=summed(late))
    assert same(net, late)
    mine, theirs = memory_of(trainer), memory_of(again)
    assert all(same_memory(mine[name], theirs[name]) for name in mine)


def test_the_state_has_pieces_of_the_shape_of_each_array() -> None:
    net = chain()
    trainer = Trainer(net, "lbfgs", max_iter=4)
    trainer.step(len(X), closure=summed(net))
    own = trainer.state_dict()["arrays"]["2.weight"]
    assert own["together"] == "0.weight"
    assert own["d"].shape == own["prev_flat_grad"].shape == (2, 5)
    assert own["old_dirs"].shape == own["old_stps"].shape == (len(own["ro"]), 2, 5)
    assert own["n_iter"] == 4


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    net = chain()
    trainer = Trainer(net, "lbfgs", max_iter=2)
    trainer.step(len(X), closure=summed(net))
    before, state = memory_of(trainer), copy.deepcopy(trainer.state_dict())
    state["arrays"]["0.weight"]["d"] = torch.zeros(3)
    with pytest.raises(StateError, match=r"memory 'd' has shape \(3,\), the array \(5, 3\)"):
        trainer.load_state_dict(state)
    state["arrays"]["0.weight"] = {"speed": 1}
    with pytest.raises(StateError, match=r"the memory \['speed'\] is none of LBFGS: d, prev_flat_grad, old_dirs"):
        trainer.load_state_dict(state)
    assert all(same_memory(before[name], own) for name, own in memory_of(trainer).items())


def test_an_error_on_the_way_leaves_everything_as_it_was() -> None:
    net, twin = chain(), chain()
    trainer = Trainer(net, "lbfgs", max_iter=3, learning_rate=0.5)
    alone = torch.optim.LBFGS(twin.parameters(), max_iter=3, lr=0.5)
    trainer.step(len(X), closure=summed(net))
    alone.step(by_hand(twin, alone))  # type: ignore[no-untyped-call]
    before, memory, calls = arrays(net), memory_of(trainer), []

    def breaks() -> Tensor:
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyError("no batch")
        return summed(net)()

    with pytest.raises(KeyError, match="no batch"):
        trainer.step(len(X), closure=breaks)
    assert not changed(before, net)
    assert all(same_memory(memory[name], own) for name, own in memory_of(trainer).items())
    trainer.step(len(X), closure=summed(net))
    alone.step(by_hand(twin, alone))  # type: ignore[no-untyped-call]
    assert same(net, twin)


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_loss_that_is_not_finite_on_the_way_leaves_everything_as_it_was(policy: str) -> None:
    net = chain()
    trainer = Trainer(net, "lbfgs", max_iter=5, non_finite=policy)
    before, calls = arrays(net), []

    def breaks() -> Tensor:
        calls.append(len(calls))
        loss = (net(X) * (float("nan") if len(calls) == 2 else 1)).square().sum()
        loss.backward()
        return loss

    if policy == "skip":
        assert not trainer.step(closure=breaks)
    else:
        with pytest.raises(NonFiniteError, match=r"Step 1 is refused: the gradients of '0.weight'"):
            trainer.step(closure=breaks)
    assert len(calls) == 2
    assert not changed(before, net)


def test_an_instance_is_used_as_it_is() -> None:
    net, twin = chain(), chain()
    made = torch.optim.LBFGS(net.parameters(), lr=0.4, max_iter=3)
    alone = torch.optim.LBFGS(twin.parameters(), lr=0.4, max_iter=3)
    trainer = Trainer(net, made)
    assert isinstance(trainer.optimizer, LBFGSOptimizer)
    assert trainer.optimizer.optimizer is None
    for _ in range(3):
        trainer.step(len(X), closure=summed(net))
        alone.step(by_hand(twin, alone))  # type: ignore[no-untyped-call]
    assert trainer.optimizer.optimizer is made
    assert same(net, twin)


def test_a_shorter_history_forgets_the_oldest() -> None:
    net = chain()
    trainer = Trainer(net, "lbfgs", max_iter=5, history_size=linear(8, 2, over=steps(3)), tolerance_change=0.0)
    for _ in range(3):
        trainer.step(len(X), closure=summed(net))
    assert len(memory_of(trainer)["0.bias"]["ro"]) <= 4


def test_gradients_in_any_order_of_memory() -> None:
    net, twin = nn.Conv2d(3, 2, 2).to(memory_format=torch.channels_last), nn.Conv2d(3, 2, 2)
    twin.load_state_dict(net.state_dict())
    image = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))

    def closure_of(own: nn.Module, x: Tensor) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            loss: Tensor = own(x).square().sum()
            loss.backward()
            return loss

        return closure

    for own, x in ((net, image.to(memory_format=torch.channels_last)), (twin, image)):
        Trainer(own, "lbfgs", max_iter=3, learning_rate=0.01).step(4, closure=closure_of(own, x))
    assert torch.allclose(net.weight, twin.weight, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: Trainer(net, "lbfgs", learning_rate_multipliers={0: 0.5}), r"with one value .*'0.weight', '2.w"),
        (
            lambda net: Trainer(net, "lbfgs", max_iter=2.5),
            r"max_iter=2.5: a whole number of at least 1 is needed",
        ),
        (lambda net: Trainer(net, "lbfgs", history=3), r"LBFGS has no option 'history'.*Nearest: \"history_size\""),
        (lambda net: Trainer(net, {0: "lbfgs", everything: "adam"}), r"LBFGS computes the loss .* one of several"),
        (lambda net: Trainer(net, "lbfgs").step(), r"LBFGS computes the loss itself, .*closure=f"),
        (lambda net: Trainer(net, "adamw").step(closure=summed(net)), r"closure= is for optimizers .*Leave it out"),
        (
            lambda net: Trainer(net, "lbfgs", learning_rate=0.1, learning_rate_multipliers=-1),
            "A negative learning rate climbs, and L-BFGS cannot. Make the loss negative",
        ),
        (
            lambda net: Trainer(net, torch.optim.LBFGS(net.parameters()), update_schedule=[0, 2]).step(
                16, closure=summed(net)
            ),
            r"The LBFGS given has 4 arrays, which move as one vector, and this step moves 2: '0.weight', '0.bias'",
        ),
        (
            lambda net: Trainer(net, "lbfgs", line_search_fn="wolfe"),
            r"line_search_fn='wolfe': \"strong_wolfe\" or None",
        ),
        (lambda net: Trainer(net, torch.optim.LBFGS(net[0].parameters())), r"The LBFGS given has 2 arrays, .* moves 4"),
        (lambda net: Trainer(net, "lbfgs", lr=1), "learning rate is given as learning_rate="),
    ],
)
def test_what_cannot_work_is_said_before_anything_changes(make: Any, message: str) -> None:
    net = chain()
    before = arrays(net)
    with pytest.raises(SettingError, match=message):
        make(net)
    assert not changed(before, net)


def test_gradients_alone_are_not_enough() -> None:
    trainer = Trainer(chain(), "lbfgs")
    with pytest.raises(SettingError, match=r"it cannot step on gradients that are there. Write trainer.step\("):
        trainer.optimizer.move(trainer.table.at(trainer.progress), [])
