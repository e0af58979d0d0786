"""Dropout whose mask may be one along some axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from torch import Tensor, nn

from etude.arguments import named_class
from etude.errors import SettingError
from etude.layers.chance import chance_in, chance_text, is_never, thinned


@final
@named_class
class Dropout(nn.Module):
    """Dropout (Srivastava et al., JMLR 2014) with one mask along the axes that are shared.

    `Dropout(0.1, shared=1)` on (batch, time, features) drops a feature of a sequence at every time or at none (Gal and
    Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NeurIPS 2016). What is
    kept is divided by 1 - p. In evaluation, and where p is 0, the input itself is returned.

    Args:
        p: the chance to drop, from 0 to 1. A tensor of one element becomes a buffer: a knob fills it in place, and a
            compiled net needs no new program for another value.
        shared: the axis, or axes, of the input along which the mask is one; negative ones count from the end.

    Shapes:
        any; the same comes back.

    Raises:
        SettingError: p is no chance, shared is no axis; in a call, the input has no such axis.
    """

    knob_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"p": (0.0, 1.0)}
    p: float | Tensor

    def __init__(self, p: float | Tensor = 0.5, shared: int | Sequence[int] = ()) -> None:
        super().__init__()
        self.shared = _axes(shared)
        chance = chance_in(p, "Dropout")
        if isinstance(chance, Tensor):
            self.register_buffer("p", chance, persistent=False)
        else:
            self.p = chance

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or is_never(self.p):
            return x
        shape = list(x.shape)
        for axis in self.shared:
            if not -x.dim() <= axis < x.dim():
                raise SettingError(
                    f"{self!r}: the input has the shape {tuple(x.shape)}, and no axis {axis}. Write shared= from 0 to "
                    f"{x.dim() - 1}."
                )
            shape[axis] = 1
        return thinned(x, shape, self.p)

    def extra_repr(self) -> str:
        return chance_text(self.p) + (f", shared={self.shared!r}" if self.shared else "")


def _axes(shared: Any) -> tuple[int, ...]:
    axes = (shared,) if isinstance(shared, int) else shared
    fits = isinstance(axes, Sequence) and not isinstance(axes, str)
    if isinstance(shared, bool) or not fits or any(isinstance(a, bool) or not isinstance(a, int) for a in axes):
        raise SettingError(
            f"Dropout: shared={shared!r}: the numbers of axes are needed. Write shared=1 for the time of (batch, time, "
            "features)."
        )
    if len(set(axes)) < len(axes):
        raise SettingError(
            f"Dropout: shared={shared!r}: an axis is named twice. Write shared={tuple(dict.fromkeys(axes))!r}."
        )
    return tuple(axes)
