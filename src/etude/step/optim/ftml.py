"""FTML: follow the moving leader, between Adam and FTRL.

v = b2 v + (1 - b2) g²; d' = (1 - b1^t) / r · (sqrt(v / (1 - b2^t)) + eps);
z = b1 z + (1 - b1) g - (d' - b1 d) x; x = -z / d'; d = d'. Zheng and Kwok, "Follow the moving leader in deep
learning", ICML 2017. Decay is added to the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import filled, lerp, on


class Ftml(UpdateRule):
    """`"ftml"`: beta1 0.6, beta2 0.999, eps 1e-8, weight_decay 0 (coupled). The rate is 0.0025 when nothing is said."""

    name: ClassVar[str] = "ftml"
    settings: ClassVar[Mapping[str, Setting]] = {
        "beta1": Setting(0.6, 0.0, 1.0),
        "beta2": Setting(0.999, 0.0, 1.0),
        "eps": Setting(1e-8),
        "weight_decay": Setting(0.0),
    }
    memories: ClassVar[tuple[str, ...]] = ("square", "curvature", "linear")
    rate: ClassVar[float] = 0.0025

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        beta1, beta2 = settings["beta1"], settings["beta2"]
        square, curvature, linear = memory["square"], memory["curvature"], memory["linear"]
        change = -gradient if climb else gradient
        if on(settings["weight_decay"]):
            change = change + array * settings["weight_decay"]
        lerp(square, change * change, 1 - beta2)
        size = (square / filled(beta2, count)).sqrt() + settings["eps"]
        steeper = size * (filled(beta1, count) / settings["learning_rate"])
        linear.mul_(beta1).add_(change * (1 - beta1) - (steeper - curvature * beta1) * array)
        # With eps=0 there is no curvature where no gradient has ever been: such elements stay.
        array.copy_(torch.where(steeper > 0, -linear / steeper, array))
        curvature.copy_(steeper)
