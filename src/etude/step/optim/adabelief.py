"""AdaBelief: Adam with the square of what a gradient differs from its average in place of its own square.

m = b1 m + (1 - b1) g; s = b2 s + (1 - b2) (g - m)² + eps; x -= r · (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps).
Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients", NeurIPS 2020. eps is added
to s at every step and sets how adaptive the rule is: 1e-16 is about what 1e-8 is for Adam. Decay is added to the
gradient; the trainer's setting `shrink` is the decoupled one. `clip` bounds the elements of that sum, as MXNet does.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar

from torch import Tensor

from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import divided, filled, lerp, on


class AdaBelief(UpdateRule):
    """`"adabelief"`: beta1 0.9, beta2 0.999, eps 1e-8, weight_decay 0 (coupled), clip without end (bound of the
    elements of the gradient with its decay; `clip_value` of the trainer bounds them before). The rate is 1e-3 when
    nothing is said.
    """

    name: ClassVar[str] = "adabelief"
    settings: ClassVar[Mapping[str, Setting]] = {
        "beta1": Setting(0.9, 0.0, 1.0),
        "beta2": Setting(0.999, 0.0, 1.0),
        "eps": Setting(1e-8),
        "weight_decay": Setting(0.0),
        "clip": Setting(inf, 0.0, inf, closed=True),
    }
    memories: ClassVar[tuple[str, ...]] = ("mean", "square")
    rate: ClassVar[float] = 1e-3

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        beta1, beta2, eps = settings["beta1"], settings["beta2"], settings["eps"]
        change = -gradient if climb else gradient
        if on(settings["weight_decay"]):
            change = change + array * settings["weight_decay"]
        change = change.clamp(-settings["clip"], settings["clip"])
        mean = lerp(memory["mean"], change, 1 - beta1)
        surprise = change - mean
        square = lerp(memory["square"], surprise * surprise, 1 - beta2).add_(eps)
        size = (square / filled(beta2, count)).sqrt() + eps
        array.sub_(divided(mean, size) * (settings["learning_rate"] / filled(beta1, count)))
