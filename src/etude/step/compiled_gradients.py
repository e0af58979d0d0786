"""Loss and gradients as one compiled program, for steps whose update cannot be in it.

What moves the arrays then is what moves them without a program: any optimizer, and all that may happen to gradients and
arrays on the way, such as clipping, noise, ties and a loss scale.
"""

from __future__ import annotations

from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from etude.step.beside import Beside, Given, given
from etude.step.loss import Losses, Measured
from etude.step.loss_numbers import Now as Numbers
from etude.step.precision import Precision
from etude.step.programs import Program, Programs, Ready
from etude.step.reading import Reader
from etude.step.stepper import Stepper

Made: TypeAlias = tuple[Tensor, Given, list[Tensor | None], Any]


@final
class CompiledGradients:
    """Computes the loss of one update and its gradients through compiled programs.

    Attributes:
        programs: those that there are.
    """

    def __init__(self, net: nn.Module, losses: Losses, read: Reader, stepper: Stepper, precision: Precision) -> None:
        self.programs = Programs(net, losses, stepper.table.names)
        self._net, self._losses, self._read = net, losses, read
        self._stepper, self._precision = stepper, precision
        self._beside = Beside(net, losses, read, precision)

    def __call__(
        self, indices: tuple[int, ...], values: Any, numbers: Numbers, changes: bool = False
    ) -> tuple[Tensor, tuple[Measured, ...], list[Tensor | None]]:
        """Compute; nothing moves, but for statistics that the net keeps.

        Args:
            indices: of the arrays whose gradients are wanted. numbers: the weights of the terms, and what else they
                take. changes: whether the next call may have others, though nothing is scheduled.

        Returns:
            the loss, the terms, and the gradients times the loss scale: None for what the loss does not reach.

        Raises:
            PlanError: loss and gradients cannot be compiled as one program.
        """
        early = self._beside.before(values, numbers)
        ready = self._prepared(indices, numbers, changes)
        made: Made = self.programs.call(ready, values, lambda: self._prepared(indices, numbers, changes))
        loss, terms, gradients, output = made
        return loss, self._beside.joined(early, terms, loss, values, numbers, output), _each_its_own(gradients)

    def _prepared(self, indices: tuple[int, ...], numbers: Numbers, changes: bool) -> Ready:
        scheduled = None if self._losses.constant and not changes else self.programs.inputs(numbers)
        scale = torch.tensor(self._precision.scale.value) if self._precision.scale.active else None
        kept = numbers if scheduled is None else None
        key = (indices, kept, self._precision.name, scale is None, self.programs.fixed)
        program = self.programs.of(key, indices, lambda: self._program(indices, numbers))
        return Ready(key, program, (scheduled, scale))

    def _program(self, indices: tuple[int, ...], numbers: Numbers) -> Program:
        net, losses, read, precision = self._net, self._losses, self._read, self._precision
        arrays = [self._stepper.arrays[i] for i in indices]
        gives = self._beside.takes_output

        def program(values: Any, scheduled: Tensor | None, scale: Tensor | None) -> Made:
            now: Any = numbers if scheduled is None else tuple(scheduled.unbind())
            with precision.context():
                loss, measured, output = losses.measure_sum(net, read, values, now)
            scaled = loss if scale is None else loss * scale
            gradients: list[Tensor | None] = [*torch.autograd.grad(scaled, arrays, allow_unused=True)]
            return loss.detach(), given(loss, measured), gradients, output if gives else None

        return program


def _each_its_own(gradients: list[Tensor | None]) -> list[Tensor | None]:
    """Gradients that lie in one memory are made several: programs give what is equal once."""
    seen: set[int] = set()
    for place, gradient in enumerate(gradients):
        if gradient is None or gradient.layout != torch.strided:
            continue
        start = gradient.untyped_storage().data_ptr()
        if start in seen and gradient.numel():
            gradients[place] = gradient.clone()
        seen.add(start)
    return gradients
