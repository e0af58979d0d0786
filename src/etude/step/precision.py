"""In which numbers a step is computed: plain, autocast to bfloat16 or float16, or everything in float64.

float16 has so little range that small gradients vanish; the loss is multiplied by a scale that follows the gradients:
halved when one is not finite (that step is left out), doubled after 2,000 good steps (Micikevicius et al., "Mixed
precision training", ICLR 2018).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from etude.errors import SettingError, nearest
from etude.step.trainer import Trainer

_DTYPES = {"fp32": None, "fp64": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST = 2.0**24
_PATIENCE = 2000
_PLAIN = nullcontext()


def check_precision(precision: str | None) -> str:
    """The precision meant by an option: "fp32" when nothing is said.

    Raises:
        SettingError: none of "fp32", "fp64", "bf16", "fp16".
    """
    if precision is None:
        return "fp32"
    if precision not in _DTYPES:
        raise SettingError(
            f"precision={precision!r}: known are {', '.join(_DTYPES)}.{nearest(str(precision), _DTYPES)}"
        )
    return precision


class Precision:
    """Computes losses and gradients in the chosen numbers.

    Attributes:
        name: "fp32", "fp64", "bf16" or "fp16".
        scale: what the loss is multiplied by before backward; 1 except for fp16.
        good: steps in a row whose gradients were finite, since the scale last changed.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._dtype = _DTYPES[name]
        self._device = device.type
        self.scale = 65536.0 if name == "fp16" else 1.0
        self.good = 0

    def context(self) -> AbstractContextManager[object]:
        """Within it the loss is computed."""
        return _PLAIN if self._dtype is None else torch.autocast(self._device, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss (a scalar), times the scale."""
        torch.autograd.backward(loss if self.scale == 1.0 else loss * self.scale)

    def step(self, trainer: Trainer, ignore_stale_grad: bool, non_finite: str | None) -> bool:
        """Let the trainer step on gradients without the scale; False if it refused them."""
        if self.name != "fp16":
            return trainer.attempt(1, ignore_stale_grad, non_finite)
        # Overflow is how the scale finds its size: such steps are left out whatever the policy says of others.
        made = trainer.attempt(self.scale, ignore_stale_grad, "skip")
        self.good = self.good + 1 if made else 0
        if not made:
            self.scale = max(1.0, self.scale / 2)
        elif self.good >= _PATIENCE:
            self.scale, self.good = min(self.scale * 2, _LARGEST), 0
        return made
