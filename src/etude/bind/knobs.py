"""Knobs: scheduled values outside optimizers, written to attributes of modules and of the user's own objects.

knobs = Knobs(tree, {"p": {nn.Dropout: linear(0, 0.2)}, "strength": [(augment, linear(0, 1))]}, extent)
knobs.write(progress)  # first line of a step; what is as before is not touched

What was written last stays until the next write, also while the net is evaluated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import nan
from numbers import Real
from typing import Any

from etude.arguments import Faults
from etude.bind.dials import Dial, knobs_of
from etude.bind.knob_lines import UNSET, Line, found, prove
from etude.bind.knob_rules import KnobRule, KnobsLike, labels, read_knobs, shown
from etude.errors import EtudeError, SettingError, StateError
from etude.values import preview
from etude.values.marks import INHERIT
from etude.values.progress import Extent, Progress
from etude.values.schedule import Schedule
from etude.values.tree import Tree

_COUNTED = 1000
"""Moments at which values are counted."""


class Knobs:
    """The knobs of one net, or of no net but objects of the user's own.

    Args:
        tree: the net, walked. literal: what `read_knobs` takes.
        extent: how long the run is. uncounted: units in which its clock does not move.
        strict: a rule that never decides is an error, not a warning.

    For each module (and attribute) the first rule that has it decides; a part has its node and every module under it.
    A number of one element that is a buffer is filled in place. Making this writes no new value to anything.

    Raises:
        PartError: a part that is not in the net.
        SettingError: nothing there has the attribute, it cannot be written, or not with these values.
        ScheduleError: a schedule that is undefined somewhere in the run. RuleError: a rule never decides, and `strict`.
    """

    def __init__(
        self,
        tree: Tree,
        literal: KnobsLike,
        extent: Extent,
        uncounted: Sequence[str] = (),
        strict: bool = False,
    ) -> None:
        rules = read_knobs(literal)
        named = zip(labels(rules), rules, found(tree, rules, strict), strict=True)
        self._lines = tuple(Line(label, rule, dials) for label, rule, dials in named if rule.value is not INHERIT)
        self._moving = tuple(line for line in self._lines if not line.source.constant)
        self._memory = {of: of.start() for of in self.schedules() if of.reactive}
        self._fresh = False
        # Made when they are asked for, and then kept until something changes.
        self._numbers: dict[str, float] | None = None
        faults = Faults()
        for line in self._lines:
            faults.take(prove, line, extent, uncounted)
        faults.tell()

    def __len__(self) -> int:
        return len(self._lines)

    def write(self, progress: Progress) -> None:
        """Write the values of the step that is made at `progress`; an attribute whose value is as before is not set.

        Raises:
            SettingError, ScheduleError: a value that the attribute cannot have, or none, at this moment of the run.
        """
        memory, fresh = self._memory, self._fresh
        for line in self._moving if fresh else self._lines:
            value = line.at(progress, memory.get(line.source)) if memory else line.at(progress)
            if value != line.last or not fresh:
                try:
                    line.put(value)
                except EtudeError as error:
                    where = preview.moment_text(progress)
                    raise SettingError(f"knobs: {line.label} at {where}: {error}") from error
                self._numbers = None
        self._fresh = True

    def see(self, metrics: Mapping[str, float], progress: Progress | None = None) -> None:
        """Tell scores to the schedules that listen; what they say from now on is written by the next `write`."""
        self._memory = {of: of.see(kept, metrics, progress) for of, kept in self._memory.items()}

    def again(self) -> None:
        """Put what was written last once more: somebody else put other values into the net's buffers."""
        for line in self._lines:
            if line.last is not UNSET:
                line.put(line.last)

    @property
    def values(self) -> Mapping[str, Any]:
        """What was written last, by label; nothing before the first `write`.

        A label is the attribute, "p", or "p[encoder]" where several rules are for it. Of `times(r)` over modules that
        began with different values it is r.
        """
        return {line.label: line.value(line.last) for line in self._lines if line.last is not UNSET}

    @property
    def numbers(self) -> Mapping[str, float]:
        """Those of `values` that are numbers or bools, as numbers. The same object until something changes."""
        numbers = self._numbers
        if numbers is None:
            written = [line for line in self._lines if line.numeric and line.last is not UNSET]
            numbers = self._numbers = {line.label: float(line.value(line.last)) for line in written}
        return numbers

    @property
    def dials(self) -> tuple[Dial, ...]:
        """Every attribute that is written at some step after the first."""
        return tuple(dial for line in self._moving for dial in line.dials)

    def schedules(self) -> tuple[Schedule, ...]:
        """Every distinct schedule that is asked."""
        return tuple(dict.fromkeys(line.source for line in self._lines))

    @contextmanager
    def tried(self, progress: Progress) -> Iterator[None]:
        """Within it the values of that moment are in force; afterwards everything is as it was, also after an error."""
        before = [(dial, dial.read()) for line in self._lines for dial in line.dials]
        kept = [line.last for line in self._lines], self._fresh
        self._fresh = False
        try:
            self.write(progress)
            yield
        finally:
            for dial, value in before:
                dial.put(value)
            lasts, self._fresh = kept
            self._numbers = None
            for line, last in zip(self._lines, lasts, strict=True):
                line.last = last

    def state(self) -> dict[str, Any]:
        """What schedules remember, what was written last, and what `times` is relative to; plain values by label."""
        return {
            "memory": {line.label: self._memory[line.source] for line in self._lines if line.source in self._memory},
            "written": {line.label: line.last for line in self._lines if line.last is not UNSET},
            "starts": {line.label: list(line.starts) for line in self._lines if line.relative},
        }

    def check_state(self, state: Any) -> None:
        """Raise StateError unless it is a state of these knobs; nothing is changed."""
        _checked(state, self._lines)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave, and write it; a label that the state does not have begins anew.

        Raises:
            StateError: it is no state of knobs, or of other ones. Nothing is changed.
        """
        memory = _checked(state, self._lines)
        self._memory = {of: memory.get(of, kept) for of, kept in self._memory.items()}
        for line in self._lines:
            line.start_from(tuple(state["starts"].get(line.label, line.starts)))
            if line.label in state["written"]:
                line.put(_as_tuples(state["written"][line.label]))
        self._fresh = all(line.last is not UNSET for line in self._lines)
        self._numbers = None

    def series(self, moments: Sequence[Progress]) -> dict[str, tuple[Any, ...]]:
        """The value of each label at every moment, with nothing heard of metrics."""
        return {line.label: tuple(line.value(line.source.at(moment)) for moment in moments) for line in self._lines}

    def counts(self, dials: Collection[Dial], extent: Extent) -> dict[str, tuple[Dial, int]]:
        """How many values some attributes take in a run, by label; those that change only, with the first of them."""
        moments = preview.moments(extent, _COUNTED, unknown=0.0)
        asked = set(map(id, dials))
        return {
            line.label: (dial, len({line.source.at(moment) for moment in moments}))
            for line in self._moving
            for dial in [next((dial for dial in line.dials if id(dial) in asked), None)]
            if dial is not None
        }

    def show(self, extent: Extent | None = None) -> str:
        """The knobs as text: for each its label, what is written, its values at the start and the end, and where."""
        if not self._lines:
            return ""
        # The last of many: where steps are not known, the last of two would be half of the run.
        ends = preview.moments(extent or Extent(), _COUNTED, unknown=0.0)
        ends = [ends[0], ends[-1]]
        rows = [(line.label, line.text, _span_text(line, ends), line.places) for line in self._lines]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            "  ".join([*(cell.ljust(n) for cell, n in zip(row, widths, strict=False)), row[3]]) for row in rows
        )


def _checked(state: Any, lines: Collection[Line]) -> dict[Schedule, Any]:
    """What schedules remember according to a state, once it has been seen to fit."""
    keys = ("memory", "written", "starts")
    if not isinstance(state, Mapping) or not all(isinstance(state.get(key), Mapping) for key in keys):
        raise StateError("This is no state of knobs. Give what state() returned.")
    memory = {}
    for line in lines:
        starts = state["starts"].get(line.label, line.starts)
        if not isinstance(starts, list | tuple) or len(starts) != len(line.starts):
            raise StateError(
                f"The state of the knob {line.label!r} is for {len(starts)} attributes, here are {len(line.starts)}."
            )
        if line.label in state["memory"]:
            memory[line.source] = _as_tuples(state["memory"][line.label])
        if line.label not in state["written"]:
            continue
        try:
            line.fitted(_as_tuples(state["written"][line.label]))
        except (EtudeError, TypeError) as error:
            raise StateError(f"The state of the knob {line.label!r} does not fit: {error}") from None
    return memory


def _as_tuples(found: Any) -> Any:
    return tuple(map(_as_tuples, found)) if isinstance(found, list | tuple) else found


def _span_text(line: Line, ends: Sequence[Progress]) -> str:
    """The values of a line at the start and at the end of a run, where they can be known."""
    told = []
    for moment in ends:
        try:
            told.append(line.value(line.source.at(moment)))
        except EtudeError:
            told.append(nan)
    return " → ".join(dict.fromkeys(map(_value_text, told)))


def _value_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, Real) and not isinstance(value, bool) else str(value)


__all__ = ["KnobRule", "Knobs", "KnobsLike", "knobs_of", "read_knobs", "shown"]
