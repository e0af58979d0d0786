"""Update schedules, scenario by scenario: TUS-E1 to E6, the rules TUS-1 to 11 and the readings A1 to A11.

"Moved" is what differs bit for bit between two steps.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude import FROZEN, cycle, every, everything, part, steps
from etude.errors import PartError, ScheduleError
from etude.run.events import Evaluated, Skipped, Stepped
from ids import steady
from nets import (
    Named,
    alike,
    arrays,
    chain,
    changed,
    data,
    give_gradients,
    graph,
    long_chain,
    memory_of,
    seeded,
    shared_chain,
    walk,
)

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "adam": {},
    "rmsprop": {"momentum": 0.9},
    "adamw": {"weight_decay": 0.1},
}
A, B, OUT = {"a.weight", "a.bias"}, {"b.weight", "b.bias"}, {"out.weight", "out.bias"}


def stacked(batches: int, **shape: int) -> tuple[Tensor, Tensor]:
    """The batches as one array each of inputs and targets."""
    x, y = zip(*data(batches, **shape), strict=True)
    return torch.cat(x), torch.cat(y)


def record(net: nn.Module, batches: int, count: int, **options: Any) -> Iterator[set[str]]:
    """What moves in each step of a run over `batches` batches an epoch."""
    before = arrays(net)
    plan = etude.Plan(**{"loss": "mse", "steps": count, "batch_size": 8, **options})
    for event in etude.Run(plan, net, stacked(batches)):
        if isinstance(event, Stepped):
            yield changed(before, net)
            before = arrays(net)


# TUS-E1: a generator and a discriminator in turn


def game(latent: Any = None) -> etude.GAN:
    def nets() -> tuple[nn.Module, nn.Module]:
        generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        return generator, nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    generator, discriminator = seeded(nets)
    return etude.GAN(generator, discriminator, latent=latent)


def test_e1_odd_steps_move_the_discriminator_even_steps_the_generator() -> None:
    net = game(latent=2)
    samples = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)) * 0.5 + 3
    plan = etude.Plan(update_schedule=["discriminator", "generator"], steps=40, batch_size=8, optimizer="adam")
    before = arrays(net)
    for event in etude.Run(plan, net, samples):
        if isinstance(event, Stepped):
            moved = {name.split(".")[0] for name in changed(before, net)}
            assert moved == ({"discriminator"} if event.progress.step % 2 else {"generator"})
            before = arrays(net)


def test_e1_the_discriminator_lowers_its_loss_and_the_generator_raises_the_loss_on_fakes() -> None:
    net = game()
    generator = torch.Generator().manual_seed(0)
    batch = (torch.randn(64, 1, generator=generator) * 0.5 + 3, torch.randn(64, 2, generator=generator))
    plan = etude.Plan(
        update_schedule=["discriminator", "generator"], steps=20, batch_size=64, optimizer="sgd", learning_rate=0.05
    )
    losses = lambda: {name: value.item() for name, value in net(batch).items() if name != "generated"}  # noqa: E731
    before = losses()
    for event in etude.Run(plan, net, batch):
        if isinstance(event, Stepped):
            now = losses()
            if event.progress.step % 2:
                assert now["real"] + now["fake"] < before["real"] + before["fake"]
            else:
                assert now["fake"] > before["fake"]
            before = now


# TUS-E2: the first and the third layer, across epochs


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("how", ["run", "loop"])
def test_e2a_first_and_third_layer_in_turn_whatever_the_epochs(optimizer: str, how: str) -> None:
    net = chain()
    settings = {"optimizer": optimizer, **OPTIMIZERS[optimizer]}
    schedule = [0, 2]
    if how == "run":
        found = list(record(net, 7, 21, update_schedule=schedule, **settings))
    else:
        trainer = etude.Trainer(net, update_schedule=schedule, **settings)
        found = [moved for _ in range(3) for moved in walk(net, trainer, data(7))]
    first, third = {"0.weight", "0.bias"}, {"2.weight", "2.bias"}
    assert found == [first if step % 2 == 0 else third for step in range(21)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_e2b_a_layer_that_is_never_scheduled_keeps_its_bits(optimizer: str) -> None:
    """TUS-8, TUS-9."""
    net = long_chain()
    start = arrays(net)
    settings = {"optimizer": optimizer, **OPTIMIZERS[optimizer]}
    found = list(record(net, 7, 21, update_schedule=[0, 4], **settings))
    assert found == [{"0.weight", "0.bias"} if step % 2 == 0 else {"4.weight", "4.bias"} for step in range(21)]
    assert changed(start, net) == {"0.weight", "0.bias", "4.weight", "4.bias"}


def test_e2_the_first_element_of_each_array_is_a_staircase() -> None:
    """The same record, collected by a listener of the run."""
    net = long_chain()
    series: dict[str, list[float]] = {name: [] for name in arrays(net)}

    def collect(event: Any) -> None:
        if isinstance(event, Stepped):
            for name, array in arrays(net).items():
                series[name].append(array.flatten()[0].item())

    etude.train(
        net,
        stacked(7),
        loss="mse",
        epochs=3,
        batch_size=8,
        update_schedule=[0, 4],
        listeners=[collect],
        progress=False,
    )
    stairs = {name: [a != b for a, b in pairwise(values)] for name, values in series.items()}
    assert stairs["0.weight"] == [step % 2 == 1 for step in range(20)]
    assert stairs["4.weight"] == [step % 2 == 0 for step in range(20)]
    assert not any(stairs["2.weight"])


# TUS-E3: ten to one, by name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", [[part("a") * 10, "b"], cycle(part("a") * 10, "b")], ids=["list", "cycle"])
def test_e3_ten_steps_of_one_part_and_one_of_the_other(optimizer: str, schedule: Any) -> None:
    """TUS-5."""
    net = graph()
    found = list(record(net, 7, 44, update_schedule=schedule, optimizer=optimizer, **OPTIMIZERS[optimizer]))
    assert found == ([A] * 10 + [B]) * 4
    assert (found.count(A), found.count(B)) == (40, 4)


# TUS-E4: one array at a time


def test_e4_six_arrays_in_turn() -> None:
    net = graph()
    order = ["a.weight", "b.weight", "a.bias", "out.weight", "b.bias", "out.bias"]
    found = list(record(net, 7, 13, update_schedule=order, optimizer="adam"))
    assert found == [{order[step % 6]} for step in range(13)]


# TUS-E5: shared arrays


def test_e5_a_shared_layer_moves_with_each_of_its_places() -> None:
    """TUS-10: all arrays are shared with the scheduled layer, so the schedule changes nothing."""
    net, free = shared_chain(), shared_chain()
    before = arrays(net)
    options = {"optimizer": "adam", "seed": 3}
    found = []
    plan = etude.Plan("mse", steps=18, batch_size=8, update_schedule=[0], **options)
    x, _ = stacked(6)
    for event in etude.Run(plan, net, (x, x)):
        if isinstance(event, Stepped):
            found.append(not alike(before["0.weight"], net[2].weight))
            before = arrays(net)
    assert found == [True] * 18
    etude.train(free, (x, x), loss="mse", steps=18, batch_size=8, progress=False, **options)
    assert all(alike(one, other) for one, other in zip(net.parameters(), free.parameters(), strict=True))


def test_e5_with_one_layer_that_is_not_shared_the_schedule_matters() -> None:
    def make() -> nn.Sequential:
        return shared_chain(1, seeded(lambda: nn.Linear(3, 2), 2))

    net, free = make(), make()
    start = arrays(net)
    found = list(record(net, 6, 18, update_schedule=[0], optimizer="adam"))
    assert found == [{"0.weight", "0.bias"}] * 18
    assert changed(start, net) == {"0.weight", "0.bias"}
    list(record(free, 6, 18, optimizer="adam"))
    assert not any(alike(one, other) for one, other in zip(net.parameters(), free.parameters(), strict=True))


def test_e5_a_tied_array_moves_whenever_one_of_its_names_does() -> None:
    """TUS-10, TUS-A3: the union of the places."""
    net = shared_chain(1, seeded(lambda: nn.Linear(3, 2), 2))
    found = list(record(net, 6, 6, update_schedule=["2.weight", "3", "0.bias"], optimizer="adam"))
    assert found == [{"0.weight"}, {"3.weight", "3.bias"}, {"0.bias"}] * 2


# TUS-E6: rules without an example


def test_e6_a_union_moves_together() -> None:
    """TUS-6."""
    for union in (part("a") | "b", {"a", "b"}):
        assert list(record(graph(), 4, 4, update_schedule=[union, "out"])) == [A | B, OUT] * 2


def test_e6_overlapping_groups() -> None:
    found = list(record(graph(), 4, 4, update_schedule=[part("a") | "out", part("b") | "out"]))
    assert found == [A | OUT, B | OUT] * 2


def test_e6_everything_moves_all() -> None:
    assert list(record(graph(), 4, 4, update_schedule=["a", everything])) == [A, A | B | OUT] * 2


def test_e6_what_is_not_there_is_an_error_before_anything() -> None:
    net = graph()
    before = arrays(net)
    with pytest.raises(PartError, match=r"In the update schedule: part\('critic'\) matches nothing"):
        list(record(net, 4, 4, update_schedule=["a", "critic"]))
    assert changed(before, net) == set()


def test_e6_a_scheduled_part_that_is_frozen_does_not_move_and_its_partner_does() -> None:
    """TUS-A4."""
    with pytest.warns(UserWarning, match=r"In the update schedule: part\('a'\) moves nothing") as caught:
        found = list(record(graph(), 4, 8, update_schedule=["a", "b"], learning_rate_multipliers={"a": FROZEN}))
    assert found == [set(), B] * 4
    assert len([one for one in caught if "moves nothing" in str(one.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(record(graph(), 4, 2, update_schedule=[part("a") | "b"], learning_rate_multipliers={"a": 0}))
    assert found == [B, B]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_e6_the_place_in_the_cycle_outlives_a_stop(optimizer: str) -> None:
    """TUS-A8, in a hand-written loop: the state by names, mid-cycle."""

    def made(net: nn.Module) -> etude.Trainer:
        return etude.Trainer(net, optimizer, update_schedule=[part("a") * 3, "b"], **OPTIMIZERS[optimizer])

    whole, net = graph(), graph()
    list(walk(whole, made(whole), data(10)))
    first = made(net)
    list(walk(net, first, data(10)[:5]))
    later = graph(seed=9)
    later.load_state_dict(net.state_dict())
    second = made(later)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    list(walk(later, second, data(10)[5:]))
    assert all(alike(one, other) for one, other in zip(whole.parameters(), later.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_e6_a_nan_gradient_of_what_is_held_does_not_reach_it(optimizer: str) -> None:
    net = graph()
    trainer = etude.Trainer(net, optimizer, update_schedule=["a"], **OPTIMIZERS[optimizer])
    for step in range(3):
        give_gradients(net, step)
        for parameter in (*net.b.parameters(), *net.out.parameters()):
            parameter.grad = torch.full_like(parameter, float("nan"))
        trainer.step()
        trainer.zero_grad()
    assert all(torch.isfinite(array).all() for array in arrays(net).values())


# the rules


def test_tus1_nothing_said_moves_everything_at_every_step() -> None:
    assert list(record(graph(), 4, 4)) == [A | B | OUT] * 4
    assert list(record(graph(), 4, 4, update_schedule=None)) == [A | B | OUT] * 4


def test_tus2_the_groups_follow_one_another_to_the_end() -> None:
    assert list(record(graph(), 4, 8, update_schedule=["a", "b", "out"])) == ([A, B, OUT] * 3)[:8]


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_tus3_the_place_is_counted_over_the_run_not_the_epoch(batches: int) -> None:
    assert list(record(graph(), batches, 9, update_schedule=["a", "b"])) == ([A, B] * 5)[:9]


def nested() -> Named:
    block = lambda: Named({"lin": nn.Linear(3, 3), "act": nn.Tanh(), "inner": nn.Sequential(nn.Linear(3, 3))})  # noqa: E731
    made: Named = seeded(lambda: Named({"first": block(), "second": block(), "last": nn.Linear(3, 2)}))
    return made


@pytest.mark.parametrize(
    ("group", "moved"),
    [
        ("first", {"first.lin.weight", "first.lin.bias", "first.inner.0.weight", "first.inner.0.bias"}),
        (0, {"first.lin.weight", "first.lin.bias", "first.inner.0.weight", "first.inner.0.bias"}),
        (-1, {"last.weight", "last.bias"}),
        ("second.inner.0", {"second.inner.0.weight", "second.inner.0.bias"}),
        (("second", "inner", 0, "bias"), {"second.inner.0.bias"}),
        (("second", -1), {"second.inner.0.weight", "second.inner.0.bias"}),
        (("last", "weight"), {"last.weight"}),
        (slice(0, 2), None),
        (part("first") | "second", None),
        ("*.inner.*.weight", {"first.inner.0.weight", "second.inner.0.weight"}),
        (part(slice(0, 2)) / "inner" / "*bias", {"first.inner.0.bias", "second.inner.0.bias"}),
    ],
    ids=steady,
)
def test_tus4_and_tus7_any_form_of_a_part_and_all_that_is_below_it(group: Any, moved: set[str] | None) -> None:
    net = nested()
    if moved is None:
        moved = {name for name in arrays(net) if not name.startswith("last")}
    assert list(record(net, 4, 2, update_schedule=[group])) == [moved, moved]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tus9_held_means_bits_with_decay_momentum_clipping_and_noise(optimizer: str) -> None:
    settings = {"weight_decay": 0.1, "clip_norm": 0.5, "clip_value": 0.1, "noise": 0.1, "clip_weights": 2.0}
    settings |= OPTIMIZERS[optimizer]
    found = list(record(graph(), 5, 9, update_schedule=["a", "b"], optimizer=optimizer, **settings))
    assert found == ([A, B] * 5)[:9]


def test_tus11_every_step_has_its_loss_and_its_batch() -> None:
    net = graph()
    batches = data(6)
    events: list[Stepped] = []
    plan = etude.Plan("mse", epochs=1, batch_size=8, shuffle=False, update_schedule=["a", "b"], optimizer="sgd")
    expected = []
    run = iter(etude.Run(plan, net, stacked(6)))
    for x, y in batches:
        expected.append(nn.functional.mse_loss(net(x), y).item())
        events.append(next(event for event in run if isinstance(event, Stepped)))
    assert [event.losses["loss"].item() for event in events] == pytest.approx(expected)
    assert [event.progress.step for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[-1].progress.epoch == 1.0


# the readings


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a1_memory_of_what_is_held_is_untouched(optimizer: str) -> None:
    """The path of an array depends on its own steps alone."""
    net, alone = graph(), graph()
    scheduled = etude.Trainer(net, optimizer, update_schedule=["a", "b"], **OPTIMIZERS[optimizer])
    only = etude.Trainer(alone, optimizer, part="a", **OPTIMIZERS[optimizer])
    for step in range(7):
        give_gradients(net, step)
        scheduled.step()
        scheduled.zero_grad()
        if step % 2 == 0:
            give_gradients(alone, step)
            only.step()
            only.zero_grad()
    assert alike(net.a.weight, alone.a.weight)
    assert memory_of(scheduled)["a.weight"].keys() == memory_of(only)["a.weight"].keys()
    assert not memory_of(scheduled)["out.weight"]


def test_a2_the_rate_follows_the_clock_of_the_run() -> None:
    net = graph()
    trainer = etude.Trainer(net, "sgd", learning_rate=cycle(0.1, 0.2, 0.3), update_schedule=["a", "b"])
    _, rates = trainer.table.score([etude.Progress(step) for step in range(6)])
    assert rates[0][::2].tolist() == [0.1, 0.3, 0.2]
    assert rates[2][1::2].tolist() == [0.2, 0.1, 0.3]


def test_a4_a_negative_multiplier_keeps_its_sign_under_a_schedule() -> None:
    net = graph()
    before = arrays(net)
    trainer = etude.Trainer(
        net, "sgd", learning_rate=1.0, learning_rate_multipliers={"b": -2}, update_schedule=["a", "b"]
    )
    for step in range(2):
        give_gradients(net, step)
        trainer.step()
        gradient = (net.a if step == 0 else net.b).weight.grad
        moved = (net.a if step == 0 else net.b).weight - before["a.weight" if step == 0 else "b.weight"]
        assert torch.allclose(moved, gradient * (-1 if step == 0 else 2), atol=1e-6)
        trainer.zero_grad()


def test_a5_a_step_that_was_skipped_takes_its_place_in_the_schedule() -> None:
    net = graph()
    x, y = stacked(4)
    x[9] = float("nan")
    plan = etude.Plan(
        "mse", steps=4, batch_size=8, shuffle=False, update_schedule=["a", "b"], non_finite="skip", optimizer="sgd"
    )
    found, before = [], arrays(net)
    for event in etude.Run(plan, net, (x, y)):
        if isinstance(event, Stepped | Skipped):
            found.append(changed(before, net))
            before = arrays(net)
    assert found == [A, set(), A, B]


def test_a6_statistics_run_on_between_the_turns_of_a_layer() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    found = list(record(net, 4, 4, update_schedule=["0", "2"]))
    assert found == [statistics | {"0.weight", "0.bias"}, statistics | {"2.weight", "2.bias"}] * 2


@pytest.mark.parametrize("times", [0, -1, 2.5, True, "3"])
def test_a7_a_part_is_repeated_a_whole_number_of_times(times: Any) -> None:
    with pytest.raises(PartError, match="a part is repeated a whole number of times, at least 1"):
        part("a") * times


@pytest.mark.parametrize("schedule", [[], {"a": 1}, [None], ["a", 3.5], cycle(1, 2), 0.5])
def test_a7_what_is_no_schedule_of_parts(schedule: Any) -> None:
    net = graph()
    before = arrays(net)
    with pytest.raises((ScheduleError, PartError)):
        list(record(net, 4, 4, update_schedule=schedule))
    assert changed(before, net) == set()


@pytest.mark.parametrize("bare", ["a", 0, part("a"), ("a",), part("a") * 5, nn.Conv1d], ids=repr)
def test_a7_a_part_alone_is_a_schedule_of_one_step(bare: Any) -> None:
    if bare is nn.Conv1d:
        with pytest.raises(PartError, match="no module is a Conv1d"):
            list(record(graph(), 4, 3, update_schedule=bare))
    else:
        assert list(record(graph(), 4, 3, update_schedule=bare)) == [A] * 3


def test_a9_gradients_of_the_active_group_are_those_of_the_full_backward() -> None:
    """Bit for bit on this net, also for a group below others that are held."""
    net, full = long_chain(), long_chain()
    trainer = etude.Trainer(net, update_schedule=["0", "2", "4"])
    for (x, y), names in zip(data(3), ("0", "2", "4"), strict=True):
        with trainer.only_moving():
            loss = (net(x) - y).square().mean()
        loss.backward()
        full.zero_grad()
        (full(x) - y).square().mean().backward()
        for name, parameter in net.named_parameters():
            twin = full.get_parameter(name).grad
            if name.startswith(names):
                assert parameter.grad is not None
                assert twin is not None
                assert alike(parameter.grad, twin)
            else:
                assert parameter.grad is None
        trainer.step()
        full.load_state_dict(net.state_dict())


def test_a10_the_norm_that_is_clipped_is_that_of_the_active_group() -> None:
    net = graph()
    before = arrays(net)
    trainer = etude.Trainer(net, "sgd", learning_rate=1.0, clip_norm=0.25, update_schedule=["a", "b"])
    give_gradients(net, 0)
    trainer.step()
    moved = torch.cat([(before[name] - array).flatten() for name, array in arrays(net).items() if name in A])
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-4)


def test_a11_looking_at_validation_data_between_steps_changes_nothing() -> None:
    net, quiet = graph(), graph()
    options = {"update_schedule": ["a", part("b") | "out"], "optimizer": "adam", "seed": 1}
    looked = etude.Evaluate(stacked(1), every=every(steps(1)))
    events = list(etude.Run(etude.Plan("mse", steps=6, batch_size=8, validation=looked, **options), net, stacked(3)))
    assert sum(isinstance(event, Evaluated) for event in events) == 6
    assert list(record(quiet, 3, 6, **options)) == [A, B | OUT] * 3
    last = etude.Run(etude.Plan("mse", steps=6, batch_size=8, **options), graph(), stacked(3)).result()
    assert all(alike(a, b) for a, b in zip(quiet.parameters(), last.net.parameters(), strict=True))


def test_the_result_tells_the_schedule_that_was_used() -> None:
    result = etude.train(
        graph(), stacked(4), loss="mse", steps=4, batch_size=8, update_schedule=[part("a") * 2, "b"], progress=False
    )
    assert result.update_schedule == {"loss": "cycle(part('a') * 2, part('b'))"}
