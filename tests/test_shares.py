"""The units of a batch among ranks."""

from __future__ import annotations

import numpy as np
import pytest

from etude.data.plan.shares import share, shares
from etude.errors import DataError


def test_the_costliest_goes_first_to_where_there_is_least() -> None:
    assert [places.tolist() for places in shares(np.array([3, 8, 5, 4, 4]), 2)] == [[1, 4], [0, 2, 3]]


def test_costs_of_any_type() -> None:
    for costs in ([3, 8, 5], np.array([3, 8, 5], np.uint8), np.array([3, 8, 5], np.float32)):
        assert [places.tolist() for places in shares(costs, 2)] == [[1], [0, 2]]


def test_ties_go_by_place() -> None:
    assert [places.tolist() for places in shares(np.array([2, 2, 2, 2, 2]), 2)] == [[0, 2, 4], [1, 3]]


def test_units_that_cost_nothing_are_spread() -> None:
    assert [places.tolist() for places in shares(np.zeros(5), 2)] == [[0, 2, 4], [1, 3]]


def test_one_rank_has_everything_in_order() -> None:
    assert share(np.array([1, 9, 3]), 0, 1).tolist() == [0, 1, 2]


def test_ranks_beyond_the_units_have_none() -> None:
    assert [places.tolist() for places in shares(np.array([7]), 3)] == [[0], [], []]
    assert [len(places) for places in shares(np.zeros(0), 2)] == [0, 0]


def test_a_rank_has_its_own() -> None:
    costs = np.array([3.5, 8, 5, 4, 4])
    assert [share(costs, rank, 2).tolist() for rank in (0, 1)] == [places.tolist() for places in shares(costs, 2)]
    assert share(costs, 1, 2).dtype == np.int64


def test_a_share_of_long_sequences_is_balanced() -> None:
    costs = np.random.default_rng(1).lognormal(6, 0.5, 200)
    loads = [costs[places].sum() for places in shares(costs, 4)]
    assert max(loads) / min(loads) < 1.01


@pytest.mark.parametrize(
    ("costs", "rank", "ranks", "said"),
    [
        ([1], 2, 2, r"There is no rank 2 among 2\. Ranks are 0 to 1\."),
        ([1], -1, 2, r"There is no rank -1"),
        ([1, -2], 0, 2, r"The cost of unit 1 of the batch is -2\. A cost is a number from 0 on\."),
        ([float("nan")], 0, 1, r"The cost of unit 0 of the batch is nan"),
    ],
)
def test_bad_input(costs: list[float], rank: int, ranks: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        share(np.array(costs), rank, ranks)


def test_there_is_at_least_one_rank() -> None:
    with pytest.raises(DataError, match=r"cannot be shared among 0 ranks"):
        shares(np.array([1]), 0)
