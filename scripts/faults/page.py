"""What the harnesses found, as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from findings import shown

Record: TypeAlias = Mapping[str, Any]

_HEAD = """\
# Reliability

A checkpoint is worth what is left of it after the worst moment. This page says what étude keeps to, how that was
tried, and what came out; every figure is from a run of the command that stands above it.

    python scripts/faults --full --page docs/reliability.md

makes the page anew, in an hour or two. `make test` runs short counts of the same harnesses and `make soak`
the full ones. A harness that finds nothing may just be blind: so each is also run on a library in which a part was
replaced by a faulty one (`python scripts/faults --planted`), and has to notice every such fault.
"""

_TITLES = {
    "kill": "Killed at any instant",
    "power_loss": "The power is cut",
    "damage": "Damaged and hostile files",
    "full_disk": "The disk is full",
    "io_errors": "Every call fails once",
    "background": "Saves that fail in the background",
    "signals": "Asked to leave",
    "two_writers": "Two runs on one place",
    "bad_configs": "Mistakes in what is asked for",
    "not_finite": "NaN and infinity",
}

_HOW = {
    "kill": """\
One process imports torch and never computes; every start of a run is a fork of it. A run of 36 steps is saved at every
third. It is ended by `kill -9`, started again with `resume="auto"`, and so on until it ends. Some kills come at an
instant drawn from the whole run, most at one drawn from 1.3 times the length of a save, after a save has begun. The
last checkpoint, the net that comes out and the loss of every step are compared with those of a run that nobody
disturbed. Five seconds after each kill no process of the run may be there, and nothing of it in `/dev/shm`. One thing
cannot be kept from staying there: Python makes the semaphores of workers under a name that it takes away at once, and
a kill in between leaves 32 bytes, which are in nobody's way.
""",
    "power_loss": """\
The calls of twenty commits are recorded, and compared with what `strace` sees of them. For the moment after each call
every disk is made that POSIX allows then: data that were not synced whole, half, zeros, not there, or a drawn half of
their pages; each change of a name that was not synced there or not, in any combination. On each disk the library looks
for its newest good checkpoint. Then the same is done with one fsync left out, for each of them in turn: some disk must
show that it is missing. It is a model of POSIX, not of one disk that breaks its word.
""",
    "damage": """\
A folder holds two checkpoints of a run. The newer one is spoilt, or replaced by something else; then it is opened in
every way there is (reading it whole, its record, its arrays, verifying it, loading a net from it), and the newest good
one of the folder is asked for. Audit hooks see what is opened, imported and run meanwhile, a timer sees what hangs.
Many of the hostile files lie under digests that fit, so that no digest gives them away. What is taken for good must be
read alike by the safetensors library.
""",
    "full_disk": """\
A disk that takes so many bytes and no more stands in for the system's; where the system lets this user mount one, a
real file system in memory is filled until so many bytes are left, at equal distances over one save.
""",
    "io_errors": """\
First with an `os` of our own, in which the n-th call on files fails, for every n; then by `strace -e inject`, for every
kind of system call and every n. After each, the newest checkpoint is read, and one more is saved.
""",
    "background": """\
Runs of twenty steps are saved after each, and to each save a fault is drawn. A copy of all arrays is made when the
library makes its own, and compared with the file later.
""",
}


def page(record: Record) -> str:
    """The whole page.

    Args:
        record: what the command keeps between its runs.
    """
    parts = [_HEAD.strip()]
    for name in [*_TITLES, *(name for name in record if name not in _TITLES)]:
        if name in record:
            parts += _section(name, record[name])
    return "\n\n".join(parts) + "\n"


def _section(name: str, kept: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {_TITLES.get(name, name.replace('_', ' ').capitalize())}"
    yield kept["asked"]
    if name in _HOW:
        yield _HOW[name].strip()
    if "looked" in kept:
        yield from _run(kept["looked"], ("What was done", "Times", "Wrong", "Figures"), _found)
    if "planted" in kept:
        yield from _run(kept["planted"], ("Fault planted", "Tried until it was noticed", "Noticed"), _noticed)


def _run(entry: Mapping[str, Any], head: tuple[str, ...], row: Any) -> Iterator[str]:
    minutes = entry["seconds"] / 60
    took = f"{minutes:.1f} minutes" if minutes >= 1 else f"{entry['seconds']:.0f} s"
    yield f"`{entry['command']}`: {took} on {entry['machine']}."
    rule = "|".join([" --- ", *(" ---: " for _ in head[1:3]), *(" --- " for _ in head[3:])])
    lines = [f"| {' | '.join(head)} |", f"|{rule}|"]
    lines += [f"| {' | '.join(row(finding))} |" for finding in entry["findings"]]
    yield "\n".join(lines)


def _found(finding: Mapping[str, Any]) -> tuple[str, ...]:
    if finding["skipped"]:
        return finding["what"], "0", "–", f"skipped: {finding['skipped']}"
    figures = ", ".join(f"{name} {shown(value)}" for name, value in finding["figures"].items())
    return finding["what"], f"{finding['tried']:,}", f"{len(finding['wrong'])}", figures


def _noticed(finding: Mapping[str, Any]) -> tuple[str, ...]:
    return finding["what"], f"{finding['tried']:,}", "**no**" if finding["wrong"] else "yes"
