"""Runs of the command line in a folder: left, gone on with, finished, overwritten. All in this process."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from etude import Result
from etude.cli import main
from etude.keep.lock import Lock
from etude.run import leaving

FILE = '''
from __future__ import annotations

import signal
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from etude import Directory, Plan, ema, every, steps as n_steps


def experiment(
    signals: tuple[int, ...] = (),
    steps: int = 11,
    width: int = 3,
    rate: float = 0.05,
    folder: Path = Path("data"),
    own: Path | None = None,
    kind: Literal["sum", "mean"] = "sum",
    final: bool = True,
):
    """A line through points; a signal comes in the middle of some steps."""
    assert isinstance(folder, Path) and isinstance(signals, tuple) and kind == "sum"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, width), nn.Dropout(0.3), nn.Linear(width, 1))
    x = torch.randn(32, 4)
    calls = -1  # the plan is tried once before the first step

    def loss(net, batch):
        nonlocal calls
        calls += 1
        if calls in signals:
            signal.raise_signal(signal.SIGTERM)
        return ((net(batch[0]) - batch[1]) ** 2).mean()

    checkpoint = None if own is None else Directory(own, every(n_steps(3)), final=final)
    plan = Plan(loss, learning_rate=rate, steps=steps, batch_size=8, averages=ema(0.9), checkpoint=checkpoint)
    return net, (x, x.sum(1, keepdim=True)), plan
'''


@pytest.fixture(autouse=True)
def as_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder to be in, an experiment file in it that is forgotten afterwards, and no signal that kills the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(leaving, "TOGETHER", 0.01)
    (tmp_path / "points.py").write_text(FILE)
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("a signal that was not noted"))
    yield
    signal.signal(signal.SIGTERM, before)
    sys.modules.pop("points", None)


def command(*words: object) -> int:
    sys.modules.pop("points", None)
    return main([str(word) for word in words])


def arrays(folder: str) -> dict[str, torch.Tensor]:
    return load_file(f"{folder}/result.safetensors")


def events(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "events.jsonl").read_text().splitlines()]


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert command(*words) == 2
    return capsys.readouterr().err


def test_a_run_that_is_left_twice_ends_as_one_that_was_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("train", "points.py", "--out", "whole", "--quiet") == 0
    capsys.readouterr()
    assert command("train", "points.py", "--out", "run", "--quiet", "--signals", "3", "7") == 75
    said = capsys.readouterr()
    noted, told = said.err.splitlines()
    assert noted.startswith("etude: SIGTERM: leaving after this step")
    assert told.startswith("etude: SIGTERM: the state after step 3 is in ")
    assert told.endswith("; to go on: etude resume run")
    assert Path(told.split(" is in ")[1].split(";")[0]).is_file()
    assert not Path("run/result.json").exists()
    assert command("resume", "run", "--quiet") == 75
    assert "after step 6 is in" in capsys.readouterr().err  # its third step
    assert command("resume", "run", "--quiet") == 75
    assert "after step 9 is in" in capsys.readouterr().err
    assert command("resume", "run", "--quiet") == 0
    assert "going on after step 9, from " in capsys.readouterr().out
    whole = arrays("whole")
    assert all(torch.equal(array, whole[name]) for name, array in arrays("run").items())
    first, second = Result.load("whole/result.json"), Result.load("run/result.json")
    assert first.history.to_dict() == second.history.to_dict()
    assert (second.steps, second.stop_reason) == (11, "finished")


def test_the_events_of_a_run_that_went_on_are_those_of_one_run() -> None:
    command("train", "points.py", "--out", "run", "--quiet", "--signals", "3")
    lines = events("run")
    later = [{**line, "step": line["step"] + 9} for line in lines if line["event"] == "stepped"]
    with Path("run/events.jsonl").open("a") as file:  # as if it had been killed after more steps than were saved
        file.writelines(json.dumps(line) + "\n" for line in later)
    assert command("resume", "run", "--quiet") == 75
    lines = [line for line in events("run") if line["event"] in ("began", "stepped", "ended")]
    assert [line["step"] for line in lines if line["event"] == "stepped"] == [1, 2, 3, 4, 5, 6]
    assert [(line["event"], line["step"]) for line in lines if line["event"] != "stepped"] == [
        ("began", 0),
        ("began", 3),
        ("ended", 6),
    ]


def test_time_that_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("train", "points.py", "--out", "run", "--quiet", "--until", "0.000001s") == 75
    assert "until=seconds(1e-06): the state after step 1 is in " in capsys.readouterr().err
    assert command("resume", "run", "--quiet") == 75
    assert "after step 2 is in" in capsys.readouterr().err  # as before where nothing is said
    assert command("resume", "run", "--quiet", "--until", "1h") == 0


@pytest.mark.parametrize("text", ["11.5", "h", "-1h", "1h30", "1d", "0s"])
def test_a_time_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "train", "points.py", "--out", "run", f"--until={text}")
    assert "until" in said
    assert not Path("run").exists()


def test_times_as_they_are_written() -> None:
    from etude import hours, minutes, seconds
    from etude.options import span

    assert [span(text) for text in ("11.5h", "30min", "2m", "90 s", None)] == [
        hours(11.5),
        minutes(30),
        minutes(2),
        seconds(90),
        None,
    ]


def test_a_run_that_has_finished_is_not_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("train", "points.py", "--out", "run", "--quiet") == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert command("resume", "run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "finished already; the result is in " in said
    assert "made 11 steps" in said
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_a_run_that_was_killed_before_its_result_was_written() -> None:
    assert command("train", "points.py", "--out", "run", "--quiet") == 0
    kept = arrays("run")
    Path("run/result.safetensors").unlink()
    assert command("resume", "run", "--quiet") == 0
    assert all(torch.equal(array, kept[name]) for name, array in arrays("run").items())


def test_a_run_that_was_killed_before_its_first_save_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    command("train", "points.py", "--out", "run", "--quiet", "--until", "0.000001s")
    for path in Path("run/checkpoints").iterdir():
        path.unlink()
    capsys.readouterr()
    assert command("resume", "run", "--quiet", "--until", "1h") == 0
    assert "going on" not in capsys.readouterr().out
    assert [line["step"] for line in events("run") if line["event"] == "stepped"] == list(range(1, 12))


def test_a_run_is_gone_on_with_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command("train", "points.py", "--out", "run", "--quiet", "--signals", "3", "--own", "saves")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("resume", "../run", "--quiet") == 75
    assert Path.cwd() == tmp_path
    assert not (tmp_path / "elsewhere" / "saves").exists()


def test_what_was_asked_is_kept(tmp_path: Path) -> None:
    command("train", "points.py", "--out", "run", "--quiet", "--signals", "3", "--rate", "nan", "--folder", "a/b")
    assert not Path("run").exists()  # a plan that cannot be is refused before anything is written
    command("train", "points.py", "--out", "run", "--quiet", "--signals", "3", "--folder", "a/b", "--until", "9h")
    told = json.loads(Path("run/experiment.json").read_text())
    assert told["file"] == str(tmp_path / "points.py")
    assert told["folder"] == str(tmp_path)
    assert told["until"] == "9h"
    assert told["places"] == [str(tmp_path / "run" / "checkpoints")]
    assert told["arguments"] == {
        "signals": [3],
        "steps": 11,
        "width": 3,
        "rate": 0.05,
        "folder": "a/b",
        "own": None,
        "kind": "sum",
        "final": True,
    }


def test_checkpoints_of_the_plan_are_where_it_says() -> None:
    assert command("train", "points.py", "--out", "run", "--quiet", "--own", "saves", "--signals", "4") == 75
    assert not Path("run/checkpoints").exists()
    assert sorted(int(path.name.split("_")[3]) for path in Path("saves").iterdir()) == [3, 4]
    assert command("resume", "run", "--quiet") == 75


def test_without_a_folder_the_plan_may_be_saved_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("train", "points.py", "--quiet", "--own", "saves", "--signals", "4") == 75
    assert "SIGTERM: the state after step 4 is in " in (said := capsys.readouterr().err)
    assert said.endswith('; train(..., resume="auto") goes on\n')


def test_until_needs_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "train", "points.py", "--until", "1h")
    assert said == "etude: --until 1h: the run is saved then, and no place is given. Write --out DIR.\n"


def test_a_state_that_cannot_be_saved_when_asked_to_leave(capsys: pytest.CaptureFixture[str]) -> None:
    """Then the exit code does not say that the run can be gone on with."""
    broken = "import shutil; shutil.rmtree(own); own.write_text('')"
    text = FILE.replace("calls += 1", f"calls += 1\n        if calls == 5: {broken}")
    Path("points.py").write_text(text)
    assert command("train", "points.py", "--quiet", "--own", "saves", "--signals", "5") == 2
    assert "SIGTERM: the state after step 5 could not be saved." in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- changes and mistakes


def test_a_file_that_has_changed_is_told_and_differences_must_be_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    command("train", "points.py", "--out", "run", "--quiet", "--signals", "3")
    Path("points.py").write_text(FILE.replace("learning_rate=rate", "learning_rate=rate / 2"))
    said = refused(capsys, "resume", "run", "--quiet")
    assert f"etude: note: {Path('points.py').resolve()} has changed since the run began." in said
    assert "learning_rate: 0.05 in the file, 0.025 now" in said
    assert "--accept NAME ..." in said
    assert command("resume", "run", "--quiet", "--accept", "learning_rate") == 75


def test_a_run_that_has_not_finished_is_not_overwritten_unless_said(capsys: pytest.CaptureFixture[str]) -> None:
    command("train", "points.py", "--out", "run", "--quiet", "--signals", "3")
    said = refused(capsys, "train", "points.py", "--out", "run", "--quiet")
    assert "run has a run that has not finished: etude resume run goes on with it." in said
    assert command("train", "points.py", "--out", "run", "--quiet", "--overwrite", "--signals", "2") == 75
    steps = [int(path.name.split("_")[3]) for path in Path("run/checkpoints").iterdir()]
    assert steps == [2]
    assert [line["step"] for line in events("run") if line["event"] == "stepped"] == [1, 2]


def test_one_process_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    command("train", "points.py", "--out", "run", "--quiet", "--signals", "3")
    before = Path("run/events.jsonl").read_bytes()
    lock = Lock("run/.run.lock")
    lock.acquire()
    try:
        for words in (("resume", "run"), ("train", "points.py", "--out", "run", "--overwrite")):
            assert "is held by this process" in refused(capsys, *words)
    finally:
        lock.release()
    assert Path("run/events.jsonl").read_bytes() == before


def test_a_folder_without_a_run_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    command("train", "points.py", "--out", "run", "--quiet", "--signals", "3")
    said = refused(capsys, "resume", "runn")
    assert 'runn has no experiment.json, which `etude train FILE --out runn` writes. Nearest: "run".' in said


def test_resume_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "DIR comes first. Write: etude resume DIR\n" in refused(capsys, "resume")
    assert "DIR comes first. Write: etude resume DIR --accept ..." in refused(capsys, "resume", "--accept", "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not what `etude train` wrote"),
        ("[1]", "is not what `etude train` wrote"),
        ('{"format": 7}', "has the format 7; this version reads 1."),
        (
            '{"format": 1, "file": 3, "more": 1}',
            "arguments, digest, file, folder, more, places, until missing or wrong",
        ),
    ],
)
def test_a_folder_whose_file_is_damaged(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkdir("run")
    Path("run/experiment.json").write_text(text)
    assert said in refused(capsys, "resume", "run")


def test_an_experiment_whose_arguments_have_changed(capsys: pytest.CaptureFixture[str]) -> None:
    command("train", "points.py", "--out", "run", "--quiet", "--signals", "3")
    Path("points.py").write_text(FILE.replace("width", "breadth"))
    said = refused(capsys, "resume", "run")
    assert "experiment() has no argument 'width' any more: signals, steps, breadth, " in said
    Path("points.py").write_text(FILE.replace('"sum", "mean"', '"total", "mean"').replace('= "sum"', '= "total"'))
    assert "the argument 'kind' was 'sum'; now it is one of total, mean." in refused(capsys, "resume", "run")


def test_an_experiment_file_that_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    command("train", "points.py", "--out", "run", "--quiet", "--signals", "3")
    Path("points.py").rename("pints.py")
    said = refused(capsys, "resume", "run")
    assert "points.py' is not there. Nearest:" in said
    assert "pints.py" in said
