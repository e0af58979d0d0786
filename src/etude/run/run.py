"""A run, as a page: what happens in a step, and in what order."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from etude.arguments import named_class
from etude.data.batch import Batch
from etude.data.cursor import Cursor
from etude.errors import DataError, NonFiniteError, SettingError, StateError, warn
from etude.run.check import Checked
from etude.run.evaluate import Means
from etude.run.events import (
    Began,
    Ended,
    EpochEnded,
    Evaluated,
    Event,
    Listener,
    RolledBack,
    Settled,
    Skipped,
    Stepped,
)
from etude.run.going import SUM, Going, epoch_losses
from etude.run.in_force import InForce
from etude.run.keep_best import Best
from etude.run.leaving import Leaving
from etude.run.plan import Plan, check_time
from etude.run.probes import Probes
from etude.run.randomness import own_randomness, seed_step
from etude.run.result import Result
from etude.run.resuming import Accept, Resume, check_accept, check_resume
from etude.run.saving import Saving
from etude.step.loss import Measured
from etude.step.report import Report
from etude.step.work import Work
from etude.values.progress import Progress
from etude.values.spans import Span

_NOTHING_PROBED: Mapping[str, Tensor] = {}
_NOTHING_IN_FORCE: Mapping[str, float] = {}


@named_class
class Run:
    """A plan carried out on a net and data, as an iterator of events.

        for event in etude.Run(plan, net, data).to(Bar()): ...

    Nothing happens until the first event is asked for, and nothing after the last one was. The net given is the net
    that is trained.

    Args:
        plan, net, data: what is trained, on what, and how.
        resume: "auto": go on from the newest good checkpoint in the plan's destinations, or begin if there is none; a
            file: go on from exactly that one. None: begin.
        accept: differences between the file and the program that are meant: their names, or True for all.
        until: leave after so much time in this process, to be gone on with: the state is saved, the last event is
            `Ended` with the reason "interrupted". The same follows a SIGTERM, SIGINT or SIGUSR1 while the run has a
            place to be saved in.
        clock: gives seconds, for tests; None: `time.perf_counter`.

    Attributes:
        checked: the plan, proved.

    Raises:
        EtudeError: the plan cannot be carried out; nothing was changed. From the first event on also CheckpointError,
            PlanError: `resume` is no good checkpoint of this run; StateError, SettingError: nothing can be saved there.
    """

    def __init__(
        self,
        plan: Plan,
        net: nn.Module,
        data: Any,
        *,
        resume: Resume = None,
        accept: Accept = (),
        until: Span | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.checked: Checked = plan.check(net, data)
        self.plan = plan
        self.net = net
        clock = clock or time.perf_counter
        self._going = Going(self.checked, clock)
        self._saving = Saving(self._going, clock, check_resume(resume), check_accept(accept))
        self._until = check_time("until", until)
        if until is not None and not self._saving.active:
            there = ", ".join(repr(place.of) for place in self._saving.places)
            given = f"{there} saves only some states" if there else "no place is given"
            raise SettingError(
                f"until={until!r} saves the run and leaves, and {given}. Write checkpoint=Directory(...) too; or "
                "time_limit= for the end of the run."
            )
        self._alone = len(self.checked.works) == 1
        self._in_force = InForce(self.checked)
        self._accumulates = plan.accumulate != 1
        self._may_end = any(asked is not None for asked in (plan.patience, plan.time_limit, plan.stop))
        self._terms = {work.name: work.names(self._alone)[1] for work in self.checked.works}
        self._listeners: list[Listener] = []
        self._events: Generator[Event, None, None] = self._run()
        self._result: Result | None = None

    @property
    def progress(self) -> Progress:
        """The clock."""
        return self._going.progress

    @property
    def cursor(self) -> Cursor:
        """The next batch."""
        return self._going.cursor

    @property
    def newest_checkpoint(self) -> tuple[str, int]:
        """The file written last, or gone on from, and the step that it is of; ("", -1) where there is none."""
        return self._saving.newest, self._saving.newest_step

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
        going, saving, best, means = self._going, self._saving, self._going.best, self._going.means
        # A module that was set to evaluation by itself in a net that trains stays so.
        if not self.net.training:
            self.net.train()
        # Signals are noted until the last file is written and the folders are free.
        with own_randomness(), Leaving(saving.active) as leaving, saving:
            resumed = saving.resume()
            if not resumed:
                going.begin()
            going.watch.begin()
            see = going.gatherer.see
            going.snapshots.begin(going.progress)
            batches = checked.flow.batches(going.cursor)
            yield see(Began(going.progress, summary(checked, resumed)))
            reason, message = self._nothing_to_do()
            if best.owed:
                yield see(saving.hear(self._look()))
            if resumed:
                # What ended the run after the step at which it was saved ends it now.
                reason, message = (reason, message) if reason else self._asked_to_end()
            while not reason and not (reason := self._reached_end()):
                try:
                    # First, because an object that knobs are for may be one that the data read.
                    if checked.knobs is not None:
                        checked.knobs.write(going.progress)
                    taken = self._take(batches)
                    seed_step(plan.seed, int(going.progress.step), checked.device, plan.compile)
                    turns = self._turns(taken, batches)
                except DataError as error:
                    # Nothing has moved since the last step was settled.
                    yield from map(see, self._save_for(error))
                    raise
                before = going.progress
                try:
                    if checked.probes is None:
                        reports, probed = self._step(turns, taken), _NOTHING_PROBED
                    else:
                        reports, probed = self._probed_step(checked.probes, turns, taken)
                    back = going.snapshots.back(reports, int(before.step) + 1) if going.snapshots.active else ""
                except NonFiniteError as told:
                    if plan.non_finite != "stop":
                        yield from map(see, self._save_for(told) if self._alone else ())
                        raise told from None
                    reason, message = "non-finite", str(told)
                    break
                going.advance(taken)
                made = [(work, report) for work, report in reports if not report.refused and not back]
                refused = [(work, report) for work, report in reports if report.refused]
                if any(report.moved for _, report in made):
                    checked.averages.update(before, going.progress)
                if not made:
                    why = "; ".join(dict.fromkeys(report.why for _, report in refused))
                    yield see(Skipped(going.progress, why, self._told(refused)))
                else:
                    self._add(means, made)
                    yield see(self._stepped(before, made, refused, taken, probed))
                if back:
                    if checked.knobs is not None:
                        # Buffers that are knobs went back too.
                        checked.knobs.again()
                    yield see(RolledBack(going.progress, back, going.snapshots.step, going.snapshots.factor))
                if taken[-1].last or (len(taken) > 1 and any(batch.last for batch in taken)):
                    yield see(saving.hear(self._epoch_ended(means, best)))
                if best.due(before, going.progress, going.watch.elapsed()):
                    try:
                        looked = self._look()
                    except SettingError as error:
                        # The step is whole; the look is made when the run is gone on with.
                        yield from map(see, self._save_for(error))
                        raise
                    yield see(saving.hear(looked))
                if made and going.snapshots.active:
                    going.snapshots.take_if_due(before, going.progress)
                yield from map(see, saving.settle(before, going))
                yield Settled(going.progress)
                reason, message = self._asked_to_end() if self._may_end else ("", "")
                if not reason and (asked := leaving.requested or self._time_is_up()):
                    reason, message = "interrupted", asked
                    if leaving.note:
                        # Saving may take its time, and who presses Ctrl-C again would lose the state.
                        print(f"etude: {leaving.note}", file=sys.stderr, flush=True)
            if best.never_looked and reason not in ("non-finite", "interrupted"):
                yield see(saving.hear(self._look()))
            if reason != "non-finite" or self._alone:
                yield from map(see, saving.finish(going, "" if reason == "interrupted" else reason))
            yield see(Ended(going.progress, reason, message or best.message(reason)))
        for work in works:
            work.stepper.optimizer.finish()
        best.restore()
        self.net.eval()
        self._result = going.gatherer.result(best, going.watch.elapsed(), saving.files, saving.failed)

    def _time_is_up(self) -> str:
        """Why the run leaves now to be gone on with; "" where it does not."""
        return f"until={self._until!r}" if self._until and self._going.watch.here() >= self._until.amount else ""

    def _asked_to_end(self) -> tuple[str, str]:
        """Why the run ends before its length: one word, and a sentence where that is not said elsewhere."""
        going, plan = self._going, self.plan
        reason = going.best.out_of_patience() or going.watch.reached(plan.time_limit)
        if reason or plan.stop is None:
            return reason, ""
        said = going.ending.reached(going.progress, going.watch.elapsed())
        return ("stop", said) if said else ("", "")

    def _look(self) -> Evaluated:
        """Look at the validation data, and tell whatever goes by their scores."""
        event = self._going.best.look(self._going.progress)
        self._going.tell_look(event.scores)
        return event

    def _take(self, batches: Iterator[Batch]) -> list[Batch]:
        """The next batch, or those that make the next step together; an epoch ends with a step."""
        taken = [next(batches)]
        if self._accumulates:
            for _ in range(self.checked.window.size(self._going.progress) - 1):
                if taken[-1].last:
                    break
                taken.append(next(batches))
        return taken

    def _turns(self, taken: list[Batch], batches: Iterator[Batch]) -> list[Work]:
        """The updates that act in the step to come, one after the other; the batches of their own join those `taken`.

        Every turn is asked and every batch read before any update acts: what is wrong with them leaves all as it was.
        """
        works, progress = self.checked.works, self._going.progress
        if len(works) == 1 and works[0].update.turn is None:
            return [works[0]]
        asked = [(work, work.turns(progress)) for work in works]
        acting = [work for work, times in asked for _ in range(times) if len(works) == 1 or work.moves(progress)]
        taken += [next(batches) for work in acting[1:] if work.update.own_batch]
        return acting

    def _save_for(self, error: DataError | NonFiniteError | SettingError) -> Iterator[Event]:
        """The run ends with this error: the state after the last step is saved, to be gone on with."""
        step = int(self._going.progress.step)
        if step and self._saving.places:
            yield from self._saving.finish(self._going, "")
            path, saved = self.newest_checkpoint
            if saved == step:
                error.add_note(f"The state after step {step} is in {path}, to be gone on with.")

    def _probed_step(
        self, probes: Probes, acting: list[Work], taken: list[Batch]
    ) -> tuple[list[tuple[Work, Report]], Mapping[str, Tensor]]:
        """A step, and what probes measure in it where one is due."""
        if not probes.due(self._going.progress, self._going.after(taken)):
            return self._step(acting, taken), _NOTHING_PROBED
        with probes.watching(*[batch.values for batch in taken]):
            reports = self._step(acting, taken)
        return reports, probes.values()

    def _step(self, acting: list[Work], taken: list[Batch]) -> list[tuple[Work, Report]]:
        """Let the updates whose turn it is act on the batches taken."""
        progress, works = self._going.progress, self.checked.works
        if len(works) == 1 and works[0].update.turn is None:
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
        self._tell_turns(reports)
        return reports

    def _tell_turns(self, reports: list[tuple[Work, Report]]) -> None:
        """Turns that listen to losses hear those of this step."""
        if any(work.listens for work in self.checked.works):
            heard = {f"{work.name}.loss": float(report.loss) for work, report in reports}
            for work in self.checked.works:
                work.hear(heard)

    def _stepped(
        self,
        before: Progress,
        made: list[tuple[Work, Report]],
        refused: list[tuple[Work, Report]],
        taken: list[Batch],
        probed: Mapping[str, Tensor],
    ) -> Stepped:
        samples = taken[0].samples if len(taken) == 1 else sum([batch.samples for batch in taken])
        return Stepped(
            self._going.progress,
            self._told(made, refused),
            samples,
            made[0][0].rate(before),
            tuple([w.name for w, r in made if r.moved]),
            self._going.watch.elapsed(),
            self._numbers(before, made),
            probed,
        )

    def _numbers(self, before: Progress, made: list[tuple[Work, Report]]) -> Mapping[str, float]:
        """What was in force in a step besides its rate; of several updates the rate of each that moved something."""
        found = _NOTHING_IN_FORCE if self._in_force.empty else self._in_force.at(before)
        if self._alone:
            return found
        return {**{f"{work.name}.rate": work.rate(before) for work, report in made if report.moved}, **found}

    def _told(
        self, acted: list[tuple[Work, Report]], refused: list[tuple[Work, Report]] | tuple[()] = ()
    ) -> Mapping[str, Tensor]:
        """Every loss of a step by name; what was refused is in no sum."""
        report = acted[0][1]
        if self._alone and len(acted) == 1 and self._terms[acted[0][0].name] == ("loss",) and not refused:
            return {"loss": report.loss}
        return {work.names(self._alone)[0]: report.loss for work, report in refused} | _losses(acted, self._alone)

    def _add(self, means: Means, reports: list[tuple[Work, Report]]) -> None:
        for work, report in reports:
            names = self._terms[work.name]
            if len(names) == 1 and work.losses.fixed:
                means.add({names[0]: report.terms[0]})
                continue
            found = dict(zip(names, report.terms, strict=True))
            if not work.losses.fixed:
                # The mean of what was minimised, step by step; the terms keep their own counts.
                found[SUM + work.names(self._alone)[0]] = Measured(report.loss, report.samples)
            means.add(found)

    def _epoch_ended(self, means: Means, best: Best) -> EpochEnded:
        going = self._going
        found = epoch_losses(self.checked, means.values(), going.progress)
        best.epoch(found)
        going.tell_epoch(found)
        report = self.checked.flow.report(going.cursor.epoch - 1)
        return EpochEnded(going.progress, going.cursor.epoch, found, {} if report is None else report.numbers)

    def _nothing_to_do(self) -> tuple[str, str]:
        if any(work.stepper.table.ever_moving() for work in self.checked.works):
            return "", ""
        warn("Every array is frozen: the net is returned unchanged, no step was made.")
        return "frozen", "every array is frozen; nothing was trained"

    def _reached_end(self) -> str:
        plan, going = self.plan, self._going
        if plan.steps is not None and going.progress.step >= plan.steps:
            return "finished"
        return "finished" if plan.epochs is not None and going.cursor.epoch >= plan.epochs else ""


def summary(checked: Checked, resumed: str | None = None) -> dict[str, Any]:
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
        "precision": str(checked.plan.precision),
        "seed": checked.plan.seed,
        "optimizer": ", ".join(dict.fromkeys(work.stepper.name for work in checked.works)),
        "updates": tuple(work.name for work in checked.works),
        "terms": tuple(term for work in checked.works for term in work.names(alone)[1]),
        "resumed": resumed,
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


def _nothing() -> None:
    """What closing a listener without `close` does."""
