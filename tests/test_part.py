"""Every form in which a part is written, what it selects, how it prints."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.values.part import Part, Repeat, everything, part, where
from etude.values.text import read
from ids import steady
from nets import Graph, Named, Scale, is_a_vector, shared_chain, tied


def deep() -> Named:
    """head (Linear), layers (a chain of a Linear, a norm and a Scale), norm (LayerNorm)."""
    layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), Scale())
    return Named({"head": nn.Linear(2, 2), "layers": layers, "norm": nn.LayerNorm(2)})


HEAD = ["head.weight", "head.bias"]
FIRST = ["layers.0.weight", "layers.0.bias"]
BATCH = [f"layers.1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
SCALE = ["layers.2.gain", "layers.2.shift", "layers.2.inner.weight"]
NORM = ["norm.weight", "norm.bias"]
ALL = HEAD + FIRST + BATCH + SCALE + NORM
NOT_VECTORS = {"head.weight", "layers.0.weight", "layers.1.num_batches_tracked", "layers.2.inner.weight"}


@pytest.mark.parametrize(
    ("literal", "names"),
    [
        ("head", HEAD),
        ("layers", FIRST + BATCH + SCALE),
        ("layers.0", FIRST),
        ("layers.2.inner.weight", ["layers.2.inner.weight"]),
        ("layers.1.running_mean", ["layers.1.running_mean"]),
        ("*.bias", ["head.bias", "layers.0.bias", "layers.1.bias", "norm.bias"]),
        ("layers.?", FIRST + BATCH + SCALE),
        ("layers.[02]", FIRST + SCALE),
        ("*inner*", ["layers.2.inner.weight"]),
        (re.compile(r"layers\.\d\.bias"), ["layers.0.bias", "layers.1.bias"]),
        (re.compile("HEAD", re.IGNORECASE), HEAD),
        (nn.Linear, [*HEAD, *FIRST, "layers.2.inner.weight"]),
        (nn.Linear | nn.LayerNorm, [*HEAD, *FIRST, "layers.2.inner.weight", *NORM]),
        (Scale, SCALE),
        (0, HEAD),
        (1, FIRST + BATCH + SCALE),
        (-1, NORM),
        (-3, HEAD),
        (slice(0, 1), HEAD),
        (slice(1, None), FIRST + BATCH + SCALE + NORM),
        (slice(None, -1), HEAD + FIRST + BATCH + SCALE),
        (slice(None, None, 2), HEAD + NORM),
        (("layers", 0), FIRST),
        (("layers", 0, "weight"), ["layers.0.weight"]),
        (("layers", slice(0, 2), "bias"), ["layers.0.bias", "layers.1.bias"]),
        (("layers", nn.Linear), [*FIRST, "layers.2.inner.weight"]),
        ((1, -1, "inner"), ["layers.2.inner.weight"]),
        ((everything, "norm"), NORM),
        ((slice(None), "bias"), ["head.bias", "norm.bias"]),
        ({"head", "norm"}, HEAD + NORM),
        (frozenset({0, "norm"}), HEAD + NORM),
        (everything, ALL),
        (
            is_a_vector,
            [n for n in ALL if n not in ("head.weight", "layers.0.weight", "layers.2.inner.weight", BATCH[-1])],
        ),
        (where(lambda name, array: name.startswith("norm")), NORM),
    ],
    ids=steady,
)
def test_what_a_literal_selects(literal: Any, names: list[str]) -> None:
    net = deep()
    found = part(literal).of(net)
    assert list(found) == names
    assert all(array is dict([*net.named_parameters(), *net.named_buffers()])[name] for name, array in found.items())


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (part("head") | "norm", HEAD + NORM),
        ("head" | part("norm"), HEAD + NORM),
        (part("norm") | "head", HEAD + NORM),
        (part(nn.LayerNorm) | "*.bias", ["head.bias", "layers.0.bias", "layers.1.bias", *NORM]),
        (part("layers") & "*.bias", ["layers.0.bias", "layers.1.bias"]),
        ("*.bias" & part("layers"), ["layers.0.bias", "layers.1.bias"]),
        (part("layers") - "layers.0" - nn.Linear - "layers.1", ["layers.2.gain", "layers.2.shift"]),
        (part("head") - "head.bias", ["head.weight"]),
        ("head" - part("*.bias"), ["head.weight"]),
        (~part("layers"), HEAD + NORM),
        (~(part("layers") | "norm"), HEAD),
        (part("layers") / 0, FIRST),
        ("layers" / part(0), FIRST),
        (part("layers")[0], FIRST),
        (part("layers")[0:2], FIRST + BATCH),
        (part("layers")[-1], SCALE),
        (part("layers")["2.gain"], ["layers.2.gain"]),
        (everything[0], HEAD),
        (everything[1:], FIRST + BATCH + SCALE + NORM),
        ((part("head") | "norm") / "bias", ["head.bias", "norm.bias"]),
        (part("layers") / (part(0) | 2), FIRST + SCALE),
    ],
    ids=repr,
)
def test_the_algebra_of_parts(made: Part, names: list[str]) -> None:
    assert list(made.of(deep())) == names


def test_a_search_at_any_depth_begins_at_this_one() -> None:
    assert list(part("*.bias").of(nn.Linear(2, 2))) == ["bias"]
    assert list((part("head") / "*.bias").of(deep())) == ["head.bias"]
    assert list(part("*.*.bias").of(deep())) == ["head.bias", "layers.0.bias", "layers.1.bias", "norm.bias"]
    assert list(part("*.layers").of(deep())) == FIRST + BATCH + SCALE
    assert list(part("?.bias").of(nn.Sequential(nn.Linear(2, 2)))) == ["0.bias"]
    with pytest.raises(LookupError, match="no path fits the pattern"):
        part("?.bias").of(nn.Linear(2, 2))


def test_the_net_the_part_meets_decides_what_it_is() -> None:
    last = part(-1)
    assert list(last.of(Graph())) == ["out.weight", "out.bias"]
    assert list(last.of(shared_chain())) == ["0.weight", "0.bias"]


def test_layers_are_counted_with_those_that_have_no_arrays() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    assert list(part(2).of(net)) == ["2.weight", "2.bias"]
    assert part(1).of(net) == {}
    assert list(part(1).modules(net)) == ["1"]


def test_a_name_is_exact_and_never_searched() -> None:
    with pytest.raises(LookupError, match=r"the net has no 'weight'"):
        part("weight").of(deep())


def test_objects_of_the_net_are_parts() -> None:
    net = deep()
    assert list(part(net).of(net)) == ALL
    assert list(part(net.layers[0]).of(net)) == FIRST
    assert list(part(net.head.bias).of(net)) == ["head.bias"]
    assert part(net.head) == part(net.head)
    assert part(net.head) != part(net.norm)


def test_a_shared_array_is_meant_by_each_of_its_names_and_by_itself() -> None:
    net = tied()
    for literal in ("emb.weight", "out.weight", net.emb.weight, ("out", "weight"), "out.w*"):
        assert list(part(literal).of(net)) == ["emb.weight"]
    assert list((part("out") - "emb").of(net)) == ["out.bias"]
    assert list((~part("out.weight")).of(net)) == ["emb.bias", "out.bias"]


def test_modules_are_given_by_path_in_the_order_of_the_net() -> None:
    assert list((part("norm") | "head").modules(deep())) == ["head", "norm"]
    assert part("head.bias").modules(deep()) == {}


def test_a_predicate_sees_each_name_and_array() -> None:
    seen: dict[str, Tensor] = {}
    net = tied()
    where(lambda name, array: seen.setdefault(name, array) is not None).of(net)
    assert list(seen) == ["emb.weight", "emb.bias", "out.weight", "out.bias"]
    assert seen["out.weight"] is net.emb.weight


def test_parts_are_values() -> None:
    assert part("a") == part("a") != part("b")
    assert part("a") | "b" == part("a") | part("b") != part("b") | "a"
    assert part({"a", "b"}) == part({"b", "a"})
    assert len({part("a"), part("a"), part(0), part(nn.Linear), part(nn.Linear), everything, everything}) == 4
    assert part(part("a")) == part("a")
    assert everything[2:6] == part(slice(2, 6))
    assert everything / "a" == part("a")
    with pytest.raises(AttributeError):
        part("a").name = "b"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (part("encoder.0"), "part('encoder.0')"),
        (part("it's"), """part("it's")"""),
        (part(re.compile("a+")), "part(re.compile('a+'))"),
        (part(nn.LayerNorm), "part(nn.LayerNorm)"),
        (part(Scale), "part(Scale)"),
        (part(-1), "part(-1)"),
        (part(slice(2, 6)), "everything[2:6]"),
        (part(slice(None, None, 2)), "everything[::2]"),
        (part(("layers", 0, "weight")), "part('layers')[0] / part('weight')"),
        (part("a") | "b" | "c", "part('a') | part('b') | part('c')"),
        (part("a") & "b" & "c", "(part('a') & part('b')) & part('c')"),
        ((part("a") | "b") & "c", "(part('a') | part('b')) & part('c')"),
        (part("a") - (part("b") - "c"), "part('a') - (part('b') - part('c'))"),
        (~part("a"), "~part('a')"),
        (~(part("a") / "b"), "~(part('a') / part('b'))"),
        ((~part("a")) / "b", "~part('a') / part('b')"),
        ((~part("a"))[0], "(~part('a'))[0]"),
        (~(part("a")[0]), "~(part('a')[0])"),
        ((~part("a") | "b") & "c", "(~part('a') | part('b')) & part('c')"),
        (part("a") / (part("b") / "c"), "part('a') / (part('b') / part('c'))"),
        (where(is_a_vector), "where(is_a_vector)"),
        (everything, "everything"),
    ],
)
def test_a_part_prints_as_the_expression_that_makes_it(made: Part, text: str) -> None:
    assert repr(made) == text
    assert read(text, {"Scale": Scale, "is_a_vector": is_a_vector}) == made


def test_an_object_prints_as_what_it_is() -> None:
    assert re.fullmatch(r"part\(<Linear at 0x[0-9a-f]+>\)", repr(part(nn.Linear(2, 2))))
    assert re.fullmatch(r"part\(<\(2, 3\) at 0x[0-9a-f]+>\)", repr(part(torch.zeros(2, 3))))


def test_a_part_times_a_number_is_a_repetition() -> None:
    assert part("a") * 5 == 5 * part("a") == Repeat(part("a"), 5)
    assert repr((part("a") | "b") * 2) == "(part('a') | part('b')) * 2"


def test_parts_are_not_iterated() -> None:
    with pytest.raises(LookupError, match="it is a description"):
        list(part("a"))
    with pytest.raises(LookupError):
        "b" in part("a")  # noqa: B015
