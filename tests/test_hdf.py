"""HDF5 files: those that RETURNN writes, and arrays with one row for every sample."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from etude.data.forms.files import Handles
from etude.data.forms.hdf import hdf
from etude.data.items import Reader, items_of
from etude.errors import DataError, MissingPackageError, SettingError

h5py = pytest.importorskip("h5py")

WRITTEN = Path(__file__).parent / "fixtures" / "returnn.hdf.gz"
"""By RETURNN's own SimpleHDFWriter: three sequences of 4, 2 and 5 frames of 3 features, "align" of the same lengths,
"classes" of 2, 1 and 3; feature f of frame t of sequence s is 100 s + 10 t + f."""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "written.hdf"
    path.write_bytes(gzip.decompress(WRITTEN.read_bytes()))
    return path


def make(path: Path, counts: list[int], offset: int = 0, change: Callable[[Any], Any] = lambda file: None) -> Path:
    """RETURNN's layout with one stream of sparse inputs and one of targets, twice as long."""
    with h5py.File(path, "w") as file:
        file.attrs["inputPattSize"] = 9
        file["inputs"] = np.arange(sum(counts), dtype=np.int32) + offset
        file["seqLengths"] = np.array([[count, 2 * count] for count in counts], np.int32).reshape(-1, 2)
        file["seqTags"] = np.array([f"{path.stem}-{number}" for number in range(len(counts))], dtype="S12")
        file["targets/data/words"] = np.arange(2 * sum(counts), dtype=np.int64) * 10
        file.create_group("targets/size").attrs["words"] = 50
        file.create_group("targets/labels")
        change(file)
    return path


def test_a_file_of_returnn_is_read_as_returnn_wrote_it(written: Path) -> None:
    data = hdf(written)
    assert data.names == ("data", "align", "classes")
    assert data.tags == ["seq-0", "seq-1", "seq-2"]
    assert {name: lengths.tolist() for name, lengths in data.lengths.items()} == {
        "data": [4, 2, 5],
        "align": [4, 2, 5],
        "classes": [2, 1, 3],
    }
    assert data.sizes == {"data": 3, "align": 7, "classes": 5}
    assert len(data) == 3
    for number, (frames, classes) in enumerate([(4, 2), (2, 1), (5, 3)]):
        item = data[number]
        expected = 100 * number + 10 * np.arange(frames)[:, None] + np.arange(3)
        assert item["data"].tolist() == expected.tolist()
        assert item["align"].tolist() == list(range(frames))
        assert item["classes"].tolist() == [number + place for place in range(classes)]
        assert (item["data"].dtype, item["classes"].dtype) == (np.float32, np.int32)


def test_streams_are_chosen_and_renamed(written: Path) -> None:
    data = hdf(written, {"classes": "labels", "data": "audio"})
    assert data.names == ("labels", "audio")
    assert list(data.lengths) == ["labels", "audio"]
    assert data.sizes == {"labels": 5, "audio": 3}
    assert list(data[2]) == ["labels", "audio"]
    assert list(hdf(written, ["align"])[0]) == ["align"]


def test_several_files_come_one_after_another(tmp_path: Path) -> None:
    make(tmp_path / "a.hdf", [3, 0])
    make(tmp_path / "b.hdf", [])
    make(tmp_path / "c.hdf", [1, 2], offset=100)
    data = hdf(tmp_path / "*.hdf")
    assert data.tags == ["a-0", "a-1", "c-0", "c-1"]
    assert data.lengths["data"].tolist() == [3, 0, 1, 2]
    assert [data[index]["data"].tolist() for index in range(4)] == [[0, 1, 2], [], [100], [101, 102]]
    assert data[-1]["words"].tolist() == [20, 30, 40, 50]
    assert data.sizes == {"data": 9, "words": 50}
    with pytest.raises(IndexError, match=r"hdf a\.hdf and 2 more has 4 samples; there is no sample 4"):
        data[4]


def test_a_file_without_targets_has_a_column_of_lengths_too_many(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["inputs"] = np.ones((3, 2), np.float32)
        file["seqLengths"] = np.array([[1, 0], [2, 0]], np.int32)
    data = hdf(tmp_path / "a.hdf")
    assert (data.names, data.tags, data.sizes) == (("data",), None, {"data": 2})
    assert data.lengths["data"].tolist() == [1, 2]


def test_one_column_of_lengths_is_for_all_streams(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["inputs"] = np.ones((3, 2), np.float32)
        file["seqLengths"] = np.array([1, 2], np.int32)
        file["targets/data/classes"] = np.arange(3)
    assert hdf(tmp_path / "a.hdf")[1]["classes"].tolist() == [1, 2]


def test_targets_without_inputs_may_be_called_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["seqLengths"] = np.array([[1], [2]], np.int32)
        file["targets/data/data"] = np.arange(3)
    assert hdf(tmp_path / "a.hdf")[1]["data"].tolist() == [1, 2]


def test_arrays_with_a_row_for_every_sample_need_no_layout(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["x"] = np.arange(12, dtype=np.float32).reshape(4, 3)
        file["deep/y"] = np.arange(4)
        file["ids"] = np.array([b"a", b"b", b"c", b"d"])
        ragged = file.create_dataset("z", (4,), dtype=h5py.vlen_dtype(np.int32))
        ragged[2] = [5, 6]
    data = hdf(tmp_path / "a.hdf", {"x": "x", "deep/y": "y", "z": "z"}, tags="ids")
    item = data[2]
    assert item["x"].tolist() == [6, 7, 8]
    assert (item["y"], item["z"].tolist()) == (2, [5, 6])
    assert data.tags == ["a", "b", "c", "d"]
    assert data.lengths == {}
    batch = Reader(data := hdf(tmp_path / "a.hdf", ["x", "deep/y"]), "hdf", 0, False)[(0, [1, 3])]
    assert batch["deep/y"].tolist() == [1, 3]
    assert items_of(data, False).names == ("x", "deep/y")


def test_files_are_opened_when_read_and_closed_when_asked(written: Path) -> None:
    data = hdf(written)
    assert len(data.handles) == 0
    first = data[0]["data"]
    (opened,) = (data.handles[path] for path in data.handles)
    data.close()
    assert not opened.file
    assert len(data.handles) == 0
    np.testing.assert_array_equal(data[0]["data"], first)


def test_a_pickle_holds_no_open_file(written: Path) -> None:
    data = hdf(written)
    data[0]
    again = pickle.loads(pickle.dumps(data))
    assert len(again.handles) == 0
    assert again[1]["classes"].tolist() == [1]
    assert again.tags == data.tags


def test_only_so_many_files_stay_open(tmp_path: Path) -> None:
    closed: list[Path] = []
    handles = Handles(lambda path: path, closed.append, most=2)
    for name in ("a", "b", "a", "c"):
        handles[Path(name)]
    assert closed == [Path("b")]
    assert list(handles) == [Path("a"), Path("c")]
    del handles
    assert sorted(closed) == [Path("a"), Path("b"), Path("c")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_opens_files_of_its_own(tmp_path: Path) -> None:
    handles = Handles(lambda path: os.getpid(), lambda process: None)
    mine = handles[Path("a")]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(handles[Path("a")]))
    child.start()
    child.join()
    assert ours.recv() == child.pid != mine == os.getpid()
    assert handles[Path("a")] == mine


def test_forked_workers_read_what_one_process_reads(written: Path) -> None:
    data = hdf(written, ["data"])
    expected = [data[index]["data"].tolist() for index in range(3)] * 4
    loader = DataLoader(data, sampler=[0, 1, 2] * 4, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [item["data"].tolist() for item in loader] == expected
    assert data[2]["data"].tolist() == expected[2]


def _negative(file: Any) -> None:
    file["seqLengths"][1, 0] = -1


def _short(file: Any) -> None:
    file["seqLengths"][1, 0] = 7


def _fewer_tags(file: Any) -> None:
    del file["seqTags"]
    file["seqTags"] = [b"a"]


def _column(file: Any) -> None:
    del file["seqLengths"]
    file["seqLengths"] = np.zeros((2, 3), np.int32)


def _unnamed(file: Any) -> None:
    file["targets/size"].attrs["ghost"] = 3


def _twice(file: Any) -> None:
    file["targets/data/data"] = [1]


def _bare(file: Any) -> None:
    del file["inputs"], file["targets"]


def _strings(file: Any) -> None:
    del file["targets/data/words"]
    file["targets/data/words"] = [b"no"] * 6


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_negative, r"a\.hdf is damaged: sample 1 has length -1 in the stream 'data'"),
        (_short, r"damaged: the lengths of the stream 'data' sum to 8, and there are 3 frames"),
        (_fewer_tags, r"damaged: 2 rows in seqLengths, 1 ids in seqTags"),
        (_column, r"damaged: seqLengths of shape \(2, 3\), expected \(2, 2\)"),
        (_unnamed, r"names the stream 'ghost', and has no array 'targets/data/ghost'"),
        (_twice, r"has both inputs and a target called 'data'"),
        (_bare, r"has seqLengths, and neither inputs nor targets/data"),
        (_strings, r"stream 'words' of .*a\.hdf holds .*, which no tensor can hold\. Name the streams to read"),
    ],
)
def test_damage_is_told(tmp_path: Path, change: Callable[[Any], Any], told: str) -> None:
    make(tmp_path / "a.hdf", [1, 2], change=change)
    with pytest.raises(DataError, match=told):
        hdf(tmp_path / "a.hdf")


def test_what_is_not_read_may_be_strings(tmp_path: Path) -> None:
    make(tmp_path / "a.hdf", [1, 2], change=_strings)
    assert hdf(tmp_path / "a.hdf", ["data"])[1]["data"].tolist() == [1, 2]


def test_files_must_be_alike(tmp_path: Path, written: Path) -> None:
    make(tmp_path / "a.hdf", [1, 2])
    with pytest.raises(DataError, match=r"written\.hdf has no stream 'words'\. It has: 'data', 'align', 'classes'"):
        hdf([tmp_path / "a.hdf", written])
    with pytest.raises(DataError, match=r"'data' has frames of shape \(3,\) in .*written\.hdf, and of shape \(\) in "):
        hdf([tmp_path / "a.hdf", written], ["data"])
    make(tmp_path / "b.hdf", [1, 2], change=lambda file: file.pop("seqTags"))
    with pytest.raises(DataError, match=r"b\.hdf and .*a\.hdf do not both have ids"):
        hdf([tmp_path / "a.hdf", tmp_path / "b.hdf"])


def test_wrong_names_are_told(written: Path) -> None:
    with pytest.raises(DataError, match=r"has no stream 'clases'\. Nearest: \"classes\"\. It has: 'data', 'align'"):
        hdf(written, ["clases"])
    with pytest.raises(DataError, match=r"names='data' is one text\. Write names=\['data'\]"):
        hdf(written, "data")
    with pytest.raises(DataError, match=r"gives two streams of .* one name"):
        hdf(written, {"data": "x", "align": "x"})
    with pytest.raises(DataError, match=r"names=\[\] leaves nothing to read"):
        hdf(written, [])
    with pytest.raises(DataError, match=r"has ids of its own, seqTags\. Leave tags='ids' out"):
        hdf(written, tags="ids")
    with pytest.raises(SettingError, match=r"hdf\(\): There is no argument 'streams'"):
        hdf(written, streams=["data"])  # type: ignore[call-arg]


def test_rows_that_differ_are_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["x"] = np.zeros((4, 3))
        file["y"] = np.zeros(5)
        file["one"] = 7
    with pytest.raises(DataError, match=r"different numbers of rows: 'one' has no rows, 'x' has 4, 'y' has 5\. Name"):
        hdf(tmp_path / "a.hdf")
    assert len(hdf(tmp_path / "a.hdf", ["y"])) == 5
    with pytest.raises(DataError, match=r"has no stream 'idz'"):
        hdf(tmp_path / "a.hdf", ["y"], tags="idz")


def test_empty_and_foreign_files_are_told(tmp_path: Path) -> None:
    make(tmp_path / "empty.hdf", [])
    with pytest.raises(DataError, match=r"The data are empty: .*empty\.hdf has 0 samples"):
        hdf(tmp_path / "empty.hdf")
    with h5py.File(tmp_path / "none.hdf", "w"):
        pass
    with pytest.raises(DataError, match=r"none\.hdf holds no array\. Expected RETURNN's layout \(seqLengths, inputs"):
        hdf(tmp_path / "none.hdf")
    (tmp_path / "text.hdf").write_text("hello")
    with pytest.raises(DataError, match=r"text\.hdf cannot be read as HDF5: "):
        hdf(tmp_path / "text.hdf")


def test_without_h5py_it_says_how_to_get_it(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingPackageError, match=r"Reading HDF5 files needs .*pip install 'etude\[hdf\]'"):
        hdf(written)
