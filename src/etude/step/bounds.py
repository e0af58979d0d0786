"""What is done to arrays beside the update rule: decay before it moves them, bounds after it has.

Largest norms are those of Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
JMLR 2014: of the weights that come into one unit, which is one row of a matrix, one filter of a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import torch
from torch import Tensor, nn

from etude.step.clipping import clip_values, numbers
from etude.values.tree import Tree


def shrink(arrays: Sequence[Tensor], rates: Sequence[float], shares: Sequence[float]) -> None:
    """Multiply what is about to move by 1 - rate·share; a rate that climbs shrinks all the same."""
    for array, rate, share in zip(arrays, rates, shares, strict=True):
        if share:
            array.mul_(1 - abs(rate) * share)


def clip_weights(arrays: Sequence[Tensor], bounds: Sequence[float]) -> None:
    """Keep the elements of what has moved within ± their bound."""
    clip_values([numbers(array.detach()) for array in arrays], bounds)


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
    """The weights of transposed convolutions, by name, with the number of their groups."""
    found = {}
    for path, node in tree.nodes.items():
        weight = f"{path}.weight" if path else "weight"
        if isinstance(node, nn.modules.conv._ConvTransposeNd) and weight in tree.nodes:
            found[tree.name_of(weight)] = node.groups
    return found


def _limit(array: Tensor, bound: float, groups: int) -> None:
    values = numbers(array)
    if groups:
        # (in, out / groups, kernel) as (groups, in / groups, out / groups, kernel): a unit is a group and a place.
        values = values.view(groups, -1, *values.shape[1:]).movedim(2, 1)
    whole = tuple(range(2 if groups else 1, values.dim()))
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    norms = torch.linalg.vector_norm(wide, dim=whole, keepdim=True)
    # A unit within its bound is left bit for bit; without the smallest number one of zeros would be 0 / 0.
    factor = (bound / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
    values.mul_(factor.to(values.dtype))
