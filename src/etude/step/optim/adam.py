"""Adam and AdamW.

m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g²; x -= r · (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps), with t the
number of times the array has moved. Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015. Adam adds
decay to the gradient; AdamW shrinks the array by 1 - r·decay first (Loshchilov and Hutter, "Decoupled weight decay
regularization", ICLR 2019). With `amsgrad` the largest v so far is used (Reddi et al., "On the convergence of Adam and
beyond", ICLR 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.step.optim.rule import Memory, Setting, UpdateRule
from etude.step.optim.terms import filled, lerp, on

_COLUMNS = ("learning_rate", "weight_decay", "beta1", "beta2", "eps", "amsgrad")
"""The settings that the kernels of native.c take, in their order."""


class Adam(UpdateRule):
    """`"adam"`: beta1, beta2 (or `betas=(beta1, beta2)`), eps, weight_decay (coupled), amsgrad."""

    name: ClassVar[str] = "adam"
    settings: ClassVar[Mapping[str, Setting]] = {
        "beta1": Setting(0.9, 0.0, 1.0),
        "beta2": Setting(0.999, 0.0, 1.0),
        "eps": Setting(1e-8),
        "weight_decay": Setting(0.0),
        "amsgrad": Setting(False),
    }
    memories: ClassVar[tuple[str, ...]] = ("mean", "square", "largest")
    native: ClassVar[tuple[str, ...]] = ("etude_adam", *_COLUMNS)
    decoupled: ClassVar[bool] = False

    def remembers(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return self.memories if settings["amsgrad"] else self.memories[:2]

    def update(
        self,
        arrays: Sequence[Tensor],
        gradients: Sequence[Tensor],
        memory: Memory,
        counts: Sequence[Tensor],
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        kernel: Callable[..., None] = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        kernel(
            arrays,
            gradients,
            memory["mean"],
            memory["square"],
            memory["largest"] if settings["amsgrad"] else [],
            counts,
            amsgrad=settings["amsgrad"],
            lr=settings["learning_rate"],
            beta1=settings["beta1"],
            beta2=settings["beta2"],
            weight_decay=settings["weight_decay"],
            eps=settings["eps"],
            maximize=climb,
        )

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        rate, beta1, beta2, decay = (settings[key] for key in ("learning_rate", "beta1", "beta2", "weight_decay"))
        change = -gradient if climb else gradient
        if on(decay) and self.decoupled:
            array.mul_(1 - rate * decay)
        elif on(decay):
            change = change + array * decay
        mean, square = memory["mean"], memory["square"]
        lerp(mean, change, 1 - beta1)
        square.mul_(beta2).add_(change * change * (1 - beta2))
        if settings["amsgrad"]:
            square = memory["largest"].copy_(torch.maximum(memory["largest"], square))
        size = (square / filled(beta2, count)).sqrt() + settings["eps"]
        array.sub_(mean / size * (rate / filled(beta1, count)))


class AdamW(Adam):
    """`"adamw"`: as Adam, with decay applied to the array and not through the gradient; weight_decay is 0.01."""

    name: ClassVar[str] = "adamw"
    settings: ClassVar[Mapping[str, Setting]] = {**Adam.settings, "weight_decay": Setting(0.01)}
    native: ClassVar[tuple[str, ...]] = ("etude_adamw", *_COLUMNS)
    decoupled: ClassVar[bool] = True


class AMSGrad(Adam):
    """`"amsgrad"`: Adam with the largest v so far."""

    name: ClassVar[str] = "amsgrad"
    settings: ClassVar[Mapping[str, Setting]] = {**Adam.settings, "amsgrad": Setting(True)}
