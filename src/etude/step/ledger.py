"""Which gradients are new: nothing old is ever applied twice, and nothing that is there is lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import attrgetter, is_

from torch import Tensor

_GRAD = attrgetter("grad")
_VERSION = attrgetter("_version")


def gradients_of(arrays: Iterable[Tensor]) -> list[Tensor | None]:
    """The gradient of each array, None where there is none."""
    return list(map(_GRAD, arrays))


def has_none(gradients: Sequence[Tensor | None]) -> bool:
    """Whether a gradient is missing."""
    return any(map(is_, gradients, repeat(None)))


def versions_of(gradients: Iterable[Tensor]) -> list[int]:
    """How often each gradient was written."""
    return list(map(_VERSION, gradients))


class Ledger:
    """What was there when gradients were last looked at: the tensors themselves, and how often each was written.

    Attributes:
        empty: whether nothing has been written down since the last `forget`.
    """

    def __init__(self) -> None:
        self.empty = True
        self._found: list[Tensor | None] = []
        self._versions: list[int | None] = []

    def write(self, gradients: Sequence[Tensor | None], versions: list[int] | None = None) -> None:
        """Write down the gradients of all arrays, in their order, and how often each was written if that is known."""
        self._found = list(gradients)
        if versions is not None:
            self._versions = [*versions]
        else:
            self._versions = [None if gradient is None else gradient._version for gradient in gradients]
        self.empty = False

    def forget(self) -> None:
        """From now on every gradient is new."""
        if not self.empty:
            self._found, self._versions, self.empty = [], [], True

    def follow(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """The arrays have another order now, or others have come."""
        if not self.empty:
            place = {id(array): index for index, array in enumerate(before)}
            places = [place.get(id(array)) for array in after]
            self._found = [None if k is None else self._found[k] for k in places]
            self._versions = [None if k is None else self._versions[k] for k in places]

    def old(self, indices: Sequence[int], gradients: Sequence[Tensor | None]) -> tuple[list[int], list[int]]:
        """Of some arrays, given by their place in the order, those whose gradient is not new.

        Returns:
            those with the gradient that was seen, as it was; those with new values added onto it.
        """
        same: list[int] = []
        added: list[int] = []
        if self.empty:
            return same, added
        for index, gradient in zip(indices, gradients, strict=True):
            seen = self._found[index]
            if gradient is None or seen is None:
                continue
            if seen is gradient:
                (same if self._versions[index] == gradient._version else added).append(index)
            elif gradient.requires_grad or (seen.is_sparse and not gradient.is_sparse):
                # backward(create_graph=True), and a dense gradient after a sparse one, add into a new tensor.
                added.append(index)
        return same, added

    def gone(self, indices: Sequence[int], gradients: Sequence[Tensor | None]) -> list[int]:
        """Of some arrays those whose gradient was seen and is there no more: somebody has cleared it."""
        if self.empty:
            return []
        return [i for i, gradient in zip(indices, gradients, strict=True) if _is_gone(self._found[i], gradient)]


def _is_gone(seen: Tensor | None, gradient: Tensor | None) -> bool:
    if seen is None or seen is gradient:
        return False
    # A sum may be a new tensor: with create_graph=True, and of sparse gradients.
    return gradient is None or not (gradient.requires_grad or seen.is_sparse)
