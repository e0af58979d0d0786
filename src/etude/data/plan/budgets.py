"""What a batch may hold, as values: `padded(32_000)`, `packed(audio=20_000)`, `cost(quadratic, 1e9)`, `samples(64)`.

Each limit is a number or a schedule of them, and a batch keeps all the limits it is given.

===========  ==========================================================================
`padded`     number of units × the longest of them: what is computed when they are padded
`packed`     the sum of their lengths: what is computed when they are strung together
`padding`    number × longest less the sum: what padding adds
`cost`       the sum of any function of the lengths, or number × the largest of it
`samples`    the number of units
===========  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import Any, final

import numpy as np

from etude.arguments import named
from etude.data.plan.lengths import Lengths
from etude.data.plan.limits import (
    CostFunction,
    CostLimit,
    Floats,
    Kind,
    Limit,
    SampleLimit,
    StreamLimit,
    amount,
    called,
)
from etude.errors import SettingError
from etude.values.algebra import Schedule, ScheduleLike, schedule
from etude.values.progress import Progress
from etude.values.spans import Span

__all__ = [
    "Costs",
    "Floats",
    "Kind",
    "Limit",
    "budget",
    "cost",
    "costs",
    "packed",
    "padded",
    "padding",
    "samples",
]


@named
def padded(most: ScheduleLike = None, /, **streams: ScheduleLike) -> Limit:
    """Number of units × the longest of them: what a batch holds when its units are padded to one length.

    Args:
        most: frames, for every stream on its own; a number above 0, or a schedule of them.
        streams: instead of it, frames for the streams that are named: `padded(audio=32_000, labels=400)`.

    Raises:
        SettingError: neither or both are given, or a number is not above 0.
    """
    return _stream_limit("padded", most, streams)


@named
def packed(most: ScheduleLike = None, /, **streams: ScheduleLike) -> Limit:
    """The sum of the lengths, padding not counted: what a batch holds when its units are strung together.

    Args:
        most: frames, for every stream on its own; a number above 0, or a schedule of them.
        streams: instead of it, frames for the streams that are named.

    Raises:
        SettingError: neither or both are given, or a number is not above 0.
    """
    return _stream_limit("packed", most, streams)


@named
def padding(most: ScheduleLike = None, /, **streams: ScheduleLike) -> Limit:
    """What padding adds: number × longest less the sum of the lengths. A batch ends before it exceeds that.

    Args:
        most: frames of padding, for every stream on its own; a number above 0, or a schedule of them.
        streams: instead of it, frames for the streams that are named.

    Raises:
        SettingError: neither or both are given, or a number is not above 0.
    """
    return _stream_limit("padding", most, streams)


@named
def cost(function: CostFunction, most: ScheduleLike, padded: bool = False) -> Limit:
    """Any cost: `cost(lambda lengths: lengths["audio"] ** 2, 1e9)` for attention, a product of two for a transducer.

    Args:
        function: of `Lengths`, whose `lengths["audio"]` is int64 of shape (units,); gives a cost from 0 on for each.
            It is called once with all units.
        most: what the costs of a batch may add up to; a number above 0, or a schedule of them.
        padded: instead of the sum, number of units × the largest cost among them.

    Raises:
        SettingError: `function` cannot be called, or the number is not above 0.
    """
    if not callable(function):
        raise SettingError(
            f"cost({function!r}, ...): a function of the lengths is needed, as in "
            'cost(lambda lengths: lengths["audio"] ** 2, 1e9).'
        )
    return CostLimit(function, _most(most, f"cost({called(function)}, {most!r})"), bool(padded))


@named
def samples(most: ScheduleLike) -> Limit:
    """So many units in a batch.

    Args:
        most: a whole number from 1 on, or a schedule of numbers.

    Raises:
        SettingError: it is none.
    """
    if isinstance(most, Real) and 0 < float(most) < inf and float(most) % 1:
        raise SettingError(f"samples({most!r}): a batch holds whole samples. Write {max(1, int(float(most)))}.")
    return SampleLimit(_most(most, f"samples({most!r})"))


def budget(literal: Any, batch_size: ScheduleLike = None) -> tuple[Limit, ...]:
    """The limits that `budget=` and `batch_size=` stand for; nothing where both are None.

    Args:
        literal: a number or schedule (`padded` of every stream), a dict of them by stream, a limit, or a list of
            these, all of which hold.
        batch_size: samples in a batch.

    Raises:
        SettingError: a number that is not above 0, a schedule that follows a score, or something that is no limit.
    """
    parts = list(literal) if isinstance(literal, list | tuple) else [] if literal is None else [literal]
    limits = tuple(map(_limit, parts))
    if batch_size is None:
        return limits
    if isinstance(batch_size, Limit):
        raise SettingError(f"batch_size={batch_size!r}: a limit is written budget={batch_size!r}.")
    return (*limits, samples(batch_size))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """Limits in numbers, for known units.

    Attributes:
        values: of each unit alone under each limit, float64, shape (limits, n).
        kinds: how the costs of units make up that of a batch.
        titles: what each limit counts, for messages.
        schedules: what each limit allows.
    """

    values: Floats
    kinds: tuple[Kind, ...]
    titles: tuple[str, ...]
    schedules: tuple[Schedule, ...]
    _slack: tuple[float, ...] = ()

    @property
    def constant(self) -> bool:
        """Whether the limits are the same during the whole run."""
        return all(each.constant for each in self.schedules)

    def most(self, progress: Progress) -> Floats:
        """What each limit allows at a moment, float64, shape (limits,).

        Sums of fractions are allowed a billionth more, so that rounding does not close a batch that is exactly full.

        Raises:
            SettingError: a schedule gives something else than a number above 0 there.
        """
        rows = zip(self.schedules, self.titles, self._slack, strict=True)
        return np.array([amount(each, title, progress) * (1 + slack) for each, title, slack in rows], dtype=np.float64)


def costs(limits: Sequence[Limit], lengths: Lengths | None, n: int | None = None) -> Costs:
    """What units cost under some limits.

    Args:
        limits: which. lengths: of the units; None where they are not known.
        n: how many units there are, where that is not told by their lengths.

    Raises:
        DataError: a limit needs lengths that are not known or a stream that is not there, or a cost is no number.
    """
    number = len(lengths) if lengths is not None else n or 0
    rows = [row for limit in limits for row in limit.rows(lengths, number)]
    values = np.stack([row.values for row in rows]) if rows else np.zeros((0, number))
    return Costs(
        values,
        tuple(row.kind for row in rows),
        tuple(row.title for row in rows),
        tuple(row.most for row in rows),
        tuple(row.slack for row in rows),
    )


def _limit(literal: Any) -> Limit:
    if isinstance(literal, Limit):
        return literal
    if literal in (padded, packed, padding, cost, samples):
        raise SettingError(f"budget={literal.__name__}: that is the function itself. Write {literal.__name__}(20_000).")
    if isinstance(literal, Span):
        raise SettingError(
            f"budget={literal!r} is a span of progress. Write etude.data.samples({literal.amount:g}) or batch_size=, "
            "or a number of frames."
        )
    if isinstance(literal, Mapping):
        return _stream_limit("padded", None, literal)
    if isinstance(literal, Real | Schedule) or callable(literal):
        return _stream_limit("padded", literal, {})
    raise SettingError(
        f"budget={literal!r} is no limit. Write a number of padded frames, padded(audio=32_000), packed(20_000), "
        "cost(function, 1e9), samples(64), or a list of these."
    )


def _stream_limit(kind: Kind, most: ScheduleLike, streams: Mapping[str, ScheduleLike]) -> Limit:
    if (most is None) != bool(streams):
        said = "nothing is said" if most is None else "a number for every stream and numbers for some are given"
        raise SettingError(f"{kind}(): {said}. Write {kind}(20_000), or {kind}(audio=20_000) for that stream alone.")
    each = tuple((str(name), _most(value, f"{kind}({name}={value!r})")) for name, value in streams.items())
    return StreamLimit(kind, None if most is None else _most(most, f"{kind}({most!r})"), each)


def _most(given: ScheduleLike, said: str) -> Schedule:
    """The schedule that a limit stands for, checked as far as that can be done before the run."""
    if isinstance(given, bool | str | type(None)) or (isinstance(given, Real) and not 0 < float(given) < inf):
        raise SettingError(f"{said}: a batch needs a limit above 0, a number or a schedule of them.")
    made = schedule(given)
    if made.reactive:
        raise SettingError(
            f"{said}: batches are planned before they are trained on, so a budget cannot follow a score. Write a "
            "schedule of progress, such as linear(8_000, 32_000)."
        )
    if made.constant:
        amount(made, said, Progress())
    return made
