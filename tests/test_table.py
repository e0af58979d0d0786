"""What a table decides for every array, and the numbers of a step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np
import pytest
from torch import nn

from etude.bind.resolve import resolve
from etude.bind.table import Choice, Table, parts_of
from etude.errors import PartError, RuleError
from etude.values.curves import linear
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import everything, part, where
from etude.values.progress import Extent, Progress
from etude.values.reactive import when
from etude.values.rules import rules, times
from etude.values.schedule import Schedule, cycle, pieces, schedule, update_schedule
from etude.values.spans import steps
from etude.values.tree import Tree
from nets import chain, graph, long_chain, tied

RATE = "learning_rate"
DOWN = linear(1, 0, over=steps(4))


def table(
    net: nn.Module,
    literal: Any = None,
    *,
    base: Any = 0.1,
    moves: Any = None,
    relative: bool = True,
    strict: bool = False,
    only: Any = None,
    **more: Any,
) -> Table:
    """A table of the rate, and of the settings in `more` (a pair of base and rules)."""
    bases: dict[str, Schedule] = {RATE: schedule(base), **{key: schedule(pair[0]) for key, pair in more.items()}}
    made = {RATE: rules(literal, relative=relative, setting=RATE)}
    made.update({key: rules(pair[1], setting=key) for key, pair in more.items()})
    return resolve(Tree(net), bases, made, update_schedule(moves), None if only is None else part(only), strict=strict)


def rates(made: Table, step: int, memory: Mapping[Schedule, Any] | None = None) -> dict[str, float | None]:
    """The rate of each array at a step; None: held."""
    now = made.at(Progress(step, extent=Extent(steps=10)), memory or {})
    found: dict[str, float | None] = dict.fromkeys(made.names)
    for group in now.moving.groups:
        found.update({made.names[i]: now.columns[RATE][group.row] for i in group.indices})
    return found


def test_the_first_rule_that_has_an_array_decides() -> None:
    """LRM-8."""
    made = table(chain(), [((0, "weight"), 0.5), (0, 0), (everything, 2)])
    assert made.multipliers() == {"0.weight": 0.5, "0.bias": 0.0, "2.weight": 2, "2.bias": 2}


def test_what_no_rule_has_is_at_the_base() -> None:
    """LRM-9."""
    assert rates(table(chain(), {0: 2}), 0) == {"0.weight": 0.2, "0.bias": 0.2, "2.weight": 0.1, "2.bias": 0.1}


def test_arrays_under_equal_rules_share_a_row() -> None:
    made = table(long_chain(), [(0, 2), (4, 2), ("2.bias", 0)])
    shared = ("0.weight", "0.bias", "4.weight", "4.bias")
    assert [row.names for row in made.rows] == [shared, ("2.weight",), ("2.bias",)]
    assert [row.frozen for row in made.rows] == [False, False, True]
    assert all(made.names[i] == name for row in made.rows for name, i in zip(row.names, row.indices, strict=True))


def test_a_value_is_the_value_and_a_factor_follows_the_base() -> None:
    made = table(chain(), {0: 0.3, "2.weight": times(2), "2.bias": times(DOWN)}, base=DOWN, relative=False)
    assert [rates(made, step)["0.weight"] for step in (0, 2, 3)] == [0.3, 0.3, 0.3]
    assert [rates(made, step)["2.weight"] for step in (0, 2, 3)] == [2, 1, 0.5]
    assert [rates(made, step)["2.bias"] for step in (0, 2, 3)] == [1, 0.25, 0.0625]


def test_a_multiplier_multiplies_the_scheduled_rate() -> None:
    """LRM-6."""
    made = table(chain(), {0: -0.5}, base=DOWN * 0.1)
    for step, base in enumerate((0.1, 0.075, 0.05, 0.025)):
        assert rates(made, step)["0.weight"] == pytest.approx(-0.5 * base)
        assert rates(made, step)["2.weight"] == pytest.approx(base)


def test_a_rate_of_nothing_holds() -> None:
    made = table(chain(), {0: pieces(FROZEN, (steps(2), 1))}, base=cycle(0.1, 0.0))
    assert [rates(made, step)["0.weight"] for step in range(5)] == [None, None, 0.1, None, 0.1]
    assert [rates(made, step)["2.weight"] for step in range(5)] == [0.1, None, 0.1, None, 0.1]
    assert not made.rows[0].frozen


def test_a_function_that_gives_none_holds() -> None:
    made = table(chain(), {0: 2}, base=schedule(lambda progress: None if progress.step < 2 else 0.1))
    assert [rates(made, step)["0.weight"] for step in range(4)] == [None, None, 0.2, 0.2]


def test_inherit_leaves_it_to_the_base() -> None:
    made = table(chain(), [("0.weight", INHERIT), (everything, 0)])
    assert made.multipliers() == {"0.weight": 1.0, "0.bias": 0.0, "2.weight": 0.0, "2.bias": 0.0}


def test_every_setting_has_rules_of_its_own() -> None:
    made = table(chain(), {0: 2}, weight_decay=(0.1, {"*.bias": 0, "0.weight": times(3)}))
    now = made.at(Progress())
    found = {name: now.columns["weight_decay"][n] for n, row in enumerate(made.rows) for name in row.names}
    assert found == {"0.weight": pytest.approx(0.3), "0.bias": 0, "2.weight": 0.1, "2.bias": 0}
    assert made.settings == (RATE, "weight_decay")


def test_what_moves_is_scheduled_and_not_held() -> None:
    """TUS-A4: both gates apply."""
    made = table(graph(), {"a.bias": 0, "b": -1}, moves=["a", part("b") | "out"])
    assert made.moving(Progress(0)) == ("a.weight",)
    assert made.moving(Progress(1)) == ("b.weight", "b.bias", "out.weight", "out.bias")
    assert rates(made, 1)["b.weight"] == -0.1


def test_the_same_set_of_moving_arrays_is_the_same_object() -> None:
    made = table(graph(), moves=["a", "b"], base=DOWN)
    first, second, third = (made.at(Progress(step, extent=Extent(steps=10))).moving for step in range(3))
    assert first is third is not second


def test_parts_that_are_made_at_each_step_are_forgotten_and_name_the_same_sets() -> None:
    turns = schedule(lambda progress: where(lambda name, array: name.startswith("ab"[int(progress.step) % 2])))
    made = table(graph(), moves=turns)
    found = [made.at(Progress(step)).moving for step in range(1500)]
    assert len({id(moving) for moving in found[-600:]}) <= 4
    assert [len(moving.indices) for moving in found[:3]] == [2, 2, 2]
    assert found[0].indices == found[2].indices != found[1].indices
    assert found[0] is found[2]
    assert len(made._moving) <= 512


def test_what_never_changes_is_computed_once() -> None:
    made = table(chain(), {0: 2})
    assert made.constant
    assert made.at(Progress(0)) is made.at(Progress(7))
    moving = table(chain(), moves=[0, 2])
    assert not moving.constant
    assert moving.at(Progress(0)).columns[RATE] is moving.at(Progress(1)).columns[RATE]


def test_a_tied_array_has_one_index_whichever_name_is_used() -> None:
    for name in ("emb.weight", "out.weight"):
        made = table(tied(), {name: 0.25}, moves=[name])
        assert made.names == ("emb.weight", "emb.bias", "out.bias")
        assert made.moving(Progress()) == ("emb.weight",)


def test_shared_arrays_with_two_values_take_the_first_rule_and_warn() -> None:
    """LRM-A1, LRM-15: rule order decides, not the order of the net."""
    for first, second in (("out", "emb"), ("emb", "out")):
        message = rf"'emb.weight' \(emb.weight, out.weight\) gets two values.*: times\(0.25\) by part\('{first}'\)"
        with pytest.warns(UserWarning, match=message):
            made = table(tied(), [(first, 0.25), (second, 0)])
        assert made.multipliers()["emb.weight"] == 0.25
        assert made.multipliers()[f"{second}.bias"] == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table(tied(), [("out", 0.25), ("emb", 0.25)])
        table(tied(), [("out", 0.25), (everything, 2)])


def test_a_covered_rule_is_told_and_an_error_when_strict() -> None:
    """LRM-A10."""
    literal = [(everything, 2), (0, 0)]
    with pytest.warns(UserWarning, match=r"never decides.*learning_rate: part\(0\): FROZEN"):
        made = table(chain(), literal)
    assert made.covered == ("learning_rate: part(0): FROZEN",)
    assert set(made.multipliers().values()) == {2}
    with pytest.raises(RuleError, match=r"can never decide.*part\(0\): FROZEN"):
        table(chain(), literal, strict=True)


def test_rules_of_arrays_that_do_not_train_are_passed_over() -> None:
    """LRM-A7."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net[0].bias.requires_grad = False
    made = table(net, {"0.bias": 3, "1.running_mean": 2})
    assert made.names == ("0.weight", "1.weight", "1.bias")
    assert made.frozen_buffers == ()


def test_frozen_statistics_are_those_of_a_frozen_layer() -> None:
    """LRM-A6."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    statistics = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert table(net, {1: 0}).frozen_buffers == statistics
    assert table(net, {everything: None}).frozen_buffers == statistics
    assert table(net, {"1.weight": 0, "1.bias": 0}).frozen_buffers == ()
    assert table(net, {"1.running_mean": 0}).frozen_buffers == ("1.running_mean",)
    assert table(net, {1: pieces(FROZEN, (steps(2), 1))}).frozen_buffers == ()


def test_a_table_of_a_part_has_its_arrays_only() -> None:
    made = table(graph(), {"b": 0}, only="a")
    assert made.names == ("a.weight", "a.bias")
    assert made.covered == ()
    with pytest.raises(PartError, match=r"part\('a'\) has nothing to train. None of its arrays has requires_grad"):
        table(graph().requires_grad_(False), only="a")
    with pytest.raises(PartError, match=r"part\(1\) has nothing to train. It stands for '1' \(Tanh\)"):
        table(chain(), only=1)


def test_a_schedule_of_what_is_frozen_warns() -> None:
    """TUS-A4."""
    with pytest.warns(UserWarning, match=r"In the update schedule: part\('b'\) moves nothing"):
        made = table(graph(), {"b": 0}, moves=["a", "b"])
    assert made.moving(Progress(1)) == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table(graph(), {"b": 0}, moves=["a", part("b") | "out"])
        table(graph(), moves=["a", "b"], only="a")


def test_what_may_ever_move() -> None:
    assert table(graph()).ever_moving() == table(graph()).names
    assert table(graph(), {"a.bias": 0}, moves=["a", "b.bias"]).ever_moving() == ("a.weight", "b.bias")
    computed = schedule(lambda progress: part("a"))
    assert table(graph(), {"a": 0}, moves=computed).ever_moving() == ("b.weight", "b.bias", "out.weight", "out.bias")


def test_a_schedule_of_parts_may_be_computed_and_may_hold_everything() -> None:
    made = table(graph(), moves=schedule(lambda progress: "a" if progress.step else FROZEN))
    assert made.moving(Progress(0)) == ()
    assert made.moving(Progress(1)) == ("a.weight", "a.bias")
    unfreezing = pieces("out", (steps(2), part("out") | "b"), (steps(4), everything))
    made = table(graph(), moves=unfreezing)
    assert [len(made.moving(Progress(step))) for step in (0, 2, 4)] == [2, 4, 6]


@pytest.mark.parametrize(
    ("gave", "said"), [("nope", "the net has no 'nope'"), (None, "stands for no part"), (1.5, "no part")]
)
def test_a_computed_schedule_that_gives_no_part_is_named(gave: Any, said: str) -> None:
    made = table(graph(), moves=schedule(lambda progress: gave))
    with pytest.raises(PartError, match=rf"The update schedule schedule\(<lambda>\) gave .*{said}"):
        made.at(Progress())


def test_multipliers_say_what_is_really_used() -> None:
    late = pieces(FROZEN, (steps(2), 1))
    made = table(chain(), {"0.weight": -0.5, "0.bias": late, "2.weight": 0}, base=DOWN)
    assert made.multipliers() == {"0.weight": -0.5, "0.bias": late, "2.weight": 0.0, "2.bias": 1.0}


def test_an_absolute_rate_is_told_as_a_multiple_of_the_base() -> None:
    made = table(chain(), {"0.weight": 0.3, "0.bias": DOWN, "2.weight": 0.1}, relative=False)
    found = made.multipliers()
    assert found["0.weight"] == pytest.approx(3)
    assert found["2.weight"] == found["2.bias"] == 1.0
    assert found["0.bias"] == DOWN / 0.1
    scheduled = table(chain(), {"0.weight": 0.3}, base=DOWN, relative=False).multipliers()["0.weight"]
    assert [scheduled.at(Progress(step)) for step in (0, 2)] == [0.3, 0.6]
    assert table(chain(), {"0.weight": 0.3}, base=0, relative=False).multipliers()["0.weight"] == inf


def test_another_base_leaves_absolute_rates_and_rows_as_they_are() -> None:
    old, new = schedule(0.1), schedule(0.2)
    bases: dict[str, Schedule] = {RATE: old}
    made = resolve(Tree(long_chain()), bases, {RATE: rules({0: 0.1, 2: times(3)})})
    other = made.replaced(RATE, old, new)
    assert {name: value for name, value in rates(other, 0).items() if "bias" in name} == {
        "0.bias": 0.1,
        "2.bias": pytest.approx(0.6),
        "4.bias": 0.2,
    }
    assert [row.names for row in other.rows] == [row.names for row in made.rows]
    assert other.base_rate == new


def test_memory_of_schedules_that_listen_is_kept_by_schedule() -> None:
    calm = schedule(0.1)
    listening = when("loss", above=0.5)
    made = table(chain(), base=calm, nesterov=(listening, None))
    memory = made.start()
    assert list(memory) == [listening]
    assert made.at(Progress(), memory).columns["nesterov"] == [True]
    memory = made.see(memory, {"loss": 0.1})
    assert made.at(Progress(), memory).columns["nesterov"] == [False]
    assert made.at(Progress()).columns["nesterov"] == [True]


def test_the_schedules_of_a_table_are_named_once_each() -> None:
    made = table(graph(), {"a": DOWN, "b": DOWN}, base=DOWN, moves=["a", "b"])
    assert made.schedules() == (DOWN, update_schedule(["a", "b"]))


def test_less_leaves_arrays_out_and_is_remembered_for_a_while() -> None:
    made = table(graph())
    moving = made.at(Progress()).moving
    less = made.less(moving, frozenset({0, 3}))
    assert less.indices == (1, 2, 4, 5)
    assert made.less(moving, frozenset({0, 3})) is less
    assert made.less(moving, frozenset(range(6))).groups == ()
    for n in range(2000):
        made.less(moving, frozenset({n}))
    assert len(made._less) <= 512


def test_the_score_has_a_row_for_each_array_and_is_blank_where_it_is_held() -> None:
    names, found = table(graph(), {"b": -2}, moves=["a", "b"]).score([Progress(step) for step in range(3)])
    assert names == ("a.weight", "a.bias", "b.weight", "b.bias", "out.weight", "out.bias")
    expected = [[0.1, np.nan, 0.1]] * 2 + [[np.nan, -0.2, np.nan]] * 2 + [[np.nan] * 3] * 2
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("literal", "message"),
    [
        ({"0.wieght": 1}, r"In the rule part\('0.wieght'\): times\(1\) for learning_rate: .*Nearest: \"0?\.?weight\""),
        ({1: 0}, r"The rule part\(1\): FROZEN for learning_rate selects no arrays.*It stands for '1' \(Tanh\)"),
        ({part(0) & 2: 0}, r"selects no arrays.*It is empty in this net"),
        ({nn.Conv2d: 0}, r"no module is a Conv2d. There: Linear, Sequential, Tanh"),
    ],
)
def test_a_rule_that_does_nothing_is_an_error(literal: Any, message: str) -> None:
    """PS-5."""
    with pytest.raises(PartError, match=message):
        table(chain(), literal)


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        (["critic"], r"In the update schedule: part\('critic'\) matches nothing: the net has no 'critic'"),
        ([0, 1], r"In the update schedule: part\(1\) selects no arrays, so nothing would move"),
        (pieces("0", (steps(2), part(7))), r"In the update schedule: part\(7\) matches nothing: the net has 3 layers"),
    ],
)
def test_a_scheduled_part_that_is_not_there_is_an_error(moves: Any, message: str) -> None:
    with pytest.raises(PartError, match=message):
        table(chain(), moves=moves)


def test_rules_for_a_setting_that_is_not_there_are_an_error() -> None:
    with pytest.raises(RuleError, match=r"rules for 'wieght_decay'.*Settings: learning_rate, weight_decay.*Nearest"):
        resolve(Tree(chain()), {RATE: schedule(1), "weight_decay": schedule(0)}, {"wieght_decay": rules({0: 0})})


def test_the_parts_written_in_a_schedule() -> None:
    assert parts_of(pieces("a", (steps(2), part("b")))) == (part("a"), part("b"))
    assert parts_of(schedule(0.1)) == ()


def test_a_choice_is_asked_at_a_moment() -> None:
    assert Choice(schedule(0.1), DOWN, "").at(Progress(2)) == pytest.approx(0.05)
    assert Choice(schedule(0.1), pieces(FROZEN, (steps(2), 1)), "").at(Progress(0)) is None
    assert Choice(None, None, "").at(Progress()) is None
