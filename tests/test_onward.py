"""Batches of what is read forward: counted as they come, found again by reading up to them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from batchings import rows, samples, seen
from etude import Cursor, Data
from etude.data import length
from etude.data.flow import Flow
from etude.errors import DataError

LENGTHS = [5, 3, 9, 4, 7, 2, 8, 6, 5, 3]


def passing() -> Iterator[Any]:
    yield from samples(LENGTHS)


def data(**options: Any) -> Data:
    return Data(passing, lengths="x", **{"budget": 20, **options})


def test_a_batch_says_where_it_is() -> None:
    batches = list(data().batches(epochs=2))
    assert [batch.cursor for batch in batches[1:]] == [batch.next for batch in batches[:-1]]
    assert batches[-1].next == Cursor(2, 0)
    assert [batch.last for batch in batches].count(True) == 2
    assert {batch.progress_epoch for batch in batches} == {0.0, 1.0, 2.0}
    assert [batch.tokens for batch in batches] == [sum(map(len, rows(batch))) for batch in batches]
    assert all(batch.indices is None for batch in batches)


def test_a_report_grows_with_what_is_read() -> None:
    flow = Flow(data(keep=length(most=8)))
    batches = flow.batches(epochs=1)
    next(batches)
    early = flow.report(0)
    rest = list(batches)
    late = flow.report(0)
    assert early is not None
    assert late is not None
    assert (early.batches, late.batches) == (1, 1 + len(rest))
    assert (late.samples, sum(late.left_out.values()), late.frames) == (9, 1, {"x": sum(LENGTHS) - 9})
    assert late.cells["x"] >= late.frames["x"]
    assert 0 < late.padding < 0.5


def test_what_cannot_be_read_is_counted() -> None:
    def scratched() -> Iterator[Any]:
        def fetch(number: int) -> Any:
            if number == 3:
                raise OSError("a scratch")
            return samples(LENGTHS)[number]

        return map(fetch, range(10))

    flow = Flow(Data(scratched, lengths="x", batch_size=4, unreadable="skip"))
    assert sum(batch.samples for batch in flow.batches(epochs=1)) == 9
    assert flow.report(0).unreadable == 1  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"Sample 3 of epoch 0 of .* cannot be read: OSError: a scratch"):
        list(Data(scratched, lengths="x", batch_size=4).batches(epochs=1))


@pytest.mark.filterwarnings("ignore:.*can only be read forward")
@pytest.mark.parametrize("place", range(1, 10))
def test_a_place_is_found_again_with_what_was_counted(place: int) -> None:
    changing = data(budget=lambda p: 12 + p.samples + p.step)
    batches = list(Flow(changing).batches(epochs=3))
    half = Flow(changing)
    passed = list(islice(half.batches(epochs=3), place))[-1]
    again = Flow(changing)
    again.load(passed.next, half.state(passed.next))
    rest = list(again.batches(passed.next, epochs=3 - passed.next.epoch))
    assert [seen(batch) for batch in rest] == [seen(batch) for batch in batches[place:]]


def test_getting_to_a_place_tells_what_it_cost() -> None:
    with pytest.warns(UserWarning, match=r"can only be read forward: to get to batch 2 of epoch 0, all before it was"):
        next(data().batches(Cursor(0, 2)))


@pytest.mark.filterwarnings("ignore:.*can only be read forward")
def test_without_what_was_counted_a_place_is_found_where_counting_is_not_needed() -> None:
    batches = list(data().batches(epochs=2))
    for place in range(1, len(batches)):
        again = list(data().batches(batches[place].cursor, epochs=2 - batches[place].cursor.epoch))
        assert [seen(batch) for batch in again] == [seen(batch) for batch in batches[place:]]


@pytest.mark.filterwarnings("ignore:.*can only be read forward")
def test_within_the_first_epoch_everything_can_be_counted_by_reading() -> None:
    changing = data(budget=lambda p: 12 + p.samples)
    batches = list(changing.batches(epochs=2))
    again = list(changing.batches(batches[2].cursor, epochs=2))
    assert [seen(batch) for batch in again] == [seen(batch) for batch in batches[2:]]


def test_a_later_epoch_cannot_be_counted_without_reading_those_before() -> None:
    changing = data(budget=lambda p: 12 + p.samples)
    with pytest.raises(DataError, match="before epoch 1 is known only by reading from the beginning"):
        next(changing.batches(Cursor(1, 0)))


def test_a_budget_is_asked_with_what_was_given_out_before() -> None:
    asked = []

    def most(progress: Any) -> float:
        asked.append((progress.step, progress.epoch, progress.samples, progress.tokens))
        return 20.0

    batches = list(data(budget=most).batches(epochs=3))
    each, frames = len(batches) // 3, sum(LENGTHS)
    begun = [(epoch * each, float(epoch), epoch * len(LENGTHS), epoch * frames) for epoch in range(3)]
    assert [now for now in dict.fromkeys(asked) if now in begun] == begun
