"""The file system as checkpoints use it."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from etude.keep import disk


def written(path: Path, text: bytes = b"abc") -> Path:
    fd = disk.create(path)
    disk.write_at(fd, memoryview(text), 0)
    disk.sync(fd)
    disk.close(fd)
    return path


def test_a_new_file_holds_what_was_written(tmp_path: Path) -> None:
    fd = disk.create(tmp_path / "a")
    disk.write_at(fd, memoryview(b"there"), 6)
    disk.write_at(fd, memoryview(b"hello "), 0)
    disk.hurry(fd)
    disk.sync(fd)
    assert disk.size(fd) == 11
    disk.close(fd)
    assert (tmp_path / "a").read_bytes() == b"hello there"


@pytest.mark.parametrize("there", ["file", "link", "dead link", "folder"])
def test_nothing_that_is_there_is_opened_as_new(tmp_path: Path, there: str) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    if there == "folder":
        path.mkdir()
    elif there == "file":
        path.write_bytes(b"old")
    else:
        path.symlink_to(other)
        if there == "link":
            other.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        disk.create(path)
    assert not other.exists() or other.read_bytes() == b"old"


def test_writing_goes_on_where_the_system_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, lengths = os.pwrite, []

    def short(fd: int, view: memoryview, offset: int) -> int:
        lengths.append(len(view))
        return real(fd, view[:3], offset)

    monkeypatch.setattr(os, "pwrite", short)
    assert written(tmp_path / "a", b"0123456789").read_bytes() == b"0123456789"
    assert lengths == [10, 7, 4, 1]


def test_a_write_of_nothing_is_an_error_and_no_endless_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: 0)
    with pytest.raises(OSError, match="a write of no bytes"):
        written(tmp_path / "a")


def test_reading_goes_on_where_the_system_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    fd = disk.open_to_read(written(tmp_path / "a", b"0123456789"))
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: real(fd, [views[0][:3]], offset))
    found = bytearray(9)
    assert disk.read_at(fd, memoryview(found), 1) == 9
    assert found == b"123456789"
    disk.close(fd)


def test_reading_ends_with_the_file(tmp_path: Path) -> None:
    fd = disk.open_to_read(written(tmp_path / "a", b"0123"))
    found = bytearray(9)
    assert disk.read_at(fd, memoryview(found), 2) == 2
    assert disk.read_at(fd, memoryview(found), 4) == 0
    disk.close(fd)


def test_a_new_name_replaces_at_once_and_removing_removes(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a", b"new"), written(tmp_path / "b", b"old")
    disk.rename(a, b)
    disk.sync_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert b.read_bytes() == b"new"
    disk.remove(b)
    assert not b.exists()


def test_a_folder_is_made_with_all_above_it(tmp_path: Path) -> None:
    disk.make_folder(tmp_path / "a" / "b" / "c")
    disk.make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_each_folder_that_got_a_name_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(disk, "sync_folder", lambda path: synced.append(Path(path)))
    disk.make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]


def test_a_relative_folder_is_made_where_the_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    disk.make_folder("a/b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    written(tmp_path / "a")
    with pytest.raises(NotADirectoryError):
        disk.make_folder(tmp_path / "a")
    with pytest.raises(NotADirectoryError):
        disk.make_folder(tmp_path / "a" / "b")


def test_a_folder_without_a_sync_of_its_own_is_none_the_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    number = errno.EINVAL
    disk.sync_folder(tmp_path)
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        disk.sync_folder(tmp_path)


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    file, link, folder, pipe = (tmp_path / name for name in ("file", "link", "folder", "pipe"))
    written(file)
    link.symlink_to(file)
    folder.mkdir()
    os.mkfifo(pipe)
    for path, said in ((link, "a symbolic link"), (folder, "a folder"), (pipe, "a pipe"), ("/dev/null", "a device")):
        with pytest.raises(OSError, match=said):
            disk.open_to_read(path)
    with pytest.raises(FileNotFoundError):
        disk.open_to_read(tmp_path / "none")


def test_a_socket_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        with pytest.raises(OSError, match="a socket"):
            disk.open_to_read("socket")


def test_what_became_a_link_before_it_was_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a file and its opening, it may be exchanged."""
    file = written(tmp_path / "file")
    other = written(tmp_path / "other")
    real = os.lstat

    def exchanged(path: str | Path) -> os.stat_result:
        found = real(path)
        file.unlink()
        file.symlink_to(other)
        return found

    monkeypatch.setattr(os, "lstat", exchanged)
    with pytest.raises(OSError) as caught:
        disk.open_to_read(file)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files there")
def test_no_file_stays_open_when_a_pipe_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is seen only once it is open."""
    file = written(tmp_path / "file")
    found = os.lstat(file)
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(os, "lstat", lambda path: found)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="a pipe"):
        disk.open_to_read(file)
    assert len(os.listdir("/proc/self/fd")) == before


def test_programs_started_later_do_not_have_the_file(tmp_path: Path) -> None:
    write, read = disk.create(tmp_path / "a"), disk.open_to_read(written(tmp_path / "b"))
    program = "import os, sys\nfor fd in sys.argv[1:]:\n  try: os.fstat(int(fd))\n  except OSError: print('closed')"
    command = [sys.executable, "-c", program, str(write), str(read)]
    assert subprocess.run(command, capture_output=True, text=True, close_fds=False).stdout == "closed\nclosed\n"
    disk.close(write)
    disk.close(read)


def test_free_bytes_are_some_and_fewer_than_the_disk_has(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert 0 < disk.free_bytes(tmp_path) <= found.f_blocks * found.f_frsize
