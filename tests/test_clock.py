"""Where in the run a batch lies."""

from __future__ import annotations

import numpy as np
import pytest

import etude
from etude.data.plan.clock import Clock, Moments, Passed, Uncounted, opaque
from etude.values.progress import Extent, Progress
from etude.values.schedule import schedule


def passed(epoch: int) -> Passed:
    """Epoch e has e + 2 batches of 3 units and 10 frames."""
    batches = np.arange(epoch + 3)
    return Passed(3 * batches, 10 * batches, 3 * (epoch + 2))


def clock(counted: bool = True, accumulate: int | None = None) -> Clock:
    return Clock(Extent(), None if accumulate is None else schedule(accumulate), passed, counted)


def at(progress: Progress) -> tuple[float, float, int, int]:
    return progress.step, progress.epoch, progress.samples, progress.tokens


def test_an_epoch_begins_after_all_before_it() -> None:
    assert at(clock().start(0)) == (0, 0, 0, 0)
    assert at(clock().start(2)) == (5, 2, 15, 50)
    told = clock()
    assert [at(told.start(epoch)) for epoch in (3, 1, 2)] == [at(clock().start(epoch)) for epoch in (3, 1, 2)]


def test_a_step_of_several_batches_counts_once() -> None:
    assert at(clock(accumulate=2).start(2)) == (1 + 2, 2, 15, 50)


def test_where_nothing_was_counted_only_the_epoch_is_known() -> None:
    told = clock(counted=False)
    assert told.start(7).epoch == 7
    with pytest.raises(Uncounted):
        told.ask(lambda progress: progress.amount("steps"), told.start(7))
    assert told.ask(lambda progress: progress.epoch, told.start(7)) == 7


def test_what_is_wrong_with_a_question_is_said_when_it_is_asked_again() -> None:
    told = clock()
    with pytest.raises(ZeroDivisionError):
        told.ask(lambda progress: 1 / 0, told.start(0))


def test_the_moments_of_an_epoch() -> None:
    moments = Moments(Progress(4, 2.0, 100, 1000), 8, schedule(2))
    found = [at(moments.at(batch, 2 * batch, 5 * batch)) for batch in range(4)]
    assert found == [(4, 2.0, 100, 1000), (4, 2.25, 102, 1005), (5, 2.5, 104, 1010), (5, 2.75, 106, 1015)]
    assert moments.steps == 2


def test_a_batch_may_be_asked_for_twice() -> None:
    moments = Moments(Progress(), 8, None)
    assert [moments.at(batch, 0, 0).step for batch in (0, 0, 1, 1, 2)] == [0, 0, 1, 1, 2]


def test_a_function_hides_what_it_reads() -> None:
    assert opaque([schedule(lambda progress: 1)])
    assert not opaque([etude.linear(1, 2, over=etude.epochs(3)), schedule(3)])
