"""An error at any call of a save or a load is one declared error, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.at_work import full, looked, planted


def test_every_call_fails(tmp_path: Path) -> None:
    looked("io_errors", tmp_path, "--count", "2")


def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    assert len(planted("io_errors", tmp_path)) >= 5


@pytest.mark.soak
def test_every_call_fails_in_every_way(tmp_path: Path) -> None:
    full("io_errors", tmp_path)
