"""Laws of units: ranks partition a batch, chunks cover a sample, parts go round whole, filters are pure."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from etude.data.plan.chunks import chunk, cut_chunks
from etude.data.plan.filters import apply, dropped, keep, mean_length, shortest
from etude.data.plan.lengths import lengths_of
from etude.data.plan.mixing import mixed
from etude.data.plan.shares import share, shares

quick = settings(max_examples=examples(40), deadline=None)
costs = st.lists(st.integers(0, 1000) | st.floats(0, 1e6), max_size=40).map(lambda made: np.array(made, np.float64))
ranks = st.integers(1, 9)
lengths = st.lists(st.integers(0, 60), min_size=1, max_size=30)
seeds = st.integers(0, 2**80)
epochs = st.integers(0, 4)


@quick
@given(costs, ranks)
def test_every_unit_is_on_exactly_one_rank(costs: np.ndarray, ranks: int) -> None:
    divided = [share(costs, rank, ranks) for rank in range(ranks)]
    assert sorted(np.concatenate(divided).tolist()) == list(range(len(costs)))
    assert [places.tolist() for places in divided] == [places.tolist() for places in shares(costs.copy(), ranks)]
    assert all((np.diff(places) > 0).all() for places in divided)


@quick
@given(costs, ranks)
def test_no_share_is_far_above_the_mean(costs: np.ndarray, ranks: int) -> None:
    loads = [costs[places].sum() for places in shares(costs, ranks)]
    # Where a unit went there was at most the mean of the others.
    bound = costs.sum() / ranks + costs.max(initial=0) * (1 - 1 / ranks)
    assert max(loads) <= bound * (1 + 1e-9)


@quick
@given(lengths, st.integers(1, 12), st.integers(1, 12), st.booleans(), st.booleans(), epochs, seeds)
def test_chunks_that_leave_no_gaps_cover_everything(
    lengths: list[int], size: int, step: int, stop_at_end: bool, jitter: bool, epoch: int, seed: int
) -> None:
    rule = chunk(max(size, step), min(size, step), stop_at_end=stop_at_end, jitter=jitter)
    made = cut_chunks(rule, lengths_of({"x": lengths}), epoch, seed)
    starts, stops = made.windows["x"]
    seen = [np.zeros(length, np.bool_) for length in lengths]
    for sample, start, stop in zip(made.sample, starts, stops, strict=True):
        assert 0 <= start < stop <= lengths[sample]
        assert stop - start <= max(size, step)
        seen[sample][start:stop] = True
    assert all(frames.all() for frames in seen)
    assert made.lost == {"x": 0}
    assert made.dropped == lengths.count(0)


@quick
@given(lengths, st.integers(1, 9), st.integers(1, 14), st.integers(0, 9), st.booleans(), seeds)
def test_lost_frames_are_those_in_no_chunk(
    lengths: list[int], size: int, step: int, least: int, jitter: bool, seed: int
) -> None:
    made = cut_chunks(chunk(size, step, min(least, size), jitter=jitter), lengths_of({"x": lengths}), seed=seed)
    seen = [np.zeros(length, np.bool_) for length in lengths]
    for sample, start, stop in zip(made.sample, *made.windows["x"], strict=True):
        seen[sample][start:stop] = True
    assert made.lost == {"x": sum(int((~frames).sum()) for frames in seen)}
    assert made.dropped == len(lengths) - len(set(made.sample.tolist()))


@quick
@given(lengths, st.integers(1, 5), st.integers(1, 6), st.integers(1, 8), st.integers(0, 7), st.booleans(), seeds)
def test_streams_divided_rounding_up_have_equally_many_chunks(
    lengths: list[int], factor: int, size: int, step: int, variance: int, jitter: bool, seed: int
) -> None:
    x = np.array(lengths)
    rule = chunk({"x": factor * size, "y": size}, {"x": factor * step, "y": step}, jitter=jitter, variance=variance / 8)
    made = cut_chunks(rule, lengths_of({"x": x, "y": -(-x // factor)}), seed=seed)
    assert (made.windows["x"][0] == factor * made.windows["y"][0]).all()
    assert (-(-made.lengths["x"] // factor) == made.lengths["y"]).all()


@quick
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data(), st.integers(1, 5), seeds)
def test_epochs_of_parts_go_on_where_the_last_one_ended(
    parts: list[int], data: st.DataObject, last: int, seed: int
) -> None:
    weights = data.draw(st.lists(st.integers(1, 4), min_size=len(parts), max_size=len(parts)))
    made, n = mixed(weights, number=20), sum(parts)
    row = np.concatenate([made.choose(n, epoch, seed, parts) for epoch in range(last)])
    counts = np.bincount(row, minlength=n)
    for first, size in zip(np.cumsum([0, *parts]), parts, strict=False):
        assert np.ptp(counts[first : first + size]) <= 1


@quick
@given(lengths, st.integers(1, 60), st.integers(1, 10), epochs, seeds)
def test_filters_keep_the_order_and_count_what_they_leave_out(
    lengths: list[int], most: int, tenths: int, epoch: int, seed: int
) -> None:
    filters = keep([mean_length(most + min(lengths)), shortest(tenths / 10)])
    samples = np.arange(len(lengths))[::-1]
    given_lengths = lengths_of({"x": np.array(lengths)[samples]})
    places, counts = apply(filters, samples, given_lengths, epoch=epoch, seed=seed)
    assert (np.diff(places) > 0).all()
    assert len(places) + sum(counts.values()) == len(lengths)
    assert given_lengths.lead[places].mean() <= most + min(lengths)
    left_out = np.delete(given_lengths.lead, places)
    assert left_out.min(initial=60) >= given_lengths.lead[places].max()


@quick
@given(st.integers(200, 400), st.floats(0, 0.9), epochs, seeds)
def test_what_is_dropped_depends_on_seed_and_epoch_alone(n: int, p: float, epoch: int, seed: int) -> None:
    first, again = (apply((dropped(p),), np.arange(n), epoch=epoch, seed=seed)[0] for _ in range(2))
    assert first.tolist() == again.tolist()
    assert abs(len(first) - n * (1 - p)) < 6 * np.sqrt(n)
