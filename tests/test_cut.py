"""An order cut into batches: the fast way gives what taking unit by unit gives, under every limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from etude.data.plan.cut import Batches, Filling, cut, used, within
from etude.data.plan.limits import Kind
from etude.errors import DataError, SettingError

KINDS: tuple[Kind, ...] = ("padded", "packed", "padding")


def one_by_one(costs: Any, kinds: Sequence[Kind], most: Any) -> list[int]:
    """Where batches begin and end, unit by unit; `most` is of shape (limits, n)."""
    filling, offsets = Filling(kinds), [0]
    for place in range(costs.shape[1]):
        if not filling.add(costs[:, place], most[:, place]):
            offsets.append(place)
            filling.clear()
            assert filling.add(costs[:, place], most[:, place])
    return [*offsets, costs.shape[1]] if costs.shape[1] else offsets


def drawn(seed: int, n: int, kinds: Sequence[Kind], top: int, runs: int | None) -> tuple[Any, Any]:
    """Costs, and limits that stay the same for about `runs` units (None: for all)."""
    chance = np.random.default_rng(seed)
    costs = chance.integers(0, top, (len(kinds), n)).astype(np.float64)
    sets = 1 if runs is None else n // runs + 1
    limits = chance.integers(1, 6 * top, (len(kinds), sets)).astype(np.float64)
    return costs, np.repeat(limits, n if runs is None else runs, axis=1)[:, :n]


@settings(max_examples=150, deadline=None)
@given(
    seed=some.integers(0, 2**32),
    n=some.integers(0, 900),
    kinds=some.lists(some.sampled_from(KINDS), max_size=3),
    top=some.sampled_from([1, 2, 8, 300]),
    runs=some.sampled_from([None, 1, 7, 280, 400]),
)
def test_cutting_many_at_once_is_cutting_one_by_one(
    seed: int, n: int, kinds: list[Kind], top: int, runs: int | None
) -> None:
    costs, most = drawn(seed, n, kinds, top, runs)
    expected = one_by_one(costs, kinds, most)
    assert cut(costs, kinds, most).offsets.tolist() == expected
    assert cut(costs, kinds, lambda place: most[:, place]).offsets.tolist() == expected
    if runs is None and n:
        assert cut(costs, kinds, most[:, 0]).offsets.tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [30.0, 3_000.0, 1e6, 1e9])
def test_batches_of_any_size_are_found_in_many_units(kind: Kind, most: float) -> None:
    # Beyond a window of units that are looked at together, and batches larger than one.
    costs = np.random.default_rng(2).integers(0, 60, (1, 30_000)).astype(np.float64)
    limits = np.full_like(costs, most)
    assert cut(costs, (kind,), np.array([most])).offsets.tolist() == one_by_one(costs, (kind,), limits)


def test_fractions_are_added_up_as_one_by_one() -> None:
    costs = np.random.default_rng(3).random((2, 20_000))
    most = np.full_like(costs, 40.0)
    assert cut(costs, ("packed", "padded"), most[:, 0]).offsets.tolist() == one_by_one(
        costs, ("packed", "padded"), most
    )


@settings(max_examples=60, deadline=None)
@given(seed=some.integers(0, 2**32), kinds=some.lists(some.sampled_from(KINDS), min_size=1, max_size=3))
def test_every_batch_is_within_its_limits_and_could_not_be_larger(seed: int, kinds: list[Kind]) -> None:
    costs, most = drawn(seed, 400, kinds, 20, None)
    made = cut(costs, kinds, most[:, 0])
    full = used(costs, kinds, made.offsets)
    alone = np.diff(made.offsets) == 1
    assert ((full <= most[:, :1]).all(0) | alone).all()
    grown = np.stack([made.offsets[:-2], made.offsets[1:-1] + 1], axis=1)
    for start, stop in grown:
        assert (used(costs[:, start:stop], kinds, np.array([0, stop - start])) > most[:, :1]).any()


LONG = np.array([[3, 9, 2, 7, 1, 1.0]])


def test_a_unit_over_the_budget_is_a_batch_of_its_own() -> None:
    made = cut(LONG, ("packed",), np.array([5.0]))
    assert [made[place].tolist() for place in range(len(made))] == [[0], [1], [2], [3], [4, 5]]
    assert made.dropped.tolist() == []


def test_a_unit_over_the_budget_is_left_out_and_counted() -> None:
    made = cut(LONG, ("packed",), np.array([5.0]), too_long="drop")
    assert [made[place].tolist() for place in range(len(made))] == [[0, 2], [4, 5]]
    assert made.dropped.tolist() == [1, 3]
    moving = cut(LONG, ("packed",), np.array([[5, 9, 5, 5, 5, 5.0]]), too_long="drop")
    assert [moving[place].tolist() for place in range(len(moving))] == [[0], [1], [2, 4, 5]]
    assert moving.dropped.tolist() == [3]


def test_a_unit_over_the_budget_is_an_error_that_names_it() -> None:
    said = r"the unit at position 1 has 9 where a batch may hold 5\. So have 1 others\..*too_long='alone'.*'drop'"
    with pytest.raises(DataError, match=said):
        cut(LONG, ("packed",), np.array([5.0]), too_long="error")
    with pytest.raises(DataError, match=r"sample 3 has 7 where a batch may hold 6\. Raise"):
        cut(LONG, ("packed",), np.array([[9, 9, 9, 6, 9, 9.0]]), too_long="error", called="sample {}".format)
    assert len(cut(LONG, ("packed",), np.array([9.0]), too_long="error")) == 4


def test_one_unit_alone_has_no_padding() -> None:
    kept, dropped = within(LONG, ("padding",), np.array([1.0]), "drop")
    assert kept.tolist() == [0, 1, 2, 3, 4, 5]
    assert dropped.tolist() == []


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(SettingError, match=r"too_long='dropp': unknown\. Nearest: \"drop\"\. Write 'alone'"):
        cut(LONG, ("packed",), np.array([5.0]), too_long="dropp")


def test_what_batches_use_is_told_for_each_limit() -> None:
    costs = np.array([[3, 1, 2, 5.0]] * 3)
    assert used(costs, KINDS, np.array([0, 3, 4])).tolist() == [[9, 5], [6, 5], [3, 0]]
    assert used(costs[:, :0], KINDS, np.array([0])).shape == (3, 0)


def test_a_batch_that_is_not_there_is_not_the_last_one() -> None:
    made = Batches(np.arange(3), np.array([0, 2, 3]))
    assert [batch.tolist() for batch in made] == [[0, 1], [2]]
    with pytest.raises(IndexError, match="batch -1 of 2"):
        made[-1]


def test_a_filling_counts_and_begins_anew() -> None:
    filling = Filling(("packed",))
    assert filling.add([2], [5])
    assert filling.add([3], [5])
    assert not filling.add([1], [5])
    assert filling.number == 2
    filling.clear()
    assert filling.add([9], [5])
    assert filling.number == 1
