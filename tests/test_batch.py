"""What a batch holds, how it is counted and moved, and how data are described in messages."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch

from etude.data.batch import Batch, counts, each, leaves, moved, outline, quick_batch
from etude.data.cursor import Cursor
from etude.errors import DataError

Pair = namedtuple("Pair", "left right")


def test_the_last_batch_of_an_epoch_is_followed_by_the_next_epoch() -> None:
    inside = Batch(torch.zeros(2), 2, 0, Cursor(3, 0), Cursor(3, 1), 3.5)
    ends = Batch(torch.zeros(2), 2, 0, Cursor(3, 1), Cursor(4, 0), 4.0)
    assert (inside.last, ends.last) == (False, True)


def test_indices_are_a_piece_of_the_order() -> None:
    batch = Batch(torch.zeros(2), 2, 0, Cursor(), Cursor(1, 0), 1.0, torch.tensor([5, 3, 4, 1]), 1)
    assert batch.indices is not None
    assert batch.indices.tolist() == [3, 4]
    assert Batch(torch.zeros(2), 2, 0, Cursor(), Cursor(1, 0), 1.0).indices is None


def test_the_quick_way_makes_the_same_batch() -> None:
    fields = ("values", 2, 6, Cursor(0, 1), Cursor(1, 0), 1.0, None, 4)
    assert quick_batch(*fields) == Batch(*fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.zeros(5, 3), (5, 0)),
        ((torch.zeros(4, 7, dtype=torch.int64), torch.zeros(4)), (4, 28)),
        ({"image": torch.zeros(2, 8, 8, dtype=torch.uint8), "y": torch.zeros(2)}, (2, 0)),
        ((torch.tensor(1.0), {"deep": [torch.zeros(3)]}), (3, 0)),
        ((["a", "b"], torch.zeros(2, 5, dtype=torch.int32)), (2, 10)),
    ],
)
def test_samples_and_tokens_are_those_of_the_first_tensor(values: object, expected: tuple[int, int]) -> None:
    assert counts(values) == expected


def test_a_batch_without_a_tensor_is_refused() -> None:
    with pytest.raises(DataError, match=r"no tensor with a first dimension: \{'text': \[str 'a'\]\}\. Give a tensor"):
        counts({"text": ["a"]})


def test_structures_are_kept() -> None:
    values = {"a": [1.5, 2.5], "b": Pair("x", ("y", ["z"]))}
    changed = each(values, lambda value: "ab" if isinstance(value, list) else value.upper())
    assert changed == {"a": "ab", "b": Pair("X", ("Y", ["Z"]))}
    assert type(changed["b"]) is Pair
    assert [name for name, _ in leaves(values)] == ["a", "b.0", "b.1.0", "b.1.1.0"]


def test_only_floating_tensors_change_their_type() -> None:
    x, y, text = moved((torch.zeros(2), torch.zeros(2, dtype=torch.int64), ["s"]), None, torch.float64)
    assert (x.dtype, y.dtype, text) == (torch.float64, torch.int64, ["s"])


def test_everything_that_can_be_moved_is() -> None:
    values = moved({"x": torch.zeros(2), "text": ["s"]}, torch.device("meta"), None)
    assert (values["x"].device.type, values["text"]) == ("meta", ["s"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(2, 3), "Tensor float32 (2, 3)"),
        (np.zeros(2), "ndarray float64 (2,)"),
        ((torch.zeros(1), 3), "(Tensor float32 (1,), int 3)"),
        ({"a": [1, 2, 3, 4, 5]}, "{'a': [int 1, int 2, int 3, int 4, ...]}"),
        (slice(1, 2), "slice slice(1, 2, None)"),
        (type("Broad", (), {"__repr__": lambda self: "Broad(\n    1)"})(), "Broad Broad( 1)"),
        ("x" * 50, "str '" + "x" * 36 + "..."),
    ],
)
def test_messages_describe_data_shortly(value: object, text: str) -> None:
    assert outline(value) == text
