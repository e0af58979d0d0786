"""One walk of a net: nodes, arrays, and every name of what is shared."""

from __future__ import annotations

import torch
from torch import nn

from etude.values.tree import Tree, has_shape
from nets import Graph, Scale, chain, shared_chain, tied


def test_names_are_those_of_state_dict_in_its_order() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), Scale())
    assert list(Tree(net).arrays) == list(net.state_dict())


def test_nodes_are_modules_and_arrays_parents_first() -> None:
    names = ["weight", "bias"]
    below = [path for part in ["a", "b", "out"] for path in (part, *(f"{part}.{name}" for name in names))]
    assert list(Tree(Graph()).nodes) == ["", *below]


def test_a_tied_array_is_one_array_under_its_first_name() -> None:
    tree = Tree(tied())
    assert list(tree.arrays) == ["emb.weight", "emb.bias", "out.bias"]
    assert tree.names["emb.weight"] == ("emb.weight", "out.weight")
    assert tree.name_of("out.weight") == "emb.weight"
    assert tree.below("out") == ("emb.weight", "out.bias")


def test_a_shared_module_is_a_node_under_each_path() -> None:
    net = shared_chain()
    tree = Tree(net)
    assert tree.nodes["0"] is tree.nodes["2"] is net[0]
    assert tree.names == {"0.weight": ("0.weight", "2.weight"), "0.bias": ("0.bias", "2.bias")}
    assert tree.layers("") == ["0", "1", "2"]


def test_a_module_inside_itself_is_walked_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    net.add_module("back", net)
    assert list(Tree(net).nodes) == ["", "0", "0.weight", "0.bias"]


def test_trainable_are_the_parameters_that_require_a_gradient() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False))
    net[0].weight.requires_grad = False
    tree = Tree(net)
    assert tree.trainable == ("0.bias", "1.weight")
    assert tree.parameters == {"0.weight", "0.bias", "1.weight"}


def test_what_is_not_there_is_no_node() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    net.register_module("later", None)
    net.register_buffer("table", None)
    assert list(Tree(net).nodes) == ["", "0", "0.weight"]


def test_a_buffer_that_is_not_saved_is_an_array_all_the_same() -> None:
    net = nn.Module()
    net.register_buffer("mask", torch.ones(2), persistent=False)
    assert list(Tree(net).arrays) == ["mask"]


def test_a_compiled_net_keeps_the_names_of_the_users_own() -> None:
    net = chain()
    wrapped = nn.Module()
    wrapped.add_module("_orig_mod", net)
    tree = Tree(wrapped)
    assert tree.net is net
    assert "0.weight" in tree.arrays


def test_children_are_own_arrays_then_modules() -> None:
    tree = Tree(Scale())
    assert tree.children("") == ["gain", "shift", "inner"]
    assert tree.layers("") == ["inner"]
    assert list(tree.paths_below("inner")) == ["inner", "inner.weight"]
    assert tree.in_order(["inner.weight", "gain", "gain"]) == ("gain", "inner.weight")
    assert tree.paths_of(lambda node: isinstance(node, nn.Linear)) == ["inner"]


def test_what_was_computed_for_a_key_is_remembered() -> None:
    tree = Tree(chain())
    assert tree.remember("key", lambda: 1) == tree.remember("key", lambda: 2) == 1
    for n in range(20_000):
        assert tree.remember(n, lambda n=n: n) == n
    assert len(tree._memo) <= 8192


def test_lazy_arrays_have_no_shape_until_the_net_is_called() -> None:
    net = nn.LazyLinear(2)
    assert not has_shape(Tree(net).arrays["weight"])
    net(torch.zeros(1, 3))
    assert has_shape(Tree(net).arrays["weight"])
