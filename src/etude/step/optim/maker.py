"""An optimizer as it was asked for: what it takes, its defaults, and how it is set to work on a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from etude.bind.table import Table
from etude.errors import SettingError
from etude.step.optim.construction import Factory
from etude.step.optim.foreign import ForeignOptimizer
from etude.step.optim.lbfgs import LBFGSOptimizer
from etude.step.optim.options import check_options, options_of, rate_of, settings_of
from etude.step.optim.own import OwnOptimizer
from etude.step.optim.registry import by_name, check_rule, preset_of
from etude.step.optim.rule import Setting, UpdateRule
from etude.values.schedule import Schedule
from etude.values.tree import has_shape

Asked: TypeAlias = "str | UpdateRule | type[UpdateRule] | type[torch.optim.Optimizer] | torch.optim.Optimizer | Factory"
Working: TypeAlias = "OwnOptimizer | ForeignOptimizer | LBFGSOptimizer"


class Maker:
    """One optimizer of a trainer.

    Attributes:
        of: an update rule of ours, a class of torch's shape, an instance, or a function of parameter groups.
        name: as in a state.
        settings: what rules and schedules may set, with what it may be (None: whatever the optimizer takes).
        defaults: their values where nobody says otherwise. rate: the learning rate then.
        options: of a class, everything it can be given besides.

    Raises:
        SettingError: no optimizer has that name, or what was given is no optimizer.
    """

    def __init__(self, asked: Any) -> None:
        preset: Mapping[str, Any] = preset_of(asked) if isinstance(asked, str) else {}
        made: Any = by_name(asked) if isinstance(asked, str) else asked
        if isinstance(made, partial) and isinstance(made.func, type) and not made.args:
            preset = made.keywords
            made = made.func
        self.of = made() if isinstance(made, type) and issubclass(made, UpdateRule) else made
        if not isinstance(self.of, UpdateRule | torch.optim.Optimizer) and not callable(self.of):
            raise SettingError(
                f"optimizer={asked!r}: a name, a class of torch.optim, an instance or a function of parameter groups "
                'is needed. Write optimizer="adamw".'
            )
        if isinstance(self.of, UpdateRule):
            check_rule(self.of)
        self.name = _name(self.of)
        self.rate = float(preset.get("lr", _rate(self.of)))
        self._preset = {key: value for key, value in preset.items() if key != "lr"}
        if self.kind is not None:
            check_options(self.kind, self._preset)
        self.options = options_of(self.kind) if self.kind is not None else {}
        self.settings, self.defaults = self._read()

    @property
    def kind(self) -> type[torch.optim.Optimizer] | None:
        """The class of torch's shape that it is, if it is one."""
        return self.of if isinstance(self.of, type) and issubclass(self.of, torch.optim.Optimizer) else None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for what is the same optimizer asked for twice."""
        return (type(self.of) if isinstance(self.of, UpdateRule) else id(self.of), repr(self._preset))

    def _read(self) -> tuple[dict[str, Setting | None], dict[str, Any]]:
        if isinstance(self.of, UpdateRule):
            own = self.of.settings
            return dict(own), {key: setting.default for key, setting in own.items()}
        if isinstance(self.of, torch.optim.Optimizer):
            defaults = settings_of(self.of)
        else:
            defaults = settings_of({**self.options, **self._preset})
        return dict.fromkeys(defaults), defaults

    def chosen(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options that a class is made with, of all that was given: no schedules, which are written later."""
        still = {k: v for k, v in given.items() if not isinstance(v, Schedule) and not callable(v)}
        return {**self._preset, **{key: value for key, value in still.items() if key in self.options and key != "lr"}}

    def own_defaults(self, name: str, array: Tensor) -> Mapping[str, Any]:
        """Values of settings for one array where nobody says otherwise."""
        if not isinstance(self.of, UpdateRule) or type(self.of).own_defaults is UpdateRule.own_defaults:
            return MappingProxyType({})
        if not has_shape(array):
            raise SettingError(
                f"{self.name} looks at the shapes of arrays, and {name!r} has none yet. Call the net once first."
            )
        return self.of.own_defaults(name, array)

    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of an instance."""
        return self.of.param_groups if isinstance(self.of, torch.optim.Optimizer) else []

    def at_work(
        self, table: Table, given: Mapping[str, Any], seed: int, half: str, indices: Collection[int] | None = None
    ) -> Working:
        """The optimizer on the arrays of a table, or on those of some indices.

        Raises:
            SettingError: it cannot be made with these options, or has other arrays.
        """
        if isinstance(self.of, UpdateRule):
            arrays = [table.tree.arrays[name] for name in table.names]
            return OwnOptimizer(self.of, arrays, table.names, seed, half)
        joint = isinstance(self.of, torch.optim.LBFGS) or (self.kind and issubclass(self.kind, torch.optim.LBFGS))
        if joint and indices is None:
            return LBFGSOptimizer(self.of, table, self.chosen(given))
        if joint:
            raise SettingError(
                f"{self.name} computes the loss itself, several times a step, so it cannot be one of several "
                "optimizers. Give it to a Trainer of its own, with part=."
            )
        return ForeignOptimizer(self.of, table, self.chosen(given), indices, half)


def _name(of: Any) -> str:
    if isinstance(of, UpdateRule):
        return of.name
    if isinstance(of, type):
        return of.__name__
    return type(of).__name__ if isinstance(of, torch.optim.Optimizer) else getattr(of, "__name__", "factory")


def _rate(of: Any) -> float:
    if isinstance(of, UpdateRule):
        return of.rate
    if isinstance(of, torch.optim.Optimizer):
        return float(of.param_groups[0]["lr"])
    return rate_of(of) if isinstance(of, type) else 1e-3
