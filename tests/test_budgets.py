"""A budget is a value: what it is written as, what units cost under it, and what it refuses."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest

from etude import Progress, epochs, linear, pieces, plateau, steps
from etude.data.plan.budgets import Costs, Limit, budget, cost, costs, packed, padded, padding, samples
from etude.data.plan.lengths import Lengths, lengths_of
from etude.errors import DataError, SettingError

DATA = lengths_of({"audio": [4, 0, 7], "labels": [2, 1, 3]})


def squared(lengths: Lengths) -> Any:
    return lengths["audio"] ** 2


def made(literal: Any, batch_size: Any = None) -> Costs:
    return costs(budget(literal, batch_size), DATA)


def test_each_limit_has_its_costs_and_its_way_of_adding_up() -> None:
    found = made([padded(audio=9), packed(labels=4), padding(audio=2), cost(squared, 50), samples(2)])
    assert found.values.tolist() == [[4, 0, 7], [2, 1, 3], [4, 0, 7], [16, 0, 49], [1, 1, 1]]
    assert found.values.dtype == np.float64
    assert found.kinds == ("padded", "packed", "padding", "packed", "packed")
    assert found.titles[:2] == ("padded frames of 'audio'", "packed frames of 'labels'")
    assert found.titles[2:] == ("padding of 'audio'", "cost by squared", "samples")
    assert found.most(Progress()) == pytest.approx([9, 4, 2, 50, 2])
    assert found.constant


def test_a_number_holds_for_every_stream_on_its_own() -> None:
    assert budget(9) == (padded(9),)
    assert made(9).values.tolist() == [[4, 0, 7], [2, 1, 3]]
    assert made(9).kinds == ("padded", "padded")


def test_a_dict_is_by_stream() -> None:
    assert budget({"audio": 9, "labels": 4}) == (padded(audio=9, labels=4),)
    assert made({"labels": 4}).values.tolist() == [[2, 1, 3]]


def test_limits_are_joined_with_the_batch_size() -> None:
    assert budget([9, packed(4)], 3) == (padded(9), packed(4), samples(3))
    assert budget(None, 3) == (samples(3),)
    assert budget(None) == ()
    assert costs((), DATA).values.shape == (0, 3)


def test_samples_need_no_lengths_and_frames_do() -> None:
    assert not samples(3).needs_lengths
    assert costs(budget(None, 3), None, 5).values.tolist() == [[1] * 5]
    for limit in (padded(3), cost(squared, 3)):
        assert limit.needs_lengths
        with pytest.raises(DataError, match=r"counts frames, and the lengths .* not known.*batch_size=64"):
            costs((limit,), None, 5)


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (padded(32_000), "padded(32000)"),
        (packed(audio=9, labels=4.5), "packed(audio=9, labels=4.5)"),
        (padding(linear(1.0, 2.0)), "padding(linear(1.0, 2.0))"),
        (cost(squared, 1e9), "cost(squared, 1000000000.0)"),
        (cost(squared, 5, padded=True), "cost(squared, 5, padded=True)"),
        (samples(64), "samples(64)"),
    ],
)
def test_a_limit_prints_as_the_call_that_makes_it(limit: Limit, text: str) -> None:
    assert repr(limit) == text
    assert eval(text, globals()) == limit
    assert hash(eval(text, globals())) == hash(limit)


def test_a_limit_may_change_during_the_run() -> None:
    grown = made(pieces(10, (epochs(1), 20)), lambda progress: 1 + progress.step)
    assert not grown.constant
    assert grown.most(Progress(step=4, epoch=0.5)).tolist() == [10, 10, 5]
    assert grown.most(Progress(step=5, epoch=1.0)).tolist() == [20, 20, 6]


def test_sums_of_fractions_may_be_exactly_full() -> None:
    tenths = cost(lambda lengths: np.full(len(lengths), 0.1), 0.3)
    assert 0.1 + 0.1 + 0.1 > 0.3
    assert costs((tenths,), DATA).most(Progress())[0] > 0.1 + 0.1 + 0.1


@pytest.mark.parametrize("bad", [0, -3, nan, inf, 0.0, True, "12"])
def test_a_limit_is_a_number_above_zero(bad: Any) -> None:
    for make in (padded, packed, padding, samples, lambda most: cost(squared, most)):
        with pytest.raises(SettingError, match="a batch needs a limit above 0"):
            make(bad)
    with pytest.raises(SettingError, match=r"audio=.*above 0"):
        padded(audio=bad)


def test_a_schedule_that_is_no_limit_names_the_moment() -> None:
    with pytest.raises(SettingError, match=r"The limit on samples is 0 at step 7 \(epoch 1\.5\).*throughout the run"):
        made(None, lambda progress: 7 - progress.step).most(Progress(step=7, epoch=1.5))
    with pytest.raises(SettingError, match=r"padded frames of 'audio' is 'many' at step 0"):
        made(lambda progress: "many").most(Progress())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: padded(), r"padded\(\): nothing is said\. Write padded\(20_000\)"),
        (lambda: packed(3, audio=4), r"a number for every stream and numbers for some"),
        (lambda: samples(2.5), r"samples\(2\.5\): a batch holds whole samples\. Write 2\."),
        (lambda: cost(3, 4), r"cost\(3, \.\.\.\): a function of the lengths is needed"),  # type: ignore[arg-type]
        (lambda: budget("32k"), r"budget='32k' is no limit\. Write a number of padded frames"),
        (lambda: budget(None, samples(3)), r"batch_size=samples\(3\): a limit is written budget=samples\(3\)"),
        (lambda: padded(plateau("loss")), r"a budget cannot follow a score\. Write a schedule of progress"),
        (lambda: cost(squared, mosst=3), r"Nearest: \"most\""),  # type: ignore[call-arg]
    ],
)
def test_what_is_no_budget_is_refused_when_it_is_written(call: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        call()


def test_a_stream_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no stream 'label'\. Nearest: \"labels\"\. Streams: audio, labels"):
        made({"label": 3})
    with pytest.raises(DataError, match=r"no stream 'adio'\. Nearest: \"audio\""):
        made(cost(lambda lengths: lengths["adio"], 3))


def test_a_cost_is_a_number_from_zero_on_for_every_unit() -> None:
    with pytest.raises(DataError, match=r"gives costs of shape \(\) for 3 units\. It is called once with all lengths"):
        made(cost(lambda lengths: lengths["audio"].sum(), 3))
    with pytest.raises(DataError, match=r"gives -1.0 for lengths audio: 0, labels: 1\. A cost is a number from 0 on"):
        made(cost(lambda lengths: lengths["audio"] - 1, 3))
    with pytest.raises(DataError, match="gives nan for lengths audio: 0"):
        made(cost(lambda lengths: np.where(lengths["audio"] == 0, nan, 1), 3))


def test_the_steps_of_a_schedule_are_asked_for_where_they_are_known() -> None:
    assert made(None, pieces(2, (steps(10), 4))).most(Progress(step=10)).tolist() == [4]
