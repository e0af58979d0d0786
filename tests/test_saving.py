"""Runs that save themselves: when, where, what is told, and what happens when a save fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

import etude
from etude import Directory, Evaluate, File, best, ema, epochs, every, last, seconds, steps
from etude.errors import CheckpointError, PlanError, ScheduleError, SettingError, StateError
from etude.keep import disk, files, state
from etude.run.events import Ended, Event, Saved, SaveFailed, Settled
from small import Noisy, arrays, classified, mlp, options, run, same, trained


class Clock:
    """A clock that a listener moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def steps_of(folder: Path) -> list[int]:
    """The steps of the files of a folder, in the order of their names."""
    return [int(path.name.split("_")[3]) for path in sorted(folder.glob("*.safetensors"))]


def lasting(net: nn.Module, folder: Path, **changed: Any) -> etude.Result:
    return trained(net, checkpoint=Directory(folder, every(steps(1))), **changed)


def broken(monkeypatch: pytest.MonkeyPatch, name: str, error: OSError, when: Callable[[], bool] = lambda: True) -> None:
    """A disk of which one call fails."""
    real = getattr(disk, name)

    def call(*arguments: Any) -> Any:
        if when():
            raise error
        return real(*arguments)

    monkeypatch.setattr(disk, name, call)


def test_nothing_is_written_where_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert trained().checkpoints == []
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_a_destination(tmp_path: Path) -> None:
    result = trained(checkpoint=str(tmp_path / "runs"), epochs=2)
    assert steps_of(tmp_path / "runs") == [3, 6]
    assert result.checkpoints == [str(path) for path in sorted((tmp_path / "runs").glob("*.safetensors"))]


def test_a_relative_path_stays_where_it_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = etude.Plan(**options(checkpoint="runs"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = etude.train(mlp(), classified(), plan, progress=False)
    assert Path(result.checkpoints[0]).parent == tmp_path / "runs"


def test_saving_changes_no_bit(tmp_path: Path) -> None:
    quiet, kept = Noisy(), Noisy()
    one = trained(quiet, epochs=3, validation=0.2, averages=ema(0.9))
    other = lasting(kept, tmp_path, epochs=3, validation=0.2, averages=ema(0.9))
    assert same(arrays(quiet), arrays(kept))
    assert json.dumps(one.history.to_dict()) == json.dumps(other.history.to_dict())


def test_events_tell_of_each_file_at_the_next_step_or_at_the_end(tmp_path: Path) -> None:
    told = list(run(checkpoint=Directory(tmp_path, every(steps(1)))))
    saved = [event for event in told if isinstance(event, Saved)]
    assert [event.progress.step for event in saved] == [1, 2, 3]
    assert all(Path(event.path).stat().st_size == event.bytes and event.seconds >= 0 for event in saved)
    assert isinstance(told[-1], Ended)
    assert told.index(saved[-1]) < len(told) - 1
    # The second file was told after the second step was settled, or later: never before it was whole.
    assert told.index(saved[1]) > [type(event) for event in told].index(Settled)


def test_a_file_is_a_net_for_any_reader(tmp_path: Path) -> None:
    net = Noisy()
    result = lasting(net, tmp_path, averages=ema(0.9), validation=0.2)
    with safe_open(result.checkpoints[-1], "pt") as file:
        names = set(file.keys())
        assert same({name: file.get_tensor(name) for name in net.state_dict()}, dict(result.final_net.state_dict()))  # type: ignore[union-attr]
    assert {"best:head.bias", "average:ema:head.bias"} <= names
    assert sum(name.startswith("optimizer:loss:head.bias:") for name in names) == 2
    assert {"history:loss:values", "history:rate:steps", "history:val.loss:epochs"} <= names
    known = tuple(prefix for prefix in state.PREFIXES if prefix)
    assert {name for name in names if not name.startswith(known)} == set(net.state_dict())


def test_the_record_is_the_list_of_what_is_saved(tmp_path: Path) -> None:
    record = files.read_record(lasting(mlp(), tmp_path).checkpoints[-1])
    assert set(record) == {field.name for field in state.STATE} | {"kind", "format", "version"}
    assert all(field.fits(record[field.name]) for field in state.STATE)


def test_the_final_save_is_made_once(tmp_path: Path) -> None:
    trained(checkpoint=Directory(tmp_path / "a", every(epochs(1))), epochs=2)
    trained(checkpoint=Directory(tmp_path / "b", every(steps(4))), epochs=2)
    trained(checkpoint=Directory(tmp_path / "c", every(steps(4)), final=False), epochs=2)
    assert [steps_of(tmp_path / name) for name in "abc"] == [[3, 6], [4, 6], [4]]


def test_the_last_look_comes_before_the_last_save(tmp_path: Path) -> None:
    looks = Evaluate(0.2, every=every(steps(99)))
    (path,) = trained(checkpoint=Directory(tmp_path, every(steps(99))), validation=looks).checkpoints
    assert "nan" not in Path(path).name
    assert trained(checkpoint=Directory(tmp_path, every(steps(99))), validation=looks, resume="auto").checkpoints == [
        path
    ]


def test_a_file_by_its_score_holds_the_best(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    result = trained(checkpoint=File(path, when=best("val.loss")), epochs=6, validation=0.3, learning_rate=0.3)
    assert files.read_record(path)["progress"]["step"] == result.best_step
    assert result.checkpoints == [str(path)]


def test_the_list_has_what_is_there(tmp_path: Path) -> None:
    result = trained(checkpoint=[Directory(tmp_path, keep=last(2)), File(tmp_path / "c" / "one.safetensors")], epochs=5)
    assert steps_of(tmp_path) == [12, 15]
    assert all(map(os.path.exists, result.checkpoints))
    assert len(result.checkpoints) == 3
    told = [e for e in run(checkpoint=Directory(tmp_path / "b", keep=last(1)), epochs=3) if isinstance(e, Saved)]
    assert [len(event.removed) for event in told] == [0, 1, 1]


@pytest.mark.parametrize(("call", "error"), [("sync", 28), ("write_at", 5), ("rename", 13), ("create", 30)])
def test_a_save_that_fails_is_told_and_the_run_goes_on(
    call: str, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(checkpoint=Directory(tmp_path, every(steps(1))), epochs=2)
    told: list[Event] = []
    failing = [False]
    broken(monkeypatch, call, OSError(error, os.strerror(error)), lambda: failing[0])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for event in made:
            told.append(event)
            if isinstance(event, Settled):
                failing[0] = event.progress.step in (2, 3)
    failed = [event for event in told if isinstance(event, SaveFailed)]
    assert failed
    assert len(failed) == made.result().failed_saves == sum("could not be saved" in str(one.message) for one in warned)
    assert os.strerror(error).lower()[:8] in failed[0].message.lower()
    assert steps_of(tmp_path)[-1] == 6
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_save_that_fails_may_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(checkpoint=Directory(tmp_path, every(steps(1)), on_failure="stop"), epochs=9)
    broken(monkeypatch, "write_at", OSError(28, os.strerror(28)), lambda: made.progress.step >= 3)
    with pytest.raises(CheckpointError, match="no space"):
        made.result()
    assert 2 <= made.progress.step <= 5
    assert steps_of(tmp_path)


def test_one_place_that_fails_does_not_keep_another_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(checkpoint=[File(tmp_path / "a" / "x.safetensors"), Directory(tmp_path / "b")])
    real = disk.rename

    def rename(old: Any, new: Any) -> None:
        if str(new).endswith("x.safetensors"):
            raise OSError(5, os.strerror(5))
        real(old, new)

    monkeypatch.setattr(disk, "rename", rename)
    with pytest.warns(UserWarning, match="could not be saved, and the run goes on"):
        result = made.result()
    assert steps_of(tmp_path / "b") == [3]
    assert result.failed_saves == 2  # at the end it was tried once more


def test_a_run_that_is_left_lets_its_file_be_finished(tmp_path: Path) -> None:
    for event in run(checkpoint=Directory(tmp_path, every(steps(1))), epochs=5):
        if event.progress.step == 2:
            break
    assert all(files.read(path).record for path in tmp_path.glob("*.safetensors"))
    assert trained(checkpoint=Directory(tmp_path), resume=None).checkpoints


def test_what_cannot_be_kept_is_an_error_before_the_first_step(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"a function": print}

        def set_extra_state(self, state: Any) -> None:
            raise AssertionError

    net = Odd(4, 3)
    before = arrays(net)
    with pytest.raises(StateError, match="a function"):
        trained(net, checkpoint=tmp_path)
    assert same(before, arrays(net))


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    first = iter(run(checkpoint=tmp_path))
    next(first)
    with pytest.raises(StateError, match=f"process {os.getpid()} on"):
        trained(checkpoint=tmp_path)
    first.close()  # type: ignore[attr-defined]
    trained(checkpoint=tmp_path)


def test_a_place_without_room_is_found_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 100)
    with pytest.raises(StateError, match=r"takes \d+ bytes, and 100 are free"):
        next(iter(run(checkpoint=tmp_path)))


# ---------------------------------------------------------------------------------------------------- going on


def test_auto_begins_where_there_is_nothing_and_ends_at_once_where_all_is_done(tmp_path: Path) -> None:
    plan = {"checkpoint": Directory(tmp_path), "epochs": 2, "resume": "auto"}
    first, again = trained(**plan), trained(**plan)
    assert (first.steps, again.steps) == (6, 6)
    assert first.checkpoints == again.checkpoints
    assert again.stop_reason == "finished"
    assert same(arrays(first.net), arrays(again.net))


def test_auto_passes_over_what_is_damaged_and_says_so(tmp_path: Path) -> None:
    whole = lasting(Noisy(), tmp_path, epochs=2)
    damaged = Path(whole.checkpoints[-1])
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 4
    damaged.write_bytes(content)
    with pytest.warns(UserWarning, match=r"expected .* found .*_00000005_.* is taken"):
        again = lasting(Noisy(), tmp_path, epochs=2, resume="auto")
    assert same(arrays(whole.net), arrays(again.net))
    assert damaged.with_name(damaged.name + ".damaged").exists()


def test_a_file_that_is_named_is_taken_or_refused_but_never_replaced(tmp_path: Path) -> None:
    whole = lasting(Noisy(), tmp_path, epochs=2)
    Path(whole.checkpoints[-1]).write_bytes(b"half of a fi")
    with pytest.raises(CheckpointError):
        trained(Noisy(), epochs=2, resume=whole.checkpoints[-1])
    assert same(arrays(whole.net), arrays(trained(Noisy(), epochs=2, resume=whole.checkpoints[2]).net))


def test_going_on_from_a_named_file_is_a_branch_of_its_own(tmp_path: Path) -> None:
    whole = lasting(mlp(), tmp_path, epochs=2)
    branch = lasting(mlp(), tmp_path, epochs=2, resume=whole.checkpoints[1])
    assert len(steps_of(tmp_path)) == 6 + 4
    assert not set(branch.checkpoints) & set(whole.checkpoints)
    # The branch is newer than all that was there.
    assert sorted(path.name for path in tmp_path.glob("*.safetensors"))[-1] == Path(branch.checkpoints[-1]).name


def test_auto_needs_a_place_to_look(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"Write checkpoint=Directory"):
        trained(resume="auto")


def test_until_leaves_to_be_gone_on_with(tmp_path: Path) -> None:
    quiet = trained(Noisy(), epochs=3)
    clock = Clock()
    plan = etude.Plan(**options(epochs=3, checkpoint=Directory(tmp_path)))

    def tick(event: Event) -> None:
        clock.now += isinstance(event, Settled)

    part = etude.Run(plan, Noisy(), classified(), until=seconds(4), clock=clock).to(tick)
    assert part.result().stop_reason == "interrupted"
    assert (part.result().steps, part.result().stop_message) == (4, "until=seconds(4)")
    assert part.newest_checkpoint == (part.result().checkpoints[-1], 4)
    rest = etude.Run(plan, Noisy(), classified(), until=seconds(99), clock=clock, resume="auto").to(tick).result()
    assert (rest.steps, rest.stop_reason, rest.seconds) == (9, "finished", 9)
    assert same(arrays(quiet.net), arrays(rest.net))


def test_train_ends_the_process_to_be_run_again(tmp_path: Path) -> None:
    with pytest.raises(etude.Interrupted) as left:
        trained(checkpoint=tmp_path, epochs=99, until=seconds(1e-9))
    assert left.value.code == 75
    assert left.value.step == 1
    assert Path(left.value.path).exists()
    assert "run again to go on" in str(left.value)


def test_until_needs_a_place_and_a_time(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"Write checkpoint=Directory"):
        trained(until=seconds(1))
    with pytest.raises(SettingError, match=r"until=steps\(1\): a span of time"):
        trained(until=steps(1), checkpoint=tmp_path)


def test_a_time_limit_counts_all_processes(tmp_path: Path) -> None:
    clock = Clock()
    plan = etude.Plan(**options(epochs=9, checkpoint=Directory(tmp_path), time_limit=seconds(5)))

    def tick(event: Event) -> None:
        clock.now += isinstance(event, Settled)

    first = etude.Run(plan, mlp(), classified(), until=seconds(4), clock=clock).to(tick).result()
    rest = etude.Run(plan, mlp(), classified(), resume="auto", clock=clock).to(tick).result()
    assert (first.stop_reason, first.steps, rest.stop_reason, rest.steps) == ("interrupted", 4, "time", 5)


def test_of_two_places_the_newer_is_taken(tmp_path: Path) -> None:
    places = [
        File(tmp_path / "one.safetensors", every(steps(4)), final=False),
        Directory(tmp_path, every(steps(5)), final=False),
    ]
    whole = trained(Noisy(), epochs=2, checkpoint=places)
    again = run(Noisy(), epochs=2, checkpoint=places)
    made = etude.Run(again.plan, Noisy(), classified(), resume="auto")
    next(iter(made))
    assert made.progress.step == 5
    assert same(arrays(whole.net), arrays(etude.Run(again.plan, Noisy(), classified(), resume="auto").result().net))


def test_counts_go_on_in_a_folder(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"checkpoint": Directory(tmp_path, every(steps(2)), keep=last(2))}
    with pytest.raises(etude.Interrupted):
        trained(epochs=2, until=seconds(1e-9), **plan)
    result = trained(epochs=2, resume="auto", **plan)
    names = [Path(path).name.split("_")[:2] for path in result.checkpoints]
    assert steps_of(tmp_path) == [4, 6]
    assert len({tuple(name) for name in names}) == 1


def test_torch_tensors_in_results_are_those_of_the_run(tmp_path: Path) -> None:
    kept = trained(Noisy(), epochs=2, averages=ema(0.5), checkpoint=Directory(tmp_path, every(steps(4))))
    again = trained(Noisy(), epochs=2, averages=ema(0.5), resume=kept.checkpoints[0])
    assert all(torch.equal(kept.averages["ema"][name], value) for name, value in again.averages["ema"].items())
    assert kept.learning_rates == again.learning_rates
    assert kept.diff(again) in ("", kept.diff(again))


class Growing(nn.Linear):
    """A net that registers a buffer in its first step, lets another go, and lets one grow."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.register_buffer("early", torch.ones(2))
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            if "late" not in self._buffers:
                self.register_buffer("late", torch.zeros(3), persistent=False)
                self.early = None
            self.late = self.late + 1
            self.seen = torch.cat([self.seen, x.detach().mean().reshape(1)])
        made: torch.Tensor = super().forward(x) + (self.late if "late" in self._buffers else 0)
        return made


def test_buffers_may_come_and_go(tmp_path: Path) -> None:
    whole = lasting(Growing(), tmp_path, epochs=2)
    for path in whole.checkpoints:
        again = Growing()
        trained(again, resume=path, epochs=2)
        assert same(arrays(whole.net), arrays(again))
        assert again._non_persistent_buffers_set == {"late"}


def test_a_place_put_in_front_takes_nothing_from_another(tmp_path: Path) -> None:
    kept = File(tmp_path / "best.safetensors", when=best("val.loss"))
    plan: dict[str, Any] = {"validation": 0.3, "learning_rate": 0.5}
    trained(Noisy(), epochs=3, checkpoint=[kept, Directory(tmp_path / "d")], **plan)
    before = files.read_record(tmp_path / "best.safetensors")["scores"]["val.loss"]
    places = [File(tmp_path / "new.safetensors"), kept, Directory(tmp_path / "d")]
    trained(Noisy(), epochs=6, checkpoint=places, resume="auto", accept="epochs", **plan)
    assert files.read_record(tmp_path / "best.safetensors")["scores"]["val.loss"] <= before


def test_a_named_file_does_not_cost_the_best_one(tmp_path: Path) -> None:
    places = [File(tmp_path / "new.safetensors"), File(tmp_path / "best.safetensors", when=best("val.loss"))]
    plan: dict[str, Any] = {"validation": 0.3, "learning_rate": 0.5, "checkpoint": places}
    trained(Noisy(), epochs=3, **plan)
    before = files.read_record(tmp_path / "best.safetensors")["scores"]["val.loss"]
    trained(Noisy(), epochs=6, resume=tmp_path / "new.safetensors", accept="epochs", **plan)
    assert files.read_record(tmp_path / "best.safetensors")["scores"]["val.loss"] <= before


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (True, r'resume=True: "auto" or the path of a file is needed'),
        ("", r'Write resume="auto"'),
        ("latest", r'Write resume="auto" for the newest'),
        (Directory("d"), "is needed"),
    ],
)
def test_a_resume_that_is_none_is_an_error_at_once(given: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=told):
        etude.Run(etude.Plan(**options()), mlp(), classified(), resume=given)
    with pytest.raises(SettingError, match=r"that is a folder\. Write checkpoint=Directory"):
        etude.Run(etude.Plan(**options()), mlp(), classified(), resume=tmp_path)


@pytest.mark.parametrize("given", [3, [3], None])
def test_an_accept_that_is_none_is_an_error_at_once(given: Any) -> None:
    with pytest.raises(SettingError, match=r"names of differences, or True for all, are needed"):
        etude.Run(etude.Plan(**options()), mlp(), classified(), accept=given)
    with pytest.raises(SettingError, match='Nearest: "epochs"'):
        etude.Run(etude.Plan(**options()), mlp(), classified(), accept="epoch")


def test_other_batches_are_not_gone_on_with_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    whole = lasting(mlp(), tmp_path, epochs=2)
    net = mlp()
    before = arrays(net)
    with pytest.raises(PlanError, match="is of the middle of an epoch, after batch 1"):
        trained(net, resume=whole.checkpoints[0], epochs=2, batch_size=5, accept=True)
    assert same(before, arrays(net))
    assert trained(mlp(), resume=whole.checkpoints[2], epochs=2, batch_size=5, accept=True).steps == 5


def test_what_is_there_and_cannot_be_read_is_not_begun_anew_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.safetensors"
    trained(checkpoint=File(path))
    content = path.read_bytes()
    broken(monkeypatch, "read_at", OSError(5, os.strerror(5)))
    with pytest.raises(CheckpointError, match="nput/output error"):
        trained(checkpoint=File(path), resume="auto", epochs=2)
    assert path.read_bytes() == content


def test_where_none_is_whole_the_run_begins_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    trained(checkpoint=File(path))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="No good one is there: the run begins anew"):
        assert trained(checkpoint=File(path), resume="auto").steps == 3


def test_a_file_that_is_there_counts_though_what_follows_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(checkpoint=Directory(tmp_path, keep=last(1)), epochs=3)
    broken(monkeypatch, "remove", OSError(13, os.strerror(13)), lambda: len(steps_of(tmp_path)) > 1)
    with pytest.warns(UserWarning, match="was saved, but not all that goes with it"):
        result = made.result()
    assert steps_of(tmp_path) == [3, 6, 9]
    assert [int(Path(path).name.split("_")[3]) for path in result.checkpoints] == [3, 6, 9]


def test_a_folder_that_goes_away_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for event in run(checkpoint=Directory(folder, every(steps(1))), epochs=2):
        if event.progress.step == 2 and isinstance(event, Settled):
            shutil.rmtree(folder, ignore_errors=True)
    assert steps_of(folder)[-1] == 6


def test_a_long_name_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 243 + ".safetensors")
    assert trained(checkpoint=File(path)).checkpoints == [str(path)]


def test_a_cadence_that_the_run_cannot_tell_is_found_before_the_first_step(tmp_path: Path) -> None:
    def batches(epoch: int) -> Any:
        yield classified()

    cadence = every(epochs(1)) | every(etude.fraction(0.1))
    with pytest.raises(ScheduleError, match="share of the run"):
        etude.Run(
            etude.Plan(
                "cross_entropy",
                time_limit=etude.minutes(1),
                round_length=1,
                checkpoint=Directory(tmp_path / "d", cadence),
            ),
            mlp(),
            batches,
        )
    assert not (tmp_path / "d").exists()


def test_an_interrupted_run_that_could_not_be_saved_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = disk.rename
    monkeypatch.setattr(disk, "rename", lambda old, new: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
    with (
        pytest.warns(UserWarning, match="could not be saved"),
        pytest.raises(StateError, match="no checkpoint is there"),
    ):
        trained(checkpoint=tmp_path, until=seconds(1e-9))
    monkeypatch.setattr(disk, "rename", real)


def test_what_a_listener_freezes_stays_frozen(tmp_path: Path) -> None:
    def freezing(net: nn.Sequential) -> Callable[[Event], None]:
        def freeze(event: Event) -> None:
            if event.progress.step == 2 and isinstance(event, Settled):
                net[0].weight.requires_grad = False

        return freeze

    one = mlp()
    whole = trained(one, epochs=2, checkpoint=Directory(tmp_path, every(steps(3))), listeners=[freezing(one)])
    other = mlp()
    trained(other, epochs=2, resume=whole.checkpoints[0])
    assert same(arrays(one), arrays(other))
    assert not other[0].weight.requires_grad


def test_another_run_of_the_same_second_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etude.run.saving.start_now", lambda: "2021-06-21T10-15-30")
    for _ in range(2):
        monkeypatch.setattr("etude.run.saving._RUNS", count(1))
        trained(checkpoint=Directory(tmp_path, keep=last(2)), epochs=3)
    assert steps_of(tmp_path) == [6, 9, 6, 9]


def test_a_failure_does_not_hide_what_ended_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(event: Event) -> None:
        if event.progress.step == 3 and isinstance(event, Settled):
            raise ZeroDivisionError("mine")

    broken(monkeypatch, "rename", OSError(5, os.strerror(5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError, match="mine") as left:
            trained(checkpoint=Directory(tmp_path, every(steps(3))), listeners=[stop], epochs=2)
    assert "could not be saved" in "".join(left.value.__notes__)


def test_a_clock_that_was_set_back_makes_no_older_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for start in ("2031-06-21T10-15-30", "2021-06-21T10-15-30"):
        monkeypatch.setattr("etude.run.saving.start_now", lambda start=start: start)
        result = trained(checkpoint=Directory(tmp_path), epochs=2, seed=len(start))
    assert sorted(path.name for path in tmp_path.glob("*.safetensors"))[-1] == Path(result.checkpoints[-1]).name


def test_other_validation_data_are_seen(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"validation": classified(6, seed=1), "epochs": 2}
    whole = lasting(mlp(), tmp_path, **plan)
    with pytest.raises(PlanError, match="validation data: 6 samples, the first batch with digest"):
        trained(mlp(), resume=whole.checkpoints[1], **{**plan, "validation": classified(6, seed=2)})


def test_a_file_that_is_named_is_looked_at_before_a_folder_is_made(tmp_path: Path) -> None:
    whole = lasting(mlp(), tmp_path / "a", epochs=2)
    with pytest.raises(PlanError, match="told otherwise"):
        trained(mlp(), resume=whole.checkpoints[1], epochs=3, checkpoint=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_is_no_file_among_checkpoints_is_told_with_what_to_do(tmp_path: Path) -> None:
    (path,) = map(Path, trained(checkpoint=Directory(tmp_path)).checkpoints)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="a symbolic link; remove it, or name the file to go on from"):
        trained(checkpoint=Directory(tmp_path), resume="auto")


def test_who_types_at_a_prompt_keeps_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(event: Event) -> None:
        if isinstance(event, Settled):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    # A shell lets programs in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="the state after step 1 is in"):
            trained(checkpoint=tmp_path, listeners=[ask])
        monkeypatch.delattr(sys, "ps1")
        with pytest.raises(etude.Interrupted):
            trained(checkpoint=tmp_path, listeners=[ask])
    finally:
        signal.signal(signal.SIGINT, before)


def test_leaving_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(event: Event) -> None:
        if isinstance(event, Settled):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(etude.Interrupted):
        trained(checkpoint=tmp_path, listeners=[ask])
    told = capsys.readouterr().err.splitlines()
    assert "etude: SIGTERM: leaving after this step" in told[0]
    assert "the state after step 1 is in" in told[1]


def test_a_place_that_never_met_its_score_says_so(tmp_path: Path) -> None:
    place = File(tmp_path / "best.safetensors", every(steps(2)), when=best("val.loss"))
    with pytest.warns(
        UserWarning, match=r"has saved nothing: 'val\.loss' was measured at no step at which a save was due"
    ):
        trained(checkpoint=place, validation=classified(6))
    trained(checkpoint=File(tmp_path / "best.safetensors", when=best("val.loss")), validation=classified(6))


def test_going_on_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = lasting(mlp(), tmp_path, epochs=2)
    trained(mlp(), epochs=2, resume=whole.checkpoints[1])
    assert capsys.readouterr().err.startswith(f"etude: going on after step 2, from {whole.checkpoints[1]}")
