"""Data sets joined by id: every sample gets the partner of its id, and what does not fit is named."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from etude.data.joined import joined
from etude.data.source import source
from etude.errors import DataError, SettingError


class Told:
    """Sequences with ids and lengths, which remembers what was read."""

    def __init__(self, tags: list[Any], name: str = "", factor: int = 1) -> None:
        self.tags = tags
        self.title = name or "features"
        self.lengths = {"0": np.array([factor * (1 + len(str(tag))) for tag in tags])}
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.tags)

    def __getitem__(self, number: int) -> np.ndarray[Any, Any]:
        self.read.append(number)
        return np.full(self.lengths["0"][number], float(ord(str(self.tags[number])[0])), np.float32)


class Forward(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([1, 2])


FEATURES = Told(["a", "bb", "ccc", "d"])
ALIGNED = Told(["ccc", "d", "zz", "a", "bb"], "alignments", 2)


def test_samples_of_one_id_come_together_in_the_order_of_the_first() -> None:
    data = joined({"audio": FEATURES, "labels": ALIGNED})
    assert [sorted(data[number]) for number in range(4)] == [["audio", "labels"]] * 4
    assert [float(data[number]["labels"][0]) for number in range(4)] == [ord(each) for each in "abcd"]
    assert data.tags == ["a", "bb", "ccc", "d"]
    assert data.lengths["audio"].tolist() == [2, 3, 4, 2]
    assert data.lengths["labels"].tolist() == [4, 6, 8, 4]
    assert (len(data), dict(data.dropped)) == (4, {})


def test_nothing_is_read_but_the_first_samples_until_one_is_asked_for() -> None:
    features, aligned = Told(["a", "b", "c"]), Told(["c", "b", "a"])
    data = joined({"audio": features, "labels": aligned})
    features.read.clear()
    aligned.read.clear()
    data[1]
    assert (features.read, aligned.read) == ([1], [1])
    data[2]
    assert (features.read, aligned.read) == ([1, 2], [1, 0])


def test_whole_samples_are_put_together_as_tuples_or_dicts() -> None:
    assert [len(part) for part in joined(FEATURES, ALIGNED)[2]] == [4, 8]
    assert {name: own.tolist() for name, own in joined(FEATURES, ALIGNED).lengths.items()}["1"] == [4, 6, 8, 4]
    left = [{"id": 7, "x": 1.0}, {"id": 8, "x": 2.0}]
    right = [{"id": 8, "y": 20.0}, {"id": 7, "y": 10.0}]
    data = joined(left, right, on="id")
    assert [data[0], data[-1]] == [{"id": 7, "x": 1.0, "y": 10.0}, {"id": 8, "x": 2.0, "y": 20.0}]


def test_three_data_sets_keep_what_all_have() -> None:
    data = joined({"a": [1, 2, 3], "b": [10, 20], "c": [100, 300]}, on=[[0, 1, 2], [2, 1], [1, 2]], missing="drop")
    assert [data[number] for number in range(len(data))] == [{"a": 2, "b": 20, "c": 100}, {"a": 3, "b": 10, "c": 300}]
    assert dict(data.dropped) == {"b": 1, "c": 1}


def test_a_pair_says_which_part_of_a_sample_is_taken() -> None:
    left = [{"x": 1, "speaker": "m"}, {"x": 2, "speaker": "f"}]
    right = [(5, 6), (7, 8)]
    data = joined({"audio": (left, "x"), "state": (right, 1)}, on=[["p", "q"], ["q", "p"]])
    assert [data[0], data[1]] == [{"audio": 1, "state": 8}, {"audio": 2, "state": 6}]


def test_the_only_part_of_a_sample_needs_no_name() -> None:
    left, right = [{"id": 1, "x": 5.0}], [{"id": 1, "y": 6.0}]
    assert joined({"audio": left, "labels": right}, on="id")[0] == {"audio": 5.0, "labels": 6.0}


def test_arrays_in_dicts_are_data_sets_too() -> None:
    left = {"id": torch.tensor([3, 4]), "x": torch.tensor([[1.0], [2.0]])}
    right = {"id": np.array([4, 3]), "y": np.array([40, 30])}
    data = joined(left, right, on="id")
    assert (data[0]["x"].tolist(), int(data[0]["y"])) == ([1.0], 30)


def test_ids_can_be_a_function_or_lists_by_name() -> None:
    left, right = [("k1.wav", 1)], [("k1.txt", 2)]
    assert joined(left, right, on=lambda sample: sample[0].split(".")[0])[0] == ("k1.wav", 1, "k1.txt", 2)
    by_name = joined({"x": [5, 6], "y": [7, 8]}, on={"y": np.array([2, 1]), "x": torch.tensor([1, 2])})
    assert by_name[0] == {"x": 5, "y": 8}


def test_reading_ids_leaves_chance_alone() -> None:
    class Drawing:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> dict[str, Any]:
            return {"id": number, "x": torch.rand(2), "n": np.random.rand(), "r": random.random()}

    torch.manual_seed(0)
    before = torch.get_rng_state()
    joined(Drawing(), [{"id": each, "y": 0} for each in range(3)], on="id")
    assert torch.equal(before, torch.get_rng_state())


def test_joined_data_are_a_source_and_work_in_a_data_loader() -> None:
    data = joined({"audio": torch.arange(6.0), "labels": torch.arange(6.0) * 2}, on=[range(6), range(6)])
    assert (source(data).random_access, source(data).names) == (True, ("audio", "labels"))
    batch = next(iter(DataLoader(data, batch_size=4)))  # type: ignore[arg-type]
    assert batch["labels"].tolist() == [0, 2, 4, 6]


def test_a_loop_over_joined_data_ends() -> None:
    assert len(list(joined({"a": [1, 2], "b": [3, 4]}, on=[[0, 1], [0, 1]]))) == 2


@given(st.lists(st.integers(0, 30), unique=True, min_size=1), st.randoms(use_true_random=False))
def test_any_order_of_the_others_gives_the_same_samples(ids: list[int], chance: random.Random) -> None:
    other = [*ids, *range(100, 105)]
    chance.shuffle(other)
    data = joined({"a": ids, "b": other}, on=[ids, other])
    assert [data[number] for number in range(len(data))] == [{"a": each, "b": each} for each in ids]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: joined(FEATURES), "at least two"),
        (lambda: joined(FEATURES, Forward()), "read by number"),
        (lambda: joined([1], [2]), "data set 0 (list) tells no ids of its samples. Write on='id'"),
        (lambda: joined(FEATURES, Told(["a", "bb"], "few")), "data set 1 (few) lacks 2 of the 4 ids of data set 0"),
        (lambda: joined(FEATURES, Told(["a", "bb"], "few")), "'ccc', 'd'. It has 'a', 'bb'"),
        (lambda: joined(FEATURES, Told(["a", "bb"], "few")), 'Write missing="drop"'),
        (lambda: joined(Told(["utt-1"]), Told(["utt_1"])), 'Nearest: "utt_1"'),
        (lambda: joined(Told(["a"]), Told(["b"]), missing="drop"), "lacks 1 of the 1 ids"),
        (lambda: joined(Told(["a", "b", "a", "a"]), FEATURES), "the id 'a' comes twice in data set 0 (features)"),
        (lambda: joined(Told(["a", "b", "a", "a"]), FEATURES), "samples 0 and 2, and 1 more ids come again"),
        (lambda: joined({"x": FEATURES, "y": Told(["a", "a"], "al")}), "comes twice in 'y' (al): samples 0 and 1."),
        (lambda: joined(FEATURES, ALIGNED, missing="dorp"), "missing='dorp' was asked for. Nearest: \"drop\""),
        (lambda: joined([1], [2], on=[[0]]), "on= has 1 lists of ids for 2 data sets"),
        (lambda: joined([1], [2], on=[[0], [0, 1]]), "2 ids were given for the 1 samples of data set 1 (list)"),
        (lambda: joined({"x": [1], "y": [2]}, on={"x": [0], "z": [0]}), "has ids for 'x', 'z'; the data sets are"),
        (
            lambda: joined([{"id": 1}], [{"idx": 1}], on="id"),
            "sample 0 of data set 1 (list) is {'idx': int 1}, without",
        ),
        (lambda: joined([{"id": 1}], [{"idx": 1}], on="id"), 'Nearest: "idx"'),
        (lambda: joined([{"x": 1}], [{"x": 2}], on=[[0], [0]]), "several data sets have a 'x'"),
        (lambda: joined([{"x": 1}], [3], on=[[0], [0]]), "some data sets give dicts and others do not"),
        (
            lambda: joined({"a": [{"x": 1, "s": 2}], "b": [1]}, on=[[0], [0]]),
            "the samples of 'a' have several parts; there are 'x', 's'. Write {'a': (data, 'x')}",
        ),
        (
            lambda: joined({"a": ([{"audio": 1, "s": 2}], "adio"), "b": [1]}, on=[[0], [0]]),
            "the samples of 'a' have no 'adio'; there are 'audio', 's'. Nearest: \"audio\"",
        ),
        (lambda: joined({"a": ([5], "x"), "b": [1]}, on=[[0], [0]]), "which have no parts by name"),
        (lambda: joined({"x": [1, 2], "y": []}, on=[[0], []]), "list is empty"),
        (lambda: joined(({"x": [1, 2], "y": [1]}), [1]), "differ in length: 'x' has 2, 'y' has 1"),
        (lambda: joined(("abc", [1]), [1]), "under '0', which is no array"),
        (lambda: joined("abc", [1]), "has no samples that can be read by number"),
    ],
)
def test_what_does_not_fit_is_named(make: Any, told: str) -> None:
    with pytest.raises(DataError) as caught:
        make()
    assert told in str(caught.value)


def test_ids_must_be_one_for_every_sample() -> None:
    wrong = Told(["a", "b"])
    wrong.tags = ["a", "b", "c"]
    wrong.__class__ = type("Two", (Told,), {"__len__": lambda self: 2})
    with pytest.raises(DataError, match="features tells 3 ids for 2 samples"):
        joined(wrong, FEATURES)


def test_unknown_arguments_are_told() -> None:
    with pytest.raises(SettingError, match="missing"):
        joined(FEATURES, ALIGNED, mising="drop")  # type: ignore[call-arg]


def test_a_sample_that_is_not_there() -> None:
    with pytest.raises(IndexError, match="There is no sample 4: there are 4"):
        joined(FEATURES, ALIGNED)[4]
