"""Arrays that are perturbed while a step computes its loss and gradients, and clean at every other moment.

Weight noise: the loss is that of w + n with n normal, and its gradient goes to w (Graves, "Practical variational
inference for neural networks", NeurIPS 2011; Jim, Giles and Horne, 1996). Weight dropout: the loss is that of
w·m / (1 - p) with m 0 or 1, and the gradient of w is m / (1 - p) times that (Wan et al., "DropConnect", ICML 2013;
Merity et al., ICLR 2018). With both, noise comes first, so that a dropped weight is 0.

What is drawn depends on the seed, the number of the step and the name of the array, so that it is the same for all
micro-batches of a step and after a resume. Arrays that do not move at the step are perturbed as well, since the net is
one function; those that a rule freezes are not. Numbers are drawn on the CPU, which for large arrays on another device
may take longer than the step itself: perturb the parts that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from etude.bind.table import Now, Table
from etude.errors import SettingError
from etude.step.optim.noise import generator_of, mixed
from etude.values.tree import has_shape

NOISE, DROPOUT = "weight_noise", "weight_dropout"
PERTURBING = frozenset({NOISE, DROPOUT})
"""The settings that act here."""

Change: TypeAlias = Callable[[Tensor], Tensor]
Through: TypeAlias = dict[int, Change]


@dataclass(frozen=True, slots=True)
class Perturbed:
    """One array that a step perturbs.

    Attributes:
        name: of the array. drawn_as: the name under which is drawn; arrays that are tied for a while share one.
        deviation: of its noise. chance: with which a weight is dropped.
    """

    name: str
    array: Tensor
    deviation: float
    chance: float
    drawn_as: str


def perturbed_now(
    table: Table, arrays: Sequence[Tensor], now: Now, ties: Iterable[Sequence[int]] = ()
) -> tuple[Perturbed, ...]:
    """The arrays that the step with the settings `now` perturbs.

    Args:
        arrays: those of the table, in order. ties: indices of arrays that are one at this step.

    Raises:
        SettingError: one of them has no shape yet.
    """
    nothing = [0.0] * len(table.rows)
    deviations, chances = (now.columns.get(setting, nothing) for setting in (NOISE, DROPOUT))
    first = {index: table.names[group[0]] for group in ties for index in group}
    found = [
        Perturbed(name, arrays[index], float(deviation or 0), float(chance or 0), first.get(index, name))
        for row, deviation, chance in zip(table.rows, deviations, chances, strict=True)
        if (deviation or chance) and not row.frozen
        for name, index in zip(row.names, row.indices, strict=True)
    ]
    lazy = [one.name for one in found if not has_shape(one.array)]
    if lazy:
        raise SettingError(
            f"{', '.join(map(repr, lazy))} cannot be perturbed: no shape yet. Call the net once before the first step."
        )
    return tuple(found)


@contextmanager
def perturbing(found: Sequence[Perturbed], seed: int, step: int, hooked: bool = True) -> Iterator[Through]:
    """Within it the arrays are perturbed, and gradients are those of the clean arrays; afterwards each is as before.

    Backward belongs inside: a graph made here is of the perturbed arrays, and torch refuses it afterwards.

    Args:
        found: what is perturbed. seed, step: of what is drawn.
        hooked: whether backward makes gradients those of the clean arrays; a compiled program cannot, as what is
            dropped changes from step to step.

    Yields:
        what makes a gradient that of the clean array, by the id of the array, where backward does not.
    """
    clean = [one.array.detach().clone() for one in found]
    hooks: list[RemovableHandle] = []
    through: Through = {}
    try:
        for one in found:
            change = _perturb(one, mixed(seed, step))
            if change is None or not one.array.requires_grad:
                continue
            if hooked:
                hooks.append(_hooked(one.array, change))
            else:
                through[id(one.array)] = change
        # It keeps arrays in half precision, of before.
        torch.clear_autocast_cache()
        yield through
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for one, before in zip(found, clean, strict=True):
                one.array.copy_(before)
        torch.clear_autocast_cache()


@torch.no_grad()
def _perturb(one: Perturbed, seed: int) -> Change | None:
    """Perturb one array; gives what its gradient has to go through, if anything."""
    array = one.array
    numbers = torch.view_as_real(array.resolve_conj()) if array.is_complex() else array
    if one.deviation:
        # Drawn on the CPU, so that it is the same wherever the array is.
        drawn = torch.randn(numbers.shape, generator=generator_of(seed, f"{NOISE}:{one.drawn_as}", 0))
        numbers.add_(drawn.to(array.device, numbers.dtype), alpha=one.deviation)
    if not one.chance:
        return None
    drawn = torch.rand(array.shape, generator=generator_of(seed, f"{DROPOUT}:{one.drawn_as}", 0))
    kept = (drawn >= one.chance).to(array.device)
    array.mul_(kept).div_(1 - one.chance)
    return lambda gradient: _through(gradient, kept, 1 - one.chance)


def _hooked(array: Tensor, change: Change) -> RemovableHandle:
    handle: RemovableHandle = array.register_hook(change)  # type: ignore[no-untyped-call]
    return handle


def _through(gradient: Tensor, kept: Tensor, share: float) -> Tensor:
    """The gradient of the clean array, given that of the array of which only some weights were kept."""
    if not gradient.is_sparse:
        return gradient * kept / share
    gradient = gradient.coalesce()
    values = gradient.values() * kept[gradient.indices().unbind()] / share
    return torch.sparse_coo_tensor(
        gradient.indices(), values, gradient.shape, is_coalesced=True, check_invariants=False
    )
