"""Small nets, small data and short runs, for the tests of the run layer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import etude
from etude.run.events import Event
from etude.run.result import Result

CLASSES = 3


def mlp(seed: int = 1) -> nn.Sequential:
    """4 inputs, 8 hidden units, 3 classes; the same arrays for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, CLASSES))


class Noisy(nn.Module):
    """A net with batch norm and dropout: what happens in it depends on mode, batch and chance."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
            self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        head: Tensor = self.head(self.body(x))
        return head


def classified(n: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs (n, 4) and class indices (n,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, torch.randint(0, CLASSES, (n,), generator=generator)


def options(**changed: Any) -> dict[str, Any]:
    """Options of a short run: one epoch in batches of 4, cross entropy."""
    short: dict[str, Any] = {"loss": "cross_entropy", "batch_size": 4}
    if not changed.keys() & {"epochs", "steps", "time_limit"}:
        short["epochs"] = 1
    return {**short, **changed}


def trained(net: nn.Module | None = None, data: Any = None, *, listeners: Any = (), **changed: Any) -> Result:
    """A short silent run."""
    made = mlp() if net is None else net
    given = classified() if data is None else data
    return etude.train(made, given, progress=False, listeners=listeners, **options(**changed))


def run(net: nn.Module | None = None, data: Any = None, **changed: Any) -> etude.Run:
    """The same as a run that has not begun."""
    made = mlp() if net is None else net
    return etude.Run(etude.Plan(**options(**changed)), made, classified() if data is None else data)


def arrays(net: nn.Module | None) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    assert net is not None
    return {name: a.detach().clone() for name, a in (*net.named_parameters(), *net.named_buffers())}


def same(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two sets of arrays are alike to the bit."""
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def close(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-6) -> bool:
    """Whether two sets of arrays are alike but for rounding."""
    return mine.keys() == theirs.keys() and all(
        torch.allclose(mine[name], theirs[name], rtol=1e-5, atol=tolerance) for name in mine
    )


def condition(net: nn.Module) -> tuple[Any, ...]:
    """All of a net besides its numbers that a run must leave alone: modes, flags, types, devices, hooks."""
    return (
        [module.training for module in net.modules()],
        [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in net.modules()],
        [(a.requires_grad, a.dtype, a.device, a.grad is None) for a in (*net.parameters(), *net.buffers())],
    )


def randomness() -> tuple[Any, ...]:
    """The states of the process's generators, to compare."""
    numpy_state: Any = np.random.get_state(legacy=False)
    return (
        torch.get_rng_state().tolist(),
        numpy_state["state"]["key"].tolist(),
        numpy_state["state"]["pos"],
        numpy_state["has_gauss"],
        random.getstate(),
    )


def kinds(events: list[Event]) -> list[str]:
    """The names of the events in order."""
    return [type(event).__name__ for event in events]


def batches(n: int, size: int) -> Iterator[slice]:
    """The batches of an epoch in order, as slices."""
    edges = [*range(0, n, size), n]
    return (slice(a, b) for a, b in pairwise(edges))
