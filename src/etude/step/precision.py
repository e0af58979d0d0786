"""In which numbers a step is computed: plain, autocast to bfloat16 or float16, or everything in float64.

float16 has so little range that small gradients vanish, so its loss is scaled; see `etude.step.scale`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from etude.errors import SettingError, nearest
from etude.step.scale import LossScale
from etude.step.stepper import Stepper

_DTYPES = {"fp32": None, "fp64": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_PLAIN = nullcontext()


def check_precision(precision: str | None) -> str:
    """The precision meant by an option: "fp32" when nothing is said.

    Raises:
        SettingError: none of "fp32", "fp64", "bf16", "fp16".
    """
    if precision is None:
        return "fp32"
    if not isinstance(precision, str) or precision not in _DTYPES:
        raise SettingError(
            f"precision={precision!r}: known are {', '.join(_DTYPES)}.{nearest(str(precision), _DTYPES)}"
        )
    return precision


class Precision:
    """Computes losses and gradients in the chosen numbers.

    Attributes:
        name: "fp32", "fp64", "bf16" or "fp16".
        scale: what the loss is multiplied by before backward; 1 except for fp16.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._dtype = _DTYPES[name]
        self._device = device.type
        self.scale = LossScale("dynamic" if name == "fp16" else None)

    def context(self) -> AbstractContextManager[object]:
        """Within it the loss is computed."""
        return _PLAIN if self._dtype is None else torch.autocast(self._device, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss (a scalar), times the scale."""
        torch.autograd.backward(loss * self.scale.value if self.scale.active else loss)

    def step(self, stepper: Stepper, ignore_stale_grad: bool, non_finite: str | None, divisor: float = 1.0) -> bool:
        """Let the stepper step on gradients without the scale, divided by `divisor`; False if it refused them."""
        made = stepper.attempt(self.scale.value * divisor, ignore_stale_grad, self.scale.policy(non_finite))
        self.scale.follow(made)
        return made
