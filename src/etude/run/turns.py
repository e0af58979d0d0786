"""The turns of a step: which updates act in it, on which batches, and what they report."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from etude.data.batch import Batch
from etude.errors import NonFiniteError
from etude.run.checked import Checked
from etude.step.report import Report
from etude.step.work import Work
from etude.values.progress import Progress


class Turns:
    """The updates of a plan, as they take turns."""

    def __init__(self, checked: Checked) -> None:
        self._works, self._window = checked.works, checked.window
        self._accumulates = checked.plan.accumulate != 1
        # One update that acts in every step, as mostly.
        self._simple = len(self._works) == 1 and self._works[0].update.turn is None

    def take(self, batches: Iterator[Batch], progress: Progress) -> list[Batch]:
        """The next batch, or those that make the next step together; an epoch ends with a step."""
        taken = [next(batches)]
        if self._accumulates:
            for _ in range(self._window.size(progress) - 1):
                if taken[-1].last:
                    break
                taken.append(next(batches))
        return taken

    def acting(self, taken: list[Batch], batches: Iterator[Batch], progress: Progress) -> list[Work]:
        """The updates that act in the step to come, one after the other; the batches of their own join those `taken`.

        Every turn is asked and every batch read before any update acts: what is wrong with them leaves all as it was.
        """
        works = self._works
        if self._simple:
            return [works[0]]
        asked = [(work, work.turns.at(progress)) for work in works]
        acting = [work for work, times in asked for _ in range(times) if len(works) == 1 or work.moves(progress)]
        taken += [next(batches) for work in acting[1:] if work.update.own_batch]
        return acting

    def step(self, acting: list[Work], taken: list[Batch], progress: Progress) -> list[tuple[Work, Report]]:
        """Let the updates whose turn it is act on the batches taken.

        Raises:
            NonFiniteError: as `Work.step_together`; with the samples concerned, and the updates that had acted before.
        """
        works = self._works
        if self._simple:
            return [(works[0], _acted(works[0], progress, taken))]
        shared = taken if self._accumulates else taken[:1]
        own = iter(taken[1:])
        reports: list[tuple[Work, Report]] = []
        for work in acting:
            batches = [next(own)] if work.update.own_batch and reports else shared
            try:
                reports.append((work, _acted(work, progress, batches)))
            except NonFiniteError as error:
                raise _after_others(error, reports) from None
        if not reports:
            reports.append((works[0], works[0].look(progress, [batch.values for batch in shared])))
        self._tell(reports)
        return reports

    def _tell(self, reports: list[tuple[Work, Report]]) -> None:
        """Turns that listen to losses hear those of this step."""
        if any(work.turns.listens for work in self._works):
            heard = {f"{work.name}.loss": float(report.loss) for work, report in reports}
            for work in self._works:
                work.turns.hear(heard)


def _acted(work: Work, progress: Progress, batches: list[Batch]) -> Report:
    """One update on one batch, or on several as if they were one."""
    try:
        many = (batches[0].values,) if len(batches) == 1 else [batch.values for batch in batches]
        return work.step_together(progress, many)
    except NonFiniteError as error:
        raise _of_samples(error, batches) from None


def _after_others(error: NonFiniteError, reports: list[tuple[Work, Report]]) -> NonFiniteError:
    """The error of one of several updates, which also says which of them had acted in this step before."""
    acted = [repr(work.name) for work, report in reports if report.moved]
    if not acted:
        return error
    text = f"{error} Before it, {', '.join(acted)} had acted in this step."
    return NonFiniteError(text, error.names, error.step, error.rows)


def _of_samples(error: NonFiniteError, batches: list[Batch]) -> NonFiniteError:
    """The error of a step, which also says which samples of the data are concerned, where that is known."""
    indices = [batch.indices for batch in batches]
    known = [one for one in indices if one is not None]
    if not error.rows or len(known) < len(indices):
        return error
    order = torch.cat(known)
    if max(error.rows) >= len(order):  # frames of packed sequences
        return error
    found = order[list(error.rows)].tolist()
    shown = ", ".join(map(str, found[:5])) + (", ..." if found[5:] else "")
    return NonFiniteError(f"{error} Samples: {shown}.", error.names, error.step, error.rows)
