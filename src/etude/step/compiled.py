"""A whole step as one compiled program: loss, gradients of what moves, finiteness, and the update rule.

Every set of arrays that moves together has a program of its own, which computes gradients for these arrays only. Rates,
counts and settings that change are inputs of the program, so that a schedule needs no new one. Where the loss or a
gradient is not finite the program leaves every array, memory and buffer as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import isfinite
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from etude.bind.knobs import Knobs
from etude.bind.table import RATE, Moving, Now
from etude.errors import PlanError, warn
from etude.step.lifted import Lifted
from etude.step.loss import Losses, Measured
from etude.step.optim.half import is_low
from etude.step.optim.own import Bundle, OwnOptimizer
from etude.step.perturb import PERTURBING
from etude.step.precision import Precision
from etude.step.reading import Reader
from etude.step.stepper import Stepper
from etude.values.progress import Extent
from etude.values.tree import has_shape

PROGRAMS = 16
"""Sets of moving arrays that get a program; what moves in further sets is stepped without one."""

_NO_SCALE = 'compile=True: fp16 needs a loss scale, which is not compiled. Write precision="bf16".'

Made: TypeAlias = tuple[Tensor, Tensor, list[Tensor], list[Any], list[int], Any]
Program: TypeAlias = Callable[[Any, Tensor, Tensor | None, Tensor | None], Made]
Lifts: TypeAlias = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A program and what it takes besides the batch, for as long as settings and weights are the same."""

    now: Now
    weights: tuple[float, ...]
    key: tuple[Any, ...]
    program: Program
    rates: Tensor
    scheduled: Tensor | None
    changing: Tensor | None
    numbers: str
    fixed: tuple[Any, ...]


class CompiledStep:
    """Steps one update on one net through compiled programs.

    Raises:
        PlanError: the optimizer, the precision or a setting cannot be compiled, or this version of torch cannot do it.
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
        self._optimizer = _compilable(stepper, precision)
        self._net, self._losses, self._read = net, losses, read
        self._stepper, self._precision = stepper, precision
        self._looks, self._ignore_stale = looks, ignore_stale_grad
        self._buffers = tuple(net.buffers())
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._traced: set[tuple[Any, ...]] = set()
        self._ready: _Ready | None = None
        self._less: dict[Moving, Moving] = {}
        self._sets: dict[tuple[int, ...], None] = {}
        self._warned = False
        self._changing = _changing(stepper)
        self._knobs: Lifted | None = None

    def follow(self, knobs: Knobs, extent: Extent) -> None:
        """Be ready for these knobs to change: numbers become inputs of the programs.

        Raises:
            PlanError: a knob that has to be part of a program takes too many values.
        """
        read = [one.function for one in self._losses.terms]
        self._knobs = Lifted(self._net, knobs, extent, read) if knobs.dials else None

    def takes(self, moving: Moving) -> bool:
        """Whether there is a program for what moves now, or room for one."""
        if moving.indices in self._sets or len(self._sets) < PROGRAMS:
            return True
        if not self._warned:
            self._warned = True
            warn(f"More than {PROGRAMS} sets of arrays move in turn: the further ones are not compiled.")
        return False

    def state(self) -> list[list[str]]:
        """Which sets of arrays have programs, by their names: only the first so many are compiled."""
        names = self._stepper.table.names
        return [[names[i] for i in indices] for indices in self._sets]

    def forget(self) -> None:
        """Make programs anew when they are needed: the optimizer has other memory, in other tensors."""
        self._programs.clear()
        self._traced.clear()
        self._ready = None

    def load(self, state: Sequence[Sequence[str]]) -> None:
        """Take over what `state` gave; the programs are made when they are needed."""
        place = {name: i for i, name in enumerate(self._stepper.table.names)}
        self._sets = {tuple(place[name] for name in names): None for names in state}

    def __call__(self, now: Now, values: Any, weights: tuple[float, ...]) -> tuple[Tensor, bool, tuple[Measured, ...]]:
        """Compute, and move unless something is not finite.

        Returns:
            the loss, whether everything was finite, and the terms.
        """
        beside = self._apart(values, weights, None, takes_net=True)
        now = self._reached(now)
        ready = self._ready
        fixed = () if self._knobs is None else self._knobs.key
        numbers = self._precision.name
        # Compared one by one: what stays as it is is nearly always the very same object.
        if (
            ready is None
            or ready.now is not now
            or ready.weights is not weights
            or ready.numbers != numbers
            or ready.fixed != fixed
        ):
            ready = self._ready = self._prepare(now, weights, fixed)
        self._optimizer.count(now, 1)
        # A step that is made again, without arrays that turn out not to be reached, draws the same numbers.
        chance = torch.default_generator.get_state() if self._ignore_stale else None
        try:
            made = self._call(ready, values) if self._knobs is None else self._call_with(self._knobs, ready, values)
        except BaseException:
            self._optimizer.count(now, -1)
            raise
        loss, fine, means, counts, missing, output = made
        ok = bool(fine)
        if not ok:
            self._optimizer.count(now, -1)
        if missing:
            if chance is not None:
                torch.default_generator.set_state(chance)
            return self._again(now, missing, values, weights)
        found = [Measured(mean, count) for mean, count in zip(means or [loss], counts, strict=True)]
        if self._losses.apart:
            beside |= self._apart(values, weights, output, takes_net=False)
            inside = iter(found)
            return loss, ok, tuple(beside.get(i) or next(inside) for i in range(len(self._losses.terms)))
        return loss, ok, tuple(found)

    def _apart(self, values: Any, weights: tuple[float, ...], output: Any, takes_net: bool) -> dict[int, Measured]:
        """Terms that are never in the sum, computed as they are where nothing is compiled: they leave no trace."""
        if not self._losses.needs_apart(takes_net):
            return {}
        with self._precision.context():
            return self._losses.measure_apart(self._net, self._read, values, weights, output, takes_net)

    def _reached(self, now: Now) -> Now:
        """What moves now, without the arrays of which it is known that the loss does not reach them."""
        less = self._less.get(now.moving)
        if less is None:
            return now
        known = self._ready.now if self._ready is not None else None
        return known if known and known.moving is less and known.columns is now.columns else Now(now.columns, less)

    def _again(
        self, now: Now, missing: list[int], values: Any, weights: tuple[float, ...]
    ) -> tuple[Tensor, bool, tuple[Measured, ...]]:
        """The loss does not reach some arrays, so nothing has moved: an error, or the step without them."""
        order = [i for bundle in self._optimizer.prepared(now) for i in bundle.indices]
        if not self._ignore_stale:
            self._stepper.raise_stale(sorted(order[place] for place in missing))
        self._less[now.moving] = self._stepper.table.less(now.moving, frozenset(order[place] for place in missing))
        return self(now, values, weights)

    def _call(self, ready: _Ready, values: Any) -> Made:
        """Run the program; for a batch of another shape it is made anew, which only works while tracing is on."""
        if ready.key in self._traced:
            try:
                return ready.program(values, ready.rates, ready.scheduled, ready.changing)
            except torch._dynamo.exc.TorchDynamoException:
                pass
        with _tracing():
            try:
                made = _explained(ready.program, values, ready.rates, ready.scheduled, ready.changing)
            except PlanError:
                if ready.changing is None:
                    raise
                return self._with_constants(ready, values)
        self._traced.add(ready.key)
        return made

    def _with_constants(self, ready: _Ready, values: Any) -> Made:
        """Where a formula cannot be traced with settings as inputs, they are part of the programs."""
        names, self._changing = self._changing, ()
        self.forget()
        self._ready = self._prepare(ready.now, ready.weights, ready.fixed)
        made = self._call(self._ready, values)
        warn(
            f"compile=True: {', '.join(names)} cannot be an input of the program, as {self._stepper.name} is written: "
            "each value is compiled. Compare with a setting by torch.where, not by if, or leave compile out."
        )
        return made

    def _call_with(self, knobs: Lifted, ready: _Ready, values: Any) -> Made:
        """The same with knobs as inputs; a program that turns out to read others as well is made anew, unused."""
        try:
            with knobs.within():
                return self._call(ready, values)
        except Exception as error:
            if not knobs.found() and not (isinstance(error, PlanError) and knobs.fix(error)):
                raise
        self.forget()
        ready = self._ready = self._prepare(ready.now, ready.weights, knobs.key)
        with knobs.within():
            return self._call(ready, values)

    def _prepare(self, now: Now, weights: tuple[float, ...], knobs: tuple[Any, ...]) -> _Ready:
        """The program for what moves now, and its inputs besides the batch."""
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
        scheduled = None if self._losses.still else torch.tensor(weights)
        numbers = self._precision.name
        if numbers == "fp16":
            raise PlanError(_NO_SCALE)
        key = (now.moving, weights if scheduled is None else None, fixed, climbs, numbers, knobs)
        program = self._programs.get(key)
        if program is None:
            self._sets[now.moving.indices] = None
            program = self._programs[key] = self._program(bundles, weights, climbs, lifts)
        given = [b.settings[name] for b, lifted in zip(bundles, lifts, strict=True) for name in lifted]
        # In double precision, which a share such as 1 - 0.999 needs; arrays keep theirs.
        changing = torch.tensor(given, dtype=torch.float64) if given else None
        sizes = torch.tensor([abs(rate) for rate in rates])
        return _Ready(now, weights, key, program, sizes, scheduled, changing, numbers, knobs)

    def _program(
        self, bundles: Sequence[Bundle], weights: tuple[float, ...], climbs: tuple[bool, ...], lifts: Lifts
    ) -> Program:
        net, losses, read, precision = self._net, self._losses, self._read, self._precision
        rule, looks = self._optimizer.rule, self._looks
        buffers = self._buffers if looks else ()
        gives = losses.needs_apart(takes_net=False)
        arrays = [array for bundle in bundles for array in bundle.arrays]

        def program(values: Any, rates: Tensor, scheduled: Tensor | None, changing: Tensor | None) -> Made:
            now: Any = weights if scheduled is None else tuple(scheduled.unbind())
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
                        news = [old.clone() for old in kept]
                        memory = dict(zip(bundle.memory, news[1:], strict=True))
                        rule.formula(news[0], gradient, memory, bundle.counts[i], settings, climbs[number])
                        for old, new in zip(kept, news, strict=True):
                            old.copy_(torch.where(fine, new, old))
                for buffer, old in zip(buffers, before, strict=True):
                    buffer.copy_(torch.where(fine, buffer, old))
            # A term that is the whole loss is not given twice: outputs that share memory cost extra at each call.
            whole = len(measured) == 1 and measured[0].mean is loss
            output = output if gives else None
            means = [] if whole else [one.mean.detach() for one in measured]
            counts = [one.count for one in measured]
            return loss.detach(), fine, means, counts, missing, output

        guarded = _guarded if self._knobs is None else _watched(self._knobs)
        options: dict[str, Any] = {"guard_filter_fn": guarded, "size_asserts": False, "alignment_asserts": False}
        return torch.compile(_its_own(program), fullgraph=True, dynamic=False, options=options)


def _compilable(stepper: Stepper, precision: Precision) -> OwnOptimizer:
    optimizer = stepper.optimizer
    if not isinstance(optimizer, OwnOptimizer):
        raise PlanError(
            f"compile=True compiles the update too, and {stepper.name!r} is not one of étude's own rules. "
            'Write optimizer="adamw", "adam" or "sgd", or leave compile out.'
        )
    if optimizer.rule.draws or optimizer.rule.takes_sparse:
        raise PlanError(
            f"compile=True: {stepper.name!r} draws numbers or takes sparse gradients, which is not compiled. Leave "
            "compile out."
        )
    if any(has_shape(array) and (is_low(array) or array.is_complex()) for array in stepper.arrays):
        raise PlanError(
            "compile=True: arrays that are float16, bfloat16 or complex themselves are not compiled. Keep the net in "
            'float32 and write precision="bf16", or leave compile out.'
        )
    if "fp16" in precision.names:
        raise PlanError(_NO_SCALE)
    perturbing = sorted(PERTURBING & set(stepper.table.settings))
    if perturbing:
        raise PlanError(
            f"compile=True: {perturbing[0]}= changes the arrays around forward and backward, and these are one program "
            f"with the update. Leave {perturbing[0]} out, or leave compile out."
        )
    if stepper.shapes_gradients:
        raise PlanError(
            f"compile=True: {', '.join(f'{name}=' for name in stepper.extra)} "
            f"{'is' if len(stepper.extra) == 1 else 'are'} not compiled: no setting besides those of the update rule "
            "is. Leave it out, or leave compile out."
        )
    return optimizer


def _changing(stepper: Stepper) -> tuple[str, ...]:
    """Settings of the rule, besides the rate, that are numbers and change for some array."""
    choices = [choice for row in stepper.table.rows for choice in row.choices.items()]
    moving = {name for name, choice in choices if not choice.constant and name != RATE}
    return tuple(name for name in stepper.table.settings if name in moving)


def _is_input(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and isfinite(value) and value != 0


_numbers = count()


def _its_own(program: Program) -> Program:
    """The function with code of its own: torch keeps what it has compiled by code, and may not take one for another."""
    assert isinstance(program, FunctionType)
    name = f"{program.__name__}_{next(_numbers)}"
    code = program.__code__.replace(co_name=name, co_qualname=name)
    return FunctionType(code, program.__globals__, name, program.__defaults__, program.__closure__)


def _guarded(entries: Sequence[Any]) -> list[bool]:
    """Which guards a program keeps: those of the batch, the net, the user's own loss and torch's modes.

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
    return root in ("", "values", "rates", "scheduled", "changing", "net") or ".function" in name


@contextmanager
def _tracing() -> Iterator[None]:
    """Let torch's tracer follow gradients, and keep a program for each set of arrays and each shape of a batch."""
    import torch._dynamo as dynamo

    if not hasattr(dynamo.config, "trace_autograd_ops"):
        raise PlanError(f"compile=True needs torch 2.11 or later, this is {torch.__version__}. Leave compile out.")
    with dynamo.config.patch(trace_autograd_ops=True, recompile_limit=8 * PROGRAMS):
        yield


def _explained(program: Program, *given: Any) -> Made:
    """The first call of a program, in which it is made."""
    try:
        return program(*given)
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise PlanError(
            f"compile=True: the step cannot be compiled as one program: {reason}. Leave compile out, or change what "
            "the message names in the net or the loss."
        ) from error
