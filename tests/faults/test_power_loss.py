"""No commit that was reported is lost when the power is cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.at_work import full, looked, planted


def test_some_disks(tmp_path: Path) -> None:
    looked("power_loss", tmp_path, "--count", "200")


def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    assert len(planted("power_loss", tmp_path)) >= 10


@pytest.mark.soak
def test_all_disks(tmp_path: Path) -> None:
    found = full("power_loss", tmp_path)
    assert sum(each["tried"] for each in found if each["what"].startswith("disks after a cut")) >= 10_000
