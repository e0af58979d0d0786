"""What a run tells: frozen records, yielded in the order in which things happened.

A listener is any callable of one event. It gets values, not the run: it cannot change what happens, so the order of
listeners cannot matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from etude.values.progress import Progress


@dataclass(frozen=True, slots=True)
class Began:
    """The plan was proved and the first step is about to be made.

    `summary` holds what was chosen: parameters, trainable, steps, epochs, batch_size, batches_per_epoch, samples,
    device, precision, seed, optimizer, updates (names), terms (names).
    """

    progress: Progress
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step was made; `progress` is the clock after it.

    `losses` are means over the batch as scalars still on the device, unread: reading one waits for the device.
    `rate` is the learning rate of the step before multipliers (of the first update that had its turn). `updates` names
    those that moved something, once for each time; nobody may have. `seconds` is the wall-clock time since the run
    began. `settings` are the numbers that were in force besides: "knob.<label>", and "setting.<name>" and
    "weight.<term>" where they change. `probes` were measured in this step, where they were due, and are on the device.
    """

    progress: Progress
    losses: Mapping[str, Tensor]
    samples: int
    rate: float
    updates: tuple[str, ...]
    seconds: float
    settings: Mapping[str, float] = field(default_factory=dict)
    probes: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A batch was taken but nothing was changed, for the `reason` given: every update refused its step.

    `losses` are as they were measured, NaN and infinity as such.
    """

    progress: Progress
    reason: str
    losses: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The step was not made, and the net, its optimizer memory and averages are again as after step `to_step`.

    `why` says what was not finite. `factor` is what every learning rate is multiplied by from now on. The clock and the
    data go on.
    """

    progress: Progress
    why: str
    to_step: int
    factor: float


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """One pass over the data is complete; `means` are the exact means of each loss term over it.

    `data` says what its batches held, of `Data`: "batches", "samples", "fill" (the share of what they may hold),
    "padding.<stream>" (the share that is padding), "left_out" (what was in no batch), "lost_frames.<stream>" (frames in
    no chunk), "unreadable" (samples), as far as there is something to say.
    """

    progress: Progress
    epoch: int
    means: Mapping[str, float]
    data: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The validation data were looked at; `best` says whether the net is now the best so far.

    `tables` holds what was measured and is more than one number, such as a confusion, whole.
    """

    progress: Progress
    scores: Mapping[str, float]
    best: bool
    tables: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settled:
    """The state is whole: between two steps, everything that follows from the last one has been done."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is on the disk, whole and durable. It is told at the first moment between two steps after that.

    `progress` is the clock of the state that was saved, `path` the file, `bytes` its size, `seconds` how long training
    stood still for it. `removed` lists older files that its destination does not keep.
    """

    progress: Progress
    path: str
    bytes: int
    seconds: float
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SaveFailed:
    """The state of `progress` could not be saved at `path`; what was there before still is."""

    progress: Progress
    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over. `reason` is one word ("finished", "patience", "time", "non-finite", "frozen", "interrupted").

    An interrupted run is to be gone on with: it was asked to leave, by a signal or by `until`.
    """

    progress: Progress
    reason: str
    message: str


Event = Began | Stepped | Skipped | RolledBack | EpochEnded | Evaluated | Settled | Saved | SaveFailed | Ended


class Listener(Protocol):
    """Anything that can be called with an event."""

    def __call__(self, event: Event, /) -> None: ...
