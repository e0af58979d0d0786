"""Folders of recordings: lengths from headers, samples as floats, labels and ids from paths."""

from __future__ import annotations

import pickle
import struct
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from etude.data.forms.audio import audio
from etude.data.forms.wav import look
from etude.data.items import Reader, items_of
from etude.errors import DataError, MissingPackageError, SettingError

DIGITS = Path(__file__).parents[2] / "shared" / "data" / "fsdd"


def riff(form: bytes, data: bytes, *, before: bytes = b"", size: int | None = None, top: bytes = b"RIFF") -> bytes:
    """A wave file from its two chunks; `size` is what the header says of the data."""
    told = len(data) if size is None else size
    body = before + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", told) + data
    return top + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def form(kind: int, bits: int, channels: int = 1, rate: int = 8000) -> bytes:
    width = channels * bits // 8
    return struct.pack("<HHIIHH", kind, channels, rate, rate * width, width, bits)


def write(path: Path, samples: Any, rate: int = 8000, channels: int = 1) -> Path:
    """A file of 16 bits, by the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("two/b.wav", 3), ("one/a.wav", 5), ("c.wav", 0)):
        write(tmp_path / name, np.arange(count) * 1024)
    return tmp_path


def test_items_lengths_and_ids_of_a_folder_are_in_the_order_of_the_paths(folder: Path) -> None:
    data = audio(folder)
    assert data.tags == ["c", "one/a", "two/b"]
    assert data.lengths["audio"].tolist() == [0, 5, 3] == [len(data[index]["audio"]) for index in range(3)]
    assert (len(data), data.rate, data.channels, data.names) == (3, 8000, 1, ("audio",))
    assert data[1]["audio"].dtype == np.float32
    assert data[-1]["audio"].tolist() == [0, 1024 / 32768, 2048 / 32768]


def test_a_list_of_files_keeps_its_order(folder: Path) -> None:
    data = audio([folder / "two/b.wav", str(folder / "c.wav")])
    assert data.tags == ["b", "c"]
    assert data.lengths["audio"].tolist() == [3, 0]


def test_a_pattern_and_one_file_are_as_good_as_a_folder(folder: Path) -> None:
    assert audio(folder / "*" / "*.wav").tags == ["a", "b"]
    assert audio(folder, "one/*.wav").tags == ["one/a"]
    assert audio(folder / "c.wav").tags == ["c"]


@pytest.mark.parametrize(
    ("kind", "bits", "numbers", "expected"),
    [
        (1, 8, np.array([0, 64, 128, 255], "u1").tobytes(), [-1, -0.5, 0, 127 / 128]),
        (1, 16, np.array([-32768, 0, 32767], "<i2").tobytes(), [-1, 0, 32767 / 32768]),
        (1, 24, b"\x00\x00\x80\x00\x00\x00\x00\x00\x40\xff\xff\xff", [-1, 0, 0.5, -1 / 2**23]),
        (1, 32, np.array([-(2**31), 0, 2**30], "<i4").tobytes(), [-1, 0, 0.5]),
        (3, 32, np.array([-1.5, 0.25], "<f4").tobytes(), [-1.5, 0.25]),
        (3, 64, np.array([-1.5, 0.25], "<f8").tobytes(), [-1.5, 0.25]),
    ],
)
def test_every_kind_of_number_is_scaled_to_one(
    tmp_path: Path, kind: int, bits: int, numbers: bytes, expected: list[float]
) -> None:
    extensible = struct.pack("<HHI", 22, bits, 0) + struct.pack("<H", kind) + bytes(14)
    (tmp_path / "a.wav").write_bytes(riff(form(kind, bits), numbers))
    (tmp_path / "b.wav").write_bytes(riff(form(0xFFFE, bits) + extensible, numbers))
    for item in audio(tmp_path):
        np.testing.assert_array_equal(item["audio"], np.array(expected, np.float32))


def test_several_channels_are_the_second_dimension(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", [1, 2, 3, 4, 5, 6], channels=2)
    data = audio(tmp_path)
    assert data.channels == 2
    assert data.lengths["audio"].tolist() == [3]
    assert (data[0]["audio"] * 32768).tolist() == [[1, 2], [3, 4], [5, 6]]


def test_other_chunks_are_passed_over_also_of_odd_length(tmp_path: Path) -> None:
    note = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    (tmp_path / "a.wav").write_bytes(riff(form(1, 16), b"\x00\x40", before=note) + note)
    assert audio(tmp_path)[0]["audio"].tolist() == [0.5]


def test_a_header_that_did_not_know_the_size_means_up_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(riff(form(1, 16), bytes(10), size=0xFFFFFFFF))
    (tmp_path / "b.wav").write_bytes(riff(form(1, 16), bytes(10), size=0x7FFFF000))
    assert audio(tmp_path).lengths["audio"].tolist() == [5, 5]


def test_a_file_of_more_than_four_gibibytes_has_its_size_elsewhere(tmp_path: Path) -> None:
    wide = b"ds64" + struct.pack("<IQQQI", 28, 100, 6, 3, 0)
    (tmp_path / "a.wav").write_bytes(riff(form(1, 16), bytes(6) + b"junk", before=wide, size=0xFFFFFFFF, top=b"RF64"))
    assert audio(tmp_path).lengths["audio"].tolist() == [3]


def test_only_the_header_is_read_for_the_length(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros(100_000))
    with path.open("rb", buffering=0) as file:
        read: list[int] = []

        class Counting:
            def read(self, count: int) -> bytes:
                read.append(count)
                return file.read(count)

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        assert look(Counting(), "a.wav").frames == 100_000  # type: ignore[arg-type]
    assert sum(read) < 100


@pytest.mark.parametrize(
    ("labels", "expected", "classes"),
    [
        (lambda path: len(path.stem), [1, 1, 2], ()),
        (lambda path: path.stem[0], [0, 1, 0], ("a", "b")),
        (lambda path: {"a": 1, "b": 0.5}.get(path.stem, 2), [1, 0.5, 2], ()),
        (lambda path: path.stem == "b", [0, 1, 0], ()),
    ],
)
def test_labels_are_numbers_or_names(
    tmp_path: Path, labels: Callable[[Path], Any], expected: list[float], classes: tuple[str, ...]
) -> None:
    for name in ("a", "b", "aa"):
        write(tmp_path / f"{name}.wav", [0])
    data = audio([tmp_path / f"{name}.wav" for name in ("a", "b", "aa")], labels=labels)
    assert [item["label"] for item in data] == expected
    assert data.classes == classes
    assert data.names == ("audio", "label")
    assert list(data.lengths) == ["audio"]


def test_labels_that_are_lists_are_a_stream(folder: Path) -> None:
    data = audio(folder, labels=lambda path: [ord(letter) for letter in path.stem * 2] if path.stem != "c" else [])
    assert data.lengths["label"].tolist() == [0, 2, 2]
    assert data[1]["label"].tolist() == [97, 97]
    assert data[0]["label"].dtype == np.int64


def test_ids_can_be_made_from_paths(folder: Path) -> None:
    assert audio(folder, tags=lambda path: path.name).tags == ["c.wav", "a.wav", "b.wav"]


def test_items_make_batches(folder: Path) -> None:
    data = audio(folder, "o*/*.wav", labels=lambda path: 7)
    source = items_of(data, False)
    batch = Reader(data, source.title, 0, False)[(0, [0, 0])]
    assert source.names == ("audio", "label")
    assert batch["audio"].shape == (2, 5)
    assert batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == [7, 7]


def test_a_data_set_travels_to_another_process(folder: Path) -> None:
    data = audio(folder, labels=lambda path: path.stem, name="x")
    again = pickle.loads(pickle.dumps(data))
    assert again.tags == data.tags
    assert again[1]["x"].tolist() == data[1]["x"].tolist()
    assert again[2]["label"] == 1


def test_other_formats_are_read_by_soundfile(tmp_path: Path) -> None:
    sound = pytest.importorskip("soundfile")
    samples = np.arange(-4, 4, dtype=np.int16) * 4096
    sound.write(tmp_path / "a.flac", samples, 16000)
    data = audio(tmp_path, "*.flac")
    assert (data.rate, data.lengths["audio"].tolist()) == (16000, [8])
    assert data[0]["audio"].tolist() == (samples / 32768).tolist()
    (tmp_path / "b.flac").write_bytes(b"fLaX" + bytes(50))
    with pytest.raises(DataError, match=r"b\.flac cannot be read as sound: .* Expected a format that libsndfile reads"):
        audio(tmp_path, "*.flac")


def test_without_soundfile_other_formats_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.ogg").touch()
    with pytest.raises(MissingPackageError, match=r"Reading \.ogg files needs .*pip install 'etude\[audio\]'"):
        audio(tmp_path, "*.ogg")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"ID3 something else", r"is no wave file: it begins with b'ID3 somethin', expected b'RIFF\.\.\.\.WAVE'"),
        (b"", r"is no wave file: it begins with b''"),
        (b"RIFF\0\0\0\0WAVE", r"without data: expected a chunk b'data' within its 12 bytes"),
        (riff(b"", b"\0\0"), r"damaged wave file: expected a chunk b'fmt ' of 16 bytes before the data"),
        (riff(form(1, 16, channels=0), b""), r"damaged wave file: 0 channels at 8000 frames a second"),
        (riff(form(17, 4), bytes(9)), r"numbers of kind 17 with 4 bits\. Read are PCM .* ffmpeg -i in\.wav"),
        (riff(form(1, 16), bytes(9), size=1000), r"is cut off: its header promises 1000 bytes of data, 9 are there"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.wav .*" + told):
        audio(tmp_path)


def test_a_file_that_is_cut_off_later_is_named(folder: Path) -> None:
    data = audio(folder)
    path = folder / "one" / "a.wav"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"a\.wav is cut off"):
        data[1]


def test_rates_and_channels_must_be_alike(folder: Path) -> None:
    write(folder / "z.wav", [0], rate=16000)
    with pytest.raises(DataError, match=r"z\.wav has 16000 frames a second, .*c\.wav has 8000\. Resample it"):
        audio(folder)
    with pytest.raises(DataError, match=r"c\.wav has 8000 frames a second, rate=16000 was asked for\. Resample"):
        audio(folder, rate=16000)
    write(folder / "z.wav", [0, 0], channels=2)
    with pytest.raises(DataError, match=r"z\.wav has 2 channels, .*c\.wav has 1\. Mix it down"):
        audio(folder)


def test_ids_must_differ(folder: Path) -> None:
    write(folder / "two" / "a.wav", [0])
    files = [folder / "one" / "a.wav", folder / "two" / "a.wav"]
    with pytest.raises(DataError, match=r"one.a\.wav and .*two.a\.wav have the same id 'a'\. .*tags=lambda path"):
        audio(files)
    assert len(audio(files, tags=str)) == 2


def test_what_is_not_there_is_said(folder: Path) -> None:
    with pytest.raises(DataError, match=r"nothing that fits the pattern '\*\.flac'; it has files that end in \.wav\."):
        audio(folder, "*.flac")
    (folder / "none").mkdir()
    with pytest.raises(DataError, match=r"it has no files\.$"):
        audio(folder / "none")
    with pytest.raises(DataError, match=r"audio\(\): there is no file .*one.b\.wav\. Nearest: \"a\.wav\"\."):
        audio(folder / "one" / "b.wav")
    with pytest.raises(DataError, match=r"there is no file .*x\.wav\. .* is the last folder of it that exists\."):
        audio(folder / "three" / "deep" / "x.wav")
    with pytest.raises(DataError, match=r"no file fits this pattern\. Look at "):
        audio(folder / "three*" / "*.wav")
    with pytest.raises(DataError, match=r"audio\(\[\]\): an empty list"):
        audio([])
    with pytest.raises(DataError, match=r"audio\(7\): no path\. Write the path of a file"):
        audio(7)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"one is a folder\. Write the path of a file, or a pattern"):
        audio([folder / "one"])


def test_labels_that_are_none_are_told(folder: Path) -> None:
    with pytest.raises(DataError, match=r"labels= fails for .*c\.wav: ValueError: invalid literal"):
        audio(folder, labels=lambda path: int(path.stem))
    with pytest.raises(DataError, match=r"labels= gives None for .*c\.wav\. Give for every path a number"):
        audio(folder, labels=lambda path: None)
    with pytest.raises(DataError, match=r"labels= gives 'a' for .*a\.wav and 1 for .*c\.wav"):
        audio(folder, labels=lambda path: "a" if path.stem == "a" else 1)
    with pytest.raises(DataError, match=r"labels= gives \[0\.5\] for "):
        audio(folder, labels=lambda path: [0.5])


def test_an_argument_that_is_not_there_is_told() -> None:
    with pytest.raises(SettingError, match=r"audio\(\): There is no argument 'label'\. Nearest: \"labels\""):
        audio(".", label=str)  # type: ignore[call-arg]


@pytest.mark.skipif(not DIGITS.is_dir(), reason="the recordings of spoken digits are not on this machine")
def test_the_lengths_of_spoken_digits_are_those_of_the_standard_library() -> None:
    data = audio(DIGITS, labels=lambda path: path.name.split("_")[1])
    assert len(data) == 3000
    assert (data.rate, len(data.classes)) == (8000, 6)
    for index in range(0, 3000, 97):
        with wave.open(str(data.files[index])) as file:
            expected = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert data.lengths["audio"][index] == len(expected)
        np.testing.assert_array_equal(data[index]["audio"], expected.astype(np.float32) / 32768)
