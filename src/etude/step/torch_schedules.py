"""Schedules from the schedulers of `torch.optim.lr_scheduler`, and schedulers of torch from schedules.

A scheduler of torch ticks and writes into its optimizer. `from_torch` gives one an optimizer of its own, plays it
forward as far as it is asked, and keeps what it wrote: what comes out is a schedule like any other, pure, resumable at
any step, part of products, cycles and pieces. `to_torch` goes the other way, for a loop that has a plain optimizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor, nan
from typing import TYPE_CHECKING, Any, TypeAlias, final

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from etude.errors import ScheduleError, nearest
from etude.values.algebra import Memory, Schedule, schedule
from etude.values.lengths import amount_on
from etude.values.literals import number
from etude.values.preview import as_extent
from etude.values.progress import TINY, Extent, Progress
from etude.values.spans import Span, progress_span, steps

if TYPE_CHECKING:
    from etude.values.algebra import ScheduleLike

Scheduler: TypeAlias = "Callable[[torch.optim.Optimizer], LRScheduler] | LRScheduler"

_SETTINGS = ("learning_rate", "momentum")
_EVERY_STEP = steps(1)


class _Player:
    """A scheduler of torch with an optimizer of its own, played forward; every value that it wrote is kept."""

    def __init__(self, scheduler: LRScheduler, group: dict[str, Any], setting: str) -> None:
        self._scheduler = scheduler
        self._group = group
        self._setting = setting
        self._ended = ""
        self._values = [self._value()]

    def __getitem__(self, times: int) -> float:
        """The value after so many calls of the scheduler's step(); ScheduleError where torch refuses them."""
        while len(self._values) <= times:
            self._step()
        return self._values[times]

    def __len__(self) -> int:
        return len(self._values)

    def _step(self) -> None:
        if not self._ended:
            try:
                self._scheduler.step()
            except Exception as error:
                # It may be left half stepped: from here on there is nothing to ask it.
                self._ended = _shown(error)
        if self._ended:
            raise ScheduleError(
                f"the scheduler has {len(self._values)} values and refuses the next step(): {self._ended}"
            )
        self._values.append(self._value())

    def _value(self) -> float:
        if self._setting == "learning_rate":
            return float(self._group["lr"])
        return float(self._group["betas"][0] if "betas" in self._group else self._group["momentum"])


@final
@dataclass(frozen=True, slots=True, repr=False)
class FromTorch(Schedule):
    """What a scheduler of torch writes into its optimizer; made by `from_torch`."""

    make: Scheduler
    rate: float | None
    every: Span
    setting: str
    _name: str = field(compare=False)
    _played: _Player = field(compare=False)

    def at(self, progress: Progress, memory: Memory = None) -> float:
        every = self.every
        times = max(floor(progress.amount(every.unit) / every.amount + TINY), 0)
        try:
            return self._played[times]
        except ScheduleError as error:
            end = Span(every.amount * len(self._played), every.unit)
            raise ScheduleError(f"{self!r}: {error}. Write .until({end!r}).then(value).") from None

    def __repr__(self) -> str:
        # What is in angle brackets is no text that could be read back: the scheduler's arguments are not known.
        rate = "" if self.rate is None else f", {self.rate!r}"
        every = "" if self.every == _EVERY_STEP else f", every={self.every!r}"
        setting = "" if self.setting == "learning_rate" else f", setting={self.setting!r}"
        return f"from_torch(<{self._name}>{rate}{every}{setting})"

    def _inspect(self, clock: Progress, life: Extent) -> None:
        amount_on(clock, self.every.unit, self)


def from_torch(
    make: Scheduler, rate: float | None = None, every: Span = _EVERY_STEP, setting: str = "learning_rate"
) -> Schedule:
    """The schedule that a scheduler of `torch.optim.lr_scheduler` (or of its base class `LRScheduler`) follows.

        from_torch(lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=1000))
        from_torch(lambda optimizer: StepLR(optimizer, 30), rate=0.1, every=epochs(1))

    The value before step `t` is what the optimizer's group holds after `t` calls of `scheduler.step()`. To ask for step
    `t` plays that many calls once (some microseconds each); the values are kept, so any order is the same.

    Args:
        make: a function from an optimizer to a scheduler; or a scheduler that has not been stepped, of an optimizer
            with one group: it is copied, and neither it nor its optimizer is touched.
        rate: the learning rate of the optimizer that the function is given; a positive number. Not needed where the
            scheduler sets the rate itself (OneCycleLR, CyclicLR); not taken with a scheduler, which has one.
        every: how often the scheduler would be stepped: `steps(1)`, or `epochs(1)` if it is stepped by the epoch.
        setting: "learning_rate"; or "momentum", for those that move it too (OneCycleLR, CyclicLR): the optimizer that
            the function is given has a momentum of 0.9.

    Two are equal if made from the same function or scheduler and the same arguments. There is no text form of them.

    Raises:
        ScheduleError: no scheduler comes out, it has been stepped already, it needs a rate and none is given, or it is
            a `ReduceLROnPlateau` (write `plateau(...)`); before the first step of a run, a scheduler that ends before.
    """
    said = f"from_torch({_named(make)})"
    if setting not in _SETTINGS:
        raise ScheduleError(
            f"{said}: setting={setting!r} is not known: {' or '.join(map(repr, _SETTINGS))}."
            f"{nearest(str(setting), _SETTINGS)}"
        )
    span = progress_span(every, f"{said}: every={every!r}")
    if isinstance(make, LRScheduler):
        if rate is not None:
            raise ScheduleError(f"{said}: a scheduler has the rate of its optimizer already. Leave out rate={rate!r}.")
        scheduler, optimizer = _copied(make, said)
        given = None
    else:
        given = None if rate is None else _positive(rate, said)
        scheduler, optimizer = _made(make, given, said)
    group = optimizer.param_groups[0]
    if setting == "momentum" and not {"momentum", "betas"} & set(group):
        raise ScheduleError(f"{said}: its optimizer has no momentum. Leave out setting='momentum'.")
    player = _Player(scheduler, group, setting)
    if player[0] != player[0]:
        raise ScheduleError(f"{said}: its rate follows that of its optimizer. Write from_torch(..., rate=0.1).")
    return FromTorch(make, given, span, setting, type(scheduler).__name__, player)


def to_torch(
    made: ScheduleLike,
    optimizer: torch.optim.Optimizer,
    total: Span | Extent | None = None,
    *,
    steps_per_epoch: int | None = None,
    relative: bool = False,
) -> LambdaLR:
    """A `torch.optim.lr_scheduler.LambdaLR` that drives a plain optimizer of torch along a schedule.

    Call `scheduler.step()` after each `optimizer.step()`. Its `state_dict` holds the count of steps, as every
    LambdaLR's does; the schedule itself is made again by whoever loads it.

    Args:
        made: a schedule of numbers; like everywhere it is the learning rate itself, for all groups alike. With
            `relative=True` it is a factor instead, and the rate of each group is its own initial one times the factor.
        optimizer: its groups have one learning rate, which is not 0, unless `relative`.
        total: the length of the run, for schedules that end with it.
        steps_per_epoch: needed by schedules in epochs.

    Raises:
        ScheduleError: what `Schedule.check` finds; a schedule that listens to metrics, which a LambdaLR does not hear;
            groups of several rates, or of the rate 0, without `relative`.
    """
    rule = schedule(made)
    said = f"to_torch({rule!r})"
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ScheduleError(f"{said}: an optimizer of torch is needed, not a {type(optimizer).__name__}.")
    if rule.reactive:
        raise ScheduleError(
            f"{said}: it listens to {', '.join(map(repr, sorted(rule.listens)))}, and a LambdaLR hears no metrics. "
            "Step with etude.Trainer, or write torch's ReduceLROnPlateau."
        )
    clock = _clock(total, steps_per_epoch)
    uncounted = ("samples", "tokens") if steps_per_epoch else ("samples", "tokens", "epochs")
    rule.check(clock.extent, uncounted)
    unit = 1.0 if relative else _common_rate(optimizer, said)

    # A function, not an object: a LambdaLR saves the attributes of objects, and of this there is nothing to save.
    def factor(step: int) -> float:
        epoch = step / steps_per_epoch if steps_per_epoch else nan
        return number(rule.at(Progress(step, epoch, nan, nan, clock.extent)), f"{said} at step {step}") / unit

    factor(0)
    return LambdaLR(optimizer, factor)


def _made(make: Any, rate: float | None, said: str) -> tuple[LRScheduler, torch.optim.Optimizer]:
    """What a function makes of an optimizer that is there for it alone."""
    if isinstance(make, type) or not callable(make):
        kind = "a class" if isinstance(make, type) else f"a {type(make).__name__}"
        raise ScheduleError(
            f"{said}: {kind} is given; a function from an optimizer to a scheduler is needed. "
            "Write from_torch(lambda optimizer: StepLR(optimizer, 30), rate=0.1)."
        )
    optimizer = _optimizer(nan if rate is None else rate)
    try:
        scheduler = make(optimizer)
    except Exception as error:
        raise ScheduleError(f"{said}: the scheduler cannot be made: {_shown(error)}.") from error
    _check_scheduler(scheduler, said)
    if scheduler.optimizer is not optimizer:
        raise ScheduleError(f"{said}: the scheduler is of another optimizer than the one that the function was given.")
    # torch warns of a scheduler that is stepped before its optimizer ever was.
    optimizer.step()
    return scheduler, optimizer


def _copied(given: LRScheduler, said: str) -> tuple[LRScheduler, torch.optim.Optimizer]:
    """A copy of a scheduler, and of what it reads of its optimizer: the settings of its one group."""
    _check_scheduler(given, said)
    groups = given.optimizer.param_groups
    if len(groups) > 1:
        raise ScheduleError(
            f"{said}: its optimizer has {len(groups)} groups, and a schedule is one number. Write a function for each, "
            'from_torch(lambda optimizer: ..., rate=0.1), and rules={"learning_rate": {part: schedule}}.'
        )
    optimizer = _optimizer(0.0)
    # It makes the optimizer one that knows of schedulers, as the copied one was; stepped for the same warning.
    LambdaLR(optimizer, float)
    optimizer.step()
    settings = {key: value for key, value in groups[0].items() if key != "params"}
    array = optimizer.param_groups[0]["params"]
    optimizer.param_groups[0].clear()
    optimizer.param_groups[0].update(copy.deepcopy(settings), params=array)
    # Wherever the copy would have copied the optimizer, and the net with it, it has this one.
    return copy.deepcopy(given, {id(given.optimizer): optimizer}), optimizer


def _optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate, momentum=0.9)


def _check_scheduler(scheduler: object, said: str) -> None:
    if not isinstance(scheduler, LRScheduler):
        raise ScheduleError(
            f"{said}: a scheduler of torch.optim.lr_scheduler is needed, not a {type(scheduler).__name__}. "
            "Write from_torch(lambda optimizer: StepLR(optimizer, 30), rate=0.1)."
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ScheduleError(
            f"{said}: ReduceLROnPlateau follows a score, not the number of the step. "
            'Write plateau("val.loss", factor=0.1, patience=10) * 0.1.'
        )
    done = _stepped(scheduler)
    if done:
        raise ScheduleError(
            f"{said}: the scheduler has been stepped {done} times; a schedule begins at step 0. "
            "Give one that has not been stepped, or a function that makes it."
        )


def _stepped(scheduler: Any) -> int:
    """How often a scheduler was stepped; one that is made of others (ChainedScheduler) may count only in those."""
    inner = [_stepped(each) for each in getattr(scheduler, "_schedulers", ())]
    return max(getattr(scheduler, "last_epoch", 0), 0, *inner)


def _positive(rate: object, said: str) -> float:
    given = number(rate, f"{said}: rate={rate!r}")
    if given <= 0:
        raise ScheduleError(f"{said}: rate={rate!r}: a positive number is needed. Write rate=0.1.")
    return given


def _common_rate(optimizer: torch.optim.Optimizer, said: str) -> float:
    """The one initial rate of all groups, which a LambdaLR multiplies."""
    rates = {float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups}
    if len(rates) == 1 and 0.0 not in rates:
        return rates.pop()
    found = ", ".join(f"{rate:g}" for rate in sorted(rates))
    what = "the rates" if len(rates) > 1 else "the rate"
    raise ScheduleError(
        f"{said}: the optimizer's groups have {what} {found}, which no one factor takes to the schedule's values. "
        "Give all groups one rate that is not 0, or write relative=True and a schedule that is a factor."
    )


def _clock(total: Span | Extent | None, steps_per_epoch: int | None) -> Progress:
    extent = Extent() if total is None else as_extent(total)
    per = steps_per_epoch
    if per is not None and (isinstance(per, bool) or not isinstance(per, int) or per < 1):
        raise ScheduleError(f"steps_per_epoch={per!r}: a whole number, at least 1, is needed.")
    if per and extent.steps is None and extent.epochs is not None:
        return Progress(extent=Extent(extent.epochs * per, extent.epochs))
    if per and extent.epochs is None and extent.steps is not None:
        return Progress(extent=Extent(extent.steps, extent.steps / per))
    return Progress(extent=extent)


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(". ")


def _named(make: object) -> str:
    name = getattr(make, "__name__", None)
    return f"<{name if isinstance(name, str) else type(make).__name__}>".replace("<<", "<").replace(">>", ">")
