"""A plan that was proved on a net and its data: what the run, and all that tells of it, read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from etude.bind.knobs import Knobs
from etude.data.flow import Flow
from etude.initial.origins import Origins
from etude.run.evaluate import Evaluator
from etude.run.probes import Probes
from etude.step.averaging import Averages
from etude.step.window import Window
from etude.step.work import Work
from etude.values.progress import Extent

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
