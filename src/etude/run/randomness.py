"""Randomness is counted, not carried: what a step draws depends on the seed and the number of the step alone.

The generators of torch, numpy and Python are all seeded, so that a loss that mixes samples by `np.random` repeats as
dropout does. Training and evaluation draw from streams of their own: nothing that happens between two steps, an
evaluation or a listener, changes what is drawn later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from etude.data.chance import item_key, sow, undisturbed

# Added to the seed above its 64 bits: the streams beside that of the data, which is 0.
_STEP, _LOOK = 1 << 64, 2 << 64


def seed_step(seed: int, step: int, device: torch.device, compiled: bool = False) -> None:
    """Seed the generators for the step made at `step`; a compiled one draws from torch's alone."""
    key = item_key(seed + _STEP, step, 0)
    if compiled:
        torch.default_generator.manual_seed(key & 0xFFFFFFFF)
        if device.type == "cuda":
            torch.cuda.manual_seed(key)
    else:
        _seed(key, device)


def seed_look(seed: int, device: torch.device) -> None:
    """Seed the generators for an evaluation: every one of a run draws the same numbers, so that they compare."""
    _seed(item_key(seed + _LOOK, 0, 0), device)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Within it the generators of torch, numpy and Python may be seeded; afterwards they are as they were."""
    devices = list(range(torch.cuda.device_count())) if _cuda_in_use() else []
    with undisturbed(), torch.random.fork_rng(devices=devices):
        yield


def _seed(key: int, device: torch.device) -> None:
    sow(key)
    if device.type == "cuda":
        torch.cuda.manual_seed(key)


def _cuda_in_use() -> bool:
    return torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
