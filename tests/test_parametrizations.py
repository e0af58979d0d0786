"""torch's own parametrizations under rules, schedules, averages, checkpoints and weight noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import etude
from etude import FROZEN, Directory, ema, every, part, steps
from etude.step.trainer import Trainer
from nets import alike, arrays, data, seeded

X, Y = (torch.cat(own) for own in zip(*data(4, inputs=4, outputs=4), strict=True))

KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "spectral": lambda layer: parametrizations.spectral_norm(layer),
    "weight": lambda layer: parametrizations.weight_norm(layer),
    "orthogonal": lambda layer: parametrizations.orthogonal(layer),
}


def net(kind: str) -> Any:
    return seeded(lambda: nn.Sequential(KINDS[kind](nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 4)))


def trained(made: nn.Module, **changed: Any) -> etude.Result:
    settings = {"loss": "mse", "optimizer": "adam", "learning_rate": 0.05, "batch_size": 8, "epochs": 3, "seed": 1}
    return etude.train(made, (X, Y), **{**settings, "progress": False, **changed})


@pytest.mark.parametrize("kind", KINDS)
def test_the_arrays_behind_are_trained_and_the_constraint_holds(kind: str) -> None:
    made = net(kind)
    before = arrays(made)
    result = trained(made)
    assert all(not alike(array, before[name]) for name, array in made.named_parameters())
    assert result.history["loss"].values[-1] < result.history["loss"].values[0]
    weight = made.eval()[0].weight.detach()
    if kind == "orthogonal":
        assert torch.allclose(weight @ weight.T, torch.eye(4), atol=1e-4)
    if kind == "spectral":
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_rules_name_the_arrays_behind(kind: str) -> None:
    made = net(kind)
    behind = [name for name, _ in made.named_parameters() if "parametrizations" in name]
    before = arrays(made)
    trained(made, learning_rate_multipliers={behind[0]: FROZEN, part(nn.Tanh) | "2": 0.5})
    changed = {name for name, array in made.named_parameters() if not alike(array, before[name])}
    assert changed == {name for name, _ in made.named_parameters()} - {behind[0]}
    before = arrays(made)
    trained(made, learning_rate_multipliers={"0": FROZEN})
    changed = {name for name, array in made.named_parameters() if not alike(array, before[name])}
    assert changed == {"2.weight", "2.bias"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_the_same_after_a_resume_with_averages_and_noise(kind: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"averages": ema(0.9), "weight_noise": 0.02}
    whole, again = net(kind), net(kind)
    first = trained(whole, checkpoint=Directory(tmp_path, every(steps(5))), **more)
    trained(again, resume=first.checkpoints[0], **more)
    state, other = whole.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    assert all(alike(state[name], other[name]) for name in state)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_added_behind_and_taken_away_bit_for_bit(kind: str) -> None:
    made = net(kind)
    trainer = Trainer(made, "sgd", learning_rate=0.1, rules={"weight_noise": {"0": 0.3}})
    made.eval()  # spectral norm goes on with its iteration in training
    before, clean = arrays(made), made[0].weight.detach().clone()
    with trainer.perturbed():
        assert not torch.equal(made[0].weight, clean)
        ((made(X) - Y) ** 2).sum().backward()
    assert all(alike(array, before[name]) for name, array in made.named_parameters())
    assert torch.equal(made[0].weight, clean)
    trainer.step(len(X))


@pytest.mark.parametrize("kind", KINDS)
def test_first_values_are_those_of_the_weight_under_its_constraint(kind: str) -> None:
    made = net(kind)
    trained(made, initialize={"0": "glorot_uniform", "*.bias": 0.25}, epochs=1, learning_rate=1e-9)
    again = net(kind)
    trained(again, initialize={"0": "glorot_uniform", "*.bias": 0.25}, epochs=1, learning_rate=1e-9)
    assert all(alike(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    weight = made.eval()[0].weight.detach()
    assert not torch.allclose(weight, net(kind).eval()[0].weight, atol=1e-3)
    assert torch.allclose(made[0].bias, torch.tensor(0.25), atol=1e-6)
    if kind == "orthogonal":
        assert torch.allclose(weight @ weight.T, torch.eye(4), atol=1e-4)


def test_a_parametrization_of_ones_own_takes_a_knob() -> None:
    class Scaled(nn.Module):
        """A weight times a number."""

        def __init__(self) -> None:
            super().__init__()
            self.factor = 1.0

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.factor

    made = nn.Sequential(nn.Linear(4, 4))
    parametrize.register_parametrization(made[0], "weight", Scaled())
    trained(made, knobs={"factor": {Scaled: etude.linear(1.0, 0.5)}})
    scaled: Any = made[0].parametrizations.weight[0]
    assert scaled.factor == pytest.approx(0.5, abs=0.05)
