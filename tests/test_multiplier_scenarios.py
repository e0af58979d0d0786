"""Learning-rate multipliers, scenario by scenario: LRM-E1 to E7, the rules LRM-1 to 15 and the readings A1 to A11."""

from __future__ import annotations

import copy
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude import FROZEN, INHERIT, everything, linear, part, pieces, set_rules, steps, times
from etude.errors import PartError, RuleError
from etude.run.events import Stepped
from ids import steady
from nets import (
    alike,
    arrays,
    chain,
    changed,
    data,
    give_gradients,
    graph,
    long_chain,
    memory_of,
    seeded,
    shared_chain,
    tied,
    walk,
)

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "adam": {},
    "rmsprop": {},
    "adamw": {"weight_decay": 0.1},
    "torch.adamw": {"weight_decay": 0.1},
}
FIRST, THIRD = {"0.weight", "0.bias"}, {"2.weight", "2.bias"}


def stacked(batches: int = 4, **shape: int) -> tuple[Tensor, Tensor]:
    x, y = zip(*data(batches, **shape), strict=True)
    return torch.cat(x), torch.cat(y)


def train(net: nn.Module, multipliers: Any = None, **options: Any) -> etude.Result:
    """Thirty Adam steps unless said."""
    given = {"loss": "mse", "optimizer": "adam", "steps": 30, "batch_size": 8, "progress": False, **options}
    return etude.train(net, given.pop("data", None) or stacked(), learning_rate_multipliers=multipliers, **given)


def multipliers(net: nn.Module, literal: Any = None, **options: Any) -> dict[str, Any]:
    return etude.Trainer(net, learning_rate_multipliers=literal, **options).table.multipliers()


# LRM-E1: only the last layer


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "literal", [[(2, 1), (everything, None)], {-1: 1, everything: FROZEN}, {~part(2): 0}], ids=repr
)
def test_e1_only_the_last_layer_trains(optimizer: str, literal: Any) -> None:
    """LRM-10."""
    net = chain()
    for layer in (net[0], net[2]):
        nn.init.zeros_(layer.bias)
    before = arrays(net)
    result = train(net, literal, optimizer=optimizer, **OPTIMIZERS[optimizer])
    assert changed(before, net) == THIRD
    assert not net[0].bias.any()
    assert net[2].bias.all()
    assert result.net is not None
    assert result.net(torch.zeros(1, 3)).shape == (1, 2)


# LRM-E2: a frozen layer inside a bigger net


@pytest.mark.parametrize("held", [0, None, FROZEN], ids=repr)
def test_e2_a_layer_that_was_frozen_when_it_was_built(held: Any) -> None:
    """LRM-5, LRM-11, LRM-12: no word about it in the call."""
    layer = nn.Linear(3, 5)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(15.0).reshape(5, 3) / 10)
    given = arrays(layer)
    set_rules(layer, learning_rate=held)
    net = nn.Sequential(nn.Sequential(layer, nn.Tanh()), seeded(lambda: nn.Linear(5, 2)))
    expected = {"0.0.weight": 0.0, "0.0.bias": 0.0, "1.weight": 1.0, "1.bias": 1.0}
    assert etude.learning_rate_multipliers(net) == expected
    before = arrays(net)
    result = train(net)
    assert result.learning_rate_multipliers == expected
    assert changed(given, layer) == set()
    assert changed(before, net) == {"1.weight", "1.bias"}


# LRM-E3: the setting of a net is replaced


def test_e3_the_setting_is_replaced_and_read_back() -> None:
    """LRM-13: by value; a copy keeps the net as it was."""
    net = chain()
    other = copy.deepcopy(net)
    set_rules(other[0], learning_rate_multipliers=0)
    assert etude.rules_of(other[0]) == {"learning_rate": etude.rules({everything: FROZEN})}
    assert etude.rules_of(net[0]) == {}
    before = arrays(other)
    train(other)
    assert changed(before, other) == THIRD
    set_rules(other[0], learning_rate_multipliers=0.5)
    assert etude.learning_rate_multipliers(other)["0.weight"] == 0.5
    before = arrays(other)
    train(other)
    assert changed(before, other) == FIRST | THIRD
    set_rules(other, learning_rate_multipliers={2: 0})
    assert multipliers(other) == {"0.weight": 0.5, "0.bias": 0.5, "2.weight": 0.0, "2.bias": 0.0}


# LRM-E4: transfer


def test_e4_a_new_head_on_an_old_body() -> None:
    """The body stays to the bit, the new head learns a task that the body's features can tell apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator)
    body: nn.Sequential = seeded(lambda: nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 4)))
    train(
        body,
        data=(x, (x @ torch.randn(3, 4, generator=generator)).argmax(1)),
        loss="cross_entropy",
        epochs=5,
        steps=None,
    )
    net = nn.Sequential(*body[:2], seeded(lambda: nn.Linear(16, 3)))
    before = arrays(net)
    y = (x @ torch.randn(3, 3, generator=generator)).argmax(1)
    result = train(
        net, {2: 1, everything: None}, data=(x, y), loss="cross_entropy", epochs=30, steps=None, learning_rate=0.05
    )
    assert changed(before, net) == THIRD
    assert (net(x).argmax(1) == y).float().mean() > 0.9
    assert result.learning_rate_multipliers["0.weight"] == 0.0


# LRM-E5: ask the results


def test_e5_the_result_has_what_was_used_of_every_array() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    late = pieces(FROZEN, (steps(3), 1))
    result = train(net, [("0.weight", 0.5), (0, 0), (1, late), (everything, -2)], steps=6)
    assert result.learning_rate_multipliers == {
        "0.weight": 0.5,
        "0.bias": 0.0,
        "1.weight": repr(late),
        "1.bias": repr(late),
        "2.weight": -2.0,
        "2.bias": -2.0,
    }
    assert result.learning_rates["0.weight"] == pytest.approx(0.5e-3)
    assert result.learning_rates["0.bias"] == 0.0
    assert result.learning_rates["1.weight"] == pytest.approx(1e-3)


# LRM-E6: shared arrays


@pytest.mark.parametrize("place", [0, 2, "0.weight", "2.weight"])
def test_e6a_a_rule_on_one_place_is_a_rule_on_all(place: Any) -> None:
    """LRM-14."""
    net = shared_chain(1, nn.Linear(3, 2))
    assert multipliers(net, {place: 0.25})["0.weight"] == 0.25
    twin = nn.Linear(3, 2)
    result = train(shared_chain(1, twin), {place: 0})
    assert result.learning_rate_multipliers["0.weight"] == 0.0


@pytest.mark.filterwarnings("ignore:This rule never decides")
def test_e6b_of_two_rules_on_one_array_the_first_in_their_order_counts() -> None:
    """LRM-15, LRM-A1."""
    for net in (shared_chain(1, nn.Linear(3, 2)), tied()):
        first, second = (2, 0) if isinstance(net, nn.Sequential) else ("out.weight", "emb.weight")
        name = next(iter(arrays(net)))
        with pytest.warns(UserWarning, match=r"gets two values of learning_rate.*The first is used"):
            assert multipliers(net, [(first, 0.25), (second, 0)])[name] == 0.25
        with pytest.warns(UserWarning, match=r"gets two values of learning_rate.*The first is used"):
            assert multipliers(net, [(second, 0), (first, 0.25)])[name] == 0.0


def test_e6c_of_two_settings_left_on_one_array_the_first_place_counts() -> None:
    for first, second, used in ((0.25, 0, 0.25), (0, 0.25, 0.0)):
        net = tied()
        set_rules(net.emb, learning_rate_multipliers={"weight": first})
        set_rules(net.out, learning_rate_multipliers={"weight": second})
        with pytest.warns(UserWarning, match="has two values of learning_rate.*The first is used"):
            assert multipliers(net)["emb.weight"] == used


# LRM-E7: exactness


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "torch.adam"])
@pytest.mark.parametrize("r", [1.0, 0.5, 2.0, -1.0, -0.5])
def test_e7_a_multiplier_scales_the_first_displacement(optimizer: str, r: float) -> None:
    def displacement(multiplier: float) -> dict[str, Tensor]:
        net = graph()
        before = arrays(net)
        trainer = etude.Trainer(net, optimizer, learning_rate=0.1, learning_rate_multipliers=multiplier)
        give_gradients(net, 0)
        trainer.step()
        return {name: array - before[name] for name, array in arrays(net).items()}

    whole, scaled = displacement(1), displacement(r)
    assert all(torch.allclose(scaled[name], r * moved, atol=1e-7) for name, moved in whole.items())


def test_e7_the_rate_is_scaled_and_not_the_gradient() -> None:
    """LRM-6: a gradient of half the size would leave the first step of Adam as it is."""
    w = nn.Parameter(torch.ones(1))
    trainer = etude.Trainer([w], "adam", learning_rate=0.1, learning_rate_multipliers=0.5)
    w.grad = torch.ones(1)
    trainer.step()
    assert 1 - w.item() == pytest.approx(0.05, abs=1e-6)


def test_e7_with_a_schedule_the_rate_is_the_product_at_every_step() -> None:
    net = graph()
    trainer = etude.Trainer(
        net, learning_rate=0.5 * linear(1, 0), learning_rate_multipliers={"a": -0.5, "b": 2}, total=steps(10)
    )
    names, rates = trainer.table.score([etude.Progress(step, extent=trainer.progress.extent) for step in range(10)])
    base = torch.linspace(0.5, 0.05, 10)
    for name, row in zip(names, rates, strict=True):
        factor = -0.5 if name.startswith("a") else 2 if name.startswith("b") else 1
        assert row.tolist() == pytest.approx((base * factor).tolist())


# the rules


def test_lrm1_and_lrm9_what_nobody_says_trains_at_the_rate() -> None:
    for literal in (None, {}, []):
        assert set(multipliers(chain(), literal).values()) == {1.0}
    assert multipliers(chain(), {0: 0.5}) == {"0.weight": 0.5, "0.bias": 0.5, "2.weight": 1.0, "2.bias": 1.0}


def test_lrm2_every_trainable_array_has_one() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[0].bias.requires_grad = False
    assert list(multipliers(net, {1: 0.5})) == ["0.weight", "1.weight", "1.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize(
    ("left", "names"),
    [
        ("a", {"a.weight", "a.bias"}),
        (1, {"b.weight", "b.bias"}),
        (-1, {"out.weight", "out.bias"}),
        (slice(0, 2), {"a.weight", "a.bias", "b.weight", "b.bias"}),
        (("out", "weight"), {"out.weight"}),
        ("b.bias", {"b.bias"}),
        (everything, {"a.weight", "a.bias", "b.weight", "b.bias", "out.weight", "out.bias"}),
        (part("a") | "out.bias", {"a.weight", "a.bias", "out.bias"}),
        (frozenset({"a", "b"}), {"a.weight", "a.bias", "b.weight", "b.bias"}),
        ("*.bias", {"a.bias", "b.bias", "out.bias"}),
        (nn.Linear, {"a.weight", "a.bias", "b.weight", "b.bias", "out.weight", "out.bias"}),
        (lambda name, array: array.dim() == 1, {"a.bias", "b.bias", "out.bias"}),
    ],
    ids=steady,
)
def test_lrm3_the_forms_of_a_left_side(left: Any, names: set[str]) -> None:
    found = multipliers(graph(), [(left, 0.5)])
    assert {name for name, value in found.items() if value == 0.5} == names
    if not isinstance(left, slice):
        assert multipliers(graph(), {left: 0.5}) == found


@pytest.mark.parametrize("r", [0.5, -1, 0, linear(1, 0)], ids=repr)
def test_lrm4_a_bare_value_is_for_all(r: Any) -> None:
    assert set(multipliers(graph(), r, total=steps(10)).values()) == {r}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("held", [0, None, FROZEN, 0.0, times(0)], ids=repr)
def test_lrm5_nothing_means_bits(optimizer: str, held: Any) -> None:
    net = chain()
    before = arrays(net)
    extras = {"clip_weights": 0.01, "noise": 0.1, "clip_norm": 1.0}
    train(net, {0: held}, optimizer=optimizer, steps=5, **OPTIMIZERS[optimizer], **extras)
    assert changed(before, net) == THIRD


@pytest.mark.parametrize("optimizer", ["sgd", "torch.sgd"])
def test_lrm7_a_negative_multiplier_climbs(optimizer: str) -> None:
    """On one batch, with all multipliers -1, the loss rises strictly."""
    result = train(chain(), -1, optimizer=optimizer, learning_rate=0.01, data=stacked(1), steps=10)
    losses = result.history["loss"].values
    assert all(later > earlier for earlier, later in pairwise(losses))


def test_lrm8_the_first_rule_decides_even_before_a_finer_one() -> None:
    with pytest.warns(UserWarning, match="never decides"):
        assert set(multipliers(long_chain(), [(everything, 2), (0, 0)]).values()) == {2}
    found = multipliers(long_chain(), [((0, "weight"), 0.5), (0, 0), (everything, 2)])
    assert found == {"0.weight": 0.5, "0.bias": 0.0, "2.weight": 2, "2.bias": 2, "4.weight": 2, "4.bias": 2}


def test_lrm10_a_rule_on_a_subnet_is_for_all_below() -> None:
    net = nn.Sequential(nn.Sequential(chain(), nn.Linear(2, 2)), nn.Linear(2, 2))
    found = multipliers(net, {0: None})
    assert {name for name, value in found.items() if value == 1.0} == {"1.weight", "1.bias"}


def test_lrm11_the_batch_norm_of_the_users() -> None:
    """Built with its affine arrays frozen, everything else trained: the statistics run on."""
    layer = set_rules(nn.BatchNorm1d(4), learning_rate_multipliers={"weight": 0, "bias": 0, everything: 1})
    net = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2))
    before = arrays(net)
    train(net, steps=3)
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert changed(before, net) == {"0.weight", "0.bias", "2.weight", "2.bias"} | statistics


# the readings


def test_a2_what_the_call_says_comes_before_what_was_left() -> None:
    net = chain()
    set_rules(net[0], learning_rate=FROZEN)
    assert multipliers(net, {2: 0.5})["0.weight"] == 0.0
    assert multipliers(net, {everything: 1})["0.weight"] == 1.0
    assert multipliers(net, [(2, 0.5), (everything, INHERIT)])["0.weight"] == 0.0


def test_a3_the_outer_setting_comes_before_the_inner() -> None:
    inner = set_rules(nn.Linear(3, 5), learning_rate=FROZEN)
    net = set_rules(nn.Sequential(inner, nn.Tanh(), nn.Linear(5, 2)), learning_rate_multipliers={"0.weight": 0.5})
    assert multipliers(net) == {"0.weight": 0.5, "0.bias": 0.0, "2.weight": 1.0, "2.bias": 1.0}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", "torch.adamw"])
def test_a4_climbing_is_maximize_and_decay_goes_on_shrinking(optimizer: str) -> None:
    net, twin = graph(), graph()
    kinds = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "torch.adamw": "AdamW"}
    trainer = etude.Trainer(net, optimizer, learning_rate=0.1, learning_rate_multipliers=-0.5, weight_decay=0.3)
    alone = getattr(torch.optim, kinds[optimizer])(twin.parameters(), lr=0.05, weight_decay=0.3, maximize=True)
    for step in range(3):
        give_gradients(net, step)
        give_gradients(twin, step)
        trainer.step()
        trainer.zero_grad()
        alone.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a5_decay_and_clipping_leave_what_is_frozen_alone_and_so_does_nan(optimizer: str) -> None:
    net = chain()
    before = arrays(net)
    trainer = etude.Trainer(
        net,
        optimizer,
        learning_rate_multipliers={0: 0},
        clip_weights=1e-3,
        **{**OPTIMIZERS[optimizer], "weight_decay": 0.5},
    )
    for step in range(3):
        give_gradients(net, step)
        net[0].weight.grad = torch.full_like(net[0].weight, float("nan"))
        trainer.step()
        trainer.zero_grad()
    assert changed(before, net) == THIRD
    assert net[2].weight.abs().max() <= 1e-3


@pytest.mark.parametrize(
    ("literal", "running"),
    [
        ({1: 0}, False),
        ({1: None}, False),
        ({nn.BatchNorm1d: FROZEN}, False),
        ({"1.running_mean": 0, "1.running_var": 0}, False),
        ({"1.weight": 0, "1.bias": 0}, True),
        ({1: 0.5}, True),
        (None, True),
    ],
    ids=repr,
)
def test_a6_a_frozen_layer_keeps_its_statistics_frozen_affine_arrays_do_not(literal: Any, running: bool) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = arrays(net)
    train(net, literal, steps=4)
    moved = changed(before, net) & {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert bool(moved) == running
    assert len(moved) in (0, 3)


def test_a6_a_frozen_layer_normalises_with_its_statistics_while_training() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    seen: list[Tensor] = []
    net[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()) if net.training else None)
    x, y = stacked(1)
    train(net, {0: 0}, data=(x, y), steps=1, shuffle=False)
    assert torch.allclose(seen[-1], functional.batch_norm(x, torch.zeros(3), torch.ones(3)), atol=1e-5)


def test_a7_what_does_not_train_does_not_whatever_is_said() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[0].weight.requires_grad = False
    before = arrays(net)
    train(net, {"0.weight": 2, "1.running_mean": 3}, steps=3)
    assert "0.weight" not in changed(before, net)
    assert torch.isfinite(net[1].running_mean).all()


@pytest.mark.parametrize("r", [float("nan"), float("inf"), 1j, True, False, "1", [1], (1,)], ids=repr)
def test_a8_what_is_no_multiplier(r: Any) -> None:
    net = chain()
    before = arrays(net)
    with pytest.raises((RuleError, etude.ScheduleError)):
        train(net, {0: r})
    assert changed(before, net) == set()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("literal", [0, {everything: None}, {0: 0, 2: FROZEN}], ids=repr)
def test_a9_everything_frozen_warns_and_returns_the_net_as_it_was(optimizer: str, literal: Any) -> None:
    net = chain()
    before = arrays(net)
    with pytest.warns(UserWarning, match="Every array is frozen"):
        result = train(net, literal, optimizer=optimizer)
    assert changed(before, net) == set()
    assert (result.steps, result.stop_reason) == (0, "frozen")


def test_a10_a_rule_that_never_decides_is_told() -> None:
    with pytest.warns(
        UserWarning, match=r"never decides, because earlier ones cover it: learning_rate: part\(0\): times\(3\)"
    ):
        train(chain(), [(everything, 1), (0, 3)], steps=1)
    net = chain()
    before = arrays(net)
    with pytest.raises(RuleError, match=r"can never decide"):
        train(net, [(everything, 1), (0, 3)], strict=True)
    assert changed(before, net) == set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(chain(), [("0.bias", 3), (0, 1), (everything, 2)], strict=True, steps=1)


def test_ps5_a_part_that_is_not_there_is_an_error_with_the_nearest() -> None:
    net = graph()
    before = arrays(net)
    with pytest.raises(PartError, match=r"part\('ouut'\) matches nothing: the net has no 'ouut'.*Nearest: \"out\""):
        train(net, {"ouut": 1})
    assert changed(before, net) == set()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a11_what_is_frozen_has_no_memory(optimizer: str) -> None:
    net = chain()
    trainer = etude.Trainer(net, optimizer, learning_rate_multipliers={0: 0}, **OPTIMIZERS[optimizer])
    list(walk(net, trainer, data(2)))
    kept = memory_of(trainer)
    assert {name for name, own in kept.items() if own} == THIRD


def test_multipliers_are_used_in_a_run_exactly_as_in_a_loop() -> None:
    net, twin = graph(), graph()
    literal = {"a": -0.5, "b.weight": 2, "b.bias": 0}
    plan = etude.Plan("mse", steps=6, batch_size=8, shuffle=False, optimizer="adam", learning_rate_multipliers=literal)
    for event in etude.Run(plan, net, stacked(6)):
        assert not isinstance(event, Stepped) or event.rate == 1e-3
    trainer = etude.Trainer(twin, "adam", learning_rate_multipliers=literal)
    for x, y in data(6):
        functional.mse_loss(twin(x), y).backward()
        trainer.step()
    assert all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
