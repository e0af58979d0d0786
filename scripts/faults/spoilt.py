"""Good files with something done to their bytes, as disks, networks and people do it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Spoil = Callable[[Random, bytes, bytes], bytes]
"""Gets a source of chance, a good file and the one before it."""


def flipped(chance: Random, good: bytes, _: bytes) -> bytes:
    """One bit, or a few, the other way round."""
    made = bytearray(good)
    for _number in range(chance.choice([1, 1, 1, 2, 30])):
        made[_place(chance, good)] ^= 1 << chance.randrange(8)
    return bytes(made)


def changed(chance: Random, good: bytes, _: bytes) -> bytes:
    """One byte that is another."""
    made = bytearray(good)
    made[_place(chance, good)] = chance.randrange(256)
    return bytes(made)


def cut(chance: Random, good: bytes, _: bytes) -> bytes:
    """The end is missing, or the beginning."""
    at = _place(chance, good)
    return good[:at] if chance.random() < 0.8 else good[at:]


def grown(chance: Random, good: bytes, older: bytes) -> bytes:
    """More than there was, behind or within."""
    more = chance.choice([bytes(chance.randrange(1, 5000)), chance.randbytes(chance.randrange(1, 100)), older])
    at = chance.choice([len(good), _place(chance, good)])
    return good[:at] + more + good[at:]


def zeroed(chance: Random, good: bytes, _: bytes) -> bytes:
    """A range of zeros, as of a page that was never written."""
    begin, end = _range(chance, good)
    return good[:begin] + bytes(end - begin) + good[end:]


def swapped(chance: Random, good: bytes, _: bytes) -> bytes:
    """Two ranges of equal length in each other's place."""
    length = chance.choice([1, 4, 64, 4096, len(good) // 3])
    first, second = sorted(chance.randrange(len(good) - 2 * length) for _ in range(2))
    second += length
    one, other = good[first : first + length], good[second : second + length]
    return good[:first] + other + good[first + length : second] + one + good[second + length :]


def mixed(chance: Random, good: bytes, older: bytes) -> bytes:
    """A range of the file before, as of a disk that had not written everything."""
    begin, end = _range(chance, good)
    return good[:begin] + older[begin:end] + good[end:]


def moved(chance: Random, good: bytes, _: bytes) -> bytes:
    """A range taken out, or there twice."""
    begin, end = _range(chance, good)
    return good[:begin] + good[end:] if chance.random() < 0.5 else good[:end] + good[begin:]


SPOILS: tuple[Spoil, ...] = (flipped, flipped, changed, cut, grown, zeroed, swapped, mixed, moved)


def _place(chance: Random, good: bytes) -> int:
    """In the header or in the arrays, as often in the one as in the others."""
    header = 8 + int.from_bytes(good[:8], "little")
    return chance.randrange(header) if chance.random() < 0.5 else chance.randrange(header, len(good))


def _range(chance: Random, good: bytes) -> tuple[int, int]:
    begin = _place(chance, good)
    return begin, min(len(good), begin + chance.choice([1, 8, 512, 4096, len(good)]))
