"""Finds trainers that move the same array by turns: each has a memory of it that the other does not know of.

One that follows another is no overlap: who loads a state into a new trainer, or begins anew in a notebook, has left the
old one behind. Whether that is so shows in who steps when.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from itertools import count

from torch import Tensor

from etude.errors import SettingError

_clock = count()


class Claim:
    """What one trainer moves, and when it last did.

    Args:
        share: other trainers may move the same arrays.
    """

    def __init__(self, share: bool) -> None:
        self._free = share
        self._born = self._last = next(_clock)
        self._arrays: dict[int, str] = {}
        self._entered = False
        self._left_behind = False

    def step(self, arrays: Callable[[], Mapping[str, Tensor]]) -> None:
        """The trainer is about to step; `arrays` gives those it may move, and is called at the first step.

        Raises:
            SettingError: another trainer moves some of them, too, in turn with this one.
        """
        if self._free:
            return
        if not self._entered:
            self._arrays = {id(array): name for name, array in arrays().items()}
            self._enter()
        if self._left_behind:
            self._refuse(next((other for other in _claims if other is not self and self._shared(other)), None))
        self._last = next(_clock)

    def changed(self, arrays: Mapping[str, Tensor]) -> None:
        """From now on the trainer may move these arrays."""
        self._arrays = {id(array): name for name, array in arrays.items()}
        if self._entered:
            # What another has done since this one last stepped counts.
            self._entered, self._born = False, self._last

    def leave(self) -> None:
        """The trainer makes no more steps."""
        _claims.discard(self)
        self._free = True

    def _enter(self) -> None:
        others = [other for other in _claims if self._shared(other)]
        for other in others:
            if other._last > self._born:
                self._refuse(other)
        for other in others:
            other._left_behind = True
        self._entered = True
        _claims.add(self)

    def _shared(self, other: Claim) -> list[str]:
        return [name for key, name in self._arrays.items() if key in other._arrays]

    def _refuse(self, other: Claim | None) -> None:
        if other is None:
            # The one that came after is gone.
            self._left_behind = False
            return
        names = self._shared(other)
        raise SettingError(
            f"Another trainer moves {', '.join(map(repr, names[:5]))}{', ...' if names[5:] else ''} in turn with this "
            "one. Nothing was changed. Give each a part of its own (part=...), let go of the other one "
            "(other.detach()), or write share=True for both if that is meant."
        )


_claims: weakref.WeakSet[Claim] = weakref.WeakSet()
"""Claims of trainers that have stepped, and are alive."""
