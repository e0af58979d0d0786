"""The proof that a plan can be carried out on a net with these data, before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from etude.arguments import told_of
from etude.bind.knobs import Knobs
from etude.data.batch import Batch
from etude.data.cursor import Cursor
from etude.data.flow import Flow
from etude.data.source import Source, check_finite, source
from etude.errors import DataError, PlanError, warn
from etude.initial.initial import Initial
from etude.initial.origins import Origins
from etude.run.dry_run import dry_run, materialise, prove_validation, restored_on_error, try_single
from etude.run.evaluate import Evaluate, Evaluator
from etude.run.flows import divided, training_flow, validation_flow
from etude.run.heard import check_heard
from etude.run.length import length
from etude.run.meant import check_meant
from etude.run.probes import Probes
from etude.run.reachable import reached
from etude.run.said import first_batch
from etude.step.averaging import Averages
from etude.step.gan import GAN
from etude.step.looking import looking, same_buffers
from etude.step.policies import policy
from etude.step.precision import Precision
from etude.step.reading import samples_in
from etude.step.splitting import halves
from etude.step.update import Update
from etude.step.window import Window
from etude.step.work import Work
from etude.values.progress import Extent, Progress
from etude.values.reactive import check_told

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from etude.run.plan import Plan


@dataclass
class Checked:
    """A plan proved on one net and its data.

    Attributes:
        plan: the plan. net: the net. works: the updates at work. flow: the training data.
        evaluator: for the validation data, or None.
        extent: how long the run is, as far as it is known.
        device: where it is trained.
        window: how many batches make one step.
        averages: the averages of the plan at work; one set for the run, whatever the number of updates.
        knobs: what is set besides the settings of the updates, or None.
        probes: what is measured in training besides losses, or None.
        origins: where the first values of the arrays come from, or None: from the net as it is given.
        chosen: what was chosen where nothing was said, and every conversion of the data.
        idle: names of the arrays that never move.
        first_batch: a digest of the first batch, by which other data are told from these.
        example: the first batch itself where a destination exports the net; else None.
    """

    plan: Plan
    net: nn.Module
    works: tuple[Work, ...]
    flow: Flow
    evaluator: Evaluator | None
    extent: Extent
    device: torch.device
    window: Window
    averages: Averages
    knobs: Knobs | None = None
    probes: Probes | None = None
    origins: Origins | None = None
    chosen: dict[str, Any] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    first_batch: str = ""
    example: Any = None

    @property
    def table(self) -> Any:
        """The table of the first update: settings of every array."""
        return self.works[0].stepper.table

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Within it the net is what validation data are looked at with: the average of `evaluate_with`, or itself.

        Optimizers that evaluate other arrays than they train (schedule-free ones) show these.
        """
        with ExitStack() as stack:
            for work in self.works:
                stack.enter_context(work.stepper.optimizer.evaluating())
            if self.plan.evaluate_with is not None:
                stack.enter_context(self.averages.use(self.plan.evaluate_with))
            yield

    def show(self) -> str:
        """What will happen, as text: the length of the run, and for each update the table of its arrays."""
        from etude.run.account import show

        return show(self)

    def plot(self, path: str | Path | None = None) -> Figure:
        """The score of the run before it is made: arrays down, steps across, colour the learning rate, held blank."""
        from etude.run.account import plot_plan

        return plot_plan(self, path)


def prove(plan: Plan, net: nn.Module, data: Any) -> Checked:
    """See `Plan.check`."""
    if isinstance(net, torch.jit.ScriptModule):
        raise PlanError("The net is a ScriptModule, which cannot be looked into. Give the module it was made from.")
    if not torch.is_grad_enabled():
        raise PlanError("Gradients are switched off here (torch.no_grad or inference_mode): train outside of it.")
    chosen: dict[str, Any] = {}
    made = source(data, round_length=plan.round_length)
    evaluate, training, aside = divided(plan, made, chosen)
    device = _device(plan, net, chosen)
    flow = training_flow(plan, net, training, device, chosen)
    if policy(plan.non_finite).raises:
        check_finite(training)
    extent = length(plan, flow)
    window = Window(plan.accumulate, extent, ())
    with restored_on_error(net):
        net.to(device)
        if plan.precision == "fp64":
            net.double()
        first = _first(flow)
        batch = first.values
        materialise(net, batch)
        origins = None if plan.initialize is None else Initial(plan.initialize).prove(net, plan.seed)
        works = _works(plan, net, device, extent)
        _check_accumulation(plan, works)
        for work in works if plan.initialize is None else ():
            work.stepper.prove_ties()
        tree = works[0].stepper.table.tree
        averages = Averages(plan.averages, tree, extent)
        knobs = Knobs(tree, plan.knobs, extent, strict=plan.strict) if plan.knobs else None
        if knobs is not None:
            for work in works:
                work.follow(knobs, extent)
        if knobs is not None and plan.workers:
            _check_copies(plan, knobs, data)
        # Losses may keep statistics of their own.
        kept = same_buffers(nn.ModuleList([net, *(module for work in works for module in work.loss_modules)]))
        with kept, nullcontext() if knobs is None else knobs.tried(Progress(extent=extent)):
            dry_run(works, net, batch, training, extent)
            if plan.out_of_memory == "split" and samples_in(batch) > 1:
                halves(batch)
            if plan.accumulate != 1 or plan.out_of_memory == "split":
                _learn_counts(works, net, batch, extent)
            if flow.smallest == 1:
                try_single(net, works, batch, extent)
            evaluator = _evaluator(plan, evaluate, aside, net, works, flow, device)
            # What has no tokens in its first batch has none.
            check_heard(plan, works, knobs, evaluator, extent, () if first.tokens else ("tokens",))
            check_meant(plan, works, knobs, evaluator, extent)
    example = batch if any(of.export for of in plan.checkpoint or ()) else None
    probes = Probes(plan.probes, net, works, extent, plan.compile) if plan.probes else None
    facts = (averages, knobs, probes, origins, chosen, _idle(net, works), _told(flow, batch), example)
    return Checked(plan, net, works, flow, evaluator, extent, device, window, *facts)


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


def _first(flow: Flow) -> Batch:
    for batch in flow.batches(epochs=1):
        return batch
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


def _works(plan: Plan, net: nn.Module, device: torch.device, extent: Extent) -> tuple[Work, ...]:
    updates = _updates(plan, net)
    names = [update.name for update in updates]
    if len(set(names)) < len(names) or not names:
        raise PlanError(f"updates: every update needs a name of its own, and one at least is needed: {names}.")
    if len(updates) > 1 and "fp16" in Precision(plan.precision, device, extent).names:
        raise PlanError("precision='fp16' scales one loss; with several updates use precision='bf16'.")
    made = tuple(
        Work(
            update,
            net,
            Precision(plan.precision, device, extent),
            plan.non_finite,
            plan.ignore_stale_grad,
            plan.compile,
            extent,
            plan.strict,
            plan.seed,
            plan.out_of_memory,
        )
        for update in updates
    )
    heard = [f"{work.name}.loss" for work in made]
    for work in made:
        if work.update.turn is not None:
            with told_of(f"Update({work.name!r}), its turn"):
                check_told([work.update.turn], heard)
        if work.update.turn is not None:
            work.update.turn.check(extent)
        work.losses.check(extent)
    _tell_shared(made)
    return made


def _tell_shared(works: Sequence[Work]) -> None:
    """Warn where nobody said which update moves what, and several move the same."""
    whole = [work for work in works if work.update.part is None]
    shared = [set(work.stepper.table.ever_moving()) for work in whole]
    if len(whole) > 1 and set.intersection(*shared):
        names = " and ".join(repr(work.name) for work in whole)
        warn(
            f"The updates {names} have no part=, so each of them moves everything. Write part= in each: "
            f"Update({whole[0].name!r}, ..., part='generator'), or part=everything where that is meant."
        )


def _check_accumulation(plan: Plan, works: tuple[Work, ...]) -> None:
    """Raise PlanError for what makes no step from several batches: all of it at once."""
    if plan.accumulate == 1:
        return
    why = ["compile=True, whose program takes one batch"] if plan.compile else []
    for work in works:
        if work.stepper.optimizer.needs_closure:
            why.append(f"{work.stepper.name}, which computes the loss of one batch several times")
        if work.update.own_batch:
            why.append(f"Update({work.name!r}, own_batch=True), which takes batches of its own")
    if why:
        raise PlanError(
            f"accumulate={plan.accumulate!r} makes one step from several batches, and that is not possible with "
            f"{'; '.join(why)}. Leave one of them out, or write a larger batch_size."
        )


def _learn_counts(works: tuple[Work, ...], net: nn.Module, batch: Any, extent: Extent) -> None:
    """Find out for which losses what they are taken over is known before they are computed."""
    with looking(net):
        for work in works:
            work.losses.learn(net, work.read, batch, Progress(extent=extent))


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
    made = validation_flow(plan, evaluate, aside, net, flow, device)
    if policy(plan.non_finite).raises:
        check_finite(aside)
    evaluator = Evaluator(evaluate, net, works, made, plan.out_of_memory)
    batch = _first(made).values
    prove_validation(evaluator, works, net, aside, batch)
    evaluator.first_batch = _told(made, batch)
    return evaluator


def _check_copies(plan: Plan, knobs: Knobs, data: Any) -> None:
    """Raise PlanError where workers would read with copies of what knobs are for: no schedule would reach these."""
    for dial in knobs.dials:
        if dial.path is None and reached(data, [dial.owner]):
            raise PlanError(
                f"knobs: {dial.name!r} of {dial.where} changes during the run, and the data use it: each of the "
                f"workers={plan.workers} has a copy of its own, which would not change. Leave workers out, or apply it "
                "to whole batches in the net or the loss."
            )


def _told(flow: Flow, batch: Any) -> str:
    """A digest of the first batch. A loader with generators of its own may have been read before; they are kept."""
    return "of its own" if flow.state(Cursor()) else first_batch(batch)


def _idle(net: nn.Module, works: tuple[Work, ...]) -> tuple[str, ...]:
    """Trainable arrays that no update ever moves."""
    moved = {name for work in works for name in work.stepper.table.ever_moving()}
    tree = works[0].stepper.table.tree
    return tuple(name for name in tree.trainable if name not in moved)
