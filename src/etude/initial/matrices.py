"""Matrices whose elements belong together, and initialisers around others.

Source: Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
networks" (2013), for `orthogonal`; Zagoruyko and Komodakis, "DiracNets" (2017), for `dirac`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from etude.arguments import named
from etude.initial.initialiser import Drawn, Initialiser, axes, number
from etude.initial.units import Layout, Unit


@final
@dataclass(frozen=True, slots=True)
class Orthogonal(Drawn):
    """See `orthogonal`."""

    gain: float = 1.0

    def draw(self, block: Tensor, into: int, out: int, layout: Layout, generator: torch.Generator) -> None:
        nn.init.orthogonal_(block, self.gain, generator=generator)

    def bound(self, into: int, out: int) -> float:
        return abs(self.gain)

    def misfit(self, dimensions: int) -> str:
        return "" if dimensions > 1 else f"has {axes(dimensions)}, and an orthogonal array has 2 or more"

    def __repr__(self) -> str:
        return f"orthogonal({'' if self.gain == 1 else repr(self.gain)})"


@final
@dataclass(frozen=True, slots=True)
class Identity(Drawn):
    """See `identity`."""

    gain: float = 1.0

    kind: ClassVar[str] = "set"

    def draw(self, block: Tensor, into: int, out: int, layout: Layout, generator: torch.Generator) -> None:
        nn.init.eye_(block).mul_(self.gain)

    def bound(self, into: int, out: int) -> float:
        return abs(self.gain)

    def misfit(self, dimensions: int) -> str:
        return "" if dimensions == 2 else f"has {axes(dimensions)}, and an identity has 2 (dirac is for kernels)"

    def __repr__(self) -> str:
        return f"identity({'' if self.gain == 1 else repr(self.gain)})"


@final
@dataclass(frozen=True, slots=True)
class Dirac(Drawn):
    """See `dirac`."""

    kind: ClassVar[str] = "set"

    def draw(self, block: Tensor, into: int, out: int, layout: Layout, generator: torch.Generator) -> None:
        # The groups are along the first axis as the array is kept.
        nn.init.dirac_(block.transpose(0, 1) if layout.inputs_first else block, layout.groups)

    def bound(self, into: int, out: int) -> float:
        return 1.0

    def misfit(self, dimensions: int) -> str:
        fits = 3 <= dimensions <= 5
        return "" if fits else f"has {axes(dimensions)}, and kernels have 3 to 5 (identity is for matrices)"

    def __repr__(self) -> str:
        return "dirac()"


@final
@dataclass(frozen=True, slots=True)
class Around(Initialiser):
    """See `blocks` and `transposed`: another initialiser, told what the axes mean."""

    inner: Initialiser
    count: int = 0

    def make(self, unit: Unit, seed: int) -> Tensor:
        return self.inner.make(self._told(unit), seed)

    def refuse(self, unit: Unit) -> str:
        length = unit.shape[0] if unit.shape else 0
        if self.count and (not length or length % self.count):
            return f"has a first axis of {length}, which is not {self.count} equal blocks"
        return self.inner.refuse(unit)

    def largest(self, unit: Unit) -> float:
        return self.inner.largest(self._told(unit))

    def _told(self, unit: Unit) -> Unit:
        layout = unit.layout
        changed: dict[str, Any] = {"blocks": self.count} if self.count else {"inputs_first": not layout.inputs_first}
        return replace(unit, layout=replace(layout, **changed))

    def __repr__(self) -> str:
        return f"blocks({self.count}, {self.inner!r})" if self.count else f"transposed({self.inner!r})"


@named
def orthogonal(gain: float = 1.0) -> Initialiser:
    """Orthonormal rows or columns (the fewer of the two), times `gain`; kernels count as columns (Saxe et al. 2013)."""
    return Orthogonal(number(gain, f"orthogonal({gain!r})"))


@named
def identity(gain: float = 1.0) -> Initialiser:
    """Ones (times `gain`) on the diagonal of a matrix, zeros elsewhere; each gate of an LSTM has a diagonal."""
    return Identity(number(gain, f"identity({gain!r})"))


@named
def dirac() -> Initialiser:
    """Kernels that pass on as many channels as they can, in each group of a convolution (Zagoruyko 2017)."""
    return Dirac()
