"""What is in tar files: members that follow one another and agree up to the first dot are a sample."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.forms.files import Names, renamed
from etude.data.forms.members import Decoder, decoder, key_of, length_in
from etude.data.plan.lengths import Whole
from etude.errors import DataError


def samples(
    path: Path, mode: str, take: Callable[[tarfile.TarFile, tarfile.TarInfo, Path], Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samples of a file in their order: their names, and of every member by its ending what `take` gives of it."""
    key = ""
    members: dict[str, Any] = {}
    try:
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members = []  # it would keep all of them
                found, name = key_of(member.name) if member.isfile() else ("", "")
                if not found:
                    continue
                if found != key and members:
                    yield key, members
                    members = {}
                if name in members:
                    raise DataError(f"{path} has two members {found}.{name}, one after the other. Expected one.")
                key = found
                members[name] = take(archive, member, path)
            if members:
                yield key, members
            while archive.fileobj is not None and archive.fileobj.read(1 << 20):
                continue  # compressed files have their checksum at the end
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read as a tar file: {error}.") from error


def content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    """All of a member."""
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def place(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> tuple[int, int, int | None]:
    """Where a member is, its size, and the length that its header tells."""
    if member.issparse():
        raise DataError(f"{path} holds {member.name} as a sparse file. Pack it anew, or write stream=True.")

    def read(count: int) -> bytes:
        file = archive.fileobj
        assert file is not None
        file.seek(member.offset_data)
        return file.read(count)

    with decoding(member.name, path):
        length = length_in(key_of(member.name)[1], read, member.size)
    return member.offset_data, member.size, length


@contextmanager
def decoding(member: str, path: Path) -> Iterator[None]:
    """Within it whatever goes wrong is a DataError that names the member."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{member} in {path} cannot be read: {type(error).__name__}: {error}") from error


def decoded(key: str, name: str, data: bytes, given: Mapping[str, Decoder], path: Path) -> Any:
    function = decoder(name, given)
    with decoding(f"{key}.{name}", path):
        return function(data)


def check_members(key: str, members: Iterable[str], chosen: Mapping[str, str], whole: bool, path: Path) -> None:
    """Every sample has what is read, and nothing else where all is read."""
    there = set(members)
    missing = next((name for name in chosen if name not in there), None)
    if missing is not None:
        raise DataError(
            f"The sample {key!r} in {path} has no member {missing!r}; it has {', '.join(sorted(there))}. Members of a "
            "sample follow one another: pack them with tar --sort=name."
        )
    other = sorted(there - set(chosen)) if whole else []
    if other:
        raise DataError(
            f"The sample {key!r} in {path} has a member {other[0]!r} that those before it lack. Choose what is read: "
            f"names={list(chosen)}."
        )


class Index:
    """Gathers where the members of all samples are."""

    def __init__(self, names: Names | None) -> None:
        self.names = names
        self.chosen: dict[str, str] = {}
        self.tags: list[str] = []
        self.places: dict[str, list[tuple[int, int]]] = {}
        self.measured: dict[str, list[int | None]] = {}

    def add(self, key: str, members: Mapping[str, tuple[int, int, int | None]], path: Path) -> None:
        if not self.chosen:
            self.chosen = renamed(self.names, members, f"{key} in {path}")
            self.places = {name: [] for name in self.chosen}
            self.measured = {name: [] for name in self.chosen}
        check_members(key, members, self.chosen, self.names is None, path)
        self.tags.append(key)
        for name in self.chosen:
            self.places[name].append(members[name][:2])
            self.measured[name].append(members[name][2])

    def lengths(self) -> dict[str, Whole]:
        """Of the members that have them in every sample."""
        whole = {name: found for name, found in self.measured.items() if None not in found}
        return {self.chosen[name]: np.array(found, np.int64) for name, found in whole.items()}
