"""The objects of a hand-written loop, by what they are: nets, trainers, generators, and what has a `state_dict`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import StateError
from etude.keep import generators
from etude.keep.arrays import into_net, misfits, modes_into, of_net
from etude.keep.item import Item, Kept, Names, class_of
from etude.keep.plain import pack, unpack
from etude.step.trainer import Trainer


class OfNet(Item):
    """A net. Where it is `bare` its arrays bear their own names, as in the file of a net alone."""

    kind = "net"

    def __init__(self, key: str, net: nn.Module, bare: bool) -> None:
        super().__init__(key)
        # A compiled module wraps the user's own; names are the user's.
        self.net: nn.Module = getattr(net, "_orig_mod", net)
        self.bare = bare
        self._key = "" if bare else key

    def take(self, names: Names) -> Kept:
        try:
            net, tensors = of_net(self.net, self._key)
        except StateError as error:
            raise StateError(f"{self.key}: {error}") from error
        return Kept({"kind": self.kind, "class": class_of(self.net), "net": net}, tensors)

    def misfits(self, kept: Kept, names: Names) -> list[str]:
        return [f"the file has {text}" for text in misfits(self.net, kept.entry["net"], kept.tensors, self._key)]

    def put(self, kept: Kept) -> None:
        into_net(self.net, "the file", kept.entry["net"], kept.tensors, self._key)
        modes_into(self.net, kept.entry["net"])


class OfState(Item):
    """Anything with `state_dict` and `load_state_dict`: an optimizer, a scheduler, a scaler, a loader."""

    kind = "state"

    def __init__(self, key: str, given: Any) -> None:
        super().__init__(key)
        self.given = given

    def take(self, names: Names) -> Kept:
        packed, tensors = pack({self.key: _plain(self.given.state_dict())})
        order = [_named(array, names) for array in self.moves()]
        return Kept(
            {"kind": self.kind, "class": class_of(self.given), "value": packed[self.key], "moves": order}, tensors
        )

    def misfits(self, kept: Kept, names: Names) -> list[str]:
        saved, here = kept.entry["class"], class_of(self.given)
        if saved != here:
            return [f"it is of class {here}, in the file of {saved}"]
        return _other_order(kept.entry["moves"], [_named(array, names) for array in self.moves()])

    def put(self, kept: Kept) -> None:
        saved = unpack(kept.entry["value"], kept.tensors)
        self.given.load_state_dict(_as_here(saved, self.given.state_dict()))

    def moves(self) -> Sequence[Tensor]:
        groups = self.given.param_groups if isinstance(self.given, torch.optim.Optimizer) else ()
        return [array for group in groups for array in group["params"]]


class OfTrainer(Item):
    """A trainer. The memory of its optimizer and its averages have names of their own in the file.

    Args:
        alone: whether it is the only one; the averages of several bear its name. keep: for its `load_state_dict`.
    """

    kind = "trainer"

    def __init__(self, key: str, trainer: Trainer, alone: bool, keep: str | None) -> None:
        super().__init__(key)
        self.trainer = trainer
        self._keep = keep
        self._memory = f"optimizer:{key}:"
        self._average = "average:" if alone else f"average:{key}."

    def take(self, names: Names) -> Kept:
        state = self.trainer.state_dict()
        memory, averages = state.pop("arrays"), state.pop("averages")
        each = {name: dict(one) for name, one in averages["each"].items()}
        parts = {f"{self._memory}{name}:": own for name, own in memory.items()}
        parts |= {f"{self._average}{name}:": one.pop("arrays") for name, one in each.items()}
        packed, tensors = pack({self.key: {**state, "averages": {**averages, "each": each}}})
        entry: dict[str, Any] = {"kind": self.kind, "class": class_of(self.trainer), "value": packed[self.key]}
        entry["parts"] = {}
        for prefix, own in parts.items():
            entry["parts"][prefix], more = pack(own, prefix)
            tensors |= more
        return Kept(entry, tensors)

    def misfits(self, kept: Kept, names: Names) -> list[str]:
        return []  # load_state_dict looks at everything before it changes anything

    def put(self, kept: Kept) -> None:
        state = unpack(kept.entry["value"], kept.tensors)
        parts = {prefix: unpack(own, kept.tensors) for prefix, own in kept.entry["parts"].items()}
        memory = self._memory
        state["arrays"] = {p[len(memory) : -1]: own for p, own in parts.items() if p.startswith(memory)}
        for name, one in state["averages"]["each"].items():
            one["arrays"] = parts[f"{self._average}{name}:"]
        self.trainer.load_state_dict(state, keep=self._keep)

    def averages(self) -> dict[str, Any]:
        """How often each average has taken the arrays, where their names are those of a checkpoint of a run."""
        counts = {name: {"count": one.count} for name, one in self.trainer.averages.items()}
        return counts if self._average == "average:" else {}

    def moves(self) -> Sequence[Tensor]:
        table = self.trainer.table
        return [table.tree.arrays[name] for name in table.names]


class OfGenerator(Item):
    """A random generator that the program has made."""

    kind = "generator"

    def __init__(self, key: str, generator: generators.Generator) -> None:
        super().__init__(key)
        self.generator = generator

    def take(self, names: Names) -> Kept:
        packed, tensors = pack({self.key: generators.state_of(self.generator)})
        made = generators.kind_of(self.generator)
        return Kept({"kind": self.kind, "class": made, "value": packed[self.key]}, tensors)

    def misfits(self, kept: Kept, names: Names) -> list[str]:
        saved, here = kept.entry["class"], generators.kind_of(self.generator)
        return [] if saved == here else [f"it is {here}, in the file {saved}"]

    def put(self, kept: Kept) -> None:
        generators.put(self.generator, unpack(kept.entry["value"], kept.tensors))


def items(objects: Mapping[str, Any], keep: str | None = None) -> dict[str, Item]:
    """Those of the values of a call that are more than plain values, by their names in the call."""
    nets = [key for key, given in objects.items() if isinstance(given, nn.Module)]
    bare = nets[0] if len(nets) == 1 else "net"
    alone = sum(isinstance(given, Trainer) for given in objects.values()) == 1
    found: dict[str, Item] = {}
    for key, given in objects.items():
        if isinstance(given, nn.Module):
            found[key] = OfNet(key, given, key == bare)
        elif isinstance(given, Trainer):
            found[key] = OfTrainer(key, given, alone, keep)
        elif generators.is_generator(given):
            found[key] = OfGenerator(key, given)
        elif _has_state(given):
            found[key] = OfState(key, given)
    return found


def place_of(array: Tensor) -> object:
    """Where an array lies: two of one place, shape and dtype are one array."""
    if array.layout != torch.strided or array.is_meta or not array.numel():
        return id(array)
    return array.device, array.data_ptr(), array.shape, array.stride(), array.dtype


def names_in(found: Mapping[str, Item]) -> dict[int, str]:
    """Names of the parameters of all nets among them, the first of each, by identity."""
    nets = [(key, item.net) for key, item in found.items() if isinstance(item, OfNet)]
    named = [(id(array), f"{key}.{name}") for key, net in nets for name, array in net.named_parameters()]
    return dict(reversed(named))


def _has_state(given: Any) -> bool:
    methods = (getattr(given, name, None) for name in ("state_dict", "load_state_dict"))
    return not isinstance(given, type) and all(map(callable, methods))


def _named(array: Tensor, names: Names) -> list[Any]:
    return [names.get(id(array)), list(array.shape)]


def _other_order(saved: list[Any], here: list[Any]) -> list[str]:
    """A torch optimizer knows its arrays by their places alone: another order would go unnoticed."""
    if len(saved) != len(here):
        return [f"it moves {len(here)} arrays, in the file {len(saved)}"]
    for place, (old, new) in enumerate(zip(saved, here, strict=True)):
        if old[1] != new[1] or (None not in (old[0], new[0]) and old[0] != new[0]):
            return [f"its array {place} is {_said(new)}, in the file {_said(old)}"]
    return []


def _said(named: list[Any]) -> str:
    name, shape = named
    form = "x".join(map(str, shape)) or "one number"
    return f"{name} ({form})" if name else f"one of {form}"


def _plain(value: Any) -> Any:
    """The same with dicts, tuples and lists in place of classes derived from them: schedulers of torch have such."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return [*map(_plain, value)] if isinstance(value, list) else value


def _as_here(saved: Any, here: Any) -> Any:
    """What was kept, with dicts of the classes that the object has now in their places."""
    if isinstance(saved, list) and isinstance(here, list) and len(saved) == len(here):
        return [_as_here(old, new) for old, new in zip(saved, here, strict=True)]
    if not isinstance(saved, dict) or not isinstance(here, dict):
        return saved
    made = {key: _as_here(own, here.get(key)) for key, own in saved.items()}
    if type(here) is dict:
        return made
    kind = copy.copy(here)
    kind.clear()
    kind.update(made)
    return kind
