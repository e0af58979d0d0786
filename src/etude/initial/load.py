"""Entries of `initialize=` that are no draws: arrays out of a file, and arrays that stay as they are made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

from torch import Tensor

from etude.arguments import named_class
from etude.errors import SettingError, nearest
from etude.initial.initialiser import Initialiser
from etude.initial.names import InitialiserLike, initialiser
from etude.values.part import Part, PartLike, everything, part

Renaming: TypeAlias = "Mapping[str, str | None] | Callable[..., str | Tensor | None]"

_SHAPES = ("strict", "grow")
_MISSING = ("error", "fresh")


@final
@named_class
@dataclass(frozen=True, slots=True, repr=False)
class Load:
    """Arrays out of a file into those of the same name; nothing but arrays of the net is taken from it.

    Parameters and buffers alike: the running statistics of a batch norm, and its count of batches, are part of the net.
    Optimizer, clock and everything else that counts begin anew, whatever the file has. Buffers that a state_dict leaves
    out stay as they are made. Floating numbers of another precision are converted.

    Args:
        path: a checkpoint of this library; a safetensors file; a .pt file of tensors, also under "state_dict" or
            "model" (read with weights_only=True, which runs no code); the index of a model in several files; or the
            folder of a model hub that has one of these.
        prefix: only arrays of the net whose name begins so; the file has them without it: with prefix="encoder" the
            array "encoder.0.weight" is loaded from "0.weight".
        inside: only arrays of the file whose name begins so; the net has them without it: inside="module" for what a
            wrapper saved.
        rename: the name in the net -> the name in the file, both whole; an array or a module with all in it; None: not
            from this file. Or a function of the name in the net that returns the name in the file, None, or the array
            itself; a function of (name, arrays) also gets the arrays of the file by name, to make one up from others.
        only: the part of the net that it is for.
        shapes: "strict": an array of another shape is an error. "grow": its leading block is copied (of each gate of an
            LSTM or GRU, of query, key and value), the rest is as it was initialised; a smaller net gets what it has
            room for.
        missing: arrays of the net that the file lacks and that no entry has: "error", or "fresh", which leaves them as
            they are made.
        of: of a checkpoint of this library "net", "best" or the name of an average; of a .pt file the key of the dict
            with the arrays, "state.model" where dicts lie in one another.

    Raises:
        SettingError: an option cannot have this value.
        PartError: `only` stands for no part.
    """

    path: str
    prefix: str = ""
    inside: str = ""
    rename: Renaming | None = field(default=None, hash=False)
    only: Part = everything
    shapes: str = "strict"
    missing: str = "error"
    of: str | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        prefix: str = "",
        inside: str = "",
        rename: Renaming | None = None,
        only: PartLike = everything,
        shapes: str = "strict",
        missing: str = "error",
        of: str | None = None,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise SettingError(f"Load({path!r:.60}): the path of a file is needed. Write Load('weights.safetensors').")
        for name, text in (("prefix", prefix), ("inside", inside), ("of", "" if of is None else of)):
            if not isinstance(text, str):
                raise SettingError(f"Load(): {name}={text!r} is no text. Write {name}='encoder'.")
        _choice("shapes", shapes, _SHAPES)
        _choice("missing", missing, _MISSING)
        _check_renaming(rename)
        values = (os.fspath(path), prefix, inside, rename, part(only), shapes, missing, of)
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        told = [repr(self.path)]
        for name in self.__slots__[1:]:
            value = getattr(self, name)
            if value != _DEFAULTS[name]:
                shown = getattr(value, "__name__", repr(value)) if name == "rename" else repr(value)
                told.append(f"{name}={shown}")
        return f"Load({', '.join(told)})"


_DEFAULTS: dict[str, Any] = {
    "prefix": "",
    "inside": "",
    "rename": None,
    "only": everything,
    "shapes": "strict",
    "missing": "error",
    "of": None,
}


@final
@named_class
@dataclass(frozen=True, slots=True, repr=False)
class Fresh:
    """Arrays that no later entry decides: they stay as their module makes them, or are drawn.

    Args:
        place: the part that is fresh. how: what draws it, if it is not to stay as it is made.

    Raises:
        PartError: `place` stands for no part.
        SettingError: `how` is no initialiser.
    """

    place: Part
    how: Initialiser | None

    def __init__(self, place: PartLike = everything, how: InitialiserLike | None = None) -> None:
        object.__setattr__(self, "place", part(place))
        object.__setattr__(self, "how", None if how is None else initialiser(how))

    def __repr__(self) -> str:
        place = "" if self.place == everything and self.how is None else repr(self.place)
        return f"Fresh({place}{'' if self.how is None else f', {self.how!r}'})"


def _choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        words = " or ".join(map(repr, known))
        raise SettingError(f"Load(): {name}={value!r} is not known. Write {words}.{nearest(value, known)}")


def _check_renaming(rename: object) -> None:
    if rename is None or (callable(rename) and not isinstance(rename, type)):
        return
    write = "Write rename={'name in the net': 'name in the file'}."
    if not isinstance(rename, Mapping):
        raise SettingError(f"Load(): rename={rename!r} is neither a dict nor a function. {write}")
    for new, old in rename.items():
        if not isinstance(new, str) or not isinstance(old, str | None):
            raise SettingError(f"Load(): rename={{{new!r}: {old!r}}}: names are text. {write}")
