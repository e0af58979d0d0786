"""The largest norm of the weights that come into one unit, after every step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from etude.step.bounds import limit_norms, turned_in
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.part import everything
from etude.values.schedule import pieces
from etude.values.spans import steps
from etude.values.tree import Tree
from nets import alike, arrays, give_gradients, graph, seeded


def stepped(net: nn.Module, rule: str = "sgd", **settings: Any) -> None:
    trainer = Trainer(net, rule, learning_rate=1.0, **settings)
    give_gradients(net, 0)
    trainer.step()


@pytest.mark.parametrize("rule", ["sgd", "adamw", "nadam"])
def test_each_row_of_a_matrix_is_a_unit(rule: str) -> None:
    net, free = graph(), graph()
    stepped(net, rule, max_norm=1.2)
    stepped(free, rule)
    for name, array in free.named_parameters():
        found = net.get_parameter(name)
        if array.dim() == 1:
            assert alike(found, array)
            continue
        norms = array.detach().norm(dim=1)
        assert torch.allclose(found, array * (1.2 / norms).clamp(max=1)[:, None], atol=1e-6)
        within = norms <= 1.2
        assert alike(found[within], array[within])
        assert bool((~within).any())


def test_part_by_part_and_by_schedule() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", learning_rate=1.0, max_norm={"a": 0.5, "b": linear(1.0, 0.0, over=steps(2))})
    for bound in (1.0, 0.5):
        give_gradients(net, int(trainer.progress.step))
        trainer.step()
        trainer.zero_grad()
        assert float(net.a.weight.detach().norm(dim=1).max()) == pytest.approx(0.5, rel=1e-5)
        assert float(net.b.weight.detach().norm(dim=1).max()) == pytest.approx(bound, rel=1e-5)
        assert float(net.out.weight.detach().norm(dim=1).max()) > 1.0


def test_only_what_has_moved() -> None:
    net = graph()
    with torch.no_grad():
        net.b.weight.mul_(50)
    before = arrays(net)
    stepped(net, max_norm=0.5, update_schedule=["a", "b"])
    assert alike(net.b.weight, before["b.weight"])
    assert float(net.a.weight.detach().norm(dim=1).max()) <= 0.5 + 1e-6


def test_units_of_zeros_stay_zeros() -> None:
    array = torch.zeros(2, 3)
    limit_norms([array], [1.0], [0])
    assert array.tolist() == [[0.0] * 3] * 2


UNITS = [
    (lambda: nn.Conv2d(4, 6, 3, groups=2), (1, 2, 3)),
    (lambda: nn.Embedding(5, 3), (1,)),
    (lambda: nn.LSTM(3, 4), (1,)),
    (lambda: nn.ConvTranspose2d(4, 6, 3), (0, 2, 3)),
]


@pytest.mark.parametrize(("make", "dims"), UNITS)
def test_units_of_other_layers(make: Any, dims: tuple[int, ...]) -> None:
    net = seeded(make)
    stepped(net, max_norm=0.3)
    for array in net.parameters():
        if array.dim() > 1:
            norms = torch.linalg.vector_norm(array.detach(), dim=dims)
            assert norms.max() == pytest.approx(0.3, rel=1e-5)
            assert float(norms.min()) > 0


def test_a_unit_of_a_transposed_convolution_in_groups() -> None:
    """Its output is what the unit's weights give: scaling them scales one channel and no other."""
    net = seeded(lambda: nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False))
    x = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.weight[:2, 1] *= 10
        before, weight = net(x), net.weight.clone()
        own = weight[:2, 1].norm()
        others = torch.cat([weight[:2, [0, 2]].transpose(0, 1).flatten(1), weight[2:].transpose(0, 1).flatten(1)])
        bound = float(others.norm(dim=1).max()) * 1.01
        limit_norms([net.weight], [bound], [turned_in(Tree(net))["weight"]])
        after = net(x)
    assert torch.allclose(after[:, 1], before[:, 1] * (bound / own), atol=1e-5)
    assert torch.equal(after[:, [0, 2, 3, 4, 5]], before[:, [0, 2, 3, 4, 5]])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("made", [partial(spectral_norm, dim=1), partial(weight_norm, dim=1)])
def test_a_parametrisation_of_a_transposed_convolution_has_its_units(
    made: Callable[[nn.Module], nn.Module], groups: int
) -> None:
    net = seeded(lambda: made(nn.ConvTranspose1d(4, 6, 3, groups=groups, bias=False)))
    stepped(net, max_norm=0.2)
    places = range(6 // groups)
    of = net.get_submodule("parametrizations.weight")
    if "original0" in dict(of.named_parameters()):
        lengths = of.get_parameter("original0").detach()
        assert lengths.abs().max() == pytest.approx(0.2, rel=1e-5)
        assert lengths.abs().min() > 0.1, "units were not bounded one by one"
    else:
        blocks = of.get_parameter("original").detach().chunk(groups)
        norms = torch.tensor([float(block[:, place].norm()) for block in blocks for place in places])
        assert norms.max() == pytest.approx(0.2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_bounded_behind_the_array(dtype: torch.dtype) -> None:
    array = nn.Parameter(torch.full((2, 3), 2.0, dtype=dtype))
    trainer = Trainer({"w": array}, "sgd", learning_rate=0.5, max_norm=1.0)
    for _ in range(2):
        array.grad = torch.full((2, 3), -0.25, dtype=dtype)
        trainer.step()
        trainer.zero_grad()
    assert array.detach().float().norm(dim=1).tolist() == pytest.approx([1.0, 1.0], rel=1e-2)


def test_complex_weights_by_their_absolute_values() -> None:
    array = nn.Parameter(torch.full((1, 2), 3 + 4j))
    array.grad = torch.zeros(1, 2, dtype=torch.complex64)
    Trainer({"w": array}, "sgd", learning_rate=0.5, max_norm=1.0).step()
    assert float(array.detach().abs().square().sum()) == pytest.approx(1.0, rel=1e-5)


def test_with_a_bound_of_elements_that_comes_first() -> None:
    array = nn.Parameter(torch.tensor([[3.0, 0.1]]))
    array.grad = torch.zeros(1, 2)
    Trainer({"w": array}, "sgd", learning_rate=0.5, max_norm=0.5, clip_weights=0.4).step()
    expected = torch.tensor([[0.4, 0.1]])
    assert torch.allclose(array, expected * min(1.0, 0.5 / float(expected.norm())))


def test_it_ends_when_the_schedule_says_so() -> None:
    array = nn.Parameter(torch.full((1, 2), 1.0))
    trainer = Trainer({"w": array}, "sgd", learning_rate=1.0, max_norm=pieces(0.5, (steps(1), None)))
    seen: list[Tensor] = []
    for _ in range(2):
        array.grad = torch.full((1, 2), -1.0)
        trainer.step()
        trainer.zero_grad()
        seen.append(array.detach().clone())
    assert float(seen[0].norm()) == pytest.approx(0.5)
    assert torch.allclose(seen[1], seen[0] + 1)


def test_no_array_is_looked_at_without_it() -> None:
    assert Trainer(graph(), clip_norm=1.0)._stepper._bounds is None
    bounds = Trainer(nn.ConvTranspose1d(2, 2, 1), max_norm={everything: 1.0})._stepper._bounds
    assert bounds is not None
    assert bounds._turned == {"weight": 1}
