"""Laws of schedules, for every schedule that can be built: purity, text, boundaries, arithmetic, periods."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import Optimizer, lr_scheduler

from effort import examples
from etude.errors import ScheduleError
from etude.step.torch_schedules import from_torch
from etude.values.cadence import every
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
from etude.values.marks import FROZEN
from etude.values.part import everything, part
from etude.values.progress import Extent, Progress
from etude.values.reactive import following, newbob, plateau, when
from etude.values.schedule import Schedule, constant, cycle, pieces, repeat
from etude.values.spans import Span, epochs, fraction, samples, steps, tokens
from etude.values.text import read, write

quick = settings(max_examples=examples(60), deadline=None)

STEPS, PER_EPOCH, BATCH, LENGTH = 120, 12, 8, 16
RUN = Extent(STEPS, STEPS / PER_EPOCH, STEPS * BATCH, STEPS * BATCH * LENGTH)


def before(step: int, run: Extent = RUN) -> Progress:
    """The clock before a step of a run in which every step is alike."""
    return Progress(step, step / PER_EPOCH, step * BATCH, step * BATCH * LENGTH, run)


def spans(least: int = 1, most: int = STEPS) -> st.SearchStrategy[Span]:
    """Spans of a whole number of steps, said in any unit."""
    return st.builds(
        lambda n, say: say(n),
        st.integers(least, most),
        st.sampled_from(
            [
                steps,
                lambda n: epochs(n / PER_EPOCH),
                lambda n: samples(n * BATCH),
                lambda n: tokens(n * BATCH * LENGTH),
                lambda n: fraction(n / STEPS),
            ]
        ),
    )


def in_steps(span: Span) -> int:
    """The whole number of steps that a span of `spans()` takes."""
    return round(RUN.convert(span.amount, span.unit, "steps") or 0)


clocks = st.integers(0, STEPS - 1).map(before)
numbers = st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 3)) | st.integers(-5, 5)
positive = st.floats(1e-4, 10).map(lambda x: float(f"{x:.4g}"))
shares = st.floats(0.05, 1).map(lambda x: round(x, 3))
overs = st.none() | spans()
parts = st.sampled_from([part("a"), part("b.0"), part("*.bias"), everything, part("a") | "c", part("l")[2:4]])

curves: st.SearchStrategy[Schedule] = st.one_of(
    st.builds(linear, numbers, numbers, overs, ahead=st.booleans()),
    st.builds(cosine, numbers, numbers, overs, ahead=st.booleans()),
    st.builds(polynomial, numbers, numbers, positive, overs, ahead=st.booleans()),
    st.builds(exponential, positive, positive, overs, ahead=st.booleans()),
    st.builds(one_cycle, numbers, numbers, numbers, st.floats(0.1, 0.9), overs, ahead=st.booleans()),
    st.builds(inverse_sqrt, numbers, spans()),
    st.builds(step_decay, positive, shares, spans()),
    st.builds(lambda start, f, n: multi_step(start, f, [steps(n), steps(n + 3)]), numbers, shares, st.integers(1, 99)),
    st.builds(cyclic, numbers, numbers, spans(), shares, st.sampled_from(["linear", "cosine"])),
    st.builds(warm_restarts, numbers, numbers, spans(), st.sampled_from([1, 1.5, 2]), shares),
    st.builds(warmup, spans(), shares, st.sampled_from(["linear", "exponential", "constant"])),
)
names = st.sampled_from(["loss", "score"])
plateaus = st.builds(
    plateau,
    names,
    st.sampled_from(["min", "max"]),
    st.floats(0.1, 0.9).map(lambda x: round(x, 2)),
    st.integers(0, 3),
    st.sampled_from([0.0, 1e-4, 0.1]),
    st.sampled_from(["rel", "abs"]),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.1]),
)


def fall(o: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ExponentialLR(o, 0.97)


def waves(o: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 2)


newbobs = st.builds(
    lambda *given, by, **options: newbob(*given, **options, **by),
    names | st.just(("loss", "score")),
    st.sampled_from(["min", "max"]),
    start=st.sampled_from([1e-3, 1.0, 2.0]),
    decay=st.sampled_from([0.1, 0.5, 1.0]),
    growth=st.sampled_from([1.0, 1.5]),
    min_improvement=st.sampled_from([-0.1, 0.0, 0.01]),
    # The difference of two scores is no share of one of them.
    by=st.sampled_from([{"relative": False}, {"relative_to": "old"}, {"relative_to": "new"}]),
    grow_improvement=st.sampled_from([None, 0.01, 0.5]),
    window=st.integers(1, 3),
    every=st.integers(1, 3),
    hold=st.integers(0, 3),
    scaled_by_value=st.booleans(),
    low=st.sampled_from([0.0, 1e-3]),
    high=st.sampled_from([2.0, float("inf")]),
    back_to_best=st.sampled_from([False, "clear", "keep"]),
)
pinning = st.builds(
    newbob,
    names,
    st.sampled_from(["min", "max"]),
    pinned=st.dictionaries(st.integers(1, 9), st.sampled_from([1e-3, 0.5, 3.0]), max_size=4),
    window=st.integers(1, 3),
)


def length(scores: Mapping[str, tuple[float, ...]]) -> float:
    """How many looks there were, for a schedule that follows what was measured."""
    return float(sum(map(len, scores.values())))


followers = st.builds(lambda seen, start: following(length, *seen, start=start), st.sets(names, min_size=1), numbers)


# What has no text form.
played = st.builds(from_torch, st.sampled_from([fall, waves]), positive, spans(1, 9))


def turns(values: st.SearchStrategy[Any], made: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    """Cycles of values, repetitions and schedules of known length."""
    items = st.one_of(
        values,
        st.builds(repeat, values, st.integers(1, 4)),
        st.builds(lambda inner, n: inner.until(steps(n)), made, st.integers(1, 9)),
    )
    return st.lists(items, min_size=1, max_size=4).map(lambda given: cycle(*given))


def joined(made: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    """Schedules one after the other, by `then` and by `pieces`."""
    return st.one_of(
        st.builds(lambda a, span, b: a.until(span).then(b), made, spans(), made),
        st.builds(
            lambda a, n, b, more, c: pieces(a, (steps(n), b), (steps(n + more), c)),
            made,
            st.integers(1, 60),
            made,
            st.integers(1, 50),
            made,
        ),
    )


def reckoned(made: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    return st.one_of(
        st.builds(lambda a, b: a * b, made, made | numbers),
        st.builds(lambda a, b: b + a, made, made | numbers),
        st.builds(lambda a, b: a - b, made, made | numbers),
        st.builds(lambda a, b: a / b, made, positive),
        st.builds(lambda a: a.clamp(-1, 1), made),
        joined(made),
    )


closed = st.builds(linear, numbers, numbers, spans()) | numbers.map(constant)
of_numbers = st.recursive(
    curves | plateaus | newbobs | numbers.map(constant) | turns(numbers, closed), reckoned, max_leaves=5
)
of_parts = st.recursive(parts.map(constant) | turns(parts, parts.map(constant)), joined, max_leaves=5)
of_bools = joined(st.booleans().map(constant) | st.builds(when, names, numbers))
schedules = of_numbers | of_parts | of_bools
listening = of_bools | of_numbers | reckoned(pinning | followers | newbobs | plateaus)
all_numbers = of_numbers | played | reckoned(played | curves)


@quick
@given(schedules | all_numbers, st.lists(clocks, min_size=2, max_size=6))
def test_asking_in_any_order_gives_the_same(made: Schedule, asked: list[Progress]) -> None:
    forth = [made.at(progress) for progress in asked]
    back = [made.at(progress) for progress in reversed(asked)]
    assert forth == back[::-1]


@quick
@given(schedules)
def test_text_is_the_schedule(made: Schedule) -> None:
    again = read(write(made))
    assert again == made
    assert hash(again) == hash(made)
    assert repr(again) == repr(made)
    assert [again.at(before(n)) for n in (0, 50, 119)] == [made.at(before(n)) for n in (0, 50, 119)]


@quick
@given(spans(), st.one_of(st.none(), st.just(steps(1))))
def test_spans_and_cadences_are_their_text(span: Span, minimum: Span | None) -> None:
    assert read(write(span)) == span
    assert read(write(every(span))) == every(span)


@quick
@given(schedules | all_numbers)
def test_what_check_passes_has_a_value_at_every_step(made: Schedule) -> None:
    try:
        made.check(RUN)
    except ScheduleError:
        return
    for step in range(STEPS):
        made.at(before(step))


@quick
@given(all_numbers, all_numbers, clocks)
def test_arithmetic_is_that_of_the_values(one: Schedule, other: Schedule, progress: Progress) -> None:
    a, b = one.at(progress), other.at(progress)
    assert (one + other).at(progress) == a + b
    assert (one - other).at(progress) == a - b
    assert (one * other).at(progress) == a * b
    assert (2 * one).at(progress) == 2 * a
    assert (-one).at(progress) == -a
    assert one.clamp(-1, 1).at(progress) == min(max(a, -1), 1)
    assert (constant(FROZEN) * one).at(progress) is FROZEN
    if b:
        assert (one / other).at(progress) == a / b


@quick
@given(schedules, schedules, spans())
def test_then_changes_over_exactly_at_its_span(one: Schedule, other: Schedule, span: Span) -> None:
    try:
        made = one.until(span).then(other)
    except ScheduleError:
        assert one.kind != other.kind
        return
    change = in_steps(span)
    assert made.at(before(change - 1)) == one.at(before(change - 1))
    if change < STEPS:
        assert made.at(before(change)) == other.at(before(change).after(span))
        assert other.at(before(change).after(span)) == other.at(Progress(extent=RUN.after(span)))
    with pytest.raises(ScheduleError):
        one.until(span).at(before(change))


@quick
@given(of_numbers, of_numbers, spans(), clocks)
def test_pieces_are_then_counted_from_the_start(a: Schedule, b: Schedule, when: Span, progress: Progress) -> None:
    assert pieces(a, (when, b)).at(progress) == a.until(when).then(b).at(progress)


@quick
@given(of_parts, of_parts, of_parts, st.integers(1, 50), st.integers(1, 50), clocks)
def test_then_is_associative(a: Schedule, b: Schedule, c: Schedule, m: int, n: int, progress: Progress) -> None:
    first, second = a.until(steps(m)), b.until(steps(n))
    assert first.then(second).then(c).at(progress) == first.then(second.then(c)).at(progress)


@quick
@given(turns(numbers, closed), clocks, st.integers(1, 5))
def test_a_cycle_has_its_period(made: Schedule, progress: Progress, laps: int) -> None:
    period = sum(int(item.span.amount) for item in made.children)  # type: ignore[attr-defined]
    later = Progress(progress.step + laps * period, extent=RUN)
    assert made.at(later) == made.at(Progress(progress.step, extent=RUN))


@quick
@given(st.lists(st.tuples(parts, st.integers(1, 4)), min_size=1, max_size=4))
def test_a_cycle_is_its_items_written_out(items: list[tuple[Any, int]]) -> None:
    made = cycle(*(item * times for item, times in items))
    written = [item for item, times in items for _ in range(times)]
    assert [made.at(Progress(n)) for n in range(2 * len(written))] == written * 2


@quick
@given(st.lists(spans(1, 20), min_size=1, max_size=4), clocks)
def test_a_cycle_in_any_units_is_the_cycle_in_steps(lengths: list[Span], progress: Progress) -> None:
    said = cycle(*(constant(i).until(span) for i, span in enumerate(lengths)))
    counted = cycle(*(repeat(i, in_steps(span)) for i, span in enumerate(lengths)))
    assert said.at(progress) == counted.at(progress)


@quick
@given(numbers, numbers, spans())
def test_curves_have_exact_ends_in_every_unit(start: float, end: float, span: Span) -> None:
    last = before(in_steps(span))
    for made in (linear(start, end, span), cosine(start, end, span), polynomial(start, end, 2, span)):
        assert made.at(before(0)) == start
        assert made.at(last) == pytest.approx(end, abs=1e-12)


@quick
@given(spans(), shares)
def test_a_warm_up_is_full_at_its_last_step_in_every_unit(span: Span, start: float) -> None:
    last = in_steps(span) - 1
    for shape in ("linear", "exponential"):
        made = warmup(span, start, shape)
        assert made.at(before(last)) == 1.0
        assert [made.at(before(n)) for n in range(last)] == sorted(made.at(before(n)) for n in range(last))
        assert last == 0 or start == 1 or made.at(before(last - 1)) < 1


@quick
@given(spans(), clocks)
def test_a_local_clock_is_one_in_all_units(span: Span, progress: Progress) -> None:
    local, begun = progress.after(span), in_steps(span)
    assert local.step == pytest.approx(progress.step - begun)
    assert local.epoch == pytest.approx(local.step / PER_EPOCH)
    assert local.samples == pytest.approx(local.step * BATCH)
    assert local.tokens == pytest.approx(local.samples * LENGTH)
    assert local.amount("fraction") == pytest.approx(local.step / STEPS)
    assert local.extent.steps == pytest.approx(STEPS - begun)


@quick
@given(listening, st.lists(st.dictionaries(names, numbers | st.none()), max_size=6), clocks)
def test_what_is_remembered_decides_alone(
    made: Schedule, seen: list[dict[str, float | None]], progress: Progress
) -> None:
    memory, again = made.start(), made.start()
    for step, metrics in enumerate(seen, 1):
        look = before(5 * step)
        memory, again = made.see(memory, metrics, look), made.see(again, metrics, look)
        made.at(progress, memory)
    assert memory == again
    assert made.at(progress, memory) == made.at(progress, again)
    assert (memory is None) == (not made.reactive)
    assert made.reactive == bool(made.listens)
    told = {name: value for each in seen for name, value in each.items() if name not in made.listens}
    assert made.see(memory, told, progress) == memory
    assert made.asks_for_best(memory, memory) == ""


@quick
@given(listening, st.lists(st.dictionaries(names, numbers), max_size=6), clocks)
def test_what_is_remembered_survives_a_file(made: Schedule, seen: list[dict[str, float]], progress: Progress) -> None:
    memory, kept = made.start(), made.start()
    for step, metrics in enumerate(seen, 1):
        look = before(5 * step)
        memory = made.see(memory, metrics, look)
        kept = json.loads(json.dumps(made.see(kept, metrics, look), allow_nan=False))
    assert made.at(progress, memory) == made.at(progress, kept)


any_scores = numbers | st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-308])


@quick
@given(newbobs, st.lists(any_scores, max_size=20))
def test_a_newbob_raises_for_no_score_stays_within_its_bounds_and_keeps_json(
    made: Schedule, scores: list[float]
) -> None:
    memory = made.start()
    for epoch, score in enumerate(scores, 1):
        value = made.at(before(0), memory)
        memory = made.see(memory, {"loss": score, "score": score}, before(epoch))
        after = made.at(before(0), memory)
        assert made.low <= after <= made.high  # type: ignore[attr-defined]
        # What is not finite never makes it grow.
        assert math.isfinite(score) or after <= value
        json.dumps(memory, allow_nan=False)


@quick
@given(pinning, st.lists(numbers, max_size=9))
def test_a_pinned_epoch_has_its_value_whatever_was_heard(made: Schedule, scores: list[float]) -> None:
    memory = made.start()
    for epoch in range(1, 10):
        if epoch in dict(made.pinned):  # type: ignore[attr-defined]
            inside = [before((epoch - 1) * PER_EPOCH + step) for step in range(PER_EPOCH)]
            assert {made.at(progress, memory) for progress in inside} == {dict(made.pinned)[epoch]}  # type: ignore[attr-defined]
        if epoch <= len(scores):
            memory = made.see(memory, {"loss": scores[epoch - 1], "score": 0.5}, before(epoch * PER_EPOCH))


@quick
@given(plateaus, st.lists(numbers, max_size=20))
def test_a_plateau_only_falls_and_never_below_its_low(made: Schedule, scores: list[float]) -> None:
    memory, values = made.start(), [made.at(before(0), made.start())]
    for score in scores:
        memory = made.see(memory, {"loss": score, "score": score})
        values.append(made.at(before(0), memory))
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert min(values) >= made.low  # type: ignore[attr-defined]


@quick
@given(numbers, numbers, st.none() | spans(), clocks)
def test_a_curve_that_looks_ahead_is_where_it_will_be_a_step_later(
    start: float, end: float, over: Span | None, progress: Progress
) -> None:
    for make in (linear, cosine):
        plain, ahead = make(start, end, over), make(start, end, over, ahead=True)
        assert ahead.at(progress) == pytest.approx(plain.at(before(int(progress.step) + 1)), abs=1e-9)
        last = before(STEPS - 1 if over is None else in_steps(over) - 1)
        assert ahead.at(last) == end
