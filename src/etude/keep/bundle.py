"""All that one call keeps: taken apart at one moment, looked at as a whole, and put back as a whole or not at all."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.cursor import Cursor
from etude.errors import CheckpointError, SettingError, StateError
from etude.keep import generators
from etude.keep.files import Saved
from etude.keep.item import Kept
from etude.keep.objects import OfNet, OfTrainer, items, names_in, place_of
from etude.keep.plain import pack, unpack
from etude.step.states import listed, some

_VALUES = ("value", "cursor")
"""Kinds of entries that `load` returns; the others go back into objects."""

_WORDS = {"net": "a net", "trainer": "a Trainer", "state": "an object with a state_dict", "generator": "a generator"}
"""What entries of other kinds are, in words."""

_FIELDS = {"objects": Mapping, "random": Mapping, "machine": Mapping, "progress": Mapping, "number": int}
"""What the record of a loop has besides the net, and as what."""

_TOLD = 20
"""Differences that a message lists at most."""


class Bundle:
    """The objects and values of one call, by the names they have in it.

    Args:
        given: all of them. keep: whose settings hold in a trainer, as for its `load_state_dict`.

    Attributes:
        items: nets, trainers, generators, and what has a state. values: the others.

    Raises:
        SettingError: one has no name.
    """

    def __init__(self, given: Mapping[str, Any], keep: str | None = None) -> None:
        odd = [key for key in given if not key.isidentifier()]
        if odd:
            raise SettingError(f"{listed(odd)}: give what is kept under words, as in net=net, rates=rates.")
        self.items = items(given, keep)
        self.values = {key: value for key, value in given.items() if key not in self.items}

    def take(self) -> Kept:
        """What all of it is now; tensors are not copied.

        Raises:
            StateError: something cannot be kept; all such things are named.
        """
        entries: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        faults: list[str] = []
        names = names_in(self.items)
        for key in (*self.items, *self.values):
            try:
                kept = self.items[key].take(names) if key in self.items else _of_value(key, self.values[key])
            except StateError as error:
                faults.append(str(error))
                continue
            entries[key] = kept.entry
            tensors |= kept.tensors
        if faults:
            raise StateError("\n  ".join(["Not all of it can be kept:", *faults]))
        return Kept(entries, tensors)

    def unkept(self, kept: Kept) -> list[str]:
        """Which optimizers and trainers move arrays that are not among what was taken, in words."""
        places = {place_of(array) for array in kept.tensors.values()}
        found = []
        for key, item in self.items.items():
            lost = [array for array in item.moves() if array.numel() and place_of(array) not in places]
            if lost:
                forms = ", ".join(dict.fromkeys("x".join(map(str, array.shape)) or "one number" for array in lost))
                found.append(f"{key} moves arrays that are in nothing given: {len(lost)} of shape {forms}")
        return found

    def fit(self, saved: Saved) -> None:
        """Look whether all of it can become what is in a file.

        Raises:
            StateError: it cannot; everything that is seen to differ is named.
            CheckpointError: the file lacks what every file of its kind has.
        """
        for name, kind in _FIELDS.items():
            if not isinstance(saved.record.get(name), kind):
                raise CheckpointError(saved.path, f"{name!r} in its record", f"{saved.record.get(name)!r:.60}", False)
        try:
            self._values_in(saved)
            misfits = [*self._strange(saved.record["objects"]), *self._misfits(saved)]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            found = f"{type(error).__name__}: {error}"
            raise CheckpointError(saved.path, "the state of a loop", found, damaged=False) from error
        if misfits:
            first = f"{saved.path} does not fit what load() was given:"
            more = [f"And {len(misfits) - _TOLD} more."] if len(misfits) > _TOLD else []
            raise StateError("\n  ".join([first, *misfits[:_TOLD], *more, "Nothing was changed."]))

    def put(self, saved: Saved) -> dict[str, Any]:
        """Make all of it what is in a file that fits, and return the values in it, with how far it was.

        Raises:
            StateError: an object refused what was kept. All objects are as they were before.
        """
        values = self._values_in(saved)
        names = names_in(self.items)
        before = {key: _copied(item.take(names)) for key, item in self.items.items()}
        done: list[str] = []
        try:
            for key, item in self.items.items():
                done.append(key)
                item.put(_of(saved, key))
            generators.put_process(unpack(saved.record["random"], saved.tensors))
        except Exception as error:
            lost = self._undone(done, before)
            end = f"Lost is what there was of {listed(lost)}" if lost else "Everything is as it was before load()"
            raise StateError(
                f"{saved.path}: {done[-1] if done else 'chance'} cannot take what was kept of it "
                f"({type(error).__name__}: {error}). {end}."
            ) from error
        return values

    def bare(self) -> list[str]:
        """The net whose arrays bear their own names in the file, if there is one."""
        return [key for key, item in self.items.items() if isinstance(item, OfNet) and item.bare]

    def averages(self) -> dict[str, Any]:
        """The averages of its trainer, if it has one alone."""
        found = [item.averages() for item in self.items.values() if isinstance(item, OfTrainer)]
        return found[0] if len(found) == 1 else {}

    def machine(self) -> dict[str, str]:
        """What bits may depend on besides."""
        nets = [item.net for item in self.items.values() if isinstance(item, OfNet)]
        devices = sorted({array.device.type for net in nets for array in net.parameters()})
        return {
            "device": ", ".join(devices) or "none",
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        }

    def _strange(self, entries: Mapping[str, Any]) -> Iterable[str]:
        """What is in the file or in the call alone."""
        for key, item in self.items.items():
            kind = entries[key]["kind"] if key in entries else None
            if kind is None:
                yield f"{key}: the file has no {key}; it has {some([*entries])}."
            elif kind in _VALUES:
                yield f"{key}: the file has a plain value. Leave {key} out: load() returns it."
            elif kind != item.kind:
                yield f"{key}: it is {_WORDS[item.kind]}, in the file {_WORDS[kind]}."
        for key, entry in entries.items():
            if key not in self.items and entry["kind"] not in _VALUES:
                yield f"{key}: the file has the state of {entry['class']:.60}. Write load({key}={key}, ...)."

    def _misfits(self, saved: Saved) -> Iterable[str]:
        names, entries = names_in(self.items), saved.record["objects"]
        for key, item in self.items.items():
            if entries.get(key, {}).get("kind") == item.kind:
                yield from (f"{key}: {found}." for found in item.misfits(_of(saved, key), names))
        found = generators.misfit(unpack(saved.record["random"], saved.tensors))
        yield from (found,) if found else ()

    def _values_in(self, saved: Saved) -> dict[str, Any]:
        entries = saved.record["objects"]
        found = {
            key: unpack(entry["value"], saved.tensors) for key, entry in entries.items() if entry["kind"] in _VALUES
        }
        values = {key: Cursor(*own) if entries[key]["kind"] == "cursor" else own for key, own in found.items()}
        return {**unpack(saved.record["progress"], saved.tensors), **values}

    def _undone(self, done: list[str], before: Mapping[str, Kept]) -> list[str]:
        """Put back what there was, the last first; the names of what would not have it."""
        lost = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for key in reversed(done):
                try:
                    self.items[key].put(before[key])
                except Exception:
                    lost.append(key)
        return lost


def _of_value(key: str, value: Any) -> Kept:
    if isinstance(value, Cursor):
        return Kept({"kind": "cursor", "value": [value.epoch, value.batch]}, {})
    packed, tensors = pack({key: value})
    return Kept({"kind": "value", "value": packed[key]}, tensors)


def _of(saved: Saved, key: str) -> Kept:
    entry = saved.record["objects"][key]
    # The record of the net that bears its own names stands where every checkpoint has it.
    return Kept({"net": saved.record["net"], **entry}, saved.tensors)


def _copied(kept: Kept) -> Kept:
    """The same apart from what it was taken from, in memory of the host."""
    return Kept(kept.entry, {name: own.detach().to("cpu", copy=True) for name, own in kept.tensors.items()})
