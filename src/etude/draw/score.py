"""The score of a run as arrays: parts down, steps across; at each place how fast and how often the part moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from etude.errors import SettingError

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]

MOST_ROWS: Final = 40
MOST_COLUMNS: Final = 400
MOST_STEPS: Final = 6000  # up to here a score asks for every step
BURST: Final = 24  # neighbouring steps asked for in each column of a longer one
LONGEST_CYCLE: Final = 256
LONGEST_OPENING: Final = 120


@dataclass(frozen=True, slots=True)
class Score:
    """What the picture shows.

    Attributes:
        labels: names of the rows, top to bottom.
        counts: arrays joined in each row.
        edges: step numbers, one more than columns; column j holds the steps from `edges[j]` up to `edges[j + 1]`.
        asked: columns of the rates that were joined in one column of the score; 1: every step has its own.
        rates: rows x columns; the mean effective learning rate of what moves; NaN where all is held.
        shares: rows x columns in [0, 1]; the share of steps (and of joined arrays) that move.
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    edges: Numbers
    asked: int
    rates: Numbers
    shares: Numbers


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the rates make each column of a score: from `starts` up to `ends`; `edges` as in `Score`."""

    starts: Places
    ends: Places
    edges: Numbers

    @property
    def asked(self) -> int:
        """The most that are joined."""
        return int((self.ends - self.starts).max())


@dataclass(frozen=True, slots=True)
class Group:
    """Arrays (`rows`) of one module (`path`), `last` the end of a range of modules; `done`: not to be split further."""

    path: tuple[str, ...]
    rows: tuple[int, ...]
    last: str = ""
    done: bool = False

    def label(self, names: Sequence[str]) -> str:
        """The name of the array, or of what is joined."""
        if len(self.rows) == 1:
            return names[self.rows[0]]
        return ".".join(self.path) + (f" – {self.last}" if self.last else "")


def score_steps(total: int) -> list[int]:
    """The steps to ask a table for, so that the score of `total` steps is quick to make and hides no alternation.

    All of them up to 6,000; else 24 neighbouring steps at each of 250 places.
    """
    if total <= MOST_STEPS:
        return list(range(total))
    columns = MOST_STEPS // BURST
    return [index * total // columns + step for index in range(columns) for step in range(BURST)]


def score(names: Sequence[str], steps: Sequence[float], rates: Any, columns: int = MOST_COLUMNS) -> Score:
    """Rows and columns for a picture of at most about `columns` columns.

    Args:
        names: of the arrays, in the order of the net.
        steps: the steps made before each column of `rates` (0 for the first step), ascending; those of `score_steps`.
        rates: names x steps; effective learning rates, NaN where an array is held.

    More than 40 arrays are joined by the module they are in, as finely as 40 rows allow, and no finer than they differ.
    More steps than `columns` are joined; where they alternate, in whole cycles, so that nothing beats.
    """
    table = checked(names, steps, rates)
    return _score(names, table, table, _columns(np.asarray(steps, dtype=np.float64), table, columns))


def opening(names: Sequence[str], steps: Sequence[float], rates: Any, columns: int = MOST_COLUMNS) -> Score | None:
    """The first cycles step by step, in the rows of `score`; None where it shows each step or nothing alternates."""
    table = checked(names, steps, rates)
    clock = np.asarray(steps, dtype=np.float64)
    runs = _runs(clock)
    cycle = cycle_length(table, runs)
    if cycle == 1 or _columns(clock, table, columns).asked == 1:
        return None
    length = 24 if cycle <= 8 else 3 * cycle if cycle <= 20 else min(2 * cycle, LONGEST_OPENING)
    start = _first_turn(table, cycle)
    end = min(start + length, int(runs[runs > start].min(initial=len(clock))))
    single = np.arange(end - start)
    edges = np.append(clock[start:end], clock[end - 1] + _step(clock))
    return _score(names, table, table[:, start:end], Columns(single, single + 1, edges))


def checked(names: Sequence[str], steps: Sequence[float], rates: Any) -> Numbers:
    """`rates` as an array of floats, NaN where held; `SettingError` where shapes do not fit or steps do not ascend."""
    table: Numbers = np.asarray(rates, dtype=np.float64)
    if table.shape != (len(names), len(steps)) or not table.size:
        raise SettingError(
            f"A score of {len(names)} names and {len(steps)} steps needs rates of shape ({len(names)}, {len(steps)}), "
            f"each at least 1; they have shape {table.shape}. Pass them as `Table.score` returns them."
        )
    if any(later <= sooner for sooner, later in pairwise(steps)):
        raise SettingError("The steps of a score must ascend: sort them and leave out those that are there twice.")
    return np.where(np.isfinite(table), table, np.nan)


def cycle_length(table: Numbers, runs: Places | None = None) -> int:
    """The number of steps after which what moves repeats best; 1 where nothing alternates.

    `table` is names x steps, NaN where held; `runs` are the columns at which neighbouring steps begin, default all one.
    """
    packed = np.packbits(np.isfinite(table), axis=0).T
    seats: dict[bytes, int] = {}
    pattern = np.array([seats.setdefault(one.tobytes(), len(seats)) for one in packed])
    bounds = np.array([0]) if runs is None else runs
    length = int(np.diff(np.append(bounds, table.shape[1])).min())
    rows = pattern[bounds[:, None] + np.arange(length)]
    best, cycle = -1.0, 1
    for period in range(1, min(LONGEST_CYCLE, length // 2) + 1):
        agreement = float(np.mean(rows[:, period:] == rows[:, :-period]))
        if agreement > best + 1e-3:
            best, cycle = agreement, period
    return cycle


def _runs(clock: Numbers) -> Places:
    """The columns at which runs of neighbouring steps begin; one run where the steps are evenly spaced, or uneven.

    Runs are what `score_steps` asks for: equally long, and of two steps at least.
    """
    gaps = np.diff(clock)
    if not len(gaps) or gaps.max() == gaps.min():
        return np.array([0])
    starts = np.append(0, np.flatnonzero(gaps > gaps.min()) + 1)
    lengths = np.diff(np.append(starts, len(clock)))
    return starts if lengths.min() == lengths.max() > 1 else np.array([0])


def _step(clock: Numbers) -> float:
    return float(np.diff(clock).min()) if len(clock) > 1 else 1.0


def _columns(clock: Numbers, table: Numbers, columns: int) -> Columns:
    """The columns of the score: of as many steps each, or the runs of neighbouring steps; in whole cycles."""
    starts, end = _runs(clock), clock[-1] + _step(clock)
    cycle = cycle_length(table, starts)
    if len(starts) > 1:
        end = max(end, clock[starts[-1]] + np.median(np.diff(clock[starts])))
    elif (clock[-1] - clock[0]) / _step(clock) > len(clock) > columns:  # uneven: columns are of equal width
        cycle, places = 1, clock[0] + (end - clock[0]) * np.arange(columns) / columns
        starts = np.unique(np.searchsorted(clock, places))
    else:
        width = _column_width(len(clock), cycle, columns)
        starts = np.arange(0, len(clock), width)
        if width % cycle == 0 and 0 < len(clock) - starts[-1] < cycle < len(clock):
            starts = starts[:-1]  # what is left is less than a cycle: its share would be another
    widths = np.diff(np.append(starts, len(clock)))
    whole = widths // cycle * cycle
    ends = starts + np.where((whole > 0) & (widths > 1), whole, widths)
    return Columns(starts, ends, np.append(clock[starts], end))


def _column_width(steps: int, cycle: int, columns: int) -> int:
    """Steps in one column: whole cycles where that leaves enough columns."""
    width = math.ceil(steps / columns)
    whole = math.ceil(width / cycle) * cycle
    return whole if width > 1 and steps / whole >= columns / 8 else width


def _first_turn(table: Numbers, cycle: int) -> int:
    """Where alternation begins: the first step after which what moves changes twice within a cycle."""
    moves = np.isfinite(table)
    changes = np.flatnonzero((moves[:, 1:] != moves[:, :-1]).any(axis=0))
    close = np.flatnonzero(np.diff(changes) <= cycle)
    return max(0, int(changes[close[0]]) + 1 - cycle) if len(close) else 0


def _score(names: Sequence[str], table: Numbers, shown: Numbers, columns: Columns) -> Score:
    """The score of the columns `shown` of `table`, in the rows that suit the whole table."""
    groups = _groups(names, table)
    joined = [_join(shown[list(group.rows)], columns.starts, columns.ends) for group in groups]
    return Score(
        labels=tuple(group.label(names) for group in groups),
        counts=tuple(len(group.rows) for group in groups),
        edges=columns.edges,
        asked=columns.asked,
        rates=np.array([mean for mean, _ in joined]),
        shares=np.array([share for _, share in joined]),
    )


def _join(rows: Numbers, starts: Places, ends: Places) -> tuple[Numbers, Numbers]:
    """The mean of what moves and the share that moves, in each of the columns from `starts` to `ends`."""
    moves = np.isfinite(rows)
    count = _sums(moves.sum(axis=0).astype(np.float64), starts, ends)
    total = _sums(np.where(moves, rows, 0.0).sum(axis=0), starts, ends)
    mean = np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)
    return mean, count / (len(rows) * (ends - starts))


def _sums(line: Numbers, starts: Places, ends: Places) -> Numbers:
    between = np.stack([starts, ends], axis=1).ravel()
    sums: Numbers = np.add.reduceat(np.append(line, 0.0), between)[::2]
    return sums


def _groups(names: Sequence[str], table: Numbers) -> list[Group]:
    """Every array alone; modules where there are more than `MOST_ROWS` arrays."""
    if len(names) <= MOST_ROWS:
        return [Group(tuple(name.split(".")), (row,)) for row, name in enumerate(names)]
    looks = [line.tobytes() for line in table]
    groups = _split([Group((), tuple(range(len(names))))], 0, names)
    while mixed := [one for one in groups if not one.done and len({looks[row] for row in one.rows}) > 1]:
        groups = _split(groups, groups.index(max(mixed, key=lambda one: len(one.rows))), names)
    return groups


def _split(groups: list[Group], at: int, names: Sequence[str]) -> list[Group]:
    """`groups` with the one at `at` split into its children, or ranges of them, as finely as rows are left."""
    children = _children(groups[at], names)
    room = MOST_ROWS - len(groups) + 1
    if len(children) > room:
        children = _ranges(children, groups[at], room)
    return [*groups[:at], *children, *groups[at + 1 :]]


def _children(group: Group, names: Sequence[str]) -> list[Group]:
    members: dict[tuple[str, ...], list[int]] = {}
    for row in group.rows:
        members.setdefault(tuple(names[row].split(".")[: len(group.path) + 1]), []).append(row)
    return [Group(path, tuple(rows), done=len(rows) == 1) for path, rows in members.items()]


def _ranges(children: list[Group], parent: Group, count: int) -> list[Group]:
    """`children` joined to `count` ranges of neighbours, as even as can be; the parent itself if only one is left."""
    if count < 2:
        return [Group(parent.path, parent.rows, parent.last, done=True)]
    bounds = [round(index * len(children) / count) for index in range(count + 1)]
    parts = [children[start:end] for start, end in pairwise(bounds)]
    return [part[0] if len(part) == 1 else _range(part) for part in parts]


def _range(part: list[Group]) -> Group:
    rows = tuple(row for child in part for row in child.rows)
    return Group(part[0].path, rows, part[-1].path[-1], done=True)
