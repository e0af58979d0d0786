"""Signum and signSGD: steps of one size, momentum, decay beside the sign."""

from __future__ import annotations

import pytest
import torch

from etude.step.optim.signum import SignSGD, Signum
from rule_alone import alone, drawn


def test_steps_by_hand() -> None:
    run = alone(Signum(), [1.0], learning_rate=0.1, momentum=0.5)
    assert run.step(torch.tensor([2.0])).item() == pytest.approx(0.9)
    assert run.memory["momentum"].item() == pytest.approx(1.0)
    assert run.step(torch.tensor([-4.0])).item() == pytest.approx(1.0)
    assert run.memory["momentum"].item() == pytest.approx(-1.5)


def test_decay_is_beside_the_sign() -> None:
    for rule in (Signum(), SignSGD()):
        run = alone(rule, [2.0], learning_rate=0.1, weight_decay=0.5)
        assert run.step(torch.tensor([1e-6])).item() == pytest.approx(2.0 * 0.95 - 0.1)


def test_momentum_outvotes_one_gradient() -> None:
    run = alone(Signum(), [0.0], learning_rate=1.0, momentum=0.9)
    after = run.walk([torch.tensor([1.0])] * 5 + [torch.tensor([-1.0])])
    assert after.item() == -6.0


def test_without_momentum_it_is_signsgd_and_remembers_nothing() -> None:
    start, gradients = drawn((3, 4), seed=9)[0], drawn((3, 4))
    signum = alone(Signum(), start, momentum=0.0, weight_decay=0.1)
    assert torch.equal(signum.walk(gradients), alone(SignSGD(), start, weight_decay=0.1).walk(gradients))
    assert signum.memory == {}


def test_an_element_without_gradient_stays_and_the_size_of_others_is_of_no_importance() -> None:
    after = alone(SignSGD(), [1.0, 1.0, 1.0]).step(torch.tensor([0.0, 1e-20, -1e20]))
    assert torch.allclose(after, torch.tensor([1.0, 0.99, 1.01]))
