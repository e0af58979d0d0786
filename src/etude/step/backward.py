"""From a batch, or the micro-batches of one step, to gradients that are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import isfinite
from typing import Any, NamedTuple, final

from torch import Tensor, nn

from etude.bind.table import Now
from etude.step.compiled_gradients import CompiledGradients
from etude.step.compiled_net import CompiledNet
from etude.step.loss import Call, Losses, Measured
from etude.step.loss_numbers import Now as Numbers
from etude.step.precision import Precision
from etude.step.reading import Reader
from etude.step.stepper import Stepper
from etude.step.together import Together, counts_of
from etude.step.unreached import Unreached
from etude.values.progress import Progress

_EVERYTHING = nullcontext()


class Computed(NamedTuple):
    """Gradients are there, of a loss and its terms; they are still to be divided by `divisor`: 0 if nothing counts."""

    loss: Tensor
    terms: tuple[Measured, ...]
    divisor: float = 1.0


class Spoiled(NamedTuple):
    """A loss that is not finite, with its terms, in the micro-batch `place`: what gradients there are mean nothing."""

    loss: Tensor
    terms: tuple[Measured, ...]
    place: int = 0


@final
class Backward:
    """Computes the gradients of one update: of what moves, and of nothing else.

    While the loss is computed, every other array of the net is taken out of the graph. Afterwards everything is as
    before, so nobody else ever sees it.

    Args:
        net, losses, read, stepper, precision: what is computed, of what, for whom, and in which numbers.
        looks: whether it is asked if the loss is finite.

    Attributes:
        program: computes loss and gradients, if they are compiled. forward: calls the net, if only that is.
    """

    def __init__(
        self, net: nn.Module, losses: Losses, read: Reader, stepper: Stepper, precision: Precision, looks: bool
    ) -> None:
        self.program: CompiledGradients | None = None
        self.forward: CompiledNet | None = None
        self._net, self._losses, self._read = net, losses, read
        self._stepper, self._precision, self._looks = stepper, precision, looks
        self._unreached = Unreached(losses, net, read)

    def __call__(self, progress: Progress, now: Now, many: Sequence[Any]) -> Computed | Spoiled:
        """Compute gradients over the micro-batches of the step made at `progress`; mostly it is one."""
        indices = self._in_program()
        with self._around(progress, now, not indices):
            found = (
                self._of_one(progress, many[0], indices) if len(many) == 1 else self._of_many(progress, many, indices)
            )
            if not self._losses.all_in_sum and isinstance(found, Computed):
                with self._precision.context():
                    arrays = self._stepper.looked_up(now.moving).arrays
                    self._unreached.fill(arrays, many[-1], self._losses.now(progress))
        return found

    def only(self, now: Now) -> AbstractContextManager[None]:
        """See `Trainer.only_moving`; nothing has to be done where everything moves."""
        return self._stepper.only_moving() if self._stepper.outside(now.moving) else _EVERYTHING

    def together(
        self, progress: Progress, numbers: Numbers, number: int, counts: Sequence[Sequence[float]] | None = None
    ) -> Together:
        """The terms over so many micro-batches, of each of which is told what it counts, if that is known."""
        names = [term.name for term in self._losses.terms]
        return Together(names, self._losses.weights(progress), number, counts, self._losses.in_sum(numbers))

    def _of_one(self, progress: Progress, values: Any, indices: tuple[int, ...]) -> Computed | Spoiled:
        numbers = self._losses.now(progress)
        gradients: Sequence[Tensor | None] = ()
        if self.program is not None and indices:
            loss, measured, gradients = self.program(indices, values, numbers)
        else:
            with self._precision.context():
                loss, measured, _, _ = self._losses.measure(self._net, self._read, values, numbers, self._call())
        if self._looks and not isfinite(loss.item()):
            return Spoiled(loss, measured)
        if indices:
            self._stepper.add_gradients(indices, gradients)
        else:
            self._precision.backward(loss)
        return Computed(loss, measured)

    def _of_many(self, progress: Progress, many: Sequence[Any], indices: tuple[int, ...]) -> Computed | Spoiled:
        numbers = self._losses.now(progress)
        whole = self.together(progress, numbers, len(many), self._counts(numbers, many))
        for place, values in enumerate(many):
            if indices:
                share, measured, gradients = self._share_in_program(whole, values, numbers, indices)
            else:
                with self._precision.context():
                    measured, _, _ = self._losses.measure_each(self._net, self._read, values, numbers, self._call())
                    share = whole.share(measured)
            if share is None:
                continue
            if self._looks and not isfinite(share.item()):
                return Spoiled(share, measured, place)
            if indices:
                self._stepper.add_gradients(indices, gradients, whole.factor)
            else:
                self._precision.backward(share)
        if whole.empty and self._looks:
            return Spoiled(whole.loss(), whole.terms(), len(many) - 1)
        return Computed(whole.loss(), whole.terms(), whole.divisor)

    def _share_in_program(
        self, whole: Together, values: Any, numbers: Numbers, indices: tuple[int, ...]
    ) -> tuple[Tensor | None, tuple[Measured, ...], Sequence[Tensor | None]]:
        """What one micro-batch adds to the loss, its terms, and the gradients of what it adds, but for a factor."""
        weights = whole.weights_of_next()
        if self.program is not None and weights is not None:
            given = (*weights, *numbers[len(weights) :])
            _, measured, gradients = self.program(indices, values, given, changes=True)
            return whole.share(measured), measured, gradients
        # A term of which nothing counts has no mean, and a program would compute with it.
        with self._precision.context():
            measured, _, _ = self._losses.measure_each(self._net, self._read, values, numbers)
            share = whole.share(measured)
        arrays = [self._stepper.arrays[i] for i in indices]
        return share, measured, () if share is None else self._precision.gradients(share, arrays)

    def _in_program(self) -> tuple[int, ...]:
        """Indices of the arrays whose gradients a program computes in this step; () where none does."""
        if self.program is None:
            return ()
        indices = self._stepper.able()
        return indices if self.program.programs.takes(indices) else ()

    def _call(self) -> Call | None:
        """What calls the net in this step, if it is not the net itself."""
        if self.forward is None:
            return None
        indices = self._stepper.able()
        return self.forward.moving(indices) if self.forward.programs.takes(indices) else None

    def _counts(self, numbers: Numbers, many: Sequence[Any]) -> list[list[float]] | None:
        """What the terms are taken over in each micro-batch; for one term only where the batches tell."""
        if len(self._losses.terms) == 1 and not self._losses.counts_known:
            return None
        with self._precision.context():
            return counts_of(self._losses, self._net, self._read, many, numbers)

    def _around(self, progress: Progress, now: Now, hooked: bool) -> AbstractContextManager[None]:
        """Within it gradients are computed: for what moves alone, of the arrays as weight noise makes them."""
        only = self.only(now)
        return _both(only, self._stepper.perturbed(progress, hooked)) if self._stepper.perturbing else only


@contextmanager
def _both(first: AbstractContextManager[None], second: AbstractContextManager[None]) -> Iterator[None]:
    with first, second:
        yield
