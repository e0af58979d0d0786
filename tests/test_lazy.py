"""Lazy SGD and Adam: only the rows that a sparse gradient names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.step.optim.adam import Adam
from etude.step.optim.lazy import Lazy, LazyAdam, LazySGD, rows_of
from etude.step.optim.rule import UpdateRule
from etude.step.optim.sgd import SGD
from etude.step.trainer import Trainer
from rule_alone import alone, drawn

CASES: list[tuple[Lazy, UpdateRule, dict[str, Any]]] = [
    (LazySGD(), SGD(), {}),
    (LazySGD(), SGD(), {"momentum": 0.9, "weight_decay": 0.1}),
    (LazySGD(), SGD(), {"momentum": 0.9, "nesterov": True}),
    (LazyAdam(), Adam(), {}),
    (LazyAdam(), Adam(), {"amsgrad": True, "weight_decay": 0.1}),
]
each = pytest.mark.parametrize(
    ("lazy", "rule", "settings"), CASES, ids=[f"{lazy.name} {settings}" for lazy, _, settings in CASES]
)
SHAPE = (5, 3)


def sparse(rows: list[int], values: Tensor, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, check_invariants=True)


@each
@pytest.mark.parametrize("climb", [False, True])
def test_rows_move_as_an_array_of_their_own(
    lazy: Lazy, rule: UpdateRule, settings: dict[str, Any], climb: bool
) -> None:
    start, rows = drawn(SHAPE, seed=9)[0], [3, 1]
    run = alone(lazy, start, climb=climb, **settings)
    own = alone(rule, start[rows], climb=climb, **settings)
    for values in drawn((2, 3)):
        run.step(sparse(rows, values))
        own.step(values)
    assert torch.allclose(run.array[rows], own.array, rtol=1e-6)
    assert all(torch.allclose(run.memory[key][rows], own.memory[key], rtol=1e-6) for key in own.memory)


@each
def test_the_other_rows_keep_their_bits(lazy: Lazy, rule: UpdateRule, settings: dict[str, Any]) -> None:
    run = alone(lazy, drawn(SHAPE, seed=9)[0], **settings)
    run.walk(drawn(SHAPE))
    array, memory = run.array.clone(), {key: kept.clone() for key, kept in run.memory.items()}
    run.walk([sparse([3, 1], values) for values in drawn((2, 3))])
    others = [0, 2, 4]
    assert torch.equal(run.array[others], array[others])
    assert all(torch.equal(run.memory[key][others], memory[key][others]) for key in memory)
    assert not bool((run.array[[1, 3]] == array[[1, 3]]).any())


@each
def test_for_dense_gradients_it_is_the_rule(lazy: Lazy, rule: UpdateRule, settings: dict[str, Any]) -> None:
    arrays = [[nn.Parameter(drawn(shape, seed=9)[0]) for shape in (SHAPE, (4,), ())] for _ in range(2)]
    trainers = [
        Trainer(mine, one, learning_rate=0.01, **settings) for mine, one in zip(arrays, (lazy, rule), strict=True)
    ]
    for seed in range(3):
        for mine, trainer in zip(arrays, trainers, strict=True):
            for array in mine:
                array.grad = drawn(tuple(array.shape), seed=seed)[0]
            trainer.step()
            trainer.zero_grad()
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*arrays, strict=True))


def test_a_row_that_is_named_twice_moves_once_by_the_sum() -> None:
    values = torch.tensor([[1.0], [10.0], [2.0]])
    run = alone(LazySGD(), torch.zeros(4, 1), learning_rate=1.0)
    assert run.step(sparse([2, 0, 2], values, (4, 1))).reshape(-1).tolist() == [-10.0, 0.0, -3.0, 0.0]


def test_adam_is_torchs_sparse_adam() -> None:
    start = drawn(SHAPE, seed=9)[0]
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.SparseAdam([theirs], lr=0.01)
    run = alone(LazyAdam(), start, learning_rate=0.01)
    for rows, values in zip(([0, 1], [1, 4], [2, 2]), drawn((2, 3)), strict=False):
        gradient = sparse(rows, values)
        theirs.grad = gradient.clone()
        optimizer.step()
        run.step(gradient)
    assert torch.allclose(run.array, theirs, atol=1e-6)


def test_a_gradient_that_names_nothing_moves_nothing() -> None:
    start = drawn(SHAPE, seed=9)[0]
    run = alone(LazyAdam(), start, weight_decay=0.1)
    assert torch.equal(run.step(sparse([], torch.zeros(0, 3))), start)


def test_elements_named_one_by_one_name_their_rows() -> None:
    places = torch.tensor([[2, 0, 2], [1, 0, 1]])
    gradient = torch.sparse_coo_tensor(places, torch.tensor([1.0, 2.0, 4.0]), (3, 2), check_invariants=True)
    rows, values = rows_of(gradient)
    assert rows.tolist() == [0, 2]
    assert values.tolist() == [[2.0, 0.0], [0.0, 5.0]]


@pytest.mark.parametrize("optimizer", [LazySGD(), LazyAdam()], ids=lambda rule: rule.name)
def test_an_embedding_through_the_trainer(optimizer: Lazy) -> None:
    """Beside dense arrays; decay is for rows that move."""
    net = nn.Sequential(nn.Embedding(6, 3, sparse=True), nn.Linear(3, 1))
    table = net[0].weight
    before = table.detach().clone()
    trainer = Trainer(net, optimizer, learning_rate=0.1, weight_decay=0.1)
    for _ in range(2):
        net(torch.tensor([1, 4, 4])).square().sum().backward()
        trainer.step(3)
        trainer.zero_grad()
    untouched = [0, 2, 3, 5]
    assert torch.equal(table[untouched], before[untouched])
    assert not bool((table[[1, 4]] == before[[1, 4]]).all())


def test_arrays_with_gaps_take_the_plain_way() -> None:
    wide = torch.ones(4, 4)
    array = wide[:, :2]
    count, rate = torch.tensor(1.0), {"learning_rate": 0.1}
    settings = {key: setting.default for key, setting in LazySGD.settings.items()} | rate
    LazySGD().update([array], [torch.ones(4, 2)], {}, [count], settings, False)
    assert torch.allclose(array, torch.full((4, 2), 0.9))
    assert torch.equal(wide[:, 2:], torch.ones(4, 2))
