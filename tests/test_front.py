"""`etude.train`: one call, one result."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import etude
from etude.errors import SettingError
from etude.run.events import Ended, Event
from small import arrays, classified, kinds, mlp, options, same


def test_one_call_trains_the_net_in_place_and_hands_it_back_for_use() -> None:
    net = mlp()
    before = arrays(net)
    result = etude.train(net, classified(), **options(), progress=False)
    assert result.net is net
    assert not any(module.training for module in net.modules())
    assert not same(arrays(net), before)
    assert result.steps == 3
    assert result.stop_reason == "finished"


def test_a_plan_and_its_options_do_the_same() -> None:
    one, other = mlp(), mlp()
    etude.train(one, classified(), **options(learning_rate=0.01), progress=False)
    etude.train(other, classified(), etude.Plan(**options(learning_rate=0.01)), progress=False)
    assert same(arrays(one), arrays(other))


def test_listeners_see_every_event_in_order() -> None:
    told: list[Event] = []
    again: list[Event] = []
    etude.train(mlp(), classified(), **options(), progress=False, listeners=(n for n in (told.append, again.append)))
    step = ["Stepped", "Settled"]
    assert kinds(told) == ["Began", *step, *step, "Stepped", "EpochEnded", "Settled", "Ended"]
    assert again == told


def test_progress_true_tells_something_and_false_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    etude.train(mlp(), classified(), **options(), progress=False)
    assert capsys.readouterr().out == ""
    etude.train(mlp(), classified(), **options(), progress=True)
    assert "epoch 1/1" in capsys.readouterr().out


def test_progress_auto_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    etude.train(mlp(), classified(), **options())
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_the_bar_hears_of_things_before_the_listeners(capsys: pytest.CaptureFixture[str]) -> None:
    printed: list[str] = []

    def listener(event: Event) -> None:
        if isinstance(event, Ended):
            printed.append(capsys.readouterr().out)

    etude.train(mlp(), classified(), **options(), progress=True, listeners=[listener])
    assert "finished" in printed[0]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"plan": "cross_entropy"}, "Write loss='cross_entropy'"),
    ({"progress": "of"}, "progress='of'"),
    ({"listeners": print}, r"Write listeners=\[...\]"),
    ({"listeners": [3]}, "a list of callables"),
    ({"progres": False}, 'Nearest: "progress"'),
    ({"listener": []}, 'Nearest: "listeners"'),
    ({"plan": etude.Plan(**options()), "epochs": 3}, "epochs"),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_what_is_said_to_train_wrongly_is_an_error_before_anything_happens(given: dict[str, Any], words: str) -> None:
    net = mlp()
    before = arrays(net)
    rest = {} if "plan" in given else options()
    with pytest.raises(SettingError, match=words):
        etude.train(net, classified(), **{**rest, **given})
    assert same(arrays(net), before)
    assert net.training


def test_a_net_in_evaluation_mode_is_trained_in_training_mode() -> None:
    modes: list[bool] = []

    class Watched(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.append(self.training and torch.is_grad_enabled())
            return super().forward(x)

    etude.train(Watched(4, 3).eval(), classified(), **options(), progress=False)
    assert sum(modes) == 3
