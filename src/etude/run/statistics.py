"""One number of many tensors, taken piece by piece: whatever the pieces are, it is that of all elements together.

Everything stays on the device, in double precision where the device has it, and nothing waits for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from etude.errors import SettingError, nearest
from etude.step.splitting import is_out_of_memory

Taken: TypeAlias = tuple[Tensor, ...]
"""What is known of the elements so far: scalars."""


class Statistic(ABC):
    """A number of all elements of some tensors: `take` of each tensor, `join` of what was taken, `value` at the end."""

    __slots__ = ()

    @abstractmethod
    def take(self, x: Tensor, inside: Tensor | None = None) -> Taken:
        """Of one tensor. `inside`, bool of the shape of `x`, says which elements count; None: all."""

    @abstractmethod
    def join(self, one: Taken, other: Taken) -> Taken:
        """Of the elements of both."""

    @abstractmethod
    def value(self, taken: Taken) -> Tensor:
        """The number, a scalar on the device; NaN (of "norm" 0) where nothing counted."""

    def take_all(self, tensors: Sequence[Tensor]) -> Taken:
        """Of several tensors, at least one."""
        return _one_by_one(self, tensors)


@final
@dataclass(frozen=True, slots=True)
class Moments(Statistic):
    """The mean, or the standard deviation (of the elements as they are: divided by their number).

    Pieces are joined as Chan, Golub and LeVeque do (1979, "Updating formulae and a pairwise algorithm for computing
    sample variances"), so that nothing is lost where the mean is far from 0.
    """

    deviation: bool

    def take(self, x: Tensor, inside: Tensor | None = None) -> Taken:
        x, n = _wide(x), _number(x, inside)
        mean = _kept(x, inside).sum() / n.clamp(min=1)
        if not self.deviation:
            return n, mean
        return n, mean, (_kept(x - mean, inside) ** 2).sum()

    def join(self, one: Taken, other: Taken) -> Taken:
        n = one[0] + other[0]
        share, apart = other[0] / n.clamp(min=1), other[1] - one[1]
        mean = one[1] + apart * share
        if not self.deviation:
            return n, mean
        return n, mean, one[2] + other[2] + apart**2 * one[0] * share

    def value(self, taken: Taken) -> Tensor:
        if self.deviation:
            return (taken[2] / taken[0]).sqrt()
        # 0/0 where nothing counted.
        return taken[1] * (taken[0] / taken[0])


@final
@dataclass(frozen=True, slots=True)
class Squares(Statistic):
    """The Euclidean norm, or where `mean` the root of the mean square."""

    mean: bool

    def take(self, x: Tensor, inside: Tensor | None = None) -> Taken:
        x = _wide(x)
        return _number(x, inside), (_kept(x, inside) ** 2).sum()

    def join(self, one: Taken, other: Taken) -> Taken:
        return one[0] + other[0], one[1] + other[1]

    def value(self, taken: Taken) -> Tensor:
        return (taken[1] / taken[0] if self.mean else taken[1]).sqrt()

    def take_all(self, tensors: Sequence[Tensor]) -> Taken:
        # Arrays are many, and one call for all of them costs little more than one for each.
        plain = {(t.dtype, t.device) for t in tensors}
        if len(plain) > 1 or tensors[0].dtype not in (torch.float32, torch.float64) or _is_odd(tensors):
            return _one_by_one(self, tensors)
        norms = _wide(torch.stack(torch._foreach_norm(list(tensors))))
        return norms.new_full((), sum(t.numel() for t in tensors)), (norms**2).sum()


@final
@dataclass(frozen=True, slots=True)
class Extreme(Statistic):
    """The largest, or the smallest; NaN where one element is NaN."""

    largest: bool

    def take(self, x: Tensor, inside: Tensor | None = None) -> Taken:
        x = _wide(x)
        if not x.numel():
            return (x.new_full((), torch.nan), _number(x, None))
        x = x if inside is None else x.masked_fill(~inside, -torch.inf if self.largest else torch.inf)
        return (x.amax() if self.largest else x.amin(), _number(x, inside))

    def join(self, one: Taken, other: Taken) -> Taken:
        pick = torch.maximum if self.largest else torch.minimum
        # Where one side has no element it says nothing.
        both = torch.where(one[1] == 0, other[0], torch.where(other[1] == 0, one[0], pick(one[0], other[0])))
        return both, one[1] + other[1]

    def value(self, taken: Taken) -> Tensor:
        return taken[0].where(taken[1] > 0, torch.nan)


@final
@dataclass(frozen=True, slots=True)
class Share(Statistic):
    """The share of the elements that are 0, or that are NaN or infinite."""

    zero: bool

    def take(self, x: Tensor, inside: Tensor | None = None) -> Taken:
        x = x if x.layout == torch.strided else x.to_dense()
        found = (x == 0) if self.zero else ~torch.isfinite(x)
        return _number(x, inside), _wide((found if inside is None else found & inside).sum())

    def join(self, one: Taken, other: Taken) -> Taken:
        return one[0] + other[0], one[1] + other[1]

    def value(self, taken: Taken) -> Tensor:
        return taken[1] / taken[0]


@final
@dataclass(frozen=True, slots=True)
class Given(Statistic):
    """A function of a tensor: its mean over the tensors, weighted by their elements.

    It gives a scalar, or a pair (sum, count), which is exact whatever the pieces. Where padding is left out it gets the
    elements that count, in one dimension.

    Raises:
        SettingError: in `take`, the function fails, or gives something else; `said` is what it was given to.
    """

    function: Callable[[Tensor], Any]
    said: str = field(default="A probe", compare=False)

    def take(self, x: Tensor, inside: Tensor | None = None) -> Taken:
        elements = x if inside is None else x[inside]
        try:
            made = self.function(elements)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise SettingError(
                f"{self.said}: its function failed on a tensor of shape {tuple(elements.shape)}: "
                f"{type(error).__name__}: {str(error).rstrip('.')}. It gives one number, or a pair (sum, count)."
            ) from error
        if isinstance(made, tuple) and len(made) == 2:
            total, count = (self._scalar(one, x) for one in made)
            return count, total
        n = _number(x, inside)
        return n, self._scalar(made, x) * n

    def _scalar(self, value: Any, like: Tensor) -> Tensor:
        try:
            made = torch.as_tensor(value, device=like.device).detach()
        except (TypeError, ValueError, RuntimeError):
            made = None
        if made is None or made.numel() != 1:
            what = type(value).__name__ if made is None else f"tensor of shape {tuple(made.shape)}"
            raise SettingError(
                f"{self.said}: its function gave a {what}: one number is needed, or a pair (sum, count). Write "
                "what=lambda x: x.abs().amax()."
            )
        return _wide(made.reshape(()))

    def join(self, one: Taken, other: Taken) -> Taken:
        return one[0] + other[0], one[1] + other[1]

    def value(self, taken: Taken) -> Tensor:
        return taken[1] / taken[0]


STATISTICS: dict[str, Statistic] = {
    "rms": Squares(mean=True),
    "mean": Moments(deviation=False),
    "std": Moments(deviation=True),
    "norm": Squares(mean=False),
    "max": Extreme(largest=True),
    "min": Extreme(largest=False),
    "share_zero": Share(zero=True),
    "share_not_finite": Share(zero=False),
}


def statistic(what: str | Callable[[Tensor], Any], said: str) -> Statistic:
    """What computes `what`, a name or a function of a tensor.

    Raises:
        SettingError: it is neither; the message begins with `said`.
    """
    if isinstance(what, str) and what in STATISTICS:
        return STATISTICS[what]
    if callable(what) and not isinstance(what, type):
        return Given(what, said)
    near = nearest(what, STATISTICS) if isinstance(what, str) else ""
    raise SettingError(f"{said}: {what!r} is measured of nothing. Known: {', '.join(STATISTICS)}; or a function.{near}")


def _one_by_one(of: Statistic, tensors: Sequence[Tensor]) -> Taken:
    taken = of.take(tensors[0])
    for tensor in tensors[1:]:
        taken = of.join(taken, of.take(tensor))
    return taken


def _wide(x: Tensor) -> Tensor:
    """In numbers that lose nothing in sums, where the device has them."""
    if x.is_complex():
        x = x.abs()
    if x.layout != torch.strided:
        x = x.to_dense()
    return x.float() if x.device.type == "mps" else x.double()


def _number(x: Tensor, inside: Tensor | None) -> Tensor:
    count = torch.float32 if x.device.type == "mps" else torch.float64
    return torch.full((), x.numel(), dtype=count, device=x.device) if inside is None else inside.sum(dtype=count)


def _kept(x: Tensor, inside: Tensor | None) -> Tensor:
    return x if inside is None else x.masked_fill(~inside, 0)


def _is_odd(tensors: Sequence[Tensor]) -> bool:
    return any(t.layout != torch.strided or not t.numel() for t in tensors)
