"""Data sets after one another, and streams mixed in turn or by weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from etude.data.forward import Forward
from etude.data.mixture import Concatenated, concatenated, interleaved
from etude.data.source import source
from etude.errors import DataError


class Numbers(IterableDataset[Any]):
    """Numbers from a start, the same in every epoch; remembers the epochs it was told."""

    def __init__(self, start: int, number: int) -> None:
        self.start, self.number = start, number
        self.told: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.told.append(epoch)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.start + self.number))


class Timed:
    """Sequences that tell their lengths and ids."""

    def __init__(self, name: str, lengths: list[int], stream: str = "x") -> None:
        self.title = name
        self.lengths = {stream: np.array(lengths), "common": np.array(lengths)}
        self.tags = [f"{name}{number}" for number in range(len(lengths))]

    def __len__(self) -> int:
        return len(self.tags)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"x": torch.zeros(int(self.lengths["common"][number]))}


def read(data: Forward, epoch: int = 0) -> list[Any]:
    data.set_epoch(epoch)
    return list(data)


def test_samples_lie_one_after_another() -> None:
    data = concatenated([0, 1, 2], torch.tensor([3, 4]), [5])
    assert isinstance(data, Concatenated)
    assert [int(each) for each in data] == [0, 1, 2, 3, 4, 5]
    assert [int(data[-1]), int(data[-6])] == [5, 0]
    assert data.boundaries.tolist() == [0, 3, 5, 6]
    assert source(data).length == 6
    with pytest.raises(IndexError, match="There is no sample 6"):
        data[6]


def test_parts_have_names_lengths_and_ids_that_all_tell() -> None:
    data = concatenated({"clean": Timed("c", [3, 1]), "noisy": Timed("n", [2], "y")})
    assert isinstance(data, Concatenated)
    assert data.parts == (2, 1)
    assert (data.names, data.tags) == (("clean", "noisy"), ["c0", "c1", "n0"])
    assert {name: own.tolist() for name, own in data.lengths.items()} == {"common": [3, 1, 2]}
    plain = concatenated(Timed("c", [3, 1]), [{"x": torch.zeros(4)}])
    assert isinstance(plain, Concatenated)
    assert (dict(plain.lengths), plain.tags) == ({}, None)


def test_concatenations_nest() -> None:
    data = concatenated(concatenated([0], [1, 2]), [3])
    assert list(data) == [0, 1, 2, 3]


def test_streams_come_one_after_another_and_hear_of_the_epoch() -> None:
    first = Numbers(0, 3)
    data = concatenated(first, [7, 8])
    assert isinstance(data, Forward)
    assert [read(data, 0), read(data, 5)] == [[0, 1, 2, 7, 8]] * 2
    assert first.told == [0, 5]
    assert source(data).random_access is False


def test_streams_in_turn() -> None:
    mixed = interleaved(Numbers(0, 3), Numbers(10, 1), Numbers(20, 5))
    assert read(mixed) == [0, 10, 20, 1, 21, 2, 22, 23, 24]


def test_the_first_that_ends_can_end_the_epoch() -> None:
    assert read(interleaved(Numbers(0, 3), Numbers(10, 1), until="shortest")) == [0, 10, 1]


def test_those_that_have_ended_can_begin_again() -> None:
    assert read(interleaved(Numbers(0, 5), Numbers(10, 2), until="longest")) == [0, 10, 1, 11, 2, 10, 3, 11, 4, 10]


def test_streams_without_an_end_can_be_mixed() -> None:
    mixed = interleaved(lambda: count(), lambda: count(10_000), weights=[1, 3])
    found = list(islice(mixed, 1000))
    share = sum(each >= 10_000 for each in found) / 1000
    assert 0.7 < share < 0.8


def test_weights_are_kept_and_what_is_drawn_depends_on_seed_and_epoch_alone() -> None:
    def mixed(seed: int) -> Forward:
        return interleaved(Numbers(0, 3000), Numbers(10_000, 3000), weights=[3, 1], seed=seed)

    found = read(mixed(0), 2)
    assert sorted(found) == [*range(3000), *range(10_000, 13_000)]
    assert 0.7 < sum(each < 10_000 for each in found[:2000]) / 2000 < 0.8
    assert found == read(mixed(0), 2)
    assert found != read(mixed(1), 2)
    assert found != read(mixed(0), 3)


@given(
    st.lists(st.integers(0, 20), min_size=2, max_size=4),
    st.one_of(st.none(), st.just([1.0, 2.0, 0.5, 4.0])),
    st.integers(0, 5),
)
def test_until_all_every_sample_comes_once_in_its_own_order(
    sizes: list[int], weights: list[float] | None, epoch: int
) -> None:
    streams = [Numbers(100 * place, size) for place, size in enumerate(sizes)]
    mixed = interleaved(*streams, weights=weights and weights[: len(sizes)])
    found = read(mixed, epoch)
    assert Counter(found) == Counter(each for stream in streams for each in stream)
    for place in range(len(sizes)):
        own = [each for each in found if each // 100 == place]
        assert own == sorted(own)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: concatenated([1]), "concatenated() takes at least two data sets, and 1 was given"),
        (lambda: concatenated([1], []), "concatenated(): list is empty"),
        (lambda: concatenated([{"x": 1}], [{"y": 1}]), "samples of data sets 0 and 1 have different parts"),
        (lambda: concatenated([(1, 2)], [(1, 2, 3)]), "different parts: (int 1, int 2) and (int 1, int 2, int 3)"),
        (lambda: concatenated(Numbers(0, 1), iter([1])), "can be read only once: give the function that makes it"),
        (lambda: concatenated(Numbers(0, 1), 3), "concatenated(): int 3 cannot be read"),
        (lambda: list(concatenated(Numbers(0, 1), [(1, 2)])), "data sets 0 and 1 have different parts"),
        (lambda: interleaved(Numbers(0, 1)), "interleaved() takes at least two"),
        (lambda: interleaved([1], [2]), "have random access. Write Data(concatenated(a, b), select=mixed"),
        (lambda: interleaved(Numbers(0, 1), [2], weights=[1]), "weights=[1] for 2 data sets"),
        (lambda: interleaved(Numbers(0, 1), [2], weights=[1, 0]), "Write a number above 0 for each"),
        (lambda: interleaved(Numbers(0, 1), [2], weights=[1, float("nan")]), "Write a number above 0 for each"),
        (lambda: interleaved(Numbers(0, 1), [2], until="shortst"), "until='shortst' is unknown. Nearest: \"shortest\""),
        (lambda: interleaved(Numbers(0, 1), [2], seed=-1), "seed=-1 is no seed"),
        (lambda: list(interleaved(Numbers(0, 0), Numbers(0, 2), until="longest")), "gave no sample in epoch 0"),
        (lambda: list(concatenated(lambda: 3, Numbers(0, 1))), "gave int 3, which is no iterator of samples"),
        (lambda: list(concatenated(lambda a, b: 3, Numbers(0, 1))), "needs a, b; it is called with nothing or"),
    ],
)
def test_what_cannot_be_mixed_is_told(make: Any, told: str) -> None:
    with pytest.raises(DataError) as caught:
        make()
    assert told in str(caught.value)
