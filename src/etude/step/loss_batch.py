"""What losses are computed of, and small steps of computing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, inf
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from etude.arguments import told_of
from etude.errors import PartError, SettingError
from etude.step.loss_numbers import Now
from etude.step.losses.own import OwnLoss
from etude.step.term import Measured, Term
from etude.values.tree import Tree


class LossBatch(NamedTuple):
    """What terms are computed of: a batch, the net's output on it, and the numbers of the moment."""

    net: nn.Module
    values: Any
    output: Any
    target: Any
    true: Any
    now: Now
    seen: Mapping[Any, Any]


def exponential(mean: float) -> float:
    """e to a mean; infinity where that is too large."""
    try:
        return exp(mean)
    except OverflowError:
        return inf


def bound_to(made: tuple[Term, ...], net: nn.Module | Tree) -> tuple[Term, ...]:
    """The terms for one net: every part that they name is looked up."""
    needed = any(isinstance(one.function, OwnLoss) or one.reaches is not None for one in made)
    if not needed:
        return made
    tree = net if isinstance(net, Tree) else Tree(net)
    functions: dict[int, Any] = {}
    found = []
    for one in made:
        with told_of(f"loss {one.name!r}"):
            names = () if one.reaches is None else one.reaches.names(tree)
            if one.reaches is not None and not set(names) & tree.parameters:
                has = "no parameter, only buffers" if names else "no parameter"
                raise PartError(f"reaches={one.reaches!r}: it has {has}. Name a part that is trained.")
            if isinstance(one.function, OwnLoss):
                # Terms that share a function share it afterwards.
                own = functions.setdefault(id(one.function), one.function.bound(tree))
                one = replace(one, function=own)
        found.append(one)
    return tuple(found)


def check_measured(made: Sequence[Term], found: Sequence[Measured]) -> None:
    """Raise for what is no mean over a count: asked before the first step, for it reads from the device.

    Raises:
        SettingError: a pair of other things than two numbers, or a count below 0.
    """
    for one, measured in zip(made, found, strict=True):
        count = measured.count
        if measured.mean.numel() != 1 or (isinstance(count, Tensor) and count.numel() != 1):
            raise SettingError(
                f"The loss {one.name!r} gave a pair that is not of two numbers: their quotient has shape "
                f"{tuple(measured.mean.shape)}. Sum both: return (losses * mask).sum(), mask.sum(). One value a sample "
                "is given alone, without a count."
            )
        if float(count) < 0:
            raise SettingError(
                f"The loss {one.name!r} gave the pair (sum, {float(count):g}): a count is at least 0, the number of "
                "what the sum is over."
            )


def same_source(one: Term, other: Term) -> bool:
    """Whether one call of a function computes both."""
    if one is other:
        return True
    shared = one.takes == "net" or one.entry
    return bool(
        shared
        and one.function is other.function
        and (one.takes, one.of, one.settings) == (other.takes, other.of, other.settings)
    )


def detached(one: Measured) -> Measured:
    """The same without a graph."""
    return Measured(one.mean.detach(), one.count)


def without_graph(output: Any) -> Any:
    """An output of which no gradient flows back; what is no tensor, tuple, list or dict stays as it is."""
    if isinstance(output, Tensor):
        return output.detach()
    if type(output) in (tuple, list):
        return type(output)(map(without_graph, output))
    return {key: without_graph(value) for key, value in output.items()} if type(output) is dict else output


def weighted_sum(means: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """What is minimised: the sum of the means, each times its weight."""
    if len(means) == 1:
        mean, weight = means[0], weights[0]
        # In a compiled step a weight that changes is a tensor, of which nobody may ask whether it is 1.
        return mean if not isinstance(weight, Tensor) and weight == 1 else mean * weight
    return torch.stack([mean * weight for mean, weight in zip(means, weights, strict=True)]).sum()
