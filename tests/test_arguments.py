"""Arguments that are wrong: what a call does not have is told with what was meant, and all that is wrong at once."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import etude
from etude.arguments import Faults, named, told_of
from etude.errors import CheckpointError, EtudeError, PartError, ScheduleError, SettingError
from etude.run.plan import OF_TRAIN, OF_TRAINER
from small import classified, mlp, options, trained


@named
def call(first: int, second: int = 2, *, third: int = 3) -> int:
    """Anything."""
    return first + second + third


def test_a_call_that_fits_is_the_call_itself() -> None:
    assert call(1, third=4) == 7
    assert call.__name__ == "call"
    assert list(inspect.signature(call).parameters) == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            lambda: call(1, thrid=2),
            "call(): There is no argument 'thrid'. Nearest: \"third\". Arguments: first, second",
        ),
        (
            lambda: call(1, secnd=2, thrd=3),
            "There is no argument 'secnd'. Nearest: \"second\". There is no argument 'thrd'.",
        ),
        (lambda: call(), "call(): Missing a required argument: 'first'. Arguments: first, second, third."),
        (lambda: call(1, 2, 3), "call(): Too many positional arguments. Arguments: first, second, third."),
        (lambda: etude.Directory("r", kep=etude.last(2)), "Directory(): There is no argument 'kep'. Nearest: \"keep\""),
        (lambda: etude.Evaluate(0.2, metric="accuracy"), 'Nearest: "metrics"'),
        (lambda: etude.ema(0.9, warmup=True), "ema(): There is no argument 'warmup'. Nearest: \"warm_up\""),
        (lambda: etude.warmup(etude.steps(3), form="linear"), "warmup(): There is no argument 'form'."),
        (lambda: etude.Run(), "Run(): Missing a required argument: 'plan'"),
        (lambda: etude.train(mlp()), "train(): Missing a required argument: 'data'"),
        (lambda: etude.Checkpoints("r", save_top_k=2), 'Nearest: "keep"'),
    ],
)
def test_arguments_that_are_not_there(wrong: Callable[[], Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        wrong()
    assert said in str(caught.value)


def test_an_error_of_what_is_called_comes_through() -> None:
    @named
    def broken(first: int) -> int:
        return first + "one"  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):
        broken(1)


def test_the_options_of_other_calls_are_those_they_have() -> None:
    plan = inspect.signature(etude.Plan).parameters
    train = inspect.signature(etude.train).parameters
    trainer = inspect.signature(etude.Trainer).parameters
    assert [name for name in train if name not in ("net", "data", "plan", "options")] == list(OF_TRAIN)
    assert set(OF_TRAINER) <= set(trainer) - set(plan)


# ------------------------------------------------------------------------------------------------- several at once


def check(text: str, kind: type[EtudeError] = SettingError) -> str:
    if text.startswith("bad"):
        raise kind(text)
    return text


def test_one_fault_alone_is_the_error_itself() -> None:
    faults = Faults()
    assert faults.take(check, "good") == "good"
    assert not faults
    faults.tell()
    assert faults.take(check, "bad one", ScheduleError) is None
    with pytest.raises(ScheduleError) as caught:
        faults.tell()
    assert str(caught.value) == "bad one"
    assert caught.value.faults == ()


def test_several_faults_are_one_error_that_lists_them() -> None:
    faults = Faults()
    for text in ("bad one", "bad two", "bad one"):
        faults.take(check, text)
    with pytest.raises(SettingError) as caught:
        faults.tell()
    assert str(caught.value) == "2 things are wrong.\nbad one\nbad two"
    assert [str(each) for each in caught.value.faults] == ["bad one", "bad two"]
    outer = Faults()
    outer.take(faults.tell)
    outer.take(check, "bad part", PartError)
    with pytest.raises(SettingError, match=r"^3 things are wrong\.\nbad one\nbad two\nbad part$"):
        outer.tell()


def test_several_faults_of_one_class_are_of_that_class() -> None:
    faults = Faults()
    faults.take(check, "bad one", PartError)
    faults.take(check, "bad two", PartError)
    with pytest.raises(PartError, match="2 things"):
        faults.tell()


def test_a_place_stands_before_what_is_told_of_it() -> None:
    with pytest.raises(PartError, match=r"^here: bad one$"), told_of("here"):
        check("bad one", PartError)
    with pytest.raises(CheckpointError) as caught, told_of("here"):
        raise CheckpointError("file", "this", "that")
    assert str(caught.value).startswith("file: expected this")


def test_all_that_is_wrong_in_a_plan_is_told_at_once() -> None:
    with pytest.raises(SettingError) as caught:
        etude.Plan("mse", epohcs=3, seed="1", weight_decay="0.1", optimizer="adamw", progress=True)
    assert len(caught.value.faults) == 3
    for piece in (
        "'epohcs'",
        'Nearest: "epochs"',
        "'progress' here: it is one of train()",
        "seed='1'",
        "weight_decay=",
    ):
        assert piece in str(caught.value)
    assert "How long" not in str(caught.value)


def test_all_that_is_wrong_in_a_call_of_train_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        etude.train(mlp(), classified(), loss="mse", epochs=0, progress=3, resume=3, until=5, listeners=3)  # type: ignore[arg-type]
    for piece in ("epochs=0", "progress=3", "resume=3", "until=5", "listeners=3"):
        assert piece in str(caught.value)


def test_every_part_that_is_not_there_is_told_at_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(PartError) as caught:
        trained(
            net,
            rules={"weight_decay": {"zero": 0.0}, "learning_rate": {"one": 0.1}},
            update_schedule=["two", "0"],
        )
    for piece in ("part('zero')", "part('one')", "In the update schedule: part('two')"):
        assert piece in str(caught.value)


def test_a_misspelt_option_is_not_hidden_by_what_follows_from_it() -> None:
    with pytest.raises(SettingError, match=r"^There is no option 'epoch'. Nearest: \"epochs\""):
        etude.Plan("mse", epoch=3)
    with pytest.raises(SettingError, match=r"'batch_sixe'. Nearest: \"batch_size\""):
        etude.Plan(updates=[etude.Update("one", "mse")], batch_sixe=3, epochs=1)


def test_an_option_that_only_the_optimizer_could_know_is_still_a_slip_of_ours() -> None:
    def made(groups: Any) -> Any:
        raise AssertionError("nobody asked for it")

    with pytest.raises(SettingError, match=r"'epohcs'. Nearest: \"epochs\""):
        etude.Plan("mse", optimizer=made, epohcs=3)
    with pytest.raises(SettingError, match=r"(?s)'epohcs'.*There is no optimizer 'adamx'"):
        etude.Plan("mse", optimizer="adamx", epohcs=3)


def test_an_optimizer_beside_updates_is_refused() -> None:
    with pytest.raises(SettingError, match=r"optimizer: with updates=.* said in each Update"):
        etude.Plan(**options(loss=None, optimizer="sgd", updates=[etude.Update("one", "mse")]))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"round_length": "3"}, r"round_length='3' is no number of batches"),
        ({"validation": True}, r"validation=True: data, a fraction"),
        (
            {"updates": [etude.Update("one", "mse")], "weight_decay": 0.1},
            r"weight_decay: with updates=.* in each Update",
        ),
    ],
    ids=["round_length", "validation", "updates"],
)
def test_what_is_wrong_without_a_net_too_is_told_with_other_mistakes(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=f'(?s)2 things.*Nearest: "epochs".*{said}'):
        etude.Plan(epochz=3, **wrong)


def test_a_turn_that_hears_nothing_is_refused() -> None:
    turn = etude.when("tow.loss", above=1.0)
    both = [etude.Update("one", "cross_entropy", "0", turn=turn), etude.Update("two", "cross_entropy", "2")]
    with pytest.raises(ScheduleError, match=r"Update\('one'\), its turn: .*not measured.*Nearest: \"two.loss\""):
        trained(loss=None, updates=both)


def test_a_setting_of_another_kind_is_refused_before_the_first_step() -> None:
    rules = {"weight_decay": {"0": "0.1"}}
    with pytest.raises(SettingError, match=r"weight_decay='0.1': a finite number is needed. The default is 0"):
        trained(optimizer="rmsprop", rules=rules)
    with pytest.raises(SettingError, match=r"centered=1: True or False is needed"):
        trained(optimizer="rmsprop", centered=1)
    with pytest.raises(SettingError, match=r"weight_decay=inf: a finite number is needed"):
        trained(optimizer="rmsprop", weight_decay=math.inf)
    with pytest.raises(SettingError, match=r"weight_decay=-1.0: a number of at least 0 is needed"):
        trained(optimizer="rmsprop", rules={"weight_decay": {"0": -1.0}})
