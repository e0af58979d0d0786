"""The files of a destination: opened or refused, named, kept or removed, read back with a way around damaged ones."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import CheckpointError, SettingError, StateError
from etude.keep import disk, files
from etude.keep.destination import Directory, File
from etude.keep.names import Name
from etude.keep.retain import Entry, Keep, best, last, thinning
from etude.keep.store import Store
from mounts import on_small_disk, read_only

NAME = Name("2026-01-02T03-04-05", 1, 1, 10, 0.5)
STRAY = ".etude-0123abcd.part"


def at(step: int) -> Name:
    return replace(NAME, step=step)


def save(store: Store, name: Name, **scores: float) -> Path:
    """Write a checkpoint whose one number is its step, as a run does, and note it."""
    path = store.target(name)
    files.write(path, {"step": name.step}, {"0.weight": torch.tensor([float(name.step)])})
    store.committed(path, Entry(str(path), name.step, name.step, name.epoch, scores))
    return path


def run_of(store: Store, steps: Iterator[int] | range, **scores: float) -> list[Path]:
    """Save at each step, and retain after each; what was removed."""
    removed = []
    for step in steps:
        save(store, at(step), **scores)
        removed += store.retain()
    return removed


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def steps_in(store: Store) -> list[int]:
    """The steps of the files that are there, oldest first."""
    names = [Name.parse(path.name) for path in reversed(store.paths())]
    return [name.step for name in names if name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "digits"


@contextmanager
def opened(destination: File | Directory, keep: Keep | None = None) -> Iterator[Store]:
    store = Store(destination, keep)
    store.open()
    try:
        yield store
    finally:
        store.close()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of the administrator, whom no permission stops."""
    if os.geteuid():
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, down from the root."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


# ----------------------------------------------------------------------------------------------------------- opening


def test_opening_makes_the_folder_and_closing_leaves_nothing_in_it(folder: Path) -> None:
    store = Store(Directory(folder))
    store.open(1000)
    assert os.listdir(folder) == [".lock"]
    store.close()
    assert os.listdir(folder) == []
    store.close()


def test_a_file_is_locked_beside_itself(tmp_path: Path) -> None:
    with opened(File(tmp_path / "run.safetensors")):
        assert os.listdir(tmp_path) == [".run.safetensors.lock"]
        with opened(File(tmp_path / "other.safetensors")), opened(Directory(tmp_path)):
            pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [lambda path: Directory(path), lambda path: File(path / "run.safetensors")])
def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path, make: Callable[[Path], File]) -> None:
    with opened(make(tmp_path)) as store:
        with pytest.raises(StateError, match=rf"is held by this process \(process {os.getpid()} on .*another run"):
            Store(make(tmp_path)).open()
        save(store, NAME)


def test_a_store_that_was_refused_leaves_the_lock_alone(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        other = Store(Directory(folder))
        with pytest.raises(StateError):
            other.open()
        other.close()
        save(store, NAME)


def test_strays_of_killed_writers_are_swept(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / STRAY).touch()
    with opened(Directory(folder)):
        assert not (folder / STRAY).exists()


def test_strays_are_swept_only_under_the_lock(folder: Path) -> None:
    with opened(Directory(folder)):
        (folder / STRAY).touch()
        with pytest.raises(StateError):
            Store(Directory(folder)).open()
        assert (folder / STRAY).exists()


def test_the_file_of_a_writer_at_work_beside_it_is_not_swept(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    beside = Store(File(tmp_path / "a.safetensors"))
    child = os.fork()
    if child == 0:
        beside.open()
        (tmp_path / STRAY).touch()
        os.write(writing, b"x")
        signal.pause()
    assert os.read(reading, 1) == b"x"
    with opened(File(tmp_path / "b.safetensors")):
        assert (tmp_path / STRAY).exists()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with opened(File(tmp_path / "b.safetensors")):
        assert not (tmp_path / STRAY).exists()
    os.close(reading)
    os.close(writing)


def test_a_folder_that_cannot_be_written_to(open_folder: Path) -> None:
    (open_folder / "mine").mkdir()
    os.chmod(open_folder / "mine", 0o555)
    with as_nobody(), pytest.raises(SettingError, match=r"nothing can be written in the folder .*mine"):
        Store(Directory(open_folder / "mine" / "run")).open()
    assert os.listdir(open_folder / "mine") == []


def test_a_lock_file_that_is_not_ours_to_open(open_folder: Path) -> None:
    os.chmod(open_folder, 0o777)
    (open_folder / ".lock").touch(0o600)
    if os.geteuid():
        os.chmod(open_folder / ".lock", 0)
    with as_nobody(), pytest.raises(SettingError) as caught:
        Store(Directory(open_folder)).open()
    assert str(caught.value) == (
        f"Directory({str(open_folder)!r}): nothing can be written in {open_folder} ({open_folder}/.lock: Permission "
        f'denied). Name a place where you may write, such as Directory("runs/{open_folder.name}").'
    )


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for destination in (Directory(tmp_path / "file" / "run"), File(tmp_path / "file" / "run.safetensors")):
        with pytest.raises(SettingError, match="is a file, and a folder is needed"):
            Store(destination).open()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_file_that_is_none(folder: Path, kind: str) -> None:
    folder.mkdir(parents=True)
    if kind == "link":
        (folder / ".lock").symlink_to("elsewhere")
    else:
        os.mkfifo(folder / ".lock")
    with pytest.raises(SettingError, match=r"nothing can be written in .*/\.lock"):
        Store(Directory(folder)).open()
    assert not (folder / "elsewhere").exists()


def test_a_read_only_disk(tmp_path: Path) -> None:
    place = tmp_path / "disk"

    def work() -> None:
        read_only(place)
        for store in (Store(Directory(place)), Store(Directory(place / "run")), Store(File(place / "a.safetensors"))):
            with pytest.raises(SettingError, match=r"nothing can be written in"):
                store.open()

    on_small_disk(place, "1m", work)


def test_a_full_disk(tmp_path: Path) -> None:
    place = tmp_path / "disk"

    def work() -> None:
        fill(place / "other")
        with pytest.raises(SettingError, match=r"no space left in .*Make room there, or write to another disk"):
            Store(Directory(place)).open()
        with pytest.raises(SettingError, match="no space left in"):
            Store(File(place / "run.safetensors")).open()
        (place / "other").unlink()
        with opened(Directory(place)) as store:
            save(store, NAME)

    on_small_disk(place, "1m", work)


def test_a_disk_with_less_room_than_a_checkpoint_needs(tmp_path: Path) -> None:
    place = tmp_path / "disk"

    def work() -> None:
        store = Store(Directory(place))
        said = (
            r": a checkpoint takes 3,000,000 bytes, and 1,04\d,\d{3} are free in .*disk\. Make room there, or write to"
        )
        with pytest.raises(StateError, match=said):
            store.open(need_bytes=3_000_000)
        assert os.listdir(place) == []
        store.open(need_bytes=100_000)
        store.close()

    on_small_disk(place, "1m", work)


def fill(path: Path) -> None:
    """Fill a disk with one file."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def test_retention_gives_room_on_a_disk_that_was_full(tmp_path: Path) -> None:
    """A save that finds no room removes nothing; with room again, saves and retention go on."""
    place = tmp_path / "disk"

    def work() -> None:
        with opened(Directory(place, keep=last(1))) as store:
            run_of(store, range(1, 3))
            fill(place / "other")
            with pytest.raises(CheckpointError, match="no space"):
                save(store, at(3))
            assert store.retain() == []
            assert steps_in(store) == [2]
            (place / "other").unlink()
            assert len(run_of(store, range(4, 6))) == 2
            assert steps_in(store) == [5]
            assert not [name for name in os.listdir(place) if name.endswith(".part")]

    on_small_disk(place, "1m", work)


# ------------------------------------------------------------------------------------------------------------- names


def test_a_target_in_a_folder_is_never_there_yet(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        first = save(store, NAME)
        assert first == folder / NAME.text()
        second = save(store, NAME)
        assert second == folder / replace(NAME, again=2).text()
        assert store.paths() == [second, first]


def test_a_target_is_a_name_that_no_file_has(folder: Path) -> None:
    given = []
    with opened(Directory(folder)) as store:
        for _ in range(3):
            given.append(store.target(NAME))
            assert store.target(NAME) == given[-1]
            given[-1].write_bytes(b"")
    assert [path.name for path in given] == [replace(NAME, again=again).text() for again in (1, 2, 3)]


def test_a_link_that_leads_nowhere_is_not_written_over(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        (folder / NAME.text()).symlink_to("nowhere")
        assert store.target(NAME).name == replace(NAME, again=2).text()


def test_a_target_needs_the_lock(folder: Path) -> None:
    store = Store(Directory(folder))
    with pytest.raises(
        CheckpointError, match=r"\.lock: expected the lock of this run; found that this process does not"
    ):
        store.target(NAME)


def test_a_file_is_its_own_target(tmp_path: Path) -> None:
    with opened(File(tmp_path / "run.safetensors")) as store:
        assert save(store, at(1)) == save(store, at(2)) == tmp_path / "run.safetensors"
        assert store.retain() == []
    assert os.listdir(tmp_path) == ["run.safetensors"]
    assert files.read(tmp_path / "run.safetensors").record == {"step": 2}


def test_a_checkpoint_of_an_earlier_run_is_written_over(tmp_path: Path) -> None:
    for step in (1, 2):
        with opened(File(tmp_path / "run.safetensors")) as store:
            save(store, at(step))
    assert os.listdir(tmp_path) == ["run.safetensors"]


def test_a_file_that_is_no_checkpoint_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n" * 10)
    with opened(File(path)) as store:
        assert path.exists(), "nothing happens before there is something to write"
        save(store, at(1))
        save(store, at(2))
    assert (tmp_path / "table.csv.before").read_text() == "a,b\n1,2\n" * 10
    assert sorted(os.listdir(tmp_path)) == ["table.csv", "table.csv.before"]


def test_a_file_that_cannot_be_read_just_now_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.safetensors"
    files.write(path, {"step": 1}, {})
    with opened(File(path)) as store:
        with monkeypatch.context() as patch:
            patch.setattr(disk, "read_at", refusing(errno.EIO))
            assert store.target(NAME) == path
        assert store.newest_good()[0] is not None


def refusing(number: int) -> Callable[..., int]:
    def refuse(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


def test_paths_are_the_files_with_names_of_checkpoints_newest_first(folder: Path) -> None:
    folder.mkdir(parents=True)
    names = [
        Name("2026-01-02T03-04-05", 1, 1, 10, 0.5),
        Name("2026-01-02T03-04-05", 1, 2, 9000, 0.25),
        Name("2026-01-02T03-04-05", 1, 2, 10000, 0.2),
        Name("2026-01-02T03-04-05", 2, 1, 1, 0.9),
        Name("2026-01-02T03-04-05", 10, 1, 1, 0.9),
        Name("2026-02-01T00-00-00", 1, 0, 0, 1.5, float("nan")),
    ]
    for name in (*(name.text() for name in names), "notes.txt", STRAY, names[0].text() + ".damaged", "a.safetensors"):
        (folder / name).touch()
    assert Store(Directory(folder)).paths() == [folder / name.text() for name in reversed(names)]


def test_there_are_no_paths_before_the_first_save(tmp_path: Path) -> None:
    assert Store(Directory(tmp_path / "none")).paths() == []
    assert Store(File(tmp_path / "none.safetensors")).paths() == []


def test_a_folder_that_cannot_be_looked_at_is_no_empty_one(open_folder: Path) -> None:
    os.chmod(open_folder, 0o300)
    with (
        as_nobody(),
        pytest.raises(CheckpointError, match="expected a folder with checkpoints; found Permission denied"),
    ):
        Store(Directory(open_folder)).newest_good()


def test_a_file_that_cannot_be_looked_at_is_not_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a run would begin anew, and write over what it had."""
    lstat, path = os.lstat, tmp_path / "run.safetensors"

    def some(it: str | os.PathLike[str]) -> os.stat_result:
        if os.fspath(it) == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return lstat(it)

    with opened(File(path)) as store:
        save(store, NAME)
        monkeypatch.setattr(os, "lstat", some)
        with pytest.raises(CheckpointError, match="expected a checkpoint, or nothing; found Input/output error"):
            store.newest_good()


# --------------------------------------------------------------------------------------------------------- retention


def test_without_a_rule_everything_stays(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        assert run_of(store, range(1, 9)) == []
        assert steps_in(store) == list(range(1, 9))


def test_what_is_not_kept_is_removed_and_told(folder: Path) -> None:
    with opened(Directory(folder, keep=last(2))) as store:
        removed = run_of(store, range(1, 6))
        assert removed == [folder / at(step).text() for step in (1, 2, 3)]
        assert steps_in(store) == [4, 5]


def test_a_rule_whose_directions_were_found_comes_first(folder: Path) -> None:
    rule = best("val.f1", 1)
    with opened(Directory(folder, keep=rule), rule.check({"val.f1": "max"})) as store:
        for step, score in enumerate((0.1, 0.7, 0.3, 0.2), 1):
            save(store, at(step), **{"val.f1": score})
            store.retain()
        assert steps_in(store) == [2, 4]


def test_nothing_is_removed_before_something_was_saved(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        run_of(store, range(1, 4))
    with opened(Directory(folder, keep=last(1))) as store:
        assert store.retain() == []
        assert steps_in(store) == [1, 2, 3]


def test_files_of_other_runs_are_let_be(folder: Path) -> None:
    others = [
        replace(NAME, counter=2),
        replace(NAME, start="2025-01-01T00-00-00"),
        replace(NAME, start="2027-01-01T00-00-00"),
    ]
    with opened(Directory(folder, keep=last(1))) as store:
        for name in others:
            save(store, name)
        (folder / "notes.safetensors").touch()
        (folder / (at(1).text() + ".damaged")).touch()
        run_of(store, range(1, 6))
        assert set(store.paths()) == {folder / name.text() for name in (*others, at(5))}
        assert (folder / "notes.safetensors").exists()
        assert (folder / (at(1).text() + ".damaged")).exists()


def test_an_exported_net_goes_with_its_checkpoint(folder: Path) -> None:
    with opened(Directory(folder, keep=last(1))) as store:
        for step in (1, 2, 3):
            save(store, at(step)).with_suffix(".pt2").touch()
            store.retain()
        assert sorted(os.listdir(folder)) == sorted([".lock", at(3).text(), Path(at(3).text()).stem + ".pt2"])


def test_the_newest_is_read_back_before_anything_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noted(call: str) -> None:
        inner = getattr(disk, call)

        def do(path: object) -> object:
            calls.append(f"{call} {os.path.basename(str(path))}")
            return inner(path)

        monkeypatch.setattr(disk, call, do)

    with opened(Directory(folder, keep=last(1))) as store:
        save(store, at(1))
        save(store, at(2))
        for call in ("open_to_read", "remove", "sync_folder"):
            noted(call)
        store.retain()
    old, new = at(1).text(), at(2).text()
    found = [call for call in calls if not call.endswith(".pt2")]
    assert found[-3:] == [f"open_to_read {new}", f"remove {old}", "sync_folder digits"]


def test_nothing_is_removed_where_the_newest_is_damaged(folder: Path) -> None:
    with opened(Directory(folder, keep=last(1))) as store:
        save(store, at(1))
        save(store, at(2))
        damage(save(store, at(3)))
        with pytest.raises(CheckpointError, match=r"expected .*; found ") as caught:
            store.retain()
        assert caught.value.damaged
        assert steps_in(store) == [1, 2]
        assert (folder / (at(3).text() + ".damaged")).exists()
        assert store.retain() == []
        save(store, at(4))
        assert store.retain() == [folder / at(1).text(), folder / at(2).text()]


class Nothing(Keep):
    """A rule that keeps nothing, not even the newest."""

    def chosen(self, entries: Sequence[Entry]) -> set[int]:
        return set()

    def check(self, known: Mapping[str, str | None]) -> Keep:
        return self

    def kept(self, entries: Iterable[Entry]) -> set[int]:
        return set()


def test_the_newest_stays_whatever_the_rule(folder: Path) -> None:
    with opened(Directory(folder), Nothing()) as store:
        run_of(store, range(1, 4))
        assert steps_in(store) == [3]


def test_a_file_written_anew_is_the_newest(folder: Path) -> None:
    """One that was known of, had been taken away, and came again."""
    with opened(Directory(folder, keep=last(1))) as store:
        store.adopt([Entry(at(2).text(), 2, 2, 1)])
        save(store, at(1))
        save(store, at(2))
        assert store.retain() == [folder / at(1).text()]


def test_nothing_is_removed_where_the_newest_cannot_be_read_just_now(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(Directory(folder, keep=last(1))) as store:
        run_of(store, range(1, 3))
        save(store, at(3))
        with monkeypatch.context() as patch:
            patch.setattr(disk, "read_at", refusing(errno.EIO))
            with pytest.raises(CheckpointError, match="Input/output error") as caught:
                store.retain()
        assert not caught.value.damaged
        assert steps_in(store) == [2, 3]
        assert store.retain() == [folder / at(2).text()]


def test_nothing_is_removed_where_the_newest_was_taken_away(folder: Path) -> None:
    with opened(Directory(folder, keep=last(1))) as store:
        save(store, at(1))
        save(store, at(2))
        newest = save(store, at(3))
        newest.unlink()
        with pytest.raises(CheckpointError, match="found no file"):
            store.retain()
        assert steps_in(store) == [1, 2]


def test_nothing_is_removed_without_the_lock(folder: Path) -> None:
    with opened(Directory(folder, keep=last(1))) as store:
        save(store, at(1))
        save(store, at(2))
    with pytest.raises(CheckpointError, match="the lock of this run"):
        store.retain()
    assert steps_in(store) == [1, 2]


def test_a_file_that_cannot_be_removed_is_told_and_the_others_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = at(2).text()
    remove = disk.remove

    def some(path: str | os.PathLike[str]) -> None:
        if os.path.basename(path) == stubborn:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), os.fspath(path))
        remove(path)

    with opened(Directory(folder, keep=last(1))) as store:
        for step in (1, 2, 3, 4):
            save(store, at(step))
        monkeypatch.setattr(disk, "remove", some)
        with pytest.raises(CheckpointError) as caught:
            store.retain()
        said = "expected to remove it, as newer ones are kept; found Operation not permitted."
        assert str(caught.value) == f"{folder / stubborn}: {said}"
        assert steps_in(store) == [2, 4]
        monkeypatch.undo()
        assert store.retain() == [folder / stubborn]


def test_files_removed_by_hand_are_not_missed(folder: Path) -> None:
    with opened(Directory(folder, keep=last(2))) as store:
        first = save(store, at(1))
        second = save(store, at(2))
        second.unlink()
        save(store, at(3))
        assert store.retain() == []
        assert store.paths() == [folder / at(3).text(), first]


def test_retention_goes_on_after_a_resume(folder: Path) -> None:
    with opened(Directory(folder, keep=last(3))) as store:
        run_of(store, range(1, 5))
    with opened(Directory(folder, keep=last(3))) as store:
        assert run_of(store, range(5, 7)) == [folder / at(2).text(), folder / at(3).text()]
        assert steps_in(store) == [4, 5, 6]


def test_scores_of_earlier_files_are_those_of_their_records(folder: Path) -> None:
    def write(store: Store, step: int, score: float) -> None:
        path = store.target(at(step))
        files.write(path, {"scores": {"val.loss": score, "val.text": "0.1"}}, {})
        store.committed(path, Entry(str(path), step, step, 1, {"val.loss": score}))
        store.retain()

    rule = best("val.loss")
    with opened(Directory(folder, keep=rule)) as store:
        write(store, 1, 0.25)
        write(store, 2, 0.75)
    with opened(Directory(folder, keep=rule)) as store:
        write(store, 3, 0.5)
        assert steps_in(store) == [1, 3]


def test_scores_of_earlier_files_without_any_are_those_of_their_names(folder: Path) -> None:
    rule = best("val.loss") | best("loss")
    with opened(Directory(folder)) as store:
        for step, loss, val in ((1, 0.1, 0.9), (2, 0.9, 0.1), (3, 0.5, 0.5)):
            save(store, replace(NAME, step=step, loss=loss, val=val))
    with opened(Directory(folder, keep=rule)) as store:
        save(store, at(4), loss=0.8)
        store.retain()
        assert steps_in(store) == [1, 2, 4]


def test_numbers_go_on_after_a_resume(folder: Path) -> None:
    """Thinning goes by the numbers of saves: after any resume it leaves what it would have left without."""

    def write(store: Store, number: int) -> None:
        path = store.target(at(number))
        saves = [
            {"kind": "File", "number": 99, "step": number},
            {"kind": "Directory", "number": number, "step": number},
        ]
        files.write(path, {"saves": saves}, {})
        store.committed(path, Entry(str(path), number, number, 1))
        store.retain()

    for first in range(1, 41, 3):
        with opened(Directory(folder, keep=thinning(4))) as store:
            for number in range(first, min(first + 3, 41)):
                write(store, number)
    assert steps_in(store) == [16, 24, 28, 32, 34, 36, 37, 38, 39, 40]


def test_what_is_known_of_earlier_files_may_be_told(folder: Path) -> None:
    rule = best("val.loss")
    with opened(Directory(folder)) as store:
        paths = [save(store, at(step)) for step in (1, 2, 3)]
    told = [
        Entry(f"/elsewhere/{path.name}", number, number, 1, {"val.loss": -number}) for number, path in enumerate(paths)
    ]
    with opened(Directory(folder, keep=rule)) as store:
        store.adopt(told)
        save(store, at(4), **{"val.loss": 5.0})
        store.retain()
        assert steps_in(store) == [3, 4]


def test_an_earlier_file_that_is_damaged_is_neither_counted_nor_removed(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        run_of(store, range(1, 4))
        paths = store.paths()
    paths[0].write_bytes(b"x" * 100)
    with opened(Directory(folder, keep=last(2))) as store:
        save(store, at(4))
        assert store.retain() == [folder / at(1).text()]
        assert steps_in(store) == [2, 3, 4]


def test_a_record_that_means_no_good_changes_nothing(folder: Path) -> None:
    records = [
        {"saves": 3},
        {"saves": [{"kind": "Directory", "number": "9", "step": 1}]},
        {"scores": [1]},
        {"saves": {"": 1}},
    ]
    with opened(Directory(folder)) as store:
        for step, record in enumerate(records, 1):
            files.write(folder / at(step).text(), record, {})
    with opened(Directory(folder, keep=last(2))) as store:
        save(store, at(9))
        store.retain()
        assert steps_in(store) == [4, 9]


# ---------------------------------------------------------------------------------------------------------- fallback


def test_the_newest_good_one_is_read(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        assert store.newest_good() == (None, [])
        run_of(store, range(1, 4))
        saved, refused = store.newest_good()
    assert saved is not None
    assert saved.record == {"step": 3}
    assert saved.path == str(folder / at(3).text())
    assert torch.equal(saved.tensors["0.weight"], torch.tensor([3.0]))
    assert refused == []


def test_damaged_ones_are_passed_over_and_set_aside_file_by_file(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        run_of(store, range(1, 5))
    newest, second, third, _ = store.paths()
    damage(newest)
    second.write_bytes(second.read_bytes()[:-3])
    third.write_bytes(b"")
    with opened(Directory(folder)) as store:
        saved, refused = store.newest_good()
        assert saved is not None
        assert saved.record == {"step": 1}
        assert [error.path for error in refused] == [str(newest), str(second), str(third)]
        assert all(error.damaged and error.expected and error.found for error in refused)
        assert steps_in(store) == [1]
        assert store.newest_good()[1] == []
    aside = [path.name + ".damaged" for path in (newest, second, third)]
    assert sorted(os.listdir(folder)) == sorted([*aside, at(1).text()])


def test_readers_set_nothing_aside(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        run_of(store, range(1, 3))
        damage(store.paths()[0])
        saved, refused = Store(Directory(folder)).newest_good()
        assert saved is not None
        assert saved.record == {"step": 1}
        assert len(refused) == 1
        assert steps_in(store) == [1, 2]


def test_one_that_cannot_be_read_just_now_is_passed_over_and_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_read = disk.open_to_read

    def some(path: str | os.PathLike[str]) -> int:
        if os.path.basename(path) == at(2).text():
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return open_to_read(path)

    with opened(Directory(folder)) as store:
        run_of(store, range(1, 3))
        monkeypatch.setattr(disk, "open_to_read", some)
        saved, (error,) = store.newest_good()
        assert saved is not None
        assert saved.record == {"step": 1}
        assert not error.damaged
        assert steps_in(store) == [1, 2]


def test_where_none_is_good_there_is_none(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        run_of(store, range(1, 4))
        for path in store.paths():
            damage(path)
        saved, refused = store.newest_good()
        assert saved is None
        assert len(refused) == 3


def test_links_pipes_and_folders_with_names_of_checkpoints_are_passed_over(folder: Path, tmp_path: Path) -> None:
    with opened(Directory(folder)) as store:
        save(store, at(1))
        files.write(tmp_path / "outside.safetensors", {}, {})
        (folder / at(2).text()).symlink_to(tmp_path / "outside.safetensors")
        os.mkfifo(folder / at(3).text())
        (folder / at(4).text()).mkdir()
        (folder / at(5).text()).symlink_to("/dev/zero")
        saved, refused = store.newest_good()
    assert saved is not None
    assert saved.record == {"step": 1}
    assert len(refused) == 4


def test_runs_may_be_told_apart_by_their_start(folder: Path) -> None:
    with opened(Directory(folder)) as store:
        save(store, at(1))
        save(store, replace(NAME, start="2027-01-01T00-00-00", step=7))
        assert store.newest_good(NAME.start)[0].record == {"step": 1}
        assert store.newest_good()[0].record == {"step": 7}
        assert store.newest_good("2028-01-01T00-00-00") == (None, [])


def test_a_damaged_file_that_is_alone_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with opened(File(path)) as store:
        save(store, at(1))
        assert store.newest_good()[0].record == {"step": 1}
        damage(path)
        saved, (error,) = store.newest_good()
        assert saved is None
        assert error.path == str(path)
        assert sorted(os.listdir(tmp_path)) == [".run.safetensors.lock", "run.safetensors.damaged"]
        save(store, at(2))
        assert store.newest_good()[0].record == {"step": 2}


RULES = st.sampled_from([last(1), last(2), best("val.loss"), best("val.loss", 2) | last(1), thinning(1), thinning(2)])
KINDS = st.sampled_from(["good", "good", "good", "damaged", "unread", "restart"])
EVENTS = st.lists(st.tuples(KINDS, st.sampled_from([0.1, 0.5, 0.9])), max_size=12)


@settings(max_examples=25, deadline=None)
@given(rule=RULES, events=EVENTS)
def test_the_newest_good_one_is_never_removed(rule: Keep, events: list[tuple[str, float]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        destination = Directory(name, keep=rule)
        store = Store(destination)
        store.open()
        good: list[int] = []
        for step, (event, score) in enumerate(events, 1):
            if event == "restart":
                store.close()
                store = Store(destination)
                store.open()
                continue
            path = save(store, at(step), **{"val.loss": score})
            happened(store, path, event)
            if event != "damaged":
                good.append(step)
            saved, _ = Store(destination).newest_good()
            assert (saved.record["step"] if saved else None) == (good[-1] if good else None)
        store.close()


def happened(store: Store, path: Path, event: str) -> None:
    """Retention after a save that went well, was damaged, or cannot be read just now."""
    if event == "damaged":
        damage(path)
    with pytest.MonkeyPatch.context() as patch:
        if event == "unread":
            patch.setattr(disk, "read_at", refusing(errno.EIO))
        with contextlib.suppress(CheckpointError):
            store.retain()
