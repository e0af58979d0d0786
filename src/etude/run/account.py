"""Gives an account of a run in words and pictures: before it from the plan, after it from the result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etude.bind.show import decayed
from etude.bind.table import Choice
from etude.data.assembled import Assembled
from etude.draw import plots
from etude.draw.score import score_steps
from etude.run.checked import Checked
from etude.run.in_force import InForce
from etude.run.pace import Pace
from etude.run.played import played
from etude.step.loss import Term
from etude.step.losses.own import OwnLoss
from etude.step.work import Work
from etude.values.progress import Progress
from etude.values.schedule import Schedule, constant
from etude.values.series import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from etude.run.history import History
    from etude.run.result import Result


def summary(checked: Checked, resumed: str | None = None) -> dict[str, Any]:
    """The facts of a run for its first event."""
    tree = checked.works[0].stepper.table.tree
    alone = len(checked.works) == 1
    return {
        "parameters": sum(p.numel() for p in checked.net.parameters()),
        "trainable": sum(tree.arrays[name].numel() for name in tree.trainable if name not in checked.idle),
        "steps": None if checked.extent.steps is None else int(checked.extent.steps),
        "epochs": checked.extent.epochs,
        "batch_size": checked.flow.batch_size,
        "batches_per_epoch": checked.flow.batches_per_epoch,
        "samples": checked.flow.samples,
        "device": str(checked.device),
        "precision": str(checked.plan.precision),
        "seed": checked.plan.seed,
        "optimizer": ", ".join(dict.fromkeys(work.stepper.name for work in checked.works)),
        "updates": tuple(work.name for work in checked.works),
        "terms": tuple(term for work in checked.works for term in work.names(alone)[1]),
        "best_by": None if checked.evaluator is None else checked.evaluator.best_by,
        "resumed": resumed,
    }


def show(checked: Checked) -> str:
    """What will happen, as text."""
    extent, flow = checked.extent, checked.flow
    known = [_amount(unit, length) for unit, length in extent.known()]
    if extent.steps is None and (followed := Pace(checked).followed):
        known = [_amount("steps", followed), *known]
    lines = [
        f"Run: {', '.join(known) or 'length not known'}; {_batches(checked)}; "
        f"{checked.device}, {checked.plan.precision}, seed {checked.plan.seed}"
    ]
    lines += [f"Chosen: {name} = {value}" for name, value in checked.chosen.items()]
    if isinstance(flow.source, Assembled) and flow.source.random_access:
        lines += [f"Data, {flow.report(0)}"]
    for work in checked.works:
        lines.append("")
        if len(checked.works) > 1:
            lines.append(f"Update {work.name!r}:")
        lines.append(_loss_text(work))
        lines += _turn_text(work)
        lines.append(f"{work.stepper.name}: {_settings_text(work)}")
        acts = None if work.turns.listens or work.update.turn is None else work.turns.at
        lines.append(work.stepper.table.show(extent, acts))
        lines += decayed(work.stepper.table)
    if checked.origins is not None:
        lines += ["", "First values:", str(checked.origins)]
    if checked.plan.stop is not None:
        lines += ["", f"Stops: {checked.plan.stop!r}"]
    if checked.probes is not None:
        lines += ["", f"Probes: {', '.join(checked.probes.labels)}"]
    if checked.knobs:
        lines += ["", "Knobs:", *(f"  {line}" for line in checked.knobs.show(extent).splitlines())]
    for name, one in checked.averages.each.items():
        used = "; validation data are looked at with it" if name == checked.plan.evaluate_with else ""
        lines += ["", f"Average {name!r}: {one.average!r}, of {len(one.names)} arrays{used}"]
    if checked.idle:
        lines += ["", f"Never moved: {', '.join(checked.idle)}"]
    return "\n".join(lines)


def _batches(checked: Checked) -> str:
    """How large batches are, and how many of them make a step."""
    flow, several = checked.flow, checked.plan.accumulate
    source = flow.source
    of = f"of {flow.batch_size or 'their own size'}"
    if flow.batch_size is None and isinstance(source, Assembled):
        batching = source.batching
        limits = ", ".join(map(repr, batching.limits)) or repr(batching.buckets)
        of = f"of {limits} in order {batching.order!r}"
    return f"batches {of}" if several == 1 else f"steps of {several!r} batches {of}"


def _loss_text(work: Work) -> str:
    """The terms of an update and their weights, where there is something to say."""
    every = {term.name: term for term in (*work.losses.terms, *work.losses.evaluation.terms)}
    terms = [term for term in every.values() if not term.error and term.only != "evaluation"]
    beside = [term for term in every.values() if term.error or term.only == "evaluation"]
    if len(terms) == 1 and terms[0].weight == constant(1.0):
        told = f"loss: {_named(terms[0])}"
    else:
        told = "loss: " + " + ".join(_number(term.weight) + _term_text(term) for term in terms)
    told += "".join(f", {term.name!r} reaches {term.reaches!r}" for term in terms if term.reaches is not None)
    return told + (f"; reported: {', '.join(term.name for term in beside)}" if beside else "")


def _turn_text(work: Work) -> list[str]:
    """When an update acts, where it is not once in each step."""
    turn = work.update.turn
    if turn is None or turn == constant(True) or turn == constant(1):
        return []
    if not turn.constant:
        return [f"turn: {turn!r}" + (", which only the run can tell" if work.turns.listens else "")]
    times = work.turns.at(Progress())
    return [f"turn: {times} times in each step" if times else "turn: never"]


def _settings_text(work: Work) -> str:
    """Every setting with the value of the call; of one that rules decide for all arrays, which have others, that."""
    table = work.stepper.table
    own = {name for name in table.settings if all(_is_by_part(one[name]) for one in table.choices.values())}
    told = {name: value for name, value in work.stepper.settings().items() if name != "name"}
    return ", ".join(f"{name} {'by part' if name in own else value}" for name, value in told.items())


def _is_by_part(choice: Choice) -> bool:
    """Whether a rule decides without regard to the value of the call."""
    return choice.rule != "no rule" and (choice.base is None or choice.factor is None)


def _term_text(term: Term) -> str:
    return term.name if term.name == _named(term) else f"{term.name} ({_named(term)})"


def _number(weight: Schedule) -> str:
    if not weight.constant:
        return f"({weight!r}) * "
    value = weight.at(Progress())
    return "" if value == 1 else f"{value:g} * "


def _named(term: Term) -> str:
    if isinstance(term.function, OwnLoss):
        return repr(term.function)
    return getattr(term.function, "__name__", type(term.function).__name__)


def _amount(unit: str, length: float) -> str:
    if unit == "epochs":
        return f"{length:.4g} epochs"
    return f"{'' if length == round(length) else 'about '}{round(length):,} {unit}"


def score_of(checked: Checked, pace: Pace, history: History | None = None) -> dict[str, Any]:
    """Names, steps done before each step shown, and the rate of every array at each of them; None where it is held.

    With a history what was, else what is planned, with nothing heard of scores.
    """
    shown = score_steps(max(pace.steps, 1))
    names, table = _rates(checked, shown, pace.at(shown), history)
    rates = table.astype(object)
    rates[np.isnan(table)] = None
    return {"names": names, "steps": shown, "rates": rates.tolist()}


def _rates(
    checked: Checked, steps: Sequence[int], moments: Sequence[Progress], history: History | None = None
) -> tuple[list[str], NDArray[np.float64]]:
    """Names, and the rate of every array at each moment: of shape (arrays, moments), NaN where it is held."""
    rates: dict[str, NDArray[np.float64]] = {}
    for work in checked.works:
        if history is not None and "rate" in history:
            found = played(work, checked.works, history, steps, moments)
        else:
            found = work.stepper.table.score(moments)[1]
        # A turn that listens to losses is only known in the run: its update is planned as if it always acted.
        if not work.turns.listens and work.update.turn is not None:
            found[:, [not work.turns.at(progress) for progress in moments]] = np.nan
        for name, row in zip(work.stepper.table.names, found, strict=True):
            # An array that several updates move: the last of them that moves it in a step is shown.
            rates[name] = np.where(np.isnan(row), rates[name], row) if name in rates else row
    return list(rates), np.array(list(rates.values())).reshape(len(rates), len(moments))


def plot_plan(checked: Checked, path: str | Path | None) -> Figure:
    """The score before the run."""
    pace = Pace(checked)
    shown = score_steps(max(pace.steps, 1))
    moments = pace.at(shown)
    names, rates = _rates(checked, shown, moments)
    return plots.plot_score(names, moments, rates, path=path, knobs=_scheduled(checked, moments))


def _scheduled(checked: Checked, moments: Sequence[Progress]) -> dict[str, list[Any]]:
    """What changes besides learning rates, by label a value at each moment; nothing is heard of scores."""
    force = InForce(checked)
    found: dict[str, list[Any]] = {}
    for at, moment in enumerate(moments):
        for name, value in force.at(moment).items():
            if not (name.startswith("knob.") or _RATE_OF_RULE.fullmatch(name)):
                found.setdefault(_lane_name(name), [None] * len(moments))[at] = value
    if not isinstance(checked.plan.precision, str):
        found["precision"] = [checked.plan.precision.at(moment) for moment in moments]
    knobs = {} if checked.knobs is None else checked.knobs.series(moments)
    # Knobs first: where there are many lines, the last are not drawn.
    return {**{label: list(values) for label, values in knobs.items() if len(set(values)) > 1}, **found}


def _happened(result: Result, steps: Sequence[float] | None = None) -> tuple[list[float], dict[str, list[Any]]]:
    """What changed besides learning rates in a run, by label: the value that was in force at each step."""
    kinds = ("knob.", "setting.", "weight.")
    wanted = sorted((name for name in result.history if name.startswith(kinds)), key=lambda name: name[:5] != "knob.")
    shown = {name: result.history[name] for name in wanted if not _RATE_OF_RULE.fullmatch(name)}
    shown = {name: own for name, own in shown.items() if len(set(own.values)) > 1}
    if steps is None:
        steps = sorted({step - 1 for own in shown.values() for step in own.steps})
    return list(steps), {_lane_name(name): _values_at(own, steps) for name, own in shown.items()}


def _values_at(own: Series, steps: Sequence[float]) -> list[float]:
    """The values of a series at steps, each given by the steps made before it; the one before where there is none."""
    places = np.searchsorted(np.asarray(own.steps), np.asarray(steps) + 1, side="right") - 1
    return [own.values[place] if place >= 0 else np.nan for place in places]


_RATE_OF_RULE = re.compile(r"setting\.(.+\.)?learning_rate(\[.*\])?")
"""Drawn as the colours of the score."""


def _lane_name(name: str) -> str:
    """A name of the history as it stands beside a line."""
    kind, _, label = name.partition(".")
    return f"weight of {label}" if kind == "weight" else label


def plot_result(result: Result, what: str, path: str | Path | None) -> Figure:
    """A figure of a result; see `Result.plot`."""
    if what == "score":
        return _plot_score(result, path)
    if what == "knobs":
        steps, lines = _happened(result)
        return plots.plot_lanes(lines, steps, path=path)
    if what == "rates":
        return plots.plot_rates(result.history, path=path)
    return plots.plot_series(result.history, _series(result, what), path=path)


def _series(result: Result, what: str) -> Sequence[str]:
    if what == "loss" and len(result.optimizer) > 1:
        # The losses of several updates in one line would be no curve of anything.
        return [f"{name}.loss" for name in result.optimizer if f"{name}.loss" in result.history]
    wanted = [name for name in (what, f"epoch.{what}", f"val.{what}") if name in result.history]
    return wanted or [what]


def _plot_score(result: Result, path: str | Path | None) -> Figure:
    score = result.score
    rates = np.array([[np.nan if value is None else value for value in row] for row in score["rates"]], dtype=float)
    table = rates.reshape(len(score["names"]), -1)
    ends = sorted({step for name in result.history if name.startswith("epoch.") for step in result.history[name].steps})
    clock = [Progress(step, float(np.searchsorted(ends, step, side="right"))) for step in score["steps"]]
    knobs = _happened(result, score["steps"])[1]
    return plots.plot_score(score["names"], clock, table, path=path, knobs=knobs)
