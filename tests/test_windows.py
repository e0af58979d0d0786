"""Windows of samples: data sets that read them alone give the bits of whole samples cut afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import etude
from effort import examples
from etude.data import chunk, concatenated, joined, mapped
from etude.data.flow import Flow
from etude.data.items import Reader
from etude.data.joining import Joining
from etude.data.plan.lengths import lengths_of
from etude.data.reading import SampleReader
from etude.data.wanted import Wanted, Windows
from etude.data.windows import cut, cut_sample, reads_windows
from etude.errors import DataError


class Speech:
    """Frames and half as many labels; remembers what was read, and how."""

    title = "speech"

    def __init__(self, lengths: list[int], *, more: int = 0, bad: tuple[int, ...] = (), chance: bool = False) -> None:
        self.lengths = {"audio": np.array(lengths), "labels": -(-np.array(lengths) // 2)}
        self.tags = [f"seq-{number}" for number in range(len(lengths))]
        self.more, self.bad, self.chance = more, bad, chance
        self.read: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self.tags)

    def __getitem__(self, number: int) -> dict[str, Any]:
        self.read.append((number, "whole"))
        return self.made(number)

    def part(self, number: int, windows: Windows) -> dict[str, Any]:
        self.read.append((number, "part"))
        return {
            name: cut(value, windows[name]) if name in windows else value for name, value in self.made(number).items()
        }

    def made(self, number: int) -> dict[str, Any]:
        if number in self.bad:
            raise OSError("torn page")
        frames = int(self.lengths["audio"][number]) + self.more
        values = np.random.default_rng(number).random((frames, 2), np.float32)
        noise = np.float32(np.random.rand()) if self.chance else np.float32(0)
        return {"audio": values + noise, "labels": np.arange(-(-frames // 2)), "speaker": number}


class Whole:
    """A data set that reads whole samples."""

    def __init__(self, data: Any) -> None:
        self.data, self.lengths, self.tags, self.title = data, data.lengths, data.tags, data.title

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> Any:
        return self.data[number]


def alike(first: Any, second: Any) -> bool:
    """Whether two batches have the same names, types, shapes and bits."""
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(alike(first[name], second[name]) for name in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return bool(first == second)


def batches(data: Any, *, epochs: int = 2, workers: int = 0, share: tuple[int, int] = (0, 1), **options: Any) -> Any:
    """The values of all batches of some epochs."""
    made = etude.Data(data, **options)
    found = made.batches(epochs=epochs, seed=3, workers=workers, rank=share[0], ranks=share[1])
    return [batch.values for batch in found]


CHUNK = chunk({"audio": 4, "labels": 2}, {"audio": 2, "labels": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"chunk": CHUNK, "batch_size": 3},
        {"chunk": CHUNK, "batch_size": 3, "pack": True},
        {"chunk": {"audio": 4}, "batch_size": 3, "pad": {"audio": -1.0}},
        {"chunk": CHUNK, "budget": {"audio": 16}},
        {"chunk": CHUNK, "buckets": etude.data.buckets((2, 3), (4, 2))},
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_have_the_bits_of_whole_samples_cut_afterwards(options: dict[str, Any], ranks: int) -> None:
    lengths = [7, 0, 12, 4, 5, 31]
    for rank in range(ranks):
        data = Speech(lengths)
        found = batches(data, share=(rank, ranks), **options)
        expected = batches(Whole(Speech(lengths)), share=(rank, ranks), **options)
        assert len(found) == len(expected)
        assert all(map(alike, found, expected))
        assert (0, "part") in data.read or (5, "part") in data.read


@settings(max_examples=examples(30), deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
def test_law_of_any_chunks(lengths: list[int], size: int, step: int, batch: int, chance: bool, jitter: bool) -> None:
    lengths = [*(2 * length for length in lengths), 40]
    rule = chunk({"audio": 2 * size, "labels": size}, {"audio": 2 * step, "labels": step}, jitter=jitter)
    options = {"chunk": rule, "batch_size": batch}
    found = batches(Speech(lengths, chance=chance), **options)
    assert all(map(alike, found, batches(Whole(Speech(lengths, chance=chance)), **options)))


class Sound(Speech):
    """The frames alone."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__(lengths)
        self.lengths = {"audio": self.lengths["audio"]}

    def made(self, number: int) -> dict[str, Any]:
        return {"audio": super().made(number)["audio"]}


def test_samples_cut_wherever_a_batch_is_full_are_read_in_pieces() -> None:
    data = Sound([7, 0, 12, 31])
    options = {"budget": etude.data.packed(7), "pack": "strung"}
    found, expected = batches(data, **options), batches(Whole(Sound([7, 0, 12, 31])), **options)
    assert len(found) == len(expected)
    assert all(map(alike, found, expected))
    assert (3, "part") in data.read


def test_what_is_not_cut_is_read_whole() -> None:
    data = Speech([6, 8])
    batches(data, epochs=1, batch_size=2)
    assert {how for _, how in data.read} == {"whole"}
    data = Speech([6, 8])
    made = etude.Data(data, chunk=CHUNK, batch_size=2)
    data.read.clear()
    list(made.batches(epochs=1))
    assert {how for _, how in data.read} == {"part"}


def test_data_that_are_looked_at_are_read_whole() -> None:
    data = Speech([6, 8])
    flow = Flow(etude.Data(data, chunk=CHUNK, batch_size=2), looking=True)
    data.read.clear()
    (batch,) = flow.batches(epochs=1)
    assert sorted(batch.values["audio_lengths"].tolist()) == [6, 8]
    assert set(data.read) == {(0, "whole"), (1, "whole")}  # twice where chance may have had a part


def test_workers_change_nothing() -> None:
    options = {"chunk": CHUNK, "batch_size": 3, "epochs": 1}
    expected = batches(Whole(Speech([7, 9, 12], chance=True)), **options)
    found = batches(Speech([7, 9, 12], chance=True), workers=2, **options)
    assert len(found) == len(expected) > 3
    assert all(map(alike, found, expected))


def test_chance_in_a_sample_is_decided_by_its_number_in_every_chunk_of_it() -> None:
    data = Speech([40], chance=True)
    values = [each["audio"] for each in batches(data, epochs=1, chunk={"audio": 10}, batch_size=1, order="in_order")]
    plain = np.random.default_rng(0).random((40, 2), np.float32)
    noise = torch.cat(values, 1)[0] - torch.from_numpy(plain)
    assert noise.min() == pytest.approx(float(noise.max()), abs=1e-6)
    assert float(noise.max()) > 0


def test_samples_that_cannot_be_read_are_left_out_or_named() -> None:
    options = {"chunk": CHUNK, "batch_size": 2, "order": "in_order"}
    with pytest.raises(DataError, match=r"^Item 2 of the data set speech cannot be read: OSError: torn page$"):
        batches(Speech([4, 4, 4, 4], bad=(2,)), **options)
    found = batches(Speech([4, 4, 4, 4], bad=(2,)), unreadable="skip", **options)
    expected = batches(Whole(Speech([4, 4, 4, 4], bad=(2,))), unreadable="skip", **options)
    assert all(map(alike, found, expected))
    assert 2 not in torch.cat([each["speaker"] for each in found])


@pytest.mark.parametrize("more", [-1, -3])
def test_samples_shorter_than_stated_raise_what_whole_ones_do(more: int) -> None:
    options = {"chunk": CHUNK, "batch_size": 2, "order": "in_order"}
    with pytest.raises(DataError) as expected:
        batches(Whole(Speech([8, 8], more=more)), **options)
    with pytest.raises(DataError) as found:
        batches(Speech([8, 8], more=more), **options)
    assert str(found.value) == str(expected.value)
    assert f"Sample 0 has {8 + more} frames of 'audio', and its length was stated as 8" in str(found.value)


def test_streams_that_come_whole_still_have_their_stated_lengths() -> None:
    class Longer(Speech):
        def made(self, number: int) -> dict[str, Any]:
            return {**super().made(number), "labels": np.arange(50)}

    with pytest.raises(DataError, match=r"Sample 0 has 50 frames of 'labels', and its length was stated as 4"):
        batches(Longer([8]), chunk={"audio": 3}, batch_size=1)


class Wrong(Speech):
    """What its parts are is not what its items are."""

    def __init__(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__([8, 8])
        self.change = change

    def part(self, number: int, windows: Windows) -> dict[str, Any]:
        return self.change(super().part(number, windows))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda item: {**item, "audio": item["audio"][:1]},
            "1 frames of 'audio' came for those from 0 to 4 of sample 0",
        ),
        (lambda item: {**item, "audio": np.zeros((8, 2))}, "8 frames of 'audio' came for those from 0 to 4 of sample"),
        (lambda item: {**item, "audio": None}, "Sample 0 has NoneType"),
        (lambda item: {"audio": item["audio"]}, "There is no stream 'labels'"),
    ],
)
def test_a_part_that_is_wrong_is_told(change: Callable[[dict[str, Any]], dict[str, Any]], told: str) -> None:
    with pytest.raises(DataError) as caught:
        batches(Wrong(change), chunk=CHUNK, batch_size=1, order="in_order")
    assert str(caught.value).startswith("part() of the data set speech does not give what its items have: ")
    assert told in str(caught.value)
    assert str(caught.value).endswith("each from its start to its stop, and leave the others whole.")


def test_a_wrong_part_of_a_sample_that_cannot_be_read_whole_is_told() -> None:
    class Short(Speech):
        def part(self, number: int, windows: Windows) -> dict[str, Any]:
            self.bad = (0,)
            return {**Speech([8]).part(number, windows), "audio": np.zeros((1, 2), np.float32)}

    with pytest.raises(DataError, match=r"^part\(\) of the data set speech .* 1 frames of 'audio' came"):
        batches(Short([8]), chunk=CHUNK, batch_size=1, unreadable="skip")


def test_what_collates_itself_gets_whole_samples() -> None:
    data = Speech([8])
    window = (np.array([2]), np.array([4]))
    reader = SampleReader(Reader(data, "speech", 0, False), Joining(("audio",)), lambda items: len(items[0]["audio"]))
    assert reader[Wanted(0, np.array([0]), {"audio": window})].values == 8


def test_samples_that_are_tuples_are_cut_by_the_names_that_they_get() -> None:
    class Pairs(Speech):
        def __getitem__(self, number: int) -> Any:
            return tuple(super().__getitem__(number).values())

        def part(self, number: int, windows: Windows) -> Any:
            return tuple(super().part(number, windows).values())

    names = ("audio", "labels", "speaker")
    data = concatenated(Pairs([8, 7]), Pairs([5]))
    options = {"names": names, "chunk": CHUNK, "batch_size": 2}
    assert reads_windows(data)
    assert all(map(alike, batches(data, **options), batches(Whole(data), **options)))
    mixed = concatenated(Pairs([8, 7]), Whole(Pairs([5])))
    assert not reads_windows(mixed)
    assert not reads_windows(joined(Pairs([8, 7]), Pairs([8, 7])))


class Plain:
    def part(self, name: str) -> str:
        return name


class Named:
    part = "train"


def test_what_is_called_part_and_is_something_else_is_left_alone() -> None:
    assert not reads_windows([1])
    assert not reads_windows(Named())
    assert not reads_windows(Plain())
    assert reads_windows(Speech([1]))
    assert not reads_windows(mapped(Speech([1]), dict))


def test_only_what_has_frames_is_cut() -> None:
    window = (1, 3)
    assert cut(torch.arange(5), window).tolist() == [1, 2]
    assert cut([1, 2, 3.5], window).dtype == np.float64
    assert cut([1.5, 2, 3], window).tolist() == [2, 3]
    assert cut([], window).tolist() == []
    odd: list[Any] = [[1], [1, 2], [3]]
    assert cut(odd, window) is odd
    assert [cut(value, window) for value in (5, "text", None)] == [5, "text", None]


def test_samples_of_other_lengths_than_stated_are_not_cut() -> None:
    sample = {"a": np.arange(5), "b": [1, 2, 3], "c": 4, "d": torch.tensor(3), "e": "text"}
    found = cut_sample(sample, dict.fromkeys("abcdef", (1, 3)), {"a": 5, "b": 4, "c": 9, "d": 7})
    assert found["a"].tolist() == [1, 2]
    assert found["b"] is None
    assert (found["c"], found["d"], found["e"]) == (4, torch.tensor(3), "text")
    assert sample["a"].tolist() == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------- data sets made of several


def both(change: Callable[[Any], Any] = lambda data: data) -> tuple[Any, Any]:
    """Features here, labels there, in another order."""
    features, labels = Speech([8, 6, 12]), Speech([12, 8, 6])
    features.tags, labels.tags = ["a", "b", "c"], ["c", "a", "b"]
    return features, change(labels)


def made_of(kind: str, labels: Callable[[Any], Any]) -> Any:
    if kind == "named":
        features, others = both(labels)
        return joined({"audio": (features, "audio"), "labels": (others, "labels")})
    first, second = Speech([8, 3]), Speech([9])
    return concatenated(first, labels(second))


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("kind", ["named", "one after another"])
def test_several_data_sets_pass_windows_through_to_those_that_read_them(kind: str, able: bool) -> None:
    made = made_of(kind, (lambda data: data) if able else Whole)
    options = {"chunk": CHUNK, "batch_size": 2}
    assert reads_windows(made)
    found, expected = batches(made, **options), batches(Whole(made), **options)
    assert len(found) == len(expected)
    assert all(map(alike, found, expected))


def test_whole_samples_put_together_pass_windows_through() -> None:
    class Cut(Speech):
        """One stream of them, by name."""

        def __init__(self, lengths: list[int], tags: str, name: str) -> None:
            super().__init__(lengths)
            self.tags, self.name = list(tags), name
            self.lengths = {name: self.lengths[name], "audio": self.lengths["audio"]}

        def made(self, number: int) -> dict[str, Any]:
            return {"id": self.tags[number], self.name: super().made(number)[self.name]}

    features, labels = Cut([8, 6], "ab", "audio"), Cut([6, 8], "ba", "labels")
    data = joined(features, labels, on="id")
    features.read.clear()
    item = data.part(0, {"audio": (2, 4), "labels": (1, 2)})  # type: ignore[misc]
    assert (len(item["audio"]), item["labels"].tolist(), item["id"]) == (2, [1], "a")
    assert features.read == [(0, "part")]
    data.part(0, {"labels": (1, 2)})  # type: ignore[misc]
    assert features.read == [(0, "part"), (0, "whole")]


def test_only_the_data_set_that_is_meant_is_asked_for_windows() -> None:
    features, labels = both()
    data = joined({"audio": (features, "audio"), "labels": (labels, "labels")})
    features.read.clear()
    labels.read.clear()
    item = data.part(1, {"audio": (2, 5)})  # type: ignore[misc]
    assert item["audio"].tolist() == features.made(1)["audio"][2:5].tolist()
    assert item["labels"].tolist() == labels.made(2)["labels"].tolist()
    assert (features.read, labels.read) == ([(1, "part")], [(2, "whole")])


def test_where_no_data_set_reads_windows_neither_does_the_whole() -> None:
    assert not reads_windows(concatenated(Whole(Speech([1])), Whole(Speech([1]))))
    features, labels = both()
    data = joined({"audio": (Whole(features), "audio"), "labels": (Whole(labels), "labels")})
    assert not reads_windows(data)


def test_lengths_of_what_was_read_whole_are_still_compared() -> None:
    """Of the second data set whole samples are read, which are longer than it says."""
    first, second = Speech([8]), Whole(Speech([8], more=2))
    with pytest.raises(DataError, match=r"Sample 1 has 10 frames of 'audio', and its length was stated as 8"):
        batches(concatenated(first, second), chunk=CHUNK, batch_size=2)
    features, labels = both(lambda data: Whole(Speech([12, 8, 6], more=2)))
    labels.tags = ["c", "a", "b"]
    data = joined({"audio": (features, "audio"), "labels": (labels, "labels")})
    with pytest.raises(DataError, match=r"Sample \d has \d frames of 'labels', and its length was stated as \d"):
        batches(data, chunk=CHUNK, batch_size=2)


# ------------------------------------------------------------------------------------------------------ files


def every(data: Any, streams: tuple[str, ...]) -> Iterator[tuple[int, Windows]]:
    """Windows at the beginning, inside, at the end, empty ones and such as reach beyond; together and alone."""
    for number in range(len(data)):
        for first, last in ((0, 3), (1, 2), (2, 2), (2, 1000), (0, 0), (900, 1000)):
            yield number, dict.fromkeys(streams, (first, last))
            yield number, {streams[-1]: (first, last)}


def same_as_cut(data: Any, streams: tuple[str, ...]) -> None:
    """Whether the parts of a data set are its items cut: names, types, shapes and bits."""
    for number, windows in every(data, streams):
        found, whole = data.part(number, windows), data[number]
        assert list(found) == list(whole)
        for name, value in whole.items():
            expected = cut(value, windows[name]) if name in windows else value
            assert type(found[name]) is type(expected)
            assert getattr(found[name], "dtype", None) == getattr(expected, "dtype", None)
            np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_wave_files(tmp_path: Path, subtype: str, channels: int) -> None:
    sound = pytest.importorskip("soundfile")
    for number, frames in enumerate((50, 7, 0)):
        values = np.random.default_rng(number).uniform(-1, 1, (frames, channels))
        sound.write(tmp_path / f"{number}.wav", values, 8000, subtype=subtype)
    same_as_cut(etude.data.audio(tmp_path, labels=lambda path: [1, 2, 3, 4]), ("audio", "label"))


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("flac", "PCM_16"),
        ("flac", "PCM_24"),
        ("aiff", "PCM_16"),
        ("au", "ULAW"),
        ("ogg", "VORBIS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
def test_other_recordings(tmp_path: Path, format: str, subtype: str) -> None:
    sound = pytest.importorskip("soundfile")
    if format.upper() not in sound.available_formats():
        pytest.skip(f"this libsndfile cannot write {format}")
    time = np.arange(48_000) / 48_000
    values = np.sin(2000 * time) * np.random.default_rng(0).uniform(0.5, 1, len(time))
    sound.write(tmp_path / f"a.{format}", values, 48_000, subtype=subtype)
    data = etude.data.audio(tmp_path, f"*.{format}")
    same_as_cut(data, ("audio",))
    whole = data[0]["audio"]
    for start, stop in ((4095, 4097), (12_345, 12_400), (30_000, 47_000), (47_990, 60_000)):
        np.testing.assert_array_equal(data.part(0, {"audio": (start, stop)})["audio"], whole[start:stop])


def _bytes_read() -> int:
    """That this process has read from files so far, as Linux counts them."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="this system does not count what is read")
def test_of_a_long_wave_file_only_the_window_is_read(tmp_path: Path) -> None:
    sound = pytest.importorskip("soundfile")
    sound.write(tmp_path / "a.wav", np.zeros(1_000_000), 8000)
    data = etude.data.audio(tmp_path)
    before = _bytes_read()
    assert len(data.part(0, {"audio": (900_000, 901_000)})["audio"]) == 1000
    assert _bytes_read() - before < 100_000


def test_a_recording_that_became_shorter_raises_what_whole_samples_do(tmp_path: Path) -> None:
    sound = pytest.importorskip("soundfile")
    path = tmp_path / "a.wav"
    sound.write(path, np.zeros(1000), 8000)
    data = etude.data.audio(tmp_path)
    sound.write(path, np.zeros(950), 8000)
    with pytest.raises(DataError, match=r"Sample 0 has 950 frames of 'audio', and its length was stated as 1000"):
        batches(data, chunk={"audio": 100}, batch_size=2)
    made = etude.Data(data, chunk={"audio": 100}, batch_size=2)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"^Item 0 of the data set audio \(1 files\) cannot be read: .*is cut off"):
        next(made.batches())


def test_hdf_files(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    counts = [5, 0, 30]
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["inputs"] = np.random.default_rng(0).random((35, 3))
        file["seqLengths"] = np.array([[count, 2 * count] for count in counts], np.int32)
        file["seqTags"] = np.array(["a", "b", "c"], dtype="S1")
        file["targets/data/words"] = np.arange(70, dtype=np.int16)
    same_as_cut(etude.data.hdf(tmp_path / "a.hdf"), ("data", "words"))
    with h5py.File(tmp_path / "rows.hdf", "w") as file:
        file["pictures"] = np.random.default_rng(0).random((4, 6, 2))
        file["numbers"] = np.arange(4)
    same_as_cut(etude.data.hdf(tmp_path / "rows.hdf"), ("pictures", "numbers"))


@pytest.mark.parametrize("kind", ["file", "compressed", "parquet"])
def test_arrow_files(tmp_path: Path, kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    frames = [[[number, 2], [3, 4], [5, number]] for number in range(4)] + [[]]
    columns = {
        "audio": pa.array([[0.5] * 7, [], [1.0, 2.0, 3.0, 4.0], [5.0], [6.0, 7.0]], pa.list_(pa.float32())),
        "frames": pa.array(frames, pa.large_list(pa.list_(pa.int16()))),
        "pairs": pa.array(frames, pa.list_(pa.list_(pa.int32(), 2))),
        "deep": pa.array([[[[1, 2]], [[3, 4]]]] * 5, pa.list_(pa.list_(pa.list_(pa.int64())))),
        "box": pa.array([[n, n + 1, n + 2] for n in range(5)], pa.list_(pa.float64(), 3)),
        "text": ["a", "b", "c", "d", "e"],
    }
    table = pa.table(columns).slice(1, 4)
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=2)
    else:
        packed = pa.ipc.IpcWriteOptions(compression="zstd" if kind == "compressed" else None)
        with pa.ipc.new_file(path, table.schema, options=packed) as sink:
            sink.write_table(table, max_chunksize=3)
    data = etude.data.arrow(path)
    same_as_cut(data, ("audio", "frames", "pairs", "deep", "box"))
    values = data.part(0, {"audio": (0, 2), "text": (0, 1)})
    assert values["text"] == "b"


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 3, "pack": True}])
def test_chunks_of_files_have_the_bits_of_whole_samples(tmp_path: Path, options: dict[str, Any]) -> None:
    sound = pytest.importorskip("soundfile")
    for number, frames in enumerate((50, 70, 33)):
        sound.write(tmp_path / f"{number}.wav", np.random.default_rng(number).uniform(-1, 1, frames), 8000)
    data = etude.data.audio(tmp_path, labels=lambda path: path.stem)
    expected = batches(Whole(data), chunk=(8, 5), **options)
    for workers in (0, 1):
        found = batches(data, chunk=(8, 5), workers=workers, **options)
        assert len(found) == len(expected)
        assert all(map(alike, found, expected))


def test_lengths_that_a_user_states_are_compared_as_well() -> None:
    data = Speech([8, 8])
    stated = lengths_of({"audio": [8, 9]}).streams["audio"]
    with pytest.raises(DataError, match=r"Sample 1 has 8 frames of 'audio', and its length was stated as 9"):
        batches(data, lengths={"audio": stated}, chunk={"audio": 3}, batch_size=1)
