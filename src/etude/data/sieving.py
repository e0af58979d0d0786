"""Samples that arrive one after another: which of them stay, and the units that they are cut into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from etude.data.arriving import Counts, Unit, tally
from etude.data.order import FILTER, generator
from etude.data.plan.candidates import Candidates, Filter, share_of, value_of
from etude.data.plan.chunking import Chunk
from etude.data.plan.chunks import cut_chunks
from etude.data.plan.filters import Between, Chosen, Dropped, During, Scheduled, keep
from etude.data.plan.lengths import Lengths
from etude.errors import DataError
from etude.values.progress import Progress

ONE_BY_ONE = "Write length(most=1600), or a function of the lengths."
"""What filters can do with samples that come one by one."""


class Sieve:
    """The filters of one epoch, for samples that come one by one.

    Args:
        filters: in their order. epoch, seed: what chance is drawn from.
        start: the progress at the start of the epoch.
        left_out: where what they leave out is counted.
    """

    __slots__ = ("_chance", "_drawn", "_epoch", "_filters", "_left_out", "_seed", "_start")

    def __init__(self, filters: tuple[Filter, ...], epoch: int, seed: int, start: Progress, left_out: Counts) -> None:
        self._filters: list[tuple[str, int, Filter]] = []
        for place, each in enumerate(filters):
            name = f"samples by {each!r}"
            while any(name == other for other, _, _ in self._filters):
                name += " again"
            self._filters += [(name, place + later, one) for later, one in enumerate(_acting(each, epoch, start))]
        self._chance = {place: generator(seed, FILTER, epoch, place) for _, place, _ in self._filters}
        self._drawn: dict[int, int] = {}
        self._epoch, self._seed, self._start, self._left_out = epoch, seed, start, left_out

    def keeps(self, number: int, lengths: Mapping[str, int]) -> bool:
        """Whether a sample stays; one that does not is counted."""
        for name, place, each in self._filters:
            if not self._stays(each, place, number, lengths):
                tally(self._left_out, name)
                return False
        return True

    def _stays(self, each: Filter, place: int, number: int, lengths: Mapping[str, int]) -> bool:
        if isinstance(each, Dropped):  # one number after another, as a plan of all samples draws them at once
            drawn = self._chance[place].random(number + 1 - self._drawn.get(place, 0))[-1]
            self._drawn[place] = number + 1
            return bool(drawn >= share_of(value_of(each.probability, self._start, each), each))
        known = lengths_of_one(lengths) if lengths else None
        asked = Candidates(np.array([number]), known, self._start, self._epoch, self._seed, place)
        return bool(each.mask(asked)[0])


def _acting(each: Filter, epoch: int, start: Progress) -> list[Filter]:
    """What a filter is in this epoch."""
    if isinstance(each, During):
        return _acting(each.inner, epoch, start) if epoch in each.epochs else []
    if isinstance(each, Scheduled):
        return [one for inner in keep(each.schedule.at(start)) for one in _acting(inner, epoch, start)]
    if not one_by_one(each):
        raise DataError(f"keep={each!r} in epoch {epoch} compares all samples, and these come one by one. {ONE_BY_ONE}")
    return [each]


def one_by_one(each: Filter) -> bool:
    """Whether a filter needs to see nothing but the sample itself, as far as that is known before the run."""
    if isinstance(each, During):
        return one_by_one(each.inner)
    return isinstance(each, Between | Chosen | Dropped | Scheduled)


def lengths_of_one(lengths: Mapping[str, int]) -> Lengths:
    """Those of one sample as arrays of shape (1,)."""
    return Lengths({name: np.array([length]) for name, length in lengths.items()})


class Cutter:
    """Chunks of samples that come one by one.

    Args:
        rule: how samples are cut; None: they come whole.
        epoch, seed: what chance is drawn from.
        left_out, lost: where it is counted what is in no chunk: units by the reason, frames by the stream.
    """

    __slots__ = ("_epoch", "_left_out", "_lost", "_rule", "_seed")

    def __init__(self, rule: Chunk | None, epoch: int, seed: int, left_out: Counts, lost: Counts) -> None:
        self._rule, self._epoch, self._seed, self._left_out, self._lost = rule, epoch, seed, left_out, lost

    def units(self, number: int, item: Any, lengths: Mapping[str, int]) -> Iterator[Unit]:
        """The units of a sample."""
        if self._rule is None:
            yield Unit(number, item, lengths, {})
            return
        own = lengths_of_one(lengths)
        made = cut_chunks(self._rule, own, self._epoch, self._seed, np.array([number]), number)
        tally(self._left_out, "samples of which no chunk is left", made.dropped)
        tally(self._left_out, f"chunks shorter than {self._rule!r} takes", made.short)
        tally(self._left_out, "chunks without labels", made.unlabelled)
        for name, frames in made.lost.items():
            tally(self._lost, name, frames)
        windows = {name: (starts.tolist(), stops.tolist()) for name, (starts, stops) in made.windows.items()}
        sizes = {name: made.lengths[name].tolist() for name in made.lengths.names}
        for at in range(len(made)):
            inside = {name: (starts[at], stops[at]) for name, (starts, stops) in windows.items()}
            yield Unit(number, item, {name: own[at] for name, own in sizes.items()}, inside)
