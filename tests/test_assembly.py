"""Planned batches, read: from memory, by number, by several processes, and what cannot be read."""

from __future__ import annotations

import re
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from batchings import rows, sample, samples, seen
from etude import Cursor, Data
from etude.data import Batch, packed
from etude.data.flow import Flow
from etude.data.plan.filters import keep, length
from etude.data.source import split_validation
from etude.errors import DataError

LENGTHS = [5, 3, 9, 4, 7, 2, 8, 6, 5, 3]


class Items(Dataset[Any]):
    """Samples by number, of which some cannot be read."""

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self.bad, self.reads = bad, list[int]()

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, number: int) -> dict[str, Any]:
        self.reads.append(number)
        if number in self.bad:
            raise OSError("a scratch")
        return sample(number, LENGTHS[number])


def items(*bad: int, **options: Any) -> Data:
    return Data(Items(bad), lengths={"x": LENGTHS}, **{"batch_size": 3, "order": "in_order", **options})


def read(data: Data, **options: Any) -> list[Batch]:
    return list(data.batches(epochs=1, **options))


def indices(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------------ batches


def test_a_batch_says_what_it_holds() -> None:
    first, *_, last = read(items())
    assert (first.samples, first.tokens, first.cursor, first.next) == (3, 17, Cursor(0, 0), Cursor(0, 1))
    assert first.values["x"].tolist() == [
        [0, 1, 2, 3, 4, 0, 0, 0, 0],
        [1000, 1001, 1002, 0, 0, 0, 0, 0, 0],
        list(range(2000, 2009)),
    ]
    assert first.values["x_lengths"].tolist() == [5, 3, 9]
    assert (last.next, last.progress_epoch, last.last) == (Cursor(1, 0), 1.0, True)


def test_seeking_reads_nothing_that_comes_before() -> None:
    data = items()
    source: Items = data.source
    source.reads.clear()
    next(data.batches(Cursor(3, 2)))
    assert source.reads == [6, 7, 8]


def test_only_as_much_is_read_as_is_asked_for() -> None:
    data = items()
    source: Items = data.source
    source.reads.clear()
    list(islice(data.batches(), 2))
    assert source.reads == [0, 1, 2, 3, 4, 5]


def test_a_part_of_the_data_gives_its_own_samples() -> None:
    whole = items().assembled
    train, rest = split_validation(whole, 0.3, 0)
    found = [sorted(chain(*indices(list(Flow(each).batches(epochs=1))))) for each in (train, rest)]
    assert sorted(found[0] + found[1]) == list(range(10))
    assert len(found[1]) == 3
    for batch in Flow(rest).batches(epochs=1):
        assert [row[0] // 1000 for row in rows(batch)] == batch.indices.tolist()  # type: ignore[union-attr]
        assert [len(row) for row in rows(batch)] == [LENGTHS[index] for index in batch.indices.tolist()]  # type: ignore[union-attr]


def test_a_length_that_is_not_true_is_found_when_it_is_read() -> None:
    wrong = [*LENGTHS[:4], 6, *LENGTHS[5:]]
    with pytest.raises(DataError, match=r"Sample 4 has 7 frames of 'x', and its length was stated as 6\."):
        list(Data(Items(), lengths={"x": wrong}, batch_size=3).batches(epochs=1))


@pytest.mark.parametrize("source", [samples(LENGTHS), Items()])
def test_a_user_makes_batches(source: Any) -> None:
    lengths = {} if isinstance(source, list) else {"lengths": {"x": LENGTHS}}
    options = {"batch_size": 4, "order": "in_order", **lengths}
    sums = Data(source, collate=lambda own: torch.stack([one["x"].sum() for one in own]), **options)
    found = read(sums)
    assert torch.cat([batch.values for batch in found]).tolist() == [one["x"].sum() for one in samples(LENGTHS)]
    assert [batch.samples for batch in found] == [4, 4, 2]
    bad = sums.but(collate=lambda own: own[9])
    with pytest.raises(DataError, match=r"collate failed on samples 0, 1, 2, 3: IndexError"):
        read(bad)
    with pytest.raises(DataError, match=r"collate failed on samples 0, 1, 2, 3, 4, \.\.\.: IndexError"):
        read(bad.but(batch_size=7, collate=lambda own: own[99]))


# -------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("source", [samples(LENGTHS), Items()])
@pytest.mark.parametrize("options", [{}, {"budget": packed(40), "pack": True, "batch_size": None}])
def test_a_rank_without_samples_has_an_empty_batch_of_the_same_form(source: Any, options: dict[str, Any]) -> None:
    options = {"batch_size": 2, "order": "in_order", **options}
    data = Data(source, lengths={"x": LENGTHS}, **options)
    for rank in range(7):
        for whole, share in zip(read(data), read(data, rank=rank, ranks=7), strict=True):
            assert share.values.keys() == whole.values.keys()
            assert share.all_samples == whole.samples
            assert share.values["x_lengths"].shape == (share.samples,)
            assert all(value.dtype == whole.values[name].dtype for name, value in share.values.items())
            if "x_offsets" in share.values:
                assert share.values["x_offsets"].shape == (share.samples + 1,)
    assert any(not batch.samples for batch in read(data, rank=6, ranks=7))


def test_a_rank_without_samples_has_what_a_user_makes_of_one() -> None:
    for source in (samples(LENGTHS), Items()):
        data = Data(
            source,
            lengths={"x": LENGTHS},
            batch_size=2,
            collate=lambda own: {"sums": torch.stack([one["x"].sum() for one in own])},
        )
        assert {tuple(batch.values["sums"].shape) for batch in read(data, rank=2, ranks=3)} == {(0,)}


# --------------------------------------------------------------------------------------------------------- unreadable


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(DataError, match="Item 4 of the data set Items cannot be read: OSError: a scratch"):
        read(items(4))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_left_out_of_its_batch(workers: int) -> None:
    flow = Flow(items(4, 8, unreadable="skip"), workers=workers)
    found = list(flow.batches(epochs=1))
    assert indices(found) == [[0, 1, 2], [3, 5], [6, 7], [9]]
    assert [batch.tokens for batch in found] == [17, 6, 14, 3]
    assert [batch.cursor.batch for batch in found] == [0, 1, 2, 3]
    report = flow.report(0)
    assert report is not None
    assert (report.unreadable, report.numbers["unreadable"]) == (2, 2)
    assert "not readable: 2 samples" in str(report)


def test_a_batch_of_which_nothing_can_be_read_is_passed_over() -> None:
    found = read(items(3, 4, 5, 9, unreadable="skip"))
    assert indices(found) == [[0, 1, 2], [6, 7, 8]]
    assert [(batch.cursor, batch.next) for batch in found] == [
        (Cursor(0, 0), Cursor(0, 2)),
        (Cursor(0, 2), Cursor(1, 0)),
    ]
    assert [batch.progress_epoch for batch in found] == [0.5, 1.0]


def test_the_first_batches_may_be_passed_over() -> None:
    flow = Flow(items(0, 1, 2, unreadable="skip"))
    assert indices(list(flow.batches(epochs=2)))[:2] == [[3, 4, 5], [6, 7, 8]]
    assert [flow.report(epoch).unreadable for epoch in (0, 1)] == [3, 3]  # type: ignore[union-attr]


def test_reading_again_counts_anew() -> None:
    flow = Flow(items(4, unreadable="skip"))
    for _ in range(3):
        list(flow.batches(epochs=1))
    assert flow.report(0).unreadable == 1  # type: ignore[union-attr]


def test_what_was_counted_is_kept_with_the_cursor() -> None:
    flow = Flow(items(4, 5, 8, unreadable="skip"))
    second = list(islice(flow.batches(epochs=1), 2))[1]
    again = Flow(items(4, 5, 8, unreadable="skip"))
    again.load(second.next, flow.state(second.next))
    assert indices(list(again.batches(second.next, epochs=1))) == [[6, 7], [9]]
    assert again.report(0).unreadable == 3  # type: ignore[union-attr]
    assert flow.state(Cursor(1, 0)) == []
    list(again.batches(epochs=1))
    assert again.report(0).unreadable == 3  # type: ignore[union-attr]


def test_ranks_stay_in_step_where_one_can_read_nothing() -> None:
    data = items(0, 4, 5, unreadable="skip", batch_size=2)
    shares = [read(data, rank=rank, ranks=2) for rank in (0, 1)]
    assert [len(share) for share in shares] == [4, 4]  # nothing of samples 4 and 5
    assert [[batch.samples for batch in share] for share in shares] == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert [batch.cursor for batch in shares[0]] == [batch.cursor for batch in shares[1]]
    empty = shares[0][0]
    assert (empty.values["x"].shape[0], empty.values["x_lengths"].tolist(), empty.tokens) == (0, [], 0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_epoch_of_which_nothing_can_be_read_is_an_error(ranks: int) -> None:
    source = Items()
    data = Data(source, lengths={"x": LENGTHS}, batch_size=3, unreadable="skip")
    source.bad = tuple(range(10))
    said = "No sample of Data(Items) can be read in epoch 0. Write unreadable='raise' to see why."
    with pytest.raises(DataError, match=re.escape(said)):
        next(data.batches(rank=0, ranks=ranks))


# ------------------------------------------------------------------------------------------------------------- workers


class Dying(Items):
    """A data set that ends the process that reads it."""

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number == 4 and torch.utils.data.get_worker_info() is not None:
            raise SystemExit(3)
        return super().__getitem__(number)


def test_workers_read_the_same() -> None:
    assert [seen(batch) for batch in read(items(), workers=2)] == [seen(batch) for batch in read(items())]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_that_cannot_be_planned_is_told_of_after_the_batches_before_it(workers: int) -> None:
    batches = items(keep=keep({1: length(most=1)})).batches(epochs=2, workers=workers)
    assert len(list(islice(batches, 4))) == 4
    with pytest.raises(DataError, match=r"leaves nothing of 10 samples in epoch 1"):
        next(batches)


def test_a_worker_that_cannot_read_names_the_sample() -> None:
    with pytest.raises(DataError, match=r"Item 4 of the data set Items cannot be read: OSError: a scratch"):
        read(items(4), workers=1)


def test_a_worker_that_ends_is_told_of() -> None:
    data = Data(Dying(), lengths={"x": LENGTHS}, batch_size=3, order="in_order")
    with pytest.raises(DataError, match="A worker reading the data set Dying ended"):
        read(data, workers=1)


def test_workers_for_what_is_in_memory_are_refused() -> None:
    with pytest.raises(DataError, match="arrays in memory are gathered faster in this process"):
        read(Data(samples(LENGTHS), batch_size=3), workers=2)
    with pytest.raises(DataError, match="ranks=2 was asked for, and batches of"):
        Data(lambda: iter(samples(LENGTHS)), lengths="x", batch_size=3).batches(ranks=2)


def test_costs_of_a_share_are_those_of_frames() -> None:
    lengths = np.array([90, 30, 30, 30, 1, 1])
    data = Data(samples(lengths.tolist()), batch_size=6, order="in_order")
    assert [sorted(chain(*indices(read(data, rank=rank, ranks=2)))) for rank in (0, 1)] == [[0, 4], [1, 2, 3, 5]]
