"""Knobs inside compiled programs: numbers that change become inputs of a program, so that a change needs no new one.

A program is traced with what it finds, and a plain number is found as a constant. While it is traced and called, a
number that is a knob is therefore replaced by a tensor of one element that holds it, and `forward` of dropout (whose
probability torch takes as a number only) by the same in terms of a tensor. Whatever cannot be replaced is part of what
a program is known by: another value has another program, and none is ever used with a value that it was not made for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from etude.bind.dials import Dial
from etude.bind.knobs import Knobs
from etude.errors import PlanError, warn
from etude.values.progress import Extent

MOST_VALUES = 16
"""Values of one knob that get programs of their own, if it cannot be an input."""

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class _Input:
    """One number that is an input: where it stands, and the tensor that stands there instead."""

    __slots__ = ("_held", "_name", "_own", "_put", "dial", "tensor")

    def __init__(self, dial: Dial, device: torch.device, dtype: torch.dtype) -> None:
        self.dial = dial
        self.tensor = torch.zeros((), device=device, dtype=dtype)
        self._held: Any = None
        self._own = vars(dial.owner)
        dropout = _is_dropout(dial)
        self._name = "forward" if dropout else dial.name
        self._put: Any = _dropping(dial.owner, self.tensor) if dropout else self.tensor

    def put_in(self) -> Any:
        """Put the tensor there; returns what was there."""
        value = self._own[self.dial.name]
        if value != self._held:
            self.tensor.fill_(value)
            self._held = value
        before = self._own.get(self._name)
        self._own[self._name] = self._put
        return before

    def put_back(self, before: Any) -> None:
        """Put back what was there."""
        if self._name == "forward" and before is None:
            del self._own["forward"]
        else:
            self._own[self._name] = before


class Lifted:
    """The knobs that a program may read.

    Args:
        net: whose modules are read by every program; of anything else that has knobs it is found out.
        knobs: all of the run.
        extent: how long the run is.
        read: what else every program reads: the functions of the loss, and the modules in them.

    Raises:
        PlanError: a knob that cannot be an input takes more than `MOST_VALUES` values in the run.
    """

    def __init__(self, net: nn.Module, knobs: Knobs, extent: Extent, read: Iterable[Any] = ()) -> None:
        array = next((a for a in net.parameters() if a.is_floating_point()), torch.zeros(()))
        double = any(a.dtype == torch.float64 for a in net.parameters())
        self._like = (array.device, torch.float64 if double else torch.float32)
        self._unseen: dict[int, list[Dial]] = {}
        self._inputs: list[_Input] = []
        self._fixed: list[Dial] = []
        self._found: set[int] = set()
        known = {id(own) for one in read for own in (one.modules() if isinstance(one, nn.Module) else (one,))}
        plain = [dial for dial in knobs.dials if dial.tensor is None]
        inside = [dial for dial in plain if dial.path is not None or id(dial.owner) in known]
        self._knobs, self._extent = knobs, extent
        _check_values(knobs.counts([dial for dial in inside if not liftable(dial)], extent))
        self._take(inside)
        for dial in plain:
            if dial.path is None and id(dial.owner) not in known:
                self._unseen.setdefault(id(dial.owner), []).append(dial)

    @property
    def key(self) -> tuple[Any, ...]:
        """The values that are part of a program."""
        return tuple([dial.read() for dial in self._fixed])

    @contextmanager
    def within(self) -> Iterator[None]:
        """Within it a program is traced and called."""
        inputs = self._inputs
        before = [one.put_in() for one in inputs]
        try:
            yield
        finally:
            for one, value in zip(inputs, before, strict=True):
                one.put_back(value)

    def look(self, values: Iterable[Any]) -> None:
        """Told, while a program is traced, what it reads.

        Raises:
            PlanError: it holds a knob of an object that was not known to be read, so it may not be used.
        """
        self._found.update(key for value in values if (key := id(value)) in self._unseen)
        if self._found:
            raise PlanError("compile=True: the program reads knobs that were not known to be read; it is made anew.")

    def found(self) -> bool:
        """Whether the program traced last read knobs that were not known to be read; they are from now on."""
        found = [dial for key in self._unseen if key in self._found for dial in self._unseen[key]]
        self._unseen = {key: dials for key, dials in self._unseen.items() if key not in self._found}
        self._found.clear()
        _check_values(self._knobs.counts([dial for dial in found if not liftable(dial)], self._extent))
        self._take(found)
        return bool(found)

    def fix(self, error: PlanError) -> bool:
        """Whether what cannot be traced with inputs may be without: the knobs become parts of the programs.

        Raises:
            PlanError: they take too many values for that; it says `error`, why nothing could be traced.
        """
        dials = [one.dial for one in self._inputs]
        if not dials:
            return False
        try:
            _check_values(self._knobs.counts(dials, self._extent))
        except PlanError as many:
            raise PlanError(f"{error} {many}") from error
        self._inputs.clear()
        self._fixed += dials
        return True

    def _take(self, dials: Sequence[Dial]) -> None:
        for dial in dials:
            if liftable(dial):
                self._inputs.append(_Input(dial, *self._like))
            else:
                self._fixed.append(dial)


def liftable(dial: Dial) -> bool:
    """Whether a tensor can stand in place of the number: torch's own modules want numbers."""
    if dial.kind != "number" or not dial.plain:
        return False
    if _is_dropout(dial):
        return "forward" not in vars(dial.owner)
    if isinstance(dial.owner, nn.MultiheadAttention) and dial.name == "dropout":
        return False
    return not any(dial.name in getattr(kind, "__constants__", ()) for kind in type(dial.owner).__mro__)


def _is_dropout(dial: Dial) -> bool:
    return type(dial.owner) in _DROPOUTS and dial.name == "p"


def _dropping(module: Any, p: Tensor) -> Callable[[Tensor], Tensor]:
    """What the `forward` of a module of dropout does, with a tensor of one element as its probability."""
    shared = {nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}.get(type(module), 0)

    def forward(x: Tensor) -> Tensor:
        if not module.training:
            return x
        shape = x.shape[: x.dim() - shared] + (1,) * shared
        kept = torch.rand(shape, device=x.device) >= p
        factor = torch.where(kept, 1 / (1 - p), 0.0).to(x.dtype)
        return x.mul_(factor) if module.inplace else x * factor

    return forward


def _check_values(counts: Mapping[str, tuple[Dial, int]]) -> None:
    """Raise where too many programs would be needed, and say how many will be."""
    for label, (dial, count) in counts.items():
        said = f"compile=True: {dial.name} of {dial.where} (the knob {label!r}) cannot be an input of a program"
        if count > MOST_VALUES:
            raise PlanError(
                f"{said}, and takes {count} values in this run, each of which would have to be compiled. Let it change "
                f"in at most {MOST_VALUES} pieces(...), keep it in a buffer of one element, or leave compile out."
            )
        warn(f"{said}: each of its {count} values is compiled.")
