"""A named term of a loss: what computes it, and what its mean over a batch is taken over.

Losses of torch are means over true elements: what a batch of sequences is padded with counts neither in the sum nor in
the number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from etude.errors import DataError, SettingError, nearest
from etude.step.elements import count_of_true, mean_of_true
from etude.step.losses.error_rate import error_rate
from etude.step.losses.own import MAIN, NO_SETTINGS, OwnLoss
from etude.step.reading import samples_in
from etude.values.part import Part
from etude.values.schedule import Schedule

LossFunction: TypeAlias = Callable[..., Any]

BY_NAME: dict[str, LossFunction] = {
    name: getattr(functional, name)
    for name in (
        "cross_entropy",
        "nll_loss",
        "mse_loss",
        "l1_loss",
        "smooth_l1_loss",
        "huber_loss",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "kl_div",
        "poisson_nll_loss",
        "soft_margin_loss",
        "multilabel_soft_margin_loss",
    )
}
_QUIET = (error_rate,)
"""Functions of this library that draw nothing."""
_NONE: Mapping[str, Any] = MappingProxyType({})
_NARROW = frozenset({torch.int32, torch.int16, torch.int8})
_CLASSES = (functional.cross_entropy, functional.nll_loss)
_OF_ELEMENTS = (
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
    functional.binary_cross_entropy,
    functional.binary_cross_entropy_with_logits,
)
_MODULES_OF_ELEMENTS = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
MODULES = (
    *(nn.CrossEntropyLoss, nn.NLLLoss, *_MODULES_OF_ELEMENTS),
    *(nn.KLDivLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss, nn.MultiLabelSoftMarginLoss),
)
"""Modules of torch that can give one value an element."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A term over one batch: its mean, and what the mean was taken over (samples, elements or tokens)."""

    mean: Tensor
    count: float | Tensor


@dataclass(frozen=True, slots=True)
class Term:
    """One named term of a loss.

    Attributes:
        name: how it is called in the history.
        function: what computes it.
        weight: what it is multiplied by in the sum of terms; a schedule.
        takes: "pair" (output, target), "output", or "net" (net, batch).
        ignores: False where it is known that every target counts, and for 1: class indices of which all were looked at.
        function_of_each: for losses of torch, one value an element instead of the mean of all; else None.
        wants: what the function is given by name: "mask", "batch", "net", "seen".
        settings: numbers that it is given by name, each a schedule.
        reaches: the part that its gradient goes to; None: everything.
        only: "training" or "evaluation" where it is computed there alone, else "".
        exponent: whether the exponential of its mean is reported too.
        error: whether it is reported and never differentiated.
        of: the names of the output and the target that it takes; None: those called like the term, or the only ones.
        entry: where the function gives several numbers for one term, the name of this one among them; else "".
    """

    name: str
    function: LossFunction
    weight: Schedule
    takes: str = "pair"
    ignores: bool = True
    function_of_each: LossFunction | None = None
    wants: frozenset[str] = frozenset()
    settings: Mapping[str, Schedule] = field(default_factory=lambda: NO_SETTINGS)
    reaches: Part | None = None
    only: str = ""
    exponent: bool = False
    error: bool = False
    of: tuple[str, str] | None = None
    entry: str = ""

    def compute(
        self, net: nn.Module, values: Any, output: Any, target: Any, true: Any = None, named: Mapping[str, Any] = _NONE
    ) -> Any:
        """What the function gives for one batch.

        Args:
            net, values: the net and the batch. output, target: of the net on it.
            true: see `Reader.true_frames`. named: the numbers of its settings, and what it has seen.

        Raises:
            SettingError: several outputs or targets by name, and none of them is what the term takes.
        """
        if self.wants:
            named = {**named, **self._wanted(net, values, true)}
        if type(output) is Tensor and type(target) is Tensor and self.takes == "pair":
            return self.function(output, self._indices(target) if target.dtype in _NARROW else target, **named)
        if self.takes == "net":
            return self.function(net, values, **named)
        output = self.own_output(output)
        if self.takes == "output":
            return self.function(output, **named)
        if self.of is not None and isinstance(target, Mapping):
            target = self._by_name("target", target, self.of[1])
        else:
            target = own(self._key, target)
        if not (isinstance(output, Tensor) and isinstance(target, Tensor)):
            self._check_one("net's output", output)
            if "batch" not in self.wants:
                self._check_one("target", target)
        return self.function(output, self._indices(target) if isinstance(target, Tensor) else target, **named)

    def _wanted(self, net: nn.Module, values: Any, true: Any) -> dict[str, Any]:
        mask = self.own_target(true) if isinstance(true, Tensor | Mapping) else None
        there = {"net": net, "batch": values, "mask": mask if isinstance(mask, Tensor) else None}
        return {name: there[name] for name in self.wants if name in there}

    def own_output(self, output: Any) -> Any:
        """From several outputs by name, the one of this term."""
        if type(output) is Tensor:
            return output
        if self.of is None or not isinstance(output, Mapping):
            return own(self._key, output)
        return self._by_name("net's output", output, self.of[0])

    def own_target(self, target: Any) -> Any:
        """The same of targets, and of what is known of them by their names."""
        if target is None or type(target) is Tensor:
            return target
        if self.of is None or not isinstance(target, Mapping):
            return own(self._key, target)
        return target.get(self.of[1])

    def _by_name(self, what: str, given: Mapping[str, Any], name: str) -> Any:
        if name not in given:
            raise SettingError(
                f"The loss {self.name!r} takes {name!r}, and the {what} has {', '.join(map(repr, given))}."
                f"{nearest(name, map(str, given))}"
            )
        return given[name]

    @property
    def _key(self) -> str:
        """What outputs and targets of it are called: what a term reports besides takes those of the term."""
        return self.name.removesuffix(f".{self.entry}") if self.entry else self.name

    @property
    def draws(self) -> bool:
        """Whether computing it may draw random numbers or move statistics of the net."""
        if isinstance(self.function, OwnLoss):
            return self.function.draws
        return self.takes == "net" or (self.function_of_each is None and not _among(self.function, _QUIET))

    def _indices(self, target: Tensor) -> Tensor:
        """Class indices as torch wants them: many files have them in fewer bits."""
        narrow = target.dtype in _NARROW and self.function_of_each is not None and self._of_classes()
        return target.long() if narrow else target

    def _check_one(self, what: str, given: Any) -> None:
        """A loss of torch compares two tensors: of several by name it has to know which."""
        of_torch = _among(self.function, BY_NAME.values()) or type(self.function).__module__.startswith("torch.nn.")
        of_torch = of_torch or isinstance(self.function, OwnLoss) or _among(self.function, _QUIET)
        if of_torch and isinstance(given, Mapping):
            example = next(iter(given), "name")
            raise SettingError(
                f"The loss {self.name!r}: the {what} has {', '.join(map(repr, given))}, and none of them is called "
                f"{self.name!r}.{nearest(self.name, map(str, given))} Name the term after what it takes, "
                f"loss={{{example!r}: ...}}, say term(..., of={example!r}), or write a function of (output, target)."
            )

    def measured(self, net: nn.Module, values: Any, output: Any, target: Any, true: Any) -> Measured:
        """The term over one batch, without numbers of its own; arguments as for `compute`."""
        found = None if true is None else self.measure_true(output, target, true)
        if found is None:
            found = self.measure(self.compute(net, values, output, target, true), values, target)
        return found

    def measure(self, made: Any, values: Any, target: Any) -> Measured:
        """The term over one batch, from what `compute` gave.

        Raises:
            SettingError: that is neither a tensor nor a pair (sum, count), nor a dict that has the term.
        """
        if self.error and isinstance(made, int | float):
            made = torch.tensor(float(made), dtype=torch.float64)
        if not isinstance(made, Tensor):
            made = self._entry(made)
        if isinstance(made, tuple):
            total, count = made
            mean = (_wide(total) if self.error else total) / count
            return Measured(mean if isinstance(mean, Tensor) else torch.tensor(mean, dtype=torch.float64), count)
        if self.error:
            # Whether each sample is wrong, in truths or whole numbers, has no mean as it is.
            made = _wide(made)
        if made.dim():
            return Measured(made.mean(), made.numel())
        return self._scalar(made, values, self.own_target(target))

    def _entry(self, made: Any) -> Tensor | tuple[Tensor, Any]:
        """The term's own of what a function gave for several."""
        if isinstance(made, Mapping) and self.entry:
            made = made[self.entry]
        elif isinstance(made, Mapping):
            if self.name not in made:
                raise SettingError(
                    f"The loss {self.name!r} gave a dict of {', '.join(map(repr, made))}, and takes its own entry."
                    f"{nearest(self.name, map(str, made))} Name the terms of the loss as the dict does: "
                    f"loss={{{', '.join(f'{str(key)!r}: function' for key in made)}}}."
                )
            made = made[self.name]
        if self.error and isinstance(made, np.ndarray | np.generic):
            # Nobody differentiates it, so it may come from anywhere.
            made = torch.as_tensor(made)
        if isinstance(made, Tensor) or (isinstance(made, tuple) and len(made) == 2):
            return made
        raise SettingError(
            f"The loss {self.name!r} gave a {type(made).__name__}. It has to give a tensor (a mean, or one value a "
            "sample) or a pair (sum, count); a function of several terms, a dict of such by name."
        )

    def _scalar(self, made: Tensor, values: Any, target: Any) -> Measured:
        if not self.ignores:
            return Measured(made, target.numel())
        count = self._count(values, target)
        if getattr(self.function, "reduction", "mean") == "sum":
            return Measured(made / count, count)
        return Measured(made, count)

    def _count(self, values: Any, target: Any) -> float | Tensor:
        """What a mean was taken over: the targets that are class indices and not ignored, else elements.

        Torch weighs each target by its class where there are class weights; for targets that are probabilities it
        divides by all dimensions but that of the classes, and in a "batchmean" by the first.
        """
        if self.takes != "pair" or not isinstance(target, Tensor):
            return samples_in(values)
        if self._by_rows:
            return target.shape[0]
        if not self._of_classes():
            return target.numel()
        if target.is_floating_point():
            return target.numel() // target.shape[min(1, target.dim() - 1)] if target.dim() else 1
        ignored = self._ignored
        weights = getattr(self.function, "weight", None)
        if weights is not None:
            known = target != ignored
            return (weights[target.where(known, 0)] * known).sum()  # type: ignore[no-any-return]
        return (target != ignored).sum()

    def measure_true(self, output: Any, target: Any, true: Any, named: Mapping[str, Any] = _NONE) -> Measured | None:
        """The term over the true elements of a padded batch; None where it is to be measured as it is.

        Args:
            output, target: what `compute` gets. true: see `Reader.true_frames`. named: the numbers of its settings.
        """
        mask = self._mask(true)
        if mask is None:
            return None
        output, target = self.own_output(output), self.own_target(target)
        self._check_one("net's output", output)
        self._check_one("target", target)
        assert self.function_of_each is not None
        each = partial(self.function_of_each, **named) if named else self.function_of_each
        if not self._of_classes():
            self._check_alike(output, target)
        elif not target.is_floating_point():
            kept = self._indices(target).where(mask, self._ignored)
            count = self._count(None, kept)
            return Measured(each(output, kept).sum() / count, count)
        elif mask.dim() > 1:
            # Time is the second dimension of a padded target, and torch wants the classes there.
            target = target.movedim(1, -1)
        made = mean_of_true(each, output, target, mask, self._of_classes(), self._by_rows)
        return Measured(*made)

    def count(self, values: Any, target: Any, true: Any) -> float | Tensor:
        """What the mean of a batch is taken over, for a term that gives a mean; nothing is computed of the net."""
        target = self.own_target(target)
        told = self._told_count(values, target, true)
        if told is not None:
            return told
        mask = self._mask(true)
        if mask is None:
            return self._count(values, target)
        if not self._of_classes():
            return count_of_true(mask, target.shape, self._by_rows)
        if not target.is_floating_point():
            return self._count(values, target.where(mask, self._ignored))
        return count_of_true(mask, target.shape[: mask.dim()])

    def _told_count(self, values: Any, target: Any, true: Any) -> float | Tensor | None:
        """What a loss of this library says itself of its count."""
        if not isinstance(self.function, OwnLoss):
            return None
        mask = self.own_target(true) if isinstance(true, Tensor | Mapping) else None
        return self.function.count(target, mask if isinstance(mask, Tensor) else None, values, self.entry or MAIN)

    def gives_mean(
        self, net: nn.Module, values: Any, output: Any, target: Any, true: Any, named: Mapping[str, Any] = _NONE
    ) -> bool:
        """Whether the function gives the mean itself, so that `count` is what it was taken over."""
        if self._mask(true) is not None or self._told_count(values, self.own_target(target), true) is not None:
            return True
        made = self.compute(net, values, output, target, true, named)
        if self.error and isinstance(made, int | float):
            return True
        made = made if isinstance(made, Tensor) else self._entry(made)
        return isinstance(made, Tensor) and not made.dim()

    def without_padding(self, target: Any, true: Any) -> Any:
        """Class indices of which padding is what the loss ignores; other targets as they are."""
        mask = self._mask(true)
        indices = mask is not None and self._of_classes() and not target.is_floating_point()
        return target.where(mask, self._ignored) if indices else target

    def _mask(self, true: Any) -> Tensor | None:
        """Which elements of its target count, where the term is a loss of torch that can leave some out."""
        mask = self.own_target(true)
        return mask if self.function_of_each is not None and isinstance(mask, Tensor) else None

    @property
    def _ignored(self) -> int:
        return getattr(self.function, "ignore_index", -100)

    @property
    def _by_rows(self) -> bool:
        return getattr(self.function, "reduction", "mean") == "batchmean"

    def _of_classes(self) -> bool:
        if isinstance(self.function, OwnLoss):
            return self.function.of_classes
        return _among(self.function, _CLASSES) or isinstance(self.function, nn.CrossEntropyLoss | nn.NLLLoss)

    def check_shapes(self, output: Any, target: Any) -> None:
        """Raise DataError where torch would compare each output with each target of another shape."""
        of_elements = _among(self.function, _OF_ELEMENTS) or isinstance(self.function, _MODULES_OF_ELEMENTS)
        both = isinstance(output, Tensor) and isinstance(target, Tensor)
        if self.takes == "pair" and of_elements and both:
            self._check_alike(output, target)

    def _check_alike(self, output: Tensor, target: Tensor) -> None:
        if output.shape != target.shape:
            raise DataError(
                f"The loss {self.name!r} compares elements, and the net's output has shape {tuple(output.shape)}, the "
                f"target {tuple(target.shape)}. Give both one shape: y[:, None] adds a dimension, squeeze(1) takes one."
            )

    def checked(self, output: Any, target: Any) -> Term:
        """The term after all its targets were looked at; see `Losses.check_output`."""
        indices = isinstance(target, Tensor) and isinstance(output, Tensor) and not target.is_floating_point()
        if self.takes != "pair" or not self._of_classes() or not indices or output.dim() == 0 or not target.numel():
            return self
        classes = output.shape[1] if output.dim() > 1 else output.shape[0]
        ignored = target == self._ignored
        wrong = ((target < 0) | (target >= classes)) & ~ignored
        if bool(wrong.any()):
            self._raise_wrong_class(target, wrong, classes)
        weighted = getattr(self.function, "weight", None) is not None
        summed = getattr(self.function, "reduction", "mean") != "mean"
        return replace(self, ignores=weighted or summed or bool(ignored.any()))

    def _raise_wrong_class(self, target: Tensor, wrong: Tensor, classes: int) -> None:
        rows = wrong.reshape(len(wrong), -1).any(1).nonzero().flatten()
        first = ", ".join(str(row) for row in rows[:5].tolist()) + (", ..." if len(rows) > 5 else "")
        found = sorted(set(target[wrong].flatten()[:1000].tolist()))[:5]
        raise DataError(
            f"The loss {self.name!r}: the net's output has {classes} classes, 0 to {classes - 1}, and the targets have "
            f"{', '.join(map(str, found))} (samples {first}). Classes count from 0; give the net as many outputs as "
            "there are classes."
        )


def _wide(made: Any) -> Any:
    """Numbers of an error in double precision, where there is one: 3 of 10 are 0.3, and not 0.30000001."""
    return made.double() if isinstance(made, Tensor) and made.device.type != "mps" else made


def _among(function: Any, functions: Iterable[Any]) -> bool:
    """Whether it is one of these. Metrics of torchmetrics are equal to everything, so that nobody may ask that."""
    return any(function is each for each in functions)


def own(name: str, values: Any) -> Any:
    """From several outputs or targets by name, those of this term."""
    return values[name] if isinstance(values, Mapping) and name in values else values
