"""Checkpoints as files: what is written comes back bit by bit, is whole or not there, and is read by others too."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from etude.errors import CheckpointError, StateError
from etude.keep import disk, files

MIB = 1 << 20

PLAIN = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
PLAIN += ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]
"""Dtypes that the format has."""

DTYPES = [*PLAIN, "complex32", "complex64", "complex128"]
DTYPES += ["float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"]


def bits(array: Tensor) -> bytes:
    """The numbers of an array in their order, as bytes."""
    flat = array.resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether names, dtypes, shapes and bits are equal."""
    return one.keys() == other.keys() and all(
        (array.dtype, array.shape, bits(array)) == (other[name].dtype, other[name].shape, bits(other[name]))
        for name, array in one.items()
    )


def array_of(dtype: str, *shape: int) -> Tensor:
    """Numbers of any bits, NaNs of all kinds among them."""
    kind = getattr(torch, dtype)
    if kind == torch.bool:
        return torch.randint(2, shape).bool()
    raw = np.random.default_rng(7).integers(256, size=math.prod(shape) * kind.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(kind).view(shape) if raw.size else torch.empty(shape, dtype=kind)


def state() -> dict[str, Tensor]:
    """Arrays of many kinds."""
    torch.manual_seed(1)
    return {
        "0.weight": torch.randn(3, 4),
        "0.bias": torch.randn(3),
        "running": torch.tensor(7),
        "buffer:none": torch.empty(0, 5),
        "turned": torch.randn(6, 5).t(),
        "every second": torch.arange(9.0)[::2],
        "spread": torch.randn(1, 4).expand(3, 4),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "negative": torch.randn(3, dtype=torch.complex64).conj().imag,
        'odd "name"\n\\ é 名': torch.arange(5, dtype=torch.int8),
        **{dtype: array_of(dtype, 3, 2) for dtype in DTYPES},
    }


RECORD = {"step": 3, "loss": 0.1, "names": ["a", 'é\n"\\'], "none": None, "deep": [[{"x": True}]], "big": 2**80}


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    size = files.write(path, RECORD, state())
    saved = files.read(path)
    assert size == path.stat().st_size
    assert saved.path == str(path)
    assert saved.record == RECORD
    assert same(saved.tensors, state())


def test_nothing_at_all_comes_back_too(tmp_path: Path) -> None:
    files.write(tmp_path / "a", {}, {})
    assert files.read(tmp_path / "a") == files.Saved(str(tmp_path / "a"), {}, {})
    assert files.verify(tmp_path / "a") == {}


def test_arrays_of_a_file_can_be_written_to(tmp_path: Path) -> None:
    """They are memory of their own, not the file."""
    files.write(tmp_path / "a", {}, {"x": torch.ones(3), "y": torch.ones(3)})
    found = files.read(tmp_path / "a").tensors
    found["x"].add_(1)
    assert found["y"].tolist() == [1, 1, 1]
    assert files.read(tmp_path / "a").tensors["x"].tolist() == [1, 1, 1]


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)),
        max_size=8,
    ),
    st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text() | st.floats(), st.lists), max_size=4),
)
def test_any_names_shapes_and_records_come_back(
    tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, tuple[str, list[int]]], record: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "a"
    arrays = {name: array_of(dtype, *shape) for name, (dtype, shape) in kinds.items()}
    files.write(path, record, arrays)
    saved = files.read(path)
    assert same(saved.tensors, arrays)
    assert repr(saved.record) == repr(record)
    assert {name: bits(array) for name, array in load_file(path).items()} == {
        name: bits(array) for name, array in arrays.items()
    }


def test_the_same_state_makes_the_same_bytes(tmp_path: Path) -> None:
    files.write(tmp_path / "a", RECORD, state())
    files.write(tmp_path / "b", RECORD, dict(reversed(state().items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# ------------------------------------------------------------------------------------------------- the format


def header_of(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    found: dict[str, Any] = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return found


def test_any_reader_of_safetensors_reads_it(tmp_path: Path) -> None:
    path, arrays = tmp_path / "a.safetensors", state()
    files.write(path, RECORD, arrays)
    found = load_file(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert bits(found[name]) == bits(array), name
        if str(array.dtype).removeprefix("torch.") in PLAIN:
            assert found[name].dtype == array.dtype
            assert found[name].shape == array.shape
    assert torch.view_as_complex(found["complex128"]).equal(arrays["complex128"])
    with safe_open(path, "pt") as opened:
        assert opened.metadata()["format"] == "pt"
        assert json.loads(opened.metadata()["etude"]) == RECORD


def test_the_digest_of_the_header_is_taken_with_zeros_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write(path, RECORD, state())
    told = header_of(path)["__metadata__"]["digest"]
    raw = path.read_bytes()
    text = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    assert text.count(told.encode()) == 1
    assert sha256(text.replace(told.encode(), b"0" * 64)).hexdigest() == told


def test_the_digest_of_an_array_is_that_of_the_digests_of_its_pieces(tmp_path: Path) -> None:
    torch.manual_seed(1)
    arrays = {
        "none": torch.empty(0),
        "small": torch.randn(3),
        "one piece": torch.randint(256, (4 * MIB,), dtype=torch.uint8),
        "two pieces": torch.randint(256, (4 * MIB + 1,), dtype=torch.uint8),
        "three pieces": torch.randn(3 * MIB),
    }
    files.write(tmp_path / "a", {}, arrays)
    told = json.loads(header_of(tmp_path / "a")["__metadata__"]["digests"])
    for name, array in arrays.items():
        raw = bits(array)
        pieces = [raw[at : at + 4 * MIB] for at in range(0, len(raw), 4 * MIB)] or [b""]
        assert told[name] == sha256(b"".join(sha256(piece).digest() for piece in pieces)).hexdigest()
    assert same(files.read(tmp_path / "a").tensors, arrays)


def test_arrays_lie_in_one_run_of_bytes_each_where_its_numbers_have_to(tmp_path: Path) -> None:
    path, arrays = tmp_path / "a", state()
    size = files.write(path, RECORD, arrays)
    told = header_of(path)
    told.pop("__metadata__")
    at = 0
    for name, entry in sorted(told.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        assert begin == at
        assert begin % arrays[name].dtype.itemsize == 0
        at = end
    assert size - at == 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert (size - at) % 64 == 0


def test_arrays_of_round_sizes_begin_with_a_line_of_the_cache(tmp_path: Path) -> None:
    """Whatever odd ones there are besides, as biases are."""
    arrays = {f"{i}.{name}": torch.ones(n) for i in range(5) for name, n in (("bias", 10), ("weight", 160))}
    files.write(tmp_path / "a", {}, arrays)
    told = header_of(tmp_path / "a")
    assert all(told[f"{i}.weight"]["data_offsets"][0] % 64 == 0 for i in range(5))


def test_a_file_of_the_safetensors_library_is_known_for_what_it_is(tmp_path: Path) -> None:
    save_file({"x": torch.ones(3)}, tmp_path / "a", metadata={"format": "pt", "author": "someone"})
    save_file({"x": torch.ones(3)}, tmp_path / "b")
    for path in (tmp_path / "a", tmp_path / "b"):
        for read in (files.read, files.read_record, files.verify):
            with pytest.raises(CheckpointError) as caught:
                read(path)
            assert str(caught.value) == (
                f"{path}: expected a checkpoint of étude; found a safetensors file of another program: "
                "write load_net(path, net, foreign=True) for weights from elsewhere."
            )
            assert not caught.value.damaged


# --------------------------------------------------------------------------------------------------- the image


def test_arrays_may_change_as_soon_as_they_are_taken(tmp_path: Path) -> None:
    arrays = {"x": torch.zeros(3), "y": torch.ones(2, 2)}
    image = files.Image()
    image.take(arrays)
    arrays["x"].fill_(9)
    arrays["y"].fill_(9)
    image.write(tmp_path / "a", {})
    assert same(files.read(tmp_path / "a").tensors, {"x": torch.zeros(3), "y": torch.ones(2, 2)})


@pytest.mark.parametrize(("threads", "load"), [(1, 0.0), (1, 1000.0), (1, None), (2, 0.0)])
def test_many_long_arrays_are_copied_by_one_thread_or_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, load: float | None
) -> None:
    """Several where torch has one and cores are idle; no copy is a step of a computation with gradients."""

    def loads() -> tuple[float, float, float]:
        if load is None:
            raise OSError("Load averages are unobtainable")
        return load, 0.0, 0.0

    monkeypatch.setattr(os, "getloadavg", loads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        arrays: dict[str, Tensor] = {f"{i}": nn.Parameter(torch.full((MIB // 2 + i,), float(i))) for i in range(11)}
        arrays["turned"] = torch.randn(1500, 1000).t()
        image = files.Image()
        image.take(arrays)
        kept = {name: array.detach().clone() for name, array in arrays.items()}
        with torch.no_grad():
            for array in arrays.values():
                array.zero_()
        image.write(tmp_path / "a", {})
    finally:
        torch.set_num_threads(before)
    assert not any(copied.requires_grad for copied in image.tensors.values())
    assert same(files.read(tmp_path / "a").tensors, kept)


def test_arrays_of_the_same_kind_go_into_the_same_memory(tmp_path: Path) -> None:
    """No memory is asked for after the first time: the places are those of before."""
    image, places = files.Image(), set()
    for i in range(3):
        image.take({"x": torch.full((300,), float(i)), "y": torch.arange(4) + i})
        places.add(image._flat.data_ptr())
        image.write(tmp_path / f"{i}", {"i": i})
    assert len(places) == 1
    for i in range(3):
        saved = files.read(tmp_path / f"{i}")
        assert saved.record == {"i": i}
        assert same(saved.tensors, {"x": torch.full((300,), float(i)), "y": torch.arange(4) + i})


def test_a_history_that_grows_leaves_all_else_where_it_is(tmp_path: Path) -> None:
    """So a save of a run copies its arrays into the memory of the last save, and lays out little anew."""
    image, places = files.Image(), set()
    for i in range(40):
        arrays = {
            **state(),
            "history:loss:value": torch.arange(i, dtype=torch.float64),
            "history:x:step": torch.arange(i),
        }
        image.take(arrays)
        image.write(tmp_path / "a", {})
        assert same(files.read(tmp_path / "a").tensors, arrays)
        places.add((image.tensors["0.weight"].data_ptr(), image.tensors["complex128"].data_ptr()))
    assert len(places) == 1


def test_the_copies_can_be_looked_at(tmp_path: Path) -> None:
    image, array = files.Image(), torch.ones(3)
    image.take({"x": array})
    array.zero_()
    assert same(image.tensors, {"x": torch.ones(3)})


def test_memory_made_ready_beforehand_is_that_of_the_first_time() -> None:
    image, arrays = files.Image(), {"x": torch.ones(3000)}
    image.prepare(arrays)
    place = image._flat.data_ptr()
    image.prepare(arrays)
    image.take(arrays)
    assert image._flat.data_ptr() == place


@pytest.mark.parametrize(
    "then",
    [
        {"x": torch.ones(5, 2), "y": torch.ones(3)},
        {"x": torch.ones(2, 5), "z": torch.ones(3)},
        {"x": torch.ones(2, 5), "y": torch.ones(3, dtype=torch.float64)},
        {"x": torch.ones(2, 5), "y": torch.ones(3), "z": torch.ones(1)},
        {"x": torch.ones(2, 5)},
        {"y": torch.ones(3), "x": torch.ones(2, 5)},
        {"x": torch.ones(20000), "y": torch.ones(3)},
        {},
    ],
)
def test_arrays_of_other_kinds_are_laid_out_anew(tmp_path: Path, then: dict[str, Tensor]) -> None:
    image = files.Image()
    image.take({"x": torch.zeros(2, 5), "y": torch.zeros(3)})
    image.write(tmp_path / "a", {})
    image.take(then)
    image.write(tmp_path / "b", {})
    assert same(files.read(tmp_path / "b").tensors, then)
    image.take({"x": torch.zeros(2, 5), "y": torch.zeros(3)})
    image.write(tmp_path / "c", {})
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()


def test_an_image_is_written_as_often_as_wanted(tmp_path: Path) -> None:
    image = files.Image()
    image.take({"x": torch.ones(3)})
    image.write(tmp_path / "a", {"n": 1})
    image.write(tmp_path / "b", {"n": 2})
    assert [files.read_record(tmp_path / name) for name in "ab"] == [{"n": 1}, {"n": 2}]


@pytest.mark.filterwarnings("ignore:.*(quantiz|sparse|nested|deprecat)")
@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        (
            "w",
            lambda: torch.eye(3).to_sparse(),
            "w: an array of layout torch.sparse_coo cannot be kept. Write",
        ),
        ("w", lambda: torch.eye(3).to_sparse_csr(), "w: an array of layout torch.sparse_csr cannot be kept."),
        ("w", lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), "w: a quantized array cannot be"),
        ("w", lambda: torch.ones(2, device="meta"), "w: an array on the device meta has no numbers to keep."),
        ("w", lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "w: a nested array cannot be kept."),
        ("w", lambda: torch.ones(2, dtype=torch.uint8).view(torch.bits8), "w: an array of torch.bits8 cannot be kept."),
        ("__metadata__", lambda: torch.ones(2), "__metadata__: an array cannot have this name in a safetensors file."),
        ("a\ud800", lambda: torch.ones(2), "'a\\ud800': an array cannot have a name that is no text in UTF-8."),
    ],
)
def test_what_cannot_be_kept_is_named(tmp_path: Path, name: str, make: Callable[[], Tensor], said: str) -> None:
    image, good = files.Image(), {"x": torch.ones(2)}
    image.take(good)
    for call in (image.take, image.prepare):
        with pytest.raises(StateError) as caught:
            call({"x": torch.zeros(2), name: make()})
        assert str(caught.value).startswith(said)
    image.write(tmp_path / "a", {})
    assert same(files.read(tmp_path / "a").tensors, good)


def test_an_array_that_became_sparse_is_seen() -> None:
    image = files.Image()
    image.take({"x": torch.eye(3)})
    with pytest.raises(StateError, match="layout"):
        image.take({"x": torch.eye(3).to_sparse()})


def test_more_memory_than_there_is() -> None:
    image = files.Image()
    with pytest.raises(StateError, match=r"needs 4,611,686,018,4\S+ bytes of memory, which are not to be had"):
        image.take({"x": torch.ones(1, dtype=torch.uint8).expand(1 << 62)})
    image.take({"x": torch.ones(3)})


@pytest.mark.parametrize("record", [{"f": print}, {"t": torch.ones(2)}, {(1, 2): 3}])
def test_a_record_that_is_no_json(tmp_path: Path, record: dict[str, Any]) -> None:
    with pytest.raises(StateError, match="The record cannot be written as JSON"):
        files.write(tmp_path / "a", record, {})
    assert not list(tmp_path.iterdir())


def test_a_record_in_itself(tmp_path: Path) -> None:
    record: dict[str, Any] = {}
    record["self"] = record
    with pytest.raises(StateError, match="The record cannot be written as JSON: Circular"):
        files.write(tmp_path / "a", record, {})


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"The header would have 1[\d,]+ bytes, 1[\d,]+ of them the record, and reade"):
        files.write(tmp_path / "a", {"text": "x" * 101_000_000}, {})
    with pytest.raises(StateError, match=r"with more values than 0 bytes of arrays allow\. Keep long lists"):
        files.write(tmp_path / "a", {"list": [0] * 900_000}, {})
    assert not list(tmp_path.iterdir())


def test_much_that_can_be_read_is_written(tmp_path: Path) -> None:
    record = {"list": [0] * 600_000}
    files.write(tmp_path / "a", record, {})
    assert files.read(tmp_path / "a").record == record


# ----------------------------------------------------------------------------------------- whole or not at all

STATES = {"a": {"x": torch.zeros(5)}, "b": {"x": torch.ones(5)}}
CALLS = ("create", "write_at", "hurry", "sync", "close", "rename", "sync_folder", "remove")


class Watched:
    """The disk, with every call told; one of them fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: int = -1, error: BaseException | None = None) -> None:
        self.calls: list[str] = []
        for name in CALLS:
            monkeypatch.setattr(disk, name, self._watched(name, getattr(disk, name), fails, error))

    def _watched(self, name: str, real: Callable[..., Any], fails: int, error: BaseException | None) -> Any:
        def call(*args: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 == fails:
                if name == "close":
                    real(*args)
                assert error is not None
                raise error
            return real(*args)

        return call


def test_the_order_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arrays, the header, both on the disk, the name, the name on the disk."""
    watched = Watched(monkeypatch)
    files.write(tmp_path / "a", {}, STATES["a"])
    assert watched.calls == ["create", "write_at", "write_at", "sync", "close", "rename", "sync_folder"]


def test_the_disk_begins_early_with_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    files.write(tmp_path / "a", {}, {"x": torch.ones(5 * MIB)})
    assert watched.calls == ["create", "write_at", "hurry", "write_at", "sync", "close", "rename", "sync_folder"]


@pytest.mark.parametrize("fails", range(7))
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_whatever_fails_the_file_of_before_is_there_and_nothing_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int, number: int
) -> None:
    path = tmp_path / "a"
    files.write(path, {"n": 1}, STATES["a"])
    with monkeypatch.context() as patch:
        watched = Watched(patch, fails, OSError(number, os.strerror(number)))
        with pytest.raises(CheckpointError) as caught:
            files.write(path, {"n": 2}, STATES["b"])
    assert len(watched.calls) > fails
    assert not caught.value.damaged
    assert caught.value.path == str(path)
    assert isinstance(caught.value.__cause__, OSError)
    assert os.listdir(tmp_path) == ["a"]
    # Once the file has its name, only that this is on the disk is not known.
    after = watched.calls[fails] == "sync_folder"
    assert files.read(path).record == {"n": 2 if after else 1}


def test_a_part_that_cannot_be_removed_is_left_for_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", refuse)
        patch.setattr(disk, "remove", refuse)
        with pytest.raises(CheckpointError, match="Input/output"):
            files.write(tmp_path / "a", {}, STATES["a"])
    (left,) = os.listdir(tmp_path)
    assert files.PART.match(left)


@pytest.mark.parametrize("name", ["a", ".etude-0123456.part", ".etude-0123456g.part", ".etude-01234567.part.x"])
def test_no_other_name_is_taken_for_a_part(name: str) -> None:
    assert files.PART.match(".etude-01234567.part")
    assert not files.PART.match(name)
    assert not files.PART.match(".etude-01234567.part\n")


def test_no_space_is_said_with_what_is_needed_and_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = files.write(tmp_path / "a", {}, STATES["a"])
    Watched(monkeypatch, 1, OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 1234)
    with pytest.raises(CheckpointError) as caught:
        files.write(tmp_path / "b", {}, STATES["a"])
    assert str(caught.value) == (
        f"{tmp_path / 'b'}: expected room for {size:,} bytes; "
        "found no space: No space left on device; 1,234 bytes are free."
    )


def test_no_space_where_nobody_tells_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    Watched(monkeypatch, 1, OSError(errno.EDQUOT, "Disk quota exceeded"))
    monkeypatch.setattr(disk, "free_bytes", refuse)
    with pytest.raises(CheckpointError, match=r"no space: Disk quota exceeded; how much is free is not known \(Input"):
        files.write(tmp_path / "b", {}, STATES["a"])


@pytest.mark.parametrize("fails", range(7))
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_who_breaks_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int, error: type[BaseException]
) -> None:
    files.write(tmp_path / "a", {"n": 1}, STATES["a"])
    with monkeypatch.context() as patch:
        Watched(patch, fails, error())
        with pytest.raises(error):
            files.write(tmp_path / "a", {"n": 2}, STATES["b"])
    assert os.listdir(tmp_path) == ["a"]
    assert files.read(tmp_path / "a").record["n"] in (1, 2)


def test_a_folder_that_is_not_there_and_a_path_that_is_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found No such file or directory"):
        files.write(tmp_path / "none" / "a", {}, {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="found Is a directory"):
        files.write(tmp_path / "folder", {}, {})
    assert os.listdir(tmp_path) == ["folder"]


def test_a_link_is_replaced_and_what_it_points_to_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "a").symlink_to(tmp_path / "other")
    files.write(tmp_path / "a", {"n": 1}, {})
    assert (tmp_path / "other").read_bytes() == b"other"
    assert files.read(tmp_path / "a").record == {"n": 1}


def test_a_relative_path_is_that_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.write("a", {"n": 1}, {})
    assert files.read("a").path == str(tmp_path / "a")


def test_a_process_that_gets_no_thread_does_all_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while the interpreter is ending."""

    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)
    arrays = {"x": torch.arange(3 * MIB), "y": torch.ones(3 * MIB)}
    files.write(tmp_path / "a", {}, arrays)
    assert same(files.read(tmp_path / "a").tensors, arrays)


def test_no_thread_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hashed is memory that the next call changes."""
    done: list[Thread] = []
    real = Thread.join
    monkeypatch.setattr(Thread, "join", lambda thread: (real(thread), done.append(thread)))
    Watched(monkeypatch, 1, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(CheckpointError):
        files.write(tmp_path / "a", {}, {"x": torch.ones(9 * MIB)})
    assert done
    assert not any(thread.is_alive() for thread in done)


# ------------------------------------------------------------------------------------------------ parts of a file


def test_the_record_alone_needs_no_arrays(tmp_path: Path) -> None:
    """Damage to an array does not keep its header from being read."""
    size = files.write(tmp_path / "a", RECORD, {"x": torch.ones(100)})
    with open(tmp_path / "a", "r+b") as file:
        file.seek(size - 1)
        file.write(b"\xff")
    assert files.read_record(tmp_path / "a") == RECORD
    for call in (files.read, files.verify):
        with pytest.raises(CheckpointError, match="expected the array 'x' with the digest"):
            call(tmp_path / "a")


def test_the_header_tells_where_each_array_lies(tmp_path: Path) -> None:
    size = files.write(tmp_path / "a", RECORD, {"x": torch.ones(16), "z": torch.ones(4, dtype=torch.complex128)})
    found = files.read_header(tmp_path / "a")
    assert found.record == RECORD
    assert [(entry.name, entry.shape, entry.begin, entry.end) for entry in found.entries] == [
        ("x", (16,), 0, 64),
        ("z", (4,), 64, 128),
    ]
    assert [entry.dtype for entry in found.entries] == [torch.float32, torch.complex128]
    assert found.start == size - 128
    assert found.digests.keys() == {"x", "z"}


def test_some_arrays_by_name_or_by_what_says_whether(tmp_path: Path) -> None:
    arrays = state()
    files.write(tmp_path / "a", {}, arrays)
    for names in (["0.weight"], ["bool", "int64", "turned"], ["missing"], list(arrays), [], ["complex128", "uint8"]):
        wanted = {name: arrays[name] for name in names if name in arrays}
        assert same(files.read_arrays(tmp_path / "a", names), wanted)
        assert same(files.read_arrays(tmp_path / "a", lambda name, names=names: name in names), wanted)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(sorted(state()))))
def test_any_arrays(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    if not path.exists():
        files.write(path, {}, state())
    assert same(files.read_arrays(path, names), {name: array for name, array in state().items() if name in names})


def test_long_arrays_apart_in_a_file(tmp_path: Path) -> None:
    arrays = {name: torch.arange(MIB + 16 * i) * i for i, name in enumerate("abcde")}
    files.write(tmp_path / "a", {}, arrays)
    assert same(files.read_arrays(tmp_path / "a", {"b", "c", "e"}), {name: arrays[name] for name in "bce"})


def test_only_the_arrays_that_are_read_are_checked(tmp_path: Path) -> None:
    files.write(tmp_path / "a", {}, {"a": torch.ones(16), "b": torch.ones(16), "c": torch.ones(16)})
    raw = bytearray((tmp_path / "a").read_bytes())
    raw[-100] ^= 1  # within "b"
    (tmp_path / "a").write_bytes(raw)
    assert files.read_arrays(tmp_path / "a", {"a", "c"}).keys() == {"a", "c"}
    with pytest.raises(CheckpointError, match="expected the array 'b' with the digest"):
        files.read_arrays(tmp_path / "a", {"b"})


def test_all_is_checked_with_little_memory(tmp_path: Path) -> None:
    files.write(tmp_path / "a", RECORD, {"x": torch.arange(5 * MIB)})
    assert files.verify(tmp_path / "a") == RECORD
