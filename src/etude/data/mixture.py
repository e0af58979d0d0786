"""Data sets after one another, and streams mixed."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from etude.arguments import named
from etude.data.batch import outline
from etude.data.chance import undisturbed
from etude.data.forward import Counts, Forward, opened, readable
from etude.data.order import SELECT, generator
from etude.data.plan.lengths import Whole
from etude.data.sets import forward_only, kind_of, known_lengths, known_tags, place, samples, title_of
from etude.data.wanted import Windows
from etude.data.windows import cut_sample, reads_windows
from etude.errors import DataError, nearest

_DRAWN = 1024
"""Choices of a source drawn at once."""

_UNTIL = ("all", "shortest", "longest")
_END: Any = object()

Shares = npt.NDArray[np.float64]
Until = Literal["all", "shortest", "longest"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Concatenated:
    """Data sets one after another; made by `concatenated`.

    Attributes:
        sources: the data sets.
        names: theirs.
        parts: how many samples each has.
        boundaries: where each begins, and where the last one ends, int64, shape (parts + 1,).
        lengths: of the streams whose lengths all of them tell.
        tags: the ids, or None where one of them tells none.
        title: for messages.
        _able: which of the data sets read windows of samples. _keyed: whether samples are dicts.
    """

    sources: tuple[Any, ...]
    names: tuple[str, ...]
    parts: tuple[int, ...]
    boundaries: Whole
    lengths: Mapping[str, Whole]
    tags: Sequence[Hashable] | None
    title: str
    _starts: list[int]
    _able: tuple[bool, ...]
    _keyed: bool

    def __repr__(self) -> str:
        return self.title

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> Any:
        part, at = self._place(number)
        return self.sources[part][at]

    @property
    def part(self) -> Callable[[int, Windows], Any] | None:
        """Reads windows of samples, see `etude.data.windows`; None where the data sets cannot."""
        return self._part if all(self._able) or (self._keyed and any(self._able)) else None

    def _part(self, number: int, windows: Windows) -> Any:
        part, at = self._place(number)
        if self._able[part]:
            return self.sources[part].part(at, windows)
        whole = at + self._starts[part]
        stated = {name: int(self.lengths[name][whole]) for name in windows if name in self.lengths}
        return cut_sample(self.sources[part][at], windows, stated)

    def _place(self, number: int) -> tuple[int, int]:
        """In which data set a sample is, and where there."""
        at = place(number, self._starts[-1])
        part = bisect_right(self._starts, at) - 1
        return part, at - self._starts[part]


@named
def concatenated(*data: Any) -> Concatenated | Forward:
    """Data sets one after another, as one.

    concatenated(clean, noisy)
    concatenated({"clean": clean, "noisy": noisy})    with names, for reports

    Args:
        data: data sets whose samples have the same parts; or one dict of them by name. If one of them can only be
            read forward, so can the whole.

    Returns:
        A data set with random access whose `boundaries` say which samples are whose; or samples to be read forward.

    Raises:
        DataError: fewer than two, an empty one, or samples of different parts.
    """
    parts = _named_parts(data, "concatenated()")
    if any(map(forward_only, parts.values())):
        sources = [readable(part, "concatenated()") for part in parts.values()]
        return Forward(_title("concatenated", sources), partial(_after_one_another, sources), sources)
    sets = {name: samples(part, "concatenated()") for name, part in parts.items()}
    with undisturbed():
        first = [data[0] for data in sets.values()]
    for name, sample in zip(sets, first, strict=True):
        _check_alike(next(iter(sets)), first[0], name, sample)
    sizes = tuple(map(len, sets.values()))
    starts = list(accumulate(sizes, initial=0))
    inside = tuple(sets.values())
    return Concatenated(
        inside,
        tuple(sets),
        sizes,
        np.array(starts),
        _lengths(inside),
        _tags(inside),
        _title("concatenated", inside),
        starts,
        tuple(map(reads_windows, inside)),
        isinstance(first[0], Mapping),
    )


@named
def interleaved(*data: Any, weights: Sequence[float] | None = None, until: Until = "all", seed: int = 0) -> Forward:
    """Streams mixed: a sample of each in turn, or drawn by weights.

    Args:
        data: what is read forward: iterable data sets, Hugging Face streams, functions that yield samples; data sets
            with random access are read in their order. Or one dict of them by name.
        weights: one for each: how likely the next sample is from it. Default: one of each in turn.
        until: when an epoch ends. "all": when all have ended, so that every sample comes once; those that have ended
            are left out. "shortest": when it is the turn of one that has ended. "longest": when all have ended at least
            once; until then those that have ended begin again.
        seed: of what is drawn, with the epoch: at least 0.

    Raises:
        DataError: fewer than two data sets, none of them a stream, weights that are none.
    """
    parts = _named_parts(data, "interleaved()")
    if not any(map(forward_only, parts.values())):
        raise DataError(
            f"interleaved() mixes what is read forward; all of {', '.join(map(repr, parts))} have random access. Write "
            "Data(concatenated(a, b), select=mixed([0.7, 0.3])), or select=round_robin()."
        )
    if until not in _UNTIL:
        known = ", ".join(map(repr, _UNTIL))
        raise DataError(f"interleaved(): until={until!r} is unknown.{nearest(until, _UNTIL)} Write one of {known}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise DataError(f"interleaved(): seed={seed!r} is no seed. Write a whole number from 0 on.")
    shares = None if weights is None else _shares(weights, len(parts))
    sources = [readable(part, "interleaved()") for part in parts.values()]
    return Forward(_title("interleaved", sources), partial(_mixed, sources, shares, until, seed), sources)


def _named_parts(data: tuple[Any, ...], call: str) -> dict[str, Any]:
    given = data[0] if len(data) == 1 and isinstance(data[0], Mapping) else dict(enumerate(data))
    parts = {str(name): part for name, part in given.items()}
    if len(parts) < 2:
        raise DataError(f"{call} takes at least two data sets, and {len(parts)} was given. Write {call[:-1]}a, b).")
    return parts


def _title(call: str, parts: Sequence[Any]) -> str:
    return f"{call}({', '.join(map(title_of, parts))})"


def _check_alike(first_name: str, first: Any, name: str, sample: Any) -> None:
    if kind_of(first) != kind_of(sample):
        raise DataError(
            f"The samples of data sets {first_name} and {name} have different parts: {outline(first)} and "
            f"{outline(sample)}. Make them alike, with mapped(data, function)."
        )


def _lengths(parts: Sequence[Any]) -> dict[str, Whole]:
    told = [known_lengths(part) for part in parts]
    known = [lengths for lengths in told if lengths is not None]
    if len(known) < len(parts):
        return {}
    common = [name for name in known[0].names if all(name in lengths.names for lengths in known)]
    return {name: np.concatenate([lengths[name] for lengths in known]) for name in common}


def _tags(parts: Sequence[Any]) -> list[Hashable] | None:
    told = [known_tags(part) for part in parts]
    known = [tags for tags in told if tags is not None]
    return [tag for tags in known for tag in tags] if len(known) == len(parts) else None


def _after_one_another(sources: Sequence[Any], epoch: int, counts: Counts) -> Iterator[Any]:
    first = _END
    for number, source in enumerate(sources):
        beginning = True
        for sample in opened(source, epoch):
            if beginning:
                first = sample if first is _END else first
                _check_alike("0", first, str(number), sample)
                beginning = False
            yield sample


def _shares(weights: Sequence[float], count: int) -> Shares:
    """Weights as shares of 1."""
    given = list(weights)
    fine = all(isinstance(one, int | float) and not isinstance(one, bool) and 0 < one < math.inf for one in given)
    if len(given) != count or not fine:
        raise DataError(
            f"interleaved(): weights={given!r} for {count} data sets. Write a number above 0 for each, such as "
            f"weights={[round(1 / count, 2)] * count!r}."
        )
    return np.array(given, np.float64) / sum(given)


class _Turns:
    """Whose turn it is, one choice after another: each in turn, or drawn by shares."""

    __slots__ = ("_chance", "_drawn", "_last", "_left", "_shares")

    def __init__(self, count: int, shares: Shares | None, chance: np.random.Generator) -> None:
        self._left = list(range(count))
        self._last = -1
        self._shares = shares
        self._chance = chance
        self._drawn: list[float] = []

    def next(self) -> int:
        if self._shares is None:
            self._last = (self._last + 1) % len(self._left)
            return self._left[self._last]
        self._drawn = self._drawn or self._chance.random(_DRAWN).tolist()
        ends = np.cumsum(self._shares[self._left])
        return self._left[bisect_right((ends / ends[-1]).tolist(), self._drawn.pop())]

    def leave(self, source: int) -> None:
        """The source whose turn it was has no more; the turn goes to the next one."""
        self._left.remove(source)
        self._last -= 1


def _mixed(
    sources: Sequence[Any], shares: Shares | None, until: Until, seed: int, epoch: int, counts: Counts
) -> Iterator[Any]:
    turns = _Turns(len(sources), shares, generator(seed, SELECT, epoch))
    passes = [opened(source, epoch) for source in sources]
    going = set(range(len(sources)))
    while going:
        chosen = turns.next()
        sample = next(passes[chosen], _END)
        if sample is _END:
            going.discard(chosen)
            if until == "shortest" or not going:
                return
            if until == "all":
                turns.leave(chosen)
                continue
            passes[chosen] = opened(sources[chosen], epoch)
            sample = _first(passes[chosen], sources[chosen], epoch)
        yield sample


def _first(passing: Iterator[Any], source: Any, epoch: int) -> Any:
    sample = next(passing, _END)
    if sample is _END:
        raise DataError(f"{title_of(source)} gave no sample in epoch {epoch}, to begin again. Give at least one.")
    return sample
