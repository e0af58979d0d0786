"""Random numbers that are counted: the same for the same seed, name and number, and nobody else's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.step.optim.noise import generator_of, mixed, noise_like
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.schedule import cycle
from etude.values.spans import steps
from nets import alike, arrays, chain, data, graph

X, Y = data(1)[0]


def drawn(seed: int = 0, name: str = "x", number: int = 1) -> Tensor:
    return torch.randn(50, generator=generator_of(seed, name, number))


def noises(count: int = 3, net: nn.Module | None = None, **options: Any) -> list[dict[str, Tensor]]:
    """What noise moved each array by at each step: descent at rate 1 with gradients of zero."""
    net = graph() if net is None else net
    trainer = Trainer(net, "sgd", learning_rate=1.0, **options)
    found = []
    for _ in range(count):
        before = arrays(net)
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trainer.step()
        trainer.zero_grad()
        found.append({name: before[name] - array for name, array in arrays(net).items()})
    return found


def test_numbers_near_each_other_are_mixed_far_apart() -> None:
    found = {mixed(seed, number) for seed in range(-5, 60) for number in range(60)}
    assert len(found) == 65 * 60
    assert all(0 <= value < 2**63 for value in found)
    assert all(abs(mixed(0, n) - mixed(0, n + 1)) > 2**40 for n in range(60))


def test_a_generator_is_of_its_seed_name_and_number() -> None:
    assert torch.equal(drawn(), drawn())
    others = [drawn(seed=1), drawn(name="y"), drawn(number=2)]
    assert not any(torch.equal(drawn(), other) for other in others)
    assert not any(torch.equal(one, other) for n, one in enumerate(others) for other in others[n + 1 :])


def test_noise_is_normal_and_of_the_arrays_shape() -> None:
    array = torch.zeros(100, 200, dtype=torch.float64)
    made = noise_like(array, 3, "x", torch.tensor(5.0), "temperature")
    assert made.shape == array.shape
    assert made.dtype == torch.float32
    assert float(made.mean()) == pytest.approx(0, abs=0.03)
    assert float(made.std()) == pytest.approx(1, abs=0.03)
    assert torch.equal(made, noise_like(array, 3, "x", torch.tensor(5.0), "temperature"))
    assert not torch.equal(made, noise_like(array, 3, "x", torch.tensor(5.0), "other"))


def test_gradient_noise_has_its_deviation_and_no_other_mean() -> None:
    net = nn.ParameterDict({"w": nn.Parameter(torch.zeros(20000))})
    (found,) = noises(1, net, noise=0.5)
    assert float(found["w"].std()) == pytest.approx(0.5, rel=0.03)
    assert float(found["w"].mean()) == pytest.approx(0, abs=0.02)


def test_arrays_and_steps_have_noise_of_their_own() -> None:
    net = nn.ParameterDict({name: nn.Parameter(torch.zeros(100)) for name in "ab"})
    first, second = noises(2, net, noise=1.0)
    seen = [first["a"], first["b"], second["a"], second["b"]]
    for n, one in enumerate(seen):
        for other in seen[n + 1 :]:
            correlation = torch.corrcoef(torch.stack([one, other]))[0, 1]
            assert abs(float(correlation)) < 0.4


def test_it_is_by_part_and_by_schedule() -> None:
    found = noises(4, rules={"noise": {"a": linear(1.0, 0.0, over=steps(3)), "b.bias": cycle(0.0, 2.0)}})
    moved = [{name for name, array in step.items() if bool(array.any())} for step in found]
    a = {"a.weight", "a.bias"}
    assert moved == [a, a | {"b.bias"}, a, {"b.bias"}]
    ratio = found[1]["a.weight"].std() / found[0]["a.weight"].std()
    assert float(ratio) < 0.95


def test_it_goes_on_after_a_state_where_it_was() -> None:
    net, late = chain(), chain()
    options: dict[str, Any] = {"noise": 0.3, "seed": 4}
    trainer = Trainer(net, "sgd", learning_rate=1.0, **options)

    def step(own: nn.Module, running: Trainer) -> None:
        (own(X) - Y).square().sum().backward()
        running.step(8)

    for _ in range(3):
        step(net, trainer)
    late.load_state_dict(net.state_dict())
    again = Trainer(late, "sgd", learning_rate=1.0, **options)
    again.load_state_dict(copy.deepcopy(trainer.state_dict()))
    for _ in range(3):
        step(net, trainer)
        step(late, again)
    assert all(alike(a, b) for a, b in zip(net.parameters(), late.parameters(), strict=True))


@pytest.mark.parametrize("seed", [-1, 0, 2**40])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    assert alike(noises(1, noise=1.0, seed=seed)[0]["a.weight"], noises(1, noise=1.0, seed=seed)[0]["a.weight"])


def test_a_refused_step_has_drawn_and_the_next_draws_its_own() -> None:
    """The noise of a step is that of its number, whatever was refused before."""
    found = noises(3, noise=1.0)
    net = graph()
    trainer = Trainer(net, "sgd", learning_rate=1.0, noise=1.0, non_finite="skip")
    for bad in (False, True, False):
        before = arrays(net)
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, float("nan") if bad else 0.0)
        assert trainer.step() is not bad
        trainer.zero_grad()
    assert torch.allclose(before["a.weight"] - net.a.weight, found[2]["a.weight"], atol=1e-6)


def test_complex_arrays_get_noise_in_both_parts() -> None:
    array = nn.Parameter(torch.zeros(5000, dtype=torch.complex64))
    trainer = Trainer({"x": array}, "sgd", learning_rate=1.0, noise=0.5)
    array.grad = torch.zeros_like(array)
    trainer.step()
    parts = torch.view_as_real(array.detach())
    assert parts.std(0).tolist() == pytest.approx([0.5, 0.5], rel=0.05)
    assert abs(float(torch.corrcoef(parts.T)[0, 1])) < 0.1
