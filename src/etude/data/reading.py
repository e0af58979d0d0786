"""Reads the samples of one batch, here or in a worker process, and joins them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.batch import each
from etude.data.items import LOST, Reader
from etude.data.joining import Joining
from etude.data.wanted import Wanted
from etude.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """One batch as it was read.

    Attributes:
        values: None where none of its samples could be read.
        samples: positions of those that it holds, int64. lost: of those that could not be read.
    """

    values: Any
    samples: Tensor
    lost: tuple[int, ...] = ()


@dataclass(slots=True)
class SampleReader:
    """Reads batches of samples by number.

    Attributes:
        reader: reads samples. joining: makes batches of them; or collate does, if it is given.
    """

    reader: Reader
    joining: Joining
    collate: Callable[[list[Any]], Any] | None

    def __getitem__(self, wanted: Wanted) -> Read:
        numbers = wanted.samples.tolist()
        empty = not numbers and wanted.template >= 0
        items = self.reader.items(wanted.epoch, [wanted.template] if empty else numbers)
        stay = [place for place, item in enumerate(items) if item is not LOST]
        lost = tuple(number for number, item in zip(numbers, items, strict=False) if item is LOST)
        if not stay:
            return Read(None, torch.from_numpy(wanted.samples[:0]), lost)
        if empty:
            one = Wanted(wanted.epoch, np.array([wanted.template]), to=wanted.to)
            return Read(each(self._joined(items, one), _none_of), torch.from_numpy(wanted.samples))
        if lost:
            wanted, items = wanted.only(np.array(stay)), [items[place] for place in stay]
        return Read(self._joined(items, wanted), torch.from_numpy(wanted.samples), lost)

    def _joined(self, items: list[Any], wanted: Wanted) -> Any:
        if self.collate is None:
            return self.joining.join(items, wanted)
        try:
            return self.collate(items)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            shown = ", ".join(map(str, wanted.samples[:5].tolist())) + ", ..." * (len(wanted.samples) > 5)
            raise DataError(f"collate failed on samples {shown}: {told}") from error


def _none_of(value: Any) -> Any:
    """No row of an array that has some."""
    return value[:0] if isinstance(value, Tensor | list) else value
