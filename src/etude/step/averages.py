"""Averages of arrays over the steps of a run: kept beside the arrays, used for evaluation without touching them.

trainer = etude.Trainer(net, averages=(ema(0.999), swa("head", every=steps(100))))
...
with trainer.averaged("ema"):
    evaluate(net)

An average takes the arrays as they are after a step. It begins as a copy of what it takes first. Before that, and so
before its schedule lets it begin, it is the net itself: what asks for it gets the arrays of the net as they are now.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from etude.arguments import named
from etude.errors import ScheduleError, SettingError, nearest
from etude.values import preview
from etude.values.algebra import argument
from etude.values.cadence import Cadence, Every
from etude.values.part import Part, PartLike, everything, part
from etude.values.progress import Extent, Progress
from etude.values.schedule import Constant, Memory, Schedule, ScheduleLike, schedule
from etude.values.spans import Span, epochs, progress_span, steps

_BUFFERS = ("average", "copy")
_EACH_STEP, _EACH_EPOCH = steps(1), epochs(1)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Average:
    """An average said beforehand, for whatever net it meets; made by `ema` and `swa`.

    Attributes:
        name: how it is called. part: the arrays it is of.
        decay: what of the average stays when arrays are taken; None where all that was taken weighs the same.
        warm_up: whether the decay is smaller in the beginning.
        when: a schedule of bools: at which steps it may take. every: how often it does.
        buffers: "average" or "copy": what is done with buffers of floating-point numbers.
    """

    name: str
    part: Part
    decay: Schedule | None
    warm_up: bool
    when: Schedule
    every: Span
    buffers: str

    @property
    def kind(self) -> str:
        """The name of the function that makes it: "ema" or "swa"."""
        return "swa" if self.decay is None else "ema"

    def weight(self, count: int, progress: Progress, memory: Memory = None) -> float:
        """The weight of the arrays that are taken after the step made at `progress`; `count` were taken before.

        Raises:
            ScheduleError: the decay is a schedule, and gives something else than a number from 0 to 1.
        """
        if self.decay is None:
            return 1 / (count + 1)
        decay: float = self.decay.at(progress, memory)
        if not _is_share(decay):
            raise ScheduleError(f"{self!r}: the decay is {decay!r} at step {progress.step:g}. It lies between 0 and 1.")
        return 1.0 - (min(decay, (1 + count) / (10 + count)) if self.warm_up else decay)

    def takes(self, progress: Progress, memory: Memory = None) -> bool:
        """Whether the schedule lets it take the arrays after the step made at `progress`.

        Raises:
            ScheduleError: the schedule gives something else than True or False.
        """
        value = self.when.at(progress, memory)
        if not isinstance(value, bool):
            raise ScheduleError(f"{self!r}: when is {value!r} at step {progress.step:g}. True or False is needed.")
        return value

    def check(self, extent: Extent, uncounted: Sequence[str] = ()) -> None:
        """Raise, before the first step, what would be wrong in a run of this extent; see `Schedule.check`."""
        clock = Progress(extent=extent).without(*uncounted)
        for of in self.schedules():
            of.check(extent, uncounted)
        try:
            clock.amount(self.every.unit)
        except ScheduleError as error:
            raise ScheduleError(f"{self!r}: every={self.every!r}. {error} Or write every=steps(100).") from None
        for progress in preview.moments(extent, 33, unknown=0.0):
            here = progress.without(*uncounted)
            self.takes(here)
            self.weight(0, here)

    def schedules(self) -> tuple[Schedule, ...]:
        """The schedules that it asks."""
        return (self.when,) if self.decay is None else (self.when, self.decay)

    def __repr__(self) -> str:
        said = [] if self.decay is None else [argument(self.decay)]
        said += [] if self.part is everything else [repr(self.part)]
        usual = _USUAL[self.kind]
        now = {"name": self.name, "warm_up": self.warm_up, "when": self.when, "every": self.every}
        for key, value in {**now, "buffers": self.buffers}.items():
            if value != usual[key]:
                said.append(f"{key}={argument(value) if isinstance(value, Schedule) else repr(value)}")
        return f"{self.kind}({', '.join(said)})"


_USUAL: dict[str, dict[str, Any]] = {
    "ema": {"name": "ema", "warm_up": False, "when": schedule(True), "every": _EACH_STEP, "buffers": "average"},
    "swa": {"name": "swa", "warm_up": False, "when": schedule(True), "every": _EACH_EPOCH, "buffers": "average"},
}


@named
def ema(
    decay: ScheduleLike = 0.999,
    part: PartLike = everything,
    *,
    name: str = "ema",
    warm_up: bool = False,
    when: ScheduleLike = True,
    every: Span | Cadence = _EACH_STEP,
    buffers: str = "average",
) -> Average:
    """The exponential moving average of arrays: average ← decay · average + (1 - decay) · array, after each step.

    As in Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017; averages over iterates go back to
    Ruppert (1988) and Polyak & Juditsky (SIAM J. Control Optim. 30, 1992).

    Args:
        decay: from 0 (the arrays themselves) to 1 (it never changes), a number or a schedule.
        part: the arrays it is of, buffers too.
        name: how it is called, where there are several.
        warm_up: the decay is min(decay, (1 + t) / (10 + t)) after t times of taking, as in
            `tf.train.ExponentialMovingAverage(num_updates=t)`, so that the first arrays are forgotten soon.
        when: True, or a schedule of bools that starts and stops it: `pieces(False, (steps(100), True))` takes the
            arrays after step 101 first. Stopped, it stays as it is; started again, it goes on.
        every: a span of progress: it takes the arrays at each multiple of it, counted from the start of the run; or,
            if that step was not made, after the next one that is.
        buffers: "average" buffers of floating-point numbers (running means of a batch norm) like arrays, or "copy" the
            latest. Buffers of other numbers are copied, and arrays that hold an infinity where it begins.

    Raises:
        SettingError, PartError, ScheduleError: an argument that says no average; the message says what to write.
    """
    made = schedule(decay)
    constant = made.value if isinstance(made, Constant) else None
    if made.kind not in ("number", "any") or (isinstance(made, Constant) and not _is_share(constant)):
        raise SettingError(
            f"ema({decay!r}): the decay is a number from 0 to 1, or a schedule of such. Write ema(0.999)."
        )
    if not isinstance(warm_up, bool):
        raise SettingError(f"ema(warm_up={warm_up!r}): True or False is needed.")
    return _average("ema", name, part, made, warm_up, when, every, buffers)


@named
def swa(
    part: PartLike = everything,
    *,
    name: str = "swa",
    when: ScheduleLike = True,
    every: Span | Cadence = _EACH_EPOCH,
    buffers: str = "average",
) -> Average:
    """The equal-weight mean of arrays, at each epoch or other span: average ← average + (array - average) / (n + 1).

    Stochastic weight averaging, Izmailov et al., "Averaging weights leads to wider optima and better generalization",
    UAI 2018; with `every=steps(1)` the mean of Polyak and Ruppert. Statistics of batch norm are those of the averaged
    arrays only after a pass over the data with them: `torch.optim.swa_utils.update_bn` on a net that has the average.

    Args:
        part, name, when, every, buffers: as for `ema`. In a hand-written loop epochs are counted if the trainer has
            `steps_per_epoch`; else write `every=steps(100)`.

    Raises:
        SettingError, PartError, ScheduleError: an argument that says no average; the message says what to write.
    """
    return _average("swa", name, part, None, False, when, every, buffers)


def averages_in(given: Any) -> tuple[Average, ...]:
    """What `averages=` stands for: none, one or several.

    Raises:
        SettingError: something that is no average, or two of one name.
    """
    made = (given,) if isinstance(given, Average) else tuple(given) if isinstance(given, list | tuple) else None
    if made is None or not all(isinstance(each, Average) for each in made):
        raise SettingError(f"averages={given!r}: averages are needed. Write averages=(ema(0.999),).")
    names = [each.name for each in made]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise SettingError(
            f"averages={given!r}: {', '.join(map(repr, twice))} is the name of two. Give one of them another: "
            "ema(0.99, name='fast')."
        )
    return made


def unknown_average(name: object, names: Iterable[str]) -> str:
    """The message for an average that is not there."""
    known = list(names)
    there = f"Averages: {', '.join(known)}." if known else "There are none. Write averages=(ema(0.999),)."
    return f"No average is called {name!r}.{nearest(str(name), known)} {there}"


def _average(
    kind: str,
    name: str,
    of: PartLike,
    decay: Schedule | None,
    warm_up: bool,
    when: ScheduleLike,
    every: Span | Cadence,
    buffers: str,
) -> Average:
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise SettingError(f"{kind}(name={name!r}): letters, digits, _ and - are needed. Write name={kind!r}.")
    started = schedule(when)
    if started.kind not in ("bool", "any") or (isinstance(started, Constant) and started.value is not True):
        raise SettingError(
            f"{kind}(when={when!r}): True, or a schedule of True and False, is needed. "
            f"Write when=pieces(False, (steps(100), True)), or leave an average out that never begins."
        )
    if buffers not in _BUFFERS:
        raise SettingError(
            f'{kind}(buffers={buffers!r}): "average" or "copy" is needed.{nearest(str(buffers), _BUFFERS)}'
        )
    return Average(name, part(of), decay, warm_up, started, _span(kind, every), buffers)


def _span(kind: str, every: Span | Cadence) -> Span:
    if isinstance(every, Every):
        if every.minimum is not None:
            raise SettingError(f"{kind}(every={every!r}): no minimum of time is possible here. Write {every.span!r}.")
        every = every.span
    if isinstance(every, Cadence):
        raise SettingError(f"{kind}(every={every!r}): one span is needed here, not several. Write every=epochs(1).")
    return progress_span(every, f"{kind}(every={every!r})")


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
