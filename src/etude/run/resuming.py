"""What a run goes on from: which checkpoint, and whether it is one of this run."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from etude.errors import CheckpointError, EtudeError, PlanError, SettingError, nearest, warn
from etude.hints import is_slip
from etude.keep import files, state
from etude.keep.files import Saved
from etude.keep.header import short
from etude.run.agreement import PLAN, agree, machine, tell_machine
from etude.run.going import Going
from etude.run.places import Place
from etude.step.states import is_count

AUTO = "auto"
Resume: TypeAlias = "str | os.PathLike[str] | None"
Accept: TypeAlias = "str | Collection[str] | bool"

_READ_BY = ("batch_size", "data", "shuffle", "round_length")
"""Options by which the place in an epoch means other samples."""


def check_resume(given: Resume) -> str | None:
    """What `resume=` was given: None, "auto", or the path of a file from the root.

    Raises:
        SettingError: something else; a folder; nothing of that name, and it looks like "auto".
    """
    if given is None or (isinstance(given, str) and given == AUTO):
        return given
    if not isinstance(given, str | os.PathLike) or not os.fspath(given) or isinstance(os.fspath(given), bytes):
        raise SettingError(f'resume={given!r}: "auto" or the path of a file is needed. Write resume="auto".')
    path = os.path.abspath(given)
    if os.path.isdir(path):
        raise SettingError(
            f'resume={str(given)!r}: that is a folder. Write checkpoint=Directory({str(given)!r}), resume="auto" to go '
            "on from the newest of its files; or name one of them."
        )
    if not os.path.lexists(path) and str(given).isalnum():
        raise SettingError(
            f'resume={given!r}: there is no such file. Nearest: "auto". Write resume="auto" for the newest checkpoint.'
        )
    return path


def check_accept(given: Accept) -> Accept:
    """What `accept=` was given: True, or names in which file and program may differ.

    Raises:
        SettingError: something else, or a name of nothing in which they could; the nearest is named.
    """
    if isinstance(given, bool):
        return given
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        raise SettingError(
            f'accept={given!r}: names of differences, or True for all, are needed. Write accept=["epochs"].'
        )
    known = (*PLAN, "data", "validation data", "net", "settings", "modes")
    for name in names:
        # Settings of optimizers are differences too; what is nearly the name of an option is a slip.
        if name not in known and is_slip(name, known):
            raise SettingError(f"accept={name!r}: there is nothing of that name.{nearest(name, known)}")
    return tuple(names)


def find(resume: str | None, places: Sequence[Place]) -> Saved | None:
    """The checkpoint that a run goes on from; None where it begins.

    Raises:
        CheckpointError: the file that was named is not good; or one that is there could not be read, which is no reason
            to begin anew beside it.
        PlanError: "auto", and there is no place to look.
    """
    if resume is None:
        return None
    if resume != AUTO:
        return files.read(resume)
    if not places:
        raise PlanError('resume="auto" looks where the run is saved. Write checkpoint=Directory("runs/name") too.')
    best: Saved | None = None
    damaged: list[CheckpointError] = []
    for place in places:
        saved, refused = place.store.newest_good()
        for error in refused:
            if not error.damaged:
                advice = "remove it, or name the file to go on from: resume=..."
                raise CheckpointError(error.path, error.expected, f"{error.found}; {advice}", False) from error
        damaged += refused
        if saved is not None and (best is None or _age(saved) > _age(best)):
            best = saved
    follows = "No good one is there: the run begins anew." if best is None else f"{best.path} is taken."
    for error in damaged:
        warn(f"{error} {follows}")
    return best


def prove(saved: Saved, accept: Accept, going: Going) -> dict[str, Any]:
    """The record of a checkpoint that the run can go on from; nothing is changed.

    Raises:
        CheckpointError: it is of another kind, or holds what no run writes. PlanError: it was saved by a run that was
            told otherwise.
    """
    record = state.checked(saved.record, saved.path, state.RUN)
    accepted = agree(saved.path, record["plan"], going.facts, accept)
    there = going.checked.flow.batches_per_epoch
    if there is not None and record["cursor"]["batch"] >= there and not accepted:
        found = f"batch {record['cursor']['batch']} of an epoch of {there}"
        raise CheckpointError(saved.path, "a place in the data", found)
    moved = [name for name in accepted if name in _READ_BY]
    if moved and record["cursor"]["batch"]:
        raise PlanError(
            f"accept={moved}: {saved.path} is of the middle of an epoch, after batch {record['cursor']['batch']}, and "
            "other batches have other samples by then. Go on from a file of the end of an epoch. Nothing was changed."
        )
    return record


def take_up(saved: Saved, record: Mapping[str, Any], going: Going) -> None:
    """Go on from a checkpoint.

    Raises:
        CheckpointError: something in it is not what a run writes. The net is as it was then.
    """
    tell_machine(saved.path, record["machine"], machine(going.checked))
    try:
        going.load(saved.path, record, saved.tensors)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, EtudeError):
            raise
        raise CheckpointError(saved.path, "the state of a run", short(f"{type(error).__name__}: {error}")) from error


def _age(saved: Saved) -> tuple[str, int, float]:
    """What sorts checkpoints by when they were made."""
    run, progress = saved.record.get("run"), saved.record.get("progress")
    if not isinstance(run, Mapping) or not isinstance(progress, Mapping) or not is_count(progress.get("step")):
        return "", 0, 0
    return str(run.get("start")), run["counter"] if is_count(run.get("counter")) else 0, progress["step"]
