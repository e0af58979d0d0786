"""Whether everything that goes by scores is told them: schedules, and the conditions for the end of the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from etude.bind.knobs import Knobs
from etude.errors import PlanError
from etude.run.evaluate import Evaluator
from etude.step.work import Work
from etude.values.progress import Extent
from etude.values.reactive import check_told
from etude.values.schedule import Schedule

if TYPE_CHECKING:
    from etude.run.plan import Plan


def check_heard(
    plan: Plan,
    works: tuple[Work, ...],
    knobs: Knobs | None,
    evaluator: Evaluator | None,
    extent: Extent,
    uncounted: Sequence[str] = (),
) -> None:
    """Whatever goes by scores is told them: schedules of settings and knobs, and the conditions for stopping.

    Raises:
        ScheduleError, SettingError: a score is not measured; the nearest is named.
    """
    told = [f"val.{name}" for name in evaluator.known] if evaluator is not None else []
    names = [work.names(len(works) == 1) for work in works]
    told += [f"epoch.{name}" for name in dict.fromkeys(name for total, own in names for name in (total, *own))]
    told += [f"epoch.{name}" for work in works for name in work.exponents(len(works) == 1).values()]
    for work in works:
        check_told([*work.stepper.table.schedules(), *work.losses.schedules()], told)
    if knobs is not None:
        check_told(knobs.schedules(), told)
    if plan.stop is not None:
        plan.stop.check(told, extent, uncounted)
    schedules = [made for work in works for made in work.stepper.table.schedules()]
    turns = [work.update.turn for work in works if work.update.turn is not None]
    elsewhere = [*turns, *(made for work in works for made in work.losses.schedules())]
    _check_not_going_back([*elsewhere, *(knobs.schedules() if knobs else ())])
    _check_going_back(schedules, works, evaluator)
    if evaluator is None:
        return
    heard = {name for made in (*schedules, *(knobs.schedules() if knobs else ())) for name in made.listens}
    heard |= set() if plan.stop is None else plan.stop.listens
    evaluator.need(name.removeprefix("val.") for name in heard if name.startswith("val."))


def _check_not_going_back(schedules: Iterable[Schedule]) -> None:
    """Raise PlanError where a schedule asks for the best net and is none of an optimizer's settings."""
    for made in schedules:
        if made.goes_back:
            raise PlanError(
                f"{made!r} goes back to the best net, and only schedules of the learning rate and other settings of "
                "the optimizer can. Leave back_to_best out here, and write it in learning_rate=."
            )


def _check_going_back(schedules: Iterable[Schedule], works: tuple[Work, ...], evaluator: Evaluator | None) -> None:
    """Raise PlanError where a run that never looks for the best net, or cannot train it, is to go back to it."""
    others = [work.stepper.name for work in works if getattr(work.stepper.optimizer, "trains_others", False)]
    for made in schedules:
        if made.goes_back and evaluator is None:
            raise PlanError(
                f"{made!r} goes back to the best net, and which that is is found on validation data: there are none. "
                "Write validation=0.2, or leave back_to_best out."
            )
        if made.goes_back and others:
            raise PlanError(
                f"{made!r} goes back to the best net, and {others[0]} trains other arrays than it evaluates, so that "
                "they cannot be found again. Leave back_to_best out."
            )
