"""Why a step is refused, in words: old gradients, mixed ones, and those that are not finite."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from etude.errors import NonFiniteError, StaleGradientError
from etude.step.gradients import names_not_finite
from etude.step.states import listed, some


def mixed_gradients(number: int, names: tuple[str, ...]) -> StaleGradientError:
    """The error of the step with this number: new gradients of these arrays came on top of used ones."""
    return StaleGradientError(
        f"Step {number}: new gradients were added onto old ones that a step has used, in {listed(names)}. Nothing was "
        "changed. Call trainer.zero_grad() before backward, or call the net itself (its own forward starts afresh; a "
        "call of a child or of torch.compile(net) does not, nor does net.zero_grad(set_to_none=False)).",
        names,
    )


def stale_gradients(number: int, names: tuple[str, ...]) -> StaleGradientError:
    """The error of the step with this number: these arrays get no new gradient."""
    return StaleGradientError(
        f"Step {number}: no new gradient since the last step in {listed(names)}. Nothing was changed. Call backward() "
        "on a loss that depends on them (and zero_grad() before it, not after), freeze them, or write step(..., "
        "ignore_stale_grad=True).",
        names,
    )


def non_finite_gradients(number: int, names: Sequence[str], gradients: Sequence[Tensor]) -> NonFiniteError:
    """The error of the step with this number: some of these gradients are not finite; where all are, the loss is."""
    found = names_not_finite(names, gradients)
    what = f"the gradients of {some(found)} are" if found else "the loss is"
    return NonFiniteError(
        f"Step {number} is refused: {what} not finite. Nothing was changed. "
        'Lower the learning rate, clip gradients (clip_norm=1.0), or write non_finite="skip".',
        found or ("loss",),
        number,
    )
