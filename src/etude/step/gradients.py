"""From the gradients that backward left to those that the update rule gets, in one stated order.

count (divide the sum) → finite? → noise → clip by value → clip by global norm. A gradient that the user can read is
never changed: the first operation makes new tensors, the later ones work on those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any

import torch
from torch import Tensor

from etude.bind.table import Now
from etude.step.optim.rule import Setting

GRADIENT_SETTINGS: Mapping[str, Setting] = {
    "clip_value": Setting(inf, 0.0, inf, closed=True),
    "clip_norm": Setting(inf, 0.0, inf, closed=True),
    "noise": Setting(0.0),
    "clip_weights": Setting(inf, 0.0, inf, closed=True),
}
"""What `Trainer` does besides the update rule; each is off by default.

clip_value: each element of the gradient is kept within ± this. clip_norm: the gradients of all arrays that move now are
scaled together so that their Euclidean norm is at most this (Pascanu et al., ICML 2013); one value for all arrays.
noise: deviation of normal noise added to the gradient (Neelakantan et al., 2015). clip_weights: each element of the
array is kept within ± this after the step (Arjovsky et al., "Wasserstein GAN", 2017).
"""


@dataclass(slots=True)
class Gradients:
    """Gradients of what moves, in order; `own` says whether they may be written to."""

    values: list[Tensor]
    own: bool = False

    def divide(self, count: float) -> None:
        """From a sum over `count` to a mean."""
        self.values, self.own = list(torch._foreach_div(self.values, count)), True

    def scale(self, factor: Tensor) -> None:
        """Multiply by one scalar tensor."""
        if not self.own:
            self.values, self.own = [gradient * factor.to(gradient.device) for gradient in self.values], True
        else:
            for gradient in self.values:
                gradient.mul_(factor.to(gradient.device))

    def writable(self) -> list[Tensor]:
        """The gradients as tensors of our own."""
        if not self.own:
            self.values, self.own = [gradient.clone() for gradient in self.values], True
        return self.values

    def shape_like(self, arrays: Sequence[Tensor], strides: Sequence[tuple[int, ...]]) -> None:
        """Give every gradient the strides and type of its array; a sparse one becomes dense.

        torch's fused kernels on the CPU walk both as flat memory and would move the wrong elements otherwise.
        """
        for i, (gradient, stride) in enumerate(zip(self.values, strides, strict=True)):
            if gradient.is_sparse or gradient.stride() != stride or gradient.dtype != arrays[i].dtype:
                dense = gradient.to_dense() if gradient.is_sparse else gradient
                self.values[i] = torch.empty_like(arrays[i], requires_grad=False).copy_(dense)


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


def prepare(gradients: Gradients, now: Now, settings: frozenset[str], seed: int, draw: tuple[int, int]) -> None:
    """Noise and clipping, for those of the gradient settings that are in use. Sparse gradients become dense."""
    if any(gradient.is_sparse for gradient in gradients.values):
        gradients.values = [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients.values]
    if "noise" in settings:
        _add_noise(gradients, _each(now, "noise"), seed, draw)
    if "clip_value" in settings:
        _clip_values(gradients.writable(), _each(now, "clip_value"))
    if "clip_norm" in settings:
        _clip_norm(gradients, min(now.columns["clip_norm"]))


def clip_weights(arrays: Sequence[Tensor], now: Now) -> None:
    """Keep the elements of what has moved within their bound."""
    _clip_values(arrays, _each(now, "clip_weights"))


def _each(now: Now, setting: str) -> list[Any]:
    """The value of a setting for each array that moves, in the order of the gradients."""
    column = now.columns[setting]
    of = {index: column[group.row] for group in now.moving.groups for index in group.indices}
    return [of[index] for index in now.moving.indices]


def _add_noise(gradients: Gradients, deviations: Sequence[float], seed: int, draw: tuple[int, int]) -> None:
    # Counted, not carried: the noise depends on the seed, the step and how many draws the step has had.
    generator = torch.Generator().manual_seed(_mixed(_mixed(seed, draw[0]), draw[1]))
    for gradient, deviation in zip(gradients.writable(), deviations, strict=True):
        if deviation:
            drawn = torch.randn(gradient.shape, generator=generator, dtype=torch.float32)
            gradient.add_(drawn.to(gradient.device, gradient.dtype), alpha=deviation)


def _mixed(seed: int, step: int) -> int:
    """One number from two, by the odd constants of splitmix64: neighbours in either lie far apart."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & 0x7FFFFFFFFFFFFFFF


def _clip_values(tensors: Sequence[Tensor], bounds: Sequence[float]) -> None:
    for tensor, bound in zip(tensors, bounds, strict=True):
        if bound < inf:
            tensor.clamp_(-bound, bound)


def _clip_norm(gradients: Gradients, bound: float) -> None:
    if bound == inf or not gradients.values:
        return
    norm = torch.nn.utils.get_total_norm(gradients.values)
    # No host has to wait for the norm: the factor stays on the device and is 1 where nothing is clipped.
    gradients.scale((bound / (norm + 1e-6)).clamp(max=1.0))
