"""LANS: gradients of norm one, two scaled steps at once."""

from __future__ import annotations

import math

import pytest
import torch

from etude.step.optim.lans import Lans
from rule_alone import alone, drawn


def test_a_first_step_by_hand() -> None:
    """At first both parts are the sign of the gradient."""
    run = alone(Lans(), [3.0, 4.0], learning_rate=0.1, eps=0.0)
    share = 0.1 * 5 / math.sqrt(2)
    assert run.step(torch.tensor([2.0, -7.0])).tolist() == pytest.approx([3 - share, 4 + share])


def test_a_second_step_by_hand() -> None:
    beta1, beta2, rate, decay = 0.9, 0.99, 0.1, 0.05
    start, gradients = drawn((3, 4), seed=9, dtype=torch.float64)[0], drawn((3, 4), count=2, dtype=torch.float64)
    x, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for count, gradient in enumerate(gradients, start=1):
        unit = gradient / gradient.norm()
        mean, square = beta1 * mean + (1 - beta1) * unit, beta2 * square + (1 - beta2) * unit**2
        size = (square / (1 - beta2**count)).sqrt() + 1e-6
        slow, quick = mean / (1 - beta1**count) / size + decay * x, unit / size + decay * x
        x = x - rate * x.norm() * (beta1 * slow / slow.norm() + (1 - beta1) * quick / quick.norm())
    run = alone(Lans(), start, learning_rate=rate, beta1=beta1, beta2=beta2, weight_decay=decay)
    assert torch.allclose(run.walk(gradients), x, rtol=1e-6)


def test_the_size_of_gradients_is_of_no_importance() -> None:
    start, gradients = drawn((3, 4), seed=9)[0], drawn((3, 4))
    plain = alone(Lans(), start).walk(gradients)
    large = alone(Lans(), start).walk([gradient * 1000 for gradient in gradients])
    assert torch.allclose(plain, large, rtol=1e-5)


def test_elements_are_clipped_after_the_norm_was_taken() -> None:
    run = alone(Lans(), [3.0, 4.0], clip=0.7)
    run.step(torch.tensor([30.0, -40.0]))
    assert torch.allclose(run.memory["mean"], 0.1 * torch.tensor([0.6, -0.7]))


def test_bounds_and_exemptions() -> None:
    start, gradient = torch.tensor([3.0, 4.0]), torch.tensor([2.0, -7.0])
    for settings, norm in (({"upper_bound": 2.0}, 2.0), ({"lower_bound": 7.0}, 7.0), ({"adapt": False}, math.sqrt(2))):
        moved = alone(Lans(), start, learning_rate=0.1, eps=0.0, **settings).step(gradient) - start
        assert float(moved.norm()) == pytest.approx(0.1 * norm)
