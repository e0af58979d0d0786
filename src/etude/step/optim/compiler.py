"""Compiles native.c once on this machine and keeps the library: `library()` gives it, or None where it cannot be.

The library is kept in $XDG_CACHE_HOME/etude (or ~/.cache/etude; else a folder of this user in the folder for temporary
files), under a name made of the source, the compiler and the processor. ETUDE_NATIVE=0 does without.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_name("native.c")
# No sums in another order and no fused multiply-add: the numbers do not depend on the processor.
_FLAGS = ("-O3", "-std=c11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-shared", "-fPIC")
_PATIENCE = 60.0


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None where it is switched off, or there is no compiler, or it does not work."""
    compiler = _compiler()
    if os.environ.get("ETUDE_NATIVE") == "0" or compiler is None:
        return None
    try:
        return next((made for folder in _folders() if (made := _loaded(compiler, folder)) is not None), None)
    except OSError:
        # There may be no folder for temporary files at all.
        return None


def _loaded(compiler: str, folder: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_built(compiler, folder)))
    except (OSError, subprocess.SubprocessError):
        # Nothing depends on it: torch's kernels do the same.
        return None


def _compiler() -> str | None:
    asked = os.environ.get("CC", "")
    return next((path for name in (asked, "cc", "gcc", "clang") if name and (path := shutil.which(name))), None)


def _folders() -> Iterator[Path]:
    """Folders that nobody but this user may write to, best first."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    user = os.getuid() if hasattr(os, "getuid") else 0
    for folder in (Path(home) / "etude", Path(tempfile.gettempdir()) / f"etude-{user}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
        except OSError:
            continue
        # What lies here is loaded into the process, so a folder that others may write to is not trusted.
        if found.st_uid == user and not found.st_mode & 0o022 and folder.is_dir() and not folder.is_symlink():
            yield folder


def _built(compiler: str, folder: Path) -> Path:
    made = folder / f"native-{_key(compiler)}.so"
    if not _is_whole(made):
        handle, name = tempfile.mkstemp(suffix=".so", dir=folder)
        os.close(handle)
        try:
            _compile(compiler, name)
            # What cannot be loaded is not kept.
            ctypes.CDLL(name)
            sealed = Path(f"{name}.sum")
            sealed.write_text(_digest(Path(name)))
            os.replace(name, made)
            os.replace(sealed, _seal(made))
        finally:
            Path(name).unlink(missing_ok=True)
            Path(f"{name}.sum").unlink(missing_ok=True)
    return made


def _is_whole(made: Path) -> bool:
    """Whether a kept library is what was built: loading one that was cut off would kill the process."""
    try:
        return _seal(made).read_text() == _digest(made)
    except OSError:
        return False


def _seal(made: Path) -> Path:
    return made.with_suffix(".so.sum")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile(compiler: str, target: str) -> None:
    command = [compiler, *_FLAGS, "-march=native", "-o", target, str(_SOURCE), "-lm"]
    if subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False).returncode != 0:
        # Not every compiler knows the processor that it runs on.
        command.remove("-march=native")
        subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=True)


def _key(compiler: str) -> str:
    """A library serves one source, one compiler and one kind of processor; homes are shared between machines."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=_PATIENCE, check=True).stdout
    parts = (_SOURCE.read_bytes(), version, " ".join(_FLAGS).encode(), _processor().encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _processor() -> str:
    said = Path("/proc/cpuinfo")
    lines = said.read_text(errors="replace").splitlines() if said.exists() else []
    kept = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.system(), platform.machine(), platform.processor(), *dict.fromkeys(kept)])
