"""What happens to gradients between backward and the update rule, in which order, and to which arrays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import NonFiniteError
from etude.step.gradients import Gradients, all_finite, names_not_finite
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.part import part
from etude.values.spans import steps
from nets import alike, arrays, give_gradients, graph

BAD = (float("nan"), float("inf"), -float("inf"))


def displacement(
    net: nn.Module, seed: int = 0, scale: float = 1.0, count: float = 1, **settings: Any
) -> dict[str, Tensor]:
    """How far each array goes in one step of plain gradient descent at rate 1: what the rule was given, turned."""
    net = copy.deepcopy(net)
    before = arrays(net)
    trainer = Trainer(net, "sgd", learning_rate=1.0, **settings)
    give_gradients(net, seed, scale)
    trainer.step(count)
    return {name: before[name] - array for name, array in arrays(net).items()}


def gradients(net: nn.Module, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    net = copy.deepcopy(net)
    give_gradients(net, seed, scale)
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def norm(values: dict[str, Tensor]) -> float:
    return float(torch.stack([value.norm() for value in values.values()]).norm())


def test_a_sum_is_divided_by_its_count() -> None:
    expected = {name: gradient / 8 for name, gradient in gradients(graph()).items()}
    assert close(displacement(graph(), count=8), expected)


def test_elements_are_clipped_within_their_bound() -> None:
    expected = {name: gradient.clamp(-0.5, 0.5) for name, gradient in gradients(graph()).items()}
    assert close(displacement(graph(), clip_value=0.5), expected)


def test_elements_are_clipped_part_by_part() -> None:
    found = displacement(graph(), rules={"clip_value": {"a": 0.5, "*.bias": 0.1}})
    for name, gradient in gradients(graph()).items():
        bound = 0.5 if name.startswith("a") else 0.1 if name.endswith("bias") else 1e9
        assert torch.allclose(found[name], gradient.clamp(-bound, bound), atol=1e-6)


def test_the_norm_of_all_is_at_most_its_bound() -> None:
    whole = gradients(graph())
    found = displacement(graph(), clip_norm=0.5)
    assert norm(found) == pytest.approx(0.5, rel=1e-5)
    assert close(found, {name: gradient * (0.5 / norm(whole)) for name, gradient in whole.items()})
    assert close(displacement(graph(), clip_norm=1e3), whole)


def test_the_norm_is_of_what_moves_now() -> None:
    """TUS-A10."""
    whole = gradients(graph())
    active = {name: gradient for name, gradient in whole.items() if name.startswith("a")}
    found = displacement(graph(), clip_norm=0.5, update_schedule=["a"])
    assert norm(found) == pytest.approx(0.5, rel=1e-5)
    assert torch.allclose(found["a.weight"], active["a.weight"] * (0.5 / norm(active)), atol=1e-6)


def test_the_norm_is_of_what_the_sum_was_divided_into() -> None:
    found = displacement(graph(), clip_norm=0.5, count=1e3)
    assert norm(found) == pytest.approx(norm(gradients(graph())) / 1e3, rel=1e-3)


def test_values_are_clipped_before_the_norm() -> None:
    clipped = {name: gradient.clamp(-0.1, 0.1) for name, gradient in gradients(graph()).items()}
    expected = {name: gradient * (0.3 / norm(clipped)) for name, gradient in clipped.items()}
    assert close(displacement(graph(), clip_value=0.1, clip_norm=0.3), expected)


def test_noise_is_drawn_from_the_seed_and_the_step_alone() -> None:
    one = _noisy(seed=5, at=0)
    assert close(one, _noisy(seed=5, at=0))
    assert not close(one, _noisy(seed=5, at=1))
    assert not close(one, _noisy(seed=6, at=0))
    deviation = torch.cat([value.flatten() for value in _noisy(seed=1, at=0, size=4000).values()]).std()
    assert float(deviation) == pytest.approx(1.0, abs=0.05)


def _noisy(seed: int, at: int, size: int = 8) -> dict[str, Tensor]:
    """The noise of step `at`."""
    net = nn.ParameterDict({"w": nn.Parameter(torch.zeros(size))})
    trainer = Trainer(net, "sgd", learning_rate=1.0, noise=1.0, seed=seed)
    for _ in range(at + 1):
        before = arrays(net)
        net["w"].grad = torch.zeros(size)
        trainer.step()
        trainer.zero_grad()
    return {name: before[name] - array for name, array in arrays(net).items()}


def test_noise_leaves_the_processs_generator_alone() -> None:
    before = torch.get_rng_state()
    displacement(graph(), noise=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_added_part_by_part_and_on_a_schedule() -> None:
    found = displacement(graph(), scale=0.0, rules={"noise": {"a": 0.1}})
    assert {name for name, moved in found.items() if moved.abs().sum() > 0} == {"a.weight", "a.bias"}
    found = displacement(graph(), scale=0.0, noise=linear(0, 1, over=steps(3)))
    assert not any(moved.abs().sum() for moved in found.values())


def test_weights_are_clipped_after_the_step_where_they_moved() -> None:
    net = graph()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(10)
    before = arrays(net)
    trainer = Trainer(net, "sgd", learning_rate=0.1, clip_weights=0.5, update_schedule=["a", "b"])
    give_gradients(net, 0)
    trainer.step()
    for name, array in arrays(net).items():
        if name.startswith("a"):
            assert array.abs().max() <= 0.5
        else:
            assert alike(array, before[name])


def test_weights_are_clipped_part_by_part() -> None:
    net = graph()
    give_gradients(net, 0, 100.0)
    Trainer(net, "sgd", learning_rate=1.0, rules={"clip_weights": {"a": 0.01}}).step()
    assert net.a.weight.abs().max() <= 0.01
    assert net.b.weight.abs().max() > 1


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64], ids=str
)
def test_finite_is_told_in_all_numbers(dtype: torch.dtype) -> None:
    fine = [torch.ones(3, dtype=dtype), torch.ones(2, 2, dtype=dtype).t()]
    assert all_finite(fine)
    for bad in BAD:
        assert not all_finite([*fine, torch.tensor([1.0, bad], dtype=dtype)])
        assert all_finite(fine)


def test_finite_is_told_of_mixtures_and_sparse_gradients() -> None:
    sparse = torch.tensor([0.0, 1.0]).to_sparse()
    odd = torch.tensor([0.0, float("nan")]).to_sparse()
    nan = torch.tensor([float("nan")])
    assert all_finite([torch.ones(2), torch.ones(2, dtype=torch.float64), sparse, torch.ones(1, dtype=torch.complex64)])
    for mixed in ([nan, sparse], [nan, torch.ones(1, dtype=torch.complex64)]):
        assert not all_finite(mixed)
        assert all_finite([torch.ones(1)])
    assert not all_finite([torch.ones(1), odd])
    assert names_not_finite(["a", "b", "c"], [torch.ones(1), odd, nan]) == ("b", "c")


@pytest.mark.parametrize("bad", BAD)
def test_a_gradient_that_is_not_finite_is_refused_before_anything_changes(bad: float) -> None:
    net = graph()
    trainer = Trainer(net, "adamw", non_finite="raise", weight_decay=0.1)
    give_gradients(net, 0)
    trainer.step()
    before, kept = arrays(net), copy.deepcopy(trainer.state_dict())
    trainer.zero_grad()
    give_gradients(net, 1)
    net.b.bias.grad[1] = bad
    with pytest.raises(NonFiniteError, match=r"Step 2 is refused: the gradients of 'b.bias' are not finite") as raised:
        trainer.step()
    assert raised.value.names == ("b.bias",)
    assert raised.value.step == 2
    assert all(alike(before[name], array) for name, array in arrays(net).items())
    after = trainer.state_dict()["arrays"]
    assert all(
        alike(own["mean"], after[name]["mean"]) and own["count"] == after[name]["count"]
        for name, own in kept["arrays"].items()
    )


def test_a_refused_step_may_be_skipped_and_the_clock_ticks() -> None:
    """TUS-A5: the place in the schedule goes on."""
    net = graph()
    trainer = Trainer(net, "adamw", non_finite="skip", update_schedule=["a", "b"])
    before = arrays(net)
    give_gradients(net, 0)
    net.a.bias.grad.fill_(float("nan"))
    assert trainer.step() is False
    assert all(alike(before[name], array) for name, array in arrays(net).items())
    assert trainer.progress.step == 1
    trainer.zero_grad()
    give_gradients(net, 1)
    assert trainer.step() is True
    assert {name for name, array in arrays(net).items() if not alike(array, before[name])} == {"b.weight", "b.bias"}


def test_a_gradient_of_what_is_held_may_be_anything() -> None:
    net = graph()
    trainer = Trainer(net, "adamw", non_finite="raise", update_schedule=["a"], clip_norm=1.0)
    give_gradients(net, 0)
    net.b.weight.grad.fill_(float("nan"))
    assert trainer.step()
    assert torch.isfinite(net.a.weight).all()


def test_gradients_of_our_own_are_made_once() -> None:
    given = [torch.ones(2), torch.ones(3)]
    made = Gradients(list(given))
    made.divide(2)
    owned = made.values
    assert all(one is other for one, other in zip(made.writable(), owned, strict=True))
    assert [float(one[0]) for one in made.values] == [0.5, 0.5]
    assert [float(one[0]) for one in given] == [1.0, 1.0]


def test_what_is_off_is_not_in_the_table() -> None:
    assert not Trainer(graph())._stepper.shapes_gradients
    assert Trainer(graph(), clip_norm=1.0)._stepper.shapes_gradients
    assert Trainer(graph(), rules={"noise": {part("a"): 0.1}})._stepper.shapes_gradients
