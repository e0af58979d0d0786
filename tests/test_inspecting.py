"""`etude inspect`: everything that is in a checkpoint, and which checkpoints are in a folder."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import etude
from etude import Checkpoints, Directory, File, Plan, ema, every, last, steps, train
from etude.cli import main
from etude.keep import files
from etude.keep.inspecting import listing, look, readable
from etude.keep.plain import pack
from etude.telling import of_file


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(checkpoint: Any, **options: Any) -> etude.Result:
    """A run of 8 steps in 2 epochs, with an average, validation and a tie."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    x = torch.randn(40, 4)
    plan = Plan(
        "mse", epochs=2, batch_size=8, validation=0.2, averages=ema(0.9), seed=3, checkpoint=checkpoint, **options
    )
    return train(net, (x, x), plan)


@pytest.fixture
def kept() -> Path:
    """One checkpoint of the end of a run."""
    return Path(trained(Directory("runs", every(steps(3)), keep=last(9)), precision="fp32").checkpoints[-1])


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["inspect", *map(str, words)]) == code
    return capsys.readouterr().out


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def spoil(path: Path, name: str) -> None:
    """Turn one bit of an array around."""
    header = files.read_header(path)
    entry = next(entry for entry in header.entries if entry.name == name)
    with path.open("r+b") as file:
        file.seek(header.start + entry.begin)
        byte = file.read(1)[0]
        file.seek(header.start + entry.begin)
        file.write(bytes([byte ^ 1]))


# ---------------------------------------------------------------------------------------------------------- one file


def test_a_file_shows_all_of_its_record(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, kept)
    lines = {" ".join(line.split()) for line in told.splitlines()}
    assert told.startswith(f"{kept.resolve()}\ngood: ")
    assert f"the state of a run, format 2, written by étude {etude.__version__}" in lines
    assert "progress step 8, epoch 2, samples 64, tokens 0" in lines
    assert "cursor epoch 2, batch 0" in lines
    assert "seed 3" in lines
    assert "ties: (0.weight, 2.weight)" in lines
    assert "optimizer: adamw" in lines
    assert any("count 8 " in line or line.endswith("count 8") for line in lines)  # the memory of each array
    assert "learning_rate: 0.001" in told or "loss: 'mse'" in told
    assert f"torch {torch.__version__}" in told
    assert "0.weight float32 4x4 64 fits" in lines
    assert "1.num_batches_tracked int64 one number 8 fits" in lines
    record = files.read_record(kept)
    assert all(any(line.split()[:1] == [name] for line in told.splitlines()) for name in record if name not in _NAMED)


_NAMED = ("kind", "format", "version", "history")
"""Fields that are told in words of their own."""


def test_a_file_shows_the_last_of_each_series(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = trained(None)
    told = strict(said(capsys, kept, "--json"))["history"]
    assert set(told) == set(result.history)
    for name, series in result.history.items():
        expected = {"count": len(series.values), "value": series.values[-1], "step": series.steps[-1]}
        assert {key: told[name][key] for key in expected} == expected


def test_a_file_as_json(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = strict(said(capsys, kept, "--json"))
    assert (told["good"], told["bytes"], told["path"]) == (True, kept.stat().st_size, str(kept.resolve()))
    assert told["record"]["cursor"] == {"epoch": 2, "batch": 0}
    assert told["record"]["net"]["ties"] == [["0.weight", "2.weight"]]
    arrays = {array["name"]: array for array in told["arrays"]}
    saved = files.read(kept).tensors
    assert set(arrays) == set(saved)
    for name, tensor in saved.items():
        assert arrays[name]["shape"] == list(tensor.shape)
        assert arrays[name]["bytes"] == tensor.nbytes
        assert f"torch.{arrays[name]['dtype']}" == str(tensor.dtype)
        assert arrays[name]["good"]


def test_damage_is_found_array_by_array(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(kept, "0.weight")
    spoil(kept, "history:loss:values")
    told = said(capsys, kept, code=1)
    assert "DAMAGED: " in told
    assert "the digests of 2 do not fit: 0.weight, history:loss:values" in told
    (line,) = (line for line in told.splitlines() if line.startswith("0.weight "))
    assert line.endswith("DOES NOT FIT")
    as_json = strict(said(capsys, kept, "--json", code=1))
    assert not as_json["good"]
    assert {array["name"] for array in as_json["arrays"] if not array["good"]} == {"0.weight", "history:loss:values"}
    assert "loss" not in as_json["history"]
    assert "val.loss" in as_json["history"]


def test_a_file_whose_header_is_damaged_is_one_message(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept.write_bytes(kept.read_bytes().replace(b'"seed', b'"sead', 1))
    capsys.readouterr()
    assert main(["inspect", str(kept)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"etude: {kept.resolve()}: expected a header with the digest ")
    assert len(err.splitlines()) == 1


def test_what_is_no_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.ones(2)}, "net.pt")
    assert main(["inspect", "net.pt"]) == 2
    assert "a pickle" in capsys.readouterr().err
    assert main(["inspect", "nothing.safetensors"]) == 2
    assert "found no file" in capsys.readouterr().err
    assert main(["inspect"]) == 2
    assert "FILE|DIR comes first. Write: etude inspect FILE|DIR\n" in capsys.readouterr().err


def test_other_kinds_of_files_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    with Checkpoints("loop") as checkpoints:
        path = checkpoints.save(step=4, epoch=1, loss=math.nan, net=nn.Linear(2, 2), rates=[0.5, math.inf])
    told = said(capsys, path)
    assert "the state of a hand-written loop, format 2" in told
    assert "inf" in told
    assert strict(said(capsys, path, "--json"))["good"]
    trained(None).save("result.json", net=True)
    assert "a net alone, format 2" in said(capsys, "result.safetensors")


def test_what_would_control_a_terminal_is_written_out() -> None:
    files.write("odd.safetensors", {"kind": "x", "a\x1b[2Jb": "c\nd\x07"}, {"\x1b]0;title\x07": torch.ones(1)})
    told = of_file(look("odd.safetensors"))
    assert told.isascii() or all(one.isprintable() for one in told.replace("\n", ""))
    assert "\\x1b[2Jb" in told
    assert "c\\nd\\x07" in told


def test_records_in_plain_json() -> None:
    value = {"a": (1, math.nan), 3: torch.float32, "t": torch.ones(2), "n": [None, True, -math.inf]}
    packed = pack(value)[0]
    assert readable(packed) == {
        "a": [1, "nan"],
        "3": "torch.float32",
        "t": {"tensor": "state:t"},
        "n": [None, True, "-inf"],
    }


# ---------------------------------------------------------------------------------------------------------- a folder


def test_a_folder_lists_its_checkpoints_newest_first(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = strict(said(capsys, "runs", "--json"))
    assert [told["step"] for told in found] == [8, 6, 3]
    assert all(told["good"] for told in found)
    assert found[0]["loss"] == files.read_record(kept)["losses"]["loss"]
    assert found[0]["val"] == files.read_record(kept)["losses"]["val"]
    assert found[0]["bytes"] == kept.stat().st_size
    lines = said(capsys, "runs").splitlines()
    assert lines[0].split() == ["step", "epoch", "loss", "validation", "bytes", "state", "file"]
    assert [line.split()[0] for line in lines[1:]] == ["8", "6", "3"]
    assert [line.split()[-1] for line in lines[1:]] == [told["path"] for told in found]


def test_a_folder_with_damaged_files(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = Path(listing(["runs"])[1]["path"])
    third = Path(listing(["runs"])[2]["path"])
    spoil(kept, "0.weight")
    second.write_bytes(second.read_bytes()[:100])
    third.rename(f"{third}.damaged")
    Path("runs/notes.txt").write_text("")
    Path("runs/other.safetensors").write_bytes(b"PK\x03\x04 a zip")
    found = strict(said(capsys, "runs", "--json", code=1))
    assert [(told["step"], told["good"]) for told in found] == [(8, False), (6, False), (3, True)]
    assert "the array '0.weight'" in found[0]["note"]
    told = said(capsys, "runs", code=1)
    assert told.count("DAMAGED") == 2
    assert f"{second.resolve()}: expected " in told


def test_runs_in_one_folder_are_in_the_order_in_which_they_began(capsys: pytest.CaptureFixture[str]) -> None:
    trained([Directory("runs", every(steps(4)), keep=last(9)), File("runs/newest.safetensors")])
    trained(Directory("runs", every(steps(4)), keep=last(9)), precision="bf16")
    steps_of = [(told["step"], Path(told["path"]).name == "newest.safetensors") for told in listing(["runs"])]
    assert steps_of[:2] == [(8, False), (4, False)]
    assert sorted(steps_of[2:]) == [(4, False), (8, False), (8, True)]


def test_the_folder_of_a_run_shows_where_it_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import torch\nfrom torch import nn\nfrom etude import Directory, Plan\n"
        "def experiment(own: str = ''):\n"
        "    x = torch.ones(8, 1)\n"
        "    plan = Plan('mse', epochs=2, batch_size=4, checkpoint=Directory(own) if own else None)\n"
        "    return nn.Linear(1, 1), (x, x), plan\n"
    )
    Path("shown.py").write_text(code)
    sys.path.insert(0, os.getcwd())
    try:
        assert main(["train", "shown.py", "--out", "a", "--quiet"]) == 0
        assert main(["train", "shown.py", "--out", "b", "--quiet", "--own", "elsewhere"]) == 0
    finally:
        sys.path.remove(os.getcwd())
        sys.modules.pop("shown", None)
    assert [told["step"] for told in strict(said(capsys, "a", "--json"))] == [4, 2]
    assert {Path(told["path"]).parent.name for told in strict(said(capsys, "b", "--json"))} == {"elsewhere"}


def test_a_folder_without_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    os.mkdir("empty")
    assert said(capsys, "empty") == "empty has no checkpoints.\n"
    assert strict(said(capsys, "empty", "--json")) == []
