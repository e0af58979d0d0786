"""The samples that data have: what they are, how many, and how long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from batchings import sample, samples
from etude.data.ragged import Ragged
from etude.data.stock import LOST, Stock, stock
from etude.errors import DataError

LENGTHS = [3, 5, 2]


class Items(Dataset[Any]):
    """Samples read by number, which count how often they are read."""

    def __init__(self, made: list[Any], bad: tuple[int, ...] = ()) -> None:
        self.made, self.bad, self.reads = made, bad, 0

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, number: int) -> Any:
        self.reads += 1
        if number in self.bad:
            raise OSError("a scratch")
        return self.made[number]


def told(made: Stock) -> dict[str, list[int]]:
    return {} if made.lengths is None else {name: own.tolist() for name, own in made.lengths.streams.items()}


# -------------------------------------------------------------------------------------------------------- in memory


def test_dicts_in_memory_tell_their_lengths() -> None:
    made = stock(samples(LENGTHS), (), None)
    assert (made.number, made.streams, told(made)) == (3, ("x",), {"x": LENGTHS})
    assert made.sample(1)["x"].tolist() == sample(1, 5)["x"].tolist()


def test_the_first_stream_that_is_named_leads() -> None:
    both = [sample(number, frames, two=True) for number, frames in enumerate(LENGTHS)]
    assert list(told(stock(both, (), "y"))) == ["y", "x"]
    assert list(told(stock(both, (), ("x", "y")))) == ["x", "y"]


def test_sequences_of_one_length_are_streams_if_that_is_said() -> None:
    table = {"x": torch.zeros(4, 6), "y": torch.zeros(4)}
    assert told(stock(table, (), None)) == {}
    assert told(stock(table, (), "x")) == {"x": [6] * 4}


@pytest.mark.parametrize(
    "given",
    [
        (torch.arange(6.0).reshape(3, 2), torch.arange(3)),
        TensorDataset(torch.arange(6.0).reshape(3, 2), torch.arange(3)),
        Subset(TensorDataset(torch.arange(8.0).reshape(4, 2), torch.arange(4)), [0, 1, 2]),
        [(np.array([0.0, 1.0]), 0), (np.array([2.0, 3.0]), 1), (np.array([4.0, 5.0]), 2)],
    ],
)
def test_tuples_stay_tuples(given: Any) -> None:
    made = stock(given, (), None)
    assert (made.number, made.keyed, made.names) == (3, False, ("0", "1"))
    x, y = made.sample(2)
    assert (x.tolist(), int(y)) == ([4, 5], 2)


def test_a_tensor_alone_stays_alone() -> None:
    assert stock(torch.arange(3), (), None).sample(1).item() == 1


def test_tuples_of_sequences_by_names() -> None:
    pairs = [(torch.zeros(frames), 1) for frames in LENGTHS]
    made = stock(pairs, ("x", "label"), "x")
    assert (made.names, told(made)) == (("x", "label"), {"x": LENGTHS})
    assert list(made.sample(0)) == ["x", "label"]


def test_a_ragged_column() -> None:
    column = Ragged(torch.arange(10), np.array([0, 3, 8, 10]))
    assert told(stock({"x": column, "y": torch.arange(3)}, (), None)) == {"x": LENGTHS}
    assert told(stock(column, ("x",), None)) == {"x": LENGTHS}


def test_a_dtype_is_that_of_floats() -> None:
    made = stock({"x": np.zeros((2, 3)), "y": np.zeros(2, np.int64)}, (), None, torch.float64)
    assert {name: value.dtype for name, value in made.sample(0).items()} == {"x": torch.float64, "y": torch.int64}


def test_lengths_that_are_stated_as_they_are() -> None:
    assert told(stock(samples(LENGTHS), (), {"x": LENGTHS})) == {"x": LENGTHS}
    assert told(stock(samples(LENGTHS), (), {"x": lambda item: len(item["x"])})) == {"x": LENGTHS}


# ------------------------------------------------------------------------------------------------------------- read


def test_lengths_are_measured_by_reading_each_sample_once() -> None:
    items = Items(samples(LENGTHS))
    made = stock(items, (), "x")
    assert told(made) == {"x": LENGTHS}
    assert items.reads == len(LENGTHS) + 1  # one shows what parts there are


def test_lengths_by_a_function_of_the_sample() -> None:
    assert told(stock(Items(samples(LENGTHS)), (), {"x": lambda item: len(item["x"])})) == {"x": LENGTHS}
    pairs = Items([(torch.zeros(frames), 1) for frames in LENGTHS])
    assert told(stock(pairs, ("x", "y"), {"x": lambda item: len(item["x"])})) == {"x": LENGTHS}


def test_lengths_that_are_stated_are_not_measured() -> None:
    items = Items(samples(LENGTHS))
    assert told(stock(items, (), {"x": LENGTHS})) == {"x": LENGTHS}
    assert items.reads == 1


def test_a_data_set_that_tells_its_lengths() -> None:
    items = Items([sample(number, frames, two=True) for number, frames in enumerate(LENGTHS)])
    items.lengths = {"x": np.array(LENGTHS), "y": np.array([2, 3, 1])}  # type: ignore[attr-defined]
    assert told(stock(items, (), None)) == {"x": LENGTHS, "y": [2, 3, 1]}
    assert told(stock(items, (), "y")) == {"y": [2, 3, 1]}
    assert items.reads == 2


def test_reading_leaves_chance_alone() -> None:
    class Drawing(Items):
        def __getitem__(self, number: int) -> Any:
            return {"x": torch.rand(LENGTHS[number])}

    before = torch.get_rng_state()
    stock(Drawing(samples(LENGTHS)), (), "x")
    assert torch.get_rng_state().equal(before)


def test_what_cannot_be_read_has_no_length_where_it_is_left_out() -> None:
    assert told(stock(Items(samples(LENGTHS), (0, 1)), (), "x", skips=True)) == {"x": [0, 0, 2]}
    assert repr(LOST)


def test_samples_are_called_by_their_ids() -> None:
    items = Items(samples(LENGTHS))
    items.tags = ["a", "b", "c"]  # type: ignore[attr-defined]
    assert stock(items, (), None).called(1) == "sample 1 ('b')"
    assert stock(samples(LENGTHS), (), None).called(1) == "sample 1"


# ---------------------------------------------------------------------------------------------------------- forward


def passing() -> Iterator[Any]:
    yield from samples(LENGTHS)


def test_what_is_read_forward_is_not_read_to_see_what_it_is() -> None:
    made = stock(passing, (), "x")
    assert (made.number, made.forward, made.lengths, made.streams) == (None, True, None, ("x",))


def measure(item: Any) -> int:
    return len(item["x"])


def test_what_is_read_forward_may_be_measured_by_a_function() -> None:
    assert stock(passing, (), {"x": measure}).measure == {"x": measure}


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: stock([(torch.zeros(n), 1) for n in LENGTHS], (), None), "their parts have no names"),
        (
            lambda: stock((torch.zeros(2), torch.zeros(2)), ("x",), None),
            "1 names, and a sample has 2 parts.",
        ),
        (lambda: stock(samples(LENGTHS), (), {"x": [3, 4, 2]}), "lengths= says 4 for 'x' of sample 1, and it has 5."),
        (lambda: stock(samples(LENGTHS), (), {"x": lambda item: 3}), "says 3 for 'x' of sample 1, and it has 5"),
        (lambda: stock(samples(LENGTHS), (), {"x": [3, 4]}), "The stream 'x' has 2 lengths, and there are 3 samples."),
        (lambda: stock(samples(LENGTHS), (), "z"), "There is no stream 'z'"),
        (lambda: stock(Items(samples(LENGTHS)), (), "z"), "lengths='z': there is no stream 'z'."),
        (lambda: stock(Items(samples(LENGTHS)), (), {"x": [3, 5]}), "has 2 lengths, and there are 3 samples"),
        (lambda: stock(Items(samples(LENGTHS)), (), {"x": [3, -5, 2]}), "has length -5 for sample 1"),
        (lambda: stock(Items(samples(LENGTHS)), (), {"x": [3, 1.5, 2]}), "has length 1.5 for sample 1"),
        (
            lambda: stock(Items(samples(LENGTHS)), (), {"x": lambda item: item["z"]}),
            "The length of 'x' in sample 0 cannot be told: KeyError: 'z'",
        ),
        (
            lambda: stock(Items([(torch.zeros(n), 1) for n in LENGTHS]), (), {"0": LENGTHS}),
            "with streams of different lengths and no names.",
        ),
        (
            lambda: stock(Items(samples(LENGTHS), (0,)), (), None),
            "Item 0 of the data set Items cannot be read: OSError: a scratch",
        ),
        (lambda: stock(Items(samples(LENGTHS), (1,)), (), "x"), "Item 1 of the data set Items cannot be read"),
        (
            lambda: stock(Items(samples(LENGTHS), (0, 1, 2)), (), None, skips=True),
            "None of the first 3 samples of Items can be read. Write unreadable='raise' to see why.",
        ),
        (lambda: stock(passing, (), {"x": LENGTHS}), "is read forward, and its samples have no numbers."),
        (lambda: stock(iter(samples(LENGTHS)), (), "x"), "can be read only once, and an epoch needs it anew."),
        (lambda: stock(DataLoader(samples(LENGTHS)), (), "x"), "a loader makes batches itself."),  # type: ignore[arg-type]
        (lambda: stock([], (), None), "empty"),
        (lambda: stock(Items([]), (), None), "empty"),
        (lambda: stock(3, (), None), "Cannot read int 3 as data."),
        (lambda: stock(None, (), None), "Cannot read NoneType None as data."),
    ],
)
def test_bad_input(make: Any, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        make()
