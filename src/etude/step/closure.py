"""A step of an optimizer that computes the loss itself, several times: L-BFGS and its like."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor

from etude.bind.table import Now
from etude.errors import NonFiniteError, SettingError
from etude.step.gradients import Gradients, all_finite
from etude.step.ledger import gradients_of
from etude.step.optim.lbfgs import LBFGSOptimizer
from etude.step.stepper import Stepper


def check(stepper: Stepper, closure: Callable[[], Tensor] | None, batch_size: float) -> None:
    """Raise SettingError unless there is a closure exactly where the optimizer needs one."""
    if closure is None:
        raise SettingError(
            f"{stepper.name} computes the loss itself, several times a step. Write "
            f"trainer.step({batch_size!r}, closure=f), where f() returns the summed loss after its backward()."
        )
    if not stepper.optimizer.needs_closure:
        raise SettingError(
            f"closure= is for optimizers that compute the loss several times a step, as L-BFGS does; {stepper.name} "
            "takes one gradient. Leave it out."
        )


def attempt(
    stepper: Stepper, closure: Callable[[], Tensor], count: float, ignore_stale_grad: bool, non_finite: str | None
) -> bool:
    """Let the optimizer step with a closure that computes the loss summed over `count` samples and its gradients.

    Returns:
        Whether the step was made; False if non_finite="skip" refused it.

    Raises:
        NonFiniteError, StaleGradientError, and what the closure raises: the arrays are as they were.
    """
    now = _moving(stepper)
    optimizer = stepper.optimizer
    # Arrays may have been given other numbers since.
    stepper.check_together(stepper.table)
    assert isinstance(optimizer, LBFGSOptimizer)
    try:
        optimizer.move_with_closure(now, lambda: _compute(stepper, closure, count, ignore_stale_grad, non_finite))
    except NonFiniteError:
        if non_finite == "skip":
            return False
        raise
    stepper.finish(now)
    return True


def _moving(stepper: Stepper) -> Now:
    """What moves: who sets requires_grad = False holds an array."""
    now = stepper.table.at(stepper.progress, stepper.memory)
    held = frozenset(i for i in now.moving.indices if not stepper.arrays[i].requires_grad)
    return Now(now.columns, stepper.table.less(now.moving, held)) if held else now


def _compute(
    stepper: Stepper, closure: Callable[[], Tensor], count: float, ignore: bool, non_finite: str | None
) -> tuple[Tensor, list[Tensor]]:
    """The mean loss, and its gradients for what moves, as the optimizer gets them."""
    stepper.zero_grad()
    with stepper.only_moving(), torch.enable_grad():
        loss = closure()
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise SettingError(
            f"closure() returned {type(loss).__name__}: the summed loss is needed, a tensor of one number."
        )
    now, found = _found(stepper, ignore)
    found = stepper.without_non_finite(now, found)
    if non_finite is not None and not (isfinite(float(loss.detach())) and all_finite(found)):
        stepper.raise_non_finite(now, found)
    gradients = Gradients(found)
    if count != 1:
        gradients.divide(count)
    stepper.prepare(gradients, now)
    return loss.detach().reshape(()) / count + stepper.decay(now), gradients.values


def _found(stepper: Stepper, ignore: bool) -> tuple[Now, list[Tensor]]:
    """What moves and its gradients; zero where there is none, if that may be."""
    now = _moving(stepper)
    arrays = stepper.looked_up(now.moving).arrays
    if not ignore:
        stepper.fresh(False)
    found = gradients_of(arrays)
    zeros = [torch.zeros_like(array) if g is None else g for array, g in zip(arrays, found, strict=True)]
    return now, [gradient.to_dense() if gradient.is_sparse else gradient for gradient in zeros]
