"""A function of every sample: called when it is read, with lengths that are said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from etude.data.cached import cached
from etude.data.filtered import filtered
from etude.data.flow import Flow
from etude.data.forward import Forward
from etude.data.joined import joined
from etude.data.mapped import Mapped, mapped
from etude.data.mixture import concatenated
from etude.data.source import source
from etude.errors import DataError, SettingError


class Timed:
    title = "timed"
    lengths = {"x": np.array([4, 7, 2])}  # noqa: RUF012
    tags = ("a", "b", "c")

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.arange(int(self.lengths["x"][number]))


class Stream(IterableDataset[Any]):
    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch, self.epoch + 3))


def halved(sample: torch.Tensor) -> torch.Tensor:
    return sample[::2]


def test_the_function_is_called_when_a_sample_is_read() -> None:
    called: list[int] = []
    data = mapped([5, 6, 7], lambda sample: called.append(sample) or sample * 2)
    assert isinstance(data, Mapped)
    assert (len(data), called) == (3, [])
    assert (data[1], data[-1], called) == (12, 14, [6, 7])
    with pytest.raises(IndexError, match="There is no sample 3"):
        data[3]


def test_lengths_pass_only_where_it_is_said() -> None:
    silent, same = mapped(Timed(), halved), mapped(Timed(), halved, lengths="same")
    counted = mapped(Timed(), halved, lengths=lambda lengths: {"x": -(-lengths["x"] // 2)})
    given = mapped(Timed(), halved, lengths={"y": [1, 2, 3]})
    assert isinstance(silent, Mapped)
    assert (dict(silent.lengths), silent.tags) == ({}, ["a", "b", "c"])
    told = [{name: own.tolist() for name, own in each.lengths.items()} for each in (same, counted, given)]  # type: ignore[union-attr]
    assert told == [{"x": [4, 7, 2]}, {"x": [2, 4, 1]}, {"y": [1, 2, 3]}]
    assert [len(sample) for sample in counted] == [2, 4, 1]


def test_arrays_and_dicts_of_them_are_rows() -> None:
    data = mapped({"x": torch.arange(3.0), "y": np.arange(3)}, lambda row: row["x"] + row["y"])
    assert [float(each) for each in data] == [0.0, 2.0, 4.0]


def test_what_is_read_forward_stays_so_and_hears_of_the_epoch() -> None:
    data = mapped(Stream(), lambda sample: sample * 10)
    assert isinstance(data, Forward)
    data.set_epoch(2)
    assert list(data) == [20, 30, 40]
    assert source(data).random_access is False


def test_a_function_that_yields_samples_is_told_the_epoch() -> None:
    data = mapped(lambda epoch: iter([epoch, epoch + 1]), str)
    data.set_epoch(4)  # type: ignore[union-attr]
    assert list(data) == ["4", "5"]


def test_what_the_function_draws_depends_on_seed_epoch_and_sample_alone() -> None:
    def noisy(row: torch.Tensor) -> torch.Tensor:
        return row + torch.rand(()) + float(np.random.rand())

    def batches(size: int) -> torch.Tensor:
        flow = Flow(mapped(torch.arange(12.0), noisy), batch_size=size, shuffle=False, seed=3)
        return torch.cat([batch.values for batch in flow.batches(epochs=2)])

    torch.manual_seed(0)
    first = batches(4)
    torch.manual_seed(1)
    assert torch.equal(first, batches(5))
    assert not torch.equal(first[:12], first[12:])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: mapped([1], 3), "int 3 cannot be called"),
        (lambda: mapped(Stream(), str, lengths="same"), "read forward, so lengths are measured when a sample comes"),
        (lambda: mapped([1], str, lengths="same"), "mapped(): list tells no lengths"),
        (lambda: mapped(Timed(), str, lengths="sam"), 'Write lengths="same", a function'),
        (lambda: mapped(Timed(), str, lengths=lambda lengths: 3), "gave int 3. Let it give a dict of arrays, such as"),
        (lambda: mapped(Timed(), str, lengths={"x": [1, 2]}), "has 2 lengths, and there are 3 samples"),
        (lambda: mapped([], str), "list is empty"),
        (lambda: mapped("text", str), "mapped(): str 'text' has no samples that can be read by number"),
        (lambda: mapped(iter([1]), str), "can be read only once"),
    ],
)
def test_what_does_not_fit_is_told(make: Any, told: str) -> None:
    with pytest.raises(DataError) as caught:
        make()
    assert told in str(caught.value)


def test_lengths_that_a_data_set_tells_are_checked() -> None:
    class Wrong(Timed):
        lengths = {"x": np.array([1.5, 2, 3])}  # noqa: RUF012

    with pytest.raises(DataError, match=r"'x' has length 1\.5 for sample 0"):
        mapped(Wrong(), str, lengths="same")


def test_data_sets_print_alike_in_every_process() -> None:
    assert repr(mapped(Timed(), halved)) == "mapped(timed, halved)"
    assert repr(mapped(Stream(), halved)) == "mapped(Stream)"
    assert repr(filtered([1, 2], small)) == "filtered(list, small)"
    assert repr(cached(concatenated([1], [2]))) == "cached(concatenated(list, list))"
    assert repr(joined([1], [2], on=[[0], [0]])) == "joined(list, list)"


def small(sample: int) -> bool:
    return sample < 3


def test_unknown_arguments_are_told() -> None:
    with pytest.raises(SettingError, match='Nearest: "lengths"'):
        mapped([1], str, length="same")  # type: ignore[call-arg]
