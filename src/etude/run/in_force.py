"""What was in force in a step besides the learning rate: every setting that changes, weights of losses, knobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import floor, inf
from numbers import Real
from typing import Any

from etude.bind.table import RATE, Choice, Table
from etude.data.assembled import Assembled
from etude.data.plan.chunking import Changing
from etude.data.plan.filters import During, Filter
from etude.data.plan.limits import CostLimit, SampleLimit, StreamLimit
from etude.run.checked import Checked
from etude.step.gradients import GRADIENT_SETTINGS
from etude.step.policies import policy
from etude.step.work import Work
from etude.values.progress import TINY, Extent, Progress
from etude.values.schedule import Schedule, schedule

WEIGHT = "weight."
RATE_FACTOR = "setting.rate_factor"
BITS = {"fp64": 64.0, "fp32": 32.0, "bf16": 16.0, "fp16": 16.0}
"""Of a number, by the name of the precision: a history has numbers only."""
_PART = re.compile(r"part\(([^()]*)\)")
"""A part as it prints; in a name only what it is called is of interest."""
_BOUNDS = frozenset(name for name, setting in GRADIENT_SETTINGS.items() if setting.default == inf)
"""Settings of which None, as a function may give it, is no bound."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """One number of a table: under which name, and where it stands."""

    name: str
    setting: str
    row: int


class InForce:
    """The numbers of a step by their names in the history.

    "setting.<name>" for a setting that changes, with the part in brackets where a rule decides; so are called the sizes
    of batches too ("setting.accumulate", "setting.batch_size", "setting.budget", "setting.chunk"), what leaves samples
    out of an epoch ("setting.keep.length.most"), what a loss is computed with ("setting.ce.smoothing"), the bits of a
    number ("setting.precision"), and what every learning rate is multiplied by because of `roll_back`
    ("setting.rate_factor"); "weight.<term>" for a term of a loss whose weight changes; "knob.<label>". With several
    updates the name of the update comes before that of the setting or term.

    Attributes:
        empty: whether there is nothing to tell at any step.
    """

    def __init__(self, checked: Checked) -> None:
        works, plan = checked.works, checked.plan
        self._knobs = checked.knobs or None
        self._told: dict[str, str] = {}
        self._batches = dict(_of_batches(checked))
        self._filters = tuple(_of_filters(checked))
        self._chunks = _chunks(checked)
        self._filtered = lru_cache(maxsize=2)(self._of_epoch)
        self._flow = checked.flow
        said = plan.precision
        self._precision = said if isinstance(said, Schedule) and not said.constant else None
        # Limits of batches are asked before anybody knows how many steps an epoch has.
        self._extent = Extent(steps=plan.steps, epochs=plan.epochs)
        self._works = [(work, _shown(work.stepper.table, _of(work, works))) for work in works]
        self._works = [(work, shown) for work, shown in self._works if shown]
        changes = any(not made.constant for work in works for made in work.losses.settings().values())
        self._losses = [(work, _of(work, works)) for work in works] if changes else []
        self._rolls = works[0].stepper.table if policy(plan.non_finite).factor != 1 else None
        of_data = (self._batches, self._filters, self._chunks)
        self.empty = not any((self._works, self._losses, *of_data, self._knobs, self._precision, self._rolls))

    def at(self, progress: Progress) -> Mapping[str, float]:
        """What was in force in the step made at `progress`."""
        found: dict[str, float] = {}
        for work, shown in self._works:
            columns = work.stepper.table.at(progress, work.stepper.memory).columns
            for one in shown:
                value = columns[one.setting][one.row]
                if value is None and one.setting in _BOUNDS:
                    value = inf
                if type(value) is float:
                    found[one.name] = value
                # Where an array is held there is no number.
                elif isinstance(value, Real):
                    found[one.name] = float(value)
        for work, prefix in self._losses:
            for label, value in work.losses.in_force(progress).items():
                kind, _, name = label.rpartition(WEIGHT)
                found[f"{WEIGHT}{prefix}{name}" if not kind and label != name else f"setting.{prefix}{label}"] = value
        for name, made in self._batches.items():
            found[name] = float(made.at(replace(progress, extent=self._extent)))
        if self._precision is not None:
            found["setting.precision"] = BITS[self._precision.at(progress)]
        if self._rolls is not None:
            found[RATE_FACTOR] = self._rolls.rate_factor
        if self._filters or self._chunks:
            found.update(self._filtered(floor(progress.epoch + TINY)))
        if self._knobs is not None:
            told = self._told
            for label, number in self._knobs.numbers.items():
                found[told.get(label) or told.setdefault(label, f"knob.{label}")] = number
        return found

    def _of_epoch(self, epoch: int) -> dict[str, float]:
        """The numbers of filters and the sizes of chunks, which are asked at the start of an epoch."""
        start = self._flow.start(epoch)
        here = [(name, made) for name, made, epochs in self._filters if epochs is None or epoch in epochs]
        given = [(name, made.at(start)) for name, made in here] if start is not None else []
        cut = self._chunks.at(start) if self._chunks is not None and start is not None else None
        sizes = () if cut is None else cut.size
        given += [(f"setting.chunk.{stream}" if stream else "setting.chunk", size) for stream, size in sizes]
        return {name: float(value) for name, value in given if isinstance(value, Real)}


def _chunks(checked: Checked) -> Changing | None:
    """What cuts samples, where it changes."""
    source = checked.flow.source
    chunk = source.batching.chunk if isinstance(source, Assembled) else None
    return chunk if isinstance(chunk, Changing) else None


def _of_filters(checked: Checked) -> Iterator[tuple[str, Schedule, range | None]]:
    """The numbers of filters that change, with the epochs in which these act where it is not all."""
    source = checked.flow.source
    for each in source.batching.filters if isinstance(source, Assembled) else ():
        inner, epochs = (each.inner, each.epochs) if isinstance(each, During) else (each, None)
        for name, made in _numbers(inner):
            if not made.constant:
                yield f"setting.keep.{name}", made, epochs


def _numbers(of: Filter) -> Iterator[tuple[str, Schedule]]:
    """The schedules of a filter, by what they are called where it is made: "length.most", "length.most.audio"."""
    call = repr(of).partition("(")[0]
    for field in fields(of):  # type: ignore[arg-type]
        held: Any = getattr(of, field.name)
        if isinstance(held, Schedule) and held.kind == "number":
            yield f"{call}.{field.name}", held
        for stream, made in held if isinstance(held, tuple) else ():
            yield f"{call}.{field.name}" + (f".{stream}" if stream else ""), made


def _of_batches(checked: Checked) -> Iterator[tuple[str, Schedule]]:
    """What says how large batches are, and how many make a step, where it changes."""
    several = schedule(checked.plan.accumulate)
    if not several.constant:
        yield "setting.accumulate", several
    source = checked.flow.source
    for limit in source.batching.limits if isinstance(source, Assembled) else ():
        if isinstance(limit, SampleLimit):
            made = {"batch_size": limit.most}
        elif isinstance(limit, StreamLimit):
            every = {} if limit.most is None else {"budget": limit.most}
            made = every | {f"budget.{stream}": most for stream, most in limit.streams}
        else:
            made = {"budget": limit.most} if isinstance(limit, CostLimit) else {}
        yield from ((f"setting.{name}", most) for name, most in made.items() if not most.constant)


def _of(work: Work, works: Sequence[Work]) -> str:
    return "" if len(works) == 1 else f"{work.name}."


def rate_names(work: Work, works: Sequence[Work]) -> dict[Any, str]:
    """The names under which a history has learning rates of rules, by the `Choice.value` that decides them."""
    table = work.stepper.table
    shown = [one for one in _shown(table, _of(work, works)) if one.setting == RATE]
    return {table.rows[one.row].choices[RATE].value: one.name for one in shown}


def _shown(table: Table, prefix: str) -> list[_Shown]:
    """Every number of a table that changes, each once; the base of the learning rate has a series of its own."""
    found: dict[str, _Shown] = {}
    for number, row in enumerate(table.rows):
        for setting, choice in row.choices.items():
            if choice.constant or (setting == RATE and choice.base == table.base_rate and choice.factor is None):
                continue
            name = f"setting.{prefix}{setting}{_place(choice)}"
            found.setdefault(name, _Shown(name, setting, number))
    return list(found.values())


def _place(choice: Choice) -> str:
    """The part that a rule is for, in brackets; nothing where no rule decides."""
    place, colon, _ = choice.rule.partition(": ")
    return f"[{_PART.sub(_inside, place)}]" if colon else ""


def _inside(found: re.Match[str]) -> str:
    return found[1].strip("'")
