"""What a trainer was asked for, in one form: the base value of every setting, and rules by setting."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, TypeAlias

import torch

from etude.bind.left import settings_left
from etude.bind.resolve import resolve
from etude.bind.table import RATE, Table
from etude.errors import ScheduleError, SettingError, nearest
from etude.step.gradients import GRADIENT_SETTINGS
from etude.step.optim.foreign import Factory, ForeignOptimizer, check_options, options_of, settings_of
from etude.step.optim.own import OwnOptimizer
from etude.step.optim.registry import by_name
from etude.step.optim.rule import Setting, UpdateRule
from etude.values.marks import Frozen, Inherit
from etude.values.part import PartLike, part
from etude.values.preview import moments
from etude.values.progress import Extent, Progress
from etude.values.rules import Rules, RulesLike, Times, rules
from etude.values.schedule import Schedule, schedule, update_schedule
from etude.values.tree import Tree

OptimizerLike: TypeAlias = "str | UpdateRule | type[torch.optim.Optimizer] | torch.optim.Optimizer | Factory"


class Recipe:
    """The optimizer, its settings and its rules, checked; `table` meets a net with them.

    Attributes:
        base: the schedule of each setting without rules. rules: the call's rules by setting.
        update_schedule: the schedule of parts that move, or None. limit: the part that is stepped, or None: all.
    """

    def __init__(
        self,
        optimizer: OptimizerLike,
        learning_rate: Any,
        given: Mapping[str, RulesLike] | None,
        multipliers: RulesLike,
        moves: Any,
        limit: PartLike | None,
        strict: bool,
        settings: Mapping[str, Any],
    ) -> None:
        self.optimizer = by_name(optimizer) if isinstance(optimizer, str) else optimizer
        if isinstance(self.optimizer, type) and issubclass(self.optimizer, UpdateRule):
            self.optimizer = self.optimizer()
        self.options: dict[str, Any] = {}
        self._said = {*settings, *(() if learning_rate is None else (RATE,))}
        self.known = self._known_settings(settings)
        self.base = self._base(learning_rate, _split_betas(settings, self.known))
        self.rules = self._rules(given, multipliers)
        self.update_schedule = update_schedule(moves)
        self.limit = None if limit is None else part(limit)
        self.strict = strict

    @property
    def name(self) -> str:
        """The optimizer's name, as in a state."""
        made = self.optimizer
        if isinstance(made, UpdateRule):
            return made.name
        if isinstance(made, type):
            return made.__name__
        return type(made).__name__ if isinstance(made, torch.optim.Optimizer) else getattr(made, "__name__", "factory")

    def _known_settings(self, settings: Mapping[str, Any]) -> dict[str, Setting | None]:
        """Every setting there is, with what it may be (None: whatever the optimizer takes)."""
        made = self.optimizer
        if isinstance(made, UpdateRule):
            return {**made.settings, **GRADIENT_SETTINGS}
        if isinstance(made, type) and issubclass(made, torch.optim.Optimizer):
            own = {key: value for key, value in settings.items() if key not in GRADIENT_SETTINGS}
            check_options(made, own)
            self.options = {
                key: value for key, value in own.items() if not isinstance(value, Schedule) and not callable(value)
            }
            names: Iterable[str] = settings_of(options_of(made))
        elif isinstance(made, torch.optim.Optimizer):
            names = settings_of(made)
        elif callable(made):
            names = ()
        else:
            raise SettingError(
                f"optimizer={made!r}: a name, a class of torch.optim, an instance or a function of parameter groups is "
                'needed. Write optimizer="adamw".'
            )
        return {**dict.fromkeys(names), **GRADIENT_SETTINGS}

    def _base(self, learning_rate: Any, settings: Mapping[str, Any]) -> dict[str, Schedule]:
        values: dict[str, Any] = {RATE: self._default_rate() if learning_rate is None else learning_rate}
        made = self.optimizer
        if isinstance(made, UpdateRule):
            values.update({key: setting.default for key, setting in made.settings.items()})
        elif isinstance(made, torch.optim.Optimizer):
            values.update(settings_of(made))
        elif isinstance(made, type):
            values.update(settings_of({**options_of(made), **self.options}))
        for key, value in settings.items():
            if key not in self.known and key not in self.options:
                raise SettingError(self._unknown(key))
            if key in self.known:
                values[key] = value
        return {key: self._checked(key, value) for key, value in values.items()}

    def _default_rate(self) -> float:
        made = self.optimizer
        if isinstance(made, torch.optim.Optimizer):
            return float(made.param_groups[0]["lr"])
        return 1e-3

    def _checked(self, key: str, value: Any) -> Schedule:
        setting = self.known.get(key)
        if setting is not None and not isinstance(value, Schedule) and not callable(value) and value != setting.default:
            setting.check(key, value)
        if key == RATE and not isinstance(value, Schedule) and not callable(value):
            check_rate(value)
        return schedule(value)

    def _unknown(self, key: str) -> str:
        names = [RATE, *self.known]
        hint = " The learning rate is given as learning_rate=." if key == "lr" else ""
        return f"{self.name} has no setting {key!r}. Settings: {', '.join(names)}.{nearest(key, names)}{hint}"

    def _rules(self, given: Mapping[str, RulesLike] | None, multipliers: RulesLike) -> dict[str, Rules]:
        made: dict[str, Rules] = {}
        if given is not None and not isinstance(given, Mapping):
            raise SettingError(
                f"rules={given!r}: a dict from settings to rules is needed. "
                'Write rules={"learning_rate": {"head": times(10)}}.'
            )
        for key, literal in (given or {}).items():
            for setting, piece in self._split(key, literal).items():
                if setting != RATE and setting not in self.known:
                    raise SettingError(f"rules for {setting!r}: {self._unknown(setting)}")
                made[setting] = rules(piece, setting=setting)
                self._check_rules(setting, made[setting])
        if multipliers is not None:
            if RATE in made:
                raise SettingError(
                    "learning_rate_multipliers and rules for 'learning_rate' are both given, and both decide the rate. "
                    "Write the multipliers as times(r) in the rules."
                )
            made[RATE] = rules(multipliers, relative=True)
        for setting in made:
            if setting not in self.base:
                self.base[setting] = schedule(GRADIENT_SETTINGS[setting].default)
        if "clip_norm" in made:
            raise SettingError(
                "clip_norm is one bound for the norm of all gradients: give a value or a schedule, no rules."
            )
        return made

    def _split(self, key: str, literal: RulesLike) -> dict[str, RulesLike]:
        """Rules for betas are rules for beta1 and for beta2."""
        if key != "betas" or "beta1" not in self.known:
            return {key: literal}
        pairs = [(place, _pair(value)) for place, value in rules(literal, setting="betas")]
        return {f"beta{i + 1}": Rules(tuple((place, pair[i]) for place, pair in pairs)) for i in range(2)}

    def _check_rules(self, setting: str, made: Rules) -> None:
        known = self.known.get(setting)
        for place, value in made:
            if known is not None and not isinstance(value, Schedule | Times | Inherit | Frozen):
                known.check(f"the rule {place!r} for {setting}", value)

    def _of_groups(self, tree: Tree) -> dict[str, dict[str, Schedule]]:
        """What the groups of an optimizer instance say of their arrays, where the call says nothing: base values."""
        names = {id(array): name for name, array in tree.arrays.items()}
        made: dict[str, dict[str, Schedule]] = {}
        groups = self.optimizer.param_groups if isinstance(self.optimizer, torch.optim.Optimizer) else []
        for setting in set(self.base) - self._said if len(groups) > 1 else ():
            key = "lr" if setting == RATE else setting
            made[setting] = {
                names[id(array)]: schedule(group[key])
                for group in groups
                if key in group
                for array in group["params"]
                if id(array) in names
            }
        return made

    def table(self, tree: Tree, extent: Extent, uncounted: tuple[str, ...]) -> Table:
        """Resolve against a net, and prove every schedule over the run; its clock does not count `uncounted` units."""
        if not tree.trainable:
            raise SettingError("The net has no trainable arrays: nothing has requires_grad=True.")
        self._heed(settings_left(tree))
        own = self._of_groups(tree)
        made = resolve(tree, self.base, self.rules, self.update_schedule, self.limit, self.strict, own)
        for each in made.schedules():
            try:
                each.check(extent, uncounted)
            except ScheduleError as error:
                hint = " A Trainer counts epochs if it is given steps_per_epoch=." if "epochs" in uncounted else ""
                raise ScheduleError(f"{error}{hint if 'epochs' in repr(each) else ''}") from None
        self._prove(made, [progress.without(*uncounted) for progress in moments(extent, 33, unknown=0.0)])
        return made

    def _prove(self, table: Table, asked: Sequence[Progress]) -> None:
        """Look at what schedules give over the run: a function shows its parts and numbers only when it is asked."""
        choices = {(setting, c.value): c for row in table.rows for setting, c in row.choices.items() if not c.constant}
        for progress in asked:
            for (setting, _), choice in choices.items():
                self._check_value(setting, choice.at(progress), progress)
            if not table.base_rate.constant:
                rate = table.base_rate.at(progress)
                if isinstance(rate, int | float):
                    check_rate(rate, f"learning_rate at step {int(progress.step) + 1}")
            if self.update_schedule is not None and not self.update_schedule.constant:
                table.at(progress)

    def _check_value(self, setting: str, value: Any, progress: Progress) -> None:
        known = Setting(1e-3, -inf, inf) if setting == RATE else self.known.get(setting)
        if known is not None and value is not None:
            known.check(f"{setting} at step {int(progress.step) + 1}", value)

    def _heed(self, left: set[str]) -> None:
        """Settings for which rules were left on modules: those that are off otherwise are on."""
        if "clip_norm" in left:
            raise SettingError(
                "clip_norm was left on a module: it is one bound for all gradients. Give it to the call."
            )
        for setting in sorted(left - {RATE} - set(self.base)):
            if setting in self.known:
                self.base[setting] = schedule(GRADIENT_SETTINGS[setting].default)
            else:
                warnings.warn(f"Rules left on modules are not used: {self._unknown(setting)}", stacklevel=5)

    def optimizer_for(self, table: Table) -> OwnOptimizer | ForeignOptimizer:
        """The optimizer at work on the arrays of `table`."""
        if isinstance(self.optimizer, UpdateRule):
            return OwnOptimizer(self.optimizer, [table.tree.arrays[name] for name in table.names])
        return ForeignOptimizer(self.optimizer, table, self.options)


def _split_betas(settings: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """`betas=(b1, b2)` is short for `beta1=b1, beta2=b2` where the rule has those."""
    if "betas" not in settings or "beta1" not in known:
        return dict(settings)
    first, second = _pair(settings["betas"])
    rest = {key: value for key, value in settings.items() if key != "betas"}
    return {**rest, "beta1": first, "beta2": second}


def _pair(betas: Any) -> tuple[Any, Any]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise SettingError(f"betas={betas!r}: a pair is needed. Write betas=(0.9, 0.999).")
    return betas[0], betas[1]


def settings_known(optimizer: OptimizerLike) -> tuple[str, ...] | None:
    """The settings that an optimizer takes, and those every trainer does; None where only making it would tell.

    Raises:
        SettingError: no optimizer has that name.
    """
    made = by_name(optimizer) if isinstance(optimizer, str) else optimizer
    common = (RATE, *GRADIENT_SETTINGS)
    if isinstance(made, UpdateRule):
        return (*common, *made.settings, *(("betas",) if "beta1" in made.settings else ()))
    if isinstance(made, type) and issubclass(made, torch.optim.Optimizer):
        return (*common, *options_of(made))
    return (*common, *settings_of(made)) if isinstance(made, torch.optim.Optimizer) else None


def check_rate(rate: Any, said: str = "learning_rate") -> None:
    """Raise SettingError unless `rate` can be the learning rate of all arrays: finite, and not below 0."""
    Setting(1e-3, -inf, inf).check(said, rate)
    if rate < 0:
        raise SettingError(
            f"{said}={rate!r}: a learning rate is not negative. To climb a loss write learning_rate_multipliers=-1, or "
            "-1 for the part that climbs."
        )
