"""Cross entropy of class indices, frame by frame where there are frames, with smoothed targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from etude.errors import DataError, SettingError, nearest
from etude.step.losses.own import MAIN, OwnLoss, maker, number_of
from etude.values.algebra import argument
from etude.values.schedule import Constant, Schedule, ScheduleLike

_SHARES = ("all", "others")
_NARROW = frozenset({torch.int32, torch.int16, torch.int8, torch.uint8})


@final
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class CrossEntropy(OwnLoss):
    """Made by `cross_entropy`."""

    smoothing: Schedule
    share: str
    weight: Tensor | None
    ignore_index: int

    wants = frozenset({"mask"})
    of_classes = True
    bounds = MappingProxyType({"smoothing": (0.0, 1.0)})

    @property
    def settings(self) -> Mapping[str, Schedule]:
        return MappingProxyType({"smoothing": self.smoothing})

    def __call__(self, output: Tensor, target: Tensor, *, smoothing: Any, mask: Tensor | None = None) -> Any:
        target, known = self._looked_at(output, target, mask)
        weight = None if self.weight is None else self.weight.to(output.device, torch.float32)
        count = known.sum() if weight is None else (weight[target.where(known, 0)] * known).sum()
        if isinstance(smoothing, float | int) and smoothing == 0:
            kept = target.where(known, self.ignore_index)
            total = functional.cross_entropy(output, kept, weight, ignore_index=self.ignore_index, reduction="sum")
            return total, count
        return self._smoothed(output, target.where(known, 0), known, weight, smoothing), count

    def _smoothed(self, output: Tensor, target: Tensor, known: Tensor, weight: Tensor | None, smoothing: Any) -> Tensor:
        """The sum over the known targets. A class weight multiplies the part of its class, as torch has it."""
        logs = functional.log_softmax(output, 1)
        if weight is not None:
            logs = logs * weight.reshape(-1, *(1,) * (logs.dim() - 2))
        of_target = -logs.gather(1, target[:, None])[:, 0]
        of_all = -logs.sum(1)
        classes = output.shape[1]
        if self.share == "all":
            losses = (1 - smoothing) * of_target + smoothing / classes * of_all
        else:
            losses = (1 - smoothing) * of_target + smoothing / (classes - 1) * (of_all - of_target)
        total: Tensor = losses.where(known, 0).sum()
        return total

    def _looked_at(self, output: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Class indices, and which of them count."""
        if target.is_floating_point():
            raise DataError(
                "cross_entropy(): the targets are floats, and class indices are needed. For probabilities write "
                "nn.CrossEntropyLoss(label_smoothing=...)."
            )
        if output.dim() < 2 or output.shape[:1] + output.shape[2:] != target.shape:
            raise DataError(
                f"cross_entropy(): an output of shape {tuple(output.shape)} and a target of shape "
                f"{tuple(target.shape)}. The classes are the second dimension of the output, (samples, classes, ...), "
                "and the target has all the others."
            )
        if self.share == "others" and output.shape[1] < 2:
            raise DataError('cross_entropy(share="others"): one class has no others. Write share="all".')
        if self.weight is not None and len(self.weight) != output.shape[1]:
            raise DataError(
                f"cross_entropy(): {len(self.weight)} class weights, and the output has {output.shape[1]} classes."
            )
        target = target.long() if target.dtype in _NARROW else target
        return target, self._known(target, mask)

    def _known(self, target: Tensor, mask: Tensor | None) -> Tensor:
        known = target != self.ignore_index
        return known if mask is None else known & mask.reshape(*mask.shape, *(1,) * (target.dim() - mask.dim()))

    def count(self, target: Any, mask: Any, batch: Any, entry: str = MAIN) -> float | Tensor | None:
        if not isinstance(target, Tensor) or target.is_floating_point():
            return None
        known = self._known(target, mask)
        if self.weight is None:
            return known.sum()
        return (self.weight.to(target.device, torch.float32)[target.where(known, 0).long()] * known).sum()

    def __repr__(self) -> str:
        said = []
        if self.smoothing != Constant(0.0):
            said.append(f"smoothing={argument(self.smoothing)}")
        if self.share != "all":
            said.append(f"share={self.share!r}")
        if self.weight is not None:
            said.append(f"weight={self.weight.tolist()!r}")
        if self.ignore_index != -100:
            said.append(f"ignore_index={self.ignore_index!r}")
        return f"cross_entropy({', '.join(said)})"


@maker
def cross_entropy(
    smoothing: ScheduleLike = 0.0,
    share: str = "all",
    weight: Tensor | Sequence[float] | None = None,
    ignore_index: int = -100,
) -> CrossEntropy:
    """Cross entropy of logits (samples, classes, ...) and class indices (samples, ...): the mean over true targets.

    Padding of sequences counts nowhere.

    Args:
        smoothing: how much of the target goes to other classes, from 0 to 1; a number or a schedule (Szegedy et al.,
            CVPR 2016, section 7). With n classes and smoothing s
        share: "all": the target is 1 - s + s/n and every other class s/n, as torch has it; "others": 1 - s and
            s/(n-1), as RETURNN has it. The second with s is the first with s·n/(n-1).
        weight: one number for each class, by which its losses are multiplied; the mean is over the weights.
        ignore_index: targets of this index count nowhere.

    Raises:
        SettingError: a smoothing that is no number from 0 to 1, an unknown share, or weights that are no list.
        DataError: when it is computed, shapes that do not go together.
    """
    made = number_of(smoothing, "cross_entropy(): smoothing", 0, 1)
    if share not in _SHARES:
        raise SettingError(f'cross_entropy(share={share!r}): "all" or "others" is needed.{nearest(share, _SHARES)}')
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise SettingError(f"cross_entropy(ignore_index={ignore_index!r}): a whole number is needed.")
    return CrossEntropy(made, share, _weights(weight), ignore_index)


def _weights(given: Any) -> Tensor | None:
    if given is None:
        return None
    try:
        made = torch.as_tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        made = torch.empty(0, 0)
    if made.dim() != 1 or not len(made) or not bool((made >= 0).all()) or not bool(torch.isfinite(made).all()):
        raise SettingError(f"cross_entropy(weight={given!r}): a list of one number from 0 on for each class is needed.")
    return made.detach().clone()
