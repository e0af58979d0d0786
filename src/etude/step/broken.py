"""What in a step is not finite, and where that began: in the targets, the batch, the net, or on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.errors import NonFiniteError
from etude.step.loss import Measured
from etude.step.reading import tensors_in
from etude.step.states import listed, some


@dataclass(frozen=True, slots=True)
class Broken:
    """What was found.

    Attributes:
        what: is not finite, in words. where: that began, in a sentence; "" where it is not known.
        names: of the arrays, terms or parts of the batch. rows: of the batch that hold it, where it is in the batch.
    """

    what: str
    where: str
    names: tuple[str, ...]
    rows: tuple[int, ...] = ()

    @property
    def why(self) -> str:
        """All of it in a sentence or two."""
        return f"{self.what} is not finite. {self.where}".strip()

    def error(self, number: int, before: int) -> NonFiniteError:
        """The error of the step with this number; `before`: samples of the step before those that were looked at."""
        where = self.where or (
            "The batch and the arrays of the net are finite: the numbers overflow on the way. Lower the learning "
            "rate, clip gradients (clip_norm=1.0), or scale the data."
        )
        return NonFiniteError(
            f"Step {number} is refused: {self.what} is not finite. {where} This update changed nothing. "
            'To leave such steps out write non_finite="skip".',
            self.names,
            number,
            tuple(row + before for row in self.rows),
        )


def broken(loss: Tensor, terms: Mapping[str, Measured], values: Any, arrays: Mapping[str, Tensor]) -> Broken:
    """Find out what is not finite, once something is known to be.

    Args:
        loss: what was minimised. terms: those that count in it, by name. values: the batch. arrays: of the net.
    """
    named = tuple(name for name, term in terms.items() if not is_finite(term.mean))
    what = "a gradient" if is_finite(loss) else f"the loss {listed(named) or repr('loss')}"
    if any(not float(term.count) for term in terms.values()):
        return Broken(what, "It is a mean over nothing: every target is ignored, or padding.", named)
    inputs = {name: tensor for name, tensor in tensors_in(values) if not is_finite(tensor)}
    if inputs:
        where = f"The batch has NaN or infinity in {', '.join(inputs)}."
        return Broken(what, where, tuple(inputs), _rows(next(iter(inputs.values()))))
    wrong = tuple(name for name, array in arrays.items() if not is_finite(array))
    return Broken(what, f"The net has NaN or infinity in {some(wrong)}." if wrong else "", wrong or named)


def is_finite(tensor: Any) -> bool:
    """Whether no number in it is NaN or infinite; what is no tensor of such numbers has none. Waits for the device."""
    if not isinstance(tensor, Tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return bool(torch.isfinite(tensor.detach()).all())


def _rows(tensor: Tensor) -> tuple[int, ...]:
    """The rows that hold NaN or infinity."""
    wrong = ~torch.isfinite(tensor.detach())
    found: list[int] = wrong.reshape(len(tensor), -1).any(1).nonzero().flatten().tolist() if tensor.dim() else []
    return tuple(found)
