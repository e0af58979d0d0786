"""Signals that ask a run to leave. What ends a process is looked at in processes of their own."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from etude.run import leaving as leaving_module
from etude.run.leaving import SIGNALS, TOGETHER, Leaving

NUMBERS = [signal.Signals[name] for name in SIGNALS]


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Whoever runs the tests may have them ignore SIGINT: here they begin with what Python sets, and end as before."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.mark.parametrize("name", SIGNALS)
def test_the_first_signal_is_noted(name: str) -> None:
    before = handlers()
    with Leaving(active=True) as leaving:
        assert (leaving.requested, leaving.note) == ("", "")
        signal.raise_signal(signal.Signals[name])
        assert leaving.requested == name
        assert leaving.note.startswith(f"{name}: leaving after this step, once the state is saved; a second signal")
    assert handlers() == before


def test_signals_that_come_together_are_one_request() -> None:
    """Launchers pass on what the process has got itself."""
    with Leaving(active=True) as leaving:
        for name in (*SIGNALS, *SIGNALS):
            signal.raise_signal(signal.Signals[name])
        assert leaving.requested == SIGNALS[0]


def test_a_signal_that_is_passed_on_after_the_run_has_left_does_nothing() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with Leaving(active=True) as leaving:
        signal.raise_signal(signal.SIGTERM)
        timer = threading.Timer(0.3 * TOGETHER, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        assert leaving.requested == "SIGTERM"
    timer.join()
    assert heard == []


def test_without_a_signal_all_is_as_before() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    before = handlers()
    with Leaving(active=True) as leaving:
        assert handlers() != before
    assert (handlers(), leaving.requested) == (before, "")
    signal.raise_signal(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1]


def test_an_error_leaves_no_handler_behind() -> None:
    before = handlers()
    with pytest.raises(KeyError), Leaving(active=True):
        raise KeyError
    assert handlers() == before


def test_nothing_is_installed_unless_asked() -> None:
    before = handlers()
    with Leaving(active=False) as leaving:
        assert handlers() == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert leaving.requested == ""


def in_a_thread(act: Callable[[], None]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def test_nothing_is_installed_outside_the_main_thread() -> None:
    before, found = handlers(), []

    def act() -> None:
        with Leaving(active=True):
            found.append(handlers())

    in_a_thread(act)
    assert found == [before]


def test_left_in_another_thread_the_signal_does_what_it_did_before() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    leaving = Leaving(active=True).__enter__()
    in_a_thread(lambda: leaving.__exit__(None, None, None))
    signal.raise_signal(signal.SIGTERM)
    assert (heard, leaving.requested) == ([signal.SIGTERM], "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Leaving(active=True) as leaving:
        signal.raise_signal(signal.SIGINT)
        assert leaving.requested == ""
        signal.raise_signal(signal.SIGTERM)
        assert leaving.requested == "SIGTERM"
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_handler_that_was_not_set_by_python_comes_back() -> None:
    with tempfile.TemporaryFile() as told:
        faulthandler.register(signal.SIGUSR1, told, all_threads=False)
        try:
            with Leaving(active=True) as leaving:
                signal.raise_signal(signal.SIGUSR1)
                assert leaving.requested == "SIGUSR1"
                assert told.tell() == os.fstat(told.fileno()).st_size == 0
            signal.raise_signal(signal.SIGUSR1)
            assert os.fstat(told.fileno()).st_size > 0
        finally:
            faulthandler.unregister(signal.SIGUSR1)


def test_a_run_within_a_run_tells_the_outer_one() -> None:
    before = handlers()
    with Leaving(active=True) as outer:
        with Leaving(active=True) as inner:
            signal.raise_signal(signal.SIGTERM)
        assert (inner.requested, outer.requested) == ("SIGTERM", "SIGTERM")
    assert handlers() == before


def test_a_signal_after_the_last_look_is_raised_anew() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with Leaving(active=True) as leaving:
        assert leaving.requested == ""
        signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_an_error_on_the_way_out_is_not_hidden_by_the_signal() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with pytest.raises(KeyError), Leaving(active=True):  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        raise KeyError
    assert heard == []


def test_at_a_prompt_a_second_ctrl_c_is_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(leaving_module, "TOGETHER", -1.0)
    with pytest.raises(KeyboardInterrupt), Leaving(active=True) as leaving:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        assert leaving.note == (
            "SIGINT: leaving after this step, once the state is saved; a second Ctrl-C stops at once, without saving"
        )
        signal.raise_signal(signal.SIGINT)


def test_who_was_told_of_signals_before_still_is() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        with Leaving(active=True) as leaving:
            signal.raise_signal(signal.SIGUSR1)
            assert os.read(reading, 1) == bytes([signal.SIGUSR1])
            assert leaving.requested == "SIGUSR1"
        assert signal.set_wakeup_fd(writing) == writing
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


def test_a_forked_process_is_not_asked_to_leave() -> None:
    """A pool of processes is ended by a SIGTERM, and waited for."""
    with Leaving(active=True) as leaving:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join(30)
        assert child.exitcode == -signal.SIGTERM
        assert leaving.requested == ""
        signal.raise_signal(signal.SIGTERM)
        assert leaving.requested == "SIGTERM"


def watching() -> int:
    return sum(thread.name == "etude: signals" for thread in threading.enumerate())


def nobody_watches() -> bool:
    """Whether no thread is left that watches for signals, some time after there was one."""
    end = time.monotonic() + 30
    while time.monotonic() < end and watching():
        time.sleep(0.01)
    return not watching()


def test_no_thread_and_no_file_is_left() -> None:
    assert nobody_watches()
    files = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with Leaving(active=True):
            assert watching() >= 1
    assert nobody_watches()
    assert set(os.listdir("/proc/self/fd")) <= files


# ------------------------------------------------------------------------------------------- processes of their own

PROCESS = """
import ctypes, os, signal, sys, time
from etude.run.leaving import Leaving
signal.signal(signal.SIGINT, signal.default_int_handler)
with Leaving(active=True) as leaving:
    os.write(1, b"ready")
    {}
    os.write(1, leaving.requested.encode())
    time.sleep(60)
"""


def process(waits: str) -> subprocess.Popen[bytes]:
    started = subprocess.Popen([sys.executable, "-c", PROCESS.format(waits)], stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.read(5) == b"ready"
    return started


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGUSR1"), ("SIGUSR1", "SIGINT")])
def test_a_second_signal_ends_the_process(first: str, second: str) -> None:
    with process("while not leaving.requested: time.sleep(0.01)") as started:
        started.send_signal(signal.Signals[first])
        assert started.stdout is not None
        assert started.stdout.read(len(first)) == first.encode()
        time.sleep(1.2 * TOGETHER)
        started.send_signal(signal.Signals[second])
        assert started.wait(30) == -signal.Signals[second]


def test_a_second_signal_ends_a_process_that_is_held_up_in_c() -> None:
    """While a function of C holds the main thread, no handler written in Python can run."""
    code = "mutex, libc = ctypes.create_string_buffer(128), ctypes.CDLL(None)\n    "
    with process(code + "for _ in range(2): libc.pthread_mutex_lock(mutex)") as started:
        for _ in range(2):
            started.send_signal(signal.SIGTERM)
            time.sleep(1.2 * TOGETHER)
        assert started.wait(30) == -signal.SIGTERM


def test_a_signal_at_any_instant_of_entering_and_leaving_is_not_lost() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    for number in range(60):
        timer = threading.Timer(1e-5 * number, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        while timer.is_alive():
            with Leaving(active=True):
                pass
        timer.join()
    assert heard == [signal.SIGUSR1] * 60
