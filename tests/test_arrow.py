"""Arrow and Parquet files: any row of any part, lists as arrays with lengths."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.data.forms.arrow import arrow
from etude.data.items import items_of
from etude.errors import DataError, MissingPackageError, SettingError

pa = pytest.importorskip("pyarrow")

AUDIO = [[0.5, -0.5], [], [1.0, 2.0, 3.0], [4.0], [5.0, 6.0]]


def table(rows: slice = slice(None)) -> Any:
    frames = [[[1, 2], [3, 4]], [], [[5, 6]], [[7, 8], [9, 10], [11, 12]], [[13, 14]]]
    columns = {
        "audio": pa.array(AUDIO, pa.list_(pa.float32())),
        "frames": pa.array(frames, pa.large_list(pa.list_(pa.int16()))),
        "pairs": pa.array(frames, pa.list_(pa.list_(pa.int32(), 2))),
        "label": pa.array([3, 1, 4, 1, 5], pa.int64()),
        "box": pa.array([[n, n + 1, n + 2] for n in range(5)], pa.list_(pa.float64(), 3)),
        "text": ["a", "b", "c", "d", "e"],
        "yes": [True, False, True, False, True],
        "kind": pa.array(["x", "y", "x", "x", "y"]).dictionary_encode(),
        "id": [f"seq-{n}" for n in range(5)],
    }
    whole = pa.table(columns)
    return whole.slice(rows.start or 0, (rows.stop or 5) - (rows.start or 0))


def file(path: Path, what: Any, compression: str | None = None) -> Path:
    with pa.ipc.new_file(path, what.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as sink:
        sink.write_table(what, max_chunksize=2)
    return path


def stream(path: Path, what: Any) -> Path:
    with pa.ipc.new_stream(path, what.schema) as sink:
        sink.write_table(what, max_chunksize=2)
    return path


def parquet(path: Path, what: Any) -> Path:
    pytest.importorskip("pyarrow.parquet").write_table(what, path, row_group_size=2)
    return path


WRITERS = {
    "file": file,
    "compressed": lambda path, what: file(path, what, "lz4"),
    "stream": stream,
    "parquet": parquet,
}


@pytest.fixture(params=list(WRITERS))
def write(request: pytest.FixtureRequest) -> Callable[[Path, Any], Path]:
    return WRITERS[request.param]


def test_every_row_is_what_was_written(tmp_path: Path, write: Callable[[Path, Any], Path]) -> None:
    data = arrow(write(tmp_path / "a", table()), tags="id")
    expected = table().drop_columns(["id"]).to_pylist()
    assert len(data) == 5
    assert data.tags == ["seq-0", "seq-1", "seq-2", "seq-3", "seq-4"]
    assert data.names == ("audio", "frames", "pairs", "label", "box", "text", "yes", "kind")
    for index in (3, 0, 4, 1, 2, -1):
        item = data[index]
        assert {name: value.tolist() if hasattr(value, "tolist") else value for name, value in item.items()} == (
            expected[index]
        )
    types = {name: value.dtype.name for name, value in data[0].items() if hasattr(value, "dtype")}
    assert types == {
        "audio": "float32",
        "frames": "int16",
        "pairs": "int32",
        "label": "int64",
        "box": "float64",
        "yes": "bool",
    }
    assert data[0]["pairs"].shape == (2, 2)
    assert data[1]["pairs"].shape == (0, 2)
    assert data[3]["frames"].shape == (3, 2)


def test_lengths_are_those_of_the_lists(tmp_path: Path, write: Callable[[Path, Any], Path]) -> None:
    data = arrow(write(tmp_path / "a", table()))
    lengths = {name: each.tolist() for name, each in data.lengths.items()}
    assert lengths == {"audio": [2, 0, 3, 1, 2], "frames": [2, 0, 1, 3, 1], "pairs": [2, 0, 1, 3, 1]}
    assert data.lengths["audio"].dtype == np.int64
    assert data.lengths["audio"] is data.lengths["audio"]


def test_files_come_one_after_another(tmp_path: Path) -> None:
    paths = [stream(tmp_path / "a", table(slice(0, 3))), parquet(tmp_path / "b", table(slice(3, 5)))]
    data = arrow(paths, {"audio": "x", "label": "y"}, tags="id")
    assert data.names == ("x", "y")
    assert [data[index]["x"].tolist() for index in range(5)] == AUDIO
    assert [int(data[index]["y"]) for index in range(5)] == [3, 1, 4, 1, 5]
    assert data.lengths["x"].tolist() == [2, 0, 3, 1, 2]
    assert list(data.lengths) == ["x"]
    assert data.tags[3] == "seq-3"
    with pytest.raises(IndexError, match=r"arrow a and 1 more has 5 samples; there is no sample 5"):
        data[5]


def test_what_is_read_can_be_written_to(tmp_path: Path, write: Callable[[Path, Any], Path]) -> None:
    data = arrow(write(tmp_path / "a", table()), ["audio", "box", "frames"])
    for value in data[0].values():
        value[:] = 9
    assert data[0]["audio"].tolist() == AUDIO[0]
    assert data[0]["box"].tolist() == [0, 1, 2]


def test_uncompressed_files_are_read_from_the_map_and_all_parts_stay(tmp_path: Path) -> None:
    data = arrow(file(tmp_path / "a", table()), ["audio"], keep=1)
    for index in range(5):
        data[index]
    (path,) = data.handles
    assert data.handles[path].recent is None
    assert len(data.handles[path].decoded) == 3


@pytest.mark.parametrize("kind", ["compressed", "parquet"])
def test_only_so_many_decoded_parts_of_all_files_stay(tmp_path: Path, kind: str) -> None:
    paths = [WRITERS[kind](tmp_path / name, table()) for name in ("a", "b")]
    data = arrow(paths, ["audio"], keep=2)
    for index in (0, 2, 7, 1, 5):
        data[index]
    recent = data.handles[paths[0]].recent
    assert recent is data.handles[paths[1]].recent
    assert recent is not None
    assert list(recent.parts) == [(paths[0], 0), (paths[1], 0)]
    data.close()
    assert not recent.parts
    assert data[7]["audio"].tolist() == AUDIO[2]


def test_extension_types_are_their_storage(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    data = arrow(file(tmp_path / "a", pa.table({"image": tensors})))
    np.testing.assert_array_equal(data[1]["image"], images[1])
    assert data.lengths == {}


def test_files_close_and_open_again_and_pickle(tmp_path: Path) -> None:
    data = arrow(parquet(tmp_path / "a", table()), ["audio"])
    assert len(data.handles) == 0
    data[0]
    (opened,) = (data.handles[path] for path in data.handles)
    data.close()
    assert opened.file.closed
    again = pickle.loads(pickle.dumps(data))
    assert again[2]["audio"].tolist() == AUDIO[2]
    assert again.lengths["audio"].tolist() == [2, 0, 3, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_reads_the_same(tmp_path: Path) -> None:
    data = arrow(file(tmp_path / "a", table()), ["audio"])
    data[0]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send([data[index]["audio"].tolist() for index in range(5)]))
    child.start()
    assert ours.recv() == AUDIO
    child.join()
    assert data[2]["audio"].tolist() == AUDIO[2]


def test_items_make_a_source(tmp_path: Path) -> None:
    source = items_of(arrow(stream(tmp_path / "a", table()), ["label", "box"]), False)
    assert source.names == ("label", "box")
    assert source.converted == ["box: float64 -> float32"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (pa.array([1, None]), r"'x' of .*a \(part 0\) lacks 1 value, the first at 1\. Fill them in"),
        (pa.array([[1], None, None]), r"lacks 1 value, the first at 1"),
        (pa.array([[1, None, 2]]), r"lacks 1 value, the first at 1"),
        (
            pa.array([[[1, 2], [3]]]),
            r"Row 0 of the column 'x' of .* lists of different lengths: 2 numbers first, 1 at 1",
        ),
    ],
)
def test_rows_that_lack_something_are_named(tmp_path: Path, values: Any, told: str) -> None:
    data = arrow(file(tmp_path / "a", pa.table({"x": values})))
    with pytest.raises(DataError, match=told):
        data[0]


def test_types_that_no_tensor_holds_are_named(tmp_path: Path) -> None:
    mixed = pa.table({"x": [1, 2], "when": pa.array([1, 2], pa.timestamp("s")), "s": [{"a": 1}, {"a": 2}]})
    path = file(tmp_path / "a", mixed)
    with pytest.raises(DataError, match=r"'when' of .*a holds timestamp\[s\], which no tensor can hold\. Name the"):
        arrow(path)
    with pytest.raises(DataError, match=r"column 's' of .*a holds struct<a: int64>"):
        arrow(path, ["x", "s"])
    assert arrow(path, ["x"])[1]["x"] == 2


def test_wrong_names_are_told(tmp_path: Path) -> None:
    path = file(tmp_path / "a", table())
    with pytest.raises(DataError, match=r"has no stream 'labels'\. Nearest: \"label\"\. It has: 'audio', 'frames'"):
        arrow(path, ["labels"])
    with pytest.raises(DataError, match=r"has no stream 'ids'\. Nearest: \"id\""):
        arrow(path, tags="ids")
    with pytest.raises(DataError, match=r"keep=0 is no number of row groups"):
        arrow(path, keep=0)
    with pytest.raises(SettingError, match=r"arrow\(\): There is no argument 'columns'"):
        arrow(path, columns=["x"])  # type: ignore[call-arg]


def test_files_must_be_alike(tmp_path: Path) -> None:
    one = file(tmp_path / "a", pa.table({"x": [1]}))
    two = file(tmp_path / "b", pa.table({"x": [0.5]}))
    with pytest.raises(DataError, match=r"'x' holds double in .*b, and int64 in .*a\. Give files of one schema"):
        arrow([one, two])
    with pytest.raises(DataError, match=r"b has no stream 'y'"):
        arrow([file(tmp_path / "c", pa.table({"y": [1], "x": [1]})), two])


def test_other_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"hello, this is no arrow file at all")
    with pytest.raises(DataError, match=r"a\.arrow cannot be read: .* Expected a file of Arrow \(IPC\) or Parquet"):
        arrow(tmp_path / "a.arrow")
    whole = file(tmp_path / "b", table()).read_bytes()
    (tmp_path / "cut.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.arrow cannot be read: .* Expected a file of Arrow"):
        arrow(tmp_path / "cut.arrow")
    with pytest.raises(DataError, match=r"The data are empty: .*c has 0 rows"):
        arrow(file(tmp_path / "c", table().slice(0, 0)))


def test_without_pyarrow_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path / "a", table())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"Arrow and Parquet files needs .*pip install 'etude\[arrow\]'"):
        arrow(path)


def test_without_a_column_of_ids_there_are_none(tmp_path: Path) -> None:
    assert arrow(file(tmp_path / "a", table())).tags is None
