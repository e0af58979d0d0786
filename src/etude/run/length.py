"""How long the run of a plan is, in every unit in which that is known."""

from __future__ import annotations

from math import ceil, isfinite
from typing import TYPE_CHECKING

from etude.data.flow import Flow
from etude.values.progress import Extent
from etude.values.schedule import Constant, schedule

if TYPE_CHECKING:
    from etude.run.plan import Plan


def length(plan: Plan, flow: Flow) -> Extent:
    """The extent of a run of this plan over these batches."""
    per, samples, tokens = flow.batches_per_epoch, flow.samples, flow.tokens
    number = schedule(plan.accumulate)
    if per and isinstance(number, Constant):
        # What is left at the end of an epoch makes a step of its own.
        per = ceil(per / number.value)
    if per is None and plan.epochs and isinstance(number, Constant):
        batches = flow.batches_of(plan.epochs)
        if batches is not None:
            return _planned(plan, flow, sum(ceil(each / number.value) for each in batches))
    ends = [(float(plan.steps), plan.steps / per if per else None)] if plan.steps else []
    if plan.epochs:
        ends.append((float(plan.epochs * per), float(plan.epochs)) if per else (float("inf"), float(plan.epochs)))
    if not ends:
        return Extent()
    steps, passes = min(ends, key=lambda end: end[0])
    if not isinstance(number, Constant):
        whole = plan.epochs if plan.steps is None else None
        return Extent(
            steps=plan.steps,
            epochs=plan.epochs,
            samples=whole * samples if whole and samples else None,
            tokens=whole * tokens if whole and tokens else None,
        )
    if plan.updates is not None and any(update.own_batch for update in plan.updates):
        # A step takes as many batches as turns say: how many steps an epoch has is only seen when it is made.
        return Extent(steps=plan.steps, epochs=plan.epochs)
    return Extent(
        steps=steps if isfinite(steps) else None,
        epochs=passes,
        samples=passes * samples if passes is not None and samples is not None else None,
        tokens=passes * tokens if passes is not None and tokens else None,
    )


def _planned(plan: Plan, flow: Flow, steps: int) -> Extent:
    """How long a run is whose epochs have different numbers of batches."""
    if plan.updates is not None and any(update.own_batch for update in plan.updates):
        return Extent(steps=plan.steps, epochs=plan.epochs)
    if plan.steps is not None and plan.steps < steps:
        return Extent(steps=plan.steps)
    epochs = plan.epochs or 0
    samples, tokens = flow.samples, flow.tokens
    return Extent(steps, epochs, samples and samples * epochs, tokens and tokens * epochs)
