"""A table of what every array's settings are at any moment of the run.

`resolve` (next door) decides, once, which rule gives each setting of each array. Arrays whose settings are decided
alike share a *row*. `Table.at(progress)` then gives the numbers of a step: the value of every setting in every row, and
which arrays move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from numbers import Real
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from etude.bind import show
from etude.errors import PartError
from etude.values.marks import FROZEN
from etude.values.part import Part, everything, part
from etude.values.progress import Extent, Progress
from etude.values.schedule import Constant, Schedule
from etude.values.tree import Tree, has_shape

RATE = "learning_rate"
SETS_KEPT = 512
"""How many sets of moving arrays are remembered; more come up only at random, or where parts are made at each step."""
_UNKNOWN = Extent()
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
        extent: how long the run is that the table is for, as far as that is known.
        rate_factor: what every learning rate is multiplied by; see `scale_rates`.
    """

    def __init__(
        self,
        tree: Tree,
        choices: Mapping[str, Mapping[str, Choice]],
        update_schedule: Schedule | None,
        base_rate: Schedule,
        frozen_buffers: tuple[str, ...] = (),
        covered: tuple[str, ...] = (),
        extent: Extent = _UNKNOWN,
    ) -> None:
        self.tree = tree
        self.names = tuple(choices)
        self.shapes = {name: tuple(tree.arrays[name].shape) for name in self.names if has_shape(tree.arrays[name])}
        self.update_schedule = update_schedule
        self.base_rate = base_rate
        self.frozen_buffers = frozen_buffers
        self.covered = covered
        self.extent = extent
        self.rows = _rows(choices)
        self.choices = dict(choices)
        self.settings: tuple[str, ...] = tuple(next(iter(choices.values()))) if choices else ()
        self._columns = _Columns(self.settings, self.rows)
        self._moving: dict[tuple[Any, tuple[bool, ...]], Moving] = {}
        self._sets: dict[tuple[tuple[int, tuple[int, ...]], ...], Moving] = {}
        self._less: dict[tuple[Moving, frozenset[int]], Moving] = {}
        self._constant: Now | None = None
        # Of one step several ask; the answer is a function of these two, which nobody changes.
        self._last: tuple[Progress | None, Memory, Now | None] = (None, {}, None)
        self.rate_factor = 1.0

    @property
    def constant(self) -> bool:
        """Whether every step has the same numbers and the same arrays move."""
        still = self.update_schedule is None or self.update_schedule.constant
        return still and self._columns.constant

    def at(self, progress: Progress, memory: Memory = MappingProxyType({})) -> Now:
        """The numbers of the step that is made at `progress` (the clock before the step).

        Args:
            progress: the clock.
            memory: what the schedules that listen to metrics remember, by schedule; `start` and `see` make it.
        """
        if self._constant is not None:
            return self._constant
        asked, with_memory, given = self._last
        if asked is progress and with_memory is memory and given is not None:
            return given
        columns = self._columns.at(progress, memory)
        if self.rate_factor != 1.0 and columns:
            columns[RATE] = [None if rate is None else rate * self.rate_factor for rate in columns[RATE]]
        moves = self.update_schedule
        place = everything if moves is None else moves.at(progress, memory.get(moves))
        rates = columns[RATE] if columns else ()
        live = tuple([bool(rate) for rate in rates])
        now = Now(columns, self._moving_for(place, live))
        if self.constant:
            self._constant = now
        else:
            self._last = progress, memory, now
        return now

    def scale_rates(self, factor: float) -> None:
        """From now on `at` gives every learning rate multiplied by `factor`, in place of an earlier one."""
        self.rate_factor, self._constant, self._last = float(factor), None, (None, {}, None)

    def start(self) -> dict[Schedule, Any]:
        """What the schedules that listen to metrics remember before they have seen any."""
        return {of: of.start() for of in self.schedules() if of.reactive}

    def see(
        self, memory: Memory, metrics: Mapping[str, float], progress: Progress | None = None
    ) -> dict[Schedule, Any]:
        """What they remember after these metrics, which were measured at `progress`."""
        return {of: of.see(kept, metrics, progress) for of, kept in memory.items()}

    def moving(self, progress: Progress, memory: Memory = MappingProxyType({})) -> tuple[str, ...]:
        """Names of the arrays that move at the step made at `progress`."""
        return tuple(self.names[index] for index in self.at(progress, memory).moving.indices)

    def _moving_for(self, place: Any, live: tuple[bool, ...]) -> Moving:
        key = (place, live)
        found = self._moving.get(key)
        if found is None:
            if len(self._moving) >= SETS_KEPT:
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

    def let_move(self, place: Any) -> set[str]:
        """Names of the arrays that are in what an update schedule gave, whatever their rates."""
        return set(self.names) if place is everything else self._scheduled(place)

    def show(self, extent: Extent | None = None, acts: Callable[[Progress], Any] | None = None) -> str:
        """The table as text, over the run that it is for if no other is given.

        For each array its shape, each setting now/peak/end, the rule that decided, the steps at which it moves; it
        moves in none of those at which `acts`, where there is one, says that whoever uses the table does nothing.
        """
        return show.show(self, extent, acts)

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
            if len(self._less) >= SETS_KEPT:
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
        return self.with_choices(choices, new if setting == RATE else self.base_rate)

    def with_choices(self, choices: Mapping[str, Mapping[str, Choice]], base_rate: Schedule | None = None) -> Table:
        """The same table with other choices, and perhaps another base rate."""
        rate = self.base_rate if base_rate is None else base_rate
        return Table(self.tree, choices, self.update_schedule, rate, self.frozen_buffers, self.covered, self.extent)

    def multipliers(self) -> dict[str, Any]:
        """The learning-rate multiplier of each array: a number, 0 where frozen, the schedule where it changes."""
        return {name: _multiplier(self.choices[name][RATE], self.base_rate) for name in self.names}


class _Columns:
    """All settings over all rows; every distinct schedule in them is asked once a step, those that are constant never.

    A column is made from the values of the schedules, by their places: behind the last one stand 1, the factor where
    there is none, and None, the value of what is frozen.
    """

    def __init__(self, settings: Sequence[str], rows: Sequence[Row]) -> None:
        sources: dict[Schedule, int] = {}
        plans: dict[str, list[tuple[int, int]]] = {}
        for setting in settings:
            choices = [row.choices[setting] for row in rows]
            for of in (of for choice in choices for of in (choice.base, choice.factor) if of is not None):
                sources.setdefault(of, len(sources))
            plans[setting] = [
                (-1 if c.base is None else sources[c.base], -2 if c.factor is None else sources[c.factor])
                for c in choices
            ]
        still = [of.constant for of in sources]
        self.constant = all(still)
        self._values = [_own(of.at(Progress())) if of.constant else None for of in sources] + [1.0, None]
        moving = [(place, of) for of, place in sources.items() if not of.constant]
        self._asked = [(place, of.at) for place, of in moving if not of.reactive]
        self._listening = [(place, of) for place, of in moving if of.reactive]
        # What never changes is made once; of the rest those without any factor are a matter of places alone.
        self._made: dict[str, Sequence[Any]] = {setting: [] for setting in settings} | {
            setting: _column(self._values, plan)
            for setting, plan in plans.items()
            if all(place < 0 or still[place] for pair in plan for place in pair)
        }
        changing = {setting: plan for setting, plan in plans.items() if not self._made[setting] and plan}
        self._plain = {name: [base for base, _ in plan] for name, plan in changing.items() if _without_factors(plan)}
        self._scaled = {name: plan for name, plan in changing.items() if name not in self._plain}

    def at(self, progress: Progress, memory: Memory) -> dict[str, Sequence[Any]]:
        values = self._values.copy()
        for place, at in self._asked:
            value = at(progress)
            values[place] = value if type(value) is float else _own(value)
        for place, of in self._listening:
            values[place] = _own(of.at(progress, memory.get(of)))
        columns: dict[str, Sequence[Any]] = self._made.copy()
        for setting, places in self._plain.items():
            columns[setting] = [values[place] for place in places]
        for setting, plan in self._scaled.items():
            columns[setting] = _column(values, plan)
        return columns


def _without_factors(plan: Sequence[tuple[int, int]]) -> bool:
    return all(factor == -2 for _, factor in plan)


def _column(values: Sequence[Any], plan: Sequence[tuple[int, int]]) -> Sequence[Any]:
    """The values of one setting; None where a row is held."""
    made: list[Any] = []
    for base, factor in plan:
        value = values[base]
        if factor != -2 and value is not None:
            scale = values[factor]
            value = None if scale is None else value * scale
        made.append(value)
    return made


def _own(value: Any) -> Any:
    """Numbers of numpy, which a function may give, as Python's own: kernels take no others; None for what is held."""
    if value is None or value is FROZEN:
        return None
    if type(value) is float or not isinstance(value, Real) or isinstance(value, int):
        return value
    return float(value)


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
