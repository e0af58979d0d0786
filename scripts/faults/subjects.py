"""What the harnesses work on: small states, and folders with good checkpoints of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

START = "2021-06-21T10-15-30"
"""When the runs began, as their files say."""


@contextmanager
def scratch(in_memory: bool = False) -> Iterator[Path]:
    """A new folder, removed afterwards; in memory where the system has a place for that and nothing has to be real."""
    shared = Path("/dev/shm")
    place = shared if in_memory and os.access(shared, os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="etude-faults-", dir=place)).resolve()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def state(step: int, numbers: int = 4000) -> dict[str, Tensor]:
    """Arrays as they might be after `step` steps, `numbers` of them: no two steps share one."""
    half = numbers // 2
    return {
        "0.weight": torch.arange(half, dtype=torch.float32) + step * numbers,
        "optimizer:loss:0.weight:mean": torch.arange(numbers - half, dtype=torch.float32) - step * numbers,
        "optimizer:loss:0.weight:count": torch.tensor(step),
    }


def alike(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether the same arrays hold the same bits."""
    return some.keys() == others.keys() and all(
        one.dtype == others[name].dtype
        and one.shape == others[name].shape
        and torch.equal(bits(one), bits(others[name]))
        for name, one in some.items()
    )


def bits(array: Tensor) -> Tensor:
    """The bytes of an array: NaN is equal to itself."""
    return array.detach().contiguous().view(-1).view(torch.uint8)


def name(step: int) -> Any:
    """What the checkpoint after a step is called."""
    from etude.keep.names import Name

    return Name(START, 1, 1, step, 0.5)


def save(store: Any, image: Any, step: int, numbers: int = 4000) -> Path:
    """One save as the thread of a run makes it: written, noted, and what is not kept removed."""
    from etude.keep.retain import Entry

    image.take(state(step, numbers))
    path: Path = store.target(name(step))
    image.write(path, {"step": step})
    store.committed(path, Entry(str(path), step, step, 1.0))
    store.retain()
    return path


def small_run(folder: Path, steps: int, **options: Any) -> Any:
    """A run of a small net with everything that a state can hold: averages, the best net, batch norm, dropout.

    Args:
        folder: where it is saved, at every fourth step. steps: how many it has. options: more for `etude.train`.
    """
    import etude
    from etude.keep.destination import Directory
    from etude.keep.retain import last

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout(0.2), nn.Linear(12, 3))
        data = torch.randn(60, 6), torch.randint(0, 3, (60,))
    plan: dict[str, Any] = {
        "loss": "cross_entropy",
        "steps": steps,
        "batch_size": 10,
        "averages": etude.ema(0.9),
        "validation": 0.2,
        "checkpoint": Directory(folder, etude.every(etude.steps(4)), keep=last(3)),
        "progress": False,
    }
    return etude.train(net, data, **(plan | options))
