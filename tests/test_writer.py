"""The thread beside a run: one job at a time, nothing of what became of it lost, nothing inherited by a child."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from etude.errors import StateError
from etude.keep.writer import Done, Writer


def failing(error: BaseException) -> Callable[[], int]:
    def job() -> int:
        raise error

    return job


def results(done: list[Done[int]]) -> list[int | None]:
    return [one.result for one in done]


def test_a_job_is_done_in_another_thread() -> None:
    writer: Writer[threading.Thread] = Writer()
    assert writer.submit(threading.current_thread) == 0.0
    (done,) = writer.wait()
    assert done.result is not None
    assert done.result.name == "etude-writer"
    assert done.result.daemon
    assert done.error is None
    assert done.seconds >= 0


def test_no_thread_is_there_without_a_job() -> None:
    before = threading.active_count()
    writer: Writer[int] = Writer()
    assert writer.wait() == []
    writer.submit(lambda: 1)
    writer.wait()
    assert threading.active_count() == before


def test_the_next_job_waits_for_the_one_before() -> None:
    writer: Writer[int] = Writer()
    order: list[str] = []
    started, going_on = threading.Event(), threading.Event()

    def first() -> int:
        started.set()
        going_on.wait(10)
        order.append("first")
        return 1

    writer.submit(first)
    started.wait(10)
    assert writer.poll() == []
    threading.Timer(0.05, going_on.set).start()
    waited = writer.submit(lambda: order.append("second") or 2)
    assert waited > 0
    assert results(writer.wait()) == [1, 2]
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SystemExit(3), KeyboardInterrupt(), MemoryError()]
)
def test_an_error_of_any_class_is_kept_until_it_is_asked_for(error: BaseException) -> None:
    writer: Writer[int] = Writer()
    writer.submit(failing(error))
    writer.submit(lambda: 2)
    first, second = writer.wait()
    assert first.error is error
    assert first.result is None
    assert second.result == 2
    assert writer.poll() == []


def test_outcomes_come_in_the_order_of_the_jobs() -> None:
    writer: Writer[int] = Writer()
    for number in range(50):
        writer.submit(lambda number=number: number)
    assert results(writer.wait()) == list(range(50))


def test_nothing_is_lost_by_closing() -> None:
    writer: Writer[int] = Writer()
    writer.submit(failing(OSError("disk")))
    writer.close()
    writer.close()
    (done,) = writer.poll()
    assert str(done.error) == "disk"


def test_a_closed_writer_takes_no_jobs() -> None:
    writer: Writer[int] = Writer()
    writer.close()
    with pytest.raises(StateError, match=r"^This writer is closed, and takes no more jobs\. Make a new one\.$"):
        writer.submit(lambda: 1)


def test_an_error_that_nobody_asked_for_is_told_when_the_writer_is_forgotten() -> None:
    writers: list[Writer[int]] = [Writer()]
    writers[0].submit(failing(OSError("disk")))
    with pytest.warns(UserWarning, match=r"nobody asked what became of it: OSError\('disk'\)"):
        writers.clear()


def test_a_job_is_done_here_where_there_is_no_thread_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    writer: Writer[str] = Writer()
    here = threading.current_thread().name
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        writer.submit(lambda: threading.current_thread().name)
    (done,) = writer.wait()
    assert done.result == here


def test_a_forked_child_has_neither_the_jobs_nor_the_outcomes_of_its_parent() -> None:
    writer: Writer[int] = Writer()
    started, going_on = threading.Event(), threading.Event()
    writer.submit(lambda: 1)
    writer.wait()
    writer.submit(failing(OSError("disk")))
    writer._desk.settle()
    writer.submit(lambda: started.set() or int(going_on.wait(10)))
    started.wait(10)
    child = os.fork()
    if child == 0:
        empty = writer.poll() == [] == writer.wait()
        writer.submit(lambda: 7)
        os._exit(0 if empty and results(writer.wait()) == [7] else 1)
    going_on.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [one.error is None for one in writer.wait()] == [False, True]


PROGRAM = """
import sys, time
from etude.keep.writer import Writer

def job():
    time.sleep(0.3)
    print("written")
    {then}

writer = Writer()
writer.submit(job)
{end}
"""


def ended(then: str, end: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(then=then, end=end)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_program_that_ends_lets_the_job_end_and_tells_its_error() -> None:
    found = ended('raise OSError("disk")', "sys.exit(5)")
    assert found.returncode == 5
    assert found.stdout == "written\n"
    assert "nobody asked what became of it: OSError('disk')" in found.stderr


def test_a_program_that_is_told_to_leave_at_once_does() -> None:
    found = ended("pass", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert found.returncode == -15
    assert found.stdout == ""
