"""A net that learns from the outputs of another (Hinton, Vinyals and Dean, 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Any, final

from torch import Tensor, nn
from torch.nn import functional

from etude.errors import DataError, SettingError, nearest
from etude.step.looking import looking
from etude.step.losses.own import OwnLoss, maker, number_of, wide
from etude.step.reading import Reader
from etude.values.algebra import argument
from etude.values.schedule import Schedule, ScheduleLike
from etude.values.tree import Tree

_LEAST = 1e-3


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Distillation(OwnLoss):
    """Made by `distillation`."""

    teacher: nn.Module
    temperature: Schedule
    of: str | None

    takes = "output"
    wants = frozenset({"batch", "mask"})
    bounds = MappingProxyType({"temperature": (_LEAST, inf)})
    # The teacher is in evaluation mode; what draws numbers even there is disturbed by nobody.
    draws = True

    @property
    def settings(self) -> Mapping[str, Schedule]:
        return MappingProxyType({"temperature": self.temperature})

    def __call__(self, output: Any, *, batch: Any, mask: Tensor | None, temperature: Any) -> tuple[Tensor, Any]:
        said = self._said(batch)
        if not isinstance(output, Tensor) or output.shape != said.shape or output.dim() < 2:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise DataError(
                f"distillation(): the net's output is {shape}, the teacher's {tuple(said.shape)}: logits of one shape "
                "are needed, (samples, classes, ...). Of several outputs say which: distillation(teacher, of=...), and "
                "term(..., of=...) for the net."
            )
        wanted = functional.log_softmax(wide(said) / temperature, 1)
        found = functional.log_softmax(wide(output) / temperature, 1)
        losses = functional.kl_div(found, wanted, reduction="none", log_target=True).sum(1) * temperature**2
        if mask is None or mask.shape != losses.shape[: mask.dim()]:
            return losses.sum(), losses.numel()
        inside = mask.reshape(*mask.shape, *(1,) * (losses.dim() - mask.dim())).expand_as(losses)
        return losses.where(inside, 0).sum(), inside.sum()

    def _said(self, batch: Any) -> Tensor:
        args, kwargs, _ = Reader(self.teacher)(batch)
        with looking(self.teacher):
            said = self.teacher(*args, **kwargs)
        if self.of is not None and isinstance(said, Mapping):
            if self.of not in said:
                raise SettingError(
                    f"distillation(of={self.of!r}): the teacher gives {', '.join(map(repr, said))}."
                    f"{nearest(self.of, map(str, said))}"
                )
            said = said[self.of]
        if not isinstance(said, Tensor):
            raise DataError(
                f"distillation(): the teacher gives a {type(said).__name__}, and a tensor of logits is needed. Of "
                "several outputs say which: distillation(teacher, of='name')."
            )
        return said.detach()

    def bound(self, tree: Tree) -> OwnLoss:
        own, there = _devices(tree.net), _devices(self.teacher)
        if own and there and own != there:
            first = next(iter(own))
            raise SettingError(
                f"distillation(): the teacher is on {', '.join(sorted(there))}, the net on {', '.join(sorted(own))}. "
                f"Write teacher.to({first!r})."
            )
        return self

    def not_compiled(self) -> str:
        return "the teacher is put in evaluation mode around its call"

    def __repr__(self) -> str:
        of = "" if self.of is None else f", of={self.of!r}"
        return f"distillation({type(self.teacher).__name__}, temperature={argument(self.temperature)}{of})"


@maker
def distillation(teacher: nn.Module, temperature: ScheduleLike = 1.0, of: str | None = None) -> Distillation:
    """T² times the divergence KL(teacher || net) of the softmax of logits / T: the mean over samples, or true frames.

    The factor keeps gradients of about one size whatever the temperature. The teacher is called on the same inputs, in
    evaluation mode and without gradients; it is never trained and never saved.

    Args:
        teacher: a net that gives logits of the shape of the net's own, (samples, classes, ...).
        temperature: T, above 0; a number or a schedule.
        of: the output of the teacher, where it gives several by name.

    Raises:
        SettingError: no module, a temperature that is not above 0, or when it is bound to a net, another device.
        DataError: when it is computed, outputs of different shapes.
    """
    if not isinstance(teacher, nn.Module):
        raise SettingError(f"distillation({teacher!r}): a net is needed as teacher.")
    if of is not None and not isinstance(of, str):
        raise SettingError(f"distillation(of={of!r}): the name of an output of the teacher is needed.")
    return Distillation(teacher, number_of(temperature, "distillation(): temperature", _LEAST), of)


def _devices(net: nn.Module) -> set[str]:
    return {str(array.device) for array in net.parameters()}
