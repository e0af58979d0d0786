"""What every loss of this library is: a frozen value that says what it takes, and which of its numbers may change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from inspect import isclass
from math import isfinite
from numbers import Real
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from etude.arguments import named
from etude.errors import SettingError
from etude.values.schedule import Schedule, schedule
from etude.values.tree import Tree

P = ParamSpec("P")
R = TypeVar("R")

MAIN = "loss"
"""The entry of what is minimised, where a loss gives several numbers by name."""

NO_SETTINGS: Mapping[str, Schedule] = MappingProxyType({})


class OwnLoss(ABC):
    """A loss as a value: its repr is the expression that makes it, and it remembers nothing.

    It is called as its `takes` says: (output, target), (output), or (net, batch); besides with the numbers of its
    `settings` at this moment, and what it `wants`, by name. It gives what every loss function may give: a mean, one
    value a sample, or a pair (sum, count); where it reports more, a dict of these: "loss" and each of `also`.

    Attributes:
        takes: "pair", "output" or "net".
        wants: which of these it is given by name: "mask" (which elements of the target are true; None: all), "batch",
            "net", "seen" (what `watching` saw).
        also: names of further numbers that it reports. draws: whether it draws random numbers or calls the net.
        bounds: of settings, from what to what they may be.
        of_classes: whether its targets are class indices, its classes the second dimension of the output.
    """

    __slots__ = ()

    takes: str = "pair"
    wants: frozenset[str] = frozenset()
    also: tuple[str, ...] = ()
    draws: bool = False
    of_classes: bool = False
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({})

    @property
    def settings(self) -> Mapping[str, Schedule]:
        """The numbers that may change in a run, each a schedule, by the name under which they are given."""
        return NO_SETTINGS

    @abstractmethod
    def __call__(self, *given: Any, **named: Any) -> Any:
        """The loss of one batch."""

    def bound(self, tree: Tree) -> OwnLoss:
        """The same for one net: what is said of its parts is looked up.

        Raises:
            PartError: the net has no such part. SettingError: the loss cannot be taken of this net.
        """
        return self

    def count(self, target: Any, mask: Any, batch: Any, entry: str = MAIN) -> float | Tensor | None:
        """What the mean of a batch is taken over, where that is known without the net; else None.

        Args:
            entry: which of its numbers is meant, where there are several.
        """
        return None

    def watching(self, net: nn.Module) -> AbstractContextManager[Any]:
        """Around the call of the net: gives what the loss wants to have `seen`."""
        return nullcontext()

    def not_compiled(self) -> str:
        """Why a compiled step cannot have this loss; "" where it can."""
        return ""


def maker(call: Callable[P, R]) -> Callable[P, R]:
    """A public function that makes a loss; see `etude.arguments.named`."""
    made = named(call)
    vars(made)["makes_a_loss"] = True
    return made


def makes_losses(what: object) -> bool:
    """Whether something is no loss, and makes one when it is called."""
    return (isclass(what) and issubclass(what, OwnLoss)) or bool(getattr(what, "makes_a_loss", False))


def wide(given: Tensor) -> Tensor:
    """Numbers in single precision at least: differences, logarithms and long sums of halves lose too much."""
    return given.float() if given.dtype in (torch.float16, torch.bfloat16) else given


def number_of(literal: Any, place: str, low: float = -float("inf"), high: float = float("inf")) -> Schedule:
    """The schedule of numbers that a literal stands for.

    Raises:
        SettingError: something else, or a number out of bounds.
    """
    if not is_number(literal):
        raise SettingError(f"{place} is {literal!r}. Write a finite number or a schedule of numbers.")
    if isinstance(literal, Real) and not low <= float(literal) <= high:
        raise SettingError(f"{place} is {literal!r}, and has to be from {low:g} to {high:g}.")
    return schedule(literal)


def is_number(literal: Any) -> bool:
    """Whether a literal is a finite number, or may be a schedule of numbers."""
    if isinstance(literal, type):
        return False
    if isinstance(literal, Schedule):
        return literal.kind in ("number", "any")
    if isinstance(literal, Real):
        return not isinstance(literal, bool) and isfinite(literal)
    return callable(literal)
