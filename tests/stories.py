"""What a run shows: a picture of its whole state at every settled step, to compare with another's, bit for bit.

whole, resumed = follow(job(7)), follow(job(7), resume=path)
print(difference(whole, resumed, 4))
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import etude
from etude import Directory, every, steps
from etude.run.events import Began, Ended, EpochEnded, Evaluated, Event, RolledBack, Settled, Skipped, Stepped
from etude.run.result import Result
from jobs import Counting, Job, named
from nets import bytes_of

Picture = Mapping[str, Any]
"""All state of a run at one moment, by name: plain values, and of tensors type, shape and bytes."""


@dataclass
class Story:
    """What a run showed.

    Attributes:
        pictures: of the state, by the number of steps made: where the run began, and at every settled step.
        told: what was told, by the number of steps made: losses, rates, means, scores, refusals, the end.
        ids: of the samples of each step, in the order in which the net saw them.
        end: what came out; empty if the run was left.
    """

    pictures: dict[int, Picture] = field(default_factory=dict)
    told: dict[int, list[tuple[Any, ...]]] = field(default_factory=dict)
    ids: dict[int, list[int]] = field(default_factory=dict)
    end: Picture = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many were made."""
        return max(self.pictures)


class Ticking:
    """A clock that a second has passed on at every step, whatever was its time when the run began."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self, event: Event | None = None) -> float:
        self.now += isinstance(event, Stepped | Skipped)
        return self.now


def follow(
    job: Job,
    *,
    resume: Any = None,
    accept: Any = (),
    checkpoint: Any = None,
    leave: int | None = None,
    seed: int | None = None,
    **more: Any,
) -> Story:
    """Carry a job out and take down what it shows.

    Args:
        job: the job. resume: from what file, or "auto"; None: from the start. accept: see `etude.train`.
        checkpoint: destinations. leave: after so many steps the run is left, as by `break`.
        seed: of the arrays of the net and of the process; None: 1, but a run that resumes takes neither, so it is given
            others.
        more: options in place of those of the job.
    """
    seed = seed or (1 if resume is None else 101)
    net, clock = job.net(seed), Ticking(0.0 if resume is None else 1000.0)
    options = {**job.options(net), **more}
    # What the process draws for itself, and what a net was doing before, is nobody's concern.
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    net.eval()
    if checkpoint is not None:
        options["checkpoint"] = checkpoint
    run = etude.Run(etude.Plan(**options), net, job.data(), resume=resume, accept=accept, clock=clock)
    story, seen = Story(), _Seen()
    if not options.get("compile"):
        net.register_forward_pre_hook(seen)
    for event in run.to(clock):
        step = int(event.progress.step)
        if isinstance(event, Began | Settled):
            story.pictures[step] = picture(run)
            story.ids[step] = seen.taken()
        elif isinstance(event, Stepped | Skipped | RolledBack | EpochEnded | Evaluated | Ended):
            story.told.setdefault(step, []).append(_told(event))
        if isinstance(event, Settled) and step == leave:
            return story
    story.end = outcome(run.result())
    return story


class _Seen:
    """A hook: the numbers of the samples that a net sees in training."""

    def __init__(self) -> None:
        self._batches: list[tuple[int, ...]] = []

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        if module.training and given and isinstance(given[0], Tensor):
            batch = tuple((given[0][:, 0].double() * 64).round().int().tolist())
            # A net may be called several times on one batch.
            if batch not in self._batches:
                self._batches.append(batch)

    def taken(self) -> list[int]:
        found, self._batches = [number for batch in self._batches for number in batch], []
        return found


def _told(event: Any) -> tuple[Any, ...]:
    """An event as plain values, without what the wall clock has to do with."""
    if isinstance(event, Stepped):
        losses = {name: _exact(loss) for name, loss in event.losses.items()}
        beside = _exact(dict(event.settings)), _exact(dict(event.probes))
        return "stepped", losses, _exact(event.rate), event.samples, event.updates, event.seconds, *beside
    if isinstance(event, Skipped):
        return "skipped", event.reason
    if isinstance(event, RolledBack):
        return "back", event.why, event.to_step, event.factor
    if isinstance(event, EpochEnded):
        return "epoch", event.epoch, _exact(dict(event.means))
    if isinstance(event, Evaluated):
        return "evaluated", _exact(dict(event.scores)), event.best, _exact(dict(event.tables))
    return "ended", event.reason, event.message


def picture(run: etude.Run) -> Picture:
    """All state that a run shows: its clock, every array, what optimizers, schedules and averages remember."""
    checked, found = run.checked, dict[str, Any]()
    found["clock"] = (run.progress.step, run.progress.epoch, run.progress.samples, run.progress.tokens)
    found["cursor"] = (run.cursor.epoch, run.cursor.batch)
    for name, array in (*checked.net.named_parameters(), *checked.net.named_buffers()):
        found[f"net {name}"] = _exact(array)
    for name, module in checked.net.named_modules():
        found[f"net {name} training"] = module.training
        if isinstance(module, Counting):
            found[f"net {name} calls"] = module.calls
    for work in checked.works:
        found[f"{work.name} scale"] = work._precision.scale.state()
        found[f"{work.name} heard"] = _exact(work.turns.state())
        found[f"{work.name} schedules"] = [_exact(kept) for kept in work.stepper.memory.values()]
        for name, own in zip(work.stepper.table.names, work.stepper.optimizer.state(), strict=True):
            found |= {f"{work.name} {name} {key}": _exact(kept) for key, kept in own.items()}
    state = checked.averages.state()
    for name, one in state["each"].items():
        found[f"average {name}"] = (one["count"], one["passed"], sorted(one["copied"]))
        found |= {f"average {name} {key}": _exact(kept) for key, kept in one["arrays"].items()}
    found["averages hear"] = [_exact(kept) for kept in state["memory"].values()]
    return found | _beside(run)


def _beside(run: etude.Run) -> Picture:
    """What is remembered besides arrays, their optimizers and averages."""
    checked, going, found = run.checked, run._going, dict[str, Any]()
    for work in checked.works:
        kept = work.state()
        for name in ("carried", "losses", "weights", "refused", "split"):
            found[f"{work.name} {name}"] = _exact(kept[name])
        found[f"{work.name} rates times"] = work.stepper.table.rate_factor
    if checked.knobs is not None:
        found["knobs"] = _exact(checked.knobs.state())
        for line in checked.knobs._lines:
            found[f"knob {line.label}"] = [_exact(dial.read()) for dial in line.dials]
    found["stop"] = _exact(going.ending.state())
    found["snapshot"] = _exact(going.snapshots.state())
    return found


def outcome(result: Result) -> Picture:
    """Everything in a result but how long it took and where it was kept."""
    assert result.net is not None
    assert result.final_net is not None
    found: dict[str, Any] = {"training": [module.training for module in result.net.modules()]}
    for title, net in (("net", result.net), ("final", result.final_net)):
        found |= {f"{title} {name}": _exact(a) for name, a in (*net.named_parameters(), *net.named_buffers())}
    for name, average in result.averages.items():
        found |= {f"average {name} {key}": _exact(kept) for key, kept in average.items()}
    for name, series in result.history.items():
        found[f"series {name}"] = (series.steps, series.epochs, _exact(series.values))
    found["order"] = list(result.history)
    plain = ("best_epoch", "best_step", "learning_rates", "learning_rate_multipliers", "update_schedule", "optimizer")
    more = ("steps", "epochs", "samples", "stop_reason", "stop_message", "score", "seconds", "losses", "best_scores")
    return found | {name: _exact(getattr(result, name)) for name in (*plain, *more, "tables")}


def _exact(value: Any) -> Any:
    """A value of which equal means: alike to the bit, NaN and the sign of zero included; it can be sent elsewhere."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), bytes_of(value.detach())
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, Mapping):
        return {key: _exact(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(own) for own in value]
    return value


def difference(one: Story, other: Story, cut: int) -> str:
    """The first thing in which two runs differ after `cut` steps, in words; "" if in nothing.

    Of a run that was left it is seen only what it did.
    """
    ends = one.end and other.end
    steps = sorted({*one.pictures} | {*other.pictures} if ends else {*one.pictures} & {*other.pictures})
    for step in (step for step in steps if step >= cut):
        if step not in one.pictures or step not in other.pictures:
            return f"one run made {one.steps} steps, the other {other.steps}"
        found = _first(one.pictures[step], other.pictures[step])
        if found:
            return f"after step {step}: {found}"
        mine, theirs = (_told_after(story, step, cut) for story in (one, other))
        count = None if ends or step < steps[-1] else min(len(mine), len(theirs))
        if mine[:count] != theirs[:count]:
            return f"told after step {step}: {_shown(mine)} and {_shown(theirs)}"
    found = _first(one.end, other.end) if ends else ""
    return f"in the end: {found}" if found else ""


def _told_after(story: Story, step: int, cut: int) -> list[tuple[Any, ...]]:
    """What was told after a step; at the cut only the end, as all before that was told to somebody else."""
    return [one for one in story.told.get(step, []) if step > cut or one[0] == "ended"]


def _first(one: Picture, other: Picture) -> str:
    for name in {**one, **other}:
        if name not in one or name not in other:
            return f"{name!r} is in one of the two only"
        if one[name] != other[name]:
            return f"{name!r} is {_shown(one[name])} and {_shown(other[name])}"
    return ""


def _shown(value: Any) -> str:
    """A value for people: of tensors the first numbers."""
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[2], bytes):
        numbers = torch.frombuffer(bytearray(value[2]), dtype=getattr(torch, value[0].removeprefix("torch.")))
        return f"{value[0]} {value[1]} {numbers[:4].tolist()}"
    return f"{value!r:.300}"


# --------------------------------------------------------------------------------------------- in processes of its own


def abridged(story: Story) -> Story:
    """A story that can be sent and compared: a digest in place of each value."""
    made = asdict(story)
    pictures = {step: _digests(one) for step, one in made["pictures"].items()}
    told = {step: [(one[0], _digest(one[1:])) for one in own] for step, own in made["told"].items()}
    return Story(pictures, told, made["ids"], _digests(made["end"]))


def _digests(picture: Picture) -> Picture:
    return {name: _digest(value) for name, value in picture.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def written(path: Path) -> Story:
    """A story that another process has written, abridged."""
    made = json.loads(path.read_text())
    by_step = {key: {int(step): own for step, own in made[key].items()} for key in ("pictures", "told", "ids")}
    told = {step: [tuple(one) for one in own] for step, own in by_step["told"].items()}
    return Story(by_step["pictures"], told, by_step["ids"], made["end"])


def _do(asked: Mapping[str, str]) -> None:
    torch.set_num_threads(1)
    checkpoint = Directory(asked["folder"], every(steps(1))) if asked.get("folder") else None
    made = follow(named(asked["job"]), resume=asked.get("resume"), checkpoint=checkpoint)
    Path(asked["story"]).write_text(json.dumps(asdict(abridged(made))))


def main() -> int:
    """Do what standard input asks for; how many of these ended badly."""
    # torch imports it at the first step of some optimizers, which takes a second.
    import_module("torch._dynamo")
    failed = 0
    for asked in json.load(sys.stdin):
        # Nothing has been computed here: what is forked knows the modules, and nothing else.
        child = os.fork()
        if child == 0:
            _do(asked)
            sys.stdout.flush()
            os._exit(0)
        failed += os.waitpid(child, 0)[1] != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
