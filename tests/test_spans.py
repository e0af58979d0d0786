"""Spans: units, arithmetic, refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from etude.errors import ScheduleError
from etude.values.spans import (
    Span,
    epochs,
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


@pytest.mark.parametrize("sign", ["|", "&"])
def test_spans_are_joined_as_cadences_only(sign: str) -> None:
    join = {"|": lambda a, b: a | b, "&": lambda a, b: a & b}[sign]
    with pytest.raises(ScheduleError) as caught:
        join(epochs(1), minutes(10))
    assert f"epochs(1) {sign} seconds(600): spans are amounts" in str(caught.value)
    assert f"Write every(epochs(1)) {sign} every(seconds(600))." in str(caught.value)
    with pytest.raises(TypeError):
        join(epochs(1), 3)
