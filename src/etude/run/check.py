"""The proof that a plan can be carried out on a net with these data, before anything is changed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from etude.bind.knobs import Knobs
from etude.data.batch import Batch
from etude.data.cursor import Cursor
from etude.data.flow import Flow
from etude.data.source import Source, check_finite, source
from etude.errors import DataError, PlanError
from etude.initial.initial import Initial
from etude.run.checked import Checked
from etude.run.dry_run import dry_run, materialise, prove_validation, restored_on_error, try_single
from etude.run.evaluate import Evaluate, Evaluator
from etude.run.flows import beside, divided, training_flow, validation_flow
from etude.run.heard import check_heard
from etude.run.length import length
from etude.run.meant import check_meant
from etude.run.probes import Probes
from etude.run.reachable import reached
from etude.run.said import first_batch
from etude.run.updates import check_accumulation, works_of
from etude.step.averaging import Averages
from etude.step.looking import looking, same_buffers
from etude.step.policies import policy
from etude.step.reading import samples_in
from etude.step.splitting import halves
from etude.step.window import Window
from etude.step.work import Work
from etude.values.progress import Extent, Progress

if TYPE_CHECKING:
    from etude.run.plan import Plan


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
        materialise(net, first.values)
        origins = None if plan.initialize is None else Initial(plan.initialize).prove(net, plan.seed)
        works = works_of(plan, net, device, extent)
        check_accumulation(plan, works)
        for work in works if plan.initialize is None else ():
            work.stepper.prove_ties()
        averages = Averages(plan.averages, works[0].stepper.table.tree, extent)
        knobs = _knobs(plan, works, extent, data)
        # Losses may keep statistics of their own.
        kept = same_buffers(nn.ModuleList([net, *(module for work in works for module in work.loss_modules)]))
        probes = Probes(plan.probes, net, works, extent, plan.compile) if plan.probes else None
        with kept, nullcontext() if knobs is None else knobs.tried(Progress(extent=extent)):
            with nullcontext() if probes is None else probes.tried(first.values):
                _rehearse(plan, net, works, flow, training, first.values, extent)
            evaluator = _evaluator(plan, evaluate, aside, net, works, flow, device)
            # What has no tokens in its first batch has none.
            check_heard(plan, works, knobs, evaluator, extent, () if first.tokens else ("tokens",))
            check_meant(plan, works, knobs, evaluator, extent)
    return Checked(
        plan,
        net,
        works,
        flow,
        evaluator,
        extent,
        device,
        window,
        averages,
        knobs=knobs,
        probes=probes,
        origins=origins,
        chosen=chosen,
        idle=_idle(net, works),
        first_batch=_told(flow, first.values),
        example=first.values if any(of.export for of in plan.checkpoint or ()) else None,
    )


def _knobs(plan: Plan, works: tuple[Work, ...], extent: Extent, data: Any) -> Knobs | None:
    if not plan.knobs:
        return None
    knobs = Knobs(works[0].stepper.table.tree, plan.knobs, extent, strict=plan.strict)
    for work in works:
        work.follow(knobs, extent)
    if plan.workers:
        _check_copies(plan, knobs, data)
    return knobs


def _rehearse(
    plan: Plan, net: nn.Module, works: tuple[Work, ...], flow: Flow, training: Source, batch: Any, extent: Extent
) -> None:
    """Compute what steps compute, on the first batch, and move nothing."""
    dry_run(works, net, batch, training, extent)
    if plan.out_of_memory == "split" and samples_in(batch) > 1:
        halves(batch)
    if plan.accumulate != 1 or plan.out_of_memory == "split":
        _learn_counts(works, net, batch, extent)
    if flow.smallest == 1:
        try_single(net, works, batch, extent)


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
    also = beside(evaluate)
    sources = {"": aside, **also}
    flows = {name: validation_flow(plan, evaluate, one, net, flow, device) for name, one in sources.items()}
    if policy(plan.non_finite).raises:
        for one in sources.values():
            check_finite(one)
    others = {name: flows[name] for name in also}
    evaluator = Evaluator(evaluate, net, works, flows[""], plan.out_of_memory, others)
    batches = {name: _first(one).values for name, one in flows.items()}
    prove_validation(evaluator, works, net, sources, batches)
    evaluator.first_batch = " ".join(_told(flows[name], batch) for name, batch in batches.items())
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
