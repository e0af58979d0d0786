"""The clock: ticking, amounts, local clocks, what lies ahead."""

from __future__ import annotations

import dataclasses
from math import isnan

import pytest

from etude.errors import ScheduleError
from etude.values.progress import Extent, Progress
from etude.values.spans import Span, epochs, fraction, samples, steps, tokens

FULL = Extent(steps=100, epochs=10, samples=3200, tokens=64000)


def test_a_tick_is_one_step_and_what_it_consumed() -> None:
    after = Progress(extent=FULL).tick(samples=32, tokens=640, epoch=0.1)
    assert after == Progress(1, 0.1, 32, 640, FULL)
    assert after.tick(samples=8).epoch == 0.1


def test_progress_is_frozen_and_equal_by_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Progress().step = 3  # type: ignore[misc]
    assert Progress(3, extent=FULL) == Progress(3, extent=Extent(100, 10, 3200, 64000))
    assert hash(Progress(3, extent=FULL)) == hash(Progress(3, extent=FULL))


@pytest.mark.parametrize(
    ("extent", "expected"),
    [
        (Extent(steps=100, epochs=999), 0.25),
        (Extent(samples=1600, epochs=999), 0.5),
        (Extent(tokens=32000, epochs=999), 0.5),
        (Extent(epochs=10), 0.3),
        (Extent(steps=0), 1.0),
    ],
)
def test_the_fraction_is_read_from_the_first_unit_that_is_known(extent: Extent, expected: float) -> None:
    assert Progress(25, 3.0, 800, 16000, extent).fraction == expected


def test_the_fraction_of_a_run_without_length_is_an_error() -> None:
    with pytest.raises(ScheduleError, match=r"the length of the run is not known.*steps=, epochs= or total="):
        _ = Progress(25).fraction


def test_amounts() -> None:
    progress = Progress(25, 2.5, 800, 16000, FULL)
    units = ("steps", "epochs", "samples", "tokens", "fraction")
    assert [progress.amount(unit) for unit in units] == [25, 2.5, 800, 16000, 0.25]


@pytest.mark.parametrize("unit", ["seconds", "rounds"])
def test_a_unit_that_is_none_of_progress_is_an_error(unit: str) -> None:
    with pytest.raises(ScheduleError, match=f"not counted in '{unit}'.*Use steps, epochs"):
        Progress().amount(unit)


def test_ahead_is_one_step_more_in_every_unit() -> None:
    progress = Progress(25, 2.5, 800, 16000, FULL)
    assert progress.ahead("steps") == 26
    assert progress.ahead("epochs") == pytest.approx(2.6)
    assert progress.ahead("samples") == 832
    assert progress.ahead("tokens") == 16640
    assert progress.ahead("fraction") == pytest.approx(0.26)


def test_ahead_is_now_where_the_pace_is_unknown() -> None:
    assert Progress(25, 2.5, extent=Extent(epochs=10)).ahead("epochs") == 2.5
    assert Progress(25, 2.5, extent=Extent(steps=100)).ahead("epochs") == 2.5
    assert Progress(25).ahead("steps") == 26


@pytest.mark.parametrize("span", [steps(20), epochs(2), samples(640), tokens(12800), fraction(0.2)])
def test_a_local_clock_counts_from_its_span_in_every_unit(span: Span) -> None:
    local = Progress(25, 2.5, 800, 16000, FULL).after(span)
    assert (local.step, local.epoch, local.samples, local.tokens) == (5, 0.5, 160, 3200)
    assert local.extent == Extent(80, 8, 2560, 51200, run=FULL)
    assert local.fraction == 5 / 80


def test_a_share_is_of_the_whole_run_also_in_local_clocks() -> None:
    local = Progress(60, extent=FULL).after(steps(20)).after(steps(30))
    assert local.fraction == 10 / 50
    assert local.amount("fraction") == 10 / 100


def test_local_clocks_add_up() -> None:
    progress = Progress(60, 6.0, 1920, 38400, FULL)
    assert progress.after(steps(20)).after(epochs(3)) == progress.after(epochs(5))


def test_what_cannot_be_converted_is_an_error_only_when_it_is_read() -> None:
    local = Progress(25, 2.5, 800, 0, Extent(steps=100)).after(epochs(2))
    assert local.amount("epochs") == 0.5
    assert isnan(local.step)
    assert local.extent.steps is None
    with pytest.raises(ScheduleError, match=r"position in steps is not known.*length is known in steps"):
        local.amount("steps")
    with pytest.raises(ScheduleError, match="length of the run is not known"):
        _ = local.fraction


def test_what_a_run_does_not_count_cannot_be_read() -> None:
    progress = Progress(3, 0.5, 96, 640, FULL).without("epochs", "tokens").tick(samples=32, tokens=20)
    assert (progress.step, progress.samples) == (4, 128)
    for unit in ("epochs", "tokens"):
        with pytest.raises(
            ScheduleError, match=f"position in {unit} is not known here: this run does not count {unit}"
        ):
            progress.amount(unit)
    assert isnan(Progress(3).without("steps", "samples").step)
    assert isnan(Progress(3).without("steps", "samples").samples)


def test_a_local_clock_of_whole_steps_has_whole_steps() -> None:
    # 0.7 * 10 is a hair under 7 in floating point.
    local = Progress(7, extent=Extent(steps=10)).after(fraction(0.7))
    assert local.step == 0
    assert Progress(9, extent=Extent(steps=10)).after(fraction(0.7)).step == 2


def test_a_clock_that_begins_at_the_end_is_done() -> None:
    local = Progress(100, extent=FULL).after(steps(100))
    assert local.extent.steps == 0
    assert local.fraction == 1.0


def test_an_extent_converts_through_the_whole_run() -> None:
    assert FULL.convert(2, "epochs", "steps") == 20
    assert FULL.convert(0.5, "fraction", "tokens") == 32000
    assert FULL.convert(50, "steps", "fraction") == 0.5
    assert Extent(steps=100).convert(2, "epochs", "steps") is None
    assert Extent(steps=0, epochs=0).convert(2, "epochs", "steps") is None
    assert FULL.after(steps(100)).convert(2, "epochs", "steps") == 20


def test_a_cut_extent_ends_at_the_span_or_before() -> None:
    assert FULL.cut(steps(40)) == Extent(40, 4, 1280, 25600, run=FULL)
    assert FULL.cut(epochs(40)) == Extent(100, 10, 3200, 64000, run=FULL)
    assert Extent().cut(steps(40)).steps == 40
