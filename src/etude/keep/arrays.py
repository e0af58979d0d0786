"""A net out of a file and into one: its arrays, extra state, modes, and which arrays are one under several names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from etude.errors import CheckpointError, StateError
from etude.keep.plain import pack, unpack
from etude.step.states import some
from etude.values.tree import Tree, has_shape

Packed: TypeAlias = "tuple[dict[str, Any], dict[str, Tensor]]"
"""Plain values, and the tensors that they speak of by name."""

_TOLD = 8
"""Arrays of which it is said in what they differ."""

_EXTRA = "_extra_state"
"""The last word of the names under which a state_dict has the extra state of modules."""

_WRITING = ("state_dict", "_save_to_state_dict")
"""Methods by which a module may write more than its arrays into a state_dict."""


def of_net(net: nn.Module, key: str = "") -> Packed:
    """The arrays of a net with their names, ties and extra state; arrays are not copied.

    Args:
        key: "": arrays have their own names, as in the file of a net alone; otherwise all stand under "state:<key>.".

    Raises:
        StateError: an array has no shape yet, or a colon in its name; or extra state cannot be kept.
    """
    tree = Tree(net)
    _check(tree)
    hidden = set(_hidden(tree))
    extra, tensors = pack(dict(_extra(tree)), f"state:{key or 'net'}.extra.")
    other, more = pack(_other(tree), f"state:{key or 'net'}.other.")
    tensors |= more | {name_in_file(name, key, name in hidden): array.detach() for name, array in tree.arrays.items()}
    record = {
        "arrays": [name for name in tree.arrays if name not in hidden],
        "buffers": [name for name in tree.arrays if name in hidden],
        "ties": [list(names) for names in tree.names.values() if len(names) > 1],
        "parameters": [name for name in tree.arrays if name in tree.parameters],
        "frozen": [n for n, a in tree.arrays.items() if n in tree.parameters and not a.requires_grad],
        "extra": extra,
        "other": other,
        "still": [path for path, module in _modules(tree) if not module.training],
    }
    return record, tensors


class Walked:
    """A net whose state is taken again and again: it is walked anew only where arrays came or went.

    Args:
        net: modules are neither added nor exchanged while this is used.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net: nn.Module = getattr(net, "_orig_mod", net)
        self._modules = [(path, module) for path, module in self._net.named_modules(remove_duplicate=False)]
        self._homes = [home for module in self._net.modules() for home in (module._parameters, module._buffers)]
        self._plain = not any(_writes_itself(m) or _has_extra(m) for m in self._net.modules())
        self._known: tuple[list[list[str]], dict[str, Any], list[tuple[str, Mapping[str, Any], str]]] | None = None

    def state(self) -> Packed:
        """What `of_net` gives."""
        if not self._plain:
            return of_net(self._net)
        there = [[key for key, array in home.items() if array is not None] for home in self._homes]
        if self._known is None or self._known[0] != there:
            self._known = (there, *self._walk())
        still = [path for path, module in self._modules if not module.training]
        tensors = {name: home[key] for name, home, key in self._known[2]}
        frozen = [name for name in self._known[1]["parameters"] if not tensors[name].requires_grad]
        return {**self._known[1], "still": still, "frozen": frozen}, tensors

    def _walk(self) -> tuple[dict[str, Any], list[tuple[str, Mapping[str, Any], str]]]:
        record, _ = of_net(self._net)
        tree, hidden = Tree(self._net), set(record["buffers"])
        places = []
        for name in tree.arrays:
            owner, _, key = name.rpartition(".")
            module = tree.nodes[owner]
            assert isinstance(module, nn.Module)
            home: Mapping[str, Any] = module._parameters if key in module._parameters else module._buffers
            places.append((name_in_file(name, "", name in hidden), home, key))
        return record, places


def name_in_file(name: str, key: str = "", hidden: bool = False) -> str:
    """Under what name a file has an array; `hidden` are the buffers that a state_dict leaves out."""
    return f"{f'state:{key}.' if key else ''}{'buffer:' if hidden else ''}{name}"


@torch.no_grad()
def into_net(
    net: nn.Module,
    path: str,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    key: str = "",
    grown: bool = False,
) -> None:
    """Write the arrays of a file into a net.

    Args:
        key: as for `of_net`. grown: modules may have registered or let go of buffers since they were made as `net` is.

    Raises:
        CheckpointError: the net has other arrays, shapes or ties; everything that differs is named, and nothing is
            changed.
    """
    check_net(net, path, record, tensors, key, grown)
    if grown:
        _come_and_go(Tree(net), record)
    tree = Tree(net)
    _put(tree, _given(record, tensors, key))
    for owner, state in unpack(record["extra"], tensors).items():
        module = tree.nodes[owner]
        assert isinstance(module, nn.Module)
        module.set_extra_state(state)
    other = unpack(record.get("other", {}), tensors)
    if other:
        tree.net.load_state_dict({**tree.net.state_dict(), **other})


def check_net(
    net: nn.Module,
    path: str,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    key: str = "",
    grown: bool = False,
) -> None:
    """Raise CheckpointError unless the net has the arrays of the file; as for `into_net`."""
    _refuse(path, misfits(net, record, tensors, key, grown))


def misfits(
    net: nn.Module, record: Mapping[str, Any], tensors: Mapping[str, Tensor], key: str = "", grown: bool = False
) -> list[str]:
    """What a file has otherwise than a net, as ends of a sentence: "found no '0.weight', which the net has"."""
    tree = Tree(net)
    extra = [path for path in record["extra"] if not isinstance(tree.nodes.get(path), nn.Module)]
    found = [f"extra state of {some(extra)}, which the net does not have"] if extra else []
    given = _given(record, tensors, key)
    coming, going = _coming_and_going(tree, record) if grown else (set(), set())
    given = {name: value for name, value in given.items() if name not in coming}
    given |= {name: tree.arrays[name] for name in going}
    return [*_misfits(tree, given), *_untied(tree, record["ties"]), *found]


def _coming_and_going(tree: Tree, record: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Buffers of a file that the net does not have as yet, and those that it had lost by then.

    A module may register one in its first step, or let go of one.
    """
    names = {*record["arrays"], *record["buffers"]}
    homes = {path for path, _ in _modules(tree)}
    coming = {name for name in names - set(record["parameters"]) - set(tree.arrays) if name.rpartition(".")[0] in homes}
    free = {f"{path}.{key}" if path else key for path, key in _buffer_places(tree)}
    ties = {name for group in record["ties"] for name in group}
    return coming - free, {name for name in tree.arrays if name not in names | tree.parameters | ties}


def _come_and_go(tree: Tree, record: Mapping[str, Any]) -> None:
    coming, going = _coming_and_going(tree, record)
    for name in (*coming, *going):
        owner, _, key = name.rpartition(".")
        module = tree.nodes[owner]
        assert isinstance(module, nn.Module)
        if name in going:
            module._buffers[key] = None
        else:
            module.register_buffer(key, None, persistent=name in record["arrays"])


def _given(record: Mapping[str, Any], tensors: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    """The arrays and hidden buffers of a net in a file, by their own names."""
    given = {name: tensors[name_in_file(name, key)] for name in record["arrays"]}
    return given | {name: tensors[name_in_file(name, key, True)] for name in record["buffers"]}


def modes_into(net: nn.Module, record: Mapping[str, Any]) -> None:
    """Bring each module into the mode that it had, training or evaluation; and what required a gradient does again."""
    tree, still, frozen = Tree(net), set(record["still"]), set(record["frozen"])
    for path, module in _modules(tree):
        module.training = path not in still
    for name in tree.parameters & set(record["parameters"]):
        if tree.arrays[name].requires_grad != (name not in frozen):
            tree.arrays[name].requires_grad = name not in frozen


@torch.no_grad()
def put_arrays(net: nn.Module, path: str, given: Mapping[str, Tensor]) -> None:
    """Write the arrays of a state_dict into a net; one that is tied may be there under any or all of its names.

    Raises:
        CheckpointError: as for `into_net`.
    """
    tree = Tree(net)
    hidden, known = set(_hidden(tree)), {one for names in tree.names.values() for one in names}
    named = {tree.name_of(name) if name in known else name: value for name, value in given.items()}
    # What a state_dict leaves out need not be there.
    here = {name: tree.arrays[name] for name in hidden - set(named)}
    _refuse(path, _misfits(tree, {**named, **here}))
    _put(tree, named)


def _most(faults: list[str]) -> list[str]:
    """The first of many faults, and how many more there are."""
    return faults if len(faults) <= _TOLD else [*faults[:_TOLD], f"and {len(faults) - _TOLD} more"]


def _refuse(path: str, wrong: list[str]) -> None:
    if wrong:
        raise CheckpointError(path, "the arrays of this net", "; ".join(_most(wrong)), damaged=False)


def _put(tree: Tree, given: Mapping[str, Tensor]) -> None:
    for name, value in given.items():
        array = tree.arrays.get(name)
        if array is not None and (array.shape, array.dtype) == (value.shape, value.dtype):
            array.copy_(value)
        else:
            # A buffer that comes and goes, or that grows.
            owner, _, key = name.rpartition(".")
            module = tree.nodes[owner]
            assert isinstance(module, nn.Module)
            module._buffers[key] = value.to(_device(tree.net), copy=True)


def _hidden(tree: Tree) -> Iterator[str]:
    """Names of the buffers that the net's state_dict leaves out."""
    for name in tree.arrays:
        owner, _, key = name.rpartition(".")
        module = tree.nodes[owner]
        if isinstance(module, nn.Module) and key in module._non_persistent_buffers_set:
            yield name


def _extra(tree: Tree) -> Iterator[tuple[str, Any]]:
    """What modules keep besides arrays, by their path."""
    for path, module in _modules(tree):
        if _has_extra(module):
            yield path, module.get_extra_state()


def _other(tree: Tree) -> dict[str, Any]:
    """What modules that write their own part of a state_dict put there besides arrays and extra state."""
    if not any(map(_writes_itself, tree.net.modules())):
        return {}
    known = {path for paths in tree.names.values() for path in paths}
    state = tree.net.state_dict()
    return {name: own for name, own in state.items() if name not in known and name.rpartition(".")[2] != _EXTRA}


def _has_extra(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def _writes_itself(module: nn.Module) -> bool:
    hooks = (module._state_dict_hooks, module._state_dict_pre_hooks)
    return any(hooks) or any(getattr(type(module), name) is not getattr(nn.Module, name) for name in _WRITING)


def _check(tree: Tree) -> None:
    shapeless = [name for name, array in tree.arrays.items() if not has_shape(array)]
    if shapeless:
        raise StateError(f"{some(shapeless)} without a shape as yet. Call the net once before.")
    odd = [name for name in tree.arrays if ":" in name]
    if odd:
        raise StateError(f"{some(odd)}: a name with a colon cannot be kept. Rename the module.")


def _modules(tree: Tree) -> Iterator[tuple[str, nn.Module]]:
    """Every module under every path that it has."""
    for path, node in tree.nodes.items():
        if isinstance(node, nn.Module):
            yield path, node


def _misfits(tree: Tree, given: Mapping[str, Tensor]) -> list[str]:
    """In what the arrays of a net differ from those of a file, in words."""
    free = {f"{path}.{key}" if path else key for path, key in _buffer_places(tree)}
    lacks = [name for name in tree.arrays if name not in given]
    more = [name for name in given if name not in tree.arrays and name not in free]
    found = [f"no {some(lacks)}, which the net has"] if lacks else []
    found += [f"{some(more)}, which the net does not have"] if more else []
    for name, value in given.items():
        array = tree.arrays.get(name)
        if array is not None and array.is_meta:
            found.append(f"{name!r}, which has no numbers in the net; net.to_empty(device='cpu') makes room for them")
        if array is None or name in free or not has_shape(array):
            continue
        if array.shape != value.shape:
            found.append(f"{name!r} of shape {tuple(value.shape)}, in the net it has {tuple(array.shape)}")
        elif array.dtype != value.dtype:
            found.append(f"{name!r} of {value.dtype}, in the net it is {array.dtype}")
    return found


def _buffer_places(tree: Tree) -> Iterator[tuple[str, str]]:
    for path, module in _modules(tree):
        yield from ((path, key) for key in module._buffers)


def _untied(tree: Tree, ties: list[list[str]]) -> list[str]:
    """Arrays that are one in the file and several in the net, or the other way round."""
    here = {frozenset(names) for names in tree.names.values() if len(names) > 1}
    there = {frozenset(names) for names in ties}
    found = [f"{some(sorted(names))} as one array; tie them in the net" for names in there - here]
    one = "as arrays of their own, in the net they are one"
    return found + [f"{some(sorted(names))} {one}" for names in here - there]


def _device(net: nn.Module) -> torch.device:
    return next((array.device for array in (*net.parameters(), *net.buffers())), torch.device("cpu"))
