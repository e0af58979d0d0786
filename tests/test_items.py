"""Data sets read by number: each item has its own seed, batches are joined as torch joins them."""

from __future__ import annotations

import random
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from etude.data.chance import item_key, sow, undisturbed
from etude.data.items import Reader, collate, items_of
from etude.errors import DataError

Pair = namedtuple("Pair", "x y")


class Noisy(Dataset[Any]):
    """Items that draw from all three generators."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return index, torch.rand(2), np.random.rand(2), random.random()


class Broken(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 3:
            raise KeyError("lost")
        return torch.zeros(index + 1)


def _flat(batch: Any) -> list[Any]:
    return [value.tolist() for value in batch]


def test_an_item_does_not_depend_on_the_batch_it_is_in() -> None:
    reader = Reader(Noisy(), "Noisy", 7, False)
    together = _flat(reader[(1, [4, 2, 5])])
    alone = [_flat(reader[(1, [index])]) for index in (4, 2, 5)]
    assert together == [[one[part][0] for one in alone] for part in range(4)]


def test_items_change_with_the_epoch_and_the_seed() -> None:
    drawn = [_flat(Reader(Noisy(), "Noisy", seed, False)[(epoch, [0])])[1:] for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    for part in range(3):
        assert len({str(one[part]) for one in drawn}) == 3


class Rare(Noisy):
    """Only item 4 draws, and fails for some of what it draws."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        drawn = int(torch.randint(10**6, ())) if index == 4 else 0
        if drawn % 2:
            raise ValueError(drawn)
        return index, drawn


def test_items_that_draw_nothing_are_read_once_and_others_with_their_seed() -> None:
    np.random.seed(0)  # no normal number in waiting, which only a slow look could tell from a drawn one
    data = Rare()
    seed = next(seed for seed in range(99) if _even(seed))
    reader = Reader(data, "Rare", seed, False)
    assert _flat(reader[(0, [0, 1])]) == [[0, 1], [0, 0]]
    assert data.read == [0, 1]
    late = _flat(reader[(0, [2, 4])])
    assert _flat(Reader(data, "Rare", seed, False, draws=True)[(0, [2, 4])]) == late
    assert reader.draws


def _even(seed: int) -> bool:
    with undisturbed():
        sow(item_key(seed, 0, 4))
        return int(torch.randint(10**6, ())) % 2 == 0


def test_a_failure_by_chance_depends_on_the_seed_only() -> None:
    outcomes = []
    for own in range(4):
        torch.manual_seed(own)
        for seed in range(4):
            try:
                outcomes.append((seed, str(_flat(Reader(Rare(), "Rare", seed, False)[(0, [4])]))))
            except DataError as error:
                outcomes.append((seed, str(error)))
    assert len(set(outcomes)) == 4


def test_reading_leaves_the_generators_of_the_process_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    items_of(Noisy(), False)
    _ = Reader(Noisy(), "Noisy", 0, False)[(0, [1])]
    assert torch.rand(3).equal(expected)


def test_names_and_conversions_are_those_of_the_first_item() -> None:
    made = items_of(Noisy(), False)
    assert (made.length, made.names) == (6, ("0", "1", "2", "3"))
    assert made.converted == ["2: float64 -> float32", "3: float64 -> float32"]
    assert made.cast(torch.float64).converted == []


def test_floats_of_numpy_and_python_become_float32_in_a_batch() -> None:
    item = {"a": 1.5, "b": Pair(np.zeros(2), torch.zeros(2, dtype=torch.float64)), "text": "s", "n": [1, 2.5]}
    batch = collate([item, item])
    assert [batch["a"].dtype, batch["b"].x.dtype, batch["b"].y.dtype] == [torch.float32, torch.float32, torch.float64]
    assert batch["text"] == ["s", "s"]
    assert [value.dtype for value in batch["n"]] == [torch.int64, torch.float32]
    assert collate([1 / 3], torch.float64).item() == 1 / 3


def test_a_list_of_parts_becomes_a_tuple() -> None:
    assert isinstance(collate([(torch.zeros(1), 1), (torch.zeros(1), 2)]), tuple)


def test_lists_in_rows_are_arrays() -> None:
    rows = [{"ids": [1, 2, 3], "text": "a", "score": [0.5]}, {"ids": [4, 5, 6], "text": "b", "score": [1.5]}]
    data = type("Rows", (list,), {})(rows)
    batch = Reader(data, "Rows", 0, True)[(0, [0, 1])]
    assert batch["ids"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batch["score"].dtype == torch.float32
    assert batch["text"] == ["a", "b"]
    assert items_of(data, True).names == ("ids", "text", "score")


def test_an_item_that_cannot_be_read_is_named_and_its_cause_kept() -> None:
    with pytest.raises(DataError, match=r"^Item 3 of the data set Broken cannot be read: KeyError: 'lost'$") as caught:
        _ = Reader(Broken(), "Broken", 0, False)[(0, [3])]
    assert isinstance(caught.value.__cause__, KeyError)


def test_items_of_different_shapes_are_shown() -> None:
    message = (
        r"Items cannot be joined to a batch: one is Tensor float32 \(1,\), another Tensor float32 \(2,\)\. Let the "
        r"data set give tensors, arrays or numbers of one shape; sequences of different lengths go in "
        r"etude\.Data\(dataset, names=\('x', 'y'\), lengths='x', batch_size=32\), which pads them\."
    )
    with pytest.raises(DataError, match=message):
        _ = Reader(Broken(), "Broken", 0, False)[(0, [0, 1])]


def test_items_of_an_unknown_type_are_shown() -> None:
    with pytest.raises(
        DataError, match=r"^Items cannot be joined to a batch: one is \(object <object object .*\)\. Let"
    ):
        items_of([(object(),)], False)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match=r"The data are empty: list with 0 items\. Give at least one item\."):
        items_of([], False)


def test_a_data_set_without_a_length_is_refused() -> None:
    with pytest.raises(DataError, match=r"The data set Dataset has no length\. Give it __len__, or make it an Iter"):
        items_of(Dataset(), False)
