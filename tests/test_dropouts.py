"""Dropout with shared masks: what is kept, what is one along an axis, how often, and what cannot be asked for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from etude.errors import SettingError
from etude.layers import Dropout


def drawn(layer: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out: Tensor = layer(x)
    return out


def test_what_is_kept_is_divided_by_the_chance_to_keep_it() -> None:
    out = drawn(Dropout(0.25), torch.ones(50, 40))
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert abs(float((out == 0).float().mean()) - 0.25) < 0.03


def test_the_mean_over_many_draws_is_the_input() -> None:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    layer = Dropout(0.3, shared=1)
    mean = torch.stack([drawn(layer, x, seed) for seed in range(3000)]).mean(0)
    assert torch.allclose(mean, x, atol=0.1)


@pytest.mark.parametrize("shared", [1, -2, (1,), [-2]])
def test_one_mask_for_all_times(shared: int) -> None:
    out = drawn(Dropout(0.5, shared=shared), torch.ones(4, 7, 6))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert not torch.equal(out[0], out[1])
    assert out[:, 0].unique().tolist() == [0.0, 2.0]


def test_one_mask_for_all_sequences_and_times() -> None:
    out = drawn(Dropout(0.5, shared=(0, 1)), torch.ones(4, 7, 6))
    assert torch.equal(out, out[:1, :1].expand_as(out))
    assert out[0, 0].unique().tolist() == [0.0, 2.0]


def test_in_evaluation_and_without_a_chance_it_is_the_input_itself() -> None:
    x = torch.randn(3, 4)
    assert Dropout(0.9).eval()(x) is x
    before = torch.get_rng_state()
    assert Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("p", [1.0, torch.tensor(1.0)])
def test_everything_may_be_dropped(p: float) -> None:
    x = torch.ones(3, 4, requires_grad=True)
    out = Dropout(p)(x)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(3, 4))
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
@pytest.mark.parametrize("p", [0.4, torch.tensor(0.4)])
def test_the_type_stays(dtype: torch.dtype, p: float) -> None:
    out = drawn(Dropout(p), torch.ones(200, dtype=dtype))
    assert out.dtype == dtype
    kept = out[out != 0]
    assert torch.allclose(kept, torch.ones_like(kept) / 0.6, rtol=1e-2)


def test_a_tensor_draws_what_its_number_draws_and_is_no_part_of_the_state() -> None:
    x = torch.randn(8, 5)
    layer = Dropout(torch.tensor(0.3))
    assert torch.allclose(drawn(layer, x), drawn(Dropout(0.3), x))
    assert dict(layer.named_buffers()).keys() == {"p"}
    assert not layer.state_dict()
    layer.p.fill_(0.0)
    assert torch.equal(drawn(layer, x), x)


def test_the_gradient_has_the_mask_of_the_output() -> None:
    x = torch.ones(30, requires_grad=True)
    out = drawn(Dropout(0.5), x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())


def test_it_prints_as_it_is_made() -> None:
    assert repr(Dropout(0.1, shared=1)) == "Dropout(0.1, shared=(1,))"
    assert repr(Dropout(torch.tensor(0.5))) == "Dropout(torch.tensor(0.5))"


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), True, "0.1", None, torch.tensor([0.1, 0.2]), torch.tensor(1)])
def test_a_chance_is_a_number_from_0_to_1(p: float) -> None:
    with pytest.raises(SettingError, match=r"Dropout: p=.*: the chance to drop is a number from 0 to 1\."):
        Dropout(p)


def test_percent_are_understood() -> None:
    with pytest.raises(SettingError, match=r"Write p=0\.2 for 20 percent\."):
        Dropout(20)


@pytest.mark.parametrize("shared", ["time", 1.0, True, (0, "1"), None])
def test_axes_are_numbers(shared: int) -> None:
    with pytest.raises(SettingError, match=r"shared=.*: the numbers of axes are needed\. Write shared=1 for the time"):
        Dropout(0.1, shared=shared)


def test_an_axis_is_named_once() -> None:
    with pytest.raises(SettingError, match=r"shared=\(1, 1\): an axis is named twice"):
        Dropout(0.1, shared=(1, 1))


def test_an_axis_that_the_input_does_not_have() -> None:
    with pytest.raises(SettingError, match=r"the shape \(3, 4\), and no axis 2\. Write shared= from 0 to 1"):
        Dropout(0.1, shared=2)(torch.ones(3, 4))


def test_a_misspelt_argument() -> None:
    with pytest.raises(SettingError, match=r"There is no argument 'share'\. Nearest: \"shared\""):
        Dropout(0.1, share=1)  # type: ignore[call-arg]
