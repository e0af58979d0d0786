"""Batches of what is read forward: those that a plan of the same order has, with little in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import Progress
from etude.data.arriving import Measure
from etude.data.filtered import filtered
from etude.data.joining import Joining
from etude.data.mapped import mapped
from etude.data.plan.arrangements import InOrder, Order
from etude.data.plan.batching import Batching
from etude.data.plan.buckets import buckets
from etude.data.plan.budgets import budget, cost, packed, padded, padding, samples
from etude.data.plan.chunks import chunk
from etude.data.plan.filters import dropped, keep, length, shortest
from etude.data.plan.lengths import Lengths
from etude.data.plan.limits import Limit
from etude.data.plan.orders import laplace_stream, order
from etude.data.plan.planner import Planner
from etude.data.plan.selection import weighted
from etude.data.plan.table import Samples
from etude.data.streaming import Pass, Streamed, Streaming
from etude.errors import DataError
from etude.values.schedule import Schedule, schedule

SPEECH = np.random.default_rng(0).lognormal(3, 0.7, 200).astype(int) + 1


class Recordings:
    """Samples of two streams, the second a third as long; counts what was read."""

    def __init__(self, lengths: Any = SPEECH, short: int = 3) -> None:
        self.lengths = list(map(int, lengths))
        self.short = short
        self.read = 0

    def __call__(self) -> Iterator[dict[str, Any]]:
        for number, frames in enumerate(self.lengths):
            self.read += 1
            yield {
                "x": torch.arange(frames) + 1000 * number,
                "y": np.full(-(-frames // self.short), number),
                "id": number,
            }

    def known(self) -> Lengths:
        x = np.array(self.lengths, np.int64)
        return Lengths({"x": x, "y": -(-x // self.short)})


def batching(limits: Any = 500, order: Order = InOrder(), **options: Any) -> Batching:  # noqa: B008
    return Batching(order, budget(limits) if limits is not None else (), **options)


def streaming(source: Any, given: Batching, **options: Any) -> Streaming:
    join = options.pop("join", Joining(("x", "y")).join)
    return Streaming(source, given, join, options.pop("measure", Measure({"x": None, "y": None})), **options)


def shown(wanted: Any) -> tuple[Any, ...]:
    """What a batch is made of, as Python compares it."""
    windows = {name: (starts.tolist(), stops.tolist()) for name, (starts, stops) in wanted.windows.items()}
    return wanted.samples.tolist(), windows, dict(wanted.to), wanted.rows


def streamed(data: Recordings, given: Batching, epoch: int = 0, **options: Any) -> tuple[list[Any], dict[str, int]]:
    passing = streaming(data, given, **options).read(epoch)
    return [shown(batch.wanted) for batch in passing], dict(passing.left_out)


def planned(data: Recordings, given: Batching, epoch: int = 0, seed: int = 0) -> tuple[list[Any], dict[str, int]]:
    lengths = data.known()
    made = Planner(Samples(len(lengths), lengths), given, seed).epoch(epoch)
    return [shown(made.wanted(batch)) for batch in range(made.batches)], dict(made.left_out)


LIMITS: list[Any] = [
    500,
    {"y": 120},
    packed(400),
    packed(x=400, y=90),
    padding(60),
    samples(7),
    [padded(600), samples(9)],
    cost(lambda lengths: lengths["x"] ** 2, 20_000.0),
    cost(lambda lengths: lengths["x"] * lengths["y"] / 7, 2_000.0, padded=True),
]


@pytest.mark.parametrize("limits", LIMITS, ids=repr)
@pytest.mark.parametrize("too_long", ["alone", "drop"])
def test_budgets_cut_as_they_cut_a_plan(limits: Any, too_long: str) -> None:
    data = Recordings()
    given = batching(limits, too_long=too_long)
    assert streamed(data, given) == planned(data, given)


OPTIONS: list[dict[str, Any]] = [
    {"filters": keep(length(most={"x": 40}))},
    {"filters": keep([length(least=10), lambda lengths: lengths["y"] % 2 == 0])},
    {"filters": keep([length(least=10), dropped(0.3)])},
    {"filters": keep([dropped(0.3), dropped(0.5)])},
    {"filters": keep({range(2): length(most=30)})},
    {"filters": keep(schedule(lambda progress: length(most=20 + 20 * progress.epoch)))},
    {"chunk": chunk({"x": 12, "y": 4})},
    {"chunk": chunk({"x": 12, "y": 4}, step={"x": 6, "y": 2}, least=5)},
    {"chunk": chunk({"x": 12, "y": 4}, jitter=True, variance=0.3, unlabelled="skip")},
    {"chunk": chunk({"x": 9}), "filters": keep(dropped(0.5))},
    {"blocks": 4},
    {"blocks": 3, "chunk": chunk({"x": 12, "y": 4})},
    {"repeat": 2, "filters": keep(dropped(0.4))},
    {"pack": "first_fit", "pool": 32, "limits": packed(x=300)},
    {"pack": "first_fit", "pool": 20, "limits": [packed(x=80), samples(5)], "too_long": "drop"},
    {"buckets": buckets((10, 8), (20, 5), (45, 3)), "limits": None},
    {"buckets": buckets((10, 8), (20, 5), (45, 3)), "limits": None, "drop_last": True},
    {"limits": samples(9), "drop_last": True},
    {"limits": 60, "too_long": "drop", "chunk": chunk({"x": 100})},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options))
@pytest.mark.parametrize("epoch", [0, 3])
def test_every_option_does_what_it_does_to_a_plan(options: dict[str, Any], epoch: int) -> None:
    data = Recordings()
    given = batching(options.get("limits", 500), **{name: each for name, each in options.items() if name != "limits"})
    assert streamed(data, given, epoch, seed=5) == planned(data, given, epoch, seed=5)


def test_frames_strung_together_are_cut_as_in_a_plan() -> None:
    data = Recordings(short=1)
    given = batching(packed(x=150), pack="strung")
    assert streamed(data, given) == planned(data, given)
    passing = streaming(data, given, join=Joining(("x", "y"), packed=True).join).read(0)
    frames = torch.cat([batch.values["x"] for batch in passing])
    assert torch.equal(frames, torch.cat([sample["x"] for sample in data()]))


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=60),
    st.integers(1, 120),
    st.sampled_from(["padded", "packed"]),
    st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_any_lengths_give_the_batches_of_a_plan(lengths: list[int], most: int, kind: str, number: int) -> None:
    data = Recordings(lengths)
    limits: list[Limit] = [padded(most) if kind == "padded" else packed(most)] + ([samples(number)] if number else [])
    assert streamed(data, batching(limits)) == planned(data, batching(limits))


@pytest.mark.parametrize(("said", "size"), [("laplace:.20", 20), ("pools:16", 16)])
def test_bins_of_what_has_arrived_are_sorted(said: str, size: int) -> None:
    data = Recordings()
    if said.startswith("laplace"):
        arranged = list(laplace_stream(range(200), size, lambda number: data.lengths[number]))
    else:
        pools = [range(at, min(at + size, 200)) for at in range(0, 200, size)]
        arranged = [number for pool in pools for number in sorted(pool, key=lambda each: data.lengths[each])]
    made, _ = streamed(data, batching(order=order(said)))
    expected, _ = planned(Recordings([data.lengths[number] for number in arranged]), batching())
    assert [rows for rows, *_ in made] == [[arranged[place] for place in rows] for rows, *_ in expected]


def test_budgets_that_change_are_those_of_the_beginning_of_a_batch() -> None:
    growing = schedule(lambda progress: 100 + 2 * progress.samples)
    data = Recordings()
    limits = batching(padded(x=growing))
    moments: list[tuple[int, int, int]] = []

    def moment(batch: int, units: int, frames: int) -> Progress:
        moments.append((batch, units, frames))
        return Progress(batch, units / 200, units, frames)

    passing = streaming(data, limits).read(0, Progress(), moment)
    assert [shown(batch.wanted) for batch in passing] == planned(data, limits)[0]
    frames = np.concatenate([[0], np.cumsum(data.lengths)])
    assert all(frames[units] == told for _, units, told in moments)


def test_limits_that_need_more_than_the_epoch_say_so() -> None:
    growing: Schedule = schedule(lambda progress: 100 + progress.amount("steps"))
    with pytest.raises(Exception, match="steps"):
        next(streaming(Recordings(), batching(padded(x=growing))).read(1))


def test_values_are_joined_with_windows_and_shapes() -> None:
    data = Recordings([5, 2])
    first, second = streaming(data, batching(samples(2), chunk=chunk({"x": 3, "y": 1}))).read(0)
    assert first.values["x"].tolist() == [[0, 1, 2], [3, 4, 0]]
    assert first.values["x_lengths"].tolist() == [3, 2]
    assert first.values["y"].tolist() == [[0], [0]]
    assert second.values["x"].tolist() == [[1000, 1001]]
    assert first.lengths is not None
    assert {name: own.tolist() for name, own in first.lengths.streams.items()} == {"x": [3, 2], "y": [1, 1]}
    (filled,) = streaming(data, batching(None, buckets=buckets((6, 3)))).read(0)
    assert filled.values["x"].shape == (3, 6)
    assert filled.values["x_lengths"].tolist() == [5, 2, 0]


def test_samples_without_streams_are_stacked() -> None:
    numbers = Streaming(lambda: iter(range(5)), batching(samples(2)), Joining(()).join)
    batches = list(numbers.read(0))
    assert [batch.values.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert batches[0].lengths is None


def test_no_more_is_read_than_the_batch_needs() -> None:
    data = Recordings([10] * 100)
    passing = streaming(data, batching(50)).read(0)
    next(passing)
    assert data.read == 6
    data = Recordings([10] * 100)
    next(streaming(data, batching(50, order("laplace:.20"))).read(0))
    assert data.read == 20
    data = Recordings([10] * 100)
    next(streaming(data, batching(50), buffer=30).read(0))
    assert data.read == 30 + 6


def test_passing_over_batches_gives_the_rest_and_joins_none_of_them() -> None:
    joined: list[int] = []

    def join(items: Any, wanted: Any) -> list[int]:
        joined.append(len(items))
        return [item["id"] for item in items]

    setting = streaming(Recordings(), batching(chunk=chunk({"x": 12, "y": 4}), blocks=3), join=join)
    whole = [batch.values for batch in setting.read(1)]
    joined.clear()
    assert [batch.values for batch in setting.read(1, passed=4)] == whole[4:]
    assert len(joined) == len(whole) - 4


def test_a_buffer_shuffles_by_seed_and_epoch() -> None:
    def read(epoch: int, seed: int) -> list[int]:
        setting = streaming(Recordings(), batching(), buffer=50, seed=seed)
        return [number for batch in setting.read(epoch) for number in batch.wanted.samples.tolist()]

    assert sorted(read(0, 0)) == list(range(200))
    assert read(2, 1) == read(2, 1)
    assert len({tuple(read(epoch, seed)) for epoch in (0, 1) for seed in (0, 1)}) == 4


def test_chance_in_a_sample_depends_on_seed_epoch_and_its_number() -> None:
    def noisy() -> Iterator[dict[str, Any]]:
        for number in range(20):
            yield {"id": number, "noise": torch.rand(1) + np.random.rand() + random.random()}

    def read(given: Batching, epoch: int = 0, **options: Any) -> dict[int, float]:
        setting = Streaming(noisy, given, Joining(()).join, **options)
        rows = [row for batch in setting.read(epoch) for row in zip(*batch.values.values(), strict=True)]
        return {int(number): float(noise) for number, noise in rows}

    torch.manual_seed(0)
    first = read(batching(samples(3)))
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index,union-attr]
    assert first == read(batching(samples(7))) == read(batching(samples(2)), buffer=10)
    assert len(set(first.values())) == 20
    assert first != read(batching(samples(3)), epoch=1)
    assert first != read(batching(samples(3)), seed=1)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index,union-attr]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_what_a_filtered_stream_left_out_is_told_too() -> None:
    def even(sample: dict[str, Any]) -> bool:
        return sample["id"] % 2 == 0

    source = filtered(Recordings([4, 5, 6, 7, 8]), even)
    passing = streaming(source, batching(filters=keep(length(most={"x": 7})))).read(0)
    list(passing)
    assert passing.left_out == {"samples by even": 2, "samples by length(most={'x': 7})": 1}


def test_frames_in_no_chunk_are_counted() -> None:
    passing = streaming(Recordings([10, 3]), batching(chunk=chunk({"x": 3, "y": 1}, step={"x": 6, "y": 2}))).read(0)
    list(passing)
    assert passing.lost == {"x": 10 - 6, "y": 2}


# ------------------------------------------------------------------------------------------------- unreadable samples


def failing(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["id"] in (2, 3):
        raise OSError("bad sector")
    return sample


def test_a_sample_that_cannot_be_read_is_named() -> None:
    passing = streaming(mapped(Recordings([4] * 6), failing), batching(samples(2))).read(0)
    assert next(passing).values["id"].tolist() == [0, 1]
    with pytest.raises(
        DataError, match=r"Sample 2 of epoch 0 of mapped\(.*\) cannot be read: OSError: bad sector"
    ) as told:
        next(passing)
    assert isinstance(told.value.__cause__, OSError)


def test_samples_that_cannot_be_read_can_be_left_out_and_are_counted() -> None:
    passing = streaming(mapped(Recordings([4] * 6), failing), batching(samples(2)), skip=True).read(0)
    assert [batch.values["id"].tolist() for batch in passing] == [[0, 1], [4, 5]]
    assert passing.left_out == {"samples that cannot be read": 2}


def test_a_generator_that_fails_is_over_and_that_is_told() -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield {"x": torch.zeros(1), "y": torch.zeros(1)}
        raise OSError("bad sector")

    passing = streaming(broken, batching(samples(1)), skip=True).read(0)
    next(passing)
    with pytest.raises(DataError, match="The stream ended with it, so the rest cannot be read"):
        next(passing)


def test_a_stream_that_always_fails_ends() -> None:
    def never(sample: Any) -> Any:
        raise OSError("no network")

    endless = mapped(lambda: iter(int, 1), never)
    with pytest.raises(DataError, match=r"Sample 99 of epoch 0 .* no network"):
        next(streaming(endless, batching(samples(1)), skip=True).read(0))


# ----------------------------------------------------------------------------------------------------------- refusals


def first(given: Batching, lengths: Any = (4, 30, 5), **options: Any) -> Streamed:
    source = options.pop("source", Recordings(lengths))
    return next(streaming(source, given, **options).read(options.pop("epoch", 0)))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: first(batching(order=order("random"))),
            "order=random() needs to see all samples first. Write",
        ),
        (lambda: first(batching(order=order("laplace:5"))), "needs to see all samples first"),
        (
            lambda: first(batching(filters=keep(shortest(0.5)))),
            "keep=shortest(0.5) compares all samples. Write",
        ),
        (lambda: first(batching(filters=keep({0: shortest(0.5)}))), "compares all samples"),
        (
            lambda: first(batching(filters=keep(schedule(lambda progress: shortest(0.5))))),
            "keep=shortest(0.5) in epoch 0 compares all samples, and these come one by one",
        ),
        (lambda: first(batching(selection=weighted([1, 2]))), "chooses among all samples. Mix streams with"),
        (lambda: first(batching(subepochs=2)), "subepochs=2 divides all samples. Write round_length"),
        (lambda: first(batching(blocks=None)), "Shuffle within blocks of so many: shuffle_batches=100"),
        (lambda: first(batching(buckets=3)), "buckets=3 are chosen by all lengths. Write buckets((400, 64)"),
        (lambda: first(batching(packed(9), pack="first_fit")), "would hold all samples. Write pool=1000"),
        (
            lambda: first(batching(packed(schedule(lambda p: 9)), pack="first_fit", pool=9)),
            "pack='first_fit' needs a budget that stays the same",
        ),
        (lambda: first(batching(None)), "nothing limits a batch. Write batch_size=32 or budget=32_000"),
        (lambda: first(batching(9, drop_last=True)), "drop_last=True needs a number of samples that fill a batch"),
        (lambda: first(batching(9), measure=Measure({})), "lengths are needed. Name the streams that have them"),
        (lambda: first(batching(9), measure=Measure({"z": None})), "Sample 0 has no stream 'z': it has 'x', 'y', 'id'"),
        (lambda: first(batching(9), measure=Measure({"xx": None})), 'Nearest: "x"'),
        (lambda: first(batching(9), measure=Measure({"id": None})), "has int 0 for 'id', which has no length"),
        (
            lambda: first(batching(9), measure=Measure({"x": lambda sample: 7})),
            "The length function of 'x' says 7 for sample 0, which has 4 frames of it",
        ),
        (
            lambda: first(batching(9), measure=Measure({"x": lambda sample: 0.5})),
            "The length function of 'x' gave float 0.5 for sample 0. A length is a whole number",
        ),
        (lambda: first(batching({"z": 9})), "there is no stream 'z'"),
        (lambda: first(batching(20, too_long="error"), [4, 30]), "sample 1 has 30 where a batch may hold 20"),
        (
            lambda: first(batching(2, too_long="error", chunk=chunk({"x": 3, "y": 1}))),
            "a chunk of sample 0 has 3 where a batch may hold 2",
        ),
        (lambda: first(batching(2, too_long="drop")), "Epoch 0 of Recordings has no batch: nothing is left"),
        (lambda: first(batching(2, too_long="drop")), "(left out: 3 samples beyond the budget)"),
        (lambda: first(batching(2), []), "Epoch 0 of Recordings has no batch: nothing came"),
        (
            lambda: first(batching(None, buckets=buckets((5, 2)), too_long="error")),
            "Sample 1 has length 30, and the longest bucket is for 5",
        ),
        (lambda: first(batching(packed(x=9), pack="strung")), "pack='strung' cuts sample 0 anywhere, and its streams"),
        (
            lambda: first(batching(chunk=chunk({"x": 4, "y": 1}))),
            "sample 0 has unequal numbers of chunks: 1 in 'x' (length 4) and 2 in 'y' (length 2)",
        ),
    ],
)
def test_what_cannot_be_is_told(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(DataError) as caught:
        make()
    assert told in str(caught.value)


def test_measures_of_named_tuples_get_their_parts_by_name() -> None:
    source = [(np.zeros(4), 7), (np.zeros(2), 8)]
    measure = Measure({"x": lambda sample: len(sample["x"])}, ("x", "label"))
    setting = Streaming(lambda: iter(source), batching(8), Joining(("x",), names=("x", "label")).join, measure)
    (batch,) = setting.read(0)
    assert batch.values["x_lengths"].tolist() == [4, 2]
    assert Measure({"0": None}).of((np.zeros(3),), 0) == {"0": 3}
    assert Measure({"tokens": lambda text: len(text.split())}).of("a b c", 0) == {"tokens": 3}


def test_a_pass_is_an_iterator() -> None:
    passing = streaming(Recordings(), batching()).read(0)
    assert isinstance(passing, Pass)
    assert iter(passing) is passing
