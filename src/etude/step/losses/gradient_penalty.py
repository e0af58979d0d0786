"""Penalties on how steeply a net changes with its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any, final

import torch
from torch import Tensor, nn

from etude.errors import DataError, PartError, SettingError, nearest
from etude.step.gan import GAN
from etude.step.losses.own import OwnLoss, maker, wide
from etude.step.reading import Reader
from etude.values.tree import Tree


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Steepness(OwnLoss):
    """Made by `gradient_penalty` and `r1`."""

    module: str | None
    points: Callable[[Any, Any], Any] | None
    toward: float
    name: str

    takes = "net"
    draws = True

    def __call__(self, net: nn.Module, batch: Any) -> Tensor:
        # Looking at validation data is without gradients, and this is made of one.
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            at = self._points(net, batch)
            said = self._judged(net, at, batch)
            (gradient,) = torch.autograd.grad(said, at, create_graph=keep, allow_unused=True)
        if gradient is None:
            raise DataError(f"{self!r}: what the net gives does not depend on its input.")
        squares = wide(gradient).flatten(1).square().sum(1)
        if self.name == "r1":
            made = squares / 2
        else:
            # The slope of a root at 0 is infinite, and there it shall be 0.
            flat = squares == 0
            made = (squares.where(~flat, 1).sqrt().where(~flat, 0) - self.toward).square()
        return made if keep else made.detach()

    def _points(self, net: nn.Module, batch: Any) -> Tensor:
        found = self._given(net, batch)
        if isinstance(found, tuple) and len(found) == 2 and self.name != "r1":
            found = _between(*found)
        if not isinstance(found, Tensor) or not found.is_floating_point() or not found.dim():
            raise DataError(
                f"{self!r}: the points are {_said(found)}: a tensor of floats, one sample in a row, or a pair of such "
                "(real, generated) is needed. Write points=lambda net, batch: ..."
            )
        return found.detach().requires_grad_()

    def _given(self, net: nn.Module, batch: Any) -> Any:
        if self.points is not None:
            return self.points(net, batch)
        if isinstance(net, GAN):
            sample, latent = net._split(batch)
            if self.name == "r1":
                return sample
            with torch.no_grad():
                return sample, net.generator(latent)
        args, kwargs, _ = Reader(net)(batch)
        return next(iter((*args, *kwargs.values())), None)

    def _judged(self, net: nn.Module, at: Tensor, batch: Any) -> Tensor:
        name = "discriminator" if self.module is None and isinstance(net, GAN) else self.module
        if name is not None:
            said = net.get_submodule(name)(at)
        elif self.points is not None:
            said = net(at)
        else:
            args, kwargs, _ = Reader(net)(batch)
            said = net(at, *args[1:], **kwargs) if args else net(**{**kwargs, next(iter(kwargs)): at})
        if not isinstance(said, Tensor):
            raise DataError(
                f"{self!r}: the net gives {_said(said)}, and a tensor is needed. Name the module that does."
            )
        return said.sum()

    def bound(self, tree: Tree) -> OwnLoss:
        if self.module is not None and not isinstance(tree.nodes.get(self.module), nn.Module):
            names = [path for path, node in tree.nodes.items() if path and isinstance(node, nn.Module)]
            raise PartError(
                f"{self!r}: the net has no module {self.module!r}. Modules: {', '.join(names[:8]) or 'none'}."
                f"{nearest(self.module, names)}"
            )
        return self

    def not_compiled(self) -> str:
        return "it is a gradient of a gradient"

    def __repr__(self) -> str:
        said = [] if self.module is None else [repr(self.module)]
        if self.points is not None:
            said.append(f"points={getattr(self.points, '__name__', repr(self.points))}")
        if self.name == "gradient_penalty" and self.toward != 1:
            said.append(f"toward={self.toward!r}")
        return f"{self.name}({', '.join(said)})"


def _between(real: Tensor, generated: Tensor) -> Tensor:
    """A random point between each two samples."""
    if real.shape != generated.shape:
        raise DataError(
            f"gradient_penalty(): real samples of shape {tuple(real.shape)} and generated ones of "
            f"{tuple(generated.shape)}: points between them need one shape."
        )
    share = torch.rand(len(real), *(1,) * (real.dim() - 1), device=real.device, dtype=real.dtype)
    return generated + share * (real - generated)


def _said(given: Any) -> str:
    return f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"


@maker
def gradient_penalty(
    module: str | None = None, points: Callable[[Any, Any], Any] | None = None, toward: float = 1.0
) -> Steepness:
    """The mean over samples of (||∇D(x)|| - 1)², D what a module gives, summed (Gulrajani et al., NeurIPS 2017, eq. 3).

    Args:
        module: the path of the module that judges; None: the net itself, of a `GAN` its discriminator.
        points: a function of (net, batch) that gives the points x, or a pair (real, generated), between which one point
            is drawn for each two samples. None: the inputs of the batch; of a `GAN` that pair.
        toward: the norm that is wanted; 0 makes flat where 1 bounds.

    Raises:
        SettingError: an argument is not what it has to be. PartError: the net has no such module.
        DataError: when it is computed, points that are no floats.
    """
    if isinstance(toward, bool) or not isinstance(toward, Real) or not toward >= 0 or not isfinite(toward):
        raise SettingError(f"gradient_penalty(toward={toward!r}): a number from 0 on is needed.")
    return _made("gradient_penalty", module, points, float(toward))


@maker
def r1(module: str | None = None, points: Callable[[Any, Any], Any] | None = None) -> Steepness:
    """The mean over samples of ||∇D(x)||² / 2 on real samples (Mescheder, Geiger and Nowozin, ICML 2018, eq. 9).

    Args:
        module, points: as of `gradient_penalty`; None: the real samples of the batch.

    Raises:
        SettingError, PartError, DataError: as of `gradient_penalty`.
    """
    return _made("r1", module, points, 0.0)


def _made(name: str, module: Any, points: Any, toward: float) -> Steepness:
    if module is not None and not isinstance(module, str):
        raise SettingError(f"{name}({module!r}): the path of a module is needed, as in {name}('critic').")
    if points is not None and not callable(points):
        raise SettingError(f"{name}(points={points!r}): a function of (net, batch) is needed.")
    return Steepness(module, points, toward, name)
