"""Laws of the step, over nets, parts, schedules and update rules: what is held stays, what moves moves right."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import etude
from effort import examples
from etude.run.events import Stepped
from etude.step.loss import terms
from etude.step.trainer import Trainer
from etude.values.marks import FROZEN
from etude.values.part import Part, part
from etude.values.schedule import pieces, schedule
from etude.values.spans import steps
from etude.values.tree import Tree
from nets import alike, arrays, data, give_gradients, graph, memory_of, nets, parts, same_memory, tied

quick = settings(max_examples=examples(40), deadline=None)
pytestmark = pytest.mark.filterwarnings("ignore:In the update schedule")

RULES: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "weight_decay": 0.1},
    "adam": {"weight_decay": 0.1, "amsgrad": True},
    "adamw": {"weight_decay": 0.1},
    "torch.sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "torch.adamw": {"weight_decay": 0.1},
    "rmsprop": {"momentum": 0.9, "weight_decay": 0.1},
    "adagrad": {"lr_decay": 0.1, "weight_decay": 0.1},
    "nadam": {"weight_decay": 0.1},
}
"""Update rules, ours and torch's, each with momentum and weight decay on."""

EXTRAS: dict[str, Any] = {"noise": 0.1, "clip_value": 2.0, "clip_norm": 5.0, "clip_weights": 3.0}
COUNT = 5


@st.composite
def moves(draw: st.DrawFn, net: nn.Module) -> tuple[Any, list[Part | None]]:
    """An update schedule, and what it lets move at each of the first steps (None: everything)."""
    if draw(st.integers(0, 3)) == 0:
        return None, [None] * COUNT
    items = [place for place in (draw(parts(net, 1)) for _ in range(draw(st.integers(1, 3)))) if place.of(net)]
    assume(items)
    times = [draw(st.integers(1, 2)) for _ in items]
    turns = [place for place, count in zip(items, times, strict=True) for _ in range(count)]
    literal = [place * count if count > 1 else place for place, count in zip(items, times, strict=True)]
    return literal, [turns[step % len(turns)] for step in range(COUNT)]


@st.composite
def multipliers(draw: st.DrawFn, net: nn.Module) -> tuple[Any, Callable[[str, int], float | None]]:
    """Multipliers, and what they are for an array at a step (None: held)."""
    late = pieces(FROZEN, (steps(2), -0.5))
    values = [0, None, FROZEN, 0.5, -1, 2, late]
    found = [place for place in (draw(parts(net, 1)) for _ in range(draw(st.integers(0, 3)))) if place.of(net)]
    pairs = [(place, draw(st.sampled_from(values))) for place in found]

    def of(name: str, step: int) -> float | None:
        for place, value in pairs:
            if name in place.of(net):
                return ((None if step < 2 else -0.5) if value is late else value) or None
        return 1.0

    return pairs, of


def spoil(net: nn.Module, held: set[str]) -> None:
    """Gradients of what is held become NaN."""
    for name, array in Tree(net).arrays.items():
        if name in held and array.grad is not None:
            array.grad.fill_(float("nan"))


@settings(max_examples=examples(100), deadline=None)
@given(st.data(), st.sampled_from(sorted(RULES)), st.booleans())
def test_what_is_held_keeps_value_and_memory_and_its_gradient_reaches_nothing(
    data: st.DataObject, rule: str, extras: bool
) -> None:
    net = data.draw(nets())
    schedule_, turns = data.draw(moves(net))
    pairs, rate = data.draw(multipliers(net))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            net,
            rule,
            learning_rate=0.01,
            learning_rate_multipliers=pairs,
            update_schedule=schedule_,
            **RULES[rule],
            **(EXTRAS if extras else {}),
        )
    for step, turn in enumerate(turns):
        inside = set(trainer.table.names) if turn is None else set(turn.of(net))
        moving = {name for name in trainer.table.names if name in inside and rate(name, step)}
        before, remembered = arrays(net), memory_of(trainer)
        trainer.zero_grad()
        give_gradients(net, step)
        spoil(net, set(before) - moving)
        trainer.step()
        after = memory_of(trainer)
        assert set(trainer.table.names) == set(after)
        for name, array in Tree(net).arrays.items():
            if name in moving:
                assert not alike(before[name], array), name
                assert torch.isfinite(array).all(), name
            else:
                assert alike(before[name], array), name
                assert name not in after or same_memory(remembered[name], after[name]), name


@quick
@given(st.data(), st.sampled_from(["sgd", "adamw", "rmsprop"]))
def test_what_one_array_does_depends_on_its_own_steps_alone(data: st.DataObject, rule: str) -> None:
    """TUS-A1: an array's path through a schedule is its path without one, at the steps at which it moves."""
    net = data.draw(nets())
    twin = copy.deepcopy(net)
    schedule_, turns = data.draw(moves(net))
    scheduled = Trainer(net, rule, learning_rate=0.01, update_schedule=schedule_, **RULES[rule])
    free = Trainer(twin, rule, learning_rate=0.01, **RULES[rule])
    name = data.draw(st.sampled_from(scheduled.table.names))
    for step, turn in enumerate(turns):
        give_gradients(net, step)
        scheduled.step()
        scheduled.zero_grad()
        if turn is None or name in turn.of(net):
            give_gradients(twin, step)
            free.step()
            free.zero_grad()
    assert alike(Tree(net).arrays[name], Tree(twin).arrays[name])
    assert same_memory(memory_of(scheduled)[name], memory_of(free)[name])


FIRST = {
    **{name: {key: value for key, value in own.items() if key != "weight_decay"} for name, own in RULES.items()},
    "torch.adam": {},
    "radam": {},
    "adamax": {},
    "adadelta": {},
    "asgd": {"lambd": 0.0},
    "adafactor": {},
}


@pytest.mark.parametrize("rule", sorted(FIRST))
def test_a_multiplier_scales_the_displacement_of_the_first_step(rule: str) -> None:
    def displacement(multiplier: float) -> dict[str, Tensor]:
        net = graph().double()
        before = arrays(net)
        own = {"weight_decay": 0.0, **FIRST[rule]} if rule in ("adamw", "torch.adamw") else FIRST[rule]
        trainer = Trainer(net, rule, learning_rate=0.01, learning_rate_multipliers={"a": multiplier}, **own)
        give_gradients(net, 3)
        trainer.step()
        return {name: array - before[name] for name, array in arrays(net).items()}

    one = displacement(1)
    assert all(moved.abs().max() > 0 for moved in one.values())
    for r in (1.0, 0.5, 2.0, -1.0, -0.5):
        scaled = displacement(r)
        for name, moved in one.items():
            assert torch.allclose(scaled[name], moved * (r if name.startswith("a.") else 1), rtol=1e-6, atol=1e-12), r


@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw", "torch.sgd", "torch.adamw", "rmsprop"])
def test_climbing_shrinks_by_decay_all_the_same(rule: str) -> None:
    """LRM-A4: with no gradient at all, decay shrinks an array whichever way it moves."""
    net = graph()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += parameter.sign()
    before = arrays(net)
    trainer = Trainer(net, rule, learning_rate=0.1, learning_rate_multipliers=-1, weight_decay=0.5)
    give_gradients(net, 0, scale=0.0)
    trainer.step()
    for name, array in arrays(net).items():
        assert (array.abs() < before[name].abs()).all(), name


@quick
@given(st.data(), st.sampled_from(sorted(RULES)), st.sampled_from(["emb.weight", "out.weight", "emb", "out", "both"]))
def test_a_tied_array_is_one_row_one_memory_one_step(data: st.DataObject, rule: str, said: str) -> None:
    net, twin = tied(), tied()
    twin.out.weight = nn.Parameter(twin.emb.weight.detach().clone())
    place: Any = frozenset({"emb.weight", "out.weight"}) if said == "both" else said
    trainer = Trainer(net, rule, learning_rate=0.01, learning_rate_multipliers={place: 0.5}, **RULES[rule])
    assert [name for name in trainer.table.names if "weight" in name] == ["emb.weight"]
    assert trainer.table.multipliers()["emb.weight"] == 0.5
    alone = Trainer(twin, rule, learning_rate=0.01, learning_rate_multipliers={"emb.weight": 0.5}, **RULES[rule])
    for step in range(3):
        give_gradients(net, step)
        give_gradients(twin, step)
        assert net.emb.weight.grad is not None
        twin.emb.weight.grad = net.emb.weight.grad.clone()
        trainer.step()
        alone.step()
        trainer.zero_grad()
        alone.zero_grad()
    assert net.emb.weight is net.out.weight
    assert alike(net.emb.weight, twin.emb.weight)
    assert [name for name in trainer.state_dict()["arrays"] if "weight" in name] == ["emb.weight"]


# gradients of what moves


@quick
@given(st.data())
def test_gradients_of_what_moves_are_those_of_the_full_backward(data: st.DataObject) -> None:
    net = data.draw(nets()).eval()
    schedule_, _ = data.draw(moves(net))
    trainer = Trainer(net, "sgd", update_schedule=schedule_)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9))))
    flags = [parameter.requires_grad for parameter in net.parameters()]
    net(x).square().sum().backward()
    full = {name: array.grad for name, array in Tree(net).arrays.items()}
    trainer.zero_grad()
    with trainer.only_moving():
        loss = net(x).square().sum()
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    moving = set(trainer.table.moving(trainer.progress))
    if loss.requires_grad:
        loss.backward()
    for name, array in Tree(net).arrays.items():
        whole = full[name]
        if name in moving and whole is not None:
            assert array.grad is not None
            assert torch.allclose(array.grad, whole, rtol=1e-5, atol=1e-6)
        elif name in trainer.table.names:
            assert array.grad is None


@pytest.mark.parametrize("schedule_", [["a", "b"], ["out"], [part("a") | "out", "b"]])
def test_a_run_computes_gradients_for_what_moves_and_the_same_weights(schedule_: list[Any]) -> None:
    net, plain = graph(), graph()
    batches = data(6)
    plan = etude.Plan("mse", update_schedule=schedule_, steps=6, batch_size=8, shuffle=False)
    run = etude.Run(plan, net, tuple(torch.cat(side) for side in zip(*batches, strict=True)))
    trainer = Trainer(plain, "adamw", update_schedule=schedule_)
    stepped = (event for event in run if isinstance(event, Stepped))
    for (x, y), _ in zip(batches, stepped, strict=True):
        moving = set(trainer.table.moving(trainer.progress))
        nn.functional.mse_loss(plain(x), y).backward()
        trainer.step()
        assert {name for name, array in net.named_parameters() if array.grad is not None} == moving
        assert all(alike(one, other) for one, other in zip(net.parameters(), plain.parameters(), strict=True))


# the state


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("at", [1, 3])
def test_a_state_by_names_goes_on_to_the_same_bits(rule: str, at: int) -> None:
    def made(net: nn.Module) -> Trainer:
        return Trainer(
            net,
            rule,
            learning_rate=schedule(0.02) * etude.linear(1, 0.1),
            learning_rate_multipliers={"b": pieces(FROZEN, (steps(2), 1))},
            update_schedule=[part("a") * 2, "b", "out"],
            total=steps(8),
            noise=0.01,
            **RULES[rule],
        )

    def go(net: nn.Module, trainer: Trainer, first: int, last: int) -> None:
        for step in range(first, last):
            give_gradients(net, step)
            trainer.step(4)
            trainer.zero_grad()

    whole, net = graph(), graph()
    go(whole, trainer := made(whole), 0, 8)
    go(net, first := made(net), 0, at)
    state = copy.deepcopy(first.state_dict())
    fresh = graph(seed=2)
    fresh.load_state_dict(net.state_dict())
    second = made(fresh)
    second.load_state_dict(state)
    assert (second.progress.step, second.progress.samples) == (at, 4 * at)
    go(fresh, second, at, 8)
    for one, other in zip(whole.parameters(), fresh.parameters(), strict=True):
        assert alike(one, other)
    assert second.progress.step == trainer.progress.step == 8
    assert all(same_memory(memory_of(trainer)[name], own) for name, own in memory_of(second).items())


@quick
@given(nets(), st.sampled_from(sorted(RULES)))
def test_what_never_moves_has_no_memory(net: nn.Module, rule: str) -> None:
    names = [name for name, array in net.named_parameters() if array.requires_grad]
    trainer = Trainer(net, rule, learning_rate_multipliers={names[0]: 0}, **RULES[rule])
    give_gradients(net, 0)
    trainer.step()
    assert {name for name, own in memory_of(trainer).items() if not own} == {names[0]}


@quick
@given(st.data())
def test_every_schedule_of_parts_is_asked_of_the_clock_alone(data: st.DataObject) -> None:
    net = data.draw(nets())
    schedule_, turns = data.draw(moves(net))
    trainer = Trainer(net, "sgd", update_schedule=schedule_)
    order = data.draw(st.permutations(range(COUNT)))
    for step in order:
        turn = turns[step]
        inside = set(trainer.table.names) if turn is None else set(turn.of(net))
        moment = etude.Progress(step)
        assert trainer.table.moving(moment) == tuple(name for name in trainer.table.names if name in inside)


def test_terms_of_a_loss_are_called_as_they_are_written() -> None:
    assert [term.name for term in terms({"a": "mse", "b": ("l1", 0.5)})] == ["a", "b"]
