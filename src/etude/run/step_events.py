"""What is told of a step: its event, every loss by name, and what the means of the epoch take of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import Tensor

from etude.data.batch import Batch
from etude.run.events import Skipped, Stepped
from etude.run.going import SUM, Going
from etude.run.in_force import InForce
from etude.step.report import Report
from etude.step.term import Measured
from etude.step.work import Work
from etude.values.progress import Progress

Reports: TypeAlias = "Sequence[tuple[Work, Report]]"
"""The updates that acted in a step, in order, and what each reports."""
_NOTHING_IN_FORCE: Mapping[str, float] = {}


class StepEvents:
    """The events of the steps of a run."""

    def __init__(self, going: Going) -> None:
        works = going.checked.works
        self._going = going
        self._alone = len(works) == 1
        self._terms = {work.name: work.names(self._alone)[1] for work in works}
        self._in_force = InForce(going.checked)

    def stepped(
        self, before: Progress, made: Reports, refused: Reports, taken: Sequence[Batch], probed: Mapping[str, Tensor]
    ) -> Stepped:
        """The event of a step in which something was made.

        Args:
            before: the clock before it. made, refused: the updates that acted, and those that refused their step.
            taken: the batches. probed: what probes measured.
        """
        samples = taken[0].samples if len(taken) == 1 else sum([batch.samples for batch in taken])
        return Stepped(
            self._going.progress,
            self._losses(made, refused),
            samples,
            made[0][0].rate(before),
            tuple([work.name for work, report in made if report.moved]),
            self._going.watch.elapsed(),
            self._numbers(before, made),
            probed,
        )

    def skipped(self, refused: Reports) -> Skipped:
        """The event of a step that every update refused."""
        why = "; ".join(dict.fromkeys(report.why for _, report in refused))
        return Skipped(self._going.progress, why, self._losses(refused))

    def add_to_means(self, made: Reports) -> None:
        """Let the means of the epoch take what was made."""
        for work, report in made:
            names = self._terms[work.name]
            if len(names) == 1 and work.losses.fixed:
                self._going.means.add({names[0]: report.terms[0]})
                continue
            found = dict(zip(names, report.terms, strict=True))
            if not work.losses.fixed:
                # The mean of what was minimised, step by step; the terms keep their own counts.
                found[SUM + work.names(self._alone)[0]] = Measured(report.loss, report.samples)
            self._going.means.add(found)

    def _numbers(self, before: Progress, made: Reports) -> Mapping[str, float]:
        """What was in force in a step besides its rate; of several updates the rate of each that moved something."""
        found = _NOTHING_IN_FORCE if self._in_force.empty else self._in_force.at(before)
        if self._alone:
            return found
        return {**{f"{work.name}.rate": work.rate(before) for work, report in made if report.moved}, **found}

    def _losses(self, acted: Reports, refused: Reports = ()) -> Mapping[str, Tensor]:
        """Every loss of a step by name; what was refused is in no sum."""
        report = acted[0][1]
        if self._alone and len(acted) == 1 and self._terms[acted[0][0].name] == ("loss",) and not refused:
            return {"loss": report.loss}
        return {work.names(self._alone)[0]: report.loss for work, report in refused} | _summed(acted, self._alone)


def _summed(reports: Reports, alone: bool) -> dict[str, Tensor]:
    """Every loss of a step by name; "loss" is the sum over the updates that acted."""
    found: dict[str, Tensor] = {}
    total: Tensor | None = None
    for work, report in reports:
        name, names = work.names(alone)
        total = report.loss if total is None else total + report.loss
        found.update({key: term.mean.detach() for key, term in zip(names, report.terms, strict=True)})
        found[name] = report.loss
    assert total is not None
    return {"loss": total, **{key: value for key, value in found.items() if key != "loss"}}
