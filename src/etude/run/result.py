"""What came out of a run: an object to question, to keep, and to compare."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from etude.data.saying import option_text
from etude.errors import SettingError, StateError
from etude.keep import disk
from etude.keep.whole import write_whole
from etude.run.check import Checked
from etude.run.events import Ended, Event, Skipped, Stepped
from etude.run.history import History
from etude.run.said import versions
from etude.run.weights import SavedAverages, save_weights
from etude.step.averages import unknown_average
from etude.step.averaging import put
from etude.step.work import Work
from etude.values.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from etude.run.keep_best import Best

_FORMAT = 1


@dataclass
class Result:
    """What came out of a run.

    Attributes:
        net: the net that was trained, in evaluation mode; with validation data it has the best arrays, else the last.
            None in a result that was loaded.
        best_epoch, best_step: when the best validation score was reached (epochs done, steps done); None without one.
        history: every series: "loss" and each term by step, "epoch.<term>", "val.<score>", "rate".
        losses: the last value of each epoch mean and validation score.
        learning_rates: the effective rate of each array in the last step that was made, 0 where it was frozen.
        learning_rate_multipliers: of each array: a number, 0 where frozen; text of the schedule where it changes.
            Of an array that several updates move both have an entry for each: "<update>: <array>".
        update_schedule: the schedule of parts by update, as text; None where everything moved at every step.
        optimizer: of each update the name and every setting, with its value or schedule as text.
        steps, epochs, samples: how much was done.
        batch_size, batches_per_epoch, training_samples, validation_samples: effective values; None where unknown.
        seconds, throughput: wall-clock time of the run, and samples a second.
        stop_reason, stop_message: one word ("finished", "patience", "time", "non-finite", "frozen", "interrupted"),
            and a sentence.
        seed, device, precision: with which it ran.
        versions: of etude, torch, numpy and Python.
        chosen: what was chosen where nothing was said, and what was converted.
        call: the options of the plan that were given, as text.
        plan: the plan itself; None in a result that was loaded.
        origins: where the first values of the arrays came from, as a table; "" where nothing was said of them.
        score: for the picture: names, steps, and the effective rate that each array had at each of them (None where it
            did not move), with what schedules that listen have heard, and after `roll_back`.
        checkpoints: checkpoints that the run has written and that are there, in the order in which they came.
        failed_saves: how many could not be written.
        averages: each average of the plan as it was after the last step, by name of the array:
            `result.averages["ema"]["0.weight"]`. Of a result that was loaded they are read when asked for.
        tables: of the validation of the net that is returned, what is more than one number, whole, by name:
            `result.tables["confusion"]`, rows what was meant, columns what was predicted.
    """

    net: nn.Module | None
    history: History
    best_epoch: float | None
    best_step: int | None
    learning_rates: dict[str, float]
    learning_rate_multipliers: dict[str, Any]
    update_schedule: dict[str, str | None]
    optimizer: dict[str, dict[str, Any]]
    steps: int
    epochs: float
    samples: int
    batch_size: int | None
    batches_per_epoch: int | None
    training_samples: int | None
    validation_samples: int | None
    seconds: float
    throughput: float
    stop_reason: str
    stop_message: str
    seed: int
    device: str
    precision: str
    versions: dict[str, str]
    chosen: dict[str, Any]
    call: dict[str, str]
    score: dict[str, Any]
    checkpoints: list[str] = field(default_factory=list)
    failed_saves: int = 0
    tables: dict[str, Tensor] = field(default_factory=dict, compare=False)
    plan: Any = None
    origins: str = ""
    averages: Mapping[str, dict[str, Tensor]] = field(default_factory=dict, compare=False)
    _final: dict[str, Tensor] | None = None

    @property
    def losses(self) -> dict[str, float]:
        """The last value of each epoch mean and validation score, by name."""
        return {name: series.values[-1] for name, series in self.history.items() if name.startswith(("epoch.", "val."))}

    @property
    def skipped(self) -> int:
        """How many steps changed nothing, because a loss or gradient was not finite."""
        return self.steps - (len(self.history["rate"].steps) if "rate" in self.history else 0)

    @property
    def best_scores(self) -> dict[str, float]:
        """The validation scores of the net that is returned, by name ("val.loss", ...); empty without validation."""
        found = {}
        for name, series in self.history.items():
            if name.startswith("val.") and self.best_step in series.steps:
                found[name] = series.values[series.steps.index(self.best_step)]
        return found

    @property
    def final_net(self) -> nn.Module | None:
        """The net as it was after the last step: `net` itself, or a copy if `net` has better arrays."""
        if self._final is None or self.net is None:
            return self.net
        final = copy.deepcopy(self.net)
        with torch.no_grad():
            for name, array in (*final.named_parameters(), *final.named_buffers()):
                array.copy_(self._final[name])
        return final

    def averaged_net(self, name: str) -> nn.Module:
        """A copy of the net as it was after the last step, with an average in place of the arrays it is of.

        Raises:
            SettingError: no average has that name; the nearest is named.
            StateError: the result was loaded, and has no net.
        """
        if name not in self.averages:
            raise SettingError(unknown_average(name, self.averages))
        if self.net is None:
            raise StateError(
                f"averaged_net({name!r}): a result that was loaded has no net. The arrays are in averages[{name!r}]: "
                "net.load_state_dict(..., strict=False)."
            )
        last = self.final_net
        made = copy.deepcopy(self.net) if last is None or last is self.net else last
        put(self.averages[name], made)
        return made

    def plot(self, what: str = "loss", path: str | Path | None = None) -> Figure:
        """A figure of "loss", "rates", "score" (parts down, steps across, colour the rate), "knobs" (what else was
        scheduled), or of a metric by name.

        Raises:
            KeyError: no series has that name; the message lists those there are.
        """
        from etude.run.account import plot_result

        return plot_result(self, what, path)

    def save(self, path: str | Path, *, net: bool = False) -> None:
        """Write everything but the net as JSON; with `net`, its arrays beside it as `<path stem>.safetensors`.

        The arrays of averages are in the same file, as "average:<name>:<array>". A file that is there is replaced in
        one instant, or left as it was.

        Raises:
            StateError: `net` is wanted, and `path` itself ends in ".safetensors" or the result has no net.
        """
        path = Path(path)
        arrays = path.with_suffix(".safetensors")
        if net and (arrays == path or self.net is None):
            raise StateError(f"save({str(path)!r}, net=True): " + _no_net(self.net is None))
        record = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in _NOT_KEPT}
        record["history"] = self.history.to_dict()
        mark = hashlib.sha256(json.dumps(record, allow_nan=False).encode()).hexdigest()
        if net and self.averages:
            names = {name: list(average) for name, average in self.averages.items()}
            record[_AVERAGES] = {"names": names, "mark": mark}
        _replace(path, json.dumps({"format": _FORMAT, **record}, indent=1, allow_nan=False).encode())
        if net and self.net is not None:
            save_weights(arrays, self.net, self.averages, mark)

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """The result that `save` wrote, without its net. Averages are read from the file beside it when asked for.

        Raises:
            OSError: there is no such file, or it cannot be read.
            StateError: the file is no result, or of another version.
        """
        try:
            record = json.loads(Path(path).read_text())
            version = record.pop("format")
            averages = record.pop(_AVERAGES, None)
            record.setdefault("tables", {})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise StateError(f"{path} is no result that save() wrote: {error}.") from None
        if version != _FORMAT:
            raise StateError(f"{path} is a result of format {version}; this version reads {_FORMAT}.")
        kinds = {name: kind for name, kind in get_type_hints(cls).items() if name not in _NOT_KEPT}
        if set(record) != set(kinds):
            wrong = ", ".join(sorted(set(record) ^ set(kinds)))
            raise StateError(f"{path} is an incomplete result: {wrong} missing or unknown.")
        try:
            history = History.from_dict(record.pop("history"))
            made = {name: _unplain(value) for name, value in record.items()}
            beside = {} if averages is None else _beside(Path(path), averages)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"{path} is a damaged result: {error}.") from error
        damaged = [name for name, value in made.items() if not _fits(value, kinds[name])]
        if damaged:
            raise StateError(f"{path} is a damaged result: {', '.join(damaged)} cannot be what save() wrote.")
        return cls(net=None, history=history, averages=beside, **made)

    def diff(self, other: Result) -> str:
        """How another result differs: options, optimizer, multipliers, versions, then losses; "" if in nothing."""
        lines = []
        for name in ("call", "optimizer", "learning_rate_multipliers", "update_schedule", "versions"):
            lines += _differences(name, getattr(self, name), getattr(other, name))
        for name in ("seed", "device", "precision", "batch_size", "steps", "epochs", "samples", "stop_reason"):
            lines += _differences(name, getattr(self, name), getattr(other, name))
        return "\n".join(lines + _differences("losses", self.losses, other.losses))

    def __repr__(self) -> str:
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        found = ", ".join(f"{name} {value:.4g}" for name, value in self.best_scores.items())
        best = f"; best after epoch {self.best_epoch:g}: {found}" if self.best_epoch is not None else ""
        done = f"{self.steps} steps, {self.epochs:g} epochs in {self.seconds:.1f} s"
        return f"Result({done}, {losses or 'no losses'}{best}, {self.stop_reason})"


_NOT_KEPT = frozenset({"net", "plan", "averages", "_final"})
_AVERAGES = "averages"
"""Under what a file says which averages are in the file beside it."""
_MARK = "$"
"""The one key of a dict that stands in a file for a tuple, a tensor, or a float that JSON does not have."""
_DTYPES = {str(one).removeprefix("torch."): one for one in vars(torch).values() if isinstance(one, torch.dtype)}


class Gatherer:
    """Collects what a run tells, and makes the result of it.

    Attributes:
        history: every series so far. before: the clock before the last step that was made.
    """

    def __init__(self, checked: Checked) -> None:
        self.checked = checked
        self.history = History()
        self._ended: Ended | None = None
        self.before = self._now = Progress(extent=checked.extent)

    def see(self, event: Event) -> Event:
        """Take an event, and hand it on."""
        self.history.see(event)
        if type(event) is Stepped:
            self.before, self._now = self._now, event.progress
        elif type(event) is Skipped:
            self._now = event.progress
        elif type(event) is Ended:
            self._ended = event
        return event

    def go_on(self, history: History, before: Progress, now: Progress) -> None:
        """Begin with what was collected until `now`; the last step that was made was made at `before`."""
        self.history, self.before, self._now = history, before, now

    def result(self, best: Best, seconds: float, checkpoints: list[str], failed: int) -> Result:
        """Everything, once the run has ended."""
        assert self._ended is not None
        checked, progress = self.checked, self._ended.progress
        plan, alone = checked.plan, len(checked.works) == 1
        return Result(
            net=checked.net,
            history=self.history,
            best_epoch=None if best.progress is None else best.progress.epoch,
            best_step=None if best.progress is None else int(best.progress.step),
            learning_rates=_rates(checked, self.before),
            learning_rate_multipliers=_multipliers(checked),
            update_schedule={w.name: _text(w.stepper.table.update_schedule) for w in checked.works},
            optimizer={"loss" if alone else w.name: _settings(w) for w in checked.works},
            steps=int(progress.step),
            epochs=progress.epoch,
            samples=int(progress.samples),
            batch_size=checked.flow.batch_size,
            batches_per_epoch=checked.flow.batches_per_epoch,
            training_samples=checked.flow.samples,
            validation_samples=None if checked.evaluator is None else checked.evaluator.flow.samples,
            seconds=seconds,
            throughput=progress.samples / seconds if seconds else 0.0,
            stop_reason=self._ended.reason,
            stop_message=self._ended.message,
            seed=plan.seed,
            device=str(checked.device),
            precision=str(plan.precision),
            versions=versions(),
            chosen=dict(checked.chosen),
            call={name: option_text(value) for name, value in plan.options().items()},
            origins="" if checked.origins is None else str(checked.origins),
            score=_score(checked, progress, self.history),
            plan=plan,
            checkpoints=list(checkpoints),
            failed_saves=failed,
            tables=dict(best.tables),
            averages=best.averages,
            _final=best.final,
        )


def gather(checked: Checked) -> Gatherer:
    """A collector for the run of a proved plan."""
    return Gatherer(checked)


def _rates(checked: Checked, before: Progress) -> dict[str, float]:
    """The effective rate of each array in the step made at `before`."""
    found: dict[str, float] = {}
    for work, keys in _keyed(checked):
        table = work.stepper.table
        column = table.at(before, work.stepper.memory).columns["learning_rate"]
        for number, row in enumerate(table.rows):
            found.update({keys[name]: float(column[number] or 0.0) for name in row.names})
    return found


def _multipliers(checked: Checked) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for work, keys in _keyed(checked):
        for name, value in work.stepper.table.multipliers().items():
            found[keys[name]] = value if isinstance(value, int | float) else repr(value)
    return found


def _keyed(checked: Checked) -> Iterator[tuple[Work, dict[str, str]]]:
    """Each update with what it calls its arrays: the name, or "<update>: <name>" where several updates move one."""
    counts = Counter(name for work in checked.works for name in work.stepper.table.names)
    for work in checked.works:
        yield work, {n: n if counts[n] == 1 else f"{work.name}: {n}" for n in work.stepper.table.names}


def _settings(work: Work) -> dict[str, Any]:
    """The optimizer with every setting, as plain values or text."""
    return {name: value if _is_plain(value) else repr(value) for name, value in work.stepper.settings().items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _text(value: Any) -> str | None:
    return None if value is None else repr(value)


def _score(checked: Checked, end: Progress, history: History) -> dict[str, Any]:
    from etude.run.account import score_of
    from etude.run.pace import Pace

    return score_of(checked, Pace(checked, end), history)


def _differences(name: str, mine: Any, theirs: Any) -> list[str]:
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        keys = dict.fromkeys([*mine, *theirs])
        return [line for key in keys for line in _differences(f"{name}.{key}", mine.get(key), theirs.get(key))]
    return [] if mine == theirs else [f"{name}: {mine!r} -> {theirs!r}"]


def _beside(path: Path, said: Mapping[str, Any]) -> SavedAverages:
    return SavedAverages(path.with_suffix(".safetensors"), said["names"], said["mark"])


def _no_net(loaded: bool) -> str:
    if loaded:
        return "a result that was loaded has no net. Leave net out."
    return 'the arrays are written to "<stem>.safetensors", which is this file. Write save("run.json", net=True).'


def _plain(value: Any) -> Any:
    """A value as strict JSON can hold it; `_unplain` is the way back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return {_MARK: [_plain(one) for one in value]}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not isfinite(value):
        return {_MARK: str(value)}
    if isinstance(value, Tensor):
        return {_MARK: {"dtype": str(value.dtype).removeprefix("torch."), "values": _plain(value.tolist())}}
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _unplain(value: Any) -> Any:
    """What `_plain` was given."""
    if isinstance(value, list):
        return [_unplain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {_MARK}:
        inside = value[_MARK]
        if isinstance(inside, dict):
            return torch.tensor(_unplain(inside["values"]), dtype=_DTYPES[inside["dtype"]])
        return float(inside) if isinstance(inside, str) else tuple(_unplain(one) for one in inside)
    return {key: _unplain(one) for key, one in value.items()}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the kind of a field: `float` takes whole numbers too, no number takes a bool."""
    if isinstance(kind, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    plain = get_origin(kind) or kind
    if plain in (int, float):
        return isinstance(value, (int, plain)) and not isinstance(value, bool)
    return isinstance(value, plain)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda fd: disk.write_at(fd, memoryview(content), 0))
