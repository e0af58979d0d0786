"""Who a lock file names, and whether anybody else may be at work in a folder."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from etude.keep.holder import Holder, others_at_work, read, sign


def written(path: Path, pid: int, host: str | None = None) -> None:
    """A lock file that names a process; of this machine unless another is given."""
    named = {"pid": pid, "host": host or socket.gethostname(), "since": "2026-01-02T03:04:05Z", "token": "0" * 16}
    path.write_text(json.dumps(named))


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_what_is_signed_is_read(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("x" * 1000)
    fd = os.open(path, os.O_RDWR)
    holder = sign(fd)
    assert read(fd) == holder
    assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
    assert sign(fd).token != holder.token
    os.close(fd)


def test_it_reads_as_a_sentence() -> None:
    assert str(Holder(12, "node7", "2026-01-02T03:04:05Z", "")) == "process 12 on node7 since 2026-01-02T03:04:05Z"


def test_who_may_be_alive(gone: int) -> None:
    host = socket.gethostname()
    assert Holder(os.getpid(), host, "", "").may_be_alive()
    assert Holder(1, host, "", "").may_be_alive()
    assert not Holder(gone, host, "", "").may_be_alive()
    assert not Holder(2**70, host, "", "").may_be_alive()
    assert Holder(gone, "another", "", "").may_be_alive()


def test_others_at_work_are_processes_that_may_live(tmp_path: Path, gone: int) -> None:
    assert not others_at_work(tmp_path)
    written(tmp_path / ".lock", os.getpid())
    written(tmp_path / ".a.safetensors.lock", gone)
    (tmp_path / ".package.lock").write_text("not ours")
    (tmp_path / ".b.lock").mkdir()
    (tmp_path / ".c.lock").symlink_to(".lock")
    os.mkfifo(tmp_path / ".d.lock")
    written(tmp_path / "visible.lock", os.getppid())
    assert not others_at_work(tmp_path)
    written(tmp_path / ".e.safetensors.lock", os.getppid())
    assert others_at_work(tmp_path)
    written(tmp_path / ".e.safetensors.lock", gone)
    assert not others_at_work(tmp_path)
    written(tmp_path / ".e.safetensors.lock", gone, "another")
    assert others_at_work(tmp_path)
