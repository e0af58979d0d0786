"""Laws of looking: whoever listens, probes, checks, draws or evaluates, the bits are the same; proofs leave no mark."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import etude
from all_at_once import BIG, INGREDIENTS, Recipe, compatible, recipe_of, whole
from effort import examples
from etude import Probe, epochs, everything, losses, part, steps
from etude.errors import EtudeError
from etude.run.events import Event, Settled, Stepped
from jobs import Noticing, Pairs
from nets import bytes_of

pytestmark = pytest.mark.filterwarnings("ignore")
LISTEN = (
    *("a weight that listens", "a weight that follows", "a temperature of a term", "a knob that listens"),
    *(
        "a knob relative to what was",
        "newbob back to the best, afresh",
        "newbob back to the best",
        "newbob of an epoch",
    ),
    *("plateau in pieces", "a rate that follows", "parts that follow scores"),
    *("stops without improvement", "stops when reached"),
)
"""Ingredients that go by scores: with other looks they are other runs."""
DEAF = sorted(set(INGREDIENTS) - {*LISTEN, "rich metrics", "probes"})
MIXTURES = st.lists(st.sampled_from(DEAF), min_size=1, max_size=9, unique=True).map(compatible)
law = settings(
    max_examples=examples(6),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

Bits = list[dict[str, Any]]


# ------------------------------------------------------------------------------------------------------ what is kept


def bits(run: etude.Run, then: Callable[[Event], None] = lambda event: None) -> Bits:
    """Arrays, statistics, optimizer memory and losses after each step of a run, to the bit."""
    found: Bits = []
    losses_: dict[str, Any] = {}
    for event in run:
        then(event)
        if isinstance(event, Stepped):
            losses_ = {name: bytes_of(loss.detach()) for name, loss in event.losses.items()}
        if isinstance(event, Settled):
            found.append({**tensors(run.checked.net), **memory(run), "losses": losses_})
    return [*found, {"end": tensors(run.result().final_net)}]


def tensors(net: nn.Module) -> dict[str, bytes]:
    return {name: bytes_of(array) for name, array in (*net.named_parameters(), *net.named_buffers())}


def memory(run: etude.Run) -> dict[str, Any]:
    """What optimizers and averages remember."""
    kept = {name: work.stepper.state()["arrays"] for name, work in zip("ab", run.checked.works, strict=False)}
    return {"memory": _flat(kept), "averages": _flat(run.checked.averages.state()["each"])}


def _flat(value: Any) -> Any:
    if isinstance(value, Tensor):
        return bytes_of(value.detach())
    return {key: _flat(own) for key, own in value.items()} if isinstance(value, Mapping) else value


def inside(value: Any) -> Any:
    """What an attribute holds, as something that can be compared later."""
    if isinstance(value, Tensor):
        return str(value.dtype), bytes_of(value.detach())
    if isinstance(value, nn.Module):
        return marks(value)
    if isinstance(value, Mapping):
        return {key: inside(own) for key, own in value.items()}
    return value if isinstance(value, int | float | str | bool | tuple | type(None)) else id(value)


def marks(net: nn.Module) -> dict[str, Any]:
    """Every attribute of every module: arrays, buffers, modes, hooks, numbers."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found: dict[str, Any] = {}
    for path, module in net.named_modules():
        for name, value in vars(module).items():
            found[f"{path}:{name}"] = len(value) if name in hooks else None if name == "_modules" else inside(value)
    for name, array in net.named_parameters():
        found[f"{name} kept"] = array.requires_grad, len(array._backward_hooks or ())
    return found


def chance() -> tuple[Any, ...]:
    """The state of the generators of the process."""
    return bytes_of(torch.get_rng_state()), repr(np.random.get_state()), random.getstate()


def started(recipe: Recipe, **more: Any) -> etude.Run:
    return etude.Run(etude.Plan(**{**recipe.plan(), **more}), recipe.net, Pairs())


# --------------------------------------------------------------------------------------------- looking changes no bit


def nosy(event: Event) -> None:
    """A listener that draws, reads every number, and keeps the event."""
    torch.rand(3), np.random.rand(), random.random()
    if isinstance(event, Stepped):
        sum(map(float, event.losses.values())), dict(event.settings), sum(map(float, event.probes.values()))


def _probed(recipe: Recipe) -> None:
    recipe.probes += [
        Probe("encoder.2", "rms", every=steps(1)),
        Probe("block", "share_zero", every=steps(2)),
        Probe(everything, "norm", of="gradient", every=steps(1)),
        Probe(part("head") | "aux", "std", of="array", every=steps(3)),
        Probe(everything, "max", of="update", every=steps(1), each=True),
    ]


def _looked_at_each_step(recipe: Recipe) -> None:
    recipe.tell(looks=steps(1))


def _looked_at_with_much(recipe: Recipe) -> None:
    recipe.metrics += ["confusion", "macro_f1", "top_2", Probe("encoder.2", "std")]
    recipe.tell(looks=epochs(1))


def drawing(output: Tensor, target: Tensor) -> Tensor:
    return output.mean() + torch.rand(()) + random.random()


def _looked_at_drawing(recipe: Recipe) -> None:
    """A metric that draws."""
    recipe.metrics.append(drawing)


AROUND: dict[str, Callable[[Recipe], None]] = {
    "probes": _probed,
    "looks at each step": _looked_at_each_step,
    "looks with more": _looked_at_with_much,
    "looks that draw": _looked_at_drawing,
}


@law
@given(MIXTURES, st.sampled_from(sorted(AROUND)))
def test_probes_and_looks_change_no_bit(names: tuple[str, ...], way: str) -> None:
    plain, other = recipe_of(whole(), names), recipe_of(whole(), names)
    AROUND[way](other)
    assert_same(bits(started(plain)), bits(started(other)))


@law
@given(MIXTURES)
def test_listeners_proofs_and_pictures_change_no_bit(names: tuple[str, ...]) -> None:
    expected = bits(started(recipe_of(whole(), names)))
    assert_same(expected, bits(started(recipe_of(whole(), names)), nosy))
    recipe = recipe_of(whole(), names)
    plan = etude.Plan(**recipe.plan())
    plan.check(recipe.net, Pairs()).show()
    plan.check(recipe.net, Pairs())
    assert_same(expected, bits(etude.Run(plan, recipe.net, Pairs())))


def test_a_picture_of_a_plan_changes_no_bit_of_the_run() -> None:
    job = BIG["everything"]
    nets = [whole(), whole()]
    plans = [etude.Plan(**job.options(net)) for net in nets]
    plans[1].plot(nets[1], Pairs())
    assert_same(*(bits(etude.Run(plan, net, Pairs())) for plan, net in zip(plans, nets, strict=True)))


def assert_same(one: Bits, other: Bits) -> None:
    """Step by step, so that the first difference is told."""
    assert len(one) == len(other)
    for step, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        assert [name for name in mine if mine[name] != theirs.get(name)] == [], f"after step {step + 1}"


# ------------------------------------------------------------------------------------------------ proofs leave no mark


@pytest.mark.parametrize("title", BIG)
def test_a_proof_of_everything_leaves_no_mark(title: str) -> None:
    net = whole()
    for module, mode in ((net, True), (net.get_submodule("encoder"), False), (net.get_submodule("encoder.1"), True)):
        module.train(mode)
    plan = etude.Plan(**BIG[title].options(net))
    before, drawn = marks(net), chance()
    plan.check(net, Pairs()).show()
    assert marks(net) == before
    assert chance() == drawn


def test_a_proof_leaves_no_mark_on_what_is_not_in_the_net() -> None:
    recipe, noticing = recipe_of(whole(), ["a knob of one's own", "skipped steps"]), Noticing()
    recipe.loss["noticed"] = losses.term(noticing, 0.1)
    strength, before = dict(vars(recipe.own)), marks(noticing)
    etude.Plan(**recipe.plan()).check(recipe.net, Pairs())
    assert vars(recipe.own) == strength
    assert marks(noticing) == before


def _fails(net: nn.Module, batch: Any) -> Tensor:
    raise RuntimeError("there is something wrong here")


def _fails_in_evaluation(output: Tensor, target: Tensor) -> Tensor:
    raise RuntimeError("there is something wrong here")


FAULTS: dict[str, Callable[[Recipe], None]] = {
    "the loss": lambda r: r.loss.update(wrong=losses.term(_fails)),
    "a metric": lambda r: setattr(r, "metrics", {"wrong": _fails_in_evaluation}),
    "an end that never comes": lambda r: r.tell(stop=etude.no_improvement("val.los", 2, mode="min")),
    "a knob": lambda r: r.knobs.update(slope=etude.newbob("val.nothing", "min")),
    "a probe": lambda r: r.probes.append(Probe("decoder", "rms")),
    "first values": lambda r: r.tell(initialize={"encoder.0.weight": "dirac"}),
    "what goes back": lambda r: r.knobs.update(slope=etude.newbob("val.loss", back_to_best="keep")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_proof_that_fails_leaves_no_mark_either(fault: str) -> None:
    names = compatible(
        ("dropout that grows", "a buffer as a knob", "penalties", "noise on weights", "carried", "split")
    )
    recipe = recipe_of(whole(), names)
    FAULTS[fault](recipe)
    before, drawn = marks(recipe.net), chance()
    with pytest.raises(EtudeError):
        etude.Plan(**recipe.plan()).check(recipe.net, Pairs())
    assert marks(recipe.net) == before
    assert chance() == drawn


# ------------------------------------------------------------------------------------------------ cost only where used


def test_a_plain_run_leaves_nothing_on_the_net() -> None:
    net = whole()
    before = marks(net)
    etude.train(net, Pairs(), loss="cross_entropy", epochs=2, batch_size=4, progress=False)
    after = marks(net)
    numbers = ("_parameters", "_buffers", "training")
    assert {key: own for key, own in after.items() if not key.endswith(numbers)} == {
        key: own for key, own in before.items() if not key.endswith(numbers)
    }


@pytest.mark.parametrize("title", BIG)
def test_a_run_of_everything_leaves_only_what_it_was_told_to(title: str) -> None:
    net = whole()
    plan = etude.Plan(**BIG[title].options(net))
    before = marks(net)
    etude.Run(plan, net, Pairs()).result()
    after = marks(net)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    kept = {key for key in changed if not key.endswith(("_parameters", "_buffers", "training"))}
    # The knobs.
    assert kept
    assert kept <= {":slope", "encoder.3:p", "block:p", "encoder.1:eps"}


@pytest.mark.parametrize("setting", ["weight_noise", "weight_dropout", "noise", "carry", "tie", "drop_non_finite"])
def test_a_setting_that_is_off_is_none(setting: str) -> None:
    """Said to be off, it is as if it had not been said, to the bit."""
    off = {"carry": False, "tie": {part("head.bias") | "twin.bias": False}, "drop_non_finite": False}.get(setting, 0.0)
    more = {"update_schedule": [everything]} if setting == "carry" else {}
    one, other = Recipe(whole()), Recipe(whole())
    assert_same(bits(started(one, **more)), bits(started(other, **more, **{setting: off})))
