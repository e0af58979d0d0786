"""A plateau: falls as torch's does, and what it does better."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

import etude
from etude.errors import ScheduleError
from etude.values.curves import warmup
from etude.values.progress import Extent, Progress
from etude.values.reactive import check_told, plateau
from etude.values.schedule import Schedule, constant, cycle, pieces
from etude.values.spans import steps
from etude.values.text import read, write


def turns(made: Schedule, scores: list[float], name: str = "loss") -> list[Any]:
    """The values at the start and after each score."""
    memory, seen = made.start(), [made.at(Progress(), made.start())]
    for step, score in enumerate(scores, 1):
        memory = made.see(memory, {name: score})
        seen.append(made.at(Progress(step), memory))
    return seen


def falls(made: Schedule, scores: list[float], name: str = "loss") -> list[float]:
    """The factor after each score."""
    return turns(made, scores, name)[1:]


@pytest.mark.parametrize("seed", range(40))
def test_a_plateau_is_that_of_torch(seed: int) -> None:
    draw = random.Random(seed)
    mode, threshold_mode = draw.choice(["min", "max"]), draw.choice(["rel", "abs"])
    options: dict[str, Any] = {
        "factor": draw.choice([0.1, 0.5, 0.9]),
        "patience": draw.randrange(5),
        "threshold": draw.choice([0.0, 1e-4, 0.05]),
        "threshold_mode": threshold_mode,
        "cooldown": draw.randrange(4),
    }
    low = draw.choice([0.0, 0.03])
    level = 1.0 if threshold_mode == "rel" else 0.0
    scores = [level + draw.gauss(0, 0.2) ** 2 * draw.choice([1, 1, 1, float("nan")]) for _ in range(200)]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, min_lr=0.3 * low, eps=0.0, **options)
    theirs = []
    for score in scores:
        peer.step(score)
        theirs.append(optimizer.param_groups[0]["lr"])
    ours = falls(0.3 * plateau("loss", mode, low=low, **options), scores)
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert ours[-1] < 0.3


def test_the_look_after_its_patience_makes_it_fall() -> None:
    assert falls(plateau("loss", patience=2, factor=0.5), [1, 1, 1, 1, 1, 1, 1]) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert falls(plateau("loss", patience=0, factor=0.5), [1, 1, 0.5, 1]) == [1, 0.5, 0.5, 0.25]
    assert falls(plateau("loss", patience=0, factor=0.5, cooldown=2), [1] * 6) == [1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert falls(plateau("loss", patience=0, factor=0.1, low=0.05), [1] * 5) == [1, 0.1, 0.05, 0.05, 0.05]


def test_nan_and_infinities_are_no_improvement() -> None:
    nan, inf = float("nan"), float("inf")
    for mode, scores in (("min", [nan, -inf, 1.0, -inf]), ("max", [nan, inf, 1.0, inf])):
        assert falls(plateau("x", mode, patience=1, factor=0.5), scores, "x") == [1, 0.5, 0.5, 0.5]
        made = plateau("x", mode, patience=9)
        memory = made.start()
        for score in scores:
            memory = made.see(memory, {"x": score})
        assert memory == (0, 1.0, 1, 0)


def test_among_scores_below_nothing_a_worse_one_is_no_improvement() -> None:
    # torch's relative threshold takes -0.99995 for better than -1.
    scores = [-1.0, -0.99995, -0.9999, -0.99985]
    assert falls(plateau("loss", patience=0, factor=0.5), scores) == [1, 0.5, 0.25, 0.125]
    assert falls(plateau("loss", patience=0, factor=0.5), [-1.0, -1.1, -1.2]) == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(("loss", "min"), ("val.loss", "min"), ("critic_Loss", "min"), ("val.error_rate", "min"), ("val.rmse", "min")),
        *(("val.perplexity", "min"), ("val.accuracy", "max"), ("top5_accuracy", "max")),
    ],
)
def test_the_end_of_a_name_says_which_way_is_better(name: str, mode: str) -> None:
    assert plateau(name) == plateau(name, mode)
    assert plateau(name, "max") != plateau(name, "min")


def test_what_a_plateau_remembers_is_four_numbers_that_json_keeps() -> None:
    made = plateau("loss", patience=1)
    memory = made.start()
    assert made.at(Progress(), memory) == made.at(Progress()) == 1.0
    for score in (1.0, 0.5, 0.6, 0.7):
        again = json.loads(json.dumps(memory, allow_nan=False))
        memory = made.see(memory, {"loss": score, "other": 0.0})
        assert made.see(again, {"loss": score}) == memory
    assert memory == (1, 0.5, 0, 0)
    assert made.see(memory, {"accuracy": 0.1}) == memory
    assert made.at(Progress(), list(memory)) == 0.1
    assert made.see(None, {"loss": torch.tensor(2.0)}) == (0, 2.0, 0, 0)  # type: ignore[dict-item]


def test_a_plateau_inside_a_warm_up() -> None:
    made = warmup(steps(4)) * plateau("loss", patience=0, factor=0.5) * 1e-3
    assert turns(made, [1.0] * 5) == pytest.approx([2.5e-4, 5e-4, 3.75e-4, 2.5e-4, 1.25e-4, 6.25e-5])
    made.check(Extent(steps=10))
    assert read(write(made)) == made


def test_a_plateau_inside_a_warm_up_inside_a_cycle() -> None:
    turn = (warmup(steps(2)) * plateau("loss", patience=0, factor=0.5) * 1.0).until(steps(3))
    made = cycle(turn, constant(0.01).until(steps(1)))
    made.check(Extent(steps=12))
    # It falls by what is seen, whichever turn it is; each turn begins with the warm-up again.
    values = turns(made, [1.0] + [float("nan")] * 7)
    assert values == [0.5, 1.0, 0.5, 0.01, 0.5 / 8, 1 / 16, 1 / 32, 0.01, 0.5 / 128]
    assert read(write(made)) == made


def test_plateaus_in_pieces_each_with_a_memory() -> None:
    made = pieces(
        warmup(steps(2)) * 0.1, (steps(2), 0.1 * plateau("loss", patience=1)), (steps(4), plateau("val.accuracy"))
    )
    memory = made.start()
    for _ in range(3):
        memory = made.see(memory, {"loss": 1.0})
    assert [made.at(Progress(n), memory) for n in (0, 1, 2, 3, 4)] == pytest.approx([0.05, 0.1, 0.01, 0.01, 1.0])
    assert made.listens == {"loss", "val.accuracy"}
    assert json.loads(json.dumps(memory)) is not None
    made.check(Extent(steps=9))


def test_a_plateau_steps_a_trainer_and_is_saved_with_it() -> None:
    def trainer() -> etude.Trainer:
        rate = warmup(steps(2)) * plateau("val.loss", patience=0, factor=0.5) * 0.1
        return etude.Trainer(torch.nn.Linear(2, 1), "sgd", learning_rate=rate)

    made, rates = trainer(), []
    for score in (1.0, 1.0, 1.0):
        made.net(torch.ones(1, 2)).sum().backward()
        made.step()
        made.see({"val.loss": score})
        rates.append(made.learning_rate)
    assert rates == pytest.approx([0.1, 0.05, 0.025])
    again = trainer()
    again.load_state_dict(made.state_dict())
    again.see({"val.loss": 1.0})
    assert again.learning_rate == pytest.approx(0.0125)


def test_a_plateau_hears_the_scores_of_a_run() -> None:
    # Targets that no input explains: the validation loss does not improve from look to look.
    x, y = torch.zeros(8, 2), torch.zeros(8, 1)
    rate = 0.1 * plateau("val.loss", patience=0, factor=0.5)
    options: dict[str, Any] = {"optimizer": "sgd", "epochs": 4, "batch_size": 8, "progress": False}
    net = torch.nn.Linear(2, 1, bias=False)
    result = etude.train(net, (x, y), loss="mse", validation=(x, y), learning_rate=rate, **options)
    assert result.history["rate"].values == pytest.approx([0.1, 0.1, 0.05, 0.025])


def test_a_plateau_is_a_value_that_prints_as_its_call() -> None:
    made = plateau("val.loss", factor=0.5, patience=3, threshold_mode="abs", low=0.01)
    assert repr(made) == "plateau('val.loss', 'min', factor=0.5, patience=3, threshold_mode='abs', low=0.01)"
    assert read(write(made)) == made
    assert hash(read(write(made))) == hash(made)
    assert repr(plateau("auc", "max")) == "plateau('auc', 'max')"
    assert (made.kind, made.reactive, made.constant, made.listens) == ("number", True, False, {"val.loss"})
    made.check(Extent())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plateau(""), r"the name of a score is needed. Write plateau\('val.loss'\)"),
        (lambda: plateau(0.5), "the name of a score is needed"),  # type: ignore[arg-type]
        (lambda: plateau("bleu"), r"whether less or more is better; names.*Write plateau\('bleu', mode='min'\) or"),
        (lambda: plateau("f1", "mx"), "mode is one of 'min', 'max'. Nearest: \"max\""),
        (lambda: plateau("f1", 1), "mode is one of 'min', 'max'"),  # type: ignore[arg-type]
        (lambda: plateau("loss", factor=1), "factor must be above 0 and below 1. Write factor=0.5"),
        (lambda: plateau("loss", factor=0), "factor must be above 0 and below 1"),
        (lambda: plateau("loss", factor="a"), "a finite number is needed"),  # type: ignore[arg-type]
        (lambda: plateau("loss", patience=-1), "patience is a whole number of looks, at least 0. Write patience=3"),
        (lambda: plateau("loss", patience=1.5), "patience is a whole number"),  # type: ignore[arg-type]
        (lambda: plateau("loss", patience=True), "patience is a whole number"),
        (lambda: plateau("loss", cooldown=-1), "cooldown is a whole number of looks"),
        (lambda: plateau("loss", threshold=-1e-3), "threshold must be at least 0. Write threshold=1e-3"),
        (lambda: plateau("loss", threshold=float("nan")), "a finite number is needed"),
        (lambda: plateau("loss", threshold_mode="relative"), "threshold_mode is one of 'rel', 'abs'"),
        (lambda: plateau("loss", low=2), "low is a share of the rate, from 0 to 1. Write low=0.01"),
        (lambda: check_told([plateau("val.los", "min")], ["val.loss"]), "listens to 'val.los', which is not measured"),
        (lambda: check_told([plateau("val.los", "min")], ["val.loss"]), "are 'val.loss'.* Nearest: \"val.loss\""),
        (lambda: check_told([1.0 * plateau("val.loss")], []), "Nothing is: write validation=0.2"),
    ],
)
def test_wrong_plateaus(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()


def test_the_rate_itself_with_a_start() -> None:
    made = plateau("loss", patience=0, factor=0.5, start=0.8, low=0.3)
    assert turns(made, [1.0] * 4) == [0.8, 0.8, 0.4, 0.3, 0.3]
    assert repr(made) == "plateau('loss', 'min', factor=0.5, patience=0, low=0.3, start=0.8)"
    assert read(write(made)) == made


def test_of_several_names_the_first_measured_counts_and_different_ones_are_not_compared() -> None:
    made = plateau(("a_loss", "b_loss"), patience=1, factor=0.5)
    memory = made.start()
    for metrics in ({"b_loss": 1.0}, {"b_loss": 1.0, "other": 0.0}, {"a_loss": 5.0, "b_loss": 0.1}, {"a_loss": 5.0}):
        memory = made.see(memory, metrics)
    # 5 is the first score of its name: no worse than 1.
    assert memory == (0, 5.0, 1, 0, 0)
    assert made.see(memory, {"a_loss": 5.0})[0] == 1
    assert read(write(made)) == made
    assert made.listens == {"a_loss", "b_loss"}


def total(scores: dict[str, float]) -> float:
    return scores["ce"] + 0.5 * scores["ctc"]


def test_a_function_of_scores() -> None:
    made = plateau(total, "min", patience=0, factor=0.5, names=("ce", "ctc"))
    memory = made.see(made.start(), {"ce": 1.0, "ctc": 2.0})
    assert memory == (0, 2.0, 0, 0)
    assert made.see(memory, {"ce": 0.0}) == memory
    assert made.see(memory, {"ce": 1.0, "ctc": 1.0}) == (0, 1.5, 0, 0)
    assert made.see(memory, {"ce": 2.0, "ctc": 1.0})[0] == 1
    assert repr(made) == "plateau(total, 'min', factor=0.5, patience=0, names=('ce', 'ctc'))"
    assert read(write(made), {"total": total}) == made


def test_it_goes_back_to_the_best_net_when_it_falls_and_not_once_it_is_at_its_lowest() -> None:
    made = plateau("loss", patience=0, factor=0.5, low=0.25, back_to_best="keep")
    memory, asked = made.start(), []
    for score in (1.0, 1.0, 1.0, 1.0, 1.0, 0.5):
        before, memory = memory, made.see(memory, {"loss": score})
        asked.append(made.asks_for_best(before, memory))
    assert asked == ["", "keep", "keep", "", "", ""]
    assert made.at(Progress(), memory) == 0.25
    assert made.goes_back
    assert not plateau("loss").goes_back
    assert plateau("loss").asks_for_best((0, 1.0, 0, 0), (1, 1.0, 0, 0)) == ""
    assert read(write(made)) == made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plateau("loss", start=0), "it must start above 0, for it is multiplied. Write start=1.0"),
        (lambda: plateau("loss", start=0.1, low=0.2), "low is the least value, from 0 to 0.1. Write low=0.001"),
        (lambda: plateau("loss", back_to_best=True), r"True does not say what .* Write back_to_best='clear' or"),
        (lambda: plateau("loss", back_to_best="kept"), "'kept' does not say what becomes of the optimizer's memory"),
        (lambda: plateau(("loss", "loss")), "a name stands there twice. Write each once"),
        (lambda: plateau(("loss", 1)), "the name of a score is needed"),  # type: ignore[arg-type]
        (lambda: plateau(()), "the name of a score is needed"),
        (lambda: plateau(("loss", "accuracy")), "the name does not say whether less or more is better"),
        (lambda: plateau("loss", names=("ce",)), r"names=\('ce',\) is for a function of scores"),
        (lambda: plateau(total, "min"), "the names of the scores that the function is given are needed"),
        (lambda: plateau(total, names=("ce", "ctc")), "a function's score is better: write mode='min' or mode='max'"),
        (lambda: plateau(total, "min", names=("ce", "cts")), "made no number of .*KeyError: 'ctc'. It is given a dict"),
        (lambda: plateau(str, "min", names=("ce",)), "the name of a score is needed"),
    ],
)
def test_wrong_options(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()
