"""A net in a file: its arrays, buffers that its state_dict leaves out, its extra state, and which arrays are one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import StateError
from etude.keep.item import Item, Kept, Names, class_of, some
from etude.keep.plain import pack, unpack
from etude.step.states import listed
from etude.values.tree import has_shape

_EXTRA = "_extra_state"
"""The last word of the names under which a state_dict has the extra state of modules."""


class OfNet(Item):
    """A net. Where it is `bare` its arrays bear their own names, as in the file of a net alone."""

    kind = "net"

    def __init__(self, key: str, net: nn.Module, bare: bool) -> None:
        super().__init__(key)
        # A compiled module wraps the user's own; names are the user's.
        self.net: nn.Module = getattr(net, "_orig_mod", net)
        self.bare = bare
        self._prefix = "" if bare else f"state:{key}."
        self._beside = "buffer:" if bare else f"state:{key}.buffer:"

    def take(self, names: Names) -> Kept:
        arrays, others = _state(self.net)
        shapeless = [name for name, array in arrays.items() if not has_shape(array)]
        if shapeless:
            raise StateError(f"{self.key}: {some(shapeless)} without a shape as yet. Call the net once before.")
        odd = [name for name in arrays if ":" in name]
        if odd:
            raise StateError(f"{self.key}: {some(odd)}: the name of an array cannot have a colon. Rename the module.")
        ties, buffers = tied(arrays), _left_out(self.net, arrays)
        again = {name for group in ties for name in group[1:]}
        packed, tensors = pack({self.key: _by_module(others)})
        tensors |= {self._prefix + name: array for name, array in arrays.items() if name not in again}
        tensors |= {self._beside + name: buffer for name, buffer in buffers.items()}
        net = {"arrays": [name for name in arrays if name not in again], "buffers": list(buffers), "ties": ties}
        return Kept({"kind": self.kind, "class": class_of(self.net), "net": {**net, **packed[self.key]}}, tensors)

    def misfits(self, kept: Kept, names: Names) -> list[str]:
        saved, (arrays, _) = self._arrays_in(kept), _state(self.net)
        lacks = [name for name in arrays if name not in saved]
        more = [name for name in saved if name not in arrays]
        found = [f"the file lacks {some(lacks)}"] if lacks else []
        found += [f"the file has {some(more)}, which the net lacks"] if more else []
        for name, array in saved.items():
            if name in arrays:
                found += _differences(name, array, arrays[name])
        there, here = kept.entry["net"]["ties"], tied(arrays)
        if not found and there != here:
            found = [f"arrays that are one: in the file {_groups(there)}, here {_groups(here)}"]
        lost = [name for name in kept.entry["net"]["buffers"] if _owner(self.net, name) is None]
        return found + ([f"the file has the buffers {some(lost)}, which the net lacks"] if lost else [])

    def put(self, kept: Kept) -> None:
        net = kept.entry["net"]
        others = {_joined(path): value for path, value in unpack(net["extra"], kept.tensors).items()}
        others |= unpack(net["other"], kept.tensors)
        with torch.no_grad():
            self.net.load_state_dict({**self._arrays_in(kept), **others})
            for name in net["buffers"]:
                _put_buffer(self.net, name, kept.tensors[self._beside + name])

    def _arrays_in(self, kept: Kept) -> dict[str, Tensor]:
        """The arrays of a file under all their names."""
        net = kept.entry["net"]
        found = {name: kept.tensors[self._prefix + name] for name in net["arrays"]}
        return found | {name: found[group[0]] for group in net["ties"] for name in group}


def place_of(array: Tensor) -> object:
    """Where an array lies: two of one place, shape and dtype are one array."""
    if array.layout != torch.strided or array.is_meta or not array.numel():
        return id(array)
    return array.device, array.data_ptr(), array.shape, array.stride(), array.dtype


def tied(arrays: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of each array that has several."""
    groups: dict[object, list[str]] = {}
    for name, array in arrays.items():
        groups.setdefault(place_of(array), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _state(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The arrays in a net's state_dict, and what else is in it."""
    state = net.state_dict()
    arrays = {name: own for name, own in state.items() if isinstance(own, Tensor) and not _is_extra(name)}
    return arrays, {name: own for name, own in state.items() if name not in arrays}


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == _EXTRA


def _by_module(others: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Extra state by the path of its module, and what modules put into a state_dict besides."""
    extra = {name.rpartition(".")[0]: own for name, own in others.items() if _is_extra(name)}
    return {"extra": extra, "other": {name: own for name, own in others.items() if not _is_extra(name)}}


def _joined(path: str) -> str:
    return f"{path}.{_EXTRA}" if path else _EXTRA


def _left_out(net: nn.Module, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The buffers that a state_dict leaves out."""
    there = {place_of(array) for array in arrays.values()}
    found = {name: buffer for name, buffer in net.named_buffers() if name not in arrays}
    return {name: buffer for name, buffer in found.items() if place_of(buffer) not in there}


def _owner(net: nn.Module, name: str) -> nn.Module | None:
    """The module that has a buffer of this name, be it None as yet."""
    path, _, leaf = name.rpartition(".")
    try:
        module = net.get_submodule(path)
    except AttributeError:
        return None
    return module if leaf in module._buffers else None


def _put_buffer(net: nn.Module, name: str, saved: Tensor) -> None:
    """Write a buffer; one that is missing or has another shape as yet is made anew."""
    module, leaf = _owner(net, name), name.rpartition(".")[2]
    assert module is not None
    now = module._buffers[leaf]
    if now is not None and (now.shape, now.dtype) == (saved.shape, saved.dtype):
        now.copy_(saved)
        return
    like = now if now is not None else next((a for a in net.state_dict().values() if isinstance(a, Tensor)), saved)
    module._buffers[leaf] = saved.to(like.device, copy=True)


def _differences(name: str, saved: Tensor, here: Tensor) -> list[str]:
    if not has_shape(here):
        return []  # it takes the shape that is loaded
    if here.is_meta:
        return [f"{name!r} has no numbers here (on 'meta'): net.to_empty(device='cpu') makes room for them"]
    if (saved.shape, saved.dtype) == (here.shape, here.dtype):
        return []
    return [f"{name!r} is {_form(saved)} in the file, {_form(here)} here"]


def _form(array: Tensor) -> str:
    return f"{'x'.join(map(str, array.shape)) or 'one number'} {str(array.dtype).removeprefix('torch.')}"


def _groups(ties: list[list[str]]) -> str:
    return "; ".join(map(listed, ties)) or "none"
