"""Reading batches of sequences in memory and in mapped files, beside a DataLoader that pads them.

Both read the same batches: those of an epoch of étude's, which the DataLoader gets as lists. It joins a batch with
`torch.nn.utils.rnn.pad_sequence`. The clock starts with the second batch, so that starting workers does not count.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

import etude
from etude.data.assembled import planner_for
from etude.values.progress import Extent
from lengths import Case, Kind
from measure import Contender, Target, Timing, compare

COPY, OURS, LOADER = "one copy of the frames", "étude", "DataLoader"
WORKERS = 2
MEMORY, MAPPED, ITEMS, ROWS = "in memory", "in a mapped file", "item by item", "Loading rows of a mapped file"

_ASKED = 1 / 3
_MOST = 300
"""Batches in a round."""


@dataclass(frozen=True)
class Frames:
    """Sequences of a kind: how many, numbers in a frame, and of which type."""

    kind: Kind
    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype


CASES = (
    Frames(Kind("4,096 tokens", 20, 0.8, 512, 4096, 0), 100_000, (), torch.int64),
    Frames(Kind("32,000 tokens", 600, 0.4, 4000, 32_000, 0), 20_000, (), torch.int64),
    Frames(Kind("32,000 samples of sound", 600, 0.4, 4000, 32_000, 0), 20_000, (), torch.float32),
    Frames(Kind("8,000 frames of 16", 200, 0.4, 2000, 8000, 0), 20_000, (16,), torch.float32),
    Frames(Kind("4,000 frames of 80", 600, 0.4, 4000, 4000, 0), 4000, (80,), torch.float32),
    Frames(Kind("32,000 frames of 80", 600, 0.4, 4000, 32_000, 0), 4000, (80,), torch.float32),
)


def title(frames: Frames, where: str) -> str:
    """The title of a comparison."""
    return f"Loading {frames.kind.name} {where}"


def results(rounds: int) -> Iterator[tuple[str, list[Timing]]]:
    """Asked of étude, in memory and in mapped files: at most a third of a DataLoader's time with the same workers."""
    Path("out").mkdir(exist_ok=True)
    for frames in CASES:
        with tempfile.TemporaryDirectory(dir="out") as folder:
            yield from _sequences(frames, Path(folder), rounds)
    with tempfile.TemporaryDirectory(dir="out") as folder:
        yield ROWS, _rows(Path(folder), rounds)


def _sequences(frames: Frames, folder: Path, rounds: int) -> Iterator[tuple[str, list[Timing]]]:
    made = Made(frames)
    yield title(frames, MEMORY), _in_memory(made, rounds)
    np.save(folder / "flat.npy", made.flat.numpy())
    np.save(folder / "lengths.npy", made.lengths)
    yield title(frames, MAPPED), _mapped(made, folder, rounds)
    yield title(frames, ITEMS), _by_item(made, rounds)


class Made:
    """Sequences that are there, and the batches of an epoch of them."""

    def __init__(self, frames: Frames) -> None:
        self.case = Case(frames.kind, frames.number)
        self.lengths = self.case.lengths
        self.starts = np.concatenate(([0], np.cumsum(self.lengths))).astype(np.int64)
        self.flat = torch.ones((int(self.starts[-1]), *frames.shape), dtype=frames.dtype)
        self.labels = torch.arange(frames.number)
        bounds = pairwise(self.starts.tolist())
        self.items = Sequences([self.flat[start:stop] for start, stop in bounds], self.labels.tolist())
        assembled = self.data(self.columns()).assembled
        plan = planner_for(assembled, assembled.batching, 0, Extent(), None).epoch(0).epoch
        self.batches = [plan.rows(batch).tolist() for batch in range(min(plan.batches, _MOST + 1))]

    def columns(self) -> dict[str, Any]:
        """As étude has them in memory."""
        return {"x": etude.data.Ragged(self.flat, self.starts), "y": self.labels}

    def data(self, source: Any, **options: Any) -> etude.Data:
        """Ours, with the budget of the case."""
        return etude.Data(source, budget=self.case.budget, **options)


@dataclass(frozen=True)
class Sequences(Dataset[dict[str, Any]]):
    """Sequences and their labels, one by one."""

    rows: list[Tensor]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"x": self.rows[number], "y": self.labels[number]}


class Slices(Dataset[dict[str, Any]]):
    """Sequences of a mapped file, one by one."""

    def __init__(self, folder: Path, starts: list[int], labels: list[int]) -> None:
        self._flat = np.load(folder / "flat.npy", mmap_mode="r")
        self._starts, self._labels = starts, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> dict[str, Any]:
        frames = self._flat[self._starts[number] : self._starts[number + 1]]
        return {"x": torch.from_numpy(frames), "y": self._labels[number]}


class Rows(Dataset[dict[str, Any]]):
    """Rows of a mapped file, one by one."""

    def __init__(self, folder: Path) -> None:
        self._x, self._y = (np.load(folder / name, mmap_mode="r") for name in ("x.npy", "y.npy"))

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"x": torch.from_numpy(self._x[number]), "y": int(self._y[number])}


def padded(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What a DataLoader makes of the items of a batch."""
    rows = [item["x"] for item in items]
    return {
        "x": pad_sequence(rows, batch_first=True),
        "x_lengths": torch.tensor([len(row) for row in rows]),
        "y": torch.tensor([item["y"] for item in items]),
    }


# -------------------------------------------------------------------------------------------------- comparisons


def _in_memory(made: Made, rounds: int) -> list[Timing]:
    data = made.data(made.columns())
    contenders = {
        LOADER: _loader(made, made.items, 0),
        with_workers(LOADER): _loader(made, made.items, WORKERS),
        COPY: _copied(made),
        OURS: _ours(data, len(made.batches)),
    }
    return compare(contenders, rounds, [Target(OURS, _ASKED)], {COPY: LOADER})


def _mapped(made: Made, folder: Path, rounds: int) -> list[Timing]:
    data = made.data({"x": etude.data.memory_map(folder), "y": made.labels})
    slices = Slices(folder, made.starts.tolist(), made.labels.tolist())
    contenders = {
        LOADER: _loader(made, slices, 0),
        with_workers(LOADER): _loader(made, slices, WORKERS),
        OURS: _ours(data, len(made.batches)),
    }
    return compare(contenders, rounds, [Target(OURS, _ASKED)])


def _by_item(made: Made, rounds: int) -> list[Timing]:
    """A data set that both can only ask for one item after another."""
    data = made.data(made.items, lengths={"x": made.lengths})
    contenders = {
        LOADER: _loader(made, made.items, 0),
        OURS: _ours(data, len(made.batches)),
        with_workers(LOADER): _loader(made, made.items, WORKERS),
        with_workers(OURS): _ours(data, len(made.batches), WORKERS),
    }
    return compare(contenders, rounds, beside={with_workers(OURS): with_workers(LOADER)})


def _rows(folder: Path, rounds: int) -> list[Timing]:
    """Rows of 64 numbers, 64 in a batch, in random order."""
    np.save(folder / "x.npy", np.ones((100_000, 64), np.float32))
    np.save(folder / "y.npy", np.arange(100_000))
    ours = etude.Data(etude.data.memory_map({"x": folder / "x.npy", "y": folder / "y.npy"}), batch_size=64)
    theirs: DataLoader[Any] = DataLoader(Rows(folder), batch_size=64, shuffle=True)
    return compare({LOADER: _timed(lambda: theirs, _MOST), OURS: _ours(ours, _MOST)}, rounds, [Target(OURS, _ASKED)])


def with_workers(name: str) -> str:
    """The contender of that name with worker processes."""
    return f"{name}, {WORKERS} workers"


def _loader(made: Made, items: Dataset[Any], workers: int) -> Contender:
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    loader: DataLoader[Any] = DataLoader(
        items, batch_sampler=made.batches, collate_fn=padded, num_workers=workers, persistent_workers=False
    )
    return _timed(lambda: loader, len(made.batches))


def _ours(data: etude.Data, number: int, workers: int = 0) -> Contender:
    return _timed(lambda: data.batches(workers=workers), number)


def _timed(batches: Callable[[], Iterable[Any]], number: int) -> Contender:
    """Seconds for a batch, of so many without the first."""

    def run() -> float:
        given = iter(batches())
        next(given)
        began = time.perf_counter()
        read = sum(1 for _ in islice(given, number - 1))
        return (time.perf_counter() - began) / read

    return run


def _copied(made: Made) -> Contender:
    """Every sequence of a batch copied to new memory, one after the other: on one thread nobody is much quicker."""
    source, bounds = made.flat.numpy(), made.starts.tolist()

    def copies() -> Iterator[object]:
        for batch in made.batches:
            yield np.concatenate([source[bounds[number] : bounds[number + 1]] for number in batch])

    return _timed(copies, len(made.batches))
