"""Programs that torch.compile makes: found by what they are made for, traced with knobs as inputs, used again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from etude.bind.knobs import Knobs
from etude.errors import PlanError, warn
from etude.step.lifted import Lifted
from etude.step.loss import Losses
from etude.values.progress import Extent

MOST_SETS = 16
"""Sets of moving arrays that get programs; what moves in further sets is stepped without."""

MOST_SHAPES = 128
"""Shapes of batches that get a program, for each set."""

Program: TypeAlias = Callable[..., Any]
Key: TypeAlias = tuple[Any, ...]

_GUARDED = frozenset({"", "net", "values", "rates", "scheduled", "changing", "scale"})
"""The net, and the arguments of programs: what may be another at a call."""
_numbers = count()


@dataclass(frozen=True, slots=True)
class Ready:
    """A program and what it takes.

    Attributes:
        key: what it was made for. given: its arguments after the batch.
        otherwise: makes another one for the same, to be used where this one cannot be traced; None: there is none.
    """

    key: Key
    program: Program
    given: tuple[Any, ...]
    otherwise: Callable[[], Ready] | None = None


class Programs:
    """The compiled programs of one update on one net.

    Args:
        net: what they call. losses: the functions of its terms, and modules in them, are read by every program.
        names: of the arrays of the table, in order.
    """

    def __init__(self, net: nn.Module, losses: Losses, names: Sequence[str]) -> None:
        self._net, self._losses, self._names = net, losses, tuple(names)
        self._made: dict[Key, Program] = {}
        self._traced: set[Key] = set()
        self._sets: dict[tuple[int, ...], None] = {}
        self._warned = False
        self._knobs: Lifted | None = None
        double = any(array.dtype == torch.float64 for array in net.parameters())
        self._dtype = torch.float64 if double else torch.float32
        self.age = 0
        """How often programs were forgotten: what was ready before is not any more."""

    def follow(self, knobs: Knobs, extent: Extent) -> None:
        """Be ready for these knobs to change: numbers become inputs of the programs.

        Raises:
            PlanError: a knob that has to be part of a program takes too many values.
        """
        read = [one.function for one in self._losses.terms]
        self._knobs = Lifted(self._net, knobs, extent, read) if knobs.dials else None

    @property
    def fixed(self) -> Key:
        """The values of knobs that are part of a program."""
        return () if self._knobs is None else self._knobs.key

    def takes(self, indices: tuple[int, ...]) -> bool:
        """Whether there is a program for the arrays that move now, or room for one."""
        if indices in self._sets or len(self._sets) < MOST_SETS:
            return True
        if not self._warned:
            self._warned = True
            warn(f"More than {MOST_SETS} sets of arrays move in turn: the further ones are not compiled.")
        return False

    def inputs(self, numbers: Sequence[float]) -> Tensor:
        """Weights and settings of losses as an input: single numbers of the type that the loss has."""
        return torch.tensor(numbers, dtype=self._dtype)

    def of(self, key: Key, indices: tuple[int, ...], make: Callable[[], Program]) -> Program:
        """The program of a key; `make` gives the function that is compiled where there is none."""
        found = self._made.get(key)
        if found is None:
            self._sets[indices] = None
            guarded = _guarded if self._knobs is None else _watched(self._knobs)
            options: dict[str, Any] = {"guard_filter_fn": guarded, "size_asserts": False, "alignment_asserts": False}
            found = torch.compile(_its_own(make()), fullgraph=True, dynamic=False, options=options)
            self._made[key] = found
        return found

    def call(self, ready: Ready, values: Any, prepare: Callable[[], Ready]) -> Any:
        """What the program that is ready gives for a batch.

        With knobs, a program that turns out to read others as well is made anew, unused: `prepare` makes it ready.

        Raises:
            PlanError: the step cannot be traced as one program.
        """
        knobs = self._knobs
        if knobs is None:
            return self._call(ready, values)
        try:
            with knobs.within():
                return self._call(ready, values)
        except Exception as error:
            if not knobs.found() and not (isinstance(error, PlanError) and knobs.fix(error)):
                raise
        self.forget()
        ready = prepare()
        with knobs.within():
            return self._call(ready, values)

    def forget(self) -> None:
        """Make programs anew when they are needed: what they were made for lies in other tensors."""
        self._made.clear()
        self._traced.clear()
        self.age += 1

    def state(self) -> list[list[str]]:
        """Which sets of arrays have programs, by their names: only the first so many are compiled."""
        return [[self._names[i] for i in indices] for indices in self._sets]

    def load(self, state: Sequence[Sequence[str]]) -> None:
        """Take over what `state` gave; the programs are made when they are needed."""
        place = {name: i for i, name in enumerate(self._names)}
        self._sets = {tuple(place[name] for name in names): None for names in state}

    def _call(self, ready: Ready, values: Any) -> Any:
        """Run the program; for a batch of another shape it is made anew, which only works while tracing is on."""
        if ready.key in self._traced:
            try:
                return ready.program(values, *ready.given)
            except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit):
                pass
        with _tracing():
            try:
                made = _explained(ready.program, values, *ready.given)
            except PlanError:
                if ready.otherwise is None:
                    raise
                return self._call(ready.otherwise(), values)
        self._traced.add(ready.key)
        return made


def _its_own(program: Program) -> Program:
    """The function with code of its own: torch keeps what it has compiled by code, and may not take one for another."""
    assert isinstance(program, FunctionType)
    name = f"{program.__name__}_{next(_numbers)}"
    code = program.__code__.replace(co_name=name, co_qualname=name)
    return FunctionType(code, program.__globals__, name, program.__defaults__, program.__closure__)


def _guarded(entries: Sequence[Any]) -> list[bool]:
    """Which guards a program keeps: those of the batch, its other arguments, the net, the user's loss, torch's modes.

    What is ours (rows, settings, terms) is in the key of the program: it cannot change, and is not looked at again.
    """
    return [_theirs(entry.name) for entry in entries]


def _watched(knobs: Lifted) -> Callable[[Sequence[Any]], list[bool]]:
    """The same, for a net with knobs, which look at what a program reads."""

    def guarded(entries: Sequence[Any]) -> list[bool]:
        knobs.look(entry.value for entry in entries if entry.has_value)
        return _guarded(entries)

    return guarded


def _theirs(name: str) -> bool:
    root = name.replace("L['", "", 1).split(".")[0].split("[")[0].rstrip("']")
    return root in _GUARDED or ".function" in name


@contextmanager
def _tracing() -> Iterator[None]:
    """Let torch's tracer follow gradients, and keep a program for each set of arrays and each shape of a batch."""
    import torch._dynamo as dynamo

    if not hasattr(dynamo.config, "trace_autograd_ops"):
        raise PlanError(f"compile=True needs torch 2.11 or later, this is {torch.__version__}. Leave compile out.")
    with dynamo.config.patch(trace_autograd_ops=True, recompile_limit=MOST_SHAPES):
        yield


def _explained(program: Program, *given: Any) -> Any:
    """The first call of a program, in which it is made."""
    try:
        return program(*given)
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:
        raise PlanError(
            f"compile=True: more than {MOST_SHAPES} shapes of batches, each of which is compiled. Give Data(..., "
            "buckets=8), which pads to a few, or leave compile out."
        ) from error
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise PlanError(
            f"compile=True: the step cannot be compiled as one program: {reason}. Leave compile out, or change what "
            "the message names in the net or the loss."
        ) from error
