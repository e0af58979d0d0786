"""Penalties on arrays and on what modules give, by part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import losses
from etude.errors import PartError, PlanError, SettingError
from etude.step.loss import Losses, terms
from etude.step.reading import Reader
from etude.values.progress import Progress
from small import Noisy, arrays, classified, mlp, same, trained


def value(loss: Any, net: nn.Module, batch: Any = None) -> Tensor:
    made = Losses(terms({"of": loss}), net)
    given = classified() if batch is None else batch
    return made.measure(net, Reader(net), given, made.now(Progress()))[0]


def test_sums_of_sizes_and_squares_by_part() -> None:
    net = mlp()
    assert float(value(losses.l2("0"), net)) == pytest.approx(
        float(net[0].weight.square().sum() + net[0].bias.square().sum())
    )
    assert float(value(losses.l1("*.weight"), net)) == pytest.approx(
        float(net[0].weight.abs().sum() + net[2].weight.abs().sum())
    )
    whole = sum(float(array.square().sum()) for array in net.parameters())
    assert float(value(losses.l2(), net)) == pytest.approx(whole, rel=1e-6)
    buffers = Noisy()
    expected = sum(float(array.abs().sum()) for array in buffers.parameters())
    assert float(value(losses.l1(), buffers)) == pytest.approx(expected, rel=1e-6)


def test_a_shared_array_counts_once() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.Tanh(), shared)
    expected = float(shared.weight.square().sum() + shared.bias.square().sum())
    assert float(value(losses.l2(), net)) == pytest.approx(expected)


def test_l2_is_the_setting_of_an_optimizer_with_twice_the_weight() -> None:
    data, options = classified(8), {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 2}
    with_term = trained(data=data, loss={"ce": "cross_entropy", "l2": (losses.l2("0"), 0.05)}, **options)
    with_setting = trained(data=data, rules={"l2": {"0": 0.1}}, **options)
    mine, theirs = arrays(with_term.net), arrays(with_setting.net)
    for name in mine:
        assert torch.allclose(mine[name], theirs[name], atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 2, 3, 3)])
def test_orthogonality(shape: tuple[int, ...]) -> None:
    net = nn.Linear(1, 1)
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    net.weight = nn.Parameter(rows)
    flat = rows.flatten(1)
    gram = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    expected = float((gram - torch.eye(len(gram))).square().sum())
    made = Losses(terms(losses.orthogonality()), net)
    found = made.terms[0].function(net, None)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    nn.init.orthogonal_(net.weight)
    assert float(made.terms[0].function(net, None)) == pytest.approx(0, abs=1e-8)


def test_the_largest_singular_value_and_its_gradient() -> None:
    net = mlp()
    found = value(losses.spectral("*.weight", iterations=200), net)
    largest = [torch.linalg.matrix_norm(layer.weight, 2) for layer in (net[0], net[2])]
    assert float(found) == pytest.approx(float(sum(one.square() for one in largest)), rel=1e-5)
    weights = [net[0].weight, net[2].weight]
    mine = torch.autograd.grad(found, weights)
    theirs = torch.autograd.grad(sum(one.square() for one in largest), weights)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    few = float(value(losses.spectral("*.weight", iterations=1), net))
    assert few == float(value(losses.spectral("*.weight", iterations=1), net))
    assert 0 < few <= float(found) + 1e-5


def test_a_penalty_draws_nothing() -> None:
    state = torch.get_rng_state()
    value(losses.spectral(), mlp())
    assert torch.equal(state, torch.get_rng_state())


def test_penalties_lower_what_they_penalise_and_are_told_by_name() -> None:
    data = classified(16)
    plain = trained(data=data, epochs=10, learning_rate=0.01)
    for make in (losses.l1, losses.l2, losses.orthogonality, losses.spectral):
        loss = {"ce": "cross_entropy", "pen": (make("0"), 0.3)}
        result = trained(data=data, loss=loss, epochs=10, learning_rate=0.01)
        assert float(value(make("0"), result.net)) < float(value(make("0"), plain.net))
        assert result.history["epoch.pen"].values[-1] < result.history["epoch.pen"].values[0]


def test_penalties_in_bfloat16_are_computed_in_float32() -> None:
    net = mlp()
    expected = float(value(losses.orthogonality("*.weight"), net))
    with torch.autocast("cpu", torch.bfloat16):
        assert float(value(losses.orthogonality("*.weight"), net)) == expected


# what modules give


def test_the_mean_over_all_that_modules_give() -> None:
    net, (x, y) = mlp(), classified()
    hidden = net[1](net[0](x))
    assert float(value(losses.activation(nn.ReLU, "l1"), net, (x, y))) == pytest.approx(float(hidden.abs().mean()))
    both = torch.cat([net[0](x).flatten(), hidden.flatten()])
    assert float(value(losses.activation(etude.part("0") | "1"), net, (x, y))) == pytest.approx(
        float(both.square().mean()), rel=1e-6
    )
    found = value(losses.activation(nn.ReLU), net, (x, y))
    (gradient,) = torch.autograd.grad(found, [net[0].weight])
    (expected,) = torch.autograd.grad(hidden.square().mean(), [net[0].weight])
    assert torch.allclose(gradient, expected)


def test_modules_are_looked_at_only_while_the_loss_is_computed() -> None:
    net = mlp()
    trained(net, loss={"ce": "cross_entropy", "quiet": (losses.activation(nn.ReLU, "l1"), 0.1)})
    assert not any(module._forward_hooks for module in net.modules())


def test_padding_counts_nowhere() -> None:
    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    x = torch.tensor([[[1.0], [2.0], [9.0]], [[3.0], [9.0], [9.0]]])
    batch = {"x": x, "x_lengths": torch.tensor([2, 1]), "y": torch.zeros(2)}
    net = Body()
    made = Losses(terms(losses.activation("inner", "l1")), net)
    _, (one,), _, _ = made.measure(net, Reader(net), batch, made.now(Progress()))
    assert (float(one.mean), float(one.count)) == (2.0, 3.0)


def test_a_penalty_on_activations_of_weight_0_leaves_no_trace() -> None:
    data = classified(12)
    loss = {"ce": "cross_entropy", "quiet": (losses.activation(nn.ReLU), 0)}
    with_it = trained(Noisy(), data, loss=loss, epochs=2)
    without = trained(Noisy(), data, epochs=2)
    assert same(arrays(with_it.net), arrays(without.net))
    assert with_it.history["quiet"].values[0] > 0


# what is wrong


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (losses.l2("encoder"), "encoder"),
        (losses.orthogonality("*.bias"), r"parameters of fewer than two dimensions \(0.bias, 2.bias\)"),
        (losses.spectral("0.bias"), "Name a part with weights"),
        (losses.activation("*.weight"), "the part has arrays only"),
    ],
)
def test_a_part_without_what_is_penalised_is_an_error_before_the_first_step(loss: Any, words: str) -> None:
    with pytest.raises(PartError, match=words):
        etude.Plan(loss={"ce": "cross_entropy", "pen": loss}, epochs=1).check(mlp(), classified())


def test_modules_that_are_not_called_are_an_error_before_the_first_step() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 3), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.used(x)
            return made

    with pytest.raises(PartError, match="the net did not call 'spare'"):
        etude.Plan(loss={"ce": "cross_entropy", "pen": losses.activation("spare")}, epochs=1).check(
            Spare(), classified()
        )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.activation("0", "l3"), "l1"),
        (lambda: losses.spectral("0", iterations=0), "at least 1"),
        (lambda: losses.spectral("0", iteration=3), 'Nearest: "iterations"'),
    ],
)
def test_wrong_options(make: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()


def test_compile_refuses_penalties_on_activations_and_takes_those_on_arrays() -> None:
    loss = {"ce": "cross_entropy", "pen": losses.activation(nn.ReLU)}
    with pytest.raises(PlanError, match="'pen': what modules give is looked at from outside"):
        etude.Plan(loss=loss, epochs=1, compile=True).check(mlp(), classified())


@pytest.mark.soak
def test_penalties_on_arrays_in_a_compiled_step() -> None:
    loss = {"ce": "cross_entropy", "a": (losses.l1("0"), 0.1), "b": (losses.orthogonality("0"), 0.1)}
    compiled, plain = (trained(mlp(), classified(8), loss=loss, compile=on) for on in (True, False))
    mine, theirs = arrays(compiled.net), arrays(plain.net)
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-5) for name in mine)


def test_penalties_print_as_they_are_written() -> None:
    assert repr(losses.l1("0")) == "l1(part('0'))"
    assert repr(losses.l2()) == "l2(everything)"
    assert repr(losses.orthogonality(0)) == f"orthogonality({etude.part(0)!r})"
    assert repr(losses.spectral("a", 3)) == "spectral(part('a'), iterations=3)"
    assert repr(losses.activation(nn.ReLU, "l1")) == f"activation({etude.part(nn.ReLU)!r}, 'l1')"
