"""Gradients that a step has used: never applied again, by the same trainer or the next, and never lost if new."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import StaleGradientError
from etude.step.ledger import Ledger, gradients_of, has_none
from etude.step.trainer import Trainer
from nets import arrays, chain, changed, data, graph

X, Y = data(1)[0]


def backward(net: nn.Module) -> None:
    (net(X) - Y).square().mean(1).sum().backward()


def has_gradients(net: nn.Module) -> list[bool]:
    return [parameter.grad is not None for parameter in net.parameters()]


def by_net(net: nn.Module, **options: Any) -> Trainer:
    return Trainer(net, "sgd", learning_rate=0.1, **options)


def by_list(net: nn.Module, **options: Any) -> Trainer:
    return Trainer(list(net.parameters()), "sgd", learning_rate=0.1, **options)


# the record itself


def test_a_gradient_is_old_if_it_is_the_same_tensor_unwritten() -> None:
    gradients: list[Tensor | None] = [torch.ones(2), None, torch.ones(1), torch.ones(3)]
    ledger = Ledger()
    assert ledger.empty
    assert ledger.old([0, 1, 2, 3], gradients) == ([], [])
    ledger.write(gradients)
    assert not ledger.empty
    assert ledger.old([0, 1, 2, 3], gradients) == ([0, 2, 3], [])
    for gradient in (gradients[2],):
        assert gradient is not None
        gradient.add_(1)
    now = [torch.ones(2), torch.ones(1), gradients[2], gradients[3]]
    assert ledger.old([0, 1, 2, 3], now) == ([3], [2])
    assert ledger.old([3], [gradients[3]]) == ([3], [])
    ledger.forget()
    assert ledger.empty
    assert ledger.old([0, 1, 2, 3], gradients) == ([], [])


def test_gradients_that_are_missing() -> None:
    arrays = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    arrays[1].grad = torch.ones(1)
    found = gradients_of(arrays)
    assert found[0] is None
    assert found[1] is arrays[1].grad
    assert has_none(found)
    assert not has_none(found[1:])
    assert not has_none([])


# from one trainer to the next


@pytest.mark.parametrize("make", [by_net, by_list])
@pytest.mark.parametrize("how", ["detach", "gone"])
def test_the_next_trainer_begins_without_what_the_last_has_used(make: Any, how: str) -> None:
    net, twin = chain(), chain()
    trainer = make(net)
    backward(net)
    trainer.step(8)
    if how == "detach":
        trainer.detach()
    del trainer
    gc.collect()
    assert has_gradients(net) == [False] * 4
    twin.load_state_dict(net.state_dict())
    for own in (net, twin):
        backward(own)
        make(own).step(8)
    assert changed(arrays(twin), net) == set()


@pytest.mark.parametrize("how", ["detach", "gone"])
def test_what_a_trainer_has_not_used_stays_for_the_next(how: str) -> None:
    net = chain()
    trainer = by_net(net)
    backward(net)
    trainer.step(8)
    backward(net)
    kept = [parameter.grad for parameter in net.parameters()]
    if how == "detach":
        trainer.detach()
    del trainer
    gc.collect()
    assert all(parameter.grad is gradient for parameter, gradient in zip(net.parameters(), kept, strict=True))
    before = arrays(net)
    by_net(net).step(8)
    assert changed(before, net) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_a_gradient_of_somebody_else_is_not_taken_away() -> None:
    """The hand that lets go takes what it has used, not what came after."""
    net = chain()
    trainer = by_net(net)
    backward(net)
    trainer.step(8)
    own = torch.ones_like(net[0].weight)
    net[0].weight.grad = own
    trainer.detach()
    assert net[0].weight.grad is own
    assert has_gradients(net) == [True, False, False, False]


def test_trainers_of_parts_keep_out_of_each_others_gradients() -> None:
    net = graph()
    first, second = by_net(net, part="a"), by_net(net, part="b")
    backward(net)
    first.step(8)
    first.detach()
    assert net.a.weight.grad is None
    assert net.b.weight.grad is not None
    before = arrays(net)
    second.step(8)
    assert changed(before, net) == {"b.weight", "b.bias"}


@pytest.mark.parametrize("form", ["transposed", "expanded", "sparse", "wider"])
@pytest.mark.parametrize("settings", [{}, {"clip_norm": 9.0}], ids=str)
def test_a_used_gradient_is_old_however_it_lay_in_memory(form: str, settings: dict[str, Any]) -> None:
    """The step makes another tensor of it; what is old is what lies in `.grad`."""
    array = nn.Parameter(torch.zeros(3, 4))
    trainer = Trainer({"array": array}, "sgd", learning_rate=1.0, **settings)
    gradients = {
        "transposed": torch.ones(4, 3).t(),
        "expanded": torch.ones(1).expand(3, 4),
        "sparse": torch.ones(3, 4).to_sparse(),
        "wider": torch.ones(3, 8)[:, ::2],
    }
    array.grad = gradients[form]
    trainer.step(1)
    moved = array.detach().clone()
    assert bool(moved.any())
    with pytest.raises(StaleGradientError, match="no new gradient since the last step in 'array'"):
        trainer.step(1)
    assert torch.equal(array, moved)


# arrays that come and go


def test_a_used_gradient_is_old_though_the_arrays_are_others_now() -> None:
    net = chain()
    net[0].weight.requires_grad_(False)
    trainer = by_net(net)
    backward(net)
    trainer.step(8)
    net[0].weight.requires_grad_(True)
    before = arrays(net)
    with pytest.raises(StaleGradientError, match="no new gradient") as raised:
        trainer.step(8)
    assert set(raised.value.names) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert changed(before, net) == set()
    assert trainer.step(8, ignore_stale_grad=True)
    assert changed(before, net) == set()


def test_a_new_gradient_is_new_though_the_arrays_are_others_now() -> None:
    net = chain()
    net[0].weight.requires_grad_(False)
    trainer = by_net(net)
    backward(net)
    trainer.step(8)
    net[0].weight.requires_grad_(True)
    backward(net)
    before = arrays(net)
    assert trainer.step(8)
    assert changed(before, net) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_values_added_onto_a_used_gradient_are_found_though_the_arrays_are_others_now() -> None:
    net = chain()
    net[0].weight.requires_grad_(False)
    trainer = by_net(net)
    backward(net)
    trainer.step(8)
    net[0].weight.requires_grad_(True)
    (net[2](net[1](net[0](X))) - Y).square().sum().backward()
    before = arrays(net)
    with pytest.raises(StaleGradientError, match="added onto old ones") as raised:
        trainer.step(8)
    assert raised.value.names == ("0.bias", "2.weight", "2.bias")
    assert changed(before, net) == set()


@pytest.mark.parametrize("act", ["freeze", "thaw", "change"])
def test_changes_while_training_make_no_used_gradient_new(act: str) -> None:
    net = chain()
    trainer = by_net(net, learning_rate_multipliers={0: 0} if act == "thaw" else None)
    backward(net)
    trainer.step(8)
    if act == "change":
        trainer.change("learning_rate_multipliers", {0: 2})
    else:
        getattr(trainer, act)(0)
    before = arrays(net)
    with pytest.raises(StaleGradientError, match="no new gradient"):
        trainer.step(8)
    assert changed(before, net) == set()


# a tensor between several arrays


def test_arrays_with_one_gradient_tensor_between_them() -> None:
    one, other = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    trainer = Trainer({"one": one, "other": other}, "sgd", learning_rate=1.0, clip_value=0.5)
    one.grad = other.grad = torch.ones(2)
    trainer.step(1)
    assert one.tolist() == other.tolist() == [-0.5, -0.5]
    with pytest.raises(StaleGradientError, match="'one', 'other'"):
        trainer.step(1)


def test_a_shared_gradient_is_clipped_once() -> None:
    one, other = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    trainer = Trainer({"one": one, "other": other}, "sgd", learning_rate=1.0)
    one.grad = other.grad = torch.full((2,), 2.0)
    assert trainer.clip_grads(1.0) == pytest.approx(4.0)
    assert one.grad.tolist() == pytest.approx([0.5, 0.5])


def test_an_expanded_gradient_can_be_clipped() -> None:
    array = nn.Parameter(torch.zeros(3, 4))
    trainer = Trainer({"array": array}, "sgd", learning_rate=1.0)
    array.grad = torch.ones(1).expand(3, 4)
    assert trainer.clip_grads(1.0) == pytest.approx(12**0.5)
    trainer.update(1)
    assert float(array.detach().norm()) == pytest.approx(1.0, rel=1e-5)
