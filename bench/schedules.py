"""What an update schedule saves: a run in which only the last of twelve blocks moves, beside the whole net moving."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import etude
from loops import Attention
from measure import Contender, Target, Timing, compare


def blocks() -> nn.Module:
    """Twelve layers of width 256."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.ReLU()) for _ in range(12)))


def transformer() -> nn.Module:
    """Twelve transformer blocks of width 64."""
    return nn.Sequential(*(Attention(64, 4) for _ in range(12)))


def contender(make: type | object, data: tuple[Tensor, Tensor], schedule: list[object] | None) -> Contender:
    """Seconds a step of `etude.train`."""

    def run() -> float:
        torch.manual_seed(0)
        net = make()  # type: ignore[operator]
        result = etude.train(
            net, data, loss="mse", optimizer="adamw", update_schedule=schedule, epochs=1, batch_size=32, progress=False
        )
        return result.seconds / result.steps

    return run


def results(rounds: int) -> Iterator[tuple[str, list[Timing]]]:
    """All comparisons of this file, each with its title."""
    cases = {
        "12 blocks of an MLP": (blocks, (torch.randn(960, 256), torch.randn(960, 256)), 0.5),
        "12 blocks of a transformer": (transformer, (torch.randn(320, 32, 64), torch.randn(320, 32, 64)), 0.5),
    }
    for title, (make, data, target) in cases.items():
        contenders = {
            "everything moves": contender(make, data, None),
            "only the last moves": contender(make, data, ["11"]),
            "only the first moves": contender(make, data, ["0"]),
            "every other, in turn": contender(make, data, [etude.everything[::2], etude.everything[1::2]]),
        }
        yield f"schedule: {title}", compare(contenders, rounds, [Target("only the last moves", target)])
