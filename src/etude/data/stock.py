"""The samples that `Data` has: in memory, read by number, or read forward; and how long they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from etude.data.batch import each, leaves, numbers, outline
from etude.data.chance import undisturbed
from etude.data.form import FORMS
from etude.data.forms.hugging import Hugging, HuggingStream, hugging
from etude.data.items import LOST, conversions
from etude.data.joined import Joined
from etude.data.plan.lengths import Lengths, lengths_of
from etude.data.ragged import Ragged, columns
from etude.data.sets import forward_only, known_lengths, known_tags, samples, title_of
from etude.errors import DataError, nearest

_TRIED = 100
"""Samples that are tried to find one that can be read."""

LengthsLike = str | Sequence[str] | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class Stock:
    """Samples.

    Attributes:
        title: what they are, for messages.
        number: how many; None where they are read forward.
        lengths: of each stream, or None where nothing is known.
        streams: the parts that have lengths of their own, the leading one first.
        names: the parts of a sample; empty where only reading would tell.
        columns: the samples in memory, by part; None where they are read.
        items: what is read by number, or forward; None where they are in memory.
        keyed: whether samples in memory are dicts; else tuples, or (one column) single parts.
        measure: functions of a sample that give its length in a stream, where that is not the first dimension.
        tags: ids of the samples, or None. parts: how many samples each of several sources has.
        converted: what was changed on the way in, one line for each array.
        dropped: samples that the data set left out itself, by the reason.
    """

    title: str
    number: int | None
    lengths: Lengths | None
    streams: tuple[str, ...]
    names: tuple[str, ...]
    columns: Mapping[str, Tensor | Ragged] | None = field(default=None, repr=False)
    items: Any = field(default=None, repr=False)
    keyed: bool = True
    measure: Mapping[str, Callable[[Any], int]] = field(default_factory=dict, repr=False)
    tags: Sequence[Any] | None = field(default=None, repr=False)
    parts: Sequence[int] = ()
    converted: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def forward(self) -> bool:
        """Whether samples can only be read one after another."""
        return self.number is None

    def sample(self, number: int) -> Any:
        """One sample in memory."""
        assert self.columns is not None
        parts = {name: column[number] for name, column in self.columns.items()}
        if self.keyed:
            return parts
        return tuple(parts.values()) if len(parts) > 1 else next(iter(parts.values()))

    @property
    def said(self) -> str:
        """What these are, in a few words."""
        parts = f" of {', '.join(map(repr, self.names))}" if self.names else ""
        if self.number is None:
            return f"{self.title}{parts}, read forward"
        return f"{self.number} samples{parts}"

    def called(self, sample: int) -> str:
        """How messages call a sample."""
        return f"sample {sample}" if self.tags is None else f"sample {sample} ({self.tags[sample]!r})"


def stock(
    given: Any, names: Sequence[str], lengths: LengthsLike, dtype: torch.dtype | None = None, skips: bool = False
) -> Stock:
    """The samples that something given as data has.

    Args:
        given: whatever `Data` takes.
        names: of the parts of samples that are tuples.
        lengths: names of the streams; or for each a length for every sample, or a function of a sample.
        dtype: of every floating array in memory. skips: whether samples that cannot be read are to be left out.

    Raises:
        DataError: no samples, a sample that cannot be read, or lengths that are not known, not whole, or not one for
            every sample.
    """
    if type(given) is Subset and type(given.dataset) is TensorDataset:
        given = tuple(tensor[torch.as_tensor(given.indices)] for tensor in given.dataset.tensors)
    if type(given) is TensorDataset:
        given = given.tensors
    if hasattr(given, "column_names") and not isinstance(given, Hugging | HuggingStream):
        given = hugging(given)
    if isinstance(given, Ragged | Tensor | np.ndarray | tuple | list | Mapping):
        return _in_memory(given, tuple(names), lengths, dtype)
    _check_names(names)
    if isinstance(lengths, Tensor | np.ndarray | int | float):
        raise DataError("lengths= names the streams that they are of. Write lengths={'audio': array}.")
    if isinstance(given, DataLoader):
        raise DataError(
            "Data(DataLoader): a loader makes batches itself. Give its data set, Data(loader.dataset, ...), or give "
            "the loader as it is."
        )
    if isinstance(given, Iterator):
        raise DataError(
            f"A {type(given).__name__} can be read only once, and an epoch needs it anew. Give the function that makes "
            "it, without calling it."
        )
    if not (isinstance(given, Iterable) or callable(given) or hasattr(given, "__getitem__")):
        raise DataError(f"Cannot read {outline(given)} as data. {FORMS}")
    readable = callable(given) or isinstance(given, Iterable)
    if readable and not isinstance(given, str | bytes | type | torch.nn.Module) and forward_only(given):
        return _forward(given, tuple(names), lengths)
    return _by_number(samples(given, "Data()"), tuple(names), lengths, skips)


# -------------------------------------------------------------------------------------------------------- in memory


def _in_memory(given: Any, names: tuple[str, ...], lengths: LengthsLike, dtype: torch.dtype | None) -> Stock:
    keyed = isinstance(given, Mapping) or (isinstance(given, list) and bool(given) and isinstance(given[0], Mapping))
    title = type(given).__name__
    if keyed and names:
        raise DataError(f"names={list(names)!r}: these samples are dicts, which have names. Leave names out.")
    if isinstance(given, tuple):
        given = dict(zip(_named(names, len(given)), given, strict=True))
    elif isinstance(given, Ragged | Tensor | np.ndarray):
        given = {_named(names, 1)[0]: given}
    wanted = [] if lengths is None else [lengths] if isinstance(lengths, str) else list(lengths)
    made = columns(given, names=names, streams=wanted, dtype=dtype)
    found = {name: column for name, column in made.items() if isinstance(column, Ragged)}
    streams = tuple(dict.fromkeys([*wanted, *found]))
    if found and not keyed and not names:
        shown = ", ".join(map(repr, found))
        example = repr(tuple(f"part{place}" for place in made)) if len(made) > 1 else "('x',)"
        raise DataError(
            f"Samples have different lengths in part {shown} and their parts have no names. A net and a loss take "
            f"sequences and their lengths by name: write Data(..., names={example}), or give dicts."
        )
    number = len(next(iter(made.values())))
    told = Lengths({name: found[name].lengths for name in streams}) if streams else None
    keyed = keyed or bool(found) or bool(names)
    made_of = Stock(title, number, told, streams, tuple(made), made, keyed=keyed)
    if isinstance(lengths, Mapping):
        _check_stated(lengths, made_of)
    return made_of


def _check_stated(lengths: Mapping[str, Any], made: Stock) -> None:
    """Compare what is said of lengths with those of samples in memory."""
    number, known = made.number or 0, made.lengths
    stated = {name: value for name, value in lengths.items() if not callable(value)}
    for name, value in lengths.items():
        if callable(value):
            stated[name] = [_length(value, made.sample(place), name, place) for place in range(number)]
    for name, own in (lengths_of(stated, number).streams if stated and known is not None else {}).items():
        wrong = np.flatnonzero(own != known[name])  # type: ignore[index]
        if len(wrong):
            at = int(wrong[0])
            raise DataError(
                f"lengths= says {own[at]} for {name!r} of sample {at}, and it has {known[name][at]}. "  # type: ignore[index]
                "Data in memory tell their lengths themselves: leave lengths out."
            )


def _check_names(names: Sequence[str]) -> None:
    if isinstance(names, str) or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise DataError(f"names={names!r}: a name for each part, all different, is needed: names=('audio', 'label').")


def _named(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    if names and len(names) != count:
        raise DataError(f"names={list(names)!r}: {len(names)} names, and a sample has {count} parts. Name each part.")
    return names or tuple(str(place) for place in range(count))


# ------------------------------------------------------------------------------------------------------------- read


def _by_number(given: Any, names: tuple[str, ...], lengths: LengthsLike, skips: bool) -> Stock:
    number, told = len(given), known_lengths(given)
    first = _first(given, skips)
    parts = _parts(first, names)
    if isinstance(lengths, Mapping):
        stated = {name: value for name, value in lengths.items() if not callable(value)}
        measures = {name: value for name, value in lengths.items() if callable(value)}
        found = dict(lengths_of(stated, number).streams) if stated else {}
        found |= _measured(given, measures, names, skips)
        told = Lengths({name: found[name] for name in lengths}) if lengths else None
    elif lengths is not None:
        wanted = [lengths] if isinstance(lengths, str) else list(lengths)
        missing = [name for name in wanted if told is None or name not in told.streams]
        unknown = [name for name in missing if name not in parts]
        if unknown:
            raise DataError(
                f"lengths={lengths!r}: there is no stream {unknown[0]!r}.{nearest(unknown[0], parts)} "
                f"A sample has {', '.join(map(repr, parts))}."
            )
        own = _measured(given, {name: _first_dimension(name) for name in missing}, names, skips)
        found = {name: own[name] if name in own else told[name] for name in wanted}  # type: ignore[index]
        told = Lengths(found) if found else None
    streams = () if told is None else told.names
    if streams and not names and not isinstance(first, Mapping):
        raise DataError(
            f"Samples of {title_of(given)} are {outline(first)}, with streams of different lengths and no names. "
            "Write Data(..., names=('audio', 'label')): a net and a loss take sequences and their lengths by name."
        )
    tags = known_tags(given)
    sizes = tuple(getattr(given, "parts", ()) or ())
    return Stock(
        title_of(given),
        number,
        told,
        streams,
        tuple(parts),
        None,
        given,
        True,
        {},
        tags,
        sizes,
        tuple(_narrowed(first)),
        _dropped(given),
    )


def _dropped(given: Any) -> dict[str, int]:
    """What a data set left out itself, by the reason."""
    told = getattr(given, "dropped", None)
    if not isinstance(told, Mapping):
        return {}
    verb = "that {} lacks" if isinstance(given, Joined) else "by {}"
    return {f"samples {verb.format(name)}": int(count) for name, count in told.items() if count}


def _first(given: Any, skips: bool) -> Any:
    """A sample that shows what all of them look like: the first that can be read."""
    with undisturbed():
        for number in range(min(len(given), _TRIED)):
            found = _read(given, number, skips)
            if found is not LOST:
                return found
    raise DataError(
        f"None of the first {min(len(given), _TRIED)} samples of {title_of(given)} can be read. Write "
        "unreadable='raise' to see why."
    )


def _read(given: Any, number: int, skips: bool) -> Any:
    """A sample, or `LOST` where it cannot be read and is to be left out."""
    try:
        return given[number]
    except Exception as error:
        if skips:
            return LOST
        told = f"{type(error).__name__}: {error}"
        raise DataError(f"Item {number} of the data set {title_of(given)} cannot be read: {told}") from error


def _parts(sample: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The parts of a sample by name."""
    if isinstance(sample, Mapping):
        return {str(name): value for name, value in sample.items()}
    parts = sample if isinstance(sample, tuple) or (isinstance(sample, list) and not numbers(sample)) else (sample,)
    return dict(zip(_named(names, len(parts)), parts, strict=True))


def _measured(
    given: Any, measures: Mapping[str, Callable[[Any], int]], names: tuple[str, ...], skips: bool
) -> dict[str, Any]:
    """Lengths by reading every sample once; 0 of those that cannot be read, where these are to be left out."""
    if not measures:
        return {}
    found: dict[str, list[int]] = {name: [] for name in measures}
    with undisturbed():
        for number in range(len(given)):
            sample = _read(given, number, skips)
            parts = sample if isinstance(sample, Mapping) or sample is LOST else _parts(sample, names)
            for name, measure in measures.items():
                found[name].append(0 if sample is LOST else _length(measure, parts, name, number))
    return dict(lengths_of(found, len(given)).streams)


def _length(measure: Callable[[Any], int], sample: Any, name: str, number: int) -> int:
    try:
        told = measure(sample)
        whole = int(told)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise DataError(f"The length of {name!r} in sample {number} cannot be told: {said}") from error
    if whole != told:
        raise DataError(f"The length of {name!r} in sample {number} is told as {told!r}. A length is a whole number.")
    return whole


def _first_dimension(name: str) -> Callable[[Any], int]:
    return lambda sample: len(sample[name])


def _narrowed(first: Any) -> list[str]:
    narrow = each(first, lambda value: torch.zeros(0) if not isinstance(value, Tensor) else value)
    return conversions(first, narrow) if any(True for _ in leaves(first)) else []


# ---------------------------------------------------------------------------------------------------------- forward


def _forward(given: Any, names: tuple[str, ...], lengths: LengthsLike) -> Stock:
    measures: dict[str, Callable[[Any], int]] = {}
    streams: tuple[str, ...] = ()
    if isinstance(lengths, Mapping):
        for name, value in lengths.items():
            if not callable(value):
                raise DataError(
                    f"lengths={{{name!r}: {outline(value)}}}: {title_of(given)} is read forward, and its samples have "
                    f"no numbers. Write a function of a sample, {{{name!r}: len}}, or the name alone: lengths={name!r}."
                )
        measures, streams = dict(lengths), tuple(lengths)
    elif lengths is not None:
        streams = (lengths,) if isinstance(lengths, str) else tuple(lengths)
    return Stock(title_of(given), None, None, streams, names, None, given, True, measures)
