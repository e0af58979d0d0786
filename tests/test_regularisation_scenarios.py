"""Regularisers in whole runs: off and on, clean evaluation, the right mean, growing over time, exact after a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import Directory, epochs, every, linear, part, pieces, steps, times
from etude.errors import SettingError
from etude.layers import Dropout, SpecAugment, StochasticDepth, linear_depth
from etude.step.trainer import Trainer
from nets import alike, seeded

FRAMES, FEATURES = 12, 6


class Speech(nn.Module):
    """A small net with every regulariser in it; (batch, 12, 6) -> (batch, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.augment = SpecAugment((1, 2), 3, (0, 1), 2)
        self.first = nn.Linear(FEATURES, 8)
        self.drop = Dropout(0.2, shared=1)
        self.blocks = nn.Sequential(*(StochasticDepth(nn.Sequential(nn.Linear(8, 8), nn.Tanh())) for _ in range(3)))
        self.plain = nn.Dropout(0.1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.blocks(self.drop(self.first(self.augment(x))))
        out: Tensor = self.head(self.plain(hidden.mean(1)))
        return out


def speech() -> Speech:
    made: Speech = seeded(Speech)
    linear_depth(made, 0.6)
    return made


def sequences(n: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, FRAMES, FEATURES, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def trained(net: nn.Module, **changed: Any) -> etude.Result:
    settings: dict[str, Any] = {
        "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.01, "batch_size": 8, "epochs": 4, "seed": 5,
        "progress": False,
    }  # fmt: skip
    return etude.train(net, sequences(), **{**settings, **changed})


def linear_net(*layers: nn.Module) -> nn.Sequential:
    """Layers after a linear one, so that the mean over what they draw is known."""
    made: nn.Sequential = seeded(lambda: nn.Sequential(nn.Linear(FEATURES, FEATURES), *layers))
    return made


# --------------------------------------------------------------------------------------------------- off and then on


def test_dropout_is_off_at_first_and_grows_later() -> None:
    """Nothing in the first two epochs, then from 0 to 0.1: two passes in training are equal at first, and not later."""
    net: nn.Sequential = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(FRAMES * FEATURES, 64), nn.Dropout(0.7),
                                                      nn.Linear(64, 3)))  # fmt: skip
    equal: list[bool] = []

    def loss(net: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        one, other = net(x), net(x)
        if net.training:
            equal.append(torch.equal(one, other))
        return nn.functional.cross_entropy(one, y)

    off_then_on = pieces(0.0, (epochs(2), linear(0.02, 0.1)))
    result = trained(net, loss=loss, epochs=5, knobs={"p": {nn.Dropout: off_then_on}})
    assert equal == [True] * 6 + [False] * 9
    series = result.history["knob.p"]
    assert [value for step, value in zip(series.steps, series.values, strict=True) if step <= 6] == [0.0] * 6
    assert series.values[6] == 0.02
    assert series.values == sorted(series.values)
    assert series.values[-1] == pytest.approx(0.1, abs=0.011)


@pytest.mark.parametrize(
    ("layer", "attribute"),
    [(Dropout(0.5), "p"), (StochasticDepth(nn.Tanh(), 0.5), "p"), (SpecAugment((1, 2), 3), "strength")],
    ids=["dropout", "depth", "masks"],
)
def test_what_is_off_is_the_identity_in_training_too(layer: Any, attribute: str) -> None:
    x, _ = sequences()
    clean = layer.eval()(x)
    layer.train()
    assert not torch.equal(layer(x), clean)
    setattr(layer, attribute, 0.0)
    assert torch.equal(layer(x), clean)


def test_depth_grows_and_keeps_its_shares() -> None:
    net, seen = speech(), []
    ramp = {"p": {StochasticDepth: times(linear(0, 1))}}

    def loss(net: Any, batch: Any) -> Tensor:
        if net.training:
            seen.append([block.p for block in net.blocks])
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    trained(net, loss=loss, knobs=ramp)
    assert seen[0] == [0.0, 0.0, 0.0]
    for first, second, third in seen:
        assert (second, third) == (pytest.approx(2 * first), pytest.approx(3 * first))
    assert 0.5 < seen[-1][2] <= 0.6


def test_masks_grow_at_the_steps_of_the_recipe() -> None:
    net, seen = speech(), []

    def loss(net: Any, batch: Any) -> Tensor:
        if net.training:
            seen.append((net.augment.min_time_masks, net.augment.max_time_masks, net.augment.max_feature_masks))
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    trained(net, loss=loss, knobs=SpecAugment.returnn_knobs(steps(4), steps(8)))
    assert seen == [(0, 1, 2)] * 4 + [(1, 2, 3)] * 4 + [(2, 4, 5)] * 4


# --------------------------------------------------------------------------------- evaluation, and the mean of all


def test_evaluation_is_the_clean_net_whatever_is_on() -> None:
    net = speech()
    x, _ = sequences()
    with torch.no_grad():
        clean = net.head(net.blocks.eval()(net.first(x)).mean(1))
        made = Trainer(net, "sgd", learning_rate=0.1, weight_noise=0.5, weight_dropout=0.5)
        net.eval()
        one, other = net(x), net(x)
    assert torch.equal(one, other)
    assert torch.equal(one, clean)
    assert made.progress.step == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: linear_net(nn.Dropout(0.3)),
        lambda: linear_net(Dropout(0.3, shared=1)),
        lambda: linear_net(StochasticDepth(nn.Linear(FEATURES, FEATURES), 0.4)),
        lambda: linear_net(StochasticDepth(nn.Linear(FEATURES, FEATURES), 0.4, "batch", "evaluation")),
    ],
    ids=["dropout", "shared dropout", "depth by row", "depth by batch"],
)
def test_the_mean_of_many_passes_in_training_is_evaluation(make: Callable[[], nn.Module]) -> None:
    net, x = make(), sequences(4)[0]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        mean = torch.stack([net(x) for _ in range(2000)]).mean(0)
        clean = net.eval()(x)
    assert torch.allclose(mean, clean, atol=0.12)


@pytest.mark.parametrize("settings", [{"weight_noise": 0.3}, {"weight_dropout": 0.3}])
def test_the_mean_over_many_steps_of_perturbed_weights_is_the_clean_net(settings: dict[str, Any]) -> None:
    net, x = linear_net(), sequences(4)[0]
    made = Trainer(net, "sgd", learning_rate=1e-12, **settings)
    outputs = []
    for _ in range(1500):
        with made.perturbed():
            out = net(x)
            out.sum().backward()
        outputs.append(out.detach())
        made.step()
    with torch.no_grad():
        assert torch.allclose(torch.stack(outputs).mean(0), net(x), atol=0.12)


# --------------------------------------------------------------------------------------------------------------- resume


EVERYTHING: dict[str, Any] = {
    "weight_noise": linear(0.0, 0.05),
    "rules": {"weight_dropout": {part("head.weight"): pieces(0.0, (steps(3), 0.3))}},
    "knobs": {
        "p": {
            StochasticDepth: times(linear(0, 1)),
            Dropout: linear(0, 0.3),
            nn.Dropout: pieces(0.0, (epochs(1), 0.2)),
        },
        "strength": {SpecAugment: linear(0, 1)},
    },
}  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_with_everything_is_the_same_after_a_resume(tmp_path: Path, precision: str) -> None:
    whole = trained(speech(), checkpoint=Directory(tmp_path, every(steps(5))), precision=precision, **EVERYTHING)
    net = speech()
    again = trained(net, resume=whole.checkpoints[0], precision=precision, **EVERYTHING)
    assert whole.net is not None
    assert all(alike(a, b) for a, b in zip(whole.net.parameters(), net.parameters(), strict=True))
    assert again.history["loss"].values == whole.history["loss"].values


def test_accumulated_steps_with_perturbed_weights_are_whole_ones() -> None:
    nets = [speech(), speech()]
    for net in nets:
        linear_depth(net, 0.0)
        net.augment.strength = net.drop.p = net.plain.p = 0.0
    settings = {"optimizer": "sgd", "shuffle": False, "weight_noise": 0.1, "weight_dropout": 0.2, "epochs": 2}
    trained(nets[0], batch_size=8, **settings)
    trained(nets[1], batch_size=4, accumulate=2, **settings)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


# ------------------------------------------------------------------------------------------------------------ as knobs


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"p": {StochasticDepth: linear(0, 1.5)}}, r"takes p from 0 to 1, not 1\.\d+"),
        ({"p": {Dropout: -0.1}}, r"takes p from 0 to 1, not -0\.1"),
        ({"strength": {SpecAugment: 2.0}}, r"takes strength from 0 to 1, not 2\.0"),
        ({"max_time_masks": {SpecAugment: -1}}, r"takes max_time_masks from 0 to inf, not -1"),
        ({"time_width": {SpecAugment: linear(1, 9)}}, r"time_width of .* is the whole number 3"),
        ({"rate": {StochasticDepth: 0.1}}, r"no.* attribute 'rate'"),
    ],
)
def test_a_knob_out_of_range_is_refused_before_the_first_step(knobs: Any, said: str) -> None:
    net = speech()
    before = [array.clone() for array in net.parameters()]
    with pytest.raises(SettingError, match=said):
        trained(net, knobs=knobs)
    assert [block.p for block in net.blocks] == pytest.approx([0.2, 0.4, 0.6])
    assert all(alike(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_layer_of_ones_own_says_what_its_knobs_take() -> None:
    class Noisy(nn.Module):
        """Noise of a deviation from 0 to 2."""

        knob_ranges: ClassVar[dict[str, tuple[float, float]]] = {"deviation": (0.0, 2.0)}

        def __init__(self) -> None:
            super().__init__()
            self.deviation = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return x + self.deviation * torch.randn_like(x)

    net = nn.Sequential(nn.Flatten(), Noisy(), nn.Linear(FRAMES * FEATURES, 3))
    with pytest.raises(SettingError, match=r"Noisy '1' takes deviation from 0 to 2, not 2\.\d+"):
        trained(net, knobs={"deviation": {Noisy: linear(0, 3)}})
    trained(net, knobs={"deviation": {Noisy: linear(0, 2)}}, epochs=1)


def test_a_chance_in_a_tensor_is_filled_in_place() -> None:
    net: nn.Sequential = seeded(lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(FRAMES * FEATURES, 3), Dropout(torch.tensor(0.5)),
    ))  # fmt: skip
    chance: Any = net[2].p
    trained(net, knobs={"p": {Dropout: linear(0.0, 0.24, over=steps(12))}}, epochs=4)
    assert net[2].p is chance
    assert float(chance) == pytest.approx(0.22, abs=0.03)


# ------------------------------------------------------------------------------------------------------------- compiled


def programs(layer: nn.Module, change: Callable[[nn.Module, float], None], values: list[float], *inputs: Any) -> int:
    """How many programs torch makes of a layer for several values of its setting."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for value in values:
        change(layer, value)
        compiled(*inputs)
    return int(counter.frame_count)


@pytest.mark.parametrize("make", [Dropout, lambda p: StochasticDepth(nn.Tanh(), p)], ids=["dropout", "depth"])
def test_a_tensor_as_chance_needs_one_program(make: Callable[[Tensor], nn.Module]) -> None:
    def fill(layer: Any, value: float) -> None:
        layer.p.fill_(value)

    assert programs(make(torch.tensor(0.5)), fill, [0.1, 0.2, 0.3, 0.4], torch.ones(4, 3)) == 1


def test_masks_are_one_program() -> None:
    def nothing(layer: nn.Module, value: float) -> None:
        assert layer.training

    lengths = torch.tensor([5, 9])
    for fraction in (0.5, 1.0):
        layer = SpecAugment((1, 2), 3, (0, 1), 2, max_fraction=fraction)
        assert programs(layer, nothing, [0.0, 0.0], torch.ones(2, 9, 6), lengths) == 1
