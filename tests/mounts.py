"""Disks that are full or cannot be written to, for tests: mounted in a child process that alone can see them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

_NEW_MOUNTS = 0x00020000
_CANNOT = 77


def on_small_disk(place: Path, size: str, work: Callable[[], object]) -> None:
    """Do some work in a forked child, in which `place` is a disk of its own, of `size` ("1m").

    What fails in the child is printed there, and fails here. Where no disk may be mounted, the test is skipped.
    """
    place.mkdir(exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(_status(place, size, work))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == _CANNOT:
        pytest.skip("a disk cannot be mounted here")
    assert status == 0


def read_only(place: Path) -> None:
    """From now on nothing can be written to a disk of `on_small_disk`."""
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)


def _status(place: Path, size: str, work: Callable[[], object]) -> int:
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
            return _CANNOT
        for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]):
            if subprocess.run(["mount", *command], capture_output=True).returncode:
                return _CANNOT
    except OSError:
        return _CANNOT
    try:
        work()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
