"""What is done to arrays beside the update rule: decay before it moves them, bounds after it has.

Largest norms are those of Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
JMLR 2014: of the weights that come into one unit, which is one row of a matrix, one filter of a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import torch
from torch import Tensor, nn

from etude.bind.table import Now, Table
from etude.step.clipping import bounds_of, clip_values, numbers
from etude.step.gradients import each
from etude.step.optim.half import is_low
from etude.values.tree import Tree

_WEIGHTS = ("weight", "parametrizations.weight.original", "parametrizations.weight.original1")
_LENGTHS = "parametrizations.weight.original0"


def shrink(arrays: Sequence[Tensor], rates: Sequence[float], shares: Sequence[float]) -> None:
    """Multiply what is about to move by 1 - rate·share; a rate that climbs shrinks all the same."""
    for array, rate, share in zip(arrays, rates, shares, strict=True):
        if share:
            array.mul_(1 - abs(rate) * share)


class Bounds:
    """The bounds of the arrays of a table: clip_weights of their elements, max_norm of the weights of a unit."""

    def __init__(self, table: Table) -> None:
        self._names = table.names
        self._of_elements, self._of_norms = (setting in table.settings for setting in ("clip_weights", "max_norm"))
        self._turned = turned_in(table.tree) if self._of_norms else {}

    def keep(self, now: Now, moved: Sequence[Tensor]) -> None:
        """Bring what has moved back within its bounds; `moved` are the arrays of `now`, in its order."""
        if self._of_elements:
            clip_values([numbers(array.detach()) for array in moved], bounds_of(each(now, "clip_weights")))
        if self._of_norms:
            turned = [self._turned.get(self._names[i], 0) for i in now.moving.indices]
            limit_norms(moved, bounds_of(each(now, "max_norm")), turned)


def limit_norms(arrays: Sequence[Tensor], bounds: Sequence[float], turned: Sequence[int]) -> None:
    """Scale down the weights of units whose Euclidean norm is above the bound of their array.

    Args:
        arrays: what has moved. Units are along the first dimension. What has fewer than two dimensions has no weights
            that come in, and is left.
        bounds: one for each array. turned: for each array 0, or the number of groups of a transposed convolution,
            whose units are along the second.
    """
    for array, bound, groups in zip(arrays, bounds, turned, strict=True):
        if bound < inf and array.dim() > 1:
            _limit(array.detach(), bound, groups)


def turned_in(tree: Tree) -> Mapping[str, int]:
    """The weights of transposed convolutions, by name, with the number of their groups.

    Of a weight that a parametrisation makes they are what it is made from. The lengths that `weight_norm` keeps beside
    the directions are one for each unit where they stand along the second dimension, whatever the groups.
    """
    found: dict[str, int] = {}
    for path, node in tree.nodes.items():
        if isinstance(node, nn.modules.conv._ConvTransposeNd):
            begin = f"{path}." if path else ""
            groups = dict.fromkeys(_WEIGHTS, node.groups)
            lengths = tree.nodes.get(begin + _LENGTHS)
            if isinstance(lengths, Tensor) and lengths.shape[0] == 1:
                groups[_LENGTHS] = 1
            own = ((begin + key, number) for key, number in groups.items())
            found.update((tree.name_of(name), number) for name, number in own if name in tree.nodes)
    return found


def _limit(array: Tensor, bound: float, groups: int) -> None:
    values = numbers(array)
    if groups:
        # (in, out / groups, kernel) as (groups, in / groups, out / groups, kernel): a unit is a group and a place.
        values = values.view(groups, -1, *values.shape[1:]).movedim(2, 1)
    whole = tuple(range(2 if groups else 1, values.dim()))
    wide = values.float() if is_low(values) else values
    norms = torch.linalg.vector_norm(wide, dim=whole, keepdim=True)
    # A unit within its bound is left bit for bit; without the smallest number one of zeros would be 0 / 0.
    factor = (bound / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
    values.mul_(factor.to(values.dtype))
