"""Ids of samples: whence they are known, and which samples of several data sets have the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from etude.data.batch import outline
from etude.data.chance import undisturbed
from etude.data.plan.lengths import Whole
from etude.data.sets import Rows, known_tags, list_of, taken, title_of
from etude.errors import DataError, nearest

On = str | Callable[[Any], Hashable] | Sequence[Sequence[Hashable]] | Mapping[str, Sequence[Hashable]] | None
Ids = Sequence[Hashable]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One of the data sets that are joined.

    Attributes:
        name: for messages; under which its values come, where names were given.
        data: the data set.
        key: which part of its samples is taken; None: the whole sample.
    """

    name: str
    data: Any = field(repr=False)
    key: Any = None

    def read(self, number: int) -> Any:
        sample = self.data[number]
        return sample if self.key is None else sample[self.key]


def ids_of(parts: Sequence[Part], on: On) -> list[Ids]:
    """The ids of every data set; `on` as in `joined`.

    Raises:
        DataError: there are none, or not one for every sample.
    """
    if on is None or isinstance(on, str) or callable(on):
        return [_told(part) if on is None else _read_ids(part, on) for part in parts]
    if isinstance(on, Mapping):
        lacking = [part.name for part in parts if part.name not in on]
        if lacking or len(on) != len(parts):
            raise DataError(
                f"joined(): on= has ids for {', '.join(map(repr, on))}; the data sets are "
                f"{', '.join(repr(part.name) for part in parts)}. Give ids for each of them."
            )
        on = [on[part.name] for part in parts]
    if len(on) != len(parts):
        raise DataError(f"joined(): on= has {len(on)} lists of ids for {len(parts)} data sets. Give one for each.")
    ids: list[Ids] = [list_of(each) for each in on]
    for part, own in zip(parts, ids, strict=True):
        if len(own) != len(part.data):
            raise DataError(
                f"joined(): {len(own)} ids were given for the {len(part.data)} samples of {_called(part)}. "
                "Give one for each."
            )
    return ids


def _told(part: Part) -> Ids:
    tags = known_tags(part.data)
    if tags is None:
        raise DataError(
            f"joined(): {_called(part)} tells no ids of its samples. Write on='id', the part of every sample that "
            "holds its id, or on=[...], a list of ids for each data set."
        )
    return tags


def _read_ids(part: Part, on: str | Callable[[Any], Hashable]) -> Ids:
    """The ids from the samples themselves; a column of them where there is one."""
    if isinstance(on, str) and isinstance(part.data, Rows) and on in part.data.columns:
        return list_of(part.data.columns[on])
    with undisturbed():
        return [_id(part, number, on) for number in range(len(part.data))]


def _id(part: Part, number: int, on: str | Callable[[Any], Hashable]) -> Hashable:
    sample = part.data[number]
    if callable(on):
        found = on(sample)
    elif isinstance(sample, Mapping) and on in sample:
        found = sample[on]
    else:
        keys = list(map(str, sample)) if isinstance(sample, Mapping) else []
        raise DataError(
            f"joined(on={on!r}): sample {number} of {_called(part)} is {outline(sample)}, without that part."
            f"{nearest(on, keys)} Write on= with the part that holds the id, or a list of ids for each data set."
        )
    value: Hashable = found.item() if isinstance(found, Tensor | np.ndarray | np.generic) else found
    return value


def places_of(parts: Sequence[Part], ids: Sequence[Ids], missing: str) -> tuple[tuple[Whole, ...], dict[str, int]]:
    """The samples that all data sets have, in the order of the first.

    Returns:
        Their numbers in each data set, int64; and how many samples of the first each of the others lacks.

    Raises:
        DataError: an id that comes twice, no id in all of them, or, with missing="error", one that another lacks.
    """
    lead = ids[0]
    _index(parts[0], lead)
    found = [np.arange(len(lead))]
    dropped = {}
    for part, own in zip(parts[1:], ids[1:], strict=True):
        index = _index(part, own)
        found.append(np.fromiter((index.get(tag, -1) for tag in lead), np.int64, len(lead)))
        lacking = np.flatnonzero(found[-1] < 0)
        if len(lacking) and (missing == "error" or len(lacking) == len(lead)):
            raise _lacks(parts[0], part, taken(lead, lacking) or [], lead, own)
        if len(lacking):
            dropped[part.name] = len(lacking)
    kept = np.flatnonzero(np.min(found, axis=0) >= 0)
    if not len(kept):
        raise DataError("joined(): no id is in all of the data sets. Join fewer of them, or correct the ids.")
    return tuple(places[kept] for places in found), dropped


def _index(part: Part, ids: Ids) -> dict[Hashable, int]:
    """The place of every id.

    Raises:
        DataError: one comes twice.
    """
    index = dict(zip(ids, range(len(ids)), strict=True))
    if len(index) == len(ids):
        return index
    seen: dict[Hashable, int] = {}
    for number, tag in enumerate(ids):
        if tag in seen:
            more = len(ids) - len(index) - 1
            raise DataError(
                f"joined(): the id {tag!r} comes twice in {_called(part)}: samples {seen[tag]} and {number}"
                f"{f', and {more} more ids come again' * (more > 0)}. Give every sample an id of its own."
            )
        seen[tag] = number
    return index


def _lacks(lead: Part, part: Part, lacking: Ids, ids: Ids, own: Ids) -> DataError:
    shown = ", ".join(map(repr, lacking[:3])) + ", ..." * (len(lacking) > 3)
    there = ", ".join(map(repr, own[:3])) + ", ..." * (len(own) > 3)
    near = nearest(lacking[0], map(str, islice(own, 1000)))
    hint = "" if len(lacking) == len(ids) else ' Write missing="drop" to leave them out, counted.'
    return DataError(
        f"joined(): {_called(part)} lacks {len(lacking)} of the {len(ids)} ids of {_called(lead)}: {shown}. "
        f"It has {there}.{near}{hint}"
    )


def _called(part: Part) -> str:
    title = title_of(part.data)
    return f"data set {part.name} ({title})" if part.name.isdigit() else f"{part.name!r} ({title})"
