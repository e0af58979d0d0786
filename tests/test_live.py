"""Changes while training: freeze, thaw, change, requires_grad, arrays that get their shape late."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude.errors import PartError, RuleError, SettingError, StaleGradientError
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import everything, part
from etude.values.rules import times
from etude.values.schedule import cycle, pieces
from etude.values.spans import steps
from nets import alike, arrays, chain, changed, data, give_gradients, graph, memory_of, same_memory, tied, walk

X, Y = data(1)[0]
A, B, OUT = ({f"{name}.weight", f"{name}.bias"} for name in ("a", "b", "out"))
RULES = ["adamw", "sgd", "lion", "nadam", "torch.adamw"]


def backward(net: nn.Module) -> None:
    (net(X) - Y).square().mean(1).sum().backward()


def step(net: nn.Module, trainer: Trainer) -> set[str]:
    before = arrays(net)
    backward(net)
    trainer.step(8)
    return changed(before, net)


def given(net: nn.Module, trainer: Trainer, seed: int = 0) -> set[str]:
    """The same with gradients drawn for every array, wanted or not."""
    before = arrays(net)
    give_gradients(net, seed)
    trainer.step(8)
    for parameter in net.parameters():
        parameter.grad = None
    trainer.zero_grad()
    return changed(before, net)


# freeze and thaw


@pytest.mark.parametrize("rule", RULES)
def test_what_is_frozen_stays_with_its_memory_and_goes_on_when_thawed(rule: str) -> None:
    net = graph()
    trainer = Trainer(net, rule, learning_rate=0.01, weight_decay=0.1)
    assert given(net, trainer, 0) == A | B | OUT
    trainer.freeze("a")
    memory = memory_of(trainer)
    for n in range(2):
        assert given(net, trainer, n) == B | OUT
    after = memory_of(trainer)
    assert all(same_memory(memory[name], after[name]) for name in A)
    trainer.thaw("a")
    assert given(net, trainer, 3) == A | B | OUT
    if rule == "adamw":
        counts = {name: own["count"] for name, own in memory_of(trainer).items()}
        assert {counts[name] for name in A} == {2}
        assert {counts[name] for name in B | OUT} == {4}


@pytest.mark.parametrize("rule", RULES)
def test_thawing_can_begin_anew(rule: str) -> None:
    net, twin = graph(), graph()
    trainer = Trainer(net, rule, learning_rate=0.01)
    given(net, trainer, 0)
    trainer.freeze("a")
    trainer.thaw("a", reset=True)
    assert not any(memory_of(trainer)[name] for name in A)
    assert all(memory_of(trainer)[name] for name in B if rule != "sgd")
    twin.load_state_dict(net.state_dict())
    other = Trainer(twin, rule, learning_rate=0.01)
    given(net, trainer, 1)
    given(twin, other, 1)
    assert all(torch.allclose(getattr(net.a, k), getattr(twin.a, k), atol=1e-6) for k in ("weight", "bias"))


def test_freezing_wins_over_every_rule_until_it_is_taken_back() -> None:
    net = graph()
    trainer = Trainer(net, learning_rate_multipliers={"a": 2, "b": 0}, update_schedule=cycle(everything, "a"))
    trainer.freeze("a")
    assert step(net, trainer) == OUT
    trainer.change("learning_rate_multipliers", {"a": 5})
    assert step(net, trainer) == set()
    assert step(net, trainer) == OUT
    trainer.thaw("a")
    assert step(net, trainer) == A
    assert step(net, trainer) == A | OUT
    trainer.thaw("b")
    assert step(net, trainer) == A
    assert step(net, trainer) == A | B | OUT


def test_freezing_twice_is_freezing_once() -> None:
    net = graph()
    trainer = Trainer(net)
    trainer.freeze("a")
    trainer.freeze(part("a") | "b.bias")
    assert step(net, trainer) == OUT | {"b.weight"}
    trainer.thaw("a.weight")
    assert step(net, trainer) == OUT | {"b.weight", "a.weight"}


def test_the_forms_of_a_part() -> None:
    net = graph()
    trainer = Trainer(net)
    for place, left in ((net.a, B | OUT), ("*.weight", {"b.bias", "out.bias"}), (net.b.bias, {"out.bias"})):
        trainer.freeze(place)
        assert step(net, trainer) == left


def test_a_schedule_that_freezes_and_a_freeze_at_once() -> None:
    net = graph()
    late = {"b": pieces(FROZEN, (steps(2), 1))}
    trainer = Trainer(net, learning_rate_multipliers=late)
    trainer.freeze("out")
    assert step(net, trainer) == A
    trainer.thaw("out")
    assert [step(net, trainer), step(net, trainer)] == [A | OUT, A | B | OUT]
    trainer.freeze("b")
    assert step(net, trainer) == A | OUT


def test_everything_may_be_frozen() -> None:
    net = graph()
    trainer = Trainer(net, weight_decay=0.1, shrink=0.1)
    trainer.freeze(everything)
    assert step(net, trainer) == set()
    assert trainer.progress.step == 1
    trainer.thaw(everything)
    assert step(net, trainer) == A | B | OUT


def test_a_shared_array_is_frozen_by_either_name() -> None:
    for name in ("emb.weight", "out.weight"):
        net = tied()
        trainer = Trainer(net)
        trainer.freeze(name)
        assert given(net, trainer) == {"emb.bias", "out.bias"}


def test_what_a_gradient_was_while_frozen_is_not_applied_when_thawed() -> None:
    net, twin = graph(), graph()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1), Trainer(twin, "sgd", learning_rate=0.1)
    trainer.freeze("a")
    step(net, trainer)
    trainer.thaw("a")
    twin.load_state_dict(net.state_dict())
    step(net, trainer)
    step(twin, other)
    assert all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_between_backward_and_step_too() -> None:
    net = graph()
    trainer = Trainer(net)
    backward(net)
    before = arrays(net)
    trainer.freeze("a")
    trainer.step(8)
    assert changed(before, net) == B | OUT


@pytest.mark.parametrize("act", ["freeze", "thaw"])
@pytest.mark.parametrize("place", ["haed", "c.weight", 9])
def test_a_part_that_is_not_there_changes_nothing(act: str, place: Any) -> None:
    net = graph()
    trainer = Trainer(net)
    trainer.freeze("b")
    with pytest.raises(PartError):
        getattr(trainer, act)(place)
    assert step(net, trainer) == A | OUT


def test_a_part_without_arrays_is_named() -> None:
    trainer = Trainer(chain())
    for act in (trainer.freeze, trainer.thaw):
        with pytest.raises(PartError, match=r"1\)? has no array that this trainer moves. It moves '0.weight'"):
            act(1)
    with pytest.raises(PartError, match=r"has no array that this trainer moves. It moves '2.weight', '2.bias'"):
        Trainer(chain(), part=2).freeze(0)


# statistics


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


@pytest.mark.parametrize("place", [1, everything, nn.BatchNorm1d])
def test_freezing_a_layer_holds_its_statistics_and_thawing_lets_them_run(place: Any) -> None:
    net = normed().train()
    trainer = Trainer(net, "adamw")
    assert next(walk(net, trainer, data(1))) >= STATISTICS
    trainer.freeze(place)
    moved = set().union(*walk(net.train(), trainer, data(2)))
    assert not moved & {*STATISTICS, "1.weight", "1.bias"}
    trainer.thaw(place)
    for moved in walk(net.train(), trainer, data(2)):
        assert moved >= {*STATISTICS, "1.weight", "1.bias", "0.weight"}


def test_thawed_statistics_run_though_nobody_calls_train_again() -> None:
    net = normed().train()
    trainer = Trainer(net, "adamw")
    trainer.freeze(1)
    step(net, trainer)
    trainer.thaw(1)
    assert step(net, trainer) >= STATISTICS


def test_a_layer_the_user_evaluates_is_not_put_into_training_by_a_thaw() -> None:
    net = normed().train()
    net[1].eval()
    trainer = Trainer(net, "adamw")
    trainer.freeze(1)
    step(net, trainer)
    trainer.thaw(1)
    assert not STATISTICS & step(net, trainer)


def test_thawing_a_layer_that_a_rule_freezes_lets_its_statistics_run() -> None:
    net = normed().train()
    trainer = Trainer(net, "adamw", learning_rate_multipliers={1: 0})
    assert not STATISTICS & step(net, trainer)
    trainer.thaw(1)
    assert step(net.train(), trainer) >= {*STATISTICS, "1.weight"}


def test_a_frozen_weight_of_a_norm_holds_no_statistics() -> None:
    net = normed().train()
    trainer = Trainer(net, "adamw")
    trainer.freeze(part("1.weight") | "1.bias")
    moved = step(net, trainer)
    assert moved >= STATISTICS
    assert not {"1.weight", "1.bias"} & moved


# change


@pytest.mark.parametrize("rule", RULES)
def test_rates_change_and_memory_stays(rule: str) -> None:
    net, twin = graph(), graph()
    options: dict[str, Any] = {"learning_rate": 0.01, "weight_decay": 0.0}
    trainer = Trainer(net, rule, **options)
    other = Trainer(twin, rule, learning_rate_multipliers={"a": pieces(1, (steps(2), 0.1))}, **options)
    for n in range(4):
        if n == 2:
            trainer.change("learning_rate_multipliers", {"a": 0.1})
        given(net, trainer, n)
        given(twin, other, n)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert {name: own.keys() for name, own in memory_of(trainer).items()} == {
        name: own.keys() for name, own in memory_of(other).items()
    }


def test_every_kind_of_value() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", learning_rate=0.1, learning_rate_multipliers={"b": 3})
    found = lambda: {  # noqa: E731
        name: trainer.table.choices[name]["learning_rate"].at(trainer.progress)
        for name in ("a.bias", "b.bias", "out.bias")
    }
    assert found() == pytest.approx({"a.bias": 0.1, "b.bias": 0.3, "out.bias": 0.1})
    trainer.change("learning_rate", {"a": 0.7, "out": times(-2)})
    assert found() == pytest.approx({"a.bias": 0.7, "b.bias": 0.3, "out.bias": -0.2})
    trainer.change("learning_rate", {"a": INHERIT, "b": FROZEN})
    assert step(net, trainer) == A | OUT
    trainer.change("learning_rate", {"b": INHERIT, "a": FROZEN})
    assert step(net, trainer) == B | OUT
    trainer.change("learning_rate", {everything: linear(1.0, 0.0, over=steps(4))})
    assert found()["out.bias"] == pytest.approx(0.5)


@pytest.mark.parametrize("setting", ["momentum", "weight_decay", "clip_value", "noise", "l2", "shrink", "centralise"])
def test_every_setting_can_be_changed(setting: str) -> None:
    """As it would be with the same rule from the beginning."""
    value = {"centralise": True, "clip_value": 0.1}.get(setting, 0.3)
    net, twin = graph(), graph()
    trainer = Trainer(net, "sgd", learning_rate=0.1)
    trainer.change(setting, {"a": value})
    other = Trainer(twin, "sgd", learning_rate=0.1, rules={setting: {"a": value}})
    for n in range(3):
        given(net, trainer, n)
        given(twin, other, n)
    assert all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    plain = graph()
    without = Trainer(plain, "sgd", learning_rate=0.1)
    for n in range(3):
        given(plain, without, n)
    assert not alike(net.a.weight, plain.a.weight)
    assert alike(net.b.weight, plain.b.weight)


def test_a_later_change_of_a_part_takes_the_place_of_the_earlier() -> None:
    trainer = Trainer(graph(), "sgd", weight_decay=0.1)
    for value in (0.2, 0.3, 0.4):
        trainer.change("weight_decay", {"a": value})
    assert len(trainer._stepper.recipe.rules["weight_decay"]) == 1
    assert trainer.table.choices["a.weight"]["weight_decay"].at(trainer.progress) == 0.4


@pytest.mark.parametrize(
    ("setting", "rules", "kind"),
    [
        ("learning_rate", {"haed": 0.1}, PartError),
        ("learning_rat", {"a": 0.1}, SettingError),
        ("weight_decay", {"a": -1}, SettingError),
        ("weight_decay", {"a": "x"}, SettingError),
        ("weight_decay", {"a": FROZEN}, RuleError),
        ("learning_rate_multipliers", {"a": "x"}, RuleError),
        ("learning_rate_multipliers", {"a": linear(1, 0)}, Exception),
    ],
)
def test_a_change_that_cannot_be_changes_nothing(setting: str, rules: Any, kind: type[Exception]) -> None:
    net, twin = graph(), graph()
    trainer, other = (Trainer(own, "sgd", learning_rate=0.1, weight_decay=0.1) for own in (net, twin))
    given(net, trainer, 0)
    given(twin, other, 0)
    recipe = trainer._stepper.recipe
    before = dict(recipe.base), dict(recipe.rules)
    with pytest.raises(kind):
        trainer.change(setting, rules)
    assert (recipe.base, recipe.rules) == before
    given(net, trainer, 1)
    given(twin, other, 1)
    assert all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_changes_are_silent_where_they_cover_what_was_there() -> None:
    trainer = Trainer(graph(), learning_rate_multipliers={"a": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.change("learning_rate_multipliers", {everything: 3})


# requires_grad


@pytest.mark.parametrize("rule", RULES)
def test_who_switches_gradients_off_holds_the_array(rule: str) -> None:
    net = graph()
    trainer = Trainer(net, rule, learning_rate=0.01, weight_decay=0.1)
    step(net, trainer)
    net.a.requires_grad_(False)
    memory = memory_of(trainer)
    for _ in range(2):
        assert step(net, trainer) == B | OUT
    assert all(same_memory(memory[name], memory_of(trainer)[name]) for name in A)
    net.a.requires_grad_(True)
    assert step(net, trainer) == A | B | OUT


def test_switched_off_between_backward_and_step() -> None:
    net = graph()
    trainer = Trainer(net, weight_decay=0.1, shrink=0.1)
    backward(net)
    net.a.weight.requires_grad_(False)
    before = arrays(net)
    trainer.step(8)
    assert changed(before, net) == (A | B | OUT) - {"a.weight"}


def test_switched_off_before_the_trainer_was_made_and_on_later() -> None:
    net = graph()
    net.a.requires_grad_(False)
    trainer = Trainer(net, "adamw")
    assert step(net, trainer) == B | OUT
    net.a.requires_grad_(True)
    assert step(net, trainer) == A | B | OUT
    assert {own["count"] for own in memory_of(trainer).values()} == {1, 2}


def test_all_switched_off_moves_nothing() -> None:
    net = graph()
    trainer = Trainer(net)
    step(net, trainer)
    net.requires_grad_(False)
    before = arrays(net)
    assert trainer.step(8)
    assert changed(before, net) == set()
    net.requires_grad_(True)
    assert step(net, trainer) == A | B | OUT


def test_thawing_switches_gradients_on() -> None:
    net = graph()
    net.a.requires_grad_(False)
    trainer = Trainer(net)
    trainer.thaw("a")
    assert net.a.weight.requires_grad
    assert step(net, trainer) == A | B | OUT


def test_only_moving_leaves_switched_off_what_the_user_has() -> None:
    net = graph()
    trainer = Trainer(net, update_schedule=["a", "b"])
    step(net, trainer)
    net.a.weight.requires_grad_(False)
    net.out.weight.requires_grad_(False)
    with trainer.only_moving():
        loss = (net(X) - Y).square().sum()
    assert {n for n, p in net.named_parameters() if not p.requires_grad} == {"a.weight", "out.weight"}
    loss.backward()
    assert trainer.step(8)


def test_only_moving_knows_of_freezes() -> None:
    net = graph()
    trainer = Trainer(net)
    trainer.freeze("a")
    with trainer.only_moving():
        loss = (net(X) - Y).square().sum()
    loss.backward()
    assert net.a.weight.grad is None
    assert net.b.weight.grad is not None


def test_what_is_frozen_needs_no_gradient_and_what_is_thawed_does() -> None:
    net = graph()
    trainer = Trainer(net)
    trainer.freeze(part("a") | "out")
    net.b(X).sum().backward()
    assert trainer.step(8)
    trainer.thaw("a")
    trainer.zero_grad()
    net.b(X).sum().backward()
    with pytest.raises(StaleGradientError, match=r"'a\.weight', 'a\.bias'"):
        trainer.step(8)


# lazy arrays


def lazy() -> nn.Sequential:
    return nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(2))


def test_arrays_that_get_their_shape_late_can_be_frozen_and_thawed() -> None:
    net = lazy()
    trainer = Trainer(net, "adamw")
    trainer.freeze(0)
    backward(net)
    before = arrays(net)
    trainer.step(8)
    assert changed(before, net) == {"2.weight", "2.bias"}
    trainer.thaw(0)
    assert step(net, trainer) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_thawing_before_there_is_a_shape() -> None:
    net = lazy()
    trainer = Trainer(net, "adamw", learning_rate_multipliers={0: 0})
    trainer.thaw(0)
    net(X)
    assert step(net, trainer) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_arrays_without_a_shape_may_be_held_for_ever() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.LazyLinear(2))
    trainer = Trainer(net)
    trainer.freeze(1)
    net[0](X).sum().backward()
    assert trainer.step(8)


# states


@pytest.mark.parametrize("keep", ["saved", None])
def test_what_was_frozen_and_changed_by_hand_comes_back(keep: str | None) -> None:
    net, late = graph(), graph()
    trainer = Trainer(net, "adamw", learning_rate=0.01, learning_rate_multipliers={"out": 0})
    step(net, trainer)
    trainer.freeze("a")
    trainer.thaw("out.bias")
    trainer.change("weight_decay", {"b": 0.5})
    step(net, trainer)
    state = copy.deepcopy(trainer.state_dict())
    late.load_state_dict(net.state_dict())
    again = Trainer(late, "adamw", learning_rate=0.01, learning_rate_multipliers={"out": 0})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        again.load_state_dict(state, keep=keep)
    assert (len(told) == 0) == (keep == "saved")
    if told:
        assert "what is frozen" in str(told[0].message)
        assert "the rules for weight_decay" in str(told[0].message)
    for _ in range(2):
        assert step(net, trainer) == step(late, again) == B | {"out.bias"}
    assert all(alike(a, b) for a, b in zip(net.parameters(), late.parameters(), strict=True))


def test_the_trainers_own_freezes_may_be_kept() -> None:
    net = graph()
    trainer = Trainer(graph())
    trainer.freeze("a")
    other = Trainer(net)
    other.freeze("b")
    other.load_state_dict(trainer.state_dict(), keep="new")
    assert step(net, other) == A | OUT
    other.load_state_dict(trainer.state_dict(), keep="saved")
    assert step(net, other) == B | OUT


def test_a_state_of_what_thawing_switched_on_can_be_loaded() -> None:
    net, late = graph(), graph()
    for own in (net, late):
        own.a.requires_grad_(False)
    trainer, again = Trainer(net), Trainer(late)
    trainer.thaw("a")
    step(net, trainer)
    again.load_state_dict(copy.deepcopy(trainer.state_dict()), keep="saved")
    late.load_state_dict(net.state_dict())
    assert step(net, trainer) == step(late, again) == A | B | OUT
    assert all(alike(a, b) for a, b in zip(net.parameters(), late.parameters(), strict=True))


def test_numbers_that_cannot_be_trained_stay_as_they_are() -> None:
    net = nn.Linear(2, 2)
    net.register_parameter("index", nn.Parameter(torch.tensor([1, 2]), requires_grad=False))
    trainer = Trainer(net)
    trainer.thaw(everything)
    net.weight.grad, net.bias.grad = torch.ones(2, 2), torch.ones(2)
    assert trainer.step()
    assert dict(net.named_parameters())["index"].tolist() == [1, 2]


def test_averages_go_on_over_a_freeze() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", learning_rate=0.1, averages=etude.ema(0.5))
    step(net, trainer)
    trainer.freeze("a")
    step(net, trainer)
    found: dict[str, Tensor] = dict(trainer.averages["ema"].arrays)
    assert trainer.averages["ema"].count == 2
    assert set(found) >= A | B | OUT
