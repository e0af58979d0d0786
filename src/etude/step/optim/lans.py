"""LANS: LAMB on gradients of norm one, with a step of Nesterov's kind.

h = g / |g|; m and v as in Adam, of h; d = sqrt(v / (1 - b2^t)) + eps; u = m / (1 - b1^t) / d + w x; c = h / d + w x;
x -= r (b1 |x| / |u| · u + (1 - b1) |x| / |c| · c). The ratios are 1 where a norm is zero; |x| is kept within
lower_bound and upper_bound. Zheng, Lin, Zha and Li, "Accelerated large batch optimization of BERT pretraining in 54
minutes", 2020 (arXiv 2006.13484). As for LAMB nothing is exempt unless `adapt` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar

from torch import Tensor

from etude.step.optim.lamb import scaled
from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import divided, filled, lerp, norm


class Lans(UpdateRule):
    """`"lans"`: beta1 0.9, beta2 0.999, eps 1e-6, weight_decay 0 (inside the scaled steps), adapt (whether steps are
    scaled: by part), lower_bound 0, upper_bound without end, clip without end (bound of the elements of g / |g|). The
    rate is 1e-3 when nothing is said.
    """

    name: ClassVar[str] = "lans"
    settings: ClassVar[Mapping[str, Setting]] = {
        "beta1": Setting(0.9, 0.0, 1.0),
        "beta2": Setting(0.999, 0.0, 1.0),
        "eps": Setting(1e-6),
        "weight_decay": Setting(0.0),
        "adapt": Setting(True),
        "lower_bound": Setting(0.0),
        "upper_bound": Setting(inf, 0.0, inf, closed=True),
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
        beta1, beta2, clip = settings["beta1"], settings["beta2"], settings["clip"]
        change = -gradient if climb else gradient
        change = divided(change, norm(change)).to(array.dtype).clamp(-clip, clip)
        mean = lerp(memory["mean"], change, 1 - beta1)
        square = lerp(memory["square"], change * change, 1 - beta2)
        size = (square / filled(beta2, count)).sqrt() + settings["eps"]
        slow = scaled(divided(mean / filled(beta1, count), size), array, settings)
        quick = scaled(divided(change, size), array, settings)
        array.sub_((slow * beta1 + quick * (1 - beta1)) * settings["learning_rate"])
