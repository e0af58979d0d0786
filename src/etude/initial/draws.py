"""Distributions of which each element is drawn by itself, and those whose width goes by the fans of the array.

Sources: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010); He et
al., "Delving deep into rectifiers" (2015); LeCun et al., "Efficient BackProp" (1998); Martens, "Deep learning via
Hessian-free optimization" (2010) for `sparse`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import final

import torch
from torch import Tensor, nn

from etude.arguments import named
from etude.errors import SettingError, nearest
from etude.initial.initialiser import NEVER_SEEN, Constant, Drawn, Initialiser, axes, number
from etude.initial.units import Layout

_LEFT = 0.87962566103423978
"""Standard deviation of a standard normal distribution that is cut at -2 and 2."""

_CUT = 2.0
_MODES = ("fan_in", "fan_out", "fan_avg")
_DISTRIBUTIONS = ("uniform", "normal", "truncated_normal")


@final
@dataclass(frozen=True, slots=True)
class Normal(Drawn):
    """See `normal`."""

    std: float
    mean: float = 0.0
    truncated: bool = False

    def draw(self, block: Tensor, into: int, out: int, layout: Layout, generator: torch.Generator) -> None:
        _normal(block, self.mean, self.std, self.truncated, generator)

    def bound(self, into: int, out: int) -> float:
        return abs(self.mean) + (_CUT if self.truncated else NEVER_SEEN) * self.std

    def __repr__(self) -> str:
        mean = f", mean={self.mean!r}" if self.mean else ""
        return f"{'truncated_normal' if self.truncated else 'normal'}({self.std!r}{mean})"


@final
@dataclass(frozen=True, slots=True)
class Uniform(Drawn):
    """See `uniform`."""

    low: float
    high: float

    def draw(self, block: Tensor, into: int, out: int, layout: Layout, generator: torch.Generator) -> None:
        block.uniform_(self.low, self.high, generator=generator)

    def bound(self, into: int, out: int) -> float:
        # torch draws from the width between them, which has to be a number as well.
        return max(abs(self.low), abs(self.high), self.high - self.low)

    def __repr__(self) -> str:
        return f"uniform({self.low!r}, {self.high!r})"


@final
@dataclass(frozen=True, slots=True)
class VarianceScaling(Drawn):
    """See `variance_scaling`."""

    scale: float
    mode: str
    distribution: str

    def draw(self, block: Tensor, into: int, out: int, layout: Layout, generator: torch.Generator) -> None:
        std = self._std(into, out)
        if self.distribution == "uniform":
            block.uniform_(-sqrt(3) * std, sqrt(3) * std, generator=generator)
        else:
            cut = self.distribution == "truncated_normal"
            _normal(block, 0.0, std / _LEFT if cut else std, cut, generator)

    def bound(self, into: int, out: int) -> float:
        return NEVER_SEEN * self._std(into, out)

    def _std(self, into: int, out: int) -> float:
        fan = {"fan_in": into, "fan_out": out, "fan_avg": (into + out) / 2}[self.mode]
        return sqrt(self.scale / fan)

    def __repr__(self) -> str:
        known = _SHORT.get((self.scale, self.mode, self.distribution))
        return known or f"variance_scaling({self.scale!r}, {self.mode!r}, {self.distribution!r})"


@final
@dataclass(frozen=True, slots=True)
class Sparse(Drawn):
    """See `sparse`."""

    sparsity: float
    std: float = 0.01

    def draw(self, block: Tensor, into: int, out: int, layout: Layout, generator: torch.Generator) -> None:
        nn.init.sparse_(block, self.sparsity, self.std, generator=generator)

    def bound(self, into: int, out: int) -> float:
        return NEVER_SEEN * self.std

    def misfit(self, dimensions: int) -> str:
        return "" if dimensions == 2 else f"has {axes(dimensions)}, and a sparse matrix has 2"

    def __repr__(self) -> str:
        return f"sparse({self.sparsity!r}, {self.std!r})"


_SHORT = {
    (1.0, "fan_avg", "uniform"): "glorot_uniform()",
    (1.0, "fan_avg", "truncated_normal"): "glorot_normal()",
    (1.0, "fan_avg", "normal"): "xavier_normal()",
    (2.0, "fan_in", "uniform"): "he_uniform()",
    (2.0, "fan_in", "truncated_normal"): "he_normal()",
    (2.0, "fan_in", "normal"): "kaiming_normal()",
    (1.0, "fan_in", "uniform"): "lecun_uniform()",
    (1.0, "fan_in", "truncated_normal"): "lecun_normal()",
}
"""The short names of some scalings."""


def _normal(block: Tensor, mean: float, std: float, cut: bool, generator: torch.Generator) -> None:
    if cut and std:
        nn.init.trunc_normal_(block, mean, std, mean - _CUT * std, mean + _CUT * std, generator=generator)
    else:
        block.normal_(mean, std, generator=generator)


@named
def constant(value: float) -> Initialiser:
    """Every element is `value`, a finite number."""
    return Constant(number(value, f"constant({value!r})"))


@named
def zeros() -> Initialiser:
    """Every element is 0."""
    return Constant(0.0)


@named
def ones() -> Initialiser:
    """Every element is 1."""
    return Constant(1.0)


@named
def normal(std: float = 1.0, mean: float = 0.0, truncated: bool = False) -> Initialiser:
    """A normal distribution, as torch's `normal_`.

    Args:
        std: its standard deviation. mean: its mean.
        truncated: what lies further than two standard deviations from the mean is drawn again; what is left has a
            standard deviation of 0.8796 of `std`.
    """
    said = f"normal({std!r})"
    if not isinstance(truncated, bool):
        raise SettingError(f"{said}: truncated={truncated!r}. Write True or False.")
    return Normal(number(std, said, least=0), number(mean, f"{said}: mean"), truncated)


@named
def truncated_normal(std: float = 1.0, mean: float = 0.0) -> Initialiser:
    """`normal(std, mean, truncated=True)`: cut at two standard deviations, as torch's `trunc_normal_` is at std 1."""
    return Normal(number(std, f"truncated_normal({std!r})", least=0), number(mean, "truncated_normal(): mean"), True)


@named
def uniform(low: float = 0.0, high: float = 1.0) -> Initialiser:
    """A uniform distribution over [low, high), as torch's `uniform_`."""
    said = f"uniform({low!r}, {high!r})"
    made = Uniform(number(low, said), number(high, said))
    if made.low > made.high:
        raise SettingError(f"{said}: low is above high. Write uniform({high!r}, {low!r}).")
    return made


@named
def variance_scaling(scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal") -> Initialiser:
    """A distribution of mean 0 and variance scale / fan.

    Args:
        scale: above 0.
        mode: "fan_in": inputs of one output; "fan_out": outputs of one input; "fan_avg": their mean.
        distribution: "uniform"; "normal"; "truncated_normal": cut at two standard deviations, of a normal distribution
            so much wider that the variance is as asked.
    """
    _one_of(mode, _MODES, "variance_scaling(): mode")
    _one_of(distribution, _DISTRIBUTIONS, "variance_scaling(): distribution")
    return VarianceScaling(number(scale, "variance_scaling(): scale", least=0, above=True), mode, distribution)


@named
def glorot_uniform(gain: float = 1.0) -> Initialiser:
    """Uniform, of variance gain**2 · 2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""
    return _gained("glorot_uniform", gain, "fan_avg", "uniform")


@named
def glorot_normal(gain: float = 1.0) -> Initialiser:
    """The same variance, normal and cut at two standard deviations (as in TensorFlow; `xavier_normal` is not cut)."""
    return _gained("glorot_normal", gain, "fan_avg", "truncated_normal")


@named
def xavier_uniform(gain: float = 1.0) -> Initialiser:
    """`glorot_uniform` under its name in torch."""
    return _gained("xavier_uniform", gain, "fan_avg", "uniform")


@named
def xavier_normal(gain: float = 1.0) -> Initialiser:
    """Normal, of variance gain**2 · 2 / (fan_in + fan_out), as in torch."""
    return _gained("xavier_normal", gain, "fan_avg", "normal")


@named
def he_uniform(gain: float = sqrt(2)) -> Initialiser:
    """Uniform, of variance gain**2 / fan_in (He et al. 2015)."""
    return _gained("he_uniform", gain, "fan_in", "uniform")


@named
def he_normal(gain: float = sqrt(2)) -> Initialiser:
    """The same variance, normal and cut at two standard deviations (as in TensorFlow; `kaiming_normal` is not cut)."""
    return _gained("he_normal", gain, "fan_in", "truncated_normal")


@named
def kaiming_uniform(a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Initialiser:
    """Uniform, of variance gain**2 / fan, as in torch.

    Args:
        a: slope of the leaky ReLU that follows, on the negative side.
        mode: "fan_in" keeps the variance forward, "fan_out" backward.
        nonlinearity: as `torch.nn.init.calculate_gain` takes it.
    """
    return VarianceScaling(_scale(a, mode, nonlinearity), mode, "uniform")


@named
def kaiming_normal(a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Initialiser:
    """The same variance, normal, as in torch; the arguments are those of `kaiming_uniform`."""
    return VarianceScaling(_scale(a, mode, nonlinearity), mode, "normal")


@named
def lecun_uniform() -> Initialiser:
    """Uniform, of variance 1 / fan_in (LeCun et al. 1998)."""
    return VarianceScaling(1.0, "fan_in", "uniform")


@named
def lecun_normal() -> Initialiser:
    """The same variance, normal and cut at two standard deviations."""
    return VarianceScaling(1.0, "fan_in", "truncated_normal")


@named
def sparse(sparsity: float, std: float = 0.01) -> Initialiser:
    """Matrices in which a share of the inputs of each column is 0, the rest normal (Martens 2010), as in torch.

    Args:
        sparsity: the share, from 0 to 1. std: standard deviation of the rest.
    """
    share = number(sparsity, f"sparse({sparsity!r})", least=0)
    if share > 1:
        raise SettingError(f"sparse({sparsity!r}): a share is from 0 to 1. Write sparse(0.9) for nine zeros in ten.")
    return Sparse(share, number(std, f"sparse({sparsity!r}): std", least=0))


def _gained(name: str, gain: float, mode: str, distribution: str) -> Initialiser:
    made = number(gain, f"{name}(gain={gain!r})", least=0, above=True)
    scale = 2.0 if made == sqrt(2) else made * made
    return VarianceScaling(scale, mode, distribution)


_RECTIFIERS: tuple[str, ...] = ("leaky_relu", "relu")
_GAINS = ("linear", "conv1d", "conv2d", "conv3d", "sigmoid", "tanh", "selu", *_RECTIFIERS)


def _scale(a: float, mode: str, nonlinearity: str) -> float:
    _one_of(mode, _MODES[:2], "kaiming: mode")
    _one_of(nonlinearity, _GAINS, "kaiming: nonlinearity")
    slope = number(a, f"kaiming: a={a!r}")
    if nonlinearity in _RECTIFIERS:
        return 2.0 / (1 + slope * slope) if nonlinearity == "leaky_relu" else 2.0
    return float(nn.init.calculate_gain(nonlinearity)) ** 2  # type: ignore[arg-type]


def _one_of(value: object, known: tuple[str, ...], said: str) -> None:
    if value not in known:
        raise SettingError(f"{said}={value!r} is not known. There are: {', '.join(known)}.{nearest(value, known)}")
