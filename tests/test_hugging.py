"""Hugging Face datasets and streams: arrays from lists, lengths from offsets."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from etude.data.forms.hugging import HuggingStream, hugging
from etude.data.items import items_of
from etude.data.streams import stream_of_items
from etude.errors import DataError, SettingError

datasets = pytest.importorskip("datasets")

AUDIO = [[0.5, -0.5], [], [1.0, 2.0, 3.0], [4.0]]


def made() -> Any:
    features = datasets.Features(
        {
            "audio": datasets.List(datasets.Value("float32")),
            "frames": datasets.List(datasets.List(datasets.Value("int16"))),
            "pair": datasets.List(datasets.Value("int64"), length=2),
            "square": datasets.Array2D((2, 2), "float32"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "text": datasets.Value("string"),
            "id": datasets.Value("string"),
        }
    )
    rows = {
        "audio": AUDIO,
        "frames": [[[1, 2]], [], [[3, 4], [5, 6]], [[7, 8]]],
        "pair": [[n, n + 1] for n in range(4)],
        "square": [[[n, 0], [0, n]] for n in range(4)],
        "label": [0, 1, 1, 0],
        "text": ["a", "b", "c", "d"],
        "id": [f"seq-{n}" for n in range(4)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def plain(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in item.items()}


def test_rows_are_arrays_of_the_types_of_the_dataset() -> None:
    data = hugging(made(), tags="id")
    assert len(data) == 4
    assert data.names == ("audio", "frames", "pair", "square", "label", "text")
    assert data.tags == ["seq-0", "seq-1", "seq-2", "seq-3"]
    expected = made().remove_columns("id")
    for index in (2, 0, 3, 1, -1):
        assert plain(data[index]) == plain(expected[index])
    types = {name: value.dtype.name for name, value in data[2].items() if hasattr(value, "dtype")}
    assert types == {"audio": "float32", "frames": "int16", "pair": "int64", "square": "float32", "label": "int64"}
    assert data[2]["frames"].shape == (2, 2)


def test_lengths_are_those_of_the_lists() -> None:
    data = hugging(made(), {"audio": "x", "frames": "frames", "pair": "pair"})
    assert {name: each.tolist() for name, each in data.lengths.items()} == {"x": [2, 0, 3, 1], "frames": [1, 0, 2, 1]}
    assert data.lengths["x"].dtype == np.int64
    assert data.lengths["x"] is data.lengths["x"]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.select([3, 1]),
        lambda data: data.shuffle(seed=3),
        lambda data: data.train_test_split(0.5, seed=1)["test"],
        lambda data: datasets.concatenate_datasets([data.select([2, 0]), data]),
        lambda data: data.filter(lambda row: row["label"] == 1),
        lambda data: data.with_format("numpy"),
        lambda data: data.with_format("torch"),
    ],
)
def test_lengths_and_rows_follow_what_was_done_to_the_dataset(change: Any) -> None:
    changed = change(made().select_columns(["audio", "label"]))
    data = hugging(changed)
    assert data.lengths["audio"].tolist() == [len(row["audio"]) for row in changed]
    assert [plain(data[index]) for index in range(len(data))] == [plain(row) for row in changed]


def test_lengths_of_many_rows_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etude.data.forms.hugging._ROWS", 3)
    counts = list(range(10))
    data = hugging(datasets.Dataset.from_dict({"x": [[1] * count for count in counts]}))
    assert data.lengths["x"].tolist() == counts


def test_a_transform_gives_what_it_gives_and_states_no_lengths() -> None:
    changed = made().with_transform(lambda rows: {"double": [[2 * each for each in row] for row in rows["audio"]]})
    data = hugging(changed)
    assert data.names == ("double",)
    assert data[2]["double"].tolist() == [2, 4, 6]
    assert data.lengths == {}


def test_what_arrow_cannot_tell_is_what_the_dataset_gives() -> None:
    data = hugging(datasets.Dataset.from_dict({"x": [[1, 2]], "s": [{"a": 1, "b": "t"}]}))
    assert data[0]["s"] == {"a": 1, "b": "t"}
    assert data[0]["x"].tolist() == [1, 2]


def test_deep_lists_are_arrays_too() -> None:
    data = hugging(datasets.Dataset.from_dict({"x": [[[[1, 2]], [[3, 4]]], [[[5, 6]]]], "y": [[[[1]], [[1, 2]]], []]}))
    assert data.lengths["x"].tolist() == [2, 1]
    with pytest.raises(DataError, match=r"Row 0 of the column 'y' of row 0 .* is no array: its lists have different"):
        data[0]
    data = hugging(datasets.Dataset.from_dict({"x": [[[[1, 2]], [[3, 4]]], [[[5, 6]]]]}))
    assert data[0]["x"].shape == (2, 1, 2)


def test_a_stream_gives_the_same_rows() -> None:
    data = hugging(made().to_iterable_dataset(), {"audio": "x", "label": "y", "text": "text"})
    assert isinstance(data, HuggingStream)
    rows = list(data)
    assert [row["x"].tolist() for row in rows[::2]] == [AUDIO[0], AUDIO[2]]
    assert [row["y"] for row in rows] == [0, 1, 1, 0]
    assert rows[3]["text"] == "d"


def test_a_stream_that_shuffles_does_it_anew_each_epoch() -> None:
    numbers = datasets.Dataset.from_dict({"x": list(range(50))}).to_iterable_dataset().shuffle(seed=1, buffer_size=50)
    source = stream_of_items(hugging(numbers), False, None)
    epochs = [[row["x"] for row in source.open(epoch)] for epoch in (0, 1, 0)]
    assert sorted(epochs[1]) == list(range(50))
    assert epochs[0] == epochs[2] != epochs[1]


def test_items_make_a_source_and_travel() -> None:
    data = hugging(made(), ["pair", "label"])
    source = items_of(data, False)
    assert source.names == ("pair", "label")
    again = pickle.loads(pickle.dumps(hugging(made())))
    assert again[2]["audio"].tolist() == AUDIO[2]
    assert torch.as_tensor(again[2]["audio"]).dtype == torch.float32


def test_wrong_data_are_told() -> None:
    splits = datasets.DatasetDict(train=made(), test=made())
    with pytest.raises(DataError, match=r"several datasets: 'train', 'test'\. Give one .*\(data\['train'\]"):
        hugging(splits)
    with pytest.raises(DataError, match=r"hugging\(\) takes a dataset of Hugging Face, not "):
        hugging([1, 2])
    with pytest.raises(DataError, match=r"The data are empty: the dataset Dataset with 0 rows"):
        hugging(made().select([]))
    with pytest.raises(DataError, match=r"the dataset Dataset has no stream 'audo'\. Nearest: \"audio\""):
        hugging(made(), ["audo"])
    with pytest.raises(DataError, match=r"has no stream 'ids'\. Nearest: \"id\""):
        hugging(made(), tags="ids")
    with pytest.raises(DataError, match=r"tags='id': a stream knows no ids beforehand"):
        hugging(made().to_iterable_dataset(), tags="id")
    with pytest.raises(DataError, match=r"the stream IterableDataset has no stream 'audo'\. Nearest: \"audio\""):
        list(hugging(made().to_iterable_dataset(), ["audo"]))
    with pytest.raises(SettingError, match=r"hugging\(\): There is no argument 'columns'"):
        hugging(made(), columns=["x"])  # type: ignore[call-arg]


def test_rows_that_lack_something_are_told() -> None:
    data = hugging(datasets.Dataset.from_dict({"x": [[1], None, [2]]}))
    with pytest.raises(DataError, match=r"column 'x' of the dataset Dataset lacks 1 of 3 lists\. Fill them in"):
        _ = data.lengths
    with pytest.raises(DataError, match=r"column 'x' of row 1 of the dataset Dataset lacks 1 value"):
        data[1]
    assert data[2]["x"].tolist() == [2]
