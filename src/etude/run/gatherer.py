"""From the events of a run to its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from etude.data.saying import option_text
from etude.run.account import score_of
from etude.run.checked import Checked
from etude.run.events import Ended, Event, Skipped, Stepped
from etude.run.history import History
from etude.run.pace import Pace
from etude.run.result import Result
from etude.run.said import versions
from etude.step.work import Work
from etude.values.progress import Progress

if TYPE_CHECKING:
    from etude.run.keep_best import Best


class Gatherer:
    """Collects what a run tells, and makes the result of it.

    Attributes:
        history: every series so far. before: the clock before the last step that was made.
    """

    def __init__(self, checked: Checked) -> None:
        self.checked = checked
        self.history = History()
        self._ended: Ended | None = None
        self.before = self._now = Progress(extent=checked.extent)

    def see(self, event: Event) -> Event:
        """Take an event, and hand it on."""
        self.history.see(event)
        if type(event) is Stepped:
            self.before, self._now = self._now, event.progress
        elif type(event) is Skipped:
            self._now = event.progress
        elif type(event) is Ended:
            self._ended = event
        return event

    def go_on(self, history: History, before: Progress, now: Progress) -> None:
        """Begin with what was collected until `now`; the last step that was made was made at `before`."""
        self.history, self.before, self._now = history, before, now

    def result(self, best: Best, seconds: float, checkpoints: list[str], failed: int) -> Result:
        """Everything, once the run has ended."""
        assert self._ended is not None
        checked, progress = self.checked, self._ended.progress
        plan, alone = checked.plan, len(checked.works) == 1
        return Result(
            net=checked.net,
            history=self.history,
            best_epoch=None if best.progress is None else best.progress.epoch,
            best_step=None if best.progress is None else int(best.progress.step),
            learning_rates=_rates(checked, self.before),
            learning_rate_multipliers=_multipliers(checked),
            update_schedule={w.name: _text(w.stepper.table.update_schedule) for w in checked.works},
            optimizer={"loss" if alone else w.name: _settings(w) for w in checked.works},
            steps=int(progress.step),
            epochs=progress.epoch,
            samples=int(progress.samples),
            batch_size=checked.flow.batch_size,
            batches_per_epoch=checked.flow.batches_per_epoch,
            training_samples=checked.flow.samples,
            validation_samples=None if checked.evaluator is None else checked.evaluator.flow.samples,
            seconds=seconds,
            throughput=progress.samples / seconds if seconds else 0.0,
            stop_reason=self._ended.reason,
            stop_message=self._ended.message,
            seed=plan.seed,
            device=str(checked.device),
            precision=str(plan.precision),
            versions=versions(),
            chosen=dict(checked.chosen),
            call={name: option_text(value) for name, value in plan.options().items()},
            origins="" if checked.origins is None else str(checked.origins),
            score=score_of(checked, Pace(checked, progress), self.history),
            plan=plan,
            checkpoints=list(checkpoints),
            failed_saves=failed,
            tables=dict(best.tables),
            averages=best.averages,
            _final=best.final,
        )


def _rates(checked: Checked, before: Progress) -> dict[str, float]:
    """The effective rate of each array in the step made at `before`."""
    found: dict[str, float] = {}
    for work, keys in _keyed(checked):
        table = work.stepper.table
        column = table.at(before, work.stepper.memory).columns["learning_rate"]
        for number, row in enumerate(table.rows):
            found.update({keys[name]: float(column[number] or 0.0) for name in row.names})
    return found


def _multipliers(checked: Checked) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for work, keys in _keyed(checked):
        for name, value in work.stepper.table.multipliers().items():
            found[keys[name]] = value if isinstance(value, int | float) else repr(value)
    return found


def _keyed(checked: Checked) -> Iterator[tuple[Work, dict[str, str]]]:
    """Each update with what it calls its arrays: the name, or "<update>: <name>" where several updates move one."""
    counts = Counter(name for work in checked.works for name in work.stepper.table.names)
    for work in checked.works:
        yield work, {n: n if counts[n] == 1 else f"{work.name}: {n}" for n in work.stepper.table.names}


def _settings(work: Work) -> dict[str, Any]:
    """The optimizer with every setting, as plain values or text."""
    return {name: value if _is_plain(value) else repr(value) for name, value in work.stepper.settings().items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _text(value: Any) -> str | None:
    return None if value is None else repr(value)
