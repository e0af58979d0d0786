"""LARS: rates in proportion to norms, and who is exempt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from etude.step.optim.lars import Lars
from etude.step.trainer import Trainer
from etude.values.part import everything
from rule_alone import alone, drawn


def test_steps_by_hand() -> None:
    run = alone(Lars(), [[3.0, 4.0]], learning_rate=2.0, momentum=0.5, trust=0.1, weight_decay=0.2, eps=0.0)
    share = 0.1 * 5 / (2 + 0.2 * 5)
    first = torch.tensor([[0.6, 2 + 0.8]]) * share * 2
    assert torch.allclose(run.step(torch.tensor([[0.0, 2.0]])), torch.tensor([[3.0, 4.0]]) - first)
    now = run.array.clone()
    norm = float(now.norm())
    second = first / 2 + (torch.tensor([[1.0, 0.0]]) + 0.2 * now) * (2 * 0.1 * norm / (1 + 0.2 * norm))
    assert torch.allclose(run.step(torch.tensor([[1.0, 0.0]])), now - second)


def test_the_rate_is_inside_the_buffer() -> None:
    run = alone(Lars(), [[1.0]], learning_rate=1.0, momentum=0.5, trust=1.0, eps=0.0)
    run.step(torch.tensor([[4.0]]))
    assert run.memory["momentum"].item() == 1.0


def test_elements_are_clipped_after_the_norm_was_taken() -> None:
    run = alone(Lars(), [[3.0, 4.0]], learning_rate=1.0, momentum=0.0, trust=1.0, eps=0.0, clip=0.5)
    assert torch.allclose(run.step(torch.tensor([[0.0, 10.0]])), torch.tensor([[3.0, 4.0 - 0.5 * 5 / 10]]))


def test_where_a_norm_is_zero_the_rate_is_as_given() -> None:
    run = alone(Lars(), [[0.0, 0.0]], learning_rate=0.1, momentum=0.0)
    assert run.step(torch.tensor([[1.0, -2.0]])).tolist() == [pytest.approx([-0.1, 0.2])]


def test_without_adapting_it_is_sgd() -> None:
    start, gradients = drawn((3, 4), seed=9)[0], drawn((3, 4))
    ours = alone(Lars(), start, learning_rate=0.1, adapt=False, weight_decay=0.1).walk(gradients)
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.1)
    for gradient in gradients:
        theirs.grad = gradient.clone()
        optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "adapts"),
    [
        ("fc.weight", (2, 2), True),
        ("fc.weight", (4,), False),
        ("scale", (), False),
        ("fc.bias", (2, 2), False),
        ("norm_gamma", (2, 2), False),
        ("norm.beta", (2, 2), False),
        ("bias.weight", (2, 2), True),
    ],
)
def test_names_and_shapes_decide_who_is_exempt(name: str, shape: tuple[int, ...], adapts: bool) -> None:
    assert Lars().own_defaults(name, torch.zeros(shape)).get("adapt", True) is adapts


@pytest.mark.parametrize(
    ("settings", "weight", "bias"),
    [
        ({}, True, False),
        ({"rules": {"adapt": {everything: True}}}, True, True),
        ({"rules": {"adapt": {"*.weight": False}}}, False, False),
        ({"rules": {"adapt": {"*.bias": True}}}, True, True),
    ],
    ids=["nothing said", "everything adapts", "weights do not", "biases do"],
)
def test_what_is_said_overrules_it(settings: dict[str, Any], weight: bool, bias: bool) -> None:
    net = nn.Linear(2, 1)
    trainer = Trainer(net, Lars(), learning_rate=1.0, momentum=0.0, trust=0.5, eps=0.0, **settings)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, 4.0]]))
        net.bias.fill_(4.0)
    net.weight.grad, net.bias.grad = torch.tensor([[10.0, 0.0]]), torch.tensor([10.0])
    trainer.step()
    assert net.weight[0, 0].item() == pytest.approx(3 - (0.5 * 5 if weight else 10))
    assert net.bias.item() == pytest.approx(4 - (0.5 * 4 if bias else 10))


def test_no_clipping_is_the_default() -> None:
    assert Lars.settings["clip"].default == math.inf
    Lars.settings["clip"].check("clip", 0.5)
