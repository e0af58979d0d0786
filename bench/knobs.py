"""What it costs to know and write all scheduled values of a step, and to tell what was in force.

Rows of settings and knobs, beside a step with neither.

Asked is less than 15 µs a step for 10 rows and 5 knobs, and less than 100 µs for 1,000 arrays under 50 rules.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import etude
from etude.run.in_force import InForce
from measure import Contender, Timing, compare

STEPS = 1000


class Knobbed(nn.Module):
    """A layer with a number that can be a knob."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop, self.temperature = nn.Linear(4, 4), nn.Dropout(0.1), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.layer(x)) / self.temperature


def writing(net: nn.Module, rules: dict[Any, Any], literal: dict[str, Any]) -> Contender:
    """Seconds that a step's writing, asking and telling takes, mean over a run; rates and decays by part."""
    plan = etude.Plan(
        "mse",
        learning_rate=etude.cosine(1e-3),
        rules={"learning_rate": rules, "weight_decay": dict(rules)},
        knobs=literal or None,
        steps=STEPS,
        batch_size=1,
    )
    checked = plan.check(net, (torch.zeros(100, 4), torch.zeros(100, 4)))
    stepper, knobs, in_force = checked.works[0].stepper, checked.knobs, InForce(checked)
    clock = etude.Progress(extent=checked.extent)
    moments = [clock := clock.tick(samples=1, tokens=0, epoch=step / 100) for step in range(STEPS)]

    def run() -> float:
        began = time.perf_counter()
        for progress in moments:
            if knobs is not None:
                knobs.write(progress)
            stepper.table.at(progress, stepper.memory)
            in_force.at(progress)
        return (time.perf_counter() - began) / STEPS

    return run


def ten_rows() -> Contender:
    """10 rows under 10 schedules of the rate and as many of the decay, and 5 knobs, all of them changing."""
    net = nn.Sequential(*(Knobbed() for _ in range(10)))
    rules = {f"{i}": etude.linear(1e-3 * (i + 1), 1e-5) for i in range(10)}
    literal = {
        "p": [(f"{i}", etude.linear(0.0, 0.1 * (i + 1))) for i in range(3)],
        "temperature": [("0", etude.cosine(2.0, 1.0)), (etude.everything, etude.linear(1.0, 0.5))],
    }
    return writing(net, rules, literal)


def thousand_arrays() -> Contender:
    """1,000 arrays under 50 rules of the rate and as many of the decay, and a knob of 500 modules."""
    net = nn.Sequential(*(Knobbed() for _ in range(500)))
    rules = {etude.everything[10 * i : 10 * i + 10]: etude.linear(1e-3 * (i + 1), 1e-5) for i in range(50)}
    return writing(net, rules, {"p": {nn.Dropout: etude.linear(0.0, 0.2)}})


def multiplied() -> Contender:
    """1,000 arrays under 50 multipliers of one schedule."""
    net = nn.Sequential(*(Knobbed() for _ in range(500)))
    rules = {etude.everything[10 * i : 10 * i + 10]: etude.times(0.99**i) for i in range(50)}
    return writing(net, rules, {})


def results(rounds: int) -> Iterator[tuple[str, list[Timing]]]:
    """All comparisons of this file, each with its title."""
    contenders = {
        "one rate for all": writing(nn.Sequential(*(Knobbed() for _ in range(10))), {}, {}),
        "10 rows, 5 knobs": ten_rows(),
        "1,000 arrays, 50 multipliers": multiplied(),
        "1,000 arrays, 50 schedules twice, a knob of 500 modules": thousand_arrays(),
    }
    yield "knobs: writing all scheduled values", compare(contenders, rounds, [])
