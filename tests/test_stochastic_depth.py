"""Branches that are left out by chance: which rows, how often, with what expectation, over depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import SettingError
from etude.layers import StochasticDepth, drop_path, linear_depth
from etude.values.curves import linear


class Times(nn.Module):
    """A branch that multiplies its input."""

    def forward(self, x: Tensor, factor: float = 10.0) -> Tensor:
        return x * factor


def drawn(layer: nn.Module, x: Tensor, seed: int = 0, *others: Any) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out: Tensor = layer(x, *others)
    return out


def stack(depth: int = 4) -> nn.Sequential:
    return nn.Sequential(*(StochasticDepth(nn.Linear(3, 3)) for _ in range(depth)))


def test_a_row_has_its_branch_or_not() -> None:
    out = drawn(StochasticDepth(Times(), 0.5), torch.ones(400, 3, 2)).flatten(1)
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert set(out[:, 0].tolist()) == {1.0, 21.0}
    assert abs(float((out[:, 0] == 1).float().mean()) - 0.5) < 0.08


def test_a_batch_has_its_branch_or_not() -> None:
    layer = StochasticDepth(Times(), 0.5, mode="batch")
    outs = [drawn(layer, torch.ones(5, 2), seed) for seed in range(200)]
    assert all(len(out.unique()) == 1 for out in outs)
    shares = torch.stack([out[0, 0] for out in outs])
    assert set(shares.tolist()) == {1.0, 21.0}
    assert abs(float((shares == 1).float().mean()) - 0.5) < 0.12


@pytest.mark.parametrize("rescale", ["train", "evaluation"])
@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("p", [0.3, torch.tensor(0.3)])
def test_the_mean_over_training_is_evaluation(rescale: str, mode: str, p: float) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    layer = StochasticDepth(Times(), p, mode, rescale)
    if mode == "row":
        # Every row has a draw of its own.
        mean = drawn(layer, x.repeat(1500, 1), 0).view(1500, 4, 3).mean(0)
    else:
        mean = torch.stack([drawn(layer, x, seed) for seed in range(1500)]).mean(0)
    clean = layer.eval()(x)
    assert torch.allclose(mean, clean, rtol=0.12, atol=0.08)
    assert torch.allclose(clean, x * 11 if rescale == "train" else x * 8)


def test_without_rescaling_in_training_the_branch_is_whole() -> None:
    out = drawn(StochasticDepth(Times(), 0.5, rescale="evaluation"), torch.ones(50, 1))
    assert set(out.flatten().tolist()) == {1.0, 11.0}


def test_evaluation_draws_nothing() -> None:
    layer = StochasticDepth(Times(), 0.5).eval()
    before = torch.get_rng_state()
    assert torch.equal(layer(torch.ones(3, 2)), torch.full((3, 2), 11.0))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_chance_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    assert torch.equal(StochasticDepth(Times())(torch.ones(3, 2)), torch.full((3, 2), 11.0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_branch_that_is_left_out_has_gradients_of_nought() -> None:
    layer = StochasticDepth(nn.Linear(2, 2), 1.0)
    layer(torch.ones(3, 2)).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_other_arguments_reach_the_branch() -> None:
    assert torch.equal(StochasticDepth(Times())(torch.ones(2, 2), factor=3.0), torch.full((2, 2), 4.0))
    assert torch.equal(drawn(StochasticDepth(Times()), torch.ones(2, 2), 0, 3.0), torch.full((2, 2), 4.0))


def test_the_function_does_what_the_layer_adds() -> None:
    x = torch.randn(6, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        added = drop_path(x * 10, 0.5, True)
    assert torch.equal(x + added, drawn(StochasticDepth(Times(), 0.5), x, 3))
    assert drop_path(x, 0.5, False) is x
    assert torch.equal(drop_path(x, 0.25, False, rescale="evaluation"), x * 0.75)
    assert drop_path(torch.tensor(2.0), 1.0, True) == 0


def test_chances_grow_linearly_over_depth() -> None:
    net = stack()
    assert linear_depth(net, 0.4) == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert [layer.p for layer in net] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_modules_in_an_order_of_ones_own() -> None:
    layers = [nn.Dropout(0.9), StochasticDepth(Times(), torch.tensor(0.9))]
    assert linear_depth(layers, 0.5) == pytest.approx((0.25, 0.5))
    assert layers[0].p == 0.25
    assert float(layers[1].p) == 0.5


def test_it_prints_as_it_is_made() -> None:
    assert "p=0.2, mode='batch', rescale='train'" in repr(StochasticDepth(Times(), 0.2, "batch"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"p": 1.5}, r"StochasticDepth: p=1\.5: the chance to drop is a number from 0 to 1"),
        ({"mode": "rows"}, r"StochasticDepth: mode='rows': 'row' or 'batch' is needed\. Nearest: \"row\""),
        ({"rescale": "eval"}, r"rescale='eval': 'train' or 'evaluation' is needed\. Nearest: \"evaluation\""),
        ({"branch": torch.tanh}, r"the branch is a module\. In a forward of your own write x \+ drop_path"),
        ({"drop": 0.1}, r"There is no argument 'drop'"),
    ],
)
def test_what_cannot_be_made(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        StochasticDepth(**{"branch": Times(), **arguments})


@pytest.mark.parametrize(
    ("branch", "said"),
    [
        (nn.Linear(3, 1), r"the branch gave the shape \(2, 1\) for an input of the shape \(2, 3\)"),
        (nn.LSTM(3, 3), r"the branch gave a tuple for an input of the shape \(2, 3\)"),
    ],
)
def test_a_branch_that_cannot_be_added(branch: nn.Module, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        StochasticDepth(branch)(torch.ones(2, 3))


def test_the_function_looks_at_what_it_is_given() -> None:
    with pytest.raises(SettingError, match=r"drop_path: p=2: .*Write p=0\.02 for 2 percent"):
        drop_path(torch.ones(2), 2, True)
    with pytest.raises(SettingError, match="drop_path: mode='sample'"):
        drop_path(torch.ones(2), 0.5, True, mode="sample")


@pytest.mark.parametrize(
    ("where", "last", "said"),
    [
        (nn.Linear(2, 2), 0.5, r"the Linear has no StochasticDepth in it\. Give the modules themselves"),
        ([], 0.5, r"linear_depth\(\[\]\): there is nothing to set"),
        ([nn.Linear(2, 2)], 0.5, r"a Linear has no attribute p that is a number"),
        (stack(), 1.5, r"linear_depth: last: p=1\.5"),
        (stack(), linear(0, 0.5), r"a number is needed\. Write linear_depth\(net, 0\.5\) and knobs="),
    ],
)
def test_depth_that_cannot_be_set(where: Any, last: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        linear_depth(where, last)


def test_nothing_is_set_where_something_is_wrong() -> None:
    first = nn.Dropout(0.9)
    with pytest.raises(SettingError):
        linear_depth([first, nn.Linear(2, 2)], 0.5)
    assert first.p == 0.9
