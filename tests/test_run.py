"""A run: events in order, turns of several updates, and nothing left behind however it ends."""

from __future__ import annotations

import gc
import math
import random
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude import (
    Evaluate,
    NonFiniteError,
    Plan,
    Progress,
    SettingError,
    StateError,
    Update,
    cosine,
    cycle,
    every,
    everything,
    linear,
    part,
    steps,
    when,
)
from etude.errors import EtudeError
from etude.run.events import Began, Ended, EpochEnded, Evaluated, Event, Settled, Skipped, Stepped
from small import (
    Noisy,
    arrays,
    batches,
    classified,
    close,
    condition,
    kinds,
    mlp,
    options,
    randomness,
    run,
    same,
    trained,
)

X, Y = classified(10)
VALIDATION = classified(6, seed=5)
STEP = ["Stepped", "Settled"]


# -------------------------------------------------------------------------------------------------------------- events


def test_the_order_of_events() -> None:
    made = Evaluate(VALIDATION, every=every(steps(2)))
    assert kinds(list(run(validation=made, epochs=2, batch_size=5))) == [
        "Began",
        *["Stepped", "Settled"],
        *["Stepped", "EpochEnded", "Evaluated", "Settled"],
        *["Stepped", "Settled"],
        *["Stepped", "EpochEnded", "Evaluated", "Settled"],
        "Ended",
    ]


def test_the_first_event_has_the_facts() -> None:
    made = run(epochs=2, seed=4, update_schedule=["0"], loss={"a": "cross_entropy", "b": lambda o: (o**2).mean()})
    began = next(iter(made))
    assert isinstance(began, Began)
    assert began.summary == {
        "parameters": 67,
        "trainable": 40,
        "steps": 6,
        "epochs": 2,
        "batch_size": 4,
        "batches_per_epoch": 3,
        "samples": 10,
        "device": "cpu",
        "precision": "fp32",
        "seed": 4,
        "optimizer": "adamw",
        "updates": ("loss",),
        "terms": ("a", "b"),
        "best_by": None,
        "resumed": None,
    }


def test_the_clock_after_each_step() -> None:
    clocks = [event.progress for event in run(epochs=2) if isinstance(event, Stepped)]
    assert [clock.step for clock in clocks] == [1, 2, 3, 4, 5, 6]
    assert [clock.samples for clock in clocks] == [4, 8, 10, 14, 18, 20]
    assert [clock.epoch for clock in clocks] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert clocks[2].epoch == 1
    assert clocks[0].extent == etude.Extent(steps=6, epochs=2, samples=20)


def test_tokens_are_counted() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.embed(x).transpose(1, 2)
            return output

    tokens = torch.arange(60).reshape(10, 6) % 5
    told = [e.progress.tokens for e in run(Embedded(), (tokens, tokens % 3)) if isinstance(e, Stepped)]
    assert told == [24, 48, 60]


def test_steps_tell_losses_rates_and_who_moved() -> None:
    told = [event for event in run(learning_rate=linear(0.3, 0)) if isinstance(event, Stepped)]
    assert [event.rate for event in told] == pytest.approx([0.3, 0.2, 0.1])
    assert [event.updates for event in told] == [("loss",)] * 3
    assert all(list(event.losses) == ["loss"] and not event.losses["loss"].requires_grad for event in told)
    assert all(b.seconds > a.seconds for a, b in pairwise(told))


def test_epochs_end_with_exact_means() -> None:
    told = list(run(epochs=2))
    losses = [float(event.losses["loss"]) for event in told if isinstance(event, Stepped)]
    ended = [event for event in told if isinstance(event, EpochEnded)]
    assert [event.epoch for event in ended] == [1, 2]
    for event, part_ in zip(ended, (losses[:3], losses[3:]), strict=True):
        mean = sum(a * n for a, n in zip(part_, (4, 4, 2), strict=True)) / 10
        assert event.means == {"loss": pytest.approx(mean, rel=1e-6)}


def test_the_last_event_says_why() -> None:
    last = list(run())[-1]
    assert isinstance(last, Ended)
    assert (last.reason, last.message) == ("finished", "all planned steps were made")


def test_nothing_happens_before_the_first_event_is_asked_for() -> None:
    net = Noisy()
    before, state = arrays(net), condition(net)
    made = run(net)
    assert same(arrays(net), before)
    assert condition(net) == state
    assert made.progress == Progress(extent=made.checked.extent)
    first = next(iter(made))
    assert isinstance(first, Began)
    assert same(arrays(net), before)


def test_listeners_hear_of_things_before_the_one_who_iterates() -> None:
    heard: list[str] = []
    made = (
        run().to(lambda event: heard.append(f"first {type(event).__name__}"), None).to(lambda e: heard.append("second"))
    )
    for event in made:
        assert heard[-2:] == [f"first {type(event).__name__}", "second"]
    assert len(heard) == 2 * 9


def test_the_result_follows_the_events() -> None:
    made = run()
    told = list(made)
    result = made.result()
    assert isinstance(told[-1], Ended)
    assert made.result() is result
    assert result.steps == 3


def test_iterating_and_asking_for_the_result_come_to_the_same() -> None:
    one, other = run(Noisy(), epochs=2), run(Noisy(), epochs=2)
    for _ in one:
        torch.rand(3)
        np.random.rand()
    assert same(arrays(one.result().net), arrays(other.result().net))


# ------------------------------------------------------------------------------------------------- leaving it, errors


class Closing:
    """A listener that wants to be closed, and may fail at an event."""

    def __init__(self, fails: type[Event] | None = None) -> None:
        self.fails, self.heard, self.closed = fails, 0, 0

    def __call__(self, event: Event) -> None:
        self.heard += 1
        if self.fails is not None and isinstance(event, self.fails):
            raise KeyError("mine")

    def close(self) -> None:
        self.closed += 1


def test_leaving_the_loop_ends_the_run_and_puts_everything_back() -> None:
    listener = Closing()
    net = Noisy()
    made = run(net, epochs=5, validation=VALIDATION).to(listener)
    before = randomness()
    for event in made:
        if isinstance(event, Stepped) and event.progress.step == 4:
            break
    assert randomness() == before
    assert listener.closed == 1
    assert made.progress.step == 4
    assert all(array.requires_grad for array in net.parameters())
    with pytest.raises(StateError, match="left before its end"):
        made.result()
    assert list(made) == []


def test_the_generators_of_the_process_are_untouched_by_a_run() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    np.random.randn()
    gan = etude.GAN(nn.Linear(2, 4), nn.Linear(4, 1), latent=2)
    before = randomness()
    trained(Noisy(), epochs=2, validation=Evaluate(0.3, "accuracy"), noise=0.1)
    assert randomness() == before
    trained(gan, X, loss=None)
    assert randomness() == before


@pytest.mark.parametrize("kind", [Began, Stepped, EpochEnded, Evaluated, Settled, Ended])
def test_an_error_in_a_listener_ends_the_run(kind: type[Event]) -> None:
    before = randomness()
    first, failing, last = Closing(), Closing(kind), Closing()
    net = Noisy()
    made = run(net, validation=VALIDATION).to(first, failing, last)
    with pytest.raises(KeyError, match="mine"):
        made.result()
    assert (first.closed, failing.closed, last.closed) == (1, 1, 1)
    assert first.heard == last.heard + 1
    assert randomness() == before
    assert all(array.requires_grad for array in net.parameters())
    with pytest.raises(StateError):
        made.result()


def test_a_listener_that_cannot_close_does_not_keep_others_from_it() -> None:
    class Stuck(Closing):
        def close(self) -> None:
            super().close()
            raise OSError("stuck")

    listeners = [Closing(), Stuck(), Closing()]
    with pytest.raises(OSError, match="stuck"):
        run().to(*listeners).result()
    assert [listener.closed for listener in listeners] == [1, 1, 1]


class Failing(nn.Module):
    """A net that fails in a forward of training of its choice."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 3), nn.Linear(4, 3), nn.BatchNorm1d(3)
        self.at, self.calls = at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == self.at:
            raise KeyError("mine")
        output: Tensor = self.norm(self.a(x) + self.b(x) + torch.rand(len(x), 3))
        return output


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_error_in_the_net_comes_out_as_it_is_and_leaves_nothing_behind(at: int) -> None:
    net, listener, before = Failing(at), Closing(), randomness()
    net.b.bias.requires_grad_(False)
    with pytest.raises(KeyError, match="mine"):
        trained(net, listeners=[listener], update_schedule=["a", "b", "norm"])
    assert [array.requires_grad for array in net.parameters()] == [True, True, True, False, True, True]
    assert randomness() == before
    assert listener.closed == 1
    assert all(not module._forward_pre_hooks for module in net.modules())


def test_an_error_in_the_data_comes_out_and_leaves_nothing_behind() -> None:
    class Broken(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> Any:
            if index == 7:
                raise OSError("unreadable")
            return X[index], Y[index]

    listener, before = Closing(), randomness()
    with pytest.raises(etude.DataError, match="Item 7 of the data set Broken cannot be read: OSError: unreadable"):
        trained(data=Broken(), shuffle=False, listeners=[listener])
    assert listener.closed == 1
    assert randomness() == before


def test_a_run_that_is_over_can_be_forgotten() -> None:
    net = mlp()
    made = run(net)
    made.result()
    gone = weakref.ref(made.checked.works[0].stepper)
    del made
    gc.collect()
    assert gone() is None
    assert all(not module._forward_pre_hooks for module in net.modules())


# --------------------------------------------------------------------------------------------------------- repetition


class Mixed(nn.Module):
    """A net that draws from every generator there is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x) * (1 + np.random.rand() * random.random()) + torch.randn(len(x), 3) * 0.1
        return output


def mixup(net: nn.Module, batch: Any) -> Tensor:
    """A loss over mixed samples, by numpy's generator as people write it."""
    x, y = batch
    share, other = np.random.beta(0.4, 0.4), np.random.permutation(len(x))
    output = net(share * x + (1 - share) * x[other])
    return share * functional.cross_entropy(output, y) + (1 - share) * functional.cross_entropy(output, y[other])


@pytest.mark.parametrize("made", [Noisy, Mixed])
def test_the_same_seed_gives_the_same_bits_whatever_the_process_drew(made: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = trained(made(), epochs=3, seed=6, noise=0.01)
        torch.rand(7)
        np.random.rand(7)
        random.random()
        other = trained(made(), epochs=3, seed=6, noise=0.01)
    assert same(arrays(one.net), arrays(other.net))
    assert one.history.to_dict() == other.history.to_dict()
    third = trained(made(), epochs=3, seed=7, noise=0.01)
    assert not same(arrays(one.net), arrays(third.net))


def test_losses_that_draw_repeat_too() -> None:
    state = randomness()
    one, other = trained(loss=mixup, epochs=2), trained(loss=mixup, epochs=2)
    assert same(arrays(one.net), arrays(other.net))
    assert randomness() == state


def test_steps_draw_different_numbers() -> None:
    drawn: list[float] = []

    def loss(net: nn.Module, batch: Any) -> Tensor:
        drawn.append(float(torch.rand(())))
        return functional.cross_entropy(net(batch[0]), batch[1])

    trained(loss=loss, epochs=2)
    assert len(set(drawn[1:])) == 6


def test_gradients_that_were_there_before_the_run_are_not_used() -> None:
    net = mlp()
    torch.autograd.backward(functional.cross_entropy(net(X), Y))
    assert same(arrays(trained(net).net), arrays(trained(mlp()).net))


# ------------------------------------------------------------------------------------------------------------- turns


def acting(updates: list[Update], **changed: Any) -> list[tuple[str, ...]]:
    """Who acted at each step."""
    return [e.updates for e in run(loss=None, updates=updates, **changed) if isinstance(e, Stepped)]


def pair(turn: Any, other: Any = None, **more: Any) -> list[Update]:
    return [
        Update("a", "cross_entropy", "0", turn=turn, **more),
        Update("b", "cross_entropy", "2", turn=other),
    ]


TURNS: list[tuple[Any, Any, list[tuple[str, ...]]]] = [
    (None, None, [("a", "b")] * 4),
    (True, False, [("a",)] * 4),
    (2, None, [("a", "a", "b")] * 4),
    (cycle(True, False), None, [("a", "b"), ("b",)] * 2),
    (cycle(True, False), cycle(False, True), [("a",), ("b",)] * 2),
    (cycle(0, 3), 1, [("b",), ("a", "a", "a", "b")] * 2),
    (lambda p: p.step >= 2, True, [("b",), ("b",), ("a", "b"), ("a", "b")]),
]


@pytest.mark.parametrize(("turn", "other", "expected"), TURNS, ids=[str(i) for i in range(len(TURNS))])
def test_a_turn_says_how_often_an_update_acts(turn: Any, other: Any, expected: list[tuple[str, ...]]) -> None:
    assert acting(pair(turn, other), steps=4) == expected


def test_a_turn_that_listens_follows_the_losses() -> None:
    """The critic goes on alone while its loss is above the bound, but three times at most."""
    updates = [
        Update("critic", "cross_entropy", "0", learning_rate=1e-9),
        Update("other", "cross_entropy", "2", learning_rate=1e-9, turn=when("critic.loss", below=0.0)),
    ]
    assert acting(updates, steps=4) == [("critic", "other"), ("critic",), ("critic",), ("critic",)]
    updates[1] = Update("other", "cross_entropy", "2", turn=when("critic.loss", above=0.0, at_most=2))
    assert acting(updates, steps=6) == [("critic", "other"), ("critic", "other"), ("critic",)] * 2


def by_hand(turns: list[list[tuple[str, int]]], order: list[slice]) -> nn.Sequential:
    """Plain SGD: at each step the updates named, each on the batch whose number in the step is given."""
    net, place = mlp(), 0
    for step in turns:
        for name, offset in step:
            piece = order[(place + offset) % len(order)]
            layer = net[0] if name == "a" else net[2]
            loss = functional.cross_entropy(net(X[piece]), Y[piece]) * (1 if name == "a" else 2)
            own = list(layer.parameters())
            grads = torch.autograd.grad(loss, own)
            with torch.no_grad():
                for array, grad in zip(own, grads, strict=True):
                    array.sub_(grad, alpha=0.1)
        place += max((offset for _, offset in step), default=0) + 1
    return net


ALONE: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1}
BATCHES: list[tuple[Any, Any, dict[str, Any], dict[str, Any], list[list[tuple[str, int]]]]] = [
    (None, None, {}, {}, [[("a", 0), ("b", 0)]] * 4),
    (2, None, {}, {}, [[("a", 0), ("a", 0), ("b", 0)]] * 4),
    (2, None, {"own_batch": True}, {}, [[("a", 0), ("a", 1), ("b", 0)]] * 4),
    (None, None, {}, {"own_batch": True}, [[("a", 0), ("b", 1)]] * 4),
    (2, 2, {"own_batch": True}, {"own_batch": True}, [[("a", 0), ("a", 1), ("b", 2), ("b", 3)]] * 4),
    (cycle(1, 0), None, {}, {"own_batch": True}, [[("a", 0), ("b", 1)], [("b", 0)]] * 2),
]


@pytest.mark.parametrize(("turn", "other", "a", "b", "expected"), BATCHES, ids=[str(i) for i in range(len(BATCHES))])
def test_updates_share_the_batch_or_take_their_own(
    turn: Any, other: Any, a: dict[str, Any], b: dict[str, Any], expected: list[list[tuple[str, int]]]
) -> None:
    updates = [
        Update("a", "cross_entropy", "0", turn=turn, **a, **ALONE),
        Update("b", {"only": ("cross_entropy", 2.0)}, "2", turn=other, **b, **ALONE),
    ]
    result = trained(loss=None, updates=updates, shuffle=False, steps=4)
    assert close(arrays(result.net), arrays(by_hand(expected, [*batches(10, 4)])))


def test_epochs_end_where_the_data_say_also_with_batches_of_one_s_own() -> None:
    updates = [Update("a", "cross_entropy", "0"), Update("b", "cross_entropy", "2", own_batch=True)]
    made = run(loss=None, updates=updates, epochs=4)
    told = list(made)
    assert made.progress.step == 6
    assert made.progress.samples == 40
    assert [event.epoch for event in told if isinstance(event, EpochEnded)] == [1, 2, 3, 4]
    assert [event.samples for event in told if isinstance(event, Stepped)] == [8, 6, 6, 8, 6, 6]


def test_a_step_in_which_nobody_acts_moves_nothing_and_is_told() -> None:
    net = mlp()
    before = arrays(net)
    told = [e for e in run(net, loss=None, updates=pair(False, cycle(False, True)), steps=1) if isinstance(e, Stepped)]
    assert same(arrays(net), before)
    assert [event.updates for event in told] == [()]
    assert told[0].losses.keys() >= {"loss"}


def test_a_turn_that_is_none_is_an_error_before_anybody_acts() -> None:
    net = mlp()
    before = arrays(net)
    with pytest.raises(SettingError, match=r"its turn is 1\.5"):
        trained(net, loss=None, updates=pair(None, lambda p: 1.5))
    assert same(arrays(net), before)


def test_the_score_is_blank_where_an_update_has_no_turn() -> None:
    result = trained(loss=None, updates=pair(cycle(True, False), None), steps=4)
    assert [rate is None for rate in result.score["rates"][0]] == [False, True, False, True]
    assert [rate is None for rate in result.score["rates"][2]] == [False] * 4


# ----------------------------------------------------------------------------------------------------- not finite


def poisoned(at: int) -> Any:
    """A loss that is not finite in one step, known by its batch."""
    rows = list(batches(10, 4))
    bad = X[rows[at]][0]

    def loss(net: nn.Module, batch: Any) -> Tensor:
        value = functional.cross_entropy(net(batch[0]), batch[1])
        return value * float("nan") if net.training and torch.equal(batch[0][0], bad) else value

    return loss


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_loss_that_is_not_finite_is_refused_before_anything_moves(at: int) -> None:
    net = Noisy()
    expected = Noisy()
    if at:
        trained(expected, shuffle=False, steps=at)
    with pytest.raises(NonFiniteError, match=f"Step {at + 1} is refused: the loss 'loss' is not finite") as caught:
        trained(net, loss=poisoned(at), shuffle=False)
    assert caught.value.step == at + 1
    assert same(arrays(net), arrays(expected))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_stopping_keeps_what_was_good(at: int) -> None:
    result = trained(Noisy(), loss=poisoned(at), shuffle=False, non_finite="stop", epochs=2)
    expected = Noisy()
    if at:
        trained(expected, shuffle=False, steps=at)
    assert (result.stop_reason, result.steps) == ("non-finite", at)
    assert f"Step {at + 1}" in result.stop_message
    assert same(arrays(result.net), arrays(expected))


def test_skipping_leaves_the_step_out_and_goes_on() -> None:
    net = Noisy()
    told = []
    for event in run(net, loss=poisoned(1), shuffle=False, non_finite="skip"):
        if isinstance(event, Stepped) and event.progress.step == 1:
            before = arrays(net)
        if isinstance(event, Skipped):
            assert same(arrays(net), before)
            assert event.progress.step == 2
        told.append(event)
    assert kinds(told) == ["Began", *STEP, "Skipped", "Settled", "Stepped", "EpochEnded", "Settled", "Ended"]
    losses = [float(event.losses["loss"]) for event in told if isinstance(event, Stepped)]
    (ended,) = [event for event in told if isinstance(event, EpochEnded)]
    assert ended.means["loss"] == pytest.approx((losses[0] * 4 + losses[1] * 2) / 6)


def test_what_was_skipped_is_in_the_history_as_it_was() -> None:
    result = trained(Noisy(), loss=poisoned(1), shuffle=False, non_finite="skip")
    assert [math.isnan(value) for value in result.history["loss"].values] == [False, True, False]
    assert result.history["loss"].steps == [1, 2, 3]
    assert result.history["rate"].steps == [1, 3]
    assert math.isfinite(result.history["epoch.loss"].values[0])


def test_of_several_updates_the_one_that_was_refused_is_told_beside_the_sum() -> None:
    spoiled = poisoned(1)
    both = [
        etude.Update("one", lambda net, batch: functional.cross_entropy(net(batch[0]), batch[1]), "body"),
        etude.Update("two", lambda net, batch: spoiled(net, batch), "head"),
    ]
    result = trained(Noisy(), loss=None, updates=both, shuffle=False, non_finite="skip")
    assert [math.isnan(value) for value in result.history["two.loss"].values] == [False, True, False]
    assert all(map(math.isfinite, result.history["loss"].values))
    assert result.history["loss"].values[1] == result.history["one.loss"].values[1]


def test_a_skipped_step_says_what_was_found() -> None:
    (skipped,) = [one for one in run(loss=poisoned(1), shuffle=False, non_finite="skip") if isinstance(one, Skipped)]
    assert skipped.reason == "the loss 'loss' is not finite."
    told = [one.reason for one in run(Noisy(), loss=exploding, non_finite="skip") if isinstance(one, Skipped)]
    assert told[0].startswith("the gradients of 'body.0.weight', 'body.0.bias', ")


def test_applying_does_not_look() -> None:
    result = trained(loss=poisoned(1), shuffle=False, non_finite="apply")
    assert result.steps == 3
    assert torch.isnan(arrays(result.net)["2.bias"]).all()


class Exploding(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * float("inf")


def exploding(output: Tensor, target: Tensor) -> Tensor:
    made: Tensor = Exploding.apply(output)  # type: ignore[no-untyped-call]
    return functional.cross_entropy(made, target)


@pytest.mark.parametrize("policy", ["raise", "stop", "skip"])
def test_a_gradient_that_is_not_finite_is_refused_too(policy: str) -> None:
    net = Noisy()
    before = arrays(net)
    if policy == "raise":
        with pytest.raises(NonFiniteError, match=r"the gradients of 'body\.0\.weight'.* are not finite") as caught:
            trained(net, loss=exploding)
        assert "head.weight" in caught.value.names
    else:
        result = trained(net, loss=exploding, non_finite=policy)
        assert result.steps == (3 if policy == "skip" else 0)
        assert ("loss" in result.history) == (policy == "skip")
        assert "rate" not in result.history
    assert same(arrays(net), before)


def test_the_batch_or_the_array_that_is_not_finite_is_named() -> None:
    class Spoiled(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> Any:
            return X[index] * (float("nan") if index == 5 else 1), Y[index]

    with pytest.raises(
        NonFiniteError, match=r"Step 2 .*The batch has NaN or infinity in batch\[0\].* Samples: 5\.$"
    ) as e:
        trained(data=Spoiled(), shuffle=False)
    assert e.value.rows == (1,)
    net = mlp()
    with torch.no_grad():
        net.get_parameter("2.bias")[0] = float("inf")
    with pytest.raises(EtudeError, match=r"2\.bias"):
        trained(net)


def test_data_in_memory_are_looked_at_before_the_first_step() -> None:
    x = X.clone()
    x[6, 1] = float("inf")
    with pytest.raises(etude.DataError, match="Array '0' holds NaN or infinity in 1 of 10 samples: 6"):
        trained(data=(x, Y))
    assert trained(data=(x, Y), non_finite="skip").steps == 3


def test_a_later_update_that_refuses_says_who_acted_before_it() -> None:
    def bad(net: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(net(batch[0]), batch[1]) * (float("nan") if net.training else 1)

    net = mlp()
    before = arrays(net)
    with pytest.raises(NonFiniteError, match=r"'a'.* had acted"):
        trained(net, loss=None, updates=[Update("a", "cross_entropy", "0"), Update("b", bad, "2")])
    after = arrays(net)
    assert [name for name in before if torch.equal(before[name], after[name])] == ["2.weight", "2.bias"]


def test_with_several_updates_a_skipped_one_does_not_hide_what_the_others_did() -> None:
    def bad(net: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(net(batch[0]), batch[1]) * (float("nan") if net.training else 1)

    updates = [Update("a", "cross_entropy", "0"), Update("b", bad, "2")]
    told = [e for e in run(loss=None, updates=updates, non_finite="skip") if isinstance(e, Stepped | Skipped)]
    assert [type(event) for event in told] == [Stepped] * 3
    assert all(isinstance(event, Stepped) and event.updates == ("a",) for event in told)


# --------------------------------------------------------------------------------------- the whole against a hand loop


def test_a_run_is_the_loop_one_would_write() -> None:
    """AdamW with a schedule, decay, clipping and multipliers, against torch."""
    net = mlp()
    groups = [
        {"params": list(net[0].parameters()), "lr": 0.0},
        {"params": list(net[2].parameters()), "lr": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    rate = cosine(0.1, 0.01)
    extent = etude.Extent(steps=9, epochs=3, samples=30)
    step = 0
    for _ in range(3):
        for piece in batches(10, 4):
            now = float(rate.at(Progress(step, step / 3, 0, 0, extent)))
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = now * 0.5, now
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(net(X[piece]), Y[piece]))
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            step += 1
    result = trained(
        learning_rate=rate,
        learning_rate_multipliers={"0": 0.5, everything: 1},
        weight_decay=0.1,
        clip_norm=0.5,
        epochs=3,
        shuffle=False,
    )
    assert close(arrays(result.net), arrays(net), 1e-6)


def test_held_parts_keep_value_and_memory_in_a_run() -> None:
    """Alternating two parts is alternating two optimizers of torch, each on its own batches."""
    net = mlp()
    optimizers = [torch.optim.AdamW(layer.parameters(), lr=0.05) for layer in (net[0], net[2])]
    for step, piece in enumerate([*batches(10, 4)] * 2):
        net.zero_grad()
        torch.autograd.backward(functional.cross_entropy(net(X[piece]), Y[piece]))
        optimizers[step % 2].step()
    result = trained(learning_rate=0.05, update_schedule=["0", "2"], epochs=2, shuffle=False)
    assert close(arrays(result.net), arrays(net))


def test_a_plan_run_twice_goes_on_from_the_arrays_it_left() -> None:
    net = mlp()
    plan = Plan(**options(shuffle=False, optimizer="sgd", learning_rate=0.1))
    etude.Run(plan, net, (X, Y)).result()
    etude.Run(plan, net, (X, Y)).result()
    assert close(arrays(net), arrays(trained(shuffle=False, optimizer="sgd", learning_rate=0.1, epochs=2).net))


def test_parts_in_turn_over_an_epoch_that_is_no_multiple_of_the_cycle() -> None:
    net = mlp()
    before, found = arrays(net), []
    for event in run(net, update_schedule=["0", part("2") * 3], epochs=3):
        if isinstance(event, Stepped):
            now = arrays(net)
            found.append("0" if not torch.equal(now["0.weight"], before["0.weight"]) else "2")
            before = now
    assert found == ["0", "2", "2", "2", "0", "2", "2", "2", "0"]
