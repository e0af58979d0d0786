"""A folder with two good checkpoints of a run, the ways to open one, and what has to come of it if it is spoilt."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from subjects import alike, small_run

STEPS = 20
"""Of each run; the files are those after 12 and 16."""

Way = tuple[str, Callable[[Path], Any]]
"""A way to open a file, by name."""


class Pair:
    """A folder with the two newest checkpoints of a run.

    Attributes:
        folder: it. older, newer: the files. before, good: their bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        small_run(self.folder, STEPS)
        *others, self.older, self.newer, final = sorted(self.folder.glob("*.safetensors"))
        for path in (*others, final):
            path.unlink()
        self.before, self.good = self.older.read_bytes(), self.newer.read_bytes()

    def put(self, made: bytes | Callable[[Path], None]) -> int:
        """Something in the place of the newer file; its size."""
        self.clear()
        if callable(made):
            made(self.newer)
        else:
            self.newer.write_bytes(made)
        there = os.lstat(self.newer)
        return there.st_size if stat.S_ISREG(there.st_mode) else 0

    def clear(self) -> None:
        """Nothing but the older file."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self.older:
                path.unlink()


def ways() -> tuple[Way, ...]:
    """Every way in which the library opens a file, but for resuming."""
    from etude.keep import files

    return (
        ("read", files.read),
        ("read_record", files.read_record),
        ("read_arrays", lambda path: files.read_arrays(path, lambda name: True)),
        ("verify", files.verify),
        ("load_net", into_net),
    )


def into_net(path: Path, foreign: bool = False) -> Any:
    """The arrays of a net that fits the good file, after they were loaded."""
    from torch import nn

    import etude

    net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout(0.2), nn.Linear(12, 3))
    etude.load_net(path, net, foreign=foreign)
    return dict(net.state_dict())


def refusal(path: Path, way: Callable[[Path], Any], good: Any, damaged: bool) -> list[str]:
    """What is wrong with how a spoilt file is refused; what comes back may be what would come from the good one."""
    from etude.errors import CheckpointError

    try:
        found = plain(way(path))
    except CheckpointError as error:
        return amiss(error, path, damaged)
    except Exception as error:
        return [f"{type(error).__name__}: {str(error)[:200]}"]
    if good is not None and equal(found, good):
        return []
    return ["it was read as if it were good"]


def amiss(error: Any, path: Path, damaged: bool) -> list[str]:
    """What is wrong with an error."""
    wrong = []
    text = str(error)
    if error.path != str(path) or not error.expected or not error.found:
        wrong.append(f"the error does not say file, expected and found: {text[:200]!r}")
    if len(text) > 1500 or not all(letter.isprintable() for letter in text):
        wrong.append(f"the message is too long or has letters that no terminal should get: {text[:200]!r}")
    if damaged and not error.damaged:
        said = ("pickle", "another program", "HDF5", "gzip", "GGUF")
        wrong += [] if any(word in text for word in said) else [f"damage is not called damage: {text[:200]!r}"]
    return wrong


def fallen_back(pair: Pair, older: Any, damaged: bool) -> list[str]:
    """What is wrong with the newest good checkpoint of the folder, which is the older one."""
    from etude.keep.destination import Directory
    from etude.keep.store import Store

    store = Store(Directory(pair.folder))
    try:
        store.open()
        try:
            saved, refused = store.newest_good()
        finally:
            store.close()
    except Exception as error:
        return [f"the newest good one: {type(error).__name__}: {str(error)[:200]}"]
    wrong = []
    if getattr(saved, "path", "") != str(pair.older) or not equal(plain(saved), older):
        wrong.append(f"not the checkpoint before was found, but {getattr(saved, 'path', saved)!s:.100}")
    if [error.path for error in refused] != [str(pair.newer)]:
        wrong.append(f"refused were {[error.path for error in refused]}")
    if damaged and refused and refused[0].damaged and not list(pair.folder.glob("*.damaged")):
        wrong.append("the damaged file was not set aside")
    return wrong


def plain(value: Any) -> Any:
    """What was read, without its path; arrays are copied."""
    from etude.keep.files import Saved

    if isinstance(value, Saved):
        return value.record, {name: array.clone() for name, array in value.tensors.items()}
    return value


def equal(some: Any, others: Any) -> bool:
    if isinstance(some, tuple) and isinstance(others, tuple):
        return some[0] == others[0] and alike(some[1], others[1])
    if isinstance(some, Mapping) and some and hasattr(next(iter(some.values())), "dtype"):
        return alike(some, others)
    return bool(some == others)
