"""Laws of runs: what may and what may not change their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset

import etude
from effort import examples
from etude import FROZEN, Evaluate, Update, cosine, cycle, every, everything, linear, part, steps, warmup
from etude.run.events import EpochEnded, Event, Settled, Stepped
from etude.run.result import Result
from small import Noisy, arrays, classified, condition, mlp, options, randomness, run, same, trained

small = settings(
    max_examples=examples(12),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

VALIDATION = classified(6, seed=5)


class Pairs(Dataset[Any]):
    """Items that are drawn with chance: noise is added to each."""

    def __init__(self, n: int) -> None:
        self.x, self.y = classified(n)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        return self.x[index] + 0.1 * torch.randn(4) + float(np.random.rand()), self.y[index]


def several() -> list[Update]:
    """Two updates whose turns change, the second with batches of its own."""
    return [
        Update("body", "cross_entropy", "body", learning_rate=0.02, turn=cycle(1, 2), noise=0.01),
        Update("head", {"ce": "cross_entropy", "size": (sizes, linear(1, 0))}, "head", own_batch=True, optimizer="sgd"),
    ]


def sizes(output: Tensor) -> Tensor:
    return (output**2).mean(1)


PLANS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scheduled": {"learning_rate": warmup(steps(2)) * cosine(0.05), "weight_decay": 0.1, "clip_norm": 0.5},
    "noise": {"noise": 0.05, "optimizer": "sgd", "momentum": 0.9},
    "in turn": {"update_schedule": [part("body") * 2, "head"], "learning_rate_multipliers": {"body.1": FROZEN}},
    "climbing": {"learning_rate_multipliers": {"head": -0.5, everything: 1}},
    "several": {"loss": None, "updates": several()},
    "bf16": {"precision": "bf16"},
    "torch": {"optimizer": torch.optim.RMSprop},
}
plans = st.sampled_from(sorted(PLANS))
seeds = st.integers(0, 2**63 - 1)
# Even numbers: batch norm cannot train on a batch of one.
lengths = st.integers(2, 9).map(lambda half: 2 * half)
batch_sizes = st.integers(1, 5).map(lambda half: 2 * half)


def made(name: str, seed: int, n: int = 10, **more: Any) -> Result:
    """A run of the plan of that name on a net with dropout and batch norm."""
    return trained(Noisy(), classified(n), seed=seed, **{"epochs": 3, **PLANS[name], **more})


def disturbing(event: Event) -> None:
    """A listener that draws numbers, and reads losses early."""
    torch.rand(3)
    np.random.rand()
    if isinstance(event, Stepped):
        float(event.losses["loss"])


@small
@given(plans, seeds, lengths, batch_sizes)
def test_the_same_seed_gives_the_same_bits(name: str, seed: int, n: int, size: int) -> None:
    one, other = made(name, seed, n, batch_size=size), made(name, seed, n, batch_size=size)
    assert same(arrays(one.net), arrays(other.net))
    assert one.history.to_dict() == other.history.to_dict()
    assert one.diff(other) == ""


@small
@given(plans, seeds, lengths)
def test_listeners_and_looks_change_no_bit(name: str, seed: int, n: int) -> None:
    quiet = made(name, seed, n)
    looks = Evaluate(VALIDATION, ["accuracy"], every=every(steps(2)))
    watched = made(name, seed, n, validation=looks, listeners=[disturbing])
    assert same(arrays(quiet.net), arrays(watched.final_net))
    assert quiet.history["loss"].values == watched.history["loss"].values
    assert made(name, seed, n, validation=looks).history["val.loss"].values == watched.history["val.loss"].values


@small
@given(plans, seeds, lengths)
def test_a_run_leaves_the_generators_of_the_process_alone(name: str, seed: int, n: int) -> None:
    net = Noisy()
    before = randomness()
    trained(net, classified(n), seed=seed, epochs=2, validation=VALIDATION, **PLANS[name])
    assert randomness() == before


@small
@given(plans, seeds, st.integers(0, 8))
def test_a_proof_changes_nothing(name: str, seed: int, place: int) -> None:
    net = Noisy()
    modules = list(net.modules())
    modules[place % len(modules)].eval()
    before, state, chance = arrays(net), condition(net), randomness()
    etude.Plan(**options(seed=seed, **PLANS[name])).check(net, classified())
    assert same(arrays(net), before)
    assert condition(net) == state
    assert randomness() == chance


@pytest.mark.parametrize("name", ["plain", "several"])
def test_workers_change_no_bit_of_data_drawn_by_chance(name: str) -> None:
    plan = {"epochs": 2, **PLANS[name]}
    alone = trained(Noisy(), Pairs(10), seed=3, **plan)
    helped = trained(Noisy(), Pairs(10), seed=3, workers=2, validation=Evaluate(Pairs(6)), **plan)
    assert same(arrays(alone.net), arrays(helped.final_net))
    assert alone.history["loss"].values == helped.history["loss"].values


@small
@given(st.integers(1, 17), st.integers(1, 20), st.integers(1, 3), st.integers(1, 12))
def test_the_clock_counts_what_was_done(n: int, size: int, epochs: int, most: int) -> None:
    told = list(run(mlp(), classified(n), batch_size=size, epochs=epochs, steps=most))
    stepped = [event for event in told if isinstance(event, Stepped)]
    per = -(-n // size)
    done = min(most, per * epochs)
    assert [event.progress.step for event in stepped] == list(range(1, done + 1))
    assert [event.progress.epoch for event in stepped] == pytest.approx([(i + 1) / per for i in range(done)])
    assert [event.progress.step for event in told if isinstance(event, Settled)] == list(range(1, done + 1))
    assert sum(event.samples for event in stepped) == stepped[-1].progress.samples
    assert stepped[-1].progress.samples == done // per * n + done % per * size
    assert sum(isinstance(event, EpochEnded) for event in told) == done // per
    assert stepped[-1].progress.fraction == pytest.approx(1)


@small
@given(st.integers(1, 17), st.integers(1, 20), seeds)
def test_means_are_exact_whatever_the_batches(n: int, size: int, seed: int) -> None:
    x, y = classified(n)
    net = mlp()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(net(x), y).item()
    result = trained(net, (x, y), batch_size=size, seed=seed, validation=(x, y), optimizer="sgd", learning_rate=1e-12)
    assert result.history["epoch.loss"].values == [pytest.approx(expected, rel=1e-5)]
    assert result.history["val.loss"].values == [pytest.approx(expected, rel=1e-5)]


@small
@given(st.integers(2, 12), st.data())
def test_means_over_tokens_are_exact_whatever_is_ignored(n: int, data: Any) -> None:
    kept = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    assume(kept[0] > 0)
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(0, 5, (n, 3), generator=generator)
    y = torch.randint(0, 3, (n, 3), generator=generator)
    for row, length in enumerate(kept):
        y[row, length:] = -100

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.embed(x).transpose(1, 2)
            return output

    net = Tokens()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(net(x), y).item()
    still = {"optimizer": "sgd", "learning_rate": 1e-12, "non_finite": "skip"}
    result = trained(net, (x, y), batch_size=2, validation=(x, y), **still)
    assert result.history["epoch.loss"].values == [pytest.approx(expected, rel=1e-5)]
    assert result.history["val.loss"].values == [pytest.approx(expected, rel=1e-5)]


@small
@given(plans, st.sampled_from(["body", "head", "body.0.weight", "body.1"]))
def test_what_is_frozen_stays_to_the_bit(name: str, place: str) -> None:
    if "updates" in PLANS[name]:
        return
    net = Noisy()
    before = arrays(net)
    given_ = {**PLANS[name]}
    given_.pop("update_schedule", None)
    given_["learning_rate_multipliers"] = {place: FROZEN}
    trained(net, epochs=2, **given_)
    after = arrays(net)
    held = {array for array in before if array == place or array.startswith(f"{place}.")}
    assert held == {array for array in before if torch.equal(before[array], after[array])}
