"""The failure of a save in the background is heard, and what is saved is the state of one step."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.at_work import full, looked, planted


def test_some_saves(tmp_path: Path) -> None:
    looked("background", tmp_path, "--count", "60")


@pytest.mark.soak
def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    assert len(planted("background", tmp_path)) >= 5


@pytest.mark.soak
def test_all_saves(tmp_path: Path) -> None:
    assert full("background", tmp_path)[0]["tried"] >= 1000
