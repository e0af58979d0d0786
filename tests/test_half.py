"""Arrays in half precision: masters that keep what rounding would lose, and rounding by chance."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import SettingError
from etude.step.optim.half import check_way, empty_stand_in, is_low, refresh, rounded
from etude.step.trainer import Trainer
from nets import alike, memory_of

LOW = (torch.float16, torch.bfloat16)
RULES = ("sgd", "adamw", "lion", "lamb", "adabelief")


def given(dtype: torch.dtype, size: int = 64, value: float = 1.0, **options: Any) -> tuple[nn.Parameter, Trainer]:
    array = nn.Parameter(torch.full((size,), value).to(dtype))
    options = {"optimizer": "sgd", "learning_rate": 1e-3, **options}
    return array, Trainer({"x": array}, **options)


def walk(array: nn.Parameter, trainer: Trainer, count: int, gradient: float = 1.0) -> None:
    for _ in range(count):
        array.grad = torch.full_like(array, gradient)
        trainer.step()
        trainer.zero_grad()


def drawn(array: nn.Parameter, trainer: Trainer, count: int, start: int = 0) -> None:
    for n in range(start, start + count):
        generator = torch.Generator().manual_seed(n)
        array.grad = torch.randn(array.shape, generator=generator).to(array.dtype)
        trainer.step()
        trainer.zero_grad()


# masters


@pytest.mark.parametrize("dtype", LOW)
def test_plain_steps_are_lost_where_masters_keep_them(dtype: torch.dtype) -> None:
    """1 - 1e-4 is 1 in either type; a hundred such steps are 0.01."""
    array, trainer = given(dtype, learning_rate=1e-4, half="plain")
    walk(array, trainer, 100)
    assert set(array.tolist()) == {1.0}
    array, trainer = given(dtype, learning_rate=1e-4, half="master")
    walk(array, trainer, 100)
    assert array.detach().float().mean().item() == pytest.approx(0.99, abs=4e-3)
    assert memory_of(trainer)["x"]["master"].mean().item() == pytest.approx(0.99, abs=1e-5)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("rule", RULES)
def test_a_master_is_the_array_in_float32_step_for_step(dtype: torch.dtype, rule: str) -> None:
    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    low, high = nn.Parameter(start.clone()), nn.Parameter(start.float())
    one, other = Trainer({"x": low}, rule, learning_rate=0.01), Trainer({"x": high}, rule, learning_rate=0.01)
    for n in range(5):
        low.grad = torch.randn(6, 5, generator=torch.Generator().manual_seed(n)).to(dtype)
        high.grad = low.grad.float()
        for trainer in (one, other):
            trainer.step()
            trainer.zero_grad()
        assert alike(low, high.detach().to(dtype))
    mine, theirs = memory_of(one)["x"], memory_of(other)["x"]
    assert torch.allclose(mine.pop("master"), high, atol=1e-7)
    assert mine.keys() == theirs.keys()
    assert all(not isinstance(kept, Tensor) or kept.dtype == torch.float32 for kept in mine.values())


@pytest.mark.parametrize("rule", ["nadam", "rmsprop", "torch.adamw", "adafactor"])
def test_classes_of_torch_move_masters_too(rule: str) -> None:
    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).half()
    low, high = nn.Parameter(start.clone()), nn.Parameter(start.float())
    one, other = Trainer({"x": low}, rule, learning_rate=1e-3), Trainer({"x": high}, rule, learning_rate=1e-3)
    for n in range(5):
        low.grad = torch.randn(6, 5, generator=torch.Generator().manual_seed(n)).half() * 1e-3
        high.grad = low.grad.float()
        for trainer in (one, other):
            trainer.step()
            trainer.zero_grad()
        assert alike(low, high.detach().half())


def test_small_second_moments_do_not_vanish_in_float16() -> None:
    """1e-4 squared is no number of float16, and a division by zero follows."""
    array = nn.Parameter(torch.ones(4).half())
    trainer = Trainer({"x": array}, "nadam", learning_rate=0.1)
    array.grad = torch.tensor([0, 1, 1e-4, 1.0]).half()
    trainer.step()
    assert bool(torch.isfinite(array).all())
    assert array[0].item() == 1.0
    assert array[2].item() < 0.95


@pytest.mark.parametrize("settings", [{"clip_norm": 1.0}, {"clip_array_norm": 1.0}])
def test_norms_are_of_float32(settings: dict[str, float]) -> None:
    """The norm of these gradients is no number of float16."""
    array, trainer = given(torch.float16, size=4, learning_rate=1.0, **settings)
    array.grad = torch.full((4,), 4e4).half()
    trainer.step()
    assert array.tolist() == pytest.approx([0.5] * 4, abs=1e-3)


@pytest.mark.parametrize("half", ["master", "stochastic", "plain"])
def test_norms_asked_for_are_of_float32(half: str) -> None:
    array, trainer = given(torch.float16, size=4, learning_rate=1.0, half=half)
    array.grad = torch.full((4,), 4e4).half()
    assert trainer.clip_grads(1.0) == pytest.approx(8e4, rel=1e-3)
    trainer.update()
    assert array.tolist() == pytest.approx([0.5] * 4, abs=1e-2)


# who writes the array


@pytest.mark.parametrize("way", ["copy", "data", "data.copy", "data.mul", "load"])
def test_a_master_follows_what_somebody_writes(way: str) -> None:
    net = nn.Linear(2, 2, bias=False).to(torch.bfloat16)
    trainer = Trainer(net, "sgd", learning_rate=0.25)
    net.weight.grad = torch.ones_like(net.weight)
    trainer.step()
    trainer.zero_grad()
    if way == "load":
        net.load_state_dict({"weight": torch.full((2, 2), 5.0)})
    elif way == "data.copy":
        net.weight.data.copy_(torch.full((2, 2), 5.0))
    elif way == "data.mul":
        net.weight.data.mul_(0).add_(5)
    elif way == "data":
        net.weight.data = torch.full((2, 2), 5.0, dtype=torch.bfloat16)
    else:
        with torch.no_grad():
            net.weight.copy_(torch.full((2, 2), 5.0))
    net.weight.grad = torch.ones_like(net.weight)
    trainer.step()
    assert net.weight.flatten().tolist() == [4.75] * 4


def test_a_master_stays_exact_where_the_array_is_written_as_it_is() -> None:
    """A user's `copy_` of the same numbers, a state_dict that comes back."""
    array, trainer = given(torch.bfloat16, learning_rate=1e-4)
    for _ in range(50):
        walk(array, trainer, 1)
        with torch.no_grad():
            array.copy_(array.clone())
    assert memory_of(trainer)["x"]["master"].mean().item() == pytest.approx(0.995, abs=1e-5)


@pytest.mark.parametrize("size", [1, 7, 16, 64, 1000])
@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("rule", ["sgd", "torch.sgd"])
def test_plain_moves_whole_arrays(dtype: torch.dtype, size: int, rule: str) -> None:
    """torch's fused kernel for SGD on the CPU leaves half arrays where they are."""
    array, trainer = given(dtype, size=size, optimizer=rule, learning_rate=0.25, half="plain")
    walk(array, trainer, 2, gradient=0.5)
    assert set(array.tolist()) == {0.75}


@pytest.mark.parametrize(
    ("half", "rule"), [(h, r) for h in ("master", "stochastic") for r in ("adamw", "sgd", "nadam")][:5]
)
def test_a_state_goes_on_to_the_same_bits(half: str, rule: str) -> None:
    array, trainer = given(torch.bfloat16, optimizer=rule, half=half)
    drawn(array, trainer, 7)
    state = copy.deepcopy(trainer.state_dict())
    late, again = given(torch.bfloat16, optimizer=rule, half=half)
    with torch.no_grad():
        late.copy_(array)
    again.load_state_dict(state)
    for own, running in ((array, trainer), (late, again)):
        drawn(own, running, 20, start=7)
    assert alike(array, late)
    if half == "master":
        assert alike(memory_of(trainer)["x"]["master"], memory_of(again)["x"]["master"])


def test_a_state_with_masters_fits_without_them_and_the_other_way_round() -> None:
    array, trainer = given(torch.bfloat16, optimizer="adamw")
    drawn(array, trainer, 3)
    for half in ("stochastic", "plain"):
        _, other = given(torch.bfloat16, optimizer="adamw", half=half)
        other.load_state_dict(trainer.state_dict())
        assert "master" not in memory_of(other)["x"]
        late, again = given(torch.bfloat16, optimizer="adamw")
        again.load_state_dict(other.state_dict())
        drawn(late, again, 1)
        assert memory_of(again)["x"]["master"].dtype == torch.float32


@pytest.mark.parametrize("act", ["set_learning_rate", "freeze", "change"])
def test_changes_while_training_keep_masters_exact(act: str) -> None:
    array, trainer = given(torch.bfloat16, learning_rate=1e-4)
    other = nn.Parameter(torch.ones(1))
    trainer = Trainer({"x": array, "other": other}, "sgd", learning_rate=1e-4)
    for n in range(50):
        if act == "set_learning_rate":
            trainer.set_learning_rate(1e-4)
        elif act == "change":
            trainer.change("momentum", {"other": 0.1 * (n % 2)})
        else:
            (trainer.freeze if n % 2 == 0 else trainer.thaw)("other")
        other.grad = torch.ones(1)
        walk(array, trainer, 1)
    assert memory_of(trainer)["x"]["master"].mean().item() == pytest.approx(0.995, abs=1e-5)


# what else changes arrays


def test_shrinking_is_of_the_master_from_the_first_step() -> None:
    array, trainer = given(torch.bfloat16, value=2.0, learning_rate=1.0, shrink=0.5)
    walk(array, trainer, 1, gradient=0.0)
    assert set(array.tolist()) == {1.0}
    array, trainer = given(torch.bfloat16, learning_rate=1e-3, shrink=1.0)
    walk(array, trainer, 30, gradient=0.0)
    assert memory_of(trainer)["x"]["master"].mean().item() == pytest.approx(0.999**30, abs=1e-6)


@pytest.mark.parametrize("half", ["master", "stochastic", "plain"])
def test_weights_are_clipped_in_the_array_and_behind_it(half: str) -> None:
    array, trainer = given(torch.bfloat16, value=2.0, learning_rate=0.25, clip_weights=1.0, half=half)
    walk(array, trainer, 1)
    assert set(array.tolist()) == {1.0}
    walk(array, trainer, 1, gradient=0.5)
    assert set(array.tolist()) == {0.875}


def test_l2_is_by_chance_right_in_the_mean() -> None:
    array, trainer = given(torch.bfloat16, size=8000, learning_rate=1e-3, l2=1.0, half="stochastic")
    walk(array, trainer, 30, gradient=0.0)
    assert array.detach().float().mean().item() == pytest.approx(0.999**30, abs=1e-3)


def test_shrinking_by_chance_is_refused_not_rounded_away() -> None:
    for settings in ({"shrink": 0.1}, {"rules": {"shrink": {"x": 0.1}}}):
        with pytest.raises(SettingError, match=r'shrink= and half="stochastic": .*Write l2=, .* or half="master"'):
            given(torch.bfloat16, half="stochastic", **settings)
    Trainer({"x": nn.Parameter(torch.ones(2))}, "sgd", half="stochastic", shrink=0.1)


# by chance


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("value", [1.0 + 1 / 3000, -1.0 - 1 / 3000, 0.1, -0.1, 3e-8, -3e-8, 1.0, 0.0])
def test_rounding_is_right_in_the_mean_and_to_a_neighbour(dtype: torch.dtype, value: float) -> None:
    exact = torch.full((40000,), value)
    chance = torch.rand(40000, generator=torch.Generator().manual_seed(0))
    found = rounded(exact, dtype, chance)
    assert found.dtype == dtype
    kinds = found.float().unique()
    assert len(kinds) <= 2
    gap = float(kinds.max() - kinds.min())
    assert float(kinds.min()) <= exact[0] <= float(kinds.max())
    assert abs(found.double().mean().item() - exact[0].double().item()) <= 0.02 * gap
    if exact[0] == exact[0].to(dtype).float():
        assert gap == 0


def test_rounding_of_what_is_no_number_or_too_large() -> None:
    chance = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    for value in (float("inf"), float("nan")):
        assert alike(rounded(torch.full((4000,), value), torch.float16, chance).float(), torch.full((4000,), value))
    for value in (65504.0, 70000.0, 1e6):
        up, down = (rounded(torch.full((4000,), sign * value), torch.float16, chance) for sign in (1, -1))
        assert alike(up, -down), value


@pytest.mark.parametrize("dtype", LOW)
def test_steps_by_chance_are_right_in_the_mean(dtype: torch.dtype) -> None:
    array, trainer = given(dtype, size=20000, learning_rate=1e-4, half="stochastic")
    walk(array, trainer, 100)
    assert array.detach().float().mean().item() == pytest.approx(0.99, abs=4e-4)
    assert len(array.unique()) > 2
    assert "master" not in memory_of(trainer)["x"]


def test_chance_depends_on_the_seed_the_name_and_the_count() -> None:
    def after(name: str = "x", seed: int = 0, count: int = 1) -> Tensor:
        array = nn.Parameter(torch.ones(500).bfloat16())
        trainer = Trainer({name: array}, "sgd", learning_rate=1e-3, seed=seed, half="stochastic")
        before = array
        for _ in range(count):
            before = array.detach().clone()
            with torch.no_grad():
                array.fill_(1.0)
            walk(array, trainer, 1)
        assert before is not None
        return array.detach().clone()

    assert alike(after(), after())
    assert not alike(after(), after(name="y"))
    assert not alike(after(), after(seed=1))
    assert not alike(after(), after(count=2))


def test_chance_leaves_the_processs_generator_alone() -> None:
    before = torch.get_rng_state()
    array, trainer = given(torch.bfloat16, half="stochastic")
    walk(array, trainer, 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", LOW)
def test_every_rule_goes_by_chance(rule: str, dtype: torch.dtype) -> None:
    """Near to where masters go: on average of many arrays that are alike."""
    arrays = {}
    for half in ("master", "stochastic"):
        array, trainer = given(dtype, size=4000, optimizer=rule, learning_rate=1e-3, half=half)
        walk(array, trainer, 20)
        arrays[half] = array.detach().float()
        assert all(k.dtype == torch.float32 for k in memory_of(trainer)["x"].values() if isinstance(k, Tensor))
    assert arrays["stochastic"].mean().item() == pytest.approx(arrays["master"].mean().item(), abs=4e-3)
    assert arrays["master"].mean().item() < 0.999


# the pieces


def test_what_is_low() -> None:
    assert [is_low(torch.zeros(1, dtype=d)) for d in (*LOW, torch.float32, torch.float64, torch.complex64)] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_copy_that_still_rounds_to_the_array_is_kept() -> None:
    low = torch.ones(2).bfloat16()
    master = torch.tensor([1.001, 0.999])
    refresh(master, low)
    assert master.tolist() == pytest.approx([1.001, 0.999])
    refresh(master, low * 2)
    assert master.tolist() == [2.0, 2.0]


def test_a_stand_in_has_no_memory_of_its_own() -> None:
    made = empty_stand_in(torch.zeros(300, 400).bfloat16())
    assert made.shape == (300, 400)
    assert made.dtype == torch.float32
    assert made.untyped_storage().nbytes() == 4


@pytest.mark.parametrize("way", ["masters", "", 1, None])
def test_there_are_three_ways(way: Any) -> None:
    with pytest.raises(SettingError, match=r"half=.*: known are master, stochastic, plain"):
        check_way(way)
    with pytest.raises(SettingError, match=r"half=.*: known are"):
        Trainer(nn.Linear(1, 1), half=way)
