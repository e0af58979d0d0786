"""What an epoch leaves out: limits, rankings, chance, functions, curricula; the recorded cases of RETURNN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude import Extent, Progress, epochs, linear, pieces, steps
from etude.data.plan.filters import apply, dropped, easiest, keep, length, mean_length, shortest
from etude.data.plan.lengths import lengths_of
from etude.errors import DataError, SettingError
from etude.values.schedule import schedule

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "units.json").read_text())


def kept(
    literal: Any, lengths: Any, epoch: int = 0, seed: int = 0, progress: Progress | None = None
) -> tuple[list[int], dict[str, int]]:
    """What stays of samples with these lengths, and what was left out."""
    given = lengths_of(lengths if isinstance(lengths, dict) else {"x": lengths})
    places, counts = apply(keep(literal), np.arange(len(given)), given, progress, epoch, seed)
    return places.tolist(), counts


def short_at_first(progress: Progress) -> Any:
    """What a schedule of filters may be."""
    return [length(most=3), shortest(0.5)] if progress.epoch < 2 else None


@pytest.mark.parametrize("case", RECORDED["length_filter"], ids=lambda case: case["id"])
def test_recorded_limits(case: dict[str, Any]) -> None:
    lengths = {name: [sample[name] for sample in case["lengths"]] for name in case["lengths"][0]}
    least, most = (case["settings"].get(name) for name in ("min_seq_length", "max_seq_length"))
    limits = None if least is most is None else length(least=least, most=most)
    assert kept(limits, lengths)[0] == case["expect"]["kept"]


def test_recorded_curriculum_with_its_mean_at_or_below_the_limit() -> None:
    (case,) = RECORDED["epoch_filter"]
    order, lengths = np.array(case["order"]), np.array(case["lengths"])
    limits = {range(first - 1, last): options["max_mean_len"] for first, last, options in case["settings"]["epochs"]}
    filters = keep({epochs: mean_length(most) for epochs, most in limits.items()})
    for epoch, theirs in ((int(name) - 1, order) for name, order in case["expect"]["order_by_epoch"].items()):
        places, _ = apply(filters, order, lengths_of({"x": lengths[order]}), epoch=epoch)
        ours, limit = order[places].tolist(), next((most for which, most in limits.items() if epoch in which), np.inf)
        over = lengths[theirs].mean() > limit
        longest = [max(theirs, key=lambda sample: lengths[sample])] if over else []
        assert ours == [sample for sample in theirs if sample not in longest]
        assert lengths[ours].mean() <= limit


def test_limits_are_inclusive_and_may_be_schedules() -> None:
    rising = length(most=linear(2, 6, over=epochs(4)))
    assert [kept(rising, [1, 2, 3, 4, 5, 6], epoch=epoch)[0][-1] + 1 for epoch in range(6)] == [2, 3, 4, 5, 6, 6]
    assert kept(length(least={"y": lambda progress: progress.epoch}), {"x": [0, 0], "y": [1, 2]}, epoch=2)[0] == [1]


def test_the_clock_may_count_steps() -> None:
    rising = length(most=linear(2, 6, over=steps(100)))
    assert kept(rising, [1, 4, 6], progress=Progress(step=50))[0] == [0, 1]


def test_shortest_share_is_rounded_up_and_ties_go_to_the_first() -> None:
    assert kept(shortest(0.5), [5, 3, 3, 3, 9])[0] == [1, 2, 3]
    assert kept(shortest(0.4), [3, 3, 3, 3, 9])[0] == [0, 1]
    assert kept(shortest(0.7), range(10, 0, -1))[0] == [3, 4, 5, 6, 7, 8, 9]
    assert kept(shortest(0.5, stream="y"), {"x": [1, 2], "y": [2, 1]})[0] == [1]
    assert kept(shortest(linear(0.5, 1, over=epochs(1))), [2, 1], epoch=1)[0] == [0, 1]


def test_mean_length_takes_as_many_as_it_can() -> None:
    assert kept(mean_length(3), [9, 1, 5, 3, 4])[0] == [1, 2, 3] or kept(mean_length(3), [9, 1, 5, 3, 4])[0] == [
        1,
        3,
        4,
    ]
    places = kept(mean_length(3), [9, 1, 5, 3, 4])[0]
    assert places == [1, 3, 4]
    assert kept(mean_length(2.5, stream="y"), {"x": [9, 9], "y": [2, 3]})[0] == [0, 1]
    assert kept(mean_length(100), [9, 1])[0] == [0, 1]


def test_easiest_reads_the_scores_of_the_samples_that_came() -> None:
    scores = easiest([0.1, 9.0, 0.2, 0.3, 8.0], 0.5)
    places, _ = apply((scores,), np.array([1, 3, 4, 0]))
    assert places.tolist() == [1, 3]
    places, _ = apply(keep([length(most=5), scores]), np.arange(5), lengths_of({"x": [9, 1, 1, 1, 1]}))
    assert places.tolist() == [2, 3]


def test_dropped_draws_anew_in_every_epoch_and_filter() -> None:
    draws = [kept(dropped(0.3), [1] * 1000, epoch=epoch, seed=1)[0] for epoch in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]
    assert 650 < len(draws[0]) < 750
    assert draws[0] != kept(dropped(0.3), [1] * 1000, seed=2)[0]
    twice, counts = kept([dropped(0.3), dropped(0.3)], [1] * 1000, seed=1)
    assert 440 < len(twice) < 540
    assert list(counts) == ["dropped(0.3)", "dropped(0.3) again"]
    assert kept(dropped(0), [1, 1])[0] == [0, 1]


def test_data_without_lengths_can_be_dropped_by_chance_and_by_score() -> None:
    places, counts = apply(keep([dropped(0.5), easiest(np.arange(100), 0.5)]), np.arange(100), seed=1)
    assert len(places) == -(-(100 - counts["dropped(0.5)"]) // 2)
    with pytest.raises(DataError, match=r"length\(most=3\): the data have no lengths\. Write lengths="):
        apply(keep(length(most=3)), np.arange(4))


def test_what_needs_lengths_says_so() -> None:
    made = keep(
        [length(most=3), shortest(0.5), dropped(0.5), easiest([1], 0.5), {3: dropped(0.5)}, {3: length(most=3)}]
    )
    assert [each.needs_lengths for each in made] == [True, True, False, False, False, True]
    assert not keep(schedule(short_at_first))[0].needs_lengths


def test_functions_of_the_lengths() -> None:
    def speakable(lengths: Any) -> Any:
        return lengths["audio"] >= 2 * lengths["text"]

    places, counts = kept(speakable, {"audio": [4, 4, 4], "text": [1, 2, 3]})
    assert places == [0, 1]
    assert counts == {"test_functions_of_the_lengths.<locals>.speakable": 1}
    with pytest.raises(DataError, match=r"gives int64 of shape \(3,\), and one True or False for each of 3 samples"):
        kept(lambda lengths: lengths.lead, [1, 2, 3])
    with pytest.raises(DataError, match=r"gives bool of shape \(\)"):
        kept(lambda lengths: True, [1, 2, 3])


def test_each_filter_sees_what_those_before_it_left() -> None:
    places, counts = kept([length(most=5), shortest(0.5)], [9, 1, 5, 4, 2])
    assert places == [1, 4]
    assert counts == {"length(most=5)": 1, "shortest(0.5)": 2}


def test_filters_of_some_epochs() -> None:
    curriculum = {range(2): length(most=3), range(1, 4): length(least=2), 5: [shortest(0.5)]}
    left = [kept(curriculum, [1, 2, 3, 4], epoch=epoch)[0] for epoch in range(7)]
    assert left == [[0, 1, 2], [1, 2], [1, 2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1], [0, 1, 2, 3]]


def test_schedules_of_filters() -> None:
    left = [kept(schedule(short_at_first), [1, 2, 3, 4], epoch=epoch)[0] for epoch in range(3)]
    assert left == [[0, 1], [0, 1], [0, 1, 2, 3]]


def test_pieces_of_filters() -> None:
    curriculum = pieces(length(most=2), (epochs(1), length(most=3)), (epochs(2), None))
    assert [kept(curriculum, [1, 2, 3, 4], epoch=epoch)[0] for epoch in range(3)] == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert repr(curriculum) == "pieces(length(most=2), (epochs(1), length(most=3)), (epochs(2), None))"
    curriculum.check(Extent(epochs=4))


def test_nothing_said_leaves_nothing_out() -> None:
    assert kept(None, [3, 1]) == kept([], [3, 1]) == ([0, 1], {})
    places, counts = apply(keep(length(most=3)), np.arange(0), lengths_of({"x": np.zeros(0, np.int64)}))
    assert (len(places), counts) == (0, {"length(most=3)": 0})


@pytest.mark.parametrize(
    ("literal", "said"),
    [
        (length(most=4), r"length\(most=4\) leaves nothing of 3 samples in epoch 0\. .*'x' from 5 to 9: choose limits"),
        (length(most={"x": 4}), r"Their lengths are in 'x' from 5 to 9"),
        (mean_length(4), r"mean_length\(4\) leaves nothing .* The shortest has length 5: write that or more\."),
        (shortest(lambda progress: 0), r"leaves nothing .* Write a share above 0\."),
        (easiest([1, 2, 3], lambda progress: 0), r"leaves nothing .* Write a share above 0\."),
        (dropped(lambda progress: 1), r"leaves nothing .* Write a smaller probability\."),
        (lambda lengths: lengths.lead < 0, r"leaves nothing .* Write a function that keeps some\."),
        ({range(3): length(most=4)}, r"\{range\(0, 3\): length\(most=4\)\} leaves nothing .* 'x' from 5 to 9"),
        (schedule(lambda progress: mean_length(4)), r"leaves nothing .* The shortest has length 5"),
    ],
)
def test_nothing_left_names_the_filter_and_what_would_fit(literal: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        kept(literal, [5, 9, 6])


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (length(least=2, most=linear(3, 9, over=epochs(2))), "length(least=2, most=linear(3, 9, over=epochs(2)))"),
        (length(most={"audio": 9, "text": 3}), "length(most={'audio': 9, 'text': 3})"),
        (mean_length(9.5, "text"), "mean_length(9.5, stream='text')"),
        (shortest(0.5), "shortest(0.5)"),
        (dropped(0.1), "dropped(0.1)"),
        (easiest([1.0, 2.0], 0.5), "easiest(<2 scores, 7ba3895f>, 0.5)"),
        (keep({range(3): shortest(0.5)})[0], "{range(0, 3): shortest(0.5)}"),
        (keep(schedule(short_at_first))[0], "schedule(short_at_first)"),
    ],
)
def test_prints_as_what_makes_it(made: Any, text: str) -> None:
    assert repr(made) == text


def test_scores_print_what_they_are() -> None:
    assert repr(easiest([1, 2], 0.5)) == repr(easiest(np.array([1.0, 2.0]), 0.5)) != repr(easiest([1, 3], 0.5))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: length(), r"length\(\): no limit\. Write length\(most=1600\)"),
        (lambda: length(most="9"), r"length\(most=\.\.\.\): a number or a schedule of numbers is needed, not '9'"),
        (lambda: length(most={"x": True}), r"length\(most=\{'x': \.\.\.\}\): a number or a schedule"),
        (lambda: length(most=float("nan")), r"length\(most=\.\.\.\): NaN"),
        (lambda: length(most={}), r"length\(most=\.\.\.\): .*dict"),
        (lambda: length(least=5, most=4), r"no length is at least 5 and at most 4"),
        (lambda: length(least={"x": 5}, most=4), r"no length is at least 5 and at most 4"),
        (lambda: length(max=4), r"""There is no argument 'max'\."""),
        (lambda: mean_length(None), r"mean_length\(\): a number or a schedule of numbers is needed, not None"),
        (lambda: shortest(0), r"shortest\(\): 0 is not above 0 and at most 1\. Write 0\.5, or a schedule\."),
        (lambda: shortest(1.5), r"1\.5 is not above 0 and at most 1"),
        (lambda: dropped(1), r"dropped\(\): 1 is not from 0 to below 1"),
        (lambda: dropped(-0.1), r"-0\.1 is not from 0"),
        (lambda: easiest([[1]], 0.5), r"these are int64 of shape \(1, 1\)"),
        (lambda: easiest(["a"], 0.5), r"one number for every sample"),
        (lambda: easiest([1.0, float("nan")], 0.5), r"these have NaN among them"),
        (lambda: keep(1600), r"keep=1600: no filter\. Write length\(most=1600\)"),
        (lambda: keep({"audio": 1600}), r"no filter"),
        (lambda: keep(pieces(0.5, (epochs(1), 1))), r"keep=pieces\(0\.5, \(epochs\(1\), 1\)\): no filter"),
        (lambda: keep({range(3, 3): shortest(0.5)}), r"there are no such epochs\. They count from 0"),
        (lambda: keep({-1: shortest(0.5)}), r"\{-1: \.\.\.\}: there are no such epochs"),
    ],
)
def test_bad_options(make: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        make()


def test_streams_that_the_data_lack() -> None:
    with pytest.raises(
        DataError, match=r"""no stream 'adio'\. Nearest: "audio"\. Streams with lengths: 'audio', 'y'"""
    ):
        kept(length(most={"adio": 3}), {"audio": [1], "y": [1]})
    with pytest.raises(DataError, match="no stream 'text'"):
        kept(mean_length(3, stream="text"), [1])


def test_what_comes_out_of_schedules_is_checked() -> None:
    with pytest.raises(DataError, match=r"its limit is 'a' at epoch 0, and a number is needed"):
        kept(length(most=lambda progress: "a"), [1])
    with pytest.raises(DataError, match=r"shortest\(.*\): it is 2 now, and a share is from 0 to 1"):
        kept(shortest(lambda progress: 2), [1])
    with pytest.raises(SettingError, match=r"keep=0\.5: no filter"):
        kept(schedule(lambda progress: 0.5), [1])


def test_scores_that_are_missing_are_named() -> None:
    with pytest.raises(DataError, match=r"there is no score for sample 2\. Give a score for every sample"):
        kept(easiest([1, 2], 0.5), [1, 1, 1])
