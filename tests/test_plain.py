"""Nested values as JSON and tensors, and back."""

from __future__ import annotations

import enum
import json
import math
import random
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from etude.errors import StateError
from etude.keep.plain import pack, unpack


def through(value: Any) -> Any:
    """What comes back, through the text of a file."""
    made, tensors = pack(value)
    text = json.dumps(made, allow_nan=False)
    return unpack(json.loads(text), {name: tensor.clone() for name, tensor in tensors.items()})


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in type and in every bit that matters, NaNs being equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(same(a, c) and same(b, d) for (a, b), (c, d) in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**1023),
        2**80,
        1.5,
        -0.0,
        5e-324,
        1e308,
        math.nan,
        math.inf,
        -math.inf,
        "",
        "é\n\0\ud800名",
        [],
        (),
        {},
        [1, [2, [3]]],
        (1, (2, [3]), ()),
        {"a": {"b": {"c": 1}}},
        {"": 1, "a.b": 2, "a": {"b": 3}},
        {1: "int", "1": "text", False: "no", 2.5: "float", None: "none", (1, "a"): "tuple"},
        {(): {}, ((),): ()},
        {"~": "tuple", "items": [1]},
        {"~": {"~": {}}},
        {math.inf: 1},
        torch.float32,
        torch.bfloat16,
        torch.device("cpu"),
        torch.device("cuda:1"),
        torch.tensor(3),
        torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
        torch.tensor([True]),
        torch.empty(0, 3),
        torch.arange(6).view(2, 3).t(),
        np.float32(0.1),
        np.float64(0.1),
        np.float16(math.inf),
        np.float32(math.nan),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.array(3.0),
        np.arange(6).reshape(2, 3),
        np.arange(6)[::-2],
        np.arange(6).reshape(2, 3).T,
        np.array([1 + 2j], dtype=np.complex64),
        np.array([True, False]),
        np.zeros((0, 2), dtype=np.uint16),
        np.random.RandomState(1).get_state(),
        np.random.default_rng(1).bit_generator.state,
        random.Random(1).getstate(),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert same(through(value), value)
    assert same(through({"a": [value, (value,)]}), {"a": [value, (value,)]})


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([torch.int8, torch.device("cpu"), np.float32(2.5), np.int64(7)])
    | st.integers(0, 3).map(lambda n: torch.arange(n) * 1.5)
    | st.integers(0, 3).map(lambda n: np.arange(n, dtype=np.uint16)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.text("ab.[0]~", max_size=3) | st.integers(-9, 9) | st.tuples(st.integers(0, 3)), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(VALUES)
def test_any_value_comes_out_as_it_went_in(value: Any) -> None:
    assert same(through(value), value)


def test_some_types_come_back_plainer() -> None:
    assert same(through(OrderedDict(b=1, a=(2,))), {"b": 1, "a": (2,)})
    assert same(through(torch.Size([2, 3])), (2, 3))
    found = through(nn.Parameter(torch.ones(2)))
    assert type(found) is Tensor
    assert not found.requires_grad


def test_tensors_are_named_by_their_place() -> None:
    value = {"a": {"b": [torch.ones(1), (torch.ones(1),)]}, 3: np.ones(1), "a.b[0]": torch.ones(1), (1,): torch.ones(1)}
    _, tensors = pack(value, "optimizer:")
    places = ["a.b[0]", "a.b[1][0]", "[3]", "a.b[0]~2", "[tuple]"]
    assert list(tensors) == [f"optimizer:{place}" for place in places]
    assert list(pack(torch.ones(1))[1]) == ["state:"]


def test_no_tensor_is_copied_on_the_way_in_and_each_is_on_the_way_out() -> None:
    tensor, array = torch.ones(3), np.ones(3)
    made, tensors = pack([tensor, array])
    tensor[0] = 5
    array[0] = 6
    assert [found[0].item() for found in tensors.values()] == [5, 6]
    one, two = unpack(made, tensors)
    one[0] = two[0] = 7
    assert [found[0].item() for found in tensors.values()] == [5, 6]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_a_tensor_lies_in_memory_as_before(order: tuple[int, ...]) -> None:
    """What is computed of it may differ in the last bit otherwise."""
    tensor = torch.randn(2, 3, 4).permute(order)
    found = through([tensor])[0]
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()


def test_a_tensor_with_holes_lies_without_them() -> None:
    found = through(torch.arange(24.0).view(4, 6)[::2, ::3])
    assert found.tolist() == [[0, 3], [12, 15]]
    assert found.is_contiguous()


def test_what_was_one_is_one_again() -> None:
    tensor = torch.ones(3)
    assert len(pack([tensor, {"x": tensor}])[1]) == 1
    one, two = through([tensor, tensor])
    assert one is two


Pair = namedtuple("Pair", "a b")
Colour = enum.IntEnum("Colour", ["RED", "BLUE"])


class Text(str):
    """A text of another type."""


class Real(float):
    """A number of another type."""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (print, "scheduler.x: a builtin_function_or_method cannot be kept."),
        (lambda x: x, "scheduler.x: a function cannot be kept. Numbers, strings, tensors, arrays, and lists, tup"),
        (object(), "scheduler.x: a value of type object cannot be kept. Numbers, strings, tensors, arrays, and lists"),
        (int, "scheduler.x: a value of type type cannot be kept."),
        (nn.Linear(1, 1), "scheduler.x: a Linear cannot be kept. Write its state_dict() instead."),
        (torch.optim.SGD([torch.ones(1)]), "scheduler.x: a value of type SGD cannot be kept. Write its state"),
        (1j, "scheduler.x: a value of type complex cannot be kept."),
        (b"abc", "scheduler.x: a value of type bytes cannot be kept."),
        ({1, 2}, "scheduler.x: a value of type set cannot be kept. Write sorted(...) of it instead."),
        (Pair(1, 2), "scheduler.x: a value of type Pair cannot be kept. Write tuple(...) of it instead."),
        (defaultdict(int), "scheduler.x: a value of type defaultdict cannot be kept. Write dict(...) of it instead."),
        (Counter("ab"), "scheduler.x: a value of type Counter cannot be kept. Write dict(...) of it instead."),
        (deque([1]), "scheduler.x: a value of type deque cannot be kept. Write list(...) of it instead."),
        (range(3), "scheduler.x: a value of type range cannot be kept. Write list(...) of it instead."),
        (Path("a"), "scheduler.x: a value of type PosixPath cannot be kept. Write str(...) of it instead."),
        (Colour.RED, "scheduler.x: a value of type Colour cannot be kept. Write its value instead."),
        (Text("a"), "scheduler.x: a value of type Text cannot be kept. Write str(...) of it instead."),
        (Real(2.0), "scheduler.x: a value of type Real cannot be kept. Write float(...) of it instead."),
        (np.str_("a"), "scheduler.x: a value of type str_ cannot be kept. Write its item() instead."),
        (np.complex64(1j), "scheduler.x: a value of type complex64 cannot be kept."),
        (np.array(["a"]), "scheduler.x: an array of dtype <U1 cannot be kept."),
        (np.array([None]), "scheduler.x: an array of dtype object cannot be kept."),
        (np.ones(1, dtype=">f4"), "scheduler.x: an array of dtype >f4 cannot be kept."),
        (np.ones(1, dtype=np.longdouble), "scheduler.x: an array of dtype float128 cannot be kept."),
        (np.ma.masked_array([1]), "scheduler.x: an array of dtype int64 cannot be kept."),
        (torch.Generator(), "scheduler.x: a value of type Generator cannot be kept. Write its get_state() instead."),
        (2**1024, "scheduler.x: an int of more than 1024 bits cannot be kept."),
        ([1, {"y": print}], "scheduler.x[1].y: a builtin_function_or_method cannot be kept."),
        ({3: print}, "scheduler.x[3]: a builtin_function_or_method cannot be kept."),
        ({"a": {(1, 2): print}}, "scheduler.x.a[tuple]: a builtin_function_or_method cannot be kept."),
        ({print: 1}, "scheduler.x[builtin_function_or_method] (a key): a builtin_function_or_method cannot be kept."),
    ],
)
def test_what_cannot_be_kept_is_named_by_its_place(value: Any, said: str) -> None:
    with pytest.raises(StateError) as caught:
        pack({"scheduler": {"x": value}})
    assert str(caught.value).startswith(said)


def test_a_value_without_a_place() -> None:
    with pytest.raises(StateError, match="The value: a value of type set cannot be kept"):
        pack({1})
    with pytest.raises(StateError, match="The value: an int of more than 1024 bits cannot be kept"):
        pack(2**2000)


def test_a_value_within_itself() -> None:
    value: list[Any] = []
    value.append({"a": value})
    with pytest.raises(StateError, match=r"values nested more than 64 deep cannot be kept"):
        pack({"loop": value})


def test_as_deep_as_is_kept() -> None:
    def nested(depth: int) -> Any:
        return {1: nested(depth - 1)} if depth else ()

    assert same(through(nested(63)), nested(63))
    with pytest.raises(StateError, match="nested more than 64 deep"):
        pack(nested(70))


@pytest.mark.parametrize(
    "value",
    [
        {"~": "code", "value": "1"},
        {"~": "__class__"},
        {"~": ["tuple"]},
        {"~": None},
        {"~": "tuple"},
        {"~": "tuple", "items": 3},
        {"~": "dict", "items": [1]},
        {"~": "dict", "items": [[1, 2, 3]]},
        {"~": "dict", "items": [[[], 1]]},
        {"~": "float", "value": "1"},
        {"~": "float", "value": []},
        {"~": "scalar", "dtype": "object", "value": 1},
        {"~": "scalar", "dtype": "int8", "value": 1000},
        {"~": "scalar", "dtype": "int8", "value": "x"},
        {"~": "tensor", "name": "x", "order": [0, 0]},
        {"~": "tensor", "name": "x", "order": [0]},
        {"~": "tensor", "name": "x", "order": [0.0, 1]},
        {"~": "tensor", "name": "x", "order": 1},
        {"~": "dtype", "value": "torch.load"},
        {"~": "device", "value": "nowhere"},
        {"~": "device", "value": 3.5},
    ],
    ids=str,
)
def test_what_pack_did_not_make_is_refused(value: Any) -> None:
    with pytest.raises(StateError) as caught:
        unpack({"a": [value]}, {"x": torch.ones(2, 3)})
    assert str(caught.value).startswith("a[0]: {'~': ")
    assert str(caught.value).endswith("stands for no value that is kept.")


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_a_tensor_that_is_missing_is_named(kind: str) -> None:
    with pytest.raises(StateError) as caught:
        unpack({"a": {"~": kind, "name": "state:a"}}, {"state:b": torch.ones(1)})
    assert str(caught.value) == "a: there is no array named 'state:a'."
    with pytest.raises(StateError, match="stands for no value that is kept"):
        unpack({"a": {"~": kind, "name": ["state:a"]}}, {})


def test_an_array_of_numbers_that_numpy_lacks_is_refused() -> None:
    with pytest.raises(StateError, match="stands for no value that is kept"):
        unpack({"~": "array", "name": "x"}, {"x": torch.ones(1, dtype=torch.bfloat16)})


def test_json_nested_without_end_is_refused() -> None:
    value: Any = 1
    for _ in range(500):
        value = [value]
    with pytest.raises(StateError, match="nested more than 64 deep"):
        unpack(value, {})
