"""Runs that are killed end with the bits of those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.at_work import full, looked, planted


def test_some_runs_killed(tmp_path: Path) -> None:
    looked("kill", tmp_path, "--count", "6")


@pytest.mark.soak
def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    assert len(planted("kill", tmp_path)) >= 10


@pytest.mark.soak
def test_all_runs_killed(tmp_path: Path) -> None:
    plain, *_ = found = full("kill", tmp_path)
    assert plain["tried"] == 1000
    assert plain["figures"]["kills"] >= 1800
    assert plain["figures"]["inside a save"] >= 1000
    assert found[1]["tried"] == 300
