"""What is read forward, shuffled in a buffer: every sample once, in an order that seed and epoch decide."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.buffer import shuffle_buffer
from etude.data.forward import Forward
from etude.data.mapped import mapped
from etude.errors import DataError


def numbers(n: int) -> Any:
    return partial(_numbers, n)


def _numbers(n: int) -> Iterator[int]:
    return iter(range(n))


def read(data: Forward, epoch: int = 0) -> list[int]:
    data.set_epoch(epoch)
    return list(data)


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 3), st.integers(0, 3))
def test_every_sample_comes_once_and_none_much_too_early(n: int, size: int, seed: int, epoch: int) -> None:
    found = read(shuffle_buffer(numbers(n), size, seed=seed), epoch)
    assert sorted(found) == list(range(n))
    assert all(sample - place < size for place, sample in enumerate(found))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    data = shuffle_buffer(numbers(5000), 100, seed=1)
    first = read(data, 3)
    read(data, 4)
    assert first == read(data, 3) == read(shuffle_buffer(numbers(5000), 100, seed=1), 3)
    assert first != read(data, 4)
    assert first != read(shuffle_buffer(numbers(5000), 100, seed=2), 3)


def test_a_buffer_of_one_changes_nothing_and_a_large_one_shuffles_all() -> None:
    assert read(shuffle_buffer(numbers(10), 1)) == list(range(10))
    whole = read(shuffle_buffer(numbers(2000), 5000))
    assert abs(np.corrcoef(whole, np.arange(2000))[0, 1]) < 0.1


def test_no_more_is_read_than_the_buffer_holds() -> None:
    taken: list[int] = []
    counting = mapped(numbers(1000), lambda sample: taken.append(sample) or sample)
    passing = iter(shuffle_buffer(counting, 10))
    next(passing)
    assert len(taken) == 11
    next(passing)
    assert len(taken) == 12


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: shuffle_buffer(numbers(3), 0), "size=0. Write a whole number from 1 on"),
        (lambda: shuffle_buffer(numbers(3), True), "size=True"),
        (lambda: shuffle_buffer(numbers(3), 2, seed=-1), "seed=-1. Write a whole number from 0 on"),
        (lambda: shuffle_buffer([1, 2], 2), "list has random access, and an order of all its samples shuffles better"),
    ],
)
def test_what_does_not_fit_is_told(make: Any, told: str) -> None:
    with pytest.raises(DataError) as caught:
        make()
    assert told in str(caught.value)
