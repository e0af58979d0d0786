"""What happens to gradients between backward and the update rule, in which order, and to which arrays."""

from __future__ import annotations

import copy
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import NonFiniteError, SettingError, StaleGradientError
from etude.step.gradients import GRADIENT_SETTINGS, Gradients, all_finite, names_not_finite
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.part import everything, part
from etude.values.schedule import cycle
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
    assert not Trainer(graph())._stepper.extra
    assert Trainer(graph(), clip_norm=1.0)._stepper.extra
    assert Trainer(graph(), rules={"noise": {part("a"): 0.1}})._stepper.extra


# together and apart


@pytest.mark.parametrize("rule", ["sgd", "adamw", "nadam"])
@pytest.mark.parametrize("count", [1, 8])
def test_a_step_in_pieces_is_a_step(rule: str, count: int) -> None:
    net, twin = graph(), graph()
    trainer = Trainer(net, rule, learning_rate=0.1)
    other = Trainer(twin, rule, learning_rate=0.1, clip_norm=0.05)
    for seed in range(3):
        for own in (net, twin):
            give_gradients(own, seed)
        trainer.allreduce_grads()
        whole = norm(gradients(net, seed)) / count
        assert trainer.clip_grads(0.05, count) == pytest.approx(whole, rel=1e-5)
        assert trainer.update(count)
        other.step(count)
        for running in (trainer, other):
            running.zero_grad()
    assert close(arrays(net), arrays(twin))
    assert trainer.progress.step == 3


def test_gradients_can_be_changed_between_the_pieces() -> None:
    net = graph()
    before = arrays(net)
    trainer = Trainer(net, "sgd", learning_rate=1.0)
    give_gradients(net, 0)
    trainer.allreduce_grads()
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    trainer.update(4)
    assert all(
        torch.allclose(before[name] - array, torch.full_like(array, 0.5)) for name, array in net.named_parameters()
    )


def test_a_norm_within_its_bound_changes_no_gradient() -> None:
    net = graph()
    trainer = Trainer(net)
    give_gradients(net, 0)
    before = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert trainer.clip_grads(1e9) == pytest.approx(norm(gradients(net)), rel=1e-5)
    assert trainer.clip_grads(float("inf")) > 0
    assert all(torch.equal(old, p.grad) for old, p in zip(before, net.parameters(), strict=True) if p.grad is not None)


def test_a_norm_is_of_what_moves_now_and_the_rest_is_left() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", update_schedule=["a"])
    give_gradients(net, 0)
    whole = gradients(net)
    found = trainer.clip_grads(0.1)
    assert found == pytest.approx(norm({name: g for name, g in whole.items() if name.startswith("a")}), rel=1e-5)
    after = {name: p.grad for name, p in net.named_parameters()}
    assert torch.equal(after["b.weight"], whole["b.weight"])  # type: ignore[arg-type]
    assert norm({name: g for name, g in after.items() if name.startswith("a")}) == pytest.approx(0.1, rel=1e-4)  # type: ignore[misc]


@pytest.mark.parametrize("value", [0, -1.0, "x", None, True, float("nan"), [1.0]])
def test_a_largest_norm_is_a_positive_number(value: Any) -> None:
    net = graph()
    trainer = Trainer(net)
    give_gradients(net, 0)
    with pytest.raises(SettingError, match=r"clip_grads\(.*\): the largest norm is a positive number"):
        trainer.clip_grads(value)
    with pytest.raises(SettingError, match="the number of samples is positive and finite"):
        trainer.clip_grads(1.0, value if value is not True else 0)


@pytest.mark.parametrize("policy", [None, "raise"])
def test_a_norm_that_is_not_finite_is_an_error(policy: str | None) -> None:
    net = graph()
    trainer = Trainer(net, non_finite=policy)
    give_gradients(net, 0)
    net.b.bias.grad[0] = float("nan")
    kept = net.a.weight.grad.clone()
    with pytest.raises(NonFiniteError, match=r"'b\.bias'"):
        trainer.clip_grads(1.0)
    assert torch.equal(net.a.weight.grad, kept)


def test_stale_gradients_are_found_by_each_piece() -> None:
    net = graph()
    trainer = Trainer(net)
    for piece in (trainer.allreduce_grads, lambda: trainer.clip_grads(1.0), trainer.update):
        with pytest.raises(StaleGradientError, match="Step 1: no new gradient"):
            piece()
    trainer.allreduce_grads(ignore_stale_grad=True)
    assert trainer.update(ignore_stale_grad=True)


# each setting, by part and by schedule


def test_the_norm_of_each_array_by_itself() -> None:
    whole = gradients(graph())
    found = displacement(graph(), clip_array_norm=0.5)
    for name, gradient in whole.items():
        assert torch.allclose(found[name], gradient * min(1.0, 0.5 / float(gradient.norm())), atol=1e-5)
    found = displacement(graph(), rules={"clip_array_norm": {"a": 0.1, "b.bias": 1e9}})
    assert float(found["a.weight"].norm()) == pytest.approx(0.1, rel=1e-4)
    assert float(found["a.bias"].norm()) == pytest.approx(0.1, rel=1e-4)
    assert torch.allclose(found["b.weight"], whole["b.weight"])


def test_one_joint_norm_for_each_rule() -> None:
    whole = gradients(graph())
    found = displacement(graph(), rules={"clip_norm": {"a": 0.3, "b": 0.2}})
    for head, bound in (("a", 0.3), ("b", 0.2)):
        own = {name: gradient for name, gradient in whole.items() if name.startswith(head)}
        for name, gradient in own.items():
            assert torch.allclose(found[name], gradient * (bound / norm(own)), atol=1e-5)
    assert torch.allclose(found["out.weight"], whole["out.weight"])


def test_arrays_of_no_rule_have_the_norm_of_the_call() -> None:
    whole = gradients(graph())
    found = displacement(graph(), clip_norm=0.4, rules={"clip_norm": {"a": 0.3}})
    others = {name: gradient for name, gradient in whole.items() if not name.startswith("a")}
    assert norm({name: moved for name, moved in found.items() if not name.startswith("a")}) == pytest.approx(
        0.4, rel=1e-4
    )
    assert torch.allclose(found["b.bias"], whole["b.bias"] * (0.4 / norm(others)), atol=1e-5)
    assert norm({name: moved for name, moved in found.items() if name.startswith("a")}) == pytest.approx(0.3, rel=1e-4)


def test_a_part_may_be_free_of_a_bound() -> None:
    whole = gradients(graph())
    found = displacement(
        graph(), clip_value=0.1, clip_norm=0.4, rules={s: {"a": inf} for s in ("clip_value", "clip_norm")}
    )
    assert torch.allclose(found["a.weight"], whole["a.weight"])
    assert float(found["b.weight"].abs().max()) <= 0.1


@pytest.mark.parametrize(
    "setting", ["clip_value", "clip_array_norm", "clip_norm", "l2", "shrink", "noise", "clip_weights"]
)
def test_every_setting_goes_by_schedule(setting: str) -> None:
    """In step 2 of a schedule as with the number that it has there."""
    for form in ({setting: cycle(0.01, 0.5)}, {"rules": {setting: {everything: cycle(0.01, 0.5)}}}):
        net, twin = graph(), graph()
        trainer = Trainer(net, "sgd", learning_rate=0.5, **form)  # type: ignore[arg-type]
        give_gradients(net, 0)
        trainer.step()
        trainer.zero_grad()
        twin.load_state_dict(net.state_dict())
        other = Trainer(twin, "sgd", learning_rate=0.5, **{setting: 0.5})  # type: ignore[arg-type]
        other.load_state_dict(trainer.state_dict(), keep="new")
        for own, running in ((net, trainer), (twin, other)):
            give_gradients(own, 1)
            running.step()
        assert all(alike(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


# order


def test_the_stated_order() -> None:
    """count, noise, values, array norms, joint norm, centralise, l2: by hand, one after the other."""
    settings: dict[str, Any] = {
        "clip_value": 0.4,
        "clip_array_norm": 0.8,
        "clip_norm": 1.1,
        "centralise": True,
        "l2": 0.3,
        "noise": 0.2,
    }
    net = graph()
    noise = displacement(graph(), scale=0.0, noise=0.2)
    found = {name: gradient / 4 + noise[name] for name, gradient in gradients(net).items()}
    found = {name: gradient.clamp(-0.4, 0.4) for name, gradient in found.items()}
    found = {name: gradient * min(1.0, 0.8 / float(gradient.norm())) for name, gradient in found.items()}
    found = {name: gradient * min(1.0, 1.1 / norm(found)) for name, gradient in found.items()}
    found = {
        name: gradient - gradient.mean(tuple(range(1, gradient.dim())), keepdim=True)
        if gradient.dim() > 1
        else gradient
        for name, gradient in found.items()
    }
    found = {
        name: gradient + 0.3 * array
        for (name, gradient), array in zip(found.items(), arrays(net).values(), strict=True)
    }
    assert close(displacement(net, count=4, **settings), found)


# centralise


def test_the_mean_of_each_output_is_taken_from_the_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5), nn.LayerNorm(5), nn.Conv1d(2, 2, 2), nn.Embedding(3, 2))
    whole = gradients(net)
    found = displacement(net, centralise=True)
    for name, gradient in whole.items():
        if gradient.dim() > 1:
            rest = tuple(range(1, gradient.dim()))
            assert torch.allclose(found[name], gradient - gradient.mean(rest, keepdim=True), atol=1e-6)
            assert torch.allclose(found[name].mean(rest), torch.zeros(len(gradient)), atol=1e-6)
        else:
            assert torch.allclose(found[name], gradient, atol=1e-6)
    found = displacement(net, rules={"centralise": {"0": True}})
    assert torch.allclose(found["1.weight"], whole["1.weight"], atol=1e-6)
    assert not torch.allclose(found["0.weight"], whole["0.weight"], atol=1e-3)


# decay


@pytest.mark.parametrize("rate", [1.0, -1.0])
def test_l2_goes_through_the_rule_and_shrinks_whichever_way(rate: float) -> None:
    net = graph()
    found = displacement(net, scale=0.0, l2=0.25, learning_rate_multipliers=rate)
    assert close(found, {name: 0.25 * array for name, array in arrays(net).items()})
    found = displacement(net, l2=0.25, learning_rate_multipliers=rate)
    whole = gradients(net)
    assert close(found, {name: 0.25 * array + rate * whole[name] for name, array in arrays(net).items()})


@pytest.mark.parametrize("rate", [0.5, -0.5])
@pytest.mark.parametrize("rule", ["sgd", "adamw", "signum", "nadam"])
def test_shrinking_is_beside_the_rule_and_with_the_rate(rate: float, rule: str) -> None:
    net, twin = graph(), graph()
    before = arrays(net)
    options: dict[str, Any] = {"learning_rate": 0.5, "learning_rate_multipliers": 2 * rate}
    for own, more in ((net, {"shrink": 0.3}), (twin, {})):
        give_gradients(own, 0)
        Trainer(own, rule, **options, **more).step()
    moved = {name: array - before[name] for name, array in arrays(twin).items()}
    expected = {name: before[name] * (1 - 0.5 * 0.3) + moved[name] for name in before}
    if rule == "adamw":
        # Its own decay is of the array that was shrunk.
        expected = {name: array + 0.5 * 0.01 * 0.5 * 0.3 * before[name] for name, array in expected.items()}
    assert all(torch.allclose(array, expected[name], atol=1e-5) for name, array in arrays(net).items())


def test_decay_is_of_what_moves() -> None:
    net = graph()
    found = displacement(net, scale=0.0, l2=0.1, shrink=0.1, update_schedule=["a"])
    assert {name for name, moved in found.items() if bool(moved.any())} == {"a.weight", "a.bias"}


# sparse and complex


def embedded(sparse: bool) -> nn.Embedding:
    net = nn.Embedding(6, 3, sparse=sparse)
    with torch.no_grad():
        net.weight.copy_(torch.arange(18.0).reshape(6, 3) / 9 - 1)
    return net


@pytest.mark.parametrize("rule", ["sgd", "adamw", "lion", "torch.sgd"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_value": 0.3},
        {"clip_array_norm": 0.3},
        {"clip_norm": 0.3},
        {"noise": 0.1},
        {"centralise": True},
        {"l2": 0.2},
        {"shrink": 0.2},
        {"clip_weights": 0.4},
        {"clip_value": 0.3, "clip_norm": 0.2, "l2": 0.1, "clip_weights": 0.5},
    ],
    ids=str,
)
def test_sparse_gradients_are_as_dense_ones(rule: str, settings: dict[str, Any]) -> None:
    sparse, dense = embedded(True), embedded(False)
    for net in (sparse, dense):
        trainer = Trainer(net, rule, learning_rate=0.1, **settings)
        for rows in ([1, 2, 2], [0, 2, 5]):
            (net(torch.tensor(rows)).square().sum() + net(torch.tensor(rows[:1])).sum()).backward()
            trainer.step(3)
            trainer.zero_grad()
    assert torch.allclose(sparse.weight, dense.weight, atol=1e-6)
    assert not torch.allclose(dense.weight, embedded(False).weight)


@pytest.mark.parametrize("rule", ["lazy_adam", "lazy_sgd"])
@pytest.mark.parametrize("settings", [{"clip_value": 0.1}, {"clip_array_norm": 0.3}, {"clip_norm": 0.3}], ids=str)
def test_clipping_keeps_sparse_gradients_sparse(rule: str, settings: dict[str, Any]) -> None:
    net = embedded(True)
    before = net.weight.detach().clone()
    trainer = Trainer(net, rule, learning_rate=0.1, **settings)
    net(torch.tensor([1, 2, 2])).sum().backward()
    assert trainer.step(3)
    moved = (net.weight.detach() - before).abs().sum(1) > 0
    assert moved.tolist() == [False, True, True, False, False, False]


def test_norms_of_sparse_gradients_count_a_row_that_comes_twice_once() -> None:
    net = embedded(True)
    trainer = Trainer(net, "sgd", learning_rate=1.0)
    net(torch.tensor([1, 1, 1])).sum().backward()
    assert trainer.clip_grads(1.0) == pytest.approx(27**0.5, rel=1e-5)
    assert float(net.weight.grad.to_dense().norm()) == pytest.approx(1.0, rel=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize("settings", [{"l2": 0.1}, {"noise": 0.1}, {"centralise": True}], ids=str)
def test_what_would_fill_the_gradients_of_sparse_adam_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="makes gradients dense, and SparseAdam takes sparse ones only"):
        Trainer(embedded(True), "sparseadam", **settings)
    trainer = Trainer(embedded(True), "sparseadam", clip_norm=1.0, **{name: type(v)(0) for name, v in settings.items()})
    assert trainer.name == "SparseAdam"


@pytest.mark.parametrize("rule", ["sgd", "adamw", "lion", "torch.sgd"])
@pytest.mark.parametrize(
    "settings",
    [
        {"clip_value": 0.3},
        {"clip_array_norm": 0.3},
        {"clip_norm": 0.3},
        {"l2": 0.2},
        {"shrink": 0.2},
        {"clip_weights": 0.4},
    ],
    ids=str,
)
@pytest.mark.parametrize("conjugate", [False, True])
def test_complex_arrays_are_pairs_of_numbers(rule: str, settings: dict[str, Any], conjugate: bool) -> None:
    start = torch.randn(3, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(3, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    one, other = nn.Parameter(start.clone()), nn.Parameter(torch.view_as_real(start.clone()))
    for array in (one, other):
        trainer = Trainer({"x": array}, rule, learning_rate=0.1, **settings)
        given = gradient.conj() if conjugate else gradient
        array.grad = given if array is one else torch.view_as_real(given.resolve_conj().clone())
        trainer.step(2)
    assert torch.allclose(torch.view_as_real(one.detach()), other, atol=1e-6)
    assert not torch.allclose(one, start)


def test_complex_arrays_are_centralised_as_complex_numbers() -> None:
    for shape in ((3,), (3, 2)):
        array = nn.Parameter(torch.zeros(shape, dtype=torch.complex64))
        gradient = torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
        trainer = Trainer({"x": array}, "sgd", learning_rate=1.0, centralise=True)
        array.grad = gradient.clone()
        trainer.step()
        expected = gradient - gradient.mean(1, keepdim=True) if len(shape) > 1 else gradient
        assert torch.allclose(-array, expected, atol=1e-6)


@pytest.mark.parametrize("name", sorted(GRADIENT_SETTINGS))
@pytest.mark.parametrize("rule", ["adamw", "nadam"])
def test_the_gradient_that_can_be_read_is_never_changed(name: str, rule: str) -> None:
    net = graph()
    values: dict[str, Any] = {
        "centralise": True,
        "drop_non_finite": True,
        "carry": "sum",
        "tie": {part("a.bias") | "b.bias": True},
        "max_norm": 0.1,
    }
    with torch.no_grad():
        net.b.bias.copy_(net.a.bias)
    more = {"update_schedule": [part("a") | "b" | "out", "out"]} if name == "carry" else {}
    trainer = Trainer(net, rule, **{name: values.get(name, 0.1)}, **more)
    with trainer.perturbed():
        give_gradients(net, 0)
    before = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    trainer.step(3)
    assert all(torch.equal(old, p.grad) for old, p in zip(before, net.parameters(), strict=True) if p.grad is not None)
