"""Checkpoints that were damaged, and files that were never checkpoints: each is refused by one error, or is harmless.

A folder holds two good checkpoints of a run. The newer one is spoilt, or something else is put in its place; then it
is opened in every way the library has, and the newest good one of the folder is asked for.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch

import watch
from findings import Finding, apart
from hostile import MAKERS, Maker, record
from seams import instead, nothing
from spoilt import SPOILS
from subjects import alike, bits, scratch, small_run
from watch import BYTES, SECONDS, Watch

ASKED = (
    "Every damage is found, and named with file, expected and found; a run goes on from the checkpoint before. A file "
    f"that is none is refused in {SECONDS:g} s, with {BYTES >> 20} MB of memory beyond its size at most; it runs "
    "nothing and leads nowhere."
)
SHORT, FULL = 500, 10_000

STEPS = 20
"""Of each run; the files are those after 12 and 16."""

Way = tuple[str, Callable[[Path], Any]]
"""A way to open a file, by name."""


def look(count: int, seed: int) -> Iterator[Finding]:
    """Spoil `count` files, put `count` others in their place, and let runs go on from every fiftieth of both."""
    yield from _done(_damaged, count, seed)
    yield from _done(_large, max(5, count // 50), seed)
    for kind in MAKERS:
        yield from _done(_hostile, count // len(MAKERS), seed, kind)
    yield from _done(_resumed, max(4, count // 50), seed)


def planted(seed: int) -> Iterator[Finding]:
    """A library that looks less closely."""
    for fault in _faults():
        yield from _done(_caught, seed, fault)


def _done(work: Callable[..., Finding], *arguments: Any) -> Iterator[Finding]:
    """A finding from a process of its own."""
    yield Finding(**apart(lambda: asdict(work(*arguments))))


# ---------------------------------------------------------------------------------------------------- the subject


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


def _ways() -> tuple[Way, ...]:
    """Every way in which the library opens a file, but for resuming."""
    from etude.keep import files

    return (
        ("read", files.read),
        ("read_record", files.read_record),
        ("read_arrays", lambda path: files.read_arrays(path, lambda name: True)),
        ("verify", files.verify),
        ("load_net", _into_net),
    )


def _into_net(path: Path, foreign: bool = False) -> Any:
    """The arrays of a net that fits the good file, after they were loaded."""
    from torch import nn

    import etude

    net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout(0.2), nn.Linear(12, 3))
    etude.load_net(path, net, foreign=foreign)
    return dict(net.state_dict())


# ---------------------------------------------------------------------------------------------------------- damage


def _damaged(count: int, seed: int) -> Finding:
    """Flips, cuts, zeros and swaps."""
    chance, wrong, said = Random(seed), list[str](), Counter[str]()
    with scratch(in_memory=True) as folder:
        pair = Pair(folder)
        ways = [(name, way, _plain(way(pair.newer))) for name, way in _ways()]
        older = _plain(_ways()[0][1](pair.older))
        for number in range(count):
            spoil = chance.choice(SPOILS)
            made = spoil(chance, pair.good, pair.before)
            pair.put(made)
            where = f"{spoil.__name__} {number}"
            if made == pair.good:
                said["harmless"] += 1
                continue
            name, way, good = ways[number % len(ways)]
            wrong += [f"{where}: {name}: {line}" for line in _refusal(pair.newer, ways[0][1], None, True)]
            wrong += [f"{where}: {name}: {line}" for line in _refusal(pair.newer, way, good, True)]
            wrong += [f"{where}: {line}" for line in _fallen_back(pair, older, True)]
            said["refused"] += 1
    return Finding("files with flipped, cut, zeroed, swapped bytes", count, tuple(wrong), dict(said))


def _large(count: int, seed: int) -> Finding:
    """Files whose arrays have several digests each, which several threads take."""
    from etude.keep import files

    chance, wrong = Random(seed), list[str]()
    with scratch(in_memory=True) as folder:
        path, older = folder / "large.safetensors", folder / "older.safetensors"
        files.write(older, {}, {"a": torch.ones(1_200_000), "b": torch.ones(2_300_000)})
        files.write(path, {}, {"a": torch.zeros(1_200_000), "b": torch.arange(2_300_000)})
        good, before = path.read_bytes(), older.read_bytes()
        for number in range(count):
            spoil = chance.choice(SPOILS)
            made = spoil(chance, good, before)
            path.write_bytes(made)
            found = [] if made == good else _refusal(path, chance.choice((files.read, files.verify)), None, True)
            wrong += [f"{spoil.__name__} {number}: {line}" for line in found]
    return Finding("the same with files of 24 MB", count, tuple(wrong))


def _refusal(path: Path, way: Callable[[Path], Any], good: Any, damaged: bool) -> list[str]:
    """What is wrong with how a spoilt file is refused; what comes back may be what would come from the good one."""
    from etude.errors import CheckpointError

    try:
        found = _plain(way(path))
    except CheckpointError as error:
        return _told(error, path, damaged)
    except Exception as error:
        return [f"{type(error).__name__}: {str(error)[:200]}"]
    if good is not None and _equal(found, good):
        return []
    return ["it was read as if it were good"]


def _told(error: Any, path: Path, damaged: bool) -> list[str]:
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


def _fallen_back(pair: Pair, older: Any, damaged: bool) -> list[str]:
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
    if getattr(saved, "path", "") != str(pair.older) or not _equal(_plain(saved), older):
        wrong.append(f"not the checkpoint before was found, but {getattr(saved, 'path', saved)!s:.100}")
    if [error.path for error in refused] != [str(pair.newer)]:
        wrong.append(f"refused were {[error.path for error in refused]}")
    if damaged and refused and refused[0].damaged and not list(pair.folder.glob("*.damaged")):
        wrong.append("the damaged file was not set aside")
    return wrong


def _plain(value: Any) -> Any:
    """What was read, without its path; arrays are copied."""
    from etude.keep.files import Saved

    if isinstance(value, Saved):
        return value.record, {name: array.clone() for name, array in value.tensors.items()}
    return value


def _equal(some: Any, others: Any) -> bool:
    if isinstance(some, tuple) and isinstance(others, tuple):
        return some[0] == others[0] and alike(some[1], others[1])
    if isinstance(some, Mapping) and some and hasattr(next(iter(some.values())), "dtype"):
        return alike(some, others)
    return bool(some == others)


# --------------------------------------------------------------------------------------------------------- hostile


def _hostile(count: int, seed: int, kind: str) -> Finding:
    """Files of one kind, each opened in one way after another, and looked for in the folder."""
    chance, wrong, said = Random(f"{seed} {kind}"), list[str](), Counter[str]()
    with scratch(in_memory=True) as folder:
        pair = Pair(folder)
        older = _plain(_ways()[0][1](pair.older))
        watch = Watch(folder)
        for number in range(-40, count):
            make = chance.choice(MAKERS[kind])
            size = pair.put(make(chance, pair.good))
            # The first ones let modules that are only needed for a message be imported.
            found = _one(pair, older, make, number, watch, size, said)
            wrong += [f"{make.__name__} {number}: {line}" for line in found if number >= 0]
    figures: dict[str, int | float | str] = dict(said)
    figures |= {"longest s": round(watch.longest, 2), "most MB beyond the size": round(watch.most / 2**20, 1)}
    return Finding(f"hostile: {kind}", count, tuple(wrong), figures)


def _one(pair: Pair, older: Any, make: Maker, number: int, watch: Watch, size: int, said: Counter[str]) -> list[str]:
    """What is wrong with how one file is opened in one way, and with what is then found in the folder."""
    from etude.errors import CheckpointError

    ways = (*_ways(), ("load_net, foreign", lambda path: _into_net(path, foreign=True)))
    name, way = ways[number % len(ways)]
    wrong, readable = list[str](), False
    with watch.looking(size) as seen:
        try:
            found = way(pair.newer)
            readable = True
        except CheckpointError as error:
            wrong += _told(error, pair.newer, False)
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    wrong += seen
    if number >= 0:
        said["harmless" if readable else "refused"] += 1
    if readable:
        return wrong + ([] if make is record else _read_alike(pair, name, found))
    if name in ("read", "verify"):
        with watch.looking(size) as seen:
            wrong += _fallen_back(pair, older, False)
        wrong += seen
    return wrong


def _read_alike(pair: Pair, way: str, found: Any) -> list[str]:
    """Whether the safetensors library reads the same arrays from a file that was taken for good."""
    from safetensors.torch import load

    from etude.keep.files import read

    made = pair.newer.read_bytes()
    if "load_net" in way:
        # An array of the good file at another place of the file may still be what it was.
        return [] if made == pair.good else ["it was loaded into a net"]
    try:
        theirs = load(made)
    except Exception as error:
        return [f"{way} took what safetensors refuses: {error}"]
    ours = read(pair.newer).tensors
    same = ours.keys() == theirs.keys() and all(bool((bits(a) == bits(theirs[n])).all()) for n, a in ours.items())
    return [] if same else [f"{way} found other arrays than safetensors"]


# ---------------------------------------------------------------------------------------------- a run that goes on


def _resumed(count: int, seed: int) -> Finding:
    """A run is started again on a folder whose newest file is spoilt, hostile, or has a record that lies."""
    from etude.errors import CheckpointError, EtudeError

    chance, wrong, said = Random(seed), list[str](), Counter[str]()
    lies = MAKERS["lies with digests that fit"]
    makers: list[Callable[..., Any]] = [*(make for makes in MAKERS.values() for make in makes), *SPOILS, *[record] * 20]
    with scratch(in_memory=True) as folder:
        pair = Pair(folder)
        whole = folder / "whole"
        small_run(whole, STEPS)
        final = _final(whole)
        for number in range(count):
            make = chance.choice(makers)
            more = (pair.before,) if make in SPOILS else ()
            made = make(chance, pair.good, *more)
            pair.put(made)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                try:
                    small_run(pair.folder, STEPS, resume="auto")
                    line = "" if make in lies else _went_on(pair, made, final, [str(each.message) for each in told])
                    said["went on"] += 1
                except EtudeError as error:
                    # The run does not begin anew beside a newer file that is not damaged, but of another kind, out of
                    # reach, or good and full of lies: whoever put it there is asked. Damage alone is passed over.
                    asked = make in lies or (isinstance(error, CheckpointError) and not error.damaged)
                    line = "" if asked and make not in SPOILS else f"the run did not go on: {error}"
                    said["stopped with a declared error"] += 1
                except Exception as error:
                    line = f"{type(error).__name__}: {str(error)[:200]}"
            wrong += [f"{make.__name__} {number}: {line}"] if line else []
            shutil.rmtree(pair.folder)
            pair.folder.mkdir()
            pair.older.write_bytes(pair.before)
    return Finding("runs that go on over such a file", count, tuple(wrong), dict(said))


def _went_on(pair: Pair, made: Any, final: Any, told: list[str]) -> str:
    if made != pair.good and not any(pair.newer.name in line for line in told):
        return f"the run does not say which file was passed over: {told}"
    return "" if _equal(_final(pair.folder), final) else "the final bits differ"


def _final(folder: Path) -> Any:
    """The arrays of the last checkpoint of a run."""
    from etude.keep.files import read

    return read(max(folder.glob("*_00000020_*.safetensors"))).tensors


# ------------------------------------------------------------------------------------------------- faults to plant


def _faults() -> dict[str, tuple[Callable[[], Any], Callable[[int], Finding]]]:
    """Faults by name, each with the harness that has to notice it."""
    from etude.keep import folder, parsing
    from etude.run import resuming

    def damaged(seed: int) -> Finding:
        return _damaged(200, seed)

    def hostile(kind: str) -> Callable[[int], Finding]:
        return lambda seed: _hostile(40, seed, kind)

    return {
        "digest of the header not checked": (lambda: instead(parsing._Reading, "check_digest", nothing), damaged),
        "digests of arrays not checked": (_undigested, damaged),
        "damaged file not set aside": (lambda: instead(folder, "set_aside", nothing), damaged),
        "a damaged file ends the search": (_first_only, damaged),
        "pickles are loaded": (_unpickling, hostile("pickles and other formats")),
        "links, pipes, devices are opened": (_opening_all, hostile("links, pipes, sockets, folders, devices")),
        "memory as the header asks": (_generous, hostile("lengths and texts")),
        "errors of the parser come through": (_bare, hostile("lengths and texts")),
        "numbers in the header not looked at": (
            lambda: instead(parsing, "_are_counts", lambda value: True),
            hostile("lies with digests that fit"),
        ),
        "a run does not tell what it passed over": (
            lambda: instead(resuming, "warn", nothing),
            lambda seed: _resumed(12, seed),
        ),
    }


def _caught(seed: int, fault: str) -> Finding:
    """Whether a harness finds something wrong with a library that has a fault."""
    plant, harness = _faults()[fault]
    with plant():
        found = harness(seed)
    if found.wrong:
        return Finding(fault, found.tried, (), {"seen": len(found.wrong), "first": found.wrong[0][:80]})
    return Finding(fault, found.tried, (f"{fault}: not noticed",))


@contextmanager
def _first_only() -> Iterator[None]:
    """Of a folder only the newest file is looked at."""
    from etude.keep.store import Store

    paths = Store.paths
    with instead(Store, "paths", lambda self: paths(self)[:1]):
        yield


@contextmanager
def _unpickling() -> Iterator[None]:
    """What is a pickle is loaded as one."""
    from etude.keep import files

    read = files.read

    def guess(path: Any) -> Any:
        with suppress(Exception):
            return pickle.loads(Path(path).read_bytes())
        return read(path)

    with instead(files, "read", guess):
        yield


@contextmanager
def _opening_all() -> Iterator[None]:
    """Whatever has the name is opened."""
    from etude.keep import disk

    # To open a pipe takes for ever.
    with instead(disk, "open_to_read", lambda path: os.open(path, os.O_RDONLY)), instead(watch, "HANG", 0.3):
        yield


@contextmanager
def _generous() -> Iterator[None]:
    """As much memory as the header asks for, though not more than this machine has."""
    from etude.keep import parsing

    def length(path: str, first: bytes, size: int) -> int:
        return min(int.from_bytes(first[:8], "little"), 100_000_000)

    with instead(parsing, "length", length):
        yield


@contextmanager
def _bare() -> Iterator[None]:
    """JSON as it comes."""
    from etude.keep import parsing

    with instead(parsing._Reading, "_json", lambda self, text, expected: json.loads(text)):
        yield


@contextmanager
def _undigested() -> Iterator[None]:
    """Every digest is the one that was told."""
    from etude.keep import digests

    class Believed(str):
        """Equal to whatever it is compared with."""

        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

    all_ = digests.Digests.all
    with instead(digests.Digests, "all", lambda self: [Believed(text) for text in all_(self)]):
        yield
