"""What is minimised: named terms, each a sum and a count.

A term gives the mean of a batch together with what the mean was taken over, so that means over epochs, over parts of a
batch and over processes are exact whatever the sizes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from etude.errors import SettingError, nearest
from etude.step.elements import element_wise
from etude.step.reading import Reader
from etude.step.term import BY_NAME, MODULES, LossFunction, Measured, Term, own
from etude.values.progress import Progress
from etude.values.schedule import Schedule, schedule

__all__ = ["LossFunction", "LossLike", "Losses", "Measured", "Term", "terms", "weighted_sum"]

LossLike: TypeAlias = "str | nn.Module | LossFunction | Mapping[str, Any]"

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
OUTPUT = "output"


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
        each = element_wise(what) if isinstance(what, MODULES) else None
        return Term(name, what, _weight(name, weight), _takes(what.forward), function_of_each=each)
    each = element_wise(what) if what in BY_NAME.values() else None
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
    found = BY_NAME.get(_ALIASES.get(low, low))
    if found is None:
        names = [*BY_NAME, *_ALIASES, OUTPUT]
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
            term.check_shapes(own(term.name, output), own(term.name, target))
        if whole is None:
            return
        target, true = read(whole)[2], read.true_frames(whole)
        looked = tuple(
            term.checked(own(term.name, output), term.without_padding(own(term.name, target), true))
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
