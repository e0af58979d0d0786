"""What an optimizer class of torch's shape takes, read from its signature and its defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import inf, isfinite
from numbers import Real
from typing import Any

import torch

from etude.errors import SettingError, nearest

WAYS = frozenset({"foreach", "fused", "capturable", "differentiable", "maximize"})
"""Ways of computing, not settings of the rule: given once, for all rows."""

_NEVER_NEGATIVE = frozenset({"weight_decay", "eps", "momentum"})
"""Settings that no class of torch takes below 0, which they say when they are made and not of a group."""


def options_of(kind: type[torch.optim.Optimizer]) -> dict[str, Any]:
    """The options of an optimizer class besides its parameters, with their defaults."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[2:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default for p in parameters if p.kind in named}


def settings_of(optimizer: torch.optim.Optimizer | Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an optimizer that rules and schedules may set: its numeric options, with their values."""
    values = optimizer.defaults if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    return {key: value for key, value in values.items() if key not in WAYS and key != "lr" and _is_setting(value)}


def _is_setting(value: object) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(piece, int | float) for piece in value)
    return isinstance(value, int | float)


def rate_of(kind: type[torch.optim.Optimizer]) -> float:
    """The learning rate that a class has where nothing is said; 1e-3 for one that has none."""
    rate = options_of(kind).get("lr")
    return float(rate) if isinstance(rate, int | float) and not isinstance(rate, bool) else 1e-3


def check_options(kind: type[torch.optim.Optimizer], given: Mapping[str, Any]) -> None:
    """Raise SettingError for options that the class does not have."""
    options = options_of(kind)
    unknown = [key for key in given if key not in options]
    if unknown:
        raise SettingError(
            f"{kind.__name__} has no option {unknown[0]!r}. It has: {', '.join(options)}.{nearest(unknown[0], options)}"
        )


def check_like(said: str, name: str, value: Any, default: Any) -> None:
    """Raise SettingError unless a value is of the kind of the default: True or False, a number, several numbers.

    Args:
        said: how the message begins. name: of the setting.
    """
    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "True or False is needed"
    elif isinstance(default, tuple):
        # A bound may be infinite where its default is.
        free = inf in map(abs, filter(_is_number, default))
        fits = isinstance(value, tuple | list) and all(_is_number(one) and (free or isfinite(one)) for one in value)
        kind = "numbers are needed"
    else:
        free = _is_number(default) and abs(default) == inf
        fits, kind = _is_number(value) and (free or isfinite(value)), "a finite number is needed"
    if fits and name in _NEVER_NEGATIVE and value < 0:
        fits, kind = False, "a number of at least 0 is needed"
    if not fits:
        raise SettingError(f"{said}={value!r}: {kind}. The default is {default!r}.")


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return isinstance(value, Real) and not isinstance(value, bool) and value == value
