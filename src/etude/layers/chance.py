"""What is kept by chance, and what is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from etude.errors import SettingError
from etude.values.schedule import Schedule

_LEAST = 2.0**-14
"""Nothing is divided by less than this: the smallest normal number of float16."""


def chance_in(p: Any, said: str) -> float | Tensor:
    """`p` as a chance: a number of Python's own, or a tensor without dimensions, which compiled programs read anew.

    Args:
        p: a number from 0 to 1, or a floating-point tensor of one such element. said: the call it was given to.

    Raises:
        SettingError: it is neither.
    """
    if isinstance(p, Schedule):
        raise SettingError(
            f"{said}: p={p!r}: a number is needed. Begin with one, and let a knob change it: knobs={{'p': {p!r}}}."
        )
    number = _number(p)
    if not 0 <= number <= 1:
        hint = f" Write p={number / 100:g} for {number:g} percent." if 1 < number <= 100 else ""
        raise SettingError(f"{said}: p={p!r}: the chance to drop is a number from 0 to 1.{hint}")
    return p.detach().clone().reshape(()) if isinstance(p, Tensor) else number


def _number(p: Any) -> float:
    """The number that `p` is or holds; NaN where there is none."""
    if isinstance(p, Tensor):
        return float(p.detach()) if p.numel() == 1 and p.is_floating_point() else nan
    return float(p) if isinstance(p, Real) and not isinstance(p, bool) else nan


def chance_text(p: float | Tensor) -> str:
    """A chance as it is written: the number, or the tensor that holds it."""
    return f"torch.tensor({float(p):g})" if isinstance(p, Tensor) else repr(p)


def thinned(x: Tensor, shape: Sequence[int], p: float | Tensor, rescale: bool = True) -> Tensor:
    """`x` with what is dropped set to 0: `x` times a mask that is 0 with chance `p`, of a shape that broadcasts to it.

    Args:
        x: of any shape and type. shape: of the mask. p: the chance; drawn from torch's generator of the device of `x`.
        rescale: divide what is kept by 1 - p, so that the mean over all draws is `x`.
    """
    kept = x * (torch.rand(shape, device=x.device, dtype=torch.float32) >= p)
    if not rescale:
        return kept
    if isinstance(p, Tensor):
        # Where p is 1 everything is 0 already.
        return kept / (1 - p).clamp_min(_LEAST)
    return kept / (1 - p) if p < 1 else kept


def is_never(p: float | Tensor) -> bool:
    """Whether nothing is ever dropped; a tensor is not asked, since a host would have to wait for it."""
    return not isinstance(p, Tensor) and p == 0
