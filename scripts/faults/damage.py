"""Checkpoints that were damaged, and files that were never checkpoints: each is refused by one error, or is harmless.

A folder holds two good checkpoints of a run. The newer one is spoilt, or something else is put in its place; then it
is opened in every way the library has, and the newest good one of the folder is asked for.
"""

from __future__ import annotations

import io
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch  # noqa: F401  (what is imported while a file is read would look like code of the file)
import torch

from crafted import Crafted
from findings import Finding, apart
from hostile import MAKERS, Maker, record
from pairs import STEPS, Pair, amiss, equal, fallen_back, into_net, plain, refusal, ways
from planted_reading import READ_FAULTS
from spoilt import SPOILS
from subjects import bits, scratch, small_run
from watch import BYTES, SECONDS, Watch

ASKED = (
    "Every damage is found, and named with file, expected and found; a run goes on from the checkpoint before. A file "
    f"that is none is refused in {SECONDS:g} s, with {BYTES >> 20} MB of memory beyond its size at most; it runs "
    "nothing and leads nowhere."
)
SHORT, FULL = 500, 10_000


def look(count: int, seed: int) -> Iterator[Finding]:
    """Spoil `count` files, put `count` others in their place, and let runs go on from every fiftieth of both."""
    yield from _done(_damaged, count, seed)
    yield from _done(_large, max(5, count // 50), seed)
    for kind in MAKERS:
        yield from _done(_hostile, count // len(MAKERS), seed, kind)
    yield from _done(_resumed, max(4, count // 50), seed)


def planted(seed: int) -> Iterator[Finding]:
    """A library that looks less closely."""
    for fault in READ_FAULTS:
        yield from _done(_caught, seed, fault)


def _done(work: Callable[..., Finding], *arguments: Any) -> Iterator[Finding]:
    """A finding from a process of its own."""
    yield Finding(**apart(lambda: asdict(work(*arguments))))


# ---------------------------------------------------------------------------------------------------------- damage


def _damaged(count: int, seed: int) -> Finding:
    """Flips, cuts, zeros and swaps."""
    chance, wrong, said = Random(seed), list[str](), Counter[str]()
    with scratch(in_memory=True) as folder:
        pair = Pair(folder)
        known = [(name, way, plain(way(pair.newer))) for name, way in ways()]
        older = plain(ways()[0][1](pair.older))
        for number in range(count):
            spoil = chance.choice(SPOILS)
            made = spoil(chance, pair.good, pair.before)
            pair.put(made)
            where = f"{spoil.__name__} {number}"
            if made in (pair.good, pair.before):
                # Nothing was changed, or the whole file is the one before.
                said["harmless"] += 1
                continue
            name, way, good = known[number % len(known)]
            wrong += [f"{where}: {name}: {line}" for line in refusal(pair.newer, known[0][1], None, True)]
            wrong += [f"{where}: {name}: {line}" for line in refusal(pair.newer, way, good, True)]
            wrong += [f"{where}: {line}" for line in fallen_back(pair, older, True)]
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
            found = [] if made == good else refusal(path, chance.choice((files.read, files.verify)), None, True)
            wrong += [f"{spoil.__name__} {number}: {line}" for line in found]
    return Finding("the same with files of 24 MB", count, tuple(wrong))


# --------------------------------------------------------------------------------------------------------- hostile


def _hostile(count: int, seed: int, kind: str) -> Finding:
    """Files of one kind, each opened in one way after another, and looked for in the folder."""
    chance, wrong, said = Random(f"{seed} {kind}"), list[str](), Counter[str]()
    with scratch(in_memory=True) as folder:
        pair = Pair(folder)
        older = plain(ways()[0][1](pair.older))
        _warm_up(folder)
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


def _warm_up(folder: Path) -> None:
    """Let everything be imported that reading files from elsewhere needs."""
    path = folder / "other"
    pickle, plain_file = io.BytesIO(), Crafted(arrays={"0.weight": bytes(12)}).made()
    torch.save({"0.weight": torch.zeros(3)}, pickle)
    for content in (pickle.getvalue(), plain_file):
        path.write_bytes(content)
        with suppress(Exception):
            into_net(path, foreign=True)


def _one(pair: Pair, older: Any, make: Maker, number: int, watch: Watch, size: int, said: Counter[str]) -> list[str]:
    """What is wrong with how one file is opened in one way, and with what is then found in the folder."""
    from etude.errors import CheckpointError

    known = (*ways(), ("load_net, foreign", lambda path: into_net(path, foreign=True)))
    name, way = known[number % len(known)]
    wrong, readable = list[str](), False
    with watch.looking(size) as seen:
        try:
            found = way(pair.newer)
            readable = True
        except CheckpointError as error:
            wrong += amiss(error, pair.newer, False)
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    wrong += seen
    if number >= 0:
        said["harmless" if readable else "refused"] += 1
    if readable:
        return wrong + ([] if make is record else _read_alike(pair, name, found))
    if name in ("read", "verify"):
        with watch.looking(size) as seen:
            wrong += fallen_back(pair, older, False)
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
    if made not in (pair.good, pair.before) and not any(pair.newer.name in line for line in told):
        return f"the run does not say which file was passed over: {told}"
    return "" if equal(_final(pair.folder), final) else "the final bits differ"


def _final(folder: Path) -> Any:
    """The arrays of the last checkpoint of a run."""
    from etude.keep.files import read

    return read(max(folder.glob("*_00000020_*.safetensors"))).tensors


# ------------------------------------------------------------------------------------------------- faults to plant


def _caught(seed: int, fault: str) -> Finding:
    """Whether a harness finds something wrong with a library that has a fault."""
    with READ_FAULTS[fault]():
        found = _harnesses()[fault](seed)
    if found.wrong:
        return Finding(fault, found.tried, (), {"seen": len(found.wrong), "first": found.wrong[0][:80]})
    return Finding(fault, found.tried, (f"{fault}: not noticed",))


def _harnesses() -> dict[str, Callable[[int], Finding]]:
    """What has to notice each fault."""

    def hostile(kind: str, count: int = 40) -> Callable[[int], Finding]:
        return lambda seed: _hostile(count, seed, kind)

    damage = ("digest of the header", "digests of arrays", "damaged file not", "a damaged file")
    return {fault: lambda seed: _damaged(200, seed) for fault in READ_FAULTS if fault.startswith(damage)} | {
        "pickles are loaded": hostile("pickles and other formats"),
        "links, pipes, devices are opened": hostile("links, pipes, sockets, folders, devices"),
        "memory as the header asks": hostile("lengths and texts"),
        "errors of the parser come through": hostile("lengths and texts"),
        "numbers in the header not looked at": hostile("lies with digests that fit", 160),
        "a run does not tell what it passed over": lambda seed: _resumed(12, seed),
    }
