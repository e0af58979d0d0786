"""The pictures of the pages: python docs/make_images.py writes docs/images/."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from etude import (
    FROZEN,
    Data,
    Plan,
    cosine,
    cycle,
    demo,
    epochs,
    everything,
    exponential,
    fraction,
    linear,
    part,
    phase,
    phases,
    pieces,
    steps,
    train,
    warmup,
)
from etude.data import shortest

IMAGES = Path(__file__).parent / "images"


def fine_tuning() -> Plan:
    """What the first page shows: a head that leads, layers that join it and then take turns, a frozen start."""
    late, early = part("layers")[3:], part("layers")[:3]
    return Plan(
        "mse",
        learning_rate=warmup(steps(10)) * cosine(1e-3, 2e-5),
        learning_rate_multipliers={"embed": FROZEN, early: 0.2, "head": 2},
        update_schedule=pieces("head", (steps(16), late | "head"), (steps(48), cycle(early * 3, late | "head"))),
        steps=112,
    )


def small_net() -> nn.Module:
    """Eight arrays with names as in a language model."""
    layers = [nn.Linear(8, 8, bias=False) for _ in range(6)]
    return nn.Sequential(
        OrderedDict(embed=nn.Linear(4, 8, bias=False), layers=nn.Sequential(*layers), head=nn.Linear(8, 1, bias=False))
    )


def scheduled() -> Plan:
    """What the page on scheduling shows: a rate, and numbers that change beside it, as lines under the score."""
    late = pieces(0.0, (steps(16), linear(0.0, 0.3, over=steps(24))))
    return Plan(
        "mse",
        learning_rate=warmup(steps(8)) * cosine(1e-3, 2e-5),
        update_schedule=pieces("head", (steps(16), part("body") | "head")),
        clip_value=pieces(10, (steps(32), None)),
        weight_noise={"body": linear(0.0, 0.02)},
        knobs={"p": {"body": late}, "temperature": exponential(2.0, 1.0)},
        steps=64,
    )


class Tempered(nn.Sequential):
    """Layers with dropout, and an output that is divided by a temperature."""

    def __init__(self) -> None:
        body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 8), nn.ReLU())
        super().__init__(OrderedDict(body=body, head=nn.Linear(8, 1)))
        self.temperature = 1.0

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = super().forward(x)
        return made / self.temperature


def in_rows() -> tuple[Plan, nn.Module, Data]:
    """What the page on scheduling shows of phases: rates, momentum and batches by rows, a tie, and turns."""
    recipe = phases(
        phase(0.1, learning_rate=linear(0.0, 0.3), momentum=linear(0.85, 0.95), batch_size=16),
        phase(0.6, learning_rate=0.3, momentum=0.95, batch_size=32),
        phase(0.3, learning_rate=linear(0.3, 0.0), momentum=linear(0.95, 0.85), batch_size=64),
    )
    body, head = nn.Linear(16, 16), nn.Linear(16, 20, bias=False)
    net = nn.Sequential(OrderedDict(embed=nn.Embedding(20, 16), body=body, head=head))
    head.weight.data.copy_(net.embed.weight.data)
    words = part("embed.weight") | "head.weight"
    plan = Plan(
        "cross_entropy",
        steps=60,
        optimizer="sgd",
        **recipe.but("batch_size"),
        update_schedule=["body", everything],
        tie={words: pieces(True, (fraction(2 / 3), False))},
        carry={words: "mean"},
    )
    said = torch.randint(0, 20, (512,))
    return plan, net, Data((said, said), batch_size=recipe["batch_size"])


def sequences() -> Data:
    """What the page on batches draws: log-normal lengths, and a curriculum."""
    lengths = np.exp(np.random.default_rng(0).normal(4, 0.6, 6000)).astype(int) + 1
    recordings = [{"audio": np.zeros((length, 1), np.float32), "label": 0} for length in lengths]
    return Data(recordings, budget=4000, keep=shortest(linear(0.5, 1, over=epochs(3))))


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    torch.manual_seed(0)
    fine_tuning().check(small_net(), (torch.randn(64, 4), torch.randn(64, 1))).plot(IMAGES / "score.png")
    scheduled().plot(Tempered(), (torch.randn(64, 8), torch.randn(64, 1)), IMAGES / "knobs.png")
    plan, net, words = in_rows()
    plan.plot(net, words, IMAGES / "phases.png")
    sequences().plot(IMAGES / "batches.png", epochs=4)
    shapes, data, rates = demo.experiment()
    train(shapes, data, rates, progress=False).plot("loss", IMAGES / "loss.png")


if __name__ == "__main__":
    main()
