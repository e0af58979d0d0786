"""How our rules are run: memory on demand, rows in bundles, layouts in memory, states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import StateError
from etude.step.optim.own import OwnOptimizer
from etude.step.optim.registry import by_name
from etude.step.optim.rule import UpdateRule, has_kernel, is_dense, is_plain
from etude.step.trainer import Trainer
from etude.values.part import part
from nets import alike, give_gradients, graph, memory_of

RULES: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.9}, "adam": {"amsgrad": True}, "adamw": {}}
CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def layouts() -> dict[str, tuple[Tensor, Tensor]]:
    """Arrays and gradients whose elements lie in memory in other orders than row by row."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    last = torch.channels_last
    return {
        "transposed gradient": (draw(4, 3), draw(3, 4).t()),
        "transposed array": (draw(3, 4).t(), draw(4, 3)),
        "both transposed": (draw(3, 4).t(), draw(3, 4).t()),
        "channels last gradient": (draw(2, 3, 4, 5), draw(2, 3, 4, 5).to(memory_format=last)),
        "channels last array": (draw(2, 3, 4, 5).to(memory_format=last), draw(2, 3, 4, 5)),
        "expanded gradient": (draw(4, 3), draw(1, 3).expand(4, 3)),
        "array with gaps": (draw(4, 6)[:, ::2], draw(4, 3)),
        "gradient with gaps": (draw(4, 3), draw(4, 6)[:, ::2]),
        "array with a hole, transposed": (draw(6, 4)[::2].t(), draw(4, 3)),
    }


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", layouts())
def test_any_order_in_memory_is_as_in_a_plain_loop(rule: str, layout: str) -> None:
    array, gradient = layouts()[layout]
    ours = nn.Parameter(array)
    theirs = nn.Parameter(array.detach().clone(memory_format=torch.contiguous_format))
    trainer = Trainer([ours], rule, learning_rate=0.1, weight_decay=0.1, **RULES[rule])
    plain = CLASSES[rule]([theirs], lr=0.1, weight_decay=0.1, foreach=False, fused=False, **RULES[rule])
    for _ in range(3):
        ours.grad, theirs.grad = gradient, gradient.contiguous().clone()
        trainer.step()
        trainer.zero_grad()
        plain.step()
    assert ours.stride() == array.stride()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_gaps_in_memory_are_not_written_into() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    other = nn.Parameter(torch.zeros(2, 2))
    array = nn.Parameter(whole[:, ::2])
    gaps = whole[:, 1::2].clone()
    trainer = Trainer({"other": other, "array": array}, "adamw", learning_rate=0.1)
    array.grad, other.grad = torch.ones(4, 3), torch.ones(2, 2)
    trainer.step()
    assert torch.equal(whole[:, 1::2], gaps)
    assert not torch.equal(whole[:, ::2], torch.arange(24.0).reshape(4, 6)[:, ::2])


def test_what_the_kernels_take() -> None:
    assert has_kernel(torch.zeros(2, 3))
    assert has_kernel(torch.zeros(2, 3).t())
    assert has_kernel(torch.zeros(()))
    assert not has_kernel(torch.zeros(4, 6)[:, ::2])
    assert not has_kernel(torch.zeros(1).expand(3))
    assert is_plain(torch.zeros(4, 6)[:, ::2])
    assert not is_plain(torch.zeros(2, dtype=torch.complex64))
    assert not is_dense(torch.zeros(2).to_sparse())


@pytest.mark.parametrize("rule", RULES)
def test_complex_arrays_are_pairs_of_numbers(rule: str) -> None:
    start = torch.randn(3, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    trainer = Trainer([ours], rule, learning_rate=0.1, **RULES[rule])
    plain = CLASSES[rule]([theirs], lr=0.1, foreach=False, **RULES[rule])
    for step in range(3):
        gradient = torch.randn(3, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = gradient.conj(), gradient.conj().resolve_conj()
        trainer.step()
        trainer.zero_grad()
        plain.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_sparse_gradients_are_taken_as_dense() -> None:
    sparse, dense = (nn.Embedding(5, 2, sparse=one) for one in (True, False))
    dense.load_state_dict(sparse.state_dict())
    for settings in ({}, {"clip_norm": 0.1, "clip_value": 0.05}):
        trainers = [Trainer(net, "adamw", **settings) for net in (sparse, dense)]
        for net, trainer in zip((sparse, dense), trainers, strict=True):
            net(torch.tensor([1, 2, 2])).sum().backward()
            trainer.step(3)
            trainer.zero_grad()
        assert torch.equal(sparse.weight, dense.weight)


def test_arrays_of_several_types_step_together() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2).double(), "c": nn.Linear(2, 2).to(torch.bfloat16)})
    twin = copy.deepcopy(net)
    trainer = Trainer(net, "adamw", clip_norm=0.5, clip_value=0.4)
    give_gradients(net, 0)
    trainer.step()
    for name, own in twin.items():
        alone = Trainer(own, "adamw")
        for parameter, other in zip(own.parameters(), net[name].parameters(), strict=True):
            assert other.grad is not None
            parameter.grad = other.grad.clone()
        alone.step()
        for parameter, other in zip(own.parameters(), net[name].parameters(), strict=True):
            assert parameter.dtype == other.dtype
            assert torch.allclose(parameter, other, atol=1e-2)


def test_gradients_that_the_user_can_read_are_not_changed() -> None:
    net = graph()
    trainer = Trainer(net, "adamw", clip_norm=0.1, clip_value=0.1, noise=0.1, weight_decay=0.1)
    give_gradients(net, 0)
    before = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    trainer.step(4)
    assert all(torch.equal(one, p.grad) for one, p in zip(before, net.parameters(), strict=True) if p.grad is not None)


def test_memory_is_made_when_an_array_first_moves() -> None:
    net = graph()
    trainer = Trainer(net, "adamw", update_schedule=["a", "b"])
    assert not any(memory_of(trainer).values())
    give_gradients(net, 0)
    trainer.step()
    assert {name for name, own in memory_of(trainer).items() if own} == {"a.weight", "a.bias"}
    assert memory_of(trainer)["a.weight"]["count"] == 1


def test_counts_are_of_the_steps_of_each_array() -> None:
    net = graph()
    trainer = Trainer(net, "adamw", update_schedule=[part("a") * 2, "b"])
    for step in range(6):
        give_gradients(net, step)
        trainer.step()
        trainer.zero_grad()
    counts = {name: own.get("count", 0) for name, own in memory_of(trainer).items()}
    assert counts == {"a.weight": 4, "a.bias": 4, "b.weight": 2, "b.bias": 2, "out.weight": 0, "out.bias": 0}


def test_sets_of_moving_arrays_are_remembered_for_a_while_only() -> None:
    params = {f"p{n}": nn.Parameter(torch.ones(1)) for n in range(12)}
    trainer = Trainer(params, "adamw")
    for step in range(600):
        for n, parameter in enumerate(params.values()):
            parameter.grad = torch.ones(1) if step >> n & 1 else None
        trainer.step(ignore_stale_grad=True)
        trainer.zero_grad()
    assert isinstance(trainer.optimizer, OwnOptimizer)
    assert len(trainer.optimizer._plans) <= 512
    counts = [own.get("count", 0) for own in memory_of(trainer).values()]
    assert counts == [sum(step >> n & 1 for step in range(600)) for n in range(12)]


def own(rule: str = "adamw", *arrays: Tensor) -> OwnOptimizer:
    made = by_name(rule)
    assert isinstance(made, UpdateRule)
    return OwnOptimizer(made, arrays)


def test_loading_brings_memory_into_the_arrays_order_and_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    array = torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last)
    saved = torch.randn(2, 3, 4, 5, generator=generator).double()
    optimizer = own("adamw", array)
    optimizer.load([{"mean": saved, "square": saved.square(), "count": 3}])
    kept = optimizer.memory[0]["mean"]
    assert kept.stride() == array.stride()
    assert kept.dtype == torch.float32
    assert torch.equal(kept, saved.float())
    assert optimizer.counts() == [3.0]
    saved.zero_()
    assert kept.abs().sum() > 0


@pytest.mark.parametrize("rule", RULES)
def test_a_state_made_contiguous_goes_on_to_the_same_bits(rule: str) -> None:
    """A file keeps no strides."""
    start = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    gradient = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    first, second = (nn.Parameter(start.clone()) for _ in range(2))
    one = Trainer([first], rule, **RULES[rule])
    first.grad = gradient.clone()
    one.step()
    state = copy.deepcopy(one.state_dict())
    for kept in state["arrays"].values():
        kept.update({key: value.contiguous() for key, value in kept.items() if isinstance(value, Tensor)})
    two = Trainer([second], rule, **RULES[rule])
    two.load_state_dict(state)
    with torch.no_grad():
        second.copy_(first)
    for parameter, trainer in ((first, one), (second, two)):
        trainer.zero_grad()
        parameter.grad = gradient.clone()
        trainer.step()
    assert alike(first, second)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"mean": torch.zeros(3), "count": 1}, r"memory 'mean' of '1' has shape \(3,\), the array \(2,\)"),
        ({"speed": torch.zeros(2)}, "memory 'speed' of '1' is none of adamw: mean, square, largest"),
        ({"mean": 1.0}, "memory 'mean' of '1' is a float, not a tensor"),
    ],
)
def test_a_memory_that_does_not_fit_changes_nothing(state: dict[str, Any], message: str) -> None:
    optimizer = own("adamw", torch.zeros(2), torch.zeros(2))
    fine = {"mean": torch.ones(2), "count": 1}
    with pytest.raises(StateError, match=message):
        optimizer.load([fine, state])
    assert optimizer.memory == [{}, {}]
    assert optimizer.counts() == [0.0, 0.0]


def test_no_arrays_are_no_trouble() -> None:
    optimizer = own("adamw")
    optimizer.load([])
    assert optimizer.state() == [] == optimizer.counts()
