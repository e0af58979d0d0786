"""First-fit decreasing gives what its definition gives, and strung frames are all there in rows of one length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from etude.data.plan.packing import first_fit, strung
from etude.errors import DataError


def by_definition(costs: Any, most: float, number: int) -> list[list[float]]:
    batches: list[list[float]] = []
    for cost in sorted(costs, reverse=True):
        room = [batch for batch in batches if len(batch) < number and sum(batch) + cost <= most]
        if room:
            room[0].append(cost)
        else:
            batches.append([cost])
    return batches


@settings(max_examples=200, deadline=None)
@given(
    costs=some.lists(some.integers(0, 40), max_size=60),
    most=some.integers(1, 60),
    number=some.sampled_from([1, 3, 100]),
)
def test_the_largest_first_each_into_the_first_batch_with_room(costs: list[int], most: int, number: int) -> None:
    made = first_fit(np.array(costs), most, number=number)
    assert [[costs[unit] for unit in batch] for batch in made] == by_definition(costs, most, number)
    assert sorted(made.units.tolist()) == list(range(len(costs)))


def test_pools_are_packed_each_for_itself() -> None:
    costs = np.random.default_rng(0).integers(1, 50, 1000)
    made = first_fit(costs, 100, pool=250)
    whole = made.units.reshape(4, 250) // 250
    assert (whole == np.arange(4)[:, None]).all()
    expected = [by_definition(costs[start : start + 250], 100, 1000) for start in range(0, 1000, 250)]
    assert [costs[batch].tolist() for batch in made] == [batch for pool in expected for batch in pool]


def test_hardly_anything_is_lost_where_some_units_are_short() -> None:
    costs = np.random.default_rng(1).lognormal(3, 0.7, 20_000).astype(np.int64) + 1
    made = first_fit(costs, 4096)
    assert len(made) == -(-costs.sum() // 4096)
    assert max(costs[batch].sum() for batch in made) <= 4096


def test_units_of_one_cost_keep_their_order() -> None:
    assert [batch.tolist() for batch in first_fit(np.array([3, 5, 3, 5, 3]), 8)] == [[1, 0], [3, 2], [4]]


def test_a_unit_larger_than_a_batch_is_alone_left_out_or_an_error() -> None:
    costs = np.array([3, 12, 3])
    assert [batch.tolist() for batch in first_fit(costs, 8)] == [[1], [0, 2]]
    made = first_fit(costs, 8, too_long="drop")
    assert [batch.tolist() for batch in made] == [[0, 2]]
    assert made.dropped.tolist() == [1]
    with pytest.raises(DataError, match="sample 1 has 12 where a batch may hold 8"):
        first_fit(costs, 8, too_long="error", called="sample {}".format)


@settings(max_examples=100, deadline=None)
@given(lengths=some.lists(some.integers(0, 20), max_size=30), size=some.integers(1, 25))
def test_strung_rows_are_full_and_hold_every_frame_once_in_order(lengths: list[int], size: int) -> None:
    made = strung(np.array(lengths, dtype=np.int64), size)
    frames = [(unit, frame) for unit, length in enumerate(lengths) for frame in range(length)]
    windows = list(zip(made.units, made.starts, made.stops, strict=True))
    rows = [
        [(unit, frame) for unit, start, stop in windows[first:last] for frame in range(start, stop)]
        for first, last in zip(made.offsets, made.offsets[1:], strict=False)
    ]
    assert rows == [frames[start : start + size] for start in range(0, len(frames), size)]
    assert all(start < stop for _, start, stop in windows)


@pytest.mark.parametrize("bad", [0, -1, 2.5, True])
def test_rows_have_a_whole_number_of_frames(bad: Any) -> None:
    with pytest.raises(DataError, match="a whole number from 1 on is needed"):
        strung(np.array([3]), bad)
