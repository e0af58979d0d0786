"""What is minimised: named terms, each a sum and a count.

A term gives the mean of a batch together with what the mean was taken over, so that means over epochs, over parts of a
batch and over processes are exact whatever the sizes. Losses of torch are means over true frames: what a batch of
sequences is padded with counts neither in the sum nor in the number.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from etude.errors import DataError, SettingError, nearest
from etude.step.elements import count_of_true, element_wise, mean_of_true
from etude.step.reading import Reader, samples_in
from etude.values.progress import Progress
from etude.values.schedule import Schedule, schedule

LossFunction: TypeAlias = Callable[..., Any]
LossLike: TypeAlias = "str | nn.Module | LossFunction | Mapping[str, Any]"

_BY_NAME: dict[str, LossFunction] = {
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
_ALIASES = {
    "mse": "mse_loss",
    "mae": "l1_loss",
    "l1": "l1_loss",
    "smooth_l1": "smooth_l1_loss",
    "huber": "huber_loss",
    "nll": "nll_loss",
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits",
}
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
_MODULES = (
    *(nn.CrossEntropyLoss, nn.NLLLoss, *_MODULES_OF_ELEMENTS),
    *(nn.KLDivLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss, nn.MultiLabelSoftMarginLoss),
)
OUTPUT = "output"


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
    """

    name: str
    function: LossFunction
    weight: Schedule
    takes: str = "pair"
    ignores: bool = True
    function_of_each: LossFunction | None = None

    def compute(self, net: nn.Module, values: Any, output: Any, target: Any) -> Any:
        """What the function gives for one batch.

        Raises:
            SettingError: several outputs or targets by name, and none of them has the name of the term.
        """
        if type(output) is Tensor and type(target) is Tensor and self.takes == "pair":
            return self.function(output, target)
        if self.takes == "net":
            return self.function(net, values)
        output, target = _own(self.name, output), _own(self.name, target)
        if self.takes == "output":
            return self.function(output)
        if not (isinstance(output, Tensor) and isinstance(target, Tensor)):
            self._check_one("net's output", output)
            self._check_one("target", target)
        return self.function(output, target)

    def _check_one(self, what: str, given: Any) -> None:
        """A loss of torch compares two tensors: of several by name it has to know which."""
        of_torch = self.function in _BY_NAME.values() or type(self.function).__module__.startswith("torch.nn.")
        if of_torch and isinstance(given, Mapping):
            example = next(iter(given), "name")
            raise SettingError(
                f"The loss {self.name!r}: the {what} has {', '.join(map(repr, given))}, and none of them is called "
                f"{self.name!r}.{nearest(self.name, map(str, given))} Name the term after what it takes, "
                f"loss={{{example!r}: ...}}, or write a function of (output, target)."
            )

    def measure(self, made: Any, values: Any, target: Any) -> Measured:
        """The term over one batch, from what `compute` gave.

        Raises:
            SettingError: that is neither a tensor nor a pair (sum, count), nor a dict that has the term.
        """
        if not isinstance(made, Tensor):
            made = self._entry(made)
        if isinstance(made, tuple):
            total, count = made
            return Measured(total / count, count)
        if made.dim():
            return Measured(made.mean(), made.numel())
        return self._scalar(made, values, _own(self.name, target))

    def _entry(self, made: Any) -> Tensor | tuple[Tensor, Any]:
        """The term's own of what a function gave for several."""
        if isinstance(made, Mapping):
            if self.name not in made:
                raise SettingError(
                    f"The loss {self.name!r} gave a dict of {', '.join(map(repr, made))}, and takes its own entry."
                    f"{nearest(self.name, map(str, made))} Name the terms of the loss as the dict does."
                )
            made = made[self.name]
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

    def measure_true(self, output: Any, target: Any, true: Any) -> Measured | None:
        """The term over the true elements of a padded batch; None where it is to be measured as it is.

        Args:
            output, target: what `compute` gets. true: see `Reader.true_frames`.
        """
        mask = self._mask(true)
        if mask is None:
            return None
        output, target = _own(self.name, output), _own(self.name, target)
        self._check_one("net's output", output)
        self._check_one("target", target)
        assert self.function_of_each is not None
        if not self._of_classes():
            self._check_alike(output, target)
        elif not target.is_floating_point():
            kept = target.where(mask, self._ignored)
            count = self._count(None, kept)
            return Measured(self.function_of_each(output, kept).sum() / count, count)
        elif mask.dim() > 1:
            # Time is the second dimension of a padded target, and torch wants the classes there.
            target = target.movedim(1, -1)
        made = mean_of_true(self.function_of_each, output, target, mask, self._of_classes(), self._by_rows)
        return Measured(*made)

    def count(self, values: Any, target: Any, true: Any) -> float | Tensor:
        """What the mean of a batch is taken over, for a term that gives a mean; nothing is computed of the net."""
        target, mask = _own(self.name, target), self._mask(true)
        if mask is None:
            return self._count(values, target)
        if not self._of_classes():
            return count_of_true(mask, target.shape, self._by_rows)
        if not target.is_floating_point():
            return self._count(values, target.where(mask, self._ignored))
        return count_of_true(mask, target.shape[: mask.dim()])

    def gives_mean(self, net: nn.Module, values: Any, output: Any, target: Any, true: Any) -> bool:
        """Whether the function gives the mean itself, so that `count` is what it was taken over."""
        if self._mask(true) is not None:
            return True
        made = self.compute(net, values, output, target)
        made = made if isinstance(made, Tensor) else self._entry(made)
        return isinstance(made, Tensor) and not made.dim()

    def without_padding(self, target: Any, true: Any) -> Any:
        """Class indices of which padding is what the loss ignores; other targets as they are."""
        mask = self._mask(true)
        indices = mask is not None and self._of_classes() and not target.is_floating_point()
        return target.where(mask, self._ignored) if indices else target

    def _mask(self, true: Any) -> Tensor | None:
        """Which elements of its target count, where the term is a loss of torch that can leave some out."""
        mask = _own(self.name, true)
        return mask if self.function_of_each is not None and isinstance(mask, Tensor) else None

    @property
    def _ignored(self) -> int:
        return getattr(self.function, "ignore_index", -100)

    @property
    def _by_rows(self) -> bool:
        return getattr(self.function, "reduction", "mean") == "batchmean"

    def _of_classes(self) -> bool:
        return self.function in _CLASSES or isinstance(self.function, nn.CrossEntropyLoss | nn.NLLLoss)

    def check_shapes(self, output: Any, target: Any) -> None:
        """Raise DataError where torch would compare each output with each target of another shape."""
        of_elements = self.function in _OF_ELEMENTS or isinstance(self.function, _MODULES_OF_ELEMENTS)
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


def terms(literal: LossLike) -> tuple[Term, ...]:
    """The terms that a literal stands for.

    Args:
        literal: a name ("cross_entropy", "mse", ...: torch.nn.functional's names and the usual short ones), a torch
            loss module, a function of (output, target), of (output) or of (net, batch); or a dict from names to such,
            each alone or in a pair with a weight (a number or a schedule). "output" takes the net's own output.
            A function gives a mean, one value a sample, or a pair (sum, count). A function of (net, batch) that stands
            for several terms is called once for all of them, and gives a dict of these by name.

    Raises:
        SettingError: an unknown name, something that is no loss, or a weight that is no number.
    """
    if isinstance(literal, Mapping):
        if not literal:
            raise SettingError('loss={}: no term. Write loss="cross_entropy" or loss={"name": function}.')
        taken = [name for name in literal if len(literal) > 1 and name in ("loss", "rate")]
        if taken:
            raise SettingError(f"loss: a term is called {taken[0]!r}, as is the sum (or the rate). Write another name.")
        return tuple(_weighted(str(name), what) for name, what in literal.items())
    return (_term("loss", literal, 1.0),)


def _weighted(name: str, what: Any) -> Term:
    if isinstance(what, tuple):
        if len(what) != 2:
            raise SettingError(
                f'loss term {name!r}: {what!r} is no pair of loss and weight. Write {name!r}: ("mse", 0.5).'
            )
        return _term(name, *what)
    return _term(name, what, 1.0)


def _term(name: str, what: Any, weight: Any) -> Term:
    if isinstance(what, str):
        return _named(name, what, weight)
    if isinstance(what, type) and issubclass(what, nn.Module):
        raise SettingError(f"loss={what.__name__}: a class. Write {what.__name__}().")
    if not callable(what):
        raise SettingError(f'loss={what!r}: a name, a torch loss or a function is needed. Write loss="cross_entropy".')
    if isinstance(what, nn.Module):
        _check_reduction(name, what)
        each = element_wise(what) if isinstance(what, _MODULES) else None
        return Term(name, what, _weight(name, weight), _takes(what.forward), function_of_each=each)
    each = element_wise(what) if what in _BY_NAME.values() else None
    return Term(name, what, _weight(name, weight), _takes(what), function_of_each=each)


def _weight(name: str, literal: Any) -> Schedule:
    is_number = isinstance(literal, Real) and not isinstance(literal, bool) and isfinite(literal)
    scheduled = literal.kind in ("number", "any") if isinstance(literal, Schedule) else callable(literal)
    if isinstance(literal, type) or not (is_number or scheduled):
        raise SettingError(
            f"loss term {name!r}: its weight is {literal!r}. Write a finite number or a schedule of numbers, as in "
            f'{name!r}: ("mse", 0.5).'
        )
    return schedule(literal)


def _named(name: str, what: str, weight: Any) -> Term:
    if what == OUTPUT:
        return Term(name, _output_itself, _weight(name, weight), "output")
    low = what.lower()
    found = _BY_NAME.get(_ALIASES.get(low, low))
    if found is None:
        names = [*_BY_NAME, *_ALIASES, OUTPUT]
        raise SettingError(f"There is no loss {what!r}. Known: {', '.join(names)}.{nearest(what, names)}")
    return Term(name, found, _weight(name, weight), function_of_each=element_wise(found))


def _output_itself(output: Any) -> Any:
    """The net computes its loss: a tensor, `output["loss"]`, or `output.loss`."""
    if isinstance(output, Mapping):
        return output["loss"]
    return output if isinstance(output, Tensor | tuple) else output.loss


def _check_reduction(name: str, module: nn.Module) -> None:
    if getattr(module, "weight", None) is not None and getattr(module, "reduction", "mean") == "none":
        raise SettingError(
            f"loss {name!r}: with class weights, one value a sample cannot be averaged. Leave reduction."
        )


def _same_source(one: Term, other: Term) -> bool:
    return one is other or (one.takes == other.takes == "net" and one.function is other.function)


def _takes(function: LossFunction) -> str:
    """What a function takes: told by the names and number of its parameters."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return "pair"
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if needed and needed[0].name in ("net", "model", "module"):
        return "net"
    return "output" if len(needed) == 1 and not any(p.kind is p.VAR_POSITIONAL for p in parameters) else "pair"


def _own(name: str, values: Any) -> Any:
    """From several outputs or targets by name, those of this term."""
    return values[name] if isinstance(values, Mapping) and name in values else values


class Losses:
    """The terms of one update, measured together.

    `measure` gives the weighted sum to differentiate, and every term by name with its count.

    Attributes:
        terms: the terms, in order. fixed: their weights where they never change, else None.
        needs_output: whether the net is called here, and not by the losses.
        told: whether what each mean is taken over is known before the net is called; see `learn`.
    """

    def __init__(self, made: tuple[Term, ...]) -> None:
        self.terms = made
        self.fixed = (
            tuple(float(term.weight.at(Progress())) for term in made) if all(t.weight.constant for t in made) else None
        )
        self.needs_output = any(term.takes != "net" for term in made)
        self.told = False
        # The first term with the same function of (net, batch), which computes for all of them.
        self._sources = [next(i for i, other in enumerate(made) if _same_source(term, other)) for term in made]

    def check_output(self, net: nn.Module, read: Reader, batch: Any, whole: Any, *, also: bool = False) -> None:
        """Call the net on a batch, and hold its output against the targets.

        Losses of elements need a target of the output's shape. Of class losses all targets in memory are looked at:
        each must be a class of the output, or ignored.

        Args:
            net, read, batch: the net is called on the batch.
            whole: all data, shaped as a batch; None where they are not in memory.
            also: the data are looked at besides others that were: a target is ignored if it is in either.

        Raises:
            DataError: shapes that differ; or the number of classes and the first samples with another class.
        """
        args, kwargs, target = read(batch)
        output = net(*args, **kwargs)
        for term in self.terms:
            term.check_shapes(_own(term.name, output), _own(term.name, target))
        if whole is None:
            return
        target, true = read(whole)[2], read.true_frames(whole)
        looked = tuple(
            term.checked(_own(term.name, output), term.without_padding(_own(term.name, target), true))
            for term in self.terms
        )
        self.terms = tuple(
            replace(new, ignores=new.ignores or (also and old.ignores))
            for old, new in zip(self.terms, looked, strict=True)
        )

    def count_ignored(self) -> None:
        """From now on count the ignored targets of every batch: nobody has looked at all of them."""
        self.terms = tuple(replace(term, ignores=True) for term in self.terms)

    def weights(self, progress: Progress) -> tuple[float, ...]:
        """The weight of each term at a moment."""
        if self.fixed is not None:
            return self.fixed
        return tuple(float(term.weight.at(progress)) for term in self.terms)

    def measure(
        self, net: nn.Module, read: Reader, values: Any, weights: tuple[float, ...]
    ) -> tuple[Tensor, tuple[Measured, ...], Any, Any]:
        """The weighted sum of the means, each term, and the net's output and target (None if no term takes them)."""
        each, output, target = self.measure_each(net, read, values)
        return weighted_sum([one.mean for one in each], weights), each, output, target

    def measure_each(self, net: nn.Module, read: Reader, values: Any) -> tuple[tuple[Measured, ...], Any, Any]:
        """Each term over one batch, and the net's output and target (None if no term takes them)."""
        output, target, true = self._called(net, read, values)
        if len(self.terms) == 1:
            only = self.terms[0]
            found = None if true is None else only.measure_true(output, target, true)
            if found is None:
                found = only.measure(only.compute(net, values, output, target), values, target)
            return (found,), output, target
        computed: list[Any] = []
        each: list[Measured] = []
        for place, (term, source) in enumerate(zip(self.terms, self._sources, strict=True)):
            found = None if true is None else term.measure_true(output, target, true)
            computed.append(
                computed[source]
                if source != place
                else term.compute(net, values, output, target)
                if found is None
                else None
            )
            each.append(term.measure(computed[place], values, target) if found is None else found)
        return tuple(each), output, target

    def _called(self, net: nn.Module, read: Reader, values: Any) -> tuple[Any, Any, Any]:
        """The net's output, the target, and which of it is true; see `Reader.true_frames`."""
        if not self.needs_output:
            return None, None, None
        args, kwargs, target = read(values)
        output = net(*args, **kwargs)
        return output, target, read.true_frames(values) if isinstance(values, Mapping) else None

    def learn(self, net: nn.Module, read: Reader, values: Any) -> None:
        """Find out with one batch whether every term gives a mean: then a batch alone tells what it is taken over."""
        output, target, true = self._called(net, read, values)
        self.told = all(term.gives_mean(net, values, output, target, true) for term in self.terms)

    def counts(self, read: Reader, values: Any) -> tuple[float | Tensor, ...]:
        """What the mean of each term is taken over in a batch, where that is `told`; the net is not called."""
        target = read(values)[2] if self.needs_output else None
        true = read.true_frames(values) if self.needs_output else None
        return tuple(term.count(values, target, true) for term in self.terms)


def weighted_sum(means: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """What is minimised: the sum of the means, each times its weight."""
    if len(means) == 1:
        return _weighed(means[0], weights[0])
    return torch.stack([mean * weight for mean, weight in zip(means, weights, strict=True)]).sum()


def _weighed(mean: Tensor, weight: float) -> Tensor:
    # In a compiled step a weight that changes is a tensor, of which nobody may ask whether it is 1.
    return mean if not isinstance(weight, Tensor) and weight == 1 else mean * weight
