"""Stochastic gradient descent with momentum.

With momentum m, dampening d, decay w, rate r: g' = g + w x; b = m b + (1 - d) g' (b = g' the first time);
x -= r b, or x -= r (g' + m b) with Nesterov's form. Sutskever et al., "On the importance of initialization and
momentum in deep learning", ICML 2013; the rate is outside the buffer, as in torch.optim.SGD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.step.optim.half import is_low
from etude.step.optim.rule import Memory, Setting, UpdateRule
from etude.step.optim.terms import on


class SGD(UpdateRule):
    """`"sgd"`: momentum, dampening, nesterov, weight_decay (coupled: added to the gradient)."""

    name: ClassVar[str] = "sgd"
    settings: ClassVar[Mapping[str, Setting]] = {
        "momentum": Setting(0.0, 0.0, 1.0),
        "dampening": Setting(0.0, 0.0, 1.0, closed=True),
        "nesterov": Setting(False),
        "weight_decay": Setting(0.0),
    }
    memories: ClassVar[tuple[str, ...]] = ("momentum",)
    native: ClassVar[tuple[str, ...]] = (
        "etude_sgd",
        "learning_rate",
        "weight_decay",
        "momentum",
        "dampening",
        "nesterov",
    )

    def remembers(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return self.memories if settings["momentum"] else ()

    def update(
        self,
        arrays: Sequence[Tensor],
        gradients: Sequence[Tensor],
        memory: Memory,
        counts: Sequence[Tensor],
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        # The kernel's notion of a first step holds for a whole list; dampening is where it matters. And of arrays in
        # half precision on the CPU it moves the last few elements only (pytorch issue 191763).
        if settings["dampening"] or is_low(arrays[0]):
            self.formulas(arrays, gradients, memory, counts, settings, climb)
            return
        # The kernel turns the gradient before it adds the decay, so decay shrinks whichever way the array moves.
        decay = settings["weight_decay"]
        torch._fused_sgd_(
            list(arrays),
            list(gradients),
            list(memory["momentum"]) if settings["momentum"] else [],
            weight_decay=decay,
            momentum=settings["momentum"],
            lr=settings["learning_rate"],
            dampening=0.0,
            nesterov=settings["nesterov"],
            maximize=climb,
            is_first_step=False,
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
        momentum = settings["momentum"]
        change = -gradient if climb else gradient
        if on(settings["weight_decay"]):
            change = change + array * settings["weight_decay"]
        if on(momentum):
            buffer = memory["momentum"]
            kept = torch.where(count <= 1, 0.0, settings["dampening"]) if on(settings["dampening"]) else 0.0
            buffer.mul_(momentum).add_(change * (1 - kept))
            change = change + buffer * momentum if settings["nesterov"] else buffer
        array.sub_(change * settings["learning_rate"])


class NAG(SGD):
    """`"nag"`: SGD with Nesterov's momentum; momentum is 0.9."""

    name: ClassVar[str] = "nag"
    settings: ClassVar[Mapping[str, Setting]] = {
        **SGD.settings,
        "momentum": Setting(0.9, 0.0, 1.0),
        "nesterov": Setting(True),
    }
