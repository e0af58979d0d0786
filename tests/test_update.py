"""One of several updates of a run, as a value."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from etude.errors import PartError, ScheduleError, SettingError
from etude.run.plan import Plan
from etude.step.update import Update
from etude.values.part import everything, part
from etude.values.reactive import when
from etude.values.schedule import constant, cycle, schedule


def test_it_keeps_what_it_was_given() -> None:
    made = Update(
        "critic", "mse", part="critic", optimizer="sgd", learning_rate=0.1, turn=5, own_batch=True, momentum=0.9
    )
    assert (made.name, made.loss, made.part, made.optimizer) == ("critic", "mse", part("critic"), "sgd")
    assert (made.learning_rate, made.turn, made.own_batch) == (0.1, constant(5), True)
    recipe = made.recipe(strict=True)
    assert (recipe.name, recipe.limit, recipe.strict) == ("sgd", part("critic"), True)
    assert (recipe.base["learning_rate"], recipe.base["momentum"]) == (constant(0.1), constant(0.9))
    assert repr(made) == "Update('critic', part=part('critic'), optimizer='sgd')"


def test_it_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Update("critic", "mse").turn = None


@pytest.mark.parametrize(
    ("turn", "made"),
    [
        (None, None),
        (True, constant(True)),
        (0, constant(0)),
        (3, constant(3)),
        (cycle(True, False), cycle(True, False)),
        (when("critic.loss", above=0.5, at_most=5), when("critic.loss", above=0.5, at_most=5)),
    ],
)
def test_a_turn_is_a_schedule_of_how_often(turn: Any, made: Any) -> None:
    assert Update("critic", "mse", turn=turn).turn == made


def test_a_turn_may_be_computed() -> None:
    def turn(progress: Any) -> int:
        return int(progress.step) % 2

    assert Update("critic", "mse", turn=turn).turn == schedule(turn)


@pytest.mark.parametrize("turn", [1.5, 2.0, -1, "often", float("inf"), (1, 2)])
def test_a_turn_is_a_whole_number_of_times(turn: Any) -> None:
    with pytest.raises(SettingError, match=r"Update\('critic', turn=.*True, False or a whole number of times"):
        Update("critic", "mse", turn=turn)


@pytest.mark.parametrize("turn", [part("a"), cycle(part("a"), "b")])
def test_a_turn_is_no_part(turn: Any) -> None:
    with pytest.raises(SettingError, match="Parts that move in turn are an update_schedule"):
        Update("critic", "mse", turn=turn)


def test_a_turn_is_no_list() -> None:
    with pytest.raises(ScheduleError, match="For steps in turn write cycle"):
        Update("critic", "mse", turn=[True, False])


@pytest.mark.parametrize("name", ["", "a.b", 3, None])
def test_a_name_has_no_dots(name: Any) -> None:
    with pytest.raises(SettingError, match=r"a name without dots is needed, as in Update\(\"critic\", \.\.\.\)"):
        Update(name, "mse")


def test_a_part_has_to_be_one() -> None:
    with pytest.raises(PartError, match="a list stands for no part"):
        Update("critic", "mse", part=["a"])


def test_updates_that_all_move_everything_are_told_of() -> None:
    data = (torch.randn(8, 4), torch.zeros(8, 3))
    both = [Update("a", "mse"), Update("b", "mse")]
    with pytest.warns(UserWarning, match="The updates 'a' and 'b' have no part="):
        Plan(updates=both, epochs=1).check(nn.Linear(4, 3), data)
    meant = [Update("a", "mse", part=everything), Update("b", "mse", part=everything)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Plan(updates=meant, epochs=1).check(nn.Linear(4, 3), data)
