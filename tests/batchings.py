"""Samples that say in every frame whose they are, and ways to batch them, for laws of batches."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import etude
from etude import Data
from etude.data import (
    Batch,
    buckets,
    chunk,
    cost,
    dropped,
    easiest,
    laplace,
    length,
    mean_length,
    packed,
    padded,
    padding,
    shortest,
    weighted,
    with_replacement,
)
from etude.data import random as shuffled
from etude.errors import DataError, SettingError

WIDE = 1000
"""Frame t of sample i is WIDE * i + t."""


def sample(number: int, frames: int, two: bool = False, loose: bool = False) -> dict[str, Any]:
    """A sample of one stream, or of two of which the second is half as long, or of some other length."""
    made: dict[str, Any] = {"x": torch.arange(frames) + WIDE * number, "id": number}
    if two:
        made["y"] = torch.arange(1 + 7 * frames % 17 if loose else -(-frames // 2)) + WIDE * number
    return made


def samples(lengths: list[int]) -> list[dict[str, Any]]:
    """Samples of these lengths."""
    return [sample(number, frames) for number, frames in enumerate(lengths)]


def rows(batch: Batch, stream: str = "x") -> list[list[int]]:
    """The true frames of each sample of a batch, padded or packed."""
    values, lengths = batch.values[stream], batch.values[f"{stream}_lengths"].tolist()
    if f"{stream}_offsets" in batch.values:
        starts = batch.values[f"{stream}_offsets"].tolist()
        return [values[start : start + size].tolist() for start, size in zip(starts, lengths, strict=False)]
    return [row[:size].tolist() for row, size in zip(values, lengths, strict=True)]


def seen(batch: Batch) -> Any:
    """All that a batch says, comparable."""
    values = {name: value.tolist() for name, value in batch.values.items() if isinstance(value, Tensor)}
    indices = None if batch.indices is None else batch.indices.tolist()
    return values, batch.samples, batch.tokens, batch.cursor, batch.next, batch.progress_epoch, indices


# ------------------------------------------------------------------------------------------------------------ ways

BUDGETS: dict[str, Callable[[], Any]] = {
    "padded": lambda: 40,
    "by stream": lambda: {"x": 30},
    "packed": lambda: packed(40),
    "padding": lambda: padding(20),
    "both": lambda: [padded(60), packed(40)],
    "cost": lambda: cost(lambda lengths: lengths["x"] ** 2, 600),
    "padded cost": lambda: cost(lambda lengths: lengths["x"] ** 1.5, 300, padded=True),
    "small": lambda: 10,
    "by epoch": lambda: lambda p: 30 + 5 * p.epoch,
    "by step": lambda: lambda p: 25 + p.step,
    "falling by tokens": lambda: lambda p: 60 - min(p.tokens // 20, 45),
    "up and down by samples": lambda: lambda p: 14 + p.samples % 37,
    "a schedule": lambda: etude.linear(12, 60, over=etude.epochs(3)),
    "packed by step": lambda: packed(lambda p: 15 + p.step % 9),
}
"""Limits of a batch; the later ones change during the run."""

ORDERS: dict[str, Callable[[int], Any]] = {
    **{
        said: lambda n, said=said: said  # type: ignore[misc]
        for said in (
            "random",
            "in_order",
            "reversed",
            "sorted",
            "sorted_reverse",
            "laplace:3",
            "laplace:.5",
            "sort_bin_shuffle:2",
            "sort_bin_shuffle_x2:.4",
            "pools:7",
            "strata",
        )
    },
    "the same twice": lambda n: shuffled(every=2),
    "bins that stay": lambda n: laplace(size=5, every=2),
    "by epoch": lambda n: lambda epoch: "sorted" if epoch < 1 else "strata",
}
"""Orders in which every unit comes once."""

FREE: dict[str, Callable[[int], Any]] = {
    "with replacement": lambda n: with_replacement(),
    "a few with replacement": lambda n: with_replacement(9),
    "side by side": lambda n: "side_by_side:2",
}
"""Orders in which units may come twice, or not at all."""

FILTERS: dict[str, Callable[[int], Any]] = {
    "most": lambda n: length(most=15),
    "least": lambda n: length(least=3),
    "dropped": lambda n: dropped(0.3),
    "shortest": lambda n: shortest(0.5),
    "mean": lambda n: mean_length(9),
    "function": lambda n: lambda lengths: lengths["x"] > 4,
    "by epoch": lambda n: length(most=lambda p: 9 + 4 * p.epoch),
    "by step": lambda n: length(most=lambda p: 9 + p.step),
    "easiest": lambda n: easiest(np.arange(n)[::-1] * 1.0, 0.6),
    "in epochs": lambda n: {range(1): shortest(0.5)},
    "two": lambda n: [length(least=2), dropped(0.2)],
}

CHUNKS: dict[str, Callable[[bool], Any]] = {
    "size": lambda two: {"x": 6, "y": 3} if two else 5,
    "overlapping": lambda two: ({"x": 6, "y": 3}, {"x": 4, "y": 2}) if two else (6, 3),
    "gaps": lambda two: chunk({"x": 4, "y": 2}, {"x": 6, "y": 3}, unlabelled="skip") if two else (3, 5),
    "least": lambda two: chunk({"x": 6, "y": 3}, least={"x": 2}) if two else chunk(6, 3, least=2),
    "shifted": lambda two: {"x": 6, "y": 3} if two else chunk(5, jitter=True),
    "of changing size": lambda two: {"x": 6, "y": 3} if two else chunk(6, variance=0.3),
    "by epoch": lambda two: (lambda p: {"x": 6, "y": 3}) if two else (lambda p: 4 + 2 * int(p.epoch)),
    "by step": lambda two: (lambda p: {"x": 4, "y": 2}) if two else (lambda p: 4 + p.step % 5),
}


class Way:
    """Samples and a way to batch them, made from a number.

    Attributes:
        lengths: of the samples. options: of `Data`.
        two: whether there are two streams. loose: whether their lengths have little to do with one another.
        whole: whether every sample comes exactly once if none is left out.
        budget: its name in `BUDGETS`, if it has one.
    """

    def __init__(self, number: int, **fixed: Any) -> None:
        chance = random.Random(number)
        n = chance.choice([1, 2, 5, 12, 30, 45])
        self.lengths = [chance.choice([1, 2, 3, *range(4, 26)]) for _ in range(n)]
        if chance.random() < 0.1:
            self.lengths[chance.randrange(n)] = 0
        self.two, self.loose = chance.random() < 0.4, chance.random() < 0.5
        self.seed = chance.randrange(2**70)
        self.whole, self.budget = True, ""
        self.options = {**self._drawn(chance, n), **fixed}

    def data(self) -> Data:
        """The data, or an error where the options contradict one another."""
        lengths = ("x", "y") if self.two else "x"
        return Data(self.samples(), lengths=lengths, **self.options)

    def samples(self) -> list[dict[str, Any]]:
        """The samples."""
        loose = self.loose and self.options.get("chunk") is None and self.options.get("pack") != "strung"
        return [sample(number, frames, self.two, loose) for number, frames in enumerate(self.lengths)]

    def _drawn(self, chance: random.Random, n: int) -> dict[str, Any]:
        options = self._limits(chance)
        if chance.random() < 0.8:
            free = chance.random() < 0.15
            self.whole = not free
            known = FREE if free else ORDERS
            options["order"] = known[chance.choice(list(known))](n)
        if chance.random() < 0.4:
            options["keep"] = FILTERS[chance.choice(list(FILTERS))](n)
        if chance.random() < 0.35:
            options["chunk"] = CHUNKS[chance.choice(list(CHUNKS))](self.two)
        if chance.random() < 0.15:
            self.whole = False
            options["select"] = chance.choice(
                [weighted(np.arange(n) + 1.0), weighted(np.ones(n), number=max(1, n // 2), replacement=False)]
            )
        more = {"subepochs": [1, 1, 1, 2, 3], "repeat": [1, 1, 1, 1, 2], "too_long": ["alone", "drop", "error"]}
        return options | {name: chance.choice(values) for name, values in more.items()}

    def _limits(self, chance: random.Random) -> dict[str, Any]:
        kind = chance.random()
        if kind < 0.12:
            return {"buckets": chance.choice([buckets((10, 4), (30, 2)), buckets((8, 3), (26, 3))])}
        if kind < 0.24:
            return {"buckets": chance.choice([1, 2, 3]), "budget": 40}
        if kind < 0.34:
            return {"pack": "first_fit", "budget": packed(x=30), "pool": chance.choice([None, 10])}
        self.budget = chance.choice(list(BUDGETS))
        made: dict[str, Any] = {"budget": BUDGETS[self.budget](), "pack": chance.random() < 0.15}
        if chance.random() < 0.3:
            made["batch_size"] = chance.choice([1, 3, 7, lambda p: 2 + p.step % 3])
        if chance.random() < 0.15:
            made = {"batch_size": chance.choice([1, 3, 7]), "drop_last": chance.random() < 0.5}
        if chance.random() < 0.2:
            made["shuffle_batches"] = chance.choice([True, 2])
        return made


REFUSED = (DataError, SettingError)
"""What data say whose options contradict one another, or of which nothing is left."""
