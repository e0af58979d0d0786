"""What is known of a run so far, brought up to date by its events, and the words in which it is told."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import Any, Final

from etude.run.events import Began, Ended, EpochEnded, Evaluated, Event, RolledBack, Skipped, Stepped
from etude.run.history import read_losses
from etude.values.progress import Progress

MEMORY: Final = 1000  # steps after which what is past counts for half in a running mean
GLANCE: Final = 0.1  # seconds between two points of the speed


@dataclass(slots=True)
class Mean:
    """A running mean weighted by samples, in which what is long past counts for less."""

    total: float = 0.0
    weight: float = 0.0
    steps: float = 0.0

    def add(self, values: Sequence[float], weights: Sequence[float]) -> None:
        """More values, as many as weights."""
        if self.steps >= MEMORY:
            kept = 0.5 if math.isfinite(self.total) else 0.0  # in an endless epoch, NaN is not shown for ever
            self.total = self.total * kept if kept else 0.0
            self.weight, self.steps = self.weight * kept, self.steps * kept
        self.total += sum(map(mul, values, weights))
        self.weight += sum(weights)
        self.steps += len(values)

    @property
    def value(self) -> float:
        """The mean; NaN where nothing was added."""
        return self.total / self.weight if self.weight else math.nan


@dataclass(slots=True)
class Tally:
    """The state of a run as a listener can know it.

    `losses` are means over the epoch so far (exact ones at its end). `seconds` is the time of the last step, `seen` the
    samples since the run began, `data` what the batches of the last epoch held. `epoch_ended` and `evaluated` stay true
    until somebody has told of it.
    """

    summary: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    losses: dict[str, float] = field(default_factory=dict)
    rate: float = math.nan
    seconds: float = 0.0
    seen: int = 0
    skipped: int = 0
    skip_reason: str = ""
    rolled_back: int = 0
    rolled_to: int = 0
    rate_factor: float = 1.0
    data: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)
    best_at: str = ""
    best_is_last: bool = False
    epoch_ended: bool = False
    evaluated: bool = False
    _means: dict[str, Mean] = field(default_factory=dict)
    _first: Stepped | None = None
    _speed: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=40))

    def steps(self, events: Sequence[Stepped]) -> None:
        """Take the steps in `events` (at least one), reading their losses from the device in one go."""
        samples = [event.samples for event in events]
        for name, (rows, values) in read_losses(events).items():
            for key, places in self._shown_as(name, events, rows):
                weights = [samples[rows[place]] for place in places]
                self._means.setdefault(key, Mean()).add([values[place] for place in places], weights)
        self.losses |= {name: mean.value for name, mean in self._means.items()}
        self._advance(events[-1], sum(samples), events[0])

    def _advance(self, last: Stepped, samples: int, first: Stepped) -> None:
        if self._first is None:  # the first step may compile or allocate: it says nothing about the pace
            self._first = first
            self._speed.append((first.seconds, first.samples))
        self.progress, self.rate, self.seconds = last.progress, last.rate, last.seconds
        self.seen += samples
        if self.seconds >= self._speed[-1][0] + GLANCE:
            self._speed.append((self.seconds, self.seen))

    def _shown_as(
        self, name: str, events: Sequence[Stepped], rows: Sequence[int]
    ) -> Iterable[tuple[str, Sequence[int]]]:
        """The names under which a loss is shown, and which of its values are meant.

        Where updates take turns, a "loss" that stands alone is that of the update that moved; a sum over updates is
        not shown beside its parts.
        """
        if name != "loss" or len(self.summary.get("updates", ())) < 2:
            return [(name, range(len(rows)))]
        shown: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            if len(events[row].losses) == 1 and len(events[row].updates) == 1:
                shown.setdefault(events[row].updates[0], []).append(place)
        return shown.items()

    def take(self, event: Event) -> None:
        """Take an event that is not a step."""
        self.progress = event.progress
        if isinstance(event, Began):
            self.summary = event.summary
        elif isinstance(event, Skipped):
            self.skipped, self.skip_reason = self.skipped + 1, event.reason
        elif isinstance(event, RolledBack):
            self.rolled_back, self.rolled_to, self.rate_factor = self.rolled_back + 1, event.to_step, event.factor
        elif isinstance(event, EpochEnded):
            self.losses |= {name: value for name, value in event.means.items() if name in self.losses}
            self._means = {}
            self.epoch_ended, self.data = True, event.data
        elif isinstance(event, Evaluated):
            self.scores, self.best_is_last, self.evaluated = event.scores, event.best, True
            if event.best:
                self.best, self.best_at = event.scores, self.position

    def told(self) -> None:
        """The news were passed on."""
        self.epoch_ended = self.evaluated = False

    @property
    def total_steps(self) -> int | None:
        """All steps of the run, where that is known."""
        total = self.progress.extent.steps
        total = self.summary.get("steps") if total is None else total
        return None if total is None else math.ceil(total - 1e-9)

    @property
    def total_epochs(self) -> int | None:
        """All epochs of the run, the last perhaps cut short, where that is known."""
        total = self.progress.extent.epochs
        total = self.summary.get("epochs") if total is None else total
        return None if total is None else math.ceil(total - 1e-9)

    @property
    def epoch(self) -> int:
        """The epoch the last step belongs to, from 1; 0 where epochs are not counted."""
        endless = self.progress.epoch == 0 and self.total_epochs is None
        return 0 if endless else max(1, math.ceil(self.progress.epoch - 1e-9))

    @property
    def position(self) -> str:
        """Where the run is, in the unit that is whole there: "epoch 3" or "step 1,250"."""
        whole = self.epoch and self.progress.epoch == self.epoch
        return f"epoch {self.epoch}" if whole else f"step {self.progress.step:,.0f}"

    @property
    def share(self) -> float | None:
        """How much of the run is done, from 0 to 1, where its length is known."""
        now, extent = self.progress, self.progress.extent
        for done, total in (
            (now.step, self.total_steps),
            (now.epoch, extent.epochs if extent.epochs is not None else self.total_epochs),
            (now.samples, extent.samples),
            (now.tokens, extent.tokens),
        ):
            if total:
                return min(1.0, float(done) / total)
        return None

    @property
    def samples_per_second(self) -> float:
        """Over the last few seconds; NaN before two steps."""
        then, samples = self._speed[0] if self._speed else (0.0, 0)
        return (self.seen - samples) / (self.seconds - then) if self.seconds > then else math.nan

    @property
    def seconds_left(self) -> float:
        """At the pace of this run from its second step on; NaN where it cannot be known."""
        if not self.share or self._first is None:
            return math.nan
        made = float(self.progress.step) - float(self._first.progress.step)
        left = float(self.progress.step) * (1 - self.share) / self.share
        return (self.seconds - self._first.seconds) / made * left if made > 0 else math.nan


def number(value: float) -> str:
    """Four digits, at most nine characters: 0.4321, 12.35, 3.217e-06, nan."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    return f"{value:#.4g}".rstrip(".") if 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"


def rate(value: float) -> str:
    """A learning rate, at most nine characters: 3.00e-04, 0."""
    return f"{value:g}" if not math.isfinite(value) or value == 0 else f"{value:.2e}"


def per_second(value: float) -> str:
    """A throughput: 12,345 or 3.2; a dash where it is not known yet."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def clock(seconds: float) -> str:
    """A duration: 0.08 s, 1:23, 2:03:45; a dash where it is not known."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 1:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(amount: float, unit: str) -> str:
    """ "1 epoch", "9,380 steps", "2.5 epochs"."""
    return f"{amount:,.10g} {unit}" + ("" if amount == 1 else "s")


def epoch_words(tally: Tally) -> str:
    """ "epoch  3/10", as wide at every epoch; empty where epochs are not counted."""
    if not tally.epoch:
        return ""
    total = tally.total_epochs
    return f"epoch {tally.epoch}" if total is None else f"epoch {tally.epoch:>{len(str(total))}}/{total}"


def step_words(tally: Tally) -> str:
    """ "  938/9,380", as wide at every step; "step 938" where the number of steps is not known."""
    total, step = tally.total_steps, f"{tally.progress.step:,.0f}"
    return f"step {step}" if total is None else f"{step:>{len(f'{total:,}')}}/{total:,}"


def data_words(tally: Tally) -> str:
    """ "padding 2.1%, 12 left out" of the last epoch, as far as there is something to say; the leading stream's."""
    padding = next((share for name, share in tally.data.items() if name.startswith("padding.")), 0.0)
    lost = sum(frames for name, frames in tally.data.items() if name.startswith("lost_frames."))
    words = [f"padding {100 * padding:.2g}%"] if padding else []
    for number, what in (
        (tally.data.get("left_out", 0.0), "left out"),
        (lost, "frames in no chunk"),
        (tally.data.get("unreadable", 0.0), "not readable"),
    ):
        words += [f"{number:,.0f} {what}"] if number else []
    return ", ".join(words)


def validation_words(tally: Tally) -> str:
    """ "validation loss 0.4012  accuracy 0.9120  best" (or which was the best); empty before an evaluation."""
    if not tally.scores:
        return ""
    words = [f"{name} {number(value)}" for name, value in tally.scores.items()]
    if tally.best_is_last:
        words.append("best")
    elif tally.best:
        words.append(f"(best {best_words(tally)})")
    return "validation " + "  ".join(words)


def best_words(tally: Tally) -> str:
    """ "loss 0.3871 at epoch 7": the score by which the best is chosen, else "loss" or the first."""
    said = str(tally.summary.get("best_by"))
    name = next((one for one in (said, "loss") if one in tally.best), next(iter(tally.best)))
    return f"{name} {number(tally.best[name])} at {tally.best_at}"


def heading(summary: Mapping[str, Any]) -> str:
    """One line of what is about to be trained, from what the summary holds."""
    words = [_size(summary), _data(summary), _length(summary)]
    words += [str(summary[key]) for key in ("optimizer", "device", "precision") if summary.get(key)]
    if len(summary.get("updates", ())) > 1:
        words.append("updates " + ", ".join(summary["updates"]))
    if summary.get("seed") is not None:
        words.append(f"seed {summary['seed']}")
    return ("training " + ", ".join(word for word in words if word)).rstrip()


def _size(summary: Mapping[str, Any]) -> str:
    parameters, trainable = summary.get("parameters"), summary.get("trainable")
    if parameters is None:
        return ""
    some = "" if trainable in (None, parameters) else f" ({trainable:,} trainable)"
    return f"{parameters:,} parameters{some}"


def _data(summary: Mapping[str, Any]) -> str:
    samples, batch = summary.get("samples"), summary.get("batch_size")
    told = f"{samples:,} samples" if samples else ""
    return f"{told} in batches of {batch:,}" if told and batch else told


def _length(summary: Mapping[str, Any]) -> str:
    epochs, steps = summary.get("epochs"), summary.get("steps")
    told = [counted(count, unit) for count, unit in ((epochs, "epoch"), (steps, "step")) if count]
    return " / ".join(told)


def ending(tally: Tally, event: Ended) -> str:
    """One line of how it ended."""
    words = "finished" if event.reason == "finished" else (event.message or event.reason).rstrip(".")
    made = f"{counted(tally.progress.step, 'step')} in {clock(tally.seconds)}"
    best = f", best validation {best_words(tally)}" if tally.best else ""
    skipped = f", {tally.skipped:,} skipped ({tally.skip_reason})" if tally.skipped else ""
    rolled = f", {rolled_words(tally)}" if tally.rolled_back else ""
    return f"{words}: {made}{best}{skipped}{rolled}"


def rolled_words(tally: Tally) -> str:
    """How often the run went back, and where that led; "" where it never did."""
    if not tally.rolled_back:
        return ""
    times = f"{tally.rolled_back:,} times" if tally.rolled_back > 1 else "once"
    return f"rolled back {times}, last to step {tally.rolled_to:,}, rates x {number(tally.rate_factor)}"
