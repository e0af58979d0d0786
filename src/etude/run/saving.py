"""The destinations of a run at work: when each is due, what is written, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import ceil, isfinite
from typing import Any

from etude.errors import CheckpointError, EtudeError, PlanError, warn
from etude.keep import files, state
from etude.keep.arrays import Packed
from etude.keep.destination import Directory, File, destinations
from etude.keep.files import Image, Saved
from etude.keep.names import Name, start_now
from etude.keep.plain import pack, unpack
from etude.keep.retain import BestBy, Entry
from etude.keep.store import Store
from etude.keep.writer import Done, Writer
from etude.run.agreement import agree, machine, tell_machine
from etude.run.check import Checked
from etude.run.events import EpochEnded, Evaluated, Event, SaveFailed
from etude.run.events import Saved as SavedEvent
from etude.run.exporting import Exporter
from etude.run.going import Going
from etude.step.states import is_count
from etude.values.progress import Progress

_RUNS = count(1)
"""Numbers the runs of this process, those too that save nothing."""


@dataclass(slots=True)
class Place:
    """A destination with what it has done so far.

    Attributes:
        of: the destination. store: its files. when: its condition, with a direction.
        last: seconds into the run at its last save. best: the best score at a save. number: how many saves there were.
        step: the step of the last one.
    """

    of: File | Directory
    store: Store
    when: BestBy | None
    last: float | None = None
    best: float | None = None
    number: int = 0
    step: int = -1

    def due(self, before: Progress, after: Progress, elapsed: float, scores: Mapping[str, float]) -> bool:
        """Whether the state is to be saved here now."""
        cadence: Any = self.of.cadence
        if cadence is not None and not cadence.due(before, after, elapsed, self.last):
            return False
        if self.when is None:
            return True
        value = scores.get(self.when.score)
        return value is not None and self.when.improves(value, self.best)

    def take(self, progress: Progress, elapsed: float, scores: Mapping[str, float]) -> None:
        """Note that the state of this moment is saved here."""
        self.number, self.last, self.step = self.number + 1, elapsed, int(progress.step)
        if self.when is not None:
            self.best = scores.get(self.when.score)

    def state(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        kind = type(self.of).__name__
        return {"kind": kind, "last": self.last, "best": self.best, "number": self.number, "step": self.step}


@dataclass(frozen=True, slots=True)
class _Wrote:
    """What became of one save at one place."""

    place: Place
    progress: Progress
    path: str
    bytes: int = 0
    seconds: float = 0.0
    removed: tuple[str, ...] = ()
    error: Exception | None = None


class Saving:
    """Saves a run where and when its plan says.

    The arrays are copied at one moment between two steps, which is all that training waits for; a thread writes the
    copy. What it wrote, or why it could not, is told between later steps.

    Attributes:
        files: what was written and is still there, in the order of first creation. newest: the last of all.
        failed: how many saves failed. active: whether there is a place where any state may be saved.
    """

    def __init__(self, checked: Checked, clock: Callable[[], float]) -> None:
        self.checked = checked
        known = known_scores(checked)
        self.places = [_place(of, known) for of in destinations(checked.plan.checkpoint)]
        self.files: list[str] = []
        self.newest = ""
        self.failed = 0
        self.active = any(place.of.final for place in self.places)
        self._clock = clock
        self._image = Image()
        self._writer: Writer[list[_Wrote]] = Writer()
        self._exporter = Exporter(checked) if any(place.of.export for place in self.places) else None
        self._start, self._counter = start_now(), next(_RUNS)
        self._scores: dict[str, float] = {}
        self._measured_at, self._news = -1, False

    def __enter__(self) -> Saving:
        """Make the folders, and take them for this run.

        Raises:
            SettingError, StateError: one cannot be written to, has no space, or belongs to another run.
        """
        arrays = (*self.checked.net.parameters(), *self.checked.net.buffers())
        needed = sum(array.nbytes for array in arrays)
        try:
            for place in self.places:
                place.store.open(needed)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Let what is being written be finished, and give the folders free."""
        self._writer.close()
        for place in self.places:
            place.store.close()
        for done in self._writer.poll():
            for wrote in done.result or ():
                if wrote.error is not None:
                    warn(f"The state after step {int(wrote.progress.step)} could not be saved. {wrote.error}")

    # ------------------------------------------------------------------------------------------------- going on

    def resume(self, what: str | os.PathLike[str] | None, accept: Any, going: Going) -> Saved | None:
        """Go on from a checkpoint.

        Args:
            what: a file; "auto": the newest good one of the destinations, or the beginning if there is none; None: the
                beginning. accept: differences between file and program that are meant.

        Returns:
            The checkpoint, or None.

        Raises:
            CheckpointError, PlanError: see `etude.train`.
        """
        if self.places:
            going.state()  # what cannot be kept is an error now, not at the first save
        if what is None:
            return None
        if what == "auto":
            if not self.places:
                raise PlanError(
                    'resume="auto" looks where the run is saved. Write checkpoint=Directory("runs/name") too.'
                )
            saved = self._newest()
        else:
            saved = files.read(what)
        if saved is None:
            return None
        record = state.checked(saved.record, saved.path, state.RUN)
        agree(saved.path, record["plan"], going.facts, accept)
        tell_machine(saved.path, record["machine"], machine(self.checked))
        try:
            going.load(saved.path, record, saved.tensors)
            if what == "auto":
                self._go_on(saved.path, record)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, EtudeError):
                raise
            raise CheckpointError(saved.path, "the state of a run", f"{type(error).__name__}: {error}") from error
        self.newest = saved.path
        return saved

    def _newest(self) -> Saved | None:
        """The newest good checkpoint; damaged ones are told, and passed over."""
        best: Saved | None = None
        for place in self.places:
            saved, refused = place.store.newest_good()
            for error in refused:
                warn(f"{error} An earlier checkpoint is taken.")
            if saved is not None and (best is None or _age(saved) > _age(best)):
                best = saved
        return best

    def _go_on(self, path: str, record: Mapping[str, Any]) -> None:
        """This is the run that saved the file: names and counts go on."""
        self._start, self._counter = record["run"]["start"], record["run"]["counter"]
        there = [path for place in self.places for path in self._of_this_run(place)]
        self.files = [one for one in dict.fromkeys([*record["files"], *there, path]) if os.path.exists(one)]
        for place, kept in zip(self.places, unpack(record["saves"], {}), strict=False):
            if kept["kind"] == type(place.of).__name__:
                place.last, place.best, place.number = kept["last"], kept["best"], kept["number"]
                # The run may have been killed between two places of one save.
                place.step = kept["step"] if self._is_there(place, kept["step"]) else -1

    def _of_this_run(self, place: Place) -> list[str]:
        """The files of this run in a folder, oldest first."""
        run = f"{self._start}_{self._counter}_"
        found = place.store.paths() if isinstance(place.of, Directory) else []
        return [str(path) for path in reversed(found) if path.name.startswith(run)]

    def _is_there(self, place: Place, step: int) -> bool:
        """Whether a place has a file of this run and step."""
        if isinstance(place.of, Directory):
            return any(f"_{step:08d}_" in os.path.basename(path) for path in self._of_this_run(place))
        try:
            record = files.read_record(place.of.absolute)
        except CheckpointError:
            return False
        return bool(
            record.get("run") == {"start": self._start, "counter": self._counter} and _age_of(record)[2] == step
        )

    # -------------------------------------------------------------------------------------------------- at work

    def hear(self, event: EpochEnded | Evaluated) -> Event:
        """Note what was measured at this step; hands the event on."""
        step = int(event.progress.step)
        self._scores = self._scores if step == self._measured_at else {}
        self._measured_at, self._news = step, True
        if isinstance(event, EpochEnded):
            self._measured("epoch.", event.means)
        else:
            self._measured("val.", event.scores)
        return event

    def _measured(self, prefix: str, numbers: Mapping[str, float]) -> None:
        self._scores.update({prefix + name: float(value) for name, value in numbers.items() if isfinite(value)})

    def settle(self, before: Progress, going: Going) -> Iterator[Event]:
        """After a step: tell what was written since, and save where it is due."""
        if not self.places:
            return
        yield from self._told()
        elapsed = going.watch.elapsed()
        self._news = False
        if self._measured_at != int(going.progress.step):
            self._scores = {}
        due = [place for place in self.places if place.due(before, going.progress, elapsed, self._scores)]
        if due:
            yield from self._save(due, going, elapsed, "")

    def finish(self, going: Going, ended: str) -> Iterator[Event]:
        """At the end: save the last state where it is wanted and not saved yet, and wait until all is written.

        Args:
            ended: why the run ended; "" where it is only left, to be gone on with.
        """
        step = int(going.progress.step)
        due = [place for place in self.places if place.of.final and (place.step != step or self._news)]
        if due:
            yield from self._save(due, going, going.watch.elapsed(), ended)
        yield from self._told(self._writer.wait())

    def _save(self, due: list[Place], going: Going, elapsed: float, ended: str) -> Iterator[Event]:
        began = self._clock()
        # Until then the memory that the copy goes to is being written from.
        done = self._writer.wait()
        waited = self._clock() - began
        yield from self._told(done)
        began = self._clock() - waited
        for place in due:
            place.take(going.progress, elapsed, self._scores)
        record, tensors = self._record(going, ended)
        self._image.take(tensors)
        if self._exporter is not None and any(place.of.export for place in due):
            self._exporter.take()
        losses = going.losses()
        job = partial(self._write, due, going.progress, record, self._name(going, losses), dict(self._scores))
        stood = self._clock() - began
        self._writer.submit(lambda: job(stood))

    def _record(self, going: Going, ended: str) -> Packed:
        record, tensors = going.state()
        record |= pack(
            {
                "run": {"start": self._start, "counter": self._counter},
                "scores": dict(self._scores),
                "saves": [place.state() for place in self.places],
                "files": list(self.files),
                "ended": ended,
            }
        )[0]
        return state.stamped(record, state.RUN), tensors

    def _name(self, going: Going, losses: tuple[float, float | None]) -> Name:
        epoch = ceil(going.progress.epoch - 1e-9)
        return Name(self._start, self._counter, epoch, int(going.progress.step), *losses)

    def _write(
        self,
        due: list[Place],
        progress: Progress,
        record: Mapping[str, Any],
        name: Name,
        scores: Mapping[str, float],
        stood: float,
    ) -> list[_Wrote]:
        """What the thread does: one place after the other; that one fails keeps no other from its file."""
        return [self._write_one(place, progress, record, name, scores, stood) for place in due]

    def _write_one(
        self,
        place: Place,
        progress: Progress,
        record: Mapping[str, Any],
        name: Name,
        scores: Mapping[str, float],
        stood: float,
    ) -> _Wrote:
        path = place.of.absolute
        try:
            target = place.store.target(name)
            path = str(target)
            size = self._image.write(target, record)
            if place.of.export and self._exporter is not None:
                self._exporter.write(target.with_suffix(".pt2"))
            place.store.committed(target, Entry(path, place.number, int(progress.step), progress.epoch, scores))
            removed = tuple(str(gone) for gone in place.store.retain())
            return _Wrote(place, progress, path, size, stood, removed)
        except Exception as error:
            return _Wrote(place, progress, path, error=error)

    def _told(self, done: list[Done[list[_Wrote]]] | None = None) -> Iterator[Event]:
        """What became of saves, as events.

        Raises:
            CheckpointError: one failed, and its destination says that this ends the run.
        """
        for one in done if done is not None else self._writer.poll():
            if one.error is not None:
                raise one.error
            for wrote in one.result or ():
                yield self._event(wrote)

    def _event(self, wrote: _Wrote) -> Event:
        if wrote.error is None:
            gone = set(wrote.removed)
            self.files = [path for path in dict.fromkeys([*self.files, wrote.path]) if path not in gone]
            self.newest = wrote.path
            return SavedEvent(wrote.progress, wrote.path, wrote.bytes, wrote.seconds, wrote.removed)
        self.failed += 1
        message = f"{type(wrote.error).__name__}: {wrote.error}"
        if wrote.place.of.on_failure == "stop":
            raise wrote.error
        warn(f"The state after step {int(wrote.progress.step)} could not be saved, and the run goes on. {message}")
        return SaveFailed(wrote.progress, wrote.path, message)


def known_scores(checked: Checked) -> dict[str, str | None]:
    """What is measured in a run, and which way each improves."""
    alone = len(checked.works) == 1
    names = [name for work in checked.works for name in (work.names(alone)[0], *work.names(alone)[1])]
    known: dict[str, str | None] = {f"epoch.{name}": "min" for name in dict.fromkeys(["loss", *names])}
    evaluator = checked.evaluator
    if evaluator is not None:
        known |= {f"val.{name}": evaluator.better(name) for name in evaluator.known}
    return known


def _place(of: File | Directory, known: Mapping[str, str | None]) -> Place:
    """A destination with every score it goes by known, and with a direction."""
    of.check()
    keep = of.keep.check(known) if isinstance(of, Directory) and of.keep is not None else None
    when = of.when.check(known) if of.when is not None else None
    assert when is None or isinstance(when, BestBy)
    return Place(of, Store(of, keep), when)


def _age(saved: Saved) -> tuple[str, int, float]:
    """What sorts checkpoints by when they were made."""
    return _age_of(saved.record)


def _age_of(record: Mapping[str, Any]) -> tuple[str, int, float]:
    run, progress = record.get("run"), record.get("progress")
    if not isinstance(run, Mapping) or not isinstance(progress, Mapping) or not is_count(progress.get("step")):
        return "", 0, 0
    return str(run.get("start")), run["counter"] if is_count(run.get("counter")) else 0, progress["step"]
