"""Lion: the sign of an average that leans towards the newest gradient."""

from __future__ import annotations

import pytest
import torch

from etude.step.optim.lion import Lion
from etude.step.optim.signum import SignSGD, Signum
from rule_alone import alone, drawn


def test_steps_by_hand() -> None:
    run = alone(Lion(), [1.0], learning_rate=0.1, beta1=0.9, beta2=0.99)
    assert run.step(torch.tensor([1.0])).item() == pytest.approx(0.9)
    assert run.memory["momentum"].item() == pytest.approx(0.01)
    # 0.9 · 0.01 - 0.1 · 0.05 is above zero, so it goes on.
    assert run.step(torch.tensor([-0.05])).item() == pytest.approx(0.8)
    assert run.memory["momentum"].item() == pytest.approx(0.99 * 0.01 - 0.01 * 0.05)
    assert run.step(torch.tensor([-1.0])).item() == pytest.approx(0.9)


def test_decay_is_beside_the_sign() -> None:
    run = alone(Lion(), [2.0], learning_rate=0.1, weight_decay=0.5)
    assert run.step(torch.tensor([1.0])).item() == pytest.approx(2.0 * 0.95 - 0.1)


def test_with_equal_betas_it_is_signum() -> None:
    start, gradients = drawn((3, 4), seed=9)[0], drawn((3, 4))
    lion = alone(Lion(), start, learning_rate=0.01, beta1=0.9, beta2=0.9).walk(gradients)
    assert torch.equal(lion, alone(Signum(), start, learning_rate=0.01, momentum=0.9).walk(gradients))


def test_without_averages_it_is_signsgd() -> None:
    start, gradients = drawn((3, 4), seed=9)[0], drawn((3, 4))
    lion = alone(Lion(), start, learning_rate=0.01, beta1=0.0).walk(gradients)
    assert torch.equal(lion, alone(SignSGD(), start, learning_rate=0.01).walk(gradients))


def test_the_rate_is_a_tenth_of_adams_when_nothing_is_said() -> None:
    assert alone(Lion(), [0.0]).step(torch.tensor([3.0])).item() == pytest.approx(-1e-4)
