"""The events of a run as JSON lines, for programs that watch it or read it later."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, TextIO, final

from etude.arguments import named_class
from etude.errors import SettingError
from etude.run.events import (
    Began,
    Ended,
    EpochEnded,
    Evaluated,
    Event,
    RolledBack,
    Saved,
    SaveFailed,
    Settled,
    Skipped,
    Stepped,
)
from etude.run.history import PROBE, read_steps
from etude.values.progress import Progress

BULK: Final = 50  # steps whose losses are read from the device together


@named_class
@final
class JsonLines:
    """A listener that adds one JSON object for each event to the end of a file.

    Every object has "event" (began, stepped, skipped, rolled_back, epoch_ended, evaluated, saved, save_failed, ended)
    and the clock after it, that of what was saved for a save: "step", "epoch", "samples", "tokens". The rest is what
    the event tells: "summary"; "losses", "batch" (its samples), "rate", "updates", "seconds"; "number" (of the epoch),
    "means" and "data" (of `Data`); "reason", "to_step", "factor"; "scores", "best"; "path", "bytes", "seconds",
    "removed"; "reason", "message". NaN and infinity are written as the words "nan", "inf" and "-inf", which `float`
    reads. `Settled` events are left out.

    Steps are written 50 at a time, or when any other event comes, and flushed; so their losses are read from the
    device in bulk. What an existing file holds is kept; folders that are missing are made. `SettingError` where `path`
    cannot be written to, when the listener is made.

    A run that goes on from a checkpoint continues the last run in the file: what that did after the step of the
    checkpoint is dropped, as it is done again, and so are its ends. A second "began" shows where it went on.

    Usable as a context manager. The file is closed when the run ends.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._pending: list[Stepped] = []
        self._file: TextIO | None = self._open()

    def _open(self) -> TextIO:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise SettingError(
                f'JsonLines("{self._path}") cannot be written: {error.strerror}. Give the path of a file, as '
                '"runs/digits.jsonl".'
            ) from error

    def __call__(self, event: Event, /) -> None:
        """Write one event, or keep it until its losses are read with those of others."""
        if type(event) is Stepped:
            self._pending.append(event)
            if len(self._pending) >= BULK:
                self._flush()
        elif type(event) is not Settled:
            if isinstance(event, Began) and event.summary.get("resumed"):
                self.close()
                _drop_after(self._path, float(event.progress.step))
            self._flush(_other(event))
            if type(event) is Ended:
                self.close()

    def _flush(self, *further: dict[str, Any]) -> None:
        records = [*_steps(self._pending), *further]
        self._pending = []
        if records:
            self._file = self._file or self._open()
            self._file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            self._file.flush()

    def close(self) -> None:
        """Write what is not written yet and close the file. Closing again does nothing; a new event opens it again."""
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_HEAD: Final = re.compile(rb'\{"event": "(\w+)", "step": ([0-9.]+),')


def _drop_after(path: Path, step: float) -> None:
    """Remove from a file what its last run did after a step, the ends of that run, and a line that was cut short."""
    with path.open("r+b") as file:
        file.seek(_last_run(file))
        first, later = -1, []
        while line := file.readline():
            if not _stays(line, step):
                first = file.tell() - len(line) if first < 0 else first
            elif first >= 0:
                later.append(line)
        if first >= 0:
            file.seek(first)
            file.writelines(later)
            file.truncate()


def _last_run(file: BinaryIO) -> int:
    """Where the last run in a file begins that did not go on from another."""
    at = start = 0
    for line in file:
        if line.startswith(b'{"event": "began",') and b'"resumed": "' not in line:
            start = at
        at += len(line)
    return start


def _stays(line: bytes, step: float) -> bool:
    head = _HEAD.match(line)
    if head is None or not line.endswith(b"}\n"):
        return line.endswith(b"\n")  # what others wrote
    return float(head[2]) <= step and head[1] != b"ended"


def _steps(events: Sequence[Stepped]) -> list[dict[str, Any]]:
    losses: list[dict[str, Any]] = [{} for _ in events]
    probes: list[dict[str, Any]] = [{} for _ in events]
    for name, (rows, values) in read_steps(events).items():
        for row, value in zip(rows, values, strict=True):
            if name in events[row].losses:
                losses[row][name] = _plain(value)
            else:
                probes[row][name.removeprefix(PROBE)] = _plain(value)
    return [_step(*each) for each in zip(events, losses, probes, strict=True)]


def _step(event: Stepped, losses: dict[str, Any], probes: dict[str, Any]) -> dict[str, Any]:
    more = {"settings": _plain(event.settings)} if event.settings else {}
    more |= {"probes": probes} if probes else {}
    return {
        "event": "stepped",
        **_clock(event.progress),
        "losses": losses,
        "batch": event.samples,
        "rate": _plain(event.rate),
        "updates": event.updates,
        "seconds": event.seconds,
        **more,
    }


def _other(event: Event) -> dict[str, Any]:
    """An event of which no losses have to be read in bulk."""
    told: dict[str, Any] = {}
    name = ""
    if isinstance(event, Began):
        name, told = "began", {"summary": _plain(event.summary)}
    elif isinstance(event, Skipped):
        losses = {name: float(loss) for name, loss in event.losses.items()}
        name, told = "skipped", {"reason": event.reason, "losses": _plain(losses)}
    elif isinstance(event, RolledBack):
        told = {"reason": event.why, "to_step": event.to_step, "factor": event.factor}
        name = "rolled_back"
    elif isinstance(event, EpochEnded):
        name, told = "epoch_ended", {"number": event.epoch, "means": _plain(event.means)}
        if event.data:
            told["data"] = _plain(event.data)
    elif isinstance(event, Evaluated):
        name, told = "evaluated", {"scores": _plain(event.scores), "best": event.best}
        if event.tables:
            told["tables"] = {name: _plain(table.tolist()) for name, table in event.tables.items()}
    elif isinstance(event, Saved):
        told = {"path": event.path, "bytes": event.bytes, "seconds": event.seconds, "removed": event.removed}
        name = "saved"
    elif isinstance(event, SaveFailed):
        name, told = "save_failed", {"path": event.path, "message": event.message}
    elif isinstance(event, Ended):
        name, told = "ended", {"reason": event.reason, "message": event.message}
    return {"event": name, **_clock(event.progress), **told}


def _clock(progress: Progress) -> dict[str, Any]:
    return {
        "step": progress.step,
        "epoch": progress.epoch,
        "samples": progress.samples,
        "tokens": progress.tokens,
    }


def _plain(value: Any) -> Any:
    """`value` as strict JSON can hold it: what JSON has no form for becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return value if value is None or isinstance(value, (str, int)) else str(value)
