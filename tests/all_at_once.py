"""Everything that a plan can schedule, each as one ingredient, to be mixed at will on one small net.

    of = mixture("noise", "a knob that listens", "skipped steps")
    follow(of)                      # see stories.py

Ingredients add to one plan: terms to its loss, knobs to its knobs, settings to its settings. Every mixture of them is a
plan that can be carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf, nan
from typing import Any

import torch
from torch import Tensor, nn

import etude
from etude import (
    Evaluate,
    Probe,
    Progress,
    cosine,
    cycle,
    decay,
    ema,
    epochs,
    every,
    everything,
    following,
    fraction,
    limit,
    linear,
    losses,
    newbob,
    no_improvement,
    part,
    phase,
    phases,
    pieces,
    plateau,
    reached,
    roll_back,
    skip,
    steps,
    swa,
    times,
    warmup,
)
from etude.layers import StochasticDepth
from jobs import CLASSES, WIDTH, Job, Noticing, Pairs, table
from nets import seeded

HIDDEN = 6


class Whole(nn.Module):
    """Normalisation, dropout, a branch that is left out by chance, two heads, and numbers that knobs can turn."""

    def __init__(self) -> None:
        super().__init__()
        body = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.Tanh(), nn.Dropout(0.1))
        self.encoder = body
        self.block = StochasticDepth(nn.Linear(HIDDEN, HIDDEN), p=0.2)
        self.head, self.twin = nn.Linear(HIDDEN, CLASSES), nn.Linear(HIDDEN, CLASSES)
        self.aux = nn.Linear(HIDDEN, CLASSES)
        self.register_buffer("temperature", torch.tensor(1.0))
        self.slope = 1.0
        # Samples for which there is memory while training.
        self.room = 99
        # Of two arrays that may be tied.
        nn.init.zeros_(self.head.bias)
        nn.init.zeros_(self.twin.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > self.room:
            raise torch.OutOfMemoryError("no room")
        hidden = self.block(self.encoder(x)) * self.slope
        out: Tensor = (self.head(hidden) + self.twin(hidden) + 0.1 * self.aux(hidden)) / self.temperature
        return out


class Own:
    """Numbers of the user's own."""

    def __init__(self) -> None:
        self.strength, self.spoil = 1.0, 0.0


@dataclass
class Recipe:
    """A plan in the making.

    Attributes:
        net: that is trained. own: numbers of the user's. loss, knobs, metrics, probes: of the plan.
        options: the others.
    """

    net: nn.Module
    own: Own = field(default_factory=Own)
    loss: dict[str, Any] = field(default_factory=lambda: {"ce": "cross_entropy"})
    knobs: dict[str, Any] = field(default_factory=dict)
    metrics: list[Any] = field(default_factory=lambda: ["accuracy"])
    probes: list[Probe] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def plan(self) -> dict[str, Any]:
        """The options of the plan."""
        given: dict[str, Any] = {"loss": self.loss, "batch_size": 4, "seed": 3, "learning_rate": 0.02, "epochs": 3}
        looks = self.options.get("looks", steps(2))
        given["validation"] = Evaluate(table(6, 3), self.metrics, every=every(looks), best="loss")
        given |= {"knobs": self.knobs} if self.knobs else {}
        given |= {"probes": self.probes} if self.probes else {}
        return given | {name: value for name, value in self.options.items() if name != "looks"}

    def tell(self, **options: Any) -> None:
        """Set options that have no other place."""
        self.options |= options


# ------------------------------------------------------------------------------------------------------- functions


def sharper(scores: dict[str, tuple[float, ...]]) -> float:
    """A number for each state of the scores."""
    found = scores["val.loss"]
    return 1.0 if not found else 0.5 + 0.25 * (len(found) % 3) + 0.1 * (found[-1] < found[0])


def hidden_states(net: nn.Module, batch: Any) -> Tensor:
    """What the encoder gives, as a number: a term of (net, batch)."""
    out: Tensor = net.get_submodule("encoder")(batch[0]).square().mean()
    return out


def beside_ce(net: nn.Module, batch: Any) -> Tensor:
    """The loss of the other head alone: it draws, and moves statistics, a second time."""
    hidden = net.get_submodule("block")(net.get_submodule("encoder")(batch[0]))
    return nn.functional.cross_entropy(net.get_submodule("aux")(hidden), batch[1])


def softer(output: Tensor, target: Tensor, temperature: float) -> Tensor:
    return nn.functional.cross_entropy(output / temperature, target)


def _noticing_ce() -> Any:
    return etude.losses.term(Noticing(), 0.2)


def _spoiling(own: Own, value: bool) -> Callable[[nn.Module, Any], Tensor]:
    """A term that breaks when it is told to: its value, or the gradient of one array alone."""

    def spoiling(net: nn.Module, batch: Any) -> Tensor:
        weight = net.get_parameter("aux.bias")
        if not own.spoil:
            return 0 * weight.sum()
        return weight.sum() * nan if value else (weight - weight.detach()).square().sum().sqrt()

    return spoiling


def _distance(own: Own) -> Callable[[nn.Module, Any], Tensor]:
    """A term that goes by a number of the user's."""
    return lambda net, batch: own.strength * net.get_parameter("encoder.0.weight").square().mean()


def _with_terms(recipe: Recipe, **terms: Any) -> None:
    recipe.loss.update(terms)


def _spoil(recipe: Recipe, value: bool, when: Any) -> None:
    recipe.loss["broken"] = losses.term(_spoiling(recipe.own, value), 1.0, only="training")
    recipe.knobs["spoil"] = [(recipe.own, when)]


def _rate(recipe: Recipe, rate: Any, **more: Any) -> None:
    recipe.tell(learning_rate=rate, **more)


def _schedule_of_parts(recipe: Recipe, **more: Any) -> None:
    recipe.tell(update_schedule=[everything, part("encoder") | "block", part("head") | "twin", "aux"], **more)


def _phases() -> dict[str, Any]:
    rows = (
        phase(0.3, learning_rate=linear(0.001, 0.02), weight_decay=0.1),
        phase(0.4, learning_rate=0.02, weight_decay=linear(0.1, 0.0)),
        phase(0.3, learning_rate=linear(0.02, 0.001), weight_decay=0.0),
    )
    return dict(phases(*rows))


def _stop(progress: Progress) -> bool:
    return progress.step >= 8


# ----------------------------------------------------------------------------------------------------- ingredients


_BOB = {"start": 0.05, "min_improvement": 0.5, "growth": 1.0}
INGREDIENTS: dict[str, Callable[[Recipe], None]] = {
    # the loss
    "smoothing": lambda r: _with_terms(r, ce=losses.cross_entropy(smoothing=linear(0.3, 0))),
    "a weight that listens": lambda r: _with_terms(
        r, aux=losses.term(beside_ce, newbob("val.loss", decay=0.7, min_improvement=0.5))
    ),
    "a weight that follows": lambda r: _with_terms(
        r, tuned=losses.term(hidden_states, following(sharper, "val.loss", start=1.0))
    ),
    "reaching a part": lambda r: _with_terms(r, reached=losses.term(beside_ce, linear(1, 0.2), reaches="block")),
    "errors": lambda r: _with_terms(r, wrong=losses.error("error_rate")),
    "a weight of 0": lambda r: _with_terms(r, none=losses.term(hidden_states, 0.0)),
    "a weight that is 0 at times": lambda r: _with_terms(
        r, sometimes=losses.term(hidden_states, cycle(0.0, 0.3, 0.0, 0.0))
    ),
    "penalties": lambda r: _with_terms(
        r,
        l1=(losses.l1("encoder"), linear(1e-2, 0)),
        norm=(losses.spectral("head"), 1e-2),
        square=(losses.orthogonality("block"), 1e-2),
        flat=(losses.activation(nn.Tanh, "l1"), 1e-2),
    ),
    "perplexity": lambda r: _with_terms(r, exp=losses.term("cross_entropy", 0.1, exponent=True)),
    "in evaluation alone": lambda r: _with_terms(r, seen=losses.term(beside_ce, only="evaluation", exponent=True)),
    "a temperature of a term": lambda r: _with_terms(
        r, soft=losses.term(softer, 0.3, settings={"temperature": newbob("val.loss", start=4.0, min_improvement=0.5)})
    ),
    "a loss that remembers": lambda r: _with_terms(r, noticed=_noticing_ce()),
    # knobs
    "dropout that grows": lambda r: r.knobs.update(p={nn.Dropout: linear(0, 0.5), StochasticDepth: linear(0.5, 0)}),
    "a buffer as a knob": lambda r: r.knobs.update(temperature=cosine(2.0, 0.5)),
    "a knob that listens": lambda r: r.knobs.update(slope=newbob("val.loss", decay=0.8, min_improvement=0.3)),
    "a knob relative to what was": lambda r: r.knobs.update(
        eps={nn.BatchNorm1d: times(following(sharper, "val.loss", start=1.0))}
    ),
    "a knob of one's own": lambda r: (
        r.knobs.update(strength=[(r.own, cycle(0.5, 1.0, 2.0))]),
        _with_terms(r, own=(_distance(r.own), 0.1)),
    )[0],
    # the rate
    "newbob back to the best, afresh": lambda r: _rate(r, newbob("val.loss", back_to_best="clear", **_BOB)),
    "newbob back to the best": lambda r: _rate(r, newbob("val.loss", back_to_best="keep", **_BOB)),
    "newbob of an epoch": lambda r: _rate(
        r, warmup(steps(2)) * newbob("epoch.loss", start=0.05, min_improvement=0.5, pinned={2: 0.03})
    ),
    "plateau in pieces": lambda r: _rate(
        r, pieces(linear(0.001, 0.05, over=steps(3)), (steps(3), 0.05 * plateau("val.loss", patience=0, factor=0.5)))
    ),
    "a rate that follows": lambda r: _rate(r, 0.02 * following(sharper, "val.accuracy", "val.loss", start=1.0)),
    "phases": lambda r: r.tell(**_phases()),
    # gradients and arrays
    "clipping": lambda r: r.tell(
        clip_value=pieces(0.05, (epochs(1), None)), clip_norm={"encoder": linear(0.1, 1), everything: 0.3}
    ),
    "norms": lambda r: r.tell(
        clip_array_norm=cycle(0.1, 0.5), clip_mean_norm=0.02, max_norm={"encoder": 0.7}, clip_weights={"aux": 0.3}
    ),
    "dropped by norm": lambda r: r.tell(drop_norm={"encoder": pieces(0.05, (steps(4), None))}),
    "noise": lambda r: r.tell(noise=linear(0.1, 0), centralise=cycle(True, False)),
    "noise on weights": lambda r: r.tell(weight_noise={"encoder": linear(0.1, 0.01), "aux": 0.05}),
    "dropped weights": lambda r: r.tell(weight_dropout={"block": cycle(0.0, 0.5), "head.weight": 0.2}),
    "decays": lambda r: r.tell(shrink=decay(0.1), l2={"encoder": linear(0.2, 0)}),
    "drops what is not finite": lambda r: (
        r.tell(drop_non_finite={"aux": True}),
        _spoil(r, False, cycle(0.0, 0.0, 1.0)),
    )[0],
    "a tie that ends": lambda r: r.tell(tie={part("head.bias") | "twin.bias": pieces(True, (fraction(0.5), False))}),
    "carried": lambda r: _schedule_of_parts(r, carry={"encoder": "sum", everything: pieces("mean", (steps(4), "sum"))}),
    "parts that follow scores": lambda r: r.tell(
        learning_rate_multipliers={"aux": newbob("val.loss", decay=0.3, min_improvement=0.5)}
    ),
    # the step
    "accumulated": lambda r: r.tell(accumulate=pieces(1, (steps(3), 2)), epochs=4),
    "precision": lambda r: r.tell(precision=pieces("fp32", (steps(2), "bf16"), (steps(6), "fp32"))),
    "half precision": lambda r: r.tell(precision="fp16"),
    "skipped steps": lambda r: (_spoil(r, False, cycle(0.0, 0.0, 1.0, 1.0)), r.tell(non_finite=skip(most=3)))[0],
    "rolled back": lambda r: (
        _spoil(r, True, cycle(0.0, 0.0, 0.0, 1.0)),
        r.tell(non_finite=roll_back(0.5, every=steps(2), most=9)),
    )[0],
    "split": lambda r: (setattr(r.net, "room", 3), r.tell(out_of_memory="split"))[1],
    # beside the step
    "probes": lambda r: r.probes.extend(
        [
            Probe("encoder.2", "rms", every=steps(2)),
            Probe("encoder", "norm", of="gradient", every=steps(3)),
            Probe("head", "max", of="array", every=epochs(0.5)),
            Probe(everything, "norm", of="update", every=steps(1), each=True),
        ]
    ),
    "averages": lambda r: r.tell(averages=(ema(linear(0.5, 0.9), warm_up=True), swa("head", every=steps(2)))),
    "looked at with an average": lambda r: r.tell(averages=ema(0.7), evaluate_with="ema"),
    "rich metrics": lambda r: r.metrics.extend(["confusion", "macro_f1", Probe("encoder.2", "std")]),
    "initialised": lambda r: r.tell(
        initialize={"encoder.0.weight": "orthogonal", "block": "glorot_uniform", "*.bias": 0}
    ),
    # the end
    "stops without improvement": lambda r: r.tell(
        stop=no_improvement("val.loss", 2, min_delta=0.2, relative=True, warmup=steps(2)) | limit(steps(1e9))
    ),
    "stops when reached": lambda r: r.tell(
        stop=reached("epoch.loss", below=inf, looks=2) & no_improvement("val.accuracy", 0) | _stop
    ),
    "sgd": lambda r: r.tell(optimizer="sgd", momentum=pieces(0.9, (steps(4), 0.0), (steps(6), 0.5))),
    "nadam": lambda r: r.tell(optimizer="nadam"),
    "lion": lambda r: r.tell(optimizer="lion"),
}
"""What a plan can have, each with what it adds."""

OF_ONE_KIND: tuple[frozenset[str], ...] = (
    frozenset(
        (
            *("newbob back to the best, afresh", "newbob back to the best", "newbob of an epoch", "phases"),
            *("plateau in pieces", "a rate that follows"),
        )
    ),
    frozenset(("skipped steps", "rolled back", "drops what is not finite")),
    frozenset(("precision", "half precision")),
    frozenset(("averages", "looked at with an average")),
    frozenset(("stops without improvement", "stops when reached")),
    frozenset(("sgd", "nadam", "lion")),
    # The arrays that are tied have to have the same settings.
    frozenset(("phases", "sgd")),
    # Two of them say what the weight decay is.
    frozenset(("phases", "decays")),
)
"""Of each of these a plan has one."""


def compatible(names: Iterable[str]) -> tuple[str, ...]:
    """Of some ingredients those that can be in one plan: the first of each kind."""
    kept: list[str] = []
    for name in names:
        if not any(name in kind and kind.intersection(kept) for kind in OF_ONE_KIND):
            kept.append(name)
    return tuple(kept)


def recipe_of(net: nn.Module, names: Iterable[str]) -> Recipe:
    """The recipe of some ingredients for a net."""
    made = Recipe(net)
    for name in names:
        INGREDIENTS[name](made)
    return made


def whole(seed: int = 1) -> nn.Module:
    net: nn.Module = seeded(Whole, seed)
    return net


def mixture(*names: str, net: Callable[[int], nn.Module] = whole, **more: Any) -> Job:
    """The job with these ingredients, in order; `more` are options in place of its own."""
    return Job(
        -1,
        " + ".join(names) or "plain",
        net,
        Pairs,
        lambda net: recipe_of(net, names).plan() | more,
    )


FIRST = compatible(
    name for name in INGREDIENTS if name not in ("phases", "skipped steps", "newbob back to the best, afresh", "nadam")
)
SECOND = compatible(reversed(INGREDIENTS))
BIG: dict[str, Job] = {"everything": mixture(*FIRST), "everything else": mixture(*SECOND)}
"""As much in one plan as there can be."""
