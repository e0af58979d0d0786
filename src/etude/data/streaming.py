"""Batches of what can only be read forward, in bounded memory: those that a plan of the same order would have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from etude.data.arriving import Counts, Measure, Unit, arriving
from etude.data.buffer import shuffled
from etude.data.chance import item_key, sow, undisturbed
from etude.data.forward import Forward
from etude.data.grouping import Group, Moment, bounded, groups, in_blocks, ordered
from etude.data.plan.batching import Batching
from etude.data.plan.lengths import Lengths
from etude.data.plan.limits import SampleLimit
from etude.data.plan.table import told
from etude.data.sets import title_of
from etude.data.sieving import ONE_BY_ONE, Cutter, Sieve, one_by_one
from etude.data.wanted import Wanted
from etude.errors import DataError
from etude.values.progress import Progress

Join = Callable[[Sequence[Any], Wanted], Any]

Noted = Callable[[Wanted, Lengths | None], None]

_END: Any = object()


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """One batch.

    Attributes:
        values: what `join` made of its samples.
        wanted: the samples by their numbers in the pass, their windows, and the shape of the batch if it is fixed.
        lengths: of its units in each stream that is measured; None where none is.
    """

    values: Any = field(repr=False)
    wanted: Wanted
    lengths: Lengths | None


@dataclass(frozen=True, slots=True, eq=False)
class Streaming:
    """How what is read forward becomes batches.

    Attributes:
        source: samples to be read forward, once for each epoch.
        batching: how they become batches.
        join: makes a batch of samples, from their list and what is wanted of them: `Joining(...).join`.
        measure: how long a sample is.
        seed: at least 0.
        buffer: samples held to shuffle them; 0: they come as they are.
        skip: whether a sample that cannot be read is left out and counted, instead of being an error.

    Raises:
        DataError: what the batching asks for needs to know all samples beforehand.
    """

    source: Any
    batching: Batching
    join: Join
    measure: Measure = Measure({})  # noqa: RUF009
    seed: int = 0
    buffer: int = 0
    skip: bool = False

    def __post_init__(self) -> None:
        check_forward(title_of(self.source), self.batching, bool(self.measure.streams))

    def read(
        self,
        epoch: int,
        start: Progress | None = None,
        moment: Moment | None = None,
        passed: int = 0,
        noted: Noted | None = None,
    ) -> Pass:
        """The batches of an epoch.

        Args:
            epoch: from 0 on.
            start: the progress at its beginning, for filters that are schedules. Default: only the epoch is known.
            moment: the progress at a batch, for limits that are schedules. Default: `start` throughout.
            passed: batches to pass over. Their samples are read, but no batch is made of them.
            noted: called with what each of these would have held.
        """
        begun = start or Progress(epoch=float(epoch)).without("steps", "samples", "tokens")
        return Pass(self, epoch, begun, moment or (lambda batch, units, frames: begun), passed, noted)


class Pass(Iterator[Streamed]):
    """One epoch that is being read.

    Attributes:
        lost: of each stream the frames that are in no chunk, so far.
    """

    __slots__ = ("_epoch", "_groups", "_left_out", "_made", "_noted", "_passed", "_setting", "lost")

    def __init__(
        self, setting: Streaming, epoch: int, start: Progress, moment: Moment, passed: int, noted: Noted | None
    ) -> None:
        self._setting, self._epoch, self._passed, self._noted = setting, epoch, passed, noted
        self._made = 0
        self._left_out: Counts = {}
        self.lost: Counts = {}
        self._groups = self._grouped(start, moment)

    @property
    def left_out(self) -> Mapping[str, int]:
        """How much was left out so far, by the reason."""
        source = self._setting.source
        inside = source.dropped if isinstance(source, Forward) else {}
        both = {**{f"samples by {name}": count for name, count in inside.items()}, **self._left_out}
        return told(both, self._setting.batching.chunk is not None)

    def __next__(self) -> Streamed:
        """The next batch; the process's own chance is left as it was.

        Raises:
            DataError: a sample cannot be read or does not fit, or the epoch has no batch at all.
        """
        with undisturbed():
            while True:
                group = next(self._groups, _END)
                if group is _END:
                    self._check_any()
                    raise StopIteration
                self._made += 1
                if self._made > self._passed:
                    return self._joined(group)
                if self._noted is not None:
                    self._noted(_wanted(self._epoch, group), _lengths(group))

    def _joined(self, group: Group) -> Streamed:
        wanted = _wanted(self._epoch, group)
        sow(item_key(self._setting.seed, self._epoch, self._made - 1))
        return Streamed(self._setting.join([unit.item for unit in group.units], wanted), wanted, _lengths(group))

    def _grouped(self, start: Progress, moment: Moment) -> Iterator[Group]:
        batching, seed = self._setting.batching, self._setting.seed
        made = groups(ordered(self._units(start), batching.order), batching, moment, self._left_out)
        return in_blocks(made, batching.blocks, seed, self._epoch) if batching.blocks else made

    def _units(self, start: Progress) -> Iterator[Unit]:
        """The units of an epoch, in the order in which they arrive; what is left out is counted in the first round."""
        setting, batching, epoch = self._setting, self._setting.batching, self._epoch
        for again in range(batching.repeat):
            left_out, lost = (self._left_out, self.lost) if not again else ({}, {})
            sieve = Sieve(batching.filters, epoch, setting.seed, start, left_out)
            cutter = Cutter(batching.chunk_at(start), epoch, setting.seed, left_out, lost)
            samples = arriving(setting.source, epoch, setting.seed, setting.skip, left_out)
            if setting.buffer:
                samples = shuffled(samples, setting.buffer, setting.seed, epoch)
            for number, item in samples:
                lengths = setting.measure.of(item, number)
                if sieve.keeps(number, lengths):
                    yield from cutter.units(number, item, lengths)

    def _check_any(self) -> None:
        if self._made:
            return
        told = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        why = f"is left (left out: {told}). Loosen what leaves them out." if told else "came. Give at least one sample."
        raise DataError(f"Epoch {self._epoch} of {title_of(self._setting.source)} has no batch: nothing {why}")


def _wanted(epoch: int, group: Group) -> Wanted:
    units = group.units
    windows = {
        name: (np.array([unit.windows[name][0] for unit in units]), np.array([unit.windows[name][1] for unit in units]))
        for name in units[0].windows
    }
    samples = np.array([unit.number for unit in units])
    if group.shape is None:
        return Wanted(epoch, samples, windows)
    to = {next(iter(units[0].lengths)): group.shape.longest, **dict(group.shape.to)}
    return Wanted(epoch, samples, windows, to, group.shape.number)


def _lengths(group: Group) -> Lengths | None:
    names = group.units[0].lengths
    return Lengths({name: np.array([unit.lengths[name] for unit in group.units]) for name in names}) if names else None


def check_forward(title: str, batching: Batching, measured: bool) -> None:
    """Refuse what needs to know all samples beforehand.

    Args:
        title: of the data. batching: how they become batches. measured: whether samples tell their lengths.

    Raises:
        DataError: saying what, and what to write instead.
    """
    for asked, write in _impossible(batching, measured):
        raise DataError(f"{title} is read forward: {asked}. {write}")


def _impossible(batching: Batching, measured: bool) -> Iterator[tuple[str, str]]:
    """What needs to know all samples beforehand, and what to write instead."""
    if not bounded(batching.order):
        yield (
            f"order={batching.order!r} needs to see all samples first",
            'Write order="laplace:.1000" or order="pools:1000", which look at 1000 samples at a time, or shuffle with '
            "shuffle_buffer(stream, 1000).",
        )
    for each in batching.filters:
        if not one_by_one(each):
            yield f"keep={each!r} compares all samples", ONE_BY_ONE
    if batching.selection is not None:
        yield (
            f"select={batching.selection!r} chooses among all samples",
            "Mix streams with interleaved(a, b, weights=).",
        )
    if batching.subepochs > 1:
        yield f"subepochs={batching.subepochs} divides all samples", "Write round_length=n to end an epoch earlier."
    if batching.blocks is None:
        yield "all batches cannot change places", "Shuffle within blocks of so many: shuffle_batches=100."
    if isinstance(batching.buckets, int):
        yield (
            f"buckets={batching.buckets} are chosen by all lengths",
            "Write buckets((400, 64), (800, 32), (1600, 16)).",
        )
    yield from _unbounded(batching)
    if batching.needs_lengths and not measured:
        yield "lengths are needed", "Name the streams that have them: lengths='audio', or {'audio': function}."


def _unbounded(batching: Batching) -> Iterator[tuple[str, str]]:
    if batching.pack == "first_fit" and batching.pool is None:
        yield "pack='first_fit' would hold all samples", "Write pool=1000, the samples that are looked at together."
    if batching.pack and not all(limit.constant for limit in batching.limits):
        yield f"pack={batching.pack!r} needs a budget that stays the same", "Write a number instead of a schedule."
    if not batching.limits and batching.buckets is None:
        yield "nothing limits a batch", "Write batch_size=32 or budget=32_000."
    one = len(batching.limits) == 1 and isinstance(batching.limits[0], SampleLimit) and batching.limits[0].constant
    if batching.drop_last and not one and batching.buckets is None:
        yield "drop_last=True needs a number of samples that fill a batch", "Write batch_size=32 alone."
