"""Scores that change while the net stands still: means of losses whose weights or settings change during the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import nn

from etude.bind.knobs import Knobs
from etude.errors import EtudeError
from etude.run.evaluate import Evaluator
from etude.step.losses.own import MAIN
from etude.step.term import Term
from etude.step.work import Work
from etude.values.preview import moments
from etude.values.progress import Extent, Progress
from etude.values.schedule import Schedule

_ASKED = 257
"""Moments of a run of known length at which schedules are asked."""
_FADING = 3
_AHEAD = tuple(2**n for n in range(21))
"""Steps at which they are asked where the length is not known."""


@dataclass
class Ruler:
    """The losses that are measured, and why some of them are no steady measure.

    Attributes:
        moved: by name of a score, what in it changes during the run, in words; nothing for a steady one.
        steady: names of steady terms: what is minimised, what is for evaluation, then errors.
        fading: those with a weight that changes.
    """

    moved: dict[str, list[str]] = field(default_factory=dict)
    steady: list[str] = field(default_factory=list)
    fading: list[str] = field(default_factory=list)


def ruler(works: Sequence[Work], knobs: Knobs | None, extent: Extent, evaluator: Evaluator | None = None) -> Ruler:
    """What is measured of the losses: at the looks of an evaluator, or in training where none is given."""
    asked = _over(extent) if evaluator is None else _looks(evaluator, extent)
    made, ranked = Ruler(), list[tuple[int, str]]()
    for work in works:
        losses = work.losses if evaluator is None else work.losses.evaluation
        total, names = work.names(len(works) == 1, looking=evaluator is not None)
        for one, name in zip(losses.terms, names, strict=True):
            own = _settings(one, asked) + _knobs(one, knobs)
            made.moved.setdefault(name, []).extend(own)
            weighs = not one.error and (len(names) == 1 or _values(one.weight, asked) != {0})
            if not own and one.entry in ("", MAIN):
                ranked.append((_rank(one, weighs, asked), name))
            weight = [f"'weight.{one.name}' ({one.weight!r})"] if _changes(one.weight, asked) else []
            for sum_ in dict.fromkeys((total, "loss")) if weighs else ():
                made.moved.setdefault(sum_, []).extend(weight if sum_ == name else own + weight)
        for name, perplexity in work.exponents(len(works) == 1, evaluator is not None).items():
            made.moved[perplexity] = made.moved[name]
    for rank, name in sorted(ranked, key=lambda pair: pair[0]):
        if not made.moved.get(name):
            (made.fading if rank == _FADING else made.steady).append(name)
    return made


def _rank(one: Term, weighs: bool, asked: Sequence[Progress]) -> int:
    """How good a measure a steady term is: the smaller, the better."""
    if one.error:
        return 2
    return 1 if not weighs else _FADING if _changes(one.weight, asked) else 0


def _settings(one: Term, asked: Sequence[Progress]) -> list[str]:
    """The settings of a term that change; what it reports besides its loss are counts, which they do not touch."""
    if one.entry not in ("", MAIN):
        return []
    return [f"'{one.name}.{key}' ({of!r})" for key, of in one.settings.items() if _changes(of, asked)]


def _knobs(one: Term, knobs: Knobs | None) -> list[str]:
    """Knobs that are attributes of the loss itself."""
    if knobs is None or not isinstance(one.function, nn.Module):
        return []
    inside = set(map(id, one.function.modules()))
    return [f"the knob {dial.name!r} of the loss" for dial in knobs.dials if id(dial.owner) in inside]


def _changes(of: Schedule, asked: Sequence[Progress]) -> bool:
    return not of.constant and (of.reactive or len(_values(of, asked)) > 1)


def _values(of: Schedule, asked: Sequence[Progress]) -> set[Any]:
    """What a schedule says at these moments, where it says something, with nothing heard."""
    found = set()
    for progress in asked[:1] if of.constant else asked:
        try:
            found.add(of.at(progress))
        except EtudeError:
            continue
    return found


def _over(extent: Extent) -> list[Progress]:
    """Moments of the run, the last step included."""
    if not any(extent.known()):
        return [Progress(step, step, step, step, extent) for step in _AHEAD]
    return moments(extent, _ASKED, unknown=0.0)


def _looks(evaluator: Evaluator, extent: Extent) -> list[Progress]:
    """About the moments at which the validation data are looked at, as far as the clock alone tells."""
    if not any(extent.known()):
        return _over(extent)
    lengths: Mapping[str, float] = dict(extent.known())
    steps, epochs, samples, tokens = (lengths.get(unit, 0.0) for unit in ("steps", "epochs", "samples", "tokens"))
    asked = [*_over(extent), Progress(steps, epochs, samples, tokens, extent)]
    try:
        due = [after for before, after in pairwise(asked) if evaluator.cadence.due(before, after)]
    except EtudeError:
        return asked
    return due or asked
