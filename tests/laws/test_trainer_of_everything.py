"""Laws of a hand-written loop with everything that a trainer can schedule: saved anywhere and gone on is the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from all_at_once import Own, sharper, whole
from effort import examples
from etude import (
    Checkpoints,
    Trainer,
    cosine,
    cycle,
    ema,
    everything,
    following,
    linear,
    newbob,
    part,
    pieces,
    skip,
    steps,
    swa,
    times,
    warmup,
)
from etude.errors import NonFiniteError, SettingError, StateError
from jobs import table
from nets import alike
from stories import _exact

pytestmark = pytest.mark.filterwarnings("ignore")
LENGTH = 12
"""Steps of the loop."""
X, Y = table(48)
OPTIONS: dict[str, dict[str, Any]] = {
    "rate": {"learning_rate": warmup(steps(2)) * newbob("val.loss", start=0.05, min_improvement=0.3)},
    "follows": {"learning_rate_multipliers": {"aux": following(sharper, "val.loss", start=1.0)}},
    "clipping": {
        "clip_value": pieces(0.1, (steps(5), None)),
        "clip_norm": {"encoder": linear(0.1, 1), everything: 0.3},
    },
    "noise": {"noise": linear(0.1, 0), "weight_noise": linear(0.1, 0.01), "weight_dropout": cycle(0.3, 0.0)},
    "bounds": {"max_norm": 0.7, "clip_weights": 0.5, "drop_norm": pieces(5.0, (steps(4), None))},
    "carried": {
        "update_schedule": [part("encoder") | "block", part("head") | "twin" | "aux"],
        "carry": {"encoder": "sum", everything: pieces("mean", (steps(5), "sum"))},
    },
    "tied": {"tie": {part("head.bias") | "twin.bias": pieces(True, (steps(7), False))}},
    "skipped": {"non_finite": skip(most=2)},
    "accumulated": {"accumulate": cycle(2, 1, 3)},
    "averages": {"averages": (ema(linear(0.5, 0.9), warm_up=True), swa("head", every=steps(2)))},
    "scaled": {"loss_scale": "dynamic"},
    "dropped": {"drop_non_finite": {"aux": True}, "non_finite": skip(most=2)},
}
CHOSEN = st.sets(st.sampled_from(sorted(OPTIONS)), min_size=1)
law = settings(max_examples=examples(10), deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Loop:
    """A loop: the net, its trainer, and how many micro-batches it has taken."""

    def __init__(self, chosen: set[str], seed: int = 1) -> None:
        self.net, self.own, self.done = whole(seed), Own(), 0
        knobs: dict[str, Any] = {
            "p": {nn.Dropout: linear(0, 0.5), everything: cosine(0.5)},
            "temperature": cycle(1.0, 2.0),
            "slope": newbob("val.loss", decay=0.8, min_improvement=0.3),
            "eps": {nn.BatchNorm1d: times(linear(1, 3))},
            "strength": [(self.own, following(sharper, "val.loss", start=1.0))],
        }
        options: dict[str, Any] = {}
        for name in sorted(chosen):
            options |= OPTIONS[name]
        if "carried" in chosen:
            options.pop("learning_rate_multipliers", None)
        self.trainer = Trainer(self.net, **{"learning_rate": 0.02, **options}, knobs=knobs, total=steps(LENGTH), seed=6)

    def take(self) -> None:
        """One micro-batch; every seventh has a gradient that is not finite."""
        net, trainer, n = self.net, self.trainer, self.done
        rows = slice(4 * (n % 12), 4 * (n % 12) + 4)
        torch.manual_seed(n)
        with trainer.perturbed():
            loss = nn.functional.cross_entropy(net(X[rows]), Y[rows], reduction="sum") * self.own.strength
            trainer.scale(loss).backward()
        if n % 7 == 6:
            bias = net.get_parameter("aux.bias")
            assert bias.grad is not None
            bias.grad.fill_(float("nan"))
        trainer.step(4)
        self.done += 1
        if n % 3 == 2:
            trainer.see({"val.loss": 1.0 + 0.2 * ((n // 3) % 3)})

    @property
    def ended(self) -> bool:
        return self.trainer.progress.step >= LENGTH

    def picture(self) -> dict[str, Any]:
        """Everything that it has."""
        found = {name: _exact(array) for name, array in (*self.net.named_parameters(), *self.net.named_buffers())}
        knobs = self.trainer._knobs
        assert knobs is not None
        turned = {line.label: [dial.read() for dial in line.dials] for line in knobs._lines}
        return {**found, "knobs": turned, "state": _exact(self.trainer.state_dict()), "own": vars(self.own)}


def _skipping(chosen: set[str]) -> set[str]:
    """The loop has gradients that are not finite, and something has to be done about them."""
    return chosen if chosen & {"skipped", "dropped", "scaled"} else chosen | {"skipped"}


def gone_on(chosen: set[str], half: Loop) -> Loop:
    """Another loop, made afresh, that goes on from where this one is."""
    other = Loop(chosen, seed=9)
    other.net.load_state_dict(copy.deepcopy(half.net.state_dict()))
    other.trainer.load_state_dict(copy.deepcopy(half.trainer.state_dict()))
    other.done = half.done
    return other


def assert_same(one: Loop, other: Loop) -> None:
    mine, theirs = one.picture(), other.picture()
    assert [name for name in mine if mine[name] != theirs[name]] == []


@law
@given(CHOSEN.map(_skipping), st.integers(1, 14))
def test_cut_after_any_micro_batch_it_is_the_same(chosen: set[str], cut: int) -> None:
    one, half = Loop(chosen), Loop(chosen)
    while not one.ended:
        one.take()
    while half.done < cut and not half.ended:
        half.take()
    other = gone_on(chosen, half)
    assert_same(half, other)
    while not other.ended:
        other.take()
    assert_same(one, other)


def test_everything_through_a_file(tmp_path: Path) -> None:
    chosen = set(OPTIONS) - {"skipped", "follows"}
    one, half, other = Loop(chosen), Loop(chosen), Loop(chosen, seed=9)
    while not one.ended:
        one.take()
    for _ in range(9):
        half.take()
    with Checkpoints(tmp_path) as kept:
        kept.save(step=9, net=half.net, trainer=half.trainer)
        kept.load(net=other.net, trainer=other.trainer)
    other.done = half.done
    assert_same(half, other)
    while not other.ended:
        other.take()
    assert_same(one, other)


def test_how_many_were_skipped_in_a_row_is_remembered() -> None:
    half = Loop({"skipped"})
    for _ in range(2):
        _broken(half)
    other = gone_on({"skipped"}, half)
    for loop in (half, other):
        before = {name: array.detach().clone() for name, array in loop.net.named_parameters()}
        with pytest.raises(NonFiniteError, match=r"aux\.bias"):
            _broken(loop)
        assert all(alike(before[name], array) for name, array in loop.net.named_parameters())


def _broken(loop: Loop) -> None:
    loop.done = 6
    loop.take()


def test_a_state_of_other_knobs_is_refused_and_changes_nothing() -> None:
    half, other = Loop({"skipped"}), Loop({"skipped"}, seed=9)
    half.take()
    state: dict[str, Any] = copy.deepcopy(half.trainer.state_dict())
    state["knobs"]["written"]["slope"] = "steep"
    before = other.picture()
    with pytest.raises(StateError, match="slope"):
        other.trainer.load_state_dict(state)
    assert other.picture() == before


def test_ties_are_looked_at_again_once_a_state_is_loaded() -> None:
    half = Loop({"tied", "skipped"})
    half.take()
    state = copy.deepcopy(half.trainer.state_dict())
    with torch.no_grad():
        half.net.get_parameter("twin.bias").add_(1)
    half.trainer.load_state_dict(state)
    with pytest.raises(SettingError, match="they differ in their numbers"):
        half.take()
