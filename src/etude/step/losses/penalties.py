"""Penalties on arrays of a net, by part."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from etude.errors import PartError, SettingError
from etude.step.losses.own import OwnLoss, maker
from etude.values.part import Part, PartLike, everything, part
from etude.values.tree import Tree


class Penalty(OwnLoss):
    """A number computed of the parameters of a part; of the batch it knows nothing."""

    __slots__ = ()

    takes = "net"
    place: Part
    arrays: tuple[tuple[str, Tensor], ...] | None

    @abstractmethod
    def of_array(self, name: str, array: Tensor) -> Tensor:
        """What one array adds."""

    @abstractmethod
    def takes_array(self, array: Tensor) -> bool:
        """Whether it is meant where the part has it."""

    def __call__(self, net: nn.Module, batch: Any) -> Tensor:
        arrays = self.arrays if self.arrays is not None else self._found(Tree(net))
        # In autocast products would be in half precision, and a sum of many squares is lost there.
        with torch.autocast(arrays[0][1].device.type, enabled=False):
            first, *rest = [self.of_array(name, array) for name, array in arrays]
            return sum(rest, first)

    def bound(self, tree: Tree) -> OwnLoss:
        return replace(self, arrays=self._found(tree))  # type: ignore[type-var]

    def _found(self, tree: Tree) -> tuple[tuple[str, Tensor], ...]:
        names = [name for name in self.place.names(tree) if name in tree.parameters]
        kept = tuple((name, tree.arrays[name]) for name in names if self.takes_array(tree.arrays[name]))
        if not kept:
            there = f"parameters of fewer than two dimensions ({', '.join(names)})" if names else "no parameter"
            raise PartError(f"{self!r}: the part has {there}. Name a part with weights.")
        return kept


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Norm(Penalty):
    """Made by `l1` and `l2`."""

    place: Part
    power: int
    arrays: tuple[tuple[str, Tensor], ...] | None = None

    def of_array(self, name: str, array: Tensor) -> Tensor:
        return array.abs().sum() if self.power == 1 else array.square().sum()

    def takes_array(self, array: Tensor) -> bool:
        return True

    def __repr__(self) -> str:
        return f"l{self.power}({self.place!r})"


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Orthogonality(Penalty):
    """Made by `orthogonality`."""

    place: Part
    arrays: tuple[tuple[str, Tensor], ...] | None = None

    def of_array(self, name: str, array: Tensor) -> Tensor:
        rows = array.flatten(1)
        if rows.shape[0] > rows.shape[1]:
            rows = rows.T
        return (rows @ rows.T - torch.eye(len(rows), device=rows.device, dtype=rows.dtype)).square().sum()

    def takes_array(self, array: Tensor) -> bool:
        return array.dim() > 1

    def __repr__(self) -> str:
        return f"orthogonality({self.place!r})"


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Spectral(Penalty):
    """Made by `spectral`."""

    place: Part
    iterations: int
    arrays: tuple[tuple[str, Tensor], ...] | None = None

    def of_array(self, name: str, array: Tensor) -> Tensor:
        rows = array.flatten(1)
        with torch.no_grad():
            left, right = self._directions(name, rows)
        return (left @ rows @ right).square()

    def _directions(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The directions of the largest singular value, found from a start that the name of the array decides."""
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        right = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64).to(rows.device, rows.dtype)
        left = rows @ right
        for _ in range(self.iterations):
            left = nn.functional.normalize(rows @ right, dim=0)
            right = nn.functional.normalize(rows.T @ left, dim=0)
        return left, right

    def takes_array(self, array: Tensor) -> bool:
        return array.dim() > 1

    def not_compiled(self) -> str:
        return "its start is drawn anew by a generator of its own"

    def __repr__(self) -> str:
        return f"spectral({self.place!r}, iterations={self.iterations})"


@maker
def l1(place: PartLike = everything) -> Norm:
    """Σ|p| over the parameters of a part: `loss={"ce": "cross_entropy", "l1": (l1("encoder"), 1e-4)}`.

    Raises:
        PartError: the literal stands for no part, or, of a net, for nothing or for no parameter.
    """
    return Norm(part(place), 1)


@maker
def l2(place: PartLike = everything) -> Norm:
    """Σp² over the parameters of a part. Its gradient is 2p, where `l2=` of an optimizer adds p times a number.

    Raises:
        PartError: as of `l1`.
    """
    return Norm(part(place), 2)


@maker
def orthogonality(place: PartLike = everything) -> Orthogonality:
    """Σ||W Wᵀ - I||² (Frobenius) over the weights of a part (Brock et al., ICLR 2017).

    A weight of more than two dimensions is taken as (units, the rest); where it has more rows than columns, which
    cannot all be orthogonal, Wᵀ W is taken. Arrays of one dimension are left out.

    Raises:
        PartError: as of `l1`, and where the part has arrays of one dimension only.
    """
    return Orthogonality(part(place))


@maker
def spectral(place: PartLike = everything, iterations: int = 10) -> Spectral:
    """Σσ² over the weights of a part, σ the largest singular value: twice the penalty of Yoshida and Miyato (2017).

    It is found by power iteration, from a start that is the same at every step: nothing is remembered. A weight of more
    than two dimensions is taken as (units, the rest); arrays of one dimension are left out.

    Args:
        iterations: of the power method, at least 1; a few are enough where the next singular value is smaller.

    Raises:
        PartError: as of `orthogonality`. SettingError: no whole number from 1 on.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise SettingError(f"spectral(iterations={iterations!r}): a whole number of at least 1 is needed.")
    return Spectral(part(place), iterations)
