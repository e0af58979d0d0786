"""Batches: their order, their place, and what a flow refuses."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from etude.data.batch import Batch
from etude.data.cursor import Cursor
from etude.data.flow import Flow
from etude.data.source import source, split_validation
from etude.errors import DataError

X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)


class Noisy(Dataset[Any]):
    """Items that draw from all three generators."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return index, torch.rand(2), np.random.rand(), random.random()


class Broken(Noisy):
    def __getitem__(self, index: int) -> Any:
        if index == 6:
            raise ValueError("torn page")
        return index


class Deadly(Noisy):
    """Ends the worker that reads item 6."""

    def __getitem__(self, index: int) -> Any:
        if index == 6:
            os._exit(3)
        return index


class Counter(IterableDataset[Any]):
    """Numbers from 0 on, with a length that may be wrong."""

    def __init__(self, items: int) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return ((torch.tensor([float(n)]), torch.rand(())) for n in range(self.items))


class Claimed(Counter):
    def __init__(self, items: int, claim: int) -> None:
        super().__init__(items)
        self.claim = claim

    def __len__(self) -> int:
        return self.claim


def noise(epoch: int) -> Iterator[Any]:
    for _ in range(3 + epoch):
        yield torch.rand(2, 3), np.random.rand(2)


def _labels(batches: Any) -> list[list[int]]:
    return [batch.values[1].tolist() for batch in batches]


# --- arrays -----------------------------------------------------------------------------------------------


def test_an_epoch_gives_each_sample_once_with_its_own_label() -> None:
    batches = list(Flow((X, Y), batch_size=4).batches(epochs=1))
    assert [batch.samples for batch in batches] == [4, 4, 2]
    assert sorted(chain(*_labels(batches))) == list(range(10))
    for batch in batches:
        x, y = batch.values
        assert x.equal(X[y])
        assert batch.indices is not None
        assert batch.indices.equal(y)


def test_each_batch_knows_its_place() -> None:
    batches = list(islice(Flow((X, Y), batch_size=4).batches(), 5))
    assert [batch.cursor for batch in batches] == [Cursor(0, 0), Cursor(0, 1), Cursor(0, 2), Cursor(1, 0), Cursor(1, 1)]
    assert [batch.next for batch in batches[:4]] == [batch.cursor for batch in batches[1:]]
    assert [batch.last for batch in batches] == [False, False, True, False, False]
    assert [batch.progress_epoch for batch in batches] == [1 / 3, 2 / 3, 1, 1 + 1 / 3, 1 + 2 / 3]


def test_batches_keep_the_form_of_the_data() -> None:
    assert isinstance(next(Flow(X, batch_size=2).batches()).values, Tensor)
    assert isinstance(next(Flow([X, Y], batch_size=2).batches()).values, tuple)
    assert list(next(Flow({"x": X, "y": Y}, batch_size=2).batches()).values) == ["x", "y"]


def test_data_in_their_own_order() -> None:
    assert _labels(Flow((X, Y), batch_size=4, shuffle=False).batches(epochs=1)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_new_order_for_each_epoch_and_seed() -> None:
    flow = Flow((X, Y), batch_size=10)
    first, second = _labels(flow.batches(epochs=2))
    other = _labels(Flow((X, Y), batch_size=10, seed=1).batches(epochs=1))[0]
    assert len({tuple(order) for order in (first, second, other)}) == 3


def test_what_does_not_fill_a_batch_can_be_left_out() -> None:
    flow = Flow((X, Y), batch_size=4, drop_last=True)
    assert (flow.samples, flow.batches_per_epoch) == (8, 2)
    batches = list(flow.batches(epochs=1))
    assert [batch.samples for batch in batches] == [4, 4]
    assert batches[-1].last


def test_a_batch_larger_than_the_data_holds_all_of_them() -> None:
    batch = next(Flow((X, Y), batch_size=64).batches())
    assert (batch.samples, batch.last) == (10, True)


def test_tokens_are_counted() -> None:
    flow = Flow((torch.zeros(10, 7, dtype=torch.int64), Y), batch_size=4)
    assert flow.tokens == 70
    assert [batch.tokens for batch in flow.batches(epochs=1)] == [28, 28, 14]
    assert Flow((X, Y), batch_size=4).tokens == 0


def test_writing_to_a_batch_changes_nothing_else() -> None:
    kept = X.clone()
    weight = torch.ones(2, requires_grad=True)
    first, second = islice(Flow((X, Y), batch_size=4, shuffle=False).batches(), 2)
    loss = (first.values[0] * weight).sum()
    second.values[0].zero_()  # of the same chunk: autograd must still trust the first
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.equal(kept[:4].sum(0))
    assert X.equal(kept)


def test_a_part_set_aside_is_read_by_itself() -> None:
    train, aside = split_validation(source((X, Y)), 0.3, seed=1)
    kept = sorted(chain(*_labels(Flow(train, batch_size=3).batches(epochs=1))))
    held = sorted(chain(*_labels(Flow(aside, batch_size=3).batches(epochs=1))))
    assert kept == train.indices.tolist()  # type: ignore[attr-defined]
    assert held == aside.indices.tolist()  # type: ignore[attr-defined]
    assert [batch.indices.tolist() for batch in Flow(aside, batch_size=3, shuffle=False).batches(epochs=1)] == [held]  # type: ignore[union-attr]


def test_arrays_go_to_the_device() -> None:
    for values in (batch.values for batch in Flow((X, Y), batch_size=4, device="meta").batches(epochs=1)):
        assert {value.device.type for value in values} == {"meta"}


def test_the_type_asked_for_is_the_type_given() -> None:
    third = np.full((4, 1), 1 / 3)
    batch = next(Flow((third, torch.zeros(4)), batch_size=2, dtype=torch.float64).batches())
    assert batch.values[0].tolist() == [[1 / 3], [1 / 3]]
    assert batch.values[1].dtype == torch.float64


# --- items ------------------------------------------------------------------------------------------------


def _bits(batches: Any) -> list[Any]:
    return [(batch.cursor, [value.tolist() for value in batch.values]) for batch in batches]


def test_workers_change_nothing() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    here = _bits(Flow(Noisy(), batch_size=4, seed=5).batches(epochs=2))
    for workers in (1, 2):
        flow = Flow(Noisy(), batch_size=4, seed=5, workers=workers, prefetch=1)
        assert _bits(flow.batches(epochs=2)) == here
    assert torch.rand(2).equal(expected)


def test_items_know_their_place_and_their_number() -> None:
    batches = list(Flow(Noisy(), batch_size=4).batches(Cursor(1, 1), epochs=1))
    assert [batch.cursor for batch in batches] == [Cursor(1, 1), Cursor(1, 2)]
    assert [batch.values[0].tolist() for batch in batches] == [batch.indices.tolist() for batch in batches]  # type: ignore[union-attr]
    assert (batches[-1].last, batches[-1].progress_epoch) == (True, 2.0)


def test_a_data_set_of_tensors_gives_the_same_batches_as_its_tensors() -> None:
    assert _labels(Flow(TensorDataset(X, Y), batch_size=4).batches(epochs=1)) == _labels(
        Flow((X, Y), batch_size=4).batches(epochs=1)
    )


def test_items_take_the_type_asked_for() -> None:
    batch = next(Flow(Noisy(), batch_size=4, dtype=torch.float64).batches())
    assert [value.dtype for value in batch.values] == [torch.int64, *[torch.float64] * 3]


def test_an_item_that_cannot_be_read_here_is_named() -> None:
    with pytest.raises(
        DataError, match="Item 6 of the data set Broken cannot be read: ValueError: torn page"
    ) as caught:
        list(Flow(Broken(), batch_size=4).batches(epochs=1))
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_item_that_a_worker_cannot_read_is_named_with_its_traceback() -> None:
    with pytest.raises(DataError) as caught:
        list(Flow(Broken(), batch_size=4, workers=1).batches(epochs=1))
    assert str(caught.value) == "Item 6 of the data set Broken cannot be read: ValueError: torn page"
    assert 'raise ValueError("torn page")' in str(caught.value.__cause__)


def test_the_end_of_a_worker_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # how often torch looks: 5 s
    with pytest.raises(DataError, match=r"A worker reading the data set Deadly ended: .* Write workers=0 to see why"):
        list(Flow(Deadly(), batch_size=4, workers=1).batches(epochs=1))


def test_everything_goes_to_the_device() -> None:
    for data, options in [(Noisy(), {"batch_size": 4}), (DataLoader(TensorDataset(X, Y), batch_size=4), {})]:
        batch = next(Flow(data, device="meta", **options).batches())
        assert {value.device.type for value in batch.values} == {"meta"}


@pytest.mark.parametrize("data", [(X, Y), Noisy()])
def test_a_part_in_another_type_is_still_that_part(data: Any) -> None:
    aside = split_validation(source(data), 0.3, seed=1)[1]
    flow = Flow(aside, batch_size=2, dtype=torch.float64)
    assert flow.samples == 3
    found = [index for batch in flow.batches(epochs=1) for index in batch.indices.tolist()]  # type: ignore[union-attr]
    assert sorted(found) == aside.indices.tolist()  # type: ignore[attr-defined]


# --- what is read forward ---------------------------------------------------------------------------------


def test_items_of_a_stream_are_joined_and_the_last_batch_is_known() -> None:
    flow = Flow(Counter(5), batch_size=2)
    assert (flow.samples, flow.batches_per_epoch, flow.tokens) == (None, None, None)
    batches = list(flow.batches(epochs=2))
    assert [batch.samples for batch in batches] == [2, 2, 1, 2, 2, 1]
    assert [batch.last for batch in batches] == [False, False, True] * 2
    assert [batch.progress_epoch for batch in batches] == [0, 0, 1, 1, 1, 2]
    assert [batch.next for batch in batches[:5]] == [batch.cursor for batch in batches[1:]]
    assert batches[0].indices is None


def test_a_stream_can_leave_out_its_last_batch() -> None:
    batches = list(Flow(Counter(5), batch_size=2, drop_last=True).batches(epochs=1))
    assert [batch.samples for batch in batches] == [2, 2]
    assert batches[-1].last


def test_a_stream_with_a_length_knows_its_batches() -> None:
    flow = Flow(Claimed(5, 5), batch_size=2)
    assert (flow.samples, flow.batches_per_epoch) == (5, 3)
    assert [batch.progress_epoch for batch in flow.batches(epochs=1)] == [1 / 3, 2 / 3, 1]


def test_an_epoch_ends_after_the_round_length() -> None:
    batches = list(Flow(source(noise, round_length=2)).batches(epochs=3))
    assert [batch.cursor for batch in batches] == [Cursor(e, b) for e in range(3) for b in range(2)]
    assert [batch.progress_epoch for batch in batches] == [0.5, 1, 1.5, 2, 2.5, 3]
    assert batches[0].values[1].dtype == torch.float32


def test_chance_in_a_function_repeats_and_leaves_the_process_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again = (_bits(Flow(source(noise, round_length=3), seed=1).batches(epochs=2)) for _ in range(2))
    assert first == again
    assert first != _bits(Flow(source(noise, round_length=3), seed=2).batches(epochs=2))
    assert torch.rand(2).equal(expected)


def test_a_loader_is_used_as_it_is() -> None:
    flow = Flow(DataLoader(TensorDataset(X, Y), batch_size=4))
    assert (flow.samples, flow.batches_per_epoch, flow.batch_size) == (10, 3, None)
    assert _labels(flow.batches(epochs=1)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_the_order_of_a_loader_follows_the_seed_and_the_epoch_whatever_its_workers() -> None:
    def order(seed: int, workers: int = 0) -> list[list[int]]:
        loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True, num_workers=workers)
        return _labels(Flow(loader, seed=seed).batches(epochs=2))

    assert order(0) == order(0, workers=1)
    assert order(0) != order(1)
    assert order(0)[:3] != order(0)[3:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (source(Counter(0)), "Counter gave no batch in epoch 0. Give at least one."),
        (
            source(Counter(5), round_length=4),
            "Counter gave 3 batches in epoch 0; round_length=4 is more. Write round_length=3, or let it go on.",
        ),
        (
            source(noise, round_length=4),
            "function noise gave 3 batches in epoch 0; round_length=4 is more. Write round_length=3, or let it go on.",
        ),
        (
            source(lambda: iter([]), round_length=4),
            "function <lambda> gave 0 batches in epoch 0; round_length=4 is more. Does it begin anew for each epoch?",
        ),
        (source(Claimed(5, 8)), "Claimed gave 3 batches in epoch 0; its length says 4. Correct __len__."),
        (source(Claimed(5, 4)), "Claimed gave more than 2 batches in epoch 0; its length says 2. Correct __len__."),
        (source(lambda: iter(["ab"]), round_length=1), "A batch holds no tensor with a first dimension: str 'ab'."),
        (
            source(lambda: ({}[n] for n in range(2)), round_length=1),
            "Batch 0 of epoch 0 of function <lambda> cannot be read: KeyError: 0",
        ),
    ],
)
def test_an_epoch_that_cannot_be_read(data: Any, message: str) -> None:
    flow = Flow(data) if data.batched else Flow(data, batch_size=2)
    with pytest.raises(DataError) as caught:
        list(flow.batches(epochs=1))
    assert message in str(caught.value)


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (X, {"batch_size": 0}, "batch_size=0 was asked for. Write a whole number from 1 on."),
        (X, {"batch_size": -4}, "batch_size=-4 was asked for."),
        (X, {"batch_size": True}, "batch_size=True was asked for."),
        (X, {"batch_size": 2.0}, "batch_size=2.0 was asked for."),
        (X, {}, "How many samples of Tensor make a batch? Write batch_size=32, for example."),
        (X, {"batch_size": 2, "seed": -1}, "seed=-1 was asked for. Write a whole number from 0 on."),
        (X, {"batch_size": 2, "seed": 0.5}, "seed=0.5 was asked for."),
        (X, {"batch_size": 2, "chunk": 0}, "chunk=0 was asked for."),
        (Noisy(), {"batch_size": 2, "workers": -1}, "workers=-1 was asked for."),
        (Noisy(), {"batch_size": 2, "prefetch": 0}, "prefetch=0 was asked for."),
        (
            X,
            {"batch_size": 16, "drop_last": True},
            "drop_last=True leaves no batch: 10 samples, batch_size=16. Write a smaller batch_size.",
        ),
        (
            X,
            {"batch_size": 2, "workers": 2},
            "workers=2 was asked for, but arrays in memory are gathered faster in this process. Leave workers out.",
        ),
        (
            DataLoader(TensorDataset(X)),
            {"batch_size": 2},
            "batch_size=2 was asked for, but DataLoader gives batches of its own. Leave batch_size out and set it in "
            "the DataLoader.",
        ),
        (
            DataLoader(TensorDataset(X)),
            {"workers": 2},
            "workers=2 was asked for, but a DataLoader has its own (num_workers). Leave workers out.",
        ),
        (
            source(noise, round_length=2),
            {"batch_size": 2},
            "batch_size=2 was asked for, but function noise gives batches of its own. Leave batch_size out and set it "
            "where the batches are made.",
        ),
        (
            source(noise, round_length=2),
            {"drop_last": True},
            "drop_last=True was asked for, but function noise gives batches of its own. Leave the last one out there.",
        ),
        (
            Counter(4),
            {"batch_size": 2, "shuffle": True},
            "shuffle=True was asked for, but Counter can only be read forward. Shuffle inside it, and leave shuffle "
            "out.",
        ),
        (
            Counter(4),
            {"batch_size": 2, "workers": 1},
            "workers=1 was asked for, but Counter is read forward, and each worker would read all of it. A data set "
            "that divides itself among workers goes in a DataLoader of your own. Leave workers out.",
        ),
    ],
)
def test_options_that_the_data_cannot_follow(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        Flow(data, **options)
    assert message in str(caught.value)


def test_a_place_beyond_the_epoch_is_refused() -> None:
    told = (
        r"There is no batch at Cursor\(epoch=1, batch=3\)\. An epoch has 3 batches, the first is Cursor\(epoch, 0\)\."
    )
    with pytest.raises(DataError, match=told):
        Flow(X, batch_size=4).batches(Cursor(1, 3))
    with pytest.raises(DataError, match="There is no batch at"):
        Flow(X, batch_size=4).batches(Cursor(-1, 0))
    with pytest.raises(DataError, match=r"There is no batch at Cursor\(epoch=0, batch=9\)\. An epoch has 2 batches"):
        list(Flow(Counter(4), batch_size=2).batches(Cursor(0, 9), epochs=1))
    with pytest.raises(DataError, match="epochs=0 was asked for"):
        Flow(X, batch_size=4).batches(epochs=0)


def test_a_batch_takes_a_few_microseconds() -> None:
    # Far above what it takes (about 4), far below what collation item by item would (about 100).
    from time import perf_counter

    flow = Flow((torch.zeros(20_000, 64), torch.zeros(20_000)), batch_size=32)
    batches: list[Batch] = []
    seconds = []
    for _ in range(3):
        start = perf_counter()
        batches = list(flow.batches(epochs=1))
        seconds.append(perf_counter() - start)
    assert min(seconds) / len(batches) < 50e-6
