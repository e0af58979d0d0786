"""What rules may be written as, and what a value means for a rate and for any other setting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from etude.errors import RuleError
from etude.values.curves import linear
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import everything, part, where
from etude.values.rules import Rules, Times, rules, times
from etude.values.schedule import constant, cycle, pieces, schedule
from etude.values.spans import epochs
from etude.values.text import read, write
from ids import steady
from nets import is_a_vector

A, B = part("a"), part("b")
RATE = "learning_rate"
CURVE = linear(1, 0)


def twice(progress: Any) -> float:
    return 2.0


@pytest.mark.parametrize(
    ("literal", "pairs"),
    [
        (None, ()),
        ({}, ()),
        ([], ()),
        ({"a": 0.5}, ((A, 0.5),)),
        ([("a", 0.5), (nn.LayerNorm, 2)], ((A, 0.5), (part(nn.LayerNorm), 2))),
        ({part("a") | "b": FROZEN, everything: 1}, ((A | B, FROZEN), (everything, 1))),
        ({("a", 0): 0.5}, ((A / 0, 0.5),)),
        ({is_a_vector: 2}, ((where(is_a_vector), 2),)),
        (0.5, ((everything, 0.5),)),
        (CURVE, ((everything, CURVE),)),
        (Rules(((A, 0.5),)), ((A, 0.5),)),
    ],
    ids=steady,
)
def test_the_forms_of_rules(literal: Any, pairs: Any) -> None:
    made = rules(literal, setting=RATE)
    assert made.pairs == pairs == tuple(made)
    assert len(made) == len(pairs)


@pytest.mark.parametrize(
    "held", [0, 0.0, -0.0, None, FROZEN, times(0), times(0.0), constant(0), constant(FROZEN)], ids=repr
)
@pytest.mark.parametrize("relative", [True, False])
def test_nothing_is_frozen_for_a_rate(held: Any, relative: bool) -> None:
    assert rules({"a": held}, setting=RATE, relative=relative).pairs == ((A, FROZEN),)


@pytest.mark.parametrize("held", [0, 0.0, times(0), constant(0)], ids=repr)
def test_nothing_is_a_number_for_anything_else(held: Any) -> None:
    for setting in ("weight_decay", None):
        ((_, value),) = rules({"a": held}, setting=setting)
        assert value == held
        assert type(value) is type(held)


def test_multipliers_are_relative_however_they_are_given() -> None:
    made = rules({"a": 0.5, "b": CURVE}, relative=True)
    assert made.pairs == ((A, times(0.5)), (B, times(CURVE)))
    assert rules(rules({"a": 0.5, "b": CURVE}), relative=True) == made
    assert rules(made, relative=True) == made == rules(made, setting=RATE)


def test_marks_and_relative_values_stay_what_they_are() -> None:
    for relative in (True, False):
        made = rules({"a": INHERIT, "b": times(-2)}, relative=relative, setting=RATE)
        assert [value for _, value in made] == [INHERIT, times(-2)]


def test_a_function_of_progress_is_a_schedule() -> None:
    assert rules({"a": twice}, relative=True).pairs == ((A, times(schedule(twice))),)
    assert rules({"a": twice}, setting="weight_decay").pairs == ((A, schedule(twice)),)


def test_frozen_for_a_while_is_a_schedule() -> None:
    late = pieces(FROZEN, (epochs(3), 1))
    assert rules({"a": late}, relative=True).pairs == ((A, times(late)),)


def test_numbers_of_numpy_become_pythons_own() -> None:
    ((_, value),) = rules({"a": np.float32(0.5)}, relative=True)
    assert repr(value) == "times(0.5)"
    assert repr(times(np.int64(2))) == "times(2)"


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), 1j, True, False, "fast", "0", (1, 2), np.array([1.0])],
    ids=repr,
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_rate_is_a_finite_number(value: Any, relative: bool) -> None:
    with pytest.raises(RuleError, match=r"the rule 'a': .* for 'learning_rate': a finite number is needed"):
        rules({"a": value}, setting=RATE, relative=relative)


def test_a_rate_is_no_schedule_of_something_else() -> None:
    for made in (cycle(True, False), cycle(A, B)):
        with pytest.raises(RuleError, match="a rate is a number, not a"):
            rules({"a": made}, relative=True)
        with pytest.raises(RuleError, match="a factor is a number, and this is a schedule of"):
            times(made)


@pytest.mark.parametrize("factor", [float("nan"), True, "x", None, FROZEN], ids=repr)
def test_a_factor_is_a_finite_number(factor: Any) -> None:
    with pytest.raises(RuleError, match=r"a finite number is needed\. Write FROZEN"):
        times(factor)


@pytest.mark.parametrize("value", [None, FROZEN], ids=repr)
def test_only_a_rate_can_be_frozen(value: Any) -> None:
    with pytest.raises(RuleError, match=r"for 'weight_decay': only a learning rate can be FROZEN or None"):
        rules({"a": value}, setting="weight_decay")


@pytest.mark.parametrize(
    "literal", [["a", "b"], [["a", 1]], "a", {"a", "b"}, (("a", 1), ("b", 2)), ("a", 1)], ids=steady
)
def test_what_is_no_rules(literal: Any) -> None:
    for setting in (RATE, "weight_decay", None):
        with pytest.raises(RuleError, match="neither a dict nor a list of pairs"):
            rules(literal, setting=setting)


def test_a_tuple_of_numbers_is_a_value() -> None:
    assert rules((0.8, 0.9), setting="betas").pairs == ((everything, (0.8, 0.9)),)
    assert rules({"a": (0.8, 0.9)}, setting="betas").pairs == ((A, (0.8, 0.9)),)


def test_rules_add_up_in_order() -> None:
    assert rules({"a": 1}) + rules({"b": 2}) == rules([("a", 1), ("b", 2)])
    assert rules({"a": 1, "b": 2}) != rules({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "made",
    [
        rules({}),
        rules({"a": 0.5, everything: FROZEN}, setting=RATE),
        rules({"a": 0.5, "b": CURVE, "c": INHERIT, "d": 0}, relative=True),
        rules({part(nn.LayerNorm) | "*.bias": 0}, setting="weight_decay"),
        rules({"a": (0.8, 0.9)}, setting="betas"),
        rules({"a": True}, setting="amsgrad"),
        rules({where(is_a_vector): times(pieces(FROZEN, (epochs(3), 1)))}),
    ],
    ids=repr,
)
def test_rules_print_as_the_expression_that_makes_them(made: Rules) -> None:
    again = read(write(made), {"is_a_vector": is_a_vector})
    assert again == made
    assert repr(again) == repr(made)


def test_times_prints_and_compares_as_a_value() -> None:
    assert repr(times(0.5)) == "times(0.5)"
    assert repr(times(CURVE)) == "times(linear(1, 0))"
    assert times(0.5) == Times(0.5) != times(2)
    assert hash(times(CURVE)) == hash(times(linear(1, 0)))
