"""The power is cut at any instant of twenty commits: what may be on the disk then, and what is found again.

The calls of the library are recorded once. From them follows every disk that a cut may leave (see `disk_states`). Each
is laid out in a folder, and the library looks for the newest good checkpoint there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from disk_states import Call, Recorder, State, Tree, expanded, lay_out
from findings import Finding
from planted import SYNC_FAULTS, WRITE_FAULTS
from seams import in_place_of_os, nothing
from subjects import alike, save, scratch, state
from traced import traced

ASKED = (
    "After a cut at any instant the newest commit that was reported, or a later one, is found, with the right bits; "
    "nothing damaged bears the name of a checkpoint; no fsync can be left out."
)
SHORT, FULL = 600, 24_000

COMMITS = 20
KINDS = ("Directory", "File")
Disk = tuple[State, Tree]

NUMBERS = 6000
"""In each state."""


def look(count: int, seed: int) -> Iterator[Finding]:
    """Cut the power, at as many moments as it takes for `count` disks to be different."""
    with scratch(in_memory=True) as folder:
        for kind in KINDS:
            calls = _recorded(kind, folder / kind)
            yield _cuts(kind, calls, folder, count // 2)
            yield _without_each_sync(kind, calls, folder, max(1, 500 // count))
            yield traced(calls, kind, folder, __file__)


def planted(seed: int) -> Iterator[Finding]:
    """Commits by a library that lacks something."""
    for kind in KINDS:
        for fault, plant in (SYNC_FAULTS | WRITE_FAULTS).items():
            with scratch(in_memory=True) as folder:
                with plant():
                    calls = _recorded(kind, folder / kind)
                yield _noticed(f"{fault}, {kind}", _states(kind, calls, folder), folder)


# ---------------------------------------------------------------------------------------------------- the subject


def commits(kind: str, place: Path, say: Callable[[str, int], None]) -> None:
    """Twenty commits, told before and after; the folder and the one above it are made first."""
    from etude.keep.files import Image
    from etude.keep.store import Store

    store = Store(_destination(kind, place))
    store.open()
    image = Image()
    for step in range(1, COMMITS + 1):
        say("begun", step)
        save(store, image, step, NUMBERS)
        say("reported", step)
    store.close()


def _destination(kind: str, place: Path) -> Any:
    from etude.keep.destination import Directory, File
    from etude.keep.retain import last

    inside = place / "runs" / "digits"
    return File(inside / "run.safetensors") if kind == "File" else Directory(inside, keep=last(1))


def _recorded(kind: str, place: Path) -> list[Call]:
    from etude.keep import disk

    place.mkdir()
    recorder = Recorder()
    with in_place_of_os(recorder, disk):
        commits(kind, place, recorder.say)
    return recorder.calls


# ------------------------------------------------------------------------------------------------------- looking


def _states(kind: str, calls: Sequence[Call], folder: Path, draws: int = 2, **span: Any) -> Iterator[Disk]:
    """Disks that differ in their bytes, or in what had been promised by then."""
    seen: set[bytes] = set()
    for cut in expanded(calls, str(folder / kind), draws, **span):
        tree = cut.build()
        told = hashlib.sha256(f"{cut.begun} {cut.reported}".encode())
        for path in sorted(tree):
            told.update(f"\0{path}\0".encode() + (tree[path] or b""))
        if told.digest() not in seen:
            seen.add(told.digest())
            yield cut, tree


def _cuts(kind: str, calls: Sequence[Call], folder: Path, count: int) -> Finding:
    """All disks, or so many drawn ones that `count` are reached; where fewer are asked for, some."""
    draws = 2
    while (total := sum(1 for _ in _states(kind, calls, folder, draws))) < count and draws < 100:
        draws *= 2
    every = max(1, total // count)
    tried, wrong, found = 0, [], Counter[str]()
    for number, (cut, tree) in enumerate(_states(kind, calls, folder, draws)):
        if number % every == 0:
            tried += 1
            said = _looked(kind, cut, tree, folder, found)
            wrong += [said] if said else []
    figures = {"commits": COMMITS, "calls": len(calls), **found}
    return Finding(f"disks after a cut, {kind}", tried, tuple(wrong), figures)


def _looked(kind: str, cut: State, tree: Tree, folder: Path, found: Counter[str]) -> str:
    """What is wrong with what the library finds on one disk; an empty text if nothing is."""
    from etude.keep.store import Store

    place = folder / "after"
    place.mkdir()
    try:
        lay_out(tree, str(folder / kind), place)
        store = Store(_destination(kind, place))
        store.open()
        try:
            saved, refused = store.newest_good()
            said = _judged(saved, [str(error) for error in refused], cut)
        finally:
            store.close()
        strays = [path.name for path in place.rglob("*.part")]
        found["the newest begun" if saved and saved.record["step"] == cut.begun else "the one before"] += 1
        return said or (f"left behind: {strays}" if strays else "")
    except Exception as error:
        return f"after {cut.at} calls: {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(place)


def _judged(saved: Any, refused: list[str], cut: State) -> str:
    where = f"after {cut.at} calls, step {cut.reported} reported, {cut.begun} begun"
    step = 0 if saved is None else saved.record["step"]
    if refused:
        return f"{where}: damaged under the name of a checkpoint: {refused[0]}"
    if not cut.reported <= step <= cut.begun:
        return f"{where}: step {step} was found"
    if step and not alike(saved.tensors, state(step, NUMBERS)):
        return f"{where}: wrong bits in step {step}"
    return ""


def _noticed(fault: str, states: Iterator[Disk], folder: Path) -> Finding:
    """How many disks it took until one showed the fault."""
    tried = 0
    kind = fault.rsplit(" ", 1)[-1]
    for cut, tree in states:
        tried += 1
        said = _looked(kind, cut, tree, folder, Counter())
        if said:
            return Finding(fault, tried, (), {"noticed as": re.sub(r"^after \d+ calls,? ?", "", said)[:90]})
    return Finding(fault, tried, (f"{fault}: not noticed on {tried} disks",))


# ------------------------------------------------------------------------------------------ every fsync is needed


def _without_each_sync(kind: str, calls: Sequence[Call], folder: Path, every: int) -> Finding:
    """The same calls with one fsync missing: for each of them some disk must show it.

    What follows a removal need not be durable: a file that is there again after a cut does no harm.
    """
    syncs = [at for at, call in enumerate(calls) if call.kind in ("sync", "sync folder") and _needed(calls, at)]
    chosen = syncs[::every]
    wrong = []
    for at in chosen:
        rest = [*calls[:at], *calls[at + 1 :]]
        states = _states(kind, rest, folder, since=at, until=_next(rest, at, calls[at]))
        if not any(_looked(kind, cut, tree, folder, Counter()) for cut, tree in states):
            wrong.append(f"without call {at}, {calls[at].kind} of {Path(calls[at].path).name}: not noticed")
    unneeded = sum(call.kind in ("sync", "sync folder") for call in calls) - len(syncs)
    return Finding(f"one fsync left out, {kind}", len(chosen), tuple(wrong), {"of removals, left alone": unneeded})


def _needed(calls: Sequence[Call], at: int) -> bool:
    """Whether something hangs on a sync: data of a file that stays, or a name that is given."""
    call = calls[at]
    if call.kind == "sync":
        return any(later.kind == "rename" and later.path == call.path for later in calls[at:])
    since = at
    while since and not (calls[since - 1].kind == "sync folder" and calls[since - 1].path == call.path):
        since -= 1
    return any(
        (before.kind == "rename" and os.path.dirname(before.other) == call.path)
        or (before.kind == "folder" and os.path.dirname(before.path) == call.path)
        for before in calls[since:at]
    )


def _next(calls: Sequence[Call], at: int, left: Call) -> int:
    """Until when the missing call can be seen: two commits later at most."""
    words = [i for i, call in enumerate(calls) if i >= at and call.kind == "reported"]
    return words[min(2, len(words) - 1)] + 1 if words else len(calls)


if __name__ == "__main__":
    with suppress(IndexError):
        commits(sys.argv[1], Path(sys.argv[2]), nothing)
