"""What was asked of a run of the command line, in a file of its folder, so that the run can be gone on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from etude._version import __version__
from etude.errors import SettingError, nearest, warn
from etude.experiment import Experiment, build, from_plain, load, to_plain
from etude.keep import disk
from etude.keep.destination import Directory, destinations
from etude.keep.retain import last
from etude.keep.store import Store
from etude.run.plan import Plan
from etude.values.cadence import every
from etude.values.spans import epochs, minutes

FILE: Final = "experiment.json"
CHECKPOINTS: Final = "checkpoints"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """An experiment file and its arguments.

    Attributes:
        file: the experiment file, absolute. digest: sha256 of it. arguments: of its function, as JSON holds them.
        folder: where the command was given: relative paths are meant from there. until: how long a process may take,
            as it was written, or None. places: where the run is saved.
    """

    file: str
    digest: str
    arguments: dict[str, Any]
    folder: str
    until: str | None
    places: list[str]


def asked(file: str | Path, arguments: Mapping[str, Any], until: str | None, plan: Plan) -> Asked:
    """What is asked now, in this folder."""
    path = os.path.abspath(file)
    plain = {name: to_plain(value) for name, value in arguments.items()}
    places = [one.absolute for one in destinations(plan.checkpoint)]
    return Asked(path, _digest(path), plain, os.getcwd(), until, places)


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write(out: Path, asked: Asked) -> None:
    """Write the file of a folder that is there, in one instant.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps({"format": _FORMAT, "etude": __version__, **asdict(asked)}, indent=1, allow_nan=False)
    part = out / f".{FILE}.part"
    part.unlink(missing_ok=True)  # of a process that was killed
    fd = disk.create(part)
    try:
        disk.write_at(fd, memoryview(f"{text}\n".encode()), 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.rename(part, out / FILE)
    disk.sync_folder(out)


def read(out: Path) -> Asked:
    """What was asked of the run of a folder.

    Raises:
        SettingError: there is no such file, or it is none that `write` wrote.
    """
    try:
        record = json.loads((out / FILE).read_text())
        version = record.pop("format")
    except OSError as error:
        raise SettingError(_missing(out, error)) from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise SettingError(f"{out / FILE} is not what `etude train` wrote: {error}.") from None
    if version != _FORMAT:
        raise SettingError(f"{out / FILE} has the format {version!r}; this version reads {_FORMAT}.")
    record.pop("etude", None)
    wrong = [name for name in sorted({*_KINDS, *record}) if not _fits(name, record)]
    if wrong:
        raise SettingError(f"{out / FILE} is not what `etude train` wrote: {', '.join(wrong)} missing or wrong.")
    return Asked(**record)


_KINDS: Final = {"file": str, "digest": str, "arguments": dict, "folder": str, "until": str | None, "places": list}


def _fits(name: str, record: Mapping[str, Any]) -> bool:
    return name in _KINDS and name in record and isinstance(record[name], _KINDS[name])


def _missing(out: Path, error: OSError) -> str:
    beside = out.parent.iterdir() if out.parent.is_dir() else ()
    there = [str(one) for one in sorted(beside) if (one / FILE).exists()]
    reason = "" if isinstance(error, FileNotFoundError) else f" that can be read ({error.strerror})"
    return (
        f"{out} has no {FILE}{reason}, which `etude train FILE --out {out}` writes.{nearest(str(out), there)} "
        "A run without --out is gone on with by its program: train(..., resume=...)."
    )


def again(asked: Asked) -> tuple[Callable[..., Any], Experiment]:
    """The experiment as it was asked for, in the folder where that was; a file that has changed since is told.

    Raises:
        SettingError: the file is gone, or its function takes other arguments.
    """
    if os.getcwd() != asked.folder and os.path.isdir(asked.folder):
        os.chdir(asked.folder)
    function = load(asked.file)
    if _digest(asked.file) != asked.digest:
        warn(f"{asked.file} has changed since the run began.")
    return function, build(function, from_plain(function, asked.arguments))


def with_checkpoints(plan: Plan, out: Path) -> Plan:
    """A plan that is saved in `out`, unless it says where itself: each epoch, each ten minutes, the last two kept."""
    if plan.checkpoint:
        return plan
    made = copy(plan)
    cadence = every(epochs(1)) | every(minutes(10))
    made.checkpoint = destinations(Directory(os.path.abspath(out / CHECKPOINTS), cadence, keep=last(2)))
    return made


def discard(out: Path) -> None:
    """Remove the checkpoints that `with_checkpoints` has written in a folder.

    Raises:
        StateError: a run writes there now.
    """
    if not (out / CHECKPOINTS).is_dir():
        return
    store = Store(Directory(os.path.abspath(out / CHECKPOINTS)))
    store.open()
    try:
        for path in store.paths():
            disk.remove(path)
    finally:
        store.close()
