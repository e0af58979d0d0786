"""Rules meet one net: a table of what every array's settings are at any moment of the run.

`resolve` decides, once, which rule gives each setting of each array. Arrays whose settings are decided alike share a
*row*. `Table.at(progress)` then gives the numbers of a step: the value of every setting in every row, and which arrays
move.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from numbers import Real
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from etude.bind import show
from etude.bind.left import left_for
from etude.errors import PartError, RuleError, nearest
from etude.values.marks import FROZEN, INHERIT
from etude.values.part import Part, everything, part
from etude.values.progress import Extent, Progress
from etude.values.rules import Rules, Times
from etude.values.schedule import Constant, Schedule, schedule
from etude.values.tree import Tree, has_shape

RATE = "learning_rate"
_KEPT = 512
"""How many sets of moving arrays are remembered; more come up only at random, or where parts are made at each step."""
Memory: TypeAlias = Mapping[Schedule, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """How one setting of one array is decided.

    Attributes:
        base: the schedule of the value, or None where the array is frozen.
        factor: a schedule that multiplies it, or None.
        rule: the rule that decided, in words.
        absolute: whether the value is the array's own, so that another base leaves it as it is.
    """

    base: Schedule | None
    factor: Schedule | None
    rule: str
    absolute: bool = False

    @property
    def value(self) -> tuple[Schedule | None, Schedule | None, bool]:
        """What decides the number, without the words."""
        return (self.base, self.factor, self.absolute)

    @property
    def frozen(self) -> bool:
        """Whether the array never moves."""
        return self.base is None

    @property
    def constant(self) -> bool:
        """Whether the value never changes."""
        return all(of is None or of.constant for of in (self.base, self.factor))

    def at(self, progress: Progress) -> Any:
        """The value at a moment, with nothing heard of metrics; None where the array is frozen then."""
        if self.base is None:
            return None
        factor = 1.0 if self.factor is None else self.factor.at(progress)
        value = self.base.at(progress)
        if _held(factor) or _held(value):
            return None
        return value if self.factor is None else value * factor


@dataclass(frozen=True, slots=True)
class Row:
    """Arrays that share the way every setting is decided."""

    names: tuple[str, ...]
    indices: tuple[int, ...]
    choices: Mapping[str, Choice]

    @property
    def frozen(self) -> bool:
        """Whether the arrays of this row never move."""
        return self.choices[RATE].frozen


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The arrays of one row that move at a step, by their index in `Table.names`."""

    row: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Moving:
    """What moves at a step. The same object comes back whenever the same arrays move, so it can be a key."""

    groups: tuple[Group, ...]
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Now:
    """The numbers of one step: `columns[setting][row]`, and what moves."""

    columns: Mapping[str, Sequence[Any]]
    moving: Moving


class Table:
    """The settings of every trainable array of one net. Made by `resolve`.

    Attributes:
        tree: the net that was walked.
        names: the trainable arrays in the order of the net.
        shapes: their shapes.
        rows: arrays under equal rules; each trainable array is in exactly one.
        update_schedule: the schedule of parts that move, or None.
        base_rate: the learning rate without rules.
        frozen_buffers: names of buffers that a rule freezes.
        covered: rules that can never decide because earlier ones cover them, in words.
    """

    def __init__(
        self,
        tree: Tree,
        choices: Mapping[str, Mapping[str, Choice]],
        update_schedule: Schedule | None,
        base_rate: Schedule,
        frozen_buffers: tuple[str, ...] = (),
        covered: tuple[str, ...] = (),
    ) -> None:
        self.tree = tree
        self.names = tuple(choices)
        self.shapes = {name: tuple(tree.arrays[name].shape) for name in self.names if has_shape(tree.arrays[name])}
        self.update_schedule = update_schedule
        self.base_rate = base_rate
        self.frozen_buffers = frozen_buffers
        self.covered = covered
        self.rows = _rows(choices)
        self.choices = dict(choices)
        self.settings: tuple[str, ...] = tuple(next(iter(choices.values()))) if choices else ()
        self._columns = {setting: _Column([row.choices[setting] for row in self.rows]) for setting in self.settings}
        self._moving: dict[tuple[Any, tuple[bool, ...]], Moving] = {}
        self._sets: dict[tuple[tuple[int, tuple[int, ...]], ...], Moving] = {}
        self._less: dict[tuple[Moving, frozenset[int]], Moving] = {}
        self._constant: Now | None = None

    @property
    def constant(self) -> bool:
        """Whether every step has the same numbers and the same arrays move."""
        still = self.update_schedule is None or self.update_schedule.constant
        return still and all(column.constant for column in self._columns.values())

    def at(self, progress: Progress, memory: Memory = MappingProxyType({})) -> Now:
        """The numbers of the step that is made at `progress` (the clock before the step).

        Args:
            progress: the clock.
            memory: what the schedules that listen to metrics remember, by schedule; `start` and `see` make it.
        """
        if self._constant is not None:
            return self._constant
        columns = {setting: column.at(progress, memory) for setting, column in self._columns.items()}
        moves = self.update_schedule
        place = everything if moves is None else moves.at(progress, memory.get(moves))
        rates = columns[RATE] if columns else ()
        live = tuple([bool(rate) for rate in rates])
        now = Now(columns, self._moving_for(place, live))
        if self.constant:
            self._constant = now
        return now

    def start(self) -> dict[Schedule, Any]:
        """What the schedules that listen to metrics remember before they have seen any."""
        return {of: of.start() for of in self.schedules() if of.reactive}

    def see(self, memory: Memory, metrics: Mapping[str, float]) -> dict[Schedule, Any]:
        """What they remember after these metrics."""
        return {of: of.see(kept, metrics) for of, kept in memory.items()}

    def moving(self, progress: Progress, memory: Memory = MappingProxyType({})) -> tuple[str, ...]:
        """Names of the arrays that move at the step made at `progress`."""
        return tuple(self.names[index] for index in self.at(progress, memory).moving.indices)

    def _moving_for(self, place: Any, live: tuple[bool, ...]) -> Moving:
        key = (place, live)
        found = self._moving.get(key)
        if found is None:
            if len(self._moving) >= _KEPT:
                self._moving.clear()
                self._sets.clear()
            made = self._find_moving(place, live)
            # A schedule that is computed may write one set in many ways.
            found = self._moving[key] = self._sets.setdefault(tuple((g.row, g.indices) for g in made.groups), made)
        return found

    def _find_moving(self, place: Any, live: tuple[bool, ...]) -> Moving:
        scheduled = None if place is everything else self._scheduled(place)
        groups = []
        for number, row in enumerate(self.rows):
            if live[number]:
                inside = zip(row.names, row.indices, strict=True)
                indices = tuple(i for name, i in inside if scheduled is None or name in scheduled)
                if indices:
                    groups.append(Group(number, indices))
        return Moving(tuple(groups), tuple(sorted(i for group in groups for i in group.indices)))

    def _scheduled(self, place: Any) -> set[str]:
        """Names of what an update schedule lets move; one that is computed by a function may give any literal."""
        if place is FROZEN:
            # It may also hold everything for a while.
            return set()
        try:
            return set(part(place).names(self.tree))
        except PartError as error:
            raise PartError(f"The update schedule {self.update_schedule!r} gave {place!r}: {error}") from None

    def why(self, name: str) -> str:
        """Which rule decided each setting of an array (under any of its names), in words.

        Raises:
            PartError: the net has no trainable array of that name.
        """
        return show.why(self, name)

    def show(self, extent: Extent | None = None) -> str:
        """The table as text: array, shape, each setting now/peak/end, the rule that decided, the steps of moving."""
        return show.show(self, extent)

    def score(self, moments: Sequence[Progress]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """The effective learning rate of every array at every moment: names, and shape (arrays, moments); nan: held."""
        return show.score(self, moments)

    def ever_moving(self) -> tuple[str, ...]:
        """Names of the arrays that some step may move: not frozen, and in some part of the update schedule."""
        parts = None if self.update_schedule is None else parts_of(self.update_schedule)
        # A schedule computed by a function names its parts only when it is asked.
        scheduled = {name for place in parts for name in place.names(self.tree)} if parts else None
        live = {name for row in self.rows if not row.frozen for name in row.names}
        return tuple(name for name in self.names if name in live and (scheduled is None or name in scheduled))

    def less(self, moving: Moving, left_out: frozenset[int]) -> Moving:
        """What moves, without some arrays (given by index)."""
        key = (moving, left_out)
        if key not in self._less:
            if len(self._less) >= _KEPT:
                self._less.clear()
            groups = (Group(g.row, tuple(i for i in g.indices if i not in left_out)) for g in moving.groups)
            kept = tuple(i for i in moving.indices if i not in left_out)
            self._less[key] = Moving(tuple(group for group in groups if group.indices), kept)
        return self._less[key]

    def schedules(self) -> tuple[Schedule, ...]:
        """Every distinct schedule that the table asks, the update schedule last."""
        asked = {of: None for row in self.rows for c in row.choices.values() for of in (c.base, c.factor) if of}
        if self.update_schedule is not None:
            asked[self.update_schedule] = None
        return tuple(asked)

    def replaced(self, setting: str, old: Schedule, new: Schedule) -> Table:
        """The same table with `new` in place of the base `old` of a setting; the rows stay the same rows."""

        def choice(own: str, made: Choice) -> Choice:
            kept = own != setting or made.absolute or made.base != old
            return made if kept else Choice(new, made.factor, made.rule)

        choices = {name: {own: choice(own, made) for own, made in of.items()} for name, of in self.choices.items()}
        return Table(
            self.tree,
            choices,
            self.update_schedule,
            new if setting == RATE else self.base_rate,
            self.frozen_buffers,
            self.covered,
        )

    def multipliers(self) -> dict[str, Any]:
        """The learning-rate multiplier of each array: a number, 0 where frozen, the schedule where it changes."""
        return {name: _multiplier(self.choices[name][RATE], self.base_rate) for name in self.names}


class _Column:
    """One setting over all rows; every distinct schedule in it is asked once a step."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        sources: dict[Schedule, int] = {}

        def source(of: Schedule | None) -> int:
            return -1 if of is None else sources.setdefault(of, len(sources))

        self._plan = [(source(choice.base), source(choice.factor)) for choice in choices]
        self._sources = tuple(sources)
        self.constant = all(of.constant for of in self._sources)
        self._fixed = self._make(Progress(), {}) if self.constant else None

    def at(self, progress: Progress, memory: Memory) -> Sequence[Any]:
        return self._fixed if self._fixed is not None else self._make(progress, memory)

    def _make(self, progress: Progress, memory: Memory) -> list[Any]:
        values = [_own_number(of.at(progress, memory.get(of) if memory else None)) for of in self._sources]
        made: list[Any] = []
        for base, factor in self._plan:
            value = values[base] if base >= 0 else FROZEN
            scale = values[factor] if factor >= 0 else 1.0
            if value is None or value is FROZEN or scale is FROZEN or scale is None:
                made.append(None)
            else:
                made.append(value if factor < 0 else value * scale)
        return made


def _own_number(value: Any) -> Any:
    """Numbers of numpy, which a function may give, as Python's own: kernels take no others."""
    if type(value) is float or not isinstance(value, Real) or isinstance(value, int):
        return value
    return float(value)


def resolve(
    tree: Tree,
    base: Mapping[str, Schedule],
    rules: Mapping[str, Rules],
    update_schedule: Schedule | None = None,
    only: Part | None = None,
    strict: bool = False,
    own: Mapping[str, Mapping[str, Schedule]] = MappingProxyType({}),
) -> Table:
    """Decide which rule gives each setting of each trainable array.

    Args:
        tree: the net.
        base: the value of each setting without rules.
        rules: the call's rules for each setting; the first that has the array decides.
        update_schedule: a schedule of parts; what is in none of them never moves.
        only: limit the table to the arrays of this part.
        strict: a rule that is wholly covered by earlier ones is an error instead of a warning.
        own: base values of single arrays, by setting and name, instead of that of all.

    Raises:
        PartError: a rule, or a part of the update schedule, matches nothing in the net; nothing in `only` is trainable.
        RuleError: a rule is wholly covered by earlier ones and `strict`; rules for an unknown setting.
    """
    unknown = [setting for setting in rules if setting not in base]
    if unknown:
        raise RuleError(
            f"rules for {unknown[0]!r}: there is no such setting. Settings: {', '.join(base)}."
            f"{nearest(unknown[0], base)}"
        )
    names = tree.trainable if only is None else _limited(tree, only)
    matched = {setting: _matched(tree, setting, made) for setting, made in rules.items()}
    covered = tuple(text for setting, made in rules.items() for text in _covered(made, matched[setting], setting))
    if covered and strict:
        raise RuleError("Rules that can never decide, because earlier ones cover them: " + "; ".join(covered))
    for text in covered:
        warnings.warn(f"This rule never decides, because earlier ones cover it: {text}", stacklevel=4)
    for text in (text for setting, made in rules.items() for text in _conflicts(tree, made, setting)):
        warnings.warn(text, stacklevel=4)
    choose = _Chooser(tree, base, rules, matched, own)
    choices = {name: {setting: choose(name, setting) for setting in base} for name in names}
    buffers = [name for name in tree.arrays if name not in tree.parameters]
    inside = set(tree.arrays) if only is None else set(only.names(tree))
    frozen = tuple(name for name in buffers if name in inside and choose(name, RATE).frozen)
    for text in _check_schedule(tree, update_schedule, choices):
        warnings.warn(text, stacklevel=4)
    return Table(tree, choices, update_schedule, base[RATE], frozen, covered)


class _Chooser:
    """Decides for one array and one setting: the call's rules, the rules left on modules, the base."""

    def __init__(
        self,
        tree: Tree,
        base: Mapping[str, Schedule],
        rules: Mapping[str, Rules],
        matched: Mapping[str, list[frozenset[str]]],
        own: Mapping[str, Mapping[str, Schedule]],
    ) -> None:
        self.tree, self.base, self.rules, self.matched, self.own = tree, base, rules, matched, own

    def __call__(self, name: str, setting: str) -> Choice:
        base = self.own.get(setting, {}).get(name, self.base[setting])
        absolute = base != self.base[setting]
        for (place, value), names in zip(self.rules.get(setting, ()), self.matched.get(setting, ()), strict=True):
            if name in names:
                if value is INHERIT:
                    break
                return self._choice(base, absolute, value, f"{place!r}: {value!r}")
        left = left_for(self.tree, name, setting)
        if left is not None:
            return self._choice(base, absolute, *left)
        return Choice(base, None, "no rule", absolute)

    def _choice(self, base: Schedule, absolute: bool, value: Any, rule: str) -> Choice:
        if value is FROZEN:
            return Choice(None, None, rule)
        if isinstance(value, Times):
            factor = schedule(value.factor)
            return Choice(base, None if value.factor == 1 else factor, rule, absolute)
        return Choice(schedule(value), None, rule, absolute=True)


def _matched(tree: Tree, setting: str, rules: Rules) -> list[frozenset[str]]:
    found = []
    for place, value in rules:
        try:
            names = frozenset(place.names(tree))
        except PartError as error:
            raise PartError(f"In the rule {place!r}: {value!r} for {setting}: {error}") from None
        if not names:
            raise PartError(
                f"The rule {place!r}: {value!r} for {setting} selects no arrays, so it would do nothing. "
                f"{_without_arrays(tree, place)}"
            )
        found.append(names)
    return found


def _covered(rules: Rules, matched: list[frozenset[str]], setting: str) -> list[str]:
    seen: set[str] = set()
    texts = []
    for (place, value), names in zip(rules, matched, strict=True):
        if names <= seen:
            texts.append(f"{setting}: {place!r}: {value!r}")
        seen |= names
    return texts


def _limited(tree: Tree, only: Part) -> tuple[str, ...]:
    """The trainable arrays of a part, of which there has to be one."""
    inside = only.names(tree)
    names = tree.in_order(set(inside) & set(tree.trainable))
    if not names:
        why = _without_arrays(tree, only) if not inside else "None of its arrays has requires_grad=True."
        raise PartError(f"{only!r} has nothing to train. {why}")
    return names


def _conflicts(tree: Tree, rules: Rules, setting: str) -> list[str]:
    """Shared arrays to which two rules give two values, each by another of the array's names."""
    texts = []
    shared = {name: paths for name, paths in tree.names.items() if len(paths) > 1 and name in tree.trainable}
    for name, paths in shared.items():
        found = [(place, value, set(paths) & _paths(tree, place)) for place, value in rules]
        found = [(place, value, own) for place, value, own in found if own]
        first = found[0] if found else None
        other = next((each for each in found if first and not each[2] & first[2] and each[1] != first[1]), None)
        if first and other:
            texts.append(
                f"The shared array {name!r} ({', '.join(paths)}) gets two values of {setting}: {first[1]!r} by "
                f"{first[0]!r} and {other[1]!r} by {other[0]!r}. The first is used."
            )
    return texts


def _paths(tree: Tree, place: Part) -> frozenset[str]:
    """The paths of a part and of everything under it."""
    return tree.remember(
        ("paths", place), lambda: frozenset(path for node in place.nodes(tree) for path in tree.paths_below(node))
    )


def _check_schedule(
    tree: Tree, update_schedule: Schedule | None, choices: Mapping[str, Mapping[str, Choice]]
) -> list[str]:
    """Raise for parts that select nothing; say which of them never move anything, all they have being frozen."""
    texts = []
    for place in parts_of(update_schedule) if update_schedule is not None else ():
        try:
            names = place.names(tree)
        except PartError as error:
            raise PartError(f"In the update schedule: {error}") from None
        if not names:
            raise PartError(
                f"In the update schedule: {place!r} selects no arrays, so nothing would move. "
                f"{_without_arrays(tree, place)}"
            )
        here = [name for name in names if name in choices]
        if all(choices[name][RATE].frozen for name in here) and (here or not set(names) & set(tree.trainable)):
            texts.append(
                f"In the update schedule: {place!r} moves nothing: all its arrays are frozen or not trainable."
            )
    return texts


def _without_arrays(tree: Tree, place: Part) -> str:
    """What a part without arrays stands for, and what to write."""
    nodes = place.nodes(tree)
    if not nodes:
        return "It is empty in this net. Write parts that have arrays in common, or leave the rule out."
    kinds = ", ".join(f"{path!r} ({type(tree.nodes[path]).__name__})" for path in nodes[:3])
    return (
        f"It stands for {kinds}. Name a layer with arrays, such as {next(iter(tree.arrays), None)!r}, or leave it out."
    )


def _rows(choices: Mapping[str, Mapping[str, Choice]]) -> tuple[Row, ...]:
    grouped: dict[tuple[Any, ...], list[tuple[str, int]]] = {}
    for index, (name, of) in enumerate(choices.items()):
        key = tuple(choice.value for choice in of.values())
        grouped.setdefault(key, []).append((name, index))
    return tuple(
        Row(tuple(name for name, _ in members), tuple(i for _, i in members), choices[members[0][0]])
        for members in grouped.values()
    )


def _multiplier(choice: Choice, base: Schedule) -> Any:
    if choice.base is None:
        return 0.0
    if not choice.absolute or choice.base == base:
        return 1.0 if choice.factor is None else _plain(choice.factor)
    rate = choice.base if choice.factor is None else choice.base * choice.factor
    still = base.at(Progress()) if base.constant else None
    if still == 0:
        return inf if _plain(rate) else 0.0
    return _plain(rate / base)


def _held(value: Any) -> bool:
    return value is None or value is FROZEN


def _plain(of: Schedule) -> Any:
    """The number, where a schedule has only one; 0 where it is held."""
    value = of.at(Progress()) if of.constant else of
    return 0.0 if _held(value) else value


def parts_of(of: Schedule) -> tuple[Part, ...]:
    """Every part that is written in a schedule of parts."""
    if isinstance(of, Constant):
        return (of.value,) if isinstance(of.value, Part) else ()
    return tuple(dict.fromkeys(place for child in of.children for place in parts_of(child)))
