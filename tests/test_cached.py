"""Samples that are read once: the same afterwards, whoever reads them, in whatever process."""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import pytest
import torch

from etude.data.cached import cached
from etude.data.flow import Flow
from etude.errors import DataError


class Counting:
    """Random samples, which counts how often each is read."""

    title = "counting"
    lengths = {"x": np.array([2] * 4)}  # noqa: RUF012
    tags = ("a", "b", "c", "d")

    def __init__(self) -> None:
        self.read = [0] * 4

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> dict[str, Any]:
        self.read[number] += 1
        return {"x": torch.rand(2), "n": np.array([number]), "name": self.tags[number]}


def test_every_sample_is_read_once() -> None:
    inside = Counting()
    data = cached(inside)
    first = [data[number] for number in (2, 2, -2, 0)]
    assert inside.read == [1, 0, 1, 0]
    assert torch.equal(first[0]["x"], first[1]["x"])
    assert torch.equal(first[0]["x"], first[2]["x"])
    assert (len(data), data.tags, data.lengths["x"].tolist()) == (4, ["a", "b", "c", "d"], [2] * 4)


def test_all_can_be_read_ahead() -> None:
    inside = Counting()
    data = cached(inside, ahead=True)
    assert inside.read == [1] * 4
    data[3]
    assert inside.read == [1] * 4


def test_what_is_written_to_a_sample_does_not_stay() -> None:
    data = cached(Counting())
    before = data[0]["x"].clone()
    data[0]["x"].zero_()
    data[0]["n"][:] = 9
    assert torch.equal(data[0]["x"], before)
    assert data[0]["n"].tolist() == [0]


def test_chance_in_a_sample_depends_on_its_number_alone() -> None:
    torch.manual_seed(0)
    here = cached(Counting())
    forwards = [here[number]["x"] for number in range(4)]
    before = torch.get_rng_state()
    there = cached(Counting())
    backwards = [there[number]["x"] for number in (3, 2, 1, 0)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(torch.stack(forwards), torch.stack(backwards[::-1]))


def test_workers_change_nothing() -> None:
    def batches(workers: int) -> torch.Tensor:
        flow = Flow(cached(Counting()), batch_size=1, seed=1, workers=workers)
        return torch.cat([batch.values["x"] for batch in flow.batches(epochs=2)])

    assert torch.equal(batches(0), batches(2))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot be forked here")
def test_what_was_read_ahead_is_shared_with_forked_processes() -> None:
    data = cached(Counting(), ahead=True)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send((data[1]["x"].tolist(), data.data.read)))
    child.start()
    sample, read = ours.recv()
    child.join()
    assert (sample, read) == (data[1]["x"].tolist(), [1] * 4)


def test_what_is_read_forward_gets_random_access() -> None:
    data = cached(lambda: iter([{"x": 5}, {"x": 6}]))
    assert (len(data), data[1], data[0]) == (2, {"x": 6}, {"x": 5})


@pytest.mark.parametrize("empty", [[], lambda: iter([])])
def test_no_samples_are_an_error(empty: Any) -> None:
    with pytest.raises(DataError, match="is empty"):
        cached(empty)
