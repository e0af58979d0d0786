"""Tar shards as a data set: members of one name are a sample, told apart by their endings (as in WebDataset)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, final

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from etude.arguments import named
from etude.data.forms.files import Handles, Names, files_of, place_of, renamed, starts_of
from etude.data.forms.members import Decoder, decoder
from etude.data.forms.shards import Index, check_members, content, decoded, decoding, place, samples
from etude.data.order import ORDER, generator
from etude.data.plan.lengths import Whole
from etude.errors import DataError

_COMPRESSED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstandard begin."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Tar:
    """Samples in tar files, any of them at any time; made by `tar(...)`.

    An item is a dict of decoded members. Every process opens the files for itself; `close()` closes those of this one.

    Attributes:
        names: the values of an item.
        tags: names of the samples: paths in the archive up to the first dot.
        lengths: first dimensions of arrays (.npy) and frames of recordings (.wav), from their headers.
    """

    names: tuple[str, ...]
    tags: list[str] = field(repr=False)
    lengths: dict[str, Whole] = field(repr=False)
    title: str
    files: Sequence[Path] = field(repr=False)
    starts: Whole = field(repr=False)
    places: Mapping[str, Whole] = field(repr=False)
    chosen: Mapping[str, str] = field(repr=False)
    decoders: Mapping[str, Decoder] = field(repr=False)
    handles: Handles[BinaryIO] = field(repr=False)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row = place_of(index, self.starts, self.title)
        sample = int(self.starts[number]) + row
        path, item = self.files[number], {}
        for name, data in self._members(path, sample):
            with decoding(f"{self.tags[sample]}.{name}", path):
                item[self.chosen[name]] = self.decoders[name](data)
        return item

    def _members(self, path: Path, sample: int) -> list[tuple[str, bytes]]:
        """What is in the members of a sample."""
        members = []
        with self.handles.reading(path) as file:
            for name in self.chosen:
                offset, size = self.places[name][sample].tolist()
                file.seek(offset)
                members.append((name, file.read(size)))
        return members

    def close(self) -> None:
        """Close the files of this process. They are opened again when something is read."""
        self.handles.close()


@final
class TarStream(IterableDataset[dict[str, Any]]):
    """Samples of tar files read forward, one file after another; made by `tar(..., stream=True)`.

    Workers of a DataLoader share the files out: worker k of n reads the files k, k + n, ...
    """

    def __init__(
        self, files: Sequence[Path], names: Names | None, decode: Mapping[str, Decoder], seed: int | None
    ) -> None:
        self.files = files
        self.title = _title(files)
        self._how = (names, decode, seed)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins: with a seed it decides the order of the files."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Not in a generator: one that fails is over, and the samples after a bad one are to be had.
        return map(_Packed.unpacked, self._packed())

    def _packed(self) -> Iterator[_Packed]:
        names, decode, seed = self._how
        order = np.arange(len(self.files))
        if seed is not None:
            order = generator(seed, ORDER, self._epoch).permutation(len(self.files))
        worker = get_worker_info()
        mine = order if worker is None else order[worker.id :: worker.num_workers]
        chosen: dict[str, str] = {}
        for number in mine.tolist():
            path = self.files[number]
            for key, members in samples(path, "r:*", content):
                chosen = chosen or renamed(names, members, f"{key} in {path}")
                yield _Packed(path, key, members, chosen, names is None, decode)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    """A sample of a stream with its members as they are in the file.

    Attributes:
        chosen: the members that are read, with their names in the sample. whole: whether these have to be all.
        decode: see `tar`.
    """

    path: Path
    key: str
    members: Mapping[str, bytes]
    chosen: Mapping[str, str]
    whole: bool
    decode: Mapping[str, Decoder]

    def unpacked(self) -> dict[str, Any]:
        """The sample."""
        key, path = self.key, self.path
        check_members(key, self.members, self.chosen, self.whole, path)
        return {
            called: decoded(key, name, self.members[name], self.decode, path) for name, called in self.chosen.items()
        }


@named
def tar(
    shards: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    names: Names | None = None,
    *,
    decode: Mapping[str, Decoder] | None = None,
    stream: bool = False,
    seed: int | None = None,
) -> Tar | TarStream:
    """Tar shards as a data set. Members that follow one another and agree up to the first dot are one sample.

    `0007.wav` and `0007.cls` are the sample "0007" with the values "wav" and "cls". Known endings: npy, wav (float32),
    cls and index (whole numbers), txt, json (lists of numbers become arrays), pt and pth (loaded with
    `weights_only=True`). No code in a file is ever run. Names between double underscores, hidden ones and those without
    an ending belong to no sample.

    Args:
        shards: a path, a pattern, a range as `"part-{000..099}.tar"`, or a list of these.
        names: members to read; a dict renames them: `{"wav": "audio", "cls": "label"}`. Default: all.
        decode: functions of the bytes of a member, by its whole ending or the last one: `{"jpg": picture}`.
        stream: read forward, one file after another, as compressed files have to be. Otherwise the headers of all
            members are looked through once, without reading what is in them, and samples are read in any order.
        seed: of streams: the files come in another order each epoch, decided by (seed, epoch). Default: as given.

    Raises:
        DataError: files that are missing, damaged or compressed; members that are missing or cannot be decoded.
    """
    files = files_of(shards, "tar")
    given = dict(decode or {})
    if stream:
        return TarStream(files, names, given, seed)
    if seed is not None:
        raise DataError(f"seed={seed!r} shuffles the files of a stream. Write stream=True, or leave it out.")
    return _indexed(files, names, given)


def _title(files: Sequence[Path]) -> str:
    return f"tar {files[0].name}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def _indexed(files: Sequence[Path], names: Names | None, given: Mapping[str, Decoder]) -> Tar:
    """A data set from the headers of all members."""
    index = Index(names)
    counts = []
    for path in files:
        with path.open("rb") as file:
            if file.read(6).startswith(_COMPRESSED):
                raise DataError(f"{path} is compressed and can only be read forward. Unpack it, or write stream=True.")
        before = len(index.tags)
        for key, members in samples(path, "r:", place):
            index.add(key, members, path)
        counts.append(len(index.tags) - before)
    if not index.tags:
        raise DataError(f"The data are empty: {files[0]} has no samples. Give a file with members as 'key.ending'.")
    decoders = {name: decoder(name, given) for name in index.chosen}
    return Tar(
        tuple(index.chosen.values()),
        index.tags,
        index.lengths(),
        _title(files),
        files,
        starts_of(counts),
        {name: np.array(found, np.int64) for name, found in index.places.items()},
        index.chosen,
        decoders,
        Handles(_open, _close),
    )


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _close(file: BinaryIO) -> None:
    file.close()
