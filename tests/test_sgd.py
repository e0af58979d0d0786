"""SGD: equal to torch's, its memory only where there is momentum, its formula the same as its kernel."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from etude.step.optim.sgd import SGD
from etude.step.trainer import Trainer
from etude.values.schedule import pieces
from etude.values.spans import steps
from oracle import apart, beginnings, gradients

CASES: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
]


@pytest.mark.parametrize("settings", CASES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fifty_steps_are_torchs(settings: dict[str, Any], dtype: torch.dtype) -> None:
    assert apart("sgd", torch.optim.SGD, settings, settings, dtype=dtype) < 1e-6


@pytest.mark.parametrize("settings", CASES, ids=repr)
def test_climbing_is_torchs_maximize(settings: dict[str, Any]) -> None:
    climbing = {**settings, "learning_rate_multipliers": -1}
    assert apart("sgd", torch.optim.SGD, climbing, {**settings, "maximize": True}) < 1e-6


@pytest.mark.parametrize("settings", CASES, ids=repr)
@pytest.mark.parametrize("climb", [False, True])
def test_the_formula_is_the_kernel(settings: dict[str, Any], climb: bool) -> None:
    fast, plain = beginnings(), beginnings()
    rule = SGD()
    values = {key: setting.default for key, setting in rule.settings.items()} | settings | {"learning_rate": 0.01}
    memory = [{"momentum": [torch.zeros_like(p) for p in fast]} for _ in range(2)]
    for step in range(5):
        counts = [torch.tensor(step + 1.0) for _ in fast]
        with torch.no_grad():
            rule.update(fast, gradients(fast, step), memory[0], counts, values, climb)
            rule.formulas(plain, gradients(plain, step), memory[1], counts, values, climb)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(fast, plain, strict=True))


def test_one_step_by_hand() -> None:
    w = nn.Parameter(torch.tensor([2.0]))
    trainer = Trainer([w], "sgd", learning_rate=0.1, momentum=0.5, weight_decay=0.5)
    for expected in (2 - 0.1 * (3 + 1), 1.6 - 0.1 * (0.5 * 4 + 3 + 0.8)):
        w.grad = torch.tensor([3.0])
        trainer.step()
        trainer.zero_grad()
        assert w.item() == pytest.approx(expected)


def test_without_momentum_there_is_no_memory() -> None:
    (w,) = params = beginnings()[:1]
    trainer = Trainer(params, "sgd")
    w.grad = torch.ones_like(w)
    trainer.step()
    assert trainer.state_dict()["arrays"]["0"] == {"count": 1}


def test_momentum_may_begin_later() -> None:
    w = nn.Parameter(torch.tensor([1.0]))
    trainer = Trainer([w], "sgd", learning_rate=1.0, momentum=pieces(0.0, (steps(1), 0.5)))
    for expected in (0.0, -1.0, -2.5):
        w.grad = torch.tensor([1.0])
        trainer.step()
        trainer.zero_grad()
        assert w.item() == pytest.approx(expected)


def test_dampening_leaves_the_first_step_of_each_array_alone() -> None:
    """Each array has a first step of its own."""
    a, b = (nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    trainer = Trainer(
        {"a": a, "b": b}, "sgd", learning_rate=1.0, momentum=0.9, dampening=0.5, update_schedule=["a", "b"]
    )
    for _ in range(2):
        a.grad, b.grad = torch.tensor([1.0]), torch.tensor([1.0])
        trainer.step()
        trainer.zero_grad()
    assert a.item() == b.item() == 0.0


def test_settings_have_bounds() -> None:
    settings = SGD.settings
    settings["momentum"].check("momentum", 0.99)
    settings["dampening"].check("dampening", 1)
    assert settings["weight_decay"].high == math.inf
