"""SGLD: stochastic gradient Langevin dynamics, which draws samples of the posterior instead of finding its peak.

x -= r / 2 · (g + w x) + sqrt(r T) · e, with e standard normal, rate r, decay w (a normal prior of variance 1 / w),
temperature T. Welling and Teh, "Bayesian learning via stochastic gradient Langevin dynamics", ICML 2011. g is the
gradient of the negative log posterior of all data: with a mean over n samples in its place, write temperature=1/n.
With temperature=0 it is plain gradient descent.

With `precondition` each element has a step of its own: d = g + w x; v = b2 v + (1 - b2) d²; G = 1 / (sqrt(v) + eps);
x -= r / 2 · G d + sqrt(r T G) · e. Li, Chen, Carlson and Carin, "Preconditioned stochastic gradient Langevin dynamics
for deep neural networks", AAAI 2016, without the term for the change of G, which they leave out in practice too. They
take v of g alone; with the prior in it, elements that the data say nothing about do not fly off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import divided


class Sgld(UpdateRule):
    """`"sgld"`: temperature 1, weight_decay 0 (coupled), precondition False, with it beta2 0.99 and eps 1e-5. The
    rate is 0.1 when nothing is said. The noise comes from the trainer's seed.
    """

    name: ClassVar[str] = "sgld"
    settings: ClassVar[Mapping[str, Setting]] = {
        "temperature": Setting(1.0),
        "weight_decay": Setting(0.0),
        "precondition": Setting(False),
        "beta2": Setting(0.99, 0.0, 1.0),
        "eps": Setting(1e-5),
    }
    memories: ClassVar[tuple[str, ...]] = ("square",)
    rate: ClassVar[float] = 0.1
    draws: ClassVar[tuple[str, ...]] = ("noise",)

    def remembers(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return self.memories if settings["precondition"] else ()

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        rate, noise = settings["learning_rate"], memory["noise"]
        change = -gradient if climb else gradient
        if settings["weight_decay"]:
            change = change + array * settings["weight_decay"]
        if settings["precondition"]:
            square = memory["square"].lerp_(change * change, 1 - settings["beta2"])
            steps = divided(torch.ones_like(square), square.sqrt() + settings["eps"])
            change, noise = change * steps, noise * steps.sqrt()
        array.sub_(change * (rate / 2) + noise * (rate * settings["temperature"]) ** 0.5)
