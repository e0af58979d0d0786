"""Steps with a closure, beyond what test_lbfgs says of L-BFGS: settings of every trainer, errors, clocks, runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude.errors import NonFiniteError, SettingError, StaleGradientError
from etude.step.trainer import Trainer
from etude.values.schedule import pieces
from etude.values.spans import steps
from nets import alike, arrays, chain, changed, data, graph, memory_of, same_memory

X, Y = data(1, 16)[0]


def summed(net: nn.Module, factor: float = 1.0) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        loss: Tensor = (net(X) - Y).square().mean(1).sum() * factor
        loss.backward()
        return loss

    return closure


def after(count: int = 3, **settings: Any) -> nn.Module:
    net = chain()
    trainer = Trainer(net, "lbfgs", learning_rate=0.5, max_iter=2, **settings)
    for _ in range(count):
        trainer.step(16, closure=summed(net))
    return net


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(alike(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_value": 0.01},
        {"clip_array_norm": 0.01},
        {"clip_norm": 0.01},
        {"centralise": True},
        {"l2": 0.5},
        {"clip_weights": 0.1},
    ],
    ids=str,
)
def test_no_setting_is_taken_and_ignored(settings: dict[str, Any]) -> None:
    assert not same(after(1), after(1, **settings))
    assert same(after(2, **settings), after(2, **settings))


def test_weights_are_clipped_after_the_step() -> None:
    found = after(clip_weights=0.1)
    assert all(float(array.detach().abs().max()) <= 0.1 + 1e-6 for array in found.parameters())


@pytest.mark.parametrize(
    "settings", [{"shrink": 0.5}, {"noise": 0.1}, {"rules": {"shrink": {etude.everything: 0.5}}}], ids=str
)
def test_what_has_no_place_between_several_losses_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=r"(shrink|noise)= is not for LBFGS, which computes the loss several times"):
        Trainer(chain(), "lbfgs", **settings)


@pytest.mark.parametrize("setting", ["shrink", "noise"])
def test_it_is_refused_in_mid_run_too_and_may_be_written_as_off(setting: str) -> None:
    net, twin = chain(), chain()
    trainer = Trainer(net, "lbfgs", learning_rate=0.5, max_iter=2, **{setting: 0.0})
    with pytest.raises(SettingError, match=f"{setting}= is not for LBFGS"):
        trainer.change(setting, {0: 0.5})
    trainer.step(16, closure=summed(net))
    Trainer(twin, "lbfgs", learning_rate=0.5, max_iter=2).step(16, closure=summed(twin))
    assert same(net, twin)


def test_l2_is_of_the_loss() -> None:
    """The gradient of the loss and of half the squared length, as if the closure had added it."""
    net, twin = chain(), chain()
    Trainer(net, "lbfgs", learning_rate=0.1, max_iter=1, l2=0.3).step(16, closure=summed(net))

    def with_it() -> Tensor:
        loss: Tensor = (twin(X) - Y).square().mean(1).sum()
        loss = loss + 16 * 0.15 * torch.stack([p.square().sum() for p in twin.parameters()]).sum()
        loss.backward()
        return loss

    Trainer(twin, "lbfgs", learning_rate=0.1, max_iter=1).step(16, closure=with_it)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_the_clock_ticks_once_a_step_and_counts_samples_once() -> None:
    net = chain()
    calls = []

    def counted() -> Tensor:
        calls.append(1)
        return summed(net)()

    trainer = Trainer(net, "lbfgs", max_iter=4)
    trainer.step(16, closure=counted)
    assert len(calls) > 1
    assert (trainer.progress.step, trainer.progress.samples) == (1, 16)


def test_what_does_not_depend_on_the_loss_is_stale_or_passed_over() -> None:
    net = graph()

    def partly() -> Tensor:
        loss: Tensor = net.a(X).square().sum()
        loss.backward()
        return loss

    trainer = Trainer(net, "lbfgs", max_iter=2, learning_rate=0.1)
    before = arrays(net)
    with pytest.raises(
        StaleGradientError, match=r"no new gradient since the last step in 'b\.weight', 'b\.bias', 'out"
    ):
        trainer.step(16, closure=partly)
    assert changed(before, net) == set()
    assert trainer.progress.step == 0
    assert trainer.step(16, closure=partly, ignore_stale_grad=True)
    assert changed(before, net) == {"a.weight", "a.bias"}


def test_what_is_frozen_by_hand_stays() -> None:
    net = graph()
    trainer = Trainer(net, "lbfgs", max_iter=2, learning_rate=0.1)
    trainer.freeze("a")
    before = arrays(net)
    trainer.step(16, closure=summed(net))
    assert changed(before, net) == {"b.weight", "b.bias", "out.weight", "out.bias"}
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_loss_that_was_never_finite_is_refused_and_the_place_goes_on_when_skipped() -> None:
    net = chain()
    trainer = Trainer(net, "lbfgs", max_iter=3, non_finite="skip")
    before = arrays(net)
    assert trainer.step(16, closure=summed(net, float("nan"))) is False
    assert changed(before, net) == set()
    assert trainer.progress.step == 1
    assert not any(own for own in memory_of(trainer).values())
    trainer = Trainer(net, "lbfgs", max_iter=3, non_finite="raise")
    with pytest.raises(NonFiniteError):
        trainer.step(16, closure=summed(net, float("nan")))
    assert trainer.progress.step == 0
    assert changed(before, net) == set()


def test_a_loss_that_is_not_finite_though_its_gradients_are() -> None:
    net = chain()

    def odd() -> Tensor:
        return summed(net)() * float("inf")

    before = arrays(net)
    trainer = Trainer(net, "lbfgs", non_finite="raise")
    with pytest.raises(NonFiniteError, match="Step 1 is refused"):
        trainer.step(16, closure=odd)
    assert changed(before, net) == set()


@pytest.mark.parametrize("given", [None, 3.0, torch.ones(2)], ids=["None", "float", "two"])
def test_a_closure_gives_its_loss(given: Any) -> None:
    net = chain()
    trainer = Trainer(net, "lbfgs")
    before = arrays(net)
    with pytest.raises(SettingError, match=r"closure\(\) returned \w+: the summed loss is needed"):
        trainer.step(16, closure=lambda: given)
    assert changed(before, net) == set()
    assert trainer.progress.step == 0
    assert trainer.step(16, closure=summed(net))


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SettingError])
@pytest.mark.parametrize("settings", [{}, {"l2": 0.5, "clip_weights": 0.1}], ids=["plain", "clipped"])
def test_an_error_within_puts_everything_back(error: type[BaseException], settings: dict[str, Any]) -> None:
    net = chain()
    trainer = Trainer(net, "lbfgs", max_iter=4, tolerance_change=0.0, **settings)
    trainer.step(16, closure=summed(net))
    before, memory, calls = arrays(net), memory_of(trainer), []

    def breaks() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise error("away")
        return summed(net)()

    with pytest.raises(error, match="away"):
        trainer.step(16, closure=breaks)
    assert changed(before, net) == set()
    assert trainer.progress.step == 1
    assert all(same_memory(memory[name], own) for name, own in memory_of(trainer).items())
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 2}, r"nothing is accumulated or scaled. Leave out accumulate= and loss_scale="),
        ({"accumulate": pieces(1, (steps(1), 2))}, r"nothing is accumulated"),
        ({"loss_scale": 8.0}, r"nothing is accumulated or scaled"),
        ({"loss_scale": "dynamic"}, r"nothing is accumulated or scaled"),
    ],
    ids=str,
)
def test_there_is_no_window_and_no_scale(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Trainer(chain(), "lbfgs", max_iter=2, **options)


@pytest.mark.parametrize("count", [0, -1, float("nan"), "x"])
def test_the_number_of_samples_is_positive(count: Any) -> None:
    net = chain()
    calls: list[int] = []
    with pytest.raises(SettingError, match=r"the number of samples is positive and finite"):
        Trainer(net, "lbfgs").step(count, closure=lambda: calls.append(1))  # type: ignore[arg-type, return-value]
    assert not calls


def test_the_halves_of_a_step_take_it_too() -> None:
    net, twin = chain(), chain()
    Trainer(net, "lbfgs", max_iter=2).update(16, closure=summed(net))
    Trainer(twin, "lbfgs", max_iter=2).step(16, closure=summed(twin))
    assert same(net, twin)
    assert not same(net, chain())


def test_a_closure_may_compute_some_losses_without_gradients() -> None:
    """The net's own calls within the closure drop no gradient that is needed."""
    net, twin = chain(), chain()

    def looks() -> Tensor:
        loss = summed(net)()
        with torch.no_grad():
            net(X)
        return loss

    Trainer(net, "lbfgs", max_iter=3).step(16, closure=looks)
    Trainer(twin, "lbfgs", max_iter=3).step(16, closure=summed(twin))
    assert same(net, twin)


def test_it_runs_within_train() -> None:
    net, twin = chain(), chain()
    etude.train(
        net,
        (X, Y),
        loss="mse",
        optimizer="lbfgs",
        learning_rate=0.5,
        max_iter=2,
        steps=5,
        batch_size=16,
        progress=False,
    )
    trainer = Trainer(twin, "lbfgs", learning_rate=0.5, max_iter=2)
    for _ in range(5):
        trainer.step(16, closure=summed(twin))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert float(summed(net)().detach()) < 0.8 * float(summed(chain())().detach())


def test_a_run_with_it_can_be_repeated() -> None:
    nets = []
    for _ in range(2):
        net = chain()
        options: dict[str, Any] = {"optimizer": "lbfgs", "max_iter": 3, "learning_rate": 0.3}
        etude.train(net, (X, Y), loss="mse", steps=4, batch_size=8, progress=False, **options)
        nets.append(copy.deepcopy(net))
    assert same(*nets)
    assert not same(nets[0], chain())
