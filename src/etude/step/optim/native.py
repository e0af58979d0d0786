"""Many small arrays moved by one call into native.c, each with settings of its own.

Where the library is not there, or for arrays that its kernels do not take, torch's fused kernels do the same, with one
call for each row of settings.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from etude.bind.table import RATE
from etude.step.optim.compiler import library
from etude.step.optim.rule import UpdateRule, has_kernel

_SMALL = 1 << 16
"""Elements up to which one thread is as quick with an array as several are."""

_WIDTH = 7
"""Numbers of an entry in native.c: array, three memories, count, length, line."""

_ADDRESS = Tensor.data_ptr

Kernel: TypeAlias = Callable[[int, int, int, int, float, bool], None]


def kernel_of(rule: UpdateRule) -> Kernel | None:
    """The function of native.c that moves arrays as the rule does; None where there is none, or no library."""
    made = library() if rule.native else None
    if made is None:
        return None
    kernel: Any = getattr(made, rule.native[0], None)
    if kernel is None:
        return None
    addresses = [ctypes.c_void_p] * 3
    kernel.argtypes = [ctypes.c_int64, *addresses, ctypes.c_double, ctypes.c_int]
    kernel.restype = None
    return cast("Kernel", kernel)


def takes(array: Tensor) -> bool:
    """Whether a kernel may move the array: float32 on the CPU, without gaps, and small unless there is one thread."""
    return (
        array.device.type == "cpu"
        and array.dtype is torch.float32
        and has_kernel(array)
        and (array.numel() <= _SMALL or torch.get_num_threads() == 1)
    )


class Entries:
    """Arrays that move together, as a kernel sees them: addresses, lengths, lines of settings.

    Args:
        kernel: of native.c. columns: the settings it takes, in its order, the learning rate first.
        arrays, memory, counts: the tensors, and for each array its memories in the rule's order.
        lines: for each array its line in the settings.
    """

    def __init__(
        self,
        kernel: Kernel,
        columns: Sequence[str],
        arrays: Sequence[Tensor],
        memory: Sequence[Sequence[Tensor]],
        counts: Sequence[Tensor],
        lines: Sequence[int],
    ) -> None:
        self._kernel, self._columns = kernel, tuple(columns)
        # The tensors live as long as their addresses are used.
        self._kept = (tuple(arrays), tuple(memory), tuple(counts))
        self._rates: list[float] = []
        self._settings = np.zeros((max(lines) + 1, len(columns)), dtype=np.float64)
        self._table = np.zeros((len(arrays), _WIDTH), dtype=np.int64)
        self._table[:, 0] = [own.data_ptr() for own in arrays]
        for k, own in enumerate(memory):
            self._table[k, 1 : 1 + len(own)] = [tensor.data_ptr() for tensor in own]
        self._table[:, 4] = [count.data_ptr() for count in counts]
        self._table[:, 5] = [own.numel() for own in arrays]
        self._table[:, 6] = lines
        self._where = (len(arrays), self._table.ctypes.data, self._settings.ctypes.data)

    def set(self, settings: Sequence[Mapping[str, Any]]) -> None:
        """Write every setting but the learning rate: one mapping for each line."""
        for k, key in enumerate(self._columns):
            if key != RATE:
                self._settings[:, k] = [own[key] for own in settings]

    def move(self, gradients: Sequence[Tensor], rates: list[float], divisor: float, counting: bool) -> None:
        """Move the arrays by float32 gradients that lie in memory as they do; `rates` by line, negative ones climb.

        With `counting` every array is first counted as moved once more.
        """
        if rates != self._rates:
            self._settings[:, 0] = self._rates = rates
        # An array of Python's own: in a cold cache every call into a bigger library costs.
        where = array("q", map(_ADDRESS, gradients))
        count, entries, settings = self._where
        self._kernel(count, entries, where.buffer_info()[0], settings, divisor, counting)
