"""Which checkpoints are kept: `last(2) | best("val.loss", 3) | thinning(4)`.

Nothing here touches a file: from the saves that are there follows which of them stay. What is dropped once is never
asked for again, so that files may be removed after every save.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import final

from etude.arguments import named
from etude.errors import SettingError, nearest

DIRECTIONS = ("min", "max")
"""Which way a score may improve."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One save that is there.

    Attributes:
        path: its file. number: of the save in its run, rising with each. step, epoch: how far the run was.
        scores: what was measured: "val.loss", "epoch.loss", ...; what was not is not in it, or is NaN.
    """

    path: str
    number: int
    step: int
    epoch: float
    scores: Mapping[str, float] = field(default_factory=dict)


class Keep(ABC):
    """Which saves are kept. Frozen, equal by value; printed as the calls that make it, joined by `|`."""

    __slots__ = ()

    @abstractmethod
    def chosen(self, entries: Sequence[Entry]) -> set[int]:
        """The numbers that this rule asks for, of at least one entry, in the order of saving."""

    @abstractmethod
    def check(self, known: Mapping[str, str | None]) -> Keep:
        """The same rule, with the direction of each score as it is in this run.

        Args:
            known: what is measured, and for each score "min", "max", or None where that is not known.

        Raises:
            SettingError: a score that is not measured, or whose direction neither the rule nor `known` says.
        """

    def scores(self) -> frozenset[str]:
        """The names of the scores that it looks at."""
        return frozenset()

    def kept(self, entries: Iterable[Entry]) -> set[int]:
        """The numbers of the saves that are kept; the newest is always among them.

        Args:
            entries: all saves that are there, in any order, each with a number of its own.

        Raises:
            SettingError: the direction of a score is not known; see `check`.
        """
        ordered = sorted(entries, key=lambda entry: entry.number)
        return self.chosen(ordered) | {ordered[-1].number} if ordered else set()

    def __or__(self, other: Keep) -> Keep:
        return _joined(self, other, f"{self!r} | {other!r}")

    def __ror__(self, other: Keep) -> Keep:
        return _joined(other, self, f"{other!r} | {self!r}")


@final
@dataclass(frozen=True, slots=True, repr=False)
class Last(Keep):
    """The newest saves; made by `last`."""

    count: int

    def chosen(self, entries: Sequence[Entry]) -> set[int]:
        return {entry.number for entry in entries[-self.count :]}

    def check(self, known: Mapping[str, str | None]) -> Keep:
        return self

    def __repr__(self) -> str:
        return f"last({self.count})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class BestBy(Keep):
    """The best saves by a score; made by `best`.

    Attributes:
        score: its name. count: how many. direction: "min" or "max"; None until `check`, where the name does not say it.
    """

    score: str
    count: int = 1
    direction: str | None = None

    def chosen(self, entries: Sequence[Entry]) -> set[int]:
        ranked = sorted(entries, key=self._rank)
        return {entry.number for entry in ranked[: self.count]}

    def check(self, known: Mapping[str, str | None]) -> Keep:
        if self.score not in known:
            raise SettingError(
                f"{self!r}: {self.score!r} is not measured here. Scores: {', '.join(known) or 'none'}."
                f"{nearest(self.score, known)}"
            )
        return BestBy(self.score, self.count, self._way(known[self.score]))

    def scores(self) -> frozenset[str]:
        return frozenset((self.score,))

    def improves(self, value: float, than: float | None) -> bool:
        """Whether `value` is better than the best one so far. An equal one is not, and NaN never is.

        Args:
            than: the best so far; None or NaN where there is none, and then every number is better.

        Raises:
            SettingError: the direction of the score is not known; see `check`.
        """
        way = self._way()
        if isnan(value) or than is None or isnan(than):
            return not isnan(value)
        return value < than if way == "min" else value > than

    def _rank(self, entry: Entry) -> tuple[bool, bool, float, int]:
        """What sorts the best first: numbers, then NaN, then what was not measured; the earlier of equal ones."""
        score, way = entry.scores.get(self.score), self._way()
        value = nan if score is None else float(score)
        if isnan(value):
            return score is None, True, 0.0, entry.number
        return False, False, value if way == "min" else -value, entry.number

    def _way(self, known: str | None = None) -> str:
        loss = "min" if self.score.rpartition(".")[2] == "loss" else None
        way = self.direction or known or loss
        if way is None:
            raise SettingError(
                f"{self!r}: whether more or less of {self.score!r} is better is not known. "
                f"Write {_best(self.score, self.count, 'max')} or 'min'."
            )
        return way

    def __repr__(self) -> str:
        return _best(self.score, self.count, self.direction)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Thinning(Keep):
    """All of the newest saves, and fewer of the older; made by `thinning`."""

    count: int

    def chosen(self, entries: Sequence[Entry]) -> set[int]:
        newest = entries[-1].number
        return {entry.number for entry in entries if entry.number % self._stride(newest - entry.number) == 0}

    def _stride(self, age: int) -> int:
        # Strides are powers of two: what a longer one asks for, every shorter one asked for before.
        return 1 << (age // self.count).bit_length()

    def check(self, known: Mapping[str, str | None]) -> Keep:
        return self

    def __repr__(self) -> str:
        return f"thinning({self.count})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class AnyOf(Keep):
    """What any of several rules keeps; made by `|`."""

    rules: tuple[Keep, ...]

    def chosen(self, entries: Sequence[Entry]) -> set[int]:
        return set().union(*(rule.chosen(entries) for rule in self.rules))

    def check(self, known: Mapping[str, str | None]) -> Keep:
        return AnyOf(tuple(rule.check(known) for rule in self.rules))

    def scores(self) -> frozenset[str]:
        return frozenset[str]().union(*(rule.scores() for rule in self.rules))

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.rules))


@named
def last(n: int = 1) -> Keep:
    """Keep the newest `n` saves.

    Raises:
        SettingError: `n` is no whole number from 1 on.
    """
    return Last(_count("last", n))


@named
def best(score: str, n: int = 1, direction: str | None = None) -> BestBy:
    """Keep the best `n` saves by a score; of equal ones the earlier.

        Directory("runs/digits", keep=last(2) | best("val.loss", 3))
        Directory("runs/digits", keep=best("val.f1", 3, "max"))
        File("best.safetensors", when=best("val.accuracy"))

    Saves at which the score was NaN come after all numbers, those at which it was not measured after these; they are
    kept only as long as there are fewer than `n` others.

    Args:
        score: "val.loss", "val.<metric>", or "epoch.loss", the mean loss of an epoch of training.
        n: how many. direction: "min" or "max". None: as the metric says; "min" for a loss.

    Raises:
        SettingError: no name, `n` no whole number from 1 on, another direction.
    """
    if not isinstance(score, str) or not score:
        raise SettingError(f'best({score!r}): the name of a score is needed. Write best("val.loss").')
    if isinstance(n, str) and n in DIRECTIONS and direction is None:
        raise SettingError(f"best({score!r}, {n!r}): the number of saves comes first. Write {_best(score, 1, str(n))}.")
    if direction is not None and direction not in DIRECTIONS:
        raise SettingError(
            f'best({score!r}, direction={direction!r}): "min" or "max" is needed.{nearest(str(direction), DIRECTIONS)}'
        )
    return BestBy(score, _count("best", n, score), direction)


@named
def thinning(n: int = 4) -> Keep:
    """Keep all of the newest `n` saves, every second of those up to 2n old, every fourth up to 4n old, and so on.

    It goes by the numbers of the saves: every second are those with an even number. After 40 saves thinning(4) leaves
    16, 24, 28, 32, 34, 36 and 37 to 40; each time that the number of saves doubles there are about n/2 files more.

    Raises:
        SettingError: `n` is no whole number from 1 on.
    """
    return Thinning(_count("thinning", n))


def _joined(left: object, right: object, said: str) -> Keep:
    rules: list[Keep] = []
    for side in (left, right):
        if not isinstance(side, Keep):
            raise SettingError(f"{said}: {no_keep(side)}")
        rules += side.rules if isinstance(side, AnyOf) else (side,)
    unique: Collection[Keep] = dict.fromkeys(rules)
    return next(iter(unique)) if len(unique) == 1 else AnyOf(tuple(unique))


def no_keep(value: object) -> str:
    """What to write instead of `value`, where a rule of keeping is needed."""
    n = value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 2
    return f'{value!r} does not say what is kept. Write last({n}), best("val.loss", {n}) or thinning().'


def _count(name: str, n: object, score: str = "") -> int:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        given = f"{score!r}, " if score else ""
        raise SettingError(f"{name}({given}{n!r}): a whole number of at least 1 is needed.")
    return n


def _best(score: str, count: int, direction: str | None) -> str:
    said = (repr(score), *([str(count)] if count != 1 or direction else []), *([repr(direction)] if direction else []))
    return f"best({', '.join(said)})"
