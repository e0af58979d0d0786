"""The factor by which a loss is multiplied before backward, so that small float16 gradients do not vanish.

It follows the gradients: halved when one is not finite (that step is left out), doubled after 2,000 good steps
(Micikevicius et al., "Mixed precision training", ICLR 2018). bfloat16 has the range of float32 and needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from etude.errors import SettingError, nearest

_FIRST = 65536.0
_LARGEST = 2.0**24
_PATIENCE = 2000


class LossScale:
    """A scale at work.

    Args:
        asked: "dynamic", a positive number that stays, or None: 1.

    Attributes:
        value: the factor now. good: steps in a row whose gradients were finite, since it last changed.

    Raises:
        SettingError: none of these.
    """

    def __init__(self, asked: float | str | None) -> None:
        if asked is not None and asked != "dynamic" and not _is_positive(asked):
            near = nearest(asked, ["dynamic"]) if isinstance(asked, str) else ""
            raise SettingError(f'loss_scale={asked!r}: "dynamic", a positive number or None is needed.{near}')
        self.dynamic = asked == "dynamic"
        self.value = _FIRST if self.dynamic else float(asked or 1.0)
        self.good = 0

    @property
    def active(self) -> bool:
        """Whether a loss has to be multiplied at all."""
        return self.dynamic or self.value != 1.0

    @property
    def finding(self) -> bool:
        """Whether it is finding its size: a gradient that is not finite now may be its overflow."""
        return self.dynamic and self.value > 1

    def policy(self, asked: str | None) -> str | None:
        """What is done about gradients that are not finite: overflow is how the scale finds its size.

        At a scale of 1 there is nothing left to halve: what is not finite then is no overflow of the scale.
        """
        if not self.dynamic:
            return asked
        return "skip" if self.finding else asked or "raise"

    def follow(self, made: bool) -> None:
        """Take note of whether the gradients of a step were finite."""
        if not self.dynamic:
            return
        self.good = self.good + 1 if made else 0
        if not made:
            self.value = max(1.0, self.value / 2)
        elif self.good >= _PATIENCE:
            self.value, self.good = min(self.value * 2, _LARGEST), 0

    def state(self) -> dict[str, float]:
        """What a later run needs to go on."""
        return {"value": self.value, "good": self.good, "dynamic": int(self.dynamic)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state()` gave; a scale that stays keeps its own value, and one that stayed says nothing."""
        if self.dynamic and state["dynamic"]:
            self.value, self.good = float(state["value"]), int(state["good"])


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < inf
