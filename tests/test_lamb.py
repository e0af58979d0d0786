"""LAMB: Adam's step scaled to the norm of the array."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from etude.step.optim.lamb import Lamb
from etude.step.trainer import Trainer
from rule_alone import alone, drawn


def test_a_step_by_hand() -> None:
    run = alone(Lamb(), [3.0, 4.0], learning_rate=0.1, eps=0.0)
    share = 0.1 * 5 / math.sqrt(2)
    assert run.step(torch.tensor([2.0, -7.0])).tolist() == pytest.approx([3 - share, 4 + share])


def test_decay_is_inside_the_scaled_step() -> None:
    run = alone(Lamb(), [3.0, 4.0], learning_rate=0.1, eps=0.0, weight_decay=0.5)
    step = torch.tensor([1 + 1.5, -1 + 2.0])
    expected = torch.tensor([3.0, 4.0]) - 0.1 * 5 / step.norm() * step
    assert torch.allclose(run.step(torch.tensor([2.0, -7.0])), expected)


@pytest.mark.parametrize(("bounds", "norm"), [({"upper_bound": 2.0}, 2.0), ({"lower_bound": 7.0}, 7.0)], ids=str)
def test_the_norm_has_bounds(bounds: dict[str, float], norm: float) -> None:
    run = alone(Lamb(), [3.0, 4.0], learning_rate=0.1, eps=0.0, **bounds)
    moved = run.step(torch.tensor([2.0, -7.0])) - torch.tensor([3.0, 4.0])
    assert float(moved.norm()) == pytest.approx(0.1 * norm)


def test_every_step_is_the_rate_times_the_norm() -> None:
    run = alone(Lamb(), drawn((3, 4), seed=9)[0], learning_rate=0.01)
    for gradient in drawn((3, 4)):
        before = run.array.clone()
        assert float((run.step(gradient) - before).norm() / before.norm()) == pytest.approx(0.01, rel=1e-5)


def test_an_array_of_zeros_takes_adams_step() -> None:
    after = alone(Lamb(), [0.0, 0.0], learning_rate=0.1, eps=0.0).step(torch.tensor([2.0, -7.0]))
    assert after.tolist() == pytest.approx([-0.1, 0.1])


def test_without_scaling_it_is_adamw() -> None:
    start, gradients = drawn((3, 4), seed=9)[0], drawn((3, 4), count=20)
    ours = alone(Lamb(), start, learning_rate=0.01, adapt=False, eps=1e-8, weight_decay=0.1).walk(gradients)
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, foreach=False)
    for gradient in gradients:
        theirs.grad = gradient.clone()
        optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_without_correction_the_averages_are_used_as_they_are() -> None:
    run = alone(Lamb(), [3.0, 4.0], learning_rate=0.1, adapt=False, bias_correction=False, eps=0.0)
    share = 0.1 * 0.1 / math.sqrt(0.001)
    assert run.step(torch.tensor([2.0, -7.0])).tolist() == pytest.approx([3 - share, 4 + share])


def test_parts_may_be_exempt_and_nothing_is_by_itself() -> None:
    for rules, norm in (({}, 5.0), ({"adapt": {"*.bias": False}}, math.sqrt(2))):
        arrays = {"a.bias": nn.Parameter(torch.tensor([3.0, 4.0]))}
        trainer = Trainer(arrays, Lamb(), learning_rate=0.1, eps=0.0, rules=rules)
        arrays["a.bias"].grad = torch.tensor([2.0, -7.0])
        trainer.step()
        moved = arrays["a.bias"].detach() - torch.tensor([3.0, 4.0])
        assert float(moved.norm()) == pytest.approx(0.1 * norm, rel=1e-5)
