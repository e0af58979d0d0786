"""Averages at work on a net: taking its arrays after a step, and letting it compute with them.

The arrays of the net are never written to. While an average is used, each array shows the memory of the average in
place of its own; a module that holds arrays elsewhere too (as recurrent ones do) sees the same.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import floor
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from etude.arguments import told_of
from etude.errors import SettingError, StateError
from etude.step.averages import Average, averages_in, unknown_average
from etude.step.states import is_count, is_names, listed, memory_in, memory_of
from etude.values.progress import TINY, Extent, Progress
from etude.values.schedule import Memory, Schedule
from etude.values.spans import Span
from etude.values.tree import Tree, has_shape

_PIECE = 32
"""Arrays of few bits that are widened at a time, on their way into an average."""
_UNKNOWN = Extent()
_KIND = operator.attrgetter("device", "dtype")
_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "kind": lambda value: isinstance(value, str),
    "count": is_count,
    "passed": lambda value: value is None or is_count(value),
    "copied": is_names,
    "arrays": lambda value: isinstance(value, Mapping),
}
"""What the state of an average has, and whether a value may be that."""


class Averaged:
    """One average at work on the arrays of one net.

    Attributes:
        average: what was said. names: of the arrays it is of, in the order of the net, an array that is shared once.
        count: how often it has taken them; 0 before it begins.
    """

    def __init__(self, average: Average, tree: Tree) -> None:
        self.average = average
        with told_of(repr(average)):
            self.names = average.part.names(tree)
        if not self.names:
            raise SettingError(f"{average!r}: {average.part!r} has no arrays, so there is nothing to average.")
        sparse = [name for name in self.names if _is_sparse(tree.arrays[name])]
        if sparse:
            raise SettingError(
                f"{average!r}: {listed(sparse)} are sparse, and are not averaged. Leave them out: "
                f"part=everything - {sparse[0]!r}."
            )
        self.count = 0
        self._places = [_place(tree, name) for name in self.names]
        self._buffers = frozenset(self.names) - tree.parameters
        self._passed: int | None = None
        self._kept: dict[str, Tensor] = {}
        self._copied: set[str] = set()
        self._layout: _Layout | None = None

    @property
    def arrays(self) -> dict[str, Tensor]:
        """The average by name of the array; before it begins the arrays of the net, of which this is no copy.

        Arrays of float16, bfloat16 and smaller are averaged in float32, others in their own numbers. An array that has
        no shape yet is left out.
        """
        if self.count:
            return {name: self._kept[name] for name in self.names if name in self._kept}
        now = zip(self.names, self._now(), strict=True)
        return {name: array.detach() for name, array in now if has_shape(array)}

    def copy_to(self, net: nn.Module) -> None:
        """Write the average into the arrays of `net`, which may be the net itself; not while an average is in use.

        Raises:
            StateError: `net` lacks some of the arrays, or has them in other shapes; nothing is changed.
        """
        put(self.arrays, net)

    def update(self, before: Progress, after: Progress, memory: Mapping[Schedule, Memory]) -> None:
        """See `Averages.update`."""
        average = self.average
        if self._due(before, after) and average.takes(before, memory.get(average.when)):
            heard = None if average.decay is None else memory.get(average.decay)
            self._ready().take(average.weight(self.count, before, heard))
            self.count += 1

    def swap(self, done: list[tuple[Tensor, Tensor]]) -> None:
        """Let the arrays show the average; each is added to `done` with the memory it had before."""
        if not self.count:
            return
        self._ready()
        for name, array in zip(self.names, self._now(), strict=True):
            if name in self._kept:
                done.append((array, array.data))
                # A net may write to its buffers even in evaluation mode; the average must not see that.
                array.data = self._kept[name].to(array.dtype, copy=name in self._buffers)

    def state(self) -> dict[str, Any]:
        """What `load` takes; tensors are not copied."""
        return {
            "kind": self.average.kind,
            "count": self.count,
            "passed": self._passed,
            "copied": [name for name in self.names if name in self._copied],
            "arrays": dict(self._kept),
        }

    def differences(self, state: Any) -> list[str]:
        """Why a state cannot be loaded, as parts of a sentence; none where it can."""
        title = f"the average {self.average.name!r}"
        if not isinstance(state, Mapping) or not all(fits(state.get(key)) for key, fits in _FORMS.items()):
            return [f"{title} is {state!r:.60}, which is none"]
        if state["kind"] != self.average.kind:
            return [f"{title} is of {state['kind']}, here of {self.average.kind}"]
        kept, found = state["arrays"], []
        shapes = {n: tuple(a.shape) for n, a in zip(self.names, self._now(), strict=True) if has_shape(a)}
        missing = [name for name in shapes if state["count"] and name not in kept]
        extra = [name for name in kept if name not in self.names]
        wrong = [name for name in kept if name in shapes and _shape(kept[name]) != shapes[name]]
        found += [f"{title} lacks {listed(missing)}"] if missing else []
        found += [f"{title} has {listed(extra)}, of which it is not here"] if extra else []
        found += [f"{title}: {n!r} has shape {_shape(kept[n])}, the array {shapes[n]}" for n in wrong]
        return found

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state()` gave; tensors are copied to where the arrays are."""
        now = dict(zip(self.names, self._now(), strict=True))
        self.count, self._passed = state["count"], state["passed"]
        self._copied, self._layout = set(state["copied"]), None
        self._kept = {
            name: _like(now[name], kept) if has_shape(now[name]) else kept.clone()
            for name, kept in state["arrays"].items()
        }

    def _due(self, before: Progress, after: Progress) -> bool:
        """Whether a multiple of the span was passed since the last step that was made."""
        span = self.average.every
        passed = self._passed if self._passed is not None else _multiples(before, span)
        self._passed = _multiples(after, span)
        return self._passed > passed

    def _now(self) -> list[Tensor]:
        """The arrays as the net has them now: moving a net puts new tensors in the place of its buffers."""
        found = [array for place, key in self._places if (array := place.get(key)) is not None]
        if len(found) < len(self.names):
            gone = [name for name, (place, key) in zip(self.names, self._places, strict=True) if place.get(key) is None]
            raise StateError(
                f"The average {self.average.name!r} is of {listed(gone)}, which the net no longer has. Make another."
            )
        return found

    def _ready(self) -> _Layout:
        """The tensors as they are now, side by side; looked at afresh if the net was moved or its arrays exchanged."""
        arrays = self._now()
        if self._layout is None or not self._layout.fits(arrays):
            for name, array in zip(self.names, arrays, strict=True):
                if has_shape(array):
                    self._kept[name] = self._keep(name, array)
            self._layout = _Layout(arrays, self._pairs(arrays, False), self._pairs(arrays, True))
        return self._layout

    def _keep(self, name: str, array: Tensor) -> Tensor:
        """The average of an array, where the array is; a copy where there is none yet."""
        kept = self._kept.get(name)
        if kept is None:
            kept = _like(array, array)
            if not _can_be_averaged(kept):
                self._copied.add(name)
        elif kept.shape != array.shape:
            raise StateError(
                f"The average {self.average.name!r} of {name!r} has shape {tuple(kept.shape)}, the array now "
                f"{tuple(array.shape)}. Make another."
            )
        return kept.to(array.device, _wide(array.dtype))

    def _pairs(self, arrays: Sequence[Tensor], copied: bool) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Averages and arrays that are averaged, or those that are copied, by device and type."""
        found: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        for name, array in zip(self.names, arrays, strict=True):
            only_latest = name in self._copied or (name in self._buffers and self.average.buffers == "copy")
            if name in self._kept and only_latest is copied:
                kept, own = found.setdefault((array.device, array.dtype), ([], []))
                kept.append(self._kept[name])
                own.append(array)
        return list(found.values())


class _Layout:
    """Averages and arrays side by side in lists that are alike in device and type, so that one call does many."""

    def __init__(
        self,
        arrays: list[Tensor],
        averaged: list[tuple[list[Tensor], list[Tensor]]],
        copied: list[tuple[list[Tensor], list[Tensor]]],
    ) -> None:
        self._arrays = arrays
        self._kinds = list(map(_KIND, arrays))
        self._shapeless = [array for array in arrays if not has_shape(array)]
        self._plain = [pair for pair in averaged if pair[0][0].dtype == pair[1][0].dtype]
        self._narrow = [pair for pair in averaged if pair[0][0].dtype != pair[1][0].dtype]
        self._copied = copied

    def fits(self, arrays: list[Tensor]) -> bool:
        """Whether these are still the arrays, and where they were."""
        same = all(map(operator.is_, arrays, self._arrays)) and list(map(_KIND, arrays)) == self._kinds
        return same and not any(map(has_shape, self._shapeless))

    def take(self, weight: float) -> None:
        """Move every average towards its array by a share of the way."""
        for kept, own in self._plain:
            torch._foreach_lerp_(kept, own, weight)
        for kept, own in self._narrow:
            for i in range(0, len(kept), _PIECE):
                wide = [array.to(kept[0].dtype) for array in own[i : i + _PIECE]]
                torch._foreach_lerp_(kept[i : i + _PIECE], wide, weight)
        for kept, own in self._copied:
            torch._foreach_copy_(kept, own)


class Averages:
    """Several averages at work on one net, by name.

    Args:
        averages: what is averaged; each needs a name of its own.
        tree: the net.
        extent: how long the run is. uncounted: units in which its clock does not move.

    Attributes:
        each: the averages at work, by name.

    Raises:
        SettingError, PartError, ScheduleError: two averages of one name, a part that is not there, or a schedule that
            cannot be followed in this run.
    """

    def __init__(
        self,
        averages: Average | Sequence[Average],
        tree: Tree,
        extent: Extent = _UNKNOWN,
        uncounted: Sequence[str] = (),
    ) -> None:
        made = averages_in(averages)
        for average in made:
            average.check(extent, uncounted)
        self._each = {average.name: Averaged(average, tree) for average in made}
        self.each: Mapping[str, Averaged] = MappingProxyType(self._each)
        heard = dict.fromkeys(of for average in made for of in average.schedules() if of.reactive)
        self._memory: dict[Schedule, Memory] = {of: of.start() for of in heard}
        self._using: str | None = None

    @torch.no_grad()
    def update(self, before: Progress, after: Progress) -> None:
        """Take the arrays into every average whose turn it is, after a step that was made.

        Waits for the device the first time only, to see which arrays hold infinities.

        Args:
            before: the clock before the step, at which the schedules are asked.
            after: the clock after it.

        Raises:
            SettingError: within `use`.
        """
        if self._each:
            self.refuse("update()")
            for one in self._each.values():
                one.update(before, after, self._memory)

    def schedules(self) -> tuple[Schedule, ...]:
        """The schedules that listen to metrics."""
        return tuple(self._memory)

    def see(self, metrics: Mapping[str, float], progress: Progress | None = None) -> None:
        """Tell the schedules that listen to metrics what was measured, at `progress`."""
        self._memory = {of: of.see(kept, metrics, progress) for of, kept in self._memory.items()}

    def of(self, name: str) -> dict[str, Tensor]:
        """The average called `name`, by name of the array; see `Averaged.arrays`.

        Raises:
            SettingError: there is no average of that name; the nearest is named.
        """
        return self._named(name).arrays

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        """Within it the net computes with the average; afterwards all is as before, whatever happened.

        The memory of the arrays is not written to: each array shows that of the average for a while. Evaluate in it,
        and move nothing.

        Raises:
            SettingError: there is no average of that name; another is in use; or a parameter was written to within.
        """
        one = self._named(name)
        self.refuse(f"use({name!r})")
        done: list[tuple[Tensor, Tensor]] = []
        self._using = name
        try:
            with torch.no_grad():
                one.swap(done)
            # Autocast keeps what it has made of arrays, and does not see that they show something else.
            torch.clear_autocast_cache()
            written = _versions(done)
            yield
            _check_versions(name, written)
        finally:
            for array, own in reversed(done):
                array.data = own
            torch.clear_autocast_cache()
            self._using = None

    def refuse(self, what: str) -> None:
        """Raise SettingError if an average is in use: `what` must not happen then."""
        if self._using is not None:
            raise SettingError(
                f"{what}: the net has the arrays of the average {self._using!r} now. Do it after the with block."
            )

    def copy_to(self, name: str, net: nn.Module) -> None:
        """Write the average called `name` into the arrays of `net`, which may be the net itself.

        Raises:
            SettingError: there is no average of that name, or one is in use.
            StateError: `net` lacks some of its arrays, or has them in other shapes; nothing is changed.
        """
        self.refuse("copy_to()")
        self._named(name).copy_to(net)

    def state(self) -> dict[str, Any]:
        """All that a later run needs to go on: plain values and tensors, keyed by names; tensors are not copied."""
        return {
            "each": {name: one.state() for name, one in self._each.items()},
            "memory": memory_of(self._memory),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a state; tensors are copied. What the averages are (decay, schedules) stays as it is said here.

        Raises:
            StateError: of other averages, arrays or shapes; all differences are listed, and nothing is changed.
        """
        self.refuse("load()")
        found = self.differences(state)
        if found:
            raise StateError(f"The state is of other averages: {'; '.join(found)}. Nothing was loaded.")
        with torch.no_grad():
            for name, one in self._each.items():
                one.load(state["each"][name])
        self._memory = memory_in(state, self._memory)

    def differences(self, state: Any) -> list[str]:
        """Why a state cannot be loaded, as parts of a sentence; none where it can."""
        if not isinstance(state, Mapping) or not all(isinstance(state.get(key), Mapping) for key in ("each", "memory")):
            return ["it is nothing that state() returned"]
        saved = state["each"]
        found = [f"there is no average {name!r} in it" for name in self._each if name not in saved]
        found += [f"it has an average {name!r}, which is not here" for name in saved if name not in self._each]
        for name, one in self._each.items():
            found += one.differences(saved[name]) if name in saved else []
        return found

    def _named(self, name: str) -> Averaged:
        if name not in self._each:
            raise SettingError(unknown_average(name, self._each))
        return self._each[name]


@torch.no_grad()
def put(arrays: Mapping[str, Tensor], net: nn.Module) -> None:
    """Write arrays into those of the same names in `net`.

    Raises:
        StateError: `net` lacks some, or has them in other shapes; nothing is changed.
    """
    there = Tree(net).arrays
    wrong = [name for name, array in arrays.items() if name not in there or there[name].shape != array.shape]
    if wrong:
        raise StateError(
            f"The net has no arrays of these names and shapes: {listed(wrong)}. Give a net like the one that was "
            "trained. Nothing was changed."
        )
    for name, array in arrays.items():
        there[name].copy_(array)


def _multiples(progress: Progress, span: Span) -> int:
    return floor(progress.amount(span.unit) / span.amount + TINY)


def _place(tree: Tree, name: str) -> tuple[dict[str, Tensor | None], str]:
    """Where a module keeps an array, and under what name there."""
    path, _, key = name.rpartition(".")
    module = tree.nodes[path]
    assert isinstance(module, nn.Module)
    kept: Any = module._parameters if key in module._parameters else module._buffers
    return kept, key


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The numbers in which arrays of some numbers are averaged."""
    if dtype.is_complex:
        return torch.complex64 if dtype == torch.complex32 else dtype
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def _is_sparse(array: Tensor) -> bool:
    return has_shape(array) and array.layout != torch.strided


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _like(array: Tensor, values: Tensor) -> Tensor:
    """Some values in the place and memory order of an array, in the numbers of its average."""
    array = array.detach()
    return torch.empty_like(array, dtype=_wide(array.dtype)).copy_(values.detach())


def _can_be_averaged(array: Tensor) -> bool:
    """Whether an array has numbers of which there are means: a mask of minus infinities has none."""
    numbers = array.is_floating_point() or array.is_complex()
    return numbers and bool(torch.isfinite(array).all())


def _versions(done: list[tuple[Tensor, Tensor]]) -> list[tuple[nn.Parameter, int]]:
    return [(a, a._version) for a, _ in done if isinstance(a, nn.Parameter) and not a.is_inference()]


def _check_versions(name: str, written: list[tuple[nn.Parameter, int]]) -> None:
    if any(array._version != version for array, version in written):
        raise SettingError(
            f"Within the average {name!r} parameters were written to. Evaluate in it, and move nothing: make steps, "
            "and load arrays, after the with block."
        )
