"""Every update rule under every feature: one table, and what cannot be is named, with the error that says so."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import etude
from effort import examples
from etude.errors import NonFiniteError, PlanError, SettingError, StaleGradientError, StateError
from etude.step.optim import native, registry
from etude.step.trainer import Trainer
from etude.values.curves import linear
from etude.values.marks import FROZEN
from etude.values.part import everything, part
from etude.values.schedule import pieces
from etude.values.spans import steps
from etude.values.tree import Tree
from nets import Tied, alike, arrays, memory_of, same_memory
from rules_at_hand import CASES, Case, Feature, Net, Tiger, distance, drawn, same_arrays

FEATURES: dict[str, Feature] = {}
"""Every feature by name: a function that tries one rule."""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """`"tiger"` is known to these tests alone."""
    monkeypatch.setattr(registry, "_registered", {})
    etude.optim.register(Tiger)


def feature(check: Feature) -> Feature:
    FEATURES[check.__name__] = check
    return check


def extras(case: Case) -> dict[str, Any]:
    """Decay, noise and clipping on, as far as the rule has them."""
    made: dict[str, Any] = {"clip_value": 2.0, "clip_norm": 5.0, "clip_array_norm": 3.0, "clip_weights": 3.0}
    if case.decays:
        made["weight_decay"] = 0.1
    if case.sparse:
        return {**made, "shrink": 0.1}
    made |= {"l2": 0.1, "centralise": True}
    return made if case.closure else {**made, "shrink": 0.1, "noise": 0.1}


def names_of(trainer: Trainer, prefix: str = "") -> set[str]:
    return {name for name in trainer.table.names if name.startswith(prefix)}


def types_of_memory(trainer: Trainer) -> set[torch.dtype]:
    """The types of all tensors that are remembered, but for counts."""
    kept = [own for of in memory_of(trainer).values() for own in of.values()]
    return {own.dtype for own in kept if isinstance(own, Tensor) and own.dim()}


def displaced(case: Case, net: nn.Module, number: int = 3, **more: Any) -> dict[str, Tensor]:
    """By how much the first step moves each array of a trainer; what is drawn is left out."""
    trainer, before = case.trainer(net, **{**more, **_still(case)}), arrays(net)
    case.step(trainer, net, number)
    return {name: Tree(net).arrays[name].detach() - before[name] for name in trainer.table.names}


def _still(case: Case) -> dict[str, Any]:
    return {"temperature": 0.0} if "temperature" in case.settings else {}


# ------------------------------------------------------------------------------------------------ gradients and counts


@feature
def accumulates_to_the_unsplit_batch(case: Case) -> None:
    """Two full windows, whose micro-batches have different sizes, and a ragged one."""
    net, whole = Net(), Net()
    trainer, plain = case.trainer(net, accumulate=3, **extras(case)), case.trainer(whole, **extras(case))
    made = []
    for number, size in enumerate((2, 4, 1, 3, 3, 3, 1, 4)):
        for each in (net, whole):
            found = case.gradients(each, number)
            held = Tree(each).arrays
            for name, own in found.items():
                before = held[name].grad
                if before is None or number % 3 == 0:
                    held[name].grad = own * size
                else:
                    # In place, as backward does.
                    before.add_(own * size)
        made.append(trainer.step(size))
        if number in (2, 5, 7):
            plain.step({2: 7, 5: 9, 7: 5}[number])
    made.append(trainer.flush())
    assert made == [False, False, True, False, False, True, False, False, True]
    assert not trainer.flush()
    assert (trainer.progress.step, trainer.progress.samples) == (3, 21)
    assert same_arrays(net, whole)
    assert same_memories(trainer, plain)


@feature
def divides_sums_by_their_count(case: Case) -> None:
    mean, eight, seven = Net(), Net(), Net()
    for net, count in ((mean, 1.0), (eight, 8.0), (seven, 7.0)):
        case.walk(case.trainer(net), net, range(3), count)
    assert same_arrays(mean, eight)
    assert distance(mean, seven) < tolerance(case)


@feature
def leaves_gradients_as_they_are(case: Case) -> None:
    net = Net()
    trainer = case.trainer(net, **extras(case))
    for number in range(2):
        found = case.gradients(net, number)
        for name, own in found.items():
            Tree(net).arrays[name].grad = own
        bits = {name: own.to_dense().clone() for name, own in found.items()}
        trainer.step(4)
        for name, own in found.items():
            assert Tree(net).arrays[name].grad is own
            assert alike(own.to_dense(), bits[name])


@feature
def adds_noise_by_seed_and_name(case: Case) -> None:
    """The noise of an array depends on the seed, its name and the step alone, whatever else moves."""

    def walked(seed: int, order: tuple[str, ...] = ("a", "b", "out"), **more: Any) -> Net:
        net = Net(order)
        case.walk(case.trainer(net, noise=0.5, seed=seed, **more), net, range(2))
        return net

    net = walked(0)
    names = [name for name in Tree(net).arrays if not case.part or "weight" in name]
    assert same_arrays(net, walked(0))
    assert same_arrays(net, walked(0, ("out", "a", "b")))
    assert same_arrays(net, walked(0, learning_rate_multipliers={"a": 0}), [n for n in names if not n.startswith("a")])
    assert not same_arrays(net, walked(1), names)


@feature
def refuses_what_is_not_finite(case: Case) -> None:
    """With "raise" and with "skip" nothing changes, and what follows is as if the step had not been tried."""
    net, spared = Net(), Net()
    trainer, plain = case.trainer(net, non_finite="raise"), case.trainer(spared)
    case.walk(plain, spared, (0, 1))
    case.step(trainer, net, 0)
    before, memory = arrays(net), memory_of(trainer)
    with pytest.raises(NonFiniteError, match=r"b\.weight"):
        case.step(trainer, net, 5, spoiled={"b.weight"})
    assert all(alike(array, before[name]) for name, array in arrays(net).items())
    assert all(same_memory(own, memory[name]) for name, own in memory_of(trainer).items())
    case.step(trainer, net, 1)
    assert same_arrays(net, spared)
    skipping = Net()
    trainer = case.trainer(skipping, non_finite="skip")
    case.step(trainer, skipping, 0)
    assert not case.step(trainer, skipping, 5, spoiled={"b.weight"})
    assert trainer.progress.step == 2
    case.step(trainer, skipping, 1)
    assert same_arrays(skipping, spared)
    assert same_memories(trainer, plain)


@feature
def applies_no_gradient_twice(case: Case) -> None:
    """Whatever was made of the gradients: divided, clipped, laid out as the arrays are, turned into other numbers."""
    for more in ({}, extras(case)):
        net = Net()
        trainer = case.trainer(net, **more)
        case.give(net, 0)
        for array in net.parameters():
            if array.grad is not None and not array.grad.is_sparse:
                array.grad = laid(array.grad, "turned")
        trainer.step(4)
        before, memory = arrays(net), memory_of(trainer)
        with pytest.raises(StaleGradientError, match="no new gradient"):
            trainer.step(4)
        case.give(net, 0)
        trainer.step(4)
        moved = arrays(net)
        for array in net.parameters():
            if array.grad is not None:
                array.grad.add_(array.grad)
        with pytest.raises(StaleGradientError, match="old ones that a step has used"):
            trainer.step(4)
        assert all(alike(array, moved[name]) for name, array in arrays(net).items())
        assert not any(alike(before[name], moved[name]) for name in trainer.table.names)
        assert all(own == {} or not same_memory(own, memory[name]) for name, own in memory_of(trainer).items())


@feature
def holds_and_thaws_within_a_window(case: Case) -> None:
    """What is held when the step is made does not move, and the others move by the whole window."""
    net, whole = Net(), Net()
    trainer, plain = case.trainer(net, accumulate=2), case.trainer(whole)
    case.give(net, 0)
    assert not trainer.step(3)
    trainer.freeze("a")
    before = arrays(net)
    for name, own in case.gradients(net, 1).items():
        array = Tree(net).arrays[name]
        assert array.grad is not None
        array.grad.add_(own)
    assert trainer.step(5)
    for name, own in case.gradients(whole, 0).items():
        Tree(whole).arrays[name].grad = own.add_(case.gradients(whole, 1)[name])
    plain.step(8)
    assert same_arrays(net, whole, names_of(trainer) - names_of(trainer, "a."))
    assert all(alike(Tree(net).arrays[name], before[name]) for name in names_of(trainer, "a."))
    trainer.thaw("a")
    case.give(net, 2)
    trainer.step(3)
    trainer.flush()
    case.give(whole, 2)
    plain.step(3)
    assert same_arrays(net, whole, names_of(trainer) - names_of(trainer, "a."))


@feature
def divides_by_the_loss_scale(case: Case) -> None:
    net, scaled = Net(), Net()
    case.walk(case.trainer(net), net, range(3))
    trainer = case.trainer(scaled, loss_scale=1024.0)
    for number in range(3):
        case.give(scaled, number, 1024.0)
        trainer.step()
    assert same_arrays(net, scaled)


@feature
def steps_in_two_halves(case: Case) -> None:
    net, whole = Net(), Net()
    trainer = case.trainer(net)
    case.walk(case.trainer(whole), whole, range(2), 4.0)
    for number in range(2):
        case.give(net, number, 4.0)
        trainer.allreduce_grads()
        trainer.update(4)
    assert same_arrays(net, whole)


# ------------------------------------------------------------------------------------------------ what is held


@dataclass(frozen=True)
class Hold:
    """A way to hold part `a` in the third and fourth step."""

    options: Mapping[str, Any]
    begin: Callable[[Trainer, Net], Any] = lambda trainer, net: None
    end: Callable[[Trainer, Net], Any] = lambda trainer, net: None


HOLDS = {
    "update_schedule": Hold({"update_schedule": [everything * 2, (~part("a")) * 2, everything * 9]}),
    "FROZEN": Hold({"learning_rate_multipliers": {"a": pieces(1.0, (steps(2), FROZEN), (steps(4), 1.0))}}),
    "zero": Hold({"rules": {"learning_rate": {"a": pieces(0.01, (steps(2), 0.0), (steps(4), 0.01))}}}),
    "freeze": Hold({}, lambda trainer, net: trainer.freeze("a"), lambda trainer, net: trainer.thaw("a")),
    "change": Hold(
        {},
        lambda trainer, net: trainer.change("learning_rate_multipliers", {"a": FROZEN}),
        lambda trainer, net: trainer.change("learning_rate_multipliers", {"a": 1.0}),
    ),
    "requires_grad": Hold(
        {}, lambda trainer, net: net.a.requires_grad_(False), lambda trainer, net: net.a.requires_grad_(True)
    ),
}


def holding(way: str) -> Feature:
    def check(case: Case) -> None:
        hold, net = HOLDS[way], Net()
        trainer = case.trainer(net, **hold.options, **extras(case))
        case.walk(trainer, net, range(2))
        held = names_of(trainer, "a.")
        assert held
        before, memory = arrays(net), memory_of(trainer)
        for number in (2, 3):
            if number == 2 and way != "requires_grad":
                hold.begin(trainer, net)
            case.give(net, number, 2.0, spoiled=held)
            if number == 2 and way == "requires_grad":
                # Between backward and step, too.
                hold.begin(trainer, net)
            step_on(case, trainer, net, number, held)
            after = memory_of(trainer)
            for name in names_of(trainer):
                array = Tree(net).arrays[name]
                if name in held:
                    assert alike(array, before[name]), f"the value of {name}"
                else:
                    assert torch.isfinite(array).all(), name
                    assert not torch.equal(array, before[name]), name
            for name in held:
                assert same_memory(memory[name], after[name]), f"the memory of {name}"

    check.__name__ = f"keeps_what_is_held_by_{way}"
    return check


def thawing(way: str) -> Feature:
    def check(case: Case) -> None:
        """The array goes on as if the steps in which it was held had not been."""
        hold, net, twin = HOLDS[way], Net(), Net()
        decay = {"weight_decay": 0.1} if case.decays else {}
        trainer, plain = case.trainer(net, **hold.options, **decay), case.trainer(twin, **decay)
        case.walk(trainer, net, range(2))
        hold.begin(trainer, net)
        case.walk(trainer, net, (2, 3))
        hold.end(trainer, net)
        case.walk(trainer, net, (4, 5))
        case.walk(plain, twin, (0, 1, 4, 5))
        names = names_of(trainer, "a.")
        assert same_arrays(net, twin, names), "its own path"
        assert all(same_memory(memory_of(trainer)[name], memory_of(plain)[name]) for name in names)

    check.__name__ = f"goes_on_after_being_held_by_{way}"
    return check


for _way in HOLDS:
    feature(holding(_way))
    feature(thawing(_way))


def step_on(case: Case, trainer: Trainer, net: Net, number: int, spoiled: set[str]) -> None:
    """A step by the gradients that have been given, doubled, of two samples."""
    if case.closure:
        # What is held is no part of the loss, which would be NaN itself.
        case.step(trainer, net, number, 2.0, without=spoiled)
    else:
        trainer.step(2)


@feature
def has_no_memory_of_what_never_moves(case: Case) -> None:
    net = Net()
    trainer = case.trainer(net, rules={"learning_rate": {"a": 0}}, **extras(case))
    before = arrays(net)
    case.give(net, 0, spoiled={"a.weight", "a.bias"})
    step_on(case, trainer, net, 0, {"a.weight", "a.bias"})
    memory = memory_of(trainer)
    for name in names_of(trainer, "a."):
        assert not memory[name]
        assert alike(Tree(net).arrays[name], before[name])
    assert all(memory[name] for name in names_of(trainer) - names_of(trainer, "a."))


@feature
def forgets_when_it_is_thawed_with_reset(case: Case) -> None:
    net, fresh = Net(), Net()
    trainer = case.trainer(net)
    case.walk(trainer, net, range(2))
    trainer.freeze("a")
    with torch.no_grad():
        for name, array in Tree(net).arrays.items():
            array.copy_(Tree(fresh).arrays[name])
    trainer.thaw("a", reset=True)
    assert not any(memory_of(trainer)[name] for name in names_of(trainer, "a."))
    assert all(memory_of(trainer)[name] for name in names_of(trainer) - names_of(trainer, "a.")), "the others"
    case.step(trainer, net, 4)
    case.step(case.trainer(fresh), fresh, 4)
    assert same_arrays(net, fresh, names_of(trainer, "a."))


@feature
def changes_settings_live(case: Case) -> None:
    """Rules put in while training act as rules that were known before, and touch no memory."""
    net, known = Net(), Net()
    trainer = case.trainer(net)
    plain = case.trainer(known, learning_rate_multipliers={"a": pieces(1.0, (steps(2), 0.5))})
    case.walk(plain, known, range(4))
    case.walk(trainer, net, range(2))
    memory = memory_of(trainer)
    trainer.change("learning_rate_multipliers", {"a": 0.5})
    assert all(same_memory(own, memory[name]) for name, own in memory_of(trainer).items())
    case.walk(trainer, net, (2, 3))
    assert same_arrays(net, known)
    assert same_memories(trainer, plain)


@feature
def moves_a_tied_array_once(case: Case) -> None:
    def tied() -> Tied:
        net = Tied()
        for name, array in Tree(net).arrays.items():
            array.data = drawn(array, 7, name)
        return net

    net, twin = tied(), tied()
    twin.out.weight = nn.Parameter(twin.emb.weight.detach().clone())
    trainer = case.trainer(net)
    assert [name for name in trainer.table.names if name.endswith("weight")] == ["emb.weight"]
    plain = case.trainer(twin, part=part(case.part or everything) - "out.weight")
    case.walk(trainer, net, range(3))
    case.walk(plain, twin, range(3))
    assert same_arrays(twin, net, trainer.table.names)
    assert same_memories(trainer, plain)
    assert net.emb.weight is net.out.weight
    memory = trainer.state_dict()["arrays"]
    assert [name for name, own in memory.items() if name.endswith("weight")] == ["emb.weight"]


# ------------------------------------------------------------------------------------------------ rates and decay


def scaling(r: float) -> Feature:
    def check(case: Case) -> None:
        one = displaced(case, Net(dtype=torch.float64))
        other = displaced(case, Net(dtype=torch.float64), learning_rate_multipliers={"a": r})
        for name, moved in one.items():
            assert moved.abs().max() > 0, name
            factor = r if name.startswith("a.") else 1.0
            assert torch.allclose(other[name], moved * factor, rtol=1e-6, atol=1e-12), name

    check.__name__ = "climbs" if r < 0 else "scales_its_first_step" + ("_up" if r > 1 else "_down")
    return check


for _r in (0.25, 3.0, -1.0):
    feature(scaling(_r))


def decaying(setting: str, rate: float) -> Feature:
    def check(case: Case) -> None:
        """With gradients of zero, and beside what the same step does without decay."""
        net = Net()
        before = arrays(net)
        more = {setting: 0.5, "learning_rate_multipliers": rate, **_still(case)}
        trainer = case.trainer(net, **more)
        case.step(trainer, net, 1, zero=True)
        for name in trainer.table.names:
            array = Tree(net).arrays[name].detach()
            rows = torch.arange(len(array)) if not case.sparse or setting == "shrink" else moved_rows(array, 1)
            assert array[rows].norm() < before[name][rows].norm(), name
            if "uon" not in case.name:
                assert bool((array[rows].abs() < before[name][rows].abs()).all()), name
                assert bool((array * before[name] >= 0).all()), name

    check.__name__ = f"shrinks_by_{setting}" + ("_when_it_climbs" if rate < 0 else "")
    return check


def moved_rows(array: Tensor, number: int) -> Tensor:
    return torch.tensor([row for row in range(len(array)) if (row + number) % 3])


for _setting in ("weight_decay", "l2", "shrink"):
    for _rate in (1.0, -1.0):
        feature(decaying(_setting, _rate))


@feature
def decays_as_by_hand(case: Case) -> None:
    """l2 is the array added to the gradient, shrink a multiplication before the step."""
    net, hand = Net(), Net()
    trainer = case.trainer(net, l2=0.25, shrink=0.5, **_still(case))
    plain = case.trainer(hand, **_still(case))
    for number in range(3):
        case.step(trainer, net, number, 4.0)
        case.give(hand, number)
        with torch.no_grad():
            for name in plain.table.names:
                array = Tree(hand).arrays[name]
                assert array.grad is not None
                array.grad = array.grad.to_dense() + array * 0.25
                array *= 1 - 0.01 * 0.5
        plain.step()
    assert distance(net, hand) < 1e-6


@feature
def keeps_weights_within_bounds(case: Case) -> None:
    net = Net()
    trainer = case.trainer(net, clip_weights=0.5)
    case.walk(trainer, net, range(2))
    assert all(float(Tree(net).arrays[name].detach().abs().max()) <= 0.5 for name in trainer.table.names)


# ------------------------------------------------------------------------------------------------ numbers and layouts


def tolerance(case: Case) -> float:
    """What rounding may do in a few steps; where a step is a sign, one that is as good as zero may go either way."""
    if case.name in ("signum", "signsgd", "lion", "own parts", "rprop"):
        return 0.1
    # Muon orthogonalises in bfloat16, and a line search divides differences.
    return 1e-3 if case.closure or "uon" in case.name else 1e-5


LOW = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def following(dtype: torch.dtype) -> Feature:
    def check(case: Case) -> None:
        """The arrays are those of the float32 run, rounded."""
        exact, low = Net(), Net(dtype=dtype)
        case.walk(case.trainer(exact, clip_norm=1.0), exact, range(5), 4.0)
        trainer = case.trainer(low, clip_norm=1.0)
        case.walk(trainer, low, range(5), 4.0)
        for name in trainer.table.names:
            array, wanted = Tree(low).arrays[name].detach(), Tree(exact).arrays[name].detach()
            assert array.dtype is dtype
            assert torch.allclose(array.float(), wanted, rtol=1.01 * LOW[dtype], atol=1e-5), name

    check.__name__ = f"keeps_masters_of_{str(dtype).removeprefix('torch.')}"
    return check


def chancing(dtype: torch.dtype) -> Feature:
    def check(case: Case) -> None:
        """Every element becomes a neighbour of what it would be, and together they are right."""

        def moved(half: str, kind: torch.dtype, seed: int = 0) -> tuple[Tensor, Trainer]:
            full = torch.full((64, 32), 0.75, dtype=kind)
            net = nn.ParameterDict({name: nn.Parameter(full.clone()) for name in ("weight", "bias")})
            trainer = case.trainer(net, half=half, part=None, learning_rate=2e-3, seed=seed)
            for array in net.parameters():
                array.grad = case.laid_out(torch.full((64, 32), 0.75, dtype=kind), 0)
            trainer.step()
            return net["weight"].detach(), trainer

        low, trainer = moved("stochastic", dtype)
        exact, _ = moved("master", torch.float32)
        error = low.float() - exact
        ulp = LOW[dtype]
        assert low.dtype is dtype
        assert float(error.abs().max()) <= 2 * ulp
        assert abs(float(error.mean())) < 5 * ulp / (64 * 32) ** 0.5
        assert alike(low, moved("stochastic", dtype)[0])
        assert not alike(low, moved("stochastic", dtype, 1)[0])
        kept = memory_of(trainer)["weight"].values()
        assert {own.dtype for own in kept if isinstance(own, Tensor)} <= {torch.float32}

    check.__name__ = f"rounds_{str(dtype).removeprefix('torch.')}_by_chance"
    return check


def plainly(dtype: torch.dtype) -> Feature:
    def check(case: Case) -> None:
        net = Net(dtype=dtype)
        before = arrays(net)
        trainer = case.trainer(net, half="plain", learning_rate=0.5)
        for number in range(2):
            assert case.step(trainer, net, number, 4.0)
            for name in trainer.table.names:
                array = Tree(net).arrays[name].detach()
                assert array.dtype is dtype
                assert torch.isfinite(array).all(), name
                assert number or not torch.equal(array, before[name]), name

    check.__name__ = f"computes_plainly_in_{str(dtype).removeprefix('torch.')}"
    return check


for _dtype in LOW:
    feature(following(_dtype))
    feature(chancing(_dtype))
    feature(plainly(_dtype))


@feature
def computes_in_float64(case: Case) -> None:
    single, double = Net(), Net(dtype=torch.float64)
    case.walk(case.trainer(single), single, range(3))
    trainer = case.trainer(double)
    case.walk(trainer, double, range(3))
    assert distance(single, double) < tolerance(case)
    assert types_of_memory(trainer) <= {torch.float64}


class Shapes(nn.Module):
    """Arrays of many shapes, each laid out in memory in one way: "plain", "turned" or "gapped"."""

    def __init__(self, layout: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            array = torch.empty(shape)
            array.copy_(drawn(array, 7, name))
            self.register_parameter(name, nn.Parameter(laid(array, layout)))


def laid(array: Tensor, layout: str) -> Tensor:
    """The same numbers in another order of memory, or with gaps between them."""
    if layout == "turned" and array.dim() == 4:
        return array.contiguous(memory_format=torch.channels_last)
    if layout == "turned":
        backwards = tuple(reversed(range(array.dim())))
        return array.permute(backwards).contiguous().permute(backwards)
    if layout == "gapped":
        return torch.zeros(*array.shape, 2)[..., 0].copy_(array)
    return array.clone()


def lying(layout: str) -> Feature:
    def check(case: Case) -> None:
        """Arrays or gradients that lie otherwise in memory move as contiguous ones do."""
        shapes: dict[str, tuple[int, ...]] = {"weight": (4, 3), "bias": (5, 4) if case.part else (5,)}
        if not case.part and not case.sparse:
            shapes |= {"kernel": (2, 3, 2, 2), "scale": ()}
        ways = [("plain", "plain"), (layout, "plain"), ("plain", layout), (layout, layout)]
        nets = []
        for own, gradients in ways:
            net = Shapes(own, shapes)
            trainer = case.trainer(net, part=None, clip_value=1.5)
            for number in range(3):
                if case.closure:
                    case.step(trainer, net, number)
                    continue
                case.give(net, number, 4.0)
                for array in net.parameters():
                    if array.grad is not None and not array.grad.is_sparse:
                        array.grad = laid(array.grad, gradients)
                trainer.step(4)
            nets.append(net)
        assert all(distance(net, nets[0]) < 1e-6 for net in nets)
        for name, array in nets[1].named_parameters():
            assert array.stride() == laid(torch.zeros(shapes[name]), layout).stride()

    check.__name__ = f"moves_arrays_that_lie_{layout}"
    return check


for _layout in ("turned", "gapped"):
    feature(lying(_layout))


@feature
def moves_arrays_of_several_types(case: Case) -> None:
    """Arrays of 64, 32 and 16 bits beside each other move as they do among their like."""
    types = {"a": torch.float64, "b": torch.float32, "out": torch.bfloat16}
    net = Net()
    for name, dtype in types.items():
        net.get_submodule(name).to(dtype)
    trainer = case.trainer(net)
    case.walk(trainer, net, range(3), 4.0)
    for name, dtype in types.items():
        like = Net(dtype=dtype)
        case.walk(case.trainer(like), like, range(3), 4.0)
        assert same_arrays(net, like, names_of(trainer, f"{name}."))


@feature
def moves_large_arrays_as_small_ones(case: Case) -> None:
    """Rows of one array, and the same rows as several arrays."""
    first = drawn(torch.empty(9000, 8), 7, "weight")
    large = parameters(weight=first)
    small = parameters(c_weight=first[:9], d_weight=first[9:1000], e_weight=first[1000:])
    one, several = (case.trainer(net, part=None, **_still(case)) for net in (large, small))
    for number in range(2):
        give_rows(case, large, number)
        give_rows(case, small, number)
        one.step()
        several.step()
    together = torch.cat([array.detach() for name, array in small.items() if name != "bias"])
    assert torch.allclose(large["weight"], together, rtol=1e-6, atol=1e-7), "in pieces"


def parameters(**arrays: Tensor) -> nn.ParameterDict:
    """These arrays, and a small one beside them."""
    made = {**arrays, "bias": torch.ones(4, 2)}
    return nn.ParameterDict({name: nn.Parameter(array.clone()) for name, array in made.items()})


def give_rows(case: Case, net: nn.ParameterDict, number: int) -> None:
    """The rows of one gradient, as far as the rule gets them, for arrays that are rows of one array."""
    whole = case.laid_out(drawn(torch.empty(9000, 8), number, "weight"), number).to_dense()
    for name, array in net.items():
        rows, whole = (torch.ones(4, 2), whole) if name == "bias" else (whole[: len(array)], whole[len(array) :])
        array.grad = rows.to_sparse(1) if case.sparse else rows.clone()


@feature
def moves_complex_arrays_as_pairs(case: Case) -> None:
    pair = parameters(weight=drawn(torch.empty(4, 3, 2), 7, "weight"))
    net = parameters(weight=torch.view_as_complex(pair["weight"].detach().clone()))
    more = {"clip_value": 1.5, "clip_norm": 3.0, "shrink": 0.1, "clip_weights": 1.5, **_still(case)}
    more |= {} if case.sparse else {"l2": 0.1}
    real, trainer = case.trainer(pair, part=None, **more), case.trainer(net, part=None, **more)
    for number in range(3):
        gradient = drawn(pair["weight"], number, "weight")
        pair["weight"].grad = case.laid_out(gradient * 4, number)
        # With the bit that says that the numbers are to be conjugated when they are read.
        turned = torch.view_as_complex(gradient * torch.tensor([4.0, -4.0])).conj()
        net["weight"].grad = case.laid_out(turned, number)
        for each in (pair, net):
            each["bias"].grad = case.laid_out(torch.ones(4, 2), number)
        real.step(4)
        trainer.step(4)
    assert torch.allclose(torch.view_as_real(net["weight"].detach()), pair["weight"], rtol=1e-6, atol=1e-7)


@feature
def takes_arrays_without_elements(case: Case) -> None:
    some = {"weight": (4, 3), "bias": (3, 2) if case.part else (3,)}
    net, alone = Shapes("plain", {**some, "none": (0, 3)}), Shapes("plain", some)
    case.walk(case.trainer(net, part=None), net, range(2))
    case.walk(case.trainer(alone, part=None), alone, range(2))
    assert same_arrays(net, alone)


# ------------------------------------------------------------------------------------------------ states and nets


def same_memories(one: Trainer, other: Trainer) -> bool:
    ones, others = memory_of(one), memory_of(other)
    return ones.keys() == others.keys() and all(same_memory(ones[name], others[name]) for name in ones)


def scheduled(case: Case, net: nn.Module) -> Trainer:
    """With schedules of rate, multipliers and parts, and (where gradients are dense) noise."""
    return case.trainer(
        net,
        learning_rate=linear(0.02, 0.01),
        learning_rate_multipliers={"b": pieces(FROZEN, (steps(2), 0.5))},
        update_schedule=[everything * 2, "b", "out"],
        total=steps(8),
        **({} if case.sparse else {"noise": 0.1}),
    )


@feature
def goes_on_from_a_state_to_the_same_bits(case: Case) -> None:
    """By name, into a trainer of a net whose layers were made in another order, half-way through."""
    whole, net = Net(), Net()
    trainer, first = scheduled(case, whole), scheduled(case, net)
    case.walk(trainer, whole, range(8), 4.0)
    case.walk(first, net, range(3), 4.0)
    resumed(case, trainer, whole, first, net, scheduled)


def resumed(
    case: Case,
    trainer: Trainer,
    whole: Net,
    first: Trainer,
    net: Net,
    make: Callable[[Case, nn.Module], Trainer],
    last: int = 8,
) -> None:
    """Go on after three steps, in another net, and compare with the run that was not interrupted."""
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    for order in (("a", "b", "out"), ("out", "b", "a")):
        other = Net(order)
        other.load_state_dict(net.state_dict())
        second = make(case, other)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        assert (second.progress.step, second.progress.samples) == (3, 12)
        case.walk(second, other, range(3, last), 4.0)
        if case.closure and order[0] == "out":
            # Its sums run over all arrays, so that their order is in the last digits.
            assert distance(whole, other) < 1e-4
            return
        assert same_arrays(whole, other)
        assert same_memories(trainer, second)
        assert (second.progress.step, second.progress.samples) == (trainer.progress.step, trainer.progress.samples)


@feature
def goes_on_from_a_state_without_rules(case: Case) -> None:
    """The same with one setting for all arrays, so that all of them may be remembered together."""
    whole, net = Net(), Net()
    make = lambda case, net: case.trainer(net)  # noqa: E731
    trainer, first = make(case, whole), make(case, net)
    case.walk(trainer, whole, range(6), 4.0)
    case.walk(first, net, range(3), 4.0)
    resumed(case, trainer, whole, first, net, make, 6)


@feature
def goes_on_from_a_state_in_other_numbers(case: Case) -> None:
    """Memory takes the numbers of the arrays that it is for."""
    single = Net()
    first = case.trainer(single)
    case.walk(first, single, range(2))
    for dtype in (torch.float64, torch.bfloat16):
        net = Net(dtype=dtype)
        net.load_state_dict(single.state_dict())
        second = case.trainer(net, half="plain")
        second.load_state_dict(first.state_dict())
        case.walk(second, net, (2, 3))
        kept = [
            own for of in memory_of(second).values() for own in of.values() if isinstance(own, Tensor) and own.dim()
        ]
        assert {own.dtype for own in kept} <= {dtype}
        assert all(bool(torch.isfinite(array).all()) for array in net.parameters())
        whole = Net()
        case.walk(case.trainer(whole), whole, range(4))
        # A line search in bfloat16 goes its own way.
        assert distance(net, whole) < (tolerance(case) if dtype is torch.float64 else 1.0 if case.closure else 0.1)


def resuming(half: str) -> Feature:
    def check(case: Case) -> None:
        whole, net = Net(dtype=torch.bfloat16), Net(dtype=torch.bfloat16)
        trainer, first = case.trainer(whole, half=half), case.trainer(net, half=half)
        case.walk(trainer, whole, range(5))
        case.walk(first, net, range(3))
        other = Net(("a", "b", "out") if case.closure else ("b", "out", "a"), torch.bfloat16)
        other.load_state_dict(net.state_dict())
        second = case.trainer(other, half=half)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        case.walk(second, other, (3, 4))
        assert same_arrays(whole, other)
        assert same_memories(trainer, second)

    check.__name__ = f"goes_on_from_a_{half}_state"
    return check


for _half in ("master", "stochastic", "plain"):
    feature(resuming(_half))


@feature
def refuses_the_state_of_another_rule(case: Case) -> None:
    """Nothing is changed, and training goes on as if nobody had tried."""
    other, net, twin = Net(), Net(), Net()
    kind = Case("radam", settings={"weight_decay": 0.0}, part=case.part)
    theirs = kind.trainer(other)
    kind.walk(theirs, other, range(2))
    if case.name == "radam":
        kind = Case("ftml", part=case.part)
        theirs = kind.trainer(other := Net())
        kind.walk(theirs, other, range(2))
    trainer, plain = case.trainer(net), case.trainer(twin)
    case.walk(trainer, net, range(2))
    case.walk(plain, twin, range(4))
    memory, said = memory_of(trainer), trainer.settings()
    with pytest.raises(StateError, match="optimizer"):
        trainer.load_state_dict(theirs.state_dict())
    assert all(same_memory(own, memory[name]) for name, own in memory_of(trainer).items())
    assert trainer.settings() == said
    assert trainer.progress.step == 2
    case.walk(trainer, net, (2, 3))
    assert same_arrays(net, twin)


@feature
def steps_the_net_and_not_a_copy_of_it(case: Case) -> None:
    net, twin = Net(), Net()
    trainer = case.trainer(net)
    case.walk(case.trainer(twin), twin, range(4))
    case.walk(trainer, net, range(2))
    kept = copy.deepcopy(net)
    before = arrays(kept)
    case.walk(trainer, net, (2, 3))
    assert same_arrays(net, twin)
    assert all(alike(array, before[name]) for name, array in arrays(kept).items())
    # The copy can be trained by a trainer of its own, and the first does not notice.
    case.step(case.trainer(kept), kept, 2)
    assert same_arrays(net, twin)


@feature
def follows_arrays_into_other_numbers(case: Case) -> None:
    """After net.double() in mid-run memory is of the new type, or an error says what to do."""
    net, single = Net(), Net()
    trainer = case.trainer(net)
    case.walk(case.trainer(single), single, range(5))
    case.walk(trainer, net, range(2))
    net.double()
    case.walk(trainer, net, range(2, 5))
    assert distance(net, single) < tolerance(case)
    assert types_of_memory(trainer) <= {torch.float64}


@feature
def follows_arrays_into_half_precision(case: Case) -> None:
    net, single = Net(), Net()
    trainer = case.trainer(net)
    case.walk(case.trainer(single), single, range(5))
    case.walk(trainer, net, range(2))
    net.bfloat16()
    case.walk(trainer, net, range(2, 5))
    for name in trainer.table.names:
        array, wanted = Tree(net).arrays[name].detach(), Tree(single).arrays[name].detach()
        assert array.dtype is torch.bfloat16
        assert torch.allclose(array.float(), wanted, rtol=0.05, atol=0.05), name


@feature
def follows_arrays_into_other_storage(case: Case) -> None:
    net, twin = Net(), Net()
    trainer = case.trainer(net)
    case.walk(case.trainer(twin), twin, range(4))
    case.walk(trainer, net, range(2))
    left = [array.data for array in net.parameters()]
    before = [array.clone() for array in left]
    for array in net.parameters():
        array.data = array.data.clone()
    case.walk(trainer, net, (2, 3))
    assert same_arrays(net, twin)
    assert all(alike(one, other) for one, other in zip(left, before, strict=True))


# ------------------------------------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Promise:
    """What comes in place of a feature that a rule cannot have: an error, what it says, and why.

    AssertionError: what the feature states is not so, by the rule's own formula.
    """

    error: type[Exception]
    said: str
    why: str


PROMISED: dict[tuple[str, str], Promise] = {}


def promise(rules: str, features: str, error: type[Exception], said: str, why: str) -> None:
    for rule in rules.split(", "):
        assert rule in {case.name for case in CASES}, rule
        for name in features.split():
            assert name in FEATURES, name
            PROMISED[rule, name] = Promise(error, said, why)


promise(
    "lbfgs",
    "changes_settings_live climbs scales_its_first_step_up scales_its_first_step_down "
    "goes_on_from_a_state_to_the_same_bits keeps_what_is_held_by_FROZEN goes_on_after_being_held_by_FROZEN "
    "keeps_what_is_held_by_zero goes_on_after_being_held_by_zero",
    SettingError,
    "L-BFGS moves all arrays as one vector, with one value of every setting",
    "Its line search has one rate for all arrays, so nothing goes by part but whether an array moves.",
)
promise(
    "lbfgs",
    "accumulates_to_the_unsplit_batch divides_by_the_loss_scale",
    SettingError,
    "nothing is accumulated or scaled",
    "The closure computes the loss of the whole step.",
)
promise(
    "lbfgs",
    "holds_and_thaws_within_a_window",
    SettingError,
    "nothing is accumulated|computes the loss itself",
    "The closure computes the loss of the whole step.",
)
promise(
    "lbfgs",
    "applies_no_gradient_twice steps_in_two_halves leaves_gradients_as_they_are",
    SettingError,
    "computes the loss itself, several times a step",
    "Gradients that are there are not enough for it.",
)
promise(
    "lbfgs",
    "keeps_what_is_held_by_update_schedule keeps_what_is_held_by_freeze keeps_what_is_held_by_change "
    "keeps_what_is_held_by_requires_grad",
    AssertionError,
    "the memory of a",
    "It remembers pairs of whole vectors: a set of arrays that shares some with an earlier one begins anew.",
)
promise(
    "lbfgs",
    "goes_on_after_being_held_by_update_schedule goes_on_after_being_held_by_freeze "
    "goes_on_after_being_held_by_change goes_on_after_being_held_by_requires_grad",
    AssertionError,
    "its own path",
    "The same: after the hold it begins anew.",
)
promise(
    "lbfgs",
    "forgets_when_it_is_thawed_with_reset",
    AssertionError,
    "the others",
    "The same: what is forgotten of one array is forgotten of all that moved with it.",
)
promise(
    "lbfgs",
    "adds_noise_by_seed_and_name shrinks_by_shrink decays_as_by_hand",
    SettingError,
    "(noise|shrink)= is not for LBFGS",
    "A line search compares losses of one function at several points: noise would be another function each time.",
)
promise(
    "lbfgs",
    "shrinks_by_l2_when_it_climbs shrinks_by_shrink_when_it_climbs",
    SettingError,
    "A negative learning rate climbs, and L-BFGS cannot|shrink= is not for LBFGS",
    "torch.optim.LBFGS has no option to climb.",
)
promise(
    "lbfgs",
    "keeps_masters_of_bfloat16 keeps_masters_of_float16 goes_on_from_a_master_state "
    "rounds_bfloat16_by_chance rounds_float16_by_chance goes_on_from_a_stochastic_state",
    SettingError,
    "LBFGS moves arrays in half precision in their own numbers",
    "It evaluates the net at the arrays that it moves, several times a step.",
)
promise(
    ", ".join(case.name for case in CASES if not case.own and case.name not in ("lbfgs", "own parts")),
    "rounds_bfloat16_by_chance rounds_float16_by_chance goes_on_from_a_stochastic_state",
    SettingError,
    'half="stochastic"',
    "An optimizer of torch's shape writes into its arrays itself; only masters can stand in for them.",
)
promise(
    "torch.optim.Muon, muon",
    "climbs shrinks_by_l2_when_it_climbs shrinks_by_shrink_when_it_climbs shrinks_by_weight_decay_when_it_climbs",
    SettingError,
    "A negative learning rate climbs, and Muon has no option to climb",
    "torch.optim.Muon has no `maximize`.",
)
promise(
    "rprop, sparseadam, lbfgs, factory",
    "shrinks_by_weight_decay shrinks_by_weight_decay_when_it_climbs",
    SettingError,
    "has no (option|setting) 'weight_decay'",
    "The optimizer has no such option; l2 and shrink are there for all.",
)
promise(
    "sparseadam",
    "adds_noise_by_seed_and_name shrinks_by_l2 shrinks_by_l2_when_it_climbs decays_as_by_hand",
    SettingError,
    "SparseAdam",
    "It takes sparse gradients alone, and noise, l2 and centralise fill them.",
)
promise(
    "lbfgs",
    "moves_arrays_of_several_types follows_arrays_into_half_precision",
    SettingError,
    "LBFGS moves arrays in half precision in their own numbers",
    "The same, for some of the arrays, and from the middle of training on.",
)
promise(
    "lbfgs",
    "moves_large_arrays_as_small_ones moves_complex_arrays_as_pairs",
    SettingError,
    "LBFGS",
    "Gradients that are there are not enough for it.",
)
promise(
    "lamb, lars, lans, adafactor, torch.optim.Muon, muon",
    "moves_large_arrays_as_small_ones",
    AssertionError,
    "in pieces",
    "The step of an array depends on the array as a whole: on its norms, or on its spectrum.",
)
promise(
    "sparseadam, torch.optim.Muon",
    "moves_complex_arrays_as_pairs",
    SettingError,
    "complex|matri",
    "These classes of torch take no complex numbers, and no pairs as a third dimension.",
)
promise(
    "adafactor, muon",
    "moves_complex_arrays_as_pairs",
    RuntimeError,
    "does not support complex parameters",
    "torch refuses them itself, in the first step.",
)
promise(
    "ftrl",
    "climbs scales_its_first_step_up scales_its_first_step_down",
    AssertionError,
    "a.weight",
    "Its arrays are a function of the sums of their gradients: the first step goes to a place, whatever was there.",
)


def test_every_rule_there_is_is_tried() -> None:
    """A rule that comes to the library, or a class that comes to torch, has to come into the table."""
    tried = {trainer.name.lower() for case in CASES for trainer in [case.trainer(Net())]}
    tried = {each for name in tried for each in name.split(", ")}
    assert {rule.name for rule in registry.OURS} | set(registry.torch_classes()) <= tried


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rule_with_every_feature(case: Case, name: str) -> None:
    promised = PROMISED.get((case.name, name))
    if promised is None:
        FEATURES[name](case)
        return
    with pytest.raises(promised.error, match=promised.said):
        FEATURES[name](case)


DRAWS: dict[str, tuple[str, torch.dtype, dict[str, Any]]] = {
    "noise of gradients": ("sgd", torch.float32, {"noise": 0.5}),
    "noise of sgld": ("sgld", torch.float32, {"temperature": 0.1}),
    "rounding": ("sgd", torch.bfloat16, {"half": "stochastic"}),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_are_new_for_every_array_and_every_step(draw: str) -> None:
    name, dtype, options = DRAWS[draw]
    start = torch.full((16, 8), 0.75, dtype=dtype)
    net = nn.ParameterDict({key: nn.Parameter(start.clone()) for key in ("one", "other")})
    trainer = Trainer(net, name, learning_rate=2e-3, **options)
    seen: list[Tensor] = []
    for _ in range(3):
        for array in net.parameters():
            array.grad = torch.full_like(array, 0.75)
        trainer.step()
        seen += [array.detach().clone() for array in net.parameters()]
        with torch.no_grad():
            for array in net.parameters():
                array.copy_(start)
    assert not any(alike(one, other) for k, one in enumerate(seen) for other in seen[:k])


# ------------------------------------------------------------------------------------------------ an array's own path


def _freeze(trainer: Trainer, net: Net, layer: str, hold: bool) -> None:
    (trainer.freeze if hold else trainer.thaw)(layer)


def _require(trainer: Trainer, net: Net, layer: str, hold: bool) -> None:
    net.get_submodule(layer).requires_grad_(not hold)


def _rate(trainer: Trainer, net: Net, layer: str, hold: bool) -> None:
    trainer.change("learning_rate_multipliers", {layer: FROZEN if hold else 1.0})


def _stale(trainer: Trainer, net: Net, layer: str, hold: bool) -> None:
    """Nothing but that the layer has no gradient."""


HANDS = {"freeze": _freeze, "requires_grad": _require, "rate": _rate, "stale": _stale}
FREE = [case for case in CASES if not case.closure]


@settings(max_examples=examples(60), deadline=None)
@given(
    st.sampled_from(FREE),
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=6),
    st.lists(st.sampled_from(sorted(HANDS)), min_size=3, max_size=3),
    st.sampled_from([1.0, 4.0, 7.0]),
)
def test_an_array_s_path_is_that_of_its_own_steps(
    case: Case, turns: list[list[bool]], ways: list[str], count: float
) -> None:
    """However each layer is held, and in whatever company it moves: value and memory, bit for bit."""
    layers = ("a", "b", "out")
    net = Net()
    trainer = case.trainer(net, **_company(case))
    held = dict.fromkeys(layers, False)
    for number, turn in enumerate(turns):
        for layer, way, moves in zip(layers, ways, turn, strict=True):
            if held[layer] == moves:
                held[layer] = not moves
                HANDS[way](trainer, net, layer, not moves)
        if not any(turn):
            continue
        case.give(net, number, count)
        for layer in layers:
            for array in net.get_submodule(layer).parameters() if held[layer] else ():
                array.grad = None
        trainer.step(count, ignore_stale_grad=True)
    for layer, moves in zip(layers, zip(*turns, strict=True), strict=True):
        twin = Net()
        plain = case.trainer(twin, **_company(case))
        for number in [number for number, moved in enumerate(moves) if moved]:
            case.step(plain, twin, number, count)
        names = names_of(plain, f"{layer}.")
        assert same_arrays(net, twin, names), layer
        assert all(same_memory(memory_of(trainer)[name], memory_of(plain)[name]) for name in names), layer


def _company(case: Case) -> dict[str, Any]:
    """What treats every array by itself."""
    decay = {"weight_decay": 0.1} if case.decays else {}
    return {"clip_value": 2.0, "clip_array_norm": 3.0, "shrink": 0.1, **decay}


# ------------------------------------------------------------------------------------------------ ours and torch's


PAIRS: dict[str, tuple[str, type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": ("sgd", torch.optim.SGD, {}),
    "decay": ("sgd", torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": ("sgd", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "dampening": ("sgd", torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    "nesterov": ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "nag": ("nag", torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam": ("adam", torch.optim.Adam, {"weight_decay": 0.1}),
    "amsgrad by name": ("amsgrad", torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True, "betas": (0.8, 0.9)}),
    "amsgrad": ("adam", torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True, "betas": (0.8, 0.9)}),
    "adamw": ("adamw", torch.optim.AdamW, {"weight_decay": 0.1}),
    "amsgrad w": ("adamw", torch.optim.AdamW, {"amsgrad": True, "betas": (0.8, 0.9), "eps": 1e-4}),
}


@pytest.mark.parametrize("climb", [False, True], ids=["down", "up"])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("quick", [True, False], ids=["native", "without"])
def test_ours_is_torchs_to_the_last_digits(pair: str, quick: bool, climb: bool, monkeypatch: Any) -> None:
    """Over 50 steps of changing rates."""
    if not quick:
        monkeypatch.setattr(native, "library", lambda: None)
    name, kind, options = PAIRS[pair]
    rates = linear(0.02, 0.001)
    net, twin = Net(), Net()
    case = Case(pair, name, options)
    trainer = case.trainer(net, learning_rate=rates, total=steps(50), learning_rate_multipliers=-1.0 if climb else None)
    optimizer = kind(twin.parameters(), lr=1.0, maximize=climb, **options)
    for number in range(50):
        optimizer.param_groups[0]["lr"] = trainer.learning_rate
        case.step(trainer, net, number, 4.0)
        case.give(twin, number)
        optimizer.step()
        assert distance(net, twin) < 1e-6, number


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("many", [False, True], ids=["one rate", "many rates"])
@pytest.mark.parametrize("count", [1.0, 8.0, 7.0])
def test_native_kernels_do_what_torchs_do(pair: str, many: bool, count: float, monkeypatch: Any) -> None:
    if native.library() is None:
        pytest.skip("there is no compiler for native.c")
    name, _, options = PAIRS[pair]
    case = Case(pair, name, options)
    rules = {"learning_rate": {"a": 0.02, "*.bias": -0.01}, "weight_decay": {"out": 0.3}} if many else {}

    def walked() -> Net:
        net = Net()
        case.walk(case.trainer(net, rules=rules), net, range(20), count)
        return net

    native_ = walked()
    monkeypatch.setattr(native, "library", lambda: None)
    without = walked()
    assert distance(native_, without) < 1e-6
    assert distance(native_, Net()) > 1e-3


# ------------------------------------------------------------------------------------------------ compiled


def single_layer() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        for name, array in net.named_parameters():
            array.copy_(drawn(array, 7, name))
    return net


def batches() -> tuple[Tensor, Tensor]:
    """Inputs and targets of three batches of four."""
    x, y = (torch.randn(12, n, generator=torch.Generator().manual_seed(n)) for n in (3, 2))
    return x, y


def trained(case: Case, compile: bool, **more: Any) -> nn.Module:
    """A layer after a run of three steps."""
    net = single_layer()
    etude.train(
        net,
        batches(),
        loss="mse",
        optimizer=case.optimizer(net) if case.of_net else case.optimizer or case.name,
        learning_rate_multipliers={"*.bias": FROZEN} if case.part else None,
        steps=3,
        batch_size=4,
        progress=False,
        compile=compile,
        **{"learning_rate": 0.01, **case.settings, **more},
    )
    return net


COMPILED = [case for case in CASES if not case.closure and case.name != "sparseadam"]
"""Rules that are in the program; or beside it: those that draw, take sparse gradients, or are not ours."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_is_the_loop_by_hand(case: Case) -> None:
    if case.name == "sparseadam":
        with pytest.raises(SettingError, match="SparseAdam"):
            trained(case, False)
        return
    run, net = trained(case, False, shuffle=False), single_layer()
    trainer = case.trainer(net, part=None, learning_rate_multipliers={"*.bias": FROZEN} if case.part else None)
    for x, y in zip(*(side.split(4) for side in batches()), strict=True):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            return loss

        if not case.closure:
            closure()
        trainer.step(closure=closure if case.closure else None)
        trainer.zero_grad()
    assert same_arrays(run, net)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are traced and made functional, and run without being translated for the processor, which takes long."""
    compile = torch.compile

    def quickly(program: Any, *, options: Mapping[str, Any], **more: Any) -> Any:
        return compile(program, backend="aot_eager", options={"guard_filter_fn": options["guard_filter_fn"]}, **more)

    monkeypatch.setattr(torch, "compile", quickly)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_traced_steps_are_plain_ones(case: Case) -> None:
    assert distance(trained(case, False), trained(case, True)) < 1e-5


@pytest.mark.soak
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="compiling needs a C++ compiler")
@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_compiled_steps_are_plain_ones(case: Case) -> None:
    assert distance(trained(case, False), trained(case, True)) < 1e-5


@pytest.mark.parametrize("case", [case for case in CASES if case.closure], ids=str)
def test_what_is_not_compiled_says_so_before_anything_moves(case: Case) -> None:
    with pytest.raises(PlanError, match="compile=True"):
        trained(case, True)
