"""The adapter knows every form of data, and says what it cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from etude.data.source import Arrays, Items, Stream, check_finite, source, split_validation
from etude.errors import DataError

X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)


class Squares(Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index)]), index * index


class Duck:
    """A data set that derives from nothing."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        return index


class Table(Duck):
    """Rows of a table, with the names by which Hugging Face datasets are known."""

    column_names = ("ids",)

    def __getitem__(self, index: int) -> Any:
        return {"ids": [index, index + 1]}


class Streamed:
    """A Hugging Face stream: names, an iterator, and no items."""

    column_names = ("ids",)

    def __iter__(self) -> Iterator[Any]:
        return iter([{"ids": [1, 2]}, {"ids": [3, 4]}])


class Counter(IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


class Batches:
    def __iter__(self) -> Iterator[Any]:
        return iter([(X, Y)])


def rounds() -> Iterator[Any]:
    yield X, Y


@pytest.mark.parametrize(
    ("data", "kind", "batched", "length"),
    [
        (X, Arrays, False, 10),
        (X.numpy(), Arrays, False, 10),
        ((X, Y), Arrays, False, 10),
        ([X, Y], Arrays, False, 10),
        ({"x": X, "y": Y}, Arrays, False, 10),
        (list(zip(X, Y, strict=True)), Arrays, False, 10),
        (TensorDataset(X, Y), Arrays, False, 10),
        (Subset(TensorDataset(X, Y), [1, 3]), Arrays, False, 2),
        (Squares(), Items, False, 10),
        (Subset(Squares(), [1, 3]), Items, False, 2),
        (Duck(), Items, False, 3),
        (Table(), Items, False, 3),
        (Streamed(), Stream, False, None),
        (Counter(), Stream, False, None),
        (DataLoader(Squares(), batch_size=4), Stream, True, 10),
        (Batches(), Stream, True, None),
    ],
)
def test_every_form_has_its_source(data: Any, kind: type, batched: bool, length: int | None) -> None:
    made = source(data)
    assert type(made) is kind
    assert (made.batched, made.length, made.random_access) == (batched, length, kind is not Stream)


def test_a_source_is_taken_as_it_is() -> None:
    made = source(X)
    assert source(made) is made


def test_rows_of_tables_hold_arrays_also_in_a_subset() -> None:
    for data in (Table(), Subset(Table(), [2])):  # type: ignore[arg-type]
        made = source(data)
        assert isinstance(made, Items)
        assert (made.rows, made.names) == (True, ("ids",))


def test_a_round_length_makes_the_epoch_of_what_is_read_forward() -> None:
    assert source(rounds, round_length=3).batches == 3
    assert source(DataLoader(Squares(), batch_size=2), round_length=3).batches == 3
    assert source(Counter(), round_length=3).batches == 3


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (7, {}, "Cannot read int 7 as data. Known forms: a tensor or array, a tuple or dict of them, a list of (x, y)"),
        ("digits", {}, "Cannot read str 'digits' as data. Known forms:"),
        (Squares, {}, "Cannot read the class Squares (give an object of it: Squares(...)) as data. Known forms:"),
        (nn.Linear(1, 1), {}, "Cannot read the net Linear as data. Known forms:"),
        (
            rounds(),
            {"round_length": 1},
            "A generator can be read only once, and an epoch needs it anew. Give the function that makes it, without "
            "calling it, and round_length=n, the number of batches in an epoch.",
        ),
        (rounds, {}, "The function rounds does not say how long an epoch is."),
        (rounds, {"round_length": 0}, "round_length=0 is no number of batches. Write a whole number from 1 on."),
        (rounds, {"round_length": -2}, "round_length=-2 is no number of batches."),
        (rounds, {"round_length": True}, "round_length=True is no number of batches."),
        (rounds, {"round_length": 2.0}, "round_length=2.0 is no number of batches."),
        (
            (X, Y),
            {"round_length": 3},
            "round_length=3 was given with tuple, whose length is known: 10 samples make an epoch. Leave round_length "
            "out.",
        ),
        (Squares(), {"round_length": 3}, "round_length=3 was given with Squares, whose length is known"),
    ],
)
def test_data_that_cannot_be_read(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        source(data, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [(X, Y), Squares()])
def test_a_split_takes_each_sample_once_and_keeps_its_indices(data: Any) -> None:
    train, aside = split_validation(source(data), 0.3, seed=4)
    assert isinstance(train, Arrays | Items)
    assert isinstance(aside, Arrays | Items)
    assert (train.length, aside.length) == (7, 3)
    assert train.indices is not None
    assert aside.indices is not None
    assert sorted(train.indices.tolist() + aside.indices.tolist()) == list(range(10))
    again = split_validation(source(data), 0.3, seed=4)[1]
    assert isinstance(again, Arrays | Items)
    assert again.indices is not None
    assert again.indices.equal(aside.indices)


def test_another_seed_splits_otherwise() -> None:
    chosen = {tuple(split_validation(source(X), 0.5, seed)[1].indices.tolist()) for seed in range(5)}  # type: ignore[attr-defined]
    assert len(chosen) > 1


def test_a_split_of_a_split_names_samples_of_the_whole() -> None:
    inner = split_validation(split_validation(source(X), 0.5, 0)[1], 0.4, 0)
    outer = split_validation(source(X), 0.5, 0)[1]
    found = sorted(inner[0].indices.tolist() + inner[1].indices.tolist())  # type: ignore[attr-defined]
    assert found == outer.indices.tolist()  # type: ignore[attr-defined]


def test_a_small_fraction_sets_one_sample_aside() -> None:
    assert split_validation(source(X), 0.001, 0)[1].length == 1


@pytest.mark.parametrize(
    ("data", "fraction", "message"),
    [
        (X, 0, "validation=0 is no fraction of the data. Write a number between 0 and 1."),
        (X, 1.0, "validation=1.0 is no fraction of the data."),
        (X, True, "validation=True is no fraction of the data."),
        (X, float("nan"), "validation=nan is no fraction of the data."),
        (X, 0.96, "validation=0.96 of 10 samples leaves none for training. Write a smaller fraction."),
        (
            Counter(),
            0.2,
            "Counter can only be read forward, so no fraction of it can be set aside. Give validation data of their "
            "own: validation=data.",
        ),
    ],
)
def test_fractions_that_cannot_be_set_aside(data: Any, fraction: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        split_validation(source(data), fraction, 0)
    assert message in str(caught.value)


def test_finite_arrays_pass_also_when_their_sum_is_not() -> None:
    check_finite(source((X, Y)))
    check_finite(source(torch.full((4,), 3e38)))
    check_finite(source(Counter()))


def test_samples_that_hold_nan_or_infinity_are_named() -> None:
    bad = X.clone()
    bad[3, 1], bad[7, 0] = float("nan"), float("inf")
    with pytest.raises(DataError, match=r"^Array '1' holds NaN or infinity in 2 of 10 samples: 3, 7\. Clean the data"):
        check_finite(source((X, bad)))
    with pytest.raises(DataError, match=r"Array 'x' holds NaN or infinity in 10 of 10 samples: 0, 1, 2, 3, 4, \.\.\."):
        check_finite(source({"x": np.full((10, 1, 2), np.nan)}))
    with pytest.raises(DataError, match=r"samples: 4097\. Clean"):
        check_finite(source(torch.zeros(5000).index_fill(0, torch.tensor([4097]), -float("inf"))))


def test_only_samples_that_belong_to_a_source_are_looked_at() -> None:
    bad = torch.zeros(10)
    bad[5] = float("nan")
    parts = split_validation(source(bad), 0.5, 0)
    clean = [part for part in parts if 5 not in part.indices.tolist()]  # type: ignore[attr-defined]
    dirty = [part for part in parts if 5 in part.indices.tolist()]  # type: ignore[attr-defined]
    check_finite(clean[0])
    with pytest.raises(DataError, match=r"in 1 of 5 samples: 5\."):
        check_finite(dirty[0])
