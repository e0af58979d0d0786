"""The record of a run: each series of numbers, with the steps and epochs at which they were taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from etude.errors import EtudeError, StateError, nearest
from etude.run.events import EpochEnded, Evaluated, Event, Skipped, Stepped
from etude.values.series import Series

__all__ = ["BULK", "PROBE", "History", "Series", "SeriesError", "read_losses", "read_steps"]

PROBE = "probe."
"""Before the label of a probe in the history."""

BULK = 64
"""Steps whose losses are read from the device together."""


class SeriesError(EtudeError, KeyError):
    """A series that the history does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


class History(Mapping[str, Series]):
    """Every series of a run by name, collected from its events.

    Names: "loss" and each further loss term, one value a step, as it was measured also where the step was refused
    because of it; "rate", the learning rate of each step that was made, and with several updates "<update>.rate", that
    of each in the steps in which it moved something; "knob.<label>", "setting.<name>" and
    "weight.<term>", what else was in force in it; "probe.<label>", what was measured where it was due; "epoch.<term>",
    the exact mean over the made steps of each epoch; "data.<number>", what the batches of each epoch held
    ("data.padding.audio"), of `Data`; "val.<score>", one value an evaluation.

    Losses stay on the device until `BULK` of them are there, an epoch ends or somebody asks, so collecting does not
    make the device wait at every step. A series that was handed out grows with the run.
    """

    __slots__ = ("_columns", "_pending", "_series")

    def __init__(self, series: Iterable[Series] = ()) -> None:
        self._series = {one.name: one for one in series}
        self._pending: list[Stepped | Skipped] = []
        self._columns: dict[str, _Column] = {}

    def see(self, event: Event) -> None:
        """Take what `event` tells; events without numbers are passed over."""
        if type(event) is Stepped or type(event) is Skipped:
            # The order of the names must not depend on when the losses happen to be read.
            for name in event.losses:
                if name not in self._series:
                    self._series[name] = Series(name)
            if type(event) is Stepped:
                if "rate" not in self._series:
                    self._series["rate"] = Series("rate")
                if event.settings or event.probes:
                    for name in (*event.settings, *[PROBE + label for label in event.probes]):
                        if name not in self._series:
                            self._series[name] = Series(name)
            self._pending.append(event)
            if len(self._pending) >= BULK:
                self._read()
        elif type(event) is EpochEnded:
            self._add("epoch.", event, event.means)
            self._add("data.", event, event.data)
        elif type(event) is Evaluated:
            self._add("val.", event, event.scores)

    def _add(self, prefix: str, event: EpochEnded | Evaluated, numbers: Mapping[str, float]) -> None:
        self._read()
        for name, value in numbers.items():
            self._grow(prefix + name, [int(event.progress.step)], [event.progress.epoch], [float(value)])

    def _read(self) -> None:
        if not self._pending:
            return
        events, self._pending = self._pending, []
        steps = [int(event.progress.step) for event in events]
        epochs = [event.progress.epoch for event in events]
        for name, (rows, values) in read_steps(events).items():
            if len(rows) == len(events):
                self._grow(name, steps, epochs, values)
            else:
                self._grow(name, [steps[row] for row in rows], [epochs[row] for row in rows], values)
        made = [event for event in events if isinstance(event, Stepped)]
        if made:
            self._grow_settings(made)

    def _grow_settings(self, made: Sequence[Stepped]) -> None:
        """What was in force in the steps that were made."""
        steps = [int(event.progress.step) for event in made]
        epochs = [event.progress.epoch for event in made]
        self._grow("rate", steps, epochs, [event.rate for event in made])
        for name in dict.fromkeys(name for event in made for name in event.settings):
            rows = [row for row, event in enumerate(made) if name in event.settings]
            values = [float(made[row].settings[name]) for row in rows]
            self._grow(name, [steps[row] for row in rows], [epochs[row] for row in rows], values)

    def _grow(self, name: str, steps: list[int], epochs: list[float], values: list[float]) -> None:
        self._series.setdefault(name, Series(name)).extend(steps, epochs, values)

    def __getitem__(self, name: str) -> Series:
        self._read()
        if name not in self._series:
            there = ", ".join(f'"{known}"' for known in self._series) or "nothing yet"
            hint = nearest(name, self._series)
            raise SeriesError(f'The history has no series "{name}". It has {there}.{hint}')
        return self._series[name]

    def __iter__(self) -> Iterator[str]:
        self._read()
        return iter(self._series)

    def __len__(self) -> int:
        self._read()
        return len(self._series)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {len(series)}" for name, series in self.items())
        return f"History({counts})"

    def to_dict(self) -> dict[str, dict[str, list[Any]]]:
        """Everything as JSON can hold it: `{name: {"steps", "epochs", "values"}}`, NaN and infinity as words."""
        return {
            name: {"steps": list(one.steps), "epochs": list(one.epochs), "values": [_plain(v) for v in one.values]}
            for name, one in self.items()
        }

    def columns(self) -> dict[str, Tensor]:
        """Everything as tensors, "<series>:steps" (int64), "<series>:epochs" and "<series>:values" (float64).

        They are views of memory that grows with the history and in which nothing is changed: no copy is needed.
        """
        made = {}
        for name, one in self.items():
            for column, values in (("steps", one.steps), ("epochs", one.epochs), ("values", one.values)):
                key = f"{name}:{column}"
                if key not in self._columns:
                    self._columns[key] = _Column(torch.int64 if column == "steps" else torch.float64)
                made[key] = self._columns[key].upto(values)
        return made

    @classmethod
    def from_columns(cls, columns: Mapping[str, Tensor]) -> History:
        """The history that `columns` gave. `StateError` where a series is incomplete."""
        record: dict[str, dict[str, list[Any]]] = {}
        for key, column in columns.items():
            name, _, kind = key.rpartition(":")
            record.setdefault(name, {})[kind] = column.tolist()
        return cls.from_dict(record)

    @classmethod
    def from_dict(cls, record: Mapping[str, Mapping[str, Sequence[Any]]]) -> History:
        """The history that `to_dict` wrote. `StateError` where a series is incomplete."""
        return cls(_series(name, columns) for name, columns in record.items())


class _Column:
    """Numbers as a tensor that grows with a list, so that only the new ones have to be written."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._memory = torch.empty(0, dtype=dtype)
        self._filled = 0

    def upto(self, values: Sequence[float]) -> Tensor:
        """All of them."""
        count = len(values)
        if count > len(self._memory):
            # What was handed out keeps the memory it is a view of.
            larger = torch.empty(max(2 * count, 64), dtype=self._memory.dtype)
            larger[: self._filled] = self._memory[: self._filled]
            self._memory = larger
        if count > self._filled:
            self._memory[self._filled : count] = torch.tensor(values[self._filled :], dtype=self._memory.dtype)
            self._filled = count
        return self._memory[:count]


def _series(name: str, columns: Mapping[str, Sequence[Any]]) -> Series:
    missing = [column for column in ("steps", "epochs", "values") if column not in columns]
    if missing:
        raise StateError(f'Series "{name}" was saved without {missing[0]}: it has {", ".join(columns) or "nothing"}.')
    lengths = {column: len(columns[column]) for column in ("steps", "epochs", "values")}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{count} {column}" for column, count in lengths.items())
        raise StateError(f'Series "{name}" was saved with {told}; it needs as many of each.')
    values = [float(value) for value in columns["values"]]
    return Series(name, list(columns["steps"]), list(columns["epochs"]), values)


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def read_losses(events: Sequence[Stepped | Skipped]) -> dict[str, tuple[list[int], list[float]]]:
    """The losses of many steps in one read of the device.

    Returns:
        for each loss term the rows (positions in `events`) of the steps that had it, and its values there.
    """
    return _read_named([event.losses for event in events])


def read_steps(events: Sequence[Stepped | Skipped]) -> dict[str, tuple[list[int], list[float]]]:
    """The same with what was probed in the steps, under "probe.<label>"."""
    return _read_named(
        [_probed(event) if type(event) is Stepped and event.probes else event.losses for event in events]
    )


def _probed(event: Stepped) -> Mapping[str, Tensor]:
    """The losses of a step and what was probed in it."""
    return {**event.losses, **{PROBE + label: value for label, value in event.probes.items()}}


def _read_named(measured: Sequence[Mapping[str, Tensor]]) -> dict[str, tuple[list[int], list[float]]]:
    """What was measured in many steps: for each name the rows that have it, and the values there."""
    terms: dict[str, tuple[list[int], list[Tensor]]] = {}
    for row, scalars in enumerate(measured):
        for name, loss in scalars.items():
            if name not in terms:
                terms[name] = ([], [])
            rows, losses = terms[name]
            rows.append(row)
            losses.append(loss)
    values = _read_scalars([loss for _, losses in terms.values() for loss in losses])
    read, start = {}, 0
    for name, (rows, _) in terms.items():
        read[name] = (rows, values[start : start + len(rows)])
        start += len(rows)
    return read


def _read_scalars(scalars: list[Tensor]) -> list[float]:
    """The numbers in `scalars` (each of one element), with one wait where all are on one device."""
    if not scalars:
        return []
    try:
        values: list[float] = torch.stack(scalars).tolist()
    except RuntimeError:  # updates on several devices cannot be stacked (and another cause is raised again below)
        return [float(scalar) for scalar in scalars]
    return values
