"""What is minimised: named terms, each a sum and a count.

A term gives the mean of a batch together with what the mean was taken over, so that means over epochs, over parts of a
batch and over processes are exact whatever the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import compress
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from etude.errors import PlanError, RuleError, StateError
from etude.step.literals import PERPLEXITY, LossLike, SaidTerm, error, term, terms
from etude.step.loss_batch import (
    LossBatch,
    bound_to,
    detached,
    exponential,
    same_source,
    weighted_sum,
    without_graph,
)
from etude.step.loss_numbers import Now, Numbers
from etude.step.losses.own import OwnLoss
from etude.step.reach import reaching
from etude.step.reading import Reader
from etude.step.states import as_memory, some
from etude.step.term import LossFunction, Measured, Term
from etude.step.undisturbed import same_chance, undisturbed
from etude.values.progress import Extent, Progress
from etude.values.schedule import Memory, Schedule
from etude.values.tree import Tree

__all__ = [
    "PERPLEXITY",
    "LossFunction",
    "LossLike",
    "Losses",
    "Measured",
    "SaidTerm",
    "Term",
    "error",
    "exponential",
    "term",
    "terms",
    "weighted_sum",
]

Call: TypeAlias = Callable[..., Any]

_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Losses:
    """The terms of one update, measured together.

    `measure` gives the weighted sum to differentiate, and every term by name with its count.

    A term of weight 0 and an error are beside the sum: they are computed on an output without a graph, and afterwards
    chance and the statistics of the net are what they were. Where no weight is other than 0 all terms are in the sum.

    Attributes:
        terms: the terms of training, in order. fixed: their weights where they never change, else None.
        evaluation: the terms of evaluation, where others may be computed; often the same.
        numbers: weights and settings.
        needs_output: whether the net is called here, and not by the losses.
        counts_known: whether what each mean is taken over is known before the net is called; see `learn`.
        all_in_sum: whether every term is in the sum, always.
    """

    def __init__(self, made: tuple[Term, ...], net: nn.Module | Tree | None = None) -> None:
        self._bound = net is not None
        if net is not None:
            made = bound_to(made, net)
        self.terms = tuple(one for one in made if one.only != "evaluation")
        looked = tuple(one for one in made if one.only != "training")
        self.evaluation: Losses = self
        if any(one.only for one in made):
            self.evaluation = Losses(tuple(replace(one, only="") for one in looked), net)
            self.evaluation.terms = looked
            # What is watched, and where terms come from, is said of these.
            self.evaluation._prepare()
        self._prepare()

    def _prepare(self) -> None:
        made = self.terms
        self.numbers = Numbers(made)
        self.fixed = self.numbers.fixed
        self._constant = self.numbers.at(Progress()) if self.numbers.constant else None
        self.needs_output = any(one.takes != "net" for one in made)
        self.counts_known = False
        # The first term with the same function of (net, batch), which computes for all of them.
        self._sources = [next(i for i, other in enumerate(made) if same_source(one, other)) for one in made]
        off = [one.error or (one.weight.constant and one.weight.at(Progress()) == 0) for one in made]
        self._off = [one.error for one in made] if all(off) else off
        self._in_sum = None if self.fixed is None else self._in_sum_at(self.fixed)
        self.all_in_sum = not any(one.error for one in made) and self._in_sum is not None and all(self._in_sum)
        self._reached: dict[int, tuple[Tensor, ...]] = {}
        self._watching = [one.function for one in made if isinstance(one.function, OwnLoss) and "seen" in one.wants]
        # Each term takes nothing but what it compares, as most losses do.
        alone = self.all_in_sum and self._sources == list(range(len(made)))
        self._plain = alone and not any(one.settings or one.wants or one.reaches for one in made)

    # -------------------------------------------------------------------------------------------- what may change

    @property
    def names(self) -> tuple[str, ...]:
        """What the terms are called, of training and of evaluation."""
        return tuple(dict.fromkeys(one.name for losses in self._both for one in losses.terms))

    def weights(self, progress: Progress) -> tuple[float, ...]:
        """The weight of each term at a moment."""
        return self.numbers.weights(progress)

    def now(self, progress: Progress) -> Now:
        """The numbers of a moment, as `measure` takes them; the same object as long as nothing changes."""
        return self.numbers.at(progress) if self._constant is None else self._constant

    @property
    def constant(self) -> bool:
        """Whether no weight and no setting of training ever changes."""
        return self.numbers.constant

    def settings(self) -> dict[str, Schedule]:
        """Every weight ("weight.<term>") and setting ("<term>.<setting>") by its label."""
        return self.evaluation.numbers.settings() | self.numbers.settings()

    def schedules(self) -> tuple[Schedule, ...]:
        """Every weight and setting."""
        return tuple(self.settings().values())

    def in_force(self, progress: Progress) -> dict[str, float]:
        """Of the weights and settings of training those that change, by label, as numbers of a moment."""
        return self.numbers.changing(progress)

    def check(self, extent: Extent) -> None:
        """Raise, before the first step, what would be wrong with weights and settings in a run of this extent.

        Raises:
            ScheduleError: one of them is undefined somewhere. SettingError: one of them is no number there, or a number
                that it cannot be.
        """
        for one in self._both:
            one.numbers.check(extent)

    def see(self, metrics: Mapping[str, float], progress: Progress) -> None:
        """Tell weights and settings that listen what was measured."""
        for one in self._both:
            one.numbers.see(metrics, progress)

    def state(self) -> list[Memory]:
        """What weights and settings that listen remember."""
        return [kept for one in self._both for kept in one.numbers.memory.values()]

    def load(self, state: Sequence[Any]) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: it is of other schedules; nothing is changed.
        """
        places = [(one.numbers, of) for one in self._both for of in one.numbers.memory]
        if len(places) != len(state):
            raise StateError(f"The loss has {len(places)} schedules that listen, and {len(state)} were saved.")
        made = [as_memory(of, kept) for (_, of), kept in zip(places, state, strict=True)]
        for (numbers, of), kept in zip(places, made, strict=True):
            numbers.memory[of] = kept

    @property
    def _both(self) -> tuple[Losses, ...]:
        return (self,) if self.evaluation is self else (self, self.evaluation)

    # --------------------------------------------------------------------------------------- before the first step

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
        for losses in self._both:
            for one in losses.terms:
                one.check_shapes(one.own_output(output), one.own_target(target))
        if whole is None:
            return
        target, true = read(whole)[2], read.true_frames(whole)
        for losses in self._both:
            looked = tuple(
                one.checked(one.own_output(output), one.without_padding(one.own_target(target), true))
                for one in losses.terms
            )
            losses.terms = tuple(
                replace(new, ignores=new.ignores or (also and old.ignores))
                for old, new in zip(losses.terms, looked, strict=True)
            )

    def count_ignored(self) -> None:
        """From now on count the ignored targets of every batch: nobody has looked at all of them."""
        for losses in self._both:
            losses.terms = tuple(replace(one, ignores=True) for one in losses.terms)

    def compile_with_net(self) -> bool:
        """Whether every term may be in one program with the net; if not, the net has a program of its own.

        Raises:
            PlanError: a term looks into the net or reaches a part alone, or no term takes what the net gives.
        """
        apart = {one.name: why for one in self.terms if (why := _not_compiled(one))}
        for one in self.terms:
            if one.name in apart and ("seen" in one.wants or one.reaches is not None or not self.needs_output):
                raise PlanError(
                    f"compile=True: the loss {one.name!r}: {apart[one.name]}, which is not compiled. Leave compile out."
                )
        return not apart

    def check_reaches(self, tree: Tree, moving: Collection[str]) -> None:
        """Raise for a term whose gradient can reach nothing that ever moves.

        Args:
            moving: names of the arrays that move at some step.
        """
        for one in self.terms:
            if one.reaches is None or not moving:
                continue
            names = one.reaches.names(tree)
            if not set(names) & set(moving):
                raise RuleError(
                    f"The loss {one.name!r} reaches {one.reaches!r}: none of its arrays ({some(names)}) ever moves in "
                    "this update. Name a part that moves, or leave reaches= out."
                )

    # -------------------------------------------------------------------------------------------------- measuring

    def measure(
        self, net: nn.Module, read: Reader, values: Any, now: Now, call: Call | None = None
    ) -> tuple[Tensor, tuple[Measured, ...], Any, Any]:
        """The weighted sum of the means, each term, and the net's output and target (None if no term takes them).

        Args:
            now: what the method of that name gave. call: what gives the net's output; None: the net.
        """
        each, output, target = self.measure_each(net, read, values, now, call)
        means = (each[0].mean,) if len(each) == 1 else [one.mean for one in each]
        return weighted_sum(means, now) if self._plain else self.total(means, now), each, output, target

    def total(self, means: Sequence[Tensor], now: Now) -> Tensor:
        """The sum of the means that are in it, each times its weight."""
        if self.all_in_sum:
            return weighted_sum(means, now[: len(means)])
        summed = self.in_sum(now)
        return weighted_sum(list(compress(means, summed)), list(compress(now, summed)))

    def any_unweighted(self, now: Now) -> bool:
        """Whether there is a term of weight 0 at this moment that is no error."""
        return not self.all_in_sum and any(
            not one.error and not yes for one, yes in zip(self.terms, self.in_sum(now), strict=True)
        )

    def in_sum(self, now: Now) -> list[bool]:
        """Which terms are in the sum of a moment."""
        return self._in_sum_at(now) if self._in_sum is None else self._in_sum

    def _in_sum_at(self, now: Now) -> list[bool]:
        # In a compiled step a weight that changes is a tensor, of which nobody may ask what it is.
        found = [not off and (isinstance(now[i], Tensor) or now[i] != 0) for i, off in enumerate(self._off)]
        return found if any(found) else [not one.error for one in self.terms]

    def measure_each(
        self, net: nn.Module, read: Reader, values: Any, now: Now, call: Call | None = None
    ) -> tuple[tuple[Measured, ...], Any, Any]:
        """Each term over one batch, and the net's output and target (None if no term takes them).

        Args:
            now: the numbers of this moment. call: as for `measure`.
        """
        output, target, true, seen = self._called(net, read, values, call)
        if self._plain:
            made = self.terms
            if len(made) == 1:
                return (made[0].measured(net, values, output, target, true),), output, target
            return tuple([one.measured(net, values, output, target, true) for one in made]), output, target
        batch = LossBatch(net, values, output, target, true, now, seen)
        if len(self.terms) == 1:
            return (self._measured(0, batch, {}),), output, target
        if self.all_in_sum:
            computed: dict[int, Any] = {}
            return tuple([self._measured(place, batch, computed) for place in range(len(self.terms))]), output, target
        summed = self.in_sum(now)
        measured = self.measure_in_sum(batch, summed)
        if not all(summed):
            measured.update(self.measure_beside(batch, summed, measured))
        return tuple([measured[place] for place in range(len(self.terms))]), output, target

    @property
    def apart(self) -> tuple[int, ...]:
        """The places of the terms that are never in the sum: a compiled step has them beside its program."""
        return tuple(compress(range(len(self.terms)), self._off))

    def needs_apart(self, takes_net: bool) -> bool:
        """Whether there is one of these that calls the net itself, or one that takes an output."""
        return any((self.terms[place].takes == "net") is takes_net for place in self.apart)

    def measure_sum(
        self, net: nn.Module, read: Reader, values: Any, now: Now
    ) -> tuple[Tensor, tuple[Measured, ...], Any]:
        """The weighted sum, every term but those `apart`, and the net's output without its graph."""
        output, target, true, seen = self._called(net, read, values)
        summed = [not off for off in self._off]
        found = self.measure_in_sum(LossBatch(net, values, output, target, true, now, seen), summed)
        kept = [place for place, yes in enumerate(summed) if yes]
        loss = weighted_sum([found[place].mean for place in kept], [now[place] for place in kept])
        return loss, tuple([found[place] for place in kept]), without_graph(output)

    def measure_apart(
        self, net: nn.Module, read: Reader, values: Any, now: Now, output: Any, takes_net: bool
    ) -> dict[int, Measured]:
        """Of the terms `apart` those that call the net themselves, or those that take an output, by place."""
        target = read(values)[2] if self.needs_output else None
        true = read.true_frames(values) if self.needs_output and isinstance(values, Mapping) else None
        batch = LossBatch(net, values, output, target, true, now, _NOTHING)
        return self.measure_beside(batch, [not off for off in self._off], takes_net=takes_net)

    def measure_in_sum(self, batch: LossBatch, summed: Sequence[bool]) -> dict[int, Measured]:
        """The terms that are in the sum, by place; and those that the same call of a function gives."""
        computed: dict[int, Any] = {}
        sources = {self._sources[place] for place, yes in enumerate(summed) if yes}
        places = [place for place, source in enumerate(self._sources) if source in sources]
        found = {place: self._measured(place, batch, computed) for place in places}
        return {place: one if summed[place] else detached(one) for place, one in found.items()}

    def measure_beside(
        self, batch: LossBatch, summed: Sequence[bool], found: Collection[int] = (), *, takes_net: bool | None = None
    ) -> dict[int, Measured]:
        """The other terms, by place, without a trace: in chance, in statistics of the net, in gradients.

        Args:
            found: places of terms that are measured already. takes_net: only those that call the net themselves, or
                only the others; None: both.
        """
        asked = [i for i, yes in enumerate(summed) if not yes and i not in found]
        if takes_net is not None:
            asked = [i for i in asked if (self.terms[i].takes == "net") is takes_net]
        if not asked:
            return {}
        beside = batch._replace(output=without_graph(batch.output))
        computed: dict[int, Any] = {}
        made: dict[int, Measured] = {}
        for place in asked:
            with self._aside(place, batch.net):
                made[place] = detached(self._measured(place, beside, computed))
        return made

    @contextmanager
    def _aside(self, place: int, net: nn.Module) -> Iterator[None]:
        one = self.terms[place]
        with ExitStack() as stack:
            if one.takes == "net":
                stack.enter_context(undisturbed(net))
            elif one.draws:
                stack.enter_context(same_chance(net))
            if one.error:
                stack.enter_context(torch.no_grad())
            yield

    def _measured(self, place: int, batch: LossBatch, computed: dict[int, Any]) -> Measured:
        """One term; what several take from one call is in `computed`."""
        one, source = self.terms[place], self._sources[place]
        output, target, true = batch.output, batch.target, batch.true
        if true is not None:
            own = self.numbers.named(place, batch.now) if one.settings else _NOTHING
            found = one.measure_true(output, target, true, own)
            if found is not None:
                return self._reaching(place, batch.net, found)
        if source not in computed:
            first = self.terms[source]
            named = self.numbers.named(source, batch.now) if first.settings else _NOTHING
            if batch.seen and first.function in batch.seen:
                named = {**named, "seen": batch.seen[first.function]}
            computed[source] = first.compute(batch.net, batch.values, output, target, true, named)
        found = one.measure(computed[source], batch.values, target)
        return found if one.reaches is None else self._reaching(place, batch.net, found)

    def _reaching(self, place: int, net: nn.Module, measured: Measured) -> Measured:
        """The term, with a gradient for those arrays only that it may reach."""
        part = self.terms[place].reaches
        if part is None:
            return measured
        if place not in self._reached:
            tree = Tree(net)
            self._reached[place] = tuple(tree.arrays[name] for name in part.names(tree))
        return Measured(reaching(measured.mean, self._reached[place]), measured.count)

    def _called(
        self, net: nn.Module, read: Reader, values: Any, call: Call | None = None
    ) -> tuple[Any, Any, Any, Mapping[Any, Any]]:
        """The net's output, the target, which of it is true (see `Reader.true_frames`), and what was watched."""
        if not self._bound:
            self.terms, self._bound = bound_to(self.terms, net), True
            self._prepare()
        if not self.needs_output:
            return None, None, None, _NOTHING
        args, kwargs, target = read(values)
        if self._watching:
            with ExitStack() as stack:
                kept: Mapping[Any, Any] = {one: stack.enter_context(one.watching(net)) for one in self._watching}
                output = net(*args, **kwargs)
        else:
            kept, output = _NOTHING, (call or net)(*args, **kwargs)
        return output, target, read.true_frames(values) if isinstance(values, Mapping) else None, kept

    def learn(self, net: nn.Module, read: Reader, values: Any, progress: Progress) -> None:
        """Find out with one batch whether every term gives a mean: then a batch alone tells what it is taken over."""
        output, target, true, seen = self._called(net, read, values)
        now = self.now(progress)
        named = [self.numbers.named(place, now) for place in range(len(self.terms))]
        named = [
            {**each, "seen": seen[one.function]} if one.function in seen else each
            for one, each in zip(self.terms, named, strict=True)
        ]
        self.counts_known = all(
            one.gives_mean(net, values, output, target, true, each) for one, each in zip(self.terms, named, strict=True)
        )

    def counts(self, read: Reader, values: Any) -> tuple[float | Tensor, ...]:
        """What the mean of each term is taken over in a batch, where that is `told`; the net is not called."""
        target = read(values)[2] if self.needs_output else None
        true = read.true_frames(values) if self.needs_output else None
        return tuple(one.count(values, target, true) for one in self.terms)

    def reached_beside(
        self, net: nn.Module, read: Reader, values: Any, now: Now, arrays: Sequence[Tensor]
    ) -> list[bool]:
        """Which of some arrays those terms reach that have the weight 0 at this moment, and are no errors."""
        summed = self.in_sum(now)
        unweighted = [not one.error and not yes for one, yes in zip(self.terms, summed, strict=True)]
        if not any(unweighted):
            return [False] * len(arrays)
        with undisturbed(net), torch.enable_grad():
            output, target, true, seen = self._called(net, read, values)
            found = self.measure_in_sum(LossBatch(net, values, output, target, true, now, seen), unweighted)
            means = [one.mean for place, one in found.items() if unweighted[place] and one.mean.requires_grad]
            able = [array for array in arrays if array.requires_grad]
            if not (means and able):
                return [False] * len(arrays)
            made = torch.autograd.grad(sum(means[1:], means[0]), able, allow_unused=True)
        got = {id(array) for array, gradient in zip(able, made, strict=True) if gradient is not None}
        return [id(array) in got for array in arrays]


def _not_compiled(one: Term) -> str:
    """Why a term cannot be in one program with the net; errors are computed beside it."""
    if one.error and "seen" not in one.wants:
        return ""
    if one.reaches is not None:
        return f"reaches={one.reaches!r} takes a backward of its own"
    return one.function.not_compiled() if isinstance(one.function, OwnLoss) else ""
