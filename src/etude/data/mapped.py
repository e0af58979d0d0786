"""A function of every sample, called when the sample is read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from etude.arguments import named
from etude.data.batch import outline
from etude.data.forward import Counts, Forward, opened, readable
from etude.data.plan.lengths import Whole, lengths_of
from etude.data.sets import (
    forward_only,
    known_tags,
    lengths_told,
    name_of,
    place,
    samples,
    title_of,
)
from etude.errors import DataError


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Mapped:
    """A function of every sample, called when the sample is read; made by `mapped`.

    Attributes:
        data: the data set.
        function: of a sample.
        lengths: of each stream; nothing where they are not said.
        tags: the ids of the data set, or None.
        title: for messages.
    """

    data: Any
    function: Callable[[Any], Any]
    lengths: Mapping[str, Whole]
    tags: Sequence[Hashable] | None
    title: str

    def __repr__(self) -> str:
        return self.title

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> Any:
        return self.function(self.data[place(number, len(self.data))])


@named
def mapped(data: Any, function: Callable[[Any], Any], *, lengths: Any = None) -> Mapped | Forward:
    """A function of every sample, called whenever the sample is read.

    mapped(data, lambda sample: {**sample, "audio": sample["audio"] / 32768}, lengths="same")
    mapped(data, halved, lengths=lambda lengths: {"audio": lengths["audio"] // 2})

    What the function draws from the generators of torch (CPU), numpy and Python is decided by seed, epoch and the
    number of the sample where étude reads the data.

    Args:
        data: a data set with random access, or what is read forward.
        function: of a sample as the data set gives it.
        lengths: of what the function gives. "same": those that the data set tells. A function of these, a dict of
            int64 arrays, that gives such a dict. A dict of arrays. Default: unknown. Only with random access.

    Raises:
        DataError: lengths that do not fit, or of what is read forward.
    """
    if not callable(function):
        raise DataError(f"mapped(): {outline(function)} cannot be called. Give a function of a sample.")
    if forward_only(data):
        if lengths is not None:
            raise DataError(
                f"mapped(): {title_of(data)} is read forward, so lengths are measured when a sample comes. "
                "Leave lengths out."
            )
        source = readable(data, "mapped()")
        return Forward(f"mapped({title_of(data)})", partial(_each, source, function), [source])
    inside = samples(data, "mapped()")
    return Mapped(
        inside, function, _said(inside, lengths), known_tags(inside), f"mapped({title_of(inside)}, {name_of(function)})"
    )


def _said(data: Any, lengths: Any) -> dict[str, Whole]:
    """The lengths that are said of mapped samples."""
    if lengths is None:
        return {}
    if isinstance(lengths, Mapping):
        return dict(lengths_of(lengths, len(data)).streams)
    if lengths != "same" and not callable(lengths):
        raise DataError(
            f'mapped(): lengths={outline(lengths)}. Write lengths="same", a function of the lengths of the data set, '
            "or a dict of arrays."
        )
    told = lengths_told(data, "mapped()")
    if lengths == "same":
        return dict(told.streams)
    given = lengths(dict(told.streams))
    if not isinstance(given, Mapping):
        raise DataError(
            f"mapped(): the function of the lengths gave {outline(given)}. Let it give a dict of arrays, such as "
            f"{{{told.names[0]!r}: array}}."
        )
    return dict(lengths_of(given, len(data)).streams)


def _each(source: Any, function: Callable[[Any], Any], epoch: int, counts: Counts) -> Iterator[Any]:
    return map(function, opened(source, epoch))
