"""Rules left on modules: they travel, are read back, and count where the call says nothing."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
from torch import nn

from etude.bind.left import learning_rate_multipliers, rules_of, set_rules, settings_left
from etude.bind.resolve import resolve
from etude.bind.table import Table
from etude.errors import PartError, RuleError
from etude.step.trainer import Trainer
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import everything, part
from etude.values.rules import Rules, rules, times
from etude.values.schedule import schedule
from etude.values.tree import Tree
from nets import arrays, chain, data, graph, shared_chain, tied, walk


def table(net: nn.Module, literal: Any = None) -> Table:
    return resolve(Tree(net), {"learning_rate": schedule(0.1)}, {"learning_rate": rules(literal, relative=True)})


def multipliers(net: nn.Module, literal: Any = None) -> dict[str, Any]:
    return table(net, literal).multipliers()


def test_a_module_says_itself_that_it_is_frozen() -> None:
    net = nn.Sequential(set_rules(nn.Linear(3, 4), learning_rate=FROZEN), nn.Linear(4, 2))
    assert multipliers(net) == {"0.weight": 0.0, "0.bias": 0.0, "1.weight": 1.0, "1.bias": 1.0}
    assert learning_rate_multipliers(net) == multipliers(net)


@pytest.mark.parametrize("held", [0, None, FROZEN, times(0)], ids=repr)
def test_nothing_frozen_and_none_are_one(held: Any) -> None:
    net = nn.Sequential(set_rules(nn.Linear(3, 4), learning_rate=held), nn.Linear(4, 2))
    other = nn.Sequential(set_rules(nn.Linear(3, 4), learning_rate_multipliers={everything: held}), nn.Linear(4, 2))
    assert multipliers(net) == multipliers(other)
    assert rules_of(net[0]) == rules_of(other[0])


def test_what_was_left_is_read_back_and_replaced() -> None:
    layer = set_rules(nn.Linear(3, 4), learning_rate_multipliers={"weight": 0.5}, weight_decay={"bias": 0})
    assert rules_of(layer) == {
        "learning_rate": rules({"weight": times(0.5)}),
        "weight_decay": rules({"bias": 0}),
    }
    set_rules(layer, learning_rate_multipliers=2)
    assert rules_of(layer)["learning_rate"] == rules({everything: times(2)})
    assert "weight_decay" in rules_of(layer)
    set_rules(layer, learning_rate={}, weight_decay=None)
    assert rules_of(layer) == {}
    rules_of(layer)["learning_rate"] = Rules()
    assert rules_of(layer) == {}


def test_set_rules_returns_its_module_and_changes_no_array() -> None:
    layer = nn.Linear(3, 4)
    before = arrays(layer)
    assert set_rules(layer, learning_rate=0.1) is layer
    assert arrays(layer).keys() == before.keys()
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_it_travels_with_copies_and_files_of_the_module() -> None:
    layer = set_rules(nn.Linear(3, 4), learning_rate_multipliers={"weight": 0, everything: 0.5})
    for travelled in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        nn.Sequential(nn.Sequential(layer))[0][0],
    ):
        assert rules_of(travelled) == rules_of(layer)
    assert multipliers(nn.Sequential(nn.Tanh(), nn.Sequential(layer))) == {"1.0.weight": 0.0, "1.0.bias": 0.5}


def test_a_part_that_is_an_object_travels_with_a_copy_of_the_net() -> None:
    net = chain()
    set_rules(net, learning_rate_multipliers={net[0]: 0})
    assert multipliers(copy.deepcopy(net))["0.weight"] == 0.0


def test_the_call_comes_first_and_what_it_does_not_say_is_left_to_the_modules() -> None:
    """LRM-A2."""
    net = chain()
    set_rules(net[0], learning_rate=FROZEN)
    assert multipliers(net, {2: 0.5}) == {"0.weight": 0.0, "0.bias": 0.0, "2.weight": 0.5, "2.bias": 0.5}
    assert set(multipliers(net, {everything: 1}).values()) == {1.0}
    assert multipliers(net, [(2, 0.5), (everything, INHERIT)]) == multipliers(net, {2: 0.5})
    assert multipliers(net, [("0.bias", INHERIT), (everything, 2)]) == {
        "0.weight": 2,
        "0.bias": 0.0,
        "2.weight": 2,
        "2.bias": 2,
    }


def test_the_outermost_module_decides() -> None:
    """LRM-A3: it was written with the inner ones in view."""
    inner = set_rules(nn.Linear(3, 3), learning_rate=FROZEN)
    outer = set_rules(nn.Sequential(inner, nn.Tanh()), learning_rate_multipliers={"0.weight": 0.5})
    assert multipliers(nn.Sequential(outer)) == {"0.0.weight": 0.5, "0.0.bias": 0.0}
    set_rules(outer, learning_rate_multipliers={"0.weight": INHERIT})
    assert multipliers(nn.Sequential(outer)) == {"0.0.weight": 0.0, "0.0.bias": 0.0}


def test_the_order_of_rules_counts_as_in_a_call() -> None:
    """As the batch norm of LRM-11: affine arrays frozen, everything else at the rate."""
    layer = set_rules(nn.BatchNorm1d(4), learning_rate_multipliers={"weight": 0, "bias": 0, everything: 1})
    made = table(nn.Sequential(layer, nn.Linear(4, 2)))
    assert made.multipliers() == {"0.weight": 0.0, "0.bias": 0.0, "1.weight": 1.0, "1.bias": 1.0}
    assert made.frozen_buffers == ()
    set_rules(layer, learning_rate=FROZEN)
    assert set(table(nn.Sequential(layer)).frozen_buffers) == {
        "0.running_mean",
        "0.running_var",
        "0.num_batches_tracked",
    }


def test_a_shared_module_has_its_rules_at_each_of_its_places() -> None:
    net = shared_chain()
    set_rules(net[0], learning_rate_multipliers={"weight": 0.25})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert multipliers(net) == {"0.weight": 0.25, "0.bias": 1.0}


def test_a_tied_array_takes_what_any_of_its_places_says() -> None:
    """LRM-14."""
    net = tied()
    set_rules(net.out, learning_rate_multipliers={"weight": 0.25})
    assert multipliers(net) == {"emb.weight": 0.25, "emb.bias": 1.0, "out.bias": 1.0}


def test_conflicting_places_of_a_tied_array_warn_and_the_first_in_the_net_decides() -> None:
    """LRM-15, LRM-A1."""
    net = tied()
    set_rules(net.out, learning_rate_multipliers={"weight": 0})
    set_rules(net.emb, learning_rate_multipliers={"weight": 0.25})
    message = r"'emb.weight' has two values of learning_rate: times\(0.25\) \(left on 'emb'.*FROZEN \(left on 'out'"
    with pytest.warns(UserWarning, match=message):
        assert multipliers(net)["emb.weight"] == 0.25


def test_other_settings_are_left_too_and_switch_on_what_is_off() -> None:
    net = graph()
    set_rules(net.a, weight_decay=0, clip_value={"weight": 0.5})
    made = Trainer(net, "adamw", weight_decay=0.1).table
    columns = made.at(Trainer(net).progress).columns
    found = {name: columns["weight_decay"][n] for n, row in enumerate(made.rows) for name in row.names}
    assert {name: value for name, value in found.items() if value == 0} == {"a.weight": 0, "a.bias": 0}
    assert "clip_value" in made.settings
    assert settings_left(Tree(net)) == {"weight_decay", "clip_value"}


def test_an_absolute_rate_left_on_a_module_is_told_as_the_rate() -> None:
    net = chain()
    set_rules(net[0], learning_rate=0.3)
    assert learning_rate_multipliers(net)["0.weight"] == 0.3
    assert multipliers(net)["0.weight"] == pytest.approx(3.0)


def test_training_needs_no_word_in_the_call() -> None:
    net = chain()
    set_rules(net[0], learning_rate=FROZEN)
    trainer = Trainer(net, "adamw", weight_decay=0.1)
    for moved in walk(net, trainer, data(3)):
        assert moved == {"2.weight", "2.bias"}


@pytest.mark.parametrize("setting", ["learning_rate", "weight_decay"])
def test_a_part_that_the_module_does_not_have_is_an_error_at_once(setting: str) -> None:
    layer = nn.Linear(3, 4)
    with pytest.raises(PartError, match=r"part\('wieght'\) matches nothing.*Nearest: \"weight\""):
        set_rules(layer, **{setting: {"wieght": 1}})
    assert rules_of(layer) == {}


def test_two_ways_to_say_the_rate_are_an_error() -> None:
    with pytest.raises(RuleError, match="say the same thing; write one of them"):
        set_rules(nn.Linear(2, 2), learning_rate=1, learning_rate_multipliers=1)


def test_a_layer_taken_away_since_is_named_with_the_module_whose_rules_miss_it() -> None:
    net = nn.Sequential(chain())
    set_rules(net[0], learning_rate_multipliers={part(2): 0})
    del net[0][2]
    with pytest.raises(PartError, match=r"In the rules left on '0': part\(2\) matches nothing: '0' has 2 layers"):
        multipliers(net)
