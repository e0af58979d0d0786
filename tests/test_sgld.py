"""SGLD: noise of the right size, from a seed; samples of the right spread."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.step.optim.sgld import Sgld
from etude.step.trainer import Trainer
from rule_alone import alone


def noise(seed: int = 0, steps: int = 1, name: str = "w", **settings: Any) -> Tensor:
    """Where an array of zeros is after steps without a gradient."""
    array = nn.Parameter(torch.zeros(100, 100))
    trainer = Trainer({name: array}, Sgld(), seed=seed, **settings)
    for _ in range(steps):
        array.grad = torch.zeros(100, 100)
        trainer.step()
        trainer.zero_grad()
    return array.detach()


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_noise_is_normal_of_variance_rate_times_temperature(temperature: float) -> None:
    made = noise(learning_rate=0.04, temperature=temperature)
    deviation = math.sqrt(0.04 * temperature)
    assert float(made.std()) == pytest.approx(deviation, rel=0.03)
    assert abs(float(made.mean())) < 4 * deviation / 100
    assert float((made.abs() < deviation).float().mean()) == pytest.approx(0.6827, abs=0.02)


def test_each_step_draws_anew() -> None:
    assert float(noise(learning_rate=0.04, steps=4).std()) == pytest.approx(math.sqrt(4 * 0.04), rel=0.03)


def test_the_seed_and_the_name_decide_the_noise() -> None:
    assert torch.equal(noise(seed=1), noise(seed=1))
    assert not torch.equal(noise(seed=1), noise(seed=2))
    assert not torch.equal(noise(seed=1, name="v"), noise(seed=1))


def test_a_resumed_run_draws_what_it_would_have_drawn() -> None:
    arrays = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    whole, first = (Trainer({"w": array}, Sgld(), seed=5) for array in arrays)
    for trainer, array, count in ((whole, arrays[0], 4), (first, arrays[1], 2)):
        for _ in range(count):
            array.grad = torch.ones(3)
            trainer.step()
            trainer.zero_grad()
    later = nn.Parameter(arrays[1].detach().clone())
    second = Trainer({"w": later}, Sgld(), seed=5)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        later.grad = torch.ones(3)
        second.step()
        second.zero_grad()
    assert torch.equal(later, arrays[0])


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_its_samples_have_the_spread_of_the_posterior(temperature: float) -> None:
    """The energy x² / 2 at rate r has the variance T / (1 - r / 4)."""
    array, rate = nn.Parameter(torch.zeros(100, 100)), 0.4
    trainer = Trainer({"w": array}, Sgld(), learning_rate=rate, temperature=temperature)
    for _ in range(30):
        array.grad = array.detach().clone()
        trainer.step()
        trainer.zero_grad()
    assert float(array.detach().var()) == pytest.approx(temperature / (1 - rate / 4), rel=0.05)


def test_cold_it_is_gradient_descent_at_half_the_rate() -> None:
    run = alone(Sgld(), [2.0], learning_rate=0.1, temperature=0.0, weight_decay=0.5)
    assert run.step(torch.tensor([3.0])).item() == pytest.approx(2 - 0.05 * (3 + 1))
    assert run.memory == {}


def test_preconditioned_steps_and_noise() -> None:
    settings = {"learning_rate": 0.1, "precondition": True, "beta2": 0.99, "eps": 0.5}
    run = alone(Sgld(), [2.0], temperature=0.0, **settings)
    step = 1 / (math.sqrt(0.01 * 9) + 0.5)
    assert run.step(torch.tensor([3.0])).item() == pytest.approx(2 - 0.05 * 3 * step)
    warm = alone(Sgld(), torch.zeros(10000), temperature=0.25, **settings).step(torch.zeros(10000))
    assert float(warm.std()) == pytest.approx(math.sqrt(0.1 * 0.25 / 0.5), rel=0.03)
