"""Arrays in memory, in every form in which they are given."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from etude.data.arrays import arrays_of
from etude.errors import DataError


def test_tensors_are_used_where_they_are() -> None:
    x, y = torch.randn(5, 3), torch.arange(5)
    made = arrays_of((x, y))
    assert (made.form, made.names, made.length, made.converted) == ("tuple", ("0", "1"), 5, [])
    assert made.arrays[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("data", "form", "shapes"),
    [
        (torch.zeros(4, 2), "one", [(4, 2)]),
        (np.zeros((4, 2)), "one", [(4, 2)]),
        ([1.0, 2.0, 3.0], "one", [(3,)]),
        ([[1, 2], [3, 4], [5, 6]], "one", [(3, 2)]),
        ([torch.zeros(4), np.zeros(4)], "tuple", [(4,), (4,)]),
        (([1.0, 2.0], [0, 1]), "tuple", [(2,), (2,)]),
        (([torch.zeros(3), torch.ones(3)], [0, 1]), "tuple", [(2, 3), (2,)]),
        ([(torch.zeros(3), 0), (torch.ones(3), 1)], "tuple", [(2, 3), (2,)]),
        ([(np.zeros(3), [1.0, 2.0])] * 4, "tuple", [(4, 3), (4, 2)]),
        ([{"x": [0.0, 1.0], "y": 2}] * 3, "dict", [(3, 2), (3,)]),
        ({"x": np.zeros((4, 2)), "y": [0, 1, 0, 1]}, "dict", [(4, 2), (4,)]),
    ],
)
def test_every_form_of_arrays(data: Any, form: str, shapes: list[tuple[int, ...]]) -> None:
    made = arrays_of(data)
    assert made.form == form
    assert [tuple(array.shape) for array in made.arrays] == shapes


def test_floats_of_numpy_and_python_become_float32_and_that_is_listed() -> None:
    made = arrays_of({"x": np.zeros((2, 3)), "y": [0.5, 1.5], "z": torch.zeros(2, dtype=torch.float64), "k": [0, 1]})
    kinds = [str(array.dtype).removeprefix("torch.") for array in made.arrays]
    assert kinds == ["float32", "float32", "float64", "int64"]
    assert made.converted == ["x: float64 -> float32", "y: float64 -> float32"]


def test_a_type_asked_for_wins_and_loses_no_bit() -> None:
    third = np.array([1 / 3])
    made = arrays_of((third, torch.ones(1))).cast(torch.float64)
    assert made.arrays[0].item() == 1 / 3
    assert made.converted == ["1: float32 -> float64"]


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.arange(3, dtype=np.uint16), torch.int32),
        (np.arange(3, dtype=np.uint32), torch.int64),
        (np.arange(3, dtype=np.uint64), torch.int64),
        (np.arange(3, dtype=">i4"), torch.int32),
        (np.arange(3, dtype=np.longdouble), torch.float32),
        (np.arange(3)[::-1], torch.int64),
    ],
)
def test_arrays_that_torch_cannot_hold_as_they_are(array: Any, dtype: torch.dtype) -> None:
    made = arrays_of(array).arrays[0]
    assert made.dtype == dtype
    assert made.tolist() == array.tolist()


def test_arrays_that_must_not_be_written_to_are_read_without_a_warning() -> None:
    array = np.arange(3.0, dtype=np.float32)
    array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert arrays_of(array).arrays[0].tolist() == [0, 1, 2]


def test_data_that_require_a_gradient_are_detached_and_that_is_listed() -> None:
    made = arrays_of(torch.ones(2, requires_grad=True))
    assert not made.arrays[0].requires_grad
    assert made.converted == ["0: detached, it required a gradient"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((), "The data are empty: a tuple with nothing in it. Give at least one sample."),
        ([], "The data are empty: a list with nothing in it. Give at least one sample."),
        ({}, "The data are empty: a dict with nothing in it. Give at least one sample."),
        (torch.zeros(0, 3), "The data are empty: Tensor with 0 samples. Give at least one sample."),
        ((torch.zeros(0), []), "Array '1' is empty: a list with nothing in it. Give at least one sample."),
        (
            {"x": torch.zeros(3), "label": torch.zeros(2)},
            "The arrays have different numbers of samples: 'x' has 3, 'label' has 2. "
            "Give every sample one row in each array.",
        ),
        ([torch.zeros(3), torch.zeros(2)], "for a list of samples write torch.stack(samples)."),
        (torch.tensor(1.0), "Array '0' is a single number. Samples lie along the first dimension: give [value]."),
        (np.array(["cat", "dog"]), "Array '0' holds values of type <U3, which no tensor can hold. Give numbers"),
        (torch.eye(2).to_sparse(), "Array '0' has the layout torch.sparse_coo, which has no rows to read."),
        ((torch.zeros(2), "ab"), "Array '1' is str 'ab', which is no tensor, array or list of numbers. Known forms:"),
        ((torch.zeros(2), ["a", "b"]), "Array '1' holds str 'a', which is no number, tensor or array. Known forms:"),
        (["a", "b"], "Cannot read a list whose first item is str 'a'. Known forms: a tensor or array, a tuple"),
        ({"train": [0], "rest": (1, 2)}, "The dict holds (int 1, int 2) under 'rest', which is no array."),
        ({"train": object()}, "under 'train', which is no array. Known forms:"),
        (
            [(torch.zeros(3), 0), (torch.zeros(4), 1)],
            "The samples of array '0' cannot be joined: sample 0 is Tensor float32 (3,), sample 1 is "
            "Tensor float32 (4,). Give all samples one shape; sequences of different lengths go in "
            "etude.Data(samples, names=('x', 'y'), batch_size=32), which pads them.",
        ),
        ([[1, 2], [3]], "The samples of array '0' cannot be joined: sample 0 is [int 1, int 2], sample 1 is [int 3]."),
        (
            [(1.0, 2), (1.0, 2, 3)],
            "The samples of the list differ: sample 0 is (float 1.0, int 2), sample 1 is (float 1.0, int 2, int 3).",
        ),
        ([{"x": 1}, {"y": 1}], "The samples of the list differ: sample 0 is {'x': int 1}, sample 1 is {'y': int 1}."),
    ],
)
def test_data_that_cannot_be_read(data: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        arrays_of(data)
    assert message in str(caught.value)
