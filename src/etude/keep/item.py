"""What an object of a hand-written loop is in a file: an entry of plain values, and tensors under names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

Names: TypeAlias = "Mapping[int, str]"
"""Names of the arrays of all nets that are kept together, by identity of the array."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One object as it stands in a file.

    Attributes:
        entry: plain values, for the record; "kind" and "class" say what it is.
        tensors: by name; in a file that was read also those of other objects.
    """

    entry: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class Item(ABC):
    """One object that is kept, under the name it has in the call.

    Attributes:
        key: that name. kind: "net", "state", "trainer" or "generator".
    """

    kind: str

    def __init__(self, key: str) -> None:
        self.key = key

    @abstractmethod
    def take(self, names: Names) -> Kept:
        """What it is now; tensors are not copied.

        Raises:
            StateError: something of it cannot be kept.
        """

    @abstractmethod
    def misfits(self, kept: Kept, names: Names) -> list[str]:
        """Why it cannot become what was kept, as parts of a sentence; none where nothing speaks against it."""

    @abstractmethod
    def put(self, kept: Kept) -> None:
        """Make it what was kept; errors are those of its own methods."""

    def moves(self) -> Sequence[Tensor]:
        """The arrays that it moves."""
        return ()


def class_of(value: object) -> str:
    """The name of its class, as it is compared: without the module, which is `__main__` in one program only."""
    return type(value).__qualname__
