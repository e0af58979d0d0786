"""Row-wise Adagrad: one accumulator a row, sparse gradients, rows left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from etude.step.optim.rowwise import RowwiseAdagrad
from etude.step.trainer import Trainer
from rule_alone import alone, drawn


def sparse(rows: list[int], values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, check_invariants=True)


def test_steps_by_hand() -> None:
    run = alone(RowwiseAdagrad(), [[1.0, 2.0], [0.0, 0.0]], learning_rate=0.1, eps=0.0)
    first = run.step(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    size = math.sqrt((9 + 16) / 2)
    assert torch.allclose(first, torch.tensor([[1 - 0.3 / size, 2 - 0.4 / size], [0.0, 0.0]]))
    second = run.step(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    size = math.sqrt(12.5 + 1)
    assert torch.allclose(second[0], first[0] - 0.1 / size)
    assert second[1].tolist() == pytest.approx([0.0, -0.2 / math.sqrt(2)])
    assert run.memory["square"].tolist() == pytest.approx([13.5, 2.0])


def test_there_is_one_accumulator_for_each_row() -> None:
    shapes = {(): (), (4,): (4,), (4, 3): (4,), (4, 3, 2): (4,)}
    for shape, expected in shapes.items():
        run = alone(RowwiseAdagrad(), torch.ones(shape))
        run.step(torch.ones(shape))
        assert tuple(run.memory["square"].shape) == expected


def test_for_one_dimension_it_is_adagrad() -> None:
    start, gradients = drawn((5,), seed=9)[0], drawn((5,), count=10)
    ours = alone(RowwiseAdagrad(), start, learning_rate=0.1, weight_decay=0.1).walk(gradients)
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.Adagrad([theirs], lr=0.1, eps=1e-6, weight_decay=0.1)
    for gradient in gradients:
        theirs.grad = gradient.clone()
        optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("climb", [False, True])
def test_a_sparse_gradient_moves_its_rows_alone(climb: bool) -> None:
    start, shape = drawn((5, 3), seed=9)[0], (5, 3)
    runs = [alone(RowwiseAdagrad(), start, climb=climb, weight_decay=w) for w in (0.0, 0.0, 0.5)]
    values = drawn((3, 3))[0]
    # The row 3 is named twice: its gradients add up.
    gradient = sparse([3, 1, 3], values, shape)
    for run, given in zip(runs, (gradient, gradient.to_dense(), gradient), strict=True):
        run.step(given)
    assert torch.allclose(runs[0].array, runs[1].array)
    assert torch.allclose(runs[0].memory["square"], runs[1].memory["square"])
    for run in (runs[0], runs[2]):
        assert torch.equal(run.array[[0, 2, 4]], start[[0, 2, 4]])
        assert not torch.equal(run.array[[1, 3]], start[[1, 3]])


def test_an_embedding_through_the_trainer() -> None:
    net = nn.Embedding(6, 3, sparse=True)
    before = net.weight.detach().clone()
    trainer = Trainer(net, RowwiseAdagrad(), learning_rate=0.1)
    for _ in range(2):
        net(torch.tensor([[1, 4], [4, 4]])).square().sum().backward()
        trainer.step(2)
        trainer.zero_grad()
    untouched = [0, 2, 3, 5]
    assert torch.equal(net.weight[untouched], before[untouched])
    assert bool((net.weight[[1, 4]].abs() < before[[1, 4]].abs()).all())
    square = trainer.state_dict()["arrays"]["weight"]["square"]
    assert square.shape == (6,)
    assert square[untouched].tolist() == [0.0] * 4


def test_its_memory_is_saved_and_loaded() -> None:
    nets = [nn.Embedding(4, 2, sparse=True) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    trainers = [Trainer(net, RowwiseAdagrad(), learning_rate=0.1) for net in nets]
    nets[0](torch.tensor([1, 2])).sum().backward()
    trainers[0].step()
    trainers[0].zero_grad()
    nets[1].load_state_dict(nets[0].state_dict())
    trainers[1].load_state_dict(trainers[0].state_dict())
    for net, trainer in zip(nets, trainers, strict=True):
        net(torch.tensor([2, 3])).sum().backward()
        trainer.step()
    assert torch.equal(nets[0].weight, nets[1].weight)
