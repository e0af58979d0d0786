"""Settings that cannot work with each other, or with the update rule they are given with: refused before any step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from etude.bind.table import Table
from etude.errors import SettingError
from etude.step.gradients import DENSE, GRADIENT_SETTINGS
from etude.step.optim.half import is_low
from etude.step.perturb import PERTURBING
from etude.step.recipe import Optimizer, Recipe
from etude.values.progress import Progress
from etude.values.tree import has_shape


def check_together(table: Table, recipe: Recipe, optimizer: Optimizer, arrays: Iterable[Tensor], half: str) -> None:
    """Look at settings beside each other.

    Args:
        table: the settings. recipe, optimizer: the update rule. arrays: those of the table. half: how arrays in half
            precision move; see `etude.step.optim.half`.

    Raises:
        SettingError: some have no effect together, or cannot work.
    """
    said = {setting for setting in GRADIENT_SETTINGS if setting in table.settings and _is_on(table, setting)}
    low = any(is_low(array) for array in arrays if has_shape(array)) and half != "plain"
    by_closure, made = optimizer.needs_closure, getattr(optimizer, "optimizer", None)
    if low and half == "stochastic" and "shrink" in said:
        raise SettingError(
            'shrink= and half="stochastic": so small a change of an array in half precision is rounded away. Write '
            'l2=, the weight_decay of the update rule, or half="master".'
        )
    if low and by_closure:
        raise SettingError(
            f'{recipe.name} moves arrays in half precision in their own numbers. Write half="plain" if that will do, '
            "or net.float()."
        )
    lost = sorted(said & {"shrink", "noise", "carry", "tie", "drop_norm", *PERTURBING}) if by_closure else ()
    if lost:
        raise SettingError(
            f"{lost[0]}= is not for {recipe.name}, which computes the loss several times a step. Leave it out; decay "
            "can be a term of the loss, or l2=."
        )
    if "tie" in said and (half == "stochastic" or any(rule.draws for rule in recipe.update_rules)):
        by = 'half="stochastic"' if half == "stochastic" else recipe.name
        raise SettingError(
            f"tie= and {by}: each array gets chance of its own there, so tied ones would not stay alike. Leave out "
            "one of them."
        )
    if "carry" in said and table.update_schedule is None:
        raise SettingError(
            "carry= keeps gradients of arrays that the update schedule holds, and there is no update schedule. "
            'Write update_schedule=["a", "b"], or leave carry out.'
        )
    filling = sorted(said & DENSE) if isinstance(made, torch.optim.SparseAdam) else ()
    if filling:
        raise SettingError(
            f"{filling[0]}= makes gradients dense, and SparseAdam takes sparse ones only. Leave it out, or write "
            'optimizer="lazy_adam".'
        )


def _is_on(table: Table, setting: str) -> bool:
    """Whether a setting is anything but 0 for some array at some time."""
    choices = [row.choices[setting] for row in table.rows]
    off = (0, None, GRADIENT_SETTINGS[setting].default)
    return any(not choice.constant or choice.at(Progress()) not in off for choice in choices)
