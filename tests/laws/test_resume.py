"""Laws of resuming: a run that was interrupted, wherever, is the run that was not, bit for bit."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from effort import examples
from etude import Directory, PlanError, every, steps
from etude.keep.names import Name
from etude.run import going, run
from etude.run.gatherer import Gatherer
from etude.run.going import Going
from etude.run.history import History
from etude.run.keep_best import Best
from etude.step import programs
from etude.step.averaging import Averages
from etude.step.optim.own import OwnOptimizer
from etude.step.scale import LossScale
from etude.step.stepper import Stepper
from etude.step.work import Work
from etude.values.progress import Progress
from jobs import COMPILED, HAND, LONG_EPOCH, WORKERS, Counting, Job, job
from stories import Story, difference, follow

EACH_STEP = every(steps(1))
JOBS = examples(32)


def files(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder, each with the number of steps made."""
    names = [(Name.parse(path.name), path) for path in folder.glob("*.safetensors")]
    return sorted((name.step, path) for name, path in names if name is not None)


def at(cuts: list[tuple[int, Path]], *wanted: int) -> list[tuple[int, Path]]:
    """Of these checkpoints those after so many steps."""
    return [(step, path) for step, path in cuts if step in wanted]


def saved_everywhere(of: Job, folder: Path) -> tuple[Story, list[tuple[int, Path]]]:
    """A job left alone; and checkpoints of every settled step of it, whose saving changed no bit."""
    whole = follow(of)
    assert difference(whole, follow(of, checkpoint=Directory(folder, EACH_STEP)), 0) == "", "saving changed the run"
    cuts = files(folder)
    assert {step for step, _ in cuts} >= set(range(1, whole.steps + 1))
    return whole, cuts


def interrupted(of: Job, whole: Story, cuts: list[tuple[int, Path]]) -> list[str]:
    """Go on from checkpoints of a job: in what that differs from the run left alone."""
    found = []
    for step, path in cuts:
        resumed = follow(of, resume=path)
        told = difference(whole, resumed, step) or misread(of, whole, resumed, step)
        found += [f"cut after step {step}: {told}"] if told else []
    return found


def misread(of: Job, whole: Story, resumed: Story, cut: int) -> str:
    """What is wrong with the samples that two parts of a run saw, in words: each is seen once in an epoch."""
    if not of.numbered:
        return ""
    numbers = [number for step, own in sorted(whole.ids.items()) if step <= cut for number in own]
    numbers += [number for step, own in sorted(resumed.ids.items()) if step > cut for number in own]
    for begin in range(0, len(numbers), 10):
        seen = numbers[begin : begin + 10]
        if sorted(set(seen)) != sorted(seen) or (len(seen) == 10 and sorted(seen) != list(range(10))):
            return f"the samples of epoch {begin // 10} are {seen}"
    return ""


# ---------------------------------------------------------------------------------------------------------- the law


@pytest.mark.parametrize("number", range(JOBS))
def test_interrupted_anywhere_is_uninterrupted(number: int, tmp_path: Path) -> None:
    of = job(number)
    whole, cuts = saved_everywhere(of, tmp_path)
    # Processes take their time.
    kept = at(cuts, whole.steps // 2, whole.steps // 2 + 1) if of.slow and examples(1) == 1 else cuts
    assert interrupted(of, whole, kept) == [], of.title


@pytest.mark.parametrize("title", sorted(HAND))
def test_what_is_easily_forgotten_is_not(title: str, tmp_path: Path) -> None:
    whole, cuts = saved_everywhere(HAND[title], tmp_path)
    assert interrupted(HAND[title], whole, cuts) == []


def test_sums_over_an_epoch_do_not_depend_on_where_it_was_cut(tmp_path: Path) -> None:
    whole, cuts = saved_everywhere(LONG_EPOCH, tmp_path)
    assert interrupted(LONG_EPOCH, whole, at(cuts, 1, 63, 64, 65, 69, 70, 127)) == []


@pytest.mark.parametrize("of", [*map(job, range(0, JOBS, 8)), HAND["everything"]], ids=str)
def test_interrupted_at_every_step(of: Job, tmp_path: Path) -> None:
    whole, saving = follow(of), {"checkpoint": Directory(tmp_path, EACH_STEP), "resume": "auto"}
    told = [follow(of, leave=step, seed=1 if step == 1 else None, **saving) for step in range(1, whole.steps + 1)]
    assert [difference(whole, story, step) for step, story in enumerate(told)] == [""] * whole.steps
    assert difference(whole, follow(of, **saving), whole.steps) == ""
    assert difference(whole, follow(of, **saving), whole.steps) == "", "a finished run was gone on with"


@pytest.mark.parametrize("of", [job(3), job(23), HAND["everything"]], ids=str)
def test_interrupted_twice(of: Job, tmp_path: Path) -> None:
    whole, cuts = saved_everywhere(of, tmp_path / "whole")
    for first, path in at(cuts, 1, whole.steps // 2):
        middle = tmp_path / str(first)
        follow(of, resume=path, checkpoint=Directory(middle, every(steps(2))), leave=whole.steps - 1)
        assert interrupted(of, whole, files(middle)) == []


@pytest.mark.parametrize("of", [job(7), job(13), HAND["everything"]], ids=str)
def test_the_process_it_is_gone_on_in_has_no_part_in_it(of: Job, tmp_path: Path) -> None:
    whole, cuts = saved_everywhere(of, tmp_path)
    assert in_a_child(partial(interrupted, of, whole, cuts)) == []


def in_a_child(work: Callable[[], Any]) -> Any:
    """What a function gives in a process that is forked for it."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=lambda: there.send(work()))
    child.start()
    there.close()
    made = here.recv()
    child.join()
    return made


@pytest.mark.parametrize("workers", WORKERS)
def test_workers_come_and_go(workers: int, tmp_path: Path) -> None:
    of = HAND["everything"]
    whole, cuts = saved_everywhere(of, tmp_path)
    assert difference(whole, follow(of, workers=workers), 0) == ""
    (middle, path), *_ = at(cuts, 5)
    assert difference(whole, follow(of, workers=workers, resume=path), middle) == ""


@pytest.mark.parametrize("kind", ["loader with a generator", "loader", "iterable"])
def test_data_that_have_been_read_before(kind: str, tmp_path: Path) -> None:
    of = HAND[kind]
    whole, cuts = saved_everywhere(of, tmp_path)
    # As in a notebook: the same object, whose generators have moved on.
    data = of.data()
    again = Job(-1, kind, of.net, lambda: data, of.options)
    assert interrupted(again, whole, cuts) == []


def test_a_compiled_run(tmp_path: Path) -> None:
    of = COMPILED["compiled"]
    saved = follow(of, checkpoint=Directory(tmp_path, EACH_STEP))
    assert interrupted(of, saved, at(files(tmp_path), 1)) == []


@pytest.mark.soak
@pytest.mark.parametrize("title", COMPILED)
def test_compiled_runs(title: str, tmp_path: Path) -> None:
    of = COMPILED[title]
    whole, cuts = saved_everywhere(of, tmp_path)
    assert interrupted(of, whole, cuts) == []


@pytest.mark.soak
def test_which_sets_are_compiled_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # There is room for few programs; which sets of arrays have one must not depend on where the run was cut.
    monkeypatch.setattr(programs, "MOST_SETS", 1)
    whole, cuts = saved_everywhere(COMPILED["compiled, in turn"], tmp_path)
    assert interrupted(COMPILED["compiled, in turn"], whole, at(cuts, 1, 2)) == []


# ------------------------------------------------------------------------------------------- what the law must catch


def _nothing(*_: object, **__: object) -> None:
    """What is done instead of putting something back."""


def _after(kind: type, method: str, spoil: Callable[[Any], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault: once the method has put something back, it is spoiled."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        own = getattr(kind, method)

        def faulty(self: Any, *given: Any) -> Any:
            made = own(self, *given)
            spoil(self)
            return made

        patch.setattr(kind, method, faulty)

    return plant


def _instead(owner: Any, name: str, by: Any = _nothing) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault: something else is done in place of a function."""
    return lambda patch: patch.setattr(owner, name, by)


def _forget_counts(optimizer: OwnOptimizer) -> None:
    for vector in optimizer._vectors.values():
        vector.clamp_(max=1)


def _forget_schedules(stepper: Stepper) -> None:
    stepper.memory = stepper.table.start()


def _forget_best_arrays(best: Best) -> None:
    best._kept = {name: array.clone() for name, array in best._arrays().items()}


def _forget_turns(work: Work) -> None:
    work.turns.load(work.update.turn.start() if work.turns.listens and work.update.turn is not None else None)


def _late(progress: Progress) -> Progress:
    return Progress(max(progress.step - 1, 0), progress.epoch, progress.samples, progress.tokens, progress.extent)


_FAULTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "arrays of the net": ("everything", _instead(going, "into_net")),
    "modes": ("statistics held in turn", _instead(going, "modes_into")),
    "extra state": ("refused by a sample", _instead(Counting, "set_extra_state")),
    "memory of the optimizer": ("everything", _instead(OwnOptimizer, "load")),
    "counts of moves": ("everything", _after(OwnOptimizer, "load", _forget_counts)),
    "memory of schedules": ("everything", _after(Stepper, "load", _forget_schedules)),
    "memory of turns": ("statistics held in turn", _after(Work, "load", _forget_turns)),
    "loss scale": ("everything", _instead(LossScale, "load")),
    "averages": ("everything", _instead(Averages, "load")),
    "when an average was due": (
        "refused by a sample",
        _after(Averages, "load", lambda a: [setattr(one, "_passed", None) for one in a.each.values()]),
    ),
    "best net": ("everything", _instead(Best, "load")),
    "arrays of the best net": ("everything", _after(Best, "load", _forget_best_arrays)),
    "patience": (
        "patience that runs out",
        _after(Best, "load", lambda best: setattr(best, "_waited", (best._waited[0], 0))),
    ),
    "when it was looked": ("looks by the clock", _after(Best, "load", lambda best: setattr(best, "_last", None))),
    "means of the epoch": ("everything", _after(Going, "load", lambda of: of.means.load({}))),
    "history": ("everything", _after(Going, "load", lambda of: setattr(of.gatherer, "history", History()))),
    "last step made": ("rates that fall", _after(Gatherer, "go_on", lambda of: setattr(of, "before", of._now))),
    "cursor": ("everything", _after(Going, "load", lambda of: setattr(of, "cursor", type(of.cursor)()))),
    "batch of the epoch": (
        "everything",
        _after(Going, "load", lambda of: setattr(of, "cursor", type(of.cursor)(of.cursor.epoch))),
    ),
    "clock": ("everything", _after(Going, "load", lambda of: setattr(of, "progress", _late(of.progress)))),
    "seconds": ("time by the clock", _after(Going, "load", lambda of: setattr(of.watch, "before", 0.0))),
    "chance by number": ("everything", _instead(run, "seed_step")),
    "the end": ("no patience", _instead(Best, "out_of_patience", lambda best: "")),
}
"""Faults of putting a run back, each with the job that shows it."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Story, list[tuple[int, Path]]]]:
    """Checkpoints of a job by hand, by its title; made once for all faults."""
    return cache(lambda title: saved_everywhere(HAND[title], tmp_path_factory.mktemp("kept")))


@pytest.mark.parametrize("fault", _FAULTS)
def test_what_is_not_put_back_is_seen(fault: str, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    title, plant = _FAULTS[fault]
    whole, cuts = kept(title)
    plant(monkeypatch)
    assert any(difference(whole, follow(HAND[title], resume=path), step) for step, path in cuts)


def test_another_seed_is_another_run(kept: Any) -> None:
    whole, cuts = kept("everything")
    of = HAND["everything"]
    other = replace(of, options=lambda net: {**of.options(net), "seed": 4})
    # At the end of an epoch: within one, other batches have other samples by then.
    for step, path in at(cuts, 3, 6):
        with pytest.raises(PlanError, match="seed"):
            follow(other, resume=path)
        assert difference(whole, follow(other, resume=path, accept=True), step)
