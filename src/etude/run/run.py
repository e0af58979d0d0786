"""A run, as a page: what happens in a step, and in what order."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from etude.data.batch import Batch
from etude.data.cursor import Cursor
from etude.errors import NonFiniteError, StateError, warn
from etude.run.check import Checked
from etude.run.evaluate import Means, total_losses
from etude.run.events import Began, Ended, EpochEnded, Event, Listener, Settled, Skipped, Stepped
from etude.run.keep_best import Best
from etude.run.plan import Plan
from etude.run.randomness import own_randomness, seed_step
from etude.run.result import Result, gather
from etude.step.loss import Measured
from etude.step.work import Report, Work
from etude.values.progress import Progress

_SUM = "sum of "
"""Before the name of a loss whose weights change: its mean is kept beside those of its terms."""


class Run:
    """A plan carried out on a net and data, as an iterator of events.

        for event in etude.Run(plan, net, data).to(Bar()): ...

    Nothing happens until the first event is asked for, and nothing after the last one was. The net given is the net
    that is trained.

    Attributes:
        checked: the plan, proved. progress: the clock. cursor: the next batch.

    Raises:
        EtudeError: the plan cannot be carried out; nothing was changed.
    """

    def __init__(self, plan: Plan, net: nn.Module, data: Any) -> None:
        self.checked: Checked = plan.check(net, data)
        self.plan = plan
        self.net = net
        self.progress = Progress(extent=self.checked.extent)
        self.cursor = Cursor()
        self._alone = len(self.checked.works) == 1
        self._terms = {work.name: work.names(self._alone)[1] for work in self.checked.works}
        self._totals = [work.names(self._alone)[0] for work in self.checked.works]
        self._listeners: list[Listener] = []
        self._events: Generator[Event, None, None] = self._run()
        self._result: Result | None = None

    def to(self, *listeners: Listener | None) -> Run:
        """Let listeners see each event before whoever iterates does; None is passed over. Returns the run."""
        self._listeners += [listener for listener in listeners if listener is not None]
        return self

    def __iter__(self) -> Iterator[Event]:
        with ExitStack() as leaving:
            # However the run is left, it ends there: listeners are closed, the random generators are as they were.
            leaving.callback(self._events.close)
            for listener in self._listeners:
                leaving.callback(getattr(listener, "close", _nothing))
            for event in self._events:
                for listener in self._listeners:
                    listener(event)
                yield event

    def result(self) -> Result:
        """What came out; the run is first carried to its end.

        Raises:
            StateError: the run was left before its end.
        """
        for _ in self:
            pass
        if self._result is None:
            raise StateError("The run was left before its end, by an error or by leaving the loop: it has no result.")
        return self._result

    # ------------------------------------------------------------------------------------------- the page itself

    def _run(self) -> Generator[Event, None, None]:
        checked, plan, works = self.checked, self.plan, self.checked.works
        gatherer, best = gather(checked), Best(checked)
        means, clock = Means(), _Stopwatch()
        batches = checked.flow.batches(self.cursor)
        # A module that was set to evaluation by itself in a net that trains stays so.
        if not self.net.training:
            self.net.train()
        with own_randomness():
            yield gatherer.see(Began(self.progress, summary(checked)))
            reason, message = self._nothing_to_do()
            while not reason and not (reason := self._reached_end()):
                taken = [next(batches)]
                seed_step(plan.seed, int(self.progress.step), checked.device, plan.compile)
                before = self.progress
                try:
                    reports = self._step(works, taken, batches)
                except NonFiniteError as error:
                    if plan.non_finite != "stop":
                        raise
                    reason, message = "non-finite", str(error)
                    break
                self._advance(taken)
                made = [(work, report) for work, report in reports if not report.refused]
                if any(report.moved for _, report in made):
                    checked.averages.update(before, self.progress)
                if not made:
                    yield gatherer.see(Skipped(self.progress, "the loss or a gradient is not finite"))
                else:
                    self._add(means, made)
                    yield gatherer.see(self._stepped(before, made, taken, clock.elapsed()))
                if taken[-1].last or (len(taken) > 1 and any(batch.last for batch in taken)):
                    yield gatherer.see(self._epoch_ended(means, best))
                if best.due(before, self.progress, clock.elapsed()):
                    yield gatherer.see(best.look(self.progress))
                yield Settled(self.progress)
                reason = best.out_of_patience() or clock.reached(plan.time_limit)
            if best.never_looked and reason != "non-finite":
                yield gatherer.see(best.look(self.progress))
            yield gatherer.see(Ended(self.progress, reason, message or best.message(reason)))
        for work in works:
            work.stepper.optimizer.finish()
        best.restore()
        self.net.eval()
        self._result = gatherer.result(best, clock.elapsed())

    def _advance(self, taken: list[Batch]) -> None:
        """The clock and the cursor after the batches of a step."""
        batch = taken[-1]
        samples, tokens = batch.samples, batch.tokens
        for other in taken[:-1]:
            samples, tokens = samples + other.samples, tokens + other.tokens
        self.cursor = batch.next
        self.progress = self.progress.tick(samples=samples, tokens=tokens, epoch=batch.progress_epoch)

    def _step(self, works: tuple[Work, ...], taken: list[Batch], batches: Iterator[Batch]) -> list[tuple[Work, Report]]:
        """Let every update whose turn it is act; batches that one takes for itself are added to `taken`."""
        progress, shared = self.progress, taken[0]
        if len(works) == 1 and works[0].update.turn is None:
            return [(works[0], works[0].step(progress, shared.values))]
        reports: list[tuple[Work, Report]] = []
        # Every turn is asked before any update acts: a turn that is none is an error before anything moves.
        turns = [work.turns(progress) for work in works]
        for work, times in zip(works, turns, strict=True):
            for _ in range(times if work.moves(progress) or len(works) == 1 else 0):
                batch = shared
                if work.update.own_batch and reports:
                    batch = next(batches)
                    taken.append(batch)
                try:
                    reports.append((work, work.step(progress, batch.values)))
                except NonFiniteError as error:
                    raise _after_others(error, reports) from None
        if not reports:
            reports.append((works[0], works[0].look(progress, shared.values)))
        self._tell_turns(reports)
        return reports

    def _tell_turns(self, reports: list[tuple[Work, Report]]) -> None:
        """Turns that listen to losses hear those of this step."""
        if any(work.listens for work in self.checked.works):
            heard = {f"{work.name}.loss": float(report.loss) for work, report in reports}
            for work in self.checked.works:
                work.hear(heard)

    def _stepped(
        self, before: Progress, reports: list[tuple[Work, Report]], taken: list[Batch], seconds: float
    ) -> Stepped:
        work, report = reports[0]
        simple = self._alone and len(report.terms) == 1 and len(reports) == 1
        losses: Mapping[str, Tensor] = {"loss": report.loss} if simple else _losses(reports, self._alone)
        samples = taken[0].samples if len(taken) == 1 else sum([batch.samples for batch in taken])
        return Stepped(
            self.progress, losses, samples, work.rate(before), tuple([w.name for w, r in reports if r.moved]), seconds
        )

    def _add(self, means: Means, reports: list[tuple[Work, Report]]) -> None:
        for work, report in reports:
            names = self._terms[work.name]
            if len(names) == 1 and work.losses.fixed:
                means.add({names[0]: report.terms[0]})
                continue
            found = dict(zip(names, report.terms, strict=True))
            if not work.losses.fixed:
                # The mean of what was minimised, step by step; the terms keep their own counts.
                found[_SUM + work.names(self._alone)[0]] = Measured(report.loss, report.samples)
            means.add(found)

    def _epoch_ended(self, means: Means, best: Best) -> EpochEnded:
        found = means.values()
        sums = {name.removeprefix(_SUM): found.pop(name) for name in list(found) if name.startswith(_SUM)}
        if found:
            found.update(total_losses(self.checked.works, found, self.progress))
            if sums and not self._alone:
                sums["loss"] = sum(sums.get(name, found[name]) for name in self._totals if name in found)
            found.update(sums)
        best.epoch(found)
        return EpochEnded(self.progress, self.cursor.epoch, found)

    def _nothing_to_do(self) -> tuple[str, str]:
        if any(work.stepper.table.ever_moving() for work in self.checked.works):
            return "", ""
        warn("Every array is frozen: the net is returned unchanged, no step was made.")
        return "frozen", "every array is frozen; nothing was trained"

    def _reached_end(self) -> str:
        plan = self.plan
        if plan.steps is not None and self.progress.step >= plan.steps:
            return "finished"
        return "finished" if plan.epochs is not None and self.cursor.epoch >= plan.epochs else ""


class _Stopwatch:
    """Seconds since the run began."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def elapsed(self) -> float:
        return time.perf_counter() - self._began

    def reached(self, limit: Any) -> str:
        return "time" if limit is not None and self.elapsed() >= limit.amount else ""


def summary(checked: Checked) -> dict[str, Any]:
    """The facts of a run for its first event."""
    tree = checked.works[0].stepper.table.tree
    alone = len(checked.works) == 1
    return {
        "parameters": sum(p.numel() for p in checked.net.parameters()),
        "trainable": sum(tree.arrays[name].numel() for name in tree.trainable if name not in checked.idle),
        "steps": None if checked.extent.steps is None else int(checked.extent.steps),
        "epochs": checked.extent.epochs,
        "batch_size": checked.flow.batch_size,
        "batches_per_epoch": checked.flow.batches_per_epoch,
        "samples": checked.flow.samples,
        "device": str(checked.device),
        "precision": checked.plan.precision,
        "seed": checked.plan.seed,
        "optimizer": ", ".join(dict.fromkeys(work.stepper.name for work in checked.works)),
        "updates": tuple(work.name for work in checked.works),
        "terms": tuple(term for work in checked.works for term in work.names(alone)[1]),
    }


def _losses(reports: list[tuple[Work, Report]], alone: bool) -> dict[str, Tensor]:
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


def _after_others(error: NonFiniteError, reports: list[tuple[Work, Report]]) -> NonFiniteError:
    """The error of one of several updates, which also says which of them had acted in this step before."""
    acted = [repr(work.name) for work, report in reports if report.moved]
    if not acted:
        return error
    return NonFiniteError(f"{error} Before it, {', '.join(acted)} had acted in this step.", error.names, error.step)


def _nothing() -> None:
    """What closing a listener without `close` does."""
