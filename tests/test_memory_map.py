"""Arrays in files that are mapped into memory: only what a batch needs is read."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from etude.data.arrays import arrays_of
from etude.data.flow import Flow
from etude.data.joining import Joining
from etude.data.mapped_memory import memory_map
from etude.data.ragged import Ragged, columns
from etude.data.wanted import Wanted
from etude.errors import DataError, SettingError

GIGABYTE = 1 << 30


def sparse(path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """A file of zeros that takes no room on the disk."""
    np.lib.format.open_memmap(path, "w+", dtype, shape).flush()


@contextmanager
def few_pages() -> Iterator[None]:
    """Fails if much of a gigabyte was read: memory costs a fault when it is first touched, of 16 pages at most."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    yield
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt < GIGABYTE / 4096 / 16 / 4
    assert after.ru_maxrss - before.ru_maxrss < GIGABYTE / 1024 / 4


def folder(path: Path, flat: Any, **others: Any) -> Path:
    path.mkdir()
    for name, array in {"flat": flat, **others}.items():
        np.save(path / f"{name}.npy", array)
    return path


def test_a_file_is_an_array_that_is_read_where_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6).reshape(3, 2))
    made = memory_map(tmp_path / "x.npy")
    assert isinstance(made, np.memmap)
    assert made.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert memory_map(str(tmp_path / "x.npy"))[1, 1] == 3


@pytest.mark.parametrize("told", [{"lengths": [2, 0, 3]}, {"starts": [0, 2, 2, 5]}, {"lengths": np.uint8([2, 0, 3])}])
def test_a_folder_holds_sequences(tmp_path: Path, told: dict[str, Any]) -> None:
    made = memory_map(folder(tmp_path / "audio", np.arange(10, dtype=np.float32).reshape(5, 2), **told))
    assert isinstance(made, Ragged)
    assert made.lengths.tolist() == [2, 0, 3]
    assert made[2].tolist() == [[4, 5], [6, 7], [8, 9]]


@pytest.mark.parametrize("dtype", ["float64", "uint16", ">f4"])
def test_an_array_that_is_read_whole_is_warned_of(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "x.npy", np.zeros(2, dtype))
    with pytest.warns(UserWarning, match=r"x.npy holds .\w+, .* reads all of the file. Save it as float32"):
        memory_map(tmp_path / "x.npy")


def test_several_at_once(tmp_path: Path) -> None:
    audio = folder(tmp_path / "audio", np.arange(5), lengths=[2, 3])
    np.save(tmp_path / "y.npy", np.arange(2))
    made = memory_map({"audio": audio, "y": tmp_path / "y.npy"})
    assert [type(made[name]).__name__ for name in ("audio", "y")] == ["Ragged", "memmap"]
    assert columns(made)["audio"] is made["audio"]
    one, two = memory_map((audio, tmp_path / "y.npy"))
    assert (len(one), len(two)) == (2, 2)


@pytest.mark.parametrize(
    ("held", "out"),
    [("float64", "float32"), ("uint16", "int32"), ("uint32", "int64"), ("float16", "float16"), ("uint8", "uint8")],
)
@pytest.mark.parametrize("length", [4, 300])
def test_a_batch_is_what_arrays_in_memory_give(tmp_path: Path, held: str, out: str, length: int) -> None:
    flat = (np.arange(length + 1) % 7).astype(held)
    mapped = memory_map(folder(tmp_path / "x", flat, lengths=[1, length]))
    asked, samples = Wanted(0, np.array([1, 0])), [{"x": flat[1:]}, {"x": flat[:1]}]
    for packed in (False, True):
        joining = Joining(("x",), pad=1, packed=packed)
        got, expected = joining.gather({"x": mapped}, asked), joining.join(samples, asked)
        assert got["x"].dtype == getattr(torch, out)
        assert all(torch.equal(got[name], expected[name]) and got[name].dtype == expected[name].dtype for name in got)
    assert mapped[0].dtype == getattr(torch, out)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
def test_only_the_frames_of_a_batch_are_read(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "x").mkdir()
    frames = GIGABYTE // np.dtype(dtype).itemsize // 8
    sparse(tmp_path / "x" / "flat.npy", dtype, (frames, 8))
    np.save(tmp_path / "x" / "lengths.npy", np.full(frames // 512, 512))
    with few_pages():
        made = columns({"x": memory_map(tmp_path / "x")})
        batch = Joining(("x",)).gather(made, Wanted(0, np.arange(0, len(made["x"]), len(made["x"]) // 8)))
    assert batch["x"].shape[1:] == (512, 8)


def test_only_the_rows_of_a_batch_are_read(tmp_path: Path) -> None:
    sparse(tmp_path / "x.npy", "float32", (GIGABYTE // 4096, 1024))
    with few_pages():
        batch = next(iter(Flow(memory_map(tmp_path / "x.npy"), batch_size=16, shuffle=False).batches()))
    assert batch.values.shape == (16, 1024)


def test_batches_do_not_write_to_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.zeros(8, np.float32))
    mapped = memory_map(folder(tmp_path / "x", np.zeros(300, np.float32), lengths=[100, 200]))
    Joining(("x",)).gather({"x": mapped}, Wanted(0, np.arange(2)))["x"].fill_(1)
    next(iter(Flow(memory_map(tmp_path / "y.npy"), batch_size=4).batches())).values.fill_(1)
    assert not np.load(tmp_path / "x" / "flat.npy").any()
    assert not np.load(tmp_path / "y.npy").any()


def test_mapped_arrays_share_the_memory_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(4, np.float32))
    mapped = memory_map(tmp_path / "x.npy")
    assert arrays_of(mapped).arrays[0].data_ptr() == mapped.ctypes.data


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"lengths": [2, 2]}, "have 4 frames by lengths.npy, and flat.npy has 5"),
        ({"starts": [0, 2, 6]}, "have 6 frames by starts.npy"),
        ({"starts": [0, 3, 2, 5]}, "Sample 1 begins at frame 3 and ends at 2"),
        ({"lengths": [2.0, 3.0]}, "holds float64 of shape (2,). Expected are whole numbers, one for every sample"),
        ({"lengths": [[2, 3]]}, "holds int64 of shape (1, 2)"),
        ({"lengths": [7, -2]}, "ends at 5: starts must never fall"),
        ({"starts": [5]}, "where each sample begins and the last one ends"),
        ({}, "holds flat.npy. Sequences lie in flat.npy"),
    ],
)
def test_folders_that_hold_no_sequences(tmp_path: Path, arrays: dict[str, Any], told: str) -> None:
    made = folder(tmp_path / "x", np.arange(5), **arrays)
    with pytest.raises(DataError) as error:
        memory_map(made)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("flat", "told"),
    [
        (np.zeros((0, 2)), "has the shape (0, 2): no frames"),
        (np.array(3), "has the shape (): no frames"),
        (np.zeros(5, ">f4"), "holds >f4, which no tensor can hold without reading all of it. Save it again as float32"),
        (np.zeros(5, "U3"), "holds values of type <U3. Expected is one array of numbers"),
    ],
)
def test_frames_that_cannot_be_used_where_they_are(tmp_path: Path, flat: Any, told: str) -> None:
    with pytest.raises(DataError) as error:
        memory_map(folder(tmp_path / "x", flat, lengths=[5]))
    assert told in str(error.value)


def test_files_that_hold_no_array(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.savez(tmp_path / "several.npz", a=np.zeros(2))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.zeros(1000))
    (tmp_path / "short.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:500])
    for name in ("text.npy", "empty.npy", "several.npz", "objects.npy", "short.npy"):
        with pytest.raises(DataError, match=f"{name} .*Expected is one array of numbers, as numpy.save writes it"):
            memory_map(tmp_path / name)


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    np.save(tmp_path / "audio.npy", np.arange(2))
    with pytest.raises(DataError, match=r'There is no file .*audoi.npy. Nearest: "audio.npy". Write the path of a'):
        memory_map(tmp_path / "audoi.npy")
    with pytest.raises(DataError, match="There is no file"):
        memory_map(tmp_path / "nothing" / "x.npy")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="bare holds nothing"):
        memory_map(tmp_path / "bare")


def test_an_argument_that_is_not_there() -> None:
    with pytest.raises(SettingError, match="There is no argument 'path'"):
        memory_map(path="x.npy")  # type: ignore[call-arg]
