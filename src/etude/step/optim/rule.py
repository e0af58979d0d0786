"""The shape that every update rule has.

A rule is a stateless object that knows its settings, what it remembers of an array, and how it moves arrays. It is
called with lists: all arrays of one call are of one row of the table, on one device and of one type, so a rule never
has to think about parts, schedules or who is held. What is held is simply not in the lists.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor

from etude.errors import SettingError, nearest

Memory = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class Setting:
    """A number (or a bool) that a rule reads: its default and the values it may have.

    Attributes:
        default: the value when nothing is said.
        low, high: the interval of allowed values; `low` belongs to it, `high` only if `closed`.
        words: texts that are allowed besides False, which is the default of such a setting then.
    """

    default: float | bool
    low: float = 0.0
    high: float = math.inf
    closed: bool = False
    words: tuple[str, ...] = ()

    @property
    def bound(self) -> bool:
        """Whether it bounds something, so that infinity, its default, and None switch it off."""
        return self.default == math.inf

    def check(self, name: str, value: Any) -> None:
        """Raise SettingError if `value` cannot be used."""
        if self.words:
            self._check_word(name, value)
            return
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise SettingError(f"{name}={value!r}: True or False is needed. The default is {self.default!r}.")
            return
        endless = self.closed and value == self.high
        if isinstance(value, bool) or not isinstance(value, Real) or not (math.isfinite(value) or endless):
            raise SettingError(f"{name}={value!r}: a finite number is needed. The default is {self.default!r}.")
        number = float(value)
        inside = self.low <= number and (number <= self.high if self.closed else number < self.high)
        if not inside:
            bracket = "]" if self.closed else ")"
            raise SettingError(
                f"{name}={value!r}: allowed is [{self.low:g}, {self.high:g}{bracket}. The default is {self.default!r}."
            )

    def _check_word(self, name: str, value: Any) -> None:
        if value is not False and value not in self.words:
            near = nearest(value, self.words) if isinstance(value, str) else ""
            shown = " or ".join(f'"{word}"' for word in self.words)
            raise SettingError(f"{name}={value!r}: {shown} is needed, or False. The default is False.{near}")


class UpdateRule(ABC):
    """How arrays move, given their gradients. A rule needs `name`, `settings`, `memories` and `formula`.

    Class attributes:
        name: the name by which `Trainer` and `train` know the rule.
        settings: its settings besides the learning rate, with defaults.
        memories: what it keeps for an array, one tensor each; see `begin`.
        rate: the learning rate where nothing is said.
        draws: names of tensors of the array's shape with standard normal noise, new at each step, that `formula` finds
            beside the memory. They depend on the seed, the array's name and its count, so a resumed run draws them too.
        takes_sparse: whether `update` takes gradients in torch's sparse layout; otherwise they are made dense.
        native: a function of native.c that does the same as `formula`, and the settings that it takes in its order,
            the learning rate first; its memories are the first of `memories`.
    """

    name: ClassVar[str]
    settings: ClassVar[Mapping[str, Setting]]
    memories: ClassVar[tuple[str, ...]]
    rate: ClassVar[float] = 1e-3
    draws: ClassVar[tuple[str, ...]] = ()
    takes_sparse: ClassVar[bool] = False
    native: ClassVar[tuple[str, ...]] = ()

    def remembers(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """The memories needed under these values of the settings (all of `memories` unless a rule knows better)."""
        return self.memories

    def begin(self, memory: str, array: Tensor) -> Tensor:
        """What a memory of an array is before the array first moves: zero, of the array's shape and strides."""
        return torch.zeros_like(array)

    def own_defaults(self, name: str, array: Tensor) -> Mapping[str, Any]:
        """Values of settings for one array where nobody says otherwise, such as exemptions by name or shape."""
        return {}

    @abstractmethod
    def formula(
        self,
        array: Tensor,
        gradient: Tensor,
        memory: Mapping[str, Tensor],
        count: Tensor,
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        """Move one array and its memory in place, in plain tensor operations that a compiler can trace.

        Args:
            array, gradient: of equal shape; the gradient may not be changed.
            memory: the array's memory and draws, by name.
            count: how often the array has moved, this time included; a float32 scalar.
            settings: the values; `learning_rate` is positive, and may be a scalar tensor, so that a new rate needs no
                new program.
            climb: move up the gradient; decay shrinks all the same.
        """

    def update(
        self,
        arrays: Sequence[Tensor],
        gradients: Sequence[Tensor],
        memory: Memory,
        counts: Sequence[Tensor],
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        """The same for many arrays, which share all settings: a faster way, where a rule knows one.

        Called with arrays that `has_kernel` takes; a rule that takes sparse gradients is called with any. Dense
        gradients have the strides of their arrays.
        """
        self.formulas(arrays, gradients, memory, counts, settings, climb)

    def formulas(
        self,
        arrays: Sequence[Tensor],
        gradients: Sequence[Tensor],
        memory: Memory,
        counts: Sequence[Tensor],
        settings: Mapping[str, Any],
        climb: bool,
    ) -> None:
        """`formula` for each array in turn: what `update` does where no faster way exists."""
        for i, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
            own = {key: tensors[i] for key, tensors in memory.items()}
            self.formula(array, gradient, own, counts[i], settings, climb)


def is_dense(array: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, in whatever order: no gaps, none twice."""
    return array.layout is torch.strided and bool(torch.ops.aten.is_non_overlapping_and_dense(array))


def is_plain(array: Tensor) -> bool:
    """Whether it is made of real floating-point numbers, strided, on a CPU or CUDA device."""
    return (
        array.device.type in ("cpu", "cuda")
        and array.dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        and array.layout is torch.strided
    )


def has_kernel(array: Tensor) -> bool:
    """Whether torch's fused optimizer kernels take this array: plain and dense.

    The kernels walk an array as one stretch of memory, and would write into the gaps of one that has gaps.
    """
    return is_plain(array) and is_dense(array)
