"""The data of a plan: what is trained on, what is evaluated on, and how both are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from etude.arguments import told_of
from etude.data.flow import Flow
from etude.data.source import Source, source, split_validation
from etude.errors import PlanError
from etude.run.evaluate import Evaluate
from etude.values.progress import Extent
from etude.values.schedule import schedule

if TYPE_CHECKING:
    from etude.run.plan import Plan


def divided(plan: Plan, made: Source, chosen: dict[str, Any]) -> tuple[Evaluate | None, Source, Source | None]:
    """How is evaluated, what is trained on and what is evaluated on; what was chosen for it is added to `chosen`."""
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
    with told_of("validation"):
        return evaluate, made, source(evaluate.data)


def beside(evaluate: Evaluate) -> dict[str, Source]:
    """The other data that are looked at, by name."""
    found: dict[str, Source] = {}
    for name, data in (evaluate.also or {}).items():
        with told_of(f"Evaluate(also={{{name!r}: ...}})"):
            found[name] = source(data)
    return found


def training_flow(plan: Plan, net: nn.Module, training: Source, device: torch.device, chosen: dict[str, Any]) -> Flow:
    """The batches that are trained on."""
    size = plan.batch_size
    if size is None and not training.batched:
        size = 32 if training.length is None else min(32, training.length)
        chosen["batch_size"] = size
    made = Flow(
        training,
        batch_size=size,
        shuffle=plan.shuffle,
        # Budgets that are schedules are asked before anybody knows how many steps an epoch has.
        extent=Extent(steps=plan.steps, epochs=plan.epochs),
        accumulate=schedule(plan.accumulate),
        **_reading(plan, net, device, training),
    )
    if made.source.converted:
        chosen["converted"] = list(made.source.converted)
    return made


def validation_flow(
    plan: Plan, evaluate: Evaluate, aside: Source, net: nn.Module, flow: Flow, device: torch.device
) -> Flow:
    """The batches that are evaluated on, beside `flow`, those that are trained on."""
    size: int | None = evaluate.batch_size or flow.batch_size or 32
    if evaluate.batch_size is None and aside.batched:
        size = None
    elif aside.length is not None and size is not None:
        size = min(size, aside.length)
    # What is read forward keeps its own order; workers read ahead as in training.
    extent = Extent(steps=plan.steps, epochs=plan.epochs)
    return Flow(
        aside, batch_size=size, shuffle=False, looking=True, extent=extent, **_reading(plan, net, device, aside)
    )


def _reading(plan: Plan, net: nn.Module, device: torch.device, data: Source) -> dict[str, Any]:
    """How data are read, for training and validation alike; workers read the items of data sets."""
    if plan.workers and not data.by_item and data.batched and not data.random_access:
        raise PlanError(
            f"workers={plan.workers}: {data.title} is read forward, in batches of its own. Leave workers out; a "
            "DataLoader has its own (num_workers)."
        )
    # numpy's float64 becomes float32 because most nets are; for a net of float64 it stays.
    floats = {array.dtype for array in net.parameters() if array.is_floating_point()}
    double = plan.precision == "fp64" or (bool(data.converted) and floats == {torch.float64})
    return {
        "seed": plan.seed,
        "device": device,
        "workers": plan.workers if data.by_item else 0,
        "dtype": torch.float64 if double else None,
    }
