"""First values from a function of the user."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from etude.data.chance import sow, undisturbed
from etude.errors import EtudeError, SettingError
from etude.initial.initialiser import Initialiser, generator_of, key_of
from etude.initial.units import Unit

_BY_PLACE, _BY_BOTH = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


@final
@dataclass(frozen=True, slots=True)
class Computed(Initialiser):
    """What `function(array)` or `function(array, generator)` makes of a copy of an array.

    The function changes the copy in place and returns nothing or the copy, as those of `torch.nn.init` do, or it
    returns another tensor of that shape. The generator, and those of torch, numpy and Python while it is called, are
    seeded from the seed and the array's name.
    """

    function: Callable[..., Any]

    draws: ClassVar[bool] = False
    kind: ClassVar[str] = "computed"

    @property
    def late(self) -> bool:
        return True

    def refuse(self, unit: Unit) -> str:
        return ""

    def make(self, unit: Unit, seed: int) -> Tensor:
        copy = unit.array.detach().to("cpu", copy=True)
        with undisturbed(), torch.no_grad():
            sow(key_of(seed, unit.name))
            try:
                given = self._called(copy, generator_of(seed, unit.name))
            except Exception as error:
                if isinstance(error, EtudeError):
                    raise
                raise SettingError(self._failed(unit, f"{type(error).__name__}: {error}")) from error
        made = copy if given is None else given
        if not isinstance(made, Tensor) or made.shape != copy.shape:
            found = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
            raise SettingError(self._failed(unit, f"it gave {found}; a tensor of {unit.shape} or None is needed"))
        return made.detach().to(unit.array.dtype)

    def _called(self, array: Tensor, generator: torch.Generator) -> Any:
        how = _takes_generator(self.function)
        if how == "name":
            return self.function(array, generator=generator)
        return self.function(array, generator) if how == "place" else self.function(array)

    def _failed(self, unit: Unit, why: str) -> str:
        return (
            f"initialize: {self!r} of {unit.name!r}, of shape {unit.shape}: {why}. Write a part that has only arrays "
            f"which it can make, such as part('*.weight') & part(nn.Linear)."
        )

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", None) or repr(self.function)


def needed(function: Callable[..., Any]) -> int:
    """How many arguments a function must be given by place; 1 where it does not tell."""
    try:
        taken = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return len([p for p in taken if p.default is p.empty and p.kind in (_BY_PLACE, _BY_BOTH)])


def _takes_generator(function: Callable[..., Any]) -> str:
    """How a function takes a generator: by "name", as the second by "place", or "" where it takes none."""
    try:
        named = inspect.signature(function).parameters.get("generator")
    except (TypeError, ValueError):
        return ""
    if named is not None and named.kind is not _BY_PLACE:
        return "name"
    return "place" if needed(function) == 2 else ""
