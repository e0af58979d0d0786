"""Batches of alike lengths in random order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from etude.data.plan.arrangements import Units
from etude.data.plan.changing import in_time
from etude.data.plan.lengths import Whole
from etude.data.plan.orders import order
from etude.data.plan.sorting import by_key
from etude.data.plan.strata import Sorted, Strata, batches_in_stratum, sort
from etude.errors import DataError

LENGTHS = np.random.default_rng(0).lognormal(5.5, 0.6, 4000).astype(np.int64) + 1
NOBODY = np.zeros(0, np.int64)


def sorted_of(lengths: Whole, *more: Any) -> Sorted:
    return sort(np.arange(len(lengths)), lengths, np.array([lengths, *more], np.float64))


def strata(lengths: Whole = LENGTHS, budget: float = 8000, seed: int = 1, epoch: int = 0) -> Strata:
    data, most = sorted_of(lengths), np.array([float(budget)])
    return Strata(data, most, batches_in_stratum(data, most), seed, epoch, NOBODY)


def batches(epoch: Any) -> list[list[int]]:
    return [epoch.rows(place).tolist() for place in range(epoch.batches)]


def padding(lengths: Whole, found: list[list[int]]) -> float:
    cells = sum(len(units) * int(lengths[units].max()) for units in found)
    return 1 - sum(int(lengths[units].sum()) for units in found) / cells


# -------------------------------------------------------------------------------------------------------- constant


def test_every_unit_is_in_one_batch() -> None:
    epoch = strata()
    assert sorted(unit for units in batches(epoch) for unit in units) == list(range(len(LENGTHS)))
    assert epoch.units == len(LENGTHS)


def test_no_batch_is_beyond_the_budget_and_little_is_padded() -> None:
    found = batches(strata())
    assert all(len(units) * LENGTHS[units].max() <= 8000 for units in found)
    assert padding(LENGTHS, found) < 0.02
    assert len(found) < LENGTHS.sum() / 8000 * 1.06


def test_neighbours_are_of_unrelated_lengths() -> None:
    means = np.array([LENGTHS[units].mean() for units in batches(strata(budget=4000))])
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.15


def test_two_epochs_share_hardly_any_pairs() -> None:
    def pairs(epoch: int) -> set[tuple[int, int]]:
        found = batches(strata(epoch=epoch))
        return {(a, b) for units in found for a in units for b in units if a < b}

    one, two = pairs(0), pairs(1)
    assert len(one & two) < 0.5 * len(one)


def test_all_batches_at_once_are_those_one_by_one() -> None:
    epoch = strata()
    units, offsets = epoch.all()
    assert [units[a:b].tolist() for a, b in pairwise(offsets.tolist())] == batches(strata())


def test_units_of_one_length_do_not_stay_with_their_neighbours() -> None:
    lengths = np.full(400, 10)
    one, two = (batches(strata(lengths, 100, epoch=epoch)) for epoch in (0, 1))
    assert all(len(units) <= 10 for units in one)
    assert sorted(map(sorted, one)) != sorted(map(sorted, two))
    # Who belongs to a stratum is drawn as well, not only who lies with whom in it.
    spread = [max(units) - min(units) for units in one]
    assert np.mean(spread) > 50


def test_units_that_are_alone_come_somewhere_in_between() -> None:
    data, most = sorted_of(np.array([3, 4, 5, 6])), np.array([12.0])
    places = set()
    for seed in range(20):
        found = batches(Strata(data, most, batches_in_stratum(data, most), seed, 0, np.array([7, 9])))
        assert sorted(unit for units in found for unit in units) == [0, 1, 2, 3, 7, 9]
        assert [7] in found
        places.add(found.index([7]))
    assert len(places) > 1


def test_the_costliest_unit_of_a_stratum_counts_where_cost_does_not_rise_with_length() -> None:
    labels = np.random.default_rng(1).integers(1, 400, len(LENGTHS))
    data, most = sorted_of(LENGTHS, labels), np.array([8000.0, 3000.0])
    assert not data.rising
    found = batches(Strata(data, most, batches_in_stratum(data, most), 0, 0, NOBODY))
    assert all(len(units) * labels[units].max() <= 3000 for units in found)
    assert all(len(units) * LENGTHS[units].max() <= 8000 for units in found)


@pytest.mark.parametrize(("start", "stop"), [(0, 4000), (5, 70), (63, 64), (64, 128), (100, 3999), (1, 3)])
def test_the_largest_costs_of_a_stretch(start: int, stop: int) -> None:
    data = sorted_of(LENGTHS, np.random.default_rng(1).integers(1, 400, len(LENGTHS)))
    assert data.largest(start, stop).tolist() == data.costs[:, start:stop].max(1).tolist()


def test_some_of_the_units() -> None:
    data = sorted_of(LENGTHS)
    kept = data.only(LENGTHS[data.units] > 300)
    assert (kept.lengths > 300).all()
    assert (np.diff(kept.lengths) >= 0).all()
    assert kept.runs[-1] == len(kept)


def test_sorting_is_stable() -> None:
    assert by_key(LENGTHS).tolist() == np.argsort(LENGTHS, kind="stable").tolist()
    long = LENGTHS * 100_000
    assert by_key(long).tolist() == np.argsort(long, kind="stable").tolist()


def test_nothing_and_one_unit() -> None:
    assert batches(strata(np.array([], np.int64))) == []
    assert batches(strata(np.array([5]))) == [[0]]
    assert list(map(sorted, batches(strata(np.array([0, 0, 0]), 10)))) in ([[0, 1, 2]], [[0], [1, 2]], [[0, 1], [2]])


def test_strata_are_no_order_of_units() -> None:
    with pytest.raises(DataError, match="order='strata' makes batches out of all samples at once"):
        order("strata").arrange(Units(3), 0, 0)
    assert repr(order("strata")) == "strata()"


# ---------------------------------------------------------------------------------------------- budgets that change


def timed(most: Any, lengths: Whole = LENGTHS, leaves: Any = None, times: int = 1) -> list[list[int]]:
    made = in_time(sorted_of(lengths), most, leaves or (lambda unit, budget: False), 1, 0, times)
    return batches(made)


def test_each_batch_holds_what_is_allowed_when_it_begins() -> None:
    asked: list[tuple[int, int, int]] = []

    def most(batch: int, units: int, frames: int) -> Any:
        asked.append((batch, units, frames))
        return np.array([4000.0 + 20 * batch])

    found = timed(most)
    assert sorted(unit for units in found for unit in units) == list(range(len(LENGTHS)))
    before = frames = 0
    for place, units in enumerate(found):
        assert len(units) * LENGTHS[units].max() <= 4000 + 20 * place
        assert (place, before, frames) in asked
        before, frames = before + len(units), frames + int(LENGTHS[units].sum())
    fill = [len(units) * int(LENGTHS[units].max()) / (4000 + 20 * place) for place, units in enumerate(found)]
    assert np.mean(fill[: len(fill) * 9 // 10]) > 0.85


def test_a_unit_waits_until_it_fits() -> None:
    lengths = np.array([5] * 20 + [50])
    found = timed(lambda batch, units, frames: np.array([20.0 if units < 12 else 60.0]), lengths)
    assert [units for units in found if 20 in units] == [[20]]
    assert sum(len(units) for units in found[: found.index([20])]) >= 12


def test_units_that_never_fit_come_alone_or_are_left_out() -> None:
    lengths = np.array([50, 5, 5, 60, 5, 5])
    alone = timed(lambda *at: np.array([20.0]), lengths)
    assert [0] in alone
    assert [3] in alone
    assert sorted(unit for units in alone for unit in units) == list(range(6))
    asked: list[int] = []

    def leaves(unit: int, budget: Any) -> bool:
        asked.append(unit)
        return unit == 3

    left = timed(lambda *at: np.array([20.0]), lengths, leaves)
    assert sorted(asked) == [0, 3]
    assert sorted(unit for units in left for unit in units) == [0, 1, 2, 4, 5]


def test_what_lies_in_a_stratum_with_a_unit_that_is_too_long_still_shares_batches() -> None:
    lengths = np.concatenate((np.full(40, 5), [90]))
    found = timed(lambda *at: np.array([50.0]), lengths)
    assert len(found) <= 6
    assert [40] in found


def test_going_over_the_units_again_the_budget_goes_on() -> None:
    found = timed(lambda batch, units, frames: np.array([2000.0 if units < len(LENGTHS) else 8000.0]), times=2)
    assert sorted(unit for units in found for unit in units) == sorted([*range(len(LENGTHS))] * 2)
    sizes = [len(units) for units in found]
    half = next(place for place in range(len(found)) if sum(sizes[:place]) >= len(LENGTHS))
    assert half > 3 * (len(found) - half)


def test_strata_lie_elsewhere_in_every_epoch() -> None:
    # All lengths are about the same, so that every stratum has as many units.
    lengths = np.arange(1000, 1400)
    mates = set()
    for epoch in range(12):
        for units in batches(strata(lengths, 14_000, epoch=epoch)):
            mates |= set(units) if 200 in units else set()
    # A stratum has 2 batches of at most 11 units; those that were ever in one with it lie further apart.
    assert max(mates) - min(mates) > 2 * 11


def test_of_several_limits_that_change_all_hold() -> None:
    labels = np.random.default_rng(1).integers(1, 400, len(LENGTHS))

    def most(batch: int, units: int, frames: int) -> Any:
        return np.array([6000.0 + 5 * batch, 4000.0 - 3 * batch])

    found = batches(in_time(sorted_of(LENGTHS, labels), most, lambda unit, budget: False, 1, 0))
    assert sorted(unit for units in found for unit in units) == list(range(len(LENGTHS)))
    for place, units in enumerate(found):
        own, other = most(place, 0, 0)
        assert len(units) == 1 or (
            len(units) * LENGTHS[units].max() <= own and len(units) * labels[units].max() <= other
        )


def test_units_without_frames_are_drawn_too_while_a_budget_grows() -> None:
    lengths = np.array([0, 0, 0, 4, 5, 0, 6, 0])
    data = sort(np.arange(8), lengths, lengths[None].astype(np.float64))
    found = in_time(data, lambda batch, units, frames: np.array([6.0 + batch]), lambda unit, most: False, 1, 0)
    assert sorted(found.all()[0].tolist()) == list(range(8))
