"""Laws of what is held and of what is split, under everything that a plan can schedule."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import etude
from all_at_once import INGREDIENTS, SECOND, Whole, compatible, mixture, recipe_of, whole
from effort import examples
from etude import FROZEN, Run, Trainer, cycle, everything, losses, part
from etude.run.events import Began, Settled, Skipped, Stepped
from jobs import Pairs, table
from nets import alike, arrays, give_gradients, seeded
from stories import Story, follow
from test_loss_scenarios import Recogniser, all_of_it, data

pytestmark = pytest.mark.filterwarnings("ignore")
law = settings(max_examples=examples(8), deadline=None, suppress_health_check=[HealthCheck.too_slow])
BACK = {"rolled back", "newbob back to the best", "newbob back to the best, afresh"}
"""Where a net goes back, what is held now goes back too, to where it was then."""
MIXED = st.lists(st.sampled_from(sorted(set(INGREDIENTS) - BACK)), max_size=8, unique=True).map(compatible)


def remembered(run: Run) -> dict[str, dict[str, Any]]:
    """Copies of what the optimizer remembers, by array."""
    kept = run.checked.works[0].stepper.state()["arrays"]
    return {
        name: {key: value.clone() if isinstance(value, Tensor) else value for key, value in own.items()}
        for name, own in kept.items()
    }


def same_memory(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        alike(value, other[key]) if isinstance(value, Tensor) else value == other[key] for key, value in one.items()
    )


# ------------------------------------------------------------------------------------------------------------- held


@law
@given(MIXED, st.sampled_from(["block", "aux", "encoder.0", "encoder"]))
def test_what_is_frozen_stays_to_the_bit_and_has_no_memory(names: tuple[str, ...], place: str) -> None:
    assume(not (place == "block" and "reaching a part" in names))
    recipe = recipe_of(whole(), [name for name in names if name != "parts that follow scores"])
    recipe.tell(learning_rate_multipliers={place: FROZEN})
    run = Run(etude.Plan(**recipe.plan()), recipe.net, Pairs())
    held: dict[str, Tensor] = {}
    inside = set(part(place).of(recipe.net))
    for event in run:
        if isinstance(event, Began):
            held = {name: array for name, array in arrays(recipe.net).items() if name in inside}
        if isinstance(event, Settled):
            now = arrays(recipe.net)
            assert [name for name, before in held.items() if not alike(before, now[name])] == []
    state = run.checked.works[0].stepper.state()
    assert [name for name in inside if state["arrays"].get(name)] == []
    assert not inside & set(state["carried"])


@law
@given(MIXED)
def test_what_waits_for_its_turn_keeps_values_and_memory(names: tuple[str, ...]) -> None:
    recipe = recipe_of(whole(), names)
    turns = [part("encoder") | "block", part("head") | "twin", everything, "aux"]
    recipe.tell(update_schedule=turns)
    run = Run(etude.Plan(**recipe.plan()), recipe.net, Pairs())
    stepper = run.checked.works[0].stepper
    before, memory, moving = arrays(recipe.net), remembered(run), set[str]()
    for event in run:
        if isinstance(event, Began | Settled):
            after, known = arrays(recipe.net), remembered(run)
            if isinstance(event, Settled):
                for name in set(stepper.table.names) - moving:
                    assert alike(before[name], after[name]), name
                    assert same_memory(memory[name], known[name]), name
            before, memory = after, known
            moving = set(part(turns[int(event.progress.step) % 4]).of(recipe.net))


def test_a_gradient_that_is_not_a_number_in_what_is_held_skips_no_step() -> None:
    """The same loss breaks the gradient of one array: where that moves steps are left out, where it is held none."""
    for place, skipped in (({}, True), ({"aux.bias": FROZEN}, False)):
        of = mixture("skipped steps", "noise", "clipping", "noise on weights", learning_rate_multipliers=place)
        net = whole()
        events = list(Run(etude.Plan(**of.options(net)), net, Pairs()))
        assert any(isinstance(event, Skipped) for event in events) == skipped
        assert all(bool(torch.isfinite(array).all()) for array in net.parameters())


SETTINGS: dict[str, Any] = {
    "clip_norm": 0.5,
    "drop_norm": 9.0,
    "noise": 0.1,
    "centralise": True,
    "l2": 0.1,
    "shrink": 0.1,
    "max_norm": 0.6,
    "clip_weights": 0.5,
    "clip_mean_norm": 0.1,
    "weight_noise": 0.05,
    "weight_dropout": cycle(0.3, 0.0),
    "carry": {"head": "sum"},
    "tie": {part("head.bias") | "twin.bias": True},
}
CHOSEN = st.sets(st.sampled_from(sorted(SETTINGS)), max_size=6)
TURNS = [part("encoder") | "block", part("head") | "twin" | "aux"]


@law
@given(CHOSEN, st.sampled_from(["sgd", "adamw", "nadam", "lion"]))
def test_nan_in_gradients_of_what_is_held_reaches_nothing(chosen: set[str], rule: str) -> None:
    given_ = {name: SETTINGS[name] for name in chosen - ({"carry"} if "tie" in chosen else set())}
    clean, other = whole(), whole()
    trainers = [
        Trainer(net, rule, learning_rate=0.05, update_schedule=TURNS, non_finite="raise", seed=4, **given_)
        for net in (clean, other)
    ]
    for number in range(5):
        for net, trainer in zip((clean, other), trainers, strict=True):
            moving = set(TURNS[number % 2].of(net))
            trainer.zero_grad()
            with trainer.perturbed():
                give_gradients(net, number)
            for name, array in net.named_parameters():
                if net is other and name not in moving and not (name.startswith("head") and "carry" in given_):
                    array.grad = torch.full_like(array, float("nan"))
            trainer.step(2)
    assert all(alike(one, two) for one, two in zip(clean.parameters(), other.parameters(), strict=True))
    for name, own in trainers[0].state_dict()["arrays"].items():
        assert same_memory(own, trainers[1].state_dict()["arrays"][name])


# -------------------------------------------------------------------------------------------------------- goes back


@law
@given(MIXED)
def test_going_back_is_being_where_it_was(names: tuple[str, ...]) -> None:
    """Arrays, statistics, memory, carried gradients, averages and losses are those of the snapshot; not so knobs."""
    of = mixture(*compatible(("rolled back", *names)))
    story = follow(of)
    gone = [(step, one[2]) for step, own in story.told.items() for one in own if one[0] == "back"]
    assume(gone)
    for step, to in gone:
        assert went_back(story, step, to) == []


def went_back(story: Story, step: int, to: int) -> list[str]:
    """The names of what differs from what it was after the step `to`."""
    now, then = story.pictures[step], story.pictures[to]
    kept = (
        "net ",
        "average ",
        "loss carried",
        "loss losses",
        *(f"loss {name}" for name, _ in whole().named_parameters()),
    )
    return [name for name in now if name.startswith(kept) and name != "net temperature" and now[name] != then.get(name)]


def test_going_back_with_everything() -> None:
    for names in (SECOND, ("rolled back", "carried", "averages", "a loss that remembers", "noise on weights", "sgd")):
        story = follow(mixture(*names))
        gone = [(step, one[2]) for step, own in story.told.items() for one in own if one[0] == "back"]
        assert gone
        assert [went_back(story, step, to) for step, to in gone] == [[]] * len(gone)
        assert {one[0] for own in story.told.values() for one in own} >= {"stepped", "skipped", "back"}


# ------------------------------------------------------------------------------------------------------------- split

SPLITTABLE = (
    *("smoothing", "a weight that listens", "a weight that follows", "reaching a part", "errors", "a weight of 0"),
    *("a weight that is 0 at times", "penalties", "perplexity", "in evaluation alone", "a temperature of a term"),
    *("a buffer as a knob", "a knob that listens", "a knob of one's own", "newbob of an epoch", "clipping", "norms"),
    *("noise", "noise on weights", "dropped weights", "decays", "a tie that ends", "carried", "averages", "sgd"),
)
TERMS = st.lists(st.sampled_from(SPLITTABLE), max_size=8, unique=True).map(compatible)


class Room(Whole):
    """There is memory for so many samples at once; nothing in it goes by chance."""

    def __init__(self, room: int = 99) -> None:
        super().__init__()
        self.room = room
        self.block.p = self.encoder[3].p = 0.0


def made(names: tuple[str, ...], room: int = 99, **more: Any) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """The arrays and the epoch means of a run on the mixture, its statistics held."""
    net = seeded(lambda: Room(room))
    recipe = recipe_of(net, names)
    recipe.tell(**{"optimizer": "sgd", "shuffle": False, "epochs": 2, **more})
    recipe.tell(learning_rate_multipliers={"encoder.1": FROZEN})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = Run(etude.Plan(**recipe.plan()), net, table(12)).result()
    told = {name: list(of.values) for name, of in result.history.items() if name.startswith(("epoch.", "val."))}
    assert result.final_net is not None
    return arrays(result.final_net), told


def assert_close(one: Any, other: Any) -> None:
    for name, array in one[0].items():
        assert torch.allclose(array, other[0][name], atol=2e-5), name
    assert one[1].keys() == other[1].keys()
    for name, values in one[1].items():
        assert values == pytest.approx(other[1][name], rel=1e-4, abs=1e-5), name


@law
@given(TERMS, st.sampled_from([(2, 3), (3, 2), (1, 6), (4, 2)]))
def test_accumulated_is_unsplit_under_everything(names: tuple[str, ...], parts: tuple[int, int]) -> None:
    size, number = parts
    whole_ = made(names, batch_size=size * number)
    assert_close(whole_, made(names, batch_size=size, accumulate=number))


@law
@given(TERMS, st.integers(1, 5))
def test_split_for_want_of_memory_is_unsplit_under_everything(names: tuple[str, ...], room: int) -> None:
    whole_ = made(names, batch_size=6)
    assert_close(whole_, made(names, room, batch_size=6, out_of_memory="split"))


class Late(Whole):
    """Memory runs out before it has drawn, or after."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        full = self.training and len(x) > 3
        if full and self.first:
            raise torch.OutOfMemoryError("no room")
        drawn = torch.rand(len(x), 1)
        if full:
            raise torch.OutOfMemoryError("no room")
        out: Tensor = super().forward(x)
        return out * drawn


def test_what_was_drawn_before_memory_ran_out_is_drawn_again() -> None:
    nets = [seeded(lambda first=first: Late(first)) for first in (True, False)]
    for net in nets:
        plan = etude.Plan("cross_entropy", out_of_memory="split", batch_size=4, epochs=2, optimizer="sgd")
        Run(plan, net, table(12)).result()
    assert all(alike(one, two) for one, two in zip(*(net.parameters() for net in nets), strict=True))


class Crowded(Recogniser):
    """The same for sequences."""

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        if self.training and len(audio) > 2:
            raise torch.OutOfMemoryError("no room")
        return super().forward(audio)


def test_sequences_that_are_split_for_want_of_memory_are_unsplit() -> None:
    """Connectionist temporal classification, masks, a penalty, errors and an exponent, each over its own count."""
    loss = all_of_it(flat=(losses.activation(nn.Tanh, "l2"), 0.1), norm=(losses.l2("decoder"), 0.01))
    options: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.5, "epochs": 2, "progress": False, "loss": loss}
    found = []
    for net, more in ((Recogniser(), {}), (Crowded(), {"out_of_memory": "split"})):
        net.encoder[2].p = 0.0
        result = etude.train(net, data(7), **options, **more)
        found.append((arrays(net), {n: list(s.values) for n, s in result.history.items() if n.startswith("epoch.")}))
    assert_close(*found)


def test_every_step_is_told() -> None:
    """Of a run with everything that can be split each step is a step, whatever it was cut into."""
    net = Room(1)
    recipe = recipe_of(net, compatible(SPLITTABLE))
    recipe.tell(out_of_memory="split", batch_size=4, epochs=2, learning_rate_multipliers={"encoder.1": FROZEN})
    events = list(Run(etude.Plan(**recipe.plan()), net, table(12)))
    assert [int(event.progress.step) for event in events if isinstance(event, Stepped)] == [1, 2, 3, 4, 5, 6]
