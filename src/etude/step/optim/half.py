"""Arrays that are themselves float16 or bfloat16: how small steps are kept from being rounded away.

"master" moves a copy in float32, kept with the optimizer's memory, and rounds it into the array after every step
(Micikevicius et al., "Mixed precision training", ICLR 2018). "stochastic" keeps no copy and rounds up or down by
chance, so that the mean is right (Gupta et al., "Deep learning with limited numerical precision", ICML 2015; Zamirai
et al., "Revisiting BFloat16 training", 2020). "plain" computes in the array's own numbers, in which 1 - 0.001 is 1.
Under the first two, the memory of the update rule is float32 as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from etude.errors import SettingError, nearest

WAYS = ("master", "stochastic", "plain")
MASTER = "master"
"""The name of the float32 copy in the memory of an array."""
LOW = (torch.float16, torch.bfloat16)


def check_way(way: str) -> str:
    """The way itself; raise SettingError unless it is one of `WAYS`."""
    if way not in WAYS:
        raise SettingError(f"half={way!r}: known are {', '.join(WAYS)}.{nearest(str(way), WAYS)}")
    return way


def is_low(array: Tensor) -> bool:
    """Whether the array is float16 or bfloat16."""
    return array.dtype in LOW


def refresh(master: Tensor, low: Tensor) -> None:
    """Take over what somebody wrote into an array; elements that still round to it stay as exact as they are.

    Looked at in every step: who writes by way of `.data` leaves no other trace. No host waits for it.
    """
    torch.where(master.to(low.dtype) == low, master, low.to(master.dtype), out=master)


def empty_stand_in(array: Tensor) -> Tensor:
    """A float32 tensor of the shape of an array, without memory of its own."""
    return torch.empty((), dtype=torch.float32, device=array.device).expand(array.shape)


def rounded(exact: Tensor, dtype: torch.dtype, chance: Tensor) -> Tensor:
    """Each number rounded to one of its two neighbours in `dtype`, the nearer one more often: right in the mean.

    Args:
        exact: float32. chance: from [0, 1) evenly; each number decides for one element.
    """
    below = exact.to(dtype)
    wide = below.float()
    # torch rounds to the nearest; step down where that was up, so that `below` is the neighbour towards minus infinity.
    low = torch.where(
        (wide > exact) & torch.isfinite(wide), torch.nextafter(below, torch.full_like(below, -torch.inf)), below
    )
    high = torch.nextafter(low, torch.full_like(low, torch.inf))
    share = (exact - low.float()) / (high.float() - low.float())
    return torch.where((chance < share) & torch.isfinite(share), high, low)
