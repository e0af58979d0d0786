"""Events: frozen records in the order in which things happened."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import get_args

import pytest
import torch

from etude.run.events import (
    Began,
    Ended,
    EpochEnded,
    Evaluated,
    Event,
    RolledBack,
    Saved,
    SaveFailed,
    Settled,
    Skipped,
    Stepped,
)
from etude.values.progress import Progress
from small import kinds, run

ALL = (
    Began(Progress()),
    Stepped(Progress(1), {"loss": torch.tensor(1.0)}, 4, 1e-3, ("loss",), 0.1),
    Skipped(Progress(1), "the loss is not finite"),
    RolledBack(Progress(4), "the loss is not finite", 2, 0.5),
    EpochEnded(Progress(1), 1, {"loss": 1.0}),
    EpochEnded(Progress(1), 1, {"loss": 1.0}, {"padding.audio": 0.02}),
    Evaluated(Progress(1), {"loss": 1.0}, True),
    Settled(Progress(1)),
    Saved(Progress(1), "run.safetensors", 2048, 0.01),
    SaveFailed(Progress(1), "run.safetensors", "no space is left"),
    Ended(Progress(1), "finished", "all planned steps were made"),
)


@pytest.mark.parametrize("event", ALL, ids=kinds(list(ALL)))
def test_nothing_of_an_event_can_be_changed(event: Event) -> None:
    for each in fields(event):
        with pytest.raises(FrozenInstanceError):
            setattr(event, each.name, None)


@pytest.mark.parametrize("event", ALL, ids=kinds(list(ALL)))
def test_events_have_no_room_for_what_is_not_theirs(event: Event) -> None:
    assert not hasattr(event, "__dict__")


def test_every_event_has_the_clock_first() -> None:
    assert [fields(each)[0].name for each in get_args(Event)] == ["progress"] * len({type(event) for event in ALL})
    assert {type(event) for event in ALL} == set(get_args(Event))


def test_what_a_run_tells_is_made_of_these_events_only() -> None:
    told = list(run(validation=0.3, epochs=2))
    assert {type(event) for event in told} == {Began, Stepped, EpochEnded, Evaluated, Settled, Ended}
