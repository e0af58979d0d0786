"""Data sets of which some samples are left out, whatever they are used for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from etude.arguments import named
from etude.data.batch import outline
from etude.data.chance import item_key, sow, undisturbed
from etude.data.forward import Counts, Forward, opened, readable
from etude.data.plan.lengths import Whole
from etude.data.sets import (
    forward_only,
    known_lengths,
    known_tags,
    lengths_told,
    name_of,
    place,
    samples,
    taken,
    title_of,
)
from etude.errors import DataError


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Filtered:
    """Some of the samples of a data set; made by `filtered`.

    Attributes:
        data: the data set.
        places: the samples that are kept, ascending, int64, shape (samples,).
        lengths: of the streams whose lengths the data set tells.
        tags: the ids, or None.
        dropped: how many were left out, by the name of what left them out.
        title: for messages.
    """

    data: Any
    places: Whole
    lengths: Mapping[str, Whole]
    tags: Sequence[Hashable] | None
    dropped: Mapping[str, int]
    title: str

    def __repr__(self) -> str:
        return self.title

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Any:
        return self.data[int(self.places[place(number, len(self.places))])]


@named
def filtered(
    data: Any,
    predicate: Callable[[Any], Any] | None = None,
    *,
    lengths: Callable[[Mapping[str, Whole]], Any] | None = None,
) -> Filtered | Forward:
    """The samples for which a function says yes; for training and evaluation alike.

    filtered(data, lambda sample: sample["label"] < 10)                 reads all samples once, now
    filtered(data, lengths=lambda lengths: lengths["audio"] >= 400)     reads none

    Args:
        data: a data set with random access, or what is read forward.
        predicate: a function of a sample.
        lengths: instead: a function of the lengths that the data set tells, a dict of int64 arrays of shape
            (samples,), that gives an array of as many bools. Only with random access.

    Returns:
        A data set whose `dropped` says how many were left out; of what is read forward, in the pass that began last.

    Raises:
        DataError: not one of the two functions, lengths that are not known, nothing left, or a sample of which the
            predicate fails.
    """
    if (predicate is None) == (lengths is None):
        raise DataError(
            "filtered() takes one function: of a sample, filtered(data, function), or of the lengths, "
            "filtered(data, lengths=function)."
        )
    if forward_only(data):
        if predicate is None:
            raise DataError(
                f"filtered(): {title_of(data)} is read forward and tells no lengths beforehand. "
                "Write filtered(data, function), a function of a sample."
            )
        source = readable(data, "filtered()")
        return Forward(f"filtered({title_of(data)})", partial(_passing, source, predicate), [source])
    inside = samples(data, "filtered()")
    keep = _by_lengths(inside, lengths) if lengths is not None else _by_samples(inside, predicate)
    places = np.flatnonzero(keep)
    function = name_of(lengths or predicate or filtered)
    if not len(places):
        raise DataError(f"filtered(): {function} leaves none of the {len(inside)} samples of {title_of(inside)}.")
    told = known_lengths(inside)
    return Filtered(
        inside,
        places,
        {} if told is None else dict(told.take(places).streams),
        taken(known_tags(inside), places),
        {function: len(inside) - len(places)},
        f"filtered({title_of(inside)}, {function})",
    )


def _by_lengths(data: Any, function: Callable[[Mapping[str, Whole]], Any]) -> Any:
    given = np.asarray(function(dict(lengths_told(data, "filtered()").streams)))
    if given.dtype != np.bool_ or given.shape != (len(data),):
        raise DataError(
            f"filtered(): the function of the lengths gave {outline(given)} for {len(data)} samples. Let it give one "
            "bool for each, such as lengths['audio'] < 1000."
        )
    return given


def _by_samples(data: Any, predicate: Callable[[Any], Any] | None) -> Any:
    assert predicate is not None
    with undisturbed():
        sow(item_key(0, 0, 0))
        return np.fromiter((_says_yes(predicate, data[at], at) for at in range(len(data))), np.bool_, len(data))


def _says_yes(predicate: Callable[[Any], Any], sample: Any, number: int) -> bool:
    try:
        return bool(predicate(sample))
    except Exception as error:
        raise DataError(
            f"filtered(): {name_of(predicate)} fails at sample {number}, {outline(sample)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _passing(source: Any, predicate: Callable[[Any], Any], epoch: int, counts: Counts) -> Iterator[Any]:
    name = name_of(predicate)
    counts[name] = 0
    for number, sample in enumerate(opened(source, epoch)):
        if _says_yes(predicate, sample, number):
            yield sample
        else:
            counts[name] += 1
