"""The places where a run is saved: when each is due, and what each has done so far."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from etude.errors import CheckpointError
from etude.keep import files
from etude.keep.destination import Directory, File, destinations
from etude.keep.names import Name
from etude.keep.retain import BestBy
from etude.keep.store import Store
from etude.run.checked import Checked
from etude.values.cadence import Cadence
from etude.values.progress import Extent, Progress


@dataclass(frozen=True, slots=True)
class Done:
    """What a place has done: seconds into the run, the score and the step of its last save, and how many there were."""

    last: float | None = None
    best: float | None = None
    step: int = -1
    number: int = 0


@dataclass(slots=True)
class Place:
    """A destination at work.

    Attributes:
        of: the destination. store: its files. when: its condition, with a direction. done: what it has done so far.
    """

    of: File | Directory
    store: Store
    when: BestBy | None
    done: Done = field(default_factory=Done)

    def due(self, before: Progress, after: Progress, elapsed: float, scores: Mapping[str, float]) -> bool:
        """Whether the state is to be saved here now."""
        cadence: Any = self.of.cadence
        if cadence is not None and not cadence.due(before, after, elapsed, self.done.last):
            return False
        if self.when is None:
            return True
        value = scores.get(self.when.score)
        return value is not None and self.when.improves(value, self.done.best)

    def take(self, progress: Progress, elapsed: float, scores: Mapping[str, float]) -> Done:
        """Note that the state of this moment is saved here; returns what was done before, in case that it fails."""
        before = self.done
        best = None if self.when is None else scores.get(self.when.score)
        self.done = Done(elapsed, best, int(progress.step), before.number + 1)
        return before

    def undo(self, before: Done, step: int) -> None:
        """A save failed: its score is none that a file has, and its step is not there."""
        kept = -1 if self.done.step == step else self.done.step
        self.done = Done(self.done.last, before.best, kept, self.done.number)

    def state(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        done = self.done
        where = {"kind": type(self.of).__name__, "path": self.of.absolute}
        return {**where, "last": done.last, "best": done.best, "step": done.step, "number": done.number}

    def files(self, start: str, counter: int) -> list[str]:
        """The files of one run in a folder, oldest first."""
        found = self.store.paths() if isinstance(self.of, Directory) else []
        return [str(path) for path in reversed(found) if path.name.startswith(f"{start}_{counter}_")]

    def newest_start(self) -> str:
        """When the newest run in a folder began; "" where there is none."""
        names = self.store.paths() if isinstance(self.of, Directory) else []
        name = Name.parse(names[0].name) if names else None
        return "" if name is None else name.start

    def record(self) -> Mapping[str, Any]:
        """The record of the one file, empty where there is none that is good, or there are several."""
        try:
            return {} if isinstance(self.of, Directory) else files.read_record(self.of.absolute)
        except CheckpointError:
            return {}

    def go_on(self, kept: Mapping[str, Any] | None, start: str, counter: int) -> None:
        """Go on with what an earlier process of this run did here, as far as its files are still there."""
        if kept is None:
            return
        step = kept["step"]
        if isinstance(self.of, Directory):
            names = [Name.parse(os.path.basename(path)) for path in self.files(start, counter)]
            there = any(name is not None and name.step == step for name in names)
        else:
            record = self.record()
            run, progress = record.get("run"), record.get("progress", {})
            there = run == {"start": start, "counter": counter} and progress.get("step") == step
        # The run may have been killed between two places of one save.
        self.done = Done(kept["last"], kept["best"], step if there else -1, kept["number"])

    def branch(self, start: str, counter: int) -> None:
        """The run goes on from a file that was named: what its one file here holds must not be lost for a worse one."""
        record = self.record()
        if self.when is not None and record.get("run") == {"start": start, "counter": counter}:
            self.done = Done(best=record.get("scores", {}).get(self.when.score))


def places(checked: Checked) -> list[Place]:
    """The places of a plan, with every score they go by known, and with a direction.

    Raises:
        SettingError: nothing can be written to one, or it goes by a score that is not measured.
        ScheduleError: its cadence has a span that the run cannot tell.
    """
    known = known_scores(checked)
    return [_place(of, known, checked.extent) for of in destinations(checked.plan.checkpoint)]


def _place(of: File | Directory, known: Mapping[str, str | None], extent: Extent) -> Place:
    of.check()
    if isinstance(of.cadence, Cadence):
        of.cadence.check(Progress(extent=extent))
    keep = of.keep.check(known) if isinstance(of, Directory) and of.keep is not None else None
    when = of.when.check(known) if of.when is not None else None
    assert when is None or isinstance(when, BestBy)
    return Place(of, Store(of, keep), when)


def known_scores(checked: Checked) -> dict[str, str | None]:
    """What is measured in a run, and which way each improves."""
    alone = len(checked.works) == 1
    names = [name for work in checked.works for name in (work.names(alone)[0], *work.names(alone)[1])]
    known: dict[str, str | None] = {f"epoch.{name}": "min" for name in dict.fromkeys(["loss", *names])}
    evaluator = checked.evaluator
    if evaluator is not None:
        known |= {f"val.{name}": evaluator.better(name) for name in evaluator.known}
    return known
