"""FROZEN and INHERIT: one object each, whatever is done with them."""

from __future__ import annotations

import copy

import pytest

from etude.values.marks import FROZEN, INHERIT, Frozen
from etude.values.progress import Progress
from etude.values.schedule import constant


@pytest.mark.parametrize("mark", [FROZEN, INHERIT])
def test_a_copy_is_the_mark_itself(mark: object) -> None:
    assert copy.copy(mark) is mark
    assert copy.deepcopy({"a": [mark]})["a"][0] is mark


def test_marks_print_as_their_names() -> None:
    assert (repr(FROZEN), repr(INHERIT)) == ("FROZEN", "INHERIT")


def test_frozen_is_falsy_and_equal_to_itself_alone() -> None:
    assert not FROZEN
    assert FROZEN != 0
    assert FROZEN is not None
    assert len({FROZEN, FROZEN, INHERIT, 0}) == 3


@pytest.mark.parametrize("made", [FROZEN * 0.5, 0.5 * FROZEN, FROZEN + 1, 1 - FROZEN, FROZEN / 2, 2 / FROZEN, -FROZEN])
def test_frozen_absorbs_arithmetic(made: object) -> None:
    assert made is FROZEN


def test_frozen_in_a_schedule_absorbs_arithmetic_and_bounds() -> None:
    frozen = constant(FROZEN)
    for made in (frozen * 3, 3 * frozen, 1 + frozen, frozen - 1, frozen.clamp(0, 1)):
        assert isinstance(made.at(Progress()), Frozen)
