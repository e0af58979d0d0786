"""Several optimizers on one net: which of them each array belongs to, and which settings it has there."""

from __future__ import annotations

from collections.abc import Mapping

from etude.arguments import Faults, told_of
from etude.bind.table import RATE, Choice, Table
from etude.errors import SettingError, nearest
from etude.step.gradients import GRADIENT_SETTINGS
from etude.step.optim.groups import ABSENT
from etude.step.optim.maker import Maker
from etude.step.optim.several import OPTIMIZER
from etude.values.part import Part
from etude.values.progress import Progress
from etude.values.rules import Rules
from etude.values.schedule import schedule
from etude.values.tree import Tree


def owners_of(tree: Tree, places: Rules, makers: Mapping[str, Maker]) -> dict[str, Maker]:
    """The optimizer of each array, by name: of several the first whose part has it.

    Args:
        places: by part the label of its optimizer. makers: the optimizers by label.

    Raises:
        PartError: a part has nothing in the net; all such parts are told.
    """
    found: dict[str, Maker] = {}
    faults = Faults()
    for place, label in places:
        for name in faults.take(_names, tree, place, label) or ():
            found.setdefault(name, makers[label])
    faults.tell()
    return found


def without_foreign_settings(table: Table, owners: Mapping[str, Maker], given: Mapping[str, Rules]) -> Table:
    """The table of several optimizers: settings that an array's optimizer does not have are absent there.

    Args:
        owners: as `owners_of` gave. given: the rules of the call, by setting.

    Raises:
        SettingError: an array may move and has no optimizer; a rule is for arrays whose optimizers lack its setting; a
            value is none that the optimizer of an array takes.
    """
    _check_all_owned(table, owners)
    for setting, made in given.items():
        for place, value in made:
            _check_known(table, owners, setting, place, value)
    choices = {}
    for name, of in table.choices.items():
        maker = owners.get(name)
        choices[name] = {s: c if maker is None or _has(maker, s) else _absent() for s, c in of.items()}
        for setting, choice in choices[name].items():
            known = None if maker is None else maker.settings.get(setting)
            if known is not None and choice.constant:
                known.check(f"{setting} of {name!r}", choice.at(Progress()))
    return table.with_choices(choices)


def _check_all_owned(table: Table, owners: Mapping[str, Maker]) -> None:
    lost = [name for name, of in table.choices.items() if not of[RATE].frozen and name not in owners]
    if lost:
        shown = ", ".join(map(repr, lost[:5])) + (", ..." if lost[5:] else "")
        raise SettingError(
            f'No optimizer is given for {shown}, which may move. Write everything: "adamw" last, or hold them: '
            "learning_rate_multipliers={...: 0}."
        )


def _check_known(table: Table, owners: Mapping[str, Maker], setting: str, place: Part, value: object) -> None:
    here = [owners[name] for name in place.names(table.tree) if name in table.choices and name in owners]
    if here and not any(_has(maker, setting) for maker in here):
        names, there = " and ".join(dict.fromkeys(maker.name for maker in here)), (RATE, *here[0].settings)
        raise SettingError(
            f"The rule {place!r}: {value!r} for {setting} selects arrays of {names} alone, which has no "
            f"such setting. Settings: {', '.join(there)}.{nearest(setting, there)}"
        )


def _names(tree: Tree, place: Part, label: str) -> tuple[str, ...]:
    with told_of(f"In the optimizers by part, {place!r}: {label!r}"):
        return place.names(tree)


def _has(maker: Maker, setting: str) -> bool:
    return setting in maker.settings or setting in GRADIENT_SETTINGS or setting in (RATE, OPTIMIZER)


def _absent() -> Choice:
    return Choice(schedule(ABSENT), None, "no rule", absolute=True)
