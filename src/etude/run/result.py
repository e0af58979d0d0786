"""What came out of a run: an object to question, to keep, and to compare."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from torch import Tensor, nn

from etude.errors import SettingError, StateError
from etude.keep import disk
from etude.keep.whole import write_whole
from etude.run.history import History
from etude.run.record import fits, from_json, to_json
from etude.run.weights import SavedAverages, save_weights
from etude.step.averages import unknown_average
from etude.step.averaging import put

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        stop_reason, stop_message: one word ("finished", "patience", "stop", "time", "non-finite", "frozen",
            "interrupted"), and a sentence.
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
        scheduled), or of any series of the history by name; "probe.*.rms" is all that fit.

        Raises:
            SettingError: no series has that name; the message lists those there are.
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
        record = {f.name: to_json(getattr(self, f.name)) for f in fields(self) if f.name not in _NOT_KEPT}
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
            made = {name: from_json(value) for name, value in record.items()}
            beside = {} if averages is None else _beside(Path(path), averages)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"{path} is a damaged result: {error}.") from error
        damaged = [name for name, value in made.items() if not fits(value, kinds[name])]
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
        why = self.stop_reason if self.stop_reason == "finished" else f"{self.stop_reason}: {self.stop_message}"
        return f"Result({done}, {losses or 'no losses'}{best}, {why})"


_NOT_KEPT = frozenset({"net", "plan", "averages", "_final"})
_AVERAGES = "averages"
"""Under what a file says which averages are in the file beside it."""


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


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda fd: disk.write_at(fd, memoryview(content), 0))
