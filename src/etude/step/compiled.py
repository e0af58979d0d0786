"""A whole step as one compiled program: loss, gradients of what moves, finiteness, and the update rule.

Every set of arrays that moves together has a program of its own, which computes gradients for these arrays only. Rates,
counts and settings that change are inputs of the program, so that a schedule needs no new one. Where the loss or a
gradient is not finite the program leaves every array, memory and buffer as it was.

What else may happen in a step, such as clipping, is not in such a program: see `etude.step.compiled_gradients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from etude.bind.table import RATE, Moving, Now
from etude.errors import warn
from etude.step.beside import Beside, Given, given
from etude.step.loss import Losses, Measured
from etude.step.loss_numbers import Now as Numbers
from etude.step.optim.half import is_low
from etude.step.optim.own import Bundle, OwnOptimizer
from etude.step.precision import Precision
from etude.step.programs import Program, Programs, Ready
from etude.step.reading import Reader
from etude.step.stepper import Stepper
from etude.values.tree import has_shape

Made: TypeAlias = tuple[Tensor, Tensor, Given, list[int], Any]
Lifts: TypeAlias = tuple[tuple[str, ...], ...]


def is_one_program(stepper: Stepper, precision: Precision) -> bool:
    """Whether a step may be one program, its update included: by a rule of ours, and with nothing beside the rule."""
    optimizer = stepper.optimizer
    if not isinstance(optimizer, OwnOptimizer) or optimizer.rule.draws or optimizer.rule.takes_sparse:
        return False
    if stepper.extra or "fp16" in precision.names:
        return False
    return not any(has_shape(array) and (is_low(array) or array.is_complex()) for array in stepper.arrays)


class _Last(NamedTuple):
    """The program that is ready, and what it was made ready for: as long as that is the same, it stays ready."""

    now: Now
    numbers: Numbers
    precision: str
    fixed: tuple[Any, ...]
    age: int
    ready: Ready


class CompiledStep:
    """Steps one update on one net through compiled programs.

    Args:
        looks: whether it is asked if everything is finite. ignore_stale_grad: as for `Trainer`.

    Attributes:
        programs: those that there are.
    """

    def __init__(
        self,
        net: nn.Module,
        losses: Losses,
        read: Reader,
        stepper: Stepper,
        precision: Precision,
        looks: bool,
        ignore_stale_grad: bool,
    ) -> None:
        self.programs = Programs(net, losses, stepper.table.names)
        self._optimizer = cast(OwnOptimizer, stepper.optimizer)
        self._net, self._losses, self._read = net, losses, read
        self._stepper, self._precision = stepper, precision
        self._beside = Beside(net, losses, read, precision)
        self._looks, self._ignore_stale = looks, ignore_stale_grad
        self._buffers = tuple(net.buffers())
        self._last: _Last | None = None
        self._less: dict[Moving, Moving] = {}
        self._changing = _changing(stepper)
        self._constants: tuple[str, ...] = ()

    def __call__(self, now: Now, values: Any, numbers: Numbers) -> tuple[Tensor, bool, tuple[Measured, ...]]:
        """Compute, and move unless something is not finite.

        Args:
            numbers: the weights of the terms, and what else the losses take.

        Returns:
            the loss, whether everything was finite, and the terms.

        Raises:
            PlanError: the step cannot be compiled as one program.
            StaleGradientError: the loss does not reach an array that moves; nothing is changed.
        """
        early = self._beside.before(values, numbers)
        now = self._reached(now)
        # Memory is there once a program is ready for what moves.
        ready = self._prepared(now, numbers)
        self._optimizer.count(now, 1)
        # A step that is made again, without arrays that turn out not to be reached, draws the same numbers.
        chance = torch.default_generator.get_state() if self._ignore_stale else None
        try:
            made: Made = self.programs.call(ready, values, lambda: self._prepared(now, numbers))
        except BaseException:
            self._optimizer.count(now, -1)
            raise
        if self._constants:
            self._tell_constants()
        loss, fine, terms, missing, output = made
        ok = bool(fine)
        if not ok:
            self._optimizer.count(now, -1)
        if missing:
            if chance is not None:
                torch.default_generator.set_state(chance)
            return self._again(now, missing, values, numbers)
        return loss, ok, self._beside.joined(early, terms, loss, values, numbers, output)

    def _reached(self, now: Now) -> Now:
        """What moves now, without the arrays of which it is known that the loss does not reach them."""
        less = self._less.get(now.moving)
        if less is None:
            return now
        known = self._last.now if self._last is not None else None
        return known if known and known.moving is less and known.columns is now.columns else Now(now.columns, less)

    def _again(
        self, now: Now, missing: list[int], values: Any, numbers: Numbers
    ) -> tuple[Tensor, bool, tuple[Measured, ...]]:
        """The loss does not reach some arrays, so nothing has moved: an error, or the step without them."""
        order = [i for bundle in self._optimizer.prepared(now) for i in bundle.indices]
        if not self._ignore_stale:
            self._stepper.raise_stale(sorted(order[place] for place in missing))
        self._less[now.moving] = self._stepper.table.less(now.moving, frozenset(order[place] for place in missing))
        return self(now, values, numbers)

    def _prepared(self, now: Now, numbers: Numbers) -> Ready:
        """The program for what moves now, and its inputs besides the batch."""
        last, precision, fixed, age = self._last, self._precision.name, self.programs.fixed, self.programs.age
        # Compared one by one: what stays as it is is nearly always the very same object.
        if (
            last is None
            or last.now is not now
            or last.numbers is not numbers
            or last.precision != precision
            or last.fixed != fixed
            or last.age != age
        ):
            ready = self._prepare(now, numbers, precision, fixed)
            last = self._last = _Last(now, numbers, precision, fixed, self.programs.age, ready)
        return last.ready

    def _prepare(self, now: Now, numbers: Numbers, precision: str, knobs: tuple[Any, ...]) -> Ready:
        bundles = self._optimizer.prepared(now)
        rates = [now.columns[RATE][bundle.row] for bundle in bundles]
        # A setting that changes is an input too, but for 0, of which formulas leave out what it is for.
        lifts = tuple(tuple(name for name in self._changing if _is_input(b.settings[name])) for b in bundles)
        fixed = tuple(
            tuple(key if key in lifted else value for key, value in b.settings.items() if key != RATE)
            for b, lifted in zip(bundles, lifts, strict=True)
        )
        climbs = tuple(rate < 0 for rate in rates)
        # A weight that changes is an input of the program; one that does not is part of it.
        scheduled = None if self._losses.constant else self.programs.inputs(numbers)
        key = (now.moving, numbers if scheduled is None else None, fixed, climbs, precision, knobs)
        program = self.programs.of(key, now.moving.indices, lambda: self._program(bundles, numbers, climbs, lifts))
        settings = [b.settings[name] for b, lifted in zip(bundles, lifts, strict=True) for name in lifted]
        # In double precision, which a share such as 1 - 0.999 needs; arrays keep theirs.
        changing = torch.tensor(settings, dtype=torch.float64) if settings else None
        sizes = torch.tensor([abs(rate) for rate in rates], dtype=torch.float64)
        otherwise = None if changing is None else lambda: self._with_constants(now, numbers)
        return Ready(key, program, (sizes, scheduled, changing), otherwise)

    def _with_constants(self, now: Now, numbers: Numbers) -> Ready:
        """Where a formula cannot be traced with settings as inputs, they are part of the programs."""
        self._constants, self._changing = self._changing, ()
        self.programs.forget()
        return self._prepared(now, numbers)

    def _tell_constants(self) -> None:
        """Warn, once that has worked, of settings that are part of the programs."""
        names, self._constants = self._constants, ()
        warn(
            f"compile=True: {', '.join(names)} cannot be an input of the program, as {self._stepper.name} is written: "
            "each value is compiled. Compare with a setting by torch.where, not by if, or leave compile out."
        )

    def _program(self, bundles: Sequence[Bundle], numbers: Numbers, climbs: tuple[bool, ...], lifts: Lifts) -> Program:
        net, losses, read, precision = self._net, self._losses, self._read, self._precision
        rule, looks = self._optimizer.rule, self._looks
        buffers = self._buffers
        gives = self._beside.takes_output
        arrays = [array for bundle in bundles for array in bundle.arrays]

        def program(values: Any, rates: Tensor, scheduled: Tensor | None, changing: Tensor | None) -> Made:
            now: Any = numbers if scheduled is None else tuple(scheduled.unbind())
            before = [buffer.clone() for buffer in buffers]
            with precision.context():
                loss, measured, output = losses.measure_sum(net, read, values, now)
            gradients = torch.autograd.grad(loss, arrays, allow_unused=True)
            # Which arrays the loss does not reach is known when the program is made: nothing moves then.
            missing = [i for i, gradient in enumerate(gradients) if gradient is None]
            with torch.no_grad():
                fine = torch.isfinite(loss) if looks else torch.ones_like(loss, dtype=torch.bool)
                if missing:
                    fine = torch.zeros_like(loss, dtype=torch.bool)
                for gradient in [g for g in gradients if g is not None] if looks else ():
                    fine = fine & torch.isfinite(gradient).all()
                place = seat = 0
                for number, bundle in enumerate(bundles):
                    settings = {**bundle.settings, RATE: rates[number]}
                    for name in lifts[number]:
                        assert changing is not None
                        settings[name], seat = changing[seat], seat + 1
                    for i, array in enumerate(bundle.arrays):
                        gradient, place = gradients[place], place + 1
                        if gradient is None:
                            continue
                        kept = [array, *(tensors[i] for tensors in bundle.memory.values())]
                        if not array.dim():
                            kept, gradient = [_line(one) for one in kept], _line(gradient)
                        news = [old.clone() for old in kept]
                        memory = dict(zip(bundle.memory, news[1:], strict=True))
                        rule.formula(news[0], gradient, memory, bundle.counts[i].double(), settings, climbs[number])
                        for old, new in zip(kept, news, strict=True):
                            old.copy_(torch.where(fine, new, old))
                # Where it is known that the step will be made, what was kept is left out of the program.
                for buffer, old in zip(buffers, before, strict=True) if looks or missing else ():
                    _line(buffer).copy_(torch.where(fine, _line(buffer), _line(old)))
            return loss.detach(), fine, given(loss, measured), missing, output if gives else None

        return program


def _line(tensor: Tensor) -> Tensor:
    """A tensor without dimensions as one of one: torch's tracer loses what is written into such in float64."""
    return tensor if tensor.dim() else tensor.view(1)


def _changing(stepper: Stepper) -> tuple[str, ...]:
    """Settings of the rule, besides the rate, that are numbers and change for some array."""
    choices = [choice for row in stepper.table.rows for choice in row.choices.items()]
    moving = {name for name, choice in choices if not choice.constant and name != RATE}
    return tuple(name for name in stepper.table.settings if name in moving)


def _is_input(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and isfinite(value) and value != 0
