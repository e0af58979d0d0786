"""From the gradients that backward left to those that the update rule gets, in one stated order.

count (divide the sum) → finite? → noise → clip by value → clip the norm of each array → clip joint norms → centralise →
l2. A gradient that the user can read is never changed: the first operation makes new tensors, the later ones work on
those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from math import inf
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from etude.bind.table import RATE, Now, Table
from etude.step.optim.half import is_low
from etude.step.optim.noise import generator_of, mixed
from etude.step.optim.rule import Setting

GRADIENT_SETTINGS: Mapping[str, Setting] = {
    "clip_value": Setting(inf, 0.0, inf, closed=True),
    "clip_array_norm": Setting(inf, 0.0, inf, closed=True),
    "clip_norm": Setting(inf, 0.0, inf, closed=True),
    "noise": Setting(0.0),
    "centralise": Setting(False),
    "l2": Setting(0.0),
    "shrink": Setting(0.0),
    "clip_weights": Setting(inf, 0.0, inf, closed=True),
}
"""What `Trainer` does besides the update rule; each is off by default, and each goes by part and by schedule.

clip_value: each element of the gradient is kept within ± this. clip_array_norm: each gradient is scaled down so that
its Euclidean norm is at most this. clip_norm: the gradients of what moves now are scaled down together so that their
joint norm is at most this (Pascanu et al., ICML 2013); under rules the arrays of one rule have one joint norm.
noise: deviation of normal noise added to the gradient (Neelakantan et al., 2015). centralise: from the gradient of an
array of two or more dimensions the mean over all but the first is taken away (Yong et al., "Gradient centralization",
ECCV 2020). l2: this times the array is added to the gradient, after all clipping: decay that goes through the update
rule. shrink: the array is multiplied by 1 - rate·shrink before the update rule moves it: decay beside the rule
(Loshchilov and Hutter, ICLR 2019), for any rule. clip_weights: each element of the array is kept within ± this after
the step (Arjovsky et al., "Wasserstein GAN", 2017).
"""

_DTYPE = attrgetter("dtype")
DENSE = frozenset({"noise", "centralise", "l2"})
"""Settings that fill a sparse gradient."""


class Layout:
    """Arrays that move together, and how they lie in memory.

    Attributes:
        arrays: the arrays. low: whether some of them have half precision.
    """

    __slots__ = ("_dtypes", "_plain", "arrays", "low")

    def __init__(self, arrays: Iterable[Tensor]) -> None:
        self.arrays = list(arrays)
        self._dtypes = frozenset(array.dtype for array in self.arrays)
        self._plain = len(self._dtypes) == 1 and all(array.is_contiguous() for array in self.arrays)
        self.low = any(is_low(array) for array in self.arrays)

    def holds(self, gradients: Sequence[Tensor]) -> bool:
        """Whether every gradient lies in memory as its array does; where that is not plain to see, False."""
        return (
            self._plain
            and self._dtypes.issuperset(map(_DTYPE, gradients))
            # A sparse one is not contiguous. The kernels of native.c do not know of torch's lazy minus sign.
            and all(map(Tensor.is_contiguous, gradients))
            and not any(map(Tensor.is_neg, gradients))
        )


@dataclass(slots=True)
class Gradients:
    """Gradients of what moves, in order; `own` says whether they may be written to."""

    values: list[Tensor]
    own: bool = False

    def divide(self, count: float) -> None:
        """From a sum over `count` to a mean."""
        if any(gradient.is_sparse for gradient in self.values):
            self.values = [gradient / count for gradient in self.values]
        else:
            self.values = list(torch._foreach_div(self.values, count))
        self.own = True

    def writable(self) -> list[Tensor]:
        """The gradients as tensors of our own; of a sparse one the values of the rows it has."""
        if not self.own:
            self.values = [gradient.clone() for gradient in self.values]
        self.own = True
        self.values = [gradient.coalesce() if gradient.is_sparse else gradient for gradient in self.values]
        return [_numbers(gradient) for gradient in self.values]

    def dense(self, which: Iterable[Any] = repeat(True)) -> None:
        """Fill sparse gradients with zeros: all, or those for which `which` is true."""
        pairs = zip(self.values, which, strict=False)
        self.values = [gradient.to_dense() if wanted and gradient.is_sparse else gradient for gradient, wanted in pairs]

    def shape_like(self, arrays: Sequence[Tensor], sparse: bool) -> None:
        """Give every gradient the strides and type of its array; a sparse one becomes dense unless `sparse`.

        torch's fused kernels on the CPU walk both as flat memory and would move the wrong elements otherwise.
        """
        for i, (gradient, array) in enumerate(zip(self.values, arrays, strict=True)):
            if gradient.is_sparse:
                if sparse:
                    continue
                gradient = gradient.to_dense()
            gradient = gradient.resolve_neg()
            # What moves an array in half precision by way of float32 gets its gradient in float32.
            wide = gradient.dtype is torch.float32 and is_low(array)
            if gradient.stride() != array.stride() or (gradient.dtype != array.dtype and not wide):
                dtype = torch.float32 if wide else array.dtype
                gradient = torch.empty_like(array, dtype=dtype, requires_grad=False).copy_(gradient)
            self.values[i] = gradient


def all_finite(gradients: Sequence[Tensor]) -> bool:
    """Whether no element of any gradient is NaN or infinite. Waits for the device."""
    found, one = _scalars(gradients[0].device)
    try:
        # The kernel of torch's GradScaler: one pass over all, with the gradients multiplied by 1.
        torch._amp_foreach_non_finite_check_and_unscale_(list(gradients), found, one)
    except (NotImplementedError, RuntimeError):
        # Sparse or complex gradients, or several devices; some may have been looked at before it was found out.
        found.zero_()
        return not names_not_finite([""] * len(gradients), gradients)
    if found.item():
        found.zero_()
        return False
    return True


@cache
def _scalars(device: torch.device) -> tuple[Tensor, Tensor]:
    """What the kernel reports to, and a 1, on the device."""
    return torch.zeros((), device=device), torch.ones((), device=device)


def names_not_finite(names: Sequence[str], tensors: Sequence[Tensor]) -> tuple[str, ...]:
    """The names of those tensors that hold NaN or infinity."""
    return tuple(
        name
        for name, tensor in zip(names, tensors, strict=True)
        if not bool(torch.isfinite(tensor.coalesce().values() if tensor.is_sparse else tensor).all())
    )


def prepare(
    gradients: Gradients,
    arrays: Sequence[Tensor],
    now: Now,
    table: Table,
    settings: frozenset[str],
    seed: int,
    draw: tuple[int, int],
) -> None:
    """Noise, clipping, centralising and l2, for those of the gradient settings that are in use."""
    filling = [_each(now, setting) for setting in settings & DENSE]
    if filling:
        # Where such a setting is 0, rules for sparse gradients go on moving single rows.
        gradients.dense(map(any, zip(*filling, strict=True)))
    if "noise" in settings:
        names = [table.names[i] for i in now.moving.indices]
        _add_noise(gradients.writable(), names, _each(now, "noise"), seed, draw)
    if "clip_value" in settings:
        _clip_values(gradients.writable(), _each(now, "clip_value"))
    if "clip_array_norm" in settings:
        for tensor, bound in zip(gradients.writable(), _each(now, "clip_array_norm"), strict=True):
            _clip_norm([tensor], bound)
    if "clip_norm" in settings:
        _clip_joint_norms(gradients.writable(), now, table)
    if "centralise" in settings:
        gradients.writable()
        _centralise(gradients.values, _each(now, "centralise"))
    if "l2" in settings:
        each = zip(gradients.writable(), arrays, _each(now, RATE), _each(now, "l2"), strict=True)
        for tensor, array, rate, share in each:
            if share:
                # A rule that climbs turns the gradient round; decay shrinks all the same.
                tensor.add_(_numbers(array), alpha=share if rate > 0 else -share)


def decay(arrays: Sequence[Tensor], now: Now) -> Tensor | float:
    """The term of the loss whose gradient l2 adds: half of l2 times the sum of squares."""
    found: Tensor | float = 0.0
    for array, share in zip(arrays, _each(now, "l2"), strict=True):
        if share:
            found = found + share / 2 * _numbers(array.detach()).square().sum()
    return found


def shrink(arrays: Sequence[Tensor], now: Now) -> None:
    """Multiply what is about to move by 1 - rate·shrink; a rate that climbs shrinks all the same."""
    for array, rate, share in zip(arrays, _each(now, RATE), _each(now, "shrink"), strict=True):
        if share:
            array.mul_(1 - abs(rate) * share)


def clip_weights(arrays: Sequence[Tensor], now: Now) -> None:
    """Keep the elements of what has moved within their bound."""
    _clip_values([_numbers(array.detach()) for array in arrays], _each(now, "clip_weights"))


def joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all elements of some gradients, a scalar."""
    values = [_numbers(tensor.coalesce() if tensor.is_sparse else tensor) for tensor in tensors]
    return _norm(values)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The joint norm; of numbers in half precision, whose squares soon overflow, in float32."""
    wide = [tensor.float() if is_low(tensor) else tensor for tensor in tensors]
    return torch.nn.utils.get_total_norm(wide)


def _numbers(tensor: Tensor) -> Tensor:
    """The real numbers that a tensor is made of: of a sparse one those it has, of a complex one pairs."""
    values = tensor._values() if tensor.is_sparse else tensor
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def _each(now: Now, setting: str) -> list[Any]:
    """The value of a setting for each array that moves, in the order of the gradients."""
    column = now.columns[setting]
    of = {index: column[group.row] for group in now.moving.groups for index in group.indices}
    return [of[index] for index in now.moving.indices]


def _add_noise(
    tensors: Sequence[Tensor], names: Sequence[str], deviations: Sequence[float], seed: int, draw: tuple[int, int]
) -> None:
    # Counted, not carried: the noise of an array depends on the seed, the step, how many draws the step has had, and
    # its name, and not on what else moves.
    for tensor, name, deviation in zip(tensors, names, deviations, strict=True):
        if deviation:
            generator = generator_of(mixed(seed, draw[0]), f"noise:{name}", draw[1])
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
            tensor.add_(drawn.to(tensor.device, tensor.dtype), alpha=deviation)


def _clip_values(tensors: Sequence[Tensor], bounds: Sequence[float]) -> None:
    for tensor, bound in zip(tensors, bounds, strict=True):
        if bound < inf:
            tensor.clamp_(-bound, bound)


def _clip_joint_norms(tensors: Sequence[Tensor], now: Now, table: Table) -> None:
    """One joint norm for the arrays that one rule names."""
    together: dict[tuple[str, float], list[Tensor]] = {}
    for index, tensor, bound in zip(now.moving.indices, tensors, _each(now, "clip_norm"), strict=True):
        together.setdefault((table.choices[table.names[index]]["clip_norm"].rule, bound), []).append(tensor)
    for (_, bound), own in together.items():
        _clip_norm(own, bound)


def _clip_norm(tensors: Sequence[Tensor], bound: float) -> None:
    if bound == inf:
        return
    # No host has to wait for the norm: the factor stays on the device and is 1 where nothing is clipped.
    factor = (bound / (_norm(tensors) + 1e-6)).clamp(max=1.0)
    for tensor in tensors:
        tensor.mul_(factor.to(tensor.device))


def _centralise(tensors: Sequence[Tensor], asked: Sequence[bool]) -> None:
    for tensor, wanted in zip(tensors, asked, strict=True):
        if wanted and tensor.dim() > 1:
            tensor.sub_(tensor.mean(dim=tuple(range(1, tensor.dim())), keepdim=True))
