"""An update at work in a run: gradients of what moves, refusals that leave no trace, reports."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
from etude.errors import NonFiniteError, SettingError, StaleGradientError
from etude.run.events import EpochEnded, Skipped, Stepped
from etude.values.part import part
from etude.values.schedule import pieces, schedule
from etude.values.spans import steps
from nets import Graph, alike, arrays, changed, data, graph

EIGHT = tuple(torch.cat(side) for side in zip(*data(8), strict=True))


def plan(**changes: Any) -> etude.Plan:
    return etude.Plan(**{"loss": "mse", "steps": 4, "batch_size": 8, "shuffle": False, **changes})


def run(net: nn.Module, values: Any = EIGHT, **changes: Any) -> list[Any]:
    """The events of a run."""
    return list(etude.Run(plan(**changes), net, values))


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_arrays_that_do_not_move_get_no_gradient_and_flags_come_back() -> None:
    net = graph()
    net.out.bias.requires_grad = False
    for event in etude.Run(plan(update_schedule=["a", part("b") | "out"]), net, EIGHT):
        if isinstance(event, Stepped):
            odd = event.progress.step % 2 == 1
            found = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
            assert found == ({"a.weight", "a.bias"} if odd else {"b.weight", "b.bias", "out.weight"})
            assert [p.requires_grad for p in net.parameters()] == [True] * 5 + [False]


def test_gradients_from_before_the_run_are_not_applied() -> None:
    net, clean = graph(), graph()
    (1000 * net(EIGHT[0])).sum().backward()
    run(net, optimizer="sgd", learning_rate=0.1)
    run(clean, optimizer="sgd", learning_rate=0.1)
    assert all(alike(a, b) for a, b in zip(net.parameters(), clean.parameters(), strict=True))


def test_a_step_in_which_nothing_moves_has_a_loss_and_takes_its_batch() -> None:
    """TUS-A4, TUS-11."""
    net = graph()
    with pytest.warns(UserWarning, match="moves nothing"):
        events = run(net, update_schedule=["a", "b"], learning_rate_multipliers={"a": 0}, optimizer="sgd")
    stepped = [event for event in events if isinstance(event, Stepped)]
    assert [event.progress.samples for event in stepped] == [8, 16, 24, 32]
    assert all(torch.isfinite(event.losses["loss"]) for event in stepped)


@pytest.mark.parametrize("first", [["1", "0"], ["0", "1"]])
def test_statistics_of_a_frozen_layer_stand_still_also_where_nothing_moves(first: list[str]) -> None:
    net = normed()
    before = arrays(net)
    with pytest.warns(UserWarning, match="moves nothing"):
        run(net, learning_rate_multipliers={"1": 0}, update_schedule=first)
    assert changed(before, net) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused_and_leaves_no_trace(bad: float) -> None:
    net = normed()
    x, y = EIGHT[0].clone(), EIGHT[1].clone()
    x[17] = bad
    before: dict[str, Tensor] = {}

    def watch() -> None:
        for event in etude.Run(plan(batch_size=None, round_length=8, shuffle=None), net, generator(x, y)):
            if isinstance(event, Stepped):
                before.update(arrays(net))

    message = r"Step 3 is refused: the loss 'loss' is not finite. The batch has NaN or infinity in batch\[0\]"
    with pytest.raises(NonFiniteError, match=message) as e:
        watch()
    assert e.value.names == ("batch[0]",)
    assert e.value.step == 3
    assert changed(before, net) == set()


def generator(x: Tensor, y: Tensor) -> Any:
    """Batches of 8 from a function, which nobody can look at beforehand."""

    def give(epoch: int) -> Any:
        for n in range(0, len(x), 8):
            yield x[n : n + 8], y[n : n + 8]

    return give


def test_a_refused_step_may_be_skipped() -> None:
    net = normed()
    x, y = EIGHT[0].clone(), EIGHT[1]
    x[17] = float("nan")
    options: dict[str, Any] = {"batch_size": None, "round_length": 8, "shuffle": None, "non_finite": "skip"}
    kept: list[dict[str, Tensor]] = [arrays(net)]
    events = []
    for event in etude.Run(plan(update_schedule=["0", "2"], **options), net, generator(x, y)):
        events.append(event)
        if isinstance(event, Stepped | Skipped):
            kept.append(arrays(net))
    assert [type(event).__name__ for event in events if isinstance(event, Stepped | Skipped)] == [
        "Stepped",
        "Stepped",
        "Skipped",
        "Stepped",
    ]
    moved = [{n for n in one if not alike(one[n], two[n])} for one, two in pairwise(kept)]
    affine = [{name for name in names if name[0] in "02"} for names in moved]
    assert affine == [{"0.weight", "0.bias"}, {"2.weight", "2.bias"}, set(), {"2.weight", "2.bias"}]
    assert moved[2] == set()


def test_what_overflows_on_the_way_is_named_with_a_remedy() -> None:
    net = graph()
    huge = lambda output, target: ((output - target) * 1e30).square().mean()  # noqa: E731
    message = r"the loss 'loss' is not finite. The batch and the arrays of the net are finite.*clip_norm=1.0"
    with pytest.raises(NonFiniteError, match=message):
        run(net, loss=huge)
    with torch.no_grad():
        net.a.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"The net has NaN or infinity in 'a\.bias'"):
        run(net)


def test_a_term_that_is_not_finite_is_named() -> None:
    terms = {"fine": "mse", "odd": lambda output: (output * 0).sum() / 0}
    with pytest.raises(NonFiniteError, match="the loss 'odd' is not finite"):
        run(graph(), loss=terms)


def test_unseen_is_unseen() -> None:
    net = graph()
    x = EIGHT[0].clone()
    x[3] = float("nan")
    run(net, (x, EIGHT[1]), non_finite="apply", optimizer="sgd")
    assert net.a.weight.isnan().all()


def test_an_array_that_the_loss_does_not_reach_is_stale() -> None:
    class Beside(Graph):
        def forward(self, x: Tensor) -> Tensor:
            joined: Tensor = self.out(torch.cat([self.a(x), self.a(x)], dim=1))
            return joined

    with pytest.raises(StaleGradientError, match=r"'b.weight', 'b.bias'"):
        run(Beside())
    net = Beside()
    before = arrays(net)
    run(net, ignore_stale_grad=True, weight_decay=0.1)
    assert changed(before, net) == {"a.weight", "a.bias", "out.weight", "out.bias"}


def test_several_updates_share_the_batch_of_a_step() -> None:
    seen: list[tuple[str, float]] = []

    def watching(name: str) -> Any:
        def loss(net: nn.Module, batch: Any) -> Tensor:
            if net.training:
                seen.append((name, float(batch[0].sum())))
            return (net(batch[0]) - batch[1]).square().mean()

        return loss

    net = graph()
    updates = [
        etude.Update("one", watching("one"), part="a"),
        etude.Update("two", watching("two"), part="b", optimizer="sgd"),
    ]
    list(etude.Run(etude.Plan(updates=updates, steps=3, batch_size=8, shuffle=False), net, EIGHT))
    sums = [round(float(EIGHT[0][n : n + 8].sum()), 4) for n in (0, 8, 16)]
    assert [(name, round(total, 4)) for name, total in seen] == [(n, total) for total in sums for n in ("one", "two")]


def test_a_turn_says_how_often_an_update_acts() -> None:
    counts = {"one": 0, "two": 0}

    def counting(name: str) -> Any:
        def loss(net: nn.Module, batch: Any) -> Tensor:
            counts[name] += net.training
            return (net(batch[0]) - batch[1]).square().mean()

        return loss

    updates = [
        etude.Update("one", counting("one"), part="a", turn=2),
        etude.Update("two", counting("two"), part="b", turn=schedule(lambda progress: progress.step % 2 == 0)),
    ]
    net = graph()
    before = arrays(net)
    events = list(etude.Run(etude.Plan(updates=updates, steps=4, batch_size=8), net, EIGHT))
    assert counts == {"one": 8, "two": 2}
    assert changed(before, net) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert [event.updates for event in events if isinstance(event, Stepped)][:2] == [
        ("one", "one", "two"),
        ("one", "one"),
    ]


def test_a_computed_turn_that_is_no_number_of_times() -> None:
    updates = [etude.Update("one", "mse", turn=lambda progress: "often")]
    with pytest.raises(SettingError, match=r"Update\('one'\): its turn is 'often'. True, False or a whole number"):
        list(etude.Run(etude.Plan(updates=updates, steps=4, batch_size=8), graph(), EIGHT))


def test_what_a_turn_hears_decides_its_next() -> None:
    low = etude.when("one.loss", above=1e9)
    updates = [etude.Update("one", "mse", part="a"), etude.Update("two", "mse", part="b", turn=low)]
    events = list(etude.Run(etude.Plan(updates=updates, steps=3, batch_size=8), graph(), EIGHT))
    assert [event.updates for event in events if isinstance(event, Stepped)] == [("one", "two"), ("one",), ("one",)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_is_refused_also_where_the_rate_is_zero(accumulate: int) -> None:
    """A warm-up from 0 moves nothing in its first step: that step is as broken as any."""
    x, y = EIGHT[0][:32], EIGHT[1][:32]

    def broken(net: nn.Module, batch: Any) -> Tensor:
        return net(batch[0]).square().mean() * (float("nan") if torch.equal(batch[0], x[8:16]) else 1)

    options: dict[str, Any] = {"loss": broken, "optimizer": "sgd", "accumulate": accumulate, "steps": 4 // accumulate}
    options["learning_rate"] = pieces(0.0, (steps(options["steps"] - 1), 1e-3))
    with pytest.raises(NonFiniteError, match=f"Step {2 // accumulate} is refused: the loss 'loss' is not finite"):
        run(normed(), (x, y), **options)
    net = normed()
    events = run(net, (x, y), non_finite="skip", **options)
    assert [type(event) for event in events].count(Skipped) == 1
    assert [isfinite(event.means["loss"]) for event in events if isinstance(event, EpochEnded)] == [True]
    assert int(net.state_dict()["1.num_batches_tracked"]) == 4 - accumulate
    assert torch.isfinite(net.state_dict()["1.running_mean"]).all()
