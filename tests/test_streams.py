"""Data read forward: how passes are opened, and what makes an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, RandomSampler, TensorDataset

from etude.data.streams import stream_of_batches, stream_of_items, stream_of_loader
from etude.errors import DataError

X = torch.arange(10)


class Rising(IterableDataset[Any]):
    """Numbers that begin at the epoch's own."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch, self.epoch + 4))


class Sized(Rising):
    def __len__(self) -> int:
        return 4


def test_data_are_told_which_epoch_begins() -> None:
    stream = stream_of_items(Rising(), False, None)
    assert (list(stream.open(0)), list(stream.open(3))) == ([0, 1, 2, 3], [3, 4, 5, 6])


def test_samplers_of_a_loader_are_told_which_epoch_begins() -> None:
    shards = DistributedSampler(X, num_replicas=2, rank=0, shuffle=True)  # type: ignore[arg-type]
    stream = stream_of_loader(DataLoader(TensorDataset(X), batch_size=5, sampler=shards), None)
    first, second, again = ([int(one) for (batch,) in stream.open(epoch) for one in batch] for epoch in (0, 1, 0))
    assert first == again != second


def test_a_length_is_believed_where_there_is_one() -> None:
    assert stream_of_items(Rising(), False, None).length is None
    assert stream_of_items(Sized(), False, None).length == 4


@pytest.mark.parametrize(("drop_last", "batches", "samples"), [(False, 4, 10), (True, 3, 9)])
def test_a_loader_states_its_batches_and_samples(drop_last: bool, batches: int, samples: int) -> None:
    stream = stream_of_loader(DataLoader(TensorDataset(X), batch_size=3, drop_last=drop_last), None)
    assert (stream.batched, stream.batches, stream.length) == (True, batches, samples)


def test_a_loader_of_an_unusual_kind_states_what_is_known() -> None:
    sampler = BatchSampler(RandomSampler(X), 4, False)
    assert stream_of_loader(DataLoader(TensorDataset(X), batch_sampler=sampler), None).length is None
    assert stream_of_loader(DataLoader(Sized(), batch_size=2), None).batches is None


def _orders(stream: Any, *epochs: int) -> list[list[int]]:
    return [[int(one) for (batch,) in stream.open(epoch) for one in batch] for epoch in epochs]


def test_a_loader_with_a_generator_of_its_own_keeps_its_order() -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(TensorDataset(X), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5))

    plain = loader()
    expected = [[int(one) for (batch,) in plain for one in batch] for _ in range(3)]
    assert _orders(stream_of_loader(loader(), None), 0, 1, 2) == expected
    assert _orders(stream_of_loader(loader(), None), 2, 0, 1) == [expected[2], expected[0], expected[1]]


def test_a_sampler_with_a_generator_of_its_own_keeps_its_order() -> None:
    sampler = RandomSampler(X, generator=torch.Generator().manual_seed(5))
    stream = stream_of_loader(DataLoader(TensorDataset(X), batch_size=4, sampler=sampler), None)
    third, first = _orders(stream, 2, 0)
    assert third != first
    assert _orders(stream, 0, 2) == [first, third]


def test_a_function_is_called_anew_for_each_epoch() -> None:
    def plain() -> Iterator[int]:
        yield from (1, 2)

    def by_epoch(epoch: int) -> Iterator[int]:
        yield from (epoch, epoch)

    def by_name(scale: int = 10, epoch: int = 0) -> list[int]:
        return [scale * epoch]

    assert [list(stream_of_batches(plain, 2).open(epoch)) for epoch in (0, 5)] == [[1, 2], [1, 2]]
    assert [list(stream_of_batches(by_epoch, 2).open(epoch)) for epoch in (0, 5)] == [[0, 0], [5, 5]]
    assert list(stream_of_batches(lambda: [1, 2], 2).open(0)) == [1, 2]


def test_batches_become_tensors() -> None:
    stream = stream_of_batches([()], None)
    x, (y, z), t = stream.batch([np.zeros((2, 3)), ([1, 2], [0.5, 1.5]), torch.zeros(2, dtype=torch.float64)])
    assert [one.dtype for one in (x, y, z, t)] == [torch.float32, torch.int64, torch.float32, torch.float64]
    assert stream.converted == ["0: float64 -> float32", "1.1: float64 -> float32"]


def test_items_are_joined_and_their_conversions_listed() -> None:
    stream = stream_of_items(Rising(), False, None)
    assert stream.joined([(1, 0.5), (2, 1.5)])[1].dtype == torch.float32
    assert stream.converted == ["1: float64 -> float32"]


def rounds() -> Iterator[int]:
    yield 1


def crossed(one: int, two: int) -> Iterator[int]:
    yield one + two


@pytest.mark.parametrize(
    ("data", "round_length", "message"),
    [
        (
            rounds,
            None,
            "The function rounds does not say how long an epoch is. Write round_length=n beside it, the number of "
            "batches that make an epoch.",
        ),
        (
            crossed,
            2,
            "The function crossed needs one, two; it is called with nothing or with the number of the epoch. Fill in "
            "the others with functools.partial or a lambda.",
        ),
        (set(), None, "The data are empty: set with 0 batches. Give at least one batch."),
    ],
)
def test_batches_that_cannot_be_read(data: Any, round_length: int | None, message: str) -> None:
    with pytest.raises(DataError) as caught:
        stream_of_batches(data, round_length)
    assert str(caught.value) == message


def test_a_loader_without_batches_is_refused() -> None:
    with pytest.raises(DataError, match=r"The data are empty: a DataLoader with 0 batches\. Give at least one batch\."):
        stream_of_loader(DataLoader(TensorDataset(X), batch_size=11, drop_last=True), None)


def test_a_function_that_gives_one_batch_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"The function <lambda> gave \(Tensor .* which is no iterator of batches\. Write"
    ):
        stream_of_batches(lambda: (torch.zeros(2), torch.zeros(2)), 3).open(0)
