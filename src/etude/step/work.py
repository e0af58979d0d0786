"""An update at work: from a batch to moved arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn

from etude.bind.knobs import Knobs
from etude.bind.table import Now
from etude.errors import NonFiniteError, PlanError, StaleGradientError
from etude.step import closure
from etude.step.backward import Backward, Computed, Spoiled
from etude.step.broken import Broken, broken, is_finite
from etude.step.compiled import CompiledStep, is_one_program
from etude.step.compiled_gradients import CompiledGradients
from etude.step.compiled_net import CompiledNet
from etude.step.kept import Kept
from etude.step.loss import PERPLEXITY, Losses, Measured, terms
from etude.step.policies import PolicyLike, Tolerance
from etude.step.policies import policy as policy_of
from etude.step.precision import Precision
from etude.step.programs import Programs
from etude.step.reach import left_out
from etude.step.reading import Reader, samples_in
from etude.step.report import Report
from etude.step.splitting import Splitting
from etude.step.states import some
from etude.step.stepper import Stepper
from etude.step.term import Term
from etude.step.turn import Turns
from etude.step.update import Update
from etude.values.progress import Extent, Progress


@dataclass(frozen=True, slots=True)
class Manner:
    """How steps are made, of whatever update; see `etude.Plan`."""

    non_finite: PolicyLike = "raise"
    ignore_stale_grad: bool = False
    compile: bool = False
    strict: bool = False
    seed: int = 0
    out_of_memory: str = "raise"


class Work:
    """One update on one net: what its losses are, how it steps, and what is told of its steps.

    Args:
        update: what is minimised by moving what. precision: the numbers it is computed in. extent: the length of the
            run.

    Attributes:
        turns: how often it acts in a step.
    """

    def __init__(
        self, update: Update, net: nn.Module, precision: Precision, extent: Extent, manner: Manner | None = None
    ) -> None:
        manner = manner or Manner()
        self.name = update.name
        self.update = update
        self.net = net
        self.losses = Losses(terms(update.loss), net)
        self.turns = Turns(update.name, update.turn)
        self._tolerance = Tolerance(policy_of(manner.non_finite))
        self._tolerance.policy.check(extent)
        self._looks = self._tolerance.policy.looks
        self.stepper = Stepper(net, update.recipe(manner.strict), Progress(extent=extent), seed=manner.seed)
        self.read = Reader(net)
        if any(one.reaches is not None for one in self.losses.terms):
            self.losses.check_reaches(self.stepper.table.tree, self.stepper.table.ever_moving())
        self._names: dict[tuple[bool, bool], tuple[str, tuple[str, ...]]] = {}
        self._precision = precision
        self._ignore_stale = manner.ignore_stale_grad
        self._rate: float | None = None
        self._backward = Backward(net, self.losses, self.read, self.stepper, precision, self._looks)
        self._compiled: CompiledStep | None = None
        if manner.compile:
            self._compile()
        self._splitting = Splitting(manner.out_of_memory, net)
        self._check_together(manner)
        keeps = self._looks or self._splitting.active
        self._statistics = Kept(self._buffers() if keeps else ())

    def step(self, progress: Progress, values: Any) -> Report:
        """Compute the loss of a batch and move what moves at `progress`.

        Raises:
            NonFiniteError: the loss or a gradient is not finite, under "raise" or "stop", or once too often in a row
                under `skip`; nothing is changed.
            StaleGradientError: an array that moves gets no gradient from the loss.
            OutOfMemoryError: out_of_memory="split", and there is no memory for one sample; nothing is changed.
        """
        return self.step_together(progress, (values,))

    def step_together(self, progress: Progress, many: Sequence[Any]) -> Report:
        """Move what moves at `progress`, as if these micro-batches were one batch; see `etude.step.together`.

        Statistics of batch norm are those of one micro-batch after the other, as everywhere in torch.

        Raises:
            NonFiniteError, StaleGradientError, OutOfMemoryError: as `step`; rows count over all micro-batches.
        """
        stepper = self.stepper
        stepper.progress = progress
        if self._precision.changes:
            self._precision.follow(progress)
        now = stepper.table.at(progress, stepper.memory)
        if not now.moving.indices and stepper.rests(now):
            return self.look(progress, many)
        stepper.begin_forward()
        if self._compiled is not None and len(many) == 1 and self._compiled.programs.takes(now.moving.indices):
            return self._step_compiled(self._compiled, now, progress, many[0])
        if stepper.optimizer.needs_closure and len(many) == 1:
            return self._step_with_closure(progress, many[0])
        if self._splitting.active:
            many, found = self._splitting.compute(progress, many, lambda parts: self._computed(progress, now, parts))
        else:
            found = self._computed(progress, now, many)
        return found if isinstance(found, Report) else self._move(progress, now, found, many)

    def _computed(self, progress: Progress, now: Now, many: Sequence[Any]) -> Computed | Report:
        """The gradients of a step, or what is told of it where there are none; then all is as it was before."""
        self.stepper.zero_grad()
        self._statistics.keep()
        try:
            found = self._backward(progress, now, many)
        except Exception:
            self._undo()
            raise
        if isinstance(found, Spoiled):
            self._undo()
            return self._refused(progress, many, found.loss, found.terms, found.place)
        return found if found.divisor else self._report(found.loss, found.terms, many, False)

    def _undo(self) -> None:
        """The loss was computed, and nothing follows from it: no gradient, and statistics as they were."""
        self.stepper.zero_grad()
        self._statistics.restore()

    def _move(self, progress: Progress, now: Now, found: Computed, many: Sequence[Any]) -> Report:
        """Let the optimizer take the gradients that are there."""
        stepper, loss, tolerance = self.stepper, found.loss.detach(), self._tolerance
        # Which scale it was: a step that overflows changes it.
        dynamic = self._precision.scale if self._precision.scale.dynamic else None
        scale, finding = (dynamic.value, dynamic.finding) if dynamic else (1.0, False)
        try:
            made = self._precision.step(stepper, self._ignore_stale, tolerance.asked, found.divisor)
        except NonFiniteError as error:
            self._statistics.restore()
            raise self._tolerance.explained(error) from None
        except StaleGradientError as error:
            self._statistics.restore()
            raise self._out_of_reach(progress, error) from None
        tolerance.follow(made, finding)
        if made:
            return self._report(loss, found.terms, many, bool(now.moving.indices))
        self._statistics.restore()
        names = stepper.not_finite(now)
        why = f"the gradients overflow at the loss scale {scale:g}, which is halved" if finding else ""
        return self._report(loss, found.terms, many, False, names, why, finding)

    def _step_with_closure(self, progress: Progress, values: Any) -> Report:
        """A step of an optimizer that computes the loss of the batch several times; the first one is reported."""
        found: list[tuple[Tensor, tuple[Measured, ...]]] = []

        def compute() -> Tensor:
            loss, measured, _, _ = self.measure(progress, values)
            found.append((loss.detach(), measured))
            torch.autograd.backward(loss)
            return loss

        self._statistics.keep()
        try:
            made = closure.attempt(self.stepper, compute, 1, self._ignore_stale, self._tolerance.asked)
        except StaleGradientError as error:
            self._statistics.restore()
            raise self._out_of_reach(progress, error) from None
        except NonFiniteError as error:
            self._statistics.restore()
            loss, measured = found[-1]
            if is_finite(loss):
                raise self._tolerance.explained(error) from None
            return self._refused(progress, (values,), loss, measured)
        if made:
            self._tolerance.follow(True)
            return self._report(*found[0], (values,), True)
        self._statistics.restore()
        loss, measured = found[-1]
        if not is_finite(loss):
            return self._refused(progress, (values,), loss, measured)
        self._tolerance.follow(False)
        names = self.stepper.not_finite(self.stepper.table.at(progress, self.stepper.memory))
        return self._report(loss, measured, (values,), False, names)

    def _step_compiled(self, compiled: CompiledStep, now: Now, progress: Progress, values: Any) -> Report:
        try:
            with self._backward.only(now):
                loss, fine, measured = compiled(now, values, self.losses.now(progress))
        except StaleGradientError as error:
            raise self._out_of_reach(progress, error) from None
        if not fine:
            return self._refused(progress, (values,), loss, measured)
        self._tolerance.follow(True)
        return self._report(loss, measured, (values,), True)

    def check_left_out(self, loss: Tensor, extent: Extent) -> None:
        """Raise PlanError for arrays that move, and that get no gradient because of what terms say that they reach.

        Args:
            loss: of the first step, with its graph.
        """
        said = [one for one in self.losses.terms if one.reaches is not None]
        if not said or self._ignore_stale or "tie" in self.stepper.extra:
            return
        # A term of weight 0 gives what it alone reaches the gradient 0.
        if self.losses.any_unweighted(self.losses.now(Progress(extent=extent))):
            return
        moving, names = set(self.stepper.table.ever_moving()), self.stepper.table.names
        ids = {id(array): name for name, array in zip(names, self.stepper.arrays, strict=True)}
        lost = [name for name in map(ids.get, map(id, left_out(loss))) if name in moving]
        if lost:
            lost = [name for name in names if name in lost]
            raise PlanError(
                f"The loss {self.name!r}: {some(lost)} would move and get no gradient: a term that depends on them "
                f"says that it reaches other arrays alone. Write {_wider(said, lost)}, or hold them: "
                f"learning_rate_multipliers={{{lost[0]!r}: 0}}."
            )

    def _out_of_reach(self, progress: Progress, error: StaleGradientError) -> StaleGradientError:
        """What a stale gradient means in a run, where every step has a backward of its own."""
        names = ", ".join(map(repr, error.names))
        first = repr(error.names[0])
        said = [one for one in self.losses.terms if one.reaches is not None]
        wider = f" If a term has them for itself, write {_wider(said, error.names)}." if said else ""
        return StaleGradientError(
            f"Step {int(progress.step) + 1}: the loss {self.name!r} does not depend on {names}, which would move now. "
            f"Nothing was changed. Freeze them (learning_rate_multipliers={{{first}: 0}}), or leave them as they are "
            f"with ignore_stale_grad=True.{wider}",
            error.names,
        )

    def _check_together(self, manner: Manner) -> None:
        """Raise PlanError for ways to make a step that exclude one another."""
        name, again = self.stepper.name, self.stepper.optimizer.needs_closure
        if again and "fp16" in self._precision.names:
            raise PlanError(f"precision='fp16' scales the loss, and {name} computes it itself. Write precision='bf16'.")
        if self._splitting.active and (again or manner.compile):
            why = "compile=True makes a program for a whole batch"
            if again:
                why = f"{name} computes the loss of a whole batch again and again"
            raise PlanError(
                f'out_of_memory="split" makes one step of several parts of a batch, and {why}. Leave one of them out, '
                "or write a smaller batch_size."
            )

    def _refused(
        self, progress: Progress, many: Sequence[Any], loss: Tensor, measured: tuple[Measured, ...], place: int = 0
    ) -> Report:
        """Nothing has moved; an error, or a report, says what is not finite in the micro-batch `place`."""
        found, tolerance = self._found(many[place], loss, measured), self._tolerance
        if tolerance.asked == "raise":
            before = sum(map(samples_in, many[:place]))
            raise self._tolerance.explained(found.error(int(progress.step) + 1, before))
        tolerance.follow(False)
        return self._report(loss.detach(), measured, many, False, found.names, found.why)

    def _report(
        self,
        loss: Tensor,
        measured: tuple[Measured, ...],
        many: Sequence[Any],
        moved: bool,
        names: tuple[str, ...] | None = None,
        why: str = "",
        overflow: bool = False,
    ) -> Report:
        """What is told of a step; one that was refused has `names` of what is not finite, which may be none."""
        samples = 0 if self.losses.fixed else sum(map(samples_in, many))
        if names is None:
            return Report(loss, measured, moved, samples)
        what = f"the gradients of {some(names)} are not finite" if names else "a gradient is not finite"
        return Report(loss, measured, moved, samples, True, why or what, names, overflow)

    def measure(
        self, progress: Progress, values: Any, looking: bool = False
    ) -> tuple[Tensor, tuple[Measured, ...], Any, Any]:
        """The weighted sum of the terms over a batch, each term, the net's output and target; nothing moves.

        Output and target are None where the loss calls the net itself. With `looking` the terms are those of
        evaluation.
        """
        losses = self.losses.evaluation if looking else self.losses
        self._precision.follow(progress)
        with self._precision.context():
            return losses.measure(self.net, self.read, values, losses.now(progress))

    def _compile(self) -> None:
        """Let steps be programs: with their update, or up to the gradients, or of the net alone."""
        stepper = self.stepper
        if stepper.optimizer.needs_closure:
            raise PlanError(
                f"compile=True makes a program of a loss and its gradients, and {stepper.name} computes them again and "
                'again in one step. Leave compile out, or write optimizer="adamw".'
            )
        if stepper.hooked and not self.losses.needs_output:
            raise PlanError(
                "compile=True: parameters have hooks, which backward runs, and a program of a loss that calls the net "
                "itself has none. Write the loss as a function of (output, target), or leave compile out."
            )
        if stepper.hooked or not self.losses.compile_with_net():
            self._backward.forward = CompiledNet(self.net, self.losses, stepper, self._precision)
        elif is_one_program(stepper, self._precision):
            given = (self._precision, self._looks, self._ignore_stale)
            self._compiled = CompiledStep(self.net, self.losses, self.read, stepper, *given)
        else:
            self.leave_update_out()

    def leave_update_out(self) -> None:
        """Let compiled steps end with the gradients, because somebody looks at them, or adds them up."""
        if self._backward.forward is not None:
            return
        self._compiled = None
        self._backward.program = CompiledGradients(self.net, self.losses, self.read, self.stepper, self._precision)

    @property
    def _programs(self) -> Programs | None:
        made = self._backward.forward or self._backward.program or self._compiled
        return None if made is None else made.programs

    def follow(self, knobs: Knobs, extent: Extent) -> None:
        """Let compiled steps follow knobs that change.

        Raises:
            PlanError: a knob that has to be part of a compiled program takes too many values.
        """
        if self._programs is not None:
            self._programs.follow(knobs, extent)

    def rate(self, progress: Progress) -> float:
        """The learning rate of the step made at `progress`, before rules."""
        base = self.stepper.table.base_rate
        if self._rate is None or not base.constant:
            self._rate = float(base.at(progress, self.stepper.memory.get(base)) or 0.0)
        return self._rate * self.stepper.table.rate_factor

    def scale_rates(self, factor: float) -> None:
        """From now on every learning rate, rules and schedules included, is multiplied by `factor`."""
        self.stepper.table.scale_rates(factor)

    def go_back(self, memory: Mapping[str, Mapping[str, Any]], losses: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on with other memory of the optimizer, by names of arrays, and other arrays of losses; copies are made.

        What schedules and turns have heard stays, and so does the loss scale.
        """
        self.stepper.zero_grad()
        self.stepper.optimizer.load([memory[name] for name in self.stepper.table.names])
        self.stepper.go_back()
        if self._programs is not None:
            self._programs.forget()
        for name, module in self._modules():
            module.load_state_dict(losses[name])

    def loss_states(self) -> dict[str, dict[str, Any]]:
        """The arrays of losses that keep some, by the name of their term."""
        return {name: module.state_dict() for name, module in self._modules()}

    def moves(self, progress: Progress) -> bool:
        """Whether anything moves in the step made at `progress`."""
        return bool(self.stepper.table.at(progress, self.stepper.memory).moving.indices)

    def state(self) -> dict[str, Any]:
        """What a later run needs to go on: of the stepper, of the loss scale, and what its turn has heard."""
        return {
            **self.stepper.state(),
            "scale": self._precision.state(),
            "heard": self.turns.state(),
            "losses": self.loss_states(),
            "weights": self.losses.state(),
            "refused": self._tolerance.state(),
            "split": self._splitting.state(),
            "compiled": [] if self._programs is None else self._programs.state(),
        }

    def load(self, state: Mapping[str, Any], progress: Progress) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: it is of another optimizer, other arrays or other shapes; nothing is changed.
        """
        heard = self.turns.memory(state["heard"])
        self.losses.load(state.get("weights", []))
        self.stepper.load(state, progress)
        if self._programs is not None:
            self._programs.load(state["compiled"])
        for name, module in self._modules():
            module.load_state_dict(state["losses"].get(name, {}))
        self._precision.load(state["scale"])
        self._tolerance.load(state.get("refused", 0))
        self._splitting.load(state.get("split", 0))
        self.turns.load(heard)

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Losses that keep arrays of their own, such as running statistics, by the name of their term."""
        for term in self.losses.terms:
            if isinstance(term.function, nn.Module) and term.function.state_dict():
                yield term.name, term.function

    def _buffers(self) -> list[Tensor]:
        """What a forward may write to: buffers of the net and of losses, each once."""
        return list(nn.ModuleList([self.net, *self.loss_modules]).buffers())

    @property
    def loss_modules(self) -> tuple[nn.Module, ...]:
        """Losses that are modules, of training and of evaluation."""
        every = (*self.losses.terms, *self.losses.evaluation.terms)
        return tuple(dict.fromkeys(one.function for one in every if isinstance(one.function, nn.Module)))

    @property
    def observers(self) -> list[Callable[[Sequence[Any], bool], None]]:
        """They are told of the parts of a batch that are computed where it may be split; see `Splitting`."""
        return self._splitting.observers

    def names(self, alone: bool, looking: bool = False) -> tuple[str, tuple[str, ...]]:
        """What its loss and its terms are called in the history; `alone` if it is the only update of the run.

        With `looking` the terms are those of evaluation.
        """
        found = self._names.get((alone, looking))
        if found is None:
            losses = self.losses.evaluation if looking else self.losses
            several = len(self.losses.names) > 1
            own = "" if alone else f"{self.name}."
            terms_ = tuple(f"{own}{term.name if several else 'loss'}" for term in losses.terms)
            found = self._names[alone, looking] = f"{own}loss", terms_
        return found

    def exponents(self, alone: bool, looking: bool = False) -> dict[str, str]:
        """What the means of terms are called of which the exponential is told too, and what that is called."""
        losses = self.losses.evaluation if looking else self.losses
        names = self.names(alone, looking)[1]
        told = [one.exponent for one in losses.terms]
        return {name: f"{name}.{PERPLEXITY}" for name in compress(names, told)}

    def see(self, metrics: Mapping[str, float], progress: Progress) -> None:
        """Tell every schedule of the update that listens what was measured."""
        self.stepper.see(metrics, progress)
        self.losses.see(metrics, progress)

    def look(self, progress: Progress, many: Sequence[Any]) -> Report:
        """The loss over the micro-batches of a step in which nothing moves; mostly it is one.

        Raises:
            NonFiniteError: the loss is not finite, as in `step`.
        """
        self.stepper.begin_forward()
        if self._splitting.active:
            return self._splitting.compute(progress, many, lambda parts: self._tried(progress, parts))[1]
        return self._tried(progress, many)

    def _tried(self, progress: Progress, many: Sequence[Any]) -> Report:
        """The same; statistics are as before where the loss is not finite, or memory runs out."""
        self._statistics.keep()
        try:
            loss, measured, shares = self._loss_of(progress, many)
            if not self._looks:
                return self._report(loss, measured, many, False)
            if is_finite(loss):
                self._tolerance.follow(True)
                return self._report(loss, measured, many, False)
            self._statistics.restore()
            bad = (place for place, share in enumerate(shares) if share is not None and not is_finite(share))
            return self._refused(progress, many, loss, measured, next(bad, len(many) - 1))
        except Exception:
            self._statistics.restore()
            raise

    def _loss_of(
        self, progress: Progress, many: Sequence[Any]
    ) -> tuple[Tensor, tuple[Measured, ...], Sequence[Tensor | None]]:
        """The loss, its terms, and what of it each micro-batch gives."""
        with torch.no_grad(), self.stepper.perturbed(progress):
            if len(many) == 1:
                loss, measured, _, _ = self.measure(progress, many[0])
                return loss, measured, (loss,)
            numbers = self.losses.now(progress)
            whole = self._backward.together(progress, numbers, len(many))
            with self._precision.context():
                shares = [
                    whole.share(self.losses.measure_each(self.net, self.read, values, numbers)[0]) for values in many
                ]
            return whole.loss(), whole.terms(), shares

    def _found(self, values: Any, loss: Tensor, measured: tuple[Measured, ...]) -> Broken:
        """What is not finite, and where that began; terms that count for nothing in the loss are not to blame."""
        summed = self.losses.in_sum(self.losses.now(self.stepper.progress))
        told = compress(zip(self.losses.terms, measured, strict=True), summed)
        return broken(loss, {term.name: one for term, one in told}, values, self.stepper.table.tree.arrays)


def _wider(said: Sequence[Term], names: Sequence[str]) -> str:
    """What to write in terms that reach some arrays, so that they reach these too."""
    places = [repr(place) for place in dict.fromkeys(name.rpartition(".")[0] or name for name in names)]
    write = [f"reaches={' | '.join([repr(one.reaches), *places[:3]])} in the term {one.name!r}" for one in said[:2]]
    return ", or ".join(write)
