"""Pieces, cycles, and what an update schedule may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from etude.errors import PartError, ScheduleError
from etude.values.curves import linear
from etude.values.marks import FROZEN
from etude.values.part import everything, part, where
from etude.values.progress import Extent, Progress
from etude.values.schedule import (
    Schedule,
    constant,
    cycle,
    pieces,
    repeat,
    schedule,
    update_schedule,
)
from etude.values.spans import epochs, fraction, samples, steps

RUN = Extent(steps=100, epochs=10, samples=3200)
A, B, C = part("a"), part("b"), part("c")


def values(made: Schedule, count: int, extent: Extent = RUN, rate: float = 0.1) -> list[Any]:
    """The first `count` values in a run of `1 / rate` steps an epoch and 32 samples a step."""
    return [made.at(Progress(n, n * rate, 32 * n, 0, extent)) for n in range(count)]


# pieces


def test_pieces_begin_at_their_moments() -> None:
    made = pieces(1, (steps(3), 2), (epochs(0.5), 3), (samples(256), 4))
    assert values(made, 10) == [1, 1, 1, 2, 2, 3, 3, 3, 4, 4]


def test_a_schedule_in_pieces_has_a_clock_that_begins_with_it() -> None:
    made = pieces(linear(0, 100), (steps(5), linear(0, 95)), (epochs(9), linear(50, 60)))
    assert values(made, 7) == [0, 1, 2, 3, 4, 0, 1]
    assert made.at(Progress(95, 9.5, extent=RUN)) == 55


def test_gradual_unfreezing_is_a_schedule_of_parts() -> None:
    made = pieces(A, (epochs(1), part("b") | "a"), (epochs(2), everything))
    assert [made.at(Progress(n, n / 10)) for n in (9, 10, 20)] == [A, part("b") | "a", everything]
    assert made.kind == "part"


def test_frozen_may_stand_among_numbers() -> None:
    made = pieces(FROZEN, (epochs(1), 0.1))
    assert made.kind == "number"
    assert made.at(Progress()) is FROZEN
    made.check(RUN)


def test_a_first_match_among_pieces_needs_no_length_of_the_run() -> None:
    made = pieces(1, (epochs(3), 2), (epochs(5), linear(2, 0, over=epochs(2))))
    assert [made.at(Progress(10 * e, float(e))) for e in (0, 3, 5, 6, 7, 8)] == [1, 2, 2, 1, 0, 0]
    made.check(Extent())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pieces(1), r"only one piece is given. Write pieces\(0.1, \(epochs\(3\), 0.01\)\)"),
        (lambda: pieces(1, 2), "2 is no pair of moment and value"),  # type: ignore[arg-type]
        (lambda: pieces(1, (3, 2)), r"pieces\(..., \(3, ...\)\): 3 of what"),  # type: ignore[arg-type]
        (lambda: pieces(1, (steps(0), 2)), "must be longer than nothing"),
        (lambda: pieces(1, (steps(5), 2), (steps(5), 3)), r"steps\(5\) is not after steps\(5\)"),
        (lambda: pieces(1, (steps(5), 2), (steps(4), 3)), r"steps\(4\) is not after steps\(5\). Write the moments"),
        (lambda: pieces(1, (steps(5), True)), "pieces: 1, True: bools and numbers are mixed"),
        (lambda: pieces(A, (steps(5), 1)), "numbers and parts are mixed"),
        (lambda: pieces(1, (steps(5), [1])), "a list cannot be the value"),
    ],
)
def test_wrong_pieces(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


def test_moments_out_of_order_in_several_units_are_seen_before_the_run() -> None:
    made = pieces(1, (epochs(5), 2), (steps(49), 3))
    with pytest.raises(ScheduleError, match=r"steps\(49\) is not after epochs\(5\)"):
        made.check(RUN)
    pieces(1, (epochs(5), 2), (fraction(0.6), 3)).check(RUN)
    with pytest.raises(ScheduleError, match=r"fraction\(0.4\) is not after epochs\(5\)"):
        pieces(1, (epochs(5), 2), (fraction(0.4), 3)).check(RUN)


# cycle


def test_a_cycle_of_parts_is_an_update_schedule() -> None:
    made = cycle(A * 3, B)
    assert values(made, 9) == [A, A, A, B, A, A, A, B, A]
    assert made.kind == "part"


def test_text_among_parts_is_a_part() -> None:
    assert cycle(A * 3, "b") == cycle(A * 3, B)
    assert pieces("b", (steps(3), A)).at(Progress()) == B
    assert cycle("a", "b").at(Progress()) == "a"


def test_a_cycle_does_not_restart_at_an_epoch() -> None:
    # Seven steps an epoch, a cycle of three.
    assert values(cycle(1, 2, 3), 9, rate=1 / 7) == [1, 2, 3, 1, 2, 3, 1, 2, 3]


def test_a_cycle_of_numbers_and_repetitions() -> None:
    assert values(cycle(0.1, repeat(0.2, 2), constant(0.3)), 8) == [0.1, 0.2, 0.2, 0.3, 0.1, 0.2, 0.2, 0.3]


def test_schedules_in_a_cycle_begin_anew_at_each_turn() -> None:
    made = cycle(linear(0, 4, over=steps(4)), 9)
    assert values(made, 12) == [0, 1, 2, 3, 9, 0, 1, 2, 3, 9, 0, 1]


def test_a_turn_may_be_of_several_pieces() -> None:
    made = cycle(constant(1).until(steps(2)).then(linear(2, 4, over=steps(2))), 9)
    assert values(made, 11) == [1, 1, 2, 3, 9, 1, 1, 2, 3, 9, 1]


def test_a_cycle_in_epochs_keeps_its_boundaries() -> None:
    made = cycle(constant(1).until(epochs(0.1)), constant(2).until(epochs(0.2)))
    assert values(made, 30) == [1, 2, 2] * 10


def test_a_cycle_in_shares_of_the_run() -> None:
    made = cycle(constant(1).until(fraction(0.02)), constant(2).until(fraction(0.01)))
    assert values(made, 9) == [1, 1, 2, 1, 1, 2, 1, 1, 2]


def test_a_cycle_in_several_units_is_added_up_through_the_run() -> None:
    made = cycle(constant(1).until(steps(3)), constant(2).until(epochs(0.2)))
    assert values(made, 10) == [1, 1, 1, 2, 2, 1, 1, 1, 2, 2]
    made.check(RUN)
    with pytest.raises(ScheduleError, match=r"items are in steps, epochs.*Write all items in one unit"):
        made.check(Extent(steps=100))


def test_a_cycle_after_a_while_begins_at_its_first_item() -> None:
    made = constant(0).until(steps(4)).then(cycle(1, 2, 3))
    assert values(made, 9) == [0, 0, 0, 0, 1, 2, 3, 1, 2]


def test_cycles_nest() -> None:
    made = cycle(cycle(1, 2).until(steps(3)), repeat(9, 2))
    assert values(made, 10) == [1, 2, 1, 9, 9, 1, 2, 1, 9, 9]


def test_an_item_that_takes_no_time_is_passed_over() -> None:
    assert values(cycle(constant(7).until(steps(0)), 1, 2), 4) == [1, 2, 1, 2]


def test_long_repetitions_cost_no_memory() -> None:
    made = cycle(A * 10**9, B)
    assert made.at(Progress(10**9 - 1)) == A
    assert made.at(Progress(10**9)) == B


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (cycle(part("critic") * 5, "generator"), "cycle(part('critic') * 5, part('generator'))"),
        (cycle((A | B) * 2, C), "cycle((part('a') | part('b')) * 2, part('c'))"),
        (cycle(0.1, repeat(0.2, 3)), "cycle(0.1, repeat(0.2, 3))"),
        (cycle(linear(0, 1, over=steps(5)), FROZEN), "cycle(linear(0, 1, over=steps(5)), FROZEN)"),
        (cycle(constant(A).until(steps(0)), B), "cycle(constant(part('a')).until(steps(0)), part('b'))"),
        (cycle(constant(1).until(epochs(2)), 3), "cycle(constant(1).until(epochs(2)), 3)"),
        (pieces(0.1, (epochs(3), linear(1, 0))), "pieces(0.1, (epochs(3), linear(1, 0)))"),
    ],
)
def test_pieces_and_cycles_print_as_the_calls_that_make_them(made: Schedule, text: str) -> None:
    assert repr(made) == text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cycle(), r"nothing to cycle through. Write cycle\(part\('critic'\) \* 5"),
        (lambda: cycle(linear(0, 1), 2), r"linear\(0, 1\) in a cycle has no end.*over="),
        (lambda: cycle(cycle(1, 2), 3), r"cycle\(1, 2\) in a cycle has no end"),
        (lambda: cycle(A, 1), "numbers and parts are mixed"),
        (lambda: cycle([A, B]), "a list cannot be the value"),
        (lambda: cycle(constant(1).until(steps(0))), "nothing in this cycle takes any time"),
        (lambda: repeat(1, 0), r"repeat\(1, 0\): a whole number of steps, at least 1"),
        (lambda: repeat(1, 2.5), "a whole number of steps"),  # type: ignore[arg-type]
        (lambda: repeat(1, True), "a whole number of steps"),
        (lambda: repeat(linear(0, 1), 3), r"only a value repeats. Write .until\(steps\(3\)\)"),
    ],
)
def test_wrong_cycles(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


def test_a_curve_to_the_end_of_the_run_has_no_place_in_a_cycle() -> None:
    made = cycle(linear(0, 1).until(steps(5)), 2)
    with pytest.raises(
        ScheduleError, match=r"runs to the end of the run, which is not the end of its turn. Write over="
    ):
        made.check(RUN)


# update_schedule


def test_nothing_said_is_no_schedule() -> None:
    assert update_schedule(None) is None


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        (["a", "b"], cycle(A, B)),
        ([A * 2, "b"], cycle(A * 2, B)),
        ([0, -1], cycle(part(0), part(-1))),
        ([("layers", 0), nn.Linear], cycle(part("layers") / 0, part(nn.Linear))),
        ([A | "b", everything], cycle(A | B, everything)),
        ([constant(A).until(epochs(1)), "b"], cycle(constant(A).until(epochs(1)), B)),
        ("a", constant(A)),
        (A, constant(A)),
        (A * 3, constant(A)),
        (0, constant(part(0))),
        (cycle("a", "b"), cycle(A, B)),
        (pieces("a", (epochs(1), cycle("b", "c"))), pieces(A, (epochs(1), cycle(B, C)))),
        (constant("a").until(steps(3)).then("b"), constant(A).until(steps(3)).then(B)),
        (schedule("a"), constant(A)),
    ],
)
def test_what_an_update_schedule_may_be(literal: object, expected: Schedule) -> None:
    made = update_schedule(literal)
    assert made == expected
    assert made is not None
    assert made.kind == "part"


def test_a_function_of_progress_may_choose_the_parts() -> None:
    made = schedule(lambda progress: A if progress.step % 2 else B)
    assert update_schedule(made) is made


@pytest.mark.parametrize(
    ("literal", "message"),
    [
        ([], r"update_schedule=\[\]: no step is said"),
        ({"a": 5}, "a dict has no order of steps. Write a list"),
        ([None, "a"], "None: no part. Say what moves"),
        ([FROZEN], "FROZEN: no part"),
        (linear(0, 1), "an update schedule is of parts"),
        ([linear(0, 1, over=steps(3))], "an update schedule is of parts"),
        (constant(3), "an update schedule is of parts"),
        ([linear(0, 1)], "an update schedule is of parts"),
    ],
)
def test_wrong_update_schedules(literal: object, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        update_schedule(literal)


@pytest.mark.parametrize("times", [0, -1, 2.5, True])
def test_a_part_is_repeated_a_whole_number_of_times(times: Any) -> None:
    with pytest.raises(PartError, match="a whole number of times, at least 1"):
        update_schedule([A * times])


def test_what_stands_for_no_part_in_an_update_schedule() -> None:
    with pytest.raises(PartError, match=r"is written where\(...\), one of Progress that gives parts schedule"):
        update_schedule([lambda name, array: True])
    with pytest.raises(PartError, match="stands for no part"):
        update_schedule([1.5])
    assert update_schedule(where(print)) == constant(where(print))
