"""An update rule by itself: no trainer, one array, its formula step by step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from etude.step.optim.rule import UpdateRule


@dataclass
class Alone:
    """A rule at work on one array, of which it keeps a copy with the same strides.

    Attributes:
        array: as it is now. memory: what the rule keeps. count: how often it has moved.
    """

    rule: UpdateRule
    start: Tensor
    settings: dict[str, Any] = field(default_factory=dict)
    climb: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        given = {key: setting.default for key, setting in self.rule.settings.items()}
        self.settings = {"learning_rate": self.rule.rate, **given, **self.settings}
        self.array = _like(self.start)
        self.memory = {key: self.rule.begin(key, self.array) for key in self.rule.remembers(self.settings)}
        self.count = 0
        self._generator = torch.Generator().manual_seed(self.seed)

    def step(self, gradient: Tensor) -> Tensor:
        """Move once; a copy of the array after it."""
        self.count += 1
        shape, dtype = self.array.shape, self.array.dtype
        drawn = {key: torch.randn(shape, generator=self._generator).to(dtype) for key in self.rule.draws}
        own = {**self.memory, **drawn}
        self.rule.formula(self.array, gradient, own, torch.tensor(float(self.count)), self.settings, self.climb)
        return self.array.clone()

    def walk(self, gradients: Iterable[Tensor]) -> Tensor:
        """Move once for each gradient; the array after the last."""
        for gradient in gradients:
            self.step(gradient)
        return self.array.clone()


def alone(rule: UpdateRule, start: Any, *, climb: bool = False, seed: int = 0, **settings: Any) -> Alone:
    """A rule at work on an array that begins at `start`."""
    array = start if isinstance(start, Tensor) else torch.tensor(start)
    return Alone(rule, array, settings, climb, seed)


def drawn(shape: tuple[int, ...], count: int = 5, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Gradients of about one."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def _like(array: Tensor) -> Tensor:
    made = torch.empty_strided(array.shape, array.stride(), dtype=array.dtype)
    return made.copy_(array)
