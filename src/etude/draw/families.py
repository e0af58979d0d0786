"""The series of a history that one name stands for in a chart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etude.errors import SettingError, nearest
from etude.values.series import Series


@dataclass(frozen=True, slots=True)
class Family:
    """The series that one name stands for."""

    name: str
    steps: Series | None
    epochs: Series | None
    validation: Series | None

    def all(self) -> list[Series]:
        """Those that are there."""
        return [one for one in (self.steps, self.epochs, self.validation) if one is not None and len(one)]


def _fitting(history: Mapping[str, Series], name: str) -> list[str]:
    """The names that `name` stands for: where it has a star, of all series that fit; else itself."""
    if "*" not in name or name in history:
        return [name]
    pattern = re.compile(".*".join(map(re.escape, name.split("*"))))
    return [one for one in history if pattern.fullmatch(one)] or [name]


def families_of(history: Mapping[str, Series], names: Sequence[str]) -> list[Family]:
    """One for each plain name; "epoch.x" and "val.x" without "x" are a part of the family of x.

    A name with a star is every series that fits. `SettingError` where there is none of a name.
    """
    parts: dict[str, set[str]] = {}
    for name in (each for one in names for each in _fitting(history, one)):
        plain = name.removeprefix("epoch.").removeprefix("val.")
        kinds = {"", "epoch.", "val."} if name == plain else {name.removesuffix(plain)}
        parts.setdefault(plain, set()).update(kinds)
    return [_family(history, name, kinds) for name, kinds in parts.items()]


def _family(history: Mapping[str, Series], name: str, kinds: set[str]) -> Family:
    found = {kind: history[kind + name] for kind in kinds if kind + name in history}
    if of_data(name) and "" in found:
        found["epoch."] = found.pop("")
    family = Family(name, found.get(""), found.get("epoch."), found.get("val."))
    if not family.all():
        known = list(dict.fromkeys(key.removeprefix("epoch.").removeprefix("val.") for key in history))
        there = ", ".join(f'"{one}"' for one in known) or "nothing"
        raise SettingError(f'There is no series "{name}" to plot; there is {there}.{nearest(name, known)}')
    return family


def of_data(name: str) -> bool:
    """Whether a series says what the batches of each epoch held: one value an epoch."""
    return name.startswith("data.")
