"""The data of a plan as a run would read them, before anything is read or trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from etude.arguments import told_of
from etude.data.flow import Flow
from etude.data.source import source
from etude.run.flows import divided, training_flow, validation_flow
from etude.run.plan import Plan


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What is trained on, and what is evaluated on (None: nothing).

    Attributes:
        chosen: what was chosen where nothing was said.
    """

    training: Flow
    validation: Flow | None
    chosen: dict[str, Any]


def foresee(plan: Plan, net: nn.Module, data: Any) -> Foreseen:
    """How a run of this plan would read these data. The net is not called, and nothing is changed.

    Raises:
        DataError, PlanError: data that cannot be read so.
    """
    chosen: dict[str, Any] = {}
    evaluate, training, aside = divided(plan, source(data, round_length=plan.round_length), chosen)
    device = torch.device("cpu")  # where batches would go does not matter: none is made
    flow = training_flow(plan, net, training, device, chosen)
    if evaluate is None or aside is None:
        return Foreseen(flow, None, chosen)
    with told_of("validation"):
        return Foreseen(flow, validation_flow(plan, evaluate, aside, net, flow, device), chosen)
