"""Schedules that listen, and how what they remember folds through whatever they are part of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from etude.errors import ScheduleError
from etude.values.curves import cosine
from etude.values.progress import Extent, Progress
from etude.values.reactive import check_told, following, newbob, plateau, when
from etude.values.schedule import Schedule, constant, cycle, pieces
from etude.values.spans import epochs, steps


def turns(made: Schedule, scores: list[float], name: str = "loss") -> list[Any]:
    """The values at the start and after each score."""
    memory, seen = made.start(), [made.at(Progress(), made.start())]
    for step, score in enumerate(scores, 1):
        memory = made.see(memory, {name: score})
        seen.append(made.at(Progress(step), memory))
    return seen


def test_true_at_the_start_then_what_the_last_score_says() -> None:
    assert turns(when("loss", above=0.5), [0.6, 0.5, 0.4, 0.7]) == [True, True, False, False, True]
    assert turns(when("loss", below=0.5), [0.6, 0.5, 0.4]) == [True, False, False, True]
    assert turns(when("loss", above=0.2, below=0.8), [0.1, 0.5, 0.9]) == [True, False, True, False]


def test_never_true_too_often_in_a_row() -> None:
    assert turns(when("loss", above=0, at_most=3), [1] * 8) == [True] * 3 + [False] + [True] * 3 + [False] + [True]
    assert turns(when("loss", above=0, at_most=1), [1] * 4) == [True, False, True, False, True]
    assert turns(when("loss", above=0.5, at_most=2), [1, 0, 1, 1, 1]) == [True, True, False, True, True, False]


def test_a_score_that_was_not_measured_changes_nothing() -> None:
    made = when("loss", above=0.5, at_most=2)
    memory = made.see(made.start(), {"loss": 1.0})
    assert made.see(memory, {"accuracy": 0.1}) == memory


def test_nan_is_on_neither_side() -> None:
    nan = float("nan")
    assert turns(when("loss", above=0.5), [nan]) == [True, False]
    assert turns(when("loss", below=0.5), [nan]) == [True, False]


def test_the_memory_is_a_small_value_that_survives_as_a_list() -> None:
    made = when("loss", above=0.5, at_most=2)
    memory = made.see(made.start(), {"loss": 0.1})
    assert memory == (False, 0)
    assert made.at(Progress(), list(memory)) is False
    assert made.see(list(memory), {"loss": 1.0}) == (True, 1)


def test_without_a_memory_it_is_the_start() -> None:
    assert when("loss", above=0.5).at(Progress(7)) is True
    assert when("loss", above=0.5).see(None, {"loss": 0.1}) == (False, 0)


def test_what_listens_says_so() -> None:
    assert when("loss", above=0.5).reactive
    assert pieces(True, (steps(3), when("loss", above=0.5))).reactive
    assert not pieces(True, (steps(3), False)).reactive
    assert pieces(True, (steps(3), False)).start() is None
    assert pieces(True, (steps(3), False)).see(None, {"loss": 1.0}) is None


def test_memories_fold_through_pieces_cycles_and_joints() -> None:
    one, other = when("loss", above=0.5), when("loss", below=0.5)
    for made in (
        pieces(one, (steps(5), other)),
        one.until(steps(5)).then(other),
        cycle(one.until(steps(5)), other.until(steps(5))),
    ):
        memory = made.see(made.start(), {"loss": 1.0})
        assert (made.at(Progress(4), memory), made.at(Progress(5), memory)) == (True, False)
        memory = made.see(memory, {"loss": 0.1})
        assert (made.at(Progress(4), memory), made.at(Progress(5), memory)) == (False, True)


def test_it_is_a_value_that_prints_as_its_call() -> None:
    made = when("critic_loss", above=0.4, at_most=5)
    assert repr(made) == "when('critic_loss', above=0.4, at_most=5)"
    assert made == when("critic_loss", above=0.4, at_most=5)
    assert hash(made) == hash(when("critic_loss", above=0.4, at_most=5))
    assert made.kind == "bool"
    made.check(Extent())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: when("loss"), r"no bound is given. Write when\('loss', above=0.5\)"),
        (lambda: when("", above=1), "the name of a score is needed"),
        (lambda: when(0.5, above=1), "the name of a score is needed"),  # type: ignore[arg-type]
        (lambda: when("loss", above=2, below=1), "no score is above 2 and below 1"),
        (lambda: when("loss", above="a"), "a finite number is needed"),  # type: ignore[arg-type]
        (lambda: when("loss", above=1, at_most=0), "at_most is a whole number, at least 1"),
        (lambda: when("loss", above=1, at_most=1.5), "at_most is a whole number"),  # type: ignore[arg-type]
        (lambda: when("loss", above=1) * 0.1, "a schedule of bools cannot be multiplied"),
    ],
)
def test_wrong_uses(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


# what every schedule that listens does, whatever it is part of


def test_a_score_told_as_none_was_not_measured() -> None:
    for made in (when("loss", above=0.5), plateau("loss", patience=0), following(lambda scores: 0.0, "loss", start=1)):
        assert made.see(made.start(), {"loss": None}) == made.start()


def test_each_child_hears_the_clock_that_it_is_asked_on() -> None:
    inner = newbob("loss", start=1.0, pinned={1: 0.25})
    clock = Progress(step=50, epoch=5.0, extent=Extent(steps=100, epochs=10))
    whole = constant(1.0)
    for made, place, epoch in (
        (pieces(1.0, (epochs(2), inner)), 1, 3.0),
        (whole.until(epochs(2)).then(inner), 1, 3.0),
        (whole.until(epochs(1)).then(whole.until(steps(10))).then(inner), 1, 3.0),
        (inner.within(epochs(7)), 0, 5.0),
        (2 * inner, 1, 5.0),
        (inner.clamp(0.1), 0, 5.0),
    ):
        # What it remembers of the clock says which one it heard.
        assert made.see(made.start(), {"loss": 1.0}, clock)[place][1] == epoch


def test_going_back_is_asked_for_by_any_part_and_a_clear_memory_goes_first() -> None:
    keeps, clears = plateau("loss", patience=0, back_to_best="keep"), newbob("loss", back_to_best="clear")
    made = cosine(1.0) * keeps * (1.0 + clears)
    before = made.see(made.start(), {"loss": 1.0})
    after = made.see(before, {"loss": 1.0})
    assert made.goes_back
    assert made.asks_for_best(before, after) == "clear"
    assert (cosine(1.0) * keeps).asks_for_best(None, (None, (1, 1.0, 0, 0))) == "keep"
    assert made.asks_for_best(before, before) == made.asks_for_best(made.start(), None) == ""
    assert not cosine(1.0).goes_back
    assert cosine(1.0).asks_for_best(None, None) == ""


@pytest.mark.parametrize("make", [plateau, newbob])
def test_of_several_names_one_is_enough(make: Callable[..., Schedule]) -> None:
    made = 0.1 * make(("val.other_loss", "val.loss"))
    check_told([made], ["val.loss"])
    assert made.unheard(["val.loss"]) == frozenset()
    with pytest.raises(ScheduleError, match=r"listens to 'val\.loss', which is not measured"):
        check_told([made], ["val.accuracy"])
    of_both = make(lambda scores: sum(scores.values()), "min", names=("val.loss", "val.other_loss"))
    with pytest.raises(ScheduleError, match=r"listens to 'val\.other_loss', which"):
        check_told([of_both], ["val.loss"])


def test_what_is_told_passes() -> None:
    check_told([constant(1), plateau("val.loss") * plateau("val.accuracy")], ["val.loss", "val.accuracy", "val.f1"])
    check_told([constant(1)], [])
