"""What is initialised as one: an array of a module, with what its axes mean there."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import ParametrizationList

from etude.values.tree import Tree

_GATES: tuple[tuple[type[nn.Module], int], ...] = ((nn.LSTM, 4), (nn.LSTMCell, 4), (nn.GRU, 3), (nn.GRUCell, 3))


@dataclass(frozen=True, slots=True)
class Layout:
    """What the axes of an array mean.

    Attributes:
        blocks: arrays of their own that stand one after the other along the first axis, such as the gates of an LSTM.
        inputs_first: whether a block is (in, out, kernel...) instead of (out, in, kernel...).
        groups: into how many parts that have nothing to do with one another the channels of a convolution fall.
        sides: equal parts along the second axis, such as the two directions that the next layer of an LSTM reads.
        padding: the row of an embedding that stands for padding, which is 0 and never trained; None: there is none.
    """

    blocks: int = 1
    inputs_first: bool = False
    groups: int = 1
    sides: int = 1
    padding: int | None = None


PLAIN = Layout()


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """An array, or the arrays of a parametrisation, that get their first values together.

    Attributes:
        name: of the array in the net; of what a parametrisation makes, where it is one.
        array: what it holds now. layout: what its axes mean.
        parts: names of the arrays of the net that hold it: itself, or the originals of a parametrisation.
        owner: path of the parametrisation; "" where it is an array of its own.
    """

    name: str
    array: Tensor
    layout: Layout
    parts: tuple[str, ...]
    owner: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.array.shape)


def unit_of(tree: Tree, name: str) -> Unit:
    """The unit that an array of a net belongs to.

    What torch's parametrisations make (`spectral_norm`, `weight_norm`, `orthogonal`) is one unit with all that it is
    made from, if the way back from a value to these is known.
    """
    owner, _, key = name.rpartition(".")
    module = tree.nodes[owner]
    if isinstance(module, ParametrizationList) and key.startswith("original"):
        if all(hasattr(each, "right_inverse") for each in module):
            listed = module
            return tree.remember(("unit", owner), lambda: _parametrised(tree, owner, listed))
        module, key = above(tree, owner)[1:]
    return Unit(name, tree.arrays[name], layout_of(module, key), (name,))


def above(tree: Tree, owner: str) -> tuple[str, Any, str]:
    """Of the path of a parametrisation: the path of its module, the module, and the name of what it makes."""
    path, _, key = owner.rpartition(".")
    place = path.removesuffix("parametrizations").removesuffix(".")
    return place, tree.nodes[place], key


def _parametrised(tree: Tree, owner: str, listed: nn.Module) -> Unit:
    place, module, key = above(tree, owner)
    # A copy, since some (spectral_norm) move on with every call.
    with torch.no_grad():
        made = deepcopy(listed).eval()()
    parts = tuple(n for n in tree.below(owner) if n.removeprefix(owner + ".").startswith("original"))
    return Unit(f"{place}.{key}" if place else key, made, layout_of(module, key), parts, owner)


def layout_of(module: object, key: str) -> Layout:
    """What the axes of the array `key` of a module mean."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        if key.startswith("weight_hr"):
            return PLAIN
        gates = next((count for kind, count in _GATES if isinstance(module, kind)), 1)
        both = bool(getattr(module, "bidirectional", False)) and key.startswith("weight_ih") and "_l0" not in key
        return Layout(gates, sides=2 if both else 1)
    if isinstance(module, nn.MultiheadAttention) and key.startswith("in_proj"):
        return Layout(3)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and key == "weight":
        return Layout(padding=module.padding_idx)
    if isinstance(module, _ConvTransposeNd) and key == "weight":
        return Layout(inputs_first=True, groups=module.groups)
    if isinstance(module, _ConvNd) and key == "weight":
        return Layout(groups=module.groups)
    return PLAIN


def fans(shape: tuple[int, ...], layout: Layout = PLAIN) -> tuple[int, int]:
    """How many numbers go into one output of a block, and how many outputs one input goes into.

    (out, in) of a matrix; channels times the kernel of a convolution, those of one group; n and n of n numbers. Neither
    is ever less than 1.

    Args:
        shape: of one block, as torch has it: (out, in, kernel...), or (in, out, kernel...) if `layout` says so.
    """
    if len(shape) < 2:
        n = prod(shape)
        return max(n, 1), max(n, 1)
    first, second, kernel = shape[0], shape[1], prod(shape[2:])
    first = first // layout.groups
    into, out = (first, second) if layout.inputs_first else (second, first)
    return max(into * kernel, 1), max(out * kernel, 1)
