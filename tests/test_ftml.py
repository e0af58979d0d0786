"""FTML: steps by hand, in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from etude.step.optim.ftml import Ftml
from rule_alone import alone


def test_steps_by_hand() -> None:
    rate, beta1, beta2, eps = 0.1, 0.6, 0.9, 1e-3
    run = alone(Ftml(), torch.tensor([1.0], dtype=torch.float64), learning_rate=rate, beta1=beta1, beta2=beta2, eps=eps)
    x, square, curvature, linear = 1.0, 0.0, 0.0, 0.0
    for count, gradient in enumerate((2.0, -1.0, 0.5), start=1):
        square = beta2 * square + (1 - beta2) * gradient**2
        steeper = (1 - beta1**count) / rate * (math.sqrt(square / (1 - beta2**count)) + eps)
        linear = beta1 * linear + (1 - beta1) * gradient - (steeper - beta1 * curvature) * x
        x, curvature = -linear / steeper, steeper
        # The count is in single precision.
        assert run.step(torch.tensor([gradient], dtype=torch.float64)).item() == pytest.approx(x, rel=1e-6)


def test_the_first_step_is_the_rate_whatever_the_gradient() -> None:
    for size in (1e-3, 1.0, 1e3):
        run = alone(Ftml(), [1.0, 1.0], learning_rate=0.1)
        assert run.step(torch.tensor([size, -size])).tolist() == pytest.approx([0.9, 1.1], abs=1e-5)


def test_decay_goes_through_the_gradient() -> None:
    plain = alone(Ftml(), [2.0], learning_rate=0.1).step(torch.tensor([1.5]))
    decayed = alone(Ftml(), [2.0], learning_rate=0.1, weight_decay=0.25).step(torch.tensor([1.0]))
    assert torch.equal(plain, decayed)


def test_without_eps_elements_without_gradient_stay() -> None:
    after = alone(Ftml(), [1.0, 1.0], eps=0.0).walk([torch.tensor([0.0, 1.0])] * 2)
    assert after[0].item() == 1.0
    assert after[1].item() < 1.0
