"""What a checkpoint holds: one list, its versions, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import nn

import etude
from etude.errors import CheckpointError
from etude.keep import files, state
from etude.keep.image import write
from golden.make import PLAN
from small import Noisy, arrays, classified, options, same, trained

GOLDEN = sorted(path for path in (Path(__file__).parent / "golden").iterdir() if (path / "run.safetensors").exists())
"""A folder for each version that was released."""


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """The record of a run."""
    return files.read_record(trained(Noisy(), checkpoint=tmp_path).checkpoints[0])


def test_this_version_is_among_those_that_are_kept() -> None:
    assert etude.__version__ in [path.name for path in GOLDEN]


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
def test_the_run_of_every_released_version_goes_on(folder: Path) -> None:
    path, net = folder / "run.safetensors", Noisy()
    before = files.read_record(path)
    plan = etude.Plan(**options(**PLAN))
    run = etude.Run(plan, net, classified(16), resume=path, accept=True)
    next(iter(run))
    there = load_file(path)
    assert (run.progress.step, run.cursor.batch) == (before["progress"]["step"], before["cursor"]["batch"])
    assert all((arrays(net)[name] == there[name]).all() for name in net.state_dict())
    assert etude.Run(plan, Noisy(), classified(16), resume=path, accept=True).result().epochs == 3


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
def test_the_nets_of_every_released_version_load(folder: Path) -> None:
    for path, of in (("run", "net"), ("run", "best"), ("run", "ema"), ("loop", "net"), ("weights", "net")):
        assert isinstance(etude.load_net(folder / f"{path}.safetensors", Noisy(2), of), nn.Module)


@pytest.mark.parametrize("version", [0, state.FORMAT + 1, "1", None, True])
def test_a_format_that_is_not_known_is_refused_with_the_reason(version: Any, record: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"expected format \d+ or an earlier one; found format .*, written by"):
        state.checked({**record, "format": version}, "run.safetensors", state.RUN)


def test_fields_that_are_missing_unknown_or_of_another_form_are_all_named(record: dict[str, Any]) -> None:
    changed = {**record, "cursor": {"epoch": -1, "batch": 0}, "progres": 1}
    del changed["means"]
    with pytest.raises(
        CheckpointError, match=r"no field 'means'; an unknown field 'progres'\. Nearest: \"progress\""
    ) as e:
        state.checked(changed, "run.safetensors", state.RUN)
    assert "'cursor' is not: the next batch: epoch, batch" in str(e.value)
    assert not e.value.damaged


@pytest.mark.parametrize("name", [field.name for field in state.STATE])
def test_no_field_is_taken_in_any_form(name: str, record: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=f"'{name}' is not"):
        state.checked({**record, name: 1j}, "run.safetensors", state.RUN)


def test_a_file_of_another_kind_is_said_to_be_that(tmp_path: Path) -> None:
    path = tmp_path / "loop.safetensors"
    write(path, state.stamped({}, state.LOOP), {})
    with pytest.raises(CheckpointError, match=r"expected the state of a run; found the state of a hand-written loop"):
        trained(resume=path)
    write(path, {"kind": "cake"}, {})
    with pytest.raises(CheckpointError, match="found a file of kind 'cake'"):
        trained(resume=path)


@pytest.mark.parametrize("name", ["updates", "averages", "best", "net", "losses", "data"])
def test_a_field_of_the_right_kind_with_wrong_things_in_it_is_one_error(name: str, tmp_path: Path) -> None:
    saved = files.read(trained(Noisy(), checkpoint=tmp_path, averages=etude.ema()).checkpoints[0])
    inside = saved.record[name]
    wrong = {**{key: {"x": "y"} for key in inside}, "plus": []}
    write(saved.path, {**saved.record, name: wrong}, saved.tensors)
    net = Noisy()
    before = arrays(net)
    if name in ("losses", "data"):
        # What nothing is taken of.
        trained(net, resume=saved.path, averages=etude.ema())
        return
    with pytest.raises(CheckpointError, match=re.escape(saved.path)):
        trained(net, resume=saved.path, averages=etude.ema())
    assert same(before, arrays(net))
