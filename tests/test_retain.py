"""Which checkpoints are kept: the newest, the best, fewer of the older; as text; what is refused; and laws."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from etude.errors import SettingError
from etude.keep.retain import BestBy, Entry, Keep, best, last, thinning

quick = settings(max_examples=examples(100), deadline=None)


def entry(number: int, **scores: float) -> Entry:
    named = {name.replace("_", "."): value for name, value in scores.items()}
    return Entry(f"{number}.safetensors", number, 10 * number, float(number), named)


def measured(*values: float | None, score: str = "val.loss") -> list[Entry]:
    """Saves 1, 2, ... with these scores; None is not measured."""
    return [
        Entry(f"{number}.safetensors", number, 10 * number, float(number), {} if value is None else {score: value})
        for number, value in enumerate(values, 1)
    ]


def running(keep: Keep, entries: list[Entry]) -> list[set[int]]:
    """What is there after each save of a run that removes what is not kept."""
    there: list[Entry] = []
    found = []
    for each in entries:
        there.append(each)
        kept = keep.kept(there)
        there = [one for one in there if one.number in kept]
        found.append(kept)
    return found


# -------------------------------------------------------------------------------------------------- what is kept


def test_nothing_of_nothing() -> None:
    for keep in (last(2), best("loss"), thinning(), last(1) | best("loss")):
        assert keep.kept([]) == set()


def test_the_newest() -> None:
    entries = measured(1, 2, 3, 4, 5)
    assert last().kept(entries) == {5}
    assert last(2).kept(entries) == {4, 5}
    assert last(9).kept(entries) == {1, 2, 3, 4, 5}
    assert last(2).kept(reversed(entries)) == {4, 5}


def test_the_best_and_always_the_newest() -> None:
    entries = measured(3.0, 1.0, 2.0, 5.0)
    assert best("val.loss").kept(entries) == {2, 4}
    assert best("val.loss", 2).kept(entries) == {2, 3, 4}
    assert best("val.f1", 1, "max").kept(measured(3.0, 1.0, 2.0, score="val.f1")) == {1, 3}


def test_of_equal_scores_the_earlier() -> None:
    assert best("val.loss").kept(measured(1.0, 1.0, 1.0)) == {1, 3}
    assert best("val.loss", 1, "max").kept(measured(0.0, -0.0, 0.0)) == {1, 3}


@pytest.mark.parametrize("direction", ["min", "max"])
def test_not_a_number_comes_after_numbers_and_not_measured_after_that(direction: str) -> None:
    worst = inf if direction == "min" else -inf
    entries = measured(None, nan, worst, 1.0, None)
    kept = [best("val.loss", n, direction).kept(entries) for n in range(1, 5)]
    assert kept == [{4, 5}, {3, 4, 5}, {2, 3, 4, 5}, {1, 2, 3, 4, 5}]


def test_thinning_keeps_fewer_of_the_older() -> None:
    after = running(thinning(4), measured(*range(1, 41)))
    assert after[3] == {1, 2, 3, 4}
    assert after[7] == {2, 4, 5, 6, 7, 8}
    assert after[15] == {4, 8, 10, 12, 13, 14, 15, 16}
    assert after[39] == {16, 24, 28, 32, 34, 36, 37, 38, 39, 40}
    assert running(thinning(2), measured(*range(1, 41)))[-1] == {16, 32, 36, 38, 39, 40}


def test_rules_joined_keep_what_any_keeps() -> None:
    entries = measured(5.0, 1.0, 4.0, 3.0, 9.0, 8.0)
    assert (last(2) | best("val.loss", 2)).kept(entries) == {2, 4, 5, 6}
    assert (last(2) | best("val.loss") | thinning(1)).kept(entries) == {2, 4, 5, 6}


# --------------------------------------------------------------------------------------------------- improvement


def test_improving_is_strict_and_nothing_improves_by_being_no_number() -> None:
    less, more = best("val.loss"), best("val.f1", direction="max")
    assert less.improves(0.1, 0.2)
    assert not less.improves(0.2, 0.2)
    assert not less.improves(0.3, 0.2)
    assert more.improves(0.3, 0.2)
    assert not more.improves(0.1, 0.2)
    for rule in (less, more):
        assert not rule.improves(nan, 0.2)
        assert not rule.improves(nan, nan)
        assert not rule.improves(nan, None)
        assert rule.improves(0.2, None)
        assert rule.improves(0.2, nan)


def test_the_direction_is_what_the_rule_says_or_the_metric_or_the_name_of_a_loss() -> None:
    known = {"loss": "min", "val.loss": None, "val.accuracy": "max", "val.f1": None}
    assert best("val.accuracy", 2).check(known) == best("val.accuracy", 2, "max")
    assert best("val.loss").check(known) == best("val.loss", 1, "min")
    assert best("val.f1", 1, "min").check(known) == best("val.f1", 1, "min")
    assert best("val.accuracy", 1, "min").check(known) == best("val.accuracy", 1, "min")
    both = (last(2) | best("val.accuracy")).check(known)
    assert both == last(2) | best("val.accuracy", 1, "max")
    assert both.kept(measured(1.0, 2.0, 3.0, 0.0, 0.0, score="val.accuracy")) == {3, 4, 5}
    assert thinning(3).check({}) == thinning(3)


# ---------------------------------------------------------------------------------------------------- as a value


def test_a_rule_is_a_value_that_prints_as_its_calls() -> None:
    rule = last(2) | best("val.loss", 3) | thinning()
    assert repr(rule) == "last(2) | best('val.loss', 3) | thinning(4)"
    assert repr(best("val.loss")) == "best('val.loss')"
    assert repr(best("val.f1", direction="max")) == "best('val.f1', 1, 'max')"
    names = {"last": last, "best": best, "thinning": thinning}
    assert eval(repr(rule), names) == rule
    assert last(2) | last(2) == last(2)
    assert last(2) | (best("loss") | thinning()) == (last(2) | best("loss")) | thinning()
    assert len({rule, last(2) | best("val.loss", 3) | thinning(), last(2)}) == 2


def test_the_scores_that_are_looked_at() -> None:
    assert (last(2) | best("val.loss", 3) | (best("loss") | thinning())).scores() == {"val.loss", "loss"}
    assert last(2).scores() == frozenset()


# ------------------------------------------------------------------------------------------------------ refusals

REFUSED: list[tuple[Callable[[], Any], list[str]]] = [
    (lambda: last(0), ["last(0): a whole number of at least 1"]),
    (lambda: last(True), ["last(True): a whole number"]),
    (lambda: last(2.0), ["last(2.0): a whole number"]),  # type: ignore[arg-type]
    (lambda: thinning(-1), ["thinning(-1): a whole number"]),
    (lambda: best("val.loss", 0), ["best('val.loss', 0): a whole number"]),
    (lambda: best(3), ["best(3): the name of a score", 'Write best("val.loss")']),  # type: ignore[arg-type]
    (lambda: best(""), ["best(''): the name of a score"]),
    (lambda: best("f1", 1, "maximum"), ["best('f1', direction='maximum')", '"min" or "max"', 'Nearest: "max"']),
    (lambda: last(2) | 3, ["last(2) | 3: 3 does not say what is kept", "Write last(3)"]),  # type: ignore[operator]
    (lambda: 3 | last(2), ["3 | last(2): 3 does not say", "Write last(3)"]),
    (lambda: last(2) | None, ["last(2) | None: None does not say", "Write last(2)"]),  # type: ignore[operator]
    (
        lambda: (last(2) | best("val.los", 3)).check({"loss": "min", "val.loss": "min"}),
        ["best('val.los', 3): 'val.los' is not measured here", "Scores: loss, val.loss.", 'Nearest: "val.loss"'],
    ),
    (lambda: best("val.loss").check({}), ["'val.loss' is not measured here", "Scores: none."]),
    (
        lambda: best("val.f1", 3).check({"val.f1": None}),
        ["whether more or less of 'val.f1' is better is not known", "Write best('val.f1', 3, 'max') or 'min'"],
    ),
    (lambda: best("val.f1").improves(1.0, 2.0), ["is not known. Write best('val.f1', 1, 'max')"]),
    (lambda: best("val.f1").kept([entry(1, val_f1=1.0)]), ["is not known"]),
]


@pytest.mark.parametrize(("wrong", "said"), REFUSED, ids=[said[0] for _, said in REFUSED])
def test_what_is_refused(wrong: Callable[[], Any], said: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        wrong()
    for part in said:
        assert part in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- laws

numbers = st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0, 3.0, inf, -inf, nan])
runs = st.lists(st.dictionaries(st.sampled_from(["loss", "val.loss", "val.f1"]), numbers), min_size=1, max_size=40).map(
    lambda scores: [Entry(f"{n}", n, n, float(n), one) for n, one in enumerate(scores, 1)]
)
counts = st.integers(1, 6)
rules = st.recursive(
    st.one_of(
        counts.map(last),
        counts.map(thinning),
        st.builds(best, st.sampled_from(["loss", "val.loss"]), counts),
        st.builds(best, st.just("val.f1"), counts, st.sampled_from(["min", "max"])),
    ),
    lambda inner: st.builds(lambda a, b: a | b, inner, inner),
    max_leaves=4,
)


@quick
@given(rules, runs)
def test_what_is_dropped_is_never_wanted_again(keep: Keep, entries: list[Entry]) -> None:
    """So removing after every save leaves what the rule says of all saves."""
    for count, there in enumerate(running(keep, entries), 1):
        assert there == keep.kept(entries[:count])
    assert keep.kept([one for one in entries if one.number in there]) == there


@quick
@given(rules, runs, st.randoms(use_true_random=False))
def test_the_newest_stays_and_the_order_given_does_not_matter(keep: Keep, entries: list[Entry], order: Any) -> None:
    kept = keep.kept(entries)
    assert entries[-1].number in kept
    assert kept <= {one.number for one in entries}
    mixed = list(entries)
    order.shuffle(mixed)
    assert keep.kept(mixed) == kept


@quick
@given(rules, rules, rules, runs)
def test_joining_is_a_union(a: Keep, b: Keep, c: Keep, entries: list[Entry]) -> None:
    assert (a | b).kept(entries) == a.kept(entries) | b.kept(entries)
    assert ((a | b) | c) == (a | (b | c))
    assert (a | b).scores() == a.scores() | b.scores()


@quick
@given(st.integers(1, 8), st.integers(1, 400))
def test_thinning_is_dense_where_it_is_new_and_small_in_all(n: int, made: int) -> None:
    kept = thinning(n).kept(measured(*([None] * made)))
    assert kept >= set(range(max(1, made - n + 1), made + 1))
    for number in range(1, made - n + 1):
        reach = range(n, made - number + 1)
        stride = next(2**k for k in range(1, 20) if made - number < n * 2**k) if reach else 1
        assert (number in kept) == (number % stride == 0)
    doublings = max(0, (made // n)).bit_length()
    assert len(kept) <= n + doublings * (n // 2 + 1)


@quick
@given(counts, runs)
def test_the_best_are_those_that_no_other_save_beats(count: int, entries: list[Entry]) -> None:
    rule = best("val.loss", count)
    assert isinstance(rule, BestBy)
    kept = rule.chosen(entries)
    assert len(kept) == min(count, len(entries))
    for inside in (one for one in entries if one.number in kept):
        for outside in (one for one in entries if one.number not in kept):
            mine, theirs = inside.scores.get("val.loss", nan), outside.scores.get("val.loss", nan)
            assert not rule.improves(theirs, mine)
