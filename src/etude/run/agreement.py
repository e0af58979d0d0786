"""What a checkpoint and the program that goes on from it must agree in, and how they differ."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from etude.bind.table import RATE
from etude.data.assembled import Assembled
from etude.data.flow import Flow
from etude.data.saying import option_text
from etude.errors import PlanError, SettingError, nearest, warn
from etude.run.checked import Checked
from etude.run.plan import Plan
from etude.run.said import versions
from etude.step.states import listed

FREE = frozenset({"checkpoint", "workers", "time_limit", "strict", "device", "probes"})
"""Options that may differ: they change no bit of a step; the device itself is told with the machine."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""The address of an object says nothing about it, and differs in every process."""
PLAN = tuple(name for name in inspect.signature(Plan.__init__).parameters if name not in ("self", "settings"))
"""Every option of a plan: what a checkpoint may differ in."""

_TOLD = 4
"""Arrays of which it is said in what they differ."""
_MISSING = "(nothing said)"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that file and program say differently. `name` is what `accept` takes."""

    name: str
    saved: str
    now: str

    def __str__(self) -> str:
        return f"  {self.name}: {self.saved} in the file, {self.now} now"


Facts: TypeAlias = "dict[str, str | dict[str, str]]"
"""What a run was told, as text; of what is said of each array or module a text for each name."""


def facts(checked: Checked) -> Facts:
    """What a run was told: options, data, arrays, the settings of each array, and modules set to evaluation."""
    plan, flow = checked.plan, checked.flow
    options = {name: value for name, value in plan.options().items() if name not in FREE}
    said = {name: _ADDRESS.sub("", option_text(value)) for name, value in options.items()}
    arrays = checked.works[0].stepper.table.tree.arrays
    # A net that is in evaluation as a whole is set to training by the run.
    named = checked.net.named_modules() if checked.net.training else ()
    evaluator = checked.evaluator
    looked_at = (
        f"{evaluator.flow.samples} samples, the first batch with digest {evaluator.first_batch}" if evaluator else ""
    )
    return {
        **said,
        "validation data": looked_at or "none",
        "data": _ADDRESS.sub("", f"{_data(flow)}, the first with digest {checked.first_batch}"),
        "net": {name: f"{array.dtype} {tuple(array.shape)}" for name, array in arrays.items()},
        "settings": dict(_settings(checked)),
        "modes": {name: "evaluation" for name, module in named if not module.training},
    }


def _data(flow: Flow) -> str:
    """The data and how they become batches."""
    if isinstance(flow.source, Assembled):
        return f"{flow.source.length} samples in batches by {flow.source.said}"
    return f"{flow.samples} samples in {flow.batches_per_epoch} batches an epoch"


def machine(checked: Checked) -> dict[str, str]:
    """What bits may depend on besides."""
    return {"device": checked.device.type, "threads": str(torch.get_num_threads()), **versions()}


def agree(path: str, saved: Mapping[str, Any], now: Mapping[str, Any], accept: Collection[str] | bool) -> list[str]:
    """The names of what file and program differ in, all of it accepted.

    Raises:
        PlanError: what differs and is not accepted, as a list, and what to write.
        SettingError: `accept` names nothing in which they could differ.
    """
    found = list(differences(saved, now))
    names = [one.name for one in found]
    asked = names if accept is True else list(accept or ())
    # A script that is run again may accept what the file agrees in by now.
    known = [*names, *saved, *now, *PLAN]
    for name in asked:
        if name not in known:
            raise SettingError(
                f"accept={name!r}: there is nothing of that name. {path} differs in: {listed(names) or 'nothing'}."
                f"{nearest(name, known)}"
            )
    refused = [one for one in found if one.name not in asked]
    if refused:
        lines = "\n".join(map(str, refused))
        accepted = ", ".join(repr(one.name) for one in refused)
        meant = f"or, if the change is meant, write accept=[{accepted}]"
        if any(one.name == "net" for one in refused):
            meant = "another net cannot go on from it: give it another folder, and take arrays that fit with load_net"
        raise PlanError(
            f"{path} was saved by a run that was told otherwise:\n{lines}\nGoing on would give neither run. Say the "
            f"same as then; {meant}. Nothing was changed."
        )
    return names


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """Everything that file and program say differently; settings of arrays only if nothing else explains it."""
    names = [name for name in dict.fromkeys([*saved, *now]) if saved.get(name) != now.get(name)]
    for name in names:
        then, here = saved.get(name, _MISSING), now.get(name, _MISSING)
        if name == "settings" and len(names) > 1:
            continue
        if isinstance(then, Mapping) and isinstance(here, Mapping):
            changed = [each for each in dict.fromkeys([*then, *here]) if then.get(each) != here.get(each)]
            then, here = _of_some(then, changed), _of_some(here, changed)
        yield Difference(name, str(then), str(here))


def _of_some(said: Mapping[str, str], names: Sequence[str]) -> str:
    """What is said of the first of some names."""
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(f"{name!r} {said.get(name, 'not there')}" for name in names[:_TOLD]) + more


def tell_machine(path: str, saved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Warn where another machine, or other versions, may give other bits."""
    changed = [f"{name} {saved.get(name)} -> {value}" for name, value in now.items() if saved.get(name) != value]
    if changed:
        warn(f"{path} was saved elsewhere ({', '.join(changed)}): the run goes on, the same bits are not promised.")


def _settings(checked: Checked) -> Iterator[tuple[str, str]]:
    """What the rules, those left on modules too, make of every array; of several updates for each."""
    alone = len(checked.works) == 1
    for work in checked.works:
        base = _digest(repr(work.stepper.settings()))
        for row in work.stepper.table.rows:
            frozen = row.choices[RATE].frozen
            said = "frozen" if frozen else f"moves by rules with digest {_digest(base + repr(row.choices))}"
            yield from ((name if alone else f"{work.name}: {name}", said) for name in row.names)


def _digest(text: str) -> str:
    return hashlib.sha256(_ADDRESS.sub("", text).encode()).hexdigest()[:8]
