"""One walk of a net: its nodes, its arrays, and every name of an array that is shared.

A *node* is a module or an array (parameter or buffer), addressed by its dotted path; the net itself is `""`. A module
or an array that is reached in several ways is a node under each of its paths. The first path of an array, in the order
of the net's `state_dict`, is its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

Node = nn.Module | Tensor
T = TypeVar("T")
_REMEMBERED = 8192
"""Keys remembered by one tree; a schedule that makes a new part at each step would bring more and more."""


class Tree:
    """The structure of one net, read once.

    Attributes:
        net: the module that was walked (what `torch.compile` wraps, if it is wrapped).
        nodes: path to module or array, parents before children, in the order of `state_dict`.
        arrays: name to array, each array once; parameters and buffers.
        names: name to every path of the array, the name itself first.
        parameters: names of the arrays that are parameters; the others are buffers.
        trainable: names of the parameters that require a gradient.
    """

    def __init__(self, net: nn.Module) -> None:
        # A compiled module wraps the user's own; names are the user's.
        self.net: nn.Module = getattr(net, "_orig_mod", net)
        self.nodes: dict[str, Node] = {}
        self.arrays: dict[str, Tensor] = {}
        self.names: dict[str, tuple[str, ...]] = {}
        self._children: dict[str, list[str]] = {}
        self._name_of: dict[str, str] = {}
        self._below: dict[str, tuple[str, ...]] = {}
        self._first_name: dict[int, str] = {}
        self._memo: dict[object, object] = {}
        self.parameters: set[str] = set()
        self._walk(self.net, "", ())
        self.trainable: tuple[str, ...] = tuple(
            name for name, array in self.arrays.items() if name in self.parameters and array.requires_grad
        )

    def _walk(self, module: nn.Module, path: str, above: tuple[int, ...]) -> None:
        self.nodes[path] = module
        children = self._children.setdefault(path, [])
        above = (*above, id(module))
        own = [*module._parameters.items(), *module._buffers.items()]
        for key, array in own:
            if array is not None:
                self._add_array(_join(path, key), array)
                children.append(_join(path, key))
        self.parameters.update(
            self._name_of[_join(path, key)] for key, array in module._parameters.items() if array is not None
        )
        for key, child in module._modules.items():
            if child is not None and id(child) not in above:
                children.append(_join(path, key))
                self._walk(child, _join(path, key), above)
        self._below[path] = tuple(dict.fromkeys(n for c in children for n in self._below[c]))

    def _add_array(self, path: str, array: Tensor) -> None:
        name = self._first_name.setdefault(id(array), path)
        self.nodes[path] = array
        self.arrays.setdefault(name, array)
        self.names[name] = (*self.names.get(name, ()), path)
        self._name_of[path] = name
        self._children[path] = []
        self._below[path] = (name,)

    def name_of(self, path: str) -> str:
        """The name of the array that has `path` as one of its paths."""
        return self._name_of[path]

    def children(self, path: str) -> list[str]:
        """Paths of the node's own arrays, then of its child modules, in order."""
        return self._children[path]

    def layers(self, path: str) -> list[str]:
        """Paths of the node's child modules, in the order of definition."""
        return [child for child in self._children[path] if isinstance(self.nodes[child], nn.Module)]

    def below(self, path: str) -> tuple[str, ...]:
        """Names of all arrays at or under a node, in order, each once."""
        return self._below[path]

    def paths_below(self, path: str) -> Iterator[str]:
        """The node's path and those of all nodes under it."""
        yield path
        for child in self._children[path]:
            yield from self.paths_below(child)

    def paths_of(self, found: Callable[[Node], bool]) -> list[str]:
        """Paths of the nodes for which `found` is true."""
        return [path for path, node in self.nodes.items() if found(node)]

    def in_order(self, names: Iterable[str]) -> tuple[str, ...]:
        """`names` in the order of the net, each once."""
        wanted = set(names)
        return tuple(name for name in self.arrays if name in wanted)

    def remember(self, key: object, make: Callable[[], T]) -> T:
        """`make()`, computed once for each key (a resolved part, say) while this tree lives."""
        if key not in self._memo:
            if len(self._memo) >= _REMEMBERED:
                self._memo.clear()
            self._memo[key] = make()
        return cast("T", self._memo[key])


def has_shape(array: Tensor) -> bool:
    """Whether an array has a shape: those of lazy modules get one when the net is first called."""
    return not isinstance(array, UninitializedParameter | UninitializedBuffer)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
