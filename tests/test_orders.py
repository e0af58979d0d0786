"""An order is a value: what it is written as, what it arranges, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from etude.data.plan.lengths import lengths_of
from etude.data.plan.orders import (
    Order,
    Units,
    by_length,
    in_order,
    laplace,
    laplace_stream,
    order,
    part,
    pools,
    random,
    repeated,
    reversed_order,
    shuffle_blocks,
    side_by_side,
    sort_bin_shuffle,
    strata,
    with_replacement,
)
from etude.data.plan.sorting import by_key
from etude.errors import DataError, SettingError

SPELT: dict[str, Order] = {
    "in_order": in_order(),
    "default": in_order(),
    "reversed": reversed_order(),
    "reverse": reversed_order(),
    "sorted": by_length(),
    "sorted_reverse": by_length(falling=True),
    "random": random(),
    "random:3": random(every=3),
    "with_replacement": with_replacement(),
    "with_replacement:70": with_replacement(number=70),
    "random_sample": with_replacement(),
    "laplace": laplace(),
    "laplace:100": laplace(bins=100),
    "laplace:.1000": laplace(size=1000),
    "laplace:3:2": laplace(bins=3, every=2),
    "sort_bin_shuffle:4": sort_bin_shuffle(bins=4),
    "sort_bin_shuffle_x2:.9": sort_bin_shuffle(size=9, within=True),
    "pools:20": pools(size=20),
    "side_by_side:3": side_by_side(streams=3),
    "default_every_n:3": side_by_side(streams=3),
}
LENGTHS = np.random.default_rng(0).integers(1, 30, 101)


def units(lengths: Any = LENGTHS) -> Units:
    return Units(len(lengths), lengths_of({"audio": lengths}))


@pytest.mark.parametrize("text", SPELT)
def test_text_stands_for_an_order_that_prints_as_the_call_that_makes_it(text: str) -> None:
    made = order(text)
    assert made == SPELT[text]
    assert hash(made) == hash(SPELT[text])
    assert eval(repr(made), globals()) == made
    assert order(made) is made


@pytest.mark.parametrize("made", SPELT.values(), ids=repr)
def test_an_order_is_a_pure_function_of_the_seed_and_the_epoch(made: Order) -> None:
    data = units()
    first = [made.arrange(data, epoch, 5).tolist() for epoch in range(4)]
    assert [made.arrange(data, epoch, 5).tolist() for epoch in (3, 0, 2, 1)] == [first[i] for i in (3, 0, 2, 1)]
    assert (len(set(map(tuple, first))) > 1) == made.shuffles
    assert (made.arrange(data, 0, 6).tolist() != first[0]) == made.shuffles
    assert made.arrange(data, 0, 5).dtype == np.int64


@pytest.mark.parametrize("made", dict.fromkeys(SPELT.values()), ids=repr)
def test_every_unit_comes_once_unless_the_order_says_otherwise(made: Order) -> None:
    found = sorted(made.arrange(units(), 0, 2**70).tolist())
    if made == with_replacement(70):
        assert len(found) == 70
    elif made == with_replacement():
        assert len(found) == 101 > len(set(found))
    else:
        assert found == list(range(99 if made.leaves_out else 101))


@pytest.mark.parametrize("made", dict.fromkeys(SPELT.values()), ids=repr)
def test_nothing_is_arranged_to_nothing(made: Order) -> None:
    assert made.arrange(Units(0, lengths_of({"audio": np.zeros(0, np.int64)})), 0, 1).tolist() == []


@pytest.mark.parametrize("made", dict.fromkeys(SPELT.values()), ids=repr)
def test_an_order_says_whether_it_needs_lengths(made: Order) -> None:
    if made.needs_lengths:
        with pytest.raises(DataError, match=r"sorts by length, and the lengths of these data are not known.*lengths="):
            made.arrange(Units(101), 0, 0)
    else:
        assert made.arrange(Units(101), 0, 0).tolist() == made.arrange(units(), 0, 0).tolist()


def test_orders_of_a_seed_never_change() -> None:
    # Runs are resumed in other processes and on other machines: a draw that changes must be noticed.
    data = units([5, 3, 9, 3, 7, 5])
    drawn = {text: order(text).arrange(data, 1, 3).tolist() for text in ("random", "laplace", "sort_bin_shuffle_x2:3")}
    assert drawn == {
        "random": [1, 2, 5, 0, 4, 3],
        "laplace": [1, 5, 2, 4, 0, 3],
        "sort_bin_shuffle_x2:3": [1, 3, 0, 5, 2, 4],
    }


def test_equal_lengths_keep_their_order_rising_and_falling() -> None:
    data = units([3, 1, 3, 2, 1])
    assert by_length().arrange(data, 0, 0).tolist() == [1, 4, 3, 0, 2]
    assert by_length(falling=True).arrange(data, 0, 0).tolist() == [0, 2, 3, 1, 4]


@pytest.mark.parametrize("top", [10, 1 << 15, 1 << 16, 1 << 20, 1 << 31, 1 << 40])
def test_lengths_of_any_size_are_sorted_stably(top: int) -> None:
    keys = np.random.default_rng(1).integers(0, top, 5000)
    assert by_key(keys).tolist() == np.argsort(keys, kind="stable").tolist()


def test_pools_are_sorted_each_for_itself() -> None:
    for falling in (False, True):
        found = LENGTHS[pools(20, falling=falling).arrange(units(), 0, 1)]
        pieces = [found[start : start + 20].tolist() for start in range(0, 101, 20)]
        assert pieces == [sorted(piece, reverse=falling) for piece in pieces]
        assert found.tolist() != sorted(LENGTHS.tolist(), reverse=falling)


def test_streams_are_read_side_by_side_and_the_rest_is_left_out() -> None:
    assert side_by_side(3).arrange(Units(8), 0, 0).tolist() == [0, 2, 4, 1, 3, 5]
    with pytest.raises(DataError, match=r"side_by_side\(streams=9\): 9 streams cannot be made of 8 units"):
        side_by_side(9).arrange(Units(8), 0, 0)


def test_a_function_of_the_epoch_gives_any_order() -> None:
    made = order(lambda epoch: "reverse" if epoch % 2 else in_order())
    assert made.arrange(Units(3), 0, 0).tolist() == [0, 1, 2]
    assert made.arrange(Units(3), 1, 0).tolist() == [2, 1, 0]
    assert repr(made).startswith("order(test_a_function")
    assert not made.needs_lengths
    assert not made.shuffles
    assert made.leaves_out
    assert order(lambda epoch: "laplace").needs_lengths


def test_strata_make_batches_and_are_no_order_of_units() -> None:
    made = order("strata")
    assert made == strata()
    assert repr(made) == "strata()"
    assert made.needs_lengths
    with pytest.raises(DataError, match=r"'strata' makes batches out of all samples at once"):
        made.arrange(units(), 0, 0)


@pytest.mark.parametrize(
    ("literal", "said"),
    [
        ("randm", r"There is no order 'randm'\. Nearest: \"random\""),
        ("laplase:3", r"no order 'laplase:3'\. Nearest: \"laplace\""),
        (lambda epoch: "sorrted", r"Nearest: \"sorted\""),
        (3, r"order=3 is no order\. Write a name such as 'random'"),
        (dict, r"is no order"),
        ("random:0", r"order='random:0': '0' is no whole number from 1 on"),
        ("random:-1", r"'-1' is no whole number"),
        ("laplace:.", r"'' is no whole number"),
        ("random:.5", r"'\.5' is no whole number"),
        ("pools", r"the number is missing\. Write 'pools:1000'"),
        ("side_by_side", r"the number is missing\. Write 'side_by_side:4'"),
        ("laplace:1:2:3", r"more numbers than 'laplace' takes\. Write 'laplace:bins:every'"),
        ("sorted:3", r"more numbers than 'sorted' takes\. Write 'sorted'"),
    ],
)
def test_what_is_no_order_is_refused_when_it_is_written(literal: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        order(literal)


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "3", None])
def test_numbers_are_whole_and_from_one_on(bad: Any) -> None:
    with pytest.raises(DataError, match=r"pools\(size=.*\): a whole number from 1 on is needed"):
        pools(bad)
    with pytest.raises(DataError, match=r"random\(every=.*\): a whole number"):
        random(every=bad)
    with pytest.raises(DataError, match=r"side_by_side\(streams=.*\): a whole number"):
        side_by_side(bad)
    if bad is not None:
        with pytest.raises(DataError, match=r"laplace\(bins=.*\): a whole number"):
            laplace(bins=bad)
        with pytest.raises(DataError, match=r"with_replacement\(number=.*\): a whole number"):
            with_replacement(bad)


def test_bins_are_said_once() -> None:
    with pytest.raises(DataError, match=r"laplace\(bins=3, size=4\).*said twice"):
        laplace(bins=3, size=4)
    with pytest.raises(SettingError, match=r"no argument 'bin'.*Nearest: \"bins\""):
        laplace(bin=3)  # type: ignore[call-arg]


def test_parts_differ_by_one_unit_at_most_and_make_the_whole() -> None:
    whole = np.arange(11)[::-1]
    pieces = [part(whole, epoch, 4).tolist() for epoch in range(8)]
    assert pieces[:4] == pieces[4:] == [[10, 9, 8], [7, 6, 5], [4, 3, 2], [1, 0]]
    with pytest.raises(DataError, match="12 epochs cannot share a pass over 11 units"):
        part(whole, 0, 12)
    with pytest.raises(DataError, match="of=0: a whole number"):
        part(whole, 0, 0)


def test_an_order_is_repeated_as_it_is() -> None:
    assert repeated(np.array([2, 0]), 2).tolist() == [2, 0, 2, 0]
    with pytest.raises(DataError, match="repeated 0 times: a whole number"):
        repeated(np.arange(2), 0)


def test_batches_are_shuffled_all_together_or_in_blocks() -> None:
    assert sorted(shuffle_blocks(50, None, 1, 0).tolist()) == list(range(50))
    assert shuffle_blocks(50, None, 1, 0).tolist() != shuffle_blocks(50, None, 1, 1).tolist()
    assert shuffle_blocks(50, 1, 1, 0).tolist() == list(range(50))
    assert shuffle_blocks(0, None, 1, 0).tolist() == []
    with pytest.raises(DataError, match="blocks of 0 batches: a whole number"):
        shuffle_blocks(50, 0, 1, 0)


def test_a_stream_is_sorted_without_reading_on() -> None:
    read: list[int] = []

    def samples() -> Any:
        for length in (3, 1, 2, 1, 2, 3):
            read.append(length)
            yield length

    sorted_ = laplace_stream(samples(), 3, lambda length: length)
    assert next(sorted_) == 1
    assert read == [3, 1, 2]
    assert list(sorted_) == [2, 3, 3, 2, 1]
    with pytest.raises(DataError, match="bins of 0 samples: a whole number"):
        next(laplace_stream([1], 0, lambda length: length))
