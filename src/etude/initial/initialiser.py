"""First values of an array, as values: from a seed and the array's name, and from nothing else.

What an initialiser draws depends on (seed, name, shape) alone, so that a layer more or less changes no other array. It
is drawn on the CPU, in float32 at least, so that it is the same on every device and in every precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from numbers import Real
from typing import ClassVar, final

import torch
from torch import Tensor

from etude.errors import SettingError
from etude.initial.units import Layout, Unit, fans


class Initialiser(ABC):
    """How an array gets its first values. Frozen, equal by value; printed as the expression that makes it.

    Attributes:
        draws: whether it is made for weights: of a part that has arrays of two or more dimensions it leaves those with
            fewer (biases, scales of norms) to the next rule.
        kind: what a table of origins calls it.
    """

    __slots__ = ()

    draws: ClassVar[bool] = True
    kind: ClassVar[str] = "drawn"

    @abstractmethod
    def make(self, unit: Unit, seed: int) -> Tensor:
        """The first values, of the shape of the unit, on the CPU; the unit's own array is left as it is."""

    @abstractmethod
    def refuse(self, unit: Unit) -> str:
        """Why it cannot make the values of an array, as the end of a sentence; "" if it can."""

    @property
    def late(self) -> bool:
        """Whether it may fail in what only making the values shows."""
        return False

    def largest(self, unit: Unit) -> float:
        """A number that no value exceeds, by its absolute value; 0 where that is known only once they are made."""
        return 0.0


class Drawn(Initialiser):
    """Values drawn block by block: what an LSTM or an attention keeps side by side has fans of its own.

    The row of an embedding that stands for padding stays 0, since nothing would ever train it.
    """

    __slots__ = ()

    @final
    def make(self, unit: Unit, seed: int) -> Tensor:
        array, layout = unit.array, unit.layout
        dtype = torch.float64 if array.dtype == torch.float64 else torch.float32
        generator, shape = generator_of(seed, unit.name), list(array.shape)
        if layout.blocks > 1 and shape:
            shape[0] //= layout.blocks
        made = [self._block(torch.empty(shape, dtype=dtype), layout, generator) for _ in range(layout.blocks)]
        whole = torch.cat(made) if len(made) > 1 else made[0]
        if layout.padding is not None:
            whole[layout.padding] = 0
        return whole

    def _block(self, block: Tensor, layout: Layout, generator: torch.Generator) -> Tensor:
        turned = layout.inputs_first and block.ndim > 1
        if not block.numel():
            return block
        into, out = fans(tuple(block.shape), layout)
        # As (out, in, kernel...), whichever way it is kept.
        view = torch.empty_like(block.transpose(0, 1)).contiguous() if turned else block
        self.draw(view, into, out, layout, generator)
        return view.transpose(0, 1).contiguous() if turned else view

    @abstractmethod
    def draw(self, block: Tensor, into: int, out: int, layout: Layout, generator: torch.Generator) -> None:
        """Fill one block, (out, in, kernel...), of `into` inputs for each output and `out` outputs of each input."""

    @final
    def refuse(self, unit: Unit) -> str:
        if not unit.array.is_floating_point():
            return f"holds {unit.array.dtype}, and only real numbers are drawn"
        return self.misfit(len(unit.shape))

    @final
    def largest(self, unit: Unit) -> float:
        shape = list(unit.shape)
        if unit.layout.blocks > 1 and shape:
            shape[0] //= unit.layout.blocks
        return self.bound(*fans(tuple(shape), unit.layout))

    @abstractmethod
    def bound(self, into: int, out: int) -> float:
        """A number that nothing drawn exceeds, given the fans; of a normal distribution what is never seen."""

    def misfit(self, dimensions: int) -> str:
        """Why arrays of so many dimensions cannot be drawn; "" if they can."""
        return ""


NEVER_SEEN = 8.0
"""So many standard deviations from the mean torch draws no number: single precision ends before."""


def generator_of(seed: int, name: str) -> torch.Generator:
    """The generator of an array: its numbers depend on the seed and the name alone."""
    return torch.Generator().manual_seed(key_of(seed, name))


def key_of(seed: int, name: str) -> int:
    """64 bits for a seed and a name."""
    return int.from_bytes(sha256(f"initial {seed} {name}".encode()).digest()[:8], "little")


def axes(count: int) -> str:
    """So many axes, in words."""
    return "1 axis" if count == 1 else f"{count} axes"


def number(value: object, said: str, *, least: float | None = None, above: bool = False) -> float:
    """A finite number, at least (or above) `least`; SettingError otherwise."""
    fits = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    if not fits or (least is not None and (float(value) < least or (above and value == least))):  # type: ignore[arg-type]
        kind = "a finite number" if least is None else f"a number {'above' if above else 'of at least'} {least:g}"
        raise SettingError(f"{said}: {kind} is needed, not {value!r}.")
    return float(value)  # type: ignore[arg-type]


@final
@dataclass(frozen=True, slots=True)
class Constant(Initialiser):
    """Every element is one number."""

    value: float

    draws: ClassVar[bool] = False
    kind: ClassVar[str] = "set"

    def make(self, unit: Unit, seed: int) -> Tensor:
        return torch.full(unit.shape, self.value, dtype=torch.float64).to(unit.array.dtype)

    def refuse(self, unit: Unit) -> str:
        whole = not (unit.array.is_floating_point() or unit.array.is_complex())
        return f"holds {unit.array.dtype}, and {self.value:g} is none" if whole and self.value % 1 else ""

    def largest(self, unit: Unit) -> float:
        return abs(self.value)

    def __repr__(self) -> str:
        return f"constant({self.value:g})" if float(f"{self.value:g}") == self.value else f"constant({self.value!r})"


@final
@dataclass(frozen=True, slots=True)
class Scaled(Initialiser):
    """What the module made, times a factor."""

    factor: float

    draws: ClassVar[bool] = False
    kind: ClassVar[str] = "scaled"

    def make(self, unit: Unit, seed: int) -> Tensor:
        return (unit.array.detach().to("cpu", copy=True) * self.factor).to(unit.array.dtype)

    def refuse(self, unit: Unit) -> str:
        whole = not (unit.array.is_floating_point() or unit.array.is_complex())
        return f"holds {unit.array.dtype}, which is not scaled" if whole else ""

    def largest(self, unit: Unit) -> float:
        return float(unit.array.detach().abs().max()) * abs(self.factor) if unit.array.numel() else 0.0

    def __repr__(self) -> str:
        return f"times({self.factor!r})"
