"""A place in the data: a value that compares, sorts and hashes."""

from __future__ import annotations

import dataclasses

import pytest

from etude.data.cursor import Cursor


def test_starts_at_the_first_batch_of_the_first_epoch() -> None:
    assert Cursor() == Cursor(epoch=0, batch=0)


def test_is_ordered_by_epoch_and_then_by_batch() -> None:
    places = [Cursor(1, 0), Cursor(0, 9), Cursor(0, 2)]
    assert sorted(places) == [Cursor(0, 2), Cursor(0, 9), Cursor(1, 0)]


def test_is_a_value() -> None:
    assert {Cursor(2, 3): "here"}[Cursor(2, 3)] == "here"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cursor().epoch = 1  # type: ignore[misc]
