"""Chunks: long samples cut into pieces of at most one size, in all their streams alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import gcd
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

from etude.data.order import CHUNK, generator
from etude.data.plan.chunking import EVERY, Chunk, chunk, chunking
from etude.data.plan.lengths import Lengths, Whole
from etude.errors import DataError, nearest

__all__ = ["Chunk", "Chunks", "chunk", "chunking", "cut_chunks"]

Truth: TypeAlias = npt.NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """Samples cut into chunks, the chunks of a sample one after the other.

    Attributes:
        sample: of which sample each chunk is, int64, shape (chunks,).
        windows: of each stream that is cut where every chunk starts and stops, int64, shape (chunks,); a stream that
            is not named comes whole with every chunk.
        lengths: of the chunks, in every stream.
        dropped: samples of which no chunk is left. short: chunks left out because they are shorter than `least`.
        unlabelled: chunks left out because a stream has nothing in them.
        lost: of each stream that is cut how many frames are in no chunk.
    """

    sample: Whole = field(repr=False)
    windows: Mapping[str, tuple[Whole, Whole]] = field(repr=False)
    lengths: Lengths = field(repr=False)
    dropped: int
    short: int
    unlabelled: int
    lost: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.sample)


def cut_chunks(
    rule: Chunk,
    lengths: Lengths,
    epoch: int = 0,
    seed: int = 0,
    samples: Whole | None = None,
    first: int = 0,
    called: Callable[[int], str] = "sample {}".format,
) -> Chunks:
    """Samples cut into chunks; a pure function of the lengths, the seed and the epoch.

    Args:
        rule: how they are cut.
        lengths: of the samples, shape (n,) in each stream.
        epoch, seed: what chance is drawn from, where the rule leaves anything to chance.
        samples: the numbers of the samples, int64, shape (n,), which `Chunks.sample` repeats. Default: 0 to n - 1.
        first: how many samples came before these: cut in pieces, samples get the same chunks as at once.
        called: how an error calls a sample, from its number.

    Raises:
        DataError: a stream that the data do not have, or a sample whose streams have unequal numbers of chunks.
    """
    streams = _streams(rule, lengths.names)
    size, step, offset = _drawn(rule, streams, len(lengths), epoch, seed, first)
    counts = {s.name: s.count(lengths[s.name], size, step, offset, rule.stop_at_end) for s in streams}
    number, whole = _agreed(rule, lengths, counts, lambda at: called(at if samples is None else int(samples[at])))
    at = np.repeat(np.arange(len(lengths)), number)
    place = np.arange(len(at))
    place -= np.repeat(np.cumsum(number) - number, number)
    size, step, offset = (np.repeat(each, number) if each.ndim else each for each in (size, step, offset))
    windows = {s.name: s.window(np.repeat(lengths[s.name], number), place, size, step, offset) for s in streams}
    for name, short in whole.items():
        starts, stops = windows[name]
        windows[name] = np.where(short[at], 0, starts), np.where(short[at], lengths[name][at], stops)
    return _kept(rule, streams, lengths, at, windows, samples)


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream that is cut: its frames for each unit of the common size and step, and its shortest chunk."""

    name: str
    frames: int
    least: int

    def count(self, lengths: Whole, size: Whole, step: Whole, offset: Whole, stop_at_end: bool) -> Whole:
        """How many chunks each sample has."""
        reach, size, step = lengths + offset * self.frames, size * self.frames, step * self.frames
        count = -(-reach // step)
        if stop_at_end:
            count = np.minimum(count, 1 + np.maximum(-(-(reach - size) // step), 0))
        return np.where(lengths > 0, count, 0)

    def window(self, lengths: Whole, place: Whole, size: Whole, step: Whole, offset: Whole) -> tuple[Whole, Whole]:
        """Where the chunks start and stop; each is the `place`-th of its sample."""
        starts = (place * step - offset) * self.frames
        stops = starts + size * self.frames
        return np.clip(starts, 0, lengths, out=starts), np.clip(stops, 0, lengths, out=stops)


def _streams(rule: Chunk, names: Sequence[str]) -> list[_Stream]:
    """The streams that are cut, the one that `least` means first."""
    for name, _ in (*rule.size, *rule.least):
        if name not in (EVERY, *names):
            raise DataError(
                f"{rule!r}: the data have no stream {name!r}.{nearest(name, names)} "
                f"Streams with lengths: {', '.join(map(repr, names))}."
            )
    frames = {name: gcd(size, step) for (name, size), (_, step) in zip(rule.size, rule.step, strict=True)}
    unit = reduce(gcd, frames.values())
    least, first = dict(rule.least), next(iter(frames))
    least = {first or names[0]: least[EVERY]} if EVERY in least else least
    cut = dict.fromkeys(names, unit) if EVERY in frames else frames
    return [_Stream(name, count // unit, least.get(name, 0)) for name, count in cut.items()]


def _drawn(
    rule: Chunk, streams: list[_Stream], n: int, epoch: int, seed: int, first: int
) -> tuple[Whole, Whole, Whole]:
    """Size, step and shift of every sample in the common unit: shape (n,), or () where they are all alike."""
    # In the common unit chunks of every stream have the same size and step.
    size, step = (np.asarray(amount[0][1] // streams[0].frames, np.int64) for amount in (rule.size, rule.step))
    if not rule.changes:
        return size, step, np.asarray(0, np.int64)
    chance = generator(seed, CHUNK, epoch)
    # Philox draws four numbers at a time, so each sample has four of its own wherever one begins to read.
    chance.bit_generator.advance(first)  # type: ignore[attr-defined]
    drawn = chance.random((n, 4))
    factor = 1 - rule.variance * drawn[:, 0]
    size, step = (np.maximum(amount * factor, 1).astype(np.int64) for amount in (size, step))
    return size, step, (drawn[:, 1] * step).astype(np.int64) if rule.jitter else np.zeros(n, np.int64)


def _agreed(
    rule: Chunk, lengths: Lengths, counts: Mapping[str, Whole], called: Callable[[int], str]
) -> tuple[Whole, dict[str, Truth]]:
    """How many chunks each sample has in all its streams, and by stream where a stream comes whole."""
    number = np.maximum.reduce(list(counts.values()))
    whole = {}
    if rule.unlabelled == "whole":
        tiny = {name: lengths[name] <= 1 for name in counts}
        long = np.maximum.reduce([np.where(tiny[name], 0, count) for name, count in counts.items()])
        number = np.where(long > 0, long, number)
        whole = {name: tiny[name] & (count != number) for name, count in counts.items()}
    for name, count in counts.items():
        wrong = count != number
        if rule.unlabelled == "whole":
            wrong &= ~whole[name]
        elif rule.unlabelled == "skip":
            wrong &= (count < number - 1) & (lengths[name] > 0)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise DataError(_unequal(rule, lengths, counts, at, called(at)))
    return number, whole


def _unequal(rule: Chunk, lengths: Lengths, counts: Mapping[str, Whole], at: int, called: str) -> str:
    told = " and ".join(f"{count[at]} in {name!r} (length {lengths[name][at]})" for name, count in counts.items())
    first = next(iter(counts))
    if EVERY in dict(rule.size):
        write = f"Write a size for each stream, or name only one: chunk({{{first!r}: {rule.size[0][1]}}})."
    else:
        write = "Lengths must be divided rounding up; unlabelled='skip' leaves out chunks without labels."
    return f"{rule!r}: {called} has unequal numbers of chunks: {told}. {write}"


def _kept(
    rule: Chunk,
    streams: list[_Stream],
    lengths: Lengths,
    at: Whole,
    windows: dict[str, tuple[Whole, Whole]],
    samples: Whole | None,
) -> Chunks:
    """The chunks that stay, with what was left out counted."""
    made = {name: np.subtract(*windows[name][::-1]) if name in windows else lengths[name][at] for name in lengths.names}
    came, keep, unlabelled = len(at), np.ones(len(at), np.bool_), 0
    if rule.jitter or rule.unlabelled != "error":
        # Only there can a chunk be empty: before the start of its sample, or of a sample of length 0 that comes whole.
        keep = reduce(np.logical_or, (made[s.name] > 0 for s in streams))
        came = int(keep.sum())
    if rule.unlabelled == "skip":
        keep &= reduce(np.logical_and, (count > 0 for count in made.values()))
        unlabelled = came - int(keep.sum())
    for stream in streams:
        if stream.least:
            keep &= made[stream.name] >= stream.least
    short, all_stay = came - unlabelled - int(keep.sum()), bool(keep.all())
    if not all_stay:
        at = at[keep]
        windows = {name: (starts[keep], stops[keep]) for name, (starts, stops) in windows.items()}
        made = {name: count[keep] for name, count in made.items()}
    dropped = len(lengths) - int(np.count_nonzero(at[1:] != at[:-1])) - (len(at) > 0)
    gapless = all_stay and rule.step[0][1] <= rule.size[0][1]
    lost = {
        name: 0 if gapless else int(lengths[name].sum()) - _covered(at, *window) for name, window in windows.items()
    }
    return Chunks(at if samples is None else samples[at], windows, Lengths(made), dropped, short, unlabelled, lost)


def _covered(at: Whole, starts: Whole, stops: Whole) -> int:
    """How many frames are in a chunk; those in several count once."""
    before = np.zeros_like(stops)
    before[1:] = np.where(at[1:] == at[:-1], stops[:-1], 0)
    return int(np.maximum(stops - np.maximum(starts, before), 0).sum())
