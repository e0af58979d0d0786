"""Buckets: few fixed shapes, filled in the order of the units, and chosen so that little is padded."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from etude import linear
from etude.data.plan.buckets import Buckets, buckets, shapes
from etude.data.plan.budgets import budget, cost, packed, padding, samples
from etude.data.plan.lengths import Lengths, lengths_of
from etude.errors import DataError, SettingError


def filled_one_by_one(made: Buckets, lengths: list[int]) -> tuple[list[list[int]], list[int]]:
    waiting: list[list[int]] = [[] for _ in made.shapes]
    batches, dropped = [], []
    for unit, length in enumerate(lengths):
        fits = [place for place, shape in enumerate(made.shapes) if length <= shape.longest]
        if not fits:
            dropped.append(unit)
            continue
        waiting[fits[0]].append(unit)
        if len(waiting[fits[0]]) == made.shapes[fits[0]].number:
            batches.append(waiting[fits[0]])
            waiting[fits[0]] = []
    return batches + [rest for rest in waiting if rest], dropped


@settings(max_examples=100, deadline=None)
@given(
    lengths=some.lists(some.integers(0, 30), max_size=80),
    bounds=some.lists(
        some.tuples(some.integers(1, 30), some.integers(1, 5)), min_size=1, max_size=5, unique_by=lambda bound: bound[0]
    ),
)
def test_all_units_at_once_is_one_by_one(lengths: list[int], bounds: list[tuple[int, int]]) -> None:
    made = buckets(*bounds)
    found = made.fill(np.array(lengths, dtype=np.int64))
    batches, dropped = filled_one_by_one(made, lengths)
    assert [batch.tolist() for batch in found] == batches
    assert found.dropped.tolist() == dropped
    assert found.shapes is not None
    for batch, place in zip(batches, found.shapes, strict=True):
        shape = made.shapes[place]
        assert max(lengths[unit] for unit in batch) <= shape.longest
        assert len(batch) <= shape.number


def test_a_unit_longer_than_every_bucket_is_named_where_that_is_an_error() -> None:
    made = buckets((10, 4), (20, 3))
    said = r"sample 1 has length 25, and the longest bucket is for 20\. Add a longer bucket, or write too_long='drop'"
    with pytest.raises(DataError, match=said):
        made.fill(np.array([5, 25]), "error", called="sample {}".format)
    with pytest.raises(SettingError, match=r"too_long='alone' with buckets: unknown\..*'drop'.*'error'"):
        made.fill(np.array([5, 25]), "alone")


def test_buckets_print_as_the_call_that_makes_them() -> None:
    made = buckets((20, 3), (10, 4))
    assert repr(made) == "buckets((10, 4), (20, 3))"
    assert eval(repr(made), globals()) == made


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: buckets(), r"buckets\(\): there is none\. Write buckets\(\(100, 64\)"),
        (lambda: buckets((10, 3), (10, 4)), r"two of them are for one length"),
        (lambda: buckets((10, 0)), r"buckets\(\(10, 0\)\): a bucket is \(longest length, number of units\)"),
        (lambda: buckets(10, 3), r"buckets\(10\): a bucket is"),  # type: ignore[arg-type]
        (lambda: buckets("ab"), r"buckets\('ab'\): a bucket is"),  # type: ignore[arg-type]
        (lambda: buckets((10, 3), number=4), r"no argument 'number'"),  # type: ignore[call-arg]
    ],
)
def test_what_are_no_buckets_is_refused(call: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        call()


# --------------------------------------------------------------------------------------------------- buckets chosen

SPEECH = lengths_of({"audio": np.random.default_rng(0).lognormal(6, 0.6, 3000).astype(np.int64) + 1})


def held(made: Buckets, lengths: Lengths) -> int:
    """Frames in the batches of an epoch, all filled up to their shapes."""
    found = made.fill(lengths.lead)
    assert found.shapes is not None
    assert len(found.dropped) == 0
    return sum(made.shapes[place].longest * made.shapes[place].number for place in found.shapes)


def test_more_buckets_pad_less() -> None:
    sizes = [held(shapes(SPEECH, n, budget(20_000)), SPEECH) for n in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1.2 * SPEECH.lead.sum() < 3 * SPEECH.lead.sum() < sizes[0]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_other_buckets_hold_less(n: int) -> None:
    lengths = lengths_of({"x": np.random.default_rng(1).integers(1, 13, 70)})
    top = int(lengths.lead.max())
    others = [
        buckets(*[(longest, 30 // longest) for longest in (*chosen, top)])
        for fewer in range(n)
        for chosen in combinations(range(1, top), fewer)
    ]
    made = shapes(lengths, n, budget(30))
    assert len(made.shapes) <= n
    assert held(made, lengths) == min(held(other, lengths) for other in others)


def test_a_full_batch_of_each_shape_is_within_every_limit() -> None:
    lengths = lengths_of({"audio": SPEECH.lead, "labels": SPEECH.lead // 7 + 1})
    limits = [{"audio": 20_000, "labels": 2_000}, packed(labels=1_500), cost(_product, 2e6), samples(24)]
    for shape in shapes(lengths, 6, budget(limits)).shapes:
        labels = dict(shape.to)["labels"]
        assert shape.number <= 24
        assert shape.longest * shape.number <= 20_000
        assert labels * shape.number <= 1_500
        assert lengths["labels"][lengths.lead <= shape.longest].max() == labels
        assert shape.longest * labels * shape.number <= 2e6


def _product(lengths: Lengths) -> Any:
    return lengths["audio"] * lengths["labels"]


def test_units_without_frames_have_a_bucket_too() -> None:
    lengths = lengths_of({"x": [0, 0, 0, 4]})
    made = shapes(lengths, 2, budget(8))
    assert held(made, lengths) >= 4
    assert shapes(lengths_of({"x": [0, 0]}), 3, budget(8)).shapes[0].longest == 1


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: shapes(SPEECH, 0, budget(9)), SettingError, r"buckets=0: a whole number from 1 on is needed"),
        (lambda: shapes(SPEECH, True, budget(9)), SettingError, r"buckets=True"),
        (lambda: shapes(lengths_of({"x": []}), 2, budget(9)), DataError, r"no samples to choose buckets for"),
        (lambda: shapes(SPEECH, 2, budget(9)), DataError, r"a sample of length \d+ is over the budget even alone"),
        (lambda: shapes(SPEECH, 2, budget(linear(9e3, 9e4))), SettingError, r"padded\(linear.* changes during the run"),
        (lambda: shapes(SPEECH, 2, (padding(9),)), SettingError, r"a limit on padding says nothing of a shape"),
    ],
)
def test_what_gives_no_shapes_is_refused(call: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        call()
