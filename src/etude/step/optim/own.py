"""Runs one of our update rules: keeps its memory, array by array, and moves what moves now.

Arrays that the kernels of native.c take are moved by one call, whatever their settings; of the others the rule is
called once for each row of settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.bind.table import RATE, Moving, Now, Table
from etude.errors import StateError
from etude.step.optim import half, native
from etude.step.optim.noise import generator_of, noise_like
from etude.step.optim.rule import UpdateRule, has_kernel
from etude.values.tree import has_shape

_KEPT = 512
"""How many sets of moving arrays are remembered; more come up only where gradients are missing at random."""


@dataclass(slots=True)
class Bundle:
    """The tensors of one call of the rule: arrays of one row that move together, alike in device and type.

    Of arrays in half precision `arrays` are what the rule moves, in float32, and `low` the arrays themselves.
    """

    row: int
    indices: tuple[int, ...]
    positions: tuple[int, ...]
    arrays: list[Tensor]
    counts: list[Tensor]
    memory: dict[str, list[Tensor]]
    update: Callable[..., None]
    settings: dict[str, Any]
    low: list[Tensor]
    complex: bool
    native: bool


@dataclass(slots=True)
class _Plan:
    """How one set of arrays moves: all bundles; those of the rule, and those of one call into native.c."""

    bundles: list[Bundle]
    called: list[Bundle]
    direct: list[Bundle]
    columns: Mapping[str, Sequence[Any]]
    arrays: list[Tensor]
    where: tuple[list[int], list[int], list[bool]]
    entries: native.Entries | None = None
    places: tuple[int, ...] | None = None


class OwnOptimizer:
    """An update rule of this library at work on the arrays of one table.

    Memory is made when an array first moves, so what never moves costs nothing. How often each array has moved is
    kept in one vector a device, so that counting a step is one operation.

    Attributes:
        shapes: gradients have to lie in memory as their arrays do; `move` divides them.
        takes_sparse: gradients may be sparse. needs_closure: False; see `etude.step.optim.foreign`.

    Args:
        rule: the update rule. arrays: all arrays of the table, in its order, and their names.
        seed: of the rule's draws.
        half: how float16 and bfloat16 arrays are moved; see `etude.step.optim.half`.
    """

    shapes: ClassVar[bool] = True
    needs_closure: ClassVar[bool] = False

    def __init__(
        self,
        rule: UpdateRule,
        arrays: Sequence[Tensor],
        names: Sequence[str] = (),
        seed: int = 0,
        half: str = "master",
    ) -> None:
        self.rule = rule
        self.takes_sparse = rule.takes_sparse
        self.arrays = tuple(arrays)
        self.memory: list[dict[str, Tensor]] = [{} for _ in arrays]
        self._names = tuple(names) or tuple(map(str, range(len(arrays))))
        self._seed, self._half = seed, half
        self._kernel = native.kernel_of(rule)
        self._plans: dict[Moving, _Plan] = {}
        self._marks: dict[Moving, list[tuple[Tensor, Tensor | None]]] = {}
        self._vectors: dict[torch.device, Tensor] = {}
        self._counts: list[Tensor] = []
        self._refreshed: set[int] = set()
        self._lay_out(torch.zeros(len(arrays)))

    def _lay_out(self, counts: Tensor) -> None:
        """Keep the counts on the devices where the arrays are now."""
        self._plans.clear()
        self._marks.clear()
        self._refreshed.clear()
        devices = {array.device for array in self.arrays}
        self._vectors = {device: counts.to(device, torch.float32, copy=True) for device in devices}
        self._counts = [self._vectors[array.device][i] for i, array in enumerate(self.arrays)]

    # ------------------------------------------------------------------------------------------------ the move

    def move(self, now: Now, gradients: Sequence[Tensor], divisor: float = 1.0) -> None:
        """Move what `now.moving` names, by gradients in the order of `now.moving.indices`, divided by `divisor`."""
        plan = self._planned(now)
        if plan.direct and plan.entries is None:
            self._direct(plan, now)
        counts = plan.entries is None or bool(plan.called)
        if counts:
            self.count(now, 1)
        rates = now.columns[RATE]
        if plan.entries is not None:
            own = gradients if plan.places is None else [gradients[p] for p in plan.places]
            plan.entries.move(own, [rates[bundle.row] for bundle in plan.direct], divisor, not counts)
        if plan.called:
            self._call(plan.called, gradients, rates, divisor)

    def _call(self, bundles: list[Bundle], gradients: Sequence[Tensor], rates: Sequence[Any], divisor: float) -> None:
        whole = len(bundles) == 1 and len(gradients) == len(bundles[0].arrays)
        for bundle in bundles:
            rate = rates[bundle.row]
            bundle.settings[RATE] = rate if rate > 0 else -rate
            own = list(gradients) if whole else [gradients[p] for p in bundle.positions]
            if bundle.low:
                own = [gradient.float() for gradient in own]
            if divisor != 1.0:
                own = list(torch._foreach_div(own, divisor))
            if bundle.complex:
                own = [torch.view_as_real(gradient.resolve_conj()) for gradient in own]
            if self.rule.draws:
                self._draw(bundle)
            if bundle.low:
                self._move_low(bundle, own, rate < 0)
            else:
                bundle.update(bundle.arrays, own, bundle.memory, bundle.counts, bundle.settings, rate < 0)

    def targets(self, indices: Sequence[int]) -> list[Tensor]:
        """What is moved for some arrays: the arrays, or the float32 numbers behind those in half precision."""
        made = [self._target(i) for i in indices]
        for index, target in zip(indices, made, strict=True):
            if target is not self.arrays[index] and self._half == "master" and half.is_low(self.arrays[index]):
                self._refresh(index, target)
        return made

    def _target(self, index: int) -> Tensor:
        # Rounding by chance keeps no numbers behind an array.
        return self.arrays[index] if self._half == "stochastic" else self._moved(index)

    def settle(self, indices: Sequence[int]) -> None:
        """Round what `targets` gave into the arrays, after it was changed."""
        for index in indices:
            if half.is_low(self.arrays[index]) and self._half == "master":
                self._round(index, self._moved(index))

    def evaluating(self) -> AbstractContextManager[None]:
        """Within it the arrays are those to evaluate: what they are."""
        return nullcontext()

    def finish(self) -> None:
        """After the last step: the arrays are those to keep already."""

    def prepared(self, now: Now) -> list[Bundle]:
        """What moves, with its memory made and its settings (but the rates) up to date."""
        return self._planned(now).bundles

    def _planned(self, now: Now) -> _Plan:
        plan = self._plans.get(now.moving)
        if plan is None:
            if len(self._plans) >= _KEPT:
                self._plans.clear()
                self._marks.clear()
            plan = self._plans[now.moving] = self._plan(now.moving)
        if plan.columns is not now.columns:
            self._set(plan, now)
        return plan

    def follow(self, now: Now) -> bool:
        """Look where the arrays that move lie; False if they may lie elsewhere than before, which is followed."""
        plan = self._plans.get(now.moving)
        if plan is None:
            return False
        still = _whereabouts(plan.arrays) == plan.where
        if not still:
            self.forget_layout()
        return still

    def _direct(self, plan: _Plan, now: Now) -> None:
        """Give a plan what native.c needs."""
        assert self._kernel is not None
        order = sorted((p, line, k) for line, b in enumerate(plan.direct) for k, p in enumerate(b.positions))
        plan.places = None if len(order) == len(now.moving.indices) else tuple(p for p, _, _ in order)
        plan.entries = native.Entries(
            self._kernel,
            self.rule.native[1:],
            [plan.direct[line].arrays[k] for _, line, k in order],
            [[plan.direct[line].memory[key][k] for key in self._kept(plan.direct[line])] for _, line, k in order],
            [plan.direct[line].counts[k] for _, line, k in order],
            [line for _, line, _ in order],
        )
        plan.entries.set([bundle.settings for bundle in plan.direct])

    def _kept(self, bundle: Bundle) -> tuple[str, ...]:
        return tuple(key for key in self.rule.memories if key in bundle.memory)

    def count(self, now: Now, times: int) -> None:
        """Count what moves now as moved `times` more often: 1, or -1 for a step that was not made after all."""
        for vector, mark in self._marks[now.moving]:
            if mark is None:
                vector.add_(times)
            else:
                vector.add_(mark, alpha=times)

    def _set(self, plan: _Plan, now: Now) -> None:
        """Bring the settings of a plan up to date; those that never change cost one comparison for all bundles."""
        found = {k: column for k, column in now.columns.items() if k != RATE and plan.columns.get(k) is not column}
        plan.columns = now.columns
        for bundle in plan.bundles if found else ():
            bundle.settings.update((key, column[bundle.row]) for key, column in found.items())
            for key in self.rule.remembers(bundle.settings):
                if key not in bundle.memory:
                    bundle.memory[key] = [self._memory(i, key) for i in bundle.indices]
                    plan.entries = None
        if found and plan.entries is not None:
            plan.entries.set([bundle.settings for bundle in plan.direct])

    # ---------------------------------------------------------------------------------------------- the bundles

    def _plan(self, moving: Moving) -> _Plan:
        positions = {index: position for position, index in enumerate(moving.indices)}
        made = []
        for group in moving.groups:
            alike: dict[tuple[Any, ...], list[int]] = {}
            for index in group.indices:
                alike.setdefault(self._kind(index), []).append(index)
            made += [self._bundle(group.row, tuple(members), positions) for members in alike.values()]
        self._marks[moving] = self._mark(moving)
        arrays = [self.arrays[i] for i in moving.indices]
        called, direct = [b for b in made if not b.native], [b for b in made if b.native]
        return _Plan(made, called, direct, {}, arrays, _whereabouts(arrays))

    def _kind(self, index: int) -> tuple[Any, ...]:
        """Arrays of one bundle are alike in this."""
        array = self.arrays[index]
        real = _real(array)
        return array.device, array.dtype, has_kernel(real), self._is_direct(array)

    def _is_direct(self, array: Tensor) -> bool:
        return self._kernel is not None and native.takes(array)

    def _bundle(self, row: int, indices: tuple[int, ...], positions: Mapping[int, int]) -> Bundle:
        first = self.arrays[indices[0]]
        is_low = half.is_low(first) and self._half != "plain"
        arrays = [self._moved(i) for i in indices]
        return Bundle(
            row,
            indices,
            tuple(positions[i] for i in indices),
            arrays,
            [self._counts[i] for i in indices],
            {},
            self._way(arrays),
            {},
            [self.arrays[i].detach() for i in indices] if is_low else [],
            first.is_complex(),
            self._is_direct(first),
        )

    def _way(self, arrays: Sequence[Tensor]) -> Callable[..., None]:
        """How the rule is called for these arrays, which are alike."""
        return self.rule.update if has_kernel(arrays[0]) or self.rule.takes_sparse else self.rule.formulas

    def _mark(self, moving: Moving) -> list[tuple[Tensor, Tensor | None]]:
        """For each device the vector of counts and what a step adds to it (None: 1 everywhere)."""
        marks: list[tuple[Tensor, Tensor | None]] = []
        for device, vector in self._vectors.items():
            mark = torch.zeros(len(vector))
            mark[[i for i in moving.indices if self.arrays[i].device == device]] = 1
            marks.append((vector, None if bool(mark.all()) else mark.to(device)))
        return marks

    # ------------------------------------------------------------------------------- memory, draws, half precision

    def _memory(self, index: int, key: str) -> Tensor:
        own = self.memory[index]
        if key not in own:
            array = self.arrays[index]
            by_chance = self._half == "stochastic" and half.is_low(array)
            own[key] = self.rule.begin(key, array.detach().float() if by_chance else self._moved(index))
        return own[key]

    def _moved(self, index: int) -> Tensor:
        """What the rule moves for an array: itself without its history; for half precision numbers in float32."""
        array = self.arrays[index]
        if self._half == "plain" or not half.is_low(array):
            return _real(array) if array.is_complex() else array
        if self._half == "stochastic":
            return half.empty_stand_in(array)
        own = self.memory[index]
        if half.MASTER not in own:
            own[half.MASTER] = array.detach().float()
        return own[half.MASTER]

    def _move_low(self, bundle: Bundle, gradients: Sequence[Tensor], climb: bool) -> None:
        """Move arrays in half precision by way of float32."""
        if self._half == "stochastic":
            for k in range(len(bundle.low)):
                self._move_by_chance(bundle, k, gradients[k], climb)
            return
        for index, master in zip(bundle.indices, bundle.arrays, strict=True):
            self._refresh(index, master)
        bundle.update(bundle.arrays, gradients, bundle.memory, bundle.counts, bundle.settings, climb)
        for index, master in zip(bundle.indices, bundle.arrays, strict=True):
            self._round(index, master)

    def _refresh(self, index: int, master: Tensor) -> None:
        """Bring float32 numbers up to date with their array, once before it moves."""
        if index not in self._refreshed:
            half.refresh(master, self.arrays[index].detach())
            self._refreshed.add(index)

    def _round(self, index: int, master: Tensor) -> None:
        self.arrays[index].detach().copy_(master)
        self._refreshed.discard(index)

    def _move_by_chance(self, bundle: Bundle, k: int, gradient: Tensor, climb: bool) -> None:
        """Move one array and round it up or down by chance; only one at a time is there in float32."""
        low, name, count = bundle.low[k], self._names[bundle.indices[k]], bundle.counts[k]
        exact, own = low.float(), {key: tensors[k] for key, tensors in bundle.memory.items()}
        self.rule.formula(exact, gradient, own, count, bundle.settings, climb)
        chance = torch.rand(low.shape, generator=generator_of(self._seed, f"rounding:{name}", int(count)))
        low.copy_(half.rounded(exact, low.dtype, chance.to(low.device)))

    def _draw(self, bundle: Bundle) -> None:
        for key in self.rule.draws:
            drawn = zip(bundle.indices, bundle.arrays, bundle.counts, strict=True)
            bundle.memory[key] = [noise_like(x, self._seed, self._names[i], count, key) for i, x, count in drawn]

    # ------------------------------------------------------------------------------------------------- the state

    def forget_layout(self) -> None:
        """After the table was made anew, or the arrays changed device or type: look at them afresh, memory kept."""
        counts = torch.tensor(self.counts())
        for index, own in enumerate(self.memory):
            if half.MASTER in own and not half.is_low(self.arrays[index]):
                del own[half.MASTER]
            for key, kept in own.items():
                own[key] = kept.to(self._like(self.arrays[index], key))
        self._lay_out(counts)

    def counts(self) -> list[float]:
        """How often each array has moved."""
        vectors = {device: vector.tolist() for device, vector in self._vectors.items()}
        return [vectors[count.device][i] for i, count in enumerate(self._counts)]

    def use(self, table: Table) -> None:
        """Take over a table, when rules or the net have changed; memory is kept by the names of the arrays."""
        before = dict(zip(self._names, zip(self.memory, self.counts(), strict=True), strict=True))
        self.arrays, self._names = tuple(table.tree.arrays[name] for name in table.names), table.names
        kept = [before.get(name, ({}, 0.0)) for name in self._names]
        self.memory = [memory for memory, _ in kept]
        self._lay_out(torch.tensor([count for _, count in kept]))

    def forget(self, index: int) -> None:
        """Forget what is remembered of an array, and how often it has moved."""
        self.memory[index] = {}
        counts = torch.tensor(self.counts())
        counts[index] = 0
        self._lay_out(counts)

    def state(self) -> list[dict[str, Any]]:
        """For each array its memory and count; empty for what has never moved. Tensors are not copied."""
        counts = self.counts()
        return [{**own, "count": int(count)} if count else {} for own, count in zip(self.memory, counts, strict=True)]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state()` gave, copied to where the arrays are, in their numbers and memory order.

        Raises:
            StateError: memories that this rule does not have, or of other shapes, all of them named; nothing is changed
                then.
        """
        wrong = [said for index, own in enumerate(state) for said in self._misfits(index, own)]
        if wrong:
            raise StateError("; ".join(wrong))
        self.memory = [self._taken(array, own) for array, own in zip(self.arrays, state, strict=True)]
        self._lay_out(torch.tensor([float(own.get("count", 0)) for own in state]))

    def _misfits(self, index: int, own: Mapping[str, Any]) -> Iterator[str]:
        """What of the memory of one array in a state does not fit, in words."""
        array, name = self.arrays[index], self._names[index]
        if own and not has_shape(array):
            yield f"{name!r} has no shape yet; call the net once before"
            return
        for key, kept in own.items():
            if key == "count":
                if not _is_count(kept):
                    yield f"the count of {name!r} is {kept!r}, not a whole number of at least 1"
                continue
            said = f"memory {key!r} of {name!r}"
            if key not in (*self.rule.memories, half.MASTER):
                yield f"{said} is none of {self.rule.name}: {', '.join(self.rule.memories)}"
            elif not isinstance(kept, Tensor):
                yield f"{said} is a {type(kept).__name__}, not a tensor"
            elif kept.shape != (shape := self._like(array, key).shape):
                yield f"{said} has shape {tuple(kept.shape)}, the array {tuple(shape)}"

    def _taken(self, array: Tensor, own: Mapping[str, Any]) -> dict[str, Tensor]:
        """The memory of one array out of a state that fits."""
        masters = half.is_low(array) and self._half == "master"
        keys = [key for key in own if key != "count" and (key != half.MASTER or masters)]
        return {key: torch.empty_like(self._like(array, key)).copy_(own[key]) for key in keys}

    def _like(self, array: Tensor, key: str) -> Tensor:
        """A tensor like the memory of an array."""
        lifts = half.is_low(array) and self._half != "plain"
        real = array.detach().float() if lifts or key == half.MASTER else _real(array)
        return real if key == half.MASTER else self.rule.begin(key, real)


def _is_count(kept: Any) -> bool:
    return isinstance(kept, int | float) and not isinstance(kept, bool) and kept >= 1 and kept == kept // 1


def _whereabouts(arrays: Sequence[Tensor]) -> tuple[list[int], list[int], list[bool]]:
    """Where arrays lie in memory, how long they are, and whether they are contiguous."""
    return list(map(Tensor.data_ptr, arrays)), list(map(Tensor.numel, arrays)), list(map(Tensor.is_contiguous, arrays))


def _real(array: Tensor) -> Tensor:
    """The array without its history; a complex one as pairs of real numbers."""
    array = array.detach()
    return torch.view_as_real(array) if array.is_complex() else array
