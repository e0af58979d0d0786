"""DC-ASGD: SGD that makes up for the delay of a gradient by a guess of the curvature.

With y the array as it was before its last step: d = g + w x; d += c d² (x - y); b = u b + d; x -= r b, with
compensation c, decay w, momentum u, rate r. Zheng et al., "Asynchronous stochastic gradient descent with delay
compensation", ICML 2017: there y is what a worker computed its gradient at; in one process it is one step old.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import on


class DcAsgd(UpdateRule):
    """`"dcasgd"`: compensation 0.04 (MXNet's lamda), momentum 0, weight_decay 0 (coupled, inside the square). The
    rate is 0.1 when nothing is said.
    """

    name: ClassVar[str] = "dcasgd"
    settings: ClassVar[Mapping[str, Setting]] = {
        "compensation": Setting(0.04),
        "momentum": Setting(0.0, 0.0, 1.0),
        "weight_decay": Setting(0.0),
    }
    memories: ClassVar[tuple[str, ...]] = ("previous", "momentum")
    rate: ClassVar[float] = 0.1

    def remembers(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return self.memories if settings["momentum"] else self.memories[:1]

    def begin(self, memory: str, array: Tensor) -> Tensor:
        """The previous array is the array itself at first: no delay, nothing to make up for."""
        return array.detach().clone() if memory == "previous" else super().begin(memory, array)

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        previous, momentum = memory["previous"], settings["momentum"]
        change = -gradient if climb else gradient
        if on(settings["weight_decay"]):
            change = change + array * settings["weight_decay"]
        change = change + change * change * (array - previous) * settings["compensation"]
        if on(momentum):
            change = memory["momentum"].mul_(momentum).add_(change)
        # A plain copy_ of an array that then changes is made too late by torch's compiler (pytorch issue 198131).
        previous.lerp_(array, 1.0)
        array.sub_(change * settings["learning_rate"])
