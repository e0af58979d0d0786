"""The generators of this process as they were at a moment, so that what was drawn since can be drawn again."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import final

import numpy as np
import torch


@final
class Chance:
    """The state of the generators of torch, numpy and Python when it is made.

    Args:
        devices: those besides the CPU whose generators may be drawn from.
    """

    def __init__(self, devices: Iterable[torch.device] = ()) -> None:
        self._ours = torch.default_generator.get_state()
        self._numpys = np.random.get_state()
        self._pythons = random.getstate()
        others = [device for device in devices if device.type not in ("cpu", "meta")]
        self._others = {device: torch.get_device_module(device).get_rng_state(*_named(device)) for device in others}

    def restore(self) -> None:
        """Give the generators back these states."""
        torch.default_generator.set_state(self._ours)
        np.random.set_state(self._numpys)
        random.setstate(self._pythons)
        for device, state in self._others.items():
            torch.get_device_module(device).set_rng_state(state, *_named(device))


def _named(device: torch.device) -> tuple[torch.device, ...]:
    """The device as the functions of its kind take it: of MPS there is one alone, and nobody names it."""
    return () if device.type == "mps" else (device,)
