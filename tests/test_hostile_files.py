"""Damaged and hostile files: each is one error that names the file, what was expected and what was found, and soon."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from etude.errors import CheckpointError
from etude.keep import files

ZEROS = "0" * 64
READERS = (files.read, files.verify, files.read_record, lambda path: files.read_arrays(path, lambda name: True))
MIB = 1 << 20


def refused(path: Path, readers: tuple[Callable[[Path], object], ...] = READERS) -> CheckpointError:
    """The error that every reader raises, one and the same."""
    caught = []
    for reader in readers:
        with pytest.raises(CheckpointError) as found:
            reader(path)
        assert type(found.value) is CheckpointError
        assert found.value.path == str(path)
        assert found.value.expected
        assert found.value.found
        assert len(str(found.value)) < 1000
        assert (found.value.expected + found.value.found).isprintable()
        caught.append(found.value)
    assert len({str(error) for error in caught}) == 1
    return caught[0]


def good(folder: Path, name: str = "good") -> Path:
    torch.manual_seed(sum(name.encode()))
    arrays = {
        "0.weight": torch.randn(4, 3),
        "0.bias": torch.randn(4),
        "state:flags": torch.tensor([True, False]),
        "z": torch.randn(2, dtype=torch.complex64),
        "e": torch.empty(0, 3),
    }
    files.write(folder / name, {"step": 3, "name": name}, arrays)
    return folder / name


def put(path: Path, raw: bytes) -> None:
    """Change a file in place, which is quicker than making it anew."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(raw)
        file.truncate()


# ------------------------------------------------------------------------------------------------------- damage


def test_every_byte_counts(tmp_path: Path) -> None:
    raw, path = good(tmp_path).read_bytes(), tmp_path / "bad"
    for at in range(len(raw)):
        bad = bytearray(raw)
        bad[at] ^= 1 << (at % 8)
        put(path, bad)
        refused(path, (files.read,))


def test_no_file_that_is_shorter_or_longer_passes(tmp_path: Path) -> None:
    raw, path = good(tmp_path).read_bytes(), tmp_path / "bad"
    for length in [*range(0, len(raw), 7), *range(len(raw) - 9, len(raw))]:
        put(path, raw[:length])
        refused(path, (files.read,))
    for more in (b"\0", b" ", b"}", raw[-8:], raw):
        put(path, raw + more)
        refused(path)


def _flip(raw: bytearray, other: bytes, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 1, 2, 10))):
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


def _cut(raw: bytearray, other: bytes, chance: random.Random) -> None:
    del raw[chance.randrange(len(raw)) :]


def _grow(raw: bytearray, other: bytes, chance: random.Random) -> None:
    raw.extend(chance.randbytes(chance.randrange(1, 5000)))


def _zeros(raw: bytearray, other: bytes, chance: random.Random) -> None:
    begin = chance.randrange(len(raw))
    end = min(len(raw), begin + chance.randrange(1, 600))
    raw[begin:end] = bytes(end - begin)


def _noise(raw: bytearray, other: bytes, chance: random.Random) -> None:
    begin = chance.randrange(len(raw))
    end = min(len(raw), begin + chance.randrange(1, 600))
    raw[begin:end] = chance.randbytes(end - begin)


def _mix(raw: bytearray, other: bytes, chance: random.Random) -> None:
    begin = chance.randrange(len(raw))
    raw[begin:] = other[begin:]


def _lose(raw: bytearray, other: bytes, chance: random.Random) -> None:
    begin = chance.randrange(len(raw))
    del raw[begin : begin + chance.randrange(1, 100)]


def _again(raw: bytearray, other: bytes, chance: random.Random) -> None:
    begin = chance.randrange(len(raw))
    raw[begin:begin] = raw[begin : begin + chance.randrange(1, 100)]


def _length(raw: bytearray, other: bytes, chance: random.Random) -> None:
    raw[:8] = chance.choice((2**63, 2**64 - 1, 0, 1, len(raw), len(raw) - 8, 10**8, 2**31)).to_bytes(8, "little")


def _digits(raw: bytearray, other: bytes, chance: random.Random) -> None:
    places = [i for i, byte in enumerate(raw[:-200]) if byte in b"0123456789"]
    raw[chance.choice(places)] = chance.choice(b"0123456789")


DAMAGES = (_flip, _cut, _grow, _zeros, _noise, _mix, _lose, _again, _length, _digits)


def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    """Each is refused, or is byte for byte one of two good files."""
    chance = random.Random(4)
    one, other = good(tmp_path, "one").read_bytes(), good(tmp_path, "two").read_bytes()
    path, harmless = tmp_path / "bad", 0
    for i in range(10_000):
        raw = bytearray(one)
        DAMAGES[i % len(DAMAGES)](raw, other, chance)
        if raw in (one, other):
            harmless += 1
            continue
        put(path, raw)
        with pytest.raises(CheckpointError) as caught:
            files.read(path)
        assert caught.value.path == str(path)
        assert caught.value.expected
        assert caught.value.found
    assert harmless < 500, harmless


def test_damage_is_told_from_what_may_pass(tmp_path: Path) -> None:
    """A damaged file is set aside, so it must be one; what cannot be reached now may be good."""
    path = good(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert refused(path, (files.read, files.verify)).damaged
    path.write_bytes(raw[:-1])
    assert refused(path).damaged
    path.write_bytes(raw[: len(raw) // 2])
    assert refused(path).damaged
    path.write_bytes(b"")
    assert refused(path).damaged
    assert "found an empty file" in str(refused(path))
    path.write_bytes(bytes(4000))
    assert refused(path).damaged
    path.write_bytes(bytes(raw).replace(b'"etude"', b'"etudf"'))
    assert refused(path).damaged
    path.unlink()
    assert not refused(path).damaged


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = good(tmp_path)
    real = os.preadv
    size = path.stat().st_size

    def short(fd: int, views: list[memoryview], offset: int) -> int:
        return 0 if offset > 100 else real(fd, views, offset)

    monkeypatch.setattr(os, "preadv", short)
    error = refused(path, (files.read, files.verify))
    assert error.damaged
    assert error.expected == f"{size:,} bytes"
    assert error.found.endswith("cut short while it was read")


@pytest.mark.parametrize("call", range(3))
def test_a_disk_that_fails_is_one_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    path, count = good(tmp_path), -1
    real = os.preadv

    def fail(fd: int, views: list[memoryview], offset: int) -> int:
        nonlocal count
        count += 1
        if count == call:
            raise OSError(5, "Input/output error")
        return real(fd, views, offset)

    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    monkeypatch.setattr(os, "preadv", fail)
    error = refused(path, (files.read,))
    assert str(error) == f"{path}: expected a checkpoint; found Input/output error."
    assert not error.damaged
    assert isinstance(error.__cause__, OSError)
    assert not before or len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------------------------------------------- other kinds


def _zip(path: Path) -> None:
    torch.save({"x": torch.ones(3)}, path)


def _old_zip(path: Path) -> None:
    torch.save({"x": torch.ones(3)}, path, _use_new_zipfile_serialization=False)


class Marker:
    """Leaves a file behind if it is ever loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("padding", [0, 5000])
def test_a_pickle_is_refused_as_one_and_does_not_run(tmp_path: Path, protocol: int, padding: int) -> None:
    path, mark = tmp_path / "a.safetensors", tmp_path / "ran"
    path.write_bytes(pickle.dumps((Marker(mark), b"{" * padding), protocol))
    error = refused(path)
    assert error.found == (
        f"a pickle (protocol {protocol}), which is refused because loading it can run code: "
        "write load_net(path, net, foreign=True) for weights from elsewhere"
    )
    assert not error.damaged
    assert not mark.exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_zip, "a pickle (in a zip, as torch.save writes it), which is refused"),
        (_old_zip, "a pickle (protocol 2), which is refused"),
        (lambda path: np.savez(path.open("wb"), x=np.ones(3)), "a pickle (in a zip"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(99)), "a file compressed by gzip"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(99)), "a GGUF file"),
        (lambda path: path.write_bytes(b"hello, world, this is text"), "26 bytes that begin with 68 65 6c 6c 6f 2c"),
        (lambda path: path.write_bytes(b"{}"), "2 bytes that begin with 7b 7d"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: os.mkfifo(path), "a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a symbolic link"),
        (lambda path: path.symlink_to(path), "a symbolic link"),
        (lambda path: path.symlink_to(good(path.parent, "other")), "a symbolic link"),
        (lambda path: None, "no file"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    make(tmp_path / "a")
    error = refused(tmp_path / "a")
    assert error.found.startswith(said)
    assert error.damaged == (" bytes " in said)


def test_devices_are_refused() -> None:
    for path in (Path("/dev/zero"), Path("/dev/null")):
        assert refused(path).found == "a device"


@pytest.mark.parametrize(
    ("name", "found"),
    [("a\0b", "a null character in its name"), ("x" * 300, "File name too long"), ("\udcff", "no file")],
)
def test_names_that_no_file_has(tmp_path: Path, name: str, found: str) -> None:
    assert refused(tmp_path / name).found == found
    if found != "no file":
        with pytest.raises(CheckpointError, match=found):
            files.write(tmp_path / name, {}, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_someone_else(tmp_path: Path) -> None:
    path = good(tmp_path)
    path.chmod(0)
    assert refused(path).found == "Permission denied"


# ---------------------------------------------------------------------------------------------- forged headers


def sealed(text: bytes) -> bytes:
    """A header with its digest right."""
    return text.replace(ZEROS.encode(), sha256(text).hexdigest().encode(), 1)


def digest(raw: bytes) -> str:
    return sha256(sha256(raw).digest()).hexdigest()


def forged(
    path: Path,
    arrays: dict[str, Any] | str,
    data: bytes = b"",
    record: str = "{}",
    digests: dict[str, Any] | str | None = None,
    **more: Any,
) -> Path:
    """A file whose digests are right and whose header says anything."""
    if digests is None:
        digests = {}
        for name, entry in arrays.items() if isinstance(arrays, dict) else ():
            place = entry.get("data_offsets") if isinstance(entry, dict) else None
            ends = place if isinstance(place, list) and all(type(i) is int for i in place) else [0, 0]
            digests[name] = digest(data[max(0, ends[0]) : max(0, ends[-1])]) if ends else ""
    told = digests if isinstance(digests, str) else json.dumps(digests)
    ours = {"format": "pt", "etude": record, "digests": told, **more, "digest": ZEROS}
    text = arrays if isinstance(arrays, str) else json.dumps(arrays)[1:-1]
    head = f'{{"__metadata__":{json.dumps(ours, separators=(",", ":"))}{"," + text if text else ""}}}'.encode()
    path.write_bytes(len(head).to_bytes(8, "little") + sealed(head) + data)
    return path


def entry(dtype: Any = "U8", shape: Any = (4,), place: Any = (0, 4)) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": list(shape) if isinstance(shape, tuple) else shape,
        "data_offsets": list(place) if isinstance(place, tuple) else place,
    }


def test_what_is_forged_well_is_read(tmp_path: Path) -> None:
    """So that the refusals below are for the reason that is meant."""
    path = forged(tmp_path / "a", {"x": entry(), "y": entry("I16", (2, 1), (4, 8))}, bytes(range(8)), '{"n": 1}')
    saved = files.read(path)
    assert saved.record == {"n": 1}
    assert saved.tensors["x"].tolist() == [0, 1, 2, 3]
    assert saved.tensors["y"].tolist() == [[5 * 256 + 4], [7 * 256 + 6]]


FOUR = bytes(4)
ONE = {"x": entry()}


@pytest.mark.parametrize(
    ("arrays", "data", "said"),
    [
        ({"x": entry(place=(0, 5), shape=(5,))}, FOUR, "expected 5 bytes of arrays; found 4"),
        ({"x": entry(place=(0, 3), shape=(3,))}, FOUR, "expected 3 bytes of arrays; found 4"),
        ({"x": entry(place=(1, 4), shape=(3,))}, FOUR, "expected the array 'x' at byte 0; found it at 1"),
        ({**ONE, "y": entry(place=(2, 4), shape=(2,))}, FOUR, "expected the array 'y' at byte 4; found it at 2"),
        ({**ONE, "y": entry()}, FOUR, "at byte 4; found it at 0"),
        (
            {"x": entry(place=(0, 1), shape=(1,)), "y": entry(place=(3, 4), shape=(1,))},
            FOUR,
            "byte 1; found it at 3",
        ),
        ({"x": entry(place=(4, 0))}, FOUR, "expected a place of 'x' that fits U8 [4]; found [4, 0]"),
        ({"x": entry(shape=(5,))}, FOUR, "expected a place of 'x' that fits U8 [5]; found [0, 4]"),
        ({"x": entry("F32", (4,))}, FOUR, "expected a place of 'x' that fits F32 [4]; found [0, 4]"),
        ({"x": entry(shape=(2**62, 4))}, FOUR, "expected a place of 'x' that fits U8 [46116860184"),
        ({"x": entry(shape=(2**62,) * 64)}, FOUR, "expected a place of 'x' that fits"),
        ({"x": entry(shape=(1,) * 65)}, b"\0", "expected whole numbers as shape and place of 'x'"),
        (
            {"x": entry(shape=(-2, -2))},
            FOUR,
            "whole numbers as shape and place of 'x'; found [-2, -2], [0, 4]",
        ),
        ({"x": entry(shape=(4.0,))}, FOUR, "expected whole numbers as shape and place of 'x'; found [4.0], [0, 4]"),
        ({"x": entry(shape=(True, 4))}, FOUR, "expected whole numbers as shape and place of 'x'; found [True, 4]"),
        ({"x": entry(shape=("4",))}, FOUR, "expected whole numbers as shape and place of 'x'; found ['4'], [0, 4]"),
        ({"x": entry(shape=4)}, FOUR, "expected whole numbers as shape and place of 'x'; found 4, [0, 4]"),
        ({"x": entry(shape={})}, FOUR, "expected whole numbers as shape and place of 'x'; found {}, [0, 4]"),
        ({"x": entry(shape=None)}, FOUR, "expected whole numbers as shape and place of 'x'; found None, [0, 4]"),
        ({"x": entry(place=(0, 4, 8))}, FOUR, "expected whole numbers as shape and place of 'x'; found [4], [0, 4, 8]"),
        ({"x": entry(place=())}, FOUR, "expected whole numbers as shape and place of 'x'; found [4], []"),
        ({"x": entry(place=(-4, 0))}, FOUR, "expected whole numbers as shape and place of 'x'; found [4], [-4, 0]"),
        ({"x": entry(place=(0, 2**63), shape=(2**63,))}, FOUR, "expected whole numbers as shape and place of 'x'"),
        ({"x": entry(place=(0, 2**62), shape=(2**62,))}, FOUR, "expected 4,611,686,018,427,387,904 bytes of arrays; f"),
        ({"x": entry(place=None)}, FOUR, "expected whole numbers as shape and place of 'x'; found [4], None"),
        ({"x": entry("Q8")}, FOUR, "expected a dtype of 'x'; found 'Q8'"),
        ({"x": entry("torch.uint8")}, FOUR, "expected a dtype of 'x'; found 'torch.uint8'"),
        ({"x": entry(["U8"])}, FOUR, "expected a dtype of 'x'; found ['U8']"),
        ({"x": entry({})}, FOUR, "expected a dtype of 'x'; found {}"),
        ({"x": entry(None)}, FOUR, "expected a dtype of 'x'; found None"),
        ({"x": {**entry(), "more": 1}}, FOUR, "expected dtype, shape and place of the array 'x'; found {"),
        ({"x": {"dtype": "U8", "shape": [4]}}, FOUR, "expected dtype, shape and place of the array 'x'; found {"),
        ({"x": 4}, FOUR, "expected dtype, shape and place of the array 'x'; found 4"),
        ({"x": None}, FOUR, "expected dtype, shape and place of the array 'x'; found None"),
        ({"x": [[]]}, FOUR, "expected dtype, shape and place of the array 'x'; found [[]]"),
        (
            {"x": entry(shape=(1,), place=(0, 1)), "y": entry("I32", (1,), (1, 5))},
            bytes(5),
            "expected a place of 'y' that fits I32 [1]; found [1, 5]",
        ),
        ({"../../x\x1b[31m\n" + "é" * 999: 4}, FOUR, "expected dtype, shape and place of the array '../../x"),
        ('"x\\ud800":4', FOUR, "expected names that are texts; found 'x\\ud800'"),
        ('"x":4,"x":5', FOUR, "expected a header in JSON; found the name 'x' twice"),
        ('"x":{"dtype":"U8","dtype":"U8"}', FOUR, "expected a header in JSON; found the name 'dtype' twice"),
        ('"__metadata__":{}', FOUR, "expected a header in JSON; found the name '__metadata__' twice"),
        ('"x":' + "9" * 5000, FOUR, "expected a header in JSON; found a number of 5,000 digits"),
        ('"x":' + "[" * 100_000, FOUR, "expected a header in JSON; found maximum recursion depth exceeded"),
        ('"x":' + '{"y":' * 100_000, FOUR, "expected a header in JSON; found maximum recursion depth exceeded"),
        ('"x":4,', FOUR, "expected a header in JSON; found "),
        ('"x":tru', FOUR, "expected a header in JSON; found "),
        ('"x":4}{', FOUR, "expected a header in JSON; found "),
        ('"x":"\x01"', FOUR, "expected a header in JSON; found "),
        ('"x":NaN', FOUR, "expected dtype, shape and place of the array 'x'; found nan"),
        ('"x":' + "[]," * 2_000_000 + "[]", FOUR, "expected a header in proportion to its file; found 6,0"),
        ('"x":"' + "y" * 20_000_000 + '"', FOUR, "expected a header in proportion to its file; found 20,0"),
    ],
)
def test_a_forged_header_is_refused(tmp_path: Path, arrays: dict[str, Any] | str, data: bytes, said: str) -> None:
    began = time.perf_counter()
    error = refused(forged(tmp_path / "a", arrays, data))
    assert said in str(error)
    assert error.damaged
    assert time.perf_counter() - began < 4 * 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"digests": {}}, "expected a digest of every array; found 'x' in one of two lists"),
        ({"digests": {"x": "", "y": ""}}, "expected a digest of every array; found 'y' in one of two lists"),
        ({"digests": "[]"}, "expected digests in JSON; found []"),
        ({"digests": "no"}, "expected digests in JSON; found Expecting value"),
        ({"digests": '{"x":1,"x":2}'}, "expected digests in JSON; found the name 'x' twice"),
        ({"record": ""}, "expected a record in JSON; found Expecting value"),
        ({"record": "[1]"}, "expected a record in JSON; found [1]"),
        ({"record": "null"}, "expected a record in JSON; found None"),
        ({"record": '{"a":1,"a":1}'}, "expected a record in JSON; found the name 'a' twice"),
        ({"record": '{"a":' * 100_000}, "expected a record in JSON; found maximum recursion depth exceeded"),
        ({"record": '{"a":' + "1" * 2000 + "}"}, "expected a record in JSON; found a number of 2,000 digits"),
        ({"record": "[[" + "[],\n" * 3_000_000}, "expected a header in proportion to its file; found"),
        ({"dtypes": "{"}, "expected dtypes in JSON; found "),
        (
            {"dtypes": '{"y":"complex64"}'},
            "expected dtypes of arrays that are there; found 'x', 'y' in one of two",
        ),
        ({"dtypes": '{"x":"complex64"}'}, "expected a dtype of 'x' that is kept as U8; found 'complex64'"),
        ({"dtypes": '{"x":"qint8"}'}, "expected a dtype of 'x' that is kept as U8; found 'qint8'"),
        ({"dtypes": '{"x":"uint8"}'}, "expected a dtype of 'x' that is kept as U8; found 'uint8'"),
        ({"dtypes": '{"x":["uint8"]}'}, "expected a dtype of 'x' that is kept as U8; found ['uint8']"),
        ({"note": 3}, "expected metadata that are texts; found {"),
        ({"note": "half \ud800"}, "expected metadata that are texts; found {"),
        ({"half \udc00": "note"}, "expected metadata that are texts; found {"),
        ({"note": '"digest":"' + "a" * 64 + '"'}, None),
    ],
)
def test_forged_metadata_are_refused(tmp_path: Path, changes: dict[str, Any], said: str | None) -> None:
    path = forged(tmp_path / "a", ONE, FOUR, **changes)
    if said is None:
        assert files.read(path).record == {}
    else:
        error = refused(path)
        assert said in str(error)
        assert error.damaged


@pytest.mark.parametrize("told", [1, None, [], {}, "", "1" * 64])
def test_a_digest_that_is_none(tmp_path: Path, told: Any) -> None:
    path = forged(tmp_path / "a", ONE, FOUR, digests={"x": told})
    assert "expected the array 'x' with the digest" in str(refused(path, READERS[:2]))


def test_pairs_that_are_none(tmp_path: Path) -> None:
    for shape, size in (((3,), 12), ((), 4), ((2, 1), 8)):
        arrays = {"x": entry("F32", shape, (0, size))}
        path = forged(tmp_path / "a", arrays, bytes(size), dtypes='{"x":"complex64"}')
        assert "expected pairs of numbers for 'x'" in str(refused(path)) or "that fits" in str(refused(path))


def test_truth_values_are_ones_and_zeros(tmp_path: Path) -> None:
    path = forged(tmp_path / "a", {"x": entry("BOOL")}, b"\0\1\2\1")
    assert "expected ones and zeros in the array 'x'; found other numbers" in str(refused(path, (files.read,)))


IMPOSSIBLE = ((2**40, 2**40, 0), (2**62, 2**62, 0, 2**62))


@pytest.mark.parametrize("shape", [(0, 2**62), (2**62, 0), (0,) * 64, *IMPOSSIBLE])
def test_arrays_without_numbers_may_have_any_shape_that_torch_knows(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = forged(tmp_path / "a", {"x": entry("F64", shape, (0, 0))})
    if shape in IMPOSSIBLE:
        assert "expected the array 'x' of a possible shape" in str(refused(path, (files.read,)))
    else:
        assert files.read(path).tensors["x"].shape == shape


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{}", "a safetensors file of another program"),
        (b'{"__metadata__":{}}', "a safetensors file of another program"),
        (b'{"__metadata__":7}', "expected a header with one digest of itself; found none, or several"),
        (b'{"__metadata__":{"etude":"{}"}}', "expected a header with one digest of itself; found none, or several"),
        (b'{"digest":"' + b"a" * 64 + b'","x":{"digest":"' + b"a" * 64 + b'"}}', "safetensors file of another program"),
        (b'{"digest":"' + b"a" * 64 + b'"}', "expected a header with the digest aaaaaaaaaaaaaaaa...; found one with"),
        (b'{"x":\xff}', "expected a header in JSON; found 'utf-8' codec can't decode byte 0xff"),
        (b"{\0}\0", "expected a header in JSON; found "),
        ("{}".encode("utf-16-le"), "expected a header in JSON; found "),
        (b"{" * 50_000, "expected a header in JSON; found "),
    ],
)
def test_headers_that_are_not_ours(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert said in str(refused(path))


def test_a_sealed_header_that_is_no_text(tmp_path: Path) -> None:
    text = sealed(b'{"\xff":0,"digest":"' + ZEROS.encode() + b'"}')
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text)
    assert "expected a header in JSON; found 'utf-8' codec" in str(refused(tmp_path / "a"))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**63 - 1, 10**9])
def test_a_length_beyond_everything(tmp_path: Path, length: int) -> None:
    (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(100))
    assert "expected a safetensors file: a length and a header within the file" in str(refused(tmp_path / "a"))


@contextmanager
def sparse(path: Path, size: int) -> Iterator[None]:
    """A file of any length that takes no room on the disk, if the disk can do that."""
    with open(path, "r+b") as file:
        try:
            file.truncate(size)
        except OSError:
            pytest.skip("no file can be so long here")
    yield
    path.unlink()


def test_a_header_longer_than_readers_take(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes((10**8 + 1).to_bytes(8, "little") + b"{")
    with sparse(path, 10**9):
        assert "expected a header of at most 100,000,000 bytes; found one of 100,000,001" in str(refused(path))


def _overcommits() -> bool:
    known = Path("/proc/sys/vm/overcommit_memory")
    return not known.exists() or known.read_text().strip() == "1"


@pytest.mark.skipif(_overcommits(), reason="the system promises memory that it does not have")
def test_more_than_fits_into_memory_is_refused_and_not_tried(tmp_path: Path) -> None:
    size = 1 << 43
    path = forged(tmp_path / "a", {"x": entry(shape=(size,), place=(0, size))}, digests={"x": ""})
    with sparse(path, path.stat().st_size + size):
        error = refused(path, (files.read,))
        assert str(error) == (
            f"{path}: expected a checkpoint that fits into memory; found less memory than it needs ({size:,} bytes)."
        )
        assert not error.damaged


def test_a_hostile_header_takes_little_memory(tmp_path: Path) -> None:
    """Texts of a few megabytes could stand for gigabytes of values."""
    texts = [
        '"x":[' + "[]," * 300_000 + "[]]",
        '"x":{' + ",".join(f'"{i}":{{}}' for i in range(200_000)) + "}",
        '"x":[' + "0," * 500_000 + "0]",
        '"x":"' + "\\u00e9" * 1_000_000 + "\\ud83d\\ude00" + '"',
    ]
    for text in texts:
        path = forged(tmp_path / "a", text)
        tracemalloc.start()
        refused(path, (files.read,))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < path.stat().st_size + 64 * MIB


PROGRAM = """
import os, resource, sys
from etude.keep import files
from etude.errors import CheckpointError
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
try:
    files.read(sys.argv[1])
except CheckpointError:
    pass
before, seen = peak(), []
sys.addaudithook(lambda event, args: seen.append((event, args)))
try:
    files.read(sys.argv[2])
except CheckpointError:
    refused = True
print(refused, peak() - before - os.path.getsize(sys.argv[2]), sorted({
    event if event != "open" else f"open {args[0]}" for event, args in seen
}))
"""


def test_a_damaged_file_takes_its_own_length_in_memory_and_opens_and_runs_nothing(tmp_path: Path) -> None:
    small, path = good(tmp_path, "small"), tmp_path / "a"
    files.write(path, {}, {"x": torch.ones(25 * MIB)})
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    small.write_bytes(small.read_bytes()[:-1])
    found = subprocess.run([sys.executable, "-c", PROGRAM, small, path], capture_output=True, text=True)
    refused_it, more, events = found.stdout.split(maxsplit=2)
    assert refused_it == "True", found.stderr
    assert int(more) < 64 * MIB
    said = io.StringIO(events).read()
    assert f"open {path}" in said
    assert said.count("open ") == 1
    assert all(word not in said for word in ("exec", "import", "subprocess", "socket", "pickle"))
