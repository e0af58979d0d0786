"""Batches of sequences of many lengths: how much is padding, and how long a plan, a first batch and a seek take.

Lengths are known beforehand: nothing is read. Everybody gets the same ones and the same budget of padded frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, islice
from typing import Any, Protocol

import torch
from torch import Tensor

import etude
from etude.data.assembled import planner_for
from etude.values.progress import Extent
from lengths import SPEECH, TEXT, Case, Plan, planned
from measure import Contender, Target, Timing, compare
from rivals import Batches, forget, rivals

OURS, ASKED = "étude", "asked of étude"
PADDING, NUMBER, FIRST, WHOLE, SEEK = "% padding", "batches", "first batch", "plan of an epoch", "seek"
NEIGHBOURS, AGAIN = "correlation of neighbours", "% of pairs again"

KINDS = {kind.name: kind for kind in (SPEECH, TEXT)}
SIZES = {"100,000": 100_000, "1,000,000": 1_000_000}

_SECONDS = {WHOLE: 0.4, SEEK: 0.01}
"""Asked of étude on a million lengths."""
_MANY = 1_000_000


def title(what: str, kind: str, size: str) -> str:
    """The title of a comparison."""
    return f"Batches of {size} {kind} lengths: {what}"


def results(rounds: int, wide: bool = False) -> Iterator[tuple[str, list[Timing]]]:
    """Asked on a million: at most 0.3 % padding (text-like 0.6 %), planned in 0.4 s, a seek in 10 ms.

    Args:
        rounds: see `compare`; a third of them on a million.
        wide: other libraries on a million lengths too: minutes, and gigabytes.
    """
    others = {name: partial(_Iterated, make) for name, make in rivals().items()}
    for kind in KINDS.values():
        for size, number in SIZES.items():
            case, many = Case(kind, number), number >= _MANY
            ways = {**_WAYS, **(others if wide or not many else {})}
            for what, timings in _compared(case, ways, max(2, rounds // 3) if many else rounds):
                yield title(what, kind.name, size), timings
            _plan.cache_clear()
            forget()


# ------------------------------------------------------------------------------------------------------ the ways


class Way(Protocol):
    """A way to make batches of a case."""

    def whole(self, epoch: int) -> Plan:
        """All batches of an epoch."""

    def batch(self, epoch: int, number: int) -> Any:
        """One batch of an epoch."""


class _Iterated:
    """Who gives one batch after another: a place is found by passing what comes before it."""

    def __init__(self, make: Callable[[Case], Batches], case: Case) -> None:
        self._batches = make(case)

    def whole(self, epoch: int) -> Plan:
        return planned(self._batches(epoch))

    def batch(self, epoch: int, number: int) -> Any:
        return next(islice(self._batches(epoch), number, None))


class _Ours:
    """`etude.Data` with some options; `budget` and the size of pools follow from the case."""

    def __init__(self, options: Callable[[Case], Mapping[str, Any]], case: Case) -> None:
        made = {"budget": case.budget, **options(case)}
        source = etude.Data(_Unread(case), lengths={"x": case.lengths}, **made).assembled
        self._planner = planner_for(source, source.batching, 0, Extent(epochs=1000), None)

    def whole(self, epoch: int) -> Plan:
        return Plan(*self._planner.epoch(epoch).epoch.all())

    def batch(self, epoch: int, number: int) -> Any:
        return self._planner.epoch(epoch).epoch.rows(number)


@dataclass(frozen=True)
class _Unread:
    """A data set of which nothing but the lengths is looked at; its first item tells what items are like."""

    case: Case

    def __len__(self) -> int:
        return self.case.number

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"x": torch.zeros(int(self.case.lengths[number]))}


def _pools(case: Case) -> dict[str, Any]:
    return {"order": f"pools:{100 * case.fits}", "shuffle_batches": True}


def _growing(case: Case) -> dict[str, Any]:
    return {"budget": etude.linear(case.budget // 2, case.budget, over=etude.epochs(2))}


def _packed(case: Case, **options: Any) -> dict[str, Any]:
    return {"budget": etude.data.packed(case.budget), **options}


FLOOR, STRUNG = "étude, packed: first fit decreasing", "étude, packed: random"

_WAYS: dict[str, Callable[[Case], Way]] = {
    "étude, random": partial(_Ours, lambda case: {"order": "random"}),
    "étude, in order of length": partial(_Ours, lambda case: {"order": "sorted"}),
    "étude, laplace:.1000": partial(_Ours, lambda case: {"order": "laplace:.1000"}),
    "étude, pools of 100 batches": partial(_Ours, _pools),
    STRUNG: partial(_Ours, lambda case: _packed(case, order="random", pack=True)),
    FLOOR: partial(_Ours, lambda case: _packed(case, order="random", pack="first_fit")),
    "étude, a growing budget": partial(_Ours, _growing),
    OURS: partial(_Ours, lambda case: {}),
}


# -------------------------------------------------------------------------------------------------- comparisons


def _compared(case: Case, ways: Mapping[str, Callable[[Case], Way]], rounds: int) -> Iterator[tuple[str, list[Timing]]]:
    def told(of: Callable[[Plan, str], float], unit: str, asked: float | None = None) -> list[Timing]:
        values = {name: _value(of, name, make, case) for name, make in ways.items()}
        return _beside(asked, values, 2, unit)

    most = case.kind.asked if case.number >= _MANY else None
    yield PADDING, told(partial(_unfilled, case), "%", most)
    yield NUMBER, told(lambda plan, name: plan.batches, "batches")
    yield NEIGHBOURS, told(lambda plan, name: plan.neighbours(case.lengths), "")
    again = {name: _value(partial(_again, case, make), name, make, case) for name, make in ways.items()}
    yield AGAIN, compare(again, 2, unit="%")
    for what, timed in ((FIRST, _first), (WHOLE, _whole), (SEEK, _sought)):
        seconds = _SECONDS.get(what) if case.number >= _MANY else None
        yield what, _beside(seconds, {name: timed(make, case) for name, make in ways.items()}, rounds)


def _beside(asked: float | None, contenders: dict[str, Contender], rounds: int, unit: str = "µs") -> list[Timing]:
    """Contenders, and what is asked of the one that is ours, if anything is, as if it were one of them."""
    if asked is None:
        return compare(contenders, rounds, unit=unit)
    first = next(iter(contenders))
    beside = dict.fromkeys((*contenders, ASKED), first)
    return compare({**contenders, ASKED: lambda: asked}, rounds, [Target(OURS, 1.0, ASKED)], beside, unit)


@cache
def _plan(make: Callable[[Case], Way], case: Case, epoch: int) -> Plan:
    return make(case).whole(epoch)


def _value(of: Callable[[Plan, str], float], name: str, make: Callable[[Case], Way], case: Case) -> Contender:
    """Something of the plan of the second epoch."""
    return lambda: of(_plan(make, case, 1), name)


def _unfilled(case: Case, plan: Plan, name: str) -> float:
    return plan.empty(case.lengths, case.budget) if name in (FLOOR, STRUNG) else plan.padding(case.lengths)


def _again(case: Case, make: Callable[[Case], Way], plan: Plan, name: str) -> float:
    return plan.again(_plan(make, case, 0))


def _first(make: Callable[[Case], Way], case: Case) -> Contender:
    """From the lengths to the first batch."""
    return _timed(lambda: make(case).batch(0, 0))


def _whole(make: Callable[[Case], Way], case: Case) -> Contender:
    """From the lengths to all batches of an epoch."""
    return _timed(lambda: make(case).whole(0))


def _sought(make: Callable[[Case], Way], case: Case) -> Contender:
    """To a batch in the middle of an epoch that nobody has asked for yet, by who is ready to give out any."""
    way, middle = make(case), _plan(make, case, 1).batches // 2
    way.batch(0, 0)
    epochs = count(2)
    return _timed(lambda: way.batch(next(epochs), middle))


def _timed(work: Callable[[], object]) -> Contender:
    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run
