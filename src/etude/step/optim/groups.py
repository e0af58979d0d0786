"""A row of the table as a parameter group of an optimizer of torch's shape.

The group is the optimizer's; what is written into it is what the table says, and what somebody else writes over it is
found before it could be lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from etude.bind.table import RATE
from etude.errors import SettingError
from etude.step.optim.options import WAYS, options_of

ABSENT = "-"
"""The value of a setting in rows whose optimizer does not have it."""

KEPT = "group."
"""Begins the name of what an optimizer keeps in its groups instead of with its arrays."""

_OWN, _SAID = "own lr", "said lr"
"""The rate that an optimizer has set itself, and that of the table in place of which it did."""

_NOT_KEPT = WAYS | {"params", "param_names", "lr", "initial_lr"}


class Group:
    """One parameter group at work.

    Attributes:
        group: the optimizer's dictionary. row: the row of the table. indices: its arrays, by index in the table.
        climbs: whether a positive rate moves up the gradient.
        said: the rate that the table gave last; the optimizer may have set another since.
    """

    __slots__ = ("_kept", "_number", "_rate", "_version", "_written", "climbs", "group", "indices", "row", "said")

    def __init__(
        self, group: dict[str, Any], row: int, indices: Sequence[int], name: str, climbs: bool | None = None
    ) -> None:
        if "lr" not in group:
            raise SettingError(
                f"{name} has no learning rate `lr` in its parameter groups, which hold: {', '.join(group)}. "
                "Use an optimizer of torch's shape."
            )
        self.group, self.row, self.indices = group, row, tuple(indices)
        self.climbs = bool(group.get("maximize", False)) if climbs is None else climbs
        self._written: dict[str, Any] = {}
        self.said: float | None = None
        self._kept: float | None = None
        self._rate: Any = None
        self._number = 0.0
        self._version = 0
        self.note()

    def note(self) -> None:
        """Take what is in the group now as what was written."""
        for key in self._written:
            self._written[key] = self.group[key]
        self._rate = self.group["lr"]
        if isinstance(self._rate, Tensor):
            self._number, self._version = float(self._rate), self._rate._version

    def write(self, setting: str, value: Any, name: str) -> None:
        """Write a setting, if the optimizer has it."""
        if setting == RATE:
            # What the optimizer had made of the same rate holds on: see `keep`.
            if value is not None and value != self._kept:
                self._write_rate(value, name)
            self.said = self.said if value is None else value
            self._kept = None
        elif setting in self.group and value != ABSENT:
            if isinstance(value, float) and value.is_integer() and isinstance(self.group[setting], int):
                # Counts stay whole; a schedule of numbers gives them as floats.
                value = int(value)
            self.group[setting] = self._written[setting] = value

    def _write_rate(self, rate: float, name: str) -> None:
        group = self.group
        if rate < 0 and "maximize" not in group:
            refuse_to_climb(name)
        if "maximize" in group:
            group["maximize"] = self.climbs != (rate < 0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(abs(rate))
            self._rate, self._number, self._version = group["lr"], abs(rate), group["lr"]._version
        else:
            group["lr"] = self._rate = abs(rate)

    def release(self) -> None:
        """Leave the group as it would be under a positive rate."""
        if "maximize" in self.group:
            self.group["maximize"] = self.climbs

    def check(self, name: str) -> None:
        """Raise SettingError if somebody else has written into the group what the table would write over."""
        group, rate = self.group, self.group["lr"]
        if rate is not self._rate and not _same(rate, self._rate):
            _refuse_to_write_over(name, "lr", self._rate, rate)
        if isinstance(rate, Tensor) and rate._version != self._version:
            # Somebody has written into the tensor, perhaps what was there: only now it is worth waiting for.
            if abs(float(rate) - self._number) > 1e-6 * abs(self._number):
                _refuse_to_write_over(name, "lr", self._number, float(rate))
            self._version = rate._version
        for key, value in self._written.items():
            if group[key] is not value and group[key] != value:
                _refuse_to_write_over(name, key, value, group[key])

    def kept(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What the optimizer keeps in this group, such as a count of steps: what no option says and it has changed."""
        said, begun = {*options_of(type(optimizer)), *self._written, *_NOT_KEPT}, optimizer.defaults
        there = {key: value for key, value in self.group.items() if key not in said}
        changed = {key: value for key, value in there.items() if key not in begun or not _same(value, begun[key])}
        kept = {KEPT + key: value for key, value in changed.items() if isinstance(value, int | float | str | Tensor)}
        own = self.group["lr"]
        if self.said is not None and not isinstance(own, Tensor) and own != abs(self.said):
            kept |= {KEPT + _OWN: float(own), KEPT + _SAID: self.said}
        return kept

    def keep(self, kept: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Take over what `kept` gave; what it does not have begins anew."""
        for key in self.kept(optimizer):
            bare = key.removeprefix(KEPT)
            if bare in (_OWN, _SAID):
                continue
            if bare in optimizer.defaults:
                self.group[bare] = optimizer.defaults[bare]
            else:
                del self.group[bare]
        for key, value in kept.items():
            if key not in (KEPT + _OWN, KEPT + _SAID):
                self.group[key.removeprefix(KEPT)] = value.clone() if isinstance(value, Tensor) else value
        if KEPT + _SAID in kept:
            own, given = kept[KEPT + _OWN], kept[KEPT + _SAID]
            self._write_rate(own if given > 0 else -own, type(optimizer).__name__)
            self.said = self._kept = given


def refuse_to_climb(name: str) -> NoReturn:
    """Raise SettingError for a negative rate of an optimizer that only goes down."""
    raise SettingError(
        f"A negative learning rate climbs, and {name} has no option to climb (`maximize`). Use an optimizer that has "
        "it, or make the loss negative."
    )


def _refuse_to_write_over(name: str, key: str, ours: object, theirs: object) -> NoReturn:
    said = "the learning rate" if key == "lr" else repr(key)
    setting = RATE if key == "lr" else key
    raise SettingError(
        f"Somebody else has set {said} in a parameter group of {name}: the trainer wrote {ours!r} there and finds "
        f"{theirs!r}, which it would write over. Let the trainer set it: {setting}=a schedule, such as "
        f"{'etude.optim.from_torch(...) of a torch scheduler' if key == 'lr' else 'linear(...)'}."
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other
    return bool(one == other)
