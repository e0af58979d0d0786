"""Conditions for the end of a run: when they hold, text, joins, refusals; and runs that they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from effort import examples
from etude import Directory, Evaluate, every, train
from etude.errors import EtudeError, ScheduleError, SettingError
from etude.run.events import Settled
from etude.values.progress import Extent, Progress
from etude.values.scores import better, direction
from etude.values.spans import Span, epochs, fraction, minutes, samples, seconds, steps, tokens
from etude.values.stopping import Stop, limit, no_improvement, reached, stopping
from etude.values.text import read, write
from small import arrays, classified, mlp, options, run, same, trained

quick = settings(max_examples=examples(100), deadline=None)
EXTENT = Extent(steps=100, epochs=10, samples=1000)


def looks_until(stop: Stop, scores: Sequence[float], name: str = "val.loss") -> int | None:
    """After how many looks, one an epoch, a condition holds; None if never."""
    memory = stop.start()
    for look, score in enumerate(scores, 1):
        progress = Progress(step=10 * look, epoch=look, samples=100 * look, extent=EXTENT)
        memory = stop.see(memory, {name: score}, progress)
        if stop.stop(progress, memory, 60.0 * look):
            return look
    return None


# ------------------------------------------------------------------------------------------------- no improvement

PATIENCE: list[tuple[list[float], dict[str, Any], int | None]] = [
    ([5, 4, 4, 3], {"patience": 0}, 3),
    ([5, 4, 3, 2], {"patience": 0}, None),
    ([5, 6, 6, 6, 4], {"patience": 2}, 4),
    ([5, 6, 6, 4, 5, 5, 5], {"patience": 2}, 7),
    ([5, 6, 6, 6, 4], {"patience": 3}, None),
    # More is better.
    ([1, 2, 3, 3], {"patience": 0, "mode": "max"}, 4),
    ([3, 2], {"patience": 0, "mode": "max"}, 2),
    # A smallest change, absolute and relative, from the best that counted.
    ([5, 4.5, 4, 3.5], {"patience": 0, "min_delta": 1}, 2),
    ([5, 4.5, 4, 3.5, 3], {"patience": 1, "min_delta": 1}, None),
    ([100, 91, 90], {"patience": 1, "min_delta": 0.1, "relative": True}, None),
    ([100, 91, 90.5], {"patience": 1, "min_delta": 0.1, "relative": True}, 3),
    ([-100, -105, -111], {"patience": 0, "min_delta": 0.1, "relative": True}, 2),
    # Relative to a best of 0 everything better counts.
    ([0, -1e-9], {"patience": 0, "min_delta": 0.1, "relative": True}, None),
    # NaN and infinities are never better.
    ([nan, 5, 4], {"patience": 1}, None),
    ([nan, nan, 3], {"patience": 1}, 2),
    ([5, -inf, 6], {"patience": 1}, 3),
    ([inf, inf], {"patience": 1, "mode": "max"}, 2),
    # Looks of the warm-up count neither as the best nor as waiting.
    ([1, 2, 3, 4], {"patience": 1, "warmup": epochs(2)}, 4),
    ([1, 1, 5, 4, 4], {"patience": 0, "warmup": epochs(3)}, 5),
    ([1, 1, 5, 4, 3], {"patience": 0, "warmup": fraction(0.3)}, None),
]


@pytest.mark.parametrize(("scores", "given", "expected"), PATIENCE)
def test_no_improvement(scores: list[float], given: dict[str, Any], expected: int | None) -> None:
    assert looks_until(no_improvement("val.loss", **given), scores) == expected


def test_what_was_not_measured_is_no_look() -> None:
    made = no_improvement("val.loss", patience=0)
    memory = made.see(made.start(), {"val.loss": 3.0}, Progress())
    assert made.see(memory, {"epoch.loss": 9.0}, Progress()) == memory


def test_the_reason_says_how_long_and_what_the_best_was() -> None:
    made = no_improvement("val.loss", patience=1)
    assert made.stop(Progress(), (0.25, 2), 0.0) == "val.loss did not improve for 2 looks; the best was 0.25"
    assert made.stop(Progress(), (None, 2), 0.0) == "val.loss did not improve for 2 looks; none was a number"


@quick
@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.integers(0, 5))
def test_patience_stops_after_the_first_long_row_without_a_new_best(scores: list[float], patience: int) -> None:
    best, row, expected = inf, 0, None
    for look, score in enumerate(scores, 1):
        best, row = (score, 0) if score < best else (best, row + 1)
        if row > patience:
            expected = look
            break
    assert looks_until(no_improvement("val.loss", patience=patience), scores) == expected


# --------------------------------------------------------------------------------------------------- reached, limit


def test_reached_is_beyond_a_bound_or_between_two() -> None:
    assert looks_until(reached("val.loss", above=3), [1, 3, nan, 3.5]) == 4
    assert looks_until(reached("val.loss", below=3), [5, 3, nan, 2]) == 4
    assert looks_until(reached("val.loss", above=1, below=2), [0, 3, 1, 2, 1.5]) == 5
    assert looks_until(reached("val.loss", above=3, looks=2), [4, 1, 4, 5]) == 4
    text = reached("val.accuracy", above=0.9).stop(Progress(), (1, 0.95), 0.0)
    assert text == "val.accuracy was 0.95, above 0.9"


LIMITS: list[tuple[Span, int | None]] = [
    (minutes(3), 3),
    (seconds(61), 2),
    (steps(25), 3),
    (samples(200), 2),
    (epochs(4), 4),
    (fraction(0.5), 5),
    (steps(1000), None),
]


@pytest.mark.parametrize(("span", "expected"), LIMITS)
def test_a_limit_is_of_time_or_of_progress(span: Span, expected: int | None) -> None:
    assert looks_until(limit(span), [1.0] * 6) == expected
    assert looks_until(stopping(span), [1.0] * 6) == expected


def test_a_function_of_the_clock_may_say_why() -> None:
    made = stopping(lambda progress: "enough" if progress.step >= 20 else "")
    assert made.stop(Progress(step=20), made.start(), 0.0) == "enough"
    assert not made.stop(Progress(step=19), made.start(), 0.0)

    def late(progress: Progress) -> bool:
        return progress.epoch > 2

    assert stopping(late).stop(Progress(epoch=3), (), 0.0) == "late said so"


# ----------------------------------------------------------------------------------------------------------- joins


def test_either_holds_as_soon_as_one_does_and_both_where_all_do() -> None:
    one, other = no_improvement("val.loss", patience=1), limit(minutes(4))
    falling = [5, 4, 4, 4, 4]
    assert looks_until(one | other, falling) == 4
    assert looks_until(one | minutes(2), falling) == 2
    assert looks_until(one & minutes(5), falling) == 5
    assert looks_until(other & no_improvement("val.loss", patience=9), falling) is None
    # What held and holds no more does not count: a better score came before the time was over.
    assert looks_until(one & minutes(5), [5, 4, 4, 4, 3, 2]) is None


def test_reasons_are_told_together() -> None:
    made = limit(steps(2)) & (lambda progress: "asked")
    assert made.stop(Progress(step=2), made.start(), 0.0) == "the limit of steps(2) was reached; asked"


CONDITIONS: list[Stop] = [
    no_improvement("val.loss", patience=3),
    no_improvement("val.f", patience=0, min_delta=0.01, relative=True, warmup=epochs(2), mode="max"),
    no_improvement("val.accuracy", patience=3),
    no_improvement("val.accuracy", patience=3, mode="min"),
    reached("val.accuracy", above=0.99),
    reached("epoch.loss", above=0.1, below=0.5, looks=3),
    limit(minutes(30)),
    limit(tokens(1e9)),
    no_improvement("val.loss", patience=3) | minutes(30),
    (no_improvement("val.loss", patience=3) | minutes(30)) & steps(100),
    no_improvement("val.loss", patience=3) & steps(100) | epochs(3),
]


@pytest.mark.parametrize("made", CONDITIONS, ids=str)
def test_a_condition_prints_as_what_makes_it_and_is_read_again(made: Stop) -> None:
    again = read(write(made))
    assert again == made
    assert hash(again) == hash(made)
    assert repr(again) == repr(made)


def test_a_named_function_is_read_again_where_it_is_given() -> None:
    def late(progress: Progress) -> bool:
        return progress.epoch > 2

    made = stopping(late) | steps(3)
    assert read(write(made), names={"late": late}) == made


def test_joins_of_one_kind_are_one_and_nothing_stands_there_twice() -> None:
    a, b, c = limit(steps(1)), limit(steps(2)), limit(steps(3))
    assert (a | b) | c == a | (b | c)
    assert a | a == a
    assert repr(a | b & c) == "limit(steps(1)) | limit(steps(2)) & limit(steps(3))"
    assert repr((a | b) & c) == "(limit(steps(1)) | limit(steps(2))) & limit(steps(3))"


@quick
@given(st.lists(st.floats(0, 3), min_size=1, max_size=12), st.integers(0, 2), st.integers(1, 12))
def test_either_is_the_earlier_one(scores: list[float], patience: int, after: int) -> None:
    one, other = no_improvement("val.loss", patience=patience), limit(steps(10 * after))
    each = [look for look in (looks_until(one, scores), looks_until(other, scores)) if look is not None]
    assert looks_until(one | other, scores) == (min(each) if each else None)


# --------------------------------------------------------------------------------------------------------- refusals

WRONG: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: no_improvement("", patience=3),
        "the name of a score is needed. Write no_improvement('val.loss', ",
    ),
    (lambda: no_improvement("val.loss", patience=-1), "patience=-1: a whole number of looks, at least 0, is needed"),
    (lambda: no_improvement("val.loss", patience=True), "patience=True: a whole number"),
    (lambda: no_improvement("val.loss", patience=1, min_delta=-1), "min_delta=-1: a finite number, at least 0"),
    (lambda: no_improvement("val.loss", patience=1, min_delta=nan), "min_delta=nan"),
    (lambda: no_improvement("val.loss", patience=1, relative=0.1), "relative=0.1: True or False is needed"),  # type: ignore[arg-type]
    (lambda: no_improvement("val.loss", patience=1, mode="mx"), "'min' or 'max' is needed. Nearest: \"max\""),
    (lambda: no_improvement("val.quality", patience=1), "Write mode='min' or mode='max'"),
    (lambda: no_improvement("val.loss", patience=1, warmup=2), "Write steps(2) or epochs(2)"),  # type: ignore[arg-type]
    (lambda: no_improvement("val.loss", patience=1, warmup=minutes(1)), "cannot depend on time by the clock"),
    (lambda: no_improvement("val.loss", patience=1, min_dleta=1), 'Nearest: "min_delta"'),  # type: ignore[call-arg]
    (lambda: reached("val.loss"), "no bound is given. Write reached('val.loss', above=0.99)"),
    (lambda: reached("val.loss", above=2, below=1), "no score is above 2.0 and below 1.0"),
    (lambda: reached("val.loss", above="high"), "above='high': a number is needed"),  # type: ignore[arg-type]
    (lambda: reached("val.loss", above=1, looks=0), "looks=0: a whole number of looks, at least 1"),
    (lambda: reached(3, above=1), "the name of a score is needed"),  # type: ignore[arg-type]
    (lambda: limit(30), "limit(30): a span is needed. Write limit(minutes(30))"),  # type: ignore[arg-type]
    (lambda: limit(steps(0)), "the run would end before it began"),
    (lambda: stopping("val.loss"), 'Write no_improvement("val.loss", patience=3)'),  # type: ignore[arg-type]
    (lambda: stopping([limit(steps(1))]), "Join conditions by | (either) or & (both)"),  # type: ignore[arg-type]
    (lambda: stopping(5), "5 is no condition for the end of a run"),  # type: ignore[arg-type]
    (lambda: stopping(read("linear(0, 1)")), "A schedule is no condition"),
    (lambda: limit(steps(1)) and limit(steps(2)), "neither true nor false by itself"),
    (lambda: stopping(no_improvement), "the function itself. Write stop=no_improvement"),  # type: ignore[arg-type]
    (lambda: limit(steps(1)) | 5, "5 is no condition for the end of a run"),  # type: ignore[operator]
]


@pytest.mark.parametrize(("make", "text"), WRONG)
def test_wrong_use_is_an_error_at_construction(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(EtudeError) as told:
        make()
    assert text in str(told.value)


def test_what_is_not_measured_is_named_with_what_is_near() -> None:
    made = limit(steps(1)) | no_improvement("val.lss", patience=3, mode="min")
    with pytest.raises(SettingError, match=r"'val.lss', which is not measured. Measured are 'val.loss', 'epoch.loss'"):
        made.check(["val.loss", "epoch.loss"], EXTENT)
    with pytest.raises(SettingError, match=r'Nearest: "val.loss"'):
        made.check(["val.loss", "epoch.loss"], EXTENT)
    with pytest.raises(SettingError, match=r"Nothing is: write validation=0.2"):
        made.check([], EXTENT)
    no_improvement("val.loss", patience=3).check(["val.loss"], EXTENT)


def test_a_unit_that_the_run_cannot_tell_is_an_error_before_it() -> None:
    with pytest.raises(ScheduleError, match="length of the run is not known"):
        limit(fraction(0.5)).check([], Extent())
    with pytest.raises(ScheduleError, match="length of the run is not known"):
        no_improvement("val.loss", patience=1, warmup=fraction(0.5)).check(["val.loss"], Extent())


def test_a_function_that_fails_fails_before_the_run() -> None:
    with pytest.raises(SettingError, match="asked at the start of the run, the function failed: AttributeError"):
        stopping(lambda progress: progress.stp > 3).check([], EXTENT)  # type: ignore[attr-defined]
    with pytest.raises(SettingError, match="Boolean value of Tensor"):
        stopping(lambda progress: torch.ones(2)).check([], EXTENT)


# ----------------------------------------------------------------------------------------------------------- scores


def test_what_a_name_says_of_the_direction() -> None:
    assert direction("val.loss") == direction("epoch.ce.perplexity") == "min"
    assert direction("val.macro_f1") == direction("val.Accuracy") == "max"
    assert direction("val.quality") is None


def test_better_is_never_nan_infinite_or_equal() -> None:
    assert better(1, None, "min")
    assert not better(nan, None, "min")
    assert not better(-inf, 3, "min")
    assert not better(3, 3, "min")
    assert better(2, 3, "min", 1.0)
    assert not better(2.5, 3, "min", 1.0)


# ------------------------------------------------------------------------------------------------------------- runs


def test_a_condition_ends_a_run_and_says_why() -> None:
    result = trained(epochs=9, stop=limit(steps(5)))
    assert (result.steps, result.stop_reason) == (5, "stop")
    assert result.stop_message == "the limit of steps(5) was reached"
    result = trained(epochs=9, stop=no_improvement("epoch.loss", patience=1, min_delta=1e6))
    assert (result.epochs, result.stop_reason) == (3, "stop")


def test_best_by_and_stop_by_are_separate() -> None:
    validation = Evaluate(classified(6, seed=5), "accuracy", best="loss")
    stop = no_improvement("val.accuracy", patience=0, min_delta=1e6)
    result = trained(validation=validation, epochs=9, learning_rate=0.03, stop=stop)
    losses = result.history["val.loss"].values
    assert len(losses) == 2
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert result.stop_message.startswith("val.accuracy did not improve for 1 look;")


def test_a_misspelt_score_is_an_error_before_the_run() -> None:
    net = mlp()
    before = arrays(net)
    stop = no_improvement("val.acuracy", patience=2, mode="max")
    with pytest.raises(SettingError, match=r'Nearest: "val.accuracy"'):
        trained(net, validation=Evaluate(0.3, "accuracy"), stop=stop)
    assert same(arrays(net), before)


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_interrupted_anywhere_it_stops_where_it_would_have(cut: int, tmp_path: Any) -> None:
    stop = no_improvement("val.loss", patience=1, min_delta=1e6) & reached("epoch.loss", above=0) | steps(40)
    given = {
        "validation": Evaluate(classified(6, seed=5), every=every(steps(2))),
        "epochs": 20,
        "stop": stop,
        "learning_rate": 0.05,
    }
    whole = run(**given)
    expected = whole.result()
    place = Directory(tmp_path, every(steps(1)))
    settled = 0
    for event in run(**given, checkpoint=place):
        settled += isinstance(event, Settled)
        if settled == cut:
            break
    net = mlp()
    result = train(net, classified(), progress=False, resume="auto", **options(**given, checkpoint=place))
    assert (result.steps, result.stop_message) == (expected.steps, expected.stop_message)
    assert same(arrays(net), arrays(expected.net))


def test_a_limit_in_what_the_run_does_not_count_is_an_error_before_the_first_step() -> None:
    floats = (torch.randn(12, 4), torch.randn(12, 1))
    with pytest.raises(ScheduleError, match="this run does not count tokens"):
        train(nn.Linear(4, 1), floats, loss="mse", epochs=1, stop=limit(tokens(100)))
    stop = no_improvement("epoch.loss", 1, warmup=tokens(1))
    with pytest.raises(ScheduleError, match="this run does not count tokens"):
        train(nn.Linear(4, 1), floats, loss="mse", epochs=1, stop=stop)
    numbers = (torch.randint(4, (12, 5)), torch.randint(4, (12,)))
    net = nn.Sequential(nn.Embedding(4, 4), nn.Flatten(), nn.Linear(20, 4))
    result = train(net, numbers, loss="cross_entropy", epochs=9, batch_size=4, stop=limit(tokens(100)))
    assert (result.steps, result.stop_reason) == (5, "stop")
