"""A setting by keyword is a value, a schedule, or rules by part."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from torch import nn

import etude
from etude.errors import EtudeError, PartError, SettingError
from etude.step.trainer import Trainer
from etude.step.update import Update
from etude.values.curves import linear
from etude.values.part import everything, part
from etude.values.progress import Progress
from etude.values.rules import rules, times
from etude.values.spans import steps
from nets import graph


def values(trainer: Trainer, setting: str) -> dict[str, Any]:
    now = trainer.table.at(trainer.progress)
    of = {i: now.columns[setting][group.row] for group in now.moving.groups for i in group.indices}
    return {trainer.table.names[i]: value for i, value in of.items()}


LITERAL = {"a": 0.5, "*.bias": 0.25}
FORMS = [LITERAL, list(LITERAL.items()), rules(LITERAL)]


@pytest.mark.parametrize("form", FORMS, ids=["dict", "pairs", "rules"])
@pytest.mark.parametrize(
    ("optimizer", "setting"), [("adamw", "weight_decay"), ("nadam", "weight_decay"), ("sgd", "noise")]
)
def test_each_form_is_what_rules_say(form: Any, optimizer: str, setting: str) -> None:
    one = Trainer(graph(), optimizer, learning_rate=0.1, **{setting: form})
    other = Trainer(graph(), optimizer, learning_rate=0.1, rules={setting: LITERAL})
    assert values(one, setting) == values(other, setting)
    assert values(one, setting)["a.bias"] == 0.5
    assert values(one, setting)["b.bias"] == 0.25
    assert one.table.choices["a.weight"][setting].rule.startswith("part('a'): 0.5")
    assert one.state_dict()["rules"] == other.state_dict()["rules"]


def test_where_no_rule_decides_the_default_does() -> None:
    assert values(Trainer(graph(), "adamw", weight_decay={"a": 0.5}), "weight_decay")["b.weight"] == 0.01
    assert values(Trainer(graph(), clip_norm={"a": 0.5}), "clip_norm")["b.weight"] == inf
    assert values(Trainer(graph(), clip_norm={"a": None, everything: 2}), "clip_norm")["a.weight"] == inf


def test_values_are_schedules_and_multiples_too() -> None:
    ramp = linear(0.0, 1.0, over=steps(10))
    trainer = Trainer(graph(), "adamw", l2={"a": ramp, "b": times(3)}, weight_decay={"a": times(10), everything: 0})
    assert trainer.table.choices["a.weight"]["l2"].at(Progress(5)) == 0.5
    assert values(trainer, "weight_decay")["a.weight"] == pytest.approx(0.1)


def test_betas_and_rates() -> None:
    trainer = Trainer(graph(), "adamw", betas={"a": (0.5, 0.6)}, learning_rate={"a": 1e-2, "b": 0})
    assert values(trainer, "beta1")["a.weight"] == 0.5
    assert values(trainer, "beta2")["out.weight"] == 0.999
    assert values(trainer, "learning_rate")["a.weight"] == 1e-2
    assert "b.weight" not in values(trainer, "learning_rate")
    assert values(trainer, "learning_rate")["out.weight"] == 1e-3


def test_several_optimizers() -> None:
    trainer = Trainer(
        graph(), {"a": "sgd", everything: "adamw"}, learning_rate=0.1, weight_decay={"b": 0.3}, momentum={"a": 0.9}
    )
    assert values(trainer, "weight_decay")["b.weight"] == 0.3
    assert values(trainer, "momentum")["a.weight"] == 0.9


def test_updates_and_plans() -> None:
    update = Update("one", "mse", clip_norm={"a": 1.0}, weight_decay=[(part(nn.Linear), 0.0)])
    assert set(update.recipe(False).rules) == {"clip_norm", "weight_decay"}
    plan = etude.Plan(loss="mse", clip_norm={"a": 1.0}, epochs=1)
    assert plan.settings["clip_norm"] == {"a": 1.0}


def test_given_twice_is_refused() -> None:
    with pytest.raises(SettingError, match=r"clip_norm= is given by part, and rules=\{'clip_norm': \.\.\.\} too"):
        Trainer(graph(), clip_norm={"a": 1.0}, rules={"clip_norm": {"b": 1.0}})
    with pytest.raises(SettingError, match="both decide the rate"):
        Trainer(graph(), learning_rate={"a": 1.0}, learning_rate_multipliers={"b": 2.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_norm": {"a": -1.0}}, r"the rule part\('a'\) for clip_norm=-1\.0"),
        ({"clip_norm": {"a": "x"}}, "a finite number is needed"),
        ({"clip_nrm": {"a": 1.0}}, 'Nearest: "clip_norm"'),
        ({"weight_decay": {"a": None}}, "only a learning rate can be FROZEN or None"),
        ({"weight_decay": [0.1, 0.2]}, "weight_decay"),
    ],
)
def test_what_is_wrong_in_them_is_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EtudeError, match=message):
        Trainer(graph(), **settings)


def test_a_part_that_is_not_there() -> None:
    with pytest.raises(PartError, match="'aa'"):
        Trainer(graph(), clip_norm={"aa": 1.0})


def test_changed_while_training() -> None:
    trainer = Trainer(graph(), clip_norm={"a": 1.0})
    trainer.change("clip_norm", {"a": None, "b": 3.0})
    assert values(trainer, "clip_norm")["a.weight"] == inf
    assert values(trainer, "clip_norm")["b.weight"] == 3.0
