"""Configurations with mistakes in them are refused before the first step; and every planted fault is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.at_work import full, looked, planted


def test_mistakes_are_refused_and_named(tmp_path: Path) -> None:
    found = looked("bad_configs", tmp_path, "--count", "100")
    assert [finding["tried"] for finding in found] == [30, 60, 20, 10, 10, 10, 10, 5]


def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    assert len(planted("bad_configs", tmp_path)) == 13


@pytest.mark.soak
def test_five_hundred_mistakes(tmp_path: Path) -> None:
    found = full("bad_configs", tmp_path)
    assert sum(finding["tried"] for finding in found[1:5]) == 500
