"""The units of an epoch before any is left out: samples, or chunks of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from etude.data.order import SUBEPOCH, generator
from etude.data.plan.batching import Batching
from etude.data.plan.chunking import Chunk
from etude.data.plan.chunks import cut_chunks
from etude.data.plan.lengths import Lengths, Whole
from etude.data.plan.passes import part


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The samples that there are.

    Attributes:
        number: how many. lengths: theirs, or None. parts: how many belong to each of several sources, one after the
            other. called: how messages call a sample, by its number.
        dropped: samples that are not even among them, by the reason.
        numbers: those of the samples in the whole data, int64, shape (number,), where these are a part of it.
    """

    number: int
    lengths: Lengths | None = None
    parts: Sequence[int] = ()
    called: Callable[[int], str] = "sample {}".format
    dropped: Mapping[str, int] = field(default_factory=dict)
    numbers: Whole | None = None

    def named(self, places: Whole) -> Whole:
        """The numbers in the whole data of the samples at some places."""
        return places if self.numbers is None else self.numbers[places]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Units, numbered from 0 on.

    Attributes:
        number: how many.
        samples: of which sample each is, int64, shape (number,); None: unit and sample are the same.
        windows: of each stream that is cut where every unit starts and stops.
        lengths: of the units; None where they are not known.
        left_out: units that there are not, by the reason. lost: of each stream the frames that are in no chunk.
    """

    number: int
    samples: Whole | None = None
    windows: Mapping[str, tuple[Whole, Whole]] = field(default_factory=dict)
    lengths: Lengths | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)

    def samples_of(self, units: Whole) -> Whole:
        """Of which sample each of some units is."""
        return units if self.samples is None else self.samples[units]

    def windows_of(self, units: Whole) -> dict[str, tuple[Whole, Whole]]:
        """Where each of some units starts and stops."""
        return {name: (starts[units], stops[units]) for name, (starts, stops) in self.windows.items()}

    def frames(self, units: Whole) -> Whole:
        """Frames in the leading stream before each of some units, and after the last; 0 where they are not known."""
        if self.lengths is None:
            return np.zeros(len(units) + 1, np.int64)
        return np.concatenate(([0], np.cumsum(self.lengths.lead[units])))


def told(left_out: Mapping[str, int], cut: bool) -> dict[str, int]:
    """What was left out of an epoch, by reasons that call units what they are there: samples, or chunks."""
    word = "chunks" if cut else "samples"
    return {reason.replace("units", word): count for reason, count in left_out.items() if count}


def table(batching: Batching, rule: Chunk | None, samples: Samples, epoch: int, seed: int) -> Table:
    """The units of an epoch, or of the pass over the data that it is a part of.

    Args:
        batching: what is selected. rule: how samples are cut. samples: what there is. epoch: from 0 on.
    """
    chosen, passed = None, epoch // batching.subepochs
    if batching.selection is not None:
        chosen = batching.selection.choose(samples.number, passed, seed, samples.parts)
    if batching.divides_samples:
        # Chunks of one epoch are none of another's: the samples are divided among the epochs, each with all its chunks.
        whole = np.arange(samples.number) if chosen is None else chosen
        if batching.order.shuffles:
            whole = generator(seed, SUBEPOCH, passed).permutation(whole)
        chosen = part(whole, epoch, batching.subepochs)
    lengths = samples.lengths
    if chosen is not None and lengths is not None:
        lengths = lengths.take(chosen)
    if rule is None:
        return Table(samples.number if chosen is None else len(chosen), chosen, {}, lengths)
    assert lengths is not None
    made = cut_chunks(rule, lengths, passed, seed, chosen, called=samples.called)
    left_out = {
        "samples of which no chunk is left": made.dropped,
        f"chunks shorter than {rule!r} takes": made.short,
        "chunks without labels": made.unlabelled,
    }
    return Table(len(made), made.sample, made.windows, made.lengths, left_out, made.lost)
