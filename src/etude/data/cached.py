"""Samples that are read once and kept in memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from etude.arguments import named
from etude.data.batch import each
from etude.data.chance import item_key, sow, undisturbed
from etude.data.forward import opened, readable
from etude.data.plan.lengths import Whole
from etude.data.sets import forward_only, known_lengths, known_tags, place, samples, title_of


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Cached:
    """Samples that are read once; made by `cached`.

    Attributes:
        data: the data set.
        lengths: of the streams whose lengths it tells.
        tags: the ids, or None.
        title: for messages.
        kept: the samples read so far, by number.
    """

    data: Any
    lengths: Mapping[str, Whole]
    tags: Sequence[Hashable] | None
    title: str
    kept: dict[int, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.title

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> Any:
        at = place(number, len(self.data))
        if at not in self.kept:
            with undisturbed():
                sow(item_key(0, 0, at))
                self.kept[at] = each(self.data[at], _copy)
        return each(self.kept[at], _copy)


@named
def cached(data: Any, *, ahead: bool = False) -> Cached:
    """Samples that are kept in memory once they have been read.

    Every worker process keeps its own; what was read before they start is shared with those that are forked. What
    chance decides in a sample is decided once, by the number of the sample alone: random changes belong outside,
    mapped(cached(data), change). Whoever reads a sample gets a copy of its arrays.

    Args:
        data: a data set. One that is read forward is read now, and has random access then.
        ahead: read all of it now.

    Raises:
        DataError: no samples.
    """
    if forward_only(data):
        source = readable(data, "cached()")
        with undisturbed():
            sow(item_key(0, 0, 0))
            data = list(opened(source, 0))
        inside, title = samples(data, f"cached({title_of(source)})"), title_of(source)
    else:
        inside = samples(data, "cached()")
        title = title_of(inside)
    told = known_lengths(inside)
    made = Cached(inside, {} if told is None else told.streams, known_tags(inside), f"cached({title})")
    for number in range(len(inside)) if ahead else ():
        made[number]
    return made


def _copy(value: Any) -> Any:
    """Of an array its own; what cannot be written to stays."""
    if isinstance(value, Tensor):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray | list) else value
