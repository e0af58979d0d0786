"""LAMB: Adam with the step of each array scaled to the norm of the array.

m and v as in Adam; u = m' / (sqrt(v') + eps) + w x, with m' = m / (1 - b1^t) and v' = v / (1 - b2^t) (m and v
themselves with bias_correction=False); x -= r · |x| / |u| · u. The ratio is 1 where a norm is zero. |x| is kept within
lower_bound and upper_bound. You et al., "Large batch optimization for deep learning: training BERT in 76 minutes",
ICLR 2020.

Nothing is exempt unless somebody says so. To leave biases and norm scales out, as is usual for BERT:
`rules={"adapt": {"*.bias": False}, "weight_decay": {"*.bias": 0}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar

from torch import Tensor

from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import divided, filled, lerp, norm, on, ratio


class Lamb(UpdateRule):
    """`"lamb"`: beta1 0.9, beta2 0.999, eps 1e-6, weight_decay 0 (inside the scaled step), bias_correction, adapt
    (whether steps are scaled: by part), lower_bound 0, upper_bound without end. The rate is 1e-3 when nothing is said.
    """

    name: ClassVar[str] = "lamb"
    settings: ClassVar[Mapping[str, Setting]] = {
        "beta1": Setting(0.9, 0.0, 1.0),
        "beta2": Setting(0.999, 0.0, 1.0),
        "eps": Setting(1e-6),
        "weight_decay": Setting(0.0),
        "bias_correction": Setting(True),
        "adapt": Setting(True),
        "lower_bound": Setting(0.0),
        "upper_bound": Setting(inf, 0.0, inf, closed=True),
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
        beta1, beta2 = settings["beta1"], settings["beta2"]
        change = -gradient if climb else gradient
        mean = lerp(memory["mean"], change, 1 - beta1)
        square = lerp(memory["square"], change * change, 1 - beta2)
        if settings["bias_correction"]:
            mean, square = mean / filled(beta1, count), square / filled(beta2, count)
        step = divided(mean, square.sqrt() + settings["eps"])
        array.sub_(scaled(step, array, settings) * settings["learning_rate"])


def scaled(step: Tensor, array: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """A step with decay added, and scaled to the norm of the array, if `adapt` says so, within its bounds."""
    if on(settings["weight_decay"]):
        step = step + array * settings["weight_decay"]
    if not settings["adapt"]:
        return step
    return step * ratio(norm(array).clamp(settings["lower_bound"], settings["upper_bound"]), norm(step))
