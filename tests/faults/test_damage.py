"""Every damage is found, and no file runs anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.at_work import full, looked, planted


def test_some_files(tmp_path: Path) -> None:
    looked("damage", tmp_path, "--count", "300")


@pytest.mark.soak
def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    assert len(planted("damage", tmp_path)) >= 10


@pytest.mark.soak
def test_all_files(tmp_path: Path) -> None:
    found = full("damage", tmp_path)
    assert found[0]["tried"] == 10_000
    assert sum(each["tried"] for each in found if each["what"].startswith("hostile")) == 10_000
