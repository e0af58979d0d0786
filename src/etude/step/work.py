"""An update at work: from a batch to moved arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from etude.bind.table import Now
from etude.errors import NonFiniteError, PlanError, SettingError, StaleGradientError
from etude.step import closure
from etude.step.compiled import CompiledStep
from etude.step.loss import Losses, Measured, terms
from etude.step.precision import Precision
from etude.step.reading import Reader, samples_in, tensors_in
from etude.step.states import as_memory, listed, some
from etude.step.stepper import Stepper
from etude.step.together import Together, counts_of
from etude.step.update import Update
from etude.values.progress import Extent, Progress
from etude.values.tree import has_shape

_EVERYTHING = nullcontext()


@dataclass(frozen=True, slots=True)
class Report:
    """What one update did with one batch.

    Attributes:
        loss: the weighted sum of the terms, a scalar on the device.
        terms: each term, in the order of the update's loss.
        moved: whether anything was moved.
        samples: of the batch, or of all micro-batches; 0 where nobody needs to know, because the weights of the terms
            never change.
        refused: whether the step was refused because a loss or gradient was not finite. why: what was found then.
    """

    loss: Tensor
    terms: tuple[Measured, ...]
    moved: bool
    samples: int = 0
    refused: bool = False
    why: str = ""


class Work:
    """One update on one net.

    Gradients are computed for what moves and for nothing else: while the loss is computed, every other array of the
    net is taken out of the graph. Afterwards everything is as before, so nobody else ever sees it.
    """

    def __init__(
        self,
        update: Update,
        net: nn.Module,
        precision: Precision,
        policy: str,
        ignore_stale_grad: bool,
        compile: bool,
        extent: Extent,
        strict: bool,
        seed: int,
    ) -> None:
        self.name = update.name
        self.update = update
        self.net = net
        self.losses = Losses(terms(update.loss))
        self._checked = None if policy == "apply" else "skip" if policy == "skip" else "raise"
        self.stepper = Stepper(net, update.recipe(strict), Progress(extent=extent), seed=seed)
        self.read = Reader(net)
        self._precision = precision
        self._policy = policy
        self._ignore_stale = ignore_stale_grad
        turn = update.turn
        self.listens = turn is not None and turn.reactive
        self._heard: Any = turn.start() if turn is not None and turn.reactive else None
        self._rate: float | None = None
        self._compiled = (
            CompiledStep(net, self.losses, self.read, self.stepper, precision, policy != "apply", ignore_stale_grad)
            if compile
            else None
        )
        if self.stepper.optimizer.needs_closure and precision.scale.dynamic:
            raise PlanError(
                f"precision='fp16' scales the loss, and {self.stepper.name} computes it itself. Write precision='bf16'."
            )
        self._statistics = _Statistics(() if policy == "apply" else net.buffers())

    def step(self, progress: Progress, values: Any) -> Report:
        """Compute the loss of a batch and move what moves at `progress`.

        Raises:
            NonFiniteError: the loss or a gradient is not finite, under "raise" or "stop"; nothing is changed.
            StaleGradientError: an array that moves gets no gradient from the loss.
        """
        stepper = self.stepper
        stepper.progress = progress
        now = stepper.table.at(progress, stepper.memory)
        if not now.moving.indices:
            return self.look(progress, (values,))
        stepper.begin_forward()
        if self._compiled is not None and self._compiled.takes(now.moving):
            return self._step_compiled(self._compiled, now, progress, values)
        if stepper.optimizer.needs_closure:
            return self._step_with_closure(progress, values)
        stepper.zero_grad()
        with self._only(now):
            self._statistics.keep()
            loss, measured, _, _ = self.measure(progress, values)
            if self._policy != "apply" and not isfinite(loss.item()):
                self._statistics.restore()
                return self._refused(progress, (values,), loss, measured)
            self._precision.backward(loss)
        return self._move(progress, now, loss, measured, (values,))

    def step_together(self, progress: Progress, many: Sequence[Any]) -> Report:
        """Move what moves at `progress`, as if these micro-batches were one batch; see `etude.step.together`.

        Statistics of batch norm are those of one micro-batch after the other, as everywhere in torch.

        Raises:
            NonFiniteError, StaleGradientError: as `step`; rows count over all micro-batches.
        """
        if len(many) == 1:
            return self.step(progress, many[0])
        stepper = self.stepper
        stepper.progress = progress
        now = stepper.table.at(progress, stepper.memory)
        if not now.moving.indices:
            return self.look(progress, many)
        stepper.begin_forward()
        stepper.zero_grad()
        with self._only(now):
            whole = self._together(progress, len(many), self._counts(many))
            self._statistics.keep()
            for place, values in enumerate(many):
                with self._precision.context():
                    measured, _, _ = self.losses.measure_each(self.net, self.read, values)
                    share = whole.share(measured)
                if share is None:
                    continue
                if self._policy != "apply" and not isfinite(share.item()):
                    self._statistics.restore()
                    stepper.zero_grad()
                    return self._refused(progress, many, share, measured, place)
                self._precision.backward(share)
        if whole.empty and self._policy != "apply":
            self._statistics.restore()
            stepper.zero_grad()
            return self._refused(progress, many, whole.loss(), whole.terms(), len(many) - 1)
        if not whole.divisor:
            return self._report(whole.loss(), whole.terms(), many, False)
        return self._move(progress, now, whole.loss(), whole.terms(), many, whole.divisor)

    def _together(self, progress: Progress, number: int, counts: Sequence[Sequence[float]] | None = None) -> Together:
        names = [term.name for term in self.losses.terms]
        return Together(names, self.losses.weights(progress), number, counts)

    def _counts(self, many: Sequence[Any]) -> list[list[float]] | None:
        """What the terms are taken over in each micro-batch; for one term only where the batches tell."""
        if len(self.losses.terms) == 1 and not self.losses.told:
            return None
        with self._precision.context():
            return counts_of(self.losses, self.net, self.read, many)

    def _move(
        self,
        progress: Progress,
        now: Now,
        loss: Tensor,
        measured: tuple[Measured, ...],
        many: Sequence[Any],
        divisor: float = 1.0,
    ) -> Report:
        """Let the optimizer take the gradients that are there, divided by `divisor`."""
        stepper = self.stepper
        try:
            made = self._precision.step(stepper, self._ignore_stale, self._checked, divisor)
        except NonFiniteError:
            self._statistics.restore()
            raise
        except StaleGradientError as error:
            self._statistics.restore()
            raise self._out_of_reach(progress, error) from None
        if made:
            return self._report(loss.detach(), measured, many, True)
        self._statistics.restore()
        return self._report(loss.detach(), measured, many, False, self._which(now))

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
            made = closure.attempt(self.stepper, compute, 1, self._ignore_stale, self._checked)
        except StaleGradientError as error:
            self._statistics.restore()
            raise self._out_of_reach(progress, error) from None
        except NonFiniteError:
            self._statistics.restore()
            loss, measured = found[-1]
            if _finite(loss):
                raise
            return self._refused(progress, (values,), loss, measured)
        if made:
            return self._report(*found[0], (values,), True)
        self._statistics.restore()
        loss, measured = found[-1]
        if not _finite(loss):
            return self._refused(progress, (values,), loss, measured)
        return self._report(
            loss, measured, (values,), False, self._which(self.stepper.table.at(progress, self.stepper.memory))
        )

    def _step_compiled(self, compiled: CompiledStep, now: Now, progress: Progress, values: Any) -> Report:
        try:
            with self._only(now):
                loss, fine, measured = compiled(now, values, self.losses.weights(progress))
        except StaleGradientError as error:
            raise self._out_of_reach(progress, error) from None
        if not fine:
            return self._refused(progress, (values,), loss, measured)
        return self._report(loss, measured, (values,), True)

    def _out_of_reach(self, progress: Progress, error: StaleGradientError) -> StaleGradientError:
        """What a stale gradient means in a run, where every step has a backward of its own."""
        names = ", ".join(map(repr, error.names))
        first = repr(error.names[0])
        return StaleGradientError(
            f"Step {int(progress.step) + 1}: the loss {self.name!r} does not depend on {names}, which would move now. "
            f"Nothing was changed. Freeze them (learning_rate_multipliers={{{first}: 0}}), or leave them as they are "
            "with ignore_stale_grad=True.",
            error.names,
        )

    def _only(self, now: Now) -> AbstractContextManager[None]:
        """See `Trainer.only_moving`; nothing has to be done where everything moves."""
        return self.stepper.only_moving() if self.stepper.outside(now.moving) else _EVERYTHING

    def _refused(
        self, progress: Progress, many: Sequence[Any], loss: Tensor, measured: tuple[Measured, ...], place: int = 0
    ) -> Report:
        """Nothing has moved; under "raise" and "stop" an error says what is not finite in the micro-batch `place`."""
        found = self._found(many[place], loss, measured)
        if self._policy != "skip":
            before = sum(map(samples_in, many[:place]))
            raise self._not_finite(int(progress.step) + 1, found, before)
        return self._report(loss.detach(), measured, many, False, f"{found.what} is not finite. {found.where}".strip())

    def _which(self, now: Now) -> str:
        """Which gradients are not finite, in words."""
        names = self.stepper.not_finite(now)
        return f"the gradients of {some(names)} are not finite" if names else "a gradient is not finite"

    def _report(
        self, loss: Tensor, measured: tuple[Measured, ...], many: Sequence[Any], moved: bool, refused: str = ""
    ) -> Report:
        samples = 0 if self.losses.fixed else sum(map(samples_in, many))
        return Report(loss, measured, moved, samples, bool(refused), refused)

    def measure(self, progress: Progress, values: Any) -> tuple[Tensor, tuple[Measured, ...], Any, Any]:
        """The weighted sum of the terms over a batch, each term, the net's output and target; nothing moves.

        Output and target are None where the loss calls the net itself.
        """
        weights = self.losses.weights(progress)
        with self._precision.context():
            return self.losses.measure(self.net, self.read, values, weights)

    def turns(self, progress: Progress) -> int:
        """How often the update acts in the step made at `progress`."""
        turn = self.update.turn
        if turn is None:
            return 1
        times = turn.at(progress, self._heard)
        if not isinstance(times, int) or times < 0:
            raise SettingError(
                f"Update({self.name!r}): its turn is {times!r}. True, False or a whole number is needed."
            )
        return int(times)

    def hear(self, losses: dict[str, float]) -> None:
        """Tell a turn that listens what the losses of the step were."""
        if self.listens:
            assert self.update.turn is not None
            self._heard = self.update.turn.see(self._heard, losses)

    def rate(self, progress: Progress) -> float:
        """The learning rate of the step made at `progress`, before rules."""
        base = self.stepper.table.base_rate
        if self._rate is None or not base.constant:
            self._rate = float(base.at(progress, self.stepper.memory.get(base)) or 0.0)
        return self._rate

    def moves(self, progress: Progress) -> bool:
        """Whether anything moves in the step made at `progress`."""
        return bool(self.stepper.table.at(progress, self.stepper.memory).moving.indices)

    def state(self) -> dict[str, Any]:
        """What a later run needs to go on: of the stepper, of the loss scale, and what its turn has heard."""
        return {
            **self.stepper.state(),
            "scale": self._precision.scale.state(),
            "heard": self._heard,
            "losses": {name: module.state_dict() for name, module in self._modules()},
            "compiled": [] if self._compiled is None else self._compiled.state(),
        }

    def load(self, state: Mapping[str, Any], progress: Progress) -> None:
        """Take over what `state` gave.

        Raises:
            StateError: it is of another optimizer, other arrays or other shapes; nothing is changed.
        """
        turn = self.update.turn
        heard = as_memory(turn, state["heard"]) if turn is not None and self.listens else None
        self.stepper.load(state, progress)
        if self._compiled is not None:
            self._compiled.load(state["compiled"])
        for name, module in self._modules():
            module.load_state_dict(state["losses"].get(name, {}))
        self._precision.scale.load(state["scale"])
        self._heard = heard

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Losses that keep arrays of their own, such as running statistics, by the name of their term."""
        for term in self.losses.terms:
            if isinstance(term.function, nn.Module) and term.function.state_dict():
                yield term.name, term.function

    def names(self, alone: bool) -> tuple[str, tuple[str, ...]]:
        """What its loss and its terms are called in the history; `alone` if it is the only update of the run."""
        terms_ = tuple(term.name for term in self.losses.terms)
        if alone:
            return "loss", terms_ if len(terms_) > 1 else ("loss",)
        return f"{self.name}.loss", tuple(f"{self.name}.{name}" for name in terms_) if len(terms_) > 1 else (
            f"{self.name}.loss",
        )

    def look(self, progress: Progress, many: Sequence[Any]) -> Report:
        """The loss over the micro-batches of a step in which nothing moves; mostly it is one."""
        self.stepper.begin_forward()
        with torch.no_grad():
            if len(many) == 1:
                loss, measured, _, _ = self.measure(progress, many[0])
                return self._report(loss, measured, many, False)
            whole = self._together(progress, len(many))
            with self._precision.context():
                for values in many:
                    whole.share(self.losses.measure_each(self.net, self.read, values)[0])
            return self._report(whole.loss(), whole.terms(), many, False)

    def _found(self, values: Any, loss: Tensor, measured: tuple[Measured, ...]) -> _Found:
        """What is not finite, and where that began."""
        named = tuple(term.name for term, m in zip(self.losses.terms, measured, strict=True) if not _finite(m.mean))
        what = f"the loss {listed(named) or repr('loss')}" if not _finite(loss) else "a gradient"
        if any(not float(m.count) for m in measured):
            return _Found(what, "It is a mean over nothing: every target is ignored, or padding.", named)
        inputs = {name: tensor for name, tensor in tensors_in(values) if not _finite(tensor)}
        if inputs:
            rows = _rows(next(iter(inputs.values())))
            return _Found(what, f"The batch has NaN or infinity in {', '.join(inputs)}.", tuple(inputs), rows)
        arrays = tuple(name for name, array in self.stepper.table.tree.arrays.items() if not _finite(array))
        if arrays:
            return _Found(what, f"The net has NaN or infinity in {some(arrays)}.", arrays)
        return _Found(what, "", named)

    def _not_finite(self, number: int, found: _Found, before: int) -> NonFiniteError:
        where = found.where or (
            "The batch and the arrays of the net are finite: the numbers overflow on the way. Lower the learning "
            "rate, clip gradients (clip_norm=1.0), or scale the data."
        )
        return NonFiniteError(
            f"Step {number} is refused: {found.what} is not finite. {where} This update changed nothing. "
            'To leave such steps out write non_finite="skip".',
            found.names,
            number,
            tuple(row + before for row in found.rows),
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """What is not finite, in words; where that began, in a sentence, if it is known; names and rows for the error."""

    what: str
    where: str
    names: tuple[str, ...]
    rows: tuple[int, ...] = ()


class _Statistics:
    """Buffers of a net, kept before each step, so that a step that is refused leaves no trace in them."""

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        self._buffers = [buffer for buffer in buffers if has_shape(buffer) and buffer.numel()]
        self._kept = [torch.empty_like(buffer) for buffer in self._buffers]

    def keep(self) -> None:
        """Take a copy."""
        if self._kept:
            with torch.no_grad():
                torch._foreach_copy_(self._kept, self._buffers)

    def restore(self) -> None:
        """Put the copy back."""
        if self._kept:
            with torch.no_grad():
                torch._foreach_copy_(self._buffers, self._kept)


def _finite(tensor: Any) -> bool:
    if not isinstance(tensor, Tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return bool(torch.isfinite(tensor.detach()).all())


def _rows(tensor: Tensor) -> tuple[int, ...]:
    """The rows that hold NaN or infinity."""
    wrong = ~torch.isfinite(tensor.detach())
    found: list[int] = wrong.reshape(len(tensor), -1).any(1).nonzero().flatten().tolist() if tensor.dim() else []
    return tuple(found)
