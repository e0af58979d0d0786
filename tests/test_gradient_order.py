"""The stated order of what happens to gradients, and each newer piece of it by itself."""

from __future__ import annotations

import copy
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import NonFiniteError, RuleError, SettingError
from etude.step.clipping import joint_norm, joint_norms
from etude.step.trainer import Trainer
from etude.values.part import everything
from etude.values.rules import times
from etude.values.schedule import cycle, pieces
from etude.values.spans import steps
from nets import alike, arrays, give_gradients, graph


def stepped(settings: dict[str, Any], spoilt: dict[str, Any] | None = None, rule: str = "sgd") -> dict[str, Tensor]:
    """How far each array goes in one step at rate 1; `spoilt` writes a number into the first element of gradients."""
    net = graph()
    before = arrays(net)
    trainer = Trainer(net, rule, learning_rate=1.0, **settings)
    give_gradients(net, 0)
    for name, value in (spoilt or {}).items():
        net.get_parameter(name).grad.view(-1)[0] = value  # type: ignore[union-attr]
    trainer.step(4)
    return {name: before[name] - array for name, array in arrays(net).items()}


def given(net: nn.Module) -> dict[str, Tensor]:
    return {name: array.grad.clone() for name, array in net.named_parameters() if array.grad is not None}


def norm(values: dict[str, Tensor]) -> float:
    return float(torch.stack([value.norm() for value in values.values()]).norm())


def test_the_whole_order_by_hand() -> None:
    settings: dict[str, Any] = {
        "drop_non_finite": True,
        "drop_norm": {"b": 0.1, everything: inf},
        "clip_value": 0.4,
        "clip_array_norm": 0.8,
        "clip_mean_norm": 0.1,
        "clip_norm": 1.1,
        "centralise": True,
        "l2": 0.3,
        "noise": 0.2,
    }
    net = copy.deepcopy(graph())
    give_gradients(net, 0)
    net.a.weight.grad.view(-1)[0] = nan
    noise = stepped({"noise": 0.2, "l2": 0.0}, dict.fromkeys((), 0.0), "sgd")
    plain = stepped({})
    noise = {name: noise[name] - plain[name] for name in noise}
    found = {name: torch.nan_to_num(gradient) / 4 for name, gradient in given(net).items()}
    found = {name: gradient + noise[name] for name, gradient in found.items() if not name.startswith("b.")}
    found = {name: gradient.clamp(-0.4, 0.4) for name, gradient in found.items()}
    found = {name: gradient * min(1.0, 0.8 / float(gradient.norm())) for name, gradient in found.items()}
    found = {name: g * min(1.0, 0.1 * g.numel() / float(g.norm())) for name, g in found.items()}
    found = {name: gradient * min(1.0, 1.1 / norm(found)) for name, gradient in found.items()}
    found = {
        name: gradient - gradient.mean(tuple(range(1, gradient.dim())), keepdim=True)
        if gradient.dim() > 1
        else gradient
        for name, gradient in found.items()
    }
    found = {name: gradient + 0.3 * arrays(net)[name] for name, gradient in found.items()}
    real = stepped(settings, {"a.weight": nan})
    for name, moved in real.items():
        if name.startswith("b."):
            assert not moved.any()
        else:
            assert torch.allclose(moved, found[name], atol=1e-5), name


# elements that are not finite


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("rule", ["sgd", "adamw", "nadam"])
def test_elements_that_are_not_finite_count_as_0(bad: float, rule: str) -> None:
    found = stepped({"drop_non_finite": True, "non_finite": "raise", "clip_norm": 0.3}, {"a.weight": bad}, rule)
    expected = stepped({"clip_norm": 0.3}, {"a.weight": 0.0}, rule)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_it_goes_by_part_and_the_check_sees_the_rest() -> None:
    settings = {"drop_non_finite": {"a": True}, "non_finite": "raise"}
    assert torch.isfinite(stepped(settings, {"a.weight": nan})["a.weight"]).all()
    with pytest.raises(NonFiniteError, match=r"the gradients of 'b\.weight' are not finite"):
        stepped(settings, {"a.weight": nan, "b.weight": nan})


def test_it_goes_by_schedule() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", non_finite="skip", drop_non_finite=cycle(True, False))
    for expected in (True, False, True):
        give_gradients(net, 0)
        net.out.bias.grad[0] = inf
        assert trainer.step() is expected
        trainer.zero_grad()


def test_overflow_of_a_loss_scale_is_seen_all_the_same() -> None:
    """Otherwise the scale would never fall."""
    net = graph()
    trainer = Trainer(net, "sgd", loss_scale="dynamic", drop_non_finite=True)
    scale = trainer.loss_scale
    give_gradients(net, 0)
    net.out.bias.grad[0] = inf
    assert trainer.step() is False
    assert trainer.loss_scale == scale / 2


def test_of_sparse_and_complex_gradients_too() -> None:
    table, pairs = nn.Embedding(5, 2, sparse=True), nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    trainer = Trainer(
        {"t": table.weight, "c": pairs}, "sgd", learning_rate=1.0, drop_non_finite=True, non_finite="raise"
    )
    before = table.weight.detach().clone()
    table(torch.tensor([1, 1, 3])).sum().backward()
    table.weight.grad._values()[2, 0] = nan  # type: ignore[union-attr]
    pairs.grad = torch.tensor([complex(nan, 1.0), complex(1.0, 2.0)])
    trainer.step()
    moved = (before - table.weight.detach())[[1, 3]].flatten().tolist()
    assert moved == pytest.approx([2.0, 2.0, 0.0, 1.0])
    assert (-pairs.detach()).tolist() == [1j, 1 + 2j]


# steps left out by their norm


def test_arrays_whose_joint_norm_is_above_are_held_with_their_memory() -> None:
    """Zero gradients, as recorded elsewhere, would let momentum and decay move them all the same."""
    net = graph()
    trainer = Trainer(net, "adamw", learning_rate=0.1, weight_decay=0.1, drop_norm={"a": 50.0, "b": 50.0})
    give_gradients(net, 0)
    trainer.step()
    trainer.zero_grad()
    before, kept = arrays(net), copy.deepcopy(trainer.state_dict()["arrays"])
    give_gradients(net, 1)
    net.a.weight.grad[0, 0] = 1e3
    trainer.step()
    after = trainer.state_dict()["arrays"]
    for name, array in arrays(net).items():
        held = name.startswith("a.")
        assert alike(array, before[name]) is held
        assert (after[name]["count"] == kept[name]["count"]) is held
        assert alike(after[name]["mean"], kept[name]["mean"]) is held


def test_the_norm_is_that_of_the_mean_gradient_as_it_came() -> None:
    whole = stepped({})
    for factor, moves in ((1.01, True), (0.99, False)):
        found = stepped({"drop_norm": norm(whole) * factor, "clip_norm": 0.01, "noise": 0.1})
        assert any(bool(moved.any()) for moved in found.values()) is moves


def test_what_is_left_out_is_in_no_joint_norm() -> None:
    found = stepped({"drop_norm": {"a": 1.0}, "clip_norm": 0.3}, {"a.weight": 1e4})
    assert not found["a.weight"].any()
    assert not found["a.bias"].any()
    assert norm({name: moved for name, moved in found.items() if name[0] != "a"}) == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize("rule", ["sgd", "nadam"])
def test_a_norm_that_is_not_finite_is_above_any_bound(rule: str) -> None:
    found = stepped({"drop_norm": {"a": 1e30}}, {"a.weight": nan}, rule)
    assert not found["a.weight"].any()
    assert found["b.weight"].any()
    with pytest.raises(NonFiniteError, match=r"'a\.weight'"):
        stepped({"drop_norm": {"a": 1e30}, "non_finite": "raise"}, {"a.weight": nan})


def test_a_step_that_leaves_everything_out_is_made_and_moves_nothing() -> None:
    net = graph()
    trainer = Trainer(net, "adamw", drop_norm=1e-3)
    before = arrays(net)
    give_gradients(net, 0)
    assert trainer.step()
    assert all(alike(before[name], array) for name, array in arrays(net).items())
    assert trainer.progress.step == 1


# mean norms


def test_the_norm_over_the_number_of_elements() -> None:
    whole = stepped({})
    found = stepped({"clip_mean_norm": 0.05})
    for name, gradient in whole.items():
        bound = 0.05 * gradient.numel()
        assert torch.allclose(found[name], gradient * min(1.0, bound / float(gradient.norm())), atol=1e-5)


def test_of_a_sparse_gradient_all_elements_count() -> None:
    made = []
    for sparse in (True, False):
        torch.manual_seed(0)
        table = nn.Embedding(50, 2, sparse=sparse)
        before = table.weight.detach().clone()
        table(torch.tensor([1, 1, 3])).sum().backward()
        Trainer(table, "sgd", learning_rate=1.0, clip_mean_norm=0.001).step()
        made.append(before - table.weight.detach())
    assert torch.allclose(*made, atol=1e-6)
    assert float(made[0].norm()) == pytest.approx(0.1, rel=1e-4)


# None, inf and 0


@pytest.mark.parametrize(
    "setting", ["clip_value", "clip_array_norm", "clip_mean_norm", "clip_norm", "drop_norm", "clip_weights", "max_norm"]
)
def test_none_and_inf_are_no_bound_however_they_are_said(setting: str) -> None:
    plain = stepped({})
    for form in (
        {setting: None},
        {setting: inf},
        {setting: {"a": None, everything: inf}},
        {"rules": {setting: {"a": None}}},
        {setting: lambda progress: None if progress.step < 5 else inf},
        {setting: pieces(inf, (steps(4), 1.0))},
    ):
        assert all(torch.equal(plain[name], moved) for name, moved in stepped(form).items())


@pytest.mark.parametrize("form", [0, 0.0, {"a": 0, everything: inf}, lambda progress: 0 if progress.step < 3 else 1])
def test_a_bound_of_0_is_no_bound(form: Any) -> None:
    plain = stepped({})
    for setting in ("clip_value", "clip_array_norm", "clip_mean_norm", "clip_norm", "drop_norm", "max_norm"):
        found = stepped({setting: form})
        assert all(torch.equal(plain[name], moved) for name, moved in found.items())


# norms for others


def test_joint_norms_of_several_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two, three = (torch.randn(size, generator=generator) for size in (3, 4, 5))
    sparse = torch.sparse_coo_tensor([[0, 0]], [3.0, 1.0], (4,))
    groups = [[one, two], [two], [], [sparse], [three.to(torch.bfloat16)], [torch.tensor([3 + 4j])]]
    found = joint_norms(groups)
    assert found.shape == (6,)
    assert found[:4].tolist() == pytest.approx([float(torch.cat([one, two]).norm()), float(two.norm()), 0.0, 4.0])
    assert found[4:].tolist() == pytest.approx([float(three.norm()), 5.0], rel=1e-2)
    assert float(joint_norm([one, two])) == pytest.approx(float(found[0]))
    assert joint_norms([[], []]).tolist() == [0.0, 0.0]
    assert joint_norms([[torch.full((10,), 6e4, dtype=torch.float16)]]).isfinite().all()


# contradictions


CONTRADICTIONS = [
    (
        {"l2": 0.1, "weight_decay": 0.1},
        r"weight_decay= and l2= both make 'a\.weight', .* smaller in every step\. Leave one of them out",
    ),
    ({"l2": {"a": 0.1}, "shrink": 0.1}, r"l2= and shrink= both make 'a\.weight', 'a\.bias' smaller"),
    (
        {"clip_norm": {"a": 1.0}, "learning_rate_multipliers": {"a": 0}},
        r"The rule part\('a'\): 1\.0 for clip_norm never acts: 'a\.weight', 'a\.bias' never move",
    ),
    (
        {"noise": {"b": 1.0}, "update_schedule": ["a", "out"]},
        r"for noise never acts: 'b\.weight', 'b\.bias' never move",
    ),
    (
        {"weight_decay": {"a": 0.2}, "learning_rate_multipliers": {"a": 0}},
        r"The rule part\('a'\): 0\.2 for weight_decay never acts: 'a\.weight', 'a\.bias' never move",
    ),
    ({"betas": {"b": (0.9, 0.95)}, "update_schedule": ["a", "out"]}, r"0\.95 for beta2 never acts: 'b\.weight'"),
    ({"max_norm": {"*.bias": 1.0}}, r"for max_norm never acts: .* have fewer than two dimensions.*Write clip_weights="),
    (
        {"clip_norm": 5.0, "drop_norm": 2.0},
        r"clip_norm=5\.0 never acts: a norm above drop_norm=2\.0 leaves the step out",
    ),
    (
        {"weight_decay": 0.1, "rules": {"weight_decay": {everything: 0.2}}},
        r"weight_decay= never decides: the rule everything: 0\.2 has every array",
    ),
]


@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS)
def test_what_contradicts_is_told_before_the_first_step(settings: dict[str, Any], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        Trainer(graph(), "adamw", **settings)
    with pytest.raises(RuleError, match=message):
        Trainer(graph(), "adamw", strict=True, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"l2": 0.1},  # the update rule's own decay was not asked for
        {"l2": {"a": 0.1}, "weight_decay": {"b": 0.1, everything: 0}},
        {"clip_norm": 1.0, "learning_rate_multipliers": {"a": 0}},
        {"clip_norm": 1.0, "drop_norm": 20.0},
        {"clip_norm": 1.0, "drop_norm": {"a": 0.5}},
        {"max_norm": 1.0},
        {"weight_noise": {"b": 0.1}, "update_schedule": ["a", "out"]},  # what has no turn is perturbed all the same
        {"optimizer": "signum", "weight_decay": 0.1, "l2": 0.1},
        {"learning_rate": 0.1, "rules": {"learning_rate": {everything: times(2)}}},
    ],
)
def test_what_can_be_meant_is_not(settings: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    Trainer(graph(), strict=True, **settings)
    assert not [str(one.message) for one in recwarn]


def test_of_optimizers_that_compute_the_loss_themselves_what_works_works() -> None:
    for setting, value in (("drop_norm", 1.0), ("carry", "sum"), ("tie", {everything: True})):
        more = {"update_schedule": ["a", "b"]} if setting == "carry" else {}
        pair = nn.ParameterDict({name: nn.Parameter(torch.zeros(2)) for name in "ab"})
        with pytest.raises(SettingError, match=f"{setting}= is not for LBFGS"):
            Trainer(pair, "lbfgs", **{setting: value}, **more)
    net = graph()
    trainer = Trainer(net, "lbfgs", drop_non_finite=True, max_norm=0.1, clip_mean_norm=0.01)

    def closure() -> Tensor:
        loss: Tensor = net(torch.ones(2, 3)).square().sum()
        loss.backward()
        net.a.bias.grad[0] = nan  # type: ignore[index]
        return loss

    trainer.step(closure=closure)
    assert float(net.a.weight.norm(dim=1).max()) <= 0.1 + 1e-6
