"""A run, as a page: what happens in a step, and in what order."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from etude.arguments import named_class
from etude.data.batch import Batch
from etude.data.cursor import Cursor
from etude.errors import DataError, NonFiniteError, SettingError, StateError, warn
from etude.run.account import summary
from etude.run.checked import Checked
from etude.run.events import (
    Began,
    Ended,
    EpochEnded,
    Evaluated,
    Event,
    Listener,
    RolledBack,
    Settled,
)
from etude.run.going import Going, epoch_losses
from etude.run.leaving import Leaving
from etude.run.plan import Plan, check_time
from etude.run.randomness import own_randomness, seed_step
from etude.run.result import Result
from etude.run.resuming import Accept, Resume, check_accept, check_resume
from etude.run.saving import Saving
from etude.run.step_events import StepEvents
from etude.run.turns import Turns
from etude.step.report import Report
from etude.step.work import Work
from etude.values.progress import Progress
from etude.values.spans import Span

_NOTHING_PROBED: Mapping[str, Tensor] = {}


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
        self._turns = Turns(self.checked)
        self._told = StepEvents(self._going)
        self._may_end = any(asked is not None for asked in (plan.patience, plan.time_limit, plan.stop))
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
        going, saving, best = self._going, self._saving, self._going.best
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
                    taken = self._turns.take(batches, going.progress)
                    seed_step(plan.seed, int(going.progress.step), checked.device, plan.compile)
                    acting = self._turns.acting(taken, batches, going.progress)
                except DataError as error:
                    # Nothing has moved since the last step was settled.
                    yield from map(see, self._save_for(error))
                    raise
                before = going.progress
                try:
                    reports, probed = self._step(acting, taken)
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
                    yield see(self._told.skipped(refused))
                else:
                    self._told.add_to_means(made)
                    yield see(self._told.stepped(before, made, refused, taken, probed))
                if back:
                    if checked.knobs is not None:
                        # Buffers that are knobs went back too.
                        checked.knobs.again()
                    yield see(RolledBack(going.progress, back, going.snapshots.step, going.snapshots.factor))
                if taken[-1].last or (len(taken) > 1 and any(batch.last for batch in taken)):
                    yield see(saving.hear(self._epoch_ended()))
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
                reason, message = self._asked_to_end()
                if not reason and (asked := self._asked_to_leave(leaving)):
                    reason, message = "interrupted", asked
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

    def _asked_to_leave(self, leaving: Leaving) -> str:
        """Why the run leaves now to be gone on with; "" where it does not."""
        asked = leaving.requested
        if not asked and self._until is not None and self._going.watch.here() >= self._until.amount:
            asked = f"until={self._until!r}"
        if asked and leaving.note:
            # Saving may take its time, and who presses Ctrl-C again would lose the state.
            print(f"etude: {leaving.note}", file=sys.stderr, flush=True)
        return asked

    def _asked_to_end(self) -> tuple[str, str]:
        """Why the run ends before its length: one word, and a sentence where that is not said elsewhere."""
        if not self._may_end:
            return "", ""
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

    def _save_for(self, error: DataError | NonFiniteError | SettingError) -> Iterator[Event]:
        """The run ends with this error: the state after the last step is saved, to be gone on with."""
        step = int(self._going.progress.step)
        if step and self._saving.places:
            yield from self._saving.finish(self._going, "")
            path, saved = self.newest_checkpoint
            if saved == step:
                error.add_note(f"The state after step {step} is in {path}, to be gone on with.")

    def _step(self, acting: list[Work], taken: list[Batch]) -> tuple[list[tuple[Work, Report]], Mapping[str, Tensor]]:
        """Let the updates whose turn it is act, and measure what probes are for where one is due."""
        going, probes = self._going, self.checked.probes
        if probes is None or not probes.due(going.progress, going.after(taken)):
            return self._turns.step(acting, taken, going.progress), _NOTHING_PROBED
        with probes.watching(*[batch.values for batch in taken]):
            reports = self._turns.step(acting, taken, going.progress)
        return reports, probes.values()

    def _epoch_ended(self) -> EpochEnded:
        going = self._going
        found = epoch_losses(self.checked, going.means.values(), going.progress)
        going.best.epoch(found)
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


def _nothing() -> None:
    """What closing a listener without `close` does."""
