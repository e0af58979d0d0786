"""The score as arrays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from etude.draw.score import MOST_ROWS, MOST_STEPS, cycle_length, opening, score, score_steps
from etude.errors import SettingError

Numbers = NDArray[np.float64]


def turns(steps: NDArray[np.int64], first: int, second: int) -> Numbers:
    """Two arrays that take turns: `first` steps and `second` steps."""
    plays = steps % (first + second) < first
    return np.array([np.where(plays, 2e-4, np.nan), np.where(plays, np.nan, 1e-4)])


def all_alike(count: int, steps: int = 4) -> Numbers:
    return np.full((count, steps), 1e-3)


# columns


def test_a_short_run_has_a_column_for_every_step() -> None:
    steps = np.arange(60)
    drawn = score(["a", "b"], steps.tolist(), turns(steps, 10, 1))
    assert drawn.asked == 1
    assert drawn.edges.tolist() == list(range(61))
    assert drawn.shares[1].nonzero()[0].tolist() == [10, 21, 32, 43, 54]
    np.testing.assert_array_equal(drawn.shares[0] + drawn.shares[1], np.ones(60))
    assert np.isnan(drawn.rates[0, 10])
    assert drawn.rates[1, 10] == 1e-4


@pytest.mark.parametrize(("first", "second"), [(1, 1), (5, 1), (10, 1), (2, 3)])
@pytest.mark.parametrize("length", [601, 5000, 5999])
def test_columns_of_a_long_run_hold_whole_cycles(first: int, second: int, length: int) -> None:
    steps = np.arange(length)
    drawn = score(["a", "b"], steps.tolist(), turns(steps, first, second))
    assert drawn.shares.shape[1] <= 400
    assert drawn.asked % (first + second) == 0
    np.testing.assert_allclose(drawn.shares[0], first / (first + second))
    np.testing.assert_allclose(drawn.shares[1], second / (first + second))
    np.testing.assert_allclose(drawn.rates[1], 1e-4)
    assert drawn.edges[-1] == length


def test_a_turn_that_is_rarer_than_a_column_is_not_lost() -> None:
    steps = np.arange(5000)
    drawn = score(["a", "b"], steps.tolist(), turns(steps, 200, 1))
    assert drawn.asked == 13
    assert (drawn.shares[1] > 0).sum() == 5000 // 201
    assert drawn.shares[1].max() == pytest.approx(1 / 13)


def test_a_rate_is_the_mean_over_the_steps_that_move() -> None:
    rates = np.array([[np.nan, 1.0, 3.0, np.nan, np.nan, np.nan]])
    drawn = score(["a"], range(6), rates, columns=3)
    np.testing.assert_array_equal(drawn.rates, [[1.0, 3.0, np.nan]])
    np.testing.assert_array_equal(drawn.shares, [[0.5, 0.5, 0.0]])


def test_a_single_step_is_one_column() -> None:
    drawn = score(["a"], [7], [[1e-3]])
    assert drawn.edges.tolist() == [7, 8]


def test_steps_that_were_asked_at_a_distance_are_that_wide() -> None:
    drawn = score(["a"], [0, 10, 20], [[1.0, 2.0, 3.0]])
    assert drawn.edges.tolist() == [0, 10, 20, 30]


def test_uneven_steps_get_columns_of_equal_width() -> None:
    steps = [*range(500), *range(500, 10_000, 19)]
    drawn = score(["a"], steps, np.full((1, len(steps)), 1e-3), columns=100)
    assert drawn.rates.shape[1] == 100
    assert np.diff(drawn.edges).max() < 2 * 10_000 / 100
    np.testing.assert_array_equal(drawn.shares, np.ones((1, 100)))


# very long runs


def test_every_step_is_asked_for_where_there_are_few() -> None:
    assert score_steps(MOST_STEPS) == list(range(MOST_STEPS))
    assert score_steps(0) == []


@pytest.mark.parametrize("total", [MOST_STEPS + 1, 10_007, 1_000_000])
def test_a_long_run_is_asked_in_runs_of_neighbours(total: int) -> None:
    steps = score_steps(total)
    assert len(steps) == MOST_STEPS
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert steps[-1] < total


@pytest.mark.parametrize(("first", "second"), [(1, 1), (5, 1), (10, 1)])
def test_a_million_steps_show_the_shares_of_a_short_run(first: int, second: int) -> None:
    steps = np.array(score_steps(1_000_000))
    drawn = score(["a", "b"], steps.tolist(), turns(steps, first, second))
    np.testing.assert_allclose(drawn.shares[0], first / (first + second))
    assert drawn.edges[-1] == 1_000_000
    beginning = opening(["a", "b"], steps.tolist(), turns(steps, first, second))
    assert beginning is not None
    assert beginning.edges.tolist() == list(range(25))


# cycles


@pytest.mark.parametrize("cycle", [2, 3, 6, 11, 101])
def test_cycles_are_found(cycle: int) -> None:
    assert cycle_length(turns(np.arange(1000), cycle - 1, 1)) == cycle


def test_what_does_not_alternate_has_no_cycle() -> None:
    unfreezing = np.array([np.where(np.arange(1000) < begin, np.nan, 1.0) for begin in (0, 300, 600, 900)])
    assert cycle_length(unfreezing) == 1
    assert cycle_length(all_alike(3)) == 1
    assert cycle_length(np.full((2, 50), np.nan)) == 1
    assert cycle_length(np.ones((2, 1))) == 1


def test_a_cycle_is_found_below_gradual_unfreezing() -> None:
    steps = np.arange(3000)
    rates = np.vstack([turns(steps, 2, 1), np.where(steps < 1000, np.nan, 1e-5)])
    assert cycle_length(rates) == 3


# the first cycles


def test_the_first_cycles_of_a_long_run_are_shown_step_by_step() -> None:
    steps = np.arange(5000)
    beginning = opening(["a", "b"], steps.tolist(), turns(steps, 5, 1))
    assert beginning is not None
    assert beginning.edges.tolist() == list(range(25))
    assert beginning.shares[1].nonzero()[0].tolist() == [5, 11, 17, 23]


def test_they_are_those_where_the_alternation_begins() -> None:
    steps = np.arange(5000)
    rates = turns(steps, 10, 1)
    rates[:, :2000] = [[2e-4], [np.nan]]
    beginning = opening(["a", "b"], steps.tolist(), rates)
    assert beginning is not None
    assert 1980 <= beginning.edges[0] <= 2000
    assert beginning.shares[1].sum() >= 2


@pytest.mark.parametrize(
    "rates",
    [turns(np.arange(400), 5, 1), all_alike(2, 5000), np.full((2, 5000), np.nan)],
    ids=["short", "steady", "frozen"],
)
def test_they_are_not_shown_where_the_whole_shows_them_or_nothing_alternates(rates: Numbers) -> None:
    assert opening(["a", "b"], range(rates.shape[1]), rates) is None


# rows


def transformer(layers: int) -> list[str]:
    arrays = ("attention.weight", "attention.bias", "norm.weight", "mlp.up.weight", "mlp.down.weight")
    inner = [f"layers.{layer}.{array}" for layer in range(layers) for array in arrays]
    return ["embed.weight", *inner, "head.weight", "head.bias"]


def test_few_arrays_have_a_row_each() -> None:
    names = [f"layers.{index}.weight" for index in range(MOST_ROWS)]
    drawn = score(names, range(4), all_alike(MOST_ROWS))
    assert drawn.labels == tuple(names)
    assert set(drawn.counts) == {1}


def test_many_arrays_that_are_alike_are_joined_as_coarsely_as_they_can_be() -> None:
    names = transformer(12)
    drawn = score(names, range(4), all_alike(len(names)))
    assert drawn.labels == ("embed.weight", "layers", "head")
    assert drawn.counts == (1, 60, 2)


def test_layers_with_rates_of_their_own_have_rows_of_their_own() -> None:
    names = transformer(12)
    rates = np.array([[float(name.split(".")[1])] if name.startswith("layers") else [99.0] for name in names])
    drawn = score(names, [0], rates)
    assert drawn.labels == ("embed.weight", *(f"layers.{layer}" for layer in range(12)), "head")
    assert drawn.rates[:, 0].tolist() == [99.0, *range(12), 99.0]


def test_a_frozen_array_inside_a_module_is_shown_apart() -> None:
    names = transformer(12)
    rates = all_alike(len(names))
    rates[names.index("layers.3.norm.weight")] = np.nan
    drawn = score(names, range(4), rates)
    assert "layers.3.norm.weight" in drawn.labels
    assert not drawn.shares[drawn.labels.index("layers.3.norm.weight")].any()
    assert drawn.shares.sum(axis=1).tolist().count(4.0) == len(drawn.labels) - 1


def test_more_layers_than_rows_are_joined_to_ranges() -> None:
    names = transformer(96)
    rates = np.array([[float(name.split(".")[1])] if name.startswith("layers") else [99.0] for name in names])
    drawn = score(names, [0], rates)
    assert len(drawn.labels) == MOST_ROWS
    assert drawn.labels[1].startswith("layers.0 – ")
    assert sum(drawn.counts) == len(names)


def test_a_joined_row_shows_the_share_of_its_arrays() -> None:
    names = [f"{group}.{index}.weight" for group in "ab" for index in range(300)]
    rates = all_alike(len(names))
    rates[0] = np.nan
    rates[300:] = np.nan
    drawn = score(names, range(4), rates)
    assert len(drawn.labels) <= MOST_ROWS
    assert drawn.labels[-1] == "b"
    weighed = (drawn.shares[:, 0] * np.array(drawn.counts)).sum()
    assert weighed == pytest.approx(299)


def test_names_without_modules_are_joined_to_ranges() -> None:
    names = [f"array{index}" for index in range(100)]
    drawn = score(names, [0], np.arange(100.0)[:, None])
    assert len(drawn.labels) == MOST_ROWS
    assert sum(drawn.counts) == 100
    assert all(label for label in drawn.labels)


# errors


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match=r"needs rates of shape \(2, 3\), each at least 1; they have shape \(3, 2\)"):
        score(["a", "b"], range(3), np.ones((3, 2)))


@pytest.mark.parametrize(("names", "steps"), [([], [0]), (["a"], [])])
def test_an_empty_score_is_refused(names: list[str], steps: list[float]) -> None:
    with pytest.raises(SettingError, match="each at least 1"):
        score(names, steps, np.ones((len(names), len(steps))))


def test_steps_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(SettingError, match="must ascend: sort them"):
        score(["a"], [0, 2, 1], np.ones((1, 3)))
