"""One attribute of one object, as something that a schedule can write: what it may hold, and how it is set."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from numbers import Integral, Real
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from etude.errors import SettingError, nearest

Range: TypeAlias = tuple[float, float]

_SHARE: Range = (0.0, 1.0)
_RANGES: tuple[tuple[tuple[type, ...], str, Range], ...] = (
    ((nn.modules.dropout._DropoutNd,), "p", _SHARE),
    ((nn.RNNBase, nn.MultiheadAttention), "dropout", _SHARE),
    ((nn.modules.batchnorm._NormBase,), "momentum", _SHARE),
    ((nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm), "eps", (0.0, inf)),
    ((nn.CrossEntropyLoss,), "label_smoothing", _SHARE),
)
"""What torch takes: its modules look at these when they are made or called, and their attributes at no time."""

_FIXED = frozenset(
    (
        "num_batches_tracked",
        "inplace",
        "in_features",
        "out_features",
        "num_features",
        "in_channels",
        "out_channels",
        "num_embeddings",
        "embedding_dim",
        "input_size",
        "hidden_size",
        "proj_size",
        "num_layers",
        "num_heads",
        "head_dim",
        "embed_dim",
        "kdim",
        "vdim",
        "num_parameters",
        "normalized_shape",
        "num_channels",
        "affine",
        "elementwise_affine",
        "track_running_stats",
        "bidirectional",
        "dump_patches",
        "training",
    )
)
"""Attributes of torch's modules that say how a module was built, or are kept by torch: writing them breaks it."""


class Dial:
    """One attribute of one object.

    Attributes:
        owner: the object. name: of the attribute. where: what it is called in messages: "Dropout 'encoder.drop'".
        path: the module's path in the net; None of an object that is not in it.
        kind: what it holds: "number", "whole number", "bool" or "text".
        range: the least and the most that it takes. start: its value when the dial was made.
        put: writes a value that fits.
        tensor: the tensor of one element that is filled in place, or None for a plain attribute.
    """

    __slots__ = ("kind", "name", "owner", "path", "put", "range", "start", "tensor", "where")

    def __init__(self, owner: Any, name: str, where: str, path: str | None = None) -> None:
        """Raises SettingError where the attribute is none that can be written."""
        self.owner, self.name, self.where, self.path = owner, name, where, path
        held = getattr(owner, name)
        self.tensor = held if isinstance(held, Tensor) else None
        _refuse_fixed(owner, name, where)
        self.start = _read(held, name, where)
        of_torch = next((r for kinds, own, r in _RANGES if own == name and isinstance(owner, kinds)), None)
        # A class may say what its attributes take: knob_ranges = {"p": (0.0, 1.0)}.
        self.range: Range = of_torch or getattr(type(owner), "knob_ranges", {}).get(name, (-inf, inf))
        self.kind = _kind(self.start) if of_torch is None else "number"
        self.put = _putter(owner, name, self.tensor)

    def read(self) -> Any:
        """The value that it has now."""
        return _plain(getattr(self.owner, self.name))

    def fit(self, value: Any) -> Any:
        """`value` as the attribute takes it.

        Raises:
            SettingError: it is of another kind, or out of range.
        """
        kind, (low, high) = self.kind, self.range
        if type(value) is float and kind == "number" and low <= value <= high:
            return value
        if kind in ("number", "whole number"):
            found = _number(value)
            if found is not None and not low <= found <= high:
                raise SettingError(f"{self.where} takes {self.name} from {low:g} to {high:g}, not {value!r}.")
            if found is not None and (kind == "number" or found == found // 1):
                # A whole number in place of a fraction would make tensors of whole numbers from it.
                return float(found) if kind == "number" else int(found)
        elif type(value) is (bool if kind == "bool" else str):
            return value
        raise SettingError(f"{self.name} of {self.where} is the {kind} {self.start!r}, not {value!r}.{self._advice()}")

    @property
    def plain(self) -> bool:
        """Whether nobody looks at what is written: the attribute has no setter of its own."""
        return self.tensor is not None or _is_plain(self.owner, self.name)

    def prove(self) -> None:
        """Raise SettingError unless it can be written: the value that it has is written once more."""
        try:
            self.put(self.read())
        except Exception as error:
            raise SettingError(
                f"{self.name} of {self.where} cannot be written: {type(error).__name__}: {error}. {self._writable()}"
            ) from error

    def _writable(self) -> str:
        if isinstance(getattr(type(self.owner), self.name, None), property):
            return "Give the property a setter, or name the attribute that it reads."
        return "Leave frozen=True out of the dataclass, or keep the value in an attribute that can be set."

    def _advice(self) -> str:
        if self.kind == "whole number":
            return f" If it may be a fraction, begin with {float(self.start)!r} there; else round the values."
        if self.kind == "bool":
            return " Write True or False."
        return ""


def why_not(owner: Any, name: str) -> str:
    """Why an attribute of an object is passed over in a search: a module or a function; "" if it is not."""
    held = getattr(owner, name)
    if isinstance(held, nn.Module):
        return f"a {type(held).__name__}, which is a module: name its own attribute"
    return "a function" if callable(held) and not isinstance(held, Tensor) else ""


def knobs_of(owner: Any) -> list[str]:
    """Names of the attributes of an object that could be dials: those that hold a number, a bool or one element."""
    own = dict(getattr(owner, "__dict__", {}))
    if isinstance(owner, nn.Module):
        own = {**own, **owner._buffers}
    slots = (name for kind in type(owner).__mro__ for name in _slots(kind))
    own.update({name: getattr(owner, name) for name in slots if hasattr(owner, name)})
    return [name for name, held in own.items() if _is_dial(owner, name, held)]


def refuse_name(name: object) -> str:
    """The name of an attribute, or SettingError where it can be none."""
    if isinstance(name, str) and all(each.isidentifier() or each == "*" for each in name.split(".")) and "." in name:
        place, _, own = name.rpartition(".")
        raise SettingError(
            f"knobs: {name!r} is a path: the attribute stands first, and where it is on the left of a rule. Write "
            f"knobs={{{own!r}: {{{place!r}: ...}}}}, or for an object of your own {{{own!r}: [(object, ...)]}}."
        )
    if not isinstance(name, str) or not name.isidentifier():
        raise SettingError(f"knobs: {name!r} is no name of an attribute. Write knobs={{'p': {{nn.Dropout: 0.1}}}}.")
    if name == "training":
        raise SettingError(
            "knobs: 'training' is the mode of a module, which a run sets itself. To freeze a part, statistics and all, "
            "write learning_rate_multipliers={part: 0}."
        )
    if name.startswith("_"):
        raise SettingError(f"knobs: {name!r} is private. Name an attribute that is meant to be set.")
    return name


def near(name: str, owners: Any) -> str:
    """What there is instead of an attribute: the nearest names, or the first few."""
    there = list(dict.fromkeys(own for owner in owners for own in knobs_of(owner)))
    if not there:
        return " Nothing there is a number."
    shown = ", ".join(map(repr, there[:8])) + (", ..." if len(there) > 8 else "")
    return f" Numbers there: {shown}.{nearest(name, there)}"


def _is_dial(owner: Any, name: str, held: Any) -> bool:
    if name.startswith("_") or name in _FIXED or isinstance(held, nn.Parameter):
        return False
    return held.numel() == 1 if isinstance(held, Tensor) else isinstance(held, Real)


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _read(held: Any, name: str, where: str) -> Any:
    """The value of an attribute, or SettingError where it is none of a dial."""
    if isinstance(held, nn.Parameter) or (isinstance(held, Tensor) and held.requires_grad):
        raise SettingError(
            f"knobs: {name} of {where} is trained: it is a parameter. Hold it with learning_rate_multipliers, or make "
            "it a buffer (register_buffer)."
        )
    if isinstance(held, Tensor) and held.numel() != 1:
        raise SettingError(f"knobs: {name} of {where} has {held.numel()} elements. A knob is one number.")
    value = _plain(held)
    if not isinstance(value, Real | str) or value != value:
        raise SettingError(
            f"knobs: {name} of {where} is {held!r}, which is no number, bool or text. Give it a number where the "
            "object is made."
        )
    return value


def _refuse_fixed(owner: Any, name: str, where: str) -> None:
    kinds = type(owner).__mro__ if name in _FIXED and isinstance(owner, nn.Module) else ()
    if any(kind.__module__.startswith("torch.") and kind not in (nn.Module, object) for kind in kinds):
        raise SettingError(
            f"knobs: {name} of {where} is no knob: it says how the module was built, or is counted by torch."
            f"{near(name, [owner])}"
        )


def _plain(held: Any) -> Any:
    return held.item() if isinstance(held, Tensor) and held.numel() == 1 else held


def _number(value: Any) -> float | None:
    """A number as Python's own; None where it is none, or NaN."""
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "bool"
    return "whole number" if isinstance(value, Integral) else "number"


def _putter(owner: Any, name: str, tensor: Tensor | None) -> Callable[[Any], None]:
    if tensor is not None:
        return _filler(owner, name)
    if _is_plain(owner, name):
        # Straight into the object: what torch's modules do with parameters and buffers is for neither of them.
        own = vars(owner)
        return lambda value: own.__setitem__(name, value)
    return lambda value: setattr(owner, name, value)


def _filler(owner: Any, name: str) -> Callable[[Any], None]:
    def fill(value: Any) -> None:
        # Looked up anew: moving a module to another device gives it other buffers.
        with torch.no_grad():
            getattr(owner, name).fill_(value)

    return fill


def _is_plain(owner: Any, name: str) -> bool:
    """Whether setting an attribute does nothing but put it into the object."""
    kind = type(owner)
    setter: object = nn.Module.__setattr__ if isinstance(owner, nn.Module) else object.__setattr__
    own = getattr(owner, "__dict__", {})
    seen = hasattr(getattr(kind, name, None), "__set__")
    return kind.__setattr__ is setter and type(own) is dict and name in own and not seen
