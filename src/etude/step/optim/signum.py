"""Signum and signSGD.

Signum: m = u m + (1 - u) g; x -= r (sign(m) + w x), with momentum u, decay w, rate r. SignSGD is the same without
momentum: x -= r (sign(g) + w x). Bernstein et al., "signSGD: compressed optimisation for non-convex problems", ICML
2018; the decay beside the sign is of Bernstein et al., "signSGD with majority vote is communication efficient and
fault tolerant", ICLR 2019. Every element moves by r, whatever the size of its gradient, and not at all where the
gradient (the momentum) is exactly zero. Decay that goes through the momentum is the trainer's setting `l2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import lerp, on


class Signum(UpdateRule):
    """`"signum"`: momentum 0.9, weight_decay 0 (decoupled). The learning rate is 0.01 when nothing is said."""

    name: ClassVar[str] = "signum"
    settings: ClassVar[Mapping[str, Setting]] = {"momentum": Setting(0.9, 0.0, 1.0), "weight_decay": Setting(0.0)}
    memories: ClassVar[tuple[str, ...]] = ("momentum",)
    rate: ClassVar[float] = 0.01

    def remembers(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return self.memories if settings["momentum"] else ()

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        change = -gradient if climb else gradient
        if on(settings["momentum"]):
            change = lerp(memory["momentum"], change, 1 - settings["momentum"])
        _move_by_sign(array, change, settings)


class SignSGD(UpdateRule):
    """`"signsgd"`: weight_decay 0 (decoupled). The learning rate is 0.01 when nothing is said."""

    name: ClassVar[str] = "signsgd"
    settings: ClassVar[Mapping[str, Setting]] = {"weight_decay": Setting(0.0)}
    memories: ClassVar[tuple[str, ...]] = ()
    rate: ClassVar[float] = 0.01

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        _move_by_sign(array, -gradient if climb else gradient, settings)


def _move_by_sign(array: Tensor, change: Tensor, settings: Mapping[str, Any]) -> None:
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    if on(decay):
        array.mul_(1 - rate * decay)
    array.sub_(change.sign() * rate)
