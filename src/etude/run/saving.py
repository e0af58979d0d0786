"""The destinations of a run at work: what is written, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import isfinite
from typing import Any

from etude.errors import CheckpointError, warn
from etude.keep import state
from etude.keep.arrays import Packed
from etude.keep.destination import File
from etude.keep.files import Saved
from etude.keep.image import Image
from etude.keep.names import Name, start_now
from etude.keep.plain import pack
from etude.keep.retain import Entry
from etude.keep.writer import Done as Finished
from etude.keep.writer import Writer
from etude.run.events import EpochEnded, Evaluated, Event, SaveFailed
from etude.run.events import Saved as SavedEvent
from etude.run.exporting import SUFFIX, Exporter
from etude.run.going import Going
from etude.run.places import Done, Place, places
from etude.run.resuming import AUTO, Accept, find, prove, take_up
from etude.values.progress import Progress

_RUNS = count(1)
"""Numbers the runs of this process, those too that save nothing."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One state on its way to the disk: what it is of, and where it goes; each place with what it had done before."""

    due: tuple[tuple[Place, Done], ...]
    progress: Progress
    record: Mapping[str, Any]
    name: Name
    scores: Mapping[str, float]
    stood: float


@dataclass(frozen=True, slots=True)
class _Wrote:
    """What became of one job at one place: a file if `bytes`, and everything that failed."""

    job: _Job
    place: Place
    before: Done
    path: str
    bytes: int = 0
    removed: tuple[str, ...] = ()
    faults: tuple[CheckpointError, ...] = ()


class Saving:
    """Saves a run where and when its plan says.

    The arrays are copied at one moment between two steps, which is all that training waits for; a thread writes the
    copy. What it wrote, or why it could not, is told between later steps.

    Args:
        going: the run. clock: gives seconds.
        resume: what it goes on from: "auto", the newest good checkpoint of its places, or the beginning if there is
            none; a file, exactly that one, as a branch with files of its own; None, the beginning. accept: see `agree`.

    Attributes:
        files: what was written and is still there, in the order of first creation.
        newest, newest_step: the file written last, or gone on from, and the step that it is of; "" and -1 before.
        failed: how many saves failed. active: whether there is a place where any state may be saved.
    """

    def __init__(self, going: Going, clock: Callable[[], float], resume: str | None, accept: Accept) -> None:
        checked = going.checked
        self.places = places(checked)
        self._going, self._resume, self._accept = going, resume, accept
        self._named: Saved | None = None
        self.files: list[str] = []
        self.newest, self.newest_step = "", -1
        self.failed = 0
        self.active = any(place.of.final for place in self.places)
        self._single = {place.of.absolute for place in self.places if isinstance(place.of, File)}
        self._clock = clock
        self._image = Image()
        self._prepared = False
        self._writer: Writer[list[_Wrote]] = Writer(_faults)
        self._exporter = Exporter(checked) if any(place.of.export for place in self.places) else None
        self._start, self._counter = start_now(), next(_RUNS)
        self._scores: dict[str, float] = {}
        self._measured_at, self._news = -1, False

    def __enter__(self) -> Saving:
        """Make the folders, and take them for this run.

        Raises:
            SettingError, StateError: one cannot be written to, has no space, or belongs to another run.
            CheckpointError, PlanError: the file that was named is none that the run can go on from.
        """
        if self._resume not in (None, AUTO):
            # Before a folder is made for what may not be possible.
            self._named = find(self._resume, ())
            if self._named is not None:
                prove(self._named, self._accept, self._going)
        net = self._going.checked.net
        arrays = (*net.parameters(), *net.buffers())
        needed = sum(array.nbytes for array in arrays)
        try:
            for place in self.places:
                place.store.open(needed)
            # Made after the locks, so that at the end of a program it is waited for before they are given back.
            self._writer = Writer(_faults)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, kind: object = None, left_by: BaseException | None = None, trace: object = None) -> None:
        """Let what is being written be finished, and give the folders free."""
        self._writer.close()
        for place in self.places:
            place.store.close()
        if isinstance(left_by, GeneratorExit):
            left_by = left_by.__context__  # the error of a listener, if it was one that closed the run
        for done in self._writer.poll():
            for error in [done.error] if done.error else [e for wrote in done.result or () for e in wrote.faults]:
                said = f"A checkpoint could not be saved: {error}"
                if left_by is None:
                    warn(said)
                else:
                    left_by.add_note(said)

    def resume(self) -> str | None:
        """Go on from the checkpoint, or begin; returns its path, or None.

        Raises:
            StateError: something of the run cannot be kept. CheckpointError, PlanError: see `find` and `prove`.
        """
        if self.places:
            self._going.state()  # what cannot be kept is an error now, not at the first save
        auto = self._resume == AUTO
        saved = find(self._resume, self.places) if auto else self._named
        self._named = None
        if saved is None or not auto:
            self._be_another_run()
        if saved is None:
            return None
        record = prove(saved, self._accept, self._going)
        take_up(saved, record, self._going)
        self.newest, self.newest_step = saved.path, int(self._going.progress.step)
        if auto:
            self._go_on(saved.path, record)
        for place in self.places if not auto else ():
            place.branch(**record["run"])
        return saved.path

    def _be_another_run(self) -> None:
        """Begin with a name that is later than all that is there, though another process may have begun this second.

        Clocks are set back, too, or differ between machines.
        """
        newest = max((place.newest_start() for place in self.places), default="")
        if newest > self._start:
            self._start = newest
        while any(place.files(self._start, self._counter) for place in self.places):
            self._counter = next(_RUNS)

    def _go_on(self, path: str, record: Mapping[str, Any]) -> None:
        """This is the run that saved the file: names and counts go on."""
        self._start, self._counter = record["run"]["start"], record["run"]["counter"]
        there = [one for place in self.places for one in place.files(self._start, self._counter)]
        self.files = [one for one in dict.fromkeys([*record["files"], *there, path]) if os.path.exists(one)]
        for place, kept in _paired(self.places, record["saves"]):
            place.go_on(kept, self._start, self._counter)

    # -------------------------------------------------------------------------------------------------- at work

    def hear(self, event: EpochEnded | Evaluated) -> Event:
        """Note what was measured at this step; hands the event on."""
        step = int(event.progress.step)
        self._scores = self._scores if step == self._measured_at else {}
        self._measured_at, self._news = step, True
        prefix, numbers = ("epoch.", event.means) if isinstance(event, EpochEnded) else ("val.", event.scores)
        self._scores.update({prefix + name: float(value) for name, value in numbers.items() if isfinite(value)})
        return event

    def settle(self, before: Progress, going: Going) -> Iterator[Event]:
        """After a step: tell what was written since, and save where it is due."""
        if not self.places:
            return
        yield from self._told(self._writer.poll())
        elapsed = going.watch.elapsed()
        self._news = False
        if self._measured_at != int(going.progress.step):
            self._scores = {}
        due = [place for place in self.places if place.due(before, going.progress, elapsed, self._scores)]
        if due:
            yield from self._save(due, going, elapsed, "")
        elif not self._prepared:
            # Memory for the copy, got before it is needed; the optimizer has made most of its own by now.
            self._image.prepare(going.state()[1])
        self._prepared = True

    def finish(self, going: Going, ended: str) -> Iterator[Event]:
        """At the end: save the last state where it is wanted and not saved yet, and wait until all is written.

        Args:
            ended: why the run ended; "" where it is only left, to be gone on with.
        """
        if not self.places:
            return
        # What failed by then is not there, and is written once more.
        yield from self._told(self._writer.wait())
        step = int(going.progress.step)
        due = [place for place in self.places if place.of.final and (place.done.step != step or self._news)]
        if due:
            yield from self._save(due, going, going.watch.elapsed(), ended)
            yield from self._told(self._writer.wait())
        self.files = [path for path in self.files if os.path.exists(path)]
        for place in self.places if ended else ():
            if place.when is not None and not place.done.number:
                warn(
                    f"{place.of!r} has saved nothing: {place.when.score!r} was measured at no step at which a save was "
                    "due. Leave the cadence out, and it saves whenever the score is measured and better."
                )

    def _save(self, due: list[Place], going: Going, elapsed: float, ended: str) -> Iterator[Event]:
        began = self._clock()
        # Until then the memory that the copy goes to is being written from.
        done = self._writer.wait()
        waited = self._clock() - began
        yield from self._told(done)
        began = self._clock() - waited
        taken = tuple((place, place.take(going.progress, elapsed, self._scores)) for place in due)
        record, tensors = self._record(going, ended)
        self._image.take(tensors)
        name = self._name(going)
        job = _Job(taken, going.progress, record, name, dict(self._scores), self._clock() - began)
        self._writer.submit(partial(self._write, job))

    def _record(self, going: Going, ended: str) -> Packed:
        record, tensors = going.state()
        record |= pack(
            {
                "run": {"start": self._start, "counter": self._counter},
                "scores": dict(self._scores),
                "saves": [place.state() for place in self.places],
                "files": [path for path in self.files if path in self._single],
                "ended": ended,
            }
        )[0]
        return state.stamped(record, state.RUN), tensors

    def _name(self, going: Going) -> Name:
        epoch = going.cursor.epoch + (going.cursor.batch > 0)
        return Name(self._start, self._counter, epoch, int(going.progress.step), *going.losses())

    # --------------------------------------------------------------------------------------------- in the thread

    def _write(self, job: _Job) -> list[_Wrote]:
        """One place after the other; that one fails keeps no other from its file."""
        return [self._write_one(job, place, before) for place, before in job.due]

    def _write_one(self, job: _Job, place: Place, before: Done) -> _Wrote:
        path = place.of.absolute
        try:
            target = place.store.target(job.name)
            path = str(target)
            size = self._image.write(target, job.record)
            step, epoch = int(job.progress.step), job.progress.epoch
            place.store.committed(target, Entry(path, before.number + 1, step, epoch, job.scores))
        except Exception as error:
            return _Wrote(job, place, before, path, faults=(_as_checkpoint_error(path, error),))
        faults, removed = [], []
        if self._exporter is not None and place.of.export:
            try:
                self._exporter.write(target.with_suffix(SUFFIX), self._image.tensors)
            except Exception as error:
                faults.append(_as_checkpoint_error(str(target.with_suffix(SUFFIX)), error))
        try:
            removed = [str(gone) for gone in place.store.retain()]
        except Exception as error:
            fault = _as_checkpoint_error(path, error)
            if fault.path == path:  # read back, it was not what had been written
                return _Wrote(job, place, before, path, faults=(*faults, fault))
            faults.append(fault)
        return _Wrote(job, place, before, path, size, tuple(removed), tuple(faults))

    # ------------------------------------------------------------------------------------------------- afterwards

    def _told(self, done: list[Finished[list[_Wrote]]]) -> Iterator[Event]:
        """What became of saves, as events.

        Raises:
            CheckpointError: one failed, and its destination says that this ends the run.
        """
        failed: list[BaseException] = []
        for one in done:
            failed += [one.error] if one.error is not None else []
            for wrote in one.result or ():
                yield from self._events(wrote)
                failed += wrote.faults if wrote.place.of.on_failure == "stop" else ()
        if failed:
            raise failed[0]

    def _events(self, wrote: _Wrote) -> Iterator[Event]:
        job, gone = wrote.job, set(wrote.removed)
        if wrote.bytes:
            self.files = [path for path in dict.fromkeys([*self.files, wrote.path]) if path not in gone]
            self.newest, self.newest_step = wrote.path, int(job.progress.step)
            yield SavedEvent(job.progress, wrote.path, wrote.bytes, job.stood, wrote.removed)
        else:
            wrote.place.undo(wrote.before, int(job.progress.step))
        for fault in wrote.faults:
            self.failed += 1
            yield SaveFailed(job.progress, fault.path, str(fault))
            if wrote.place.of.on_failure == "stop":
                continue
            what = (
                "was saved, but not all that goes with it" if wrote.bytes else "could not be saved, and the run goes on"
            )
            warn(f"The state after step {int(job.progress.step)} {what}. {fault}")


def _paired(places_: list[Place], kept: list[Mapping[str, Any]]) -> Iterator[tuple[Place, Mapping[str, Any] | None]]:
    """Each place with what a file says of it: by its path, or else, as folders may be moved, by its number and kind."""
    by_path = {(one["kind"], one["path"]): one for one in kept}
    known = {(type(place.of).__name__, place.of.absolute) for place in places_}
    for number, place in enumerate(places_):
        kind = type(place.of).__name__
        found = by_path.get((kind, place.of.absolute))
        if found is None and number < len(kept):
            other = kept[number]
            moved = other["kind"] == kind and (kind, other["path"]) not in known and len(places_) == len(kept)
            found = other if moved else None
        yield place, found


def _faults(wrote: list[_Wrote]) -> list[CheckpointError]:
    return [fault for one in wrote for fault in one.faults]


def _as_checkpoint_error(path: str, error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    made = CheckpointError(path, "to write it", f"{type(error).__name__}: {error}", damaged=False)
    made.__cause__ = error
    return made
