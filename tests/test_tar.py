"""Tar shards: grouped by name, decoded by ending, read forward or at random."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from etude.data.data import Data
from etude.data.flow import Flow
from etude.data.forms.members import key_of
from etude.data.forms.tar import TarStream, tar
from etude.data.items import items_of
from etude.data.streams import stream_of_items
from etude.errors import DataError, SettingError


def npy(value: Any, order: Any = "C") -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(value, order=order))
    return file.getvalue()


def wav(numbers: list[int], note: int = 0) -> bytes:
    """16 bits, 8 kHz; before the data a remark of some length."""
    data = np.array(numbers, "<i2").tobytes()
    body = b"WAVE" + b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    body += b"LIST" + struct.pack("<I", note) + bytes(note) + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pack(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def sample(number: int) -> dict[str, bytes]:
    return {f"set/{number:03}.wav": wav(list(range(number))), f"set/{number:03}.cls": str(number % 3).encode()}


def shards(folder: Path, counts: list[int], mode: str = "w") -> str:
    first = 0
    for place, count in enumerate(counts):
        members = {name: data for number in range(first, first + count) for name, data in sample(number).items()}
        pack(folder / f"part-{place:02}.tar", members, mode)
        first += count
    return str(folder / f"part-{{00..{len(counts) - 1:02}}}.tar")


def test_any_sample_of_any_shard(tmp_path: Path) -> None:
    data = tar(shards(tmp_path, [3, 0, 4]))
    assert (len(data), data.names) == (7, ("wav", "cls"))
    assert data.tags == [f"set/{number:03}" for number in range(7)]
    assert data.lengths["wav"].tolist() == list(range(7))
    assert list(data.lengths) == ["wav"]
    for number in (6, 2, 3, 0, -1):
        item = data[number]
        assert (item["wav"] * 32768).tolist() == list(range(number % 7))
        assert item["cls"] == (number % 7) % 3
    with pytest.raises(IndexError, match=r"tar part-00\.tar and 2 more has 7 samples; there is no sample 7"):
        data[7]


def test_members_are_chosen_and_renamed(tmp_path: Path) -> None:
    data = tar(shards(tmp_path, [3]), {"cls": "label", "wav": "audio"})
    assert data.names == ("label", "audio")
    assert list(data[2]) == ["label", "audio"]
    assert list(data.lengths) == ["audio"]
    assert list(tar(shards(tmp_path, [3]), ["cls"])[0]) == ["cls"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_stream_gives_the_same_samples(tmp_path: Path, mode: str) -> None:
    made = shards(tmp_path, [3, 2], mode)
    items = list(tar(made, stream=True))
    assert [(item["wav"] * 32768).tolist() for item in items] == [list(range(number)) for number in range(5)]
    assert [item["cls"] for item in items] == [0, 1, 2, 0, 1]


def test_with_a_seed_the_shards_come_in_another_order_each_epoch(tmp_path: Path) -> None:
    data = tar(shards(tmp_path, [2] * 6), ["cls", "wav"], stream=True, seed=1)

    def order(epoch: int) -> list[int]:
        data.set_epoch(epoch)
        return [len(item["wav"]) for item in data]

    epochs = [order(epoch) for epoch in range(4)]
    assert all(sorted(one) == list(range(12)) for one in epochs)
    assert all(one[place + 1] == one[place] + 1 for one in epochs for place in range(0, 12, 2))
    assert len({tuple(one) for one in epochs}) > 2
    assert order(2) == epochs[2]


def test_workers_share_the_shards_out(tmp_path: Path) -> None:
    data = tar(shards(tmp_path, [2] * 5), stream=True)
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert sorted(len(item["wav"]) for item in loader) == list(range(10))


def test_a_stream_makes_a_source(tmp_path: Path) -> None:
    data = tar(shards(tmp_path, [3]), ["cls"], stream=True)
    source = stream_of_items(data, False, None)
    assert source.joined(list(source.open(0)))["cls"].tolist() == [0, 1, 2]
    assert isinstance(data, TarStream)


def test_every_ending_has_its_decoder(tmp_path: Path) -> None:
    tensors = io.BytesIO()
    torch.save({"w": torch.ones(2)}, tensors)
    members = {
        "a.npy": npy([[1.5, 2.5]]),
        "a.x.npy": npy(np.arange(6).reshape(2, 3), "F"),
        "a.txt": "grüß".encode(),
        "a.json": json.dumps({"k": [1, 2]}).encode(),
        "a.ids.json": b"[1, 2, 3]",
        "a.index": b" 12\n",
        "a.pt": tensors.getvalue(),
        "a.JPG": b"\x07",
    }
    path = pack(tmp_path / "a.tar", members)
    for item in (tar(path, decode={"jpg": len})[0], next(iter(tar(path, decode={"JPG": len}, stream=True)))):
        assert item["npy"].tolist() == [[1.5, 2.5]]
        assert item["x.npy"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert (item["txt"], item["json"], item["index"], item["JPG"]) == ("grüß", {"k": [1, 2]}, 12, 1)
        assert item["ids.json"].tolist() == [1, 2, 3]
        assert item["pt"]["w"].tolist() == [1, 1]
    lengths = tar(path, decode={"jpg": len}).lengths
    assert {name: each.tolist() for name, each in lengths.items()} == {"npy": [1], "x.npy": [2]}


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "harm").touch, ())

    harm = io.BytesIO()
    torch.save(Harm(), harm)
    objects = io.BytesIO()
    np.save(objects, np.array([Harm()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.pt in .*a\.tar cannot be read: UnpicklingError"):
        tar(pack(tmp_path / "a.tar", {"a.pt": harm.getvalue()}))[0]
    with pytest.raises(DataError, match=r"a\.npy in .*b\.tar cannot be read: ValueError: Object arrays"):
        tar(pack(tmp_path / "b.tar", {"a.npy": objects.getvalue()}))[0]
    assert not (tmp_path / "harm").exists()


def test_a_name_up_to_the_first_dot_is_the_sample() -> None:
    assert key_of("a/b.c/d.e.f") == ("a/b.c/d", "e.f")
    assert key_of("d.npy") == ("d", "npy")
    assert [key_of(name) for name in ("README", "a/.hidden", "d.", "a.b/c", "x/__meta__.json")] == [("", "")] * 5


def test_what_belongs_to_no_sample_is_passed_over(tmp_path: Path) -> None:
    members = {"README": b"x", "__meta__.json": b"{}", "a.cls": b"1", ".b.cls": b"7", "a.txt": b"t"}
    with tarfile.open(pack(tmp_path / "a.tar", members), "a") as archive:
        folder = tarfile.TarInfo("folder.cls")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    data = tar(tmp_path / "a.tar")
    assert data.tags == ["a"]
    assert data[0] == {"cls": 1, "txt": "t"}


def test_long_names_and_long_headers(tmp_path: Path) -> None:
    name = "x" * 300
    data = tar(pack(tmp_path / "a.tar", {f"{name}.wav": wav([1, 2, 3], note=2000), f"{name}.cls": b"4"}))
    assert data.tags == [name]
    assert data.lengths["wav"].tolist() == [3]
    assert len(data[0]["wav"]) == 3


def _bytes_read() -> int:
    """That this process has read from files so far, as Linux counts them."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="this system does not count what is read")
def test_an_index_reads_headers_only(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {f"{n}.npy": npy(np.zeros(100_000)) for n in range(5)})
    before = _bytes_read()
    data = tar(path)
    assert _bytes_read() - before < 200_000 < path.stat().st_size / 10
    assert data.lengths["npy"].tolist() == [100_000] * 5


def test_numbers_without_dimensions_have_no_lengths(tmp_path: Path) -> None:
    data = tar(pack(tmp_path / "a.tar", {"a.npy": npy(3.5), "b.npy": npy(4.5)}))
    assert data.lengths == {}
    assert float(data[1]["npy"]) == 4.5
    assert items_of(data, False).names == ("npy",)


def test_files_close_and_open_again_and_pickle(tmp_path: Path) -> None:
    data = tar(shards(tmp_path, [3]))
    assert len(data.handles) == 0
    data[1]
    (file,) = (data.handles[path] for path in data.handles)
    data.close()
    assert file.closed
    assert data[2]["cls"] == 2
    again = pickle.loads(pickle.dumps(data))
    assert len(again.handles) == 0
    assert again[2]["cls"] == 2


def test_forked_workers_read_what_one_process_reads(tmp_path: Path) -> None:
    data = tar(shards(tmp_path, [4, 4]))
    data[0]
    loader = DataLoader(
        data, sampler=list(range(8)) * 5, batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    assert [len(item["wav"]) for item in loader] == list(range(8)) * 5


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"a.npy": b"1", "b.txt": b""}, r"a\.npy in .*a\.tar cannot be read: ValueError"),
        ({"a.wav": b"RIFX"}, r"a\.wav in .*a\.tar cannot be read: DataError: it is no wave file"),
        (
            {"a.cls": b"1", "a.txt": b"", "b.cls": b"1"},
            r"'b' in .* has no member 'txt'; it has cls\. .*--sort=name",
        ),
        (
            {"a.cls": b"1", "b.cls": b"1", "b.txt": b""},
            r"'b' in .* member 'txt' that those before it lack\. .*'cls'",
        ),
        (
            {"a.jgp": b"1"},
            r"no decoder for members that end in 'jgp'\. Known: npy, .* Write decode=\{'jgp'",
        ),
        ({"README": b"1"}, r"are empty: .*a\.tar has no samples\. Give a file with members as 'key\.ending'"),
    ],
)
def test_bad_members_are_named(tmp_path: Path, members: dict[str, bytes], told: str) -> None:
    with pytest.raises(DataError, match=told):
        tar(pack(tmp_path / "a.tar", members))


def test_bad_values_are_named_when_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"a.cls": b"one"})
    with pytest.raises(DataError, match=r"a\.cls in .*a\.tar cannot be read: ValueError: invalid literal"):
        tar(path)[0]
    with pytest.raises(DataError, match=r"a\.cls in .*a\.tar cannot be read: ValueError: invalid literal"):
        list(tar(path, stream=True))


def test_twice_the_same_member_is_told(tmp_path: Path) -> None:
    with tarfile.open(pack(tmp_path / "a.tar", {"a.cls": b"1"}), "a") as archive:
        archive.addfile(tarfile.TarInfo("a.cls"))
    with pytest.raises(DataError, match=r"has two members a\.cls, one after the other"):
        tar(tmp_path / "a.tar")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _text(path: Path) -> None:
    path.write_text("hello" * 200)


@pytest.mark.parametrize("change", [_cut, _text])
@pytest.mark.parametrize("stream", [False, True])
def test_damaged_files_are_named(tmp_path: Path, change: Callable[[Path], None], stream: bool) -> None:
    path = pack(tmp_path / "a.tar", {"a.npy": npy(np.zeros(1000))})
    change(path)
    with pytest.raises(DataError, match=r"a\.tar cannot be read as a tar file: "):
        list(tar(path, stream=stream))


def test_a_damaged_compressed_file_is_named(tmp_path: Path) -> None:
    whole = pack(tmp_path / "a.tar.gz", {"a.npy": npy(np.random.default_rng(0).random(10_000))}, "w:gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[:2000] + bytes(1000) + whole[3000:])
    with pytest.raises(DataError, match=r"a\.tar\.gz cannot be read as a tar file: "):
        list(tar(tmp_path / "a.tar.gz", stream=True))


def test_compressed_files_have_to_be_streams(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(pack(tmp_path / "a.tar", {"a.cls": b"1"}).read_bytes()))
    with pytest.raises(DataError, match=r"a\.tar\.gz is compressed .* Unpack it, or write stream=True"):
        tar(path)
    assert list(tar(path, stream=True)) == [{"cls": 1}]


def test_wrong_arguments_are_told(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"a.cls": b"1"})
    with pytest.raises(DataError, match=r"seed=3 shuffles the files of a stream\. Write stream=True"):
        tar(path, seed=3)
    with pytest.raises(DataError, match=r"a in .*a\.tar has no stream 'class'\. Nearest: \"cls\"\. It has: 'cls'"):
        tar(path, ["class"])
    with pytest.raises(DataError, match=r"there is no file .*part-01\.tar"):
        tar(shards(tmp_path, [1]).replace("00}", "01}"))
    with pytest.raises(SettingError, match=r"tar\(\): There is no argument 'streams'\. Nearest: \"stream\""):
        tar(path, streams=True)  # type: ignore[call-arg]


def test_threads_do_not_disturb_one_another(tmp_path: Path) -> None:
    data = tar(shards(tmp_path, [50, 50]), ["wav"])
    wanted = np.random.default_rng(0).integers(0, 100, 2000).tolist()
    with ThreadPoolExecutor(4) as pool:
        items = list(pool.map(data.__getitem__, wanted))
    assert [len(item["wav"]) for item in items] == wanted


def test_a_stream_goes_on_after_a_sample_that_cannot_be_read(tmp_path: Path) -> None:
    members = {"a.cls": b"1", "b.cls": b"one", "c.cls": b"3", "d.txt": b"4", "e.cls": b"5"}
    path = pack(tmp_path / "a.tar", members)
    samples = iter(tar(path, ["cls"], stream=True))
    assert next(samples) == {"cls": 1}
    with pytest.raises(DataError, match=r"b\.cls in .*a\.tar cannot be read"):
        next(samples)
    assert next(samples) == {"cls": 3}
    with pytest.raises(DataError, match=r"'d' in .*a\.tar has no member 'cls'; it has txt"):
        next(samples)
    assert list(samples) == [{"cls": 5}]


def test_what_cannot_be_read_of_a_stream_is_left_out_and_counted(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {f"{number}.cls": b"?" if number == 2 else b"%d" % number for number in range(6)})
    flow = Flow(Data(tar(path, stream=True), batch_size=5, unreadable="skip"))
    (batch,) = flow.batches(epochs=1)
    assert batch.values["cls"].tolist() == [0, 1, 3, 4, 5]
    report = flow.report(0)
    assert report is not None
    assert report.unreadable == 1
    with pytest.raises(DataError, match=r"Sample 2 of epoch 0 of .* cannot be read: .*2\.cls in .*a\.tar"):
        list(Data(tar(path, stream=True), batch_size=5).batches(epochs=1))
