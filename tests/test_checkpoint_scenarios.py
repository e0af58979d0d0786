"""Checkpoints of a run, scenario by scenario: TPC-E1 to E8, the rules TPC-1 to 13 and the readings A1 to A22.

Time is scripted: a clock that goes on by so many seconds with every step. A run has 4 batches an epoch unless said.
A20, several processes that train together, has no test: a run is one process.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import etude
from etude import Directory, Evaluate, File, best, epochs, every, hours, last, minutes, seconds, steps
from etude.errors import CheckpointError, ScheduleError, SettingError
from etude.keep.names import Name
from etude.run.events import Ended, EpochEnded, Evaluated, Event, Saved, SaveFailed, Stepped
from etude.run.result import Result
from small import arrays, classified, mlp, options, same

GRAMMAR = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d_\d+_\d+_\d+_[^_]+(_[^_]+)?\.safetensors"
VALIDATION = classified(6, seed=5)
HERE = Path(__file__).parent


class Clock:
    """Time that goes on with every step of a run; a listener, and what the run asks for the time."""

    def __init__(self, step_seconds: float) -> None:
        self.now = 1000.0
        self._step_seconds = step_seconds

    def __call__(self) -> float:
        return self.now

    def hear(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self.now += self._step_seconds


def run(
    checkpoint: Any, *, step_seconds: float = 0.0, batches: int = 4, net: nn.Module | None = None, **changed: Any
) -> etude.Run:
    """A run that has not begun; each of its steps takes `step_seconds` by the scripted clock."""
    clock = Clock(step_seconds)
    changed.setdefault("epochs", 3)
    plan = etude.Plan(checkpoint=checkpoint, **options(**changed))
    data = classified(4 * batches)
    return etude.Run(plan, net or mlp(), data, clock=clock).to(clock.hear)


def told(checkpoint: Any, **how: Any) -> tuple[list[Event], Result]:
    """All events of a run, and its result."""
    made = run(checkpoint, **how)
    return list(made), made.result()


def saved_steps(events: Iterable[Event], place: Path | str | None = None) -> list[int]:
    """The steps whose state was saved, to a place if one is given."""
    saves = [event for event in events if isinstance(event, Saved)]
    return [int(event.progress.step) for event in saves if place is None or event.path.startswith(str(place))]


def steps_in(checkpoint: Any, **how: Any) -> list[int]:
    """The steps of a run whose state is saved."""
    return saved_steps(told(checkpoint, **how)[0])


def names(paths: Iterable[str | Path]) -> list[Name]:
    """The names of files, every one of which has one."""
    found = [Name.parse(Path(path).name) for path in paths]
    assert None not in found
    return [name for name in found if name is not None]


def listed(folder: Path) -> list[str]:
    """The checkpoints in a folder, in the order of their texts."""
    return sorted(str(path) for path in folder.iterdir() if not path.name.startswith("."))


def net_in(path: str | Path) -> dict[str, Tensor]:
    """The arrays of the net in a checkpoint, as any reader of safetensors finds them."""
    return {name: array for name, array in load_file(path).items() if ":" not in name}


def alike(mine: Mapping[str, Tensor], net: nn.Module | None) -> bool:
    assert net is not None
    return same(dict(mine), {name: array.detach() for name, array in net.state_dict().items()})


class Scripted:
    """A metric whose values are written beforehand; the first is for the proof before the run."""

    higher_is_better = False

    def __init__(self, *values: float) -> None:
        self._values = iter([0.0, *values])

    def reset(self) -> None: ...

    def update(self, output: Any, target: Any) -> None: ...

    def compute(self) -> float:
        return next(self._values)


def scripted(*values: float) -> Evaluate:
    """Validation once an epoch, with these scores."""
    return Evaluate(VALIDATION, {"s": Scripted(*values)}, best="s")


# ------------------------------------------------------------------------------------ TPC-1 to 3: none, file, folder


def test_1_without_a_destination_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events, result = told(None)
    assert (result.checkpoints, result.failed_saves, saved_steps(events)) == ([], 0, [])
    assert list(tmp_path.iterdir()) == []


def test_2_a_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    seen: list[dict[str, Tensor]] = []
    made = run(File(path))
    for event in made:
        if isinstance(event, Saved):
            seen.append(net_in(event.path))
    result = made.result()
    assert listed(tmp_path) == result.checkpoints == [str(path)]
    assert len(seen) == 3
    assert not same(seen[0], seen[-1])
    assert alike(net_in(path), result.net)


def test_3_a_folder_keeps_a_file_for_every_save(tmp_path: Path) -> None:
    _, result = told(Directory(tmp_path))
    assert len(set(result.checkpoints)) == 3
    assert listed(tmp_path) == result.checkpoints
    contents = [net_in(path) for path in result.checkpoints]
    assert not any(same(one, other) for one, other in pairwise(contents))


# ------------------------------------------------------------------------------------------------ TPC-4 to 9: when


def test_4_when_and_how_far_apart_are_said_with_the_destination(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    assert steps_in(File(path, every(epochs(10)), final=False), epochs=25) == [40, 80]
    held = every(epochs(1), minimum=seconds(30))
    assert steps_in(Directory(tmp_path / "d", held, final=False), epochs=6, step_seconds=5) == [4, 12, 20]


def test_6_every_epoch_where_nothing_is_said(tmp_path: Path) -> None:
    assert steps_in(File(tmp_path / "run.safetensors")) == [4, 8, 12]
    assert steps_in(Directory(tmp_path / "d")) == [4, 8, 12]
    assert steps_in(str(tmp_path / "e")) == [4, 8, 12]


@pytest.mark.parametrize(
    ("cadence", "step_seconds", "expected"),
    [
        (every(epochs(2)), 0, [8]),
        (every(epochs(0.5)), 0, [2, 4, 6, 8, 10, 12]),
        (every(steps(5)), 0, [5, 10]),
        (every(seconds(9)), 3, [3, 6, 9, 12]),
        (every(minutes(1)), 25, [3, 6, 9, 12]),
        (every(hours(1)), 1800, [2, 4, 6, 8, 10, 12]),
        (every(epochs(1)) | every(seconds(9)), 3, [3, 4, 7, 8, 11, 12]),
        (every(epochs(1)) & every(seconds(24)), 3, [8]),
    ],
    ids=repr,
)
def test_7_units_of_progress_and_of_time(
    cadence: Any, step_seconds: float, expected: list[int], tmp_path: Path
) -> None:
    """Steps are counted over the run, not within an epoch."""
    assert steps_in(Directory(tmp_path, cadence, final=False), step_seconds=step_seconds) == expected


def test_8_never_closer_than_the_minimum_and_no_limit_where_there_is_none(tmp_path: Path) -> None:
    held = Directory(tmp_path / "held", every(steps(1), minimum=seconds(7)), final=False)
    assert steps_in(held, step_seconds=2) == [1, 5, 9]
    assert steps_in(Directory(tmp_path / "free", every(steps(1))), step_seconds=0) == list(range(1, 13))


def test_9_each_of_several_destinations_has_its_own_times(tmp_path: Path) -> None:
    held = every(epochs(1), minimum=seconds(20))
    places = [
        File(tmp_path / "often.safetensors", every(steps(3))),
        Directory(tmp_path / "d", every(epochs(1))),
        File(tmp_path / "seldom.safetensors", held, final=False),
    ]
    events, result = told(places, step_seconds=3)
    assert saved_steps(events, tmp_path / "often") == [3, 6, 9, 12]
    assert saved_steps(events, tmp_path / "d") == [4, 8, 12]
    assert saved_steps(events, tmp_path / "seldom") == [4, 12]
    assert len(result.checkpoints) == 5


# -------------------------------------------------------------------------------------------- TPC-10 to 13: names


def test_10_the_name_says_start_run_epoch_step_and_the_loss_of_the_last_epoch(tmp_path: Path) -> None:
    _, result = told(Directory(tmp_path, every(steps(3))), epochs=3)
    found = names(result.checkpoints)
    assert [(name.epoch, name.step) for name in found] == [(1, 3), (2, 6), (3, 9), (3, 12)]
    assert len({(name.start, name.counter) for name in found}) == 1
    losses = result.history["epoch.loss"].values
    assert [f"{name.loss:.3e}" for name in found[1:]] == [f"{loss:.3e}" for loss in losses]
    assert all(name.val is None for name in found)


def test_11_with_validation_data_the_last_validation_loss_is_in_the_name(tmp_path: Path) -> None:
    _, result = told(Directory(tmp_path), validation=VALIDATION)
    found = names(result.checkpoints)
    assert [f"{name.val:.3e}" for name in found] == [f"{loss:.3e}" for loss in result.history["val.loss"].values]


def test_12_the_files_are_listed_in_the_result_and_told_as_they_appear(tmp_path: Path) -> None:
    made = run(Directory(tmp_path))
    so_far: list[str] = []
    for event in made:
        if isinstance(event, Saved):
            so_far.append(event.path)
            assert Path(event.path).stat().st_size == event.bytes
            assert event.seconds >= 0
        assert set(so_far) <= set(listed(tmp_path))
    assert so_far == made.result().checkpoints == listed(tmp_path)


def test_13_the_last_file_listed_is_the_last_state_and_reads_back_into_a_net(tmp_path: Path) -> None:
    _, result = told(Directory(tmp_path, every(steps(5))))
    assert [name.step for name in names(result.checkpoints)] == [5, 10, 12]
    net = mlp(seed=99)
    etude.load_net(result.checkpoints[-1], net)
    assert result.net is not None
    x, _ = classified()
    assert torch.equal(net.eval()(x), result.net(x))


def test_5_a_net_that_needs_no_program(tmp_path: Path) -> None:
    _, result = told(Directory(tmp_path, export=True), epochs=1)
    (archive,) = tmp_path.glob("*.pt2")
    assert archive.stem == Path(result.checkpoints[0]).stem
    x, _ = classified(7)
    assert result.net is not None
    assert torch.equal(torch.export.load(archive).module()(x), result.net(x))


# ------------------------------------------------------------------------------------------- A1 to A9: what is named


def test_a1_a_file_is_called_as_it_is_written_and_files_of_a_folder_have_one_suffix(tmp_path: Path) -> None:
    _, result = told([File(tmp_path / "net.wlnet"), Directory(tmp_path / "d")], epochs=1)
    assert [Path(path).suffix for path in result.checkpoints] == [".wlnet", ".safetensors"]
    assert alike(net_in(tmp_path / "net.wlnet"), result.net)


def test_a2_the_net_as_it_is_and_not_the_best_so_far(tmp_path: Path) -> None:
    _, result = told(Directory(tmp_path), validation=scripted(1, 2, 3))
    assert result.best_step == 4
    assert result.final_net is not None
    assert alike(net_in(result.checkpoints[-1]), result.final_net)
    assert not alike(net_in(result.checkpoints[-1]), result.net)
    assert alike(net_in(result.checkpoints[0]), result.net)


def test_a2_or_the_best_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    events, result = told(File(path, when=best("val.s")), epochs=5, validation=scripted(3, 1, 1, 2, float("nan")))
    assert saved_steps(events) == [4, 8]
    assert alike(net_in(path), result.net)


def test_a3_names_have_one_grammar_and_no_colon(tmp_path: Path) -> None:
    told(Directory(tmp_path, every(steps(1))), validation=VALIDATION)
    told(Directory(tmp_path, every(steps(1))))
    found = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert len(found) == 24
    assert all(re.fullmatch(GRAMMAR, name) and ":" not in name for name in found)


COUNTED = """
import sys
sys.path.insert(0, {here!r})
from small import trained
trained(checkpoint={folder!r})
trained()
print(*trained(checkpoint={folder!r}).checkpoints, *trained(checkpoint={folder!r}).checkpoints)
"""


def test_a4_runs_are_counted_from_1_in_each_process_those_too_that_save_nothing(tmp_path: Path) -> None:
    program = COUNTED.format(here=str(HERE), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=silent())
    assert {name.counter for name in names(listed(tmp_path))} == {1, 3, 4}
    assert [name.counter for name in names(done.stdout.split())] == [3, 4]


def silent() -> dict[str, str]:
    """The environment for a process of its own, with one thread."""
    source = str(Path(etude.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}


def test_a5_a_name_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    """The names of a run are those of an equal one but for start and counter, so they can be taken beforehand."""
    _, equal = told(Directory(tmp_path / "equal"))
    foreign = b"of another process"
    taken: list[Path] = []
    made = run(Directory(tmp_path / "d"))
    for event in made:
        if isinstance(event, Saved) and not taken:
            (first,) = names([event.path])
            last_one = replace(names(equal.checkpoints)[-1], start=first.start, counter=first.counter)
            taken.append(tmp_path / "d" / last_one.text())
            taken[0].write_bytes(foreign)
    checkpoints = made.result().checkpoints
    assert taken[0].read_bytes() == foreign
    assert Path(checkpoints[-1]) == taken[0].with_name(taken[0].stem + "-2.safetensors")
    assert [name.again for name in names(checkpoints)] == [1, 1, 2]
    assert alike(net_in(checkpoints[-1]), made.result().net)


def test_a6_sorted_by_name_is_sorted_by_time(tmp_path: Path) -> None:
    _, result = told(Directory(tmp_path, every(steps(1))), epochs=11, batches=1)
    assert sorted(result.checkpoints) == result.checkpoints
    for path in result.checkpoints:
        _, _, epoch, step, loss = Path(path).stem.split("_")
        assert (len(epoch), len(step)) == (4, 8)
        assert re.fullmatch(r"\d\.\d{3}e[+-]\d\d", loss)


def test_a7_before_an_epoch_is_complete_the_mean_of_its_batches_so_far(tmp_path: Path) -> None:
    events, result = told(Directory(tmp_path, every(steps(1))), epochs=2)
    losses = [float(event.losses["loss"]) for event in events if isinstance(event, Stepped)]
    found = [name.loss for name in names(result.checkpoints)]
    for step in (1, 2, 3, 4):
        assert found[step - 1] == pytest.approx(sum(losses[:step]) / step, rel=1e-3)
    assert found[4:7] == [found[3]] * 3
    assert found[7] == pytest.approx(sum(losses[4:]) / 4, rel=1e-3)


def test_a8_a_validation_loss_that_is_not_measured_yet_keeps_its_field(tmp_path: Path) -> None:
    _, result = told(Directory(tmp_path), validation=Evaluate(VALIDATION, every=epochs(2)), epochs=3)
    first, *rest = names(result.checkpoints)
    assert first.val is not None
    assert isnan(first.val)
    assert Path(result.checkpoints[0]).stem.endswith("_nan")
    assert all(name.val is not None and not isnan(name.val) for name in rest)


def test_a9_the_validation_loss_comes_after_the_loss(tmp_path: Path) -> None:
    _, result = told(Directory(tmp_path), validation=VALIDATION, epochs=1)
    said = Path(result.checkpoints[0]).stem.split("_")[4:]
    series = result.history["epoch.loss"], result.history["val.loss"]
    assert said == [f"{one.values[0]:.3e}" for one in series]


# ------------------------------------------------------------------------------------------ A10 to A16: when exactly


def test_a10_time_is_looked_at_after_steps_and_nothing_is_made_up_for(tmp_path: Path) -> None:
    assert steps_in(Directory(tmp_path, every(seconds(7))), step_seconds=30, epochs=1) == [1, 2, 3, 4]


def test_a11_time_counts_from_the_last_save_on_no_fixed_grid(tmp_path: Path) -> None:
    assert steps_in(Directory(tmp_path, every(seconds(7)), final=False), step_seconds=3) == [3, 6, 9, 12]


@pytest.mark.parametrize(("final", "expected"), [(False, [4, 12, 20]), (True, [4, 12, 20, 24])])
def test_a12_what_the_minimum_holds_back_is_dropped_but_not_the_last_state(
    final: bool, expected: list[int], tmp_path: Path
) -> None:
    place = Directory(tmp_path, every(epochs(1), minimum=seconds(20)), final=final)
    assert steps_in(place, step_seconds=3, epochs=6) == expected


def test_a12_the_last_state_is_saved_where_nothing_else_is_said_and_once(tmp_path: Path) -> None:
    assert steps_in(Directory(tmp_path / "a", every(steps(100)))) == [12]
    assert steps_in(Directory(tmp_path / "b", every(steps(6)))) == [6, 12]


def test_a13_no_minimum_before_the_first_save(tmp_path: Path) -> None:
    place = Directory(tmp_path, every(steps(2), minimum=hours(1)), final=False)
    assert steps_in(place, step_seconds=1) == [2]


@pytest.mark.parametrize("bare", [5, 2.5])
def test_a14_a_bare_number_is_no_cadence(bare: Any) -> None:
    with pytest.raises(SettingError, match=rf"{bare} of what\? Write every\(steps\({bare}\)\)"):
        Directory("runs", bare)
    with pytest.raises(ScheduleError, match=rf"{bare} of what\? Write steps\({bare}\)"):
        every(bare)


def test_a15_a_file_is_listed_once_where_it_was_first_made(tmp_path: Path) -> None:
    places = [
        File(tmp_path / "late.safetensors", every(steps(5))),
        Directory(tmp_path / "d", every(epochs(1)), final=False),
    ]
    _, result = told(places)
    assert [Path(path).parent.name for path in result.checkpoints] == ["d", tmp_path.name, "d", "d"]
    assert result.checkpoints.count(str(tmp_path / "late.safetensors")) == 1


def test_a16_the_epoch_its_validation_and_the_best_net_come_before_the_save(tmp_path: Path) -> None:
    events, result = told(Directory(tmp_path), validation=scripted(3, 2, 4), epochs=3)
    for number, name in enumerate(names(result.checkpoints)):
        assert f"{name.loss:.3e}" == f"{result.history['epoch.loss'].values[number]:.3e}"
        assert f"{name.val:.3e}" == f"{result.history['val.loss'].values[number]:.3e}"
    kinds = [type(event) for event in events if isinstance(event, EpochEnded | Evaluated | Saved)]
    assert kinds.index(EpochEnded) < kinds.index(Evaluated) < kinds.index(Saved)
    # The best net in a file is the best up to then, this epoch's included.
    kept = [load_file(path)["best:0.weight"] for path in result.checkpoints]
    now = [net_in(path)["0.weight"] for path in result.checkpoints]
    assert torch.equal(kept[0], now[0])
    assert torch.equal(kept[1], now[1])
    assert torch.equal(kept[2], now[1])


# ------------------------------------------------------------------------------------------- A17 and A18: what fails


def test_a17_folders_that_are_missing_are_made(tmp_path: Path) -> None:
    _, result = told([Directory(tmp_path / "a/b/c"), File(tmp_path / "d/e/run.safetensors")], epochs=1)
    assert len(result.checkpoints) == 2
    assert all(Path(path).is_file() for path in result.checkpoints)


@pytest.mark.parametrize("kind", [Directory, File])
def test_a17_what_cannot_be_written_is_found_before_the_first_step(kind: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    net = mlp()
    before = arrays(net)
    with pytest.raises(SettingError, match="is a file, and a folder is needed there"):
        told(kind(tmp_path / "file" / "x"), net=net)
    assert same(arrays(net), before)


def astray(made: etude.Run, folder: Path) -> list[Event]:
    """The events of a run whose folder is a file after the first save, and there again after the first that failed."""
    events: list[Event] = []
    for event in made:
        kinds = [type(each) for each in events]
        if isinstance(event, Saved) and Saved not in kinds:
            folder.rename(folder.with_name("elsewhere"))
            folder.write_text("in its place")
        if isinstance(event, SaveFailed) and SaveFailed not in kinds:
            folder.unlink()
            folder.with_name("elsewhere").rename(folder)
        events.append(event)
    return events


def test_a17_a_save_that_fails_is_told_and_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    made = run(Directory(folder, every(steps(1))), epochs=5)
    with pytest.warns(UserWarning, match="could not be saved, and the run goes on"):
        events = astray(made, folder)
    failures, result = [event for event in events if isinstance(event, SaveFailed)], made.result()
    failed = [int(event.progress.step) for event in failures]
    assert failed
    assert str(folder) in failures[0].message
    assert (result.failed_saves, result.stop_reason, result.steps) == (len(failed), "finished", 20)
    # Every other state is there, those after the failure too.
    assert sorted([*failed, *(name.step for name in names(listed(folder)))]) == list(range(1, 21))
    assert listed(folder) == result.checkpoints


@pytest.mark.filterwarnings("ignore:The state after step")
def test_a17_or_ends_the_run_where_that_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    made = run(Directory(folder, every(steps(1)), on_failure="stop"), epochs=5)
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
        astray(made, folder)


def test_a18_the_old_version_stands_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """At every moment at which anything can be looked at, the file is one that was written to its end."""
    path = tmp_path / "run.safetensors"
    made = run(File(path, every(steps(1))), epochs=2)
    seen: list[dict[str, Tensor]] = []
    for event in made:
        if path.exists() and isinstance(event, Stepped):
            seen.append(net_in(path))
    assert len(seen) > 3
    assert listed(tmp_path) == [str(path)]


# --------------------------------------------------------------------------------------- A19 to A22: what is in there


def test_a19_a_file_holds_the_whole_state_and_the_net_alone_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    told(File(path), optimizer="adam", validation=VALIDATION, averages=(etude.ema(0.9),))
    found = load_file(path)
    kinds = {name.partition(":")[0] for name in found if ":" in name}
    assert kinds >= {"optimizer", "average", "best", "history"}
    assert {name for name in found if ":" not in name} == set(mlp().state_dict())
    net = mlp(seed=3)
    etude.load_net(path, net)
    assert alike(net_in(path), net)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return out


def test_a21_shared_arrays_are_kept_once_and_missed_where_they_are_not_shared(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    _, result = told(File(path), net=Tied(True))
    assert "first.weight" in load_file(path)
    assert "second.weight" not in load_file(path)
    again = Tied(True)
    etude.load_net(path, again)
    x, _ = classified()
    assert result.net is not None
    assert torch.equal(again.eval()(x), result.net(x))
    with pytest.raises(CheckpointError, match=r"first\.weight.*second\.weight"):
        etude.load_net(path, Tied(False))


def test_a22_a_list_that_begins_with_a_kind_is_one_destination_and_another_is_several(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one.safetensors"), str(tmp_path / "two")
    assert steps_in(["File", one, every(steps(5))]) == [5, 10, 12]
    assert listed(tmp_path) == [one]
    assert sorted(steps_in([one, ["Directory", two, every(epochs(2))]])) == [4, 8, 8, 12, 12]
    assert listed(tmp_path) == [one, two]


# ----------------------------------------------------------------------------------------------------- the scenarios


def conv(seed: int = 1) -> nn.Sequential:
    """8x8 images into 3 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3)
        )


def glyphs(n: int = 48) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 8, 8) of a bar in one of three places, in noise, and which it is."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 3, (n,), generator=generator)
    images = torch.randn(n, 1, 8, 8, generator=generator) * 0.3
    for image, kind in zip(images, classes.tolist(), strict=True):
        image[0, :, 1 + 2 * kind] += 2
    return images, classes


def test_e1_periodic_checkpoints_of_a_convolutional_net(tmp_path: Path) -> None:
    data, rounds = glyphs(), 5
    result = etude.train(
        conv(),
        data,
        loss="cross_entropy",
        optimizer="adam",
        epochs=rounds,
        batch_size=8,
        checkpoint=Directory(tmp_path),
        progress=False,
    )
    assert listed(tmp_path) == result.checkpoints
    found = names(result.checkpoints)
    assert [name.epoch for name in found] == list(range(1, rounds + 1))
    assert [name.step for name in found] == [6 * k for k in range(1, rounds + 1)]
    assert [f"{name.loss:.3e}" for name in found] == [f"{loss:.3e}" for loss in result.history["epoch.loss"].values]
    net = conv(seed=2)
    etude.load_net(result.checkpoints[-1], net)
    assert result.net is not None
    assert torch.equal(net.eval()(data[0]), result.net(data[0]))


@pytest.mark.parametrize(
    ("cadence", "rounds", "expected", "epochs_of"),
    [(every(steps(5)), 3, [5, 10], [2, 3]), (every(epochs(2)), 5, [8, 16], [2, 4])],
)
def test_e3_intervals_in_steps_and_in_epochs(
    cadence: Any, rounds: int, expected: list[int], epochs_of: list[int], tmp_path: Path
) -> None:
    _, plain = told(Directory(tmp_path / "plain", cadence, final=False), epochs=rounds)
    found = names(plain.checkpoints)
    assert [name.step for name in found] == expected
    assert [name.epoch for name in found] == epochs_of
    _, whole = told(Directory(tmp_path / "whole", cadence), epochs=rounds)
    assert [name.step for name in names(whole.checkpoints)] == [*expected, 4 * rounds]


@pytest.mark.parametrize(("final", "expected"), [(False, [1, 5, 9]), (True, [1, 5, 9, 12])])
def test_e4_a_minimum_of_ten_seconds_with_steps_of_three(final: bool, expected: list[int], tmp_path: Path) -> None:
    place = Directory(tmp_path, every(steps(1), minimum=seconds(10)), final=final)
    _, result = told(place, step_seconds=3)
    assert [name.step for name in names(result.checkpoints)] == expected


def test_e5_a_file_every_epoch_and_a_folder_every_five_steps(tmp_path: Path) -> None:
    places = [File(tmp_path / "run.safetensors", every(epochs(1))), Directory(tmp_path / "d", every(steps(5)))]
    events, result = told(places, epochs=5)
    assert saved_steps(events, tmp_path / "run") == [4, 8, 12, 16, 20]
    assert saved_steps(events, tmp_path / "d") == [5, 10, 15, 20]
    assert result.checkpoints[0] == str(tmp_path / "run.safetensors")
    assert listed(tmp_path / "d") == result.checkpoints[1:]


def test_e6_the_field_of_the_validation_loss_is_there_if_there_are_validation_data(tmp_path: Path) -> None:
    _, without = told(Directory(tmp_path / "without"))
    assert [len(Path(path).stem.split("_")) for path in without.checkpoints] == [5, 5, 5]
    looks = Evaluate(VALIDATION, every=every(steps(3)))
    events, result = told(Directory(tmp_path / "with", every(steps(2))), validation=looks)
    assert {len(Path(path).stem.split("_")) for path in result.checkpoints} == {6}
    measured = {int(e.progress.step): e.scores["loss"] for e in events if isinstance(e, Evaluated)}
    for name in names(result.checkpoints):
        latest = max((step for step in measured if step <= name.step), default=None)
        assert name.val is not None
        assert isnan(name.val) if latest is None else f"{name.val:.3e}" == f"{measured[latest]:.3e}"


def test_e7_two_runs_at_once_into_one_folder_differ_by_their_count(tmp_path: Path) -> None:
    counters = []
    for place in (Directory(tmp_path), Directory(tmp_path), None, Directory(tmp_path)):
        _, result = told(place, epochs=1)
        counters += [name.counter for name in names(result.checkpoints)]
    first, second, third = counters
    assert (second - first, third - second) == (1, 2)
    assert len(listed(tmp_path)) == 3


# ---------------------------------------------------------------------------------------- E2 and E8: killed, resumed

KILLED = """
import sys
sys.path.insert(0, {here!r})
import etude
from test_checkpoint_scenarios import whole

def tell(event):
    if isinstance(event, etude.events.Stepped):
        print(int(event.progress.step), flush=True)

whole({places}, listeners=[tell])
"""


class Dropped(nn.Module):
    """Two parts and dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.body, self.head = nn.Linear(4, 16), nn.Linear(16, 3)
        self.drop = nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.drop(torch.relu(self.body(x))))
        return out


def whole(checkpoint: Any, **more: Any) -> Result:
    """Adam, a schedule of the rate, an update schedule of three steps, dropout, shuffled data; 60 steps."""
    return etude.train(
        Dropped(),
        classified(40),
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=etude.warmup(steps(7)) * etude.cosine(0.03, 0.001),
        update_schedule=[etude.part("body") * 2, "head"],
        epochs=12,
        batch_size=8,
        seed=3,
        checkpoint=checkpoint,
        progress=False,
        **more,
    )


def killed_at(step: int, places: str) -> int:
    """Run `whole` in a process of its own, which is killed after it told `step`; the last step that it told."""
    program = KILLED.format(here=str(HERE), places=places)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=silent())
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            process.send_signal(signal.SIGKILL)
            break
    rest = process.stdout.read().split()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return int(rest[-1]) if rest else step


def places(folder: Path) -> list[Any]:
    return [File(folder / "run.safetensors", steps(1)), Directory(folder / "d", steps(4))]


@pytest.mark.parametrize("step", [22, *(pytest.param(n, marks=pytest.mark.soak) for n in range(4, 58, 7))])
def test_e2_and_e8_killed_and_resumed_is_never_killed_bit_for_bit(step: int, tmp_path: Path) -> None:
    said = repr(places(tmp_path)).replace("File(", "etude.File(").replace("Directory(", "etude.Directory(")
    reached = killed_at(step, said.replace("every(steps(", "etude.every(etude.steps("))
    # What was killed left a file that is whole, of a step that was made.
    file = tmp_path / "run.safetensors"
    etude.load_net(file, Dropped())
    kept = load_file(file)["history:loss:steps"].tolist()
    assert kept == list(range(1, len(kept) + 1))
    assert 0 < len(kept) <= reached
    # The next run goes on from the newest, and takes away what was half-written.
    newest = max([len(kept), *(name.step for name in names(listed(tmp_path / "d")))])
    events: list[Event] = []
    result = whole(places(tmp_path), resume="auto", listeners=[events.append])
    stepped = [int(event.progress.step) for event in events if isinstance(event, Stepped)]
    assert stepped == list(range(newest + 1, 61))
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]
    # It is one run, with the numbers of one that nobody disturbed.
    quiet = whole(None)
    assert result.net is not None
    assert alike(result.net.state_dict(), quiet.net)
    assert result.history["loss"].values == quiet.history["loss"].values
    found = names(listed(tmp_path / "d"))
    assert len({(name.start, name.counter) for name in found}) == 1
    # The instant may lie between the two files of one save; the state is in the first then.
    assert set(range(4, 61, 4)) - {name.step for name in found} <= {newest}


def test_e8_a_run_that_ended_gives_its_result_at_once(tmp_path: Path) -> None:
    place = Directory(tmp_path, every(steps(20)), keep=last(1))
    first = whole(place)
    again: list[Event] = []
    result = whole(place, resume="auto", listeners=[again.append])
    assert not [event for event in again if isinstance(event, Stepped)]
    assert [event.reason for event in again if isinstance(event, Ended)] == ["finished"]
    assert result.net is not None
    assert alike(result.net.state_dict(), first.net)
