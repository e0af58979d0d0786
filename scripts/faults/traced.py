"""What a program asks of the system, as strace sees it, beside what was recorded inside of the program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from disk_states import Call
from findings import SOURCE, Finding


def traced(calls: Sequence[Call], kind: str, folder: Path, script: str) -> Finding:
    """The same commits under strace: the system must have been asked for exactly what was recorded.

    Args:
        calls: those recorded on `folder / kind`. script: makes the same commits, given `kind` and a folder.
    """
    what = f"recorded calls that strace saw too, {kind}"
    if shutil.which("strace") is None:
        return Finding(what, 0, skipped="there is no strace")
    place, log = folder / f"traced {kind}", folder / f"log {kind}"
    place.mkdir()
    names = "openat,open,creat,pwrite64,write,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"
    program = [sys.executable, script, kind, str(place)]
    trace = ["strace", "-f", "-y", "-e", f"trace={names}", "-e", "signal=none", "-s", "0", "-o", str(log)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    ended = subprocess.run([*trace, *program], capture_output=True, text=True, env=environment)
    if ended.returncode:
        return Finding(what, 0, skipped=f"strace cannot be used here: {ended.stderr.strip()[-120:]}")
    ours, theirs = _asked(calls, folder / kind), _seen(log, place)
    wrong = [f"recorded {one}, traced {other}" for one, other in zip(ours, theirs, strict=False) if one != other]
    if len(ours) != len(theirs):
        wrong.append(f"{len(ours)} calls were recorded, {len(theirs)} traced")
    return Finding(what, len(ours), tuple(wrong))


def _asked(calls: Sequence[Call], root: Path) -> list[str]:
    """What was recorded, page by page no longer: kind and name of each call."""
    told: list[str] = []
    for call in calls:
        if call.kind in ("begun", "reported"):
            continue
        line = f"{call.kind} {_short(call.other or call.path, root)}"
        if call.kind != "write" or told[-1:] != [line]:
            told.append(line)
    return told


_LINES = (
    ("create", re.compile(r'open(?:at)?\(.*?"([^"]+)", [^)]*O_CREAT')),
    ("write", re.compile(r"(?:pwrite64|write)\(\d+<([^>]+)>")),
    ("hurry", re.compile(r"fdatasync\(\d+<([^>]+)>")),
    ("sync", re.compile(r"fsync\(\d+<([^>]+)>")),
    ("rename", re.compile(r'rename(?:at2?)?\(.*"([^"]+)"')),
    ("remove", re.compile(r'unlink(?:at)?\(.*?"([^"]+)"')),
    ("folder", re.compile(r'mkdir(?:at)?\(.*?"([^"]+)"')),
)


def _seen(log: Path, root: Path) -> list[str]:
    """What strace saw of the calls on the folder, the lock left out: it is no part of what is kept."""
    told: list[str] = []
    for text in log.read_text().splitlines():
        for kind, pattern in _LINES:
            found = pattern.search(text)
            if found is None or " = -1 " in text:
                continue
            path = found[1].removesuffix(" (deleted)")
            if path.startswith(f"{root}") and not path.endswith(".lock"):
                of_folder = kind == "sync" and not path.endswith((".part", ".safetensors"))
                line = f"{'sync folder' if of_folder else kind} {_short(path, root)}"
                if kind != "write" or told[-1:] != [line]:
                    told.append(line)
            break
    return told


def _short(path: str, root: Path) -> str:
    """A name below the root; those that are drawn are all alike."""
    return re.sub(r"\.etude-[0-9a-f]{8}\.part", "part", os.path.relpath(path, root))
