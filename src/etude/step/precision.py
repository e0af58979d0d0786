"""In which numbers a step is computed: plain, autocast to bfloat16 or float16, or everything in float64.

float16 has so little range that small gradients vanish, so its loss is scaled; see `etude.step.scale`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor

from etude.arguments import told_of
from etude.errors import SettingError, nearest
from etude.step.scale import LossScale
from etude.step.stepper import Stepper
from etude.values import preview
from etude.values.progress import Extent, Progress
from etude.values.schedule import Constant, Schedule, schedule

PrecisionLike: TypeAlias = "str | Schedule | Callable[[Progress], str] | None"

_DTYPES = {"fp32": None, "fp64": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_PLAIN = nullcontext()
_MOMENTS = 200


def check_precision(precision: PrecisionLike) -> Any:
    """The precision meant by an option: a name ("fp32" when nothing is said), or a schedule of names.

    Raises:
        SettingError: none of "fp32", "fp64", "bf16", "fp16", or a schedule with "fp64", whose net has other arrays.
    """
    if precision is None:
        return "fp32"
    if isinstance(precision, str) or not (isinstance(precision, Schedule) or callable(precision)):
        return _name(precision, f"precision={precision!r}")
    made = schedule(precision)
    if made.reactive:
        raise SettingError(
            f"precision={made!r} listens to scores; a precision goes by the clock. Write precision=pieces('fp32', "
            "(epochs(2), 'bf16'))."
        )
    for name in _written(made):
        _scheduled(name, made)
    return _name(made.value, f"precision={made!r}") if isinstance(made, Constant) else made


class Precision:
    """Computes losses and gradients in the chosen numbers.

    Args:
        precision: a name, or a schedule of names. device: where. extent: how long the run is.

    Attributes:
        name: "fp32", "fp64", "bf16" or "fp16": the one that is in force.
        names: all that will be in force, as far as that can be seen.
        changes: whether it may change from step to step.
        scale: what the loss is multiplied by before backward; 1 except for fp16, between whose stretches it is kept.

    Raises:
        SettingError: the schedule gives something else. ScheduleError: it is undefined somewhere in the run.
    """

    def __init__(self, precision: str | Schedule, device: torch.device, extent: Extent | None = None) -> None:
        extent = extent or Extent()
        self._schedule = precision if isinstance(precision, Schedule) else None
        self.names = (precision,) if isinstance(precision, str) else _seen(precision, extent)
        self.changes = self._schedule is not None
        self._device = device.type
        # What a function gives is seen at some moments only: there is a scale wherever one may be needed.
        may = self._schedule is not None or "fp16" in self.names
        self._dynamic = LossScale("dynamic" if may else None)
        self._none = LossScale(None)
        self._use(self.names[0])

    def follow(self, progress: Progress) -> None:
        """From here on the numbers of the step that is made at `progress`.

        Raises:
            SettingError: the schedule gives no name of a precision.
        """
        if self._schedule is not None:
            self._use(_scheduled(self._schedule.at(progress), self._schedule))

    def context(self) -> AbstractContextManager[object]:
        """Within it the loss is computed."""
        return _PLAIN if self._dtype is None else torch.autocast(self._device, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss (a scalar), times the scale."""
        torch.autograd.backward(loss * self.scale.value if self.scale.active else loss)

    def gradients(self, loss: Tensor, arrays: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """The same as tensors, one for each array; None where the loss does not reach it."""
        scaled = loss * self.scale.value if self.scale.active else loss
        return torch.autograd.grad(scaled, arrays, allow_unused=True)

    def step(self, stepper: Stepper, ignore_stale_grad: bool, non_finite: str | None, divisor: float = 1.0) -> bool:
        """Let the stepper step on gradients without the scale, divided by `divisor`; False if it refused them."""
        scale = self.scale
        if scale is self._none:
            return stepper.attempt(divisor, ignore_stale_grad, non_finite)
        made = stepper.attempt(scale.value * divisor, ignore_stale_grad, scale.policy(non_finite), scaled=scale.finding)
        scale.follow(made)
        return made

    def state(self) -> dict[str, float]:
        """What a later run needs to go on: the scale of fp16; which numbers are in force the clock says."""
        return self._dynamic.state()

    def load(self, state: Any) -> None:
        """Take over what `state()` gave."""
        self._dynamic.load(state)

    def _use(self, name: str) -> None:
        self.name = name
        self._dtype = _DTYPES[name]
        self.scale = self._dynamic if name == "fp16" else self._none


def _seen(made: Schedule, extent: Extent) -> tuple[str, ...]:
    """The names that a schedule gives in a run."""
    with told_of("precision"):
        made.check(extent)
    moments = preview.moments(extent, _MOMENTS, unknown=0.0)
    return tuple(dict.fromkeys(_scheduled(name, made) for name in (*map(made.at, moments), *_written(made))))


def _written(made: Schedule) -> list[Any]:
    """The values that stand in a schedule."""
    return [made.value] if isinstance(made, Constant) else [v for child in made.children for v in _written(child)]


def _scheduled(name: Any, made: Schedule) -> str:
    """A value of a schedule of precisions, which may be any but float64."""
    if _name(name, f"precision={made!r} gives {name!r}") == "fp64":
        raise SettingError(
            f"precision={made!r}: fp64 is for a whole run, because the arrays are float64 then. Write precision='fp64' "
            "alone, or fp32 here."
        )
    return str(name)


def _name(name: Any, said: str) -> str:
    if not isinstance(name, str) or name not in _DTYPES:
        raise SettingError(f"{said}: known are {', '.join(_DTYPES)}.{nearest(str(name), _DTYPES)}")
    return name
