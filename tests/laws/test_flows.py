"""Laws of the data: the order is pure, an epoch is a partition, a place found is a place reached."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from effort import examples
from etude.data.chance import item_key
from etude.data.cursor import Cursor
from etude.data.flow import Flow
from etude.data.order import division, permutation
from etude.data.source import source, split_validation

quick = settings(max_examples=examples(40), deadline=None)
counts = st.integers(1, 40)
sizes = st.integers(1, 12)
seeds = st.integers(0, 2**80)
epochs = st.integers(0, 4)


class Noisy(Dataset[Any]):
    """Items that draw from all three generators."""

    def __init__(self, items: int) -> None:
        self.items = items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "torch": torch.rand(()), "numpy": np.random.rand(), "python": random.random()}


class Stream(IterableDataset[Any]):
    """A stream whose length and items change with the epoch."""

    def __init__(self, items: int) -> None:
        self.items, self.epoch = items, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        for n in range(self.items + self.epoch):
            yield torch.tensor([float(n)]), torch.rand(()), random.random()


def noise(epoch: int) -> Iterator[Any]:
    while True:
        yield torch.rand(epoch + 1, 2), np.random.rand(epoch + 1)


def _arrays(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(2.0 * n).reshape(n, 2), torch.arange(n)


def _flow(kind: str, n: int, size: int, seed: int) -> Flow:
    """A flow of each kind there is."""
    if kind == "arrays":
        return Flow(_arrays(n), batch_size=size, seed=seed)
    if kind == "part":
        return Flow(split_validation(source(_arrays(n + 1)), 0.4, seed)[0], batch_size=size, seed=seed)
    if kind == "items":
        return Flow(Noisy(n), batch_size=size, seed=seed)
    if kind == "stream":
        return Flow(Stream(n), batch_size=size, seed=seed)
    if kind == "function":
        return Flow(source(noise, round_length=n), seed=seed)
    own = torch.Generator().manual_seed(seed % 2**60) if kind == "loader with a generator" else None
    return Flow(DataLoader(TensorDataset(*_arrays(n)), batch_size=size, shuffle=True, generator=own), seed=seed)


kinds = st.sampled_from(["arrays", "part", "items", "stream", "function", "loader", "loader with a generator"])


def _seen(batches: Iterator[Any]) -> list[Any]:
    """All that a batch says, comparable."""

    def plain(values: Any) -> Any:
        return {k: v.tolist() for k, v in values.items()} if isinstance(values, dict) else [v.tolist() for v in values]

    return [
        (plain(b.values), b.samples, b.tokens, b.cursor, b.next, b.last, b.progress_epoch,
         None if b.indices is None else b.indices.tolist())
        for b in batches
    ]  # fmt: skip


@quick
@given(counts, seeds, epochs)
def test_the_order_is_pure(n: int, seed: int, epoch: int) -> None:
    before = permutation(n, seed, epoch)
    np.random.rand()
    permutation(n, seed, epoch + 1)
    assert permutation(n, seed, epoch).equal(before)
    assert item_key(seed, epoch, n) == item_key(seed, epoch, n)
    assert division(n, seed).equal(division(n, seed))


@quick
@given(counts, sizes, seeds, epochs, st.booleans(), st.booleans(), st.sampled_from(["arrays", "part", "items"]))
def test_an_epoch_is_a_partition_of_the_samples(
    n: int, size: int, seed: int, epoch: int, shuffle: bool, drop_last: bool, kind: str
) -> None:
    whole = _flow(kind, n, size, seed).source
    assert whole.length is not None
    flow = Flow(whole, batch_size=size, shuffle=shuffle, seed=seed, drop_last=drop_last and size <= whole.length)
    batches = list(flow.batches(Cursor(epoch, 0), epochs=1))
    found = [index for batch in batches for index in batch.indices.tolist()]  # type: ignore[union-attr]
    allowed = range(n) if whole.indices is None else whole.indices.tolist()  # type: ignore[attr-defined]
    assert len(found) == len(set(found)) == flow.samples
    assert set(found) <= set(allowed)
    assert flow.samples == whole.length or drop_last
    assert len(batches) == flow.batches_per_epoch
    assert [batch.last for batch in batches] == [False] * (len(batches) - 1) + [True]
    assert all(batch.samples == len(batch.indices) for batch in batches)  # type: ignore[arg-type]


@quick
@given(kinds, st.integers(1, 12), sizes, seeds, st.integers(0, 20))
def test_a_place_found_is_a_place_reached(kind: str, n: int, size: int, seed: int, skipped: int) -> None:
    replayed = list(islice(_flow(kind, n, size, seed).batches(), skipped + 3))
    place = replayed[skipped].cursor
    fresh = _flow(kind, n, size, seed)
    expected = _seen(iter(replayed[skipped:]))
    assert _seen(islice(fresh.batches(place), 3)) == expected
    assert _seen(islice(fresh.batches(place), 3)) == expected


@quick
@given(kinds, st.integers(1, 12), sizes, seeds)
def test_each_batch_is_followed_by_the_next(kind: str, n: int, size: int, seed: int) -> None:
    batches = list(_flow(kind, n, size, seed).batches(epochs=3))
    assert batches[0].cursor == Cursor()
    assert [batch.cursor for batch in batches[1:]] == [batch.next for batch in batches[:-1]]
    assert batches[-1].next == Cursor(3, 0)
    assert batches[-1].progress_epoch == 3
    assert all(0 <= b.progress_epoch - a.progress_epoch <= 1 for a, b in pairwise(batches))


@quick
@given(kinds, st.integers(1, 12), sizes, seeds)
def test_reading_leaves_the_generators_of_the_process_alone(kind: str, n: int, size: int, seed: int) -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]

    before = states()
    flow = _flow(kind, n, size, seed)
    for _ in islice(flow.batches(), 4):
        assert states() == before


@quick
@given(counts, sizes, seeds, st.integers(1, 2000), st.sampled_from(["arrays", "part"]))
def test_the_chunk_changes_nothing(n: int, size: int, seed: int, chunk: int, kind: str) -> None:
    whole = _flow(kind, n, size, seed).source
    expected = _seen(Flow(whole, batch_size=size, seed=seed).batches(epochs=2))
    assert _seen(Flow(whole, batch_size=size, seed=seed, chunk=chunk).batches(epochs=2)) == expected


@quick
@given(st.integers(1, 12), sizes, sizes, seeds)
def test_the_batch_size_changes_no_item(n: int, one: int, two: int, seed: int) -> None:
    def items(size: int) -> list[Any]:
        batches = Flow(Noisy(n), batch_size=size, seed=seed).batches(epochs=1)
        return [row for b in batches for row in zip(*(value.tolist() for value in b.values.values()), strict=True)]

    assert items(one) == items(two)


@settings(max_examples=examples(2), deadline=None)
@given(seeds, st.integers(0, 3))
def test_workers_change_nothing(seed: int, batch: int) -> None:
    expected = _seen(Flow(Noisy(13), batch_size=3, seed=seed).batches(Cursor(1, batch), epochs=2))
    for workers in (1, 2):
        flow = Flow(Noisy(13), batch_size=3, seed=seed, workers=workers)
        assert _seen(flow.batches(Cursor(1, batch), epochs=2)) == expected


@quick
@given(st.integers(2, 60), st.floats(0.01, 0.6), seeds)
def test_a_split_is_a_partition(n: int, fraction: float, seed: int) -> None:
    parts = split_validation(source(torch.arange(n)), fraction, seed)
    found = [index for part in parts for index in part.indices.tolist()]  # type: ignore[attr-defined]
    assert sorted(found) == list(range(n))
    assert all(part.length for part in parts)
