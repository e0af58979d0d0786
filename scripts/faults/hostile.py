"""Files that want something of whoever opens them: to run code, to read elsewhere, to use up memory or time.

Each maker gets a source of chance and a good checkpoint, and returns the bytes of a file, or a function that puts
something else than a file at a path.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from crafted import Crafted, opened, resigned

MARK = "ETUDE_FAULTS_RAN"
"""The name in the environment that hostile code sets; if it is there, code was run."""

Placed = Callable[[Path], None]
Maker = Callable[[Random, bytes], bytes | Placed]

_NUMBERS = (-1, 0, 1, 7, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400, -(2**63))
_ODD: tuple[Any, ...] = (
    *_NUMBERS,
    *(0.0, 1.5, -0.0, 1e308, True, False, None, "", "0", "F32", "NaN", [], {}, [[]], [0], {"a": 0}, "../../x", "\0"),
    *("\u202ename", "\ud800", "%s%n", "{0.__class__}", "__import__('os')", "x" * 4000, [0] * 500, "\x1b[2J", "a\nb"),
)
_NAMES = (
    *("../../../../x", "/etc/passwd", "/dev/zero", "..", ".", "", "a/../../b", "C:\\x", "\\\\host\\x", "~/x"),
    *("0.weight\0", "\n", "\x1b]0;x\x07", "\u202e", "\ud800", "a" * 5000, "__metadata__ ", "__class__", "file:///x"),
    *("buffer:", "optimizer:::", "average:../x:y", "best:", "history:a:b:c", "state:" + "[0]" * 500, "$(touch x)"),
)


class _Runs:
    """Unpickled, it sets a mark and leaves."""

    def __init__(self, how: int) -> None:
        self.how = how

    def __reduce__(self) -> tuple[Any, ...]:
        code = f"import os; os.environ[{MARK!r}] = '1'"
        return ((exec, (code,)), (eval, (f"exec({code!r})",)), (os.putenv, (MARK, "1")), (os.system, ("true",)))[
            self.how
        ]


# -------------------------------------------------------------------------------------------------- other formats


def pickled(chance: Random, _: bytes) -> bytes:
    """A pickle of any protocol, alone or inside a state."""
    inside = _Runs(chance.randrange(4))
    return pickle.dumps(chance.choice([inside, {"0.weight": inside}, [1, inside]]), protocol=chance.randrange(6))


def torch_saved(chance: Random, _: bytes) -> bytes:
    """What torch.save writes, in its present and its old form."""
    made = io.BytesIO()
    state = {"0.weight": torch.zeros(3), "hook": _Runs(chance.randrange(4))}
    torch.save(state, made, _use_new_zipfile_serialization=chance.random() < 0.7)
    return made.getvalue()


def archived(chance: Random, good: bytes) -> bytes:
    """A zip, a tar or a NumPy archive, with names that lead out of the folder."""
    made, name = io.BytesIO(), chance.choice(_NAMES[:9])
    kind = chance.randrange(4)
    if kind == 0:
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name.replace("\0", "") or "x", bytes(chance.choice([10, 1 << 20])))
    elif kind == 1:
        with tarfile.open(fileobj=made, mode="w") as archive:
            member = tarfile.TarInfo(name or "x")
            member.type, member.linkname = chance.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]), "/etc/passwd"
            archive.addfile(member)
    else:
        holding = np.array([_Runs(0)], dtype=object)
        np.savez(made, weight=holding) if kind == 2 else np.save(made, holding, allow_pickle=True)
    return made.getvalue()


def other(chance: Random, good: bytes) -> bytes:
    """What begins as another kind of file does, or a good one behind it."""
    starts = (
        b"\x89HDF\r\n\x1a\n",
        b"\x1f\x8b\x08",
        b"GGUF",
        b"\x7fELF",
        b"#!/bin/sh\n",
        b"\xef\xbb\xbf{",
        b"\xff\xfe",
        b"",
    )
    start = chance.choice(starts)
    return start + chance.choice([b"", chance.randbytes(chance.randrange(300)), good])


# ------------------------------------------------------------------------------------------------ lengths and JSON


def length(chance: Random, good: bytes) -> bytes:
    """A header as long as no file is."""
    asked = chance.choice([*_NUMBERS, len(good), len(good) - 8, len(good) - 7, 100_000_001, chance.getrandbits(64)])
    return struct.pack("<Q", asked % (1 << 64)) + good[8:]


def sparse(chance: Random, _: bytes) -> Placed:
    """A file of gigabytes that takes no room on the disk, and a header as long."""
    asked = chance.choice([1 << 20, 1 << 24, 1 << 24, 99_000_000, 1 << 32, 1 << 40])

    def place(path: Path) -> None:
        with path.open("wb") as file:
            file.write(struct.pack("<Q", asked) + b'{"__metadata__":' + b"[" * chance.choice([0, 1000]))
            file.truncate(chance.choice([asked + 8, 1 << 33, 1 << 41]))

    return place


def text(chance: Random, _: bytes) -> bytes:
    """A header that is hard on whoever parses it."""
    deep = chance.choice([200, 3000, 100_000])
    texts = (
        b"[" * deep,
        b'{"a":' * deep,
        b"[" * deep + b"]" * deep,
        b'{"a":' * deep + b"1" + b"}" * deep,
        b'{"a":' + b"9" * chance.choice([500, 5000, 200_000]) + b"}",
        b'{"a":1e' + b"9" * chance.choice([5, 400]) + b"}",
        b'{"a":NaN,"b":Infinity,"c":-Infinity}',
        b'{"a":"\\ud800","b":"\\u0000"}',
        b'{"a":"\xff\xfe"}',
        b"{" + b",".join(b'"%d":0' % n for n in range(chance.choice([10, 30_000]))) + b"}",
        b'{"a":1,"a":2}',
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b"null",
        b'"text"',
        b"{",
        b"",
        b'{"__metadata__":[]}',
        b'{"__metadata__":{"format":"pt","etude":{}}}',
        b'{"__metadata__":{"digest":"' + b"0" * 64 + b'","digest":"' + b"0" * 64 + b'"}}',
    )
    chosen = chance.choice(texts)
    if chance.random() < 0.5:
        # With the right digest, the text is parsed.
        chosen = chosen[:-1] + b',"__metadata__":{"digest":"' + b"0" * 64 + b'"}' + chosen[-1:]
    return Crafted(header=chosen, tail=b"\0" * chance.choice([0, 8, 1000])).made()


# -------------------------------------------------------------------------------------- lies with digests that fit


def entry(chance: Random, _: bytes) -> bytes:
    """An array that is said to lie somewhere else, or to be something else."""
    arrays = {"a": chance.randbytes(40), "b": chance.randbytes(80)}
    told: dict[str, Any] = {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}
    field = chance.choice(list(told))
    value = chance.choice(_ODD)
    if field != "dtype" and chance.random() < 0.7:
        value = chance.choice([[value], [value, 40], [0, value], [value, value], [2**32, 2**32], [10, 1, 1, value]])
    if field == "data_offsets" and chance.random() < 0.3:
        value = chance.choice([[40, 0], [0, 44], [4, 44], [0, 36], [40, 80], [80, 120], [0, 120], [0, 40, 40]])
    entries: dict[str, Any] = {"a": {**told, field: value}}
    if chance.random() < 0.15:
        entries = {"a": chance.choice([value, {}, {**told, "more": 1}, {"dtype": "F32"}])}
    return Crafted(arrays=arrays, entries=entries).made()


def named(chance: Random, _: bytes) -> bytes:
    """Names that lead elsewhere, or that are none."""
    names = chance.sample(_NAMES, chance.choice([1, 2, 5]))
    return Crafted(arrays={name: chance.randbytes(8) for name in names}, record={chance.choice(_NAMES): 1}).made()


def metadata(chance: Random, _: bytes) -> bytes:
    """Metadata that lack something, or hold something else."""
    field = chance.choice(["format", "etude", "digests", "digest", "dtypes"])
    good = {"a": "0" * 64}
    value = chance.choice([*_ODD, json.dumps(chance.choice(_ODD)), json.dumps(good), "[" * 5000, '{"a":1,"a":2}'])
    made = Crafted(arrays={"a": chance.randbytes(16)}, metadata={field: value})
    return made.made()


def dtypes(chance: Random, _: bytes) -> bytes:
    """Dtypes under other dtypes, as for complex numbers."""
    told = chance.choice(
        ["complex64", "complex128", "complex32", "bool", "quint8", "float4", "_pickle", *map(str, _ODD)]
    )
    shape = chance.choice([[10], [5, 2], [2, 5], [], [10, 0], [1] * 70])
    return Crafted(
        arrays={"a": chance.randbytes(40)},
        entries={"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 40]}},
        metadata={"dtypes": json.dumps({chance.choice(["a", "b"]): told})},
    ).made()


def many(chance: Random, _: bytes) -> bytes:
    """Thousands of arrays without numbers, or shapes as long as the header allows."""
    if chance.random() < 0.5:
        return Crafted(arrays={str(n): b"" for n in range(chance.choice([100, 5000]))}).made()
    shape = [1] * chance.choice([60, 65, 5000]) + [0]
    return Crafted(arrays={"a": b""}, entries={"a": {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}}).made()


def record(chance: Random, good: bytes) -> bytes:
    """A good checkpoint with one place of its record changed, and a digest that belongs to it."""
    told = json.loads(opened(good)[0]["__metadata__"]["etude"])
    for _ in range(chance.choice([1, 1, 3])):
        _change(told, chance)
    return resigned(good, told)


def record_text(chance: Random, good: bytes) -> bytes:
    """A good checkpoint with a record that is none."""
    deep = chance.choice([100, 900, 50_000])
    texts = (
        "[" * deep,
        '{"a":' * deep,
        '{"a":' * deep + "0" + "}" * deep,
        "null",
        "[]",
        "{}",
        '{"a":1e999}',
        "9" * 5000,
    )
    return resigned(good, chance.choice(texts))


def _change(told: Any, chance: Random) -> None:
    """Somewhere in nested values: something else, or less, or more."""
    while True:
        keys = list(told) if isinstance(told, dict) else list(range(len(told)))
        if not keys:
            break
        key = chance.choice(keys)
        inside = told[key]
        if isinstance(inside, dict | list) and inside and chance.random() < 0.8:
            told = inside
            continue
        if chance.random() < 0.15:
            del told[key]
        else:
            told[key] = chance.choice(_ODD)
        break


# ------------------------------------------------------------------------------------------------------- no files


def placed(chance: Random, good: bytes) -> Placed:
    """Something that is no file: a link, a pipe, a socket, a folder, a device."""
    kinds = [_link, _pipe, _socket, _folder, *([_device] if os.geteuid() == 0 else [])]
    make = chance.choice([*kinds, _link])
    return lambda path: make(path, chance, good)


def _link(path: Path, chance: Random, good: bytes) -> None:
    outside = path.parents[1] / "outside.safetensors"
    outside.write_bytes(good)
    to = chance.choice(
        [str(outside), str(path), "/dev/zero", "/etc/passwd", "nowhere", "..", "/proc/self/mem", "/dev/stdin"]
    )
    path.symlink_to(to)


def _pipe(path: Path, chance: Random, good: bytes) -> None:
    os.mkfifo(path)


def _socket(path: Path, chance: Random, good: bytes) -> None:
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _folder(path: Path, chance: Random, good: bytes) -> None:
    path.mkdir()
    (path / "inside").write_bytes(good)


def _device(path: Path, chance: Random, good: bytes) -> None:
    numbers = chance.choice([(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)])
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*numbers))


MAKERS: Mapping[str, tuple[Maker, ...]] = {
    "pickles and other formats": (pickled, torch_saved, archived, other),
    "lengths and texts": (length, sparse, text),
    "lies with digests that fit": (entry, named, metadata, dtypes, many, record, record_text),
    "links, pipes, sockets, folders, devices": (placed,),
}
