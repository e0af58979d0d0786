"""Values, functions, arithmetic, bounds, `until`, `then`, and what `check` sees before the first step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from etude.errors import ScheduleError
from etude.values.curves import cosine, linear, warmup
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import part
from etude.values.progress import Extent, Progress
from etude.values.schedule import Constant, Schedule, constant, cycle, pieces, schedule
from etude.values.spans import epochs, fraction, minutes, samples, steps, tokens

RUN = Extent(steps=100, epochs=10, samples=3200)


def at(made: Schedule, step: int, extent: Extent = RUN) -> Any:
    """The value at a step of a run of 10 steps an epoch and 32 samples a step."""
    return made.at(Progress(step, step / 10, 32 * step, 0, extent))


def by_epoch(progress: Progress) -> float:
    return 1 / (1 + progress.amount("epochs"))


# Values


@pytest.mark.parametrize("value", [0.1, 3, True, "text", (0.9, 0.999), None, FROZEN, part("head"), float("inf")])
def test_a_constant_gives_exactly_what_it_was_given(value: object) -> None:
    made = schedule(value)  # type: ignore[arg-type]
    assert made.at(Progress()) is made.at(Progress(99))
    assert made.at(Progress()) == value
    assert type(made.at(Progress())) is type(value)
    assert made.constant
    assert made == constant(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (0.1, "number"),
        (3, "number"),
        (True, "bool"),
        (part("a"), "part"),
        ("a", "any"),
        (None, "any"),
        (FROZEN, "any"),
        (nn.LayerNorm, "part"),
    ],
)
def test_the_kind_of_a_value(value: Any, kind: str) -> None:
    assert schedule(value).kind == kind


def test_numbers_of_numpy_become_pythons_own() -> None:
    for value, expected in [(np.float32(0.5), 0.5), (np.int64(3), 3)]:
        made = constant(value)
        assert type(made.at(Progress())) is type(expected)
        assert made == constant(expected)
    assert at(np.float64(2) * cosine(1.0), 0) == 2
    assert isinstance(np.float64(2) * cosine(1.0), Schedule)


def test_true_is_not_one() -> None:
    assert constant(True) != constant(1)
    assert constant(1) == constant(1.0)


def test_modules_and_their_types_stand_for_parts() -> None:
    layer = nn.Linear(1, 1)
    assert schedule(nn.LayerNorm).at(Progress()) == part(nn.LayerNorm)
    assert schedule(layer).at(Progress()) == part(layer)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], r"\[1, 2\]: a list cannot be the value.*cycle.*pieces"),
        ({"a": 1}, "a dict cannot be"),
        (float("nan"), "NaN cannot be the value"),
        (1j, "a complex cannot"),
        (INHERIT, "an? Inherit cannot"),
        (steps(3), r"a Span cannot.*over=steps\(3\)"),
        (part("a") * 5, r"a Repeat cannot.*cycle\(part\('a'\) \* 5, ...\)"),
        (torch.tensor(1.0), r"a Tensor cannot.*\.item\(\)"),
    ],
)
def test_what_cannot_be_the_value_of_a_schedule(value: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        schedule(value)


def test_schedules_are_values() -> None:
    one, other = (0.5 * cosine(1e-3, over=steps(50)).until(steps(9)).then(0.1) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert copy.deepcopy(one) == one
    assert one != 0.5 * cosine(1e-3, over=steps(51)).until(steps(9)).then(0.1)
    with pytest.raises(AttributeError):
        one.sign = "+"  # type: ignore[attr-defined]


def test_any_function_of_progress_is_a_schedule() -> None:
    def halves(progress: Progress) -> float:
        return 0.5**progress.step

    made = schedule(halves)
    assert at(made, 3) == 0.125
    assert at(2 * made, 3) == 0.25
    assert made == schedule(halves)
    assert repr(made) == "schedule(halves)"
    made.check(RUN)


# Arithmetic


def test_arithmetic_with_numbers_and_schedules() -> None:
    ramp = linear(0, 100)
    assert at(2 * ramp, 30) == at(ramp * 2, 30) == 60
    assert at(ramp + 1, 30) == at(1 + ramp, 30) == 31
    assert at(ramp - 1, 30) == 29
    assert at(1 - ramp, 30) == -29
    assert at(ramp / 4, 30) == 7.5
    assert at(60 / ramp, 30) == 2
    assert at(-ramp, 30) == -30
    assert at(ramp * ramp - ramp, 30) == 870


def test_clamp() -> None:
    ramp = linear(0, 100)
    assert [at(ramp.clamp(20, 60), n) for n in (10, 30, 90)] == [20, 30, 60]
    assert [at(ramp.clamp(low=20), n) for n in (10, 90)] == [20, 90]
    assert [at(ramp.clamp(high=60), n) for n in (10, 90)] == [10, 60]


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (None, None, "no bound is given"),
        (2, 1, r"low bound is above the high one. Write .clamp\(1, 2\)"),
        ("a", None, "a finite number is needed, not 'a'"),
        (float("nan"), None, "a finite number is needed, not nan"),
    ],
)
def test_bounds_that_make_no_sense(low: Any, high: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        cosine(1).clamp(low, high)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cycle(part("a"), part("b")) * 2, "a schedule of parts cannot be multiplied; only numbers can"),
        (lambda: 1 - schedule(True), "a schedule of bools cannot be subtracted from"),
        (lambda: cosine(1) + part("a"), "a schedule of parts cannot be added to"),
        (lambda: cosine(1) / "text", r"constant\('text'\): a schedule of strs cannot be divided"),
        (lambda: schedule(True).clamp(0, 1), "a schedule of bools cannot be clamped"),
        (lambda: cosine(1) * [1], "a list cannot be the value"),
        (lambda: cosine(1) / 0, r"cosine\(1, 0.0\) / 0: nothing can be divided by 0"),
    ],
)
def test_only_numbers_are_reckoned_with(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (warmup(steps(200)) * cosine(3e-4, 3e-6), "warmup(steps(200)) * cosine(0.0003, 3e-06)"),
        (2 * (linear(0, 1) + 1), "2 * (linear(0, 1) + 1)"),
        (linear(0, 1) - (linear(0, 1) - 1), "linear(0, 1) - (linear(0, 1) - 1)"),
        (linear(0, 1) / (2 * linear(0, 1)), "linear(0, 1) / (2 * linear(0, 1))"),
        (1 - constant(2) * 3, "1 - constant(2) * 3"),
        (-linear(0, 1), "-1 * linear(0, 1)"),
        (linear(0, 1) - -0.5, "linear(0, 1) - -0.5"),
        ((linear(0, 1) * 2).clamp(0.5), "(linear(0, 1) * 2).clamp(0.5)"),
        (linear(0, 1).clamp(high=0.5), "linear(0, 1).clamp(None, 0.5)"),
        ((2 * linear(0, 1)).until(steps(3)).then(0.5), "(2 * linear(0, 1)).until(steps(3)).then(0.5)"),
        (constant(0.1).until(epochs(3)).then(constant(0.2)), "constant(0.1).until(epochs(3)).then(0.2)"),
        (constant(FROZEN) * linear(0, 1), "constant(FROZEN) * linear(0, 1)"),
    ],
)
def test_a_schedule_prints_as_the_expression_that_makes_it(made: Schedule, text: str) -> None:
    assert repr(made) == text


# until, then


@pytest.mark.parametrize("span", [steps(20), epochs(2), samples(640), fraction(0.2)])
def test_then_begins_exactly_where_until_ends(span: Any) -> None:
    made = constant(1.0).until(span).then(linear(0, 80))
    assert at(made, 19) == 1.0
    assert at(made, 20) == 0
    assert at(made, 21) == 1


def test_until_has_no_value_after_its_span() -> None:
    made = constant(1.0).until(steps(20))
    assert at(made, 19) == 1.0
    with pytest.raises(ScheduleError, match=r"constant\(1.0\).until\(steps\(20\)\) has no value after steps\(20\)"):
        at(made, 20)


def test_a_curve_with_a_span_needs_no_until() -> None:
    made = linear(0, 10, over=steps(10)).then(linear(100, 110, over=steps(10))).then(-1)
    assert [at(made, n) for n in (0, 9, 10, 19, 20, 99)] == [0, 9, 100, 109, -1, -1]


def test_until_cuts_a_curve_and_does_not_squeeze_it() -> None:
    assert at(linear(0, 100).until(steps(50)).then(-1), 49) == 49


def test_clocks_nest_in_mixed_units() -> None:
    made = constant(1).until(epochs(1)).then(constant(2).until(steps(5)).then(linear(0, 85)))
    assert [at(made, n) for n in (9, 10, 14, 15, 16, 99)] == [1, 2, 2, 0, 1, 84]


def test_shares_are_of_the_whole_run_also_after_then() -> None:
    made = linear(0, 1, over=fraction(0.1)).then(constant(1).until(fraction(0.8)).then(linear(1, 0)))
    assert at(made, 9) == pytest.approx(0.9)
    assert [at(made, n) for n in (10, 89)] == [1, 1]
    assert at(made, 95) == pytest.approx(0.5)


def test_the_length_of_what_goes_before() -> None:
    assert constant(1).length is None
    assert linear(0, 1).length is None
    assert linear(0, 1, over=steps(10)).length == (steps(10),)
    assert (2 * linear(0, 1, over=steps(10))).length == (steps(10),)
    assert (warmup(steps(3)) * linear(0, 1, over=steps(10))).length == (steps(10),)
    assert (warmup(steps(3)) * linear(0, 1)).length is None
    assert (warmup(steps(3)) * linear(0, 1, over=epochs(10))).length is None
    assert constant(1).until(steps(5)).then(linear(0, 1, over=steps(10))).length == (steps(15),)
    assert constant(1).until(steps(5)).then(linear(0, 1, over=epochs(1))).length == (steps(5), epochs(1))


def test_a_sum_of_lengths_in_several_units() -> None:
    made = constant(1).until(steps(5)).then(constant(2).until(epochs(1))).then(3)
    assert [at(made, n) for n in (4, 5, 14, 15)] == [1, 2, 2, 3]


def test_a_span_of_nothing_is_passed_over() -> None:
    assert at(constant(1).until(steps(0)).then(2), 0) == 2
    assert at(linear(0, 1, over=steps(0)), 0) == 1
    assert at(linear(0, 1, over=steps(0)).then(5), 0) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant(1).until(10), r"until\(10\): 10 of what"),
        (lambda: constant(1).until(minutes(1)), "cannot depend on time by the clock"),
        (lambda: constant(1).then(2), r"constant\(1\) before .then\(\) has no end.*\.until\(epochs\(3\)\)"),
        (lambda: constant(1).until(steps(3)).then(part("a")), "numbers and parts are mixed"),
        (lambda: constant(1).until(steps(3)).then(True), "bools and numbers are mixed"),
    ],
)
def test_wrong_joints(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


# check


def test_a_sound_schedule_passes() -> None:
    for made in [
        constant(0.1),
        warmup(steps(100)) * cosine(1),
        warmup(epochs(1)) * cosine(1, over=epochs(100)),
        constant(1).until(steps(100)),
        constant(1).until(epochs(10)),
        constant(1).until(fraction(1)),
        linear(0, 1, over=fraction(0.5)).then(constant(1).until(fraction(0.5))),
        constant(1).until(epochs(1)).then(constant(2).until(steps(50))).then(linear(1, 0)),
        pieces(0.1, (epochs(3), linear(1, 0)), (steps(50), 0.1)),
    ]:
        made.check(RUN)


@pytest.mark.parametrize(
    "made",
    [
        constant(1).until(steps(99)),
        constant(1).until(epochs(9.9)),
        constant(1).until(fraction(0.99)),
        2 * constant(1).until(steps(99)),
        constant(1).until(steps(10)).then(constant(2).until(steps(89))),
        constant(1).until(steps(10)).then(constant(2).until(epochs(8.9))),
        constant(1).until(steps(10)).until(steps(100)),
        constant(1).until(steps(10)).until(epochs(2)).then(1),
        constant(1).until(steps(10)).clamp(0, 1),
        pieces(0.1, (epochs(3), constant(1).until(steps(69)))),
        pieces(constant(1).until(steps(29)), (epochs(3), 0.1)),
        cycle(constant(1).until(steps(5)).until(steps(6)), 2),
    ],
)
def test_an_end_before_the_end_of_the_run_is_seen_before_it(made: Schedule) -> None:
    with pytest.raises(ScheduleError, match=r"ends after .* and is asked for longer. Say what follows: .then\(value\)"):
        made.check(RUN)


def test_an_end_in_a_run_without_length_is_seen_before_it() -> None:
    with pytest.raises(ScheduleError, match="may be asked for longer, the run's length being unknown"):
        constant(1).until(steps(10)).check(Extent())


def test_a_warm_up_longer_than_the_run_is_seen_before_it() -> None:
    for made in (warmup(steps(101)), warmup(epochs(11)), 0.1 * warmup(samples(3201)) * cosine(1)):
        with pytest.raises(ScheduleError, match="is longer than what it warms up: that lasts 100 steps"):
            made.check(RUN)
    with pytest.raises(ScheduleError, match="that lasts 50 steps"):
        constant(1).until(steps(50)).then(warmup(steps(51))).check(RUN)
    warmup(steps(101)).check(Extent())


def test_a_piece_that_a_short_run_never_reaches_is_no_error() -> None:
    pieces(1, (epochs(20), warmup(epochs(1)))).check(RUN)


def test_an_open_curve_in_a_run_without_length_is_seen_before_it() -> None:
    with pytest.raises(ScheduleError, match=r"cosine\(1, 0.0\) runs to the end of the run.*Write over=steps"):
        (0.1 * cosine(1)).check(Extent())
    (0.1 * cosine(1, over=steps(10))).check(Extent())


def test_units_that_cannot_be_converted_are_seen_before_the_run() -> None:
    made = constant(1).until(epochs(1)).then(linear(0, 1, over=steps(10)))
    made.check(RUN)
    with pytest.raises(ScheduleError, match=r"linear\(0, 1, over=steps\(10\)\): The position in steps is not known"):
        made.check(Extent(steps=100))
    with pytest.raises(ScheduleError, match="length of the run is not known"):
        warmup(fraction(0.1)).check(Extent())


def test_units_that_the_run_does_not_count_are_seen_before_it() -> None:
    for made in (warmup(epochs(1)), pieces(1, (epochs(3), 2)), 2 * linear(0, 1, over=epochs(2)), schedule(by_epoch)):
        made.check(Extent(steps=100))
        with pytest.raises(ScheduleError, match="position in epochs is not known here: this run does not count epochs"):
            made.check(Extent(steps=100), uncounted=("epochs",))
    warmup(steps(10)).check(Extent(), uncounted=("epochs", "samples", "tokens"))


def test_counts_without_an_end_are_no_error() -> None:
    # Tokens are counted as they come, whether or not their number is known beforehand.
    pieces(1, (tokens(1000), 2)).check(RUN)
    pieces(1, (epochs(3), linear(1, 0, over=epochs(2)))).check(Extent(steps=100))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda progress: 1 / 0, "has no value at step 0: ZeroDivisionError"),
        (lambda progress: progress.nothing, "has no value at step 0: AttributeError"),
        (lambda progress: float("nan"), "at step 0: NaN cannot be the value"),
        (lambda progress: [1], "a list cannot be the value"),
        (lambda progress: 1 if progress.step < 99 else None, r"\* 2 has no value at step 99: TypeError"),
        (lambda progress: "a", r"\* 2 at step 0 is 'aa': that is no number"),
    ],
)
def test_a_function_that_fails_is_seen_before_the_run(function: Callable[[Progress], Any], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        (schedule(function) * 2 if r"\* 2" in message else schedule(function)).check(RUN)


def test_a_division_by_zero_on_the_way_is_seen_before_the_run() -> None:
    with pytest.raises(ScheduleError, match="has no value at step 0: ZeroDivisionError"):
        (1 / linear(0, 1)).check(RUN)


def test_constant_stands_for_its_class() -> None:
    assert isinstance(constant(1), Constant)
