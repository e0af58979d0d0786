"""Which samples an epoch takes: drawn in proportion to weights, or so many of each part of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from etude.data.plan.mixing import mixed, round_robin, sampled
from etude.data.plan.selection import weighted
from etude.errors import DataError, SettingError

PARTS = (5, 3)


def taken(made: Any, epoch: int = 0, parts: Any = PARTS, seed: int = 1) -> list[int]:
    chosen = made.choose(sum(parts), epoch, seed, parts)
    assert chosen.dtype == np.int64
    assert len(chosen) == made.number(sum(parts), parts)
    return chosen.tolist()


def test_weights_are_proportions() -> None:
    counts = np.bincount(weighted([1, 0, 3, 4, 0], number=80_000).choose(5, 0, 1), minlength=5)
    assert counts[[1, 4]].tolist() == [0, 0]
    assert counts[[0, 2, 3]] / 10_000 == pytest.approx([1, 3, 4], rel=0.05)


def test_weights_draw_in_random_order() -> None:
    chosen = weighted(np.ones(1000)).choose(1000, 0, 1)
    assert abs(np.corrcoef(chosen[:-1], chosen[1:])[0, 1]) < 0.1
    assert len(set(chosen.tolist())) == pytest.approx(1000 * (1 - np.exp(-1)), rel=0.1)


@pytest.mark.parametrize("replacement", [True, False])
def test_every_epoch_draws_anew_and_always_the_same(replacement: bool) -> None:
    made = weighted(np.arange(1, 101), number=20, replacement=replacement)
    draws = [made.choose(100, epoch, seed).tolist() for epoch, seed in ((0, 1), (1, 1), (0, 2), (0, 1))]
    assert draws[0] == draws[3]
    assert draws[0] != draws[1]
    assert draws[0] != draws[2]


def test_without_replacement_each_comes_at_most_once() -> None:
    made = weighted([1, 0, 100, 1, 1], number=3, replacement=False)
    draws = [made.choose(5, epoch, 1).tolist() for epoch in range(200)]
    assert all(len(set(drawn)) == 3 and 1 not in drawn for drawn in draws)
    assert sum(2 in drawn for drawn in draws) > 190
    assert sorted(weighted([1, 0, 2], number=2, replacement=False).choose(3, 0, 1).tolist()) == [0, 2]


@pytest.mark.parametrize("made", [mixed([2, 1], number=4), mixed([2, 1]), sampled([2, 7]), round_robin("longest")])
def test_all_of_a_part_come_before_one_comes_again(made: Any) -> None:
    row = [sample for epoch in range(30) for sample in taken(made, epoch)]
    for first, size in ((0, 5), (5, 3)):
        own = [sample for sample in row if first <= sample < first + size]
        laps = [own[start : start + size] for start in range(0, len(own) - size + 1, size)]
        assert all(sorted(lap) == list(range(first, first + size)) for lap in laps)
        assert len({tuple(lap) for lap in laps}) > 3


def test_mixed_divides_an_epoch_by_weights() -> None:
    def counts(made: Any, parts: Any = PARTS) -> list[int]:
        chosen, ends = np.array(taken(made, parts=parts)), np.cumsum(parts)
        return np.bincount(np.searchsorted(ends, chosen, side="right"), minlength=len(parts)).tolist()

    assert counts(mixed([3, 1])) == [6, 2]
    assert counts(mixed([0.5, 0.5], number=11)) == [6, 5]
    assert counts(mixed([1, 1, 1], number=11), (9, 9, 9)) == [4, 4, 3]
    assert counts(mixed([1, 0])) == [8, 0]
    assert counts(sampled([1, 0])) == [1, 0]
    assert counts(sampled([7, 2])) == [7, 2]


def test_parts_are_spread_evenly() -> None:
    assert taken(mixed([2, 1], number=6, shuffle=False)) == [0, 5, 1, 2, 6, 3]
    assert taken(mixed([2, 1], number=6, shuffle=False), epoch=1) == [4, 7, 0, 1, 5, 2]
    assert taken(round_robin(shuffle=False)) == [0, 5, 1, 2, 6, 3, 7, 4]
    assert taken(round_robin("shortest", shuffle=False)) == [0, 5, 1, 6, 2, 7]
    assert taken(round_robin("shortest", shuffle=False), epoch=1) == [3, 5, 4, 6, 0, 7]
    assert taken(round_robin("longest", shuffle=False)) == [0, 5, 1, 6, 2, 7, 3, 5, 4, 6]


def test_round_robin_over_all_takes_everything_once() -> None:
    assert sorted(taken(round_robin(), epoch=4)) == list(range(8))


def test_data_of_one_part() -> None:
    assert sorted(mixed([1]).choose(6, 0, 1).tolist()) == list(range(6))
    assert len(sampled([4]).choose(6, 0, 1)) == 4


@pytest.mark.parametrize(
    "text",
    ["mixed([2, 0.5], number=9)", "mixed([1])", "sampled([3, 0], shuffle=False)", "round_robin('longest')"],
)
def test_prints_as_what_makes_it(text: str) -> None:
    names = {"mixed": mixed, "sampled": sampled, "round_robin": round_robin}
    assert repr(eval(text, names)) == text
    assert eval(text, names) == eval(text, names)


def test_weights_print_what_they_are() -> None:
    assert repr(weighted([1, 2])) == repr(weighted(np.array([1.0, 2.0]))) != repr(weighted([2, 1]))
    assert repr(weighted([1, 2], 1, replacement=False)).endswith("number=1, replacement=False)")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: weighted([1, -2]), r"the weight of sample 1 is -2\.0\. Write a number from 0 on"),
        (lambda: weighted([float("nan"), 1]), r"the weight of sample 0 is nan"),
        (lambda: weighted([float("inf"), 1]), r"the weight of sample 0 is inf"),
        (lambda: weighted([0, 0]), r"all weights are 0, so that nothing can be drawn"),
        (lambda: weighted([[1]]), r"these are int64 of shape \(1, 1\)"),
        (lambda: weighted(["a"]), r"one number for every sample"),
        (lambda: weighted([1], number=0), r"weighted\(number=\.\.\.\): 0 is no number of samples\. Write a whole"),
        (lambda: weighted([1], number=2.5), r"2\.5 is no number of samples"),
        (lambda: weighted([1], replacement=1), r"replacement=1 is no yes or no"),
        (lambda: weighted([1], num=3), r"""There is no argument 'num'\. Nearest: "number"\."""),
        (lambda: mixed([1, -1]), r"mixed\(\): -1 is no weight\. Write a number from 0 on for each part"),
        (lambda: mixed([1, "a"]), r"'a' is no weight"),
        (lambda: mixed([0, 0]), r"mixed\(\): all weights are 0"),
        (lambda: mixed(3), r"mixed\(\): 3 is no list with a number for each part\. Write \[2, 1\]"),
        (lambda: mixed([]), r"\[\] is no list"),
        (lambda: mixed([1, 2], shuffle=2), r"mixed\(\): shuffle=2 is no yes or no"),
        (lambda: sampled([0, 0]), r"sampled\(\): all sizes are 0"),
        (lambda: sampled([1.5]), r"sampled\(\): 1\.5 is no number of samples\. Write a whole number from 0 on"),
        (lambda: round_robin("longst"), r"""until='longst' is not known\. Nearest: "longest"\. Write one of 'all'"""),
    ],
)
def test_bad_options(make: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        make()


@pytest.mark.parametrize(
    ("made", "parts", "said"),
    [
        (weighted([1, 2]), PARTS, r"2 weights, and there are 8 samples\. Give one for every sample\."),
        (
            weighted([1, 2] + [0] * 6, number=3, replacement=False),
            PARTS,
            r"3 samples are to be drawn without replacement, and 2 have a weight above 0\. Write number=2 or less",
        ),
        (mixed([1, 2, 3]), PARTS, r"3 numbers, and the data have 2 parts\. Write one for each part"),
        (sampled([1, 2]), (8,), r"2 numbers, and the data have 1 part\. "),
        (mixed([1, 99], number=10), PARTS, r"of 10 samples in an epoch part 0 has none\. Write number=100 or more"),
        (sampled([1, 2]), (0, 8), r"part 0 has no samples\. Leave it out of the data, or write 0 for it"),
        (round_robin("longest"), (8, 0), r"part 1 has no samples"),
        (round_robin("shortest"), (8, 0), r"part 1 has no samples"),
    ],
)
def test_what_does_not_fit_the_data(made: Any, parts: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        made.choose(8, 0, 1, parts)


def test_parts_that_are_not_all_of_the_data() -> None:
    with pytest.raises(DataError, match=r"the parts have 7 samples together, and the data have 8"):
        round_robin().choose(8, 0, 1, (4, 3))
