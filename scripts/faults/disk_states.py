"""What may be on a disk after the power is cut, from the calls that were made before.

The model is POSIX and no more. What was written to a file is certain after an fsync of the file; before, each page of
it may be there, be zeros, or not be there. A name given, changed or taken away is certain after an fsync of its folder;
before, each change may be there or not, whatever became of the others. One rename is one change.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from threading import Lock
from typing import Any

PAGE = 4096
MOST_SUBSETS = 5
"""With more changes of names than this in flight, only those that come first may be there."""

Tree = Mapping[str, bytes | None]
"""Contents by path; None is a folder."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that changes what is on the disk, or a word of the writer about how far it is.

    Attributes:
        kind: "create", "truncate", "write", "sync", "hurry", "rename", "remove", "folder", "sync folder"; or "begun"
            and "reported": the commit of `step` has begun, and is said to be safe.
    """

    kind: str
    path: str = ""
    other: str = ""
    file: int = -1
    offset: int = 0
    data: bytes = b""
    step: int = -1


class Recorder:
    """Decides about calls, see `seams`: lets all through, and keeps those that change the disk."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._open: dict[int, tuple[int, str]] = {}
        self._files: dict[str, int] = {}
        self._count = 0
        self._lock = Lock()

    def __call__(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        with self._lock:
            before = [str(each) for each in arguments if isinstance(each, str | os.PathLike)]
            there = bool(before) and os.path.lexists(before[0])
            made = real(*arguments)
            self._keep(name, arguments, before, made, there)
            return made

    def say(self, kind: str, step: int) -> None:
        """The writer says how far it is."""
        with self._lock:
            self.calls.append(Call(kind, step=step))

    def _keep(self, name: str, arguments: tuple[Any, ...], paths: list[str], made: Any, there: bool) -> None:
        if name == "open":
            self._opened(made, paths[0], arguments[1], there)
        elif name == "close":
            self._open.pop(arguments[0], None)
        elif name == "pwrite":
            self._wrote(arguments[0], bytes(arguments[1][:made]), arguments[2])
        elif name in ("fsync", "fdatasync"):
            file, path = self._open[arguments[0]]
            kind = "hurry" if name == "fdatasync" else "sync folder" if file < 0 else "sync"
            self.calls.append(Call(kind, path, file=file))
        elif name in ("replace", "rename"):
            self._files[paths[1]] = self._files.pop(paths[0], -1)
            self.calls.append(Call("rename", paths[0], paths[1]))
        elif name in ("unlink", "remove"):
            self._files.pop(paths[0], None)
            self.calls.append(Call("remove", paths[0]))
        elif name == "mkdir":
            self.calls.append(Call("folder", paths[0]))
        elif name not in ("pread", "preadv", "fstat", "lstat", "stat", "statvfs", "listdir", "scandir", "read"):
            raise RuntimeError(f"the library calls os.{name}, of which the model knows nothing")

    def _opened(self, fd: int, path: str, flags: int, there: bool) -> None:
        if flags & os.O_CREAT and not there:
            self._count += 1
            self._files[path] = self._count
            self.calls.append(Call("create", path, file=self._count))
        elif flags & os.O_TRUNC:
            self.calls.append(Call("truncate", path, file=self._files[path]))
        self._open[fd] = (-1 if os.path.isdir(path) else self._files.get(path, -2), path)

    def _wrote(self, fd: int, data: bytes, offset: int) -> None:
        """A write reaches the disk page by page, so it counts as one write for each."""
        file, path = self._open[fd]
        at = 0
        while at < len(data):
            length = min(PAGE - (offset + at) % PAGE, len(data) - at)
            self.calls.append(Call("write", path, file=file, offset=offset + at, data=data[at : at + length]))
            at += length


@dataclass(slots=True)
class _File:
    """A file as it surely is, what was written to it since, and a number that changes with either."""

    sure: bytes = b""
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    version: int = 0

    def as_it_may_be(self, variant: str) -> bytes:
        if variant == "empty":
            return self.sure
        count = len(self.pending)
        if variant == "half":
            return self._with([True] * (count // 2))
        if variant in ("whole", "zeros"):
            return self._with([variant == "whole"] * count)
        drawn = random.Random(f"{variant} {self.version} {count}")
        return self._with([drawn.random() < 0.5 for _ in range(count)])

    def _with(self, there: Sequence[bool]) -> bytes:
        """With the first of what is pending; the length is there, but a page that is not `there` holds zeros."""
        made = bytearray(self.sure)
        for (offset, data), whole in zip(self.pending, there, strict=False):
            made.extend(bytes(max(0, offset + len(data) - len(made))))
            made[offset : offset + len(data)] = data if whole else bytes(len(data))
        return bytes(made)


Names = dict[str, int]
"""What is in a folder: numbers of files, and -1 for a folder."""


@dataclass(slots=True)
class _Folder:
    sure: Names = field(default_factory=dict)
    pending: list[list[tuple[str, int | None]]] = field(default_factory=list)

    def now(self) -> Names:
        return self._with(range(len(self.pending)))

    def as_they_may_be(self) -> list[Names]:
        count = len(self.pending)
        if count > MOST_SUBSETS:
            return [self._with(range(most)) for most in range(count + 1)]
        return [self._with(those) for most in range(count + 1) for those in combinations(range(count), most)]

    def _with(self, those: Sequence[int]) -> Names:
        made = dict(self.sure)
        for each in those:
            for name, number in self.pending[each]:
                if number is None:
                    made.pop(name, None)
                else:
                    made[name] = number
        return made


@dataclass(frozen=True, slots=True)
class State:
    """A disk after a cut.

    Attributes:
        key: equal for equal disks after the same words of the writer.
        at: how many calls had been made. begun, reported: the newest commit that had begun, and that was said to be
            safe; 0 for none. build: makes the tree.
    """

    key: object
    at: int
    begun: int
    reported: int
    build: Callable[[], Tree]


class Machine:
    """Carries out calls, and says at any time what would be left if the power were cut now."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders: dict[str, _Folder] = {root: _Folder()}
        self._files: dict[int, _File] = {}
        self.begun = self.reported = self.at = 0

    def do(self, call: Call) -> None:
        """Carry out one call."""
        self.at += 1
        match call.kind:
            case "create":
                self._files[call.file] = _File()
                self._named(call.path, call.file)
            case "write":
                self._changed(call.file).pending.append((call.offset, call.data))
            case "truncate":
                self._changed(call.file).sure = b""
                self._changed(call.file).pending.clear()
            case "sync":
                file = self._changed(call.file)
                file.sure = file.as_it_may_be("whole")
                file.pending.clear()
            case "rename":
                self._renamed(call.path, call.other)
            case "remove":
                self._folders[os.path.dirname(call.path)].pending.append([(os.path.basename(call.path), None)])
            case "folder":
                self._folders[call.path] = _Folder()
                self._named(call.path, -1)
            case "sync folder":
                folder = self._folders[call.path]
                folder.sure = folder.now()
                folder.pending.clear()
            case "begun":
                self.begun = call.step
            case "reported":
                self.reported = call.step

    def _changed(self, number: int) -> _File:
        file = self._files[number]
        file.version += 1
        return file

    def _named(self, path: str, number: int) -> None:
        self._folders[os.path.dirname(path)].pending.append([(os.path.basename(path), number)])

    def _renamed(self, old: str, new: str) -> None:
        """One change of one folder: the library never moves a file from one folder to another."""
        folder = self._folders[os.path.dirname(old)]
        number = folder.now()[os.path.basename(old)]
        folder.pending.append([(os.path.basename(old), None), (os.path.basename(new), number)])

    def states(self, draws: int) -> Iterator[State]:
        """Every disk that a cut may leave now, with `draws` drawn sets of pages beside the plain ones."""
        names = list(self._folders)
        plain = ["whole", "half", "zeros", "empty", *(f"draw {n}" for n in range(draws))]
        for each in product(*(self._folders[name].as_they_may_be() for name in names)):
            found = dict(self._found(dict(zip(names, each, strict=True))))
            unsure = any(number >= 0 and self._files[number].pending for number in found.values())
            for variant in plain if unsure else plain[:1]:
                yield self._state(found, variant)

    def _found(self, folders: Mapping[str, Names]) -> Iterator[tuple[str, int]]:
        """Paths and numbers of what can be reached from the root."""
        open_ = [self._root]
        while open_:
            path = open_.pop()
            for name, number in folders[path].items():
                inside = os.path.join(path, name)
                yield inside, number
                if number < 0:
                    open_.append(inside)

    def _state(self, found: Mapping[str, int], variant: str) -> State:
        contents = {
            path: None if number < 0 else (number, self._files[number].version, self._as(number, variant))
            for path, number in found.items()
        }
        key = (tuple(sorted(contents.items())), self.begun, self.reported)
        files = {path: None if number < 0 else self._files[number] for path, number in found.items()}
        return State(
            key,
            self.at,
            self.begun,
            self.reported,
            lambda: {path: None if file is None else file.as_it_may_be(variant) for path, file in files.items()},
        )

    def _as(self, number: int, variant: str) -> str:
        return variant if self._files[number].pending else "whole"


def expanded(
    calls: Sequence[Call], root: str, draws: int = 2, since: int = 0, until: int | None = None
) -> Iterator[State]:
    """Every disk that a cut may leave, at any moment from `since` calls on, each once.

    A state is to be built before the next one is asked for.
    """
    machine, seen = Machine(root), set()
    for call in calls[:until]:
        machine.do(call)
        if machine.at < since:
            continue
        for state in machine.states(draws):
            if state.key not in seen:
                seen.add(state.key)
                yield state


def lay_out(tree: Tree, root: str, folder: Path) -> Path:
    """The tree on a real disk, in `folder`, which is empty; returns what stands for the root."""
    for path in sorted(tree):
        content, place = tree[path], folder / os.path.relpath(path, root)
        if content is None:
            place.mkdir()
        else:
            place.write_bytes(content)
    return folder
