"""Samples joined to a batch: padded, packed, cut, filled up; the same from data sets and from memory."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effort import examples
from etude.data.joining import Joining
from etude.data.plan.lengths import lengths_of
from etude.data.ragged import columns
from etude.data.wanted import Wanted
from etude.errors import DataError


def wanted(*samples: int, **others: Any) -> Wanted:
    return Wanted(0, np.array(samples, np.int64), **others)


def speech(lengths: Any, seed: int = 0) -> list[dict[str, Any]]:
    """Samples with frames, half as many labels, a speaker and a weight."""
    chance = np.random.default_rng(seed)
    return [
        {
            "audio": chance.normal(size=(length, 3)),
            "labels": torch.arange(length // 2),
            "speaker": number,
            "weight": 0.5,
        }
        for number, length in enumerate(lengths)
    ]


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Whether two batches have the same parts in the same order, with the same bits."""
    assert list(one) == list(other)
    for name, value in one.items():
        assert value.dtype == other[name].dtype
        assert value.shape == other[name].shape
        assert value.numpy().tobytes() == other[name].numpy().tobytes()


TWO = ("audio", "labels")


def test_a_padded_batch() -> None:
    data = speech([4, 2, 0])
    made = Joining(TWO, pad={"labels": -100}).join([data[0], data[2], data[1]], wanted(0, 2, 1))
    assert list(made) == ["audio", "audio_lengths", "labels", "labels_lengths", "speaker", "weight"]
    assert made["audio"].shape == (3, 4, 3)
    assert made["audio"].dtype == made["weight"].dtype == torch.float32
    assert made["audio_lengths"].tolist() == [4, 0, 2]
    assert made["audio_lengths"].dtype == torch.int64
    assert torch.equal(made["audio"][2, :2], torch.tensor(data[1]["audio"]).float())
    assert not made["audio"][2, 2:].any()
    assert made["labels"].tolist() == [[0, 1], [-100, -100], [0, -100]]
    assert made["labels_lengths"].tolist() == [2, 0, 1]
    assert made["speaker"].tolist() == [0, 2, 1]


def test_a_packed_batch() -> None:
    data = speech([4, 2, 0])
    made = Joining(TWO, packed=True).join([data[0], data[2], data[1]], wanted(0, 2, 1))
    assert list(made)[:4] == ["audio", "audio_lengths", "audio_offsets", "labels"]
    assert torch.equal(made["audio"], torch.cat([torch.tensor(data[at]["audio"]) for at in (0, 2, 1)]).float())
    assert made["audio_offsets"].tolist() == [0, 4, 4, 6]
    assert made["audio_offsets"].dtype == torch.int32
    assert made["labels"].tolist() == [0, 1, 0]
    assert made["labels_lengths"].tolist() == [2, 0, 1]


def test_one_number_pads_every_stream() -> None:
    made = Joining(TWO, pad=7).join(speech([4, 2]), wanted(0, 1))
    assert made["labels"].tolist() == [[0, 1], [0, 7]]
    assert (made["audio"][1, 2:] == 7).all()


def test_windows_cut_the_streams_they_name() -> None:
    data = speech([6, 4])
    windows = {"audio": (np.array([2, 0, 3]), np.array([5, 2, 4]))}
    made = Joining(TWO).join([data[0], data[0], data[1]], wanted(0, 0, 1, windows=windows))
    assert made["audio_lengths"].tolist() == [3, 2, 1]
    assert torch.equal(made["audio"][0], torch.tensor(data[0]["audio"][2:5]).float())
    assert made["labels_lengths"].tolist() == [3, 3, 2]


def test_lengths_and_rows_are_filled_up_to_what_is_asked() -> None:
    data = speech([4, 2])
    joining = Joining(TWO, pad={"labels": -1, "speaker": 9})
    made = joining.join(data, wanted(0, 1, to={"audio": 5, "labels": 3}, rows=4))
    assert made["audio"].shape == (4, 5, 3)
    assert made["labels"].tolist() == [[0, 1, -1], [0, -1, -1], [-1] * 3, [-1] * 3]
    assert made["audio_lengths"].tolist() == [4, 2, 0, 0]
    assert made["speaker"].tolist() == [0, 1, 9, 9]
    assert made["weight"].tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("to", [{}, {"audio": 3}, {"audio": 90}])
def test_a_batch_of_no_samples(packed: bool, to: dict[str, int]) -> None:
    made = Joining(TWO, packed=packed).gather(columns(speech([4, 2]), streams=TWO), wanted(to=to))
    assert made["audio"].shape[1 - packed :] == (to.get("audio", 0), 3)
    assert [len(made[name]) for name in ("audio_lengths", "labels_lengths", "speaker")] == [0, 0, 0]


def test_a_packed_batch_is_filled_up_at_its_end() -> None:
    made = Joining(TWO, packed=True, pad=-1).join(speech([4, 2]), wanted(0, 1, to={"labels": 5}, rows=3))
    assert made["labels"].tolist() == [0, 1, 0, -1, -1]
    assert made["labels_lengths"].tolist() == [2, 1, 0]
    assert made["labels_offsets"].tolist() == [0, 2, 3, 3]
    assert made["audio"].shape == (6, 3)


def test_rows_that_fill_up_are_left_out_by_losses() -> None:
    items = [
        {
            "x": [1.0],
            "label": 3,
            "image": torch.zeros(2, 2, dtype=torch.uint8),
            "mask": True,
            "tag": "a",
            "more": {"y": 1},
        }
    ]
    made = Joining(("x",)).join(items, wanted(0, rows=3))
    assert made["label"].tolist() == [3, -100, -100]
    assert made["more"]["y"].tolist() == [1, -100, -100]
    assert made["image"].shape == (3, 2, 2)
    assert not made["image"].any()
    assert made["mask"].tolist() == [True, False, False]
    assert made["tag"] == ["a", "", ""]


def test_rows_are_filled_up_without_any_stream() -> None:
    made = Joining(()).join([{"x": torch.ones(2), "y": 1}], wanted(0, rows=2))
    assert made["x"].tolist() == [[1, 1], [0, 0]]
    assert made["y"].tolist() == [1, -100]


def test_without_streams_items_are_joined_as_they_are() -> None:
    x, y = Joining(()).join([(torch.ones(2), 1), (torch.zeros(2), 2)], wanted(0, 1))
    assert (x.tolist(), y.tolist()) == ([[1, 1], [0, 0]], [1, 2])


@pytest.mark.parametrize(
    ("items", "names", "streams", "parts"),
    [
        ([([1, 2], 3), ([4], 5)], (), ("0",), ["0", "0_lengths", "1"]),
        ([([1, 2], 3), ([4], 5)], ("text", "label"), ("text",), ["text", "text_lengths", "label"]),
        ([[torch.ones(2), 3], [torch.ones(1), 5]], ("x", "y"), ("x",), ["x", "x_lengths", "y"]),
        ([[1, 2], [4]], ("text",), ("text",), ["text", "text_lengths"]),
        ([torch.ones(2), torch.ones(1)], (), ("0",), ["0", "0_lengths"]),
    ],
)
def test_samples_of_every_form(items: Any, names: Any, streams: Any, parts: list[str]) -> None:
    made = Joining(streams, names=names).join(items, wanted(0, 1))
    assert list(made) == parts
    assert made[f"{streams[0]}_lengths"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([np.ones(2), np.ones(1)], torch.float32),
        ([np.ones(2, np.float16), np.ones(1, np.float16)], torch.float16),
        ([np.ones(2, np.uint16), np.ones(1, np.uint16)], torch.int32),
        ([np.ones(2, ">i4"), np.ones(1, ">i4")], torch.int32),
        ([torch.ones(2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)], torch.float64),
        ([torch.ones(2, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16)], torch.bfloat16),
        ([torch.ones(2, requires_grad=True), torch.ones(1)], torch.float32),
        ([[1, 1], []], torch.int64),
        ([[1.0, 1.0], [1.0]], torch.float32),
        ([torch.ones(2).long(), torch.tensor([])], torch.int64),
        ([[[1.0, 1.0]] * 2, []], torch.float32),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_sequences_of_every_type(values: list[Any], dtype: torch.dtype, packed: bool) -> None:
    items = [{"x": value} for value in values]
    joining = Joining(("x",), packed=packed)
    made = joining.join(items, wanted(0, 1))
    assert made["x"].dtype == dtype
    assert made["x"].sum() == sum(prod(np.shape(value)) for value in values)
    assert not made["x"].requires_grad
    if all(isinstance(value, type(values[0])) and len(value) for value in values):
        gathered = joining.gather(columns(items, streams=["x"]), wanted(0, 1))
        assert torch.equal(made["x"], gathered["x"])
        assert gathered["x"].dtype == dtype


def test_a_type_asked_for_is_that_of_numpys_floats() -> None:
    items = [{"x": np.full(length, 1 / 3), "y": 1 / 3} for length in (2, 100)]
    made = Joining(("x",), dtype=torch.float64).join(items, wanted(0, 1))
    assert made["x"][0, 0].item() == made["y"][0].item() == 1 / 3


def test_arrays_mapped_into_memory_are_sequences_too(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert Joining(("x",)).join([{"x": mapped[:2]}, {"x": mapped[2:]}], wanted(0, 1))["x_lengths"].tolist() == [2, 4]


settled = settings(max_examples=examples(60), deadline=None)


@settled
@given(
    lengths=st.lists(st.integers(0, 150), min_size=1, max_size=8),
    packed=st.booleans(),
    cut=st.booleans(),
    fill=st.booleans(),
    seed=st.integers(0, 99),
)
def test_memory_and_data_sets_give_the_same_bits(
    lengths: list[int], packed: bool, cut: bool, fill: bool, seed: int
) -> None:
    data, chance = speech(lengths, seed), np.random.default_rng(seed)
    samples = chance.integers(0, len(data), 5)
    windows = {}
    if cut:
        ends = np.sort(chance.random((2, 5)) * np.array(lengths)[samples], axis=0).astype(np.int64)
        windows = {"audio": (ends[0], ends[1])}
    to = {"labels": 500} if fill else {}
    asked = Wanted(0, samples, windows, to, 7 if fill else None)
    stated = lengths_of({"audio": lengths})
    joining = Joining(TWO, {"audio": 0.25, "labels": -100}, packed, stated=stated)
    same(
        joining.join([data[at] for at in samples], asked),
        joining.gather(columns(data, streams=TWO), asked),
    )


@settled
@given(lengths=st.lists(st.integers(0, 150), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_padded_and_packed_hold_the_same_frames(lengths: list[int], seed: int) -> None:
    data, asked = speech(lengths, seed), wanted(*range(len(lengths)))
    rows, flat = (Joining(TWO, packed=packed).join(data, asked) for packed in (False, True))
    for name in TWO:
        mask = torch.arange(rows[name].shape[1]) < rows[f"{name}_lengths"][:, None]
        assert torch.equal(rows[name][mask], flat[name])
        assert flat[f"{name}_offsets"].diff().tolist() == rows[f"{name}_lengths"].tolist()


def test_a_sequence_is_the_same_in_any_batch() -> None:
    data = speech([70, 3, 200, 0, 65])
    joining = Joining(TWO)
    for at, sample in enumerate(data):
        alone = joining.join([sample], wanted(at))
        together = joining.join(data, wanted(*range(5)))
        length = int(alone["audio_lengths"][0])
        assert torch.equal(alone["audio"][0], together["audio"][at, :length])


def refusal(joining: Joining, items: list[Any], asked: Wanted | None = None) -> str:
    with pytest.raises(DataError) as error:
        joining.join(items, wanted(*range(3, 3 + len(items))) if asked is None else asked)
    return str(error.value)


def test_a_length_that_was_stated_must_be_the_length_that_is_read() -> None:
    data = speech([4, 2, 3])
    joining = Joining(TWO, stated=lengths_of({"audio": [4, 5, 1]}))
    told = "Sample 1 has 2 frames of 'audio', and its length was stated as 5. Correct the lengths"
    assert told in refusal(joining, data[:2], wanted(0, 1))
    assert joining.join(data[:1], wanted(0))["labels_lengths"].tolist() == [2]


def test_a_window_beyond_its_sample() -> None:
    data, asked = speech([4]), wanted(0, windows={"labels": (np.array([1]), np.array([3]))})
    told = "Frames 1 to 3 of 'labels' were asked for of sample 0, which has 2"
    assert told in refusal(Joining(TWO), data, asked)
    with pytest.raises(DataError, match=told):
        Joining(TWO).gather(columns(data, streams=TWO), asked)


def test_more_frames_than_are_to_be_filled_up_to() -> None:
    data = speech([4, 3])
    for packed, told in ((False, "A sequence of the batch has 4"), (True, "The sequences of a batch have 7")):
        asked = wanted(0, 1, to={"audio": 3})
        joining = Joining(TWO, packed=packed)
        assert f"{told} frames of 'audio', and they were to be filled up to 3" in refusal(joining, data, asked)
        with pytest.raises(DataError, match=told):
            joining.gather(columns(data, streams=TWO), asked)


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([{"y": 1}], "There is no stream 'x': a sample has 'y'"),
        ([{"x": [1]}, {"y": [1]}], "sample 3 has 'x', sample 4 has 'y'. Give all samples the same parts"),
        ([{"x": [1]}, {"x": [1], "y": 1}], "sample 4 has 'x', 'y'"),
        ([{"x": torch.zeros(1)}, {"x": torch.zeros(1).long()}], "sample 4 is Tensor int64 (1,)"),
        ([{"x": torch.zeros(1, 2)}, {"x": torch.zeros(1, 3)}], "sample 4 is Tensor float32 (1, 3)"),
        ([{"x": torch.zeros(1)}, {"x": torch.tensor(1.0)}], "Sample 4 has Tensor float32 () for 'x', which is no seq"),
        ([{"x": torch.tensor(1.0)}], "Sample 3 has Tensor float32 () for 'x'"),
        ([{"x": "text"}], "Sample 3 has str 'text' for 'x', which is no sequence"),
        ([{"x": np.array(["text"])}], "Sample 3 has ndarray <U4 (1,) for 'x'"),
        ([{"x": [[1], [2, 3]]}], "a list of lists of different lengths"),
        (
            [{"x": [1], "y": [1, 2]}, {"x": [1], "y": [1]}],
            "These are of 'y': if it has a length of its own, say so: lengths=['x', 'y'].",
        ),
        ([{"x": [1], "x_lengths": 1}], "A sample has 'x_lengths', which is what the lengths of 'x' are called"),
    ],
)
def test_samples_that_cannot_be_joined(items: list[Any], told: str) -> None:
    assert told in refusal(Joining(("x",)), items)


def test_the_nearest_stream_is_named() -> None:
    assert 'Nearest: "audio"' in refusal(Joining(("audoi",)), speech([2]))
    assert "There is no part to pad 'label'" in refusal(Joining(TWO, pad={"label": 1}), speech([2]))
    assert "3 names, and a sample has 2 parts" in refusal(Joining(("a",), names=("a", "b", "c")), [([1], 2)])


def test_a_column_of_several_lengths_that_is_no_stream() -> None:
    with pytest.raises(DataError, match=r"'labels' have different lengths, .* Write lengths=.'audio', 'labels'"):
        Joining(("audio",)).gather(columns(speech([2, 4])), wanted(0, 1))


@pytest.mark.parametrize(
    ("value", "array", "told"),
    [
        (0.5, torch.zeros(2).long(), "which holds int64. Write a whole number from -9223372036854775808 to"),
        (float("nan"), torch.zeros(2).int(), "pad=nan was asked for 'x', which holds int32"),
        (-100, torch.zeros(2).to(torch.uint8), "which holds uint8. Write a whole number from 0 to 255"),
        (2, torch.zeros(2).bool(), "which holds bool. Write a whole number from 0 to 1"),
        (1e6, torch.zeros(2).half(), "which holds float16. Write a number from -65504.0 to 65504.0"),
    ],
)
def test_a_pad_that_the_type_cannot_hold(value: float, array: Tensor, told: str) -> None:
    assert told in refusal(Joining(("x",), pad=value), [{"x": array}])


def test_pads_that_are_no_numbers() -> None:
    for pad in ("zero", {"x": None}):
        with pytest.raises(DataError, match=r"is no number\. Write pad=0, or pad={'labels': -100}"):
            Joining(("x",), pad=pad)  # type: ignore[arg-type]


def test_a_pad_of_nan_or_infinity() -> None:
    items = [{"x": torch.zeros(2)}, {"x": torch.zeros(1)}]
    assert Joining(("x",), pad=float("nan")).join(items, wanted(0, 1))["x"].isnan().tolist() == [
        [False] * 2,
        [False, True],
    ]
    assert Joining(("x",), pad=float("-inf")).join(items, wanted(0, 1))["x"][1, 1] == -float("inf")
