"""Sequences in one array: how they are made, cut, padded and packed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from effort import examples
from etude.data.laying import NARROW, offsets, packed, padded
from etude.data.ragged import Ragged, columns
from etude.errors import DataError

FRAMES: dict[str, Tensor] = {
    "numbers": torch.arange(1000),
    "vectors": torch.arange(3000, dtype=torch.float32).view(1000, 3),
    "matrices": torch.arange(6000, dtype=torch.float64).view(1000, 2, 3),
    "bool": torch.arange(1000) % 3 == 0,
    "bfloat16": torch.arange(1000, dtype=torch.bfloat16),
    "float8": torch.arange(1000, dtype=torch.float32).to(torch.float8_e4m3fn),
    "half": torch.arange(2000, dtype=torch.float16).view(1000, 2),
    "complex": torch.arange(1000) * 1j,
    "conjugated": (torch.arange(1000) * 1j).conj(),
    "strided": torch.arange(4000, dtype=torch.int32).view(1000, 4)[:, ::2],
}
"""A thousand frames of every sort."""


def cut(seed: int, longest: int, rows: int = 7) -> tuple[Any, Any]:
    """Starts and stops of pieces of a thousand frames, some of them empty."""
    chance = np.random.default_rng(seed)
    starts = chance.integers(0, 1000 - longest, rows)
    return starts, starts + chance.integers(0, longest + 1, rows)


def bits(array: Tensor) -> bytes:
    return array.resolve_conj().contiguous().view(torch.uint8).numpy().tobytes()


def one_by_one(flat: Tensor, starts: Any, stops: Any, value: float, to: int, rows: int) -> Tensor:
    """What `padded` should give."""
    out = torch.full((rows, to, *flat.shape[1:]), value, dtype=torch.float32).to(flat.dtype)
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        out[row, : stop - start] = flat[start:stop]
    return out


@pytest.mark.parametrize("longest", [5, 300, 700])
@pytest.mark.parametrize("sort", FRAMES)
def test_padding_gives_each_piece_a_row_and_fills_up_the_rest(sort: str, longest: int) -> None:
    flat, (starts, stops) = FRAMES[sort], cut(3, longest)
    made = padded(flat, starts, stops, value=1)
    assert made.dtype == flat.dtype
    assert bits(made) == bits(one_by_one(flat, starts, stops, 1, int((stops - starts).max()), 7))


@pytest.mark.parametrize("longest", [5, 300])
@pytest.mark.parametrize("sort", FRAMES)
def test_packing_puts_pieces_one_after_another(sort: str, longest: int) -> None:
    flat, (starts, stops) = FRAMES[sort], cut(4, longest)
    made = packed(flat, starts, stops)
    assert bits(made) == bits(torch.cat([flat[start:stop] for start, stop in zip(starts, stops, strict=True)]))


@pytest.mark.parametrize("longest", [5, 300])
def test_rows_and_frames_are_filled_up_to_what_is_asked(longest: int) -> None:
    flat, (starts, stops) = FRAMES["vectors"], cut(5, longest)
    made = padded(flat, starts, stops, value=-2.5, to=400, rows=9)
    assert torch.equal(made, one_by_one(flat, starts, stops, -2.5, 400, 9))
    total = int((stops - starts).sum())
    strung = packed(flat, starts, stops, to=total + 3, value=-2.5)
    assert torch.equal(strung[:total], packed(flat, starts, stops))
    assert torch.equal(strung[total:], torch.full((3, 3), -2.5))


@pytest.mark.parametrize("width", [(), (4,)])
def test_wide_rows_are_filled_up_like_narrow_ones(width: tuple[int, ...]) -> None:
    flat = torch.randn(9000, 1000 if width else 1, generator=torch.Generator().manual_seed(0))
    starts, stops = np.array([0, 100, 200, 4000]), np.array([100, 100, 265, 4090])
    assert torch.equal(padded(flat, starts, stops, 7.0, 120, 6), one_by_one(flat, starts, stops, 7.0, 120, 6))


def test_a_batch_of_nothing_but_empty_pieces() -> None:
    none = np.zeros(3, np.int64)
    for flat in (torch.zeros(0, 2), torch.ones(5, 2)):
        assert padded(flat, none, none).shape == (3, 0, 2)
        assert padded(flat, none, none, 4, to=2).tolist() == [[[4, 4]] * 2] * 3
        assert padded(flat, none, none, 4, to=NARROW).unique().tolist() == [4]
        assert packed(flat, none, none).shape == (0, 2)
        assert packed(flat, none, none, to=2, value=4).tolist() == [[4, 4]] * 2


def test_a_batch_is_a_copy() -> None:
    flat = torch.zeros(200)
    for stop in (5, 150):
        padded(flat, np.array([0]), np.array([stop])).fill_(1)
        packed(flat, np.array([0]), np.array([stop])).fill_(1)
    assert not flat.any()


def test_offsets() -> None:
    made = offsets(np.array([3, 0, 2]))
    assert (made.tolist(), made.dtype) == ([0, 3, 3, 5], np.int32)


def test_padding_on_another_device() -> None:
    """The device "meta" has shapes and no values: what runs on it needs no memory of this computer."""
    flat = torch.zeros(100, 3, device="meta")
    starts, stops = np.array([0, 10]), np.array([5, 90])
    made = padded(flat, starts, stops, 1.0, 85, 4)
    assert (made.shape, made.device.type) == ((4, 85, 3), "meta")
    assert packed(flat, starts, stops).shape == (85, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("longest", [5, 300])
@pytest.mark.parametrize("sort", [sort for sort in FRAMES if sort != "float8"])
def test_a_gpu_gives_the_same_bits(sort: str, longest: int) -> None:
    flat, (starts, stops) = FRAMES[sort], cut(6, longest)
    there = flat.to("cuda")
    assert bits(padded(there, starts, stops, 1, 310, 9).cpu()) == bits(padded(flat, starts, stops, 1, 310, 9))
    assert bits(packed(there, starts, stops).cpu()) == bits(packed(flat, starts, stops))


def test_a_ragged_is_a_data_set_of_its_sequences() -> None:
    made = Ragged(torch.arange(5), np.array([0, 2, 2, 5]))
    assert (len(made), made.lengths.tolist()) == (3, [2, 0, 3])
    assert [each.tolist() for each in made] == [[0, 1], [], [2, 3, 4]]
    assert made[-1].tolist() == [2, 3, 4]
    assert made[np.int64(2)].tolist() == [2, 3, 4]
    with pytest.raises(IndexError):
        made[3]


def test_what_is_given_out_can_have_another_type_than_what_is_held() -> None:
    flat = torch.arange(400, dtype=torch.float64) / 3
    made = Ragged(flat, np.array([0, 3, 400])).cast(torch.float32)
    assert made.kind == made[0].dtype == torch.float32
    assert made.flat.dtype == torch.float64
    for window in (None, (np.array([1, 0]), np.array([2, 3]))):
        bounds = made.bounds(np.array([0, 1]), window)
        for values in (made.padded(bounds, -1), made.packed(bounds)):
            assert values.dtype == torch.float32
        assert torch.equal(made.padded(bounds, -1), padded(flat.float(), *bounds, -1))
        assert torch.equal(made.packed(bounds, 500, -1), packed(flat.float(), *bounds, 500, -1))
    assert Ragged(torch.arange(3), np.array([0, 3])).cast(torch.float32).kind == torch.int64


@pytest.mark.parametrize(
    ("starts", "told"),
    [
        (np.array([0, 3, 2, 5]), "Sample 1 begins at frame 3 and ends at 2"),
        (np.array([0, 6]), "lie in frames 0 to 6, and there are 5"),
        (np.array([-1, 5]), "lie in frames -1 to 5"),
        (np.array([0]), "of shape (1,). Give int64 of shape (samples + 1,)"),
        (np.array([0.0, 5.0]), "starts are float64"),
    ],
)
def test_starts_that_do_not_fit(starts: Any, told: str) -> None:
    with pytest.raises(DataError) as error:
        Ragged(torch.arange(5), starts)
    assert told in str(error.value)


def test_a_window_never_reaches_into_the_next_sample() -> None:
    made = Ragged(torch.arange(5), np.array([0, 2, 5]))
    for start, stop in ((0, 3), (-1, 1), (2, 1)):
        with pytest.raises(DataError, match=f"Frames {start} to {stop} of 'x' were asked for of sample 0, which has 2"):
            made.bounds(np.array([1, 0]), (np.array([0, start]), np.array([1, stop])), "x")


@settings(max_examples=examples(60), deadline=None)
@given(
    lengths=strategies.lists(strategies.integers(0, 90), min_size=1, max_size=9),
    extra=strategies.integers(0, 3),
    seed=strategies.integers(0, 99),
)
def test_padding_agrees_with_pad_sequence(lengths: list[int], extra: int, seed: int) -> None:
    flat = torch.randn(sum(lengths), 2, generator=torch.Generator().manual_seed(seed))
    made = Ragged(flat, np.concatenate([[0], np.cumsum(lengths)]))
    chosen = np.random.default_rng(seed).integers(0, len(made), 5)
    expected = pad_sequence([made[at] for at in chosen], batch_first=True, padding_value=0.5)
    got = made.padded(made.bounds(chosen), 0.5, expected.shape[1] + extra)
    assert torch.equal(got[:, : expected.shape[1]], expected)
    assert (got[:, expected.shape[1] :] == 0.5).all()


SAMPLES: dict[str, tuple[list[Any], torch.dtype]] = {
    "tensors": ([torch.arange(3), torch.arange(0), torch.arange(2)], torch.int64),
    "wide tensors": ([torch.zeros(n, dtype=torch.float64) for n in (3, 0, 2)], torch.float64),
    "arrays": ([np.arange(n) / 2 for n in (3, 0, 2)], torch.float32),
    "unsigned": ([np.arange(n, dtype=np.uint16) for n in (3, 0, 2)], torch.int32),
    "lists": ([[1, 2, 3], [], [4, 5]], torch.int64),
    "lists of floats": ([[1.5, 2, 3], [], [4, 5.0]], torch.float32),
    "lists of frames": ([[[1, 2]] * 3, [], [[3, 4]] * 2], torch.int64),
    "an empty one of another type": ([[1, 2, 3], np.zeros(0), [4, 5]], torch.int64),
}


@pytest.mark.parametrize("given", SAMPLES)
def test_sequences_become_one_array(given: str) -> None:
    values, dtype = SAMPLES[given]
    expected = [torch.as_tensor(np.asarray(value)).to(dtype) for value in values]
    for data in (values, [{"0": value} for value in values], [(value,) for value in values], {"0": values}):
        made = columns(data)["0"]
        assert isinstance(made, Ragged)
        assert made.lengths.tolist() == [3, 0, 2]
        assert made.flat.dtype == dtype
        assert all(torch.equal(made[at], expected[at]) for at in (0, 2))


def test_parts_of_one_shape_are_stacked_unless_they_are_streams() -> None:
    data = [(torch.zeros(4, 2), at, np.float64(0.5), torch.tensor(at)) for at in range(3)]
    made = columns(data, names=("x", "y", "z", "t"))
    assert {name: (tuple(column.shape), column.dtype) for name, column in made.items()} == {
        "x": ((3, 4, 2), torch.float32),
        "y": ((3,), torch.int64),
        "z": ((3,), torch.float32),
        "t": ((3,), torch.int64),
    }
    stream = columns(data, names=("x", "y", "z", "t"), streams=["x"])["x"]
    assert isinstance(stream, Ragged)
    assert (stream.lengths.tolist(), stream.flat.shape) == ([4, 4, 4], (12, 2))


def test_columns_given_as_columns() -> None:
    ragged = Ragged(torch.arange(5.0), np.array([0, 2, 5]))
    given = {"a": ragged, "b": torch.zeros(2, 3), "c": np.zeros(2), "d": [1, 2], "e": [[1], [2, 3]]}
    made = columns(given, streams=["b"])
    assert made["a"] is ragged
    assert {name: type(column).__name__ for name, column in made.items()} == {
        "a": "Ragged",
        "b": "Ragged",
        "c": "Tensor",
        "d": "Tensor",
        "e": "Ragged",
    }
    objects = np.empty(2, object)
    objects[:] = [np.zeros(1), np.zeros(2)]
    assert columns({"a": objects})["a"].lengths.tolist() == [1, 2]
    assert columns(torch.zeros(3, 4), streams=["0"])["0"].lengths.tolist() == [4, 4, 4]


def test_a_type_asked_for_is_that_of_every_float() -> None:
    third = np.full(2, 1 / 3)
    data = [{"a": third, "b": third[:1], "y": 1}, {"a": third, "b": third, "y": 2}]
    made = columns(data, dtype=torch.float64)
    assert made["a"][0, 0].item() == made["b"][0].item() == 1 / 3
    assert made["y"].dtype == torch.int64
    held = Ragged(torch.zeros(2), np.array([0, 1, 2]))
    assert columns({"x": held}, dtype=torch.float64)["x"].kind == torch.float64


def test_sequences_are_detached() -> None:
    made = columns([torch.ones(2, requires_grad=True), torch.ones(1)])["0"]
    assert not made.flat.requires_grad


def test_streams_without_a_single_frame() -> None:
    made = columns([{"x": np.zeros((0, 3)), "y": 1}] * 2, streams=["x"])["x"]
    assert (made.flat.shape, made.flat.dtype, made.lengths.tolist()) == ((0, 3), torch.float32, [0, 0])
    assert columns([torch.zeros(0, dtype=torch.int32)], streams=["0"])["0"].flat.dtype == torch.int32


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "The data are empty: a list"),
        ({}, "The data are empty: a dict"),
        ([["a", "b"], ["c"]], "Sample 0 has [str 'a', str 'b'] for '0', which is no sequence"),
        (["some", "text"], "which is no number"),
        ([{"x": [1, 2]}, {"y": [1]}], "sample 0 is {'x': [int 1, int 2]}, sample 1 is {'y': [int 1]}"),
        ([(1, 2), (1,)], "sample 1 is (int 1)"),
        ([{"x": torch.zeros(2, 3)}, {"x": torch.zeros(1, 4)}], "sample 1 is Tensor float32 (1, 4)"),
        ([torch.zeros(2), torch.zeros(1).long()], "sample 1 is Tensor int64 (1,)"),
        ([torch.zeros(2), np.zeros(1)], "sample 1 is ndarray float64 (1,)"),
        ([torch.zeros(2), torch.tensor(1.0)], "Sample 1 has Tensor float32 () for '0', which is no sequence"),
        ([torch.zeros(2), 3], "Sample 1 has int 3 for '0'"),
        ([[[1, 2], [3]], [[1, 2]]], "Sample 0 has str 'a list of lists of different lengths' for '0'"),
        ({"x": [[1], [2, 3]], "y": [1, 2, 3]}, "'x' has 2, 'y' has 3"),
    ],
)
def test_what_no_columns_can_be_made_of(data: Any, told: str) -> None:
    with pytest.raises(DataError) as error:
        columns(data)
    assert told in str(error.value)


def test_names_and_streams_that_are_not_there() -> None:
    with pytest.raises(DataError, match=r"There is no stream 'audoi': a sample has 'audio', 'y'. Nearest: .audio"):
        columns([{"audio": [1], "y": 0}], streams=["audoi"])
    with pytest.raises(DataError, match="2 names, and a sample has 3 parts"):
        columns([(1, 2, 3)], names=("x", "y"))
    with pytest.raises(DataError, match="'y' holds one number for each sample, which has no length"):
        columns([{"x": [1], "y": 0}], streams=["y"])
