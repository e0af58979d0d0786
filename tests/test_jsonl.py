"""Events as JSON lines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.errors import SettingError
from etude.listen.jsonl import BULK, JsonLines
from etude.run.events import Began, Ended, EpochEnded, Evaluated, Event, Saved, SaveFailed, Settled, Skipped
from told import a_run, at, reads_of, stepped


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_event_but_settled_has_its_line_in_order(tmp_path: Path) -> None:
    listener = JsonLines(tmp_path / "run.jsonl")
    for event in a_run(epochs=2, per_epoch=3):
        listener(event)
    told = [line["event"] for line in lines(tmp_path / "run.jsonl")]
    epoch = ["stepped"] * 3 + ["epoch_ended", "evaluated"]
    assert told == ["began", *epoch, *epoch, "ended"]


def test_what_a_step_tells(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "run.jsonl") as listener:
        listener(stepped(at(5), 0.25, updates=("critic",), loss=0.5, kl=0.125))
    assert lines(tmp_path / "run.jsonl") == [
        {
            "event": "stepped",
            "step": 5,
            "epoch": 0.5,
            "samples": 160,
            "tokens": 0,
            "losses": {"loss": 0.5, "kl": 0.125},
            "batch": 32,
            "rate": 1e-3,
            "updates": ["critic"],
            "seconds": 0.25,
        }
    ]


def test_what_the_other_events_tell(tmp_path: Path) -> None:
    listener = JsonLines(tmp_path / "run.jsonl")
    for event in a_run(epochs=1, per_epoch=2, summary={"parameters": 7, "device": torch.device("cpu")}):
        listener(event)
    began, _, _, ended_epoch, evaluated, ended = lines(tmp_path / "run.jsonl")
    assert began["summary"] == {"parameters": 7, "device": "cpu"}
    assert (ended_epoch["number"], ended_epoch["means"]) == (1, {"loss": 0.75})
    assert (evaluated["scores"], evaluated["best"]) == ({"loss": 1.0, "accuracy": 0.5}, True)
    assert (ended["reason"], ended["message"]) == ("finished", "all planned steps were made")


def test_the_end_of_an_epoch_says_what_its_batches_held(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "run.jsonl") as listener:
        listener(EpochEnded(at(4), 1, {"loss": 0.5}, {"batches": 4.0, "padding.audio": 0.02}))
        listener(EpochEnded(at(8), 2, {"loss": 0.5}))
    first, second = lines(tmp_path / "run.jsonl")
    assert first["data"] == {"batches": 4, "padding.audio": 0.02}
    assert "data" not in second


def test_what_is_not_a_number_is_a_word(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "run.jsonl") as listener:
        listener(Began(at(0), {"limits": (math.inf, 1)}))
        listener(stepped(at(1), loss=math.nan))
        listener(Evaluated(at(1), {"loss": -math.inf}, False))
        listener(Skipped(at(2), "the loss is not finite", {"loss": torch.tensor(math.nan)}))
    began, step, evaluated, skipped = lines(tmp_path / "run.jsonl")
    assert began["summary"]["limits"] == ["inf", 1]
    assert step["losses"] == {"loss": "nan"}
    assert evaluated["scores"] == {"loss": "-inf"}
    assert skipped["reason"] == "the loss is not finite"
    assert skipped["losses"] == {"loss": "nan"}


def test_steps_are_read_and_written_in_bulk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = reads_of(monkeypatch)
    listener = JsonLines(tmp_path / "run.jsonl")
    for step in range(1, BULK):
        listener(stepped(at(step)))
        listener(Settled(at(step)))
    assert lines(tmp_path / "run.jsonl") == []
    listener(stepped(at(BULK)))
    assert len(lines(tmp_path / "run.jsonl")) == BULK
    listener(stepped(at(BULK + 1)))
    listener(Evaluated(at(BULK + 1), {"loss": 1.0}, True))
    assert len(lines(tmp_path / "run.jsonl")) == BULK + 2
    assert reads == [BULK, 1]


def test_tables_are_lists(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "run.jsonl") as listener:
        listener(Evaluated(at(1), {"loss": 1.0}, True, {"f1": torch.tensor([0.5, math.nan]), "t": torch.eye(2).long()}))
    (told,) = lines(tmp_path / "run.jsonl")
    assert told["event"] == "evaluated"
    assert told["tables"] == {"f1": [0.5, "nan"], "t": [[1, 0], [0, 1]]}


def test_terms_that_come_in_turns_keep_their_step(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "run.jsonl") as listener:
        listener(stepped(at(1), critic=1.0))
        listener(stepped(at(2), generator=2.0))
        listener(stepped(at(3), critic=3.0))
    assert [line["losses"] for line in lines(tmp_path / "run.jsonl")] == [
        {"critic": 1},
        {"generator": 2},
        {"critic": 3},
    ]


def test_a_second_run_is_added_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for listener in (JsonLines(path), JsonLines(path)):
        for event in a_run(epochs=1, per_epoch=1, validate=False):
            listener(event)
    assert [line["event"] for line in lines(path)] == ["began", "stepped", "epoch_ended", "ended"] * 2


def test_one_listener_can_hear_two_runs(tmp_path: Path) -> None:
    listener = JsonLines(tmp_path / "run.jsonl")
    for _ in range(2):
        for event in a_run(epochs=1, per_epoch=1, validate=False):
            listener(event)
    assert len(lines(tmp_path / "run.jsonl")) == 8


def test_closing_writes_what_was_kept_and_may_be_done_twice(tmp_path: Path) -> None:
    listener = JsonLines(tmp_path / "run.jsonl")
    listener(stepped(at(1)))
    listener.close()
    listener.close()
    assert len(lines(tmp_path / "run.jsonl")) == 1


def test_the_end_of_the_run_closes_the_file(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    listener = JsonLines(tmp_path / "run.jsonl")
    listener(Ended(at(1), "time", "the time is up"))
    del listener
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]
    assert lines(tmp_path / "run.jsonl")[0]["reason"] == "time"


def test_folders_are_made(tmp_path: Path) -> None:
    JsonLines(tmp_path / "a" / "b" / "run.jsonl").close()
    assert (tmp_path / "a" / "b" / "run.jsonl").exists()


def test_a_path_that_cannot_be_written_is_an_error_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"cannot be written: Is a directory. Give the path of a file"):
        JsonLines(tmp_path)


# ---------------------------------------------------------------------------------------------------------- resuming


def log(path: Path, *events: Event) -> None:
    with JsonLines(path) as listener:
        for event in events:
            listener(event)


def began(step: int, resumed: str | None) -> Began:
    return Began(at(step), {"resumed": resumed})


def told(path: Path) -> list[tuple[str, float]]:
    return [(line["event"], line["step"]) for line in lines(path)]


def test_saves_are_told(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log(path, Saved(at(4), "runs/a", 1000, 0.5, ("runs/b",)), SaveFailed(at(8), "runs/c", "no space"))
    saved, failed = lines(path)
    assert (saved["event"], saved["step"], saved["path"], saved["bytes"]) == ("saved", 4, "runs/a", 1000)
    assert (saved["seconds"], saved["removed"]) == (0.5, ["runs/b"])
    assert (failed["event"], failed["step"], failed["path"]) == ("save_failed", 8, "runs/c")
    assert failed["message"] == "no space"


def test_a_run_that_goes_on_drops_what_it_does_again(tmp_path: Path) -> None:
    """Kept are the steps up to that of the checkpoint, and what was told of it later."""
    path = tmp_path / "run.jsonl"
    steps = [stepped(at(step)) for step in range(1, 6)]
    log(path, began(0, None), *steps[:4], Saved(at(3), "runs/a", 1, 0.0), steps[4], Ended(at(5), "interrupted", "x"))
    log(path, began(3, "runs/a"), steps[3], Ended(at(4), "finished", ""))
    before = [("began", 0), ("stepped", 1), ("stepped", 2), ("stepped", 3), ("saved", 3)]
    assert told(path) == [*before, ("began", 3), ("stepped", 4), ("ended", 4)]


def test_a_run_that_goes_on_leaves_earlier_runs_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log(path, began(0, None), stepped(at(1)), stepped(at(2)), Ended(at(2), "finished", ""))
    log(path, began(0, None), stepped(at(1)), stepped(at(2)))
    log(path, began(1, "runs/a"), stepped(at(2)))
    log(path, began(1, "runs/a"), stepped(at(2)))
    first = [("began", 0), ("stepped", 1), ("stepped", 2), ("ended", 2)]
    assert told(path) == [*first, ("began", 0), ("stepped", 1), ("began", 1), ("began", 1), ("stepped", 2)]


def test_a_line_that_was_cut_short_is_dropped_and_notes_of_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log(path, began(0, None), stepped(at(1)))
    with path.open("a") as file:
        file.write("a note\n")
        file.write('{"event": "stepped", "step": 1, "losses": {"lo')
    log(path, began(1, "runs/a"), stepped(at(2)))
    events = [line.split(",")[0].split(": ")[-1] for line in path.read_text().splitlines()]
    assert events == ['"began"', '"stepped"', "a note", '"began"', '"stepped"']


def test_a_run_that_goes_on_into_a_new_file(tmp_path: Path) -> None:
    log(tmp_path / "run.jsonl", began(3, "runs/a"), stepped(at(4)))
    assert told(tmp_path / "run.jsonl") == [("began", 3), ("stepped", 4)]
