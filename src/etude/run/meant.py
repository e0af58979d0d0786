"""What a plan says that can hardly be meant: told before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING

from etude.bind.knobs import Knobs
from etude.bind.table import RATE
from etude.errors import RuleError, warn
from etude.run.evaluate import Evaluator
from etude.run.ruler import Ruler, ruler
from etude.step.work import Work
from etude.values.algebra import Arithmetic, Constant
from etude.values.preview import moments
from etude.values.progress import Extent, Progress
from etude.values.schedule import Schedule, schedule
from etude.values.scores import direction
from etude.values.unbegun import never_begun

if TYPE_CHECKING:
    from etude.run.plan import Plan

BEST, PATIENCE = "The best net", "patience="
_LONG = 160
"""Schedules with a longer text are told by their beginning."""


def check_meant(
    plan: Plan, works: tuple[Work, ...], knobs: Knobs | None, evaluator: Evaluator | None, extent: Extent
) -> None:
    """Warn of what would be done and can hardly be meant.

    That is: going by a score whose measure changes during the run, pieces of schedules that are never reached,
    schedules that listen to validation data which are not looked at before the run ends, and rates that are always 0.

    Raises:
        RuleError: there is such a thing, and the plan is strict.
    """
    found = [*_moving(plan, works, knobs, evaluator, extent), *_unreached(plan, works, knobs, extent)]
    found += [*_deaf(works, knobs, evaluator, extent), *_standing(works)]
    if found and plan.strict:
        raise RuleError(" ".join(found))
    for text in found:
        warn(text)


def _schedules(works: Iterable[Work], knobs: Knobs | None) -> dict[Schedule, None]:
    """Every distinct schedule of settings, weights and knobs."""
    own = (of for work in works for of in (*work.stepper.table.schedules(), *work.losses.schedules()))
    return dict.fromkeys((*own, *(() if knobs is None else knobs.schedules())))


def _unreached(plan: Plan, works: tuple[Work, ...], knobs: Knobs | None, extent: Extent) -> Iterator[str]:
    turns = [work.update.turn for work in works if work.update.turn is not None]
    others = [schedule(value) for value in (plan.accumulate, plan.precision) if isinstance(value, Schedule)]
    for made in dict.fromkeys((*_schedules(works, knobs), *turns, *others)):
        found = list(never_begun(made, extent))
        if found:
            spans, piece = found[0]
            more = f", nor are {len(found) - 1} more" if found[1:] else ""
            when = " and then ".join(map(repr, spans))
            lasts = ", ".join(f"{length:g} {unit}" for unit, length in extent.known() if unit in ("steps", "epochs"))
            yield (
                f"{_short(made)}: the piece {_short(piece)}, which begins after {when}, is never reached{more}: "
                f"the run lasts {lasts or 'less'}. Write an earlier moment, or leave it out."
            )


def _deaf(works: tuple[Work, ...], knobs: Knobs | None, evaluator: Evaluator | None, extent: Extent) -> Iterator[str]:
    """Schedules that go by looks of which the first comes when the run is over."""
    # The last of many: where steps are not known, the last of two would be half of the run.
    asked = moments(extent, 1000, unknown=0.0)
    if evaluator is None or len(asked) < 2 or evaluator.cadence.due(asked[0], asked[-1], elapsed=inf):
        return
    for made in _schedules(works, knobs):
        heard = sorted(name for name in made.listens if name.startswith("val."))
        if heard and len(heard) == len(made.listens):
            yield (
                f"{_short(made)} listens to {', '.join(map(repr, heard))}, and validation data are not looked at "
                f"before the run ends: {evaluator.cadence!r}. Look sooner: validation=Evaluate(..., "
                "every=every(steps(100)))."
            )


def _standing(works: tuple[Work, ...]) -> Iterator[str]:
    """Updates in which nothing is frozen by a rule, and nothing ever moves: the rate of everything is 0."""
    for work in works:
        rates = [row.choices[RATE] for row in work.stepper.table.rows if not row.frozen]
        if rates and all(any(of is not None and _is_zero(of) for of in (one.base, one.factor)) for one in rates):
            of = "" if len(works) == 1 else f" of the update {work.name!r}"
            yield (
                f"The learning rate of every array{of} is 0 in every step, so that it moves nothing. Write a rate "
                "above 0, such as learning_rate=1e-3, or leave it out for that of the optimizer."
            )


def _is_zero(made: Schedule) -> bool:
    if isinstance(made, Arithmetic) and made.sign == "*":
        return any(map(_is_zero, made.children))
    return made.constant and made.at(Progress()) == 0


def _moving(
    plan: Plan, works: tuple[Work, ...], knobs: Knobs | None, evaluator: Evaluator | None, extent: Extent
) -> Iterator[str]:
    """Scores by which something goes, and of which weights or settings change."""
    if all(work.losses.constant and work.losses.evaluation.constant for work in works) and knobs is None:
        return
    looks = None if evaluator is None else ruler(works, knobs, extent, evaluator)
    training = ruler(works, knobs, extent)
    for score, followers in _followers(plan, works, knobs, evaluator).items():
        kind, _, name = score.partition(".")
        of = looks if kind == "val" else training if kind == "epoch" else None
        if kind == "val" and evaluator is not None:
            name = evaluator.plain(name)
        if of is not None and of.moved.get(name):
            yield _told(score, of.moved[name], followers, of, evaluator)


def _followers(
    plan: Plan, works: tuple[Work, ...], knobs: Knobs | None, evaluator: Evaluator | None
) -> dict[str, list[str]]:
    """What goes by each score."""
    best = "epoch.loss" if evaluator is None else f"val.{evaluator.best_by}"
    pairs = [] if evaluator is None else [(best, BEST)]
    pairs += [(best, PATIENCE)] if plan.patience is not None else []
    pairs += [] if plan.stop is None else [(name, "stop=") for name in sorted(plan.stop.listens)]
    pairs += [(name, _short(of)) for of in _schedules(works, knobs) for name in sorted(of.listens)]
    found: dict[str, list[str]] = {}
    for score, follower in pairs:
        found.setdefault(score, []).append(follower)
    return found


def _told(score: str, moved: list[str], followers: list[str], of: Ruler, evaluator: Evaluator | None) -> str:
    causes = list(dict.fromkeys(moved))
    verb = "changes" if len(causes) == 1 else "change"
    goes = "goes" if len(set(followers)) == 1 else "go"
    return (
        f"{score!r} is no steady measure: {', '.join(causes[:3])} {verb} during the run, and with it the score of a "
        f"net that stands still. {' and '.join(dict.fromkeys(followers))} {goes} by it. "
        f"{_instead(score, followers, of, evaluator)}"
    )


def _instead(score: str, followers: list[str], of: Ruler, evaluator: Evaluator | None) -> str:
    """What to write: a steady score that is there, or how to come to one."""
    kind = score.partition(".")[0]
    known = {} if evaluator is None or kind != "val" else evaluator.metrics.better
    steady = [*of.steady, *(name for name, way in known.items() if way is not None), *of.fading]
    if not steady:
        return (
            'Measure what is steady, such as metrics="accuracy" or a term of losses.term("cross_entropy", '
            'only="evaluation"), and go by it: validation=Evaluate(0.2, metrics="accuracy", best="accuracy").'
        )
    one = steady[0]
    write = [f"validation=Evaluate(..., best={one!r})"] if BEST in followers else []
    if PATIENCE in followers and evaluator is None:
        write.append(f'stop=no_improvement({f"epoch.{one}"!r}, patience=3, mode="min") in place of patience')
    if set(followers) - {BEST, PATIENCE}:
        # Of these, names that do not say it are to be told which way is better.
        mode = " (mode='min')" if direction(one) is None else ""
        write.append(f"{f'{kind}.{one}'!r}{mode} where schedules and stop= name {score!r}")
    return f"Go by {one!r}, which is steady: write {', and '.join(write)}."


def _short(made: Schedule) -> str:
    text = repr(made.value) if isinstance(made, Constant) else repr(made)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."
