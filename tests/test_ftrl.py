"""FTRL-Proximal: a closed form of two memories, zeros that are exact."""

from __future__ import annotations

import math

import pytest
import torch

from etude.step.optim.ftrl import Ftrl
from rule_alone import alone, drawn


def test_steps_by_hand() -> None:
    run = alone(Ftrl(), [0.0], learning_rate=1.0, l1=0.5, beta=1.0)
    assert run.step(torch.tensor([2.0])).item() == pytest.approx(-(2 - 0.5) / (1 + 2))
    linear = 2 + 1 - (math.sqrt(5) - 2) * -0.5
    assert run.step(torch.tensor([1.0])).item() == pytest.approx(-(linear - 0.5) / (1 + math.sqrt(5)))
    assert run.memory["linear"].item() == pytest.approx(linear)
    assert run.memory["square"].item() == pytest.approx(5.0)


def test_decay_is_the_second_regulariser() -> None:
    run = alone(Ftrl(), [0.0], learning_rate=0.5, l1=0.0, beta=1.0, weight_decay=3.0)
    assert run.step(torch.tensor([2.0])).item() == pytest.approx(-2 / ((1 + 2) / 0.5 + 3))


def test_what_matters_little_is_exactly_zero() -> None:
    run = alone(Ftrl(), [0.0, 0.0], l1=1.0)
    after = run.walk([torch.tensor([0.1, 1.0]), torch.tensor([-0.1, 1.0]), torch.tensor([0.2, 1.0])])
    assert after[0].item() == 0.0
    assert after[1].item() < 0.0


def test_the_start_enters_only_where_there_is_a_gradient() -> None:
    run = alone(Ftrl(), [3.0, 3.0], learning_rate=1.0, l1=0.0, beta=0.0)
    after = run.step(torch.tensor([0.0, 2.0]))
    # z = 2 - 2 · 3, and 4 / 2 is where it goes: one plain step of 1 from where it was.
    assert after.tolist() == [0.0, 2.0]


def test_without_regularisers_the_first_step_is_the_rate() -> None:
    for size in (1e-3, 1e3):
        run = alone(Ftrl(), [1.0], learning_rate=0.1, l1=0.0, beta=0.0)
        assert run.step(torch.tensor([size])).item() == pytest.approx(0.9)


def test_regularisers_shrink() -> None:
    gradients = drawn((50,))
    sizes = [float(alone(Ftrl(), torch.zeros(50), l1=l1).walk(gradients).abs().sum()) for l1 in (0.0, 1.0, 3.0)]
    assert sizes[0] > sizes[1] > sizes[2]
