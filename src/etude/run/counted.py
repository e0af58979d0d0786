"""What is counted over a whole pass, and every metric by its name."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from etude.errors import SettingError, nearest
from etude.run.measures import (
    TopK,
    accuracy,
    classes,
    cross_entropies,
    difference,
    error_rate,
    mean_absolute_error,
    mean_squared_error,
    over,
)
from etude.step.loss_batch import exponential


class Counted(ABC):
    """A metric that is counted over a pass: `reset`, `update` of each batch, `compute`."""

    higher_is_better: bool | None
    masked = True

    @abstractmethod
    def reset(self) -> None:
        """Begin a pass."""

    @abstractmethod
    def update(self, output: Any, target: Any, true: Tensor | None = None) -> None:
        """Take a batch; `true` says which elements of a padded target are no padding."""

    @abstractmethod
    def compute(self) -> Any:
        """The value over the pass: a number, or a tensor."""


@final
class Confusion(Counted):
    """How often what is meant (rows) was predicted as what (columns), and what follows from that.

    Args:
        made: of the table, int64 of shape (classes, classes).
        higher_is_better: None where that is not one number.
    """

    def __init__(self, made: Callable[[Tensor], Any], higher_is_better: bool | None = None) -> None:
        self._made = made
        self.higher_is_better = higher_is_better
        self.reset()

    def reset(self) -> None:
        self._table: Tensor | None = None

    def update(self, output: Any, target: Any, true: Tensor | None = None) -> None:
        predicted, meant, counted, number = classes(output, target, true, "confusion")
        if true is not None:
            inside = over(true, predicted)
            counted = inside if counted is None else counted & inside
        if counted is not None:
            predicted, meant = predicted[counted], meant[counted]
        place = meant.reshape(-1).long() * number + predicted.reshape(-1).long()
        found = torch.bincount(place, minlength=number * number)
        if len(found) > number * number:
            raise ValueError(f"a target is {int(meant.max())}, and the output has {number} classes")
        table = found.reshape(number, number)
        self._table = table if self._table is None else self._table + table

    def compute(self) -> Any:
        if self._table is None:
            return float("nan")
        return self._made(self._table)


@final
class R2(Counted):
    """The share of the variance of the targets that is explained, the mean over columns: 1 - residual / total.

    Targets and outputs have one shape, (n,) or (n, columns). NaN for a column that never changes.
    """

    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None
        self._number = 0

    def update(self, output: Any, target: Any, true: Tensor | None = None) -> None:
        residual = difference(output, target, true).double()
        wanted = (target if true is None else target[true]).double()
        rows = len(wanted) if wanted.dim() else 1
        residual, wanted = residual.reshape(rows, -1), wanted.reshape(rows, -1)
        if not rows:
            return
        mean = wanted.mean(0)
        found = ((residual**2).sum(0), mean, ((wanted - mean) ** 2).sum(0))
        if self._sums is not None:
            # As in Chan, Golub and LeVeque 1979: exact however far the targets are from 0.
            left, before, spread = self._sums
            apart, share = found[1] - before, rows / (self._number + rows)
            total = spread + found[2] + apart**2 * self._number * share
            found = (left + found[0], before + apart * share, total)
        self._sums, self._number = found, self._number + rows

    def compute(self) -> float:
        if self._sums is None:
            return float("nan")
        residual, _, total = self._sums
        return float((1 - residual / torch.where(total > 0, total, torch.nan)).mean())


@final
class Perplexity(Counted):
    """exp of the mean negative log probability of the targets over the whole pass; infinite where that overflows."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._total: Tensor | float = 0.0
        self._number: Tensor | float = 0

    def update(self, output: Any, target: Any, true: Tensor | None = None) -> None:
        total, number = cross_entropies(output, target, true)
        self._total, self._number = self._total + total, self._number + number

    def compute(self) -> float:
        number = float(self._number)
        return exponential(float(self._total) / number) if number else float("nan")


def _recall(table: Tensor) -> Tensor:
    return table.diagonal().double() / table.sum(1)


def _precision(table: Tensor) -> Tensor:
    return table.diagonal().double() / table.sum(0)


def _f1(table: Tensor) -> Tensor:
    # 2 tp / (2 tp + fp + fn): defined as soon as the class was meant or predicted once.
    return 2 * table.diagonal().double() / (table.sum(0) + table.sum(1))


PER_CLASS: dict[str, Callable[[Tensor], Tensor]] = {
    # Of the samples of a class the share that is right; its mean over classes is also called balanced accuracy.
    "accuracy": _recall,
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
}


@dataclass(frozen=True, slots=True)
class Macro:
    """The mean over classes.

    Of precision, recall and F1 over those that were meant or predicted at all: one that was meant and never predicted
    has the precision 0, or a net that knows one class alone would look well. Of accuracy over those that were meant.
    """

    name: str

    def __call__(self, table: Tensor) -> float:
        each = PER_CLASS[self.name](table)
        if self.name != "accuracy":
            each = each.nan_to_num(0.0)[table.sum(0) + table.sum(1) > 0]
        return float(each.nanmean())


@dataclass(frozen=True, slots=True)
class Second:
    """Of two classes, that of the second."""

    name: str

    def __call__(self, table: Tensor) -> float:
        if len(table) != 2:
            raise ValueError(
                f"{self.name!r} is of two classes, and there are {len(table)}: write 'macro_{self.name}' for the mean "
                f"over classes, or 'per_class_{self.name}'"
            )
        return float(PER_CLASS[self.name](table)[1])


def _whole(table: Tensor) -> Tensor:
    return table


# Name: what gives one number (or a pair of sum and count) of (output, target, true), and whether more is better.
FUNCTIONS: dict[str, tuple[Callable[..., Any], bool]] = {
    "accuracy": (accuracy, True),
    "error_rate": (error_rate, False),
    "mse": (mean_squared_error, False),
    "mae": (mean_absolute_error, False),
}
COUNTED: dict[str, Callable[[], Counted]] = {
    "perplexity": Perplexity,
    "r2": R2,
    "confusion": partial(Confusion, _whole),
    **{name: partial(Confusion, Second(name), True) for name in ("precision", "recall", "f1")},
    **{f"macro_{name}": partial(Confusion, Macro(name), True) for name in PER_CLASS},
    **{f"per_class_{name}": partial(Confusion, of, True) for name, of in PER_CLASS.items()},
}
NAMES = (*FUNCTIONS, "top_5", *COUNTED)
"""What can be asked for; of `top_5` any number."""
_TOP = re.compile(r"top_([1-9]\d*)")


def by_name(name: str) -> Counted | tuple[Callable[..., Any], bool]:
    """A metric that is counted, or a function and whether more of it is better.

    Raises:
        SettingError: none has that name; the nearest is told.
    """
    if name in COUNTED:
        return COUNTED[name]()
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    if top := _TOP.fullmatch(name):
        return TopK(int(top[1])), True
    raise SettingError(
        f"There is no metric {name!r}. Known: {', '.join(NAMES)}; or give a function of (output, target) "
        f"or a torchmetrics metric.{nearest(name, NAMES)}"
    )


def is_table(value: Any) -> bool:
    """Whether a value is kept whole: a tensor of more than one dimension, or of more than `SERIES` elements."""
    return isinstance(value, Tensor) and value.numel() > 1 and (value.dim() > 1 or value.numel() > SERIES)


SERIES = 64
"""A metric of so many numbers still gives a series for each; of more it is a table only."""


def tables_in(name: str, value: Any) -> Mapping[str, Tensor]:
    """What of a metric's value is kept whole, by name: every tensor of more than one number."""
    if isinstance(value, Mapping):
        return {each: table for key, one in value.items() for each, table in tables_in(f"{name}.{key}", one).items()}
    if isinstance(value, Tensor) and value.numel() > 1:
        return {name: value.detach().cpu().clone()}
    return {}
