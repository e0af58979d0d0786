"""FTRL-Proximal: follow the regularised leader, which holds small weights at exactly zero.

With n the sum of squared gradients before this step: z += g - (sqrt(n + g²) - sqrt(n)) x / r; n += g²;
x = -sign(z) max(|z| - l1, 0) / ((beta + sqrt(n)) / r + w). McMahan et al., "Ad click prediction: a view from the
trenches", KDD 2013, where r, l1 and w are alpha, lambda1 and lambda2. The weights are a function of z and n, so what
they were before the first step enters only where it meets a gradient: elements without any become zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import divided


class Ftrl(UpdateRule):
    """`"ftrl"`: l1 0.01, beta 1, weight_decay 0 (the paper's lambda2). The rate is 0.1 when nothing is said."""

    name: ClassVar[str] = "ftrl"
    settings: ClassVar[Mapping[str, Setting]] = {
        "l1": Setting(0.01),
        "beta": Setting(1.0),
        "weight_decay": Setting(0.0),
    }
    memories: ClassVar[tuple[str, ...]] = ("linear", "square")
    rate: ClassVar[float] = 0.1

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        rate, linear, square = settings["learning_rate"], memory["linear"], memory["square"]
        change = -gradient if climb else gradient
        before, added = square.sqrt(), change * change
        after = square.add_(added).sqrt()
        # The difference of the two roots, without the digits that subtracting them would lose.
        linear.add_(change - divided(added, before + after) * array / rate)
        beyond = (linear.abs() - settings["l1"]).clamp(min=0.0)
        curvature = (after + settings["beta"]) / rate + settings["weight_decay"]
        array.copy_(divided(-linear.sign() * beyond, curvature))
