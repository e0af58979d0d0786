"""Spans and cadences: units, arithmetic, refusals, when something is due."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from etude.errors import ScheduleError
from etude.values.progress import Extent, Progress
from etude.values.spans import (
    Span,
    epochs,
    every,
    fraction,
    hours,
    minutes,
    progress_span,
    samples,
    seconds,
    steps,
    tokens,
)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (steps(200), "steps(200)"),
        (steps(2e2), "steps(200)"),
        (epochs(1.5), "epochs(1.5)"),
        (samples(10), "samples(10)"),
        (tokens(10**9), "tokens(1000000000)"),
        (fraction(0.1), "fraction(0.1)"),
        (seconds(5), "seconds(5)"),
        (minutes(10), "seconds(600)"),
        (hours(0.5), "seconds(1800.0)"),
        (epochs(np.float32(0.5)), "epochs(0.5)"),
        (steps(np.int64(3)), "steps(3)"),
    ],
)
def test_a_span_prints_as_the_call_that_makes_it(span: Span, text: str) -> None:
    assert repr(span) == text


def test_spans_are_values() -> None:
    assert steps(3) == steps(3.0)
    assert steps(3) != epochs(3)
    assert len({steps(3), steps(3), epochs(3)}) == 2


def test_spans_of_one_unit_add_subtract_and_scale() -> None:
    assert steps(3) + steps(4) == steps(7)
    assert epochs(3) - epochs(1) == epochs(2)
    assert 3 * steps(2) == steps(2) * 3 == steps(6)
    assert 0.5 * epochs(1) == epochs(0.5)


def test_spans_of_two_units_do_not_add() -> None:
    with pytest.raises(ScheduleError, match=r"steps\(3\) \+ epochs\(1\).*one unit only. Write both in steps"):
        steps(3) + epochs(1)
    with pytest.raises(ScheduleError, match=r"steps\(3\) - 1"):
        steps(3) - 1  # type: ignore[operator]
    with pytest.raises(ScheduleError, match="not below 0"):
        steps(3) - steps(4)
    with pytest.raises(ScheduleError, match="whole numbers"):
        steps(3) * 0.5
    with pytest.raises(TypeError):
        steps(3) * steps(3)  # type: ignore[operator]


@pytest.mark.parametrize("make", [steps, epochs, samples, tokens, fraction, seconds, minutes, hours])
@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), "3", None, True])
def test_no_span_is_negative_endless_or_no_number(make: Callable[[object], Span], amount: object) -> None:
    with pytest.raises(ScheduleError, match="number"):
        make(amount)


@pytest.mark.parametrize("make", [steps, epochs, samples, tokens, fraction])
def test_a_span_of_nothing_marks_a_boundary(make: Callable[[float], Span]) -> None:
    assert make(0).amount == 0


def test_parts_of_a_step_are_refused_with_a_hint() -> None:
    with pytest.raises(ScheduleError, match=r"steps\(0.1\): steps are whole numbers. .*fraction\(0.1\)"):
        steps(0.1)


def test_more_than_the_run_is_no_fraction_of_it() -> None:
    assert fraction(1) == Span(1, "fraction")
    with pytest.raises(ScheduleError, match=r"fraction\(20\): a share of the run is at most 1.*steps\(20\)"):
        fraction(20)


def test_an_unknown_unit_names_the_nearest() -> None:
    with pytest.raises(ScheduleError, match=r"no spans in 'step'.*Nearest: \"steps\""):
        Span(3, "step")


def test_schedules_refuse_what_is_no_span_of_progress() -> None:
    with pytest.raises(ScheduleError, match=r"until\(10\): 10 of what\? Write steps\(10\) or epochs\(10\)"):
        progress_span(10, "until(10)")
    with pytest.raises(ScheduleError, match="a span is needed, not 'a'"):
        progress_span("a", "until('a')")
    with pytest.raises(ScheduleError, match="cannot depend on time by the clock"):
        progress_span(minutes(1), "until(...)")
    with pytest.raises(ScheduleError, match="longer than nothing"):
        progress_span(steps(0), "period=...")
    assert progress_span(steps(0), "until(...)", zero=True) == steps(0)


def due_steps(cadence: object, epoch: float = 0.1, steps_made: int = 30) -> list[int]:
    """The steps after which a cadence is due, `epoch` of an epoch and 4 samples at a step."""
    extent = Extent(steps=steps_made)
    clocks = [Progress(n, n * epoch, 4 * n, 0, extent) for n in range(steps_made + 1)]
    return [n for n in range(1, steps_made + 1) if cadence.due(clocks[n - 1], clocks[n])]  # type: ignore[attr-defined]


def test_a_cadence_is_due_at_each_multiple() -> None:
    assert due_steps(every(steps(10))) == [10, 20, 30]
    assert due_steps(every(epochs(1))) == [10, 20, 30]
    assert due_steps(every(samples(50))) == [13, 25]
    assert due_steps(every(fraction(0.2))) == [6, 12, 18, 24, 30]
    assert due_steps(every(epochs(0.3))) == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]


def test_several_multiples_in_one_step_are_one_time() -> None:
    assert every(epochs(0.25)).due(Progress(), Progress(1, 1.0))
    assert not every(epochs(0.25)).due(Progress(1, 1.0), Progress(2, 1.2))


def test_a_cadence_by_the_clock_counts_from_the_last_time() -> None:
    cadence = every(minutes(1))
    assert not cadence.due(Progress(), Progress(1), elapsed=59.0)
    assert cadence.due(Progress(), Progress(1), elapsed=60.0)
    assert not cadence.due(Progress(), Progress(1), elapsed=100.0, last=60.0)


def test_a_minimum_holds_a_cadence_back() -> None:
    cadence = every(steps(10), minimum=seconds(30))
    assert not cadence.due(Progress(9), Progress(10), elapsed=20.0)
    assert cadence.due(Progress(19), Progress(20), elapsed=40.0)
    assert not cadence.due(Progress(20), Progress(21), elapsed=80.0)


def test_a_cadence_is_a_value_that_prints_as_its_call() -> None:
    assert repr(every(epochs(1))) == "every(epochs(1))"
    assert repr(every(steps(10), minutes(1))) == "every(steps(10), seconds(60))"
    assert every(steps(10)) == every(steps(10))
    assert len({every(steps(10)), every(steps(10))}) == 1


@pytest.mark.parametrize(
    ("span", "minimum", "message"),
    [
        (100, None, r"every\(100\): 100 of what\? Write steps\(100\)"),
        (None, None, "a span is needed"),
        (steps(0), None, "longer than nothing"),
        (steps(5), steps(1), r"minimum=steps\(1\)\): the minimum is time by the clock"),
        (steps(5), 30, "the minimum is time by the clock"),
    ],
)
def test_what_is_no_cadence(span: object, minimum: object, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        every(span, minimum)  # type: ignore[arg-type]


def test_a_cadence_in_shares_of_a_run_without_length_is_an_error() -> None:
    with pytest.raises(ScheduleError, match="length of the run is not known"):
        every(fraction(0.1)).due(Progress(0), Progress(1))
