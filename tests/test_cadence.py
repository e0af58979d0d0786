"""Cadences: when something is due, joining, text, refusals; and the laws of the joins."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from etude.errors import ScheduleError
from etude.values.cadence import Cadence, Every, every
from etude.values.progress import Extent, Progress
from etude.values.spans import Span, epochs, fraction, minutes, samples, seconds, steps
from etude.values.text import read, write

quick = settings(max_examples=examples(100), deadline=None)


def clocks(steps_made: int, epoch: float = 0.1) -> list[Progress]:
    """The positions of a run, `epoch` of an epoch and 4 samples at a step."""
    extent = Extent(steps=steps_made)
    return [Progress(n, n * epoch, 4 * n, 0, extent) for n in range(steps_made + 1)]


def due_steps(cadence: Cadence, epoch: float = 0.1, steps_made: int = 30, step_seconds: float = 0.0) -> list[int]:
    """The steps after which a cadence is due, in a run that does it whenever it is."""
    found: list[int] = []
    last = None
    for before, after in pairwise(clocks(steps_made, epoch)):
        elapsed = after.step * step_seconds
        if cadence.due(before, after, elapsed, last):
            found.append(int(after.step))
            last = elapsed
    return found


# ------------------------------------------------------------------------------------------------------ one span


def test_a_cadence_is_due_at_each_multiple() -> None:
    assert due_steps(every(steps(10))) == [10, 20, 30]
    assert due_steps(every(epochs(1))) == [10, 20, 30]
    assert due_steps(every(samples(50))) == [13, 25]
    assert due_steps(every(fraction(0.2))) == [6, 12, 18, 24, 30]
    assert due_steps(every(epochs(0.3))) == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]


def test_several_multiples_in_one_step_are_one_time() -> None:
    assert every(epochs(0.25)).due(Progress(), Progress(1, 1.0))
    assert not every(epochs(0.25)).due(Progress(1, 1.0), Progress(2, 1.2))


def test_time_counts_from_the_last_time_and_before_it_from_the_start() -> None:
    cadence = every(minutes(1))
    assert not cadence.due(Progress(), Progress(1), elapsed=59.0)
    assert cadence.due(Progress(), Progress(1), elapsed=60.0)
    assert not cadence.due(Progress(), Progress(1), elapsed=100.0, last=60.0)
    assert cadence.due(Progress(), Progress(1), elapsed=120.0, last=60.0)


def test_time_is_no_fixed_grid() -> None:
    """Steps of 3 s, every 7 s: a grid of multiples of 7 would give 3, 5, 7, 10, 12."""
    assert due_steps(every(seconds(7)), steps_made=12, step_seconds=3) == [3, 6, 9, 12]


def test_a_minimum_leaves_out_what_comes_too_soon() -> None:
    cadence = every(steps(10), minimum=seconds(30))
    assert not cadence.due(Progress(9), Progress(10), elapsed=20.0, last=0.0)
    assert cadence.due(Progress(19), Progress(20), elapsed=40.0, last=0.0)
    assert not cadence.due(Progress(20), Progress(21), elapsed=80.0, last=0.0)
    assert cadence.due(Progress(29), Progress(30), elapsed=70.0, last=40.0)


def test_no_minimum_holds_before_the_first_time() -> None:
    """Steps of 3 s, at least 10 s between: the first at once, none of those left out is made up for."""
    assert due_steps(every(steps(1), seconds(10)), steps_made=12, step_seconds=3) == [1, 5, 9]
    assert due_steps(every(epochs(1), seconds(20)), steps_made=60, step_seconds=1.2) == [10, 30, 50]
    assert due_steps(every(seconds(6), seconds(10)), steps_made=12, step_seconds=3) == [2, 6, 10]


# -------------------------------------------------------------------------------------------------------- joined


def test_either_is_due_where_one_is() -> None:
    assert due_steps(every(steps(10)) | every(steps(15))) == [10, 15, 20, 30]
    assert due_steps(every(epochs(1)) | steps(15)) == [10, 15, 20, 30]
    assert due_steps(steps(15) | every(epochs(1))) == [10, 15, 20, 30]


def test_both_are_due_where_all_are() -> None:
    assert due_steps(every(steps(10)) & every(steps(15))) == [30]
    assert due_steps(every(epochs(1)) & steps(15)) == [30]
    assert due_steps(steps(15) & every(epochs(1))) == [30]


def test_an_epoch_or_some_time_since_whichever_was_last() -> None:
    """Epochs of 10 s: with 7 s beside them the time begins anew at each epoch."""
    assert due_steps(every(epochs(1)) | every(seconds(7)), step_seconds=1) == [7, 10, 17, 20, 27, 30]


def test_an_epoch_and_some_time_waits_for_the_end_of_an_epoch() -> None:
    """Also before the first time: there is a span of time here, not a minimum."""
    assert due_steps(every(epochs(1)) & every(seconds(15)), step_seconds=1) == [20]
    assert due_steps(every(epochs(1), minimum=seconds(15)), step_seconds=1) == [10, 30]


def test_a_minimum_belongs_to_its_own_cadence() -> None:
    """Epochs of 10 s with at least 15 s before them; every 12th step whatever was before."""
    cadence = every(epochs(1), minimum=seconds(15)) | every(steps(12))
    assert due_steps(cadence, step_seconds=1) == [10, 12, 24]


# ---------------------------------------------------------------------------------------------------- as a value


def test_a_cadence_is_a_value_that_prints_as_its_calls() -> None:
    assert repr(every(epochs(1))) == "every(epochs(1))"
    assert repr(every(steps(10), minutes(1))) == "every(steps(10), seconds(60))"
    assert every(steps(10)) == every(steps(10))
    assert len({every(steps(10)), every(steps(10))}) == 1
    a, b, c = every(epochs(1)), every(minutes(10)), every(steps(5))
    assert repr(a | b) == "every(epochs(1)) | every(seconds(600))"
    assert repr(a & b | c) == "every(epochs(1)) & every(seconds(600)) | every(steps(5))"
    assert repr(a & (b | c)) == "every(epochs(1)) & (every(seconds(600)) | every(steps(5)))"
    assert a | b == every(epochs(1)) | minutes(10)
    assert len({a | b, a | b, a & b}) == 2
    assert a | b != a & b


def test_what_is_joined_twice_stands_there_once() -> None:
    a, b, c = every(epochs(1)), every(minutes(10)), every(steps(5))
    assert a | a == a & a == a
    assert (a | b) | (b | c) == a | (b | c) == (a | b) | c
    assert (a & b) & (b & c) == a & (b & c) == (a & b) & c


def test_a_span_alone_says_its_parts() -> None:
    made = every(epochs(1), minimum=seconds(30))
    assert isinstance(made, Every)
    assert (made.span, made.minimum) == (epochs(1), seconds(30))


# ------------------------------------------------------------------------------------------------------ refusals


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


@pytest.mark.parametrize(
    ("join", "said"),
    [
        (lambda: every(epochs(1)) | 5, "every(epochs(1)) | 5: cadences are joined"),
        (lambda: 5 | every(epochs(1)), "5 | every(epochs(1)): cadences are joined"),
        (lambda: every(epochs(1)) & "x", "every(epochs(1)) & 'x': cadences are joined"),
        (lambda: None & every(epochs(1)), "None & every(epochs(1)): cadences are joined"),
        (lambda: every(epochs(1)) | steps(0), "every(steps(0)): the span must be longer than nothing"),
    ],
)
def test_what_cannot_be_joined(join: Callable[[], object], said: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        join()
    assert said in str(caught.value)
    assert "Write" in str(caught.value)


@pytest.mark.parametrize(
    "cadence",
    [
        every(fraction(0.1)),
        every(fraction(0.1), minimum=seconds(30)),
        every(steps(1)) | fraction(0.1),
        every(steps(3)) & fraction(0.1),
        every(steps(3)) & (every(epochs(1)) | every(fraction(0.1))),
    ],
    ids=repr,
)
def test_a_share_of_a_run_without_length_is_found_at_once_however_deep(cadence: Cadence) -> None:
    with pytest.raises(ScheduleError, match="length of the run is not known"):
        cadence.due(Progress(0), Progress(1), last=0.0)
    with pytest.raises(ScheduleError, match="length of the run is not known"):
        cadence.check(Progress())
    cadence.check(Progress(extent=Extent(steps=10)))


def test_a_unit_that_is_not_counted_is_found_before_the_run() -> None:
    with pytest.raises(ScheduleError, match="position in epochs is not known"):
        (every(minutes(1)) | epochs(1)).check(Progress().without("epochs"))


# ---------------------------------------------------------------------------------------------------------- laws

spans = st.one_of(
    st.integers(1, 9).map(steps),
    st.sampled_from([0.3, 0.5, 1, 2]).map(epochs),
    st.integers(1, 30).map(samples),
    st.sampled_from([0.1, 0.25, 1]).map(fraction),
    st.integers(1, 20).map(seconds),
)
single = st.builds(every, spans, st.none() | st.integers(1, 20).map(seconds))
cadences = st.recursive(
    single,
    lambda inner: st.builds(lambda a, b, both: a & b if both else a | b, inner, inner, st.booleans()),
    max_leaves=6,
)
lengths = st.lists(st.integers(0, 9), min_size=1, max_size=40)


def answers(cadence: Cadence, lengths: list[int], times: list[float | None]) -> list[bool]:
    """What a cadence says after each step, the steps of these lengths, the last time given."""
    found, elapsed = [], 0
    for (before, after), length, last in zip(pairwise(clocks(len(lengths))), lengths, times, strict=True):
        elapsed += length
        found.append(cadence.due(before, after, elapsed, None if last is None else min(last, elapsed)))
    return found


def times_for(data: st.DataObject, lengths: list[int]) -> list[float | None]:
    times: list[float | None] = data.draw(
        st.lists(st.none() | st.integers(0, 100), min_size=len(lengths), max_size=len(lengths))
    )
    return times


@quick
@given(cadences, cadences, cadences, lengths, st.data())
def test_the_joins_are_those_of_truth_values(
    a: Cadence, b: Cadence, c: Cadence, lengths: list[int], data: st.DataObject
) -> None:
    times = times_for(data, lengths)

    def says(cadence: Cadence) -> list[bool]:
        return answers(cadence, lengths, times)

    assert says(a | b) == [x or y for x, y in zip(says(a), says(b), strict=True)]
    assert says(a & b) == [x and y for x, y in zip(says(a), says(b), strict=True)]
    assert says(a & (b | c)) == says(a & b | a & c)
    assert says(a | b & c) == says((a | b) & (a | c))
    assert says(a | a & b) == says(a & (a | b)) == says(a)


@quick
@given(cadences)
def test_text_and_back_is_the_same_cadence(cadence: Cadence) -> None:
    assert read(write(cadence)) == cadence
    assert hash(read(repr(cadence))) == hash(cadence)


@quick
@given(spans, st.integers(1, 20), lengths)
def test_a_minimum_only_leaves_out_and_keeps_its_distance(span: Span, least: int, lengths: list[int]) -> None:
    done: list[int] = []
    elapsed, last = 0, None
    held, free = every(span, minimum=seconds(least)), every(span)
    for (before, after), length in zip(pairwise(clocks(len(lengths))), lengths, strict=True):
        elapsed += length
        now = held.due(before, after, elapsed, last)
        assert now <= free.due(before, after, elapsed, last)
        assert last is not None or now == free.due(before, after, elapsed, last)
        if now:
            done.append(elapsed)
            last = elapsed
    assert all(later - earlier >= least for earlier, later in pairwise(done))


@quick
@given(spans.filter(lambda span: span.unit != "seconds"), lengths)
def test_a_cadence_of_progress_is_due_once_for_each_multiple_that_was_passed(span: Span, lengths: list[int]) -> None:
    """Taking two steps as one loses no multiple that both together passed."""
    cadence = every(span)
    for before, between, after in zip(*(clocks(len(lengths) + 2)[i:] for i in range(3)), strict=False):
        assert cadence.due(before, after) == (cadence.due(before, between) or cadence.due(between, after))
