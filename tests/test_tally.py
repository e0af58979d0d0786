"""What a listener knows of a run, and its words."""

from __future__ import annotations

import math

import pytest

from etude.listen.tally import (
    Tally,
    clock,
    counted,
    data_words,
    ending,
    heading,
    number,
    per_second,
    rate,
    validation_words,
)
from etude.run.events import Began, Ended, EpochEnded, Evaluated, Skipped
from etude.values.progress import Extent, Progress
from told import BATCH, a_run, at, stepped


def test_losses_are_means_over_the_epoch_so_far() -> None:
    tally = Tally()
    tally.steps([stepped(at(1), loss=1.0), stepped(at(2), loss=3.0)])
    assert tally.losses == {"loss": 2.0}
    tally.take(EpochEnded(at(2), 1, {"loss": 2.5}))
    assert tally.losses == {"loss": 2.5}
    tally.steps([stepped(at(3), loss=7.0)])
    assert tally.losses == {"loss": 7.0}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, ""),
        ({"batches": 9.0, "samples": 70.0, "padding.audio": 0.0, "left_out": 0.0}, ""),
        ({"padding.audio": 0.0213, "padding.labels": 0.4, "left_out": 0.0}, "padding 2.1%"),
        ({"padding.audio": 0.5, "left_out": 1200.0}, "padding 50%, 1,200 left out"),
        (
            {"padding.audio": 0.002, "left_out": 0.0, "lost_frames.audio": 50.0, "lost_frames.labels": 5.0},
            "padding 0.2%, 55 frames in no chunk",
        ),
        ({"left_out": 3.0, "unreadable": 1.0}, "3 left out, 1 not readable"),
    ],
)
def test_what_is_said_of_the_data_of_an_epoch(data: dict[str, float], words: str) -> None:
    tally = Tally()
    assert data_words(tally) == ""
    tally.take(EpochEnded(at(2), 1, {"loss": 2.5}, data))
    assert data_words(tally) == words


def test_means_are_weighted_by_samples() -> None:
    tally = Tally()
    few, many = stepped(at(1), loss=1.0), stepped(at(2), loss=4.0)
    tally.steps([few, type(many)(many.progress, many.losses, 2 * BATCH, many.rate, many.updates, many.seconds)])
    assert tally.losses == {"loss": pytest.approx(3.0)}


def test_a_long_epoch_forgets_its_beginning() -> None:
    tally = Tally()
    for start in range(0, 20_000, 1000):
        tally.steps([stepped(at(start + i, 10**6), loss=100.0 if start == 0 else 1.0) for i in range(1000)])
    assert tally.losses["loss"] == pytest.approx(1.0, abs=0.01)


def test_an_endless_epoch_forgets_a_nan() -> None:
    tally = Tally()
    seen = []
    for start in range(0, 4000, 1000):
        tally.steps([stepped(Progress(start + i), loss=math.nan if start + i == 500 else 2.0) for i in range(1000)])
        seen.append(tally.losses["loss"])
    assert math.isnan(seen[0])
    assert seen[1:] == [2.0, 2.0, 2.0]


def test_updates_that_take_turns_have_their_own_losses() -> None:
    tally = Tally()
    tally.take(Began(at(0), {"updates": ("critic", "generator")}))
    tally.steps([stepped(at(1), updates=("critic",), loss=1.0), stepped(at(2), updates=("generator",), loss=5.0)])
    assert tally.losses == {"critic": 1.0, "generator": 5.0}


def test_a_sum_over_updates_is_not_shown_beside_its_parts() -> None:
    tally = Tally()
    tally.take(Began(at(0), {"updates": ("critic", "generator")}))
    tally.steps([stepped(at(1), updates=("critic",), loss=1.0, **{"critic.loss": 1.0})])
    assert tally.losses == {"critic.loss": 1.0}


def test_share_and_time_left() -> None:
    tally = Tally()
    extent = Extent(steps=100, epochs=10)
    tally.steps([stepped(at(step, 10, extent), 5.0 + step) for step in range(1, 26)])
    assert tally.share == 0.25
    assert tally.seconds_left == pytest.approx(75.0)  # the slow start is not counted
    assert (tally.total_steps, tally.total_epochs, tally.epoch) == (100, 10, 3)


@pytest.mark.parametrize(
    ("progress", "share"),
    [
        (Progress(5, 0.5, 10, 0, Extent(samples=40)), 0.25),
        (Progress(5, 0.5, 10, 30, Extent(tokens=60)), 0.5),
        (Progress(5, 0.5, 10, 0, Extent(epochs=2)), 0.25),
        (Progress(5, 0.5, 10, 0, Extent()), None),
        (Progress(12, 0.5, 10, 0, Extent(steps=10)), 1.0),
    ],
)
def test_the_share_comes_from_whatever_length_is_known(progress: Progress, share: float | None) -> None:
    tally = Tally()
    tally.steps([stepped(progress)])
    assert tally.share == share


def test_an_epoch_ends_with_its_last_step() -> None:
    tally = Tally()
    for step, epoch in ((1, 1), (10, 1), (11, 2), (20, 2)):
        tally.steps([stepped(at(step))])
        assert tally.epoch == epoch


def test_streams_count_no_epochs() -> None:
    tally = Tally()
    tally.steps([stepped(Progress(7, 0.0, 70, 0))])
    assert (tally.epoch, tally.position, tally.share) == (0, "step 7", None)
    assert math.isnan(tally.seconds_left)


def test_samples_per_second() -> None:
    tally = Tally()
    assert math.isnan(tally.samples_per_second)
    tally.steps([stepped(at(step), step * 0.5) for step in range(1, 11)])
    assert tally.samples_per_second == pytest.approx(BATCH / 0.5)


def test_the_best_is_remembered_with_its_place() -> None:
    tally = Tally()
    tally.steps([stepped(at(10))])
    tally.take(Evaluated(at(10), {"loss": 0.5}, True))
    tally.steps([stepped(at(15))])
    tally.take(Evaluated(at(15), {"loss": 0.75}, False))
    assert (dict(tally.best), tally.best_at, tally.best_is_last) == ({"loss": 0.5}, "epoch 1", False)
    tally.take(Evaluated(at(15), {"loss": 0.25}, True))
    assert tally.best_at == "step 15"


def test_skipped_steps_are_counted() -> None:
    tally = Tally()
    tally.take(Skipped(at(1), "NaN in fc1.weight"))
    tally.take(Skipped(at(2), "NaN in fc2.weight"))
    assert (tally.skipped, tally.skip_reason) == (2, "NaN in fc2.weight")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.43214, "0.4321"),
        (0.5, "0.5000"),
        (12.0, "12.00"),
        (1234.5, "1234"),
        (123456.0, "1.235e+05"),
        (3.2e-6, "3.200e-06"),
        (-0.25, "-0.2500"),
        (0.0, "0"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_numbers(value: float, words: str) -> None:
    assert number(value) == words


def test_other_words() -> None:
    assert [rate(3e-4), rate(0.0)] == ["3.00e-04", "0"]
    assert [per_second(12345.6), per_second(3.25), per_second(math.nan)] == ["12,346", "3.2", "-"]
    assert [clock(0.081), clock(83), clock(7384), clock(math.nan)] == ["0.08 s", "1:23", "2:03:04", "-"]
    assert [counted(1, "epoch"), counted(2.5, "epoch"), counted(9380, "step")] == [
        "1 epoch",
        "2.5 epochs",
        "9,380 steps",
    ]


def test_the_heading_says_what_is_known() -> None:
    summary = {
        "parameters": 61706,
        "trainable": 5000,
        "samples": 6400,
        "batch_size": 64,
        "epochs": 10,
        "steps": 1000,
        "optimizer": "adamw",
        "device": "cpu",
        "seed": 0,
        "updates": ("critic", "generator"),
    }
    assert heading(summary) == (
        "training 61,706 parameters (5,000 trainable), 6,400 samples in batches of 64, 10 epochs / 1,000 steps, "
        "adamw, cpu, updates critic, generator, seed 0"
    )
    assert heading({"parameters": 7, "steps": None}) == "training 7 parameters"


def test_the_ending_says_why_and_what_was_best() -> None:
    tally = Tally()
    for event in a_run():
        if type(event).__name__ == "Stepped":
            tally.steps([event])  # type: ignore[list-item]
        else:
            tally.take(event)
    assert ending(tally, Ended(tally.progress, "finished", "all steps were made")) == (
        "finished: 20 steps in 0.20 s, best validation loss 0.5000 at epoch 2"
    )
    assert ending(tally, Ended(tally.progress, "patience", "no better for 3 evaluations.")).startswith(
        "no better for 3 evaluations: 20 steps"
    )


def test_the_best_is_told_by_the_score_it_was_chosen_by() -> None:
    tally = Tally()
    tally.take(Began(Progress(), {"best_by": "accuracy"}))
    tally.take(Evaluated(Progress(5, 1.0), {"loss": 0.5, "accuracy": 0.9}, best=True))
    tally.take(Evaluated(Progress(10, 2.0), {"loss": 0.4, "accuracy": 0.8}, best=False))
    assert "(best accuracy 0.9000 at epoch 1)" in validation_words(tally)
    assert ending(tally, Ended(tally.progress, "finished", "")).endswith("best validation accuracy 0.9000 at epoch 1")
