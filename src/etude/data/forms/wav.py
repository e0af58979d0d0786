"""Wave files: what the header says, and the samples as floats.

Format: "Multimedia Programming Interface and Data Specifications 1.0" (IBM and Microsoft, 1991), with the extensible
header of 1999, and RF64 for more than 4 GiB (EBU Tech 3306).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from etude.errors import DataError

Floats = npt.NDArray[np.float32]

_PCM: Final = 1
_FLOAT: Final = 3
_EXTENSIBLE: Final = 0xFFFE
_UNTOLD: Final = 0x7FFF0000
"""From here on sizes of data stand for: not known when the header was written, up to the end of the file."""

_CONVERT: Final = "Convert it to PCM, say with ffmpeg -i in.wav -c:a pcm_s16le out.wav."


@dataclass(frozen=True, slots=True)
class Wav:
    """What the header of a wave file says.

    Attributes:
        rate: frames in a second. channels: numbers in a frame. bits: of a number.
        floating: whether numbers are floats. start: byte at which they begin. frames: how many.
    """

    rate: int
    channels: int
    bits: int
    floating: bool
    start: int
    frames: int


def look(file: BinaryIO, title: str, size: int | None = None) -> Wav:
    """The header of a wave file; nothing else is read.

    Args:
        file: at its beginning, can seek. title: of the file, for messages.
        size: bytes of the whole file; None: as many as `file` has.

    Raises:
        DataError: no wave file, a damaged one, or numbers of a kind that is not read.
    """
    total = _size(file) if size is None else size
    top = file.read(12)
    if top[8:12] != b"WAVE" or top[:4] not in (b"RIFF", b"RF64"):
        raise DataError(f"{title} is no wave file: it begins with {top[:12]!r}, expected b'RIFF....WAVE'.")
    form, wide = b"", 0
    at = 12
    while at + 8 <= total:
        file.seek(at)
        head = file.read(8)
        name, length = head[:4], int.from_bytes(head[4:], "little")
        at += 8
        if name == b"ds64":
            wide = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt ":
            form = file.read(length)
        elif name == b"data":
            return _described(form, at, wide if wide and length == 0xFFFFFFFF else length, total, title)
        at += length + length % 2
    raise DataError(f"{title} is a wave file without data: expected a chunk b'data' within its {total} bytes.")


def _size(file: BinaryIO) -> int:
    here = file.tell()
    total = file.seek(0, io.SEEK_END)
    file.seek(here)
    return total


def _described(form: bytes, start: int, length: int, total: int, title: str) -> Wav:
    """The header from its parts, checked against the size of the file."""
    if len(form) < 16:
        raise DataError(f"{title} is a damaged wave file: expected a chunk b'fmt ' of 16 bytes before the data.")
    kind, channels = int.from_bytes(form[0:2], "little"), int.from_bytes(form[2:4], "little")
    rate, bits = int.from_bytes(form[4:8], "little"), int.from_bytes(form[14:16], "little")
    if kind == _EXTENSIBLE and len(form) >= 26:
        kind = int.from_bytes(form[24:26], "little")
    if (kind, bits) not in ((_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)):
        raise DataError(
            f"{title} holds numbers of kind {kind} with {bits} bits. Read are PCM (kind 1) of 8, 16, 24 and 32 bits "
            f"and floats (kind 3) of 32 and 64. {_CONVERT}"
        )
    if not channels or not rate:
        raise DataError(f"{title} is a damaged wave file: {channels} channels at {rate} frames a second.")
    there = total - start
    if length > there >= 0 and _UNTOLD <= length <= 0xFFFFFFFF:
        length = there
    if length > there:
        raise DataError(f"{title} is cut off: its header promises {length} bytes of data, {there} are there.")
    return Wav(rate, channels, bits, kind == _FLOAT, start, length // (channels * bits // 8))


def decode(file: BinaryIO, wav: Wav, title: str, window: tuple[int, int] | None = None) -> Floats:
    """The samples, from -1 to 1: float32, shape (frames,) of one channel, otherwise (frames, channels).

    Whole numbers of n bits are divided by 2**(n - 1); those of 8 bits have their zero at 128.

    Args:
        window: the frames to read, as a slice has them. Nothing else is read. Default: all.

    Raises:
        DataError: the file ends before the data do.
    """
    width = wav.channels * wav.bits // 8
    start, stop = (0, wav.frames) if window is None else (min(place, wav.frames) for place in window)
    file.seek(wav.start + start * width)
    wanted = max(stop - start, 0) * width
    data = file.read(wanted)
    if len(data) < wanted:
        there = start * width + len(data)
        raise DataError(
            f"{title} is cut off: its header promises {wav.frames * width} bytes of data, {there} are there."
        )
    flat = _numbers(data, wav)
    return flat if wav.channels == 1 else flat.reshape(-1, wav.channels)


def _numbers(data: bytes, wav: Wav) -> Floats:
    if wav.floating:
        return np.frombuffer(data, f"<f{wav.bits // 8}").astype(np.float32)
    if wav.bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if wav.bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    return np.frombuffer(data, f"<i{wav.bits // 8}").astype(np.float32) / np.float32(2 ** (wav.bits - 1))
