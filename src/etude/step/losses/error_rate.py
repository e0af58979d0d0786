"""The share of targets that are not the most probable class."""

from __future__ import annotations

from torch import Tensor

from etude.errors import DataError


def error_rate(output: Tensor, target: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How many targets are missed, and how many there are.

    Args:
        output: one number for each class, which are its second dimension: (samples, classes, ...). Where it has the
            shape of the target, or one class, logits of two classes: 1 is meant by a number above 0.
        target: class indices (samples, ...); what is negative is ignored.
        mask: which of the target are true, bool (samples, longest) or (samples,); None: all.

    Raises:
        DataError: the shapes do not go together.
    """
    if output.shape == target.shape:
        said = (output > 0).to(target.dtype)
    elif output.shape[:1] + output.shape[2:] == target.shape:
        said = output.argmax(1) if output.shape[1] > 1 else (output[:, 0] > 0).to(target.dtype)
    else:
        raise DataError(
            f"error_rate: an output of shape {tuple(output.shape)} and a target of shape {tuple(target.shape)}. It "
            "takes class indices, and an output with the classes in its second dimension."
        )
    known = target >= 0
    if mask is not None:
        known = known & mask.reshape(*mask.shape, *(1,) * (target.dim() - mask.dim()))
    return ((said != target) & known).sum().float(), known.sum()
