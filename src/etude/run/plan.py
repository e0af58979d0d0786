"""A run said beforehand, and the proof that it can be carried out."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.data.batch import outline
from etude.data.flow import Flow
from etude.data.source import Arrays, Items, Source, check_finite, source, split_validation
from etude.errors import DataError, EtudeError, PlanError, SettingError, nearest
from etude.run.evaluate import Evaluate, Evaluator, looking
from etude.run.metrics import MetricLike
from etude.run.randomness import own_randomness
from etude.step.gan import GAN
from etude.step.loss import LossLike, Reader
from etude.step.precision import Precision, check_precision
from etude.step.recipe import OptimizerLike, settings_known
from etude.step.update import Update
from etude.step.work import Work
from etude.values.progress import Extent, Progress
from etude.values.rules import RulesLike
from etude.values.schedule import Schedule
from etude.values.spans import Span
from etude.values.tree import has_shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POLICIES = ("raise", "skip", "stop", "apply")


class Plan:
    """Everything a run does, as a value that needs no net and no data.

    Args:
        loss: a name ("cross_entropy", "mse", ...), a torch loss, a function of (output, target) or (net, batch), or a
            dict of named terms, each alone or with a weight. Not needed with `updates`, or for a `GAN`.
        optimizer: a name, a class of torch.optim or of its shape, an instance, or a factory; see `Trainer`.
        learning_rate: a number or a schedule; 1e-3 when nothing is said.
        learning_rate_multipliers: numbers or schedules by part; 0, None and FROZEN hold a part.
        rules: rules by part for any setting.
        update_schedule: which parts move at which step: a list, or a schedule of parts.
        updates: several updates, each with its own loss, part, optimizer and turn, instead of the arguments above.
        epochs, steps: how long; the first that is reached ends the run. One of them, or `time_limit`, is needed.
        batch_size: samples in a batch; 32 when nothing is said, except for data that come in batches.
        validation: data, a fraction of the training data, or `Evaluate(...)`; looked at after every epoch.
        metrics: what is measured on the validation data: names, functions of (output, target), torchmetrics metrics.
        patience: stop when more than so many looks in a row brought no improvement of at least `min_delta`. By the
            validation score, or by the epoch's training loss when there are no validation data.
        min_delta: the smallest change that counts as an improvement; equality never does.
        time_limit: a span of time, minutes(30); looked at after every step.
        precision: "fp32", "fp64", "bf16" or "fp16" (autocast); None: fp32, the net as it is.
        device: where to train; None: where the net is; "auto": an accelerator if there is one.
        seed: of the data order, of dropout and of noise; a run repeats to the bit on the same machine.
        shuffle: a new order in each epoch; by default wherever the data have random access.
        workers: processes that read a data set.
        round_length: batches in an epoch, for generators.
        compile: whether each step, the update included, is compiled.
        non_finite: what happens when a loss or gradient is not finite, decided before anything moves: "raise" an
            error, "skip" the step, "stop" the run, or "apply" it unseen.
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
        optimizer: OptimizerLike = "adamw",
        learning_rate: float | Schedule | Callable[[Progress], float] | None = None,
        learning_rate_multipliers: RulesLike = None,
        rules: Mapping[str, RulesLike] | None = None,
        update_schedule: Any = None,
        updates: Sequence[Update] | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        validation: Any = None,
        metrics: MetricLike | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
        time_limit: Span | None = None,
        precision: str | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        shuffle: bool | None = None,
        workers: int = 0,
        round_length: int | None = None,
        compile: bool = False,
        non_finite: str = "raise",
        ignore_stale_grad: bool = False,
        strict: bool = False,
        **settings: Any,
    ) -> None:
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.learning_rate_multipliers = learning_rate_multipliers
        self.rules = rules
        self.update_schedule = update_schedule
        self.updates = None if updates is None else _listed(updates)
        self.epochs = _whole("epochs", epochs)
        self.steps = _whole("steps", steps)
        self.batch_size = _whole("batch_size", batch_size)
        self.validation = validation
        self.metrics = metrics
        self.patience = _whole("patience", patience, 0)
        self.min_delta = _number("min_delta", min_delta)
        self.time_limit = _time(time_limit)
        self.precision = check_precision(precision)
        self.device = device
        self.seed = _seed(seed)
        self.shuffle = None if shuffle is None else _flag("shuffle", shuffle)
        self.workers = _whole("workers", workers, 0) or 0
        self.round_length = round_length
        self.compile = _flag("compile", compile)
        self.non_finite = _one_of("non_finite", non_finite, POLICIES)
        self.ignore_stale_grad = _flag("ignore_stale_grad", ignore_stale_grad)
        self.strict = _flag("strict", strict)
        self.settings = settings
        _check_options(self)
        _check_settings(self)

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
        with _undisturbed():
            return _check(self, net, data)


@dataclass
class Checked:
    """A plan proved on one net and its data.

    Attributes:
        plan: the plan. net: the net. works: the updates at work. flow: the training data.
        evaluator: for the validation data, or None.
        extent: how long the run is, as far as it is known.
        device: where it is trained.
        chosen: what was chosen where nothing was said, and every conversion of the data.
        idle: names of the arrays that never move.
    """

    plan: Plan
    net: nn.Module
    works: tuple[Work, ...]
    flow: Flow
    evaluator: Evaluator | None
    extent: Extent
    device: torch.device
    chosen: dict[str, Any] = field(default_factory=dict)
    idle: tuple[str, ...] = ()

    @property
    def table(self) -> Any:
        """The table of the first update: settings of every array."""
        return self.works[0].trainer.table

    def show(self) -> str:
        """What will happen, as text: the length of the run, and for each update the table of its arrays."""
        from etude.run.account import show

        return show(self)

    def plot(self, path: str | Path | None = None) -> Figure:
        """The score of the run before it is made: arrays down, steps across, colour the learning rate, held blank."""
        from etude.run.account import plot_plan

        return plot_plan(self, path)


def _check(plan: Plan, net: nn.Module, data: Any) -> Checked:
    chosen: dict[str, Any] = {}
    made = source(data, round_length=plan.round_length)
    evaluate, training, aside = _validation(plan, made, chosen)
    device = _device(plan, net, chosen)
    flow = _flow(plan, training, device, chosen)
    if plan.non_finite in ("raise", "stop"):
        check_finite(training)
    extent = _extent(plan, flow)
    with _restored_on_error(net):
        net.to(device)
        if plan.precision == "fp64":
            net.double()
        batch = _first(flow)
        _materialise(net, batch)
        works = _works(plan, net, device, extent)
        with _same_buffers(net):
            _dry_run(works, net, batch, training, extent)
            evaluator = _evaluator(plan, evaluate, aside, net, works, flow, device)
    return Checked(plan, net, works, flow, evaluator, extent, device, chosen, _idle(net, works))


def _validation(plan: Plan, made: Source, chosen: dict[str, Any]) -> tuple[Evaluate | None, Source, Source | None]:
    given = plan.validation
    if given is None:
        if plan.metrics is not None:
            raise PlanError("metrics are measured on validation data, and none are given. Write validation=0.2.")
        return None, made, None
    evaluate = given if isinstance(given, Evaluate) else Evaluate(given, plan.metrics)
    if isinstance(given, Evaluate) and plan.metrics is not None:
        raise PlanError("metrics= and validation=Evaluate(...) are both given. Write Evaluate(data, metrics).")
    if isinstance(evaluate.data, int | float):
        training, aside = split_validation(made, float(evaluate.data), plan.seed)
        chosen["validation"] = f"{aside.length} of {made.length} samples set aside, chosen by seed {plan.seed}"
        return evaluate, training, aside
    return evaluate, made, source(evaluate.data)


def _device(plan: Plan, net: nn.Module, chosen: dict[str, Any]) -> torch.device:
    there = {array.device for array in (*net.parameters(), *net.buffers())}
    if plan.device is None:
        if len(there) > 1:
            raise PlanError(f"The net is on several devices ({', '.join(map(str, there))}). Write device=.")
        return next(iter(there), torch.device("cpu"))
    if plan.device == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        chosen["device"] = str(found or "cpu")
        return found or torch.device("cpu")
    try:
        device = torch.device(plan.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise PlanError(f"device={plan.device!r} is not there: {str(error).splitlines()[0]}") from None
    return device


def _flow(plan: Plan, training: Source, device: torch.device, chosen: dict[str, Any]) -> Flow:
    size = plan.batch_size
    if size is None and not training.batched:
        size = 32 if training.length is None else min(32, training.length)
        chosen["batch_size"] = size
    made = Flow(training, batch_size=size, shuffle=plan.shuffle, **_reading(plan, device, training))
    if made.source.converted:
        chosen["converted"] = list(made.source.converted)
    return made


def _reading(plan: Plan, device: torch.device, data: Source) -> dict[str, Any]:
    """How data are read, for training and validation alike; workers read the items of data sets."""
    if plan.workers and not isinstance(data, Items) and data.batched:
        raise PlanError(
            f"workers={plan.workers}: {data.title} come in batches of their own. Give its loader the workers."
        )
    return {
        "seed": plan.seed,
        "device": device,
        "workers": plan.workers if isinstance(data, Items) else 0,
        "dtype": torch.float64 if plan.precision == "fp64" else None,
    }


def _extent(plan: Plan, flow: Flow) -> Extent:
    per, samples, tokens = flow.batches_per_epoch, flow.samples, flow.tokens
    ends = [(float(plan.steps), plan.steps / per if per else None)] if plan.steps else []
    if plan.epochs:
        ends.append((float(plan.epochs * per), float(plan.epochs)) if per else (float("inf"), float(plan.epochs)))
    if not ends:
        return Extent()
    steps, passes = min(ends, key=lambda end: end[0])
    if plan.updates is not None and any(update.own_batch for update in plan.updates):
        # A step takes as many batches as turns say: how many steps an epoch has is only seen when it is made.
        return Extent(steps=plan.steps, epochs=plan.epochs)
    return Extent(
        steps=steps if isfinite(steps) else None,
        epochs=passes,
        samples=passes * samples if passes is not None and samples is not None else None,
        tokens=passes * tokens if passes is not None and tokens else None,
    )


def _first(flow: Flow) -> Any:
    for batch in flow.batches(epochs=1):
        return batch.values
    raise DataError("The data give no batch.")


def _updates(plan: Plan, net: nn.Module) -> tuple[Update, ...]:
    options = {
        "optimizer": plan.optimizer,
        "learning_rate": plan.learning_rate,
        "learning_rate_multipliers": plan.learning_rate_multipliers,
        "rules": plan.rules,
        "update_schedule": plan.update_schedule,
        **plan.settings,
    }
    if plan.updates is not None:
        return plan.updates
    if plan.loss is None and isinstance(net, GAN):
        if plan.update_schedule is None:
            options["update_schedule"] = ["discriminator", "generator"]
        return net.updates(**options)
    if plan.loss is None:
        raise PlanError(
            'No loss is given. Write loss="cross_entropy", a function of (output, target), or updates=[...].'
        )
    return (Update("loss", plan.loss, **options),)


def _check_settings(plan: Plan) -> None:
    """An unknown setting may be a misspelt option of the plan: look among both for the nearest."""
    for name in plan.settings:
        known = settings_known(plan.optimizer)
        if known is not None and name not in known:
            raise SettingError(unknown_option(name, known))


def _works(plan: Plan, net: nn.Module, device: torch.device, extent: Extent) -> tuple[Work, ...]:
    updates = _updates(plan, net)
    names = [update.name for update in updates]
    if len(set(names)) < len(names) or not names:
        raise PlanError(f"updates: every update needs a name of its own, and one at least is needed: {names}.")
    if plan.precision == "fp16" and len(updates) > 1:
        raise PlanError("precision='fp16' scales one loss; with several updates use precision='bf16'.")
    options = {"total": extent, "strict": plan.strict, "seed": plan.seed}
    made = tuple(
        Work(
            update,
            net,
            Precision(plan.precision, device),
            plan.non_finite,
            plan.ignore_stale_grad,
            plan.compile,
            options,
        )
        for update in updates
    )
    for work in made:
        for each in (work.update.turn, *(term.weight for term in work.losses.terms)):
            if each is not None:
                each.check(extent)
    return made


def _dry_run(works: tuple[Work, ...], net: nn.Module, batch: Any, training: Source, extent: Extent) -> None:
    """Compute every loss once, in evaluation mode, so that nothing of the net changes."""
    whole = _in_memory(training)
    for work in works:
        try:
            with looking(net):
                if whole is not None and work.losses.needs_output:
                    work.losses.check_classes(net, work.read, batch, whole)
                with torch.enable_grad():
                    loss, *_ = work.measure(Progress(extent=extent), batch)
        except EtudeError:
            raise
        except Exception as error:
            raise PlanError(_explained(error, net, batch, work.name)) from error
        if not loss.requires_grad and work.trainer.table.ever_moving():
            raise PlanError(
                f"The loss {work.name!r} does not depend on any trainable array: no gradient can reach one. The net or "
                "the loss leaves the graph (detach(), no_grad(), argmax, numpy)."
            )


def _materialise(net: nn.Module, batch: Any) -> None:
    """Lazy modules get their shapes from the first batch, before rules meet arrays."""
    if all(has_shape(array) for array in (*net.parameters(), *net.buffers())):
        return
    args, kwargs, _ = Reader(net)(batch)
    try:
        with looking(net):
            net(*args, **kwargs)
    except Exception as error:
        raise PlanError(_explained(error, net, batch, "loss")) from error


@contextmanager
def _same_buffers(net: nn.Module) -> Iterator[None]:
    """Some nets write to their buffers even in evaluation mode: afterwards they hold what they held."""
    kept = [(buffer, buffer.detach().clone()) for buffer in net.buffers() if has_shape(buffer)]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.data.copy_(before)


def _explained(error: Exception, net: nn.Module, batch: Any, name: str) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    floats = {str(array.dtype).removeprefix("torch.") for array in net.parameters() if array.is_floating_point()}
    hint = ""
    if "dtype" in text or ("type" in text.lower() and "expected" in text.lower()):
        hint = (
            f" The net's arrays are {', '.join(sorted(floats))}: give inputs of that type (x.float()), and class "
            "targets as integers."
        )
    elif "out of bounds" in text or "out of range" in text:
        hint = " A target names a class that the net's output does not have: classes count from 0."
    end = "" if text.endswith(".") else "."
    return f"The loss {name!r} cannot be computed on the first batch, {outline(batch)}: {text}{end}{hint}"


def _in_memory(training: Source) -> Any:
    """All data, shaped as a batch, where they are arrays in memory."""
    if not isinstance(training, Arrays):
        return None
    if training.form == "dict":
        return dict(zip(training.names, training.arrays, strict=True))
    return training.arrays if training.form == "tuple" else training.arrays[0]


def _evaluator(
    plan: Plan,
    evaluate: Evaluate | None,
    aside: Source | None,
    net: nn.Module,
    works: tuple[Work, ...],
    flow: Flow,
    device: torch.device,
) -> Evaluator | None:
    if evaluate is None or aside is None:
        if plan.patience is not None and flow.batches_per_epoch is None and plan.epochs is None:
            raise PlanError("patience needs validation data, or epochs that end. Write validation=.")
        return None
    size: int | None = evaluate.batch_size or flow.batch_size or 32
    if evaluate.batch_size is None and aside.batched:
        size = None
    elif aside.length is not None and size is not None:
        size = min(size, aside.length)
    # What is read forward keeps its own order; workers read ahead as in training.
    made = Flow(aside, batch_size=size, shuffle=False, **_reading(plan, device, aside))
    if plan.non_finite in ("raise", "stop"):
        check_finite(aside)
    evaluator = Evaluator(evaluate, net, works, made)
    _prove_validation(evaluator, works, net, aside, _first(made))
    return evaluator


def _prove_validation(evaluator: Evaluator, works: tuple[Work, ...], net: nn.Module, aside: Source, batch: Any) -> None:
    """Measure one batch of the validation data, and look at all class targets, before the first step."""
    whole = _in_memory(aside)
    try:
        with looking(net):
            for work in works:
                if whole is None:
                    work.losses.count_ignored()
                elif work.losses.needs_output:
                    work.losses.check_classes(net, work.read, batch, whole, also=True)
        evaluator.prove(batch)
    except EtudeError as error:
        raise type(error)(f"In the validation data: {error}") from error
    except Exception as error:
        raise PlanError("In the validation data: " + _explained(error, net, batch, "loss")) from error


def _idle(net: nn.Module, works: tuple[Work, ...]) -> tuple[str, ...]:
    """Trainable arrays that no update ever moves."""
    moved = {name for work in works for name in work.trainer.table.ever_moving()}
    tree = works[0].trainer.table.tree
    return tuple(name for name in tree.trainable if name not in moved)


@contextmanager
def _restored_on_error(net: nn.Module) -> Iterator[None]:
    """On an error the net goes back to the devices and types it had."""
    had = [(array, array.data) for array in (*net.parameters(), *net.buffers()) if has_shape(array)]
    try:
        yield
    except BaseException:
        for array, data in had:
            if has_shape(array) and (data.device, data.dtype) != (array.device, array.dtype):
                array.data = data
        raise


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The random generators of the process are afterwards as they were."""
    here, numpy_state = random.getstate(), np.random.get_state()
    try:
        with own_randomness():
            yield
    finally:
        random.setstate(here)
        np.random.set_state(numpy_state)


def _check_options(plan: Plan) -> None:
    if plan.epochs is None and plan.steps is None and plan.time_limit is None:
        raise SettingError("How long? Write epochs=10, steps=1000 or time_limit=minutes(30).")
    if plan.updates is not None:
        own = ("loss", "learning_rate", "learning_rate_multipliers", "rules", "update_schedule")
        given = [name for name in own if getattr(plan, name) is not None] + list(plan.settings)
        if given:
            raise SettingError(f"{', '.join(given)}: with updates=[...] these are said in each Update.")
    if plan.min_delta and plan.patience is None:
        raise SettingError(f"min_delta={plan.min_delta!r} says what patience counts as better. Write patience= too.")


def unknown_option(name: str, settings: Sequence[str]) -> str:
    """The message for an option that is neither one of the plan nor a setting of the optimizer."""
    options = [each for each in inspect.signature(Plan.__init__).parameters if each not in ("self", "settings")]
    if name == "lr":
        return "There is no option 'lr'. The learning rate is given as learning_rate=."
    return f"There is no option {name!r}.{nearest(name, [*options, *settings])} Options: {', '.join(options)}."


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
        raise SettingError(f"{name}={value!r}: a whole number of at least {least} is needed.")
    return int(value)


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise SettingError(f"{name}={value!r}: a finite number, not below 0, is needed.")
    return value


def _time(limit: Span | None) -> Span | None:
    if limit is not None and not (isinstance(limit, Span) and limit.unit == "seconds" and limit.amount > 0):
        raise SettingError(f"time_limit={limit!r}: a span of time is needed. Write minutes(30), hours(2).")
    return limit


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
