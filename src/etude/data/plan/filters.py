"""Filters: which samples an epoch of training leaves out, by their lengths, by a score or by chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from etude.arguments import named
from etude.data.order import FILTER, generator
from etude.data.plan.candidates import Candidates, Filter, Limit, Truth, argument, limit, portion, share_of, value_of
from etude.data.plan.lengths import Lengths, Whole
from etude.data.plan.ranking import easiest, mean_length, shortest
from etude.errors import DataError, SettingError
from etude.values.progress import Progress
from etude.values.schedule import Constant, Schedule

__all__ = ["Candidates", "Filter", "apply", "dropped", "easiest", "keep", "length", "mean_length", "shortest"]


@final
@dataclass(frozen=True, slots=True, repr=False)
class Between(Filter):
    """Lengths within limits, both inclusive; made by `length`.

    Attributes:
        least, most: pairs of a stream (None: every stream) and a limit.
    """

    least: tuple[tuple[str | None, Schedule], ...]
    most: tuple[tuple[str | None, Schedule], ...]

    def mask(self, candidates: Candidates) -> Truth:
        kept = np.ones(len(candidates), np.bool_)
        for bounds, holds in ((self.least, np.greater_equal), (self.most, np.less_equal)):
            for stream, bound in bounds:
                limit = value_of(bound, candidates.progress, self)
                for lengths in self._lengths(candidates, stream):
                    kept &= holds(lengths, limit)
        return kept

    def fitting(self, candidates: Candidates) -> str:
        lengths = candidates.lengths
        names = () if lengths is None else lengths.names
        named = [name for name in names if any(stream in (None, name) for stream, _ in (*self.least, *self.most))]
        told = [
            f"in {name!r} from {candidates.of(name, self).min()} to {candidates.of(name, self).max()}" for name in named
        ]
        return f"Their lengths are {', '.join(told)}: choose limits that some of them meet in every stream"

    def _lengths(self, candidates: Candidates, stream: str | None) -> list[Whole]:
        if stream is None and candidates.lengths is not None:
            return list(candidates.lengths.streams.values())
        return [candidates.of(stream, self)]

    def __repr__(self) -> str:
        said = [f"{name}={_limits(bounds)}" for name, bounds in (("least", self.least), ("most", self.most)) if bounds]
        return f"length({', '.join(said)})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Dropped(Filter):
    """Each sample left out with a probability; made by `dropped`."""

    probability: Schedule

    @property
    def needs_lengths(self) -> bool:
        return False

    def mask(self, candidates: Candidates) -> Truth:
        probability = share_of(value_of(self.probability, candidates.progress, self), self)
        chance = generator(candidates.seed, FILTER, candidates.epoch, candidates.place)
        # Every sample has a number of its own, whatever others are there.
        drawn = chance.random(int(candidates.samples.max(initial=-1)) + 1)
        return np.asarray(drawn[candidates.samples] >= probability)

    def fitting(self, candidates: Candidates) -> str:
        return "Write a smaller probability"

    def __repr__(self) -> str:
        return f"dropped({argument(self.probability)})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Chosen(Filter):
    """What a function of the lengths says."""

    function: Callable[[Lengths], Any]

    def mask(self, candidates: Candidates) -> Truth:
        candidates.of(None, self)
        assert candidates.lengths is not None
        try:
            given = self.function(candidates.lengths)
        except Exception as error:
            told = f"there is no stream {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"keep={self!r} failed: {type(error).__name__}: {told}. It is called once with all lengths; streams "
                f"are {', '.join(map(repr, candidates.lengths.names))}. Write lambda lengths: lengths['audio'] < 1600."
            ) from error
        made = np.asarray(given)
        if made.dtype != np.bool_ or made.shape != (len(candidates),):
            raise DataError(
                f"keep={self!r}: it gives {made.dtype} of shape {made.shape}, and one True or False for each of "
                f"{len(candidates)} samples is needed. Write lambda lengths: lengths['audio'] < 1600."
            )
        return made

    def fitting(self, candidates: Candidates) -> str:
        return "Write a function that keeps some"

    def __repr__(self) -> str:
        name = str(getattr(self.function, "__qualname__", type(self.function).__qualname__))
        return "a function of the lengths" if name.endswith("<lambda>") else name


@final
@dataclass(frozen=True, slots=True, repr=False)
class During(Filter):
    """A filter that acts in some epochs only; made from a dict of epochs and filters."""

    epochs: range
    inner: Filter

    @property
    def needs_lengths(self) -> bool:
        return self.inner.needs_lengths

    def mask(self, candidates: Candidates) -> Truth:
        if candidates.epoch not in self.epochs:
            return np.ones(len(candidates), np.bool_)
        return self.inner.mask(candidates)

    def fitting(self, candidates: Candidates) -> str:
        return self.inner.fitting(candidates)

    def __repr__(self) -> str:
        return f"{{{self.epochs!r}: {self.inner!r}}}"


@final
@dataclass(frozen=True, slots=True, repr=False)
class Scheduled(Filter):
    """The filter that a schedule has at the start of the epoch; None leaves nothing out."""

    schedule: Schedule

    @property
    def needs_lengths(self) -> bool:
        return False  # that is known only when it is asked

    def mask(self, candidates: Candidates) -> Truth:
        kept = np.ones(len(candidates), np.bool_)
        for inner in self._now(candidates):
            kept[kept] = inner.mask(candidates.take(kept))
        return kept

    def fitting(self, candidates: Candidates) -> str:
        return "; ".join(inner.fitting(candidates) for inner in self._now(candidates))

    def _now(self, candidates: Candidates) -> tuple[Filter, ...]:
        return keep(self.schedule.at(candidates.progress))

    def __repr__(self) -> str:
        return repr(self.schedule)


@named
def length(
    *, least: Limit | Mapping[str, Limit] | None = None, most: Limit | Mapping[str, Limit] | None = None
) -> Filter:
    """Samples whose lengths are within limits, both inclusive.

    Args:
        least, most: a number for every stream, or `{"audio": 1600}`; a number may be a schedule, asked at the start
            of every epoch: `most=linear(200, 1600, over=epochs(5))`.

    Raises:
        SettingError: no limit, or one that is no number.
    """
    if least is None and most is None:
        raise SettingError("length(): no limit. Write length(most=1600) or length(least=10, most={'audio': 1600}).")
    made = Between(_bounds("least", least), _bounds("most", most))
    low, high = (
        {stream: bound.value for stream, bound in side if isinstance(bound, Constant)}
        for side in (made.least, made.most)
    )
    crossed = [(a, b) for s, a in low.items() for t, b in high.items() if a > b and (s == t or None in (s, t))]
    if crossed:
        raise SettingError(f"{made!r}: no length is at least {crossed[0][0]} and at most {crossed[0][1]}.")
    return made


@named
def dropped(probability: Limit) -> Filter:
    """Each sample is left out with a probability, drawn anew in every epoch.

    Args:
        probability: from 0 to below 1, or a schedule.

    Raises:
        SettingError: no such number.
    """
    return Dropped(portion("dropped()", probability, low=True))


def keep(literal: Any) -> tuple[Filter, ...]:
    """The filters that a literal stands for; each sees what those before it left.

    Args:
        literal: None (nothing is left out), a filter, a function of `Lengths` that gives a boolean array, a schedule
            whose values are filters, `{range(0, 5): filter}` (in those epochs, counted from 0), or a list of such.

    Raises:
        SettingError: anything else.
    """
    if literal is None:
        return ()
    if isinstance(literal, Filter):
        return (literal,)
    if isinstance(literal, Schedule) and literal.kind == "any":
        return (Scheduled(literal),)
    if isinstance(literal, Mapping) and all(isinstance(key, range | int) for key in literal):
        return tuple(During(_epochs(key), inner) for key, value in literal.items() for inner in keep(value))
    if isinstance(literal, list | tuple):
        return tuple(made for each in literal for made in keep(each))
    if callable(literal) and not isinstance(literal, type | Schedule):
        return (Chosen(literal),)
    raise SettingError(
        f"keep={literal!r}: no filter. Write length(most=1600), shortest(0.5), a function of the lengths, "
        "{range(0, 5): length(most=400)}, or a list of such."
    )


def apply(
    filters: Sequence[Filter],
    samples: Whole,
    lengths: Lengths | None = None,
    progress: Progress | None = None,
    epoch: int = 0,
    seed: int = 0,
) -> tuple[Whole, dict[str, int]]:
    """What filters leave, and how much each left out.

    Args:
        filters: in their order.
        samples: numbers of samples in the whole data, int64, shape (n,); one may come several times.
        lengths: of these, in the same order. progress: at the start of the epoch. Default: of a run's start.
        epoch, seed: what chance is drawn from.

    Returns:
        Positions in `samples`, int64, ascending, and by the text of each filter what it left out.

    Raises:
        DataError: nothing is left, or the data lack what a filter chooses by.
    """
    places, counts = np.arange(len(samples)), dict[str, int]()
    left = Candidates(samples, lengths, progress or Progress(epoch=epoch), epoch, seed)
    for each in filters:
        kept = each.mask(left)
        name = repr(each)
        while name in counts:
            name += " again"
        counts[name] = len(left) - int(np.count_nonzero(kept))
        if len(left) and counts[name] == len(left):
            raise DataError(f"{each!r} leaves nothing of {len(left)} samples in epoch {epoch}. {each.fitting(left)}.")
        places, left = places[kept], left.take(kept)
    return places, counts


def _epochs(key: range | int) -> range:
    epochs = key if isinstance(key, range) else range(key, key + 1)
    if not epochs or min(epochs) < 0:
        raise SettingError(f"keep={{{key!r}: ...}}: there are no such epochs. They count from 0: {{range(0, 5): ...}}.")
    return epochs


def _bounds(name: str, literal: Any) -> tuple[tuple[str | None, Schedule], ...]:
    if literal is None:
        return ()
    if isinstance(literal, Mapping) and literal:
        return tuple(
            (str(stream), limit(f"length({name}={{{stream!r}: ...}})", bound)) for stream, bound in literal.items()
        )
    return ((None, limit(f"length({name}=...)", literal)),)


def _limits(bounds: tuple[tuple[str | None, Schedule], ...]) -> str:
    if bounds[0][0] is None:
        return argument(bounds[0][1])
    return "{" + ", ".join(f"{stream!r}: {argument(bound)}" for stream, bound in bounds) + "}"
