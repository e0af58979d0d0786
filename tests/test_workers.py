"""Worker processes under signals, and their end; where the parent has to end too, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from etude import DataError
from etude.data import workers
from etude.data.flow import Flow


class Numbers(Dataset[torch.Tensor]):
    """Items that are their own number, each read slowly enough for a signal to come in between."""

    def __init__(self, length: int = 64, seconds: float = 0.0) -> None:
        self.length, self.seconds = length, seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> torch.Tensor:
        if number >= self.length:
            raise IndexError(number)
        time.sleep(self.seconds)
        return torch.full((100,), float(number))


def flow(data: Dataset[torch.Tensor], count: int = 2) -> Flow:
    return Flow(data, batch_size=4, workers=count, shuffle=False, prefetch=1)


def alive(process: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(met: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not met() and time.monotonic() < end:
        time.sleep(0.02)
    return met()


def test_workers_read_on_after_signals_to_the_whole_job() -> None:
    batches = flow(Numbers(seconds=0.001)).batches(epochs=1)
    first = next(batches).values
    for worker in multiprocessing.active_children():
        for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGINT", "SIGUSR1"):
            os.kill(worker.pid or 0, signal.Signals[name])
    read = torch.cat([first, *(batch.values for batch in batches)])
    assert torch.equal(read[:, 0], torch.arange(64.0))


def test_a_second_sigterm_ends_a_worker() -> None:
    batches = flow(Numbers(4000, 0.005), count=1).batches(epochs=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    for _ in range(3):  # what comes together is one
        os.kill(worker.pid or 0, signal.SIGTERM)
        next(batches)
    time.sleep(1.2 * workers.TOGETHER)
    next(batches)
    os.kill(worker.pid or 0, signal.SIGTERM)
    with pytest.raises(DataError, match="A worker reading the data set Numbers ended"):
        list(batches)
    assert not worker.is_alive()


def test_a_worker_ends_some_time_after_the_first_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "GRACE", 0.2)
    batches = flow(Numbers(400, 0.01), count=1).batches(epochs=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGTERM)
    with pytest.raises(DataError, match="ended"):
        list(batches)
    assert not worker.is_alive()


def test_a_loader_is_read_the_same_way_and_stays_as_it_was() -> None:
    begun = multiprocessing.get_context("fork").Value("i", 0)

    def begin(number: int) -> None:
        begun.value += 1

    loader = DataLoader(Numbers(), batch_size=4, num_workers=2, worker_init_fn=begin)
    batches = Flow(loader).batches(epochs=1)
    first = next(batches).values
    assert loader.worker_init_fn is begin
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGTERM)
    read = torch.cat([first, *(batch.values for batch in batches)])
    assert torch.equal(read[:, 0], torch.arange(64.0))
    assert begun.value == 2


def test_signals_are_held_back_only_while_workers_start() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    batches = flow(Numbers()).batches(epochs=1)
    next(batches)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    batches.close()


# ------------------------------------------------------------------------------------------- processes of their own

BEGIN = """
import multiprocessing, os, signal, sys, threading, time
from test_workers import Numbers, flow
from etude.data import workers
"""


def process(code: str, temporary: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
    )


def shared_memory(processes: list[int]) -> list[str]:
    """Names in shared memory that were made by any of these processes."""
    return [name for name in os.listdir("/dev/shm") for one in processes if str(one) in name.split("_")]


def test_a_killed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither processes nor shared memory nor the folders of the sockets, with workers idle, full or reading."""
    code = """
for seconds, more in ((0.0, 0), (0.0, 3_000), (0.03, 0)):
    if os.fork() == 0:
        batches = flow(Numbers(100_000, seconds)).batches(epochs=1)
        for _ in range(9): next(batches)
        print(os.getpid(), *(one.pid for one in multiprocessing.active_children()), flush=True)
        for number in range(more): next(batches)
        time.sleep(600)
time.sleep(600)
"""
    with process(code, tmp_path) as server:
        assert server.stdout is not None
        for _ in range(3):
            run, *readers = map(int, server.stdout.readline().split())
            os.kill(run, signal.SIGKILL)
            assert len(readers) == 2
            assert wait_until(lambda readers=readers: not any(map(alive, readers)))
            assert shared_memory(readers) == []
        server.kill()
    assert list(tmp_path.iterdir()) == []


def test_the_interpreter_ends_while_a_reader_is_held(tmp_path: Path) -> None:
    """If workers were only sent a SIGTERM at exit, they would take their time."""
    code = """
workers.GRACE = 3600.0
batches = flow(Numbers(100_000)).batches(epochs=1)
next(batches)
print("reading", flush=True)
raise SystemExit(7)
"""
    with process(code, tmp_path) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "reading\n"
        assert run.wait(60) == 7


def test_a_long_path_to_temporary_files_is_no_hindrance(tmp_path: Path) -> None:
    """Paths of sockets are short; a loader whose workers cannot make theirs would wait for ever."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    code = """
print(len(list(flow(Numbers(32)).batches(epochs=1))), flush=True)
"""
    with process(code, folder) as run:
        try:
            assert run.communicate(timeout=60)[0] == "8\n"
        finally:
            run.kill()


def test_a_signal_to_the_whole_group_while_workers_start_is_outlived(tmp_path: Path) -> None:
    code = """
count = 0
def note(number, frame):
    global count
    count += 1
for name in ("SIGTERM", "SIGINT", "SIGUSR1"): signal.signal(signal.Signals[name], note)
for number in range(24):
    name = ("SIGTERM", "SIGINT", "SIGUSR1")[number % 3]
    timer = threading.Timer(0.001 * number, os.killpg, (0, signal.Signals[name]))
    timer.start()
    assert len(list(flow(Numbers(32, 0.002)).batches(epochs=1))) == 8
    timer.join()
print(count)
"""
    with process(code, tmp_path) as run:
        assert run.communicate(timeout=100)[0] == "24\n"
    assert run.returncode == 0


def test_a_worker_that_dies_disturbs_nobody_but_who_reads_next() -> None:
    batches = flow(Numbers(), count=1).batches(epochs=1)
    next(batches)
    (worker,) = [process for process in multiprocessing.active_children() if process.pid is not None]
    os.kill(worker.pid or 0, signal.SIGKILL)
    # Its death is known here, in the middle of other things.
    assert wait_until(lambda: not alive(worker.pid or 0))
    for _ in range(1000):
        time.sleep(0.0001)
    with pytest.raises(DataError, match=r"A worker reading the data set Numbers ended: .*Write workers=0"):
        list(batches)
    # Nor is it told once more, when all is over.
    os.kill(os.getpid(), signal.SIGCHLD)
