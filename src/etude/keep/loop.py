"""Checkpoints of a loop that you write yourself.

with etude.Checkpoints("runs/digits") as checkpoints:
    saved = checkpoints.load(net=net, trainer=trainer)
    for epoch in range(saved.get("epoch", 0), 10):
        train_for_an_epoch(net, trainer)
        checkpoints.save(step=trainer.progress.step, epoch=epoch + 1, net=net, trainer=trainer)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import count
from math import inf, isfinite, nan
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from etude.arguments import named_class
from etude.errors import CheckpointError, SettingError, StateError, nearest, warn
from etude.keep import generators, state
from etude.keep.bundle import Bundle
from etude.keep.destination import Directory
from etude.keep.files import Image, Saved
from etude.keep.item import Kept
from etude.keep.names import Name, start_now
from etude.keep.objects import OfTrainer
from etude.keep.plain import pack
from etude.keep.retain import Entry, Keep, last
from etude.keep.store import Store
from etude.step.states import check_keep, listed

_LOOPS = count(1)
"""Numbers the loops of this process."""

_TWO = last(2)


@named_class
class Checkpoints:
    """A folder of checkpoints for a hand-written loop: `load` once before it, `save` in it as often as you like.

    Each file has a name by time, loop, epoch, step and loss. A file is whole and on the disk when `save` returns; older
    ones are removed after that. One program writes to a folder at a time.

    Args:
        folder: made where it is missing, with those above it, when it is first used.
        keep: which files stay: `last(...)`, `best(...)`, `thinning(...)`, joined by `|`. The scores are "loss" and
            every number that `save` is given by name. None: all files.

    Raises:
        SettingError: no path; a rule that cannot be followed; nothing can be written there.
        StateError: another program writes there: which process, on which machine, since when.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: Keep | None = _TWO) -> None:
        self._folder = Directory(folder, keep=keep)
        self._folder.check()
        self._scores = frozenset() if keep is None else keep.scores()
        known = None if keep is None else keep.check({**dict.fromkeys(self._scores), "loss": "min"})
        self._store = Store(self._folder, known)
        self._image = Image()
        self._run = (start_now(), next(_LOOPS))
        self._number = 0
        self._loaded: frozenset[str] | None = None
        self._open = self._closed = False

    def load(self, *, keep: str | None = None, **objects: Any) -> dict[str, Any]:
        """Go on from the newest good checkpoint, if there is one.

        A file that is damaged is passed over with a warning that says why, and called "....damaged" from then on. The
        random generators of torch, NumPy and Python are brought to where they were, too.

        Args:
            keep: of a Trainer, whose settings hold from here on, as in its `load_state_dict`.
            objects: all that `save` is to be given besides plain values, under the same names: nets, trainers,
                optimizers, schedulers, random generators, anything with `state_dict` and `load_state_dict`.

        Returns:
            The plain values that were saved, with "step", "epoch" and "loss"; an empty dict where nothing is saved yet.

        Raises:
            StateError: what is given cannot be kept, or does not fit the file. All that is wrong is named, and nothing
                is changed.
            CheckpointError: the file is of another kind or version; or the folder, or a file that is newer than the
                newest good one, cannot be read.
        """
        bundle = self._asked(objects, keep)
        self._ready()
        bundle.take()  # what cannot be kept is known before the loop, not at its first save
        self._loaded = frozenset(bundle.items)
        saved = self._newest()
        if saved is None:
            return {}
        record = state.checked(saved.record, saved.path, state.LOOP)
        bundle.fit(Saved(saved.path, record, saved.tensors))
        values = bundle.put(Saved(saved.path, record, saved.tensors))
        self._tell_machine(saved.path, record["machine"], bundle.machine())
        self._go_on(saved.path, record)
        return values

    def save(self, *, step: int, epoch: float = 0, loss: float = nan, **objects: Any) -> Path:
        """Write a checkpoint. It is whole and on the disk when this returns.

        Args:
            step: steps made so far. epoch: passes over the data, as you count them. loss: for the name of the file.
            objects: what the loop needs to go on: those that `load` was given, and plain values: None, truth values,
                numbers, strings, tensors, arrays of NumPy, cursors; lists, tuples and dicts of such.

        Returns:
            The path of the file.

        Raises:
            StateError: something cannot be kept, or was left out: all of it is named, and nothing is written.
            CheckpointError: it could not be written (no space, say). Earlier files are as they were.
            SettingError: `step`, `epoch` or `loss` is no such number; a score of `keep` is missing.
        """
        progress = {"step": _count(step), "epoch": _epoch(epoch), "loss": _loss(loss)}
        bundle = Bundle(objects)
        kept = self._taken(bundle)
        scores = self._measured(bundle.values, progress["loss"])
        self._ready()
        record, tensors = _record(bundle, kept, progress, scores)
        start, counter = self._run
        path = self._store.target(Name(start, counter, int(epoch), int(step), progress["loss"]))
        self._image.take(tensors)
        self._image.write(path, {**record, "number": self._number + 1})
        self._number += 1
        self._store.committed(path, Entry(str(path), self._number, int(step), float(epoch), scores))
        self._retain()
        return path

    def close(self) -> None:
        """Let other programs write to the folder."""
        self._closed, self._image = True, Image()
        self._store.close()

    def __enter__(self) -> Checkpoints:
        self._ready()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Checkpoints({self._folder.path!r}, keep={self._folder.keep!r})"

    # ------------------------------------------------------------------------------------------------------ loading

    def _asked(self, objects: Mapping[str, Any], keep: str | None) -> Bundle:
        """What `load` was given, where it makes sense."""
        check_keep(keep)
        bundle = Bundle(objects, keep)
        if bundle.values:
            raise SettingError(
                f"load(): {listed(bundle.values)} has no state to put back. Give load() nets, trainers, optimizers, "
                "schedulers, random generators; plain values are given to save() alone, and load() returns them."
            )
        if keep is not None and not any(isinstance(item, OfTrainer) for item in bundle.items.values()):
            raise SettingError(f"load(keep={keep!r}): that is about the settings of a Trainer, and none is given.")
        return bundle

    def _newest(self) -> Saved | None:
        saved, refused = self._store.newest_good()
        for error in refused:
            if not error.damaged:
                raise error  # it may be whole: to begin anew, or further back, is not ours to decide
        for error in refused:
            end = "An earlier file is taken." if saved is not None else "There is no earlier one: the loop begins anew."
            warn(f"{error} {end}")
        return saved

    def _tell_machine(self, path: str, saved: Mapping[str, str], now: Mapping[str, str]) -> None:
        changed = [
            f"{name} {saved.get(name)!s:.40} -> {value}" for name, value in now.items() if saved.get(name) != value
        ]
        if changed:
            warn(
                f"{path} was saved elsewhere ({', '.join(changed)}): the loop goes on, the same bits are not promised."
            )

    def _go_on(self, path: str, record: Mapping[str, Any]) -> None:
        """It is the same loop as before: names and numbers go on, so that its old files are removed in their turn."""
        name = Name.parse(os.path.basename(path))
        if name is not None:
            self._run = (name.start, name.counter)
        self._number = int(record["number"])

    # ------------------------------------------------------------------------------------------------------- saving

    def _ready(self) -> None:
        if self._closed:
            raise StateError(f"{self!r} is closed. Make a new one.")
        if not self._open:
            self._store.open()
            self._open = True

    def _taken(self, bundle: Bundle) -> Kept:
        """What is to be written, where a loop could go on from it."""
        kept = bundle.take()
        if not kept.entry:
            raise SettingError("save(): nothing to keep is given. Write save(step=step, net=net, optimizer=optimizer).")
        faults = bundle.unkept(kept)
        if self._loaded is not None:
            faults += [f"{key} was given to load(): give it to save() too" for key in self._loaded - set(bundle.items)]
            faults += [f"{key} has a state: give it to load() too" for key in set(bundle.items) - self._loaded]
        if faults:
            raise StateError("\n  ".join(["save(): from this no loop could go on to the same bits:", *sorted(faults)]))
        return kept

    def _measured(self, values: Mapping[str, Any], loss: float) -> dict[str, float]:
        """What `keep` may go by."""
        numbers = {key: float(value) for key, value in values.items() if _is_number(value)}
        found = {"loss": loss, **numbers}
        for name in sorted(self._scores - set(found)):
            raise SettingError(
                f"save(): {self._folder.keep!r} goes by {name!r}, which is not given. Given are the numbers "
                f"{listed(found)}.{nearest(name, found)} Where it was not measured write {name}=math.nan."
            )
        return found

    def _retain(self) -> None:
        """Remove files that are not kept; that one cannot be removed is no reason to stop."""
        try:
            self._store.retain()
        except CheckpointError as error:
            if error.damaged:
                raise
            warn(f"{error} No file is lost; older ones stay.")


def _record(
    bundle: Bundle, kept: Kept, progress: Mapping[str, Any], scores: Mapping[str, float]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record of a file, and its tensors."""
    entries = {key: dict(entry) for key, entry in kept.entry.items()}
    # The record of the net that bears its own names stands where every checkpoint has it.
    net = next((entries[key].pop("net") for key in bundle.bare()), None)
    random, more = pack(generators.of_process(), "state:random.")
    record = {
        "progress": pack(dict(progress))[0],
        "scores": {name: value for name, value in scores.items() if isfinite(value)},
        "net": net,
        "averages": bundle.averages(),
        "objects": entries,
        "random": random,
        "machine": bundle.machine(),
    }
    return state.stamped(record, state.LOOP), {**kept.tensors, **more}


def _count(step: Any) -> int:
    if isinstance(step, bool) or not isinstance(step, Integral) or step < 0:
        raise SettingError(f"save(step={step!r}): how many steps were made is a whole number of at least 0.")
    return int(step)


def _epoch(epoch: Any) -> float:
    if not _is_number(epoch) or not 0 <= float(epoch) < inf:
        raise SettingError(f"save(epoch={epoch!r}): a number of at least 0 is needed.")
    return int(epoch) if isinstance(epoch, Integral) else float(epoch)


def _loss(loss: Any) -> float:
    one = loss.item() if isinstance(loss, Tensor) and loss.numel() == 1 else loss
    if not _is_number(one):
        raise SettingError(f"save(loss={loss!r}): a number is needed, or a tensor with one.")
    return float(one)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)
