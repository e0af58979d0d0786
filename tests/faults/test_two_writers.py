"""Two writers on one place: one writes, the other is refused at once; and every planted fault is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.at_work import full, looked, planted


def test_one_writes_and_the_other_is_refused(tmp_path: Path) -> None:
    assert {finding["tried"] for finding in looked("two_writers", tmp_path, "--count", "6")} == {6, 3, 1}


@pytest.mark.soak
def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    assert len(planted("two_writers", tmp_path)) == 11


@pytest.mark.soak
def test_two_hundred_pairs(tmp_path: Path) -> None:
    assert full("two_writers", tmp_path)[0]["tried"] == 200
