"""Runs that go on in new processes: whatever lives in a process only, and is no part of a checkpoint, is gone there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from etude.keep.names import Name
from jobs import LONG, named
from stories import Story, abridged, difference, follow, written

TESTS = Path(__file__).parents[1]
SHORT = ("everything", "own batches", "line search", "statistics held in turn", "7", "13")
"""Jobs that go on at each of their steps."""


def elsewhere(asked: list[dict[str, str]]) -> None:
    """Follow jobs in processes of their own; see `stories`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", str(TESTS / "stories.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]


def saved(names: list[str], out: Path) -> dict[str, list[tuple[int, Path]]]:
    """Checkpoints of every step of some jobs, written by processes of their own, with the number of steps made."""
    elsewhere([{"job": name, "folder": str(out / name), "story": str(out / f"{name}.json")} for name in names])
    found = {name: [(Name.parse(path.name), path) for path in (out / name).glob("*.safetensors")] for name in names}
    return {name: sorted((own.step, path) for own, path in some if own is not None) for name, some in found.items()}


def gone_on(cuts: dict[str, list[tuple[int, Path]]], out: Path) -> list[str]:
    """Go on from checkpoints, each in a new process: in what that differs from the job left alone in this one."""
    asked = [
        {"job": name, "resume": str(path), "story": str(path.with_suffix(".json"))}
        for name, own in cuts.items()
        for _, path in own
    ]
    elsewhere(asked)
    found = []
    for name, own in cuts.items():
        whole = abridged(follow(named(name)))
        told = difference(whole, written(out / f"{name}.json"), 0)
        found += [f"{name}: {told}"] if told else []
        for step, path in own:
            resumed = written(path.with_suffix(".json"))
            told = difference(whole, resumed, step) or misread(whole, resumed, step)
            found += [f"{name}, cut after step {step}: {told}"] if told else []
    return found


def misread(whole: Story, resumed: Story, cut: int) -> str:
    """Whether the samples of a long job are seen as in one piece, in words."""
    wrong = [step for step in whole.ids if step > cut and whole.ids[step] != resumed.ids[step]]
    return f"step {wrong[0]} has other samples" if wrong else ""


def test_a_new_process_goes_on_where_the_old_one_was(tmp_path: Path) -> None:
    assert gone_on(saved(list(SHORT), tmp_path), tmp_path) == []


def test_a_long_run_goes_on_with_workers(tmp_path: Path) -> None:
    name = "60 steps, map, 2 workers"
    cuts = saved([name], tmp_path)[name]
    assert gone_on({name: [cut for cut in cuts if cut[0] in (1, 31, 60)]}, tmp_path) == []


@pytest.mark.soak
@pytest.mark.parametrize("name", LONG)
def test_a_long_run_goes_on_from_every_step(name: str, tmp_path: Path) -> None:
    cuts = saved([name], tmp_path)
    assert len(cuts[name]) >= 60
    assert gone_on(cuts, tmp_path) == []
    whole = follow(named(name))
    numbers = [number for _, own in sorted(whole.ids.items()) for number in own]
    assert all(sorted(numbers[begin : begin + 10]) == list(range(10)) for begin in range(0, len(numbers), 10))
