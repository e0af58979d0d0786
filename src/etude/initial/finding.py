"""A `Load` meets a net and its file: which array of the net is which of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import EtudeError, PartError, RuleError, SettingError, StateError, nearest
from etude.initial.computed import needed
from etude.initial.load import Load
from etude.keep.foreign import Shape, Weights
from etude.keep.weights import opened
from etude.step.states import some
from etude.values.tree import Tree


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a file has for an array: under which name, and what; or a tensor that was made up, without a name."""

    source: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    made_up: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """A `Load` that has met a net.

    Attributes:
        load: the entry. weights: its file.
        claimed: names of the arrays of the net that it is for. found: what the file has for them, by name.
        asked: under which names the others were looked for. inside: what the names of the file begin with.
    """

    load: Load
    weights: Weights
    claimed: tuple[str, ...]
    found: Mapping[str, Found]
    asked: Mapping[str, str]
    inside: str


def find(load: Load, tree: Tree) -> Finding:
    """Open the file of an entry and match its names with those of a net; arrays are read only where a function asks.

    Raises:
        CheckpointError, StateError: the file cannot be read, or fits nowhere. PartError: a prefix, a name or `only`
        that the net does not have. RuleError: prefix and `only` have no array in common.
    """
    meeting = _Meeting(load, tree)
    found: dict[str, Found] = {}
    asked: dict[str, str] = {}
    for name in meeting.claimed:
        here = [one for path in meeting.paths(name) if (one := meeting.look(name, path, asked)) is not None]
        if here:
            found[name] = meeting.one_of(name, here)
    if not found:
        raise StateError(f"{load!r} has no array of the net. {meeting.apart()}")
    return Finding(load, meeting.weights, meeting.claimed, found, asked, meeting.inside)


class _Meeting:
    """One `Load`, one net, one file."""

    def __init__(self, load: Load, tree: Tree) -> None:
        self.load, self.tree = load, tree
        self.prefix = _prefix(load, tree)
        self.claimed = self._claims()
        self.weights = opened(load.path, load.of)
        self.inside = self._inside()
        self._same = {name: names[0] for names in self.weights.ties for name in names}
        self._renamed: Mapping[str, str | None] = {}
        if isinstance(load.rename, Mapping):
            self._renamed = load.rename
            self._check_names(load.rename)

    def _claims(self) -> tuple[str, ...]:
        load, tree = self.load, self.tree
        try:
            names = load.only.names(tree)
        except PartError as error:
            raise PartError(f"{load!r}: {error}") from None
        known = tuple(name for name in names if any(True for _ in self.paths(name)) and not _is_hidden(tree, name))
        if not known:
            raise RuleError(
                f"{load!r} is for no array: none of {load.only!r} begins with {self.prefix!r}. "
                "Leave out only= or prefix=."
            )
        return known

    def paths(self, name: str) -> Iterator[str]:
        """The names of an array that begin with the prefix."""
        return (path for path in self.tree.names[name] if path.startswith(self.prefix))

    def _inside(self) -> str:
        given, names = self.load.inside, self.weights.arrays
        inside = f"{given}." if given and not given.endswith(".") and _begins(names, f"{given}.") else given
        if inside and not _begins(names, inside):
            tops = dict.fromkeys(name.partition(".")[0] for name in names)
            raise StateError(
                f"{self.load!r}: no name in the file begins with {given!r}.{nearest(given, tops)} {self._has()}"
            )
        return inside

    def _check_names(self, rename: Mapping[str, str | None]) -> None:
        for new, old in rename.items():
            if new not in self.tree.nodes:
                near = nearest(new, self.tree.nodes)
                raise PartError(f"{self.load!r}: the net has no {new!r}, which rename gives a name in the file.{near}")
            there = self.weights.arrays
            if old is not None and old not in there and old not in self._same and not _begins(there, f"{old}."):
                raise StateError(f"{self.load!r}: the file has no {old!r}.{nearest(old, there)} {self._has()}")

    def look(self, name: str, path: str, asked: dict[str, str]) -> tuple[Found, bool] | None:
        """What the file has for one path of an array, and whether `rename` said so."""
        if self.load.rename is not None and not isinstance(self.load.rename, Mapping):
            given = self._called(path)
            if isinstance(given, Tensor):
                return Found("", tuple(given.shape), given.dtype, given.detach()), True
            return self._named(name, given, asked, given is not None)
        pieces = path.split(".")
        for count in range(len(pieces), 0, -1):
            new = ".".join(pieces[:count])
            if new in self._renamed:
                old = self._renamed[new]
                return self._named(name, None if old is None else ".".join([old, *pieces[count:]]), asked, True)
        return self._named(name, self.inside + path[len(self.prefix) :], asked, False)

    def _named(self, name: str, old: str | None, asked: dict[str, str], said: bool) -> tuple[Found, bool] | None:
        if old is None:
            return None
        source = old if old in self.weights.arrays else self._same.get(old, old)
        there: Shape | None = self.weights.arrays.get(source)
        if there is None:
            asked[name] = old
            return None
        return Found(source, there.shape, there.dtype), said

    def _called(self, path: str) -> str | Tensor | None:
        rename: Any = self.load.rename
        call = partial(rename, path, _Arrays(self.load, self.weights)) if needed(rename) == 2 else partial(rename, path)
        try:
            with torch.no_grad():
                given = call()
        except Exception as error:
            if isinstance(error, EtudeError):
                raise
            raise SettingError(
                f"{self.load!r}: rename of {path!r}: {type(error).__name__}: {error}. It is given the name in the net. "
                "Return the name in the file, None, or a tensor."
            ) from error
        if not isinstance(given, str | Tensor | None):
            raise SettingError(
                f"{self.load!r}: rename of {path!r} gave {given!r:.60}. Return the name in the file, None, or a tensor."
            )
        return given

    def one_of(self, name: str, here: list[tuple[Found, bool]]) -> Found:
        """The array for all names of one that is shared: they must have the same numbers, unless `rename` chose."""
        for found, said in here:
            if said:
                return found
        sources = list(dict.fromkeys(found.source for found, _ in here))
        if len(sources) > 1:
            read = list(self.weights.get(sources).values())
            if not all(torch.equal(read[0], other) for other in read[1:]):
                raise StateError(
                    f"{self.load!r}: {name!r} is one array in the net, under {some(self.tree.names[name])}, and in the "
                    f"file {some(sources)} are different. Write rename={{{name!r}: {sources[0]!r}}} to choose one."
                )
        return here[0][0]

    def apart(self) -> str:
        """In what the names of net and file differ, and what might bring them together."""
        names = self.weights.arrays
        wanted = {path[len(self.prefix) :] for name in self.claimed for path in self.paths(name)}
        tops = dict.fromkeys(name.partition(".")[0] for name in names)
        for top in tops:
            if any(name.startswith(f"{top}.") and name[len(top) + 1 :] in wanted for name in names):
                return f"Its names begin with {top!r}: write inside={top!r}."
        for top in dict.fromkeys(path.partition(".")[0] for path in wanted):
            if any(path.startswith(f"{top}.") and path[len(top) + 1 :] in names for path in wanted):
                return f"It has what the net has under {top!r}: write prefix={top!r}."
        return (
            f"The net has {some(sorted(wanted))}. {self._has()} Write rename={{'name in the net': 'name in the file'}}."
        )

    def _has(self) -> str:
        return f"The file has {some(self.weights.arrays)}." if self.weights.arrays else "The file has no arrays."


class _Arrays(Mapping[str, Tensor]):
    """The arrays of a file by name, each read when it is asked for."""

    def __init__(self, load: Load, weights: Weights) -> None:
        self._load, self._weights = load, weights

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._weights.arrays:
            raise StateError(f"{self._load!r}: the file has no {name!r}.{nearest(name, self._weights.arrays)}")
        return self._weights.get([name])[name]

    def __contains__(self, name: object) -> bool:
        return name in self._weights.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights.arrays)

    def __len__(self) -> int:
        return len(self._weights.arrays)


def _prefix(load: Load, tree: Tree) -> str:
    """What the names in the net begin with; a module's path means what is inside it."""
    given = load.prefix
    prefix = f"{given}." if isinstance(tree.nodes.get(given), nn.Module) and given else given
    if prefix and not _begins((path for paths in tree.names.values() for path in paths), prefix):
        modules = [path for path, node in tree.nodes.items() if isinstance(node, nn.Module) and path]
        raise PartError(f"{load!r}: no array of the net begins with {given!r}.{nearest(given.rstrip('.'), modules)}")
    return prefix


def _begins(names: Any, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _is_hidden(tree: Tree, name: str) -> bool:
    """Whether a state_dict leaves the array out."""
    owner, _, key = name.rpartition(".")
    module = tree.nodes[owner]
    return isinstance(module, nn.Module) and key in module._non_persistent_buffers_set
