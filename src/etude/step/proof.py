"""The proof of a table: what its schedules give over the run is looked at before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etude.bind.table import RATE, Choice, Table
from etude.errors import ScheduleError
from etude.step.optim.rule import Setting
from etude.step.rates import RATE_BY_RULE, check_rate
from etude.values.preview import moments
from etude.values.progress import Extent, Progress

_ASKED = 257
"""Moments of a run of known length at which schedules are asked beforehand."""
_AHEAD = (*range(1, 65), *(2**n for n in range(7, 17)))
"""Steps at which they are asked where the length is not known."""


def prove(table: Table, known: Mapping[str, Setting | None], uncounted: Sequence[str]) -> None:
    """Look at every schedule of a table over the run; a function shows its parts and numbers only when it is asked.

    Args:
        table: with the length of the run, as far as it is known. known: what each setting may be, None: anything.
        uncounted: units that the clock of the run does not count.

    Raises:
        PartError, ScheduleError, SettingError: what a schedule gives at some moment cannot be used, or it gives none.
    """
    extent = table.extent
    _check_clocks(table, extent, uncounted)
    changing = {(setting, c.value): c for row in table.rows for setting, c in row.choices.items() if not c.constant}
    choices = [(setting, choice) for (setting, _), choice in changing.items()]
    for progress in moments(extent, _ASKED, unknown=0.0):
        _ask(table, choices, known, progress.without(*uncounted))
    if any(extent.known()):
        return
    for step in _AHEAD:
        try:
            _ask(table, choices, known, Progress(step).without(*uncounted))
        except ScheduleError:
            # Nobody knows whether the run will be so long.
            return


def _check_clocks(table: Table, extent: Extent, uncounted: Sequence[str]) -> None:
    for each in table.schedules():
        try:
            each.check(extent, uncounted)
        except ScheduleError as error:
            meant = "epochs" in uncounted and ("epochs" in repr(each) or extent.epochs is not None)
            hint = " A Trainer counts epochs if it is given steps_per_epoch=." if meant else ""
            raise ScheduleError(f"{error}{hint}") from None


def _ask(
    table: Table, choices: Sequence[tuple[str, Choice]], known: Mapping[str, Setting | None], progress: Progress
) -> None:
    """Look at what the schedules of a table, with these choices of settings, give for the step made at `progress`."""
    step = int(progress.step) + 1
    for setting, choice in choices:
        value, may_be = choice.at(progress), RATE_BY_RULE if setting == RATE else known.get(setting)
        if may_be is not None and value is not None:
            may_be.check(f"{setting} at step {step}", value)
    if not table.base_rate.constant:
        rate = table.base_rate.at(progress)
        if isinstance(rate, int | float):
            check_rate(rate, f"learning_rate at step {step}")
    if table.update_schedule is not None and not table.update_schedule.constant:
        table.at(progress)
