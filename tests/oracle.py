"""Our update rules beside torch's own, each array by itself and in a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from etude.step.trainer import Trainer
from etude.values.progress import Progress

SHAPES = ((3, 4), (5,), (), (2, 3, 2))


def beginnings(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[nn.Parameter]:
    """Parameters of several shapes."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def gradients(arrays: Sequence[Tensor], step: int) -> list[Tensor]:
    """Gradients of about one, other ones at each step."""
    generator = torch.Generator().manual_seed(1000 + step)
    drawn = [torch.randn(array.shape, generator=generator, dtype=torch.float64) for array in arrays]
    return [one.to(array.dtype) for one, array in zip(drawn, arrays, strict=True)]


def rate_at(step: float) -> float:
    """A rate that goes up and down."""
    return 0.01 * (1 + (step % 7) / 2)


def apart(
    rule: str,
    kind: type[torch.optim.Optimizer],
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    *,
    count: int = 50,
    dtype: torch.dtype = torch.float32,
    rate: Callable[[float], float] = rate_at,
) -> float:
    """The largest difference between our rule and torch's after `count` steps at a changing rate."""
    mine, reference = beginnings(dtype), beginnings(dtype)
    trainer = Trainer(mine, rule, learning_rate=lambda progress: _rate(progress, rate), **ours)
    optimizer = kind(reference, lr=abs(rate(0)), foreach=False, **theirs)
    for step in range(count):
        for one, other, gradient in zip(mine, reference, gradients(mine, step), strict=True):
            one.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.param_groups[0]["lr"] = rate(step)
        trainer.step()
        trainer.zero_grad()
        optimizer.step()
    return max(float((a - b).detach().abs().max()) for a, b in zip(mine, reference, strict=True))


def _rate(progress: Progress, rate: Callable[[float], float]) -> float:
    return rate(progress.step)
