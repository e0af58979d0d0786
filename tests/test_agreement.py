"""What a checkpoint and the program that goes on from it must agree in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import etude
from etude import Directory, every, steps
from etude.data.saying import option_text
from etude.errors import CheckpointError, PlanError, SettingError
from etude.keep import files
from etude.run.agreement import Difference, differences, tell_machine
from etude.run.said import first_batch
from small import Noisy, arrays, classified, mlp, same, trained


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A checkpoint in the middle of a run of two epochs."""
    return trained(Noisy(), checkpoint=Directory(tmp_path, every(steps(2))), epochs=2).checkpoints[0]


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "learning_rate": ({"learning_rate": 0.5}, r"learning_rate: \(nothing said\) in the file, 0\.5 now"),
    "epochs": ({"epochs": 3}, r"epochs: 2 in the file, 3 now"),
    "seed": ({"seed": 7}, r"seed: \(nothing said\) in the file, 7 now"),
    "optimizer": ({"optimizer": "adam"}, r"optimizer: \(nothing said\) in the file, 'adam' now"),
    "weight_decay": ({"weight_decay": 0.5}, "weight_decay"),
    "compile": ({"compile": True}, "compile"),
    "learning_rate_multipliers": ({"learning_rate_multipliers": {"head": 0}}, "learning_rate_multipliers"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_plan_that_says_something_else_is_refused_with_what_differs(name: str, file: str) -> None:
    changed, told = CHANGED[name]
    net = Noisy()
    before = arrays(net)
    with pytest.raises(PlanError, match=told) as error:
        trained(net, resume=file, **{"epochs": 2, **changed})
    assert f"'{name}'" in str(error.value)
    assert "Nothing was changed" in str(error.value)
    assert same(before, arrays(net))


def test_what_is_accepted_goes_on(file: str) -> None:
    for accept in ("epochs", ["epochs"], True):
        assert trained(Noisy(), resume=file, epochs=3, accept=accept).steps == 9
    faster = {"epochs": 2, "learning_rate": 0.1}
    assert trained(Noisy(), resume=file, accept=["learning_rate"], **faster).history["rate"].values[2] == 0.1


def test_what_is_accepted_may_agree_by_now(file: str) -> None:
    assert trained(Noisy(), resume=file, epochs=2, accept=["epochs", "learning_rate"]).steps == 6


def test_a_misspelt_difference_is_named(file: str) -> None:
    with pytest.raises(SettingError, match=r'accept=.epoch.: there is nothing of that name.*Nearest: "epochs"'):
        trained(Noisy(), resume=file, epochs=3, accept="epoch")


def test_other_data_are_seen(file: str) -> None:
    with pytest.raises(PlanError, match=r"data: 10 samples in 3 batches"):
        trained(Noisy(), classified(11), resume=file, epochs=2)
    with pytest.raises(PlanError, match=r"data: .* digest"):
        trained(Noisy(), classified(10, seed=9), resume=file, epochs=2)


def test_rules_left_on_modules_are_seen(file: str) -> None:
    net = Noisy()
    etude.set_rules(net.head, learning_rate_multipliers={"bias": 3})
    with pytest.raises(PlanError, match=r"settings: 'head\.bias' moves by rules with digest"):
        trained(net, resume=file, epochs=2)


def test_what_is_frozen_or_in_evaluation_is_seen(file: str) -> None:
    net = Noisy()
    net.head.bias.requires_grad = False
    with pytest.raises(
        PlanError, match=r"settings: 'head\.bias' moves by rules .* in the file, 'head\.bias' not there now"
    ):
        trained(net, resume=file, epochs=2)
    net = Noisy()
    net.body[3].eval()
    with pytest.raises(PlanError, match=r"modes: 'body\.3' not there in the file, 'body\.3' evaluation now"):
        trained(net, resume=file, epochs=2)


def test_another_net_is_refused_whatever_is_accepted(file: str) -> None:
    with pytest.raises(PlanError, match="take arrays that fit with load_net"):
        trained(mlp(), resume=file, epochs=2)
    with pytest.raises(PlanError, match=r"net: .body\.0\.weight' torch\.float32 \(8, 4\), .* and 9 more in the file"):
        trained(mlp(), resume=file, epochs=2)
    with pytest.raises(CheckpointError, match="the arrays of this net"):
        trained(mlp(), resume=file, epochs=2, accept=True)


def test_workers_and_time_may_differ(file: str, tmp_path: Path) -> None:
    more = {"time_limit": etude.hours(1), "checkpoint": tmp_path / "b", "device": "cpu"}
    assert trained(Noisy(), resume=file, epochs=2, **more).steps == 6


def test_functions_and_objects_are_told_without_their_address(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"loss": {"a": nn.CrossEntropyLoss(), "b": lambda o: (o**2).mean()}, "epochs": 2}
    kept = trained(Noisy(), checkpoint=Directory(tmp_path, every(steps(2))), **plan)
    again = {"loss": {"a": nn.CrossEntropyLoss(), "b": lambda o: (o**2).mean()}, "epochs": 2}
    assert same(arrays(kept.net), arrays(trained(Noisy(), resume=kept.checkpoints[0], **again).net))


def test_another_machine_is_told(file: str) -> None:
    saved = files.read_record(file)["machine"]
    with pytest.warns(UserWarning, match=r"torch 0\.1 -> .*the same bits are not promised"):
        tell_machine(file, {**saved, "torch": "0.1"}, saved)
    assert saved["threads"] == str(torch.get_num_threads())


def test_differences_by_name() -> None:
    few = list(differences({"net": {"a": "x", "b": "y"}}, {"net": {"a": "x", "c": "z"}}))
    assert few == [Difference("net", "'b' y, 'c' not there", "'b' not there, 'c' z")]
    found = list(differences({"a": "1", "b": "2", "settings": "x"}, {"a": "1", "c": "3", "settings": "y"}))
    assert found == [Difference("b", "2", "(nothing said)"), Difference("c", "(nothing said)", "3")]
    assert [one.name for one in differences({"settings": "x"}, {"settings": "y"})] == ["settings"]


def test_a_batch_by_its_numbers() -> None:
    x, y = classified()
    assert first_batch((x, y)) == first_batch((x.clone(), y.clone()))
    assert first_batch((x, y)) != first_batch((x + 1e-6, y))
    assert first_batch((x, y)) != first_batch((x.double(), y))
    assert first_batch((x.numpy(), "text")) == first_batch((x.numpy().copy(), "text"))


@dataclass
class Chosen:
    which: frozenset[str]


def test_what_has_no_order_is_told_in_one() -> None:
    words = [f"word{i}" for i in range(20)]
    assert option_text(set(words)) == option_text(frozenset(words)) == "{" + ", ".join(map(repr, sorted(words))) + "}"
    assert option_text(Chosen(frozenset("ab"))) == "Chosen(which={'a', 'b'})"
