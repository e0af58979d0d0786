"""Adam and AdamW: equal to torch's, with every setting, at changing rates, up and down."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from etude.step.optim.adam import Adam, AdamW
from etude.step.trainer import Trainer
from etude.values.schedule import pieces
from etude.values.spans import steps
from oracle import apart, beginnings, gradients

CASES: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.0},
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"amsgrad": True, "weight_decay": 0.1},
    {"betas": (0.8, 0.98), "eps": 0.1, "weight_decay": 0.05},
]
KINDS = {"adam": (Adam, torch.optim.Adam), "adamw": (AdamW, torch.optim.AdamW)}


@pytest.mark.parametrize("settings", CASES, ids=repr)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fifty_steps_are_torchs(name: str, settings: dict[str, Any], dtype: torch.dtype) -> None:
    assert apart(name, KINDS[name][1], settings, settings, dtype=dtype) < 1e-6


@pytest.mark.parametrize("settings", CASES, ids=repr)
@pytest.mark.parametrize("name", KINDS)
def test_climbing_is_torchs_maximize(name: str, settings: dict[str, Any]) -> None:
    climbing = {**settings, "learning_rate_multipliers": -1}
    assert apart(name, KINDS[name][1], climbing, {**settings, "maximize": True}) < 1e-6


@pytest.mark.parametrize("settings", CASES, ids=repr)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("climb", [False, True])
def test_the_formula_is_the_kernel(name: str, settings: dict[str, Any], climb: bool) -> None:
    fast, plain = beginnings(), beginnings()
    rule = KINDS[name][0]()
    own = dict(settings)
    beta1, beta2 = own.pop("betas", (0.9, 0.999))
    values = {key: setting.default for key, setting in rule.settings.items()} | own
    values |= {"learning_rate": 0.01, "beta1": beta1, "beta2": beta2}
    memory = [{key: [torch.zeros_like(p) for p in fast] for key in rule.memories} for _ in range(2)]
    for step in range(5):
        counts = [torch.tensor(step + 1.0) for _ in fast]
        with torch.no_grad():
            rule.update(fast, gradients(fast, step), memory[0], counts, values, climb)
            rule.formulas(plain, gradients(plain, step), memory[1], counts, values, climb)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(fast, plain, strict=True))


def test_a_step_in_half_precision_is_near_torchs() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert apart("adamw", torch.optim.AdamW, {}, {}, dtype=dtype, count=5) < 0.02


def test_memory_of_the_largest_is_kept_only_with_amsgrad() -> None:
    for amsgrad, keys in ((False, {"mean", "square", "count"}), (True, {"mean", "square", "largest", "count"})):
        w = nn.Parameter(torch.ones(2))
        trainer = Trainer([w], "adam", amsgrad=amsgrad)
        w.grad = torch.ones(2)
        trainer.step()
        assert set(trainer.state_dict()["arrays"]["0"]) == keys


def test_betas_are_two_settings() -> None:
    for settings in ({"betas": (0.5, 0.9)}, {"beta1": 0.5, "beta2": 0.9}):
        trainer = Trainer(beginnings(), "adamw", **settings)
        assert trainer.settings()["beta1"] == 0.5
        assert trainer.settings()["beta2"] == 0.9


@pytest.mark.parametrize(
    "said",
    [{"0": (0.5, 0.9)}, [("0", (0.5, 0.9)), ("1", (0.6, 0.8))], {"0": (pieces(0.1, (steps(9), 0.2)), 0.9)}],
    ids=repr,
)
def test_betas_by_part(said: Any) -> None:
    table = Trainer(beginnings(), "adamw", rules={"betas": said}).table
    first = said["0"] if isinstance(said, dict) else said[0][1]
    now = table.at(Trainer(beginnings()).progress)
    row = next(n for n, row in enumerate(table.rows) if "0" in row.names)
    expected = first[0] if isinstance(first[0], float) else 0.1
    assert (now.columns["beta1"][row], now.columns["beta2"][row]) == (expected, 0.9)
    assert now.columns["beta1"][next(n for n, row in enumerate(table.rows) if "3" in row.names)] == 0.9


def test_the_first_step_is_the_rate_whatever_the_gradient() -> None:
    for scale in (1e-3, 1.0, 1e3):
        w = nn.Parameter(torch.zeros(3))
        trainer = Trainer([w], "adam", learning_rate=0.1)
        w.grad = torch.tensor([1.0, -1.0, 2.0]) * scale
        trainer.step()
        assert torch.allclose(w, torch.tensor([-0.1, 0.1, -0.1]), atol=1e-5)


def test_decay_of_adamw_goes_beside_the_gradient() -> None:
    w = nn.Parameter(torch.tensor([2.0]))
    trainer = Trainer([w], "adamw", learning_rate=0.1, weight_decay=0.5)
    w.grad = torch.zeros(1)
    trainer.step()
    assert w.item() == pytest.approx(2 * (1 - 0.1 * 0.5))
