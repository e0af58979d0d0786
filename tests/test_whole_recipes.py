"""Whole recipes: rates in mixed units with a control that listens, and everything under the optimizers as they come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

import etude
from all_at_once import BIG, compatible, mixture, recipe_of, whole
from etude import Evaluate, Progress, Run, epochs, every, fraction, linear, newbob, pieces, steps, warmup
from etude.run.events import Evaluated, Stepped
from jobs import Pairs, table
from small import arrays, same
from stories import follow

RATE = 0.05
PER, LONG = 4, 5
"""Steps in an epoch, and epochs."""


def falls(scores: Sequence[float], begin: int) -> float:
    """The rate after these looks by a control that halves it below an improvement of a tenth, and began after some."""
    rate = RATE
    for i, (old, new) in enumerate(pairwise(scores), 2):
        if i > begin and (old - new) / abs(old) < 0.1:
            rate /= 2
    return rate


def test_warm_up_constant_control_reset_and_decay_in_mixed_units() -> None:
    """Warmed up by steps, constant for an epoch, controlled for two, back at the start, linear over the last fifth."""
    control = newbob("val.loss", start=RATE, decay=0.5, growth=1.0, min_improvement=0.1)
    rate = warmup(steps(3)) * pieces(RATE, (epochs(1), control), (epochs(3), RATE), (fraction(0.8), linear(RATE, 0.0)))
    plan = etude.Plan(
        "cross_entropy",
        optimizer="sgd",
        learning_rate=rate,
        epochs=LONG,
        batch_size=3,
        validation=Evaluate(table(6, 3), every=every(steps(2))),
    )
    scores: list[float] = []
    found: list[float] = []
    expected: list[float] = []
    for event in Run(plan, whole(), table(12)):
        if isinstance(event, Stepped):
            step = int(event.progress.step) - 1
            base = RATE
            if PER <= step < 3 * PER:
                # One look, in the middle of the first epoch, was before the control's clock began.
                base = falls(scores, 2)
            elif step >= 4 * PER:
                base = RATE * (1 - (step - 4 * PER) / PER)
            found.append(event.rate)
            expected.append(base * warmup(steps(3)).at(Progress(step=step)))
        if isinstance(event, Evaluated):
            scores.append(event.scores["loss"])
    assert len(found) == PER * LONG
    assert found == pytest.approx(expected)
    assert min(found[PER : 3 * PER]) < RATE, "the control never acted"
    assert found[3 * PER] == pytest.approx(RATE)


SPOKEN = compatible(
    ("smoothing", "a weight that listens", "reaching a part", "errors", "a weight of 0", "penalties", "perplexity")
)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_kind_of_term_under_an_optimizer_as_it_comes(optimizer: str) -> None:
    recipe = recipe_of(whole(), SPOKEN)
    given: dict[str, Any] = {**recipe.plan(), "optimizer": optimizer}
    del given["learning_rate"]
    before = arrays(recipe.net)
    result = Run(etude.Plan(**given), recipe.net, Pairs()).result()
    assert all(torch.isfinite(array).all() for array in arrays(recipe.net).values())
    assert not same(before, arrays(recipe.net))
    told = {"epoch.wrong", "epoch.exp.perplexity", "weight.aux", "setting.ce.smoothing", "val.none"}
    assert told <= set(result.history)


OTHERS = ("carried", "noise", "rolled back", "dropped weights", "penalties")


@pytest.mark.parametrize(
    "names",
    [
        SPOKEN,
        ("carried", "noise", "rolled back", "dropped weights", "penalties"),
        # What it draws would be seen by the next micro-batch.
        ("accumulated", "split"),
    ],
    ids=" + ".join,
)
def test_a_term_of_weight_0_is_as_none_among_all_others(names: tuple[str, ...]) -> None:
    names = tuple(name for name in names if name != "a weight of 0")
    found = []
    for added in ((), ("a weight of 0",)):
        of = mixture(*names, *added)
        net = whole()
        result = Run(etude.Plan(**of.options(net)), net, Pairs()).result()
        assert result.final_net is not None
        found.append((arrays(result.final_net), result.history["val.loss"].values))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("a weight that listens", "weight.aux"),
        ("a weight that follows", "weight.tuned"),
        ("a temperature of a term", "setting.soft.temperature"),
        ("a knob that listens", "knob.slope"),
        ("a knob relative to what was", "knob.eps"),
        ("newbob back to the best", "rate"),
        ("newbob of an epoch", "rate"),
        ("plateau in pieces", "rate"),
        ("a rate that follows", "rate"),
        ("parts that follow scores", "setting.learning_rate[aux]"),
    ],
)
def test_what_listens_is_told_in_a_run(name: str, series: str) -> None:
    recipe = recipe_of(whole(), (name,))
    result = Run(etude.Plan(**recipe.plan()), recipe.net, Pairs()).result()
    # Two looks and an epoch have been made by then.
    assert len(set(result.history[series].values[4:])) > 1


@pytest.mark.parametrize("name", ["stops without improvement", "stops when reached"])
def test_conditions_for_the_end_are_told_in_a_run(name: str) -> None:
    recipe = recipe_of(whole(), (name,))
    result = Run(etude.Plan(**recipe.plan()), recipe.net, Pairs()).result()
    assert result.stop_reason == "stop"
    assert result.steps < 8 or "val.loss" in (result.stop_message or "")


@pytest.mark.parametrize("way", ["newbob back to the best", "rolled back"])
def test_a_net_that_goes_back_has_the_knobs_of_now(way: str) -> None:
    """Also in a buffer, which goes back with the other arrays: the look, the file and the net see the value of now."""
    story = follow(mixture("a buffer as a knob", way))
    written = [picture["knobs"]["written"]["temperature"] for step, picture in story.pictures.items() if step]
    held = [picture["knob temperature"][0] for step, picture in story.pictures.items() if step]
    assert [float.fromhex(one) for one in held] == pytest.approx([float.fromhex(one) for one in written])
    assert len(set(written)) == len(written)


def test_everything_is_in_the_history() -> None:
    net = whole()
    result = Run(etude.Plan(**BIG["everything"].options(net)), net, Pairs()).result()
    series = set(result.history)
    assert {"knob.slope", "knob.temperature", "knob.strength", "knob.eps", "knob.p[Dropout]"} <= series
    assert {"weight.aux", "weight.tuned", "setting.ce.smoothing", "setting.soft.temperature"} <= series
    assert {"setting.momentum", "setting.accumulate", "probe.encoder.gradient.norm", "val.macro_f1"} <= series
    assert "confusion" in result.tables
