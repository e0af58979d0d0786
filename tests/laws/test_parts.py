"""Laws of parts, rules and tables, over nets with shared modules, tied arrays, buffers and nesting."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import etude
from effort import examples
from etude.bind.resolve import resolve
from etude.bind.table import Table
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import Part, everything, part
from etude.values.progress import Progress
from etude.values.rules import Rules, rules, times
from etude.values.schedule import pieces, schedule
from etude.values.spans import steps
from etude.values.tree import Tree
from nets import NAMES, arrays, is_a_vector, nets, parts

quick = settings(max_examples=examples(60), deadline=None)


@st.composite
def nets_and_parts(draw: st.DrawFn, count: int = 3) -> tuple[nn.Module, list[Part]]:
    net = draw(nets())
    return net, [draw(parts(net)) for _ in range(count)]


@st.composite
def rule_lists(draw: st.DrawFn, net: nn.Module) -> list[tuple[Part, Any]]:
    """Rules of rates whose parts have arrays."""
    values = [0, None, FROZEN, INHERIT, 0.5, -1, 2, times(3), times(0), pieces(FROZEN, (steps(2), 1.0))]
    found = [draw(parts(net)) for _ in range(draw(st.integers(0, 4)))]
    return [(place, draw(st.sampled_from(values))) for place in found if place.of(net)]


def ordered(net: nn.Module, names: set[str]) -> list[str]:
    return [name for name in Tree(net).arrays if name in names]


# parts


@quick
@given(nets_and_parts())
def test_union_difference_intersection_and_rest_are_those_of_the_arrays(case: tuple[nn.Module, list[Part]]) -> None:
    net, (a, b, _) = case
    of_a, of_b, all_ = set(a.of(net)), set(b.of(net)), set(everything.of(net))
    assert set((a | b).of(net)) == of_a | of_b
    assert set((a & b).of(net)) == of_a & of_b
    assert set((a - b).of(net)) == of_a - of_b
    assert not set((a - b).of(net)) & of_b
    assert set((~a).of(net)) == all_ - of_a
    assert set((~~a).of(net)) == of_a


@quick
@given(nets_and_parts())
def test_the_algebra_is_that_of_sets(case: tuple[nn.Module, list[Part]]) -> None:
    net, (a, b, c) = case

    def of(made: Part) -> set[str]:
        return set(made.of(net))

    assert of(~(a | b)) == of(~a & ~b)
    assert of(~(a & b)) == of(~a | ~b)
    assert of((a | b) & c) == of((a & c) | (b & c))
    assert of((a - b) | (a & b)) == of(a)
    assert of(a - (b | c)) == of((a - b) & (a - c))
    assert of(a - a) == set() == of(a & ~a)


@quick
@given(nets_and_parts())
def test_what_a_part_selects_has_the_order_of_the_net_and_each_array_once(case: tuple[nn.Module, list[Part]]) -> None:
    net, made = case
    for one in (*made, made[0] | made[1], made[1] | made[0], ~made[2]):
        found = one.of(net)
        assert list(found) == ordered(net, set(found))
        assert len({id(array) for array in found.values()}) == len(found)
        assert one.names(net) == tuple(found)
        modules = one.modules(net)
        assert list(modules) == [path for path in Tree(net).nodes if path in modules]


@quick
@given(nets_and_parts())
def test_the_text_of_a_part_reads_back(case: tuple[nn.Module, list[Part]]) -> None:
    net, made = case
    for one in (*made, made[0] / everything, (made[0] | made[1])[0], ~made[2] - made[0]):
        again = etude.read(etude.write(one), NAMES)
        assert again == one
        assert hash(again) == hash(one)
        assert repr(again) == repr(one)
    assert made[0].of(net).keys() == etude.read(repr(made[0]), NAMES).of(net).keys()


@quick
@given(nets_and_parts(1))
def test_a_part_is_a_value_copied_pickled_and_asked_of_copies(case: tuple[nn.Module, list[Part]]) -> None:
    net, (one,) = case
    assert copy.deepcopy(one) == one == pickle.loads(pickle.dumps(one))
    names = one.names(net)
    assert one.names(copy.deepcopy(net)) == names == one.names(Tree(net))


@quick
@given(nets())
def test_every_name_of_an_array_stands_for_it_alone(net: nn.Module) -> None:
    tree = Tree(net)
    for name, paths in tree.names.items():
        assert paths[0] == name
        for path in paths:
            assert list(part(path).of(net)) == [name]
    named: dict[str, Any] = dict(net.named_parameters(remove_duplicate=False))
    named.update(net.named_buffers(remove_duplicate=False))
    assert {path for paths in tree.names.values() for path in paths} == set(named)
    assert all(tree.arrays[tree.name_of(path)] is array for path, array in named.items())
    assert list(tree.arrays) == [n for n in net.state_dict(keep_vars=True) if n in tree.arrays]


@quick
@given(nets())
def test_an_object_stands_for_what_its_names_stand_for(net: nn.Module) -> None:
    for path, module in net.named_modules():
        if path:
            assert part(module).of(net).keys() == part(path).of(net).keys()
    for name, parameter in net.named_parameters():
        assert list(part(parameter).of(net)) == [name]


# rules and tables


def table(net: nn.Module, made: Rules) -> Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return resolve(Tree(net), {"learning_rate": schedule(0.1)}, {"learning_rate": made})


def expected(net: nn.Module, pairs: list[tuple[Part, Any]], name: str) -> Any:
    """The multiplier that the first matching rule gives, by the plainest reading of the words."""
    for place, value in pairs:
        if name in place.of(net):
            return 1.0 if value is INHERIT else 0.0 if value in (0, None, FROZEN, times(0)) else value
    return 1.0


@quick
@given(st.data())
def test_rows_cover_each_trainable_array_once_and_the_first_rule_decides(data: st.DataObject) -> None:
    net = data.draw(nets())
    pairs = data.draw(rule_lists(net))
    made = table(net, rules(pairs, relative=True))
    assert made.names == tuple(name for name, array in Tree(net).arrays.items() if array.requires_grad)
    assert sorted(name for row in made.rows for name in row.names) == sorted(made.names)
    assert sorted(index for row in made.rows for index in row.indices) == list(range(len(made.names)))
    for name in made.names:
        wanted = expected(net, pairs, name)
        wanted = wanted.factor if hasattr(wanted, "factor") else wanted
        assert made.multipliers()[name] == wanted


@quick
@given(st.data())
def test_resolving_twice_gives_the_same_table(data: st.DataObject) -> None:
    net = data.draw(nets())
    pairs = data.draw(rule_lists(net))
    one, two = (table(net, rules(pairs, relative=True)) for _ in range(2))
    assert one.names == two.names
    assert one.rows == two.rows
    assert one.show() == two.show()
    for step in range(4):
        first, second = one.at(Progress(step)), two.at(Progress(step))
        assert dict(first.columns) == dict(second.columns)
        assert first.moving.indices == second.moving.indices


@quick
@given(st.data())
def test_rules_to_text_to_rules_is_the_identity(data: st.DataObject) -> None:
    net = data.draw(nets())
    for made in (
        rules(data.draw(rule_lists(net)), relative=True),
        rules(data.draw(rule_lists(net)), setting="learning_rate"),
        rules(data.draw(rule_lists(net))),
        rules([(place, 0.0) for place, _ in data.draw(rule_lists(net))], setting="weight_decay"),
    ):
        again = etude.read(etude.write(made), NAMES)
        assert again == made
        assert hash(again) == hash(made)
        assert [type(value) for _, value in again] == [type(value) for _, value in made]


@quick
@given(st.data())
def test_rules_left_on_modules_travel_with_the_net(data: st.DataObject) -> None:
    net = data.draw(nets())
    pairs = data.draw(rule_lists(net))
    etude.set_rules(net, learning_rate_multipliers=pairs)
    left = table(copy.deepcopy(net), Rules()).multipliers()
    assert left == table(net, Rules()).multipliers()
    bigger = nn.Sequential(nn.Linear(2, 2), net)
    inside = table(bigger, Rules()).multipliers()
    assert {name.removeprefix("1."): value for name, value in inside.items() if name.startswith("1.")} == left
    plain = {name: expected(net, pairs, name) for name in left}
    assert left == {name: getattr(value, "factor", value) for name, value in plain.items()}


@quick
@given(nets(), st.integers(0, 5))
def test_looking_changes_nothing(net: nn.Module, seed: int) -> None:
    before = arrays(net)
    where_ = everything - where_vectors()
    (where_ | everything).of(net)
    table(net, rules({everything: 0.5}, relative=True)).show()
    assert all(torch.equal(before[name], array) for name, array in Tree(net).arrays.items())


def where_vectors() -> Part:
    return etude.where(is_a_vector)
