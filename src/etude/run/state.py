"""The state of a run, out of it and back into it. What it is made of is listed in `etude.keep.state`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from etude.errors import CheckpointError, StateError
from etude.keep.arrays import Packed, Walked
from etude.keep.plain import pack, unpack
from etude.run.checked import Checked
from etude.step.states import listed


def of_run(checked: Checked, net: Walked, best: Mapping[str, Any]) -> Packed:
    """What the updates, the averages and the best net remember; the arrays are not copied."""
    record: dict[str, Any] = {"updates": {}, "averages": {}}
    record["net"], tensors = net.state()
    for work in checked.works:
        record["updates"][work.name] = _packed(work.state(), f"optimizer:{work.name}:", "arrays", tensors)
    kept = checked.averages.state()
    for name, one in kept["each"].items():
        record["averages"][name] = _packed(one, f"average:{name}:", "arrays", tensors)
    record["averages"] = {"each": record["averages"], "memory": pack(kept["memory"], "state:")[0]}
    record["best"] = _packed(best, "best:", "arrays", tensors)
    return record, tensors


def _packed(state: Mapping[str, Any], prefix: str, key: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A state as plain values; its tensors join the others, those under `key` with nothing but their names."""
    inner, own = pack(state[key], prefix, by_array=True)
    rest, others = pack({name: value for name, value in state.items() if name != key}, f"state:{prefix}")
    tensors.update(own)
    tensors.update(others)
    return {**rest, key: inner}


def into_run(
    checked: Checked, path: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor], progress: Any
) -> Mapping[str, Any]:
    """Put back what `of_run` took out, but for the arrays of the net; returns what the best net remembers.

    Raises:
        CheckpointError: the file is of other updates, averages or arrays.
    """
    names, there = [work.name for work in checked.works], record["updates"]
    if set(names) != set(there):
        raise CheckpointError(path, f"the updates {listed(names)}", f"those of {listed(there)}", damaged=False)
    averages = unpack(record["averages"], tensors)
    try:
        for work in checked.works:
            work.load(unpack(there[work.name], tensors), progress)
        checked.averages.load(averages)
    except (StateError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(path, "the state of this run", str(error), damaged=False) from error
    best: Mapping[str, Any] = unpack(record["best"], tensors)
    return best
