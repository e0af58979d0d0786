"""Randomness is counted, not carried: what a step draws depends on the seed and the number of the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_step(seed: int, step: int, device: torch.device) -> None:
    """Seed torch's generators for the step made at `step`."""
    # The odd constants of splitmix64 spread neighbouring seeds and steps over all 64 bits.
    mixed = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xBF58476D1CE4E5B9) & 0x7FFFFFFFFFFFFFFF
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.manual_seed(mixed)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Within it torch's generators may be seeded and drawn from; afterwards they are as they were."""
    devices = list(range(torch.cuda.device_count())) if _cuda_in_use() else []
    with torch.random.fork_rng(devices=devices):
        yield


def _cuda_in_use() -> bool:
    return torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
