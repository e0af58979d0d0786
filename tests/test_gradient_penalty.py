"""Losses of derivatives of the net: gradient penalties, and equations with derivatives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import losses
from etude.errors import DataError, PartError, PlanError, SettingError
from etude.step.gan import GAN
from etude.step.loss import Losses, terms
from etude.step.reading import Reader
from etude.values.progress import Progress
from etude.values.schedule import pieces
from etude.values.spans import steps
from small import arrays, classified, same, trained


class Plane(nn.Module):
    """w·x, of which the slope is w everywhere."""

    def __init__(self, *slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.slope


def value(loss: Any, net: nn.Module, batch: Any) -> Tensor:
    made = Losses(terms({"pen": loss}), net)
    return made.measure(net, Reader(net), batch, made.now(Progress()))[0]


X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


def test_a_plane_has_one_slope() -> None:
    net = Plane(3.0, 4.0)
    assert float(value(losses.gradient_penalty(), net, X).detach()) == pytest.approx(16)
    assert float(value(losses.gradient_penalty(toward=0), net, X).detach()) == pytest.approx(25)
    found = value(losses.r1(), net, X)
    assert float(found.detach()) == pytest.approx(12.5)
    found.backward()
    assert torch.allclose(net.slope.grad, net.slope.detach())
    assert float(value(losses.r1(), Plane(0.1, 0.2).double(), X.double())) == pytest.approx(
        float(Plane(0.1, 0.2).double().slope.square().sum() / 2), rel=1e-14
    )


def test_points_between_real_and_generated_samples() -> None:
    class Squares(nn.Module):
        """|x|² / 2, of which the slope at x is x."""

        def forward(self, x: Tensor) -> Tensor:
            return x.square().sum(1) / 2

    net = nn.Sequential(Squares())
    real, generated = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    torch.manual_seed(4)
    found = float(value(losses.gradient_penalty("0", points=lambda net, batch: (real, generated)), net, X))
    torch.manual_seed(4)
    share = torch.rand(2, 1)
    points = generated + share * (real - generated)
    expected = float((points.norm(dim=1) - 1).square().mean())
    assert found == pytest.approx(expected)
    assert 0 <= float(points[0, 0]) <= 2


def test_where_a_net_is_flat_the_gradient_is_finite() -> None:
    net = Plane(0.0, 0.0)
    found = value(losses.gradient_penalty(), net, X)
    assert float(found.detach()) == 1
    found.backward()
    assert torch.isfinite(net.slope.grad).all()


def test_it_lowers_the_slope_and_is_looked_at_on_validation_data() -> None:
    data = classified(16)
    plain = trained(data=data, epochs=20, learning_rate=0.02)
    loss = {"ce": "cross_entropy", "flat": (losses.gradient_penalty(toward=0), 1.0)}
    flat = trained(data=data, loss=loss, validation=data, epochs=20, learning_rate=0.02)
    steep = lambda result: float(value(losses.r1(), result.net, data).detach())  # noqa: E731
    assert steep(flat) < 0.5 * steep(plain)
    assert flat.history["val.flat"].values[-1] == pytest.approx(2 * steep(flat), rel=1e-4)


def test_a_wasserstein_game_with_a_penalty_instead_of_clipped_weights() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = GAN(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)), "wasserstein", 2)
    critic, generator = net.updates(optimizer="adam", learning_rate=1e-2)
    judged = {**critic.loss, "slope": (losses.gradient_penalty(), 10.0)}
    updates = [etude.Update("discriminator", judged, "discriminator", optimizer="adam", learning_rate=1e-2), generator]
    result = etude.train(net, X + 3, updates=updates, epochs=60, batch_size=5, progress=False)
    slopes = result.history["epoch.discriminator.slope"].values
    assert slopes[-1] < 0.3 * slopes[0]
    assert math.isfinite(result.history["epoch.discriminator.fake"].values[-1])


def test_of_a_gan_the_real_samples_are_what_r1_takes() -> None:
    net = GAN(nn.Linear(2, 2), Plane(3.0, 4.0), "js", 2)
    assert float(value(losses.r1(), net, X).detach()) == pytest.approx(12.5)


def physics(net: nn.Module, batch: Any) -> Tensor:
    """y' = -y: what is left over, squared."""
    t = batch[0].detach().requires_grad_()
    y = net(t)
    (slope,) = torch.autograd.grad(y.sum(), t, create_graph=True)
    return (slope + y).square().mean()


def test_an_equation_with_derivatives_is_learnt_also_from_a_weight_of_0_on() -> None:
    t = torch.linspace(0, 1, 32)[:, None]
    data = (t, torch.exp(-t))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    loss = {"start": ("mse", 1.0), "physics": (physics, pieces(0.0, (steps(20), 1.0)))}
    result = etude.train(
        net,
        data,
        loss=loss,
        optimizer="adam",
        learning_rate=0.01,
        steps=400,
        batch_size=32,
        validation=data,
        progress=False,
    )
    assert result.history["val.physics"].values[-1] < 1e-3
    assert all(value > 0 for value in result.history["physics"].values[:20])


def test_a_penalty_of_weight_0_leaves_no_trace() -> None:
    data = classified(12)
    loss = {
        "ce": "cross_entropy",
        "pen": (losses.gradient_penalty(points=lambda net, batch: (batch[0], batch[0] + 1)), 0),
    }
    assert same(arrays(trained(data=data, loss=loss).net), arrays(trained(data=data).net))


@pytest.mark.parametrize(
    ("loss", "batch", "error", "words"),
    [
        (losses.gradient_penalty("critik"), X, PartError, "no module 'critik'"),
        (losses.r1(), X.long(), DataError, "a tensor of floats"),
        (losses.gradient_penalty(points=lambda net, batch: None), X, DataError, "the points are a NoneType"),
        (losses.gradient_penalty(points=lambda net, batch: (X, X[:2])), X, DataError, "need one shape"),
    ],
)
def test_points_and_modules_that_are_not_there(loss: Any, batch: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        value(loss, Plane(1.0, 2.0), batch)


def test_a_net_that_does_not_depend_on_its_input() -> None:
    class Deaf(Plane):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach() @ self.slope

    with pytest.raises(DataError, match="does not depend on its input"):
        value(losses.r1(), Deaf(1.0, 2.0), X)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.gradient_penalty(toward=-1), "a number from 0 on"),
        (lambda: losses.gradient_penalty(nn.Linear(1, 1)), "the path of a module"),
        (lambda: losses.r1(points=3), r"a function of \(net, batch\)"),
        (lambda: losses.r1(toward=1), "There is no argument 'toward'"),
    ],
)
def test_wrong_options(make: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()


def test_compile_refuses_it_where_no_term_takes_what_the_net_gives() -> None:
    with pytest.raises(PlanError, match="the loss 'loss': it is a gradient of a gradient, which is not compiled"):
        trained(loss=losses.r1(), compile=True)


def test_they_print_as_they_are_written() -> None:
    assert repr(losses.gradient_penalty()) == "gradient_penalty()"
    assert repr(losses.gradient_penalty("d", physics, 0)) == "gradient_penalty('d', points=physics, toward=0.0)"
    assert repr(losses.r1("d")) == "r1('d')"
