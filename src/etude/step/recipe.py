"""What a trainer was asked for, in one form: the base value of every setting, and rules by setting."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import inf
from types import MappingProxyType
from typing import Any, NoReturn

from etude.arguments import Faults, told_of
from etude.bind.left import settings_left
from etude.bind.resolve import resolve
from etude.bind.table import RATE, Choice, Table
from etude.errors import SettingError, nearest, warn
from etude.hints import not_there, written
from etude.step.gradients import GRADIENT_SETTINGS
from etude.step.optim.maker import Maker
from etude.step.optim.options import check_like
from etude.step.optim.rule import Setting, UpdateRule
from etude.step.optim.several import OPTIMIZER, SeveralOptimizer
from etude.step.optimizers import Optimizer, OptimizerLike, makers_of, muons, settings_known
from etude.step.owners import owners_of, without_foreign_settings
from etude.step.proof import prove
from etude.step.rates import check_rate
from etude.values.algebra import none_as
from etude.values.marks import Frozen, Inherit
from etude.values.part import PartLike
from etude.values.part import part as part_of
from etude.values.progress import Extent, Progress
from etude.values.rules import Rules, RulesLike, Times
from etude.values.rules import rules as rules_of
from etude.values.schedule import Schedule, refuse_scheduler, schedule
from etude.values.schedule import update_schedule as update_schedule_of
from etude.values.tree import Tree

__all__ = ["Optimizer", "OptimizerLike", "Recipe", "settings_known"]

_CLIMB = "maximize"
"""The word of torch's optimizers for climbing, which rules of ours understand as well."""


class Recipe:
    """The optimizer, its settings and its rules, checked; `table` meets a net with them.

    Attributes:
        makers: the optimizers, by label; `places` says by part which label, where there are several.
        base: the schedule of each setting without rules. rules: the call's rules by setting.
        update_schedule: the schedule of parts that move, or None. limit: the part that is stepped, or None: all.

    Args:
        optimizer, learning_rate, rules, multipliers, update_schedule, part, strict, settings: as for `Trainer`.
        asked_by: the class whose constructor the settings were given to: an unknown one may be an option of it.

    Raises:
        EtudeError: all that is wrong, as far as it can be seen without a net.
    """

    def __init__(
        self,
        optimizer: OptimizerLike,
        *,
        learning_rate: Any = None,
        rules: Mapping[str, RulesLike] | None = None,
        multipliers: RulesLike = None,
        update_schedule: Any = None,
        part: PartLike | None = None,
        strict: bool = False,
        settings: Mapping[str, Any] = MappingProxyType({}),
        asked_by: type | None = None,
    ) -> None:
        self._asked_by = asked_by
        self.makers, self.places = makers_of(optimizer)
        self._pairs_muon = isinstance(optimizer, str) and len(self.makers) == 2
        self.known = self._known_settings()
        faults = Faults()
        settings, by_part = self._apart_from_rules(settings, learning_rate)
        learning_rate = None if RATE in by_part else learning_rate
        rules = faults.take(_joined, rules, by_part)
        self.given = {key: value for key, value in settings.items() if key not in GRADIENT_SETTINGS}
        settings = _split_betas(settings, self.known)
        self._climbs = self._climbing(settings)
        if self._climbs is not None:
            settings = {key: value for key, value in settings.items() if key != _CLIMB}
        self.said = {*settings, *(() if learning_rate is None else (RATE,))}
        self.base = self._base(learning_rate, settings, faults)
        self.rules = faults.take(self._rules, rules, multipliers)
        self.update_schedule = faults.take(update_schedule_of, update_schedule)
        self.limit = None if part is None else faults.take(part_of, part)
        faults.tell()
        self.strict = strict
        self._exempt: dict[tuple[str, str], str] = {}

    @property
    def name(self) -> str:
        """The optimizer's name, as in a state; of several all their names."""
        return ", ".join(self.makers)

    @property
    def update_rules(self) -> tuple[UpdateRule, ...]:
        """Those of the optimizers that are rules of ours."""
        return tuple(maker.of for maker in self.makers.values() if isinstance(maker.of, UpdateRule))

    @property
    def _last(self) -> Maker:
        """The optimizer that gives the base values: of several the last, which is that of everything else."""
        return next(reversed(self.makers.values()))

    def _known_settings(self) -> dict[str, Setting | None]:
        """Every setting there is, with what it may be (None: it depends, or whatever the optimizer takes)."""
        found: dict[str, Setting | None] = {}
        for maker in reversed(self.makers.values()):
            for key, setting in maker.settings.items():
                found[key] = setting if found.get(key, setting) == setting else None
        return {**found, **GRADIENT_SETTINGS}

    def _apart_from_rules(
        self, settings: Mapping[str, Any], learning_rate: Any
    ) -> tuple[dict[str, Any], dict[str, RulesLike]]:
        """Settings that have one value for all arrays, and those that were given as rules by part."""
        known = {*self.known, *(("betas",) if "beta1" in self.known else ())}
        by_part = {key: value for key, value in settings.items() if key in known and _is_rules(value)}
        rest = {key: value for key, value in settings.items() if key not in by_part}
        return rest, by_part | ({RATE: learning_rate} if _is_rules(learning_rate) else {})

    def _climbing(self, settings: Mapping[str, Any]) -> bool | None:
        """Whether arrays under rules of ours climb; None where nothing is said, or there are no such rules."""
        if _CLIMB not in settings or not self.update_rules:
            return None
        asked = settings[_CLIMB]
        if not isinstance(asked, bool):
            raise SettingError(f"maximize={asked!r}: True or False is needed. Parts climb with a negative multiplier.")
        return asked

    def _with_rates_turned(self, table: Table, owners: Mapping[str, Maker]) -> Table:
        """The table with the rates of arrays under rules of ours turned round; other optimizers do it themselves."""
        choices: dict[str, Mapping[str, Choice]] = {}
        for name, of in table.choices.items():
            own, rate = name in owners and isinstance(owners[name].of, UpdateRule), of[RATE]
            if own and not rate.frozen:
                factor = schedule(-1.0) if rate.factor is None else rate.factor * -1.0
                rate = Choice(rate.base, factor, rate.rule, rate.absolute)
            choices[name] = {**of, RATE: rate}
        return table.with_choices(choices)

    def _base(self, learning_rate: Any, settings: Mapping[str, Any], faults: Faults) -> dict[str, Schedule]:
        values: dict[str, Any] = {RATE: self._last.rate if learning_rate is None else learning_rate}
        for maker in self.makers.values():
            values.update(maker.defaults)
        values.update(self._last.defaults)
        options = {key for maker in self.makers.values() for key in maker.options}
        unknown = [key for key in settings if key not in self.known and (key not in options or key == "lr")]
        if unknown:
            faults.take(self._refuse, unknown)
        values.update({key: _unbound(self.known[key], v) for key, v in settings.items() if key in self.known})
        return {key: faults.take(self._checked, key, value) for key, value in values.items()}

    def _refuse(self, keys: Sequence[str]) -> NoReturn:
        raise SettingError(self._unknown(*keys))

    def _checked(self, key: str, value: Any) -> Schedule:
        refuse_scheduler(value)
        if not isinstance(value, Schedule) and not callable(value):
            if key == RATE:
                check_rate(value)
            if key in self.said:
                ours = key in GRADIENT_SETTINGS
                for setting in [self.known[key]] if ours else [m.settings.get(key) for m in self.makers.values()]:
                    if setting is not None and value != setting.default:
                        setting.check(key, value)
                self._check_foreign(key, key, value)
        with told_of(key):
            return schedule(value)

    def _unknown(self, key: str, *others: str) -> str:
        """The message for settings that are not there; they may be misspelt options of the call."""
        names = [RATE, *self.known]
        what, there = "setting", f"Settings: {', '.join(names)}."
        if self._last.kind is not None and len(self.makers) == 1:
            names = [*self._last.options, *GRADIENT_SETTINGS]
            what, there = "option", f"It has: {', '.join(names)}."
        if self._asked_by is not None:
            own = [each for each in inspect.signature(self._asked_by).parameters if each != "settings"]
            there += f" Options of {self._asked_by.__name__}: {', '.join(own)}."
            names = [*own, *names]
        hint = " The learning rate is given as learning_rate=." if "lr" in (key, *others) else ""
        more = f" {not_there(others, names, 'setting')}" if others else ""
        near = written(key, names) or nearest(key, names)
        return f"{self.name} has no {what} {key!r}.{near}{more}{hint} {there}"

    def _rules(self, given: Mapping[str, RulesLike] | None, multipliers: RulesLike) -> dict[str, Rules]:
        made: dict[str, Rules] = {}
        if given is not None and not isinstance(given, Mapping):
            raise SettingError(
                f"rules={given!r}: a dict from settings to rules is needed. "
                'Write rules={"learning_rate": {"head": times(10)}}.'
            )
        faults = Faults()
        for key, literal in (given or {}).items():
            made.update(faults.take(self._rules_for, key, literal) or {})
        faults.tell()
        if multipliers is not None:
            if RATE in made:
                raise SettingError(
                    "learning_rate_multipliers and rules for 'learning_rate' are both given, and both decide the rate. "
                    "Write the multipliers as times(r) in the rules."
                )
            with told_of("learning_rate_multipliers"):
                made[RATE] = rules_of(multipliers, relative=True)
        for setting in made:
            if setting not in self.base:
                self.base[setting] = _off(setting)
        return made

    def _rules_for(self, key: str, literal: RulesLike) -> dict[str, Rules]:
        made = {}
        for setting, piece in self._split(key, literal).items():
            if setting != RATE and setting not in self.known:
                self._check_swapped(setting, piece)
                raise SettingError(f"rules for {setting!r}: {self._unknown(setting)}")
            known = self.known.get(setting)
            if known is not None and known.bound:
                piece = Rules(tuple((place, _unbound(known, value)) for place, value in rules_of(piece)))
            made[setting] = rules_of(piece, setting=setting)
            self._check_rules(setting, made[setting])
        return made

    def _check_swapped(self, key: str, literal: RulesLike) -> None:
        """Raise SettingError where the part stands where the setting should, and the other way round."""
        names = list(literal) if isinstance(literal, Mapping) else []
        if names and all(name == RATE or name in self.known for name in names):
            own = ", ".join(f"{name!r}: {{{key!r}: {value!r}}}" for name, value in dict(literal).items())  # type: ignore[arg-type]
            raise SettingError(
                f"rules={{{key!r}: {literal!r}}}: the part stands before the setting. Write rules={{{own}}}."
            )

    def change(self, setting: str, literal: RulesLike) -> None:
        """Put rules for a setting before those there are; of a part that has a rule the old one goes.

        Args:
            setting: any setting, or "learning_rate_multipliers": rules for the rate whose numbers multiply.
            literal: rules by part.

        Raises:
            RuleError, SettingError: nothing is changed.
        """
        relative = setting == "learning_rate_multipliers"
        found = self._rules(None, literal) if relative else self._rules({setting: literal}, None)
        for key, made in found.items():
            parts = {place for place, _ in made}
            self.rules[key] = Rules((*made, *(pair for pair in self.rules.get(key, Rules()) if pair[0] not in parts)))

    def _split(self, key: str, literal: RulesLike) -> dict[str, RulesLike]:
        """Rules for betas are rules for beta1 and for beta2."""
        if key != "betas" or "beta1" not in self.known:
            return {key: literal}
        pairs = [(place, _pair(value)) for place, value in rules_of(literal, setting="betas")]
        split = {f"beta{i + 1}": Rules(tuple((place, pair[i]) for place, pair in pairs)) for i in range(2)}
        return {**split, **({key: literal} if key in self.known else {})}

    def _check_rules(self, setting: str, made: Rules) -> None:
        known = self.known.get(setting)
        for place, value in made:
            if isinstance(value, Schedule | Times | Inherit | Frozen):
                continue
            if known is not None:
                known.check(f"the rule {place!r} for {setting}", value)
            self._check_foreign(f"the rule {place!r} for {setting}", setting, value)

    def _check_foreign(self, said: str, key: str, value: Any) -> None:
        """Of a setting of torch's own optimizers no more is known than what kind its default is of."""
        for maker in self.makers.values():
            default = maker.defaults.get(key)
            if default is not None and maker.settings.get(key) is None and value != default:
                check_like(said, key, value, default)

    def _base_of_arrays(self, tree: Tree, owners: Mapping[str, Maker]) -> dict[str, dict[str, Schedule]]:
        """Base values of single arrays, by setting, where the call says nothing.

        The defaults of an array's own optimizer, if there are several; what the groups of an instance say of it; and
        the exemptions of an update rule.
        """
        made: dict[str, dict[str, Schedule]] = {}
        for name in tree.trainable:
            if name not in owners:
                continue
            maker = owners[name]
            values = {RATE: maker.rate, **maker.defaults} if self.places else {}
            exempt = maker.own_defaults(name, tree.arrays[name])
            self._exempt.update({(name, setting): maker.name for setting in exempt if setting not in self.said})
            for setting, value in {**values, **exempt}.items():
                if setting not in self.said:
                    made.setdefault(setting, {})[name] = schedule(self._checked_default(maker, setting, value))
        for maker in self.makers.values():
            for setting, values in self._base_of_groups(maker, tree, owners).items():
                made.setdefault(setting, {}).update(values)
        return made

    def _checked_default(self, maker: Maker, setting: str, value: Any) -> Any:
        """A default of an array's own, once it is known to be one that the setting may have."""
        if setting != RATE and setting not in self.known:
            raise SettingError(f"The defaults of {maker.name} have {setting!r}. {self._unknown(setting)}")
        known = maker.settings.get(setting) or GRADIENT_SETTINGS.get(setting)
        if known is not None and value != known.default:
            known.check(f"{setting} by default of {maker.name}", value)
        self.base.setdefault(setting, _off(setting) if setting in GRADIENT_SETTINGS else schedule(value))
        return value

    def _base_of_groups(self, maker: Maker, tree: Tree, owners: Mapping[str, Maker]) -> dict[str, dict[str, Schedule]]:
        """What the groups of an optimizer instance say of their arrays, where the call says nothing: base values."""
        names = {id(array): name for name, array in tree.arrays.items() if owners.get(name) is maker}
        made: dict[str, dict[str, Schedule]] = {}
        groups = maker.groups()
        for setting in {RATE, *maker.settings} - self.said if len(groups) > 1 else ():
            key = "lr" if setting == RATE else setting
            made[setting] = {
                names[id(array)]: schedule(group[key])
                for group in groups
                if key in group
                for array in group["params"]
                if id(array) in names
            }
        return made

    def table(
        self,
        tree: Tree,
        extent: Extent,
        uncounted: tuple[str, ...],
        held: Collection[str] = (),
        thawed: Collection[str] = (),
    ) -> Table:
        """Resolve against a net, and prove every schedule over the run.

        Args:
            tree: the net. extent: how long the run is. uncounted: units that its clock does not count.
            held: names of arrays that are frozen by hand, whatever the rules say.
            thawed: names of arrays that move though a rule freezes them.
        """
        if not tree.trainable:
            raise SettingError("The net has no trainable arrays: nothing has requires_grad=True.")
        self._turn_on(settings_left(tree))
        if self._pairs_muon:
            self.places = muons(tree, *self.makers)
        owners = owners_of(tree, self.places, self.makers) if self.places else dict.fromkeys(tree.arrays, self._last)
        own = self._base_of_arrays(tree, owners)
        base, given = dict(self.base), dict(self.rules)
        if self.places:
            base = {RATE: base.pop(RATE), OPTIMIZER: schedule("none"), **base}
            given[OPTIMIZER] = self.places
        made = resolve(
            tree, base, given, self.update_schedule, self.limit, strict=self.strict, own=own, held=held, thawed=thawed
        )
        made.extent = extent
        if self._exempt:
            made = _with_defaults_named(made, self._exempt)
        if self.places:
            made = without_foreign_settings(made, owners, self.rules)
        if self._climbs:
            made = self._with_rates_turned(made, owners)
        prove(made, self.known, uncounted)
        return made

    def _turn_on(self, left: set[str]) -> None:
        """Settings that are off otherwise are on where rules for them were left on modules."""
        for setting in sorted(left - {RATE} - set(self.base)):
            if setting in self.known:
                self.base[setting] = _off(setting)
            else:
                warn(f"Rules left on modules are not used: {self._unknown(setting)}")

    def optimizer_for(self, table: Table, seed: int = 0, half: str = "master") -> Optimizer:
        """The optimizer at work on the arrays of `table`; `seed` is that of the draws of our rules."""
        if not self.places:
            return self._last.at_work(table, self.given, seed, half)
        labels = [of[OPTIMIZER].at(Progress()) for of in table.choices.values()]
        members = {}
        for label, maker in self.makers.items():
            indices = [i for i, own in enumerate(labels) if own == label]
            members[label] = maker.at_work(table, self.given, seed, half, indices)
        return SeveralOptimizer(members, table)


def _with_defaults_named(table: Table, exempt: Mapping[tuple[str, str], str]) -> Table:
    """The table with the word that a value is the update rule's own default for the array."""
    choices = {name: dict(of) for name, of in table.choices.items()}
    for (name, setting), rule in exempt.items():
        choice = choices.get(name, {}).get(setting)
        if choice is not None and choice.rule == "no rule":
            choices[name][setting] = replace(choice, rule=f"default of {rule} for it")
    return table.with_choices(choices)


def _off(setting: str) -> Schedule:
    """What a setting that every trainer has is where nothing is said."""
    return schedule(GRADIENT_SETTINGS[setting].default)


def _is_rules(value: Any) -> bool:
    """Whether a value of a setting is rules by part."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
    return isinstance(value, Rules | Mapping)


def _joined(given: Mapping[str, RulesLike] | None, by_part: Mapping[str, RulesLike]) -> Mapping[str, RulesLike] | None:
    """The rules of a call, and those that were given as the value of a setting."""
    twice = [key for key in by_part if isinstance(given, Mapping) and key in given]
    if twice:
        raise SettingError(
            f"{twice[0]}= is given by part, and rules={{{twice[0]!r}: ...}} too, and both decide it. Write all in one "
            "of them."
        )
    return {**given, **by_part} if by_part and isinstance(given, Mapping) else by_part or given


def _unbound(known: Setting | None, value: Any) -> Any:
    """A value of a setting; None of a bound is no bound."""
    if known is None or not known.bound:
        return value
    return none_as(value, inf) if isinstance(value, Schedule) else inf if value is None else value


def _split_betas(settings: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """`betas=(b1, b2)` is short for `beta1=b1, beta2=b2` where the rule has those."""
    if "betas" not in settings or "beta1" not in known:
        return dict(settings)
    first, second = _pair(settings["betas"])
    rest = {key: value for key, value in settings.items() if key != "betas" or "betas" in known}
    return {**rest, "beta1": first, "beta2": second}


def _pair(betas: Any) -> tuple[Any, Any]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise SettingError(f"betas={betas!r}: a pair is needed. Write betas=(0.9, 0.999).")
    return betas[0], betas[1]
