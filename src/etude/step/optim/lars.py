"""LARS: SGD with momentum, the rate of each array in proportion to its norm.

q = trust · |x| / (|g| + w |x| + eps), 1 where a norm is zero; b = u b + r q (g + w x); x -= b, with momentum u, decay
w, rate r. You, Gitman and Ginsburg, "Large batch training of convolutional networks", 2017 (arXiv 1708.03888). The
rate is inside the buffer, as in the paper, so a new rate acts on new gradients only.

Arrays of at most one dimension, and those with names that end in bias, gamma or beta, have q = 1: for them this is
plain SGD. `rules={"adapt": {everything: True}}` takes them in, and False leaves others out.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import norm, on


class Lars(UpdateRule):
    """`"lars"`: momentum 0.9, trust 0.001 (MXNet's eta), eps 1e-8, weight_decay 0 (coupled), adapt (whether the rate
    follows the norm: by part), clip without end (bound of the gradient's elements once its norm is taken; `clip_value`
    of the trainer bounds them before). The rate is 0.1 when nothing is said.
    """

    name: ClassVar[str] = "lars"
    settings: ClassVar[Mapping[str, Setting]] = {
        "momentum": Setting(0.9, 0.0, 1.0),
        "trust": Setting(0.001),
        "eps": Setting(1e-8),
        "weight_decay": Setting(0.0),
        "adapt": Setting(True),
        "clip": Setting(inf, 0.0, inf, closed=True),
    }
    memories: ClassVar[tuple[str, ...]] = ("momentum",)
    rate: ClassVar[float] = 0.1

    def remembers(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return self.memories if settings["momentum"] else ()

    def own_defaults(self, name: str, array: Tensor) -> Mapping[str, Any]:
        exempt = array.dim() <= 1 or name.endswith(("bias", "gamma", "beta"))
        return {"adapt": False} if exempt else {}

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        rate, decay, clip = settings["learning_rate"], settings["weight_decay"], settings["clip"]
        change = -gradient if climb else gradient
        if settings["adapt"]:
            rate = rate * _trust(norm(array), norm(change), settings)
        change = change.clamp(-clip, clip)
        if on(decay):
            change = change + array * decay
        change = change * rate
        if on(settings["momentum"]):
            change = memory["momentum"].mul_(settings["momentum"]).add_(change)
        array.sub_(change)


def _trust(size: Tensor, slope: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """By how much the rate of an array of this norm, with a gradient of this norm, is multiplied."""
    share = size * settings["trust"] / (slope + size * settings["weight_decay"] + settings["eps"])
    return torch.where((size > 0) & (slope > 0), share, 1.0)
