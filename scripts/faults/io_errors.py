"""An error of the system at every single call of a save, and of a load.

Everywhere: the library gets another `os`, in which the n-th call on files fails, for every n. Where strace can be
used, the system itself fails the n-th call of each kind, for every kind and n, in processes forked for that.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from findings import Finding
from seams import in_place_of_os, instead
from subjects import alike, save, scratch, state

ASKED = (
    "Whichever call fails, and how: the checkpoint before still loads, one declared error says so, the next save "
    "works, and no stray file is left. A file that could not be read is not called damaged; interrupted calls and "
    "short writes do no harm."
)
SHORT, FULL = 2, 9
"""How many errors are tried at each call."""

ERRORS = ("ENOSPC", "EIO", "EINTR", "EACCES", "EDQUOT", "EROFS", "EMFILE", "ENOMEM", "ESTALE")
"""What a call may fail with."""

NUMBERS = 3000

Job = Callable[["Folder"], None]


def look(count: int, seed: int) -> Iterator[Finding]:
    """Fail every call of a save, a load and an opening with `count` errors, through the shim and through strace."""
    errors = ERRORS[:count]
    for what, job in JOBS.items():
        yield _shimmed(what, job, errors)
    for what, job in JOBS.items():
        yield _injected(what, job, errors)


def planted(seed: int) -> Iterator[Finding]:
    """A library that does not expect errors."""
    for fault, plant in _faults().items():
        with plant():
            wrong = [line for what, job in JOBS.items() for line in _shimmed(what, job, ERRORS[:4]).wrong]
        if wrong:
            yield Finding(fault, len(JOBS), (), {"seen": len(wrong), "first": wrong[0][:80]})
        else:
            yield Finding(fault, len(JOBS), (f"{fault}: not noticed",))


# ---------------------------------------------------------------------------------------------------- the subject


class Folder:
    """A folder with two good checkpoints, and what reads and writes there.

    Attributes:
        path: it. store, image: open. step: of the newest checkpoint. wrong: what was found to be wrong.
    """

    def __init__(self, path: Path) -> None:
        from etude.keep.destination import Directory
        from etude.keep.files import Image
        from etude.keep.retain import last
        from etude.keep.store import Store

        self.path = path
        self.store, self.image = Store(Directory(path, keep=last(2))), Image()
        self.wrong: list[str] = []
        self.store.open()
        self.step = 2
        for step in (1, 2):
            save(self.store, self.image, step, NUMBERS)

    def close(self) -> None:
        """Free the folder."""
        self.store.close()

    def whole(self, steps: tuple[int, ...]) -> str:
        """What is wrong with the newest good checkpoint, which has to be that of one of `steps`."""
        from etude.keep.destination import Directory
        from etude.keep.store import Store

        saved, refused = Store(Directory(self.path)).newest_good()
        if saved is None or saved.record["step"] not in steps or refused:
            return f"step {steps} is not found; refused are {[str(error) for error in refused]}"
        self.step = saved.record["step"]
        return "" if alike(saved.tensors, state(self.step, NUMBERS)) else f"wrong bits in step {self.step}"


def saving(folder: Folder) -> None:
    """One save; it may fail with the error that is declared for it."""
    from etude.errors import CheckpointError

    with suppress(CheckpointError):
        save(folder.store, folder.image, folder.step + 1, NUMBERS)


def loading(folder: Folder) -> None:
    """The newest good checkpoint is asked for; every file may fail to be read, and none of them is damaged."""
    from etude.errors import CheckpointError

    try:
        saved, refused = folder.store.newest_good()
    except CheckpointError as error:
        saved, refused = None, [error]
    if saved is not None and not alike(saved.tensors, state(saved.record["step"], NUMBERS)):
        folder.wrong.append("wrong bits were read")
    folder.wrong += [f"it is called damaged: {error}" for error in refused if error.damaged]


def opening(folder: Folder) -> None:
    """The folder is freed and taken again."""
    from etude.errors import SettingError, StateError

    folder.store.close()
    with suppress(SettingError, StateError):
        folder.store.open()


JOBS: dict[str, Job] = {"save": saving, "load": loading, "open": opening}


def _after(folder: Folder, before: int) -> list[str]:
    """What is wrong after a job in which a call failed."""
    wrong = list(folder.wrong)
    folder.wrong.clear()
    said = folder.whole((before, before + 1))
    wrong += [said] if said else []
    wrong += [f"{path.name} was set aside" for path in folder.path.glob("*.damaged*")]
    try:
        folder.store.close()
        folder.store.open()
        step = folder.step + 1
        save(folder.store, folder.image, step, NUMBERS)
        said = folder.whole((step,))
        wrong += [f"then: {said}"] if said else []
    except Exception as error:
        wrong.append(f"then: {type(error).__name__}: {error}")
    return wrong + [f"left behind: {path.name}" for path in folder.path.glob("*.part")]


# -------------------------------------------------------------------------------------------------------- the shim


class Failing:
    """Decides about calls, see `seams`: one of them fails.

    Args:
        at: which, from 0. error: how: the name of an error, or "short": half of what was asked is done.

    Attributes:
        calls: the names of those that were made. hit: whether one failed.
    """

    def __init__(self, at: int, error: str) -> None:
        self.calls: list[str] = []
        self.hit = ""
        self._at, self._error = at, error

    def __call__(self, call: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        number = len(self.calls)
        self.calls.append(call)
        if number != self._at:
            return real(*arguments)
        if self._error == "short":
            return self._half(call, real, arguments)
        if self._error == "EINTR":
            # Python itself repeats what was interrupted; what a program sees is at most a shorter result.
            return self._half(call, real, arguments)
        self.hit = call
        if call == "close":
            # A file that cannot be closed is closed nevertheless.
            real(*arguments)
        number = getattr(errno, self._error)
        raise OSError(number, os.strerror(number), *[each for each in arguments[:1] if isinstance(each, str)])

    def _half(self, call: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if call == "pwrite" and len(arguments[1]) > 1:
            self.hit = call
            return real(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
        if call == "preadv" and len(arguments[1][0]) > 1:
            self.hit = call
            return real(arguments[0], [arguments[1][0][: len(arguments[1][0]) // 2]], arguments[2])
        return real(*arguments)


def _shimmed(what: str, job: Job, errors: tuple[str, ...]) -> Finding:
    from etude.keep import disk, lock

    wrong, hits = list[str](), Counter[str]()
    with scratch(in_memory=True) as place:
        folder = Folder(place / "run")
        for error in (*errors, "short"):
            number, reached = 0, True
            while reached:
                failing, before = Failing(number, error), folder.step
                try:
                    with in_place_of_os(failing, disk, lock):
                        job(folder)
                except Exception as other:
                    wrong.append(f"{error} in call {number}: {type(other).__name__}: {other}")
                reached = len(failing.calls) > number
                if failing.hit:
                    hits[failing.hit] += 1
                    where = f"{error} in call {number} ({failing.hit})"
                    wrong += [f"{where}: {line}" for line in _after(folder, before)]
                number += 1
        folder.close()
    return Finding(f"{what}: every call fails (shim)", sum(hits.values()), tuple(wrong), dict(hits))


# ---------------------------------------------------------------------------------------------------------- strace

SYSTEM_CALLS = (
    *(
        "openat",
        "pwrite64",
        "preadv2",
        "preadv",
        "pread64",
        "fsync",
        "fdatasync",
        "rename",
        "unlink",
        "close",
        "mkdir",
        "flock",
    ),
    *("newfstatat", "fstat", "lstat", "statfs", "fstatfs", "ftruncate", "getdents64"),
)
"""What is made to fail."""

_PATIENCE = 20.0


def _injected(what: str, job: Job, errors: tuple[str, ...]) -> Finding:
    """Every system call of each kind fails once, in a process of its own that strace is attached to."""
    title = f"{what}: every call fails (strace)"
    reason = _no_strace()
    if reason:
        return Finding(title, 0, skipped=reason)
    wrong, hits = list[str](), Counter[str]()
    with scratch() as place:
        folder = Folder(place / "run")
        for _ in range(2):
            # What is imported late is imported now.
            job(folder)
            _after(folder, folder.step)
        for call in SYSTEM_CALLS:
            for error in errors:
                number = 1
                while number:
                    before = folder.step
                    folder.store.close()
                    hit, said = _child(folder, job, f"inject={call}:error={error}:when={number}", place / "log")
                    if hit or said:
                        hits[call] += hit
                        wrong += [f"{error} in {call} {number}: {line}" for line in [*said, *_after(folder, before)]]
                    else:
                        _after(folder, before)
                    number = number + 1 if hit else 0
        folder.close()
    return Finding(title, sum(hits.values()), tuple(wrong), dict(hits))


def _no_strace() -> str:
    """Why strace cannot be used; an empty text if it can."""
    if shutil.which("strace") is None:
        return "there is no strace"
    ended = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return "" if ended.returncode == 0 else f"strace cannot be used here: {ended.stderr.strip()[-120:]}"


def _child(folder: Folder, job: Job, inject: str, log: Path) -> tuple[bool, list[str]]:
    """A job in a process of its own, with one fault; whether the fault came up, and what the process found wrong.

    The two talk through memory they share: a call on a pipe might be the one that fails.
    """
    shared = mmap.mmap(-1, 8192)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            folder.store.open()
            shared[2] = 1
            while not shared[0]:
                pass
            try:
                job(folder)
            finally:
                shared[1] = 1
                while shared[0] != 2:
                    pass
            told = "\n".join(folder.wrong)
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        finally:
            with suppress(NameError):
                data = told.encode()[:8000]
                shared[8 : 8 + len(data)] = data
            code = 0
            os._exit(code)
    while not shared[2]:
        time.sleep(0.0005)
    tracing = _attached(pid, inject, log)
    shared[0] = 1
    until = time.monotonic() + _PATIENCE
    while not shared[1] and time.monotonic() < until and not os.waitpid(pid, os.WNOHANG)[0]:
        time.sleep(0.001)
    late = not shared[1]
    tracing.send_signal(signal.SIGINT)
    tracing.wait()
    shared[0] = 2
    if late:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
    told = bytes(shared[8:]).rstrip(b"\0").decode()
    hit = "(INJECTED)" in log.read_text()
    return hit, [line for line in ["it did not end"] * late + told.split("\n") if line]


def _attached(pid: int, inject: str, log: Path) -> subprocess.Popen[bytes]:
    """strace on a process, once it is at work."""
    call = re.match(r"inject=(\w+)", inject)
    assert call is not None
    command = ["strace", "-f", "-o", str(log), "-e", f"trace={call[1]}", "-e", inject, "-p", str(pid)]
    tracing = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        told = Path(f"/proc/{pid}/status").read_text()
        if re.search(r"TracerPid:\s+[1-9]", told):
            break
        time.sleep(0.001)
    return tracing


# ------------------------------------------------------------------------------------------------- faults to plant


def _faults() -> dict[str, Callable[[], Any]]:
    from etude.keep import disk, folder, image
    from planted import in_place

    return {
        "errors of the system come through": lambda: instead(image, "_refused", lambda path, error, size: error),
        "short writes are taken for whole ones": lambda: instead(disk, "write_at", _once),
        "short reads are taken for whole ones": lambda: instead(disk, "read_at", _read_once),
        "what was begun is left behind": lambda: instead(disk, "remove", lambda path: None),
        "written in place": in_place,
        "what cannot be read is called damaged": _all_damaged,
        "stray files are not swept": lambda: instead(folder, "sweep", lambda path: None),
    }


def _once(fd: int, view: Any, offset: int) -> None:
    from etude.keep import disk

    disk.os.pwrite(fd, view, offset)


def _read_once(fd: int, view: Any, offset: int) -> int:
    from etude.keep import disk

    return int(disk.os.preadv(fd, [view], offset))


@contextmanager
def _all_damaged() -> Iterator[None]:
    """Every error says that the file is not what was written."""
    from etude.errors import CheckpointError

    make = CheckpointError.__init__

    def damaged(self: Any, file: str, expected: str, found: str, damaged: bool = True) -> None:
        make(self, file, expected, found, True)

    with instead(CheckpointError, "__init__", damaged):
        yield
