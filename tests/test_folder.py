"""A folder that is written to: its names, strays, whether it takes anything, and what is set aside in it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from etude.errors import CheckpointError
from etude.keep import disk, folder

STRAY = ".etude-0123abcd.part"


def test_the_names_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert folder.listed(tmp_path) == ["a"]
    assert folder.listed(tmp_path / "none") == []


def test_a_folder_that_cannot_be_looked_at_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"expected a folder with checkpoints; found Not a directory") as caught:
        folder.listed(tmp_path / "file")
    assert not caught.value.damaged


def test_strays_are_removed_and_nothing_else(tmp_path: Path) -> None:
    others = ["etude-0123abcd.part", ".etude-0123abcd.part2", ".etude-0123abcX.part", ".other.part", "a.safetensors"]
    for name in (STRAY, ".etude-ffffffff.part", *others):
        (tmp_path / name).touch()
    (tmp_path / ".etude-00000000.part").mkdir()
    folder.sweep(tmp_path)
    assert set(os.listdir(tmp_path)) == {*others, ".etude-00000000.part"}


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / STRAY).symlink_to("kept")
    folder.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["kept"]


def test_strays_stay_while_another_process_may_be_writing_them(tmp_path: Path) -> None:
    (tmp_path / STRAY).touch()
    lock = tmp_path / ".last.safetensors.lock"
    named = {"pid": os.getppid(), "host": socket.gethostname(), "since": "", "token": ""}
    lock.write_text(json.dumps(named))
    folder.sweep(tmp_path)
    assert (tmp_path / STRAY).exists()
    lock.write_text(json.dumps(named | {"pid": os.getpid()}))
    folder.sweep(tmp_path)
    assert not (tmp_path / STRAY).exists()


def test_what_cannot_be_removed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / STRAY).touch()
    monkeypatch.setattr(disk, "remove", refuse)
    folder.sweep(tmp_path)
    assert (tmp_path / STRAY).exists()


def test_a_probe_leaves_nothing_and_tells_what_is_free(tmp_path: Path) -> None:
    assert folder.probe(tmp_path) > 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["write_at", "sync"])
def test_a_probe_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, call, refuse)
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    with pytest.raises(OSError, match="No space left"):
        folder.probe(tmp_path)
    assert os.listdir(tmp_path) == []
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)


def test_what_is_set_aside_replaces_nothing(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        (tmp_path / "a").write_text(text)
        folder.set_aside(tmp_path / "a", ".damaged")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"a.damaged": "first", "a.damaged-2": "second", "a.damaged-3": "third"}


def test_what_cannot_be_set_aside_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(old: object, new: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "a").touch()
    monkeypatch.setattr(disk, "rename", refuse)
    folder.set_aside(tmp_path / "a", ".damaged")
    assert os.listdir(tmp_path) == ["a"]
