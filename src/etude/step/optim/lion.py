"""Lion: the sign of a moving average that leans towards the newest gradient.

c = b1 m + (1 - b1) g; x -= r (sign(c) + w x); m = b2 m + (1 - b2) g. Chen et al., "Symbolic discovery of optimization
algorithms", NeurIPS 2023. The paper advises a rate 3 to 10 times smaller, and a decay as many times larger, than for
AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import lerp, on


class Lion(UpdateRule):
    """`"lion"`: beta1 0.9, beta2 0.99, weight_decay 0 (decoupled). The rate is 1e-4 when nothing is said."""

    name: ClassVar[str] = "lion"
    settings: ClassVar[Mapping[str, Setting]] = {
        "beta1": Setting(0.9, 0.0, 1.0),
        "beta2": Setting(0.99, 0.0, 1.0),
        "weight_decay": Setting(0.0),
    }
    memories: ClassVar[tuple[str, ...]] = ("momentum",)
    rate: ClassVar[float] = 1e-4

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        rate, decay, momentum = settings["learning_rate"], settings["weight_decay"], memory["momentum"]
        change = -gradient if climb else gradient
        if on(decay):
            array.mul_(1 - rate * decay)
        array.sub_(lerp(momentum.clone(), change, 1 - settings["beta1"]).sign() * rate)
        lerp(momentum, change, 1 - settings["beta2"])
