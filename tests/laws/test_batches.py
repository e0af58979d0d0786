"""Laws of batches, over all orders, budgets, filters, chunks, buckets, packings and selections together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from batchings import REFUSED, Way, rows, sample, samples, seen
from effort import examples
from etude import Cursor, Data
from etude.data import Batch, Report, buckets, cached, mapped, pools
from etude.data.flow import Flow
from etude.data.plan.buckets import Buckets
from etude.data.plan.lengths import lengths_of
from etude.errors import DataError
from etude.values.progress import Progress

# Options drawn at random often contradict one another.
quick = settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
ways = st.integers(0, 2**32)
places = st.integers(0, 2**16)
EPOCHS = 3


def planned(number: int, **fixed: Any) -> tuple[Way, list[list[Batch]]]:
    """A way to batch, and the batches of each of the first epochs, each epoch by a flow that has seen no other."""
    way = Way(number, **fixed)
    try:
        data = way.data()
        found = [list(data.batches(Cursor(epoch, 0), epochs=1, seed=way.seed)) for epoch in range(EPOCHS)]
    except REFUSED:
        assume(False)
    return way, found


def indices(batches: list[Batch]) -> list[int]:
    return [index for batch in batches for index in batch.indices.tolist()]  # type: ignore[union-attr]


def reports(way: Way) -> list[Report]:
    return way.data().report(EPOCHS, way.seed)


# ------------------------------------------------------------------------------------------------ seek and replay


@quick
@given(ways, places)
def test_a_place_that_is_sought_is_a_place_that_is_reached(number: int, place: int) -> None:
    way, alone = planned(number)
    replayed = [seen(batch) for batch in way.data().batches(epochs=EPOCHS, seed=way.seed)]
    assert replayed == [seen(batch) for epoch in alone for batch in epoch]
    place %= len(replayed)
    found = way.data().batches(replayed[place][3], seed=way.seed)
    expected = replayed[place : place + 3]
    assert [seen(batch) for batch in islice(found, len(expected))] == expected


@quick
@given(ways, st.lists(st.tuples(st.integers(0, EPOCHS - 1), places), min_size=2, max_size=6))
def test_who_asks_in_which_order_changes_nothing(number: int, asked: list[tuple[int, int]]) -> None:
    way, alone = planned(number)
    flow = Flow(way.data(), seed=way.seed)
    for epoch, place in asked:
        batch = alone[epoch][place % len(alone[epoch])]
        assert seen(next(flow.batches(batch.cursor))) == seen(batch)


@quick
@given(ways)
def test_each_batch_is_followed_by_the_next(number: int) -> None:
    way, _ = planned(number)
    batches = list(way.data().batches(epochs=EPOCHS, seed=way.seed))
    assert batches[0].cursor == Cursor()
    assert all(one.next == two.cursor for one, two in pairwise(batches))
    assert all(one.progress_epoch < two.progress_epoch for one, two in pairwise(batches))
    assert (batches[-1].next, batches[-1].progress_epoch) == (Cursor(EPOCHS, 0), EPOCHS)


# -------------------------------------------------------------------------------------------- nothing is lost silently


@quick
@given(ways)
def test_every_frame_is_where_it_belongs(number: int) -> None:
    way, alone = planned(number)
    whole = way.samples()
    for batch in (batch for epoch in alone for batch in epoch):
        for stream in ("x", "y") if way.two else ("x",):
            # Rows that only fill up a shape have no sample.
            given = rows(batch, stream)
            assert not any(given[batch.samples :])
            for index, row in zip(batch.indices.tolist(), given, strict=False):  # type: ignore[union-attr]
                start = row[0] - whole[index][stream][0] if row else 0
                assert row == whole[index][stream][start : start + len(row)].tolist()
                if way.options.get("chunk") is None:
                    assert len(row) == len(whole[index][stream])
        assert batch.samples == len(batch.indices)  # type: ignore[arg-type]
        assert batch.tokens == int(batch.values["x_lengths"].sum())


@quick
@given(ways)
def test_every_sample_comes_once_or_is_counted_as_left_out(number: int) -> None:
    way, alone = planned(number, subepochs=1, chunk=None)
    assume(way.whole)
    for epoch, told in zip(alone, reports(way), strict=True):
        assert max(Counter(indices(epoch)).values()) <= way.options["repeat"]
        # What does not fill up the last batch, or a bucket, is left out of an epoch with its repeats.
        assume(way.options["repeat"] == 1)
        assert len(indices(epoch)) + sum(told.left_out.values()) == len(way.lengths)


@quick
@given(ways)
def test_every_frame_is_in_a_chunk_or_is_counted(number: int) -> None:
    way, alone = planned(number, chunk={"x": 6, "y": 3}, keep=None, subepochs=1, repeat=1)
    assume(way.whole)
    for epoch, told in zip(alone, reports(way), strict=True):
        assume(not set(told.left_out) - {reason for reason in told.left_out if "no chunk" in reason})
        found = {value for batch in epoch for row in rows(batch) for value in row}
        assert len(found) + told.lost.get("x", 0) == sum(way.lengths)


@quick
@given(ways, st.sampled_from([2, 3, 5]))
def test_the_epochs_of_a_pass_share_the_samples(number: int, of: int) -> None:
    way = Way(number, subepochs=of, repeat=1, keep=None, chunk=None, too_long="alone", select=None, drop_last=False)
    assume((way.whole and not isinstance(way.options.get("buckets"), int | type(None))) or "buckets" not in way.options)
    assume(way.whole and len(way.lengths) >= of)
    try:
        found = list(way.data().batches(epochs=2 * of, seed=way.seed))
    except REFUSED:
        assume(False)
    left_out = way.data().report(2 * of, way.seed)
    assume(not any(each.left_out for each in left_out))
    for first in (0, of):
        epochs = [indices([batch for batch in found if batch.cursor.epoch == first + part]) for part in range(of)]
        assert sorted(index for each in epochs for index in each) == list(range(len(way.lengths)))
        assert max(map(len, epochs)) - min(map(len, epochs)) <= 1


# ---------------------------------------------------------------------------------------------------------- limits


@quick
@given(ways)
def test_limits_hold_for_every_batch(number: int) -> None:
    way, alone = planned(number, shuffle_batches=False)
    assume("buckets" not in way.options)
    limits = way.data().assembled.batching.limits
    dropped = [sum(count for reason, count in told.left_out.items() if "budget" in reason) for told in reports(way)]
    steps = given = tokens = 0
    for number, epoch in enumerate(alone):
        before, total = 0, sum(batch.samples for batch in epoch) + dropped[number]
        for batch in epoch:
            now = Progress(steps, number + before / total, given, tokens)
            # A function is asked for every unit, so that the last one decides.
            last, frames = before + batch.samples - 1, batch.tokens - int(next(iter(batch.lengths.values()))[-1])
            then = Progress(steps, number + last / total, given + batch.samples - 1, tokens + frames)
            lengths = lengths_of({name: value.tolist() for name, value in batch.lengths.items()})
            for row in (row for limit in limits for row in limit.rows(lengths, len(lengths))):
                held = _held(row.kind, row.values)
                alone_in_it = batch.samples == 1 and way.options["too_long"] == "alone"
                assert held <= max(row.most.at(now), row.most.at(then)) * (1 + 1e-9) or alone_in_it
            steps, before = steps + 1, before + batch.samples
            given, tokens = given + batch.samples, tokens + batch.tokens


def _held(kind: str, values: Any) -> float:
    total, wide = float(values.sum()), len(values) * float(values.max())
    return {"packed": total, "padded": wide, "padding": wide - total}[kind]


@quick
@given(ways, st.sampled_from([1, 2, 3, buckets((10, 4), (30, 2)), buckets((8, 3), (26, 3))]))
def test_a_shape_that_is_fixed_is_one_of_so_many(number: int, given: int | Buckets) -> None:
    fixed = {"buckets": given, "budget": 40 if isinstance(given, int) else None, "batch_size": None}
    _, alone = planned(number, **fixed, pack=False, pool=None)
    for epoch in alone:
        shapes = {tuple(batch.values["x"].shape) for batch in epoch}
        if isinstance(given, int):
            assert len(shapes) <= given
            assert all(number * longest <= 40 for number, longest in shapes)
        else:
            assert shapes <= {(shape.number, shape.longest) for shape in given.shapes}


@quick
@given(ways)
def test_a_report_says_what_the_batches_hold(number: int) -> None:
    way, alone = planned(number)
    streams = ("x", "y") if way.two else ("x",)
    for epoch, told in zip(alone, reports(way), strict=True):
        assert (told.batches, told.samples) == (len(epoch), len(indices(epoch)))
        assert told.frames == {name: sum(batch.frames[name] for batch in epoch) for name in streams}
        if not way.options.get("pack"):
            assert told.cells == {name: sum(batch.values[name].numel() for batch in epoch) for name in streams}
            assert told.shapes == len({tuple(batch.values[name].shape for name in streams) for batch in epoch})
        if way.options["too_long"] != "alone":
            assert told.fill <= 1 + 1e-9


# ------------------------------------------------------------------------------------------------------------- chance


@quick
@given(st.sampled_from(["strata", "random", "laplace:4", "sort_bin_shuffle:3", "pools:20"]), st.integers(0, 2**70))
def test_two_epochs_differ_and_two_seeds_and_one_seed_agrees_with_itself(order: str, seed: int) -> None:
    data = Data(samples([3 + number % 19 for number in range(60)]), budget=60, order=order)
    one, two = (list(data.batches(Cursor(epoch, 0), epochs=1, seed=seed)) for epoch in (0, 1))
    other = list(data.batches(epochs=1, seed=seed + 1))
    again = list(data.batches(epochs=1, seed=seed))
    assert indices(one) == indices(again)
    assert indices(one) != indices(two)
    assert indices(one) != indices(other)


# -------------------------------------------------------------------------------------------------------------- ranks


@quick
@given(ways, st.integers(1, 4))
def test_ranks_share_every_batch(number: int, ranks: int) -> None:
    way, alone = planned(number)
    for epoch in (0, 2):
        shares = [
            list(way.data().batches(Cursor(epoch, 0), epochs=1, seed=way.seed, rank=rank, ranks=ranks))
            for rank in range(ranks)
        ]
        assert {len(share) for share in shares} == {len(alone[epoch])}
        for whole, *parts in zip(alone[epoch], *shares, strict=True):
            assert sorted(indices(parts)) == sorted(indices([whole]))
            assert sum(part.samples for part in parts) == whole.samples
            assert sum(part.tokens for part in parts) == whole.tokens
            assert {(part.all_samples, part.all_tokens) for part in parts} == {(whole.samples, whole.tokens)}
            assert {(part.cursor, part.next, part.progress_epoch) for part in parts} == {
                (whole.cursor, whole.next, whole.progress_epoch)
            }
            found = sorted(row for part in parts for row in rows(part)[: part.samples])
            assert found == sorted(rows(whole)[: whole.samples])


@quick
@given(ways, st.integers(2, 4))
def test_shares_differ_by_at_most_the_longest(number: int, ranks: int) -> None:
    # Where shapes are fixed every rank has rows of its own to fill, whatever they cost.
    way, alone = planned(number)
    assume("buckets" not in way.options)
    shares = [list(way.data().batches(epochs=1, seed=way.seed, rank=rank, ranks=ranks)) for rank in range(ranks)]
    for whole, *parts in zip(alone[0], *shares, strict=True):
        frames = [part.tokens for part in parts]
        assert max(frames) - min(frames) <= max(map(len, rows(whole)))


# ----------------------------------------------------------------------------------------------------- who reads them


class Noisy(torch.utils.data.Dataset[Any]):
    """The same samples read by number, with chance in each and some that cannot be read."""

    def __init__(self, lengths: list[int], bad: tuple[int, ...] = ()) -> None:
        self.lengths_of, self.bad = lengths, bad

    def __len__(self) -> int:
        return len(self.lengths_of)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number in self.bad:
            raise OSError("a scratch")
        return {**sample(number, self.lengths_of[number]), "noise": torch.rand(()), "more": np.random.rand()}


def reading(way: Way, bad: tuple[int, ...] = ()) -> Data:
    way.two = False
    skip = "skip" if bad else "raise"
    return Data(Noisy(way.lengths, bad), lengths={"x": way.lengths}, unreadable=skip, **way.options)


@quick
@given(ways)
def test_read_by_number_or_in_memory(number: int) -> None:
    way = Way(number, chunk=None)
    way.two = False
    try:
        memory = list(way.data().batches(epochs=2, seed=way.seed))
    except REFUSED:
        assume(False)
    read = list(reading(way).batches(epochs=2, seed=way.seed))
    for one, two in zip(memory, read, strict=True):
        assert seen(one)[1:] == seen(two)[1:]
        assert all(one.values[name].equal(two.values[name]) for name in one.values)


@settings(max_examples=examples(3), deadline=None)
@given(ways, places)
def test_workers_change_nothing(number: int, place: int) -> None:
    way = Way(number, chunk=None)
    try:
        expected = [seen(batch) for batch in reading(way).batches(epochs=2, seed=way.seed)]
    except REFUSED:
        assume(False)
    place %= len(expected)
    for workers in (1, 2):
        batches = reading(way).batches(expected[place][3], epochs=2, seed=way.seed, workers=workers)
        assert [seen(batch) for batch in islice(batches, len(expected) - place)] == expected[place:]


@quick
@given(ways, st.sets(st.integers(0, 44), min_size=1, max_size=12), st.integers(1, 3))
def test_what_cannot_be_read_is_left_out_and_counted(number: int, bad: set[int], ranks: int) -> None:
    way, alone = planned(number, chunk=None, keep=None)
    assume(not way.two)
    readable = [[index for index in indices([batch]) if index not in bad] for batch in alone[0]]
    assume(any(readable))
    data = reading(way, tuple(bad))
    shares = [Flow(data, seed=way.seed, rank=rank, ranks=ranks) for rank in range(ranks)]
    found = [list(flow.batches(epochs=1)) for flow in shares]
    assert [sorted(indices(list(parts))) for parts in zip(*found, strict=True)] == [
        sorted(own) for own in readable if own
    ]
    for parts in zip(*found, strict=True):
        for part in parts:
            assert part.tokens == sum(way.lengths[index] for index in indices([part]))
    lost = sum(index in bad for index in indices(alone[0]))
    assert sum(flow.report(0).unreadable for flow in shares) == lost  # type: ignore[union-attr]
    assert found[0][-1].next == Cursor(1, 0)


@quick
@given(ways, st.sets(st.integers(0, 44), min_size=1, max_size=12), places)
def test_a_place_among_unreadable_samples_is_found_again_with_its_count(number: int, bad: set[int], place: int) -> None:
    way, alone = planned(number, chunk=None, keep=None)
    assume(not way.two)
    assume(any(index not in bad for index in indices(alone[0])))
    flow = Flow(reading(way, tuple(bad)), seed=way.seed)
    batches = list(flow.batches(epochs=1))
    place %= len(batches)
    half = Flow(reading(way, tuple(bad)), seed=way.seed)
    passed = list(islice(half.batches(epochs=1), place + 1))[-1]
    again = Flow(reading(way, tuple(bad)), seed=way.seed)
    if passed.next.epoch:
        return
    again.load(passed.next, half.state(passed.next))
    assert [seen(batch) for batch in again.batches(passed.next, epochs=1)] == [seen(b) for b in batches[place + 1 :]]
    assert again.report(0) == flow.report(0)


# ---------------------------------------------------------------------------------------------------- read forward


@quick
@given(ways)
def test_what_is_read_forward_comes_in_the_batches_that_would_be_planned(number: int) -> None:
    way = Way(number, order="in_order", select=None, subepochs=1)
    assume(way.budget not in ("by epoch", "a schedule"))  # nobody knows how much of an epoch is over
    assume(way.options.get("shuffle_batches") is not True and not isinstance(way.options.get("buckets"), int))
    whole = way.samples()

    def passing() -> Iterator[Any]:
        yield from whole

    streams = ("x", "y") if way.two else ("x",)
    try:
        ahead = Data(passing, lengths=streams, **way.options)
        expected = list(Data(whole, lengths=streams, **way.options).batches(epochs=1, seed=way.seed))
    except REFUSED:
        assume(False)
    found = list(ahead.batches(epochs=1, seed=way.seed))
    assert [rows(batch) for batch in found] == [rows(batch) for batch in expected]
    assert [batch.tokens for batch in found] == [batch.tokens for batch in expected]


@pytest.mark.filterwarnings("ignore:.*can only be read forward")
@quick
@given(ways, places)
def test_a_place_in_what_is_read_forward_is_found_again(number: int, place: int) -> None:
    way = Way(number, order=pools(5), select=None, subepochs=1)
    streams = ("x", "y") if way.two else ("x",)

    def made() -> Flow:
        data = Data(lambda: iter(way.samples()), lengths=streams, **way.options)
        return Flow(data, seed=way.seed)

    try:
        replayed = list(made().batches(epochs=2))
    except REFUSED:
        assume(False)
    place %= len(replayed)
    half = made()
    passed = list(islice(half.batches(epochs=2), place + 1))[-1]
    assume(passed.next.epoch < 2)
    again = made()
    again.load(passed.next, half.state(passed.next))
    rest = again.batches(passed.next, epochs=2 - passed.next.epoch)
    assert [seen(batch) for batch in rest] == [seen(batch) for batch in replayed[place + 1 :]]
    whole = made()
    assert list(whole.batches(epochs=2))
    assert again.report(1) == whole.report(1)


@quick
@given(ways)
def test_what_is_put_around_samples_changes_nothing(number: int) -> None:
    way, alone = planned(number, chunk=None)
    assume(not way.two)
    plain = Noisy(way.lengths)
    for around in (cached(plain), mapped(plain, dict)):
        try:
            data = Data(around, lengths={"x": way.lengths}, **way.options)
        except DataError:
            assume(False)
        assert indices(list(data.batches(epochs=1, seed=way.seed))) == indices(alone[0])
