"""Any function of the scores so far as a schedule."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

import etude
from etude.errors import ScheduleError
from etude.values.curves import warmup
from etude.values.progress import Progress
from etude.values.reactive import check_told, following
from etude.values.schedule import pieces
from etude.values.spans import steps
from etude.values.text import read, write

History = Mapping[str, tuple[float, ...]]


def spread(scores: History) -> float:
    """Of the last three: a number that takes a history to know."""
    last = scores["val.loss"][-3:]
    return max(last) - min(last)


def counted(scores: History) -> float:
    return len(scores["a"]) + 10 * len(scores["b"])


def rising(scores: History) -> bool:
    losses = scores["loss"]
    return len(losses) > 1 and losses[-1] > losses[-2]


def test_the_function_is_given_all_scores_so_far() -> None:
    made = following(spread, "val.loss", start=0.5)
    memory, seen = made.start(), [made.at(Progress(), made.start())]
    for score in (3.0, 5.0, 4.0, 4.0, 4.0):
        memory = made.see(memory, {"val.loss": score, "val.other": 9.0})
        seen.append(made.at(Progress(7), memory))
    assert seen == [0.5, 0.0, 2.0, 2.0, 1.0, 0.0]
    assert memory == (0.0, (3.0, 5.0, 4.0, 4.0, 4.0))
    assert made.at(Progress()) == 0.5


def test_each_name_has_a_history_of_its_own() -> None:
    made = following(counted, "a", "b", start=0)
    memory = made.start()
    for metrics in ({"a": 1.0}, {"a": 1.0, "b": 2.0}, {"c": 1.0}, {"b": 1.0}, {}, {"a": None}):
        memory = made.see(memory, metrics)
    assert memory == (22, (1.0, 1.0), (2.0, 1.0))
    assert made.listens == {"a", "b"}
    with pytest.raises(ScheduleError, match="listens to 'b', which is not measured"):
        check_told([made], ["a"])


def test_nan_and_infinities_stand_in_the_history() -> None:
    made = following(lambda scores: sum(score == score for score in scores["loss"]), "loss", start=0)
    memory = made.start()
    for score in (1.0, float("nan"), float("inf")):
        memory = made.see(memory, {"loss": score})
    assert memory[0] == 2


def test_true_and_false() -> None:
    made = following(rising, "loss", start=False)
    assert made.kind == "bool"
    memory = made.see(made.see(made.start(), {"loss": 1.0}), {"loss": 2.0})
    assert made.at(Progress(), memory) is True
    assert made != following(rising, "loss", start=0)


def test_a_memory_out_of_a_file_goes_on() -> None:
    made = following(spread, "val.loss", start=0.5)
    memory = made.see(made.see(made.start(), {"val.loss": 1.0}), {"val.loss": 4.0})
    kept = json.loads(json.dumps(memory))
    assert made.see(kept, {"val.loss": 2.0}) == made.see(memory, {"val.loss": 2.0}) == (3.0, (1.0, 4.0, 2.0))


def test_numbers_of_torch_and_numpy_are_numbers() -> None:
    for one in (torch.tensor(0.25), np.float32(0.25)):
        made = following(lambda scores, one=one: one, "loss", start=one)
        assert type(made.at(Progress())) is float
        assert made.see(made.start(), {"loss": 1.0}) == (0.25, (1.0,))


def test_it_is_part_of_others() -> None:
    made = warmup(steps(4)) * pieces(1.0, (steps(2), following(spread, "val.loss", start=0.5))) * 0.1
    memory = made.see(made.see(made.start(), {"val.loss": 1.0}), {"val.loss": 3.0})
    assert [made.at(Progress(n), memory) for n in (0, 1, 2, 3)] == pytest.approx([0.025, 0.05, 0.15, 0.2])
    assert read(write(made), {"spread": spread}) == made
    assert repr(following(spread, "val.loss", start=0.5)) == "following(spread, 'val.loss', start=0.5)"


def test_in_a_run_it_hears_the_looks() -> None:
    x, y = torch.zeros(8, 2), torch.ones(8, 1)

    def by_looks(scores: History) -> float:
        return 0.1 / len(scores["val.loss"])

    rate = following(by_looks, "val.loss", start=0.1)
    net = torch.nn.Linear(2, 1, bias=False)
    result = etude.train(
        *(net, (x, y)),
        loss="mse",
        optimizer="sgd",
        epochs=4,
        batch_size=8,
        progress=False,
        validation=(x, y),
        learning_rate=rate,
    )
    assert result.history["rate"].values == pytest.approx([0.1, 0.1, 0.05, 0.1 / 3])


def test_a_trainer_keeps_the_history() -> None:
    def trainer() -> etude.Trainer:
        rate = 0.1 * following(spread, "val.loss", start=1.0)
        return etude.Trainer(torch.nn.Linear(2, 1), "sgd", learning_rate=rate)

    made, again = trainer(), trainer()
    for score in (1.0, 3.0):
        made.see({"val.loss": score})
    again.load_state_dict(made.state_dict())
    for each in (made, again):
        each.see({"val.loss": 0.5})
    assert made.learning_rate == again.learning_rate == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: following("val.loss", start=1), "a function of the scores is needed"),  # type: ignore[arg-type]
        (lambda: following(dict, "val.loss", start=1), "a function of the scores is needed"),  # type: ignore[arg-type]
        (lambda: following(spread, start=1), r"the names of scores are needed. Write following\(function, 'val.loss'"),
        (lambda: following(spread, "", start=1), "the names of scores are needed"),
        (lambda: following(spread, "loss", "loss", start=1), "a name stands twice among 'loss', 'loss'"),
        (lambda: following(spread, "loss", start="a"), "a finite number is needed, not 'a'"),  # type: ignore[arg-type]
        (lambda: following(spread, "loss", start=float("nan")), "a finite number is needed"),
    ],
)
def test_wrong_arguments(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


@pytest.mark.parametrize(
    ("function", "start", "message"),
    [
        (lambda scores: scores["loos"], 1.0, r"after 1 of 'loss' the function failed: KeyError: 'loos'. It is given a"),
        (lambda scores: "low", 1.0, "after 1 of 'loss': a finite number is needed, not 'low'"),
        (lambda scores: float("nan"), 1.0, "a finite number is needed"),
        (lambda scores: None, 1.0, "a finite number is needed"),
        (lambda scores: 1, True, "True or False is needed, as at the start, not 1"),
    ],
)
def test_a_function_that_fails_is_named(function: Any, start: float, message: str) -> None:
    made = following(function, "loss", start=start)
    with pytest.raises(ScheduleError, match=message):
        made.see(made.start(), {"loss": 1.0})
