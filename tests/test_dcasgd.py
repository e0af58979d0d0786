"""DC-ASGD: what it makes up for, and SGD where there is nothing to make up for."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from etude.step.optim.dcasgd import DcAsgd
from etude.step.trainer import Trainer
from rule_alone import alone, drawn


def test_steps_by_hand() -> None:
    run = alone(DcAsgd(), [1.0], learning_rate=0.1, compensation=0.5)
    assert run.step(torch.tensor([2.0])).item() == pytest.approx(0.8)
    assert run.memory["previous"].item() == 1.0
    assert run.step(torch.tensor([3.0])).item() == pytest.approx(0.8 - 0.1 * (3 + 0.5 * 9 * (0.8 - 1)))


def test_decay_is_inside_the_square() -> None:
    run = alone(DcAsgd(), [1.0], learning_rate=0.1, compensation=0.5, weight_decay=0.5)
    assert run.step(torch.tensor([1.5])).item() == pytest.approx(0.8)
    full = 2.6 + 0.5 * 0.8
    assert run.step(torch.tensor([2.6])).item() == pytest.approx(0.8 - 0.1 * (full + 0.5 * full**2 * (0.8 - 1)))


def test_momentum_by_hand() -> None:
    run = alone(DcAsgd(), [1.0], learning_rate=0.1, compensation=0.5, momentum=0.5)
    run.step(torch.tensor([2.0]))
    full = 3 + 0.5 * 9 * (0.8 - 1)
    assert run.step(torch.tensor([3.0])).item() == pytest.approx(0.8 - 0.1 * (0.5 * 2 + full))


def test_without_compensation_it_is_sgd() -> None:
    start, gradients = drawn((3, 4), seed=9)[0], drawn((3, 4))
    ours = alone(DcAsgd(), start, learning_rate=0.1, compensation=0.0, momentum=0.9, weight_decay=0.1).walk(gradients)
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.1)
    for gradient in gradients:
        theirs.grad = gradient.clone()
        optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_an_array_that_begins_late_has_nothing_to_make_up_for() -> None:
    """Its previous value is the one that it has when it first moves."""
    w = nn.Parameter(torch.tensor([5.0]))
    trainer = Trainer([w], DcAsgd(), learning_rate=0.1, compensation=100.0)
    with torch.no_grad():
        w.fill_(1.0)
    w.grad = torch.tensor([2.0])
    trainer.step()
    assert w.item() == pytest.approx(0.8)
    assert trainer.state_dict()["arrays"]["0"]["previous"].item() == 1.0


@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="compiling for the CPU needs a C++ compiler"
)
def test_compiled_it_remembers_the_array_before_its_step() -> None:
    """Torch's compiler makes some copies after what is copied has changed."""
    run, plain = (alone(DcAsgd(), [1.0, 2.0]) for _ in range(2))

    def move(array: Tensor, gradient: Tensor, previous: Tensor, count: Tensor) -> None:
        DcAsgd().formula(array, gradient, {"previous": previous}, count, run.settings, False)

    torch.compiler.reset()
    compiled = torch.compile(move)
    for gradient in drawn((2,), count=2):
        before = run.array.clone()
        compiled(run.array, gradient, run.memory["previous"], torch.tensor(1.0))
        plain.step(gradient)
        assert torch.equal(run.memory["previous"], before)
    assert torch.allclose(run.array, plain.array)
