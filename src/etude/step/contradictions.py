"""Settings that say two things at once, or that can never act: told before the first step."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import inf

from etude.bind.show import DECAYS
from etude.bind.table import RATE, Choice, Table
from etude.errors import RuleError, warn
from etude.step.optim.several import OPTIMIZER
from etude.step.perturb import PERTURBING
from etude.step.states import some
from etude.values.algebra import Arithmetic, Then, Until, Within
from etude.values.curves import Warmup
from etude.values.newbob import Newbob
from etude.values.plateau import Plateau
from etude.values.progress import Progress
from etude.values.schedule import Pieces, Schedule


def check_useful(
    table: Table, said: Collection[str], strict: bool, both_decays: bool = False, usual: float = 0.0
) -> None:
    """Warn of what cannot be meant.

    Args:
        table: the settings. said: those that the call gave a value to. strict: raise instead.
        both_decays: the update rule has decay through the gradient and beside it, on purpose.
        usual: the largest learning rate that the optimizers have where nothing is said.

    Raises:
        RuleError: there is such a thing, and `strict`.
    """
    twice = () if both_decays else _decayed_twice(table, said)
    found = [*twice, *_never_deciding(table, said), *_never_acting(table), *_useless_clips(table)]
    found += _rates_of_one(table) if usual < 1 else ()
    if found and strict:
        raise RuleError(" ".join(found))
    for text in found:
        warn(text)


def _rates_of_one(table: Table) -> Iterator[str]:
    """Learning rates that are a factor alone: it is meant to be multiplied by a rate, and is 1 itself."""
    for row in table.rows:
        base, factor = row.choices[RATE].base, row.choices[RATE].factor
        grows = factor is None or (factor.constant and abs(factor.at(Progress())) >= 1)
        if base is not None and grows and _is_factor(base):
            text = f"({base!r})" if isinstance(base, Arithmetic) else repr(base)
            yield (
                f"The learning rate of {some(row.names)} is {base!r}, a factor alone, so that the rate itself is 1.0. "
                f"Write learning_rate=3e-4 * {text}."
            )
            return


def _is_factor(made: Schedule) -> bool:
    """Whether a schedule is, at some time, one that is there to be multiplied by, and by nothing it is."""
    if isinstance(made, Warmup):
        return True
    if isinstance(made, Plateau | Newbob):
        return made.begin == 1
    if isinstance(made, Arithmetic):
        return made.sign == "*" and all(map(_is_factor, made.children))
    return isinstance(made, Pieces | Then | Until | Within) and any(map(_is_factor, made.children))


def _decayed_twice(table: Table, said: Collection[str]) -> Iterator[str]:
    there = [setting for setting in DECAYS if setting in table.settings]
    for place, one in enumerate(there):
        for other in there[place + 1 :]:
            names = [name for name in table.names if all(_asked(table, name, s, said) for s in (one, other))]
            if names:
                yield (
                    f"{one}= and {other}= both make {some(names)} smaller in every step. Leave one of them out, or "
                    "give each its own part."
                )


def _never_deciding(table: Table, said: Collection[str]) -> Iterator[str]:
    """Values of the call that rules for all arrays leave nothing to decide."""
    for setting in sorted(set(said) & set(table.settings)):
        choices = [table.choices[name][setting] for name in table.names]
        decided = [choice for choice in choices if choice.rule != "no rule" and choice.absolute]
        if choices and len(decided) == len(choices) and len({choice.rule for choice in decided}) == 1:
            yield (
                f"{setting}= never decides: the rule {decided[0].rule} has every array. Leave one of them out, or "
                "write times(...) in the rule."
            )


def _asked(table: Table, name: str, setting: str, said: Collection[str]) -> bool:
    """Whether somebody asked for a setting of an array that does something: no default of the update rule."""
    choice = table.choices[name][setting]
    return (setting in said or choice.rule != "no rule") and _acts(choice)


def _acts(choice: Choice) -> bool:
    return choice.base is not None and (not choice.constant or choice.at(Progress()) not in (0, None, inf))


def _never_acting(table: Table) -> Iterator[str]:
    """Rules by part for any setting but the rate, of which every array is frozen or never has a turn."""
    ever = set(table.ever_moving())
    # What only waits for a turn that never comes is perturbed all the same.
    perturbed = {name for row in table.rows if not row.frozen for name in row.names}
    for setting in (one for one in table.settings if one not in (RATE, OPTIMIZER)):
        names: dict[str, list[str]] = {}
        for name in table.names:
            choice = table.choices[name][setting]
            if choice.rule != "no rule" and not choice.rule.startswith("default of ") and _acts(choice):
                names.setdefault(choice.rule, []).append(name)
        for rule, own in names.items():
            if not (perturbed if setting in PERTURBING else ever).intersection(own):
                yield f"The rule {rule} for {setting} never acts: {some(own)} never move. Leave it out, or thaw them."
            elif setting == "max_norm" and all(len(table.shapes.get(name, (0, 0))) < 2 for name in own):
                yield (
                    f"The rule {rule} for max_norm never acts: {some(own)} have fewer than two dimensions, so no "
                    "weights come into a unit. Write clip_weights= for them."
                )


def _useless_clips(table: Table) -> Iterator[str]:
    """Joint norms that are clipped at no less than they are dropped at."""
    if not {"clip_norm", "drop_norm"} <= set(table.settings) or "noise" in table.settings:
        return
    clipped, dropped = _together(table, "clip_norm"), _together(table, "drop_norm")
    for names in set(clipped) & set(dropped):
        clip, drop = clipped[names], dropped[names]
        if clip.constant and drop.constant and _acts(clip) and _acts(drop):
            bound, limit = clip.at(Progress()), drop.at(Progress())
            if limit <= bound:
                yield (
                    f"clip_norm={bound!r} never acts: a norm above drop_norm={limit!r} leaves the step out. Write a "
                    "smaller clip_norm, or a larger drop_norm."
                )


def _together(table: Table, setting: str) -> dict[frozenset[str], Choice]:
    """The arrays that each rule for a joint norm names, and what it says of them."""
    names: dict[str, list[str]] = {}
    for name in table.names:
        names.setdefault(table.choices[name][setting].rule, []).append(name)
    return {frozenset(own): table.choices[own[0]][setting] for own in names.values()}
