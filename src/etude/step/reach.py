"""A term of a loss whose gradient goes to some arrays only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def reaching(mean: Tensor, arrays: Iterable[Tensor]) -> Tensor:
    """The same number; its gradient goes to these arrays as it would, and to nothing else.

    The rest of the graph is walked through and not changed. It costs a backward of its own for the part of the graph
    above these arrays. The gradient cannot itself be differentiated.

    Args:
        mean: a scalar. arrays: those that require no gradient are left out.
    """
    some = tuple(array for array in arrays if array.requires_grad)
    if not (mean.requires_grad and some and torch.is_grad_enabled()):
        return mean.detach()
    made: Tensor = _Reach.apply(_Graph(mean), *some)  # type: ignore[no-untyped-call]
    return made


class _Graph:
    """Hands over a tensor without making it an input: nothing flows back into it by itself."""

    __slots__ = ("mean",)

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean


class _Reach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graph: _Graph, *arrays: Tensor) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(*arrays)
        return graph.mean.detach().clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        arrays = ctx.saved_tensors
        # The graph is kept: other terms share it, and their gradients are still to come.
        with torch.enable_grad():
            found = torch.autograd.grad(ctx.graph.mean, arrays, gradient, retain_graph=True, allow_unused=True)
        return (None, *found)
