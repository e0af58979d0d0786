"""What a run has in hand while it goes on. Between two steps all of it is whole, and then it can be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import nan
from typing import Any

from torch import Tensor

from etude.data.batch import Batch
from etude.data.cursor import Cursor
from etude.data.flow import Flow
from etude.errors import CheckpointError, StateError
from etude.initial.initial import Initial
from etude.keep.arrays import Packed, Walked, check_net, into_net, modes_into
from etude.keep.plain import pack, unpack
from etude.run.agreement import facts, machine
from etude.run.checked import Checked
from etude.run.evaluate import Means, total_losses
from etude.run.gatherer import Gatherer
from etude.run.history import History
from etude.run.keep_best import Best
from etude.run.state import into_run, of_run
from etude.step.policies import policy
from etude.step.snapshots import Snapshots
from etude.step.states import as_tuples, clock_in, clock_of
from etude.values.progress import Progress
from etude.values.spans import Span
from etude.values.stopping import Stop

SUM = "sum of "
"""Before the name of a loss whose weights change: its mean is kept beside those of its terms."""


class Stopwatch:
    """Seconds that a run has taken.

    Args:
        clock: gives seconds.

    Attributes:
        before: what earlier processes took.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = 0.0
        self.before = 0.0

    def begin(self) -> None:
        """Count from now on."""
        self._began = self._clock()

    def here(self) -> float:
        """Since the run began in this process."""
        return self._clock() - self._began

    def elapsed(self) -> float:
        """Over all processes."""
        return self.before + self.here()

    def reached(self, limit: Span | None) -> str:
        """ "time" once the run has taken as long as it may."""
        return "time" if limit is not None and self.elapsed() >= limit.amount else ""


class Ending:
    """The plan's condition for the end of a run, and what it remembers.

    Args:
        stop: the condition, or None: the run goes on.
    """

    def __init__(self, stop: Stop | None) -> None:
        self._stop = stop
        self._memory: Any = None if stop is None else stop.start()

    def see(self, metrics: Mapping[str, float], progress: Progress) -> None:
        """Take scores that were measured."""
        if self._stop is not None:
            self._memory = self._stop.see(self._memory, metrics, progress)

    def reached(self, progress: Progress, elapsed: float) -> str:
        """Why the run ends now, in a sentence; "" where it goes on."""
        return "" if self._stop is None else self._stop.stop(progress, self._memory, elapsed)

    def state(self) -> Any:
        """What the condition remembers."""
        return self._memory

    def load(self, state: Any) -> None:
        """Take over what `state` gave; one that was none begins anew."""
        if self._stop is not None and state is not None:
            self._memory = as_tuples(state)


class Going:
    """A run between its first event and its last.

    Attributes:
        progress: the clock. cursor: the next batch. means: of the epoch in progress.
        gatherer: the history, and what the result is made of. best: the best net so far. watch: the time taken.
        snapshots: of the net, to go back to where numbers break.
        ending: when it ends before its length. facts: what the run was told.
    """

    def __init__(self, checked: Checked, clock: Callable[[], float]) -> None:
        self.checked = checked
        self.progress = Progress(extent=checked.extent)
        self.cursor = Cursor()
        self.means = Means()
        self.gatherer = Gatherer(checked)
        self.best = Best(checked)
        self.watch = Stopwatch(clock)
        self.snapshots = Snapshots(checked.works, checked.averages, checked.net, policy(checked.plan.non_finite))
        self.ending = Ending(checked.plan.stop)
        self._net = Walked(checked.net)
        # Once, before anything moves: what an instance of an optimizer says of itself may change while it works.
        self.facts = facts(checked)

    def after(self, taken: Sequence[Batch]) -> Progress:
        """The clock after the batches of a step."""
        batch = taken[-1]
        samples, tokens = batch.samples, batch.tokens
        for other in taken[:-1] if len(taken) > 1 else ():
            samples, tokens = samples + other.samples, tokens + other.tokens
        return self.progress.tick(samples=samples, tokens=tokens, epoch=batch.progress_epoch)

    def advance(self, taken: Sequence[Batch]) -> None:
        """The clock and the cursor after the batches of a step."""
        self.cursor, self.progress = taken[-1].next, self.after(taken)

    def begin(self) -> None:
        """The net gets the first values that the plan says."""
        plan = self.checked.plan
        if plan.initialize is not None:
            Initial(plan.initialize).apply(self.checked.net, plan.seed)

    def tell_epoch(self, means: Mapping[str, float]) -> None:
        """Tell whatever goes by scores the means of an epoch."""
        measured = {f"epoch.{name}": value for name, value in means.items()}
        self.best.tell(measured, self.progress)
        self._tell(measured)

    def tell_look(self, scores: Mapping[str, float]) -> None:
        """Tell what is no part of the updates and averages, which were told already, what a look gave."""
        self._tell({f"val.{name}": score for name, score in scores.items()})

    def _tell(self, measured: Mapping[str, float]) -> None:
        if self.checked.knobs is not None:
            self.checked.knobs.see(measured, self.progress)
        self.ending.see(measured, self.progress)

    def losses(self) -> tuple[float, float | None]:
        """The mean loss of the last epoch, or of this one so far; the last validation loss, None without such data."""
        history = self.gatherer.history
        found = epoch_losses(self.checked, self.means.so_far(), self.progress) if "epoch.loss" not in history else {}
        loss = found.get("loss", nan) if "epoch.loss" not in history else history["epoch.loss"].values[-1]
        if self.checked.evaluator is None:
            return loss, None
        return loss, history["val.loss"].values[-1] if "val.loss" in history else nan

    def state(self) -> Packed:
        """Everything that a later process needs to go on; tensors are those at work, not copies."""
        checked, gatherer = self.checked, self.gatherer
        record, tensors = of_run(checked, self._net, self.best.state())
        record["data"], generators = pack({n: flow.state(at) for n, flow, at in self._flows()}, "state:data.")
        tensors.update(generators)
        record["roll_back"], kept = pack(self.snapshots.state(), "roll_back:")
        tensors.update(kept)
        history = gatherer.history.columns()
        tensors.update({f"history:{name}": column for name, column in history.items()})
        loss, val = self.losses()
        plain = {
            "progress": clock_of(self.progress),
            "before": clock_of(gatherer.before),
            "cursor": {"epoch": self.cursor.epoch, "batch": self.cursor.batch},
            "seconds": self.watch.elapsed(),
            "seed": checked.plan.seed,
            "knobs": {} if checked.knobs is None else checked.knobs.state(),
            "stop": self.ending.state(),
            "means": self.means.state(),
            "history": list(gatherer.history),
            "losses": {"loss": loss, "val": val},
            "plan": self.facts,
            "machine": machine(checked),
        }
        return record | pack(plain)[0], tensors

    def load(self, path: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave.

        Raises:
            CheckpointError: it does not fit this run.
        """
        check_net(self.checked.net, path, record["net"], tensors, grown=True)
        extent = self.checked.extent
        progress, before = clock_in(record["progress"], extent), clock_in(record["before"], extent)
        columns = ("steps", "epochs", "values")
        keys = [f"{name}:{column}" for name in record["history"] for column in columns]
        history = History.from_columns({key: tensors[f"history:{key}"] for key in keys})
        means, kept = unpack(record["means"], tensors), unpack(record["data"], tensors)
        best = into_run(self.checked, path, record, tensors, progress)
        try:
            self.snapshots.load(unpack(record["roll_back"], tensors))
        except StateError as error:
            raise CheckpointError(path, "the state of this run", str(error).rstrip("."), damaged=False) from error
        self.progress, self.cursor = progress, Cursor(**record["cursor"])
        self.best.load(best)
        # Of the arrays last, so that a net is as it was where anything else does not fit.
        into_net(self.checked.net, path, record["net"], tensors, grown=True)
        modes_into(self.checked.net, record["net"])
        self.means.load(means)
        self.ending.load(unpack(record["stop"], tensors))
        if self.checked.knobs is not None and record["knobs"]:
            self.checked.knobs.load(unpack(record["knobs"], tensors))
        self.gatherer.go_on(history, before, progress)
        self.watch.before = record["seconds"]
        for name, flow, cursor in self._flows():
            flow.load(cursor, kept.get(name, []))

    def _flows(self) -> Iterator[tuple[str, Flow, Cursor]]:
        """The data, and where they are read from next."""
        yield "training", self.checked.flow, self.cursor
        if self.checked.evaluator is not None:
            yield "validation", self.checked.evaluator.flow, Cursor()
            for name, flow in self.checked.evaluator.also.items():
                yield f"validation.{name}", flow, Cursor()


def epoch_losses(checked: Checked, found: dict[str, float], progress: Progress) -> dict[str, float]:
    """The means of an epoch by name: of every term, and of the weighted sums."""
    works, alone = checked.works, len(checked.works) == 1
    sums = {name.removeprefix(SUM): found.pop(name) for name in list(found) if name.startswith(SUM)}
    if found:
        found.update(total_losses(works, found, progress))
        if sums and not alone:
            totals = [work.names(alone)[0] for work in works]
            sums["loss"] = sum(sums.get(name, found[name]) for name in totals if name in found)
        found.update(sums)
    return found
