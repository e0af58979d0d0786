"""Looking at the net without changing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor, nn

from etude.arguments import named_class
from etude.data.batch import outline
from etude.data.flow import Flow
from etude.errors import SettingError, nearest, warn
from etude.run.metrics import MetricLike, Metrics
from etude.run.outputs import Outputs
from etude.run.probe import OUTPUT, labels_of
from etude.run.probes import Arrays
from etude.run.randomness import own_randomness, seed_look
from etude.step.looking import looking
from etude.step.loss import PERPLEXITY, Measured, exponential
from etude.step.reading import Reader
from etude.step.splitting import Splitting
from etude.step.work import Work
from etude.values.cadence import Cadence, every
from etude.values.progress import Progress
from etude.values.spans import Span, epochs

_EVERY_EPOCH = every(epochs(1))


@named_class
@dataclass(frozen=True, repr=False)
class Evaluate:
    """Validation data, what is measured on them, and when.

    Args:
        data: any form that `train` takes; or a fraction of the training data, between 0 and 1, set aside by the seed.
        metrics: names, functions of (output, target), torchmetrics metrics, probes (`Probe`), or a dict of such. Names:
            accuracy, error_rate, top_5 (any number), precision, recall and f1 of two classes, each of accuracy,
            precision, recall and f1 as macro_f1 (the mean over classes) and per_class_f1, perplexity, mse, mae, r2, and
            confusion (rows what was meant, columns what was predicted). What is more than one number is kept whole in
            `Evaluated.tables` and `result.tables`; a short vector has a score for each number too, "per_class_f1.0".
            One that fails before the first step is an error. One that fails later is NaN and named in a warning, but
            where something depends on it (best, a schedule, a condition for stopping) the run ends with an error, and
            its state is saved, to be gone on with.
        every: a cadence, or a span; each epoch when nothing is said.
        batch_size: None: as in training.
        best: the score by which the best net is chosen: "loss", a term of it, a metric whose direction is known, or a
            pair such as ("f1", "max").
        also: other data by name, which are looked at whenever `data` are, and measured likewise: {"test": (x, y)} gives
            the scores "test.loss", "test.accuracy" and so on, by which the best net may be chosen, too.

    Raises:
        SettingError: `every` is neither a cadence nor a span, `batch_size` no whole number from 1 on, `best` no score,
            `also` no dict from names to data.
    """

    data: Any
    metrics: MetricLike | None = None
    every: Cadence | Span = _EVERY_EPOCH
    batch_size: int | None = None
    best: str | tuple[str, str] = "loss"
    also: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.every, Span):
            object.__setattr__(self, "every", every(self.every))
        if not isinstance(self.every, Cadence):
            raise SettingError(f"Evaluate(every={self.every!r}): write every(epochs(1)) or every(steps(500)).")
        size = self.batch_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise SettingError(f"Evaluate(batch_size={size!r}): a whole number of at least 1 is needed, or None.")
        if not isinstance(self.best, str) and not (isinstance(self.best, tuple) and len(self.best) == 2):
            raise SettingError(f'Evaluate(best={self.best!r}): write best="accuracy" or best=("f1", "max").')
        object.__setattr__(self, "also", _also(self.also))

    def __repr__(self) -> str:
        data = repr(self.data) if isinstance(self.data, int | float) else outline(self.data)
        rest = "".join(
            f", {name}={value!r}"
            for name, value in vars(self).items()
            if name not in ("data", "also") and value != Evaluate.__dataclass_fields__[name].default
        )
        also = ", ".join(f"{name!r}: {outline(data)}" for name, data in (self.also or {}).items())
        return f"Evaluate({data}{rest}{f', also={{{also}}}' if also else ''})"


def _also(given: Any) -> Mapping[str, Any]:
    """Other data by name; each name is the beginning of the names of scores."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in given):
        said = f"the names {', '.join(map(repr, given))}" if isinstance(given, Mapping) else type(given).__name__
        raise SettingError(f'Evaluate(also=...): data by name are needed, not {said}. Write also={{"test": (x, y)}}.')
    for name, data in given.items():
        if isinstance(data, int | float | str):
            raise SettingError(
                f"Evaluate(also={{{name!r}: {data!r}}}): data are needed; a fraction of the training data is for the "
                "first argument alone."
            )
    return dict(given)


class Evaluator:
    """Measures one net on validation data.

    Attributes:
        flow: the data. also: other data by name, whose scores and tables begin with that name.
        best_by: the name of the score by which the best is chosen, as in `scores`.
        larger: whether a larger score is better.
        cadence: when it is due.
        known: the names of all scores, once `prove` was called.
        tables: what of the last look is kept whole, such as a confusion, by name.
        at: the name of the data that are looked at, or were last; "" for the first.
        first_batch: a digest of the first batch, by which other data are told from these.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        net: nn.Module,
        works: Sequence[Work],
        flow: Flow,
        out_of_memory: str = "raise",
        also: Mapping[str, Flow] | None = None,
    ) -> None:
        assert isinstance(evaluate.every, Cadence)
        self.cadence = evaluate.every
        self.flow = flow
        self.also = dict(also or {})
        self.at = ""
        self._net = net
        self._works = tuple(works)
        self._read = Reader(net)
        self._graph = False
        self.known: tuple[str, ...] = ()
        self.first_batch = ""
        self.metrics = Metrics(evaluate.metrics)
        self.metrics.to(flow.device)
        self.tables: dict[str, Tensor] = {}
        self._needed: frozenset[str] = frozenset()
        self._told: set[str] = set()
        tree = works[0].stepper.table.tree
        self._probed = labels_of(self.metrics.probes, tree)
        self._outputs = Outputs([one for one in self.metrics.probes if one.of == OUTPUT], tree, self._read, net)
        self._arrays = [Arrays(one, tree) for one in self.metrics.probes if one.of != OUTPUT]
        self._splitting = Splitting(out_of_memory, net, looking=True)
        self._splitting.observers.append(self._outputs.parts)
        self._names = [work.names(len(works) == 1, looking=True) for work in works]
        # Every term, and the sums; each once.
        self._losses = tuple(dict.fromkeys(["loss", *(n for total, own in self._names for n in (total, *own))]))
        self._check_names()
        self.best_by, self.larger = self._best(evaluate.best)

    @property
    def splits(self) -> bool:
        """Whether batches are cut where memory is not enough for them."""
        return self._splitting.active

    def state(self) -> int:
        """What a later run needs to go on: the smallest size of a batch that did not fit into memory, 0 for none."""
        return self._splitting.state()

    def load(self, state: int) -> None:
        """Take over what `state` gave."""
        self._splitting.load(state)

    def prove(self, batch: Any, also: Mapping[str, Any] | None = None) -> None:
        """Measure one batch, and one of each of the other data: what cannot be measured is found before the first step.

        Raises:
            SettingError: a metric fails, or the score for the best net is not a single number.
            ScheduleError: the cadence is a share of a run whose length is not known.
        """
        progress = self._works[0].stepper.progress
        self.cadence.due(progress, progress)
        batches = {"": [batch], **{f"{name}.": [one] for name, one in (also or {}).items()}}
        try:
            found = self._look(batches, progress)
        except RuntimeError:
            # The loss may be of derivatives of the net, which need its graph: if that was it, it is kept from now on.
            self._graph = True
            found = self._look(batches, progress)
        self.metrics.reset()
        self.metrics.strict = self._outputs.strict = False
        self.known = tuple(found)
        self._check_called()
        self.need([self.best_by])
        if self.best_by not in found:
            why = "it is several numbers, and one is needed" if self.best_by in self.tables else "no such score"
            raise SettingError(f"best={self.best_by!r}: {why}. Scores: {', '.join(found)}.")

    def need(self, names: Iterable[str]) -> None:
        """Scores on which something depends: where such a metric fails in a look, the look raises."""
        self._needed |= frozenset(names)

    def better(self, name: str) -> str | None:
        """Which way a score improves: "min", "max", or None where that is not known."""
        name = self.plain(name)
        if name in self._probed:
            return None
        metric = name if name in self.metrics.names else name.rpartition(".")[0]
        return self.metrics.better[metric] if metric in self.metrics.names else "min"

    def scores(self, progress: Progress) -> dict[str, float]:
        """The mean of the loss and of each of its terms, every metric and every probe, over all validation data.

        Those of other data begin with their name. A metric or probe that fails is NaN, and a warning names it.

        Raises:
            SettingError: one fails on which something depends: the best net, a schedule, or the end of the run.
        """
        flows = {"": self.flow, **{f"{name}.": flow for name, flow in self.also.items()}}
        return self._look(
            {before: (batch.values for batch in flow.batches(epochs=1)) for before, flow in flows.items()}, progress
        )

    def _look(self, data: Mapping[str, Iterable[Any]], progress: Progress) -> dict[str, float]:
        """The scores over several data, each by what their names begin with; what is kept whole goes to `tables`."""
        scores: dict[str, float] = {}
        tables: dict[str, Tensor] = {}
        for before, batches in data.items():
            self.at = before.removesuffix(".")
            scores |= {before + name: score for name, score in self._over(batches, progress, before).items()}
            tables |= {before + name: table for name, table in self.metrics.tables.items()}
        self.tables = tables
        return scores

    def _over(self, batches: Iterable[Any], progress: Progress, before: str) -> dict[str, float]:
        means = Means()
        self.metrics.reset()
        with own_randomness(), looking(self._net), torch.set_grad_enabled(self._graph):
            seed_look(self.flow.seed, self.flow.device or torch.device("cpu"))
            with self._outputs.open():
                for values in batches:
                    self._measure(values, progress, means)
            probed, failed = self._probe()
        found = means.values()
        totals = total_losses(self._works, found, progress, looking=True)
        measured = self.metrics.values()
        self._tell_failed(before, {**self.metrics.failed, **failed})
        return {"loss": totals["loss"], **found, **totals, **measured, **probed}

    def _probe(self) -> tuple[dict[str, float], dict[str, str]]:
        """Every probe by label, read at once, NaN where there is none; and what is told of those that failed."""
        found, failed = self._outputs.values(), dict(self._outputs.failed)
        for one in self._arrays:
            try:
                found.update(one.values())
            except SettingError as error:
                if self._outputs.strict:
                    raise
                failed.update(dict.fromkeys(one.labels, str(error)))
        read = dict(zip(found, numbers(list(found.values())), strict=True))
        return {label: read.get(label, nan) for label in self._probed}, failed

    def _tell_failed(self, before: str, failed: Mapping[str, str]) -> None:
        """Name what failed: in an error where something depends on it, else in a warning, once for each."""
        where = f"In the validation data {self.at!r}: " if before else ""
        for name, text in failed.items():
            if self._needed.intersection(before + key for key in self.metrics.keys(name)):
                raise SettingError(
                    f"{where}{text.rstrip('.')}. Its value decides about the run, which cannot go on without it."
                )
        for name in [name for name in failed if before + name not in self._told]:
            self._told.add(before + name)
            said = where + failed[name].rstrip(".")
            warn(f"{said}. Its value at this look is NaN, and at others where it fails; the run goes on.")

    def _check_called(self) -> None:
        silent = [label for label in self._outputs.labels if label not in self._outputs.values()]
        if silent:
            raise SettingError(
                f"metrics: {', '.join(silent)}: the net did not call the module in evaluation, so it has no output. "
                "Name another."
            )

    def _measure(self, values: Any, progress: Progress, means: Means) -> None:
        """Take a batch; where memory is not enough for it, and that is asked for, in parts."""
        parts, found = self._splitting.compute(
            progress, (values,), lambda parts: [self._computed(part, progress) for part in parts]
        )
        for part, (terms, output, target) in zip(parts, found, strict=True):
            for measured in terms:
                means.add(measured)
            if self.metrics.names:
                self.metrics.update(output, target, self._read.true_frames(part))

    def _computed(self, values: Any, progress: Progress) -> tuple[list[dict[str, Measured]], Any, Any]:
        """The terms of every update over a batch, and the output and target that metrics are of."""
        output = target = None
        terms = []
        for work, (_, names) in zip(self._works, self._names, strict=True):
            _, measured, seen, wanted = work.measure(progress, values, looking=True)
            output, target = (seen, wanted) if output is None else (output, target)
            terms.append(dict(zip(names, measured, strict=True)))
        if self.metrics.names and output is None:
            # The output that the loss was taken of, unless the loss called the net itself.
            args, kwargs, target = self._read(values)
            with self._outputs.paused():
                output = self._net(*args, **kwargs)
        return terms, output, target

    def plain(self, name: str) -> str:
        """The name of a score without that of the data of which it is."""
        first, dot, rest = name.partition(".")
        return rest if dot and first in self.also else name

    def _best(self, best: str | tuple[str, str]) -> tuple[str, bool]:
        """The score by which the best net is chosen, and whether a larger one is better."""
        name, direction = best if isinstance(best, tuple) else (best, None)
        if direction not in (None, "min", "max"):
            raise SettingError(f'best={best!r}: the direction is "min" or "max". Write best=({name!r}, "max").')
        plain = self.plain(name)
        # A metric of several numbers has a score for each: "per_class_f1.0".
        metrics = self.metrics.names
        of = plain if plain in metrics else plain.rpartition(".")[0]
        loss = plain in self._losses or plain.removesuffix(f".{PERPLEXITY}") in self._losses
        if not loss and plain not in self._probed and of not in metrics:
            scores = (*self._losses, *metrics, *self._probed)
            names = [before + score for before in ("", *(f"{one}." for one in self.also)) for score in scores]
            raise SettingError(f"best={name!r}: no such score. Scores: {', '.join(names)}.{nearest(name, names)}")
        direction = direction or ("min" if loss else self.better(name))
        if direction is None:
            raise SettingError(f'best={best!r}: whether more is better is not known. Write best=({name!r}, "max").')
        return name, direction == "max"

    def _check_names(self) -> None:
        """A metric called as a loss would hide it, and other data that are called as what is measured."""
        taken = self._losses
        for name in self.also:
            hidden = next(
                (one for one in (*taken, *self.metrics.names, *self._probed) if one.split(".")[0] == name), ""
            )
            if hidden:
                raise SettingError(
                    f"Evaluate(also={{{name!r}: ...}}): {hidden!r} is a score of the first data. Give other data a "
                    "name of their own."
                )
        for name in (*self.metrics.names, *self._probed):
            if name in taken:
                raise SettingError(
                    f"metrics: {name!r} is the name of a loss. Give another: metrics={{{name + '_score'!r}: ...}}."
                )


def total_losses(
    works: Sequence[Work], means: Mapping[str, float], progress: Progress, looking: bool = False
) -> dict[str, float]:
    """The weighted sums of the means of the terms: "loss", and "<update>.loss" where there are several updates.

    And "<term>.perplexity", e to the mean of a term, where that is asked for. With `looking` the terms are those of
    evaluation.
    """
    found: dict[str, float] = {"loss": 0.0}
    for work in works:
        alone = len(works) == 1
        name, terms_ = work.names(alone, looking)
        weights = (work.losses.evaluation if looking else work.losses).weights(progress)
        known = [
            (means[term], weight)
            for term, weight in zip(terms_, weights, strict=True)
            # What is beside the sum may be anything.
            if term in means and (weight or len(terms_) == 1)
        ]
        found |= {of: exponential(means[one]) for one, of in work.exponents(alone, looking).items() if one in means}
        if any(term in means for term in terms_):
            total = sum(mean * weight for mean, weight in known)
            found["loss"] += total
            found[name] = total if len(works) > 1 else found["loss"]
    return found


class Means:
    """Exact means of measured terms over many batches: sums over counts, in double precision.

    What is on a device stays there until `BULK` batches are there, so that it does not have to be waited for.
    """

    BULK = 64

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[list[Tensor], list[float | Tensor]]] = {}
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, measured: dict[str, Measured]) -> None:
        """Take the terms of one batch."""
        for name, one in measured.items():
            if name not in self._waiting:
                self._waiting[name] = ([], [])
            means, counts = self._waiting[name]
            means.append(one.mean.detach())
            counts.append(one.count)
            if len(means) >= self.BULK:
                self._read(name)

    def values(self) -> dict[str, float]:
        """The mean of each term over all that was added, NaN over nothing; then it begins anew."""
        found = self.so_far()
        self._sums, self._waiting = {}, {}
        return found

    def so_far(self) -> dict[str, float]:
        """The mean of each term until now, in the order in which they first came."""
        for name in self._waiting:
            self._read(name)
        sums = {name: self._sums[name] for name in self._waiting}
        return {name: total / count if count else float("nan") for name, (total, count) in sums.items()}

    def _read(self, name: str) -> None:
        means, counts = self._waiting[name]
        if not means:
            return
        values = numbers(means)
        sizes = numbers(counts)
        total, count = self._sums.get(name, (0.0, 0.0))
        # One after the other, so that when they are read changes no bit of the sum. A batch of which nothing counts
        # (every target ignored) has a mean of NaN and no weight.
        for value, size in zip(values, sizes, strict=True):
            if size:
                total, count = total + value * size, count + size
        self._sums[name] = (total, count)
        self._waiting[name] = ([], [])

    def state(self) -> dict[str, list[float]]:
        """The sum and the count of each term so far."""
        for name in self._waiting:
            self._read(name)
        return {name: list(self._sums[name]) for name in self._waiting}

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        """Take over what `state` gave."""
        self._sums = {name: (sums[0], sums[1]) for name, sums in state.items()}
        self._waiting = {name: ([], []) for name in state}


def numbers(values: Sequence[float | Tensor]) -> list[float]:
    """Scalars as numbers, read from the device at once where they are alike."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len(tensors) == len(values) and len({(t.dtype, t.device) for t in tensors}) == 1:
        read: list[float] = torch.stack(tensors).double().tolist()
        return read
    return [float(value) for value in values]
