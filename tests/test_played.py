"""The score of a result is what was played: with schedules that listen, after going back, by turns, and gone on."""

from __future__ import annotations

from itertools import pairwise
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import (
    Directory,
    Result,
    Update,
    cosine,
    cycle,
    epochs,
    every,
    linear,
    newbob,
    part,
    pieces,
    steps,
    times,
    when,
)
from etude.run.events import Skipped, Stepped
from etude.step.policies import roll_back

X, Y = torch.ones(40, 1), torch.zeros(40, 1)


class Sum(nn.Module):
    """The gradient of each of its arrays is 1 wherever they are, so that SGD moves them by their rates."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.double()) + self.head(x.double())


def mean(output: Tensor, target: Tensor) -> Tensor:
    return output.mean()


LISTENS = newbob("val.loss", start=0.4, min_improvement=1e6)
SAID: dict[str, Any] = {"batch_size": 8, "validation": (X, Y), "progress": False}


def played(x: Tensor = X, **options: Any) -> tuple[Result, list[dict[str, float | None]]]:
    """A result, and how far each array was moved in each step."""
    net = Sum()
    places = [{name: float(one.detach()) for name, one in net.named_parameters()}]

    def see(event: Any) -> None:
        if isinstance(event, Stepped | Skipped):
            places.append({name: float(one.detach()) for name, one in net.named_parameters()})

    alone = {} if "updates" in options else {"loss": mean, "optimizer": "sgd"}
    result = etude.train(net, (x, Y), listeners=[see], **(SAID | alone | options))
    ways = [{name: before[name] - after[name] for name in before} for before, after in pairwise(places)]
    return result, [{name: way or None for name, way in moved.items()} for moved in ways]


def check(result: Result, moved: list[dict[str, float | None]]) -> None:
    score = result.score
    assert score["steps"] == list(range(len(moved)))
    for name, rates in zip(score["names"], score["rates"], strict=True):
        assert [rate is None for rate in rates] == [way[name] is None for way in moved], name
        ways = [way[name] for way in moved if way[name] is not None]
        assert [rate for rate in rates if rate is not None] == pytest.approx(ways, abs=1e-9), name


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": LISTENS},
        {"learning_rate": cosine(1.0, 0.5) * newbob("val.loss", min_improvement=1e6, start=1.0)},
        {"learning_rate": LISTENS, "learning_rate_multipliers": {"head": 0.5}},
        {"learning_rate": LISTENS, "learning_rate_multipliers": {"head": linear(1, 0)}},
        {"learning_rate": LISTENS, "rules": {"learning_rate": {"head.bias": 0.03}}},
        {"learning_rate": 0.1, "rules": {"learning_rate": {"head": LISTENS, "body.bias": linear(0.5, 0.1)}}},
        {"learning_rate": 0.1, "rules": {"learning_rate": {"head": times(newbob("val.loss", min_improvement=1e6))}}},
        {"learning_rate": LISTENS, "update_schedule": cycle(part("head") * 2, "body")},
        {"learning_rate": pieces(0, (steps(3), LISTENS)), "rules": {"learning_rate": {"head": 0.01}}},
        {"learning_rate": LISTENS, "rules": {"learning_rate": {"head": pieces(etude.FROZEN, (epochs(1), 0.2))}}},
    ],
    ids=repr,
)
def test_what_listens_is_in_the_score(options: dict[str, Any]) -> None:
    result, moved = played(epochs=4, **options)
    check(result, moved)
    assert len({way["head.weight"] for way in moved}) > 1 or "rules" in options


def test_factors_of_roll_back_begin_where_they_did() -> None:
    x = X.clone()
    x[[28, 60 - 40]] = nan
    options = {"epochs": 2, "validation": None, "shuffle": False, "non_finite": roll_back(0.5, every=steps(1))}
    result, moved = played(x, learning_rate=linear(0.4, 0.2), rules={"learning_rate": {"head": 0.1}}, **options)
    assert result.history["setting.rate_factor"].values == [1.0, 1.0, 0.25, 0.25, 0.25, 0.0625]
    check(result, moved)
    assert "rate_factor" in {text.get_text() for axes in result.plot("score").axes for text in axes.texts}


def test_a_run_that_does_not_go_back_has_no_factor() -> None:
    assert "setting.rate_factor" not in played(epochs=1)[0].history


def test_each_update_has_its_rate_where_it_moved_something() -> None:
    updates = [
        Update("a", mean, part="body", optimizer="sgd", learning_rate=LISTENS, turn=pieces(True, (steps(6), False))),
        Update(
            "b",
            mean,
            part="head",
            optimizer="sgd",
            learning_rate=linear(0.2, 0),
            rules={"learning_rate": {"head.bias": cosine(0.1)}},
        ),
    ]
    result, moved = played(updates=updates, epochs=2)
    assert result.history["a.rate"].steps == [1, 2, 3, 4, 5, 6]
    assert result.history["b.rate"].values == pytest.approx([0.2 * (1 - step / 10) for step in range(10)])
    check(result, moved)
    shown = {text.get_text() for axes in result.plot("rates").axes for text in axes.texts}
    assert {"a.rate", "b.rate", "b.rate[head.bias]"} <= shown
    words = {text.get_text() for axes in result.plot("score").axes for text in axes.texts}
    assert not any("learning_rate[" in word for word in words)


def test_one_update_has_no_rate_of_its_own() -> None:
    assert [name for name in played(epochs=1)[0].history if name.endswith("rate")] == ["rate"]


def test_a_run_that_was_gone_on_with_has_the_same_score(tmp_path: Path) -> None:
    places = Directory(tmp_path, every(steps(1)), keep=None)
    whole, _ = played(epochs=4, learning_rate=LISTENS, checkpoint=places)
    assert len(set(whole.score["rates"][0])) == 3
    assert len(whole.checkpoints) == 20
    for path in whole.checkpoints[6::6]:
        assert played(epochs=4, learning_rate=LISTENS, resume=path)[0].score == whole.score


def test_a_turn_that_listens_is_in_the_score_as_it_was() -> None:
    turn = when("a.loss", below=-2.0)
    updates = [
        Update("a", mean, part="body", optimizer="sgd", learning_rate=0.1),
        Update("b", mean, part="head", optimizer="sgd", learning_rate=0.2, turn=turn),
    ]
    torch.manual_seed(0)
    result, moved = played(updates=updates, epochs=4)
    assert 0 < len(result.history["b.rate"]) < 20
    check(result, moved)
