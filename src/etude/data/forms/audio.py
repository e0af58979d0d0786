"""A folder of recordings as a data set: lengths from the headers, samples when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from etude.arguments import named
from etude.data.forms.files import files_of
from etude.data.forms.labels import Labels, labels_of
from etude.data.forms.wav import Floats, decode, look
from etude.data.plan.lengths import Whole
from etude.data.wanted import Windows
from etude.data.windows import cut
from etude.errors import DataError
from etude.needs import need

WAVES: Final = {".wav", ".wave"}
"""Files that are read without another package."""

_EXACT: Final = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
"""Kinds of numbers, as soundfile calls them, that come out the same wherever reading begins; those of FLAC too."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Recordings, one file each; made by `audio(...)`.

    An item is a dict: the samples, float32 from -1 to 1, shape (frames,) or (frames, channels); and "label" where
    labels were given. Nothing is kept open.

    Attributes:
        files: in the order of the items. tags: of each its id.
        rate: frames in a second, of all of them. channels: numbers in a frame.
        lengths: frames of every recording by the name of the stream; of labels that are lists their lengths too.
        labels: of each its label, or nothing.
        classes: names of classes in the order of their numbers, where labels were names.
        name: what the samples are called in an item.
    """

    files: Sequence[Path] = field(repr=False)
    tags: list[str] = field(repr=False)
    rate: int
    channels: int
    lengths: dict[str, Whole] = field(repr=False)
    labels: Sequence[Any] = field(repr=False)
    classes: tuple[str, ...]
    name: str
    title: str

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays of an item."""
        return (self.name, "label") if len(self.labels) else (self.name,)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.part(index, {})

    def part(self, number: int, windows: Windows) -> dict[str, Any]:
        """An item of whose streams only windows are read, see `etude.data.windows`.

        Wave files, and others that store every number by itself or without loss, are read at the window alone;
        compressed ones from their beginning up to where the window stops.
        """
        item: dict[str, Any] = {self.name: _samples(self.files[number], windows.get(self.name))}
        if len(self.labels):
            label = self.labels[number]
            item["label"] = cut(label, windows["label"]) if "label" in windows else label
        return item


@named
def audio(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    pattern: str = "**/*.wav",
    *,
    labels: Callable[[Path], Any] | None = None,
    tags: Callable[[Path], str] | None = None,
    rate: int | None = None,
    name: str = "audio",
) -> Audio:
    """Recordings in a folder, or in a list of files, as a data set.

    The headers of all files are read at once, their samples when an item is asked for. Wave files (PCM of 8, 16, 24 and
    32 bits, floats) need nothing; other formats need the package soundfile (`pip install 'etude[audio]'`).

    Args:
        files: a folder, in which all files that fit `pattern` are taken, sorted by path; or a list of files, in its
            order.
        pattern: as in `Path.glob`; `**` is every folder inside.
        labels: the label of a recording, from its path: a number, a name of a class (classes are numbered in
            alphabetical order) or a list of whole numbers.
        tags: the id of a recording, from its path. Default: its path inside the folder, without the ending; of a list
            the name of the file without the ending.
        rate: frames in a second that every file must have. Default: what the first one has.
        name: what the samples are called in an item.

    Raises:
        DataError: no files; a file that cannot be read, has another rate or another number of channels; ids that are
            not unique; labels that are no labels. MissingPackageError: a format that needs soundfile.
    """
    found, root = _files(files, pattern)
    headers = [_header(path) for path in found]
    rate, channels = _alike(found, headers, rate)
    lengths = {name: np.fromiter((frames for _, _, frames in headers), np.int64, len(headers))}
    given = Labels() if labels is None else labels_of(labels, found)
    if given.lengths is not None:
        lengths["label"] = given.lengths
    ids = _tags(found, root, tags)
    return Audio(found, ids, rate, channels, lengths, given.values, given.classes, name, f"audio ({len(found)} files)")


def _files(given: Any, pattern: str) -> tuple[list[Path], Path | None]:
    """The files, and the folder they are in if that was given."""
    if not isinstance(given, str | os.PathLike) or not Path(given).is_dir():
        return files_of(given, "audio"), None
    root = Path(given)
    found = sorted((path for path in root.glob(pattern) if path.is_file()), key=lambda path: path.as_posix())
    if not found:
        endings = sorted({path.suffix for path in root.rglob("*") if path.suffix})
        there = f"files that end in {', '.join(endings[:10])}" if endings else "no files"
        hint = f" Write pattern={'**/*' + endings[0]!r}." if endings else ""
        raise DataError(f"The folder {root} has nothing that fits the pattern {pattern!r}; it has {there}.{hint}")
    return found, root


def _header(path: Path) -> tuple[int, int, int]:
    """Rate, channels and frames of a file."""
    if path.suffix.lower() in WAVES:
        with path.open("rb") as file:
            wav = look(file, str(path))
        return wav.rate, wav.channels, wav.frames
    sound = need("soundfile", f"Reading {path.suffix or path.name} files")
    with _told(sound, path):
        info = sound.info(str(path))
    return info.samplerate, info.channels, info.frames


def _samples(path: Path, window: tuple[int, int] | None) -> Floats:
    """The samples of a file, or a window of them: float32, shape (frames,) or (frames, channels)."""
    if path.suffix.lower() in WAVES:
        with path.open("rb") as file:
            return decode(file, look(file, str(path)), str(path), window)
    sound = need("soundfile", f"Reading {path.suffix or path.name} files")
    with _told(sound, path), sound.SoundFile(str(path)) as file:
        return _sound(file, window)


def _sound(file: Any, window: tuple[int, int] | None) -> Floats:
    """The samples of a file that soundfile has opened, or a window of them."""
    if window is None:
        whole: Floats = file.read(dtype="float32")
        return whole
    start, stop = window
    # What a lossy decoder gives may depend on where it began: of mp3 it does.
    begin = min(start, file.frames) if file.subtype in _EXACT else 0
    if begin:
        file.seek(begin)
    samples: Floats = file.read(max(stop - begin, 0), dtype="float32")
    return samples[start - begin :]


@contextmanager
def _told(sound: Any, path: Path) -> Iterator[None]:
    """Within it what soundfile cannot read is a DataError that names the file."""
    try:
        yield
    except sound.LibsndfileError as error:
        raise DataError(f"{path} cannot be read as sound: {error} Expected a format that libsndfile reads.") from error


def _alike(files: Sequence[Path], headers: Sequence[tuple[int, int, int]], rate: int | None) -> tuple[int, int]:
    """The rate and the channels that all files have."""
    expected = (headers[0][0] if rate is None else rate, headers[0][1])
    for path, (found, channels, _) in zip(files, headers, strict=True):
        if found != expected[0]:
            asked = f"rate={rate} was asked for" if rate is not None else f"{files[0]} has {expected[0]}"
            raise DataError(
                f"{path} has {found} frames a second, {asked}. Resample it (ffmpeg -i in.wav -ar {expected[0]} "
                "out.wav), or leave it out."
            )
        if channels != expected[1]:
            raise DataError(
                f"{path} has {channels} channels, {files[0]} has {expected[1]}. Mix it down (ffmpeg -i in.wav -ac "
                f"{expected[1]} out.wav), or leave it out."
            )
    return expected


def _tags(files: Sequence[Path], root: Path | None, tags: Callable[[Path], str] | None) -> list[str]:
    """An id for every file, all different."""
    if tags is not None:
        made = [str(tags(path)) for path in files]
    elif root is not None:
        made = [path.relative_to(root).with_suffix("").as_posix() for path in files]
    else:
        made = [path.stem for path in files]
    seen: dict[str, Path] = {}
    for tag, path in zip(made, files, strict=True):
        if tag in seen:
            raise DataError(
                f"{seen[tag]} and {path} have the same id {tag!r}. Give each an id of its own: "
                "tags=lambda path: path.as_posix()."
            )
        seen[tag] = path
    return made
