"""Where: parts of a net, said before there is a net.

A part is a frozen value. It is resolved against the net it meets, lazily, by `part.of(net)`; a part that matches
nothing there is an error that names what is near. What can be written:

=====================================  =============================================================================
`part("encoder")`                      the child of that name, with all arrays under it; `"encoder.0.weight"` goes down
`part("*.bias")`                       every node whose path matches: `*` any characters (dots too), `?` one, `[ab]`;
                                       `*.` in front stands for any depth, this level included
`part(re.compile(r"layers\\.\\d+"))`     every node whose whole path matches the regular expression
`part(nn.LayerNorm)`                   every module of that type; `nn.LayerNorm | nn.BatchNorm1d` of either
`part(0)`, `part(-1)`                   the n-th layer (child module), counted from 0, or from the end
`part(slice(2, 6))`                    a half-open span of layers
`part(("layers", 0, "weight"))`        a path of parts, each inside the one before: `part("layers") / 0 / "weight"`
`part(net.encoder)`                    the module or parameter itself
`where(lambda name, array: ...)`       the arrays for which the function is true
`a | b`, `a & b`, `a - b`, `~a`        union, intersection, difference, all the rest
`a / b`, `a[0]`, `a[2:6]`              b inside each node of a; children of a
`everything`                           the whole net
=====================================  =============================================================================

A name is exact where it is written; searching is said (a pattern, a type, a function), so a part never hits a namesake
by accident. An array that is shared has several names, and each of them stands for the one array.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import UnionType
from typing import TypeAlias, get_args

from torch import Tensor, nn

from etude.arguments import named
from etude.errors import PartError, nearest
from etude.values.tree import Tree

PartLike: TypeAlias = (
    "Part | str | int | slice | tuple[PartLike, ...] | set[PartLike] | frozenset[PartLike] | type[nn.Module]"
    " | UnionType | nn.Module | Tensor | re.Pattern[str] | Callable[[str, Tensor], bool]"
)


class Part(ABC):
    """A set of nodes or arrays of whatever net it meets. Made by `part(...)`; frozen, hashable, equal by value."""

    __slots__ = ()

    def of(self, net: nn.Module | Tree) -> dict[str, Tensor]:
        """The arrays (parameters and buffers) of this part in `net`, by name, in the order of the net.

        Raises:
            PartError: nothing in the net is meant by some piece of this part.
        """
        tree = net if isinstance(net, Tree) else Tree(net)
        return {name: tree.arrays[name] for name in self.names(tree)}

    def names(self, net: nn.Module | Tree) -> tuple[str, ...]:
        """The names of the arrays of this part in `net`, in order. Raises PartError as `of` does."""
        tree = net if isinstance(net, Tree) else Tree(net)
        return tree.remember(("names", self), lambda: tree.in_order(_arrays(tree, self.nodes(tree))))

    def modules(self, net: nn.Module | Tree) -> dict[str, nn.Module]:
        """The modules of this part in `net`, by path, in order. Raises PartError as `of` does."""
        tree = net if isinstance(net, Tree) else Tree(net)
        chosen = set(self.nodes(tree))
        return {path: node for path, node in tree.nodes.items() if path in chosen and isinstance(node, nn.Module)}

    def nodes(self, tree: Tree) -> tuple[str, ...]:
        """The paths of the nodes that this part selects, before arrays are looked up under them."""
        return tuple(dict.fromkeys(self._inside(tree, ("",))))

    @property
    def may_be_empty(self) -> bool:
        """Whether a rule for it may select nothing: only a part that is defined for any net, like `no_decay`."""
        return False

    @abstractmethod
    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        """Paths selected inside the nodes `bases`. A piece that is in none of them raises PartError."""

    def __or__(self, other: PartLike) -> Part:
        return Union(self, part(other))

    def __ror__(self, other: PartLike) -> Part:
        return Union(part(other), self)

    def __and__(self, other: PartLike) -> Part:
        return Intersection(self, part(other))

    def __rand__(self, other: PartLike) -> Part:
        return Intersection(part(other), self)

    def __sub__(self, other: PartLike) -> Part:
        return Difference(self, part(other))

    def __rsub__(self, other: PartLike) -> Part:
        return Difference(part(other), self)

    def __invert__(self) -> Part:
        return Difference(everything, self)

    def __truediv__(self, other: PartLike) -> Part:
        return _under(self, part(other))

    def __rtruediv__(self, other: PartLike) -> Part:
        return _under(part(other), self)

    def __getitem__(self, index: int | slice | str) -> Part:
        return _under(self, part(index))

    def __iter__(self) -> Iterator[Part]:
        # Without this, Python would build an endless iterator out of __getitem__.
        raise PartError(f"{self!r} cannot be iterated: it is a description. Ask .of(net) for the arrays.")

    def __mul__(self, times: int) -> Repeat:
        return Repeat(self, times)

    __rmul__ = __mul__


@dataclass(frozen=True, slots=True)
class Repeat:
    """A value for several steps in a row of a `cycle`: `part("critic") * 5`.

    Raises:
        PartError: `times` is not a whole number of at least 1.
    """

    value: object
    times: int

    def __post_init__(self) -> None:
        if isinstance(self.times, bool) or not isinstance(self.times, int) or self.times < 1:
            raise PartError(
                f"{self.value!r} * {self.times!r}: a part is repeated a whole number of times, at least 1. "
                f"Write {self.value!r} * 5 for five steps in a row."
            )

    def __repr__(self) -> str:
        return f"{_wrapped(self.value)} * {self.times}"


@dataclass(frozen=True, slots=True)
class Everything(Part):
    """The whole net: every array."""

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        return bases

    def __repr__(self) -> str:
        return "everything"


everything: Part = Everything()


@dataclass(frozen=True, slots=True)
class Named(Part):
    """The node of exactly this path, from the level at which it is written."""

    name: str

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        found = [path for path in (_join(base, self.name) for base in bases) if path in tree.nodes]
        if not found:
            raise PartError(f"{self!r} matches nothing: {_absent(tree, bases, self.name)}")
        return found

    def __repr__(self) -> str:
        return f"part({self.name!r})"


@dataclass(frozen=True, slots=True)
class Matching(Part):
    """Every node whose path below the present level matches a pattern.

    `*` also crosses dots, and `*.` in front also stands for nothing: `*.bias` is every bias, at this level too.
    """

    pattern: str

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        patterns = [self.pattern, self.pattern.removeprefix("*.")] if self.pattern[2:] else [self.pattern]
        return _search(tree, bases, self, lambda path: any(fnmatchcase(path, pattern) for pattern in patterns))

    def __repr__(self) -> str:
        return f"part({self.pattern!r})"


@dataclass(frozen=True, slots=True)
class Regular(Part):
    """Every node whose path below the present level matches a regular expression as a whole."""

    pattern: re.Pattern[str]

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        return _search(tree, bases, self, lambda path: self.pattern.fullmatch(path) is not None)

    def __repr__(self) -> str:
        flags = self.pattern.flags & ~re.UNICODE
        return f"part(re.compile({self.pattern.pattern!r}{f', {flags}' if flags else ''}))"


@dataclass(frozen=True, slots=True)
class OfType(Part):
    """Every module of a type, or of a type derived from it."""

    type: type[nn.Module]

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        below = [path for base in bases for path in tree.paths_below(base)]
        found = [path for path in below if isinstance(tree.nodes[path], self.type)]
        if not found:
            there = {type(tree.nodes[path]).__name__ for path in below if isinstance(tree.nodes[path], nn.Module)}
            raise PartError(
                f"{self!r} matches nothing: no module {_at(bases)}is a {self.type.__name__}. "
                f"There: {', '.join(sorted(there))}.{nearest(self.type.__name__, there)}"
            )
        return found

    def __repr__(self) -> str:
        return f"part({_type_name(self.type)})"


@dataclass(frozen=True, slots=True)
class Layer(Part):
    """The n-th layer (child module) in the order of definition; negative counts from the end."""

    index: int

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        found = []
        for base in bases:
            layers = tree.layers(base)
            if -len(layers) <= self.index < len(layers):
                found.append(layers[self.index])
        if not found:
            raise PartError(f"{self!r} matches nothing: {_layers_there(tree, bases)}")
        return found

    def __repr__(self) -> str:
        return f"part({self.index})"


@dataclass(frozen=True, slots=True)
class Layers(Part):
    """A half-open span of layers, as a Python slice."""

    start: int | None
    stop: int | None
    step: int | None = None

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        cut = slice(self.start, self.stop, self.step)
        found = [path for base in bases for path in tree.layers(base)[cut]]
        if not found:
            raise PartError(f"{self!r} matches nothing: {_layers_there(tree, bases)}")
        return found

    def __repr__(self) -> str:
        return f"everything[{self._text()}]"

    def _text(self) -> str:
        ends = [self.start, self.stop] + ([self.step] if self.step is not None else [])
        return ":".join("" if end is None else str(end) for end in ends)


@dataclass(frozen=True, slots=True)
class Inside(Part):
    """The inner part, looked for inside each node of the outer one."""

    outer: Part
    inner: Part

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        within = tuple(dict.fromkeys(self.outer._inside(tree, bases)))
        if not within:
            raise PartError(f"{self!r} matches nothing: {self.outer!r} is empty here, so nothing is inside it.")
        return self.inner._inside(tree, within)

    def __repr__(self) -> str:
        if isinstance(self.inner, Layers | Layer):
            # An index binds more than any operator.
            outer = f"({self.outer!r})" if isinstance(self.outer, _Sets) else _wrapped(self.outer)
            index = self.inner._text() if isinstance(self.inner, Layers) else self.inner.index
            return f"{outer}[{index}]"
        inner = f"({self.inner!r})" if isinstance(self.inner, Inside | _Sets) else repr(self.inner)
        return f"{_wrapped(self.outer)} / {inner}"


@dataclass(frozen=True, slots=True)
class Union(Part):
    """The nodes of either part."""

    left: Part
    right: Part

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        return [*self.left._inside(tree, bases), *self.right._inside(tree, bases)]

    def __repr__(self) -> str:
        return _infix(self.left, "|", self.right)


@dataclass(frozen=True, slots=True)
class Intersection(Part):
    """What is in both parts."""

    left: Part
    right: Part

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        return _cut(tree, self.left._inside(tree, bases), self.right._inside(tree, bases), keep=True)

    def __repr__(self) -> str:
        return _infix(self.left, "&", self.right)


@dataclass(frozen=True, slots=True)
class Difference(Part):
    """What is in the left part and not in the right."""

    left: Part
    right: Part

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        return _cut(tree, self.left._inside(tree, bases), self.right._inside(tree, bases), keep=False)

    def __repr__(self) -> str:
        if self.left == everything:
            # Without brackets `~a / b` would be the rest of a, and b inside it.
            return f"~({self.right!r})" if isinstance(self.right, Inside) else f"~{_wrapped(self.right)}"
        return _infix(self.left, "-", self.right)


_Sets = Union | Intersection | Difference


@dataclass(frozen=True, slots=True)
class Where(Part):
    """The arrays for which a function of name and array is true."""

    predicate: Callable[[str, Tensor], bool]

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        found = []
        for base in bases:
            for path in tree.paths_below(base):
                node = tree.nodes[path]
                if isinstance(node, Tensor) and self.predicate(path, node):
                    found.append(path)
        if not found:
            there = [path for base in bases for path in tree.paths_below(base) if isinstance(tree.nodes[path], Tensor)]
            raise PartError(
                f"{self!r} matches nothing: it was false for every array {_at(bases)}of the net: "
                f"{', '.join(map(repr, there[:5]))}{', ...' if there[5:] else ''}. It gets a name and an array."
            )
        return found

    def __repr__(self) -> str:
        return f"where({getattr(self.predicate, '__name__', repr(self.predicate))})"


@dataclass(frozen=True, slots=True, eq=False)
class Itself(Part):
    """A module or an array itself, wherever it stands in the net."""

    node: nn.Module | Tensor

    def _inside(self, tree: Tree, bases: tuple[str, ...]) -> Iterable[str]:
        under = {path for base in bases for path in tree.paths_below(base)}
        found = [path for path in tree.paths_of(lambda node: node is self.node) if path in under]
        if not found:
            raise PartError(
                f"{self!r} matches nothing: this very object is not {_at(bases)}in the net "
                "(a copy of it may be). Name the part instead."
            )
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and other.node is self.node

    def __hash__(self) -> int:
        return id(self.node)

    def __repr__(self) -> str:
        shape = tuple(self.node.shape) if isinstance(self.node, Tensor) else type(self.node).__name__
        return f"part(<{shape} at {id(self.node):#x}>)"


@named
def part(what: PartLike) -> Part:
    """The part that a literal stands for; see the table at the top of this module.

    Raises:
        PartError: the literal stands for no part.
    """
    if isinstance(what, Part):
        return what
    if isinstance(what, str):
        return _from_text(what)
    if isinstance(what, int) and not isinstance(what, bool):
        return Layer(what)
    if isinstance(what, slice):
        return _layers(what)
    if isinstance(what, tuple) and what:
        return _path(what)
    if isinstance(what, set | frozenset) and what:
        return _union(what)
    if isinstance(what, UnionType):
        return _union(set(get_args(what)))
    if isinstance(what, type) and issubclass(what, nn.Module):
        return OfType(what)
    if isinstance(what, nn.Module | Tensor):
        return Itself(what)
    if isinstance(what, re.Pattern):
        return Regular(what)
    if callable(what) and not isinstance(what, type):
        return Where(what)
    raise PartError(_no_part(what))


@named
def where(predicate: Callable[[str, Tensor], bool]) -> Part:
    """The arrays (parameters and buffers) for which `predicate(name, array)` is true."""
    if not callable(predicate):
        raise PartError(f"where({predicate!r}): a function of (name, array) is needed. Write part({predicate!r}).")
    return Where(predicate)


def _from_text(text: str) -> Part:
    if not text or text != text.strip() or ".." in text or text.startswith(".") or text.endswith("."):
        raise PartError(f"part({text!r}): no name of a part. Write a name as in the net's state_dict, or '*.bias'.")
    return Matching(text) if any(mark in text for mark in "*?[") else Named(text)


def _layers(span: slice) -> Part:
    ends = (span.start, span.stop, span.step)
    if any(isinstance(end, bool) or not isinstance(end, int | None) for end in ends) or span.step == 0:
        raise PartError(f"part({span!r}): no span of layers. Write whole numbers, as in part('layers')[2:6].")
    return Layers(*ends)


def _path(pieces: tuple[PartLike, ...]) -> Part:
    made = part(pieces[0])
    for piece in pieces[1:]:
        made = _under(made, part(piece))
    return made


def _under(outer: Part, inner: Part) -> Part:
    # Inside the whole net is where a part is looked for anyway; one form, so that equal parts are equal.
    return inner if outer == everything else Inside(outer, inner)


def _union(pieces: Iterable[PartLike]) -> Part:
    # A set has no order of its own; the text form gives one, so that equal sets make equal parts.
    first, *rest = sorted((part(piece) for piece in pieces), key=repr)
    for other in rest:
        first = Union(first, other)
    return first


def _no_part(what: object) -> str:
    hint = "Write a name, a pattern, a number, a slice, a module type, a module, or everything."
    if isinstance(what, list):
        hint = "A list is a sequence of steps. A path is a tuple, ('layers', 0); a union is 'a' | part('b') or a set."
    elif isinstance(what, type):
        hint = "Only types of modules (torch.nn.Module) select parts."
    return f"part({what!r}): a {type(what).__name__} stands for no part. {hint}"


def _arrays(tree: Tree, nodes: Iterable[str]) -> Iterator[str]:
    for path in nodes:
        yield from tree.below(path)


def _search(tree: Tree, bases: tuple[str, ...], said: Part, found: Callable[[str], bool]) -> list[str]:
    paths = [
        path
        for base in bases
        for path in tree.paths_below(base)
        if path != base and found(path[len(base) + 1 :] if base else path)
    ]
    if not paths:
        names = ", ".join(list(tree.nodes)[1:6])
        raise PartError(
            f"{said!r} matches nothing: no path {_at(bases)}fits the pattern. The net begins with: {names}, ..."
            f"{nearest(repr(said)[6:-2], tree.nodes)}"
        )
    return paths


def _cut(tree: Tree, nodes: Iterable[str], other: Iterable[str], *, keep: bool) -> list[str]:
    """What of `nodes` is (`keep`) or is not (`not keep`) in `other`, as few nodes as possible.

    Arrays are compared by identity, so that a shared array is in `other` under all its names.
    """
    other = tuple(other)
    paths = {path for base in other for path in tree.paths_below(base)}
    arrays = set(_arrays(tree, other))
    cut: list[str] = []

    def visit(path: str) -> None:
        own = tree.below(path)
        inside = all(name in arrays for name in own) if own else path in paths
        outside = not any(name in arrays for name in own) if own else path not in paths
        if inside or outside:
            if inside == keep:
                cut.append(path)
            return
        for child in tree.children(path):
            visit(child)

    for path in nodes:
        visit(path)
    return cut


def _join(base: str, name: str) -> str:
    return f"{base}.{name}" if base else name


def _at(bases: tuple[str, ...]) -> str:
    if bases == ("",):
        return ""
    shown = ", ".join(repr(base) for base in bases[:3])
    return f"inside {shown}{', ...' if len(bases) > 3 else ''} "


def _absent(tree: Tree, bases: tuple[str, ...], name: str) -> str:
    """What is there instead of `name`: the deepest level that was reached, its children, near names."""
    level, missing = bases[0], name
    head, _, tail = name.partition(".")
    while head and _join(level, head) in tree.nodes and tail:
        level, missing = _join(level, head), tail
        head, _, tail = tail.partition(".")
    missing = missing.split(".")[0]
    there = [path[len(level) + 1 :] if level else path for path in tree.children(level)]
    shown = ", ".join(repr(key) for key in there[:8]) + (", ..." if len(there) > 8 else "")
    text = f"{f'{level!r}' if level else 'the net'} has no {missing!r}. There: {shown or 'nothing'}."
    near = nearest(missing, there) or nearest(name, tree.nodes)
    deeper = any(path.endswith(f".{name}") for path in tree.nodes)
    search = f" A name is exact; to search at any depth write part('*.{name}')." if deeper else ""
    return f"{text}{near}{search}"


def _layers_there(tree: Tree, bases: tuple[str, ...]) -> str:
    counts = [
        f"{base!r} has {len(tree.layers(base))}" if base else f"the net has {len(tree.layers(base))}" for base in bases
    ]
    return f"{', '.join(counts[:3])} layers (child modules), counted from 0."


def _type_name(kind: type) -> str:
    if getattr(nn, kind.__name__, None) is kind:
        return f"nn.{kind.__name__}"
    return kind.__name__


def _wrapped(value: object) -> str:
    """The text of an operand: sets in brackets, unless they are written with `~`, which binds more than the rest."""
    loose = isinstance(value, _Sets) and not (isinstance(value, Difference) and value.left == everything)
    return f"({value!r})" if loose else repr(value)


def _infix(left: Part, sign: str, right: Part) -> str:
    # `|` and `-` chain to the left; everything else is put in brackets.
    chained = isinstance(left, Union) and sign == "|"
    return f"{repr(left) if chained else _wrapped(left)} {sign} {_wrapped(right)}"
