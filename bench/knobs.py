"""What it costs to write all scheduled values of a step: rows of settings and knobs, beside a step with neither.

Asked is less than 15 µs a step for 10 rows and 5 knobs, and less than 100 µs for 1,000 arrays under 50 rules.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch import nn

import etude
from etude.bind.knobs import Knobs
from etude.values.progress import Extent, Progress
from etude.values.tree import Tree
from measure import Contender, Timing, compare

STEPS = 1000
EXTENT = Extent(steps=STEPS, epochs=10.0)
MOMENTS = [Progress(step, step / 100, extent=EXTENT) for step in range(STEPS)]


class Knobbed(nn.Module):
    """A layer with a number that can be a knob."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop, self.temperature = nn.Linear(4, 4), nn.Dropout(0.1), 1.0


def trainer(net: nn.Module, rules: dict[Any, Any]) -> etude.Trainer:
    """Rates and decays by part, each a schedule."""
    every = {"learning_rate": rules, "weight_decay": dict(rules)}
    return etude.Trainer(net, "adamw", learning_rate=etude.cosine(1e-3), rules=every, total=etude.steps(STEPS))


def writing(net: nn.Module, rules: dict[Any, Any], literal: dict[str, Any]) -> Contender:
    """Seconds that it takes to know the numbers of a step and write the knobs, mean over a run."""
    table = trainer(net, rules).table
    knobs = Knobs(Tree(net), literal, EXTENT)

    def run() -> float:
        began = time.perf_counter()
        for progress in MOMENTS:
            table.at(progress)
            knobs.write(progress)
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
