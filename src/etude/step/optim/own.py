"""Runs one of our update rules: keeps its memory, array by array, and calls it once for each row that moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.bind.table import RATE, Moving, Now
from etude.errors import StateError
from etude.step.optim.rule import UpdateRule, has_kernel

_KEPT = 512
"""How many sets of moving arrays are remembered; more come up only where gradients are missing at random."""


@dataclass(slots=True)
class Bundle:
    """The tensors of one call of the rule: arrays of one row that move together, alike in device and type."""

    row: int
    indices: tuple[int, ...]
    positions: tuple[int, ...]
    arrays: list[Tensor]
    counts: list[Tensor]
    memory: dict[str, list[Tensor]]
    update: Callable[..., None]
    settings: dict[str, Any]
    columns: Mapping[str, Sequence[Any]]
    complex: bool


class OwnOptimizer:
    """An update rule of this library at work on the arrays of one table.

    Memory is made when an array first moves, so what never moves costs nothing. How often each array has moved is
    kept in one vector a device, so that counting a step is one operation.
    """

    def __init__(self, rule: UpdateRule, arrays: Sequence[Tensor]) -> None:
        self.rule = rule
        self.arrays = tuple(arrays)
        self.memory: list[dict[str, Tensor]] = [{} for _ in arrays]
        self._bundles: dict[Moving, list[Bundle]] = {}
        self._marks: dict[Moving, list[tuple[Tensor, Tensor | None]]] = {}
        self._vectors: dict[torch.device, Tensor] = {}
        self._counts: list[Tensor] = []
        self._lay_out(torch.zeros(len(arrays)))

    def _lay_out(self, counts: Tensor) -> None:
        """Keep the counts on the devices where the arrays are now."""
        devices = {array.device for array in self.arrays}
        self._vectors = {device: counts.to(device, torch.float32, copy=True) for device in devices}
        self._counts = [self._vectors[array.device][i] for i, array in enumerate(self.arrays)]

    def move(self, now: Now, gradients: Sequence[Tensor]) -> None:
        """Move what `now.moving` names; `gradients` are in the order of `now.moving.indices`."""
        bundles = self.prepared(now)
        self.count(now, 1)
        rates, alone = now.columns[RATE], len(bundles) == 1
        for bundle in bundles:
            rate = rates[bundle.row]
            bundle.settings[RATE] = rate if rate > 0 else -rate
            own = gradients if alone else [gradients[p] for p in bundle.positions]
            if bundle.complex:
                own = [torch.view_as_real(gradient.resolve_conj()) for gradient in own]
            bundle.update(bundle.arrays, own, bundle.memory, bundle.counts, bundle.settings, rate < 0)

    def prepared(self, now: Now) -> list[Bundle]:
        """What moves, with its memory made and its settings (but the rates) up to date."""
        bundles = self._bundles.get(now.moving)
        if bundles is None:
            if len(self._bundles) >= _KEPT:
                self._bundles.clear()
                self._marks.clear()
            bundles = self._bundles[now.moving] = self._bundle(now.moving)
        for bundle in bundles:
            if bundle.columns is not now.columns:
                self._set(bundle, now)
        return bundles

    def count(self, now: Now, times: int) -> None:
        """Count what moves now as moved `times` more often: 1, or -1 for a step that was not made after all."""
        for vector, mark in self._marks[now.moving]:
            if mark is None:
                vector.add_(times)
            else:
                vector.add_(mark, alpha=times)

    def _set(self, bundle: Bundle, now: Now) -> None:
        """Bring the settings of a bundle up to date; those that never change cost one comparison."""
        changed = False
        for key, column in now.columns.items():
            if key != RATE and bundle.columns.get(key) is not column:
                bundle.settings[key], changed = column[bundle.row], True
        bundle.columns = now.columns
        if changed:
            for key in self.rule.remembers(bundle.settings):
                if key not in bundle.memory:
                    bundle.memory[key] = [self._memory(i, key) for i in bundle.indices]

    def _bundle(self, moving: Moving) -> list[Bundle]:
        positions = {index: position for position, index in enumerate(moving.indices)}
        made = []
        for group in moving.groups:
            alike: dict[tuple[torch.device, torch.dtype, bool], list[int]] = {}
            for index in group.indices:
                array = self.arrays[index]
                alike.setdefault((array.device, array.dtype, has_kernel(_real(array))), []).append(index)
            made += [self._one_bundle(group.row, tuple(members), positions) for members in alike.values()]
        self._marks[moving] = self._mark(moving)
        return made

    def _one_bundle(self, row: int, indices: tuple[int, ...], positions: Mapping[int, int]) -> Bundle:
        is_complex = self.arrays[indices[0]].is_complex()
        arrays = [_real(self.arrays[i]) if is_complex else self.arrays[i] for i in indices]
        counts = [self._counts[i] for i in indices]
        update = self.rule.update if has_kernel(arrays[0]) else self.rule.formulas
        places = tuple(positions[i] for i in indices)
        return Bundle(row, indices, places, arrays, counts, {}, update, {}, {}, is_complex)

    def _mark(self, moving: Moving) -> list[tuple[Tensor, Tensor | None]]:
        """For each device the vector of counts and what a step adds to it (None: 1 everywhere)."""
        marks: list[tuple[Tensor, Tensor | None]] = []
        for device, vector in self._vectors.items():
            mark = torch.zeros(len(vector))
            mark[[i for i in moving.indices if self.arrays[i].device == device]] = 1
            marks.append((vector, None if bool(mark.all()) else mark.to(device)))
        return marks

    def _memory(self, index: int, key: str) -> Tensor:
        own = self.memory[index]
        if key not in own:
            own[key] = torch.zeros_like(_real(self.arrays[index]))
        return own[key]

    def forget_layout(self) -> None:
        """After the table was made anew, or the arrays changed device: look at them afresh, memory kept."""
        counts = torch.tensor(self.counts())
        for index, own in enumerate(self.memory):
            for key, kept in own.items():
                own[key] = kept.to(self.arrays[index].device)
        self._bundles.clear()
        self._marks.clear()
        self._lay_out(counts)

    def counts(self) -> list[float]:
        """How often each array has moved."""
        vectors = {device: vector.tolist() for device, vector in self._vectors.items()}
        return [vectors[array.device][i] for i, array in enumerate(self.arrays)] if self.arrays else []

    def state(self) -> list[dict[str, Any]]:
        """For each array its memory and count; empty for what has never moved. Tensors are not copied."""
        counts = self.counts()
        return [{**own, "count": int(count)} if count else {} for own, count in zip(self.memory, counts, strict=True)]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state()` gave, copied to where the arrays are, in their numbers and memory order.

        Raises:
            StateError: a memory that this rule does not have, or of another shape; nothing is changed then.
        """
        for index, own in enumerate(state):
            self._check(index, own)
        self.memory = [
            {key: torch.empty_like(_real(array)).copy_(kept) for key, kept in own.items() if key != "count"}
            for array, own in zip(self.arrays, state, strict=True)
        ]
        self._bundles.clear()
        self._marks.clear()
        self._lay_out(torch.tensor([float(own.get("count", 0)) for own in state]))

    def _check(self, index: int, own: Mapping[str, Any]) -> None:
        shape = _real(self.arrays[index]).shape
        for key, kept in own.items():
            if key == "count":
                continue
            if key not in self.rule.memories:
                raise StateError(f"memory {key!r} is none of {self.rule.name}: {', '.join(self.rule.memories)}")
            if not isinstance(kept, Tensor):
                raise StateError(f"memory {key!r} is a {type(kept).__name__}, not a tensor")
            if kept.shape != shape:
                raise StateError(f"memory {key!r} has shape {tuple(kept.shape)}, the array {tuple(shape)}")


def _real(array: Tensor) -> Tensor:
    """The array without its history; a complex one as pairs of real numbers."""
    array = array.detach()
    return torch.view_as_real(array) if array.is_complex() else array
