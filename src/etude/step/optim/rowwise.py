"""Row-wise Adagrad: one accumulator for each row of an embedding.

h += mean of g² over the row; x -= r g / (sqrt(h) + eps). Adagrad is by Duchi, Hazan and Singer, "Adaptive subgradient
methods for online learning and stochastic optimization", JMLR 2011; with one number a row it is in Mudigere et al.,
"Software-hardware co-design for fast and scalable training of deep learning recommendation models", ISCA 2022. A row is
what one index of the first dimension names: for an array of one dimension that is one element, and this is Adagrad.

Of an array with a sparse gradient only the rows that the gradient names move; the others keep their bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.step.optim.lazy import move_rows
from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.terms import divided


class RowwiseAdagrad(UpdateRule):
    """`"rowwise_adagrad"`: eps 1e-6, weight_decay 0 (coupled; of rows that move). The rate is 0.01 when nothing is
    said.
    """

    name: ClassVar[str] = "rowwise_adagrad"
    settings: ClassVar[Mapping[str, Setting]] = {"eps": Setting(1e-6), "weight_decay": Setting(0.0)}
    memories: ClassVar[tuple[str, ...]] = ("square",)
    rate: ClassVar[float] = 0.01
    takes_sparse: ClassVar[bool] = True

    def begin(self, memory: str, array: Tensor) -> Tensor:
        """One zero for each row."""
        return torch.zeros(array.shape[:1], dtype=array.dtype, device=array.device)

    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        if gradient.is_sparse:
            move_rows(self, array, gradient, memory, count, settings, climb)
            return
        change = -gradient if climb else gradient
        if settings["weight_decay"]:
            change = change + array * settings["weight_decay"]
        rest = tuple(range(1, change.dim()))
        added = change * change
        square = memory["square"].add_(added.mean(dim=rest) if rest else added)
        size = square.sqrt().add_(settings["eps"]).reshape((*square.shape, *(1 for _ in rest)))
        array.sub_(divided(change, size) * settings["learning_rate"])
