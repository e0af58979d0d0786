"""What a trainer was asked for: default rates, defaults of single arrays, and what comes before what."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.bind.left import set_rules
from etude.errors import SettingError
from etude.step.optim.lars import Lars
from etude.step.optim.registry import OURS
from etude.step.optim.rule import Setting, UpdateRule
from etude.step.recipe import Recipe, settings_known
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.part import everything
from etude.values.rules import times
from etude.values.spans import steps
from nets import chain, give_gradients, graph


class Gentle(UpdateRule):
    """Pulls arrays to zero, vectors not, and has its own default of a setting that every trainer has."""

    name = "gentle"
    settings = {"pull": Setting(0.5, 0.0, 1.0)}  # noqa: RUF012
    memories = ()
    rate = 0.25

    def own_defaults(self, name: str, array: Tensor) -> Mapping[str, Any]:
        return {"pull": 0.0, "clip_value": 0.125} if array.dim() == 1 else {}

    def formula(self, array: Tensor, gradient: Tensor, memory: Any, count: Any, settings: Any, climb: bool) -> None:
        array.sub_(settings["learning_rate"] * (gradient + settings["pull"] * array))


def of(trainer: Trainer, setting: str) -> dict[str, Any]:
    return {name: choices[setting].at(trainer.progress) for name, choices in trainer.table.choices.items()}


@pytest.mark.parametrize("kind", OURS)
def test_the_learning_rate_is_the_rules_own_where_nothing_is_said(kind: type[UpdateRule]) -> None:
    assert Trainer(chain(), kind).learning_rate == kind.rate
    assert Trainer(chain(), kind(), learning_rate=0.5).learning_rate == 0.5


@pytest.mark.parametrize(("optimizer", "rate"), [("adadelta", 1.0), ("adamax", 0.002), ("torch.lbfgs", 1.0)])
def test_or_that_of_the_class_of_torch(optimizer: str, rate: float) -> None:
    trainer = Trainer(chain(), optimizer)
    assert trainer.learning_rate == rate
    assert set(of(trainer, "learning_rate").values()) == {rate}


def test_a_class_with_options_is_that_class_with_other_defaults() -> None:
    trainer = Trainer(chain(), partial(torch.optim.RMSprop, lr=0.5, alpha=0.75, centered=True), momentum=0.5)
    assert trainer.learning_rate == 0.5
    assert trainer.name == "RMSprop"
    assert set(of(trainer, "alpha").values()) == {0.75}
    group = trainer.optimizer.optimizer.param_groups[0]  # type: ignore[union-attr]
    assert (group["alpha"], group["centered"], group["momentum"]) == (0.75, True, 0.5)
    with pytest.raises(SettingError, match=r"RMSprop has no option 'alpa'. .*Nearest: \"alpha\""):
        Trainer(chain(), partial(torch.optim.RMSprop, alpa=0.5))


def test_a_rule_may_have_defaults_for_single_arrays() -> None:
    trainer = Trainer(chain(), Gentle)
    assert of(trainer, "pull") == {"0.weight": 0.5, "0.bias": 0.0, "2.weight": 0.5, "2.bias": 0.0}
    assert of(trainer, "clip_value")["0.bias"] == 0.125
    assert "pull = 0    (default of gentle for it)" in trainer.table.why("0.bias")
    assert "default of gentle for it" in trainer.table.show()
    net = trainer.net
    assert net is not None
    give_gradients(net, 0, scale=9.0)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    trainer.step()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        vector = parameter.dim() == 1
        slope = parameter.grad.clamp(-0.125, 0.125) if vector else parameter.grad + 0.5 * before[name]
        assert torch.allclose(parameter, before[name] - 0.25 * slope)


def test_what_the_call_says_wins_over_them_and_rules_by_part_win_over_all() -> None:
    said = Trainer(chain(), Gentle, pull=0.75)
    assert set(of(said, "pull").values()) == {0.75}
    ruled = Trainer(chain(), Gentle, rules={"pull": {"0.bias": 0.875, "2": times(0.5)}})
    assert of(ruled, "pull") == {"0.weight": 0.5, "0.bias": 0.875, "2.weight": 0.25, "2.bias": 0.0}
    net = chain()
    set_rules(net[2], pull=0.125)
    assert of(Trainer(net, Gentle), "pull") == {"0.weight": 0.5, "0.bias": 0.0, "2.weight": 0.125, "2.bias": 0.125}


def test_lars_leaves_vectors_and_biases_out_unless_told() -> None:
    assert of(Trainer(chain(), "lars"), "adapt") == {
        "0.weight": True,
        "0.bias": False,
        "2.weight": True,
        "2.bias": False,
    }
    assert set(of(Trainer(chain(), "lars", adapt=True), "adapt").values()) == {True}


def test_a_pair_of_betas_is_said_for_both() -> None:
    trainer = Trainer(chain(), {0: "adam", everything: "torch.nadam"}, betas=(0.5, 0.75))
    assert of(trainer, "beta1") == {"0.weight": 0.5, "0.bias": 0.5, "2.weight": "-", "2.bias": "-"}
    assert of(trainer, "betas")["2.weight"] == (0.5, 0.75)
    ruled = Trainer(chain(), {0: "adam", everything: "torch.nadam"}, rules={"betas": {everything: (0.5, 0.75)}})
    assert of(ruled, "beta2")["0.weight"] == 0.75
    assert of(ruled, "betas")["2.weight"] == (0.5, 0.75)


def test_a_new_rate_is_that_of_all_as_if_the_call_had_said_it() -> None:
    trainer = Trainer(graph(), {"a": "lion", everything: "adamw"})
    rates = of(trainer, "learning_rate")
    assert (rates["a.bias"], rates["b.bias"]) == (1e-4, 1e-3)
    trainer.set_learning_rate(0.5)
    trainer.freeze("a.weight")
    rates = of(trainer, "learning_rate")
    assert (rates["a.bias"], rates["b.bias"]) == (0.5, 0.5)


class Wrong(Gentle):
    def own_defaults(self, name: str, array: Tensor) -> Mapping[str, Any]:
        return {"pul": 0.0}


class TooMuch(Gentle):
    def own_defaults(self, name: str, array: Tensor) -> Mapping[str, Any]:
        return {"pull": 7.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Trainer(chain(), Wrong),
            r"The defaults of gentle have 'pul'. gentle has no setting 'pul'. ",
        ),
        (lambda: Trainer(chain(), TooMuch), r"pull.*7.0: allowed is \[0, 1\)"),
        (lambda: Trainer(chain(), Gentle, pull=1.0), r"pull=1.0: allowed is \[0, 1\)"),
        (
            lambda: Trainer(chain(), Gentle, pull=linear(0, 2, over=steps(9)), total=steps(9)),
            r"pull at step \d+=.*allowed is \[0, 1\)",
        ),
        (
            lambda: Trainer(chain(), Gentle, pul=1.0),
            r"gentle has no setting 'pul'. Nearest: \"pull\".* Settings: learning_rate, pull, clip",
        ),
        (lambda: Trainer(nn.LazyLinear(2), Lars), r"lars looks at the shapes of arrays, and 'weight' has none yet"),
        (lambda: Trainer(chain(), 3), "optimizer=3: a name, a class of torch.optim, an instance or a function"),
    ],
)
def test_what_cannot_be_is_said(make: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


def test_the_settings_that_are_known() -> None:
    assert {"learning_rate", "clip_norm", "momentum", "weight_decay"} <= set(settings_known("sgd") or ())
    assert {"foreach", "alpha"} <= set(settings_known("rmsprop") or ())
    assert {"beta1", "betas", "ns_steps", "adjust_lr_fn"} <= set(settings_known("muon") or ())
    assert {"momentum", "beta1"} <= set(settings_known({"a": "sgd", everything: "adam"}) or ())
    assert settings_known(lambda groups: torch.optim.SGD(groups)) is None


def test_the_name_of_a_recipe() -> None:
    recipe = lambda optimizer: Recipe(optimizer).name  # noqa: E731
    assert recipe("lion") == "lion"
    assert recipe("torch.sgd") == "SGD"
    assert recipe({"a": "muon", everything: "adam"}) == "Muon, adam"


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "nadam"])
def test_maximize_is_what_it_is_in_torch(name: str) -> None:
    net, twin = chain(), chain()
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "nadam": torch.optim.NAdam}[
        name
    ]
    ours = Trainer(net, name, learning_rate=0.1, weight_decay=0.1, maximize=True)
    theirs = kind(twin.parameters(), lr=0.1, weight_decay=0.1, maximize=True)
    for step in range(4):
        give_gradients(net, step)
        give_gradients(twin, step)
        ours.step()
        theirs.step()
        ours.zero_grad()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_part_that_climbs_goes_down_where_everything_climbs() -> None:
    net = graph()
    trainer = Trainer(
        net, {"a": "sgd", everything: "nadam"}, learning_rate=0.1, maximize=True, learning_rate_multipliers={"a": -1}
    )
    assert set(trainer.table.multipliers().values()) == {1.0}
    trainer.set_learning_rate(0.2)
    assert of(trainer, "learning_rate")["a.bias"] == 0.2
    assert of(Trainer(graph(), "lion", maximize=True), "learning_rate")["a.bias"] == -1e-4
    assert of(Trainer(graph(), "lion", maximize=False), "learning_rate")["a.bias"] == 1e-4
