"""Gradients accumulated over micro-batches: when the step comes, what divides it, errors on the way, states within."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import NonFiniteError, ScheduleError, SettingError, StaleGradientError, StateError
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.part import part
from etude.values.reactive import when
from etude.values.schedule import cycle, pieces
from etude.values.spans import samples, steps
from nets import Graph, alike, arrays, chain, changed, data, give_gradients, graph, memory_of, same_memory

BATCHES = data(12, 8)


def backward(net: nn.Module, x: Tensor, y: Tensor) -> None:
    (net(x) - y).square().mean(1).sum().backward()


def feed(net: nn.Module, trainer: Trainer, batches: list[tuple[Tensor, Tensor]]) -> list[bool]:
    """Every batch as a micro-batch."""
    made = []
    for x, y in batches:
        backward(net, x, y)
        made.append(trainer.step(len(x)))
    return made


def close(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(alike(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def joined(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", ["sgd", "adamw", "torch.adamw"])
def test_micro_batches_are_one_large_batch(size: int, rule: str) -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(net, rule, learning_rate=0.1, accumulate=size), Trainer(twin, rule, learning_rate=0.1)
    made = feed(net, trainer, BATCHES)
    assert made == [n % size == size - 1 for n in range(12)]
    for n in range(0, 12, size):
        feed(twin, other, [joined(BATCHES[n : n + size])])
    assert close(net, twin)
    assert (trainer.progress.step, trainer.progress.samples) == (12 // size, 96)
    assert not close(net, chain())


def test_micro_batches_of_several_sizes_are_divided_by_their_sum() -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1, accumulate=3), Trainer(twin, "sgd", learning_rate=0.1)
    x, y = joined(BATCHES[:3])
    feed(net, trainer, [(x[:3], y[:3]), (x[3:20], y[3:20]), (x[20:], y[20:])])
    feed(twin, other, [(x, y)])
    assert close(net, twin)
    assert trainer.progress.samples == 24


def test_between_steps_nothing_moves_and_no_time_passes() -> None:
    net = chain()
    trainer = Trainer(net, "adamw", accumulate=3, weight_decay=0.1, shrink=0.1, noise=1.0)
    before = arrays(net)
    assert feed(net, trainer, BATCHES[:2]) == [False, False]
    assert changed(before, net) == set()
    assert trainer.progress.step == trainer.progress.samples == 0
    assert not any(memory_of(trainer).values())


def test_the_size_follows_a_schedule_of_steps_and_of_samples() -> None:
    for size in (pieces(1, (steps(2), 3)), pieces(1, (samples(16), 3))):
        net = chain()
        trainer = Trainer(net, accumulate=size)
        assert feed(net, trainer, BATCHES[:8]) == [True, True, False, False, True, False, False, True]
    net = chain()
    assert feed(net, Trainer(net, accumulate=cycle(1, 2)), BATCHES[:6]) == [True, False, True, True, False, True]


def test_other_schedules_count_steps_not_micro_batches() -> None:
    net = graph()
    trainer = Trainer(net, update_schedule=["a", "b"], accumulate=2)
    moved = []
    for batch in BATCHES[:4]:
        before = arrays(net)
        feed(net, trainer, [batch])
        moved.append({name[0] for name in changed(before, net)})
    assert moved == [set(), {"a"}, set(), {"b"}]


def test_a_ragged_window_is_flushed_and_divided_by_what_it_has() -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1, accumulate=4), Trainer(twin, "sgd", learning_rate=0.1)
    assert trainer.flush() is False
    assert feed(net, trainer, BATCHES[:6]) == [False, False, False, True, False, False]
    assert trainer.flush() is True
    assert trainer.flush() is False
    feed(twin, other, [joined(BATCHES[:4]), joined(BATCHES[4:6])])
    assert close(net, twin)
    assert (trainer.progress.step, trainer.progress.samples) == (2, 48)
    assert feed(net, trainer, BATCHES[6:10]) == [False, False, False, True]


def test_a_micro_batch_without_a_backward_is_stale_and_not_counted() -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1, accumulate=2), Trainer(twin, "sgd", learning_rate=0.1)
    with pytest.raises(StaleGradientError, match=r"Step 1: no new gradient since the last step in '0\.weight'"):
        trainer.step(8)
    feed(net, trainer, BATCHES[:1])
    with pytest.raises(StaleGradientError, match="Step 1: no new gradient"):
        trainer.step(8)
    assert feed(net, trainer, BATCHES[1:2]) == [True]
    with pytest.raises(StaleGradientError, match="Step 2: no new gradient"):
        trainer.step(8)
    feed(twin, other, [joined(BATCHES[:2])])
    assert close(net, twin)


def test_an_array_has_to_be_in_one_micro_batch_of_its_window() -> None:
    net, twin = graph(), graph()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1, accumulate=2), Trainer(twin, "sgd", learning_rate=0.1)
    x, _ = BATCHES[0]
    for module in (net.a, net.b):
        module(x).sum().backward()
        # The joint layer gets its gradient from the second only.
        if module is net.b:
            net.out(torch.cat([x, x, x[:, :2]], 1)).sum().backward()
        made = trainer.step(8)
    assert made
    (twin.a(x).sum() + twin.b(x).sum() + twin.out(torch.cat([x, x, x[:, :2]], 1)).sum()).backward()
    other.step(16)
    assert close(net, twin)


def test_an_array_in_none_of_them_is_an_error_that_gives_the_last_back() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", learning_rate=0.1, accumulate=2)
    x, _ = BATCHES[0]
    net.a(x).sum().backward()
    trainer.step(8)
    net.b(x).sum().backward()
    before = arrays(net)
    with pytest.raises(StaleGradientError, match=r"Step 1: no new gradient since the last step in 'out.weight', "):
        trainer.step(8)
    assert changed(before, net) == set()
    assert trainer.progress.step == 0
    net.out(torch.cat([x, x, x[:, :2]], 1)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    assert trainer.step(8)
    assert all(torch.allclose(before[n] - p, gradients[n] * 0.1 / 16, atol=1e-6) for n, p in net.named_parameters())


def test_arrays_without_gradients_may_be_passed_over() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", accumulate=2)
    before = arrays(net)
    for n in range(2):
        net.a(BATCHES[n][0]).sum().backward()
        made = trainer.step(8, ignore_stale_grad=True)
    assert made
    assert changed(before, net) == {"a.weight", "a.bias"}


def test_micro_batches_without_any_gradient_may_be_passed_over() -> None:
    net = chain()
    trainer = Trainer(net, "sgd", accumulate=2)
    before = arrays(net)
    assert [trainer.step(8, ignore_stale_grad=True) for _ in range(2)] == [False, True]
    assert changed(before, net) == set()
    assert trainer.progress.step == 1


@pytest.mark.parametrize("how", ["rules", "freeze", "schedule"])
def test_where_nothing_moves_windows_pass_all_the_same(how: str) -> None:
    """LRM-A9."""
    net = chain()
    options: dict[str, Any] = {"rules": {"learning_rate_multipliers": 0}, "schedule": {"update_schedule": [0]}}
    trainer = Trainer(net, accumulate=2, **options.get(how, {}))
    if how == "freeze":
        trainer.freeze(part(0) | 2)
    if how == "schedule":
        trainer.freeze(0)
    before = arrays(net)
    assert feed(net, trainer, BATCHES[:4]) == [False, True, False, True]
    assert changed(before, net) == set()
    assert trainer.progress.step == 2


def test_what_is_not_finite_in_the_last_micro_batch_is_refused_and_the_window_begins_anew_with_zero_grad() -> None:
    net, twin = chain(), chain()
    trainer = Trainer(net, "adamw", learning_rate=0.1, accumulate=2, non_finite="raise")
    other = Trainer(twin, "adamw", learning_rate=0.1)
    x, y = BATCHES[1]
    before = arrays(net)
    feed(net, trainer, BATCHES[:1])
    with pytest.raises(NonFiniteError, match="Step 1 is refused"):
        feed(net, trainer, [(x * float("inf"), y)])
    assert changed(before, net) == set()
    assert not any(memory_of(trainer).values())
    with pytest.raises(NonFiniteError, match="Step 1 is refused"):
        trainer.step(8)
    trainer.zero_grad()
    assert feed(net, trainer, BATCHES[2:4]) == [False, True]
    feed(twin, other, [joined(BATCHES[2:4])])
    assert close(net, twin)
    assert trainer.progress.samples == 16


def test_a_window_that_is_not_finite_may_be_skipped_whole() -> None:
    net = chain()
    trainer = Trainer(net, accumulate=2, non_finite="skip")
    x, y = BATCHES[0]
    before = arrays(net)
    assert feed(net, trainer, [(x * float("inf"), y), BATCHES[1]]) == [False, False]
    assert changed(before, net) == set()
    assert trainer.progress.step == 1
    assert feed(net, trainer, BATCHES[2:4]) == [False, True]
    assert all(bool(torch.isfinite(array).all()) for array in net.parameters())


def test_zero_grad_in_mid_window_forgets_it() -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1, accumulate=2), Trainer(twin, "sgd", learning_rate=0.1)
    feed(net, trainer, BATCHES[:1])
    trainer.zero_grad()
    assert feed(net, trainer, BATCHES[1:3]) == [False, True]
    feed(twin, other, [joined(BATCHES[1:3])])
    assert close(net, twin)


@pytest.mark.parametrize("size", [0, -1, float("nan"), "x"])
def test_a_micro_batch_with_a_wrong_count_changes_nothing(size: Any) -> None:
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1, accumulate=2), Trainer(twin, "sgd", learning_rate=0.1)
    backward(net, *BATCHES[0])
    with pytest.raises(SettingError, match=r"step\(.*\): the number of samples is positive and finite"):
        trainer.step(size)
    trainer.step(8)
    assert feed(net, trainer, BATCHES[1:2]) == [True]
    feed(twin, other, [joined(BATCHES[:2])])
    assert close(net, twin)


@pytest.mark.parametrize("how", ["zero", "replaced"])
def test_gradients_that_go_in_mid_window_are_missed(how: str) -> None:
    """Their samples are counted already."""
    net = chain()
    trainer = Trainer(net, "sgd", learning_rate=0.1, accumulate=2)
    feed(net, trainer, BATCHES[:1])
    net.zero_grad(set_to_none=True)
    if how == "replaced":
        backward(net, *BATCHES[1])
    before = arrays(net)
    with pytest.raises(StaleGradientError, match=r"being accumulated are gone, in '0.weight'.*trainer.zero_grad\(\)"):
        trainer.step(8)
    assert changed(before, net) == set()
    trainer.zero_grad()
    assert feed(net, trainer, BATCHES[2:4]) == [False, True]


def test_gradients_with_a_graph_add_up_too() -> None:
    """backward(create_graph=True) makes a new tensor of the sum."""
    net, twin = chain(), chain()
    trainer, other = Trainer(net, "sgd", learning_rate=0.1, accumulate=2), Trainer(twin, "sgd", learning_rate=0.1)
    for x, y in BATCHES[:2]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (net(x) - y).square().mean(1).sum().backward(create_graph=True)
        trainer.step(8)
    feed(twin, other, [joined(BATCHES[:2])])
    assert close(net, twin)


def test_clipping_is_of_the_whole_window() -> None:
    net, twin = chain(), chain()
    options: dict[str, Any] = {"learning_rate": 0.1, "clip_norm": 0.05, "noise": 0.01}
    trainer, other = Trainer(net, "sgd", accumulate=4, **options), Trainer(twin, "sgd", **options)
    feed(net, trainer, BATCHES[:4])
    feed(twin, other, [joined(BATCHES[:4])])
    assert close(net, twin)


@pytest.mark.parametrize("taken", [1, 2, 3])
@pytest.mark.parametrize("rule", ["adamw", "torch.adamw", "sgld"])
def test_a_state_saved_in_mid_window_goes_on_to_the_same_bits(taken: int, rule: str) -> None:
    net, late = chain(), chain(seed=5)
    options: dict[str, Any] = {"accumulate": 4, "clip_norm": 0.5, "noise": 0.1}
    trainer = Trainer(net, rule, **options)
    feed(net, trainer, BATCHES[: 4 + taken])
    state = copy.deepcopy({"net": net.state_dict(), "trainer": trainer.state_dict()})
    late.load_state_dict(state["net"])
    again = Trainer(late, rule, **options)
    again.load_state_dict(state["trainer"])
    rest = BATCHES[4 + taken : 12]
    assert feed(net, trainer, rest) == feed(late, again, rest)
    assert same(net, late)
    assert (again.progress.step, again.progress.samples) == (3, 96)
    mine, theirs = memory_of(trainer), memory_of(again)
    assert all(same_memory(mine[name], theirs[name]) for name in mine)


def test_gradients_of_a_loaded_window_are_no_new_micro_batch() -> None:
    net, late = chain(), chain()
    trainer, again = (Trainer(own, accumulate=3) for own in (net, late))
    feed(net, trainer, BATCHES[:1])
    again.load_state_dict(copy.deepcopy(trainer.state_dict()))
    for own in (trainer, again):
        with pytest.raises(StaleGradientError, match="Step 1: no new gradient"):
            own.step(8)


def test_a_loaded_window_can_be_flushed() -> None:
    net, late = chain(), chain()
    trainer, again = (Trainer(own, "adamw", accumulate=3) for own in (net, late))
    feed(net, trainer, BATCHES[:2])
    again.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert trainer.flush()
    assert again.flush()
    assert same(net, late)
    assert not same(net, chain())


def test_a_state_between_windows_has_no_gradients() -> None:
    net = chain()
    trainer = Trainer(net, accumulate=2)
    feed(net, trainer, BATCHES[:2])
    state = trainer.state_dict()
    assert state["gradients"] == {}
    assert state["window"] == {"count": 0, "samples": 0.0}
    feed(net, trainer, BATCHES[2:3])
    state = trainer.state_dict()
    assert set(state["gradients"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert state["window"] == {"count": 1, "samples": 8.0}


def test_loading_forgets_the_window_there_was() -> None:
    net = chain()
    fresh = copy.deepcopy(Trainer(chain(), accumulate=2).state_dict())
    trainer = Trainer(net, accumulate=2)
    feed(net, trainer, BATCHES[:1])
    trainer.load_state_dict(fresh)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert feed(net, trainer, BATCHES[:2]) == [False, True]


@pytest.mark.parametrize(
    "change",
    [
        {"window": {"count": -1, "samples": 8.0}},
        {"window": {"count": True, "samples": 8.0}},
        {"window": {"count": 1.5, "samples": 8.0}},
        {"window": {"count": 1, "samples": float("nan")}},
        {"window": {"count": 1, "samples": 0.0}},
        {"window": {"count": "1", "samples": 8.0}},
        {"window": None},
        {"gradients": None},
        {"gradients": {"x": torch.zeros(1)}},
        {"gradients": {"0.weight": torch.zeros(1, 9)}},
        {"gradients": {"0.weight": "x"}},
    ],
    ids=str,
)
def test_a_damaged_window_changes_nothing(change: dict[str, Any]) -> None:
    net = chain()
    trainer = Trainer(net, accumulate=3)
    feed(net, trainer, BATCHES[:4])
    state = copy.deepcopy(trainer.state_dict())
    before, clock, memory = arrays(net), trainer.progress, memory_of(trainer)
    feed(net, trainer, BATCHES[4:5])
    gradients = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    with pytest.raises(StateError):
        trainer.load_state_dict({**state, "progress": {**state["progress"], "step": 77}, **change})
    assert changed(before, net) == set()
    assert trainer.progress == clock
    assert all(same_memory(own, memory[name]) for name, own in memory_of(trainer).items())
    assert trainer.state_dict()["window"] == {"count": 2, "samples": 16.0}
    assert all(torch.equal(old, p.grad) for old, p in zip(gradients, net.parameters(), strict=True))  # type: ignore[arg-type]


def test_it_goes_with_a_loss_scale() -> None:
    net, twin = chain(), chain()
    trainer = Trainer(net, "sgd", learning_rate=0.1, accumulate=2, loss_scale=1024.0)
    other = Trainer(twin, "sgd", learning_rate=0.1)
    for x, y in BATCHES[:2]:
        trainer.scale((net(x) - y).square().mean(1).sum()).backward()
        trainer.step(8)
    feed(twin, other, [joined(BATCHES[:2])])
    assert close(net, twin)


def test_the_halves_of_a_step_within_a_window() -> None:
    net, twin = chain(), chain()
    trainer, other = (Trainer(own, "sgd", learning_rate=0.1, accumulate=2) for own in (net, twin))
    for x, y in BATCHES[:4]:
        backward(net, x, y)
        trainer.allreduce_grads()
        trainer.update(8)
    feed(twin, other, BATCHES[:4])
    assert same(net, twin)


def test_a_freeze_in_mid_window_is_of_the_step() -> None:
    net = graph()
    trainer = Trainer(net, "sgd", learning_rate=0.1, accumulate=2)
    before = arrays(net)
    feed(net, trainer, BATCHES[:1])
    trainer.freeze("a")
    assert feed(net, trainer, BATCHES[1:2]) == [True]
    assert changed(before, net) == {"b.weight", "b.bias", "out.weight", "out.bias"}
    trainer.thaw("a")
    x, y = BATCHES[2]
    kept = arrays(net)
    assert feed(net, trainer, [(x, y), (x, y)]) == [False, True]
    assert {"a.weight", "a.bias"} <= changed(kept, net)
    twin = Graph()
    twin.load_state_dict(kept)
    other = Trainer(twin, "sgd", learning_rate=0.1)
    feed(twin, other, [joined([(x, y), (x, y)])])
    assert close(net, twin)


def test_an_array_that_joins_in_mid_window_has_what_came_since() -> None:
    net = graph()
    net.a.requires_grad_(False)
    trainer = Trainer(net, "sgd", learning_rate=0.1, accumulate=3)
    feed(net, trainer, BATCHES[:1])
    net.a.requires_grad_(True)
    before = arrays(net)
    with pytest.raises(StaleGradientError, match="no new gradient"):
        trainer.step(8)
    assert feed(net, trainer, BATCHES[1:3]) == [False, True]
    gradient = net.a.weight.grad
    assert gradient is not None
    assert torch.allclose(before["a.weight"] - net.a.weight, 0.1 * gradient / 24, atol=1e-7)


@pytest.mark.parametrize(
    ("size", "kind", "message"),
    [
        (0, SettingError, "accumulate=0: a whole number of at least 1 is needed, or a schedule of such"),
        (-2, SettingError, "accumulate=-2: a whole number"),
        (1.5, SettingError, "accumulate=1.5: a whole number"),
        (True, SettingError, "accumulate=True: a whole number"),
        (None, SettingError, "accumulate=None: a whole number"),
        ("2", SettingError, "accumulate='2': a whole number"),
        (float("inf"), SettingError, "accumulate=inf: a whole number"),
        (
            when("val.loss", above=1),
            SettingError,
            r"accumulate=when\(.*\): it listens to metrics, and the number of mi",
        ),
        (linear(1, 4), ScheduleError, "length"),
    ],
)
def test_a_size_is_a_whole_number_known_beforehand(size: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Trainer(chain(), accumulate=size)


def test_a_size_that_is_computed_wrong_is_told_before_anything_changes() -> None:
    net = chain()
    with pytest.raises(SettingError, match=r"accumulate=0: a whole number"):
        Trainer(net, accumulate=lambda progress: 0)
    trainer = Trainer(net, accumulate=lambda progress: 1 if progress.step < 3 else 1.5)
    for n in range(3):
        give_gradients(net, n)
        trainer.step()
        trainer.zero_grad()
    give_gradients(net, 3)
    before = arrays(net)
    with pytest.raises(SettingError, match=r"accumulate=1\.5: a whole number"):
        trainer.step()
    assert changed(before, net) == set()
