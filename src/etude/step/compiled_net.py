"""The call of the net as one compiled program, for losses that no program can have: CTC, a teacher, derivatives.

The losses are then taken of what the program gives, and backward goes through it, as in a loop with
`torch.compile(net)`; what moves, and knobs, are seen to as in the other programs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import nn

from etude.step.loss import Losses
from etude.step.precision import Precision
from etude.step.programs import Program, Programs, Ready
from etude.step.reading import tensors_in
from etude.step.stepper import Stepper


@final
class CompiledNet:
    """Calls one net through compiled programs.

    Attributes:
        programs: those that there are.
    """

    def __init__(self, net: nn.Module, losses: Losses, stepper: Stepper, precision: Precision) -> None:
        self.programs = Programs(net, losses, stepper.table.names)
        self._net, self._precision = net, precision

    def moving(self, indices: tuple[int, ...]) -> Callable[..., Any]:
        """What calls the net, where the arrays of these indices are to get gradients.

        It raises PlanError where the net cannot be compiled as one program.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            values = (args, kwargs)
            return self.programs.call(self._prepared(indices, values), values, lambda: self._prepared(indices, values))

        return call

    def _prepared(self, indices: tuple[int, ...], values: Any) -> Ready:
        # Each shape has a program of its own: torch keeps only a few of one function.
        shapes = tuple((tensor.shape, tensor.dtype) for _, tensor in tensors_in(values))
        key = (indices, self._precision.name, self.programs.fixed, shapes)
        return Ready(key, self.programs.of(key, indices, self._program), ())

    def _program(self) -> Program:
        net, precision = self._net, self._precision

        def program(values: Any) -> Any:
            args, kwargs = values
            with precision.context():
                return net(*args, **kwargs)

        return program
