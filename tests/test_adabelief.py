"""AdaBelief: steps by hand, longer where gradients agree."""

from __future__ import annotations

import math

import pytest
import torch

from etude.step.optim.adabelief import AdaBelief
from rule_alone import alone


def test_steps_by_hand() -> None:
    rate, beta1, beta2, eps, decay = 0.1, 0.9, 0.99, 1e-3, 0.05
    run = alone(
        AdaBelief(),
        torch.tensor([1.0], dtype=torch.float64),
        learning_rate=rate,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=decay,
    )
    x, mean, square = 1.0, 0.0, 0.0
    for count, gradient in enumerate((2.0, -1.0, 0.5), start=1):
        full = gradient + decay * x
        mean = beta1 * mean + (1 - beta1) * full
        square = beta2 * square + (1 - beta2) * (full - mean) ** 2 + eps
        x -= rate * mean / (1 - beta1**count) / (math.sqrt(square / (1 - beta2**count)) + eps)
        # The count is in single precision.
        assert run.step(torch.tensor([gradient], dtype=torch.float64)).item() == pytest.approx(x, rel=1e-6)


def test_steps_grow_where_gradients_agree() -> None:
    agree = alone(AdaBelief(), [0.0], learning_rate=0.1).walk([torch.tensor([1.0])] * 20)
    differ = alone(AdaBelief(), [0.0], learning_rate=0.1).walk([torch.tensor([(-1.0) ** n]) for n in range(20)])
    assert agree.item() < -20 * 0.1 * 1.1
    assert abs(differ.item()) < 0.2


def test_a_large_eps_makes_it_less_adaptive() -> None:
    steps = []
    for size in (1.0, 10.0):
        steps.append(alone(AdaBelief(), [0.0], eps=1e-16).step(torch.tensor([size])).item())
        steps.append(alone(AdaBelief(), [0.0], eps=1.0).step(torch.tensor([size])).item())
    assert steps[0] == pytest.approx(steps[2], rel=1e-4)
    assert steps[3] / steps[1] > 5


def test_what_decay_was_added_to_is_clipped() -> None:
    clipped = alone(AdaBelief(), [2.0], weight_decay=0.5, clip=1.5)
    clipped.step(torch.tensor([1.0]))
    assert clipped.memory["mean"].item() == pytest.approx(0.15)
