"""A run said beforehand: everything it does, as a value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.arguments import Faults, named_class, told_of
from etude.bind.knob_rules import KnobsLike, read_knobs
from etude.data.source import check_round_length
from etude.errors import DataError, EtudeError, PlanError, SettingError, nearest
from etude.hints import is_slip, not_there, written
from etude.initial.initial import Initial, InitialLike
from etude.keep.destination import DestinationLike, destinations
from etude.run.check import prove
from etude.run.checked import Checked
from etude.run.metrics import MetricLike, Metrics
from etude.run.probe import Probe, probes_in
from etude.run.randomness import own_randomness
from etude.step.averages import Average, averages_in, unknown_average
from etude.step.loss import LossLike, terms
from etude.step.policies import PolicyLike, policy
from etude.step.precision import PrecisionLike, check_precision
from etude.step.recipe import OptimizerLike, Recipe, settings_known
from etude.step.update import Update
from etude.step.window import Window
from etude.values.progress import Extent, Progress
from etude.values.rules import RulesLike
from etude.values.schedule import Constant, Schedule, schedule
from etude.values.spans import Span
from etude.values.stopping import StopLike, stopping

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ADAMW = "adamw"
OF_TRAIN = ("progress", "listeners", "resume", "accept", "until")
"""Options of `etude.train` besides those of a plan."""
OF_TRAINER = ("half", "loss_scale", "share")
"""Options of `etude.Trainer` that a plan does not have."""


@named_class
class Plan:
    """Everything a run does, as a value that needs no net and no data.

    Args:
        loss: a name ("cross_entropy", "mse", ...), a torch loss, a function of (output, target) or (net, batch), or a
            dict of named terms, each alone or with a weight; `etude.losses` has more, and says what else a term can be
            told. Not needed with `updates`, or for a `GAN`.
        optimizer: a name, a class of torch.optim or of its shape, an instance, or a factory; see `Trainer`.
        learning_rate: a number or a schedule; 1e-3 when nothing is said.
        learning_rate_multipliers: numbers or schedules by part; 0, None and FROZEN hold a part.
        rules: rules by part for any setting.
        update_schedule: which parts move at which step: a list, or a schedule of parts.
        updates: several updates, each with its own loss, part, optimizer and turn, instead of the arguments above.
        initialize: first values by part, `{"encoder": "orthogonal", "*.bias": 0}`, or a list such as
            `[Load("weights.safetensors"), Fresh("head")]`, given before the first step; see `Initial`.
        epochs, steps: how long; the first that is reached ends the run. One of them, or `time_limit`, is needed.
        batch_size: samples in a batch; 32 when nothing is said, except for data that come in batches.
        accumulate: how many batches make one step: a whole number, or a schedule of such. The step is that of the one
            batch that they are parts of, every term of the loss divided by its whole count. What is left at the end of
            an epoch makes a last step.
        validation: data, a fraction of the training data, or `Evaluate(...)`; looked at after every epoch.
        metrics: what is measured on the validation data: names, functions of (output, target), torchmetrics metrics.
        probes: numbers of activations, arrays, gradients or updates, taken in training at a cadence of their own:
            `Probe("encoder", "norm", of="gradient", every=steps(50))`, or several.
        averages: averages of arrays, `(ema(0.999), swa("head"))`, taken after each step; see `ema`. They are the run's,
            not those of one of several updates.
        evaluate_with: the name of an average: the validation data are looked at with it in place of the arrays, and so
            the best net is the average at its best. None: the arrays themselves.
        patience: stop when more than so many looks in a row brought no improvement of at least `min_delta`. By the
            validation score, or by the epoch's training loss when there are no validation data.
        min_delta: the smallest change that counts as an improvement; equality never does.
        time_limit: a span of time, minutes(30), over all processes of the run; looked at after every step.
        stop: when the run ends before its length: `no_improvement("val.loss", patience=3)`, `reached(...)`,
            `limit(tokens(1e9))`, or several joined by | and &. The best net and the end may go by different scores.
        knobs: what is set besides the settings of the update rule: by the name of an attribute, rules for modules of
            the net that have it, or for objects of your own: `{"p": {nn.Dropout: linear(0, 0.2)}}`; see `Knobs`.
        checkpoint: where the state is saved: `Directory("runs/digits")`, `File("run.safetensors")`, a path, or several.
        precision: "fp32", "fp64", "bf16" or "fp16" (autocast), or a schedule of such without "fp64"; None: fp32, the
            net as it is.
        device: where to train; None: where the net is; "auto": an accelerator if there is one.
        seed: of the data order, of dropout and of noise; a run repeats to the bit on the same machine.
        shuffle: a new order in each epoch; by default wherever the data have random access.
        workers: processes that read a data set.
        round_length: batches in an epoch, for generators.
        compile: whether each step is compiled: loss, gradients and, where that is possible, the update.
        non_finite: what happens when a loss or gradient is not finite, decided before anything moves: "raise" an
            error, "skip" the step, `skip(most=3)` in a row, "stop" the run, `roll_back(factor=0.5)` to how the net
            was some steps ago, or "apply" it unseen.
        out_of_memory: "raise" torch's error, or "split" the batch in halves that make one step together; one that is
            looked at likewise.
        ignore_stale_grad: arrays that the loss does not reach stay as they are, instead of an error.
        strict: a rule that can never decide is an error, not a warning.
        settings: of the update rule (`weight_decay=0.1`), and clip_norm, clip_value, noise, clip_weights.

    Raises:
        SettingError: an option that is not there, or cannot have this value.
    """

    def __init__(
        self,
        loss: LossLike | None = None,
        *,
        optimizer: OptimizerLike = _ADAMW,
        learning_rate: float | Schedule | Callable[[Progress], float] | None = None,
        learning_rate_multipliers: RulesLike = None,
        rules: Mapping[str, RulesLike] | None = None,
        update_schedule: Any = None,
        updates: Sequence[Update] | None = None,
        initialize: InitialLike | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        accumulate: int | Schedule | Callable[[Progress], int] = 1,
        validation: Any = None,
        metrics: MetricLike | None = None,
        probes: Probe | Sequence[Probe] | None = None,
        averages: Average | Sequence[Average] = (),
        evaluate_with: str | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
        time_limit: Span | None = None,
        stop: StopLike | None = None,
        knobs: KnobsLike = None,
        checkpoint: DestinationLike = None,
        precision: PrecisionLike = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        shuffle: bool | None = None,
        workers: int = 0,
        round_length: int | None = None,
        compile: bool = False,
        non_finite: PolicyLike = "raise",
        out_of_memory: str = "raise",
        ignore_stale_grad: bool = False,
        strict: bool = False,
        **settings: Any,
    ) -> None:
        faults = Faults()
        take = faults.take
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.learning_rate_multipliers = learning_rate_multipliers
        self.rules = rules
        self.update_schedule = update_schedule
        self.settings = settings
        take(_check_names, self)
        self.updates = None if updates is None else take(_listed, updates)
        self.initialize = initialize
        if initialize is not None:
            take(Initial, initialize)
        self.epochs = take(_whole, "epochs", epochs)
        self.steps = take(_whole, "steps", steps)
        self.batch_size = take(_whole, "batch_size", batch_size)
        self.accumulate = take(_batches, accumulate)
        self.validation = take(_validation, validation)
        self.metrics = metrics
        take(Metrics, metrics)
        self.probes = take(probes_in, probes) or None
        self.averages = take(averages_in, averages)
        self.evaluate_with = evaluate_with
        self.patience = take(_whole, "patience", patience, 0)
        self.min_delta = take(_number, "min_delta", min_delta)
        self.time_limit = take(check_time, "time_limit", time_limit)
        self.stop = None if stop is None else take(stopping, stop)
        self.knobs = knobs
        take(read_knobs, knobs)
        self.checkpoint = take(destinations, checkpoint) or None
        self.precision = take(check_precision, precision)
        self.device = take(_device, device)
        self.seed = take(_seed, seed)
        self.shuffle = None if shuffle is None else take(_flag, "shuffle", shuffle)
        self.workers = take(_whole, "workers", workers, 0) or 0
        self.round_length = take(check_round_length, round_length)
        self.compile = take(_flag, "compile", compile)
        self.non_finite = non_finite
        take(policy, non_finite)
        self.out_of_memory = take(_one_of, "out_of_memory", out_of_memory, ("raise", "split"))
        self.ignore_stale_grad = take(_flag, "ignore_stale_grad", ignore_stale_grad)
        self.strict = take(_flag, "strict", strict)
        take(_check_step, self)
        take(_check_averages, self)
        take(_check_updates, self)
        if not faults:
            # What follows from a fault is none.
            _check_together(self)
        faults.tell()

    def options(self) -> dict[str, Any]:
        """Every option that is not at its default, by name."""
        parameters = inspect.signature(Plan.__init__).parameters
        defaults = {name: p.default for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
        given = {name: value for name, value in vars(self).items() if name in defaults}
        changed = {name: value for name, value in given.items() if not _same(value, defaults[name])}
        if changed.get("precision") == "fp32":
            del changed["precision"]
        return {**changed, **self.settings}

    def __repr__(self) -> str:
        return f"Plan({', '.join(f'{name}={value!r}' for name, value in self.options().items())})"

    def check(self, net: nn.Module, data: Any) -> Checked:
        """Prove the plan on a net and data: everything that can be seen to be wrong is an error now.

        The net's arrays, statistics and mode are as before, and so are the random generators; only lazy modules get
        their shapes, and the net is on the device and in the numbers it will be trained in.

        Raises:
            EtudeError: PlanError, DataError, SettingError, PartError, RuleError or ScheduleError, by what is wrong.
        """
        if not isinstance(net, nn.Module):
            raise PlanError(f"The net is a {type(net).__name__}: a torch.nn.Module is needed.")
        with own_randomness():
            return prove(self, net, data)

    def plot(self, net: nn.Module, data: Any, path: str | Path | None = None) -> Figure:
        """The score of this plan on a net and data: the picture that `result.plot("score")` draws after the run.

        Short for `plan.check(net, data).plot(path)`; raises what `check` does.
        """
        return self.check(net, data).plot(path)


def _check_names(plan: Plan) -> None:
    """An unknown setting may be a misspelt option of the plan, or one of `train`: the nearest of all is told."""
    known = _known(plan)
    unknown = _strangers(plan, known)
    if unknown:
        raise SettingError(_unknown(unknown, known or ()))


def _known(plan: Plan) -> Sequence[str] | None:
    """The settings that the optimizer has, as far as they can be known without a net."""
    try:
        return settings_known(plan.optimizer)
    except EtudeError:
        return None


def _strangers(plan: Plan, known: Sequence[str] | None) -> list[str]:
    # Where only the optimizer could tell, what is very like an option is none of its settings.
    options = (*_OPTIONS, *OF_TRAIN)
    return [name for name in plan.settings if (is_slip(name, options) if known is None else name not in known)]


def _unknown(names: Sequence[str], settings: Sequence[str]) -> str:
    """The message for options that are neither those of a plan nor settings of the optimizer."""
    elsewhere = dict.fromkeys(OF_TRAINER, "Trainer, for a loop of your own") | dict.fromkeys(OF_TRAIN, "train()")
    told = [f"There is no option {name!r} here: it is one of {elsewhere[name]}." for name in names if name in elsewhere]
    others = [name for name in names if name not in elsewhere]
    told += [not_there(others, [*_OPTIONS, *settings, *OF_TRAIN])] if others else []
    hint = " The learning rate is given as learning_rate=." if "lr" in names else ""
    words = (*_OPTIONS, *settings, *OF_TRAIN)
    if all(name in elsewhere or written(name, words) or nearest(name, words) for name in names):
        # All that there is would drown it.
        return f"{' '.join(told)}{hint} The options are those of Plan."
    others = [name for name in settings if name not in _OPTIONS]
    there = f" Settings of the optimizer: {', '.join(others)}." if others else ""
    return f"{' '.join(told)}{hint} Options of Plan: {', '.join(_OPTIONS)}.{there}"


_OPTIONS = tuple(each for each in inspect.signature(Plan).parameters if each != "settings")


def _check_step(plan: Plan) -> None:
    """What is minimised, the optimizer, its settings and rules, as far as they can be looked at without a net."""
    if plan.loss is not None:
        terms(plan.loss)
    if plan.updates is not None:
        return
    known = settings_known(plan.optimizer)
    settings = {name: value for name, value in plan.settings.items() if known is None or name in known}
    Recipe(
        plan.optimizer,
        learning_rate=plan.learning_rate,
        rules=plan.rules,
        multipliers=plan.learning_rate_multipliers,
        update_schedule=plan.update_schedule,
        strict=plan.strict,
        settings=settings,
    )


def _check_averages(plan: Plan) -> None:
    if plan.evaluate_with is None or plan.averages is None:
        return
    names = [average.name for average in plan.averages]
    if plan.evaluate_with not in names:
        raise SettingError(f"evaluate_with={plan.evaluate_with!r}: {unknown_average(plan.evaluate_with, names)}")
    if plan.validation is None:
        raise SettingError(
            f"evaluate_with={plan.evaluate_with!r} is for looking at validation data, and none are given. "
            "Write validation=0.2."
        )


def _check_updates(plan: Plan) -> None:
    """With several updates each has its own loss, optimizer and settings."""
    if plan.updates is None:
        return
    own = ("loss", "learning_rate", "learning_rate_multipliers", "rules", "update_schedule")
    strangers = _strangers(plan, _known(plan))
    given = [name for name in own if getattr(plan, name) is not None]
    given += [name for name in plan.settings if name not in strangers]
    given += ["optimizer"] if plan.optimizer != _ADAMW else []
    if given:
        raise SettingError(f"{', '.join(given)}: with updates=[...] these are said in each Update.")


def _check_together(plan: Plan) -> None:
    """What only makes sense with other options, or without them."""
    if plan.epochs is None and plan.steps is None and plan.time_limit is None and plan.stop is None:
        raise SettingError("How long? Write epochs=10, steps=1000 or time_limit=minutes(30).")
    if plan.min_delta and plan.patience is None:
        raise SettingError(f"min_delta={plan.min_delta!r} says what patience counts as better. Write patience= too.")


def _listed(updates: Sequence[Update]) -> tuple[Update, ...]:
    if isinstance(updates, Update | str) or not isinstance(updates, Sequence):
        raise SettingError("updates: a list is needed. Write updates=[Update('critic', loss=..., part=...), ...].")
    for update in updates:
        if not isinstance(update, Update):
            raise SettingError(f"updates: {update!r} is no Update. Write Update('critic', loss=..., part=...).")
    return tuple(updates)


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise SettingError(f"{name}={value!r}: True or False is needed.")
    return value


def _whole(name: str, value: int | None, least: int = 1) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        span: Any = value
        meant = isinstance(span, Span) and span.unit == name and span.amount >= least
        write = f" Write {name}={span.amount:g}." if meant else ""
        raise SettingError(f"{name}={value!r}: a whole number of at least {least} is needed.{write}")
    return int(value)


def _batches(accumulate: Any) -> Any:
    """A number of batches as it was given; a schedule is proved once the length of the run is known."""
    with told_of("accumulate"):
        made = schedule(accumulate)
    if isinstance(made, Constant):
        Window(accumulate, Extent(), ())
    return accumulate


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise SettingError(f"{name}={value!r}: a finite number, not below 0, is needed.")
    return value


def check_time(name: str, limit: Span | None) -> Span | None:
    """An option that is a span of time, or None; SettingError where it is something else."""
    if limit is not None and not (isinstance(limit, Span) and limit.unit == "seconds" and limit.amount > 0):
        raise SettingError(f"{name}={limit!r}: a span of time is needed. Write minutes(30), hours(2).")
    return limit


def _validation(given: Any) -> Any:
    """Validation data as they were given; what they hold is looked at beside the net."""
    if isinstance(given, str | bytes | Path | bool) or type(given) is object:
        raise DataError(
            f"validation={given!r}: data, a fraction of the training data, or Evaluate(...) is needed. Write "
            "validation=0.2."
        )
    return given


def _device(device: Any) -> Any:
    """A device as it was given; whether it is there is seen when the plan meets a net."""
    if device is None or isinstance(device, torch.device | str):
        return device
    raise SettingError(f'device={device!r}: a device of torch is needed, or "auto". Write device="cuda:0", or "cpu".')


def _seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise SettingError(f"seed={seed!r}: a whole number of at least 0 is needed.")
    return seed


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise SettingError(f"{name}={value!r}: known are {', '.join(known)}.{nearest(str(value), known)}")
    return value


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray) or default is inspect.Parameter.empty:
        return False
    return value is default or (type(value) is type(default) and value == default)
