"""Samples left out of a data set: by a look at each, or by the lengths alone; always counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from etude.data.filtered import Filtered, filtered
from etude.data.forward import Forward
from etude.data.mapped import mapped
from etude.errors import DataError


class Timed:
    title = "timed"
    lengths = {"x": np.array([4, 7, 2])}  # noqa: RUF012
    tags = ("a", "b", "c")

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> int:
        self.read.append(number)
        return number * 10


def odd(sample: int) -> bool:
    return sample % 2 == 1


def test_samples_are_kept_by_a_function_of_each() -> None:
    data = filtered(list(range(10)), odd)
    assert isinstance(data, Filtered)
    assert (list(data), data.dropped, data.places.tolist()) == ([1, 3, 5, 7, 9], {"odd": 5}, [1, 3, 5, 7, 9])
    with pytest.raises(IndexError, match="There is no sample 5"):
        data[5]


def test_lengths_alone_need_no_reading() -> None:
    told = Timed()
    data = filtered(told, lengths=lambda lengths: lengths["x"] > 3)
    assert isinstance(data, Filtered)
    assert told.read == []
    assert (list(data), data.tags, data.lengths["x"].tolist()) == ([0, 10], ["a", "b"], [4, 7])
    assert data.dropped == {"function": 1}


def test_reading_leaves_chance_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    filtered(mapped(list(range(20)), lambda sample: sample + float(torch.rand(()))), lambda sample: sample >= 0)
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_read_forward_counts_what_it_leaves_out_in_each_pass() -> None:
    inner = filtered(lambda epoch: iter(range(epoch, epoch + 4)), odd)
    data = filtered(mapped(inner, lambda sample: sample * 3), lambda sample: sample > 5)
    assert isinstance(data, Forward)
    assert (list(data), data.dropped) == ([9], {"odd": 2, "function": 1})
    data.set_epoch(6)
    assert (list(data), data.dropped) == ([21, 27], {"odd": 2, "function": 0})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: filtered([1]), "takes one function"),
        (lambda: filtered([1], odd, lengths=odd), "takes one function"),
        (lambda: filtered([2, 4], odd), "odd leaves none of the 2 samples of list"),
        (lambda: filtered([1], lengths=lambda lengths: [True]), "filtered(): list tells no lengths"),
        (lambda: filtered(Timed(), lengths=lambda lengths: lengths["x"]), "Let it give one bool for each"),
        (lambda: filtered(Timed(), lengths=lambda lengths: np.array([True])), "for 3 samples"),
        (lambda: filtered(lambda: iter([1]), lengths=odd), "is read forward and tells no lengths beforehand"),
        (lambda: filtered([1, "a"], odd), "filtered(): odd fails at sample 1, str 'a': TypeError"),
        (lambda: list(filtered(lambda: iter([1, "a"]), odd)), "odd fails at sample 1, str 'a': TypeError"),
    ],
)
def test_what_does_not_fit_is_told(make: Any, told: str) -> None:
    with pytest.raises(DataError) as caught:
        make()
    assert told in str(caught.value)
