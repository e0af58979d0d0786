"""Data sets joined by the ids of their samples: features from here, alignments from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from etude.arguments import named
from etude.data.batch import outline
from etude.data.chance import undisturbed
from etude.data.ids import Ids, On, Part, ids_of, places_of
from etude.data.plan.lengths import Lengths, Whole
from etude.data.sets import known_lengths, place, samples, taken, title_of
from etude.data.wanted import Windows
from etude.data.windows import cut_sample, reads_windows
from etude.errors import DataError, nearest


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Joined:
    """Data sets joined by id, read when a sample is asked for; made by `joined`.

    Attributes:
        sources: the data sets, the leading one first.
        places: of every sample its number in each of them, int64, shape (samples,) each.
        tags: the ids.
        lengths: of the streams whose lengths the data sets tell.
        dropped: by the name of a data set, the samples of the leading one that it lacks.
        keyed: whether each data set gives one named value, rather than whole samples.
        shared: the part that samples of several data sets may have in common: their id.
        title: for messages.
        _called: of each data set that reads windows of samples, how it calls what joined samples call otherwise.
    """

    sources: tuple[Part, ...]
    places: tuple[Whole, ...]
    tags: Ids
    lengths: Mapping[str, Whole]
    dropped: Mapping[str, int]
    keyed: bool
    shared: str | None
    title: str
    _called: tuple[Mapping[str, str], ...]

    def __repr__(self) -> str:
        return self.title

    def __len__(self) -> int:
        return len(self.tags)

    def __getitem__(self, number: int) -> Any:
        at = place(number, len(self.tags))
        return self._together([part.read(int(own[at])) for part, own in zip(self.sources, self.places, strict=True)])

    @property
    def part(self) -> Callable[[int, Windows], Any] | None:
        """Reads windows of samples, see `etude.data.windows`; None where the data sets cannot."""
        return self._part if any(self._called) else None

    def _part(self, number: int, windows: Windows) -> Any:
        at = place(number, len(self.tags))
        left, read = dict(windows), []
        for part, own, called in zip(self.sources, self.places, self._called, strict=True):
            inside = {called[name]: left.pop(name) for name in windows if name in called}
            there = int(own[at])
            read.append(_value(part, part.data.part(there, inside)) if inside else part.read(there))
        stated = {name: int(self.lengths[name][at]) for name in left if name in self.lengths}
        return cut_sample(self._together(read), left, stated)

    def _together(self, read: Sequence[Any]) -> Any:
        if self.keyed:
            return {part.name: value for part, value in zip(self.sources, read, strict=True)}
        return _merged(self.sources, read, self.shared)


@named
def joined(*data: Any, on: On = None, missing: Literal["error", "drop"] = "error") -> Joined:
    """Join data sets by the ids of their samples. The first leads: its samples, in its order.

    joined(features, alignments)                                whole samples, put together
    joined({"audio": features, "labels": alignments})           one value of each, named here
    joined({"audio": (features, "data"), "labels": alignments}) a pair says which part of a sample it is

    Args:
        data: data sets with random access; or one dict of them by the names that their values get. Whole samples are
            put together as dicts if they are dicts, otherwise as tuples.
        on: the ids. Default: those that the data sets tell (`tags`). Text: the part of every sample that holds the id.
            A function of a sample that gives it. A list of ids for each data set, in their order or by their names.
            A part of a sample, or a function, is read from all samples at once.
        missing: of samples whose id another data set lacks: "error", or "drop", which counts them in `dropped`.

    Returns:
        A data set, read when asked. Its `lengths` are those that the data sets tell. Samples of the others whose id
        the leading one lacks are not used.

    Raises:
        DataError: no ids, ids that come twice or are missing, names that clash, data that can only be read forward.
    """
    if missing not in ("error", "drop"):
        raise DataError(
            f"missing={missing!r} was asked for.{nearest(missing, ['error', 'drop'])} "
            'Write missing="error" or missing="drop".'
        )
    shared = on if isinstance(on, str) else None
    named_parts = len(data) == 1 and isinstance(data[0], Mapping)
    parts = tuple(_parts(data[0] if named_parts else dict(enumerate(data)), named_parts))
    if len(parts) < 2:
        raise DataError("joined() joins at least two data sets. Write joined(features, alignments).")
    ids = ids_of(parts, on)
    places, dropped = places_of(parts, ids, missing)
    with undisturbed():
        parts = tuple(_resolved(part, shared) for part in parts) if named_parts else parts
        first = [part.read(int(own[0])) for part, own in zip(parts, places, strict=True)]
    if not named_parts:
        _merged(parts, first, shared)
    return Joined(
        parts,
        places,
        taken(ids[0], places[0]) or [],
        _lengths(parts, places, first, named_parts),
        dropped,
        named_parts,
        shared,
        f"joined({', '.join(title_of(part.data) for part in parts)})",
        _names_inside(parts, first, named_parts),
    )


def _value(part: Part, sample: Any) -> Any:
    """What a data set contributes of one of its samples."""
    return sample if part.key is None else sample[part.key]


def _names_inside(parts: Sequence[Part], first: Sequence[Any], keyed: bool) -> tuple[Mapping[str, str], ...]:
    """How data sets that read windows of samples call the values of joined ones; nothing for the others."""
    found: list[Mapping[str, str]] = []
    before: set[str] = set()
    for part, sample in zip(parts, first, strict=True):
        named = {part.name: part.key} if keyed and isinstance(part.key, str) else {}
        if not keyed and isinstance(sample, Mapping):
            named = {name: name for name in sample if name not in before}
        found.append(named if reads_windows(part.data) else {})
        before.update(named)
    return tuple(found)


def _parts(given: Mapping[Any, Any], named_parts: bool) -> list[Part]:
    parts = []
    for name, data in given.items():
        pair = named_parts and isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], str | int)
        inside, key = data if pair else (data, None)
        parts.append(Part(str(name), samples(inside, "joined()"), key))
    return parts


def _resolved(part: Part, shared: str | None) -> Part:
    """A part that gives one value: that of the key asked for, or the only one there is."""
    sample = part.data[0]
    if not isinstance(sample, Mapping | tuple):
        if part.key is None:
            return part
        raise DataError(f"joined(): the samples of {part.name!r} are {outline(sample)}, which have no parts by name.")
    keys = list(sample) if isinstance(sample, Mapping) else list(range(len(sample)))
    choice = [key for key in keys if key != shared]
    if part.key is None and len(choice) == 1:
        return Part(part.name, part.data, choice[0])
    if part.key in keys:
        return part
    asked = f"have no {part.key!r}" if part.key is not None else "have several parts"
    raise DataError(
        f"joined(): the samples of {part.name!r} {asked}; there are {', '.join(map(repr, keys))}."
        f"{nearest(part.key, map(str, keys)) if part.key is not None else ''} "
        f"Write {{{part.name!r}: (data, {choice[0] if choice else keys[0]!r})}}, or join whole samples: joined(a, b)."
    )


def _merged(parts: Sequence[Part], read: Sequence[Any], shared: str | None) -> Any:
    """Whole samples of each data set as one."""
    dicts = [isinstance(sample, Mapping) for sample in read]
    if not any(dicts):
        flat = [sample if isinstance(sample, tuple) else (sample,) for sample in read]
        return tuple(value for values in flat for value in values)
    if not all(dicts):
        told = ", ".join(outline(sample) for sample in read)
        raise DataError(
            f"joined(): some data sets give dicts and others do not: {told}. "
            'Name their values: joined({"audio": features, "labels": alignments}).'
        )
    whole: dict[str, Any] = {}
    for part, sample in zip(parts, read, strict=True):
        clash = [key for key in sample if key in whole and key != shared]
        if clash:
            raise DataError(
                f"joined(): samples of several data sets have a {clash[0]!r}, {title_of(part.data)} among them. Name "
                "the values: joined({'audio': (features, 'x'), 'labels': (alignments, 'x')})."
            )
        whole = {**sample, **whole} if part is not parts[0] else dict(sample)
    return whole


def _lengths(parts: Sequence[Part], places: Sequence[Whole], first: Sequence[Any], keyed: bool) -> dict[str, Whole]:
    """The lengths that the data sets tell, by the names that their streams have in a joined sample."""
    found: dict[str, Whole] = {}
    before = 0
    for part, own, sample in zip(parts, places, first, strict=True):
        told = known_lengths(part.data)
        for name, lengths in {} if told is None else _renamed(part, told, sample, before, keyed).items():
            found.setdefault(name, lengths[own])
        before += len(sample) if isinstance(sample, tuple) else 1
    return found


def _renamed(part: Part, told: Lengths, sample: Any, before: int, keyed: bool) -> dict[str, Whole]:
    if keyed:
        if part.key is None:
            return {part.name: told.lead} if len(told.names) == 1 else {}
        return {part.name: told[str(part.key)]} if str(part.key) in told.names else {}
    if isinstance(sample, Mapping):
        return {name: told[name] for name in told.names if name in sample}
    if not isinstance(sample, tuple):
        return {str(before): told.lead}
    return {str(before + int(name)): told[name] for name in told.names if name.isdigit() and int(name) < len(sample)}
