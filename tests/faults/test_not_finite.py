"""NaN and infinity at one step reach no array and no memory; and every planted fault is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.at_work import full, looked, planted


def test_nothing_of_it_reaches_an_array_or_a_memory(tmp_path: Path) -> None:
    found = looked("not_finite", tmp_path, "--count", "60")
    assert [finding["tried"] for finding in found] == [40, 20, 10]


@pytest.mark.soak
def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    assert len(planted("not_finite", tmp_path)) == 10


@pytest.mark.soak
def test_five_hundred_steps(tmp_path: Path) -> None:
    found = full("not_finite", tmp_path)
    assert sum(finding["tried"] for finding in found[:3]) == 500
