"""A net out of a file and into one: its arrays, extra state, modes, and which arrays are one under several names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from etude.errors import CheckpointError
from etude.keep.plain import pack, unpack
from etude.step.states import listed
from etude.values.tree import Tree

Packed: TypeAlias = "tuple[dict[str, Any], dict[str, Tensor]]"
"""Plain values, and the tensors that they speak of by name."""


def of_net(net: nn.Module) -> Packed:
    """The arrays of a net with their names, ties and extra state; arrays are not copied."""
    tree = Tree(net)
    hidden = set(_hidden(tree))
    extra, tensors = pack(dict(_extra(tree)), "state:net:")
    tensors.update({f"buffer:{name}" if name in hidden else name: a.detach() for name, a in tree.arrays.items()})
    record = {
        "arrays": [name for name in tree.arrays if name not in hidden],
        "buffers": [name for name in tree.arrays if name in hidden],
        "ties": [list(names) for names in tree.names.values() if len(names) > 1],
        "extra": extra,
        "still": [path for path, module in tree.nodes.items() if isinstance(module, nn.Module) and not module.training],
    }
    return record, tensors


@torch.no_grad()
def into_net(net: nn.Module, path: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the arrays of a file into a net.

    Raises:
        CheckpointError: the net has other arrays, shapes or ties; everything that differs is named, and nothing is
            changed.
    """
    tree = Tree(net)
    given = {name: tensors[name] for name in record["arrays"]}
    given.update({name: tensors[f"buffer:{name}"] for name in record["buffers"]})
    _refuse(path, [*_misfits(tree, given), *_untied(tree, record["ties"])])
    _put(tree, given)
    for owner, state in unpack(record["extra"], tensors).items():
        module = tree.nodes[owner]
        assert isinstance(module, nn.Module)
        module.set_extra_state(state)


def modes_into(net: nn.Module, record: Mapping[str, Any]) -> None:
    """Bring each module of a net into the mode, training or evaluation, that it had."""
    still = set(record["still"])
    for path, module in Tree(net).nodes.items():
        if isinstance(module, nn.Module):
            module.training = path not in still


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


def _refuse(path: str, wrong: list[str]) -> None:
    if wrong:
        raise CheckpointError(path, "the arrays of this net", "; ".join(wrong), damaged=False)


def _put(tree: Tree, given: Mapping[str, Tensor]) -> None:
    for name, value in given.items():
        array = tree.arrays.get(name)
        if array is not None and array.shape == value.shape:
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
    for path, module in tree.nodes.items():
        if isinstance(module, nn.Module) and type(module).get_extra_state is not nn.Module.get_extra_state:
            yield path, module.get_extra_state()


def _misfits(tree: Tree, given: Mapping[str, Tensor]) -> list[str]:
    """In what the arrays of a net differ from those of a file, in words."""
    free = {f"{path}.{key}" if path else key for path, key in _buffer_places(tree)}
    lacks = [name for name in tree.arrays if name not in given]
    more = [name for name in given if name not in tree.arrays and name not in free]
    found = [f"no {listed(lacks)}, which the net has"] if lacks else []
    found += [f"{listed(more)}, which the net does not have"] if more else []
    for name, value in given.items():
        array = tree.arrays.get(name)
        if array is None or name in free:
            continue
        if array.shape != value.shape:
            found.append(f"{name!r} of shape {tuple(value.shape)}, in the net it has {tuple(array.shape)}")
        elif array.dtype != value.dtype:
            found.append(f"{name!r} of {value.dtype}, in the net it is {array.dtype}")
    return found


def _buffer_places(tree: Tree) -> Iterator[tuple[str, str]]:
    for path, module in tree.nodes.items():
        if isinstance(module, nn.Module):
            yield from ((path, key) for key in module._buffers)


def _untied(tree: Tree, ties: list[list[str]]) -> list[str]:
    """Arrays that are one in the file and several in the net, or the other way round."""
    here = {frozenset(names) for names in tree.names.values() if len(names) > 1}
    there = {frozenset(names) for names in ties}
    found = [f"{listed(sorted(names))} as one array; tie them in the net" for names in there - here]
    one = "as arrays of their own, in the net they are one"
    return found + [f"{listed(sorted(names))} {one}" for names in here - there]


def _device(net: nn.Module) -> torch.device:
    return next((array.device for array in (*net.parameters(), *net.buffers())), torch.device("cpu"))
