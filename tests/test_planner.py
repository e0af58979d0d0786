"""Epochs, planned: which units are in which batch, and what is left out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import etude
from etude.data.plan.arrangements import Units
from etude.data.plan.batching import Batching
from etude.data.plan.buckets import buckets
from etude.data.plan.budgets import budget, packed
from etude.data.plan.chunks import chunking
from etude.data.plan.filters import dropped, keep, length
from etude.data.plan.lengths import lengths_of
from etude.data.plan.orders import order
from etude.data.plan.planner import Planner
from etude.data.plan.selection import weighted
from etude.data.plan.table import Samples
from etude.errors import DataError, SettingError
from etude.values.progress import Extent
from etude.values.schedule import schedule

LENGTHS = [5, 3, 9, 4, 7, 2, 8, 6, 5, 3]


def planner(limit: Any = 12, said: Any = "in_order", seed: int = 1, lengths: Any = LENGTHS, **more: Any) -> Planner:
    known = lengths_of(lengths if isinstance(lengths, dict) else {"x": lengths})
    accumulate = more.pop("accumulate", None)
    size, extent = more.pop("batch_size", None), more.pop("extent", Extent())
    for name, made in (("filters", keep), ("chunk", chunking)):
        more[name] = made(more.pop(name, None))
    batching = Batching(order(said), budget(limit, size), **more)
    return Planner(
        Samples(len(known), known), batching, seed, extent, None if accumulate is None else schedule(accumulate)
    )


def batches(made: Planner, epoch: int = 0) -> list[list[int]]:
    planned = made.epoch(epoch)
    return [planned.wanted(batch).samples.tolist() for batch in range(planned.batches)]


def everyone(made: Planner, epoch: int = 0) -> list[int]:
    return [sample for batch in batches(made, epoch) for sample in batch]


# ----------------------------------------------------------------------------------------------------- order, budget


def test_batches_of_samples_in_their_order() -> None:
    assert batches(planner()) == [[0, 1], [2], [3], [4], [5], [6], [7, 8], [9]]
    assert batches(planner(packed(12))) == [[0, 1], [2], [3, 4], [5, 6], [7, 8], [9]]
    assert batches(planner(None, batch_size=4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_number_of_samples_is_cut_like_any_limit() -> None:
    fast, slow = planner(None, batch_size=3), planner(packed(1e9), batch_size=3)
    assert batches(fast) == batches(slow)


def test_what_does_not_fill_a_batch_can_be_left_out() -> None:
    made = planner(None, batch_size=4, drop_last=True)
    assert batches(made) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert sum(made.epoch(0).left_out.values()) == 2
    assert batches(planner(None, batch_size=5, drop_last=True)) == batches(planner(None, batch_size=5))


def test_an_order_is_asked_for_the_pass_and_cut_into_its_epochs() -> None:
    made = planner(said="random", subepochs=3)
    whole = order("random").arrange(Units(10), 0, 1).tolist()
    assert [sample for epoch in range(3) for sample in everyone(made, epoch)] == whole
    again = order("random").arrange(Units(10), 1, 1).tolist()
    assert [sample for epoch in range(3, 6) for sample in everyone(made, epoch)] == again
    assert [len(everyone(made, epoch)) for epoch in range(3)] == [4, 3, 3]


def test_an_epoch_may_go_over_its_order_again() -> None:
    assert everyone(planner(repeat=3)) == [*range(10)] * 3
    # Batches go on over the end of the order.
    assert batches(planner(None, batch_size=4, repeat=2))[2] == [8, 9, 0, 1]


def test_batches_change_places() -> None:
    plain, mixed = batches(planner()), batches(planner(blocks=None))
    assert sorted(plain) == sorted(mixed) != mixed
    within = batches(planner(blocks=2))
    assert [sorted(within[at : at + 2]) for at in (0, 2, 4, 6)] == [sorted(plain[at : at + 2]) for at in (0, 2, 4, 6)]
    assert within != plain
    assert batches(planner(blocks=None), 1) != mixed


@pytest.mark.parametrize(("too_long", "expected"), [("alone", [[0, 1], [2], [3]]), ("drop", [[0, 1, 3]])])
def test_what_is_beyond_the_budget(too_long: str, expected: list[list[int]]) -> None:
    made = planner(9, lengths=[2, 3, 20, 1], too_long=too_long)
    assert batches(made) == expected
    assert sum(made.epoch(0).left_out.values()) == (too_long == "drop")


@pytest.mark.parametrize("said", ["in_order", "strata"])
@pytest.mark.parametrize("limit", [9, lambda progress: 9])
def test_a_unit_beyond_the_budget_is_named(said: str, limit: Any) -> None:
    with pytest.raises(DataError, match="sample 2 has 20 where a batch may hold 9"):
        planner(limit, said, lengths=[2, 3, 20, 1], too_long="error").epoch(0)
    with pytest.raises(DataError, match="a chunk of sample 2 has 16 where a batch may hold 9"):
        planner(limit, said, lengths=[2, 3, 20, 1], too_long="error", chunk=16).epoch(0)


@pytest.mark.parametrize("said", ["in_order", "strata"])
@pytest.mark.parametrize("limit", [9, lambda progress: 9])
def test_units_beyond_the_budget_are_dropped_and_counted_in_every_order(said: str, limit: Any) -> None:
    made = planner(limit, said, lengths=[2, 3, 20, 1, 30], too_long="drop")
    assert sorted(everyone(made)) == [0, 1, 3]
    assert sum(made.epoch(0).left_out.values()) == 2


# ---------------------------------------------------------------------------------------------- what there is of it


def test_filters_see_the_samples_of_the_epoch_alone() -> None:
    made = planner(said="in_order", subepochs=2, filters=lambda lengths: lengths["x"] == lengths["x"].max())
    assert everyone(made, 0) == [2]  # the longest of the first half
    assert everyone(made, 1) == [6]
    assert sum(made.epoch(0).left_out.values()) == 4


def test_filters_see_samples_and_not_their_chunks() -> None:
    made = planner(None, batch_size=2, chunk=3, filters=length(least=7))
    assert sorted(set(everyone(made))) == [2, 4, 6]
    assert everyone(made) == [2, 2, 2, 4, 4, 4, 6, 6, 6]


def test_a_filter_draws_anew_in_every_epoch() -> None:
    made = planner(filters=dropped(0.5))
    assert everyone(made, 0) != everyone(made, 1)
    assert everyone(made, 0) == everyone(planner(filters=dropped(0.5)), 0)


def test_samples_that_were_selected_are_planned() -> None:
    made = planner(None, "random", batch_size=3, selection=weighted([0, 0, 1, 1, 0, 0, 0, 0, 0, 0], number=9))
    assert set(everyone(made)) == {2, 3}
    assert len(everyone(made)) == 9
    assert everyone(made, 0) != everyone(made, 1)


def test_chunks_are_read_where_they_lie() -> None:
    wanted = planner(None, batch_size=3, chunk=(4, 2)).epoch(0).wanted(0)
    starts, stops = wanted.windows["x"]
    assert (wanted.samples.tolist(), starts.tolist(), stops.tolist()) == ([0, 0, 0], [0, 2, 4], [4, 5, 5])


def test_the_epochs_of_a_pass_share_samples_where_chunks_change() -> None:
    made = planner(None, "random", batch_size=3, chunk=lambda progress: 3 + int(progress.epoch), subepochs=2)
    one, two = set(everyone(made, 0)), set(everyone(made, 1))
    assert not one & two
    assert one | two == set(range(10))


def test_nothing_left_says_why() -> None:
    with pytest.raises(DataError, match=re.escape("Epoch 0 has no batch: of 2 samples nothing is left")):
        planner(3, lengths=[5, 6], too_long="drop").epoch(0)
    with pytest.raises(DataError, match="leaves nothing of 10 samples"):
        planner(filters=length(least=99)).epoch(0)
    with pytest.raises(DataError, match="11 epochs cannot share a pass over 10 units"):
        planner(subepochs=11).epoch(0)


# ------------------------------------------------------------------------------------------------- shapes and packing


def test_buckets_have_shapes() -> None:
    planned = planner(None, buckets=buckets((5, 3), (9, 2))).epoch(0)
    found = [planned.wanted(batch) for batch in range(planned.batches)]
    assert [(wanted.samples.tolist(), wanted.to, wanted.rows) for wanted in found] == [
        ([0, 1, 3], {"x": 5}, 3),
        ([2, 4], {"x": 9}, 2),
        ([6, 7], {"x": 9}, 2),
        ([5, 8, 9], {"x": 5}, 3),
    ]


def test_what_fits_no_bucket_and_what_fills_none_is_counted() -> None:
    made = planner(None, buckets=buckets((4, 2), (7, 3)), drop_last=True)
    assert sorted(batches(made)) == [[0, 4, 7], [1, 3], [5, 9]]
    assert sum(made.epoch(0).left_out.values()) == 2 + 1
    with pytest.raises(DataError, match="sample 2 has length 9, and the longest bucket is for 7"):
        planner(None, buckets=buckets((4, 2), (7, 3)), too_long="error").epoch(0)


def test_first_fit_fills_up() -> None:
    made = planner(packed(12), "in_order", pack="first_fit")
    sums = [sum(LENGTHS[sample] for sample in batch) for batch in batches(made)]
    assert sorted(everyone(made)) == list(range(10))
    assert max(sums) <= 12
    assert len(sums) == 5  # 52 frames
    few = planner(packed(12), pack="first_fit", batch_size=2)
    assert max(map(len, batches(few))) == 2


def test_strung_samples_are_cut_where_a_batch_is_full() -> None:
    planned = planner(packed(12), pack="strung").epoch(0)
    starts, stops = planned.wanted(1).windows["x"]
    assert planned.wanted(1).samples.tolist() == [2, 3, 4]
    assert (starts.tolist(), stops.tolist()) == ([4, 0, 0], [9, 4, 3])
    assert planned.passed().frames[-1] == sum(LENGTHS)
    assert {int((stops - starts).sum()) for starts, stops in (planned.wanted(at).windows["x"] for at in range(4))} == {
        12
    }


def test_chunks_are_strung_where_they_lie() -> None:
    planned = planner(packed(5), pack="strung", chunk=4, lengths=[6]).epoch(0)
    found = [planned.wanted(batch).windows["x"] for batch in range(planned.batches)]
    assert [(starts.tolist(), stops.tolist()) for starts, stops in found] == [([0, 4], [4, 5]), ([5], [6])]


# ------------------------------------------------------------------------------------------------------------- moments


def test_a_budget_that_is_a_function_is_asked_for_every_unit() -> None:
    asked: list[tuple[float, float, int, int]] = []

    def most(progress: Any) -> float:
        asked.append((progress.step, progress.epoch, progress.samples, progress.tokens))
        return 10.0

    found = batches(planner(most), 1)
    second = [each for each in asked if each[1] >= 1]
    assert sorted({each[1] for each in second}) == pytest.approx([1 + place / 10 for place in range(10)])
    assert sorted({each[0] for each in second}) == list(range(8, 8 + len(found)))
    assert second[0] == (8, 1.0, 10, 52)
    assert all(samples == 10 + round((epoch - 1) * 10) for _, epoch, samples, _ in second)


def test_a_step_may_take_several_batches() -> None:
    sizes = [len(batch) for batch in batches(planner(None, batch_size=lambda p: 1 + p.step, accumulate=2))]
    assert sizes == [1, 1, 2, 2, 3, 1]


def test_a_schedule_of_epochs_alone_counts_nothing_before_it() -> None:
    made = planner(etude.linear(10, 30, over=etude.epochs(4)))
    assert max(sum(LENGTHS[at] for at in batch) for batch in batches(made, 1000)) <= 30
    assert len(made._epochs) == 1, "an epoch that nobody asked for was planned"  # what a seek costs


def test_limits_of_a_filter_are_those_at_the_start_of_the_epoch() -> None:
    made = planner(filters=length(most=lambda progress: 3 + progress.step))
    assert [max(LENGTHS[at] for at in everyone(made, epoch)) for epoch in (0, 1)] == [3, 4]


def test_what_is_wrong_with_a_schedule_is_said() -> None:
    with pytest.raises(SettingError, match="is 0 at step 0"):
        planner(lambda progress: progress.step).epoch(0)


def test_allowed_is_what_each_batch_was_allowed() -> None:
    made = planner(lambda progress: 10 + progress.step)
    assert made.allowed(0).tolist() == [[10.0 + step for step in range(made.epoch(0).batches)]]
    assert planner(12).allowed(0).tolist() == [[12.0]]
    turned = planner(lambda progress: 10 + progress.step, blocks=None)
    assert sorted(turned.allowed(0)[0]) == made.allowed(0)[0].tolist()
    for batch, most in zip(batches(turned), turned.allowed(0)[0], strict=True):
        assert len(batch) * max(LENGTHS[at] for at in batch) <= most


@pytest.mark.parametrize(
    "more",
    [
        {"buckets": buckets((9, 2))},
        {"pack": "first_fit", "limit": packed(12)},
        {"drop_last": True, "limit": None, "batch_size": 3},
    ],
)
def test_an_order_that_becomes_strata_says_what_cannot_be_done_then(more: dict[str, Any]) -> None:
    made = planner(**{"limit": None, **more}, said=lambda epoch: "strata" if epoch else "in_order")
    assert made.epoch(0).batches
    with pytest.raises(SettingError, match="is 'strata' in this epoch, which makes batches of alike lengths itself"):
        made.epoch(1)


def test_strata_need_lengths() -> None:
    batching = Batching(order(lambda epoch: "strata" if epoch else "random"), budget(None, 3))
    made = Planner(Samples(7), batching, 0)
    assert made.epoch(0).batches == 3
    with pytest.raises(DataError, match="strata\\(\\) sorts by length, and the lengths of these data are not known"):
        made.epoch(1)


def test_a_million_units_are_planned_at_once_and_sought_at_once() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 0.6, 100_000).astype(np.int64) + 1
    made = planner(32_000, "strata", lengths=lengths)
    planned = made.epoch(3)
    assert planned.epoch.units == len(lengths)
    assert len(planned.epoch._drawn) == 0, "strata were drawn that nobody asked for"  # type: ignore[attr-defined]
    planned.wanted(planned.batches // 2)
    assert len(planned.epoch._drawn) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("limit", [12, lambda progress: 12])
def test_strata_are_others_in_every_epoch_and_with_every_seed(limit: Any) -> None:
    lengths = [1 + number % 7 for number in range(60)]
    one = planner(limit, "strata", lengths=lengths)
    assert sorted(everyone(one)) == sorted(everyone(one, 1)) == list(range(60))
    assert batches(one) != batches(one, 1)
    assert batches(one) != batches(planner(limit, "strata", lengths=lengths, seed=2))
    assert batches(one) == batches(planner(limit, "strata", lengths=lengths))


@pytest.mark.parametrize("limit", [12, lambda progress: 12])
def test_strata_may_be_gone_over_again(limit: Any) -> None:
    found = everyone(planner(limit, "strata", repeat=3))
    assert sorted(found) == sorted([*range(10)] * 3)
    assert sorted(found[:10]) == list(range(10))


def test_what_is_dropped_was_not_given_out() -> None:
    asked: list[tuple[int, float]] = []

    def most(progress: Any) -> float:
        asked.append((progress.samples, progress.epoch))
        return 9.0

    made = planner(most, lengths=[2, 20, 3, 20, 4], too_long="drop")
    assert batches(made) == [[0], [2], [4]]
    assert asked[-1] == (2, 0.4)
    made.epoch(1)
    assert (3, 1.0) in asked  # the next epoch begins after three samples


def test_full_buckets_change_places() -> None:
    shapes = {"buckets": buckets((5, 2), (9, 2)), "drop_last": True}
    plain, mixed = batches(planner(None, **shapes)), batches(planner(None, blocks=None, **shapes))
    assert sorted(plain) == sorted(mixed)
    assert plain != mixed
    assert {len(batch) for batch in plain} == {2}
