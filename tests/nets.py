"""Nets, parts and trainings in small, for the tests of values, bind and step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from etude.step.trainer import Trainer
from etude.values.part import Part, everything, part, where
from etude.values.tree import Tree

# nets of the scenarios


def seeded(make: Callable[[], nn.Module], seed: int = 1) -> Any:
    """What `make` makes, the same arrays for the same seed, the process's generators as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def chain(seed: int = 1) -> nn.Sequential:
    """Linear(3, 5), Tanh, Linear(5, 2): the first and the third layer have arrays."""
    made: nn.Sequential = seeded(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), seed)
    return made


def long_chain(seed: int = 1) -> nn.Sequential:
    """Three linear layers, 0, 2 and 4, with activations between; 3 inputs, 2 outputs."""
    layers = lambda: (nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))  # noqa: E731
    made: nn.Sequential = seeded(lambda: nn.Sequential(*layers()), seed)
    return made


class Graph(nn.Module):
    """Parallel parts `a` and `b`, joined by `out`; 3 inputs, 2 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(3, 4)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.out(torch.cat([self.a(x).tanh(), self.b(x).tanh()], dim=1))
        return joined


def graph(seed: int = 1) -> Graph:
    made: Graph = seeded(Graph, seed)
    return made


def shared_chain(seed: int = 1, *more: nn.Module) -> nn.Sequential:
    """A linear layer, Tanh, and the same linear layer again; then `more`."""

    def make() -> nn.Sequential:
        layer = nn.Linear(3, 3)
        return nn.Sequential(layer, nn.Tanh(), layer, *more)

    made: nn.Sequential = seeded(make, seed)
    return made


class Tied(nn.Module):
    """Two linear layers, the weight of `out` being that of `emb`; biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Linear(3, 3)
        self.out = nn.Linear(3, 3)
        self.out.weight = self.emb.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.emb(x).tanh())
        return out


def tied(seed: int = 1) -> Tied:
    made: Tied = seeded(Tied, seed)
    return made


# what moved


def arrays(net: nn.Module) -> dict[str, Tensor]:
    """A copy of every array, by name."""
    return {name: array.detach().clone() for name, array in Tree(net).arrays.items()}


def changed(before: Mapping[str, Tensor], net: nn.Module) -> set[str]:
    """The names of the arrays that are not bit for bit what they were."""
    return {name for name, array in Tree(net).arrays.items() if not alike(before[name], array)}


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are alike to the bit, NaN included."""
    return one.shape == other.shape and one.dtype == other.dtype and bytes_of(one) == bytes_of(other)


def bytes_of(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy()) if tensor.numel() else b""


def memory_of(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """A copy of the optimizer's memory of each array."""
    state: Mapping[str, Mapping[str, Any]] = trainer.state_dict()["arrays"]
    copied = lambda kept: kept.detach().clone() if isinstance(kept, Tensor) else kept  # noqa: E731
    return {name: {key: copied(kept) for key, kept in own.items()} for name, own in state.items()}


def same_memory(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the memories of an array are alike to the bit."""
    return one.keys() == other.keys() and all(
        alike(one[key], other[key]) if isinstance(one[key], Tensor) else one[key] == other[key] for key in one
    )


def data(batches: int, size: int = 8, inputs: int = 3, outputs: int = 2, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches of inputs and targets."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda width: torch.randn(size, width, generator=generator)  # noqa: E731
    return [(draw(inputs), draw(outputs)) for _ in range(batches)]


def walk(net: nn.Module, trainer: Trainer, batches: Sequence[tuple[Tensor, Tensor]]) -> Iterator[set[str]]:
    """Train by squared error in a hand-written loop; after each step the names of what changed."""
    for x, y in batches:
        before = arrays(net)
        (net(x) - y).square().mean(1).sum().backward()
        trainer.step(len(x))
        yield changed(before, net)


def give_gradients(net: nn.Module, seed: int, scale: float = 1.0) -> None:
    """A gradient for every parameter, drawn from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * scale


# nets and parts for properties


class Named(nn.Module):
    """Children under names, called one after the other."""

    def __init__(self, children: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


class Scale(nn.Module):
    """A parameter beside a buffer, and a layer below them."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))
        self.register_buffer("shift", torch.zeros(2))
        self.inner = nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x) * self.gain + self.shift
        return y


_LEAVES: tuple[Callable[[], nn.Module], ...] = (
    lambda: nn.Linear(2, 2),
    lambda: nn.Linear(2, 2, bias=False),
    lambda: nn.LayerNorm(2),
    lambda: nn.BatchNorm1d(2),
    nn.Tanh,
    nn.Identity,
    Scale,
)
TYPES: dict[str, object] = {"Named": Named, "Scale": Scale}
"""What `read` has to be told about the types of these nets."""


@st.composite
def nets(draw: st.DrawFn, depth: int = 2) -> nn.Module:
    """A net from 2 numbers to 2: chains and named containers, nested, some modules shared, some weights tied."""
    made: list[nn.Module] = []
    body = draw(_modules(made, depth))
    net = Named({"first": nn.Linear(2, 2), "body": body, "last": nn.Linear(2, 2)})
    weights = [m for m in net.modules() if isinstance(m, nn.Linear)]
    for layer in weights[1:]:
        if draw(st.integers(0, 4)) == 0:
            layer.weight = draw(st.sampled_from(weights)).weight
    if draw(st.booleans()):
        draw(st.sampled_from(list(net.parameters()))).requires_grad = False
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    if not any(parameter.requires_grad for parameter in net.parameters()):
        next(net.parameters()).requires_grad = True
    return net


@st.composite
def _modules(draw: st.DrawFn, made: list[nn.Module], depth: int) -> nn.Module:
    kind = draw(st.integers(0, 5))
    if made and kind == 0:
        return draw(st.sampled_from(made))
    if depth == 0 or kind <= 2:
        leaf = draw(st.sampled_from(_LEAVES))()
        made.append(leaf)
        return leaf
    children = [draw(_modules(made, depth - 1)) for _ in range(draw(st.integers(1, 3)))]
    if kind <= 4:
        return nn.Sequential(*children)
    names = draw(st.permutations(["a", "b", "weight_of"]))
    return Named(dict(zip(names, children, strict=False)))


def is_a_vector(name: str, array: Tensor) -> bool:
    """A predicate with a name, so that `where(is_a_vector)` has a text form."""
    return array.dim() == 1


NAMES: dict[str, object] = {**TYPES, "is_a_vector": is_a_vector}


@st.composite
def parts(draw: st.DrawFn, net: nn.Module, size: int = 3) -> Part:
    """A part that is there in `net`; every piece of it too."""
    tree = Tree(net)
    if size and draw(st.booleans()):
        sign = draw(st.sampled_from("|&-~"))
        left = draw(parts(net, size - 1))
        if sign == "~":
            return ~left
        right = draw(parts(net, size - 1))
        return left | right if sign == "|" else left & right if sign == "&" else left - right
    made: Part = draw(_atoms(tree, ""))
    if size and draw(st.integers(0, 2)) == 0:
        modules = [path for path in tree.nodes if path and tree.children(path)]
        if modules:
            outer = draw(st.sampled_from(modules))
            return part(outer) / draw(_atoms(tree, outer))
    return made


def _atoms(tree: Tree, base: str) -> st.SearchStrategy[Part]:
    """Parts of one piece that are there inside a node."""
    below = [path[len(base) + 1 if base else 0 :] for path in tree.paths_below(base) if path != base]
    types = sorted({type(tree.nodes[path]) for path in tree.paths_below(base)}, key=lambda kind: kind.__name__)
    modules = [kind for kind in types if issubclass(kind, nn.Module)]
    count = len(tree.layers(base))
    found: list[Any] = [st.sampled_from(below).map(part), st.just(everything)]
    found.append(st.sampled_from(below).map(lambda path: part(f"*{path[-3:]}")))
    found.append(st.sampled_from(modules).map(part))
    if count:
        found.append(st.integers(-count, count - 1).map(part))
        found.append(st.integers(0, count - 1).map(lambda first: part(slice(first, None))))
        found.append(st.integers(1, count).map(lambda end: part(slice(None, end))))
    if any(is_a_vector(path, node) for path in tree.paths_below(base) if isinstance(node := tree.nodes[path], Tensor)):
        found.append(st.just(where(is_a_vector)))
    return st.one_of(found)
