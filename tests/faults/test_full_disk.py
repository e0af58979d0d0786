"""A full disk costs the save that met it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.at_work import full, looked, planted


def test_some_places(tmp_path: Path) -> None:
    looked("full_disk", tmp_path, "--count", "25")


def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    assert len(planted("full_disk", tmp_path)) >= 4


@pytest.mark.soak
def test_all_places(tmp_path: Path) -> None:
    assert full("full_disk", tmp_path)[0]["tried"] == 500
