"""One writer at a time: who is refused, what the refusal says, and that no end of a process leaves the lock behind."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etude.errors import CheckpointError, StateError
from etude.keep.holder import sign
from etude.keep.lock import Lock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


@contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A forked process that does some work, then waits to be killed; entered when the work is done."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            work()
            os.write(writing, b"done")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 4) == b"done"
        yield pid
    finally:
        os.close(reading)
        kill(pid)


def kill(pid: int) -> None:
    """Kill a child and wait for its end; nothing where that was done before."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def refused(path: Path) -> str:
    with pytest.raises(StateError) as caught:
        Lock(path).acquire()
    return str(caught.value)


def test_a_lock_is_held_until_it_is_released(path: Path) -> None:
    lock = Lock(path)
    assert not lock.held
    lock.acquire()
    assert lock.held
    lock.check()
    lock.release()
    assert not lock.held
    assert not path.exists()
    lock.release()


def test_another_process_is_refused_at_once_and_told_by_whom(path: Path) -> None:
    with child(Lock(path).acquire) as pid:
        began = time.perf_counter()
        message = refused(path)
        assert time.perf_counter() - began < 1
    since = json.loads(path.read_text())["since"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", since)
    assert message == (
        f"{path} is held by process {pid} on {socket.gethostname()} since {since}: another run writes there. Let it "
        "end, stop it, or write to another destination; the lock is free as soon as its process has ended."
    )


def test_a_second_holder_in_the_same_process_is_refused(path: Path) -> None:
    lock = Lock(path)
    lock.acquire()
    message = refused(path)
    assert f"is held by this process (process {os.getpid()} on " in message
    with pytest.raises(StateError):
        lock.acquire()
    lock.check()
    lock.release()


def test_the_same_folder_by_another_name_is_the_same_lock(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    lock = Lock(tmp_path / "real" / ".lock")
    lock.acquire()
    assert "this process" in refused(tmp_path / "link" / ".lock")
    lock.release()


def test_it_is_free_after_kill_9(path: Path) -> None:
    for _ in range(20):
        with child(Lock(path).acquire) as pid:
            kill(pid)
            assert path.exists()
            lock = Lock(path)
            lock.acquire()
            lock.check()
            lock.release()


def test_it_is_free_after_kill_9_though_children_of_the_holder_live_on(path: Path) -> None:
    reading, writing = os.pipe()
    held = Lock(path)

    def work() -> None:
        held.acquire()
        for _ in range(3):
            grandchild = os.fork()
            if grandchild == 0:
                time.sleep(60)
                os._exit(0)
            os.write(writing, grandchild.to_bytes(4, "little"))

    with child(work) as pid:
        grandchildren = [int.from_bytes(os.read(reading, 4), "little") for _ in range(3)]
        assert str(pid) in refused(path)
        kill(pid)
        for grandchild in grandchildren:
            os.kill(grandchild, 0)
        lock = Lock(path)
        lock.acquire()
        lock.release()
        for grandchild in grandchildren:
            os.kill(grandchild, signal.SIGKILL)
    os.close(reading)
    os.close(writing)


def test_a_child_that_has_not_run_yet_when_its_parent_is_killed_is_waited_for(path: Path) -> None:
    """Until a child made by `fork` has run for the first time it has the lock of its parent."""

    def work() -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        sign(fd)
        if os.fork() == 0:
            time.sleep(0.2)
            os._exit(0)

    with child(work) as pid:
        kill(pid)
        lock = Lock(path)
        lock.acquire()
        lock.release()


def test_a_child_that_keeps_the_lock_of_a_killed_parent_is_told_as_such(path: Path) -> None:
    """As one made without Python's `fork` may."""
    reading, writing = os.pipe()

    def work() -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        sign(fd)
        if (grandchild := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        os.write(writing, grandchild.to_bytes(4, "little"))

    with child(work) as pid:
        kill(pid)
        assert f"is held by a child of process {pid}, which was killed: another run" in refused(path)
    os.kill(int.from_bytes(os.read(reading, 4), "little"), signal.SIGKILL)
    os.close(reading)
    os.close(writing)


def test_a_child_neither_holds_the_lock_nor_frees_it(path: Path) -> None:
    lock = Lock(path)
    lock.acquire()

    def work() -> None:
        assert not lock.held
        with pytest.raises(CheckpointError, match="found that this process does not hold it"):
            lock.check()
        lock.release()
        with pytest.raises(StateError):
            Lock(path).acquire()

    with child(work):
        lock.check()
    assert path.exists()
    lock.release()


def test_a_lock_that_nobody_remembers_is_given_back(path: Path) -> None:
    lock = Lock(path)
    lock.acquire()
    del lock
    gc.collect()
    assert not path.exists()
    again = Lock(path)
    again.acquire()
    again.release()


def test_forgetting_an_old_lock_leaves_the_one_that_came_after(path: Path) -> None:
    old, new = Lock(path), Lock(path)
    old.acquire()
    old.release()
    new.acquire()
    del old
    gc.collect()
    new.check()
    new.release()


def test_a_file_left_by_a_holder_that_was_killed_names_nobody(path: Path) -> None:
    """The name in the file is that of the last holder, until the next has written its own."""
    with child(Lock(path).acquire) as killed:
        kill(killed)
    with child(Lock(path).acquire) as pid:
        assert f"process {pid} " in refused(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": -1, "host": "h", "since": "s", "token": "t"}', "[" * 5000])
def test_a_holder_without_a_name_is_told_as_such(path: Path, text: str) -> None:
    lock = Lock(path)

    def work() -> None:
        lock.acquire()
        path.write_text(text)

    with child(work):
        assert "is held by a process that has not written its name: another run" in refused(path)


def test_a_name_that_would_write_on_a_terminal_is_not_shown(path: Path) -> None:
    lock = Lock(path)

    def work() -> None:
        lock.acquire()
        path.write_text(json.dumps({"pid": 1, "host": "\x1b[2J", "since": "s", "token": "t"}))

    with child(work):
        assert "\x1b" not in refused(path)


def test_a_link_a_pipe_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(OSError):
            Lock(tmp_path / name).acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "none" / ".lock").acquire()


def test_a_lock_whose_file_was_removed_by_hand_is_taken_anew(path: Path) -> None:
    lock = Lock(path)
    lock.acquire()
    before = len(os.listdir("/dev/fd"))
    path.unlink()
    lock.check()
    assert path.exists()
    assert len(os.listdir("/dev/fd")) == before
    with child(lambda: refused(path)):
        lock.check()
    lock.release()
    assert not path.exists()


def test_a_lock_whose_file_was_removed_and_taken_by_another_is_lost(path: Path) -> None:
    lock = Lock(path)
    lock.acquire()
    path.unlink()
    with child(Lock(path).acquire) as pid:
        said = f"expected the lock of this run; found .* is held by process {pid} .* has ended\\.$"
        with pytest.raises(CheckpointError, match=said) as caught:
            lock.check()
        assert caught.value.path == str(path)
        assert not caught.value.damaged
        lock.release()
        assert path.exists()
    kill(pid)


def test_a_lock_whose_folder_was_removed_is_lost(path: Path) -> None:
    lock = Lock(path)
    lock.acquire()
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(CheckpointError, match=r"expected the lock of this run; found .*No such file"):
        lock.check()
    lock.release()


def test_a_lock_that_cannot_be_looked_at_is_not_taken_for_ours(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(path: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    lock = Lock(path)
    lock.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", stale)
        with pytest.raises(CheckpointError, match=r"found .*Stale file handle\.$"):
            lock.check()
    lock.check()
    lock.release()


def test_another_machine_that_could_take_the_lock_too_is_seen(path: Path) -> None:
    """As where each machine keeps its locks for itself: the other one writes its name into the same file."""
    lock = Lock(path)
    lock.acquire()
    named = {"pid": 12, "host": "other", "since": "2026-01-02T03:04:05Z", "token": "0" * 16}
    path.write_text(json.dumps(named))
    with pytest.raises(CheckpointError) as caught:
        lock.check()
    assert str(caught.value) == (
        f"{path}: expected the lock of this run; found that process 12 on other since 2026-01-02T03:04:05Z has taken "
        "it: another run writes there too."
    )
    lock.release()
    assert path.exists(), "the file belongs to the other one"


def without_locks(fd: int, how: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_file_system_without_locks_is_told_and_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without_locks)
    lock = Lock(path)
    with pytest.warns(
        UserWarning, match=r"This file system has no locks \(flock\).* Give each run a folder of its own"
    ):
        lock.acquire()
    lock.check()
    assert "this process" in refused(path)
    lock.release()


def test_without_locks_a_holder_that_lives_on_this_machine_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without_locks)
    with child(Lock(path).acquire) as pid:
        assert f"process {pid} " in refused(path)
        kill(pid)
        with pytest.warns(UserWarning, match="no locks"):
            Lock(path).acquire()


def test_without_locks_a_killed_holder_that_had_our_number_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where every start has the same process number."""
    path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": "", "token": ""}))
    monkeypatch.setattr(fcntl, "flock", without_locks)
    lock = Lock(path)
    with pytest.warns(UserWarning, match="no locks"):
        lock.acquire()
    lock.check()
    lock.release()


def test_another_refusal_of_the_system_is_not_taken_for_a_missing_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int, how: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"):
        Lock(path).acquire()
    monkeypatch.undo()
    Lock(path).acquire()


def test_threads_of_one_process_take_it_in_turn(path: Path) -> None:
    inside, most, taken = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, taken
        for _ in range(200):
            lock = Lock(path)
            try:
                lock.acquire()
            except StateError:
                continue
            with guard:
                inside += 1
                most, taken = max(most, inside), taken + 1
            lock.check()
            with guard:
                inside -= 1
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert taken > 0


def test_processes_that_take_and_release_it_again_and_again_are_never_two(path: Path, tmp_path: Path) -> None:
    """Each release removes the file, so that others may be about to lock one that is gone."""
    inside = tmp_path / "inside"
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            os._exit(_turns(path, inside))
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 4
    assert not path.exists()


def _turns(path: Path, inside: Path) -> int:
    taken = 0
    until = time.monotonic() + 20
    while taken < 100 and time.monotonic() < until:
        lock = Lock(path)
        try:
            lock.acquire()
        except StateError:
            continue
        try:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            lock.check()
            os.unlink(inside)
        except (OSError, CheckpointError):
            return 2
        lock.release()
        taken += 1
    return 0 if taken else 3


def test_readers_are_never_kept_waiting(path: Path) -> None:
    with child(Lock(path).acquire) as pid:
        assert json.loads(path.read_text())["pid"] == pid
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_UN)
            assert file.read()
