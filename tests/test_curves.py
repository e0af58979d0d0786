"""Curves: exact ends, known values, and equality with torch's schedulers where they say the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import cos, pi, sqrt
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as peers

from etude.errors import ScheduleError
from etude.values.curves import (
    cosine,
    cyclic,
    exponential,
    inverse_sqrt,
    linear,
    multi_step,
    one_cycle,
    polynomial,
    step_decay,
    warm_restarts,
    warmup,
)
from etude.values.progress import Extent, Progress
from etude.values.schedule import Schedule
from etude.values.spans import epochs, fraction, samples, steps

RUN = Extent(steps=100, epochs=10, samples=3200)
MADE = [
    linear(0.3, 0.1),
    cosine(3e-4, 3e-6),
    polynomial(0.3, 0.1, power=2.0),
    exponential(0.3, 0.1),
    one_cycle(0.7, 0.3, 0.1),
]


def at(made: Schedule, step: float, extent: Extent = RUN) -> float:
    value: float = made.at(Progress(step, step / 10, int(32 * step), 0, extent))
    return value


def rates(make: Callable[[torch.optim.Optimizer], Any], count: int, rate: float = 0.5) -> list[float]:
    """The rates that a scheduler of torch gives to the first `count` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler, seen = make(optimizer), []
        for _ in range(count):
            seen.append(float(optimizer.param_groups[0]["lr"]))
            scheduler.step()
    return seen


@pytest.mark.parametrize("made", MADE, ids=repr)
def test_the_ends_of_a_curve_are_exact(made: Schedule) -> None:
    begin, end = {1: (3e-4, 3e-6)}.get(MADE.index(made), (0.3, 0.1))
    assert at(made, 0) == begin
    assert at(made, 100) == end
    assert at(made, 1000) == end


@pytest.mark.parametrize("span", [steps(50), epochs(5), samples(1600), fraction(0.5)])
def test_a_curve_goes_its_way_over_its_span(span: Any) -> None:
    made = linear(0, 50, over=span)
    assert [at(made, n) for n in (0, 1, 25, 49, 50, 99)] == pytest.approx([0, 1, 25, 49, 50, 50])


@pytest.mark.parametrize(
    ("made", "halfway"),
    [
        (linear(1, 0), 0.5),
        (cosine(1), 0.5),
        (polynomial(1, power=3), 0.125),
        (exponential(1, 1e-4), 1e-2),
        (one_cycle(1, rise=0.5), 1),
    ],
)
def test_curves_at_half_their_way(made: Schedule, halfway: float) -> None:
    assert at(made, 50) == pytest.approx(halfway, rel=1e-12)


def test_the_first_step_is_full_and_the_last_is_not_yet_at_the_end() -> None:
    assert at(cosine(1), 99) == pytest.approx((1 + cos(pi * 0.99)) / 2)
    assert at(cosine(1), 99) > 0


def test_one_cycle_by_default() -> None:
    made = one_cycle(1.0)
    assert (at(made, 0), at(made, 30), at(made, 100)) == (1 / 25, 1.0, 1e-4)
    assert at(made, 15) == pytest.approx((1 / 25 + 1) / 2)


def test_inverse_sqrt() -> None:
    made = inverse_sqrt(0.1, steps(10))
    assert [at(made, n) for n in (0, 9, 10)] == [0.1, 0.1, 0.1]
    assert at(made, 40) == 0.05
    assert at(made, 90) == pytest.approx(0.1 / 3)
    assert at(warmup(steps(10)) * made, 4) == pytest.approx(0.05)


def test_step_decay_with_a_floor() -> None:
    made = step_decay(1.0, 0.5, epochs(1), floor=0.2)
    assert [at(made, n) for n in (0, 9, 10, 19, 20, 30, 99)] == [1, 1, 0.5, 0.5, 0.25, 0.2, 0.2]


def test_multi_step_in_epochs() -> None:
    made = multi_step(1.0, 0.1, [epochs(0.3), epochs(0.7)])
    assert [at(made, n) for n in (2, 3, 6, 7)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_cyclic_has_exact_turns_and_decays_by_the_period() -> None:
    made = cyclic(0.1, 0.7, steps(10), decay=0.5)
    assert [at(made, n) for n in (0, 5, 10, 20)] == [0.1, 0.7, 0.1, 0.1]
    assert at(made, 15) == pytest.approx(0.4)
    assert at(made, 2.5) == pytest.approx(0.4)


def test_cyclic_along_a_wave() -> None:
    made = cyclic(0.1, 0.7, steps(10), shape="cosine")
    assert [at(made, n) for n in (0, 5, 10)] == [0.1, 0.7, 0.1]
    assert at(made, 2.5) == pytest.approx(0.4)
    assert at(made, 1) < at(cyclic(0.1, 0.7, steps(10)), 1)


def test_warm_restarts_grow_and_decay() -> None:
    made = warm_restarts(1.0, 0.0, period=steps(10), growth=2, decay=0.5)
    assert [at(made, n) for n in (0, 10, 30, 70)] == [1.0, 0.5, 0.25, 0.125]
    assert at(made, 5) == pytest.approx(0.5)
    assert at(made, 20) == pytest.approx(0.25)


@pytest.mark.parametrize("growth", [1.0, 1.1, 1.5, 2, 3])
def test_a_restart_is_exactly_where_the_lap_before_ends(growth: float) -> None:
    made = warm_restarts(1.0, 0.0, period=epochs(1.3), growth=growth)
    for lap in range(12):
        begun = 1.3 * (lap if growth == 1 else (growth**lap - 1) / (growth - 1))
        assert made.at(Progress(epoch=begun)) == pytest.approx(1.0)
        assert lap == 0 or made.at(Progress(epoch=begun * (1 - 1e-6))) < 0.01


# Warm-up


def test_a_linear_warm_up_reaches_one_with_its_last_step() -> None:
    made = warmup(steps(10))
    assert [at(made, n) for n in (0, 4, 9, 10, 99)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    assert [at(warmup(steps(10), start=0.5), n) for n in (0, 9)] == [0.55, 1.0]
    assert at(warmup(steps(1)), 0) == 1.0


@pytest.mark.parametrize("span", [steps(10), epochs(1), samples(320), fraction(0.1)])
def test_a_warm_up_in_any_unit(span: Any) -> None:
    assert [at(warmup(span), n) for n in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert at(warmup(span), 9) == 1.0


def test_an_exponential_warm_up_grows_by_one_factor() -> None:
    made = warmup(steps(4), start=1e-4, shape="exponential")
    assert [at(made, n) for n in range(5)] == pytest.approx([1e-3, 1e-2, 1e-1, 1, 1])
    assert at(warmup(steps(2), shape="exponential"), 0) == pytest.approx(0.1)


def test_a_constant_warm_up_holds_to_its_end() -> None:
    assert [at(warmup(steps(3), start=0.2, shape="constant"), n) for n in range(5)] == [0.2, 0.2, 0.2, 1.0, 1.0]


def test_a_warm_up_over_nothing_is_none() -> None:
    for shape in ("linear", "exponential"):
        assert at(warmup(steps(0), shape=shape), 0) == 1.0
    assert at(warmup(steps(0), start=0.1, shape="constant"), 0) == 1.0


def test_a_warm_up_before_anything() -> None:
    made = warmup(steps(10)) * cosine(1, 0)
    assert at(made, 4) == 0.5 * at(cosine(1, 0), 4)
    assert at(made, 50) == at(cosine(1, 0), 50)
    assert at(warmup(steps(10)).then(linear(1, 0)), 10) == 1


# One step ahead


@pytest.mark.parametrize("span", [steps(10), epochs(1), samples(320), fraction(0.1), None])
def test_with_the_step_counted_in_the_last_is_at_the_end(span: Any) -> None:
    made, count = linear(0, 10, over=span, ahead=True), 100 if span is None else 10
    assert [at(made, n) for n in (0, count // 2, count - 1, count)] == pytest.approx(
        [10 / count, 5 + 10 / count, 10, 10]
    )
    assert at(made, count - 1) == at(made, 1000) == 10


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: linear(0.3, 0.1, **options),
        lambda **options: cosine(0.3, 0.1, **options),
        lambda **options: polynomial(0.3, 0.1, power=2.0, **options),
        lambda **options: exponential(0.3, 0.1, **options),
        lambda **options: one_cycle(0.7, 0.3, 0.1, **options),
    ],
)
def test_a_step_ahead_is_the_same_curve_a_step_earlier(make: Callable[..., Schedule]) -> None:
    for options in ({}, {"over": steps(40)}, {"over": fraction(0.4)}):
        plain, ahead = make(**options), make(ahead=True, **options)
        assert plain == make(ahead=False, **options) != ahead
        assert [at(ahead, n) for n in range(100)] == pytest.approx([at(plain, n + 1) for n in range(100)], rel=1e-12)


def test_a_curve_ahead_joins_without_a_step_lost_or_doubled() -> None:
    made = linear(0, 1, over=steps(4), ahead=True).then(linear(1, 0, over=steps(4), ahead=True))
    assert [at(made, n) for n in range(9)] == pytest.approx([0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0])
    to_the_end = linear(0, 1, over=steps(4), ahead=True).then(linear(1, 0, ahead=True))
    assert [at(to_the_end, n) for n in (3, 4, 51, 99)] == pytest.approx([1, 1 - 1 / 96, 0.5, 0])
    assert at(linear(0, 1, over=steps(0), ahead=True), 0) == 1


@pytest.mark.parametrize(
    ("made", "extent"),
    [(linear(1, 0, over=epochs(3), ahead=True), Extent(epochs=10)), (cosine(1, ahead=True), Extent(epochs=10))],
)
def test_a_step_ahead_needs_to_know_what_a_step_is(made: Schedule, extent: Extent) -> None:
    message = (
        r"ahead=True\) looks one step ahead, and what share of its way a step is, is not known.*over=steps\(1000\)"
    )
    with pytest.raises(ScheduleError, match=message):
        made.check(extent)
    with pytest.raises(ScheduleError, match=message):
        made.at(Progress(extent=extent))
    made.check(Extent(steps=100, epochs=10))


# Peers


@pytest.mark.parametrize(
    ("made", "peer", "count"),
    [
        # Past its end, torch's cosine climbs again; ours holds.
        (cosine(0.5, 0.01), lambda o: peers.CosineAnnealingLR(o, 20, eta_min=0.01), 21),
        (linear(0.5, 0.125), lambda o: peers.LinearLR(o, 1.0, 0.25, total_iters=20), 30),
        (polynomial(0.5, power=2), lambda o: peers.PolynomialLR(o, 20, power=2), 30),
        (exponential(0.5, 0.5 * 0.9**20), lambda o: peers.ExponentialLR(o, 0.9), 21),
        (step_decay(0.5, 0.1, steps(7)), lambda o: peers.StepLR(o, 7), 30),
        (multi_step(0.5, 0.1, [steps(3), steps(11)]), lambda o: peers.MultiStepLR(o, [3, 11]), 30),
        (
            warm_restarts(0.5, 0.01, period=steps(4), growth=2),
            lambda o: peers.CosineAnnealingWarmRestarts(o, 4, 2, 0.01),
            30,
        ),
        (
            cyclic(0.1, 0.5, steps(8), decay=0.5),
            lambda o: peers.CyclicLR(o, 0.1, 0.5, 4, mode="triangular2", cycle_momentum=False),
            30,
        ),
    ],
)
def test_equal_to_the_scheduler_of_torch(made: Schedule, peer: Callable[[Any], Any], count: int) -> None:
    ours = [at(made, step, Extent(steps=20)) for step in range(count)]
    assert ours == pytest.approx(rates(peer, count), abs=1e-12)


def test_a_transformers_schedule_from_its_paper() -> None:
    # d ** -0.5 * min(t ** -0.5, t * w ** -1.5), with t the number of the step, from 1.
    made = warmup(steps(16)) * inverse_sqrt(1 / sqrt(512 * 16), steps(16))
    for t in (1, 5, 16):
        assert at(made, t - 1) == pytest.approx(512**-0.5 * min(t**-0.5, t * 16**-1.5))


# Text and errors


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (linear(0, 1), "linear(0, 1)"),
        (cosine(1), "cosine(1, 0.0)"),
        (cosine(1, over=epochs(3)), "cosine(1, 0.0, over=epochs(3))"),
        (linear(0, 1, ahead=True), "linear(0, 1, ahead=True)"),
        (cosine(1, over=steps(3), ahead=True), "cosine(1, 0.0, over=steps(3), ahead=True)"),
        (polynomial(1, power=2, ahead=True), "polynomial(1, 0.0, power=2, ahead=True)"),
        (exponential(1, 0.1, ahead=True), "exponential(1, 0.1, ahead=True)"),
        (one_cycle(1.0, rise=0.5, ahead=True), "one_cycle(1.0, 0.04, 0.0001, rise=0.5, ahead=True)"),
        (polynomial(1, power=2), "polynomial(1, 0.0, power=2)"),
        (exponential(1, 0.1), "exponential(1, 0.1)"),
        (one_cycle(1.0), "one_cycle(1.0, 0.04, 0.0001)"),
        (one_cycle(1.0, rise=0.5), "one_cycle(1.0, 0.04, 0.0001, rise=0.5)"),
        (inverse_sqrt(1, steps(5)), "inverse_sqrt(1, steps(5))"),
        (step_decay(1, 0.5, steps(5)), "step_decay(1, 0.5, steps(5))"),
        (step_decay(1, 0.5, steps(5), floor=0.1), "step_decay(1, 0.5, steps(5), floor=0.1)"),
        (multi_step(1, 0.5, [steps(5), steps(9)]), "multi_step(1, 0.5, [steps(5), steps(9)])"),
        (cyclic(0, 1, steps(5)), "cyclic(0, 1, steps(5))"),
        (cyclic(0, 1, steps(5), 0.5, "cosine"), "cyclic(0, 1, steps(5), decay=0.5, shape='cosine')"),
        (warm_restarts(1, period=steps(5), growth=2), "warm_restarts(1, 0.0, steps(5), growth=2)"),
        (warmup(steps(5)), "warmup(steps(5))"),
        (warmup(steps(5), 0.1), "warmup(steps(5), start=0.1)"),
        (warmup(steps(5), shape="exponential"), "warmup(steps(5), shape='exponential')"),
        (warmup(steps(5), 0.2, "constant"), "warmup(steps(5), start=0.2, shape='constant')"),
    ],
)
def test_a_curve_prints_as_the_call_that_makes_it(made: Schedule, text: str) -> None:
    assert repr(made) == text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear("a", 1), r"linear\('a', 1\): a finite number is needed for start, not 'a'"),
        (lambda: linear(0, float("inf")), "a finite number is needed for end, not inf"),
        (lambda: linear(0, True), "a finite number is needed for end, not True"),
        (lambda: cosine(1, 0, 1000), r"cosine\(1, 0, over=1000\): over: 1000 of what\? Write steps\(1000\)"),
        (lambda: cosine(1, ahead=1), r"cosine\(1, 0.0, ahead=1\): ahead is True or False, not 1"),  # type: ignore[arg-type]
        (lambda: one_cycle(1, ahead="yes"), "ahead is True or False, not 'yes'"),  # type: ignore[arg-type]
        (lambda: polynomial(1, power=0), "power must be above 0, not 0"),
        (lambda: exponential(1, 0), "no factor leads from 1 to 0. Write a small end, or linear"),
        (lambda: exponential(1, -1), "no factor leads from 1 to -1"),
        (lambda: one_cycle(1, rise=0), "the share that rises lies between 0 and 1"),
        (lambda: one_cycle(1, rise=1), "the share that rises lies between 0 and 1"),
        (lambda: inverse_sqrt(1, steps(0)), "longer than nothing"),
        (lambda: inverse_sqrt(1, 4000), "4000 of what"),
        (lambda: step_decay(1, 0, steps(5)), "factor must be above 0 and at most 1, not 0"),
        (lambda: step_decay(1, 1.5, steps(5)), "factor must be above 0 and at most 1"),
        (lambda: step_decay(0.1, 0.5, steps(5), floor=0.2), "the start 0.1 is below the floor 0.2"),
        (lambda: step_decay(1, 0.5, steps(0)), "longer than nothing"),
        (lambda: multi_step(1, 0.1, steps(5)), r"a list of moments is needed. Write at=\[epochs\(30\)"),
        (lambda: multi_step(1, 0.1, []), "a list of moments is needed"),
        (lambda: multi_step(1, 0.1, [30]), "30 of what"),
        (lambda: multi_step(1, 0.1, [steps(5), steps(5)]), r"steps\(5\) is not after steps\(5\)"),
        (lambda: multi_step(1, 0.1, [steps(5), epochs(5)]), "moments in one unit, in order"),
        (lambda: multi_step(1, 0, [steps(5)]), "factor must be above 0"),
        (lambda: cyclic(0, 1, steps(0)), "longer than nothing"),
        (lambda: cyclic(0, 1, steps(5), decay=0), "decay must be above 0"),
        (lambda: cyclic(0, 1, steps(5), shape="cosin"), "one of 'linear', 'cosine'. Nearest: \"cosine\""),
        (lambda: warm_restarts(1), r"length of the first wave is missing. Write period=epochs\(10\)"),
        (lambda: warm_restarts(1, period=steps(5), growth=0.5), "a growth of at least 1"),
        (lambda: warm_restarts(1, period=steps(5), decay=2), "decay must be above 0 and at most 1"),
        (lambda: warmup(200), r"warmup\(200\): over: 200 of what\? Write steps\(200\)"),
        (lambda: warmup(steps(5), start=2), "must be from 0 up to 1"),
        (lambda: warmup(steps(5), start=-1), "must be from 0 up to 1"),
        (lambda: warmup(steps(5), start=0, shape="exponential"), "must be above 0 and up to 1"),
        (lambda: warmup(steps(5), shape="constant"), "must be above 0 and up to 1. Write start=0.1"),
        (lambda: warmup(steps(5), shape="lin"), "shape is one of 'linear', 'exponential', 'constant'"),
    ],
)
def test_wrong_curves(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


@pytest.mark.parametrize(
    "made",
    [
        warmup(fraction(0.1)),
        inverse_sqrt(1, fraction(0.1)),
        step_decay(1, 0.5, fraction(0.1)),
        multi_step(1, 0.5, [fraction(0.1)]),
        cyclic(0, 1, fraction(0.1)),
        warm_restarts(1, period=fraction(0.1)),
        linear(1, 0, over=fraction(0.1)),
        *MADE,
    ],
    ids=repr,
)
def test_a_share_of_a_run_without_length_is_seen_before_it(made: Schedule) -> None:
    with pytest.raises(ScheduleError, match=r"length (of the run )?is not known"):
        made.check(Extent())
    made.check(RUN)
