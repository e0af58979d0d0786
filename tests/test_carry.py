"""Gradients of arrays that wait for their turn: kept, added, spent, saved."""

from __future__ import annotations

import copy
from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude.errors import NonFiniteError, SettingError, StaleGradientError, StateError
from etude.run.events import Settled
from etude.step.policies import roll_back
from etude.step.trainer import Trainer
from etude.values.marks import FROZEN
from etude.values.part import everything, part
from etude.values.schedule import pieces, schedule
from etude.values.spans import steps
from nets import alike, arrays, give_gradients, graph

THIRD = [part("a") | "out", part("a") | "out", everything]
"""`b` has every third step."""


def grown(seeds: list[int], net: nn.Module | None = None, **settings: Any) -> tuple[nn.Module, Trainer]:
    net = graph() if net is None else net
    trainer = Trainer(net, "sgd", learning_rate=1.0, update_schedule=THIRD, **settings)
    for seed in seeds:
        trainer.zero_grad()
        give_gradients(net, seed)
        trainer.step(4)
    return net, trainer


def mean(seed: int, name: str) -> Tensor:
    net = graph()
    give_gradients(net, seed)
    gradient = net.get_parameter(name).grad
    assert gradient is not None
    return gradient / 4


def moved(net: nn.Module, name: str) -> Tensor:
    return graph().get_parameter(name).detach() - net.get_parameter(name).detach()


@pytest.mark.parametrize(("way", "share"), [("sum", 1.0), ("mean", 1 / 3)])
def test_what_waited_joins_the_gradient_of_the_turn(way: str, share: float) -> None:
    net, _ = grown([1, 2, 3], carry=way)
    expected = sum(mean(seed, "b.weight") for seed in (1, 2, 3)) * share
    assert torch.allclose(moved(net, "b.weight"), expected, atol=1e-6)
    # What has its turn always goes as without.
    assert all(
        alike(a, b)
        for (n, a), b in zip(net.named_parameters(), grown([1, 2, 3])[0].parameters(), strict=True)
        if n[0] != "b"
    )


def test_it_begins_anew_after_the_turn_and_goes_by_part() -> None:
    net, trainer = grown([1, 2, 3, 4, 5], carry={"b.weight": "sum"})
    assert set(trainer.state_dict()["carried"]) == {"b.weight"}
    assert trainer.state_dict()["carried"]["b.weight"]["steps"] == 2
    trainer.zero_grad()
    give_gradients(net, 6)
    trainer.step(4)
    expected = sum(mean(seed, "b.weight") for seed in range(1, 7))
    assert torch.allclose(moved(net, "b.weight"), expected, atol=1e-5)
    assert torch.allclose(moved(net, "b.bias"), mean(3, "b.bias") + mean(6, "b.bias"), atol=1e-6)
    assert trainer.state_dict()["carried"] == {}


def test_off_at_its_turn_forgets_what_was_kept() -> None:
    net, trainer = grown([1, 2, 3], carry=pieces("sum", (steps(2), False)))
    assert torch.allclose(moved(net, "b.weight"), mean(3, "b.weight"), atol=1e-6)
    assert trainer.state_dict()["carried"] == {}


def test_the_users_gradients_are_left() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", update_schedule=THIRD, carry="sum")
    give_gradients(net, 1)
    before = {name: array.grad.clone() for name, array in net.named_parameters() if array.grad is not None}
    trainer.step()
    net.b.weight.grad.zero_()  # type: ignore[union-attr]
    assert torch.equal(trainer.state_dict()["carried"]["b.weight"]["sum"], before["b.weight"])


def test_frozen_arrays_and_arrays_without_a_turn_carry_nothing() -> None:
    for settings in (
        {"learning_rate_multipliers": {"b": 0}},
        {"update_schedule": [part("a") | "out", "out"]},
        {"learning_rate_multipliers": {"b": pieces(FROZEN, (steps(9), 1.0))}},
    ):
        net = graph()
        trainer = Trainer(net, "sgd", carry="sum", **{"update_schedule": THIRD, **settings})
        give_gradients(net, 1)
        trainer.step()
        assert not any(name.startswith("b") for name in trainer.state_dict()["carried"])
    net = graph()
    trainer = Trainer(net, "sgd", carry="sum", update_schedule=THIRD)
    trainer.freeze("b.weight")
    give_gradients(net, 1)
    trainer.step()
    assert set(trainer.state_dict()["carried"]) == {"b.bias"}


def test_what_carries_stays_in_the_graph_and_the_rest_does_not() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", carry={"b": "sum"}, update_schedule=["a", "b", "out"])
    with trainer.only_moving():
        loss = net(torch.ones(2, 3)).sum()
    loss.backward()
    assert net.b.weight.grad is not None
    assert net.out.weight.grad is None


def test_a_gradient_that_is_not_finite_is_not_kept() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", carry="sum", update_schedule=THIRD, non_finite="raise")
    give_gradients(net, 1)
    net.b.bias.grad[0] = nan
    before = arrays(net)
    with pytest.raises(NonFiniteError, match=r"the gradients of 'b\.bias' are not finite"):
        trainer.step()
    assert trainer.state_dict()["carried"] == {}
    assert all(alike(before[name], array) for name, array in arrays(net).items())
    other = Trainer(net, "sgd", carry="sum", update_schedule=THIRD, non_finite="raise", drop_non_finite={"b": True})
    other.step()
    kept = other.state_dict()["carried"]["b.bias"]["sum"]
    assert kept[0] == 0
    assert torch.equal(kept[1:], net.b.bias.grad[1:])


def test_an_old_gradient_is_not_kept_again_and_a_mixture_is_refused() -> None:
    net = graph()
    trainer = Trainer(
        nn.ParameterDict({"a": net.a.weight, "b": net.b.weight}), "sgd", carry="sum", update_schedule=["a", "b"]
    )
    for array in (net.a.weight, net.b.weight):
        array.grad = torch.ones_like(array)
    trainer.step()
    net.b.weight.grad.add_(1)  # type: ignore[union-attr]
    with pytest.raises(StaleGradientError, match="new gradients were added onto old ones that a step has used, in 'b'"):
        trainer.step()


def test_accumulated_micro_batches_are_one_step() -> None:
    def run(accumulate: int) -> nn.Module:
        net = graph()
        trainer = Trainer(net, "sgd", learning_rate=0.1, carry="sum", update_schedule=["a", "b"], accumulate=accumulate)
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        for whole in x.split(4):
            for piece in whole.split(4 // accumulate):
                net(piece).square().sum().backward()
                trainer.step(len(piece))
        return net

    one, two = run(1), run(2)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_arrays_of_other_numbers(dtype: torch.dtype) -> None:
    low = dtype is not torch.complex64
    net = nn.ParameterDict({k: nn.Parameter(torch.ones(3, dtype=dtype)) for k in "ab"})
    trainer = Trainer(net, "sgd", learning_rate=1.0, carry="sum", update_schedule=["a", "b"])
    for _ in range(2):
        for array in net.values():
            array.grad = torch.full((3,), 0.5, dtype=dtype)
        trainer.step(256)
        if low and trainer.progress.step == 1:
            assert trainer.state_dict()["carried"]["b"]["sum"].dtype is torch.float32
        trainer.zero_grad()
    assert torch.allclose(net["b"].detach(), torch.tensor(1 - 1 / 256, dtype=dtype))


def test_a_sparse_gradient_is_kept_dense() -> None:
    tables = nn.ModuleDict({k: nn.Embedding(5, 2, sparse=True) for k in "ab"})
    before = tables["b"].weight.detach().clone()
    trainer = Trainer(tables, "sgd", learning_rate=1.0, carry="sum", update_schedule=["a", "b"])
    for row in (1, 3):
        trainer.zero_grad()
        (tables["a"](torch.tensor([row])) + tables["b"](torch.tensor([row]))).sum().backward()
        trainer.step()
    assert (before - tables["b"].weight.detach()).sum(1).tolist() == pytest.approx([0, 2, 0, 2, 0])


def test_saved_anywhere_and_gone_on_is_the_same() -> None:
    for cut in range(1, 6):
        net, _ = grown([1, 2, 3, 4, 5, 6], carry="mean")
        half, early = grown(list(range(1, cut + 1)), carry="mean")
        other = graph(5)
        other.load_state_dict(half.state_dict())
        later = Trainer(other, "sgd", learning_rate=1.0, update_schedule=THIRD, carry="mean")
        later.load_state_dict(copy.deepcopy(early.state_dict()))
        for seed in range(cut + 1, 7):
            later.zero_grad()
            give_gradients(other, seed)
            later.step(4)
        assert all(alike(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("carried", "message"),
    [
        ({"x": {"sum": torch.ones(2), "steps": 1}}, "no array 'x' moves here"),
        ({"b.bias": {"sum": torch.ones(2), "steps": 1}}, r"that of 'b\.bias' is no tensor of shape \(4,\)"),
        ({"b.bias": {"sum": torch.ones(4), "steps": 0}}, r"that of 'b\.bias' is of 0 steps"),
        ({"b.bias": 3}, r"that of 'b\.bias' is no tensor"),
        (3, "they are no dict by name"),
    ],
)
def test_what_is_no_state_is_refused(carried: Any, message: str) -> None:
    _, trainer = grown([1], carry="sum")
    state = {**trainer.state_dict(), "carried": carried}
    with pytest.raises(StateError, match=message):
        trainer.load_state_dict(state)
    assert trainer.state_dict()["carried"]["b.bias"]["steps"] == 1


def test_thawing_afresh_forgets_it() -> None:
    _, trainer = grown([1], carry="sum")
    trainer.thaw("b.weight", reset=True)
    assert set(trainer.state_dict()["carried"]) == {"b.bias"}


# wrong use


def test_without_an_update_schedule_it_would_do_nothing() -> None:
    with pytest.raises(
        SettingError, match=r"carry= keeps gradients .* and there is no update schedule\. Write update_sch"
    ):
        Trainer(graph(), carry="sum")


@pytest.mark.parametrize(("value", "near"), [("sums", 'Nearest: "sum"'), (True, ""), (0.5, "")])
def test_words_it_does_not_have(value: Any, near: str) -> None:
    with pytest.raises(SettingError, match=rf'carry={value!r}: "sum" or "mean" is needed, or False.*{near}'):
        Trainer(graph(), carry=value, update_schedule=["a", "b"])
    with pytest.raises(SettingError, match='"sum" or "mean" is needed'):
        Trainer(graph(), carry={"a": value}, update_schedule=["a", "b"])
    with pytest.raises(SettingError, match=r'carry at step 1=.*"sum" or "mean" is needed'):
        Trainer(graph(), carry=schedule(lambda progress: value), update_schedule=["a", "b"])


# runs


X = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
Y = torch.randn(24, 2, generator=torch.Generator().manual_seed(2))


def plan(**more: Any) -> etude.Plan:
    return etude.Plan(
        **{
            "loss": "mse",
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "update_schedule": [part("a") | "out", "b"],
            "carry": "sum",
            "epochs": 2,
            "batch_size": 4,
            "seed": 3,
            **more,
        }
    )


def test_a_run_is_what_the_loop_is() -> None:
    net, by_hand = graph(), graph()
    etude.Run(plan(shuffle=False), net, (X, Y)).result()
    trainer = Trainer(by_hand, "sgd", learning_rate=0.1, update_schedule=[part("a") | "out", "b"], carry="sum")
    for _ in range(2):
        for x, y in zip(X.split(4), Y.split(4), strict=True):
            nn.functional.mse_loss(by_hand(x), y).backward()
            trainer.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), by_hand.parameters(), strict=True))
    other = graph()
    etude.Run(plan(shuffle=False, carry=False), other, (X, Y)).result()
    assert not torch.allclose(other.b.weight, net.b.weight, atol=1e-4)


def test_a_step_in_which_nothing_moves_carries() -> None:
    net, other = graph(), graph()
    held = schedule(lambda progress: everything if progress.step % 2 else FROZEN)
    etude.Run(plan(update_schedule=held, shuffle=False), net, (X, Y)).result()
    etude.Run(plan(update_schedule=held, shuffle=False, carry=False), other, (X, Y)).result()
    assert not torch.allclose(other.a.weight, net.a.weight, atol=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_goes_on_with_what_waits(tmp_path: Any, accumulate: int) -> None:
    saved = etude.Directory(tmp_path, etude.every(steps(1)))
    net = graph()
    run = etude.Run(plan(accumulate=accumulate, checkpoint=saved), net, (X, Y))
    result = run.result()
    assert len(result.checkpoints) > 3
    for path in result.checkpoints[:-1]:
        other = graph(9)
        etude.Run(plan(accumulate=accumulate), other, (X, Y), resume=str(path)).result()
        assert all(alike(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_going_back_goes_back_to_what_waited_then() -> None:
    broken = X.clone()
    broken[13] = nan
    net = graph()
    run = etude.Run(plan(shuffle=False, epochs=1, non_finite=roll_back(every=steps(2))), net, (broken, Y))
    seen = {}
    for event in run:
        if isinstance(event, Settled):
            stepper = run.checked.works[0].stepper
            seen[int(event.progress.step)] = copy.deepcopy(stepper.carried.state(stepper.table.names))
    assert all(bool(torch.isfinite(array).all()) for array in net.parameters())
    # The fourth batch is broken: what the third step kept for `b` is of a net that is there no more.
    assert set(seen[3]) == {"b.weight", "b.bias"}
    assert set(seen[4]) == set(seen[2]) == {"a.weight", "a.bias", "out.weight", "out.bias"}
    assert all(alike(seen[4][name]["sum"], own["sum"]) for name, own in seen[2].items())
    assert seen[5]["b.weight"]["steps"] == 1
