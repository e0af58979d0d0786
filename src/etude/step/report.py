"""What one update did with one batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from etude.step.term import Measured


@dataclass(frozen=True, slots=True)
class Report:
    """What one update did with one batch.

    Attributes:
        loss: the weighted sum of the terms, a scalar on the device.
        terms: each term, in the order of the update's loss.
        moved: whether anything was moved.
        samples: of the batch, or of all micro-batches; 0 where nobody needs to know, because the weights of the terms
            never change.
        refused: whether the step was refused because a loss or gradient was not finite. why: what was found then, and
            names: of the arrays or terms in which it was found.
        overflow: whether it was refused while a dynamic loss scale finds its size, as is usual for float16.
    """

    loss: Tensor
    terms: tuple[Measured, ...]
    moved: bool
    samples: int = 0
    refused: bool = False
    why: str = ""
    names: tuple[str, ...] = ()
    overflow: bool = False
