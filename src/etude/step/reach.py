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


def left_out(loss: Tensor) -> list[Tensor]:
    """The arrays that terms of a loss depend on and keep their gradient from, and that no gradient reaches otherwise.

    The graph is looked at, and nothing is computed. Where it has functions that may hide what they depend on, nothing
    is told.

    Args:
        loss: a sum in which `reaching` may have been used.
    """
    reached, limited, clear = _leaves(loss)
    held: dict[int, Tensor] = {}
    for mean in limited:
        found, _, own = _leaves(mean)
        held, clear = held | found, clear and own
    return [array for key, array in held.items() if key not in reached] if clear else []


def _leaves(loss: Tensor) -> tuple[dict[int, Tensor], list[Tensor], bool]:
    """The arrays at the ends of a graph by identity, what in it reaches some only, and whether all of it was seen."""
    found: dict[int, Tensor] = {}
    limited: list[Tensor] = []
    clear, seen, ahead = True, set[Any](), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        array, graph = getattr(node, "variable", None), getattr(node, "graph", None)
        if isinstance(array, Tensor):
            found[id(array)] = array
        if isinstance(graph, _Graph):
            limited.append(graph.mean)
        elif isinstance(node, torch.autograd.function.BackwardCFunction):
            clear = False
        ahead += [following for following, _ in node.next_functions]
    return found, limited, clear


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
