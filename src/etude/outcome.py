"""A run of the command line carried out in a folder, and what is told of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from etude.asked import CHECKPOINTS, FILE, discard
from etude.errors import SettingError, StateError
from etude.keep.lock import Lock
from etude.listen.bar import Bar
from etude.listen.jsonl import JsonLines
from etude.run.events import Began, Event
from etude.run.result import Result
from etude.run.run import Run

WRITTEN: Final = ("result.json", "result.safetensors", "events.jsonl", "loss.png", "score.png")
AGAIN: Final = 75
"""The exit code of a run that was saved and is to be gone on with (EX_TEMPFAIL of sysexits.h)."""


def check(out: Path) -> None:
    """See that there can be such a folder; nothing is made.

    Raises:
        SettingError: a file stands in its place, or above it.
    """
    there = next(place for place in (out, *out.parents) if place.exists())
    if not there.is_dir():
        raise SettingError(f"--out {out}: the folder cannot be written to: {there} is a file.")


@contextmanager
def taken(out: Path) -> Iterator[None]:
    """A folder that can be written to, and that no other process writes to meanwhile.

    Raises:
        SettingError: it cannot be written to. StateError: another process has it.
    """
    lock = Lock(out / ".run.lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise SettingError(f"--out {out}: the folder cannot be written to: {error.strerror}.") from None
    try:
        yield
    finally:
        lock.release()


def prepare(out: Path, overwrite: bool) -> None:
    """Make a folder ready for a new run, before anything is trained.

    Args:
        overwrite: whether what an earlier run has left there is removed, its checkpoints too.

    Raises:
        SettingError: it has a result, or a run that has not finished, and that is not to be overwritten. StateError:
            a run is saved there now.
    """
    if not overwrite and finished(out):
        raise SettingError(f"{out} has a result already. Give another folder, or write --overwrite.")
    if not overwrite and ((out / FILE).exists() or any((out / CHECKPOINTS).glob("*.safetensors"))):
        raise SettingError(
            f"{out} has a run that has not finished: etude resume {out} goes on with it. Give another folder, or "
            "write --overwrite to begin anew."
        )
    if overwrite:
        discard(out)
        for name in (*WRITTEN, FILE):
            (out / name).unlink(missing_ok=True)


def finished(out: Path) -> bool:
    """Whether the run of a folder has come to its end."""
    return (out / "result.json").exists() and (out / "result.safetensors").exists()


def carry_out(run: Run, out: Path | None, quiet: bool) -> int:
    """Carry out a run, write what came of it, and tell it.

    Returns:
        The exit code: 0; 75 for a run that was asked to leave and was saved.

    Raises:
        StateError: it was asked to leave, and could not be saved.
    """
    if out is None:
        run.to(_tell_resumed)
    else:
        run.to(_tell_resumed, partial(_empty_unless_resumed, out / "events.jsonl"), JsonLines(out / "events.jsonl"))
    result = run.to(None if quiet else Bar()).result()
    if result.stop_reason == "interrupted":
        return _interrupted(run, result, out)
    written = "nothing; --out DIR keeps the net, the history and the pictures"
    if out is not None:
        result.plot("loss", out / "loss.png")
        result.plot("score", out / "score.png")
        result.save(out / "result.json", net=True)
        more = [name for name in (FILE, CHECKPOINTS) if (out / name).exists()]
        written = f"{out}{os.sep}: {', '.join([*WRITTEN, *more])}"
    facts = {**_facts(result), "written": written}
    width = max(map(len, facts))
    print("\n" + "\n".join(f"{name.ljust(width)}  {fact}" for name, fact in facts.items()))
    return 0


def _tell_resumed(event: Event, /) -> None:
    if isinstance(event, Began) and event.summary.get("resumed"):
        print(f"going on after step {event.progress.step:,.0f}, from {event.summary['resumed']}", flush=True)


def _empty_unless_resumed(log: Path, event: Event, /) -> None:
    """A run that has nothing to go on from begins anew, and so does the log of its folder."""
    if isinstance(event, Began) and not event.summary.get("resumed"):
        log.write_text("")


def _interrupted(run: Run, result: Result, out: Path | None) -> int:
    again = 'train(..., resume="auto") goes on' if out is None else f"to go on: etude resume {out}"
    path, step = run.newest_checkpoint
    if step != result.steps:
        there = f"The newest checkpoint is {path}, of step {step:,}; {again}." if path else "There is no checkpoint."
        raise StateError(f"{result.stop_message}: the state after step {result.steps:,} could not be saved. {there}")
    print(f"etude: {result.stop_message}: the state after step {step:,} is in {path}; {again}", file=sys.stderr)
    return AGAIN


def tell_finished(out: Path) -> None:
    """Say of a run that had come to its end what came of it."""
    result = Result.load(out / "result.json")
    facts = {"finished": f"already; the result is in {out / 'result.json'}, and nothing was done", **_facts(result)}
    width = max(map(len, facts))
    print("\n".join(f"{name.ljust(width)}  {fact}" for name, fact in facts.items()))


def _facts(result: Result) -> dict[str, str]:
    """What a result is, in words."""
    facts = {name: f"{value:.4g}" for name, value in result.losses.items()}
    if result.best_step is not None:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in _at(result, result.best_step).items())
        facts["best"] = f"{scores} after epoch {result.best_epoch:g}; the net is that one"
    speed = f"{result.throughput:,.0f} samples/s"
    return {**facts, "made": f"{result.steps:,} steps in {result.seconds:.1f} s, {speed}; {result.stop_message}"}


def _at(result: Result, step: int) -> dict[str, float]:
    """The validation scores that were taken after a step."""
    looks = {name: dict(zip(of.steps, of.values, strict=True)) for name, of in result.history.items()}
    return {name: values[step] for name, values in looks.items() if name.startswith("val.") and step in values}
