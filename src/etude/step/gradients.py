"""From the gradients that backward left to those that the update rule gets, in one stated order.

elements that are not finite → finite? → count (divide the sum) → carried ones added → tied ones summed → dropped by
their norm → noise → clip by value → clip the norm of each array → clip its mean norm → clip joint norms → centralise →
l2. What is held is not among them. A gradient that the user can read is never changed: the first operation makes new
tensors, the later ones work on those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from math import inf
from typing import Any

import torch
from torch import Tensor

from etude.bind.table import RATE, Now, Table
from etude.step.clipping import (
    bounds_of,
    by_rule,
    clip_array_norms,
    clip_joint_norms,
    clip_mean_norms,
    clip_values,
    joint_norms,
    numbers,
)
from etude.step.optim.half import is_low
from etude.step.optim.noise import generator_of, mixed
from etude.step.optim.rule import Setting

GRADIENT_SETTINGS: Mapping[str, Setting] = {
    "clip_value": Setting(inf, 0.0, inf, closed=True),
    "clip_array_norm": Setting(inf, 0.0, inf, closed=True),
    "clip_mean_norm": Setting(inf, 0.0, inf, closed=True),
    "clip_norm": Setting(inf, 0.0, inf, closed=True),
    "noise": Setting(0.0),
    "centralise": Setting(False),
    "l2": Setting(0.0),
    "shrink": Setting(0.0),
    "clip_weights": Setting(inf, 0.0, inf, closed=True),
    "max_norm": Setting(inf, 0.0, inf, closed=True),
    "drop_norm": Setting(inf, 0.0, inf, closed=True),
    "drop_non_finite": Setting(False),
    "carry": Setting(False, words=("sum", "mean")),
    "tie": Setting(False),
    "weight_noise": Setting(0.0),
    "weight_dropout": Setting(0.0, 0.0, 1.0),
}
"""What `Trainer` does besides the update rule; each is off by default, and each goes by part and by schedule.

drop_non_finite: elements of the gradient that are NaN or infinite become 0 before anything is measured, and the check
of the step does not see them; while a loss scale is finding its size it sees them all the same. carry: the gradients
of an array that the update schedule holds are kept, and join that of its next turn: "sum" adds them, "mean" divides by
the number of steps; False at its turn forgets what was kept. tie: while True the arrays of one rule are one: the sum of
their gradients moves them all alike. They have to be equal when it begins, and have the same settings; afterwards each
goes on with the memory that it has.

drop_norm: where the joint norm of the arrays of one rule, as it came, is above this or not finite, they are held for
this step, with their memory; reads one number for each rule from the device. clip_value: each element of the gradient
is kept within ± this. clip_array_norm: each gradient is scaled down so that its Euclidean norm is at most this.
clip_mean_norm: so that its norm divided by the number of its elements is (TensorFlow's clip_by_average_norm).
clip_norm: the gradients of what moves now are scaled down together so that their joint norm is at most this (Pascanu et
al., ICML 2013); under rules the arrays of one rule have one joint norm. None, 0 and inf are no bound.

noise: deviation of normal noise added to the gradient (Neelakantan et al., 2015). centralise: from the gradient of an
array of two or more dimensions the mean over all but the first is taken away (Yong et al., "Gradient centralization",
ECCV 2020). l2: this times the array is added to the gradient, after all clipping: decay that goes through the update
rule. shrink: the array is multiplied by 1 - rate·shrink before the update rule moves it: decay beside the rule
(Loshchilov and Hutter, ICLR 2019), for any rule. clip_weights: each element of the array is kept within ± this after
the step (Arjovsky et al., "Wasserstein GAN", 2017). max_norm: the weights that come into one unit (a row of a matrix, a
filter of a convolution) have at most this Euclidean norm after the step (Srivastava et al., "Dropout", JMLR 2014);
arrays of one dimension are left. weight_noise: deviation of normal noise that is added to the array while the loss is
computed; weight_dropout: the chance that a weight is 0 meanwhile; see `etude.step.perturb`.
"""

AFTER = frozenset({"clip_weights", "max_norm"})
"""Settings that act on arrays that have moved."""
BEFORE = frozenset(
    {
        *("carry", "tie", "drop_norm"),
        *("clip_value", "clip_array_norm", "clip_mean_norm", "clip_norm"),
        *("noise", "centralise", "l2"),
    }
)
"""Settings that act on the mean gradient."""
DENSE = frozenset({"carry", "noise", "centralise", "l2"})
"""Settings that fill a sparse gradient."""


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
        return [numbers(gradient) for gradient in self.values]

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


def without_non_finite(gradients: Sequence[Tensor], asked: Sequence[bool]) -> list[Tensor]:
    """The gradients with 0 for elements that are NaN or infinite, where that is asked for; those are new tensors."""
    return [_finite_only(each) if wanted else each for each, wanted in zip(gradients, asked, strict=True)]


def _finite_only(gradient: Tensor) -> Tensor:
    if gradient.is_sparse:
        whole = gradient.coalesce()
        return torch.sparse_coo_tensor(
            whole.indices(), _finite_only(whole.values()), whole.shape, is_coalesced=True, check_invariants=False
        )
    if gradient.is_complex():
        return torch.view_as_complex(_finite_only(torch.view_as_real(gradient.resolve_conj())))
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def left_by_norm(gradients: Gradients, now: Now, table: Table) -> Now:
    """What moves, without the arrays whose joint norm is above their `drop_norm` or not finite; their gradients go."""
    groups = list(by_rule(now, table, "drop_norm", bounds_of(each(now, "drop_norm"))).items())
    if not groups:
        return now
    norms = joint_norms([[gradients.values[place] for place in places] for _, places in groups]).tolist()
    above = [places for ((_, bound), places), norm in zip(groups, norms, strict=True) if not norm <= bound]
    out = {place for places in above for place in places}
    if not out:
        return now
    gradients.values = [value for place, value in enumerate(gradients.values) if place not in out]
    return Now(now.columns, table.less(now.moving, frozenset(now.moving.indices[place] for place in out)))


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
    filling = [each(now, setting) for setting in settings & DENSE]
    if filling:
        # Where such a setting is 0, rules for sparse gradients go on moving single rows.
        gradients.dense(map(any, zip(*filling, strict=True)))
    if "noise" in settings:
        names = [table.names[i] for i in now.moving.indices]
        _add_noise(gradients.writable(), names, each(now, "noise"), seed, draw)
    if "clip_value" in settings:
        clip_values(gradients.writable(), bounds_of(each(now, "clip_value")))
    if "clip_array_norm" in settings:
        clip_array_norms(gradients.writable(), bounds_of(each(now, "clip_array_norm")))
    if "clip_mean_norm" in settings:
        clip_mean_norms(gradients.writable(), bounds_of(each(now, "clip_mean_norm")), gradients.values)
    if "clip_norm" in settings:
        clip_joint_norms(gradients.writable(), now, table, bounds_of(each(now, "clip_norm")))
    if "centralise" in settings:
        gradients.writable()
        _centralise(gradients.values, each(now, "centralise"))
    if "l2" in settings:
        found = zip(gradients.writable(), arrays, each(now, RATE), each(now, "l2"), strict=True)
        for tensor, array, rate, share in found:
            if share:
                # A rule that climbs turns the gradient round; decay shrinks all the same.
                tensor.add_(numbers(array), alpha=share if rate > 0 else -share)


def decay(arrays: Sequence[Tensor], now: Now) -> Tensor | float:
    """The term of the loss whose gradient l2 adds: half of l2 times the sum of squares."""
    found: Tensor | float = 0.0
    for array, share in zip(arrays, each(now, "l2"), strict=True):
        if share:
            found = found + share / 2 * numbers(array.detach()).square().sum()
    return found


def each(now: Now, setting: str) -> list[Any]:
    """The value of a setting for each array that moves, in the order of the gradients."""
    column, groups = now.columns[setting], now.moving.groups
    if len(groups) == 1:
        return [column[groups[0].row]] * len(now.moving.indices)
    of = {index: column[group.row] for group in groups for index in group.indices}
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


def _centralise(tensors: Sequence[Tensor], asked: Sequence[bool]) -> None:
    for tensor, wanted in zip(tensors, asked, strict=True):
        if wanted and tensor.dim() > 1:
            tensor.sub_(tensor.mean(dim=tuple(range(1, tensor.dim())), keepdim=True))
