"""Runs of gradients that are not finite, recorded step by step: which are left out, and which one ends the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import NonFiniteError, Trainer
from etude.run.events import Stepped
from etude.step.policies import Policy, policy, skip

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "fixtures" / "invalid_gradients.json").read_text())[
    "invalid_gradients"
]
ALLOWED = "num_allowed_consec_invalid_gradient_steps"


class Two(nn.Module):
    """Two numbers, from 0, whose gradients are what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, gradient: Tensor) -> Tensor:
        # The loss itself is 0, and finite: only its gradient is not.
        return _Given.apply(self.w, gradient)  # type: ignore[no-any-return, no-untyped-call]


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return w.sum() * 0

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0].reshape(2), None


def said(case: dict[str, Any]) -> Policy:
    """The policy of a case in our words."""
    allowed = case["settings"][ALLOWED]
    return policy("apply") if allowed is None else skip(most=allowed)


def gradients(case: dict[str, Any]) -> Tensor:
    return torch.tensor([[float(value) for value in row] for row in case["grads"]])


def expected(case: dict[str, Any]) -> Tensor:
    return torch.tensor([[float(value) for value in row] for row in case["params_after"]])


def in_a_run(case: dict[str, Any], net: Two) -> Iterator[Tensor]:
    data = (gradients(case), torch.zeros(len(case["grads"])))
    plan = etude.Plan(
        {"loss": lambda output, target: output},
        optimizer="sgd",
        learning_rate=1.0,
        epochs=1,
        batch_size=1,
        shuffle=False,
        non_finite=said(case),
    )
    for event in etude.Run(plan, net, data):
        if isinstance(event, Stepped | etude.events.Skipped):
            yield net.w.detach().clone()


def by_hand(case: dict[str, Any], net: Two) -> Iterator[Tensor]:
    known = said(case)
    trainer = Trainer(net, "sgd", learning_rate=1.0, non_finite=None if known.kind == "apply" else known)
    for row in gradients(case):
        net.w.grad = row.clone()
        trainer.step()
        yield net.w.detach().clone()


@pytest.mark.parametrize("way", [in_a_run, by_hand])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_what_is_left_out_is_what_was_recorded(case: dict[str, Any], way: Any) -> None:
    net = Two()
    found: list[Tensor] = []
    if "raises" in case:
        with pytest.raises(NonFiniteError) as caught:
            found.extend(way(case, net))
        assert caught.value.step == case["raises"]["at_step"] + 1  # recorded steps count from 0
        assert caught.value.names == ("w",)
        assert torch.equal(net.w.detach(), expected(case)[-1]), "the step that raised has changed something"
    else:
        found.extend(way(case, net))
    assert torch.equal(torch.stack(found).nan_to_num(7.0), expected(case).nan_to_num(7.0))


def test_there_are_such_cases() -> None:
    assert [case["settings"][ALLOWED] for case in CASES] == [None, 0, 2]
