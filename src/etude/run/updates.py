"""The updates of a plan, put to work on a net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from etude.arguments import told_of
from etude.errors import PlanError, warn
from etude.run.probe import GRADIENT
from etude.step.gan import GAN
from etude.step.precision import Precision
from etude.step.update import Update
from etude.step.work import Manner, Work
from etude.values.progress import Extent
from etude.values.reactive import check_told

if TYPE_CHECKING:
    from etude.run.plan import Plan


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


def works_of(plan: Plan, net: nn.Module, device: torch.device, extent: Extent) -> tuple[Work, ...]:
    """The updates of a plan, at work on a net.

    Raises:
        PlanError: there is none, two have one name, or they exclude one another. ScheduleError: a turn or a weight is
            undefined somewhere in the run.
    """
    updates = _updates(plan, net)
    names = [update.name for update in updates]
    if len(set(names)) < len(names) or not names:
        raise PlanError(f"updates: every update needs a name of its own, and one at least is needed: {names}.")
    if len(updates) > 1 and "fp16" in Precision(plan.precision, device, extent).names:
        raise PlanError("precision='fp16' scales one loss; with several updates use precision='bf16'.")
    manner = Manner(plan.non_finite, plan.ignore_stale_grad, plan.compile, plan.strict, plan.seed, plan.out_of_memory)
    made = tuple(Work(update, net, Precision(plan.precision, device, extent), extent, manner) for update in updates)
    # Gradients that are added up, or looked at, have to be there between loss and update.
    if plan.compile and (plan.accumulate != 1 or any(one.of == GRADIENT for one in plan.probes or ())):
        for work in made:
            work.leave_update_out()
    heard = [f"{work.name}.loss" for work in made]
    for work in made:
        if work.update.turn is not None:
            with told_of(f"Update({work.name!r}), its turn"):
                check_told([work.update.turn], heard)
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


def check_accumulation(plan: Plan, works: tuple[Work, ...]) -> None:
    """Raise PlanError for what makes no step from several batches: all of it at once."""
    if plan.accumulate == 1:
        return
    why = []
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
