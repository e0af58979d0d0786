"""SGD and Adam for embeddings: of an array with a sparse gradient only the rows that the gradient names move.

The other rows keep their values and memory to the bit: no decay, no momentum that runs on. For a dense gradient these
are sgd and adam. The bias correction of Adam goes by how often the array has moved, as in torch.optim.SparseAdam.
Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015; Sutskever et al., "On the importance of
initialization and momentum in deep learning", ICML 2013.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.step.optim.adam import Adam
from etude.step.optim.rule import Memory, Setting, UpdateRule, has_kernel
from etude.step.optim.sgd import SGD


class Lazy(UpdateRule):
    """Another rule, which treats every element (or every row) alone, on the rows of a sparse gradient.

    Class attributes:
        rule: the rule.
    """

    rule: ClassVar[UpdateRule]
    takes_sparse: ClassVar[bool] = True

    def remembers(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return self.rule.remembers(settings)

    def update(
        self,
        arrays: Sequence[Tensor],
        gradients: Sequence[Tensor],
        memory: Memory,
        counts: Sequence[Tensor],
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        # The quick way of a rule is for dense arrays alone; these are alike, so the first speaks for all.
        if has_kernel(arrays[0]) and not any(gradient.is_sparse for gradient in gradients):
            self.rule.update(arrays, gradients, memory, counts, settings, climb)
        else:
            self.formulas(arrays, gradients, memory, counts, settings, climb)

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
            move_rows(self.rule, array, gradient, memory, count, settings, climb)
        else:
            self.rule.formula(array, gradient, memory, count, settings, climb)


class LazySGD(Lazy):
    """`"lazy_sgd"`: the settings of `"sgd"`."""

    name: ClassVar[str] = "lazy_sgd"
    rule: ClassVar[UpdateRule] = SGD()
    settings: ClassVar[Mapping[str, Setting]] = SGD.settings
    memories: ClassVar[tuple[str, ...]] = SGD.memories
    rate: ClassVar[float] = SGD.rate


class LazyAdam(Lazy):
    """`"lazy_adam"`: the settings of `"adam"`."""

    name: ClassVar[str] = "lazy_adam"
    rule: ClassVar[UpdateRule] = Adam()
    settings: ClassVar[Mapping[str, Setting]] = Adam.settings
    memories: ClassVar[tuple[str, ...]] = Adam.memories
    rate: ClassVar[float] = Adam.rate


def move_rows(
    rule: UpdateRule,
    array: Tensor,
    gradient: Tensor,
    memory: Mapping[str, Tensor],
    count: Tensor,
    settings: Mapping[str, Any],
    climb: bool,
) -> None:
    """The formula of a rule for the rows that a sparse gradient names: taken out, moved, put back."""
    rows, values = rows_of(gradient)
    moved = array.index_select(0, rows)
    own = {key: kept.index_select(0, rows) for key, kept in memory.items()}
    rule.formula(moved, values, own, count, settings, climb)
    array.index_copy_(0, rows, moved)
    for key, kept in memory.items():
        kept.index_copy_(0, rows, own[key])


def rows_of(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that a sparse gradient names, each once, and the gradient there: shapes (n,) and (n, ...)."""
    gradient = gradient.coalesce()
    indices, values = gradient.indices(), gradient.values()
    if gradient.sparse_dim() == 1:
        return indices[0], values
    # Named element by element: an element that is not named has a gradient of zero, if its row is named at all.
    rows, places = torch.unique(indices[0], return_inverse=True)
    dense = values.new_zeros((len(rows), *gradient.shape[1:]))
    return rows, dense.index_put_((places, *indices[1:]), values)
