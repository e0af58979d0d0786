"""Runs that are asked to leave at any instant; and every planted fault is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.at_work import full, looked, planted


def test_a_run_leaves_well_whenever_it_is_asked_to(tmp_path: Path) -> None:
    found = looked("signals", tmp_path, "--count", "6")
    assert all(finding["tried"] >= least for finding, least in zip(found, (6, 6, 4, 9), strict=True))


@pytest.mark.soak
def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    assert len(planted("signals", tmp_path)) == 8


@pytest.mark.soak
def test_two_hundred_signals(tmp_path: Path) -> None:
    found = full("signals", tmp_path)
    assert all(finding["tried"] >= least for finding, least in zip(found, (200, 200, 50, 300), strict=True))
